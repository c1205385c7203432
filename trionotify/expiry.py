"""Expiry: connections end when what they were let in with is over.

One task for all of them, which sleeps until the next one is due.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import trio

from trionotify.errors import CloseCode

if TYPE_CHECKING:
    from trionotify.entrance import Connection

__all__ = ["Expiry"]

#: Those who have left may outnumber those who are here by so many, before they are swept out.
_LEFT: Final = 1000


class Expiry:
    """Made by the hub, whose `connections` it looks them up in, and which runs it."""

    def __init__(self, connections: Mapping[int, Connection]) -> None:
        self._connections = connections
        #: When, on Trio's clock, and who: the next one first.
        self._due: list[tuple[float, int]] = []
        self._sleep = trio.CancelScope()

    def add(self, key: int, expires_at: float) -> None:
        """Close the connection with this key at that time, in seconds since 1970. Doesn't block."""
        due = trio.current_time() + expires_at - time.time()
        if len(self._due) > 2 * len(self._connections) + _LEFT:
            self._due = [item for item in self._due if item[1] in self._connections]
            heapq.heapify(self._due)
        heapq.heappush(self._due, (due, key))
        self._sleep.deadline = min(self._sleep.deadline, due)

    async def run(self) -> None:
        """Close each when it is due, until cancelled."""
        while True:
            now = trio.current_time()
            while self._due and self._due[0][0] <= now:
                connection = self._connections.get(heapq.heappop(self._due)[1])
                if connection is not None:
                    connection.end(CloseCode.UNAUTHORIZED, "expired")
            with trio.CancelScope() as self._sleep:
                if self._due:
                    self._sleep.deadline = self._due[0][0]
                await trio.sleep_forever()
