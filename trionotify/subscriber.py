"""The subscriber: what a client receives, from the connection's reader to whoever iterates.

Between the two is a bounded buffer. When it is full, nobody reads, the kernel's buffers fill, and the
server's copy of this client falls behind in the log: backpressure all the way, and nothing is lost. The
server drops a client that takes nothing for a minute. That costs another handshake, no more: what was
received stays in the buffer, and as soon as that has room, the next connection goes on behind it.

Two cursors, therefore. Behind `Subscriber.since` the next connection begins: all in front of it was
received. Behind `Buffer.cursor` is what was not handed out yet: that is the one for an application to
keep.

A change of filters is a question whose answer comes in the stream, behind what stood in front of it.
Whoever iterates and asks is not reading at that time, so while somebody asks the buffer has no bound:
else they would wait for each other. What comes in front of the answer is at most what the network holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from trionotify.cloudevents import SUBSCRIBE, encode
from trionotify.errors import Lagged, Unreadable
from trionotify.jsontext import write_json
from trionotify.log import Cursor
from trionotify.notification import Notification
from trionotify.outbox import Outbox
from trionotify.reconnect import refusal
from trionotify.since import said_since
from trionotify.target import FILTERS, START, filters_key, without

if TYPE_CHECKING:
    from trionotify.link import Event, Unread
    from trionotify.target import Target

__all__ = ["Subscriber"]

#: Changes of filters that may wait for their answers.
_MAX_UNANSWERED: Final = 100


class Buffer:
    """What was received and not handed out yet. The reader puts, any task gets."""

    def __init__(self, limit: int) -> None:
        #: Resume behind this: all up to here was handed out.
        self.cursor: str | None = None
        self._limit = limit
        self._unbound = 0  # how many want to have no limit
        self._items: deque[tuple[Notification | Lagged, str | None]] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._over: Exception | None = None

    def put(self, item: Notification | Lagged, cursor: str | None) -> None:
        """Append, without regard to the limit."""
        self._items.append((item, cursor))
        self._changed.unpark_all()

    def mark(self, cursor: str) -> None:
        """There is nothing between what was put last and this cursor."""
        if self._items:
            self._items[-1] = (self._items[-1][0], cursor)
        else:
            self.cursor = cursor

    def end(self, error: Exception) -> None:
        """Raise this to all who get, once nothing is left."""
        self._over = error
        self._changed.unpark_all()

    def clear(self) -> None:
        """Nothing is left."""
        self._items.clear()

    async def room(self) -> None:
        """Wait until there is room."""
        while len(self._items) >= self._limit and not self._unbound:
            await self._changed.park()

    @contextmanager
    def unbound(self) -> Iterator[None]:
        """Have no limit in this block."""
        self._unbound += 1
        self._changed.unpark_all()
        try:
            yield
        finally:
            self._unbound -= 1

    async def get(self) -> Notification:
        """The next one, or what is raised in its place.

        Always a checkpoint; cancelled, it takes nothing.
        """
        await trio.lowlevel.checkpoint()
        while not self._items:
            if self._over is not None:
                raise self._over
            await self._changed.park()
        item, cursor = self._items.popleft()
        self._changed.unpark_all()
        self.cursor = cursor or self.cursor
        if isinstance(item, Lagged):
            raise item
        return item


class Subscriber:
    """The part of a client that receives."""

    role = "subscriber"
    eager = True

    def __init__(self, target: Target) -> None:
        self.outbox: Outbox[str] = Outbox(_MAX_UNANSWERED)
        self.buffer: Buffer = Buffer(target.max_buffered)
        #: Who the server says that we are.
        self.id: str = target.params["id"]
        #: Resume behind this: all up to here was received. None before the first welcome.
        self.since: str | None = None
        self._params = dict(target.params)
        self._given_up = False

    async def choose(self, filters: list[Any]) -> str:
        """Replace the filters; return the cursor behind which they hold."""
        event = Notification(
            write_json({"filters": filters}).decode(),
            type=SUBSCRIBE,
            source="/client",
            datacontenttype="application/json",
        )
        with self.buffer.unbound():
            return await self.outbox.ask(event.id, encode(event, None).decode())

    # As a part that stays connected.

    async def needed(self) -> None:
        if self._given_up:
            await trio.sleep_forever()
        await self.buffer.room()

    def params(self) -> dict[str, str]:
        params = {**self._params, "role": self.role}
        return params if self.since is None else {**without(params, *START), "since": self.since}

    def welcomed(self, event: Event) -> None:
        self.id = str(event.data.get("id", self.id))
        if event.data.get("recovered") is False:
            self._lose(said_since(self.params()), event)
        self._arrived(event)

    async def room(self) -> None:
        await self.buffer.room()

    def heard(self, event: Event) -> None:
        data = event.data if event.kind else {}
        match event.kind:
            case None:
                self.buffer.put(event.notification, event.cursor)
            case "gap":
                self._lose(data.get("from", self.since), event)
            case "ack" if "filters" in data:
                # They hold from here on, and on the connections to come, whether somebody still waits
                # to hear of it or not.
                key = filters_key(self._params)
                replaced = FILTERS if key == "filters" else [key]  # what is signed stays as it is
                self._params = without(self._params, *replaced)
                self._params[key] = write_json(data["filters"]).decode()
                self.outbox.answer(data.get("id"), str(event.cursor))
            case "error":
                self.outbox.refuse(data.get("id"), refusal(data.get("status"), data.get("detail")))
        self._arrived(event)

    def missed(self, message: Unread) -> None:
        here, found = str(self.since), message.cursor
        upto = found if found is not None and _is_behind(found, here) else here
        self.buffer.put(Unreadable(here, upto, message.why), upto)
        self.since = upto

    def give_up(self, error: Exception) -> None:
        self._given_up = True
        self.buffer.end(error)
        self.outbox.close(error)

    def close(self) -> None:
        """The client is left: iterations end, whatever is still there."""
        self.buffer.clear()
        self.buffer.end(trio.EndOfChannel())
        self.outbox.close(trio.ClosedResourceError("this client was closed"))

    def _lose(self, after: object, event: Event) -> None:
        self.buffer.put(Lagged(str(after), str(event.cursor)), event.cursor)

    def _arrived(self, event: Event) -> None:
        """All up to the event's cursor is in the buffer, or was handed out."""
        if event.cursor is not None:
            self.buffer.mark(event.cursor)
            self.since = event.cursor


def _is_behind(found: str, here: str) -> bool:
    """Whether what was found in a message is a cursor where the next one can stand."""
    try:
        after, upto = Cursor.parse(here), Cursor.parse(found)
    except ValueError:
        return False
    return after.epoch == upto.epoch and after.offset < upto.offset
