"""The orderly end: all clients are sent away, without losing what was published, and without a crowd.

    close the entrance    not ready, no new connections                              `Entrance.close`
    settle                what was accepted is broadcast                             `Inbox.settled`
    say goodbye           `trionotify.drain` and the Close, slot by slot, at a rate  `say_goodbye`
    wait                  for clients to close, and for sessions to finish           `Drain`
    cut off               what is left at the deadline                               `Hub.cut_off`

Whoever hears a goodbye comes back: at once, or when it was told to. So goodbyes are spread, at the rate
at which a server can take connections, and faster only where time is short. A few clients are told
together.

A client that is behind is put off until it has got all that was accepted before its turn, or has had
`close_timeout` more than the others. Nobody waits for it meanwhile. When half of the time is over,
everybody has been told: the other half is for those who are slow to leave.

Whatever ends a hub or a listener goes this way. A drain has the patience of `drain_timeout`, and its
clients are to come back; leaving `open_hub` or `open_server`, and `server.stop()`, have that of
`close_timeout`.

A connection of another kind takes part by being one of the hub's (`entrance.Connection`), and says its
goodbye in its own way.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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

__all__ = ["Drain", "say_goodbye"]

logger: logging.Logger = logging.getLogger("trionotify")

#: Goodbyes a second, unless there is not the time: a server takes as many connections.
_RATE: Final = 1000
#: Goodbyes between two pauses: some milliseconds of work.
_SLOT: Final = 50
#: Seconds between two lines in the log.
_REPORT_INTERVAL: Final = 1.0


class Draining(Protocol):
    """A hub, as far as its end needs it."""

    settings: Settings
    inbox: Inbox
    broadcast: Broadcast
    clients: Registry
    connections: dict[int, Connection]
    entrance: Entrance

    @property
    def lost(self) -> int:
        """How many connections ended without a closing handshake."""

    def cut_off(self) -> None:
        """Drop every connection at once."""


async def say_goodbye(
    hub: Draining, connections: Iterable[Connection], code: CloseCode, seconds: float
) -> None:
    """Tell these connections to go, with `code`, when there are `seconds` until they must be gone.

    Returns when all have been told, which is to take half of that time at most. Cancelled, the rest
    hasn't been. Not always a checkpoint.
    """
    # Each with the offset up to which it has to have got everything, once its turn has come.
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
                connection.go_away(code, count)
        if waiting:
            due += pause
            await trio.sleep_until(due)


def _lacks(hub: Draining, connection: Connection, mark: int) -> bool:
    """Whether it is still to get something that stands at `mark` or before."""
    broadcast, position = hub.broadcast, connection.position
    return not broadcast.over and position.joined and broadcast.standing(position) < mark


class Drain:
    """The end of a hub whose clients shall come back to a successor. Made by the hub, once.

    Any task may call `run`, and several may: one of them is at work, the others wait for the same end,
    and take over if that one is cancelled.
    """

    def __init__(self, hub: Draining) -> None:
        self._hub = hub
        self._working = trio.Lock()
        #: Clients whose sessions wait in `run`: it doesn't wait for these.
        self._waiting: list[Client] = []
        # Of whoever is at work: when it began, with how many clients, and how many were lost before.
        self._begun = 0.0
        self._clients = self._lost = 0

    async def run(self, seconds: float) -> None:
        """See `Hub.drain`."""
        hub = self._hub
        hub.entrance.close("draining: nobody is let in any more")
        hub.entrance.refuse()
        caller = hub.clients.in_session()
        with self._left_out(caller):
            await self._run(seconds, in_session=caller is not None)

    @contextmanager
    def _left_out(self, caller: Client | None) -> Iterator[None]:
        """Nobody waits for the client whose session calls this."""
        if caller is None:
            yield
            return
        self._waiting.append(caller)
        self._hub.entrance.left.unpark_all()
        try:
            yield
        finally:
            self._waiting.remove(caller)

    def _all_have_left(self) -> bool:
        entrance, connections = self._hub.entrance, self._hub.connections
        if not self._waiting:
            return not (connections or entrance.occupied)
        # Their listeners can't be over before they are.
        clients = {connection.client for connection in connections.values()}
        return clients.issubset(self._waiting) and not entrance.half_open

    async def _run(self, seconds: float, in_session: bool) -> None:
        hub = self._hub
        with trio.move_on_after(seconds) as scope:
            async with self._working:
                await self._send_away(scope.deadline - trio.current_time())
            while not in_session and (hub.connections or hub.entrance.occupied):
                # Sessions that wait here, too: they go on as soon as this task lets them.
                await hub.entrance.left.park()
        if scope.cancelled_caught:
            self._log_end()
            hub.cut_off()
            hub.entrance.cut_off()

    async def _send_away(self, seconds: float) -> None:
        hub = self._hub
        self._begun, self._clients, self._lost = trio.current_time(), len(hub.connections), hub.lost
        logger.info(
            "draining within %.1f seconds; clients: %d",
            seconds,
            self._clients,
            extra={"event": "draining", "seconds": round(seconds, 3), "clients": self._clients},
        )
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
        cut_off = self._hub.lost - self._lost + len(self._hub.connections)
        seconds, closed = trio.current_time() - self._begun, self._clients - cut_off
        logger.info(
            "drained in %.1f seconds; closed in good order: %d, cut off: %d",
            seconds,
            closed,
            cut_off,
            extra={
                "event": "drained",
                "seconds": round(seconds, 3),
                "closed": closed,
                "cut_off": cut_off,
            },
        )
