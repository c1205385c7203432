"""The entrance: accepts or refuses connections, and counts those that are half-open.

A connection is *half-open* until its request is answered or, if it was refused, until it has closed. The
number of half-open connections and their time are limited. If there are too many, one is dropped. It is
taken from the address that has most of them, and is the oldest one that has not sent a whole request. So
a peer that opens thousands of connections drops its own. When the entrance closes, the half-open ones
get one more second. A request that arrives within that second is answered with a 503, and so is a
connection on which none arrived.

The entrance runs no tasks. Closed once, it never opens again.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

import attrs
import trio

from trionotify.errors import Refused

if TYPE_CHECKING:
    from trionotify.delivery.clients import Client
    from trionotify.delivery.position import Position
    from trionotify.settings import Settings

__all__ = ["RETRY_AFTER", "Connection", "Entrance", "Listener", "Place", "Stage", "unavailable"]

#: Seconds for half-open connections when the entrance closes.
_LAST_CALL: Final = 1.0

#: The headers of a refusal that is temporary.
RETRY_AFTER: Final = (("Retry-After", "5"),)


def unavailable(detail: str, logged: str) -> Refused:
    """Return the refusal (503) of a request that may succeed a little later."""
    return Refused(503, detail, logged=logged, headers=RETRY_AFTER)


class Connection(Protocol):
    """An open connection, as the hub sees it. No method blocks."""

    #: The client's transport: `websocket`, `sse` or `ndjson`.
    transport_name: ClassVar[str]
    #: The time when the client was identified, on Trio's clock.
    entered_at: float

    @property
    def client(self) -> Client:
        """The client's record."""

    @property
    def position(self) -> Position:
        """The client's position in the log."""

    @property
    def scope(self) -> trio.CancelScope | None:
        """The scope around the whole connection if it runs in an application's task."""

    def check(self, now: float) -> None:
        """Ping it if it is silent; drop it if it is dead or stalled."""

    def announce_end(self, clients: int) -> None:
        """Tell one of `clients` clients that the server goes down."""

    def revoke(self, code: int, reason: str) -> None:
        """Close it because the client's authorization has ended, and publish nothing more of it."""

    def close(self, code: int | None, reason: str = "") -> None:
        """Queue a Close frame, behind which nothing is sent."""

    def abort(self, reason: str = "") -> None:
        """Drop the connection at once."""


class Listener(Protocol):
    """Accepts connections for the hub, and ends when they have ended. No method blocks."""

    def stop_accepting(self) -> None:
        """Accept only the connections that wait already, so that each gets an answer."""

    def abort(self) -> None:
        """Drop the listener's connections and cancel their sessions."""


class Stage(enum.Enum):
    """The stages of a half-open connection, in the order in which they are dropped."""

    #: It hasn't sent the whole head of a request.
    HEAD = enum.auto()
    #: It got an answer, and may send another request.
    IDLE = enum.auto()
    #: It got its last answer, and must close.
    CLOSING = enum.auto()
    #: It has sent the head of a request, which is being served.
    SERVED = enum.auto()


_numbers: Final = itertools.count()


@attrs.define(eq=False)
class Place:
    """A half-open connection's place in the entrance. Lives as long as the block `half_opened`."""

    #: The scope around what the connection does now.
    scope: trio.CancelScope
    #: The peer's address; None if it has none.
    address: str | None
    stage: Stage
    #: The listener that accepted it; None if `hub.handle` was called for it.
    listener: Listener | None = None
    #: When this stage began, on Trio's clock.
    since: float = attrs.field(factory=trio.current_time)
    #: The same as an order, because several may begin at the same time.
    number: int = attrs.field(factory=_numbers.__next__)

    def is_new(self, seconds: float) -> bool:
        """Return whether it came within `seconds`, so that its request may be on the way."""
        return self.stage is Stage.HEAD and trio.current_time() - self.since < seconds


class _Places:
    """All places, and the places by address. Finding the one to drop visits each place once."""

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
        """Remove a place; do nothing if it isn't there any more."""
        if self._all.pop(place, _MISSING) is not _MISSING:
            same = self._by_address[place.address]
            del same[place]
            if not same:
                del self._by_address[place.address]

    def worst(self, *stages: Stage, grace: float = 0.0) -> Place | None:
        """Return the place at one of these stages that should be dropped; None if there is none.

        It belongs to the address that has most of them. Of its places, and among equal addresses, those
        at the earlier of `stages` go first, and of those, the one that has been there for longest. A
        connection that came within the last `grace` seconds is spared, because its request may be on
        the way.
        """
        crowds = [
            [place for place in same if place.stage in stages and not place.is_new(grace)]
            for same in self._by_address.values()
        ]

        def order(place: Place) -> tuple[int, int]:
            return stages.index(place.stage), place.number

        firsts = [(-len(crowd), min(crowd, key=order)) for crowd in crowds if crowd]
        if not firsts:
            return None
        return min(firsts, key=lambda first: (first[0], *order(first[1])))[1]


_MISSING: Final = object()
#: Seconds in which a new connection must send its request before it may be dropped as unserved.
_GRACE: Final = 1.0


class Entrance:
    """Created by the hub. Every task that serves a connection asks it. Lives as long as the hub."""

    def __init__(self, settings: Settings, connections: Sized) -> None:
        #: Why no new connection is accepted; None while the entrance is open.
        self.closed: str | None = None
        #: Tasks park here until a connection, open or half-open, or a listener has left.
        self.left: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self._listeners: set[Listener] = set()
        self._settings = settings
        self._connections = connections
        self._places = _Places()

    def stop_accepting(self, reason: str) -> None:
        """Accept no new connections. May be called again with another reason. Doesn't block."""
        self.closed = reason
        for place in self._places:
            self._hurry(place)
        for listener in self._listeners:
            listener.stop_accepting()

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Register a listener until the block is left."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)
            self.left.unpark_all()

    def check_open(self) -> None:
        """Raise `Refused` (503) if the entrance is closed."""
        if self.closed:
            raise unavailable("the server is shutting down", logged="shutting down")

    def check_room(self) -> None:
        """Raise `Refused` (503) if the entrance is closed or there are `max_connections` already."""
        self.check_open()
        if len(self._connections) >= self._settings.max_connections:
            raise unavailable("the server is full; try again later", logged="full")

    @property
    def half_open(self) -> int:
        """The number of half-open connections."""
        return len(self._places)

    @property
    def has_listeners(self) -> bool:
        """Whether any listener is registered."""
        return bool(self._listeners)

    @property
    def occupied(self) -> bool:
        """Whether there are half-open connections, or listeners."""
        return bool(self._places or self._listeners)

    def half_opened(
        self, scope: trio.CancelScope, address: str | None, stage: Stage, listener: Listener | None
    ) -> AbstractContextManager[Place]:
        """Count a connection as half-open inside the block. If there are too many, drop one of them.

        `scope` must have been entered. When the entrance closes, an idle connection, between two
        requests, is cancelled at once. A browser that was sent away would otherwise reuse it and get a
        503, after which its stream doesn't reconnect.
        """
        return _HalfOpen(self, Place(scope, address, stage, listener))

    def enter(self, place: Place) -> None:
        """Count a place. Only the block of `half_opened` calls this, and then `leave`."""
        if len(self._places) >= self._settings.max_half_open:
            self.make_room()
        self._places.add(place)
        if self.closed:
            self._hurry(place)

    def leave(self, place: Place) -> None:
        """Undo `enter`."""
        self._places.remove(place)
        if self.left:
            self.left.unpark_all()

    def move(self, place: Place, stage: Stage, seconds: float) -> None:
        """Give a connection `seconds` for its next stage, fewer if the entrance closes."""
        place.stage, place.since, place.number = stage, trio.current_time(), next(_numbers)
        place.scope.deadline = place.since + seconds
        if self.closed:
            self._hurry(place)

    def make_room(self) -> None:
        """Drop the half-open connection that matters least.

        It belongs to the address that has most of them. One that is served is dropped only if that
        address has no others.
        """
        self._drop(self._places.worst(*Stage))

    def drop_unserved(self) -> bool:
        """Drop a connection that loses nothing; return False if there is none.

        It had enough time to send its request, or it is idle. Idle ones have sent requests before. They
        are spared as long as others may turn out to send nothing.
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

    def abort(self) -> None:
        """Drop all half-open connections and end the listeners. Doesn't block."""
        self.abort_half_open()
        self.abort_listeners()

    def abort_half_open(self, listener: Listener | None = None) -> None:
        """Drop the half-open connections of one listener, or all of them, without an answer."""
        for place in self._places:
            if listener is None or place.listener is listener:
                place.scope.cancel()

    def abort_listeners(self) -> None:
        """End the listeners and everything they accepted."""
        for listener in self._listeners:
            listener.abort()

    @staticmethod
    def _hurry(place: Place) -> None:
        left = 0.0 if place.stage is Stage.IDLE else _LAST_CALL
        place.scope.deadline = min(place.scope.deadline, trio.current_time() + left)


class _HalfOpen(AbstractContextManager[Place]):
    """The block of `half_opened`. It is a class, because a generator costs more for each request."""

    __slots__ = ("_entrance", "_place")

    def __init__(self, entrance: Entrance, place: Place) -> None:
        self._entrance = entrance
        self._place = place

    def __enter__(self) -> Place:
        self._entrance.enter(self._place)
        return self._place

    def __exit__(self, *_: object) -> None:
        self._entrance.leave(self._place)
