"""Pages: stretches of the log's older part that were read lately.

Many clients that come back at once read the same stretches one after the other: each is read from the
file once for all of them. Bounded by bytes; what was not used for longest goes first.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trionotify.delivery.entry import Entry

__all__ = ["Pages"]

#: An entry beside its frames, one for each format.
_FRAMES: Final = 3


class Pages:
    """Entries by offset, in stretches without holes. Made and used by the log, in Trio's thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        #: By the offset behind which each begins, the one used last at the end.
        self._pages: dict[int, list[Entry]] = {}
        self._starts: list[int] = []
        self._bytes = 0

    def add(self, after: int, entries: list[Entry]) -> None:
        """Remember what stands behind `after`, at least one entry."""
        if after in self._pages:
            self._drop(after)
        self._pages[after] = entries
        insort(self._starts, after)
        self._bytes += _weight(entries)
        while self._bytes > self._max_bytes and len(self._pages) > 1:
            self._drop(next(iter(self._pages)))

    def find(self, after: int, limit: int) -> list[Entry]:
        """What stands behind `after`, at most `limit`; none when it is not here."""
        at = bisect_right(self._starts, after) - 1
        if at < 0:
            return []
        start = self._starts[at]
        page = self._pages.pop(start)
        self._pages[start] = page
        first = bisect_right(page, after, key=lambda entry: entry.offset)
        return page[first : first + limit]

    def _drop(self, start: int) -> None:
        self._starts.remove(start)
        self._bytes -= _weight(self._pages.pop(start))


def _weight(entries: list[Entry]) -> int:
    return sum(_FRAMES * entry.size for entry in entries)
