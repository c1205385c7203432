"""The subscriber: passes notifications from the connection's reader to the task that iterates.

Between the two is a bounded buffer. When it is full, the reader stops, the kernel's buffers fill, and
the server's copy of this client falls behind in the log. This is backpressure all the way, and nothing
is lost. The server drops a client that takes nothing for a minute, which only costs another handshake.
Received notifications stay in the buffer. When the buffer has room again, the next connection continues
after it.

So there are two cursors. The next connection begins after `Subscriber.since`, because everything up to
it was received. Notifications after `Buffer.cursor` were not handed out yet, so an application keeps
this cursor.

A change of filters is a question whose answer comes in the stream, behind what stood in front of it. A
task that both iterates and asks does not read at that time. So while a question is open, the buffer has
no bound, or the task would wait for itself. At most what the network holds comes before the answer.

Filters that are too long for a URL are said in band, first of all on each connection. Until the answer
comes, the server sends everything that this client may have, so the filters are applied here (`_sieve`).
If it asked for nothing until then, it would lose the notifications that the server skips meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import trio

from trionotify.client.in_flight import Outbox
from trionotify.client.reconnect import is_too_big, refusal
from trionotify.client.target import START, filters_key, filters_of, predicate_in, wanted_in, without
from trionotify.errors import Lagged, Refused, Unreadable
from trionotify.model.cloudevents import SUBSCRIBE, encode
from trionotify.model.cursor import Cursor, said_since
from trionotify.model.jsontext import write_json
from trionotify.model.notification import Notification

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trionotify.client.link import Event, Unread
    from trionotify.client.target import Target
    from trionotify.model.predicates import Predicate

__all__ = ["Subscriber"]

#: Changes of filters that may wait for their answers.
_MAX_UNANSWERED: Final = 100
#: Characters of filters that go into the URL. Many a proxy takes 8 KiB of a request line.
_MOST_IN_URL: Final = 4096
#: The statuses with which a server, or a proxy, refuses a URL that is too long.
_TOO_LONG: Final = frozenset(
    {HTTPStatus.REQUEST_URI_TOO_LONG, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE}
)


class Buffer:
    """Notifications received but not yet returned. The reader puts them, and any task gets them."""

    def __init__(self, limit: int) -> None:
        #: The cursor after the last notification returned.
        self.cursor: str | None = None
        self._limit = limit
        self._unbound = 0  # how many want to have no limit
        self._items: deque[tuple[Notification | Lagged, str | None]] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._over: Exception | None = None

    def put(self, item: Notification | Lagged, cursor: str | None) -> None:
        """Append an item, even above the limit."""
        self._items.append((item, cursor))
        self._changed.unpark_all()

    def mark(self, cursor: str) -> None:
        """Note that nothing lies between the last item put and this cursor."""
        if self._items:
            self._items[-1] = (self._items[-1][0], cursor)
        else:
            self.cursor = cursor

    def end(self, error: Exception) -> None:
        """Raise this error in every `get` once the buffer is empty."""
        self._over = error
        self._changed.unpark_all()

    def clear(self) -> None:
        self._items.clear()

    async def room(self) -> None:
        while len(self._items) >= self._limit and not self._unbound:
            await self._changed.park()

    @contextmanager
    def unbound(self) -> Iterator[None]:
        """Lift the limit in this block."""
        self._unbound += 1
        self._changed.unpark_all()
        try:
            yield
        finally:
            self._unbound -= 1

    async def get(self) -> Notification:
        """Return the next notification, or raise the `Lagged` in its place.

        Always a checkpoint; if cancelled, it takes nothing.
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
    """The receiving part of a client."""

    role = "subscriber"
    eager = True

    def __init__(self, target: Target) -> None:
        #: The answers are cursors from which new filters apply, and the results of token renewals.
        self.outbox: Outbox[Any] = Outbox(_MAX_UNANSWERED)
        self.buffer: Buffer = Buffer(target.max_buffered)
        #: The id that the server gave this client.
        self.id: str = target.params.get("id", "")
        #: The cursor after the last notification received. None before the first welcome.
        self.since: str | None = None
        self._target = target
        self._params = dict(target.params)
        #: The filters were replaced, so those that the function `params` gives don't count.
        self._replaced = False
        #: The query of this connection.
        self._query: Mapping[str, str] = self._params
        #: Filters that didn't fit into a URL; until the server has heard of them in `_opening`, they
        #: are applied here.
        self._in_band = False
        self._sieve: Predicate | None = None
        self._opening: Notification | None = None
        self._given_up = False

    async def choose(self, filters: list[Any]) -> str:
        """Replace the filters; return the cursor behind which they hold."""
        event = _subscribe(filters)
        with self.buffer.unbound():
            cursor: str = await self.outbox.ask(event.id, encode(event, None).decode())
            return cursor

    # The methods of `Part`.

    async def needed(self) -> None:
        if self._given_up:
            await trio.sleep_forever()
        await self.buffer.room()

    def query(self, given: object) -> Mapping[str, str]:
        query = self._target.query(self._params, given, self.role)
        if self._replaced and "sig" not in query:
            query = {**without(query, *wanted_in(query)), **wanted_in(self._params)}
        if self.since is not None:
            query = {**without(query, *START), "since": self.since}
        self._sieve = self._opening = None
        wanted = wanted_in(query)
        if wanted and (self._in_band or len(urlencode(wanted)) > _MOST_IN_URL):
            query = without(query, *wanted)
            self._sieve = predicate_in(wanted)
            self._opening = _subscribe(filters_of(self._sieve))
        self._query = query
        return query

    def welcomed(self, event: Event) -> None:
        if event.data.get("role") == "publisher":
            raise Refused(
                403,
                "role: the server lets this client publish, but not subscribe; connect with"
                " role='publisher'",
            )
        self.id = str(event.data.get("id", self.id))
        if event.data.get("recovered") is False:
            self._lose(said_since(self._query), event)
        self._arrived(event)
        if self._opening is not None:
            self.outbox.say_first(encode(self._opening, None).decode())

    async def room(self) -> None:
        await self.buffer.room()

    def heard(self, event: Event) -> None:
        data = event.data if event.kind else {}
        match event.kind:
            case None:
                if self._sieve is None or self._sieve(event.notification):
                    self.buffer.put(event.notification, event.cursor)
            case "gap":
                self._lose(data.get("from", self.since), event)
            case "ack" if "filters" in data:
                self._sieve = None
                if not self._is_opening(data):
                    # They hold from here on, and on the connections to come, whether somebody still
                    # waits to hear of it or not. What is signed stays as it is.
                    self._params = without(self._params, *wanted_in(self._params))
                    self._params[filters_key(self._params)] = write_json(data["filters"]).decode()
                    self._replaced = True
                self.outbox.answer(data.get("id"), str(event.cursor))
            case "ack" if "expires_in" in data:
                self.outbox.answer(data.get("id"), data)
            case "error" if self._is_opening(data):
                raise refusal(data.get("status"), data.get("detail"))
            case "error":
                self.outbox.refuse(data.get("id"), refusal(data.get("status"), data.get("detail")))
        self._arrived(event)

    def missed(self, message: Unread) -> None:
        here, found = str(self.since), message.cursor
        upto = found if found is not None and _is_behind(found, here) else here
        self.buffer.put(Unreadable(here, upto, message.why), upto)
        self.since = upto

    def repair(self, error: Exception) -> bool:
        if isinstance(error, Refused) and error.status in _TOO_LONG and not self._in_band:
            self._in_band = bool(wanted_in(self._query))
            return self._in_band
        return is_too_big(error) and self.outbox.refuse_longest(error)

    def give_up(self, error: Exception) -> None:
        self._given_up = True
        self.buffer.end(error)
        self.outbox.close(error)

    def close(self) -> None:
        """End all iterations, even if notifications are left, because the client was left."""
        self.buffer.clear()
        self.buffer.end(trio.EndOfChannel())
        self.outbox.close(trio.ClosedResourceError("this client is closed"))

    def _is_opening(self, data: dict[str, Any]) -> bool:
        """Return whether this answers the filters sent in band at the beginning."""
        return self._opening is not None and data.get("id") == self._opening.id

    def _lose(self, after: object, event: Event) -> None:
        self.buffer.put(Lagged(str(after), str(event.cursor)), event.cursor)

    def _arrived(self, event: Event) -> None:
        """Note that everything up to the event's cursor was received."""
        if event.cursor is not None:
            self.buffer.mark(event.cursor)
            self.since = event.cursor


def _subscribe(filters: list[Any]) -> Notification:
    """Return the event that asks a server to replace the filters."""
    return Notification(
        write_json({"filters": filters}).decode(),
        type=SUBSCRIBE,
        source="/client",
        datacontenttype="application/json",
    )


def _is_behind(found: str, here: str) -> bool:
    """Return whether `found`, from an unreadable message, is a cursor that can come after `here`."""
    try:
        after, upto = Cursor.parse(here), Cursor.parse(found)
    except ValueError:
        return False
    return after.epoch == upto.epoch and after.offset < upto.offset
