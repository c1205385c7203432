"""Pages: recently read stretches of the log's older part.

Many clients that reconnect at once read the same stretches. Each stretch is read from the file once for
all of them. Their bytes are limited; the least recently used page is dropped first.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trionotify.delivery.entry import Entry

__all__ = ["Pages"]

#: An entry beside its frames, one for each format.
_FRAMES: Final = 3


class Pages:
    """Entries by offset, in stretches without holes. Made and used by the log, in Trio's thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        #: Pages by the offset behind which they begin, the most recently used at the end.
        self._pages: dict[int, list[Entry]] = {}
        self._starts: list[int] = []
        self._bytes = 0
        #: The pages that are being loaded, by the same offsets.
        self._loading: dict[int, trio.Event] = {}

    async def load(self, start: int, after: int, read: Callable[[int], Awaitable[None]]) -> None:
        """Load the page behind `start`, which should have the entry behind `after`. A checkpoint.

        `read(offset)` reads the page behind an offset and adds it. Tasks that want a page that is being
        loaded wait for it. Raises what `read` raises, but not in these tasks, which must look again.
        """
        if start in self._loading:
            await self._loading[start].wait()
            return
        self._loading[start] = trio.Event()
        try:
            await read(start)
            if not self.find(after, 1):
                # The page was limited by its bytes, or another page covers its start.
                await read(after)
        finally:
            self._loading.pop(start).set()

    def add(self, after: int, entries: list[Entry]) -> None:
        """Add the entries behind `after`, at least one."""
        if after in self._pages:
            self._drop(after)
        self._pages[after] = entries
        insort(self._starts, after)
        self._bytes += _weight(entries)
        while self._bytes > self._max_bytes and len(self._pages) > 1:
            self._drop(next(iter(self._pages)))

    def find(self, after: int, limit: int) -> list[Entry]:
        """Return at most `limit` entries behind `after`; none if they are in no page."""
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
