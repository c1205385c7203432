"""Shutdown. Three verbs end something, and they mean the same everywhere:

    stop_accepting    no new connections; existing ones stay
    close             a Close frame, behind everything that was sent before it
    abort             at once, without a Close frame

A listener has the first and the last, a connection the last two, and the hub all three. A drain uses
them in this order, and so does leaving `open_hub` or `open_server`:

    entrance.stop_accepting    not ready; new requests get a 503, listeners stop
    inbox.settled              everything published is broadcast
    say_goodbye                `trionotify.drain` and `close`, slot by slot, at a limited rate
    wait                       until clients have closed and sessions have finished
    abort_all                  drops what is left at the deadline

A client that is told to leave reconnects soon. So the clients are told a few at a time, as fast as a
server can accept connections, and faster only if time is short. A client that is behind is told when it
has everything that was broadcast before its turn, or `close_timeout` seconds after the others. After
half of the time every client has been told. The other half is for clients that are slow to leave.

A drain may take `drain_timeout` seconds. `server.stop()` and leaving a block may take `close_timeout`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

import trio

from trionotify.errors import CloseCode

if TYPE_CHECKING:
    from trionotify.delivery.admission import Connection, Entrance
    from trionotify.delivery.broadcast import Broadcast
    from trionotify.delivery.clients import Client
    from trionotify.delivery.publish_queue import Inbox
    from trionotify.delivery.registry import Registry
    from trionotify.settings import Settings

__all__ = ["Drain", "abort_all", "say_goodbye"]

logger: logging.Logger = logging.getLogger("trionotify")

#: Clients told per second, unless time is short. A server accepts about as many connections.
_RATE: Final = 1000
#: Clients told between two pauses, which takes some milliseconds.
_SLOT: Final = 50
#: Seconds between two log lines.
_REPORT_INTERVAL: Final = 1.0


class Draining(Protocol):
    """The part of the hub that a shutdown needs."""

    settings: Settings
    inbox: Inbox
    broadcast: Broadcast
    clients: Registry
    connections: dict[int, Connection]
    entrance: Entrance

    @property
    def lost(self) -> int:
        """The number of connections that ended without a closing handshake."""


def abort_all(connections: Iterable[Connection]) -> None:
    """Drop these connections at once, and cancel their sessions. Doesn't block."""
    for connection in tuple(connections):
        connection.abort()
        if connection.scope is not None:
            connection.scope.cancel()


async def say_goodbye(
    hub: Draining, connections: Iterable[Connection], code: CloseCode, seconds: float
) -> None:
    """Close these connections with `code`, given `seconds` until they must be gone.

    Returns when all have been told, after half of that time at most. Cancelled, it leaves the rest
    untold. Not always a checkpoint.
    """
    # Each connection, and once its turn has come, the offset up to which it must have got everything.
    waiting: deque[tuple[Connection, int | None]] = deque((each, None) for each in connections)
    count = len(waiting)
    due = trio.current_time()
    half = due + seconds / 2
    patience = min(due + count / _RATE + hub.settings.close_timeout, half)
    pause = min(_SLOT / _RATE, seconds / 2 * _SLOT / max(count, 1))
    while waiting:
        with trio.move_on_at(half):
            await hub.inbox.settled()
        for _ in range(min(_SLOT, len(waiting))):
            connection, mark = waiting.popleft()
            if mark is None:
                mark = hub.broadcast.done
            if trio.current_time() < patience and _lacks(hub, connection, mark):
                waiting.append((connection, mark))
            else:
                connection.announce_end(count)
                connection.close(code)
        if waiting:
            due += pause
            await trio.sleep_until(due)


def _lacks(hub: Draining, connection: Connection, mark: int) -> bool:
    """Return whether it still has to get entries up to `mark`."""
    broadcast, position = hub.broadcast, connection.position
    return not broadcast.over and position.joined and broadcast.standing(position) < mark


class Drain:
    """The shutdown of a hub whose clients are to reconnect to a successor. The hub creates one.

    Several tasks may call `run`. One of them does the work. The others wait for the same end, and one
    of them takes over if the first is cancelled.
    """

    def __init__(self, hub: Draining) -> None:
        self._hub = hub
        self._working = trio.Lock()
        #: Clients whose sessions wait in `run`, which doesn't wait for these.
        self._waiting: list[Client] = []
        # When the drain that isn't over began, with how many clients, and how many were lost before.
        self._begun: float | None = None
        self._clients = self._lost = 0

    async def run(self, seconds: float) -> None:
        """See `Hub.drain`."""
        self._hub.entrance.stop_accepting("draining: not accepting new connections")
        caller = self._hub.clients.in_session()
        if caller is None:
            await self._run(seconds, in_session=False)
            return
        self._waiting.append(caller)
        self._hub.entrance.left.unpark_all()
        try:
            await self._run(seconds, in_session=True)
        finally:
            self._waiting.remove(caller)

    def _all_have_left(self) -> bool:
        entrance, connections = self._hub.entrance, self._hub.connections
        if not self._waiting:
            return not (connections or entrance.occupied)
        # A listener outlasts its clients, so it can't be over before they are.
        clients = {connection.client for connection in connections.values()}
        return clients.issubset(self._waiting) and not entrance.half_open

    async def _run(self, seconds: float, in_session: bool) -> None:
        hub = self._hub
        # Before the first checkpoint, at which the deadline may have passed already.
        if not self._working.locked():
            self._begin(seconds)
        with trio.move_on_after(seconds) as scope:
            async with self._working:
                await self._send_away(scope.deadline - trio.current_time())
            while not in_session and (hub.connections or hub.entrance.occupied):
                # Sessions that wait here, too, and continue as soon as this task lets them.
                await hub.entrance.left.park()
        if scope.cancelled_caught:
            self._log_end()
            abort_all(hub.connections.values())
            hub.entrance.abort()

    def _begin(self, seconds: float) -> None:
        self._begun, self._lost = trio.current_time(), self._hub.lost
        self._clients = len(self._hub.connections)
        logger.info(
            "draining within %.1f seconds; clients: %d",
            seconds,
            self._clients,
            extra={"event": "draining", "seconds": round(seconds, 3), "clients": self._clients},
        )

    async def _send_away(self, seconds: float) -> None:
        hub = self._hub
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report, name="trionotify: report of the drain")
            await say_goodbye(hub, hub.connections.values(), CloseCode.SERVICE_RESTART, seconds)
            while not self._all_have_left():
                await hub.entrance.left.park()
            nursery.cancel_scope.cancel()
        self._log_end()

    async def _report(self) -> None:
        while True:
            await trio.sleep(_REPORT_INTERVAL)
            left = len(self._hub.connections)
            logger.info(
                "draining; clients left: %d of %d",
                left,
                self._clients,
                extra={"event": "still_draining", "left": left, "clients": self._clients},
            )

    def _log_end(self) -> None:
        if self._begun is None:
            return  # another task has logged it
        cut_off = self._hub.lost - self._lost + len(self._hub.connections)
        seconds, closed = trio.current_time() - self._begun, self._clients - cut_off
        self._begun = None
        said = {"seconds": round(seconds, 3), "closed": closed, "cut_off": cut_off}
        logger.info(
            "drained in %.1f seconds; closed in good order: %d, cut off: %d",
            seconds,
            closed,
            cut_off,
            extra={"event": "drained", **said},
        )
