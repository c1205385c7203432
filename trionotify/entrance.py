"""The entrance: whether anybody is let in, and those who stand in it.

A connection is *half-open* until its request is answered, and if it was refused, until it has closed.
Half-open ones are bounded in number and in time. When the entrance closes, those who are in it aren't
left hanging: each has a second for what it is at. A request that comes in time is answered 503, and so
is none at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

import trio

from trionotify.errors import CloseCode, Refused

if TYPE_CHECKING:
    from trionotify.clients import Client
    from trionotify.positions import Position
    from trionotify.settings import Settings

__all__ = ["RETRY_AFTER", "Connection", "Entrance", "Listener"]

#: Seconds for half-open connections when the entrance closes.
_LAST_CALL: Final = 1.0

#: When to come again, of an answer that passes by itself.
RETRY_AFTER: Final = (("Retry-After", "5"),)


class Connection(Protocol):
    """What the hub knows of a connection that is open. Nothing here blocks."""

    #: What it came by: `websocket`, `sse` or `ndjson`.
    transport_name: ClassVar[str]
    #: When it became a client's, on Trio's clock.
    entered_at: float

    @property
    def client(self) -> Client:
        """Whose it is."""

    @property
    def position(self) -> Position:
        """Where it stands in the log."""

    def check(self, now: float) -> None:
        """Ping it when it is silent, drop it when it is dead or stalled."""

    def end(self, code: int | None, reason: str = "") -> None:
        """Say the last word."""

    def go_away(self, code: CloseCode, clients: int) -> None:
        """Say goodbye: the server goes down, and this one is one of so many `clients`."""

    def cut_off(self) -> None:
        """Drop it, and cancel its session, unless that is up to a listener."""


class Listener(Protocol):
    """Who accepts connections on behalf of the hub, and is over when they are. Nothing here blocks."""

    def refuse(self) -> None:
        """Accept nothing more."""

    def cut_off(self) -> None:
        """Cancel its connections."""


class Entrance:
    """Made by the hub. Whoever serves a connection asks it."""

    def __init__(self, settings: Settings, connections: Sized) -> None:
        #: Why nobody is let in any more; None while the entrance is open.
        self.closed: str | None = None
        #: Where to wait for connections to leave, open ones and half-open ones, and for listeners.
        self.left = trio.lowlevel.ParkingLot()
        #: Listeners shall accept nothing.
        self.refusing = False
        self._listeners: set[Listener] = set()
        self._settings = settings
        self._connections = connections
        #: The scopes of half-open connections, oldest first, and whether they wait for another request.
        self._half_open: dict[trio.CancelScope, bool] = {}

    def close(self, reason: str) -> None:
        """Let nobody in any more. May be called again, with another reason."""
        self.closed = reason
        for scope, idle in self._half_open.items():
            self._hurry(scope, idle)

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """It does, until the block is left."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)
            self.left.unpark_all()

    def refuse(self) -> None:
        """Let all listeners stop accepting."""
        self.refusing = True
        for listener in self._listeners:
            listener.refuse()

    def check_open(self) -> None:
        """Raise `Refused` (503) when nobody is let in any more."""
        if self.closed:
            raise Refused(503, "the server is going down", headers=RETRY_AFTER)

    def check_room(self) -> None:
        """Raise `Refused` (503) then, and when there are `max_connections` already."""
        self.check_open()
        if len(self._connections) >= self._settings.max_connections:
            raise Refused(503, "the server is full; try again later", headers=RETRY_AFTER)

    @property
    def half_open(self) -> int:
        """How many half-open connections there are."""
        return len(self._half_open)

    @property
    def occupied(self) -> bool:
        """Whether there are half-open connections, or listeners."""
        return bool(self._half_open or self._listeners)

    @contextmanager
    def half_opened(self, scope: trio.CancelScope, *, idle: bool = False) -> Iterator[None]:
        """Count a connection as half-open; too many, and the oldest is cancelled.

        A new client finds room that way even while others hold theirs and send nothing. `scope` must
        have been entered. One that is `idle`, between two requests, is cancelled when the entrance
        closes: a browser that was sent away would come back on it, to a 503 that is its stream's end.
        """
        if len(self._half_open) >= self._settings.max_half_open:
            oldest = next(iter(self._half_open))
            del self._half_open[oldest]
            oldest.cancel()
        self._half_open[scope] = idle
        if self.closed:
            self._hurry(scope, idle)
        try:
            yield
        finally:
            self._half_open.pop(scope, None)
            self.left.unpark_all()

    def allow(self, scope: trio.CancelScope, seconds: float) -> None:
        """Give a half-open connection so many seconds from now, or what it has when nobody is let in."""
        scope.deadline = trio.current_time() + seconds
        if self.closed:
            self._hurry(scope)

    def drop_half_open(self) -> None:
        """Drop half-open connections, without an answer."""
        for scope in tuple(self._half_open):
            scope.cancel()

    def cut_off(self) -> None:
        """Drop them, and all that listeners have let in."""
        self.drop_half_open()
        for listener in self._listeners:
            listener.cut_off()

    @staticmethod
    def _hurry(scope: trio.CancelScope, idle: bool = False) -> None:
        left = 0.0 if idle else _LAST_CALL
        scope.deadline = min(scope.deadline, trio.current_time() + left)
