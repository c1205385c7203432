"""Expiry: connections are closed when their authorization expires.

One task closes all of them. The times are those of the wall clock, because a token's `exp` is. The wall
clock may be set, or go on while the machine sleeps. So the task doesn't sleep until the next connection
is due. As long as any is registered, it reads the wall clock once a second. In between it uses Trio's
clock, which tests can drive.

`close_some` is for operators, who may withdraw an authorization before that.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import trio

from trionotify.delivery.turns import Turn
from trionotify.errors import CloseCode, encodable, quoted
from trionotify.model.predicates import check_plain
from trionotify.scopes import check_thread

if TYPE_CHECKING:
    from trionotify.delivery.admission import Connection
    from trionotify.model.predicates import Wanted

__all__ = ["Expiry", "close_some"]

#: A clean-up begins at this many entries above twice the number of open connections.
_LEFT: Final = 1000
#: Seconds between two looks at the wall clock.
_LOOK: Final = 1.0
#: If the wall clock differs from the elapsed time by more than this many seconds, it was set.
_SET: Final = 0.1
#: The most connections closed in one turn. Thousands may be due at once.
_TURN: Final = 256


class Expiry:
    """The expiry of a hub's connections. Created and run by the hub; `connections` are the hub's."""

    def __init__(self, connections: Mapping[int, Connection]) -> None:
        self._connections = connections
        #: The times, on the clock of `_now`, and the keys of the connections. A heap.
        self._due: list[tuple[float, int]] = []
        #: The entry that counts, by key, because a client's time may be set again.
        self._last: dict[int, float] = {}
        self._sleep = trio.CancelScope()
        #: The wall clock's lead over the monotonic clock. It changes when the wall clock is set.
        self._ahead = -math.inf

    def add(self, key: int, expires_at: float) -> None:
        """Close the connection with this key at `expires_at`, in seconds since 1970. Doesn't block.

        Added again, the connection is closed at the new time only.
        """
        if len(self._due) > 2 * len(self._connections) + _LEFT:
            self._due = [item for item in self._due if self._counts(*item)]
            heapq.heapify(self._due)
            self._last = {key: due for due, key in self._due}
        now = time.time()
        left = expires_at - now
        self._last[key] = due = self._now(now) + left
        heapq.heappush(self._due, (due, key))
        look = trio.current_time() + min(left, _LOOK)
        if look < self._sleep.deadline:  # noqa: PLR1730 - setting it takes a while, even to the same
            self._sleep.deadline = look

    async def run(self) -> None:
        """Close each connection when it is due, until cancelled."""
        while True:
            await self._end_due()
            # There is no checkpoint from here until the task sleeps, so `add` finds its scope.
            with trio.CancelScope() as self._sleep:
                if self._due:
                    left = self._due[0][0] - self._now(time.time())
                    self._sleep.deadline = trio.current_time() + min(left, _LOOK)
                await trio.sleep_forever()

    def _counts(self, due: float, key: int) -> bool:
        return key in self._connections and self._last.get(key) == due

    async def _end_due(self) -> None:
        ended = 0
        while self._due and self._due[0][0] <= self._now(time.time()):
            due, key = heapq.heappop(self._due)
            if self._last.get(key) != due:
                continue  # it was added again
            del self._last[key]
            if key in self._connections:
                self._connections[key].revoke(CloseCode.UNAUTHORIZED, "expired")
                ended += 1
                if ended % _TURN == 0:
                    await trio.lowlevel.checkpoint()

    def _now(self, wall: float) -> float:
        """Return Trio's time, plus an offset that changes whenever the `wall` clock is set.

        The monotonic clock shows by how much it was set. Trio's can't, because tests make it jump.
        """
        ahead = wall - time.monotonic()
        if abs(ahead - self._ahead) > _SET:
            self._ahead = ahead
        return trio.current_time() + self._ahead


async def close_some(connections: Mapping[int, Connection], predicate: Wanted, reason: str) -> int:
    """Close the connections whose client `predicate` accepts, with 4403: see `Hub.disconnect`."""
    check_thread("disconnect", run="run")
    if not callable(predicate):
        raise TypeError(f"predicate: must be a predicate or a callable, not {quoted(predicate)}")
    check_plain(predicate)
    if not isinstance(reason, str):
        raise TypeError(f"reason: must be str, not {type(reason).__name__}")
    await trio.lowlevel.checkpoint()
    found, turn = 0, Turn()
    for key, connection in tuple(connections.items()):
        if turn.over:
            await turn.pass_on()
        open_ = connections.get(key) is connection and connection.position.joined
        if open_ and predicate(connection.client):
            connection.revoke(CloseCode.FORBIDDEN, encodable(reason))
            found += 1
    return found
