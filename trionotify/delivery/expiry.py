"""Expiry: connections end when what they were let in with is over.

One task for all of them. Their times are the wall clock's, because `exp` is said in its seconds, and
that clock may be set, or go on while the machine sleeps. So the task doesn't sleep until the next one is
due: as long as there is one, it looks at the wall clock once a second. Between two looks time goes by on
Trio's clock, which is a test's to drive.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import trio

from trionotify.errors import CloseCode

if TYPE_CHECKING:
    from trionotify.delivery.admission import Connection

__all__ = ["Expiry"]

#: Those who have left may outnumber those who are here by so many, before they are swept out.
_LEFT: Final = 1000
#: How often the wall clock is looked at while something is due, in seconds.
_LOOK: Final = 1.0
#: The wall clock was set when it has gone on by so many seconds more or less than the time that passed.
_SET: Final = 0.1
#: So many are ended in one turn: thousands may be due at once.
_TURN: Final = 256


class Expiry:
    """Made by the hub, whose `connections` it looks them up in, and which runs it."""

    def __init__(self, connections: Mapping[int, Connection]) -> None:
        self._connections = connections
        #: The times, by `_now`, and the connections' keys; the next one first.
        self._due: list[tuple[float, int]] = []
        self._sleep = trio.CancelScope()
        #: How far the wall clock is ahead of the monotonic one. This changes when it is set.
        self._ahead = -math.inf

    def add(self, key: int, expires_at: float) -> None:
        """Close the connection with this key at that time, in seconds since 1970. Doesn't block."""
        if len(self._due) > 2 * len(self._connections) + _LEFT:
            self._due = [item for item in self._due if item[1] in self._connections]
            heapq.heapify(self._due)
        left = expires_at - time.time()
        heapq.heappush(self._due, (self._now() + left, key))
        self._sleep.deadline = min(self._sleep.deadline, trio.current_time() + min(left, _LOOK))

    async def run(self) -> None:
        """Close each when it is due, until cancelled."""
        while True:
            await self._end_due()
            # No checkpoint from here until it sleeps: `add` wakes it.
            with trio.CancelScope() as self._sleep:
                if self._due:
                    left = self._due[0][0] - self._now()
                    self._sleep.deadline = trio.current_time() + min(left, _LOOK)
                await trio.sleep_forever()

    async def _end_due(self) -> None:
        ended = 0
        while self._due and self._due[0][0] <= self._now():
            connection = self._connections.get(heapq.heappop(self._due)[1])
            if connection is not None:
                connection.end(CloseCode.UNAUTHORIZED, "expired")
                ended += 1
                if ended % _TURN == 0:
                    await trio.lowlevel.checkpoint()

    def _now(self) -> float:
        """Trio's time, moved along whenever the wall clock is set.

        The monotonic clock says by how much it was set. (Trio's can't: a test may let it jump.)
        """
        ahead = time.time() - time.monotonic()
        if abs(ahead - self._ahead) > _SET:
            self._ahead = ahead
        return trio.current_time() + self._ahead
