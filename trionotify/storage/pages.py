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

__all__ = ["Loading", "Pages"]

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


class Loading:
    """The pages that are being loaded. Created by the log; any task may wait for one."""

    def __init__(self) -> None:
        #: By the offset behind which the page begins.
        self._events: dict[int, trio.Event] = {}

    async def once(self, start: int, load: Callable[[], Awaitable[None]]) -> None:
        """Call `load` for the page at `start`, or wait for the call in progress. A checkpoint.

        Raises what `load` raises. Tasks that only wait don't get its exception, and must read again.
        """
        if start in self._events:
            await self._events[start].wait()
            return
        self._events[start] = trio.Event()
        try:
            await load()
        finally:
            self._events.pop(start).set()


def _weight(entries: list[Entry]) -> int:
    return sum(_FRAMES * entry.size for entry in entries)
