"""The entrance: whether connections are accepted, and the half-open ones.

A connection is *half-open* until its request is answered, and if it was refused, until it has closed.
Half-open ones are bounded in number and in time. When there are too many, one is dropped: of the address
that has most of them, one that has not sent a whole request, the oldest first. So a peer that opens
thousands of connections pushes out its own. When the entrance closes, the half-open ones get one more
second. A request that comes in that time is answered 503, and so is a connection on which none came.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

import attrs
import trio

from trionotify.errors import CloseCode, Refused

if TYPE_CHECKING:
    from trionotify.delivery.clients import Client
    from trionotify.delivery.position import Position
    from trionotify.settings import Settings

__all__ = ["RETRY_AFTER", "Connection", "Entrance", "Listener", "Place", "Stage"]

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


class Stage(enum.Enum):
    """How far a half-open connection has come. In this order they are dropped."""

    #: No whole head of a request has come.
    HEAD = enum.auto()
    #: It was answered, and may send another request.
    IDLE = enum.auto()
    #: It got its last answer, and must still close.
    CLOSING = enum.auto()
    #: The head of a request has come, and the request is being served.
    SERVED = enum.auto()


@attrs.define(eq=False)
class Place:
    """A half-open connection's place in the entrance."""

    #: Around what it does at the moment.
    scope: trio.CancelScope
    #: Its peer's address; None if the peer has none.
    address: str | None
    stage: Stage
    #: Who has let it in; None: it came by `hub.handle`.
    listener: Listener | None = None
    #: When it began, on Trio's clock.
    since: float = attrs.field(factory=trio.current_time)

    def is_new(self, seconds: float) -> bool:
        """Whether it has only just come, so that its request may be on the way."""
        return self.stage is Stage.HEAD and trio.current_time() - self.since < seconds


class _Places:
    """All places, oldest first, and by address. Finding the one to drop looks at each place once."""

    def __init__(self) -> None:
        self._all: dict[Place, None] = {}
        self._by_address: dict[str | None, dict[Place, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Place]:
        return iter(tuple(self._all))

    def add(self, place: Place) -> None:
        self._all[place] = None
        self._by_address.setdefault(place.address, {})[place] = None

    def remove(self, place: Place) -> None:
        """Nothing happens when it isn't there any more."""
        if self._all.pop(place, _MISSING) is not _MISSING:
            same = self._by_address[place.address]
            del same[place]
            if not same:
                del self._by_address[place.address]

    def worst(self, *stages: Stage, grace: float = 0.0) -> Place | None:
        """The one to drop, of those at these stages; None when there is none.

        It is of the address that has most of them. There, and among equals, the first stages go first.
        One that has come within the last `grace` seconds may be about to send its request.
        """
        crowds = [
            [place for place in same if place.stage in stages and not place.is_new(grace)]
            for same in self._by_address.values()
        ]
        firsts = [
            (len(crowd), min(crowd, key=lambda place: stages.index(place.stage)))
            for crowd in crowds
            if crowd
        ]
        if not firsts:
            return None
        return max(firsts, key=lambda first: (first[0], -stages.index(first[1].stage)))[1]


_MISSING: Final = object()
#: Seconds that a new connection has for its request before it counts as one that asks for nothing.
_GRACE: Final = 1.0


class Entrance:
    """Made by the hub. Whoever serves a connection asks it."""

    def __init__(self, settings: Settings, connections: Sized) -> None:
        #: Why nobody is let in any more; None while the entrance is open.
        self.closed: str | None = None
        #: Where to wait for connections to leave, open ones and half-open ones, and for listeners.
        self.left: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        #: Listeners shall accept nothing.
        self.refusing: bool = False
        self._listeners: set[Listener] = set()
        self._settings = settings
        self._connections = connections
        self._places = _Places()

    def close(self, reason: str) -> None:
        """Let nobody in any more. May be called again, with another reason."""
        self.closed = reason
        for place in self._places:
            self._hurry(place)

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
        return len(self._places)

    @property
    def has_listeners(self) -> bool:
        """Whether anybody accepts connections on behalf of the hub."""
        return bool(self._listeners)

    @property
    def occupied(self) -> bool:
        """Whether there are half-open connections, or listeners."""
        return bool(self._places or self._listeners)

    @contextmanager
    def half_opened(
        self,
        scope: trio.CancelScope,
        address: str | None = None,
        stage: Stage = Stage.HEAD,
        listener: Listener | None = None,
    ) -> Iterator[Place]:
        """Count a connection as half-open; where there are too many, one is dropped for it.

        `scope` must have been entered. One that is idle, between two requests, is cancelled when the
        entrance closes: a browser that was sent away would come back on it, to a 503 that is its
        stream's end.
        """
        if len(self._places) >= self._settings.max_half_open:
            self.make_room()
        place = Place(scope, address, stage, listener)
        self._places.add(place)
        if self.closed:
            self._hurry(place)
        try:
            yield place
        finally:
            self._places.remove(place)
            self.left.unpark_all()

    def serve(self, place: Place, seconds: float) -> None:
        """A whole head has come. Its request has so many seconds, fewer when the entrance closes."""
        place.stage = Stage.SERVED
        place.scope.deadline = trio.current_time() + seconds
        if self.closed:
            self._hurry(place)

    def make_room(self) -> None:
        """Drop the half-open connection that has least right to be here.

        Of the address that has most of them, one that is served is spared as long as there is any other.
        """
        self._drop(self._places.worst(*Stage))

    def drop_unserved(self) -> bool:
        """Drop one that has nothing to lose; False when there is none.

        It has had time enough to send its request, or it is idle. Idle ones, which have sent some
        before, stay as long as there are others that may turn out to send nothing.
        """
        place = self._places.worst(Stage.HEAD, grace=_GRACE)
        if place is None and self._places.worst(Stage.HEAD) is None:
            place = self._places.worst(Stage.IDLE, Stage.CLOSING)
        return self._drop(place)

    def _drop(self, place: Place | None) -> bool:
        if place is None:
            return False
        self._places.remove(place)
        place.scope.cancel()
        return True

    def drop_half_open(self, listener: Listener | None = None) -> None:
        """Drop the half-open connections of one listener, or all of them, without an answer."""
        for place in self._places:
            if listener is None or place.listener is listener:
                place.scope.cancel()

    def cut_off(self) -> None:
        """Drop all half-open connections, and end the listeners."""
        self.drop_half_open()
        self.cut_off_listeners()

    def cut_off_listeners(self) -> None:
        """End the listeners, with all that they have let in."""
        for listener in self._listeners:
            listener.cut_off()

    @staticmethod
    def _hurry(place: Place) -> None:
        left = 0.0 if place.stage is Stage.IDLE else _LAST_CALL
        place.scope.deadline = min(place.scope.deadline, trio.current_time() + left)
