"""Clients: the record of one connection.

A `Client` is made when a request is accepted (by `authenticate`, or from the query) and belongs to its
connection's task from then on. The predicates registered on it say what it wants; registering one moves
the client from group to group at its own position in the log, and so takes effect between two
notifications, never inside one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, cast

import attrs
import trio

from trionotify.delivery.unanswered import Unanswered
from trionotify.errors import CloseCode, Disconnected, check_close, problem_document, quoted
from trionotify.model.filters import check_filter
from trionotify.model.jsontext import write_json
from trionotify.model.notification import Notification
from trionotify.model.predicates import EVERYTHING, NOTHING, AllOf, AnyOf, Wanted, key_of
from trionotify.model.query import ROLES
from trionotify.model.replies import acknowledged, reply_of
from trionotify.model.text import check_id, check_seconds

if TYPE_CHECKING:
    from trionotify.delivery.hub import Hub
    from trionotify.delivery.position import Position
    from trionotify.model.replies import Message

__all__ = ["Client", "Link"]

logger: logging.Logger = logging.getLogger("trionotify")


class Link(Protocol):
    """What a client's record needs of its connection, while it has one."""

    @property
    def position(self) -> Position:
        """Where the client stands in the log."""

    def receive(self) -> Awaitable[list[Message]]:
        """The messages of one read; an empty list means that there will be no more."""

    async def send(self, message: Message) -> None:
        """Send one message, and wait until the kernel has it."""

    def tell(self, kind: str, data: Mapping[str, object]) -> None:
        """Tell the client the server's own event `kind`, if it speaks CloudEvents. Doesn't block."""

    async def say(self, kind: str, data: Mapping[str, object]) -> None:
        """The same, and wait until the kernel has it."""

    async def publish(self, messages: tuple[Message, ...]) -> None:
        """Publish what the client sent, as the client's."""

    def end(self, code: int | None, reason: str = "") -> None:
        """Say the last word."""

    def refilter(self, predicate: Wanted) -> str:
        """From here on the client wants this; "here" is returned."""


def _identity(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be str, not {type(value).__name__}")
    # It goes into heads (percent-encoded), into logs (escaped), and into the `source` of what the client
    # publishes.
    check_id(attribute.name, value)


def _moment(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{attribute.name}: must be a number or None, not {type(value).__name__}")
    check_seconds(attribute.name, value)


def _role(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value not in ROLES:
        raise ValueError(f"{attribute.name} must be one of {', '.join(ROLES)}, not {quoted(value)}")


def _params(_: object, attribute: attrs.Attribute[Any], value: Mapping[str, str]) -> None:
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(
                f"{attribute.name} must map str to str, not {quoted(name)} to {quoted(text)}"
            )


def _copied(params: Mapping[str, str]) -> Mapping[str, str]:
    """Nobody's but the record's, and read-only: the registry files by it."""
    return MappingProxyType(dict(params))


_fixed: Final = attrs.setters.frozen
#: For what is set at each read: attrs would first look whether the field is fixed, which takes longer.
_set: Final = object.__setattr__


@attrs.define(eq=False, repr=False)
class Client:
    """One connected client.

    `id` is its identity (several connections may share one), `params` the whole query, `role` one of
    `subscriber`, `publisher` and `both`, `remote` its address as text, `subprotocol` and `format`
    what its connection speaks, `connected_at` the time of day in seconds since 1970. `hub` is the hub it
    is connected to, None before that. At `expires_at`, in seconds since 1970, the connection is closed
    with 4401; None: never.

    Iterate over it for its messages (`str` or `bytes`); the iteration ends when the client is gone, or
    when the server ends the connection. Only its session may iterate; any task may call the rest.

    Raises TypeError or ValueError that begins with the attribute's name when a value won't do.
    """

    id: str = attrs.field(validator=_identity, on_setattr=_fixed)
    params: Mapping[str, str] = attrs.field(
        factory=dict, converter=_copied, validator=_params, on_setattr=_fixed
    )
    role: str = attrs.field(default="subscriber", validator=_role, on_setattr=_fixed)
    remote: str = attrs.field(default="", on_setattr=_fixed)
    subprotocol: str | None = attrs.field(default=None, on_setattr=_fixed)
    format: str = attrs.field(default="raw", on_setattr=_fixed)
    connected_at: float = attrs.field(factory=time.time, on_setattr=_fixed)
    expires_at: float | None = attrs.field(default=None, validator=_moment, on_setattr=_fixed)
    #: (Sessions see it only when there is one: so they needn't ask.)
    hub: Hub = attrs.field(default=cast("Any", None), init=False)
    #: What its query wants is registered already: see `Request.client`.
    made_of_query: bool = attrs.field(default=False, init=False)
    #: What `authenticate` allows it: whatever it asks for itself, it gets no more than this.
    _allowed: Wanted | None = attrs.field(default=None, init=False)
    #: None: never given a filter, which wants everything.
    _predicates: tuple[Wanted, ...] | None = attrs.field(default=None, init=False)
    _link: Link | None = attrs.field(default=None, init=False)
    _received: deque[Message] | None = attrs.field(default=None, init=False)
    #: A task waits for messages.
    _busy: bool = attrs.field(default=False, init=False)
    #: The task of its connection, in which its session runs.
    _task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)
    #: What its session has and has not answered.
    _unanswered: Unanswered | None = attrs.field(default=None, init=False)

    @property
    def position(self) -> Position | None:
        """Where it stands in the hub's log; None while it isn't connected."""
        return None if self._link is None else self._link.position

    @property
    def predicates(self) -> tuple[Wanted, ...]:
        """What is registered, in the order of registration."""
        return self._predicates or ()

    @property
    def predicate(self) -> Wanted:
        """What the client wants, as one predicate: whatever any of the registered ones wants.

        Never given a filter, everything (a publisher: nothing); the last one unsubscribed, nothing.
        """
        if self._predicates is None:
            return NOTHING if self.role == "publisher" else EVERYTHING
        if not self._predicates:
            return NOTHING
        return self._predicates[0] if len(self._predicates) == 1 else AnyOf(self._predicates)

    def subscribe(self, predicate: Wanted) -> str | None:
        """Register `predicate`: from its position on, the client gets also what this one wants.

        The first one registered ends "everything". Returns the cursor behind which it holds, None
        before the client is connected. Raises TypeError for what can't be called, ValueError for a name
        that no attribute can have. Doesn't block.
        """
        check_filter(predicate)
        if key_of(predicate) in map(key_of, self.predicates):
            return self._refilter(self._predicates)
        return self._refilter((*self.predicates, predicate))

    def unsubscribe(self, *predicates: Wanted) -> str | None:
        """Take equal predicates off the record; without any, all of them.

        Returns the cursor behind which it holds, None before the client is connected. Raises
        ValueError for one that is not registered, and then takes off none. Doesn't block.
        """
        remaining = {key_of(predicate): predicate for predicate in self.predicates}
        for predicate in predicates or self.predicates:
            if remaining.pop(key_of(predicate), None) is None:
                raise ValueError(f"{quoted(predicate)} is not registered on client {self.id!r}")
        return self._refilter(tuple(remaining.values()))

    def bound(self, *, signed: bool = False) -> None:
        """What is registered now is all that it may ever have, whatever it asks for: for the hub.

        Of a publisher whose query is `signed`, that may be nothing.
        """
        if self._predicates is not None or (signed and self.role == "publisher"):
            self._allowed = self.predicate

    def choose(self, predicate: Wanted) -> None:
        """Let it have what it asked for in its query, or later, within its bounds: for the hub alone."""
        if self._allowed is not None:
            predicate = AllOf([self._allowed, predicate])
        self._refilter((predicate,))

    def narrow(self, predicate: Wanted) -> None:
        """Let it have less than what is registered: for the hub alone."""
        self.choose(predicate if self._predicates is None else AllOf([self.predicate, predicate]))

    def come_from(self, remote: str) -> None:
        """Its address, unless whoever made it had one to say: for the hub alone."""
        object.__setattr__(self, "remote", self.remote or remote)

    def expire(self, expires_at: float) -> None:
        """Let it stay no longer than this: for the hub alone."""
        object.__setattr__(self, "expires_at", min(expires_at, self.expires_at or expires_at))

    def speak(self, format: str, subprotocol: str | None) -> None:
        """Note down what was agreed on: for the hub alone."""
        object.__setattr__(self, "format", format)
        object.__setattr__(self, "subprotocol", subprotocol)

    def get(self, name: str) -> str | None:
        """The query's parameter `name`: what an audience looks at. `id` and `role` are always there."""
        if name == "id":
            return self.id
        if name == "role":
            return self.role
        return self.params.get(name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        """The next message. Checkpoints only when a new read is needed: messages come in batches.

        To ask for it is to accept the one before: see `reply`. Raises `trio.BusyResourceError` when
        another task waits for one.
        """
        self.accept()
        if not self._received:
            self._be_busy()
            try:
                self._received = deque(await self._connection().receive()) or None
            finally:
                _set(self, "_busy", False)
            if not self._received:
                raise StopAsyncIteration
        message = self._received.popleft()
        if not isinstance(message, Notification):
            return message
        data = "" if message.data is None else message.data
        self._hand([(data, message)])
        return data

    async def receive_batch(self) -> list[Message]:
        """The messages of one read, or of a part of it, at least one; empty when it is over.

        Each is `str` or `bytes`, or of a client that speaks CloudEvents, a whole `Notification`.
        Always a checkpoint. Cancelled, it loses none. To ask for it is to accept the one before: see
        `reply`. Raises `trio.BusyResourceError` when another task waits for messages.
        """
        self.accept()
        self._be_busy()
        try:
            if self._received:
                await trio.lowlevel.checkpoint()
                batch, self._received = list(self._received or ()), None
            else:
                batch = await self._connection().receive()
        finally:
            _set(self, "_busy", False)
        if self.format != "raw":
            self._hand(zip(batch, cast("list[Notification]", batch), strict=True))
        return batch

    async def reply(self, message: Message, data: object = None) -> None:
        """Answer `message`, which this client sent, with `data`: text, bytes or a value for JSON.

        The client's `request` returns that. An event that isn't a request is acknowledged, and a raw
        client gets `data` as a message, if it isn't None. `message` is what the session was given.

        Each event that a session was given is answered: by this, by `reject`, or by `publish`. The rest
        is acknowledged when the session asks for more, or ends. But a request waits for its reply, so
        another task may give it. Up to 1,000 of one client wait; above that the oldest is refused (503).

        Always a checkpoint; waits while the client is slow. Cancelled, it was answered or it was not.
        Raises `Disconnected` when the client is gone, TypeError for data that JSON can't hold, and
        ValueError for a message that isn't this client's, or that was answered.
        """
        reply = reply_of(data)
        if self.format != "raw":
            event = self._answered(message)
            await self._connection().say("ack", acknowledged(event, reply))
        elif data is None:
            await trio.lowlevel.checkpoint()
        else:
            text = data if isinstance(data, str | bytes) else write_json(data).decode()
            await self._connection().send(text)

    def reject(self, message: Message, reason: str, status: int = 422) -> None:
        """Refuse `message`, which this client sent: its `publish` or `request` raises `Refused`.

        `status` is an HTTP status from 400 to 599. A raw client hears nothing. Doesn't block. Raises
        ValueError for another status, and for a message that isn't this client's, or that was answered.
        """
        if not 400 <= status <= 599:
            raise ValueError(f"status: an HTTP status from 400 to 599 is needed, not {status!r}")
        if self.format != "raw":
            self._refuse(self._answered(message), status, reason)

    def accept(self) -> None:
        """Acknowledge all that the session was given, but for requests: for the hub alone."""
        for event in () if self._unanswered is None else self._unanswered.take_all():
            self._connection().tell("ack", acknowledged(event))

    def is_unanswered(self, message: Message) -> bool:
        """Whether `message`, which this client sent, is an event without an answer."""
        return self._unanswered is not None and message in self._unanswered

    def _handed(self) -> Unanswered:
        if self._unanswered is None:  # most clients never send anything
            self._unanswered = Unanswered()
        return self._unanswered

    def _answered(self, message: Message) -> Notification:
        return self._handed().take(message)

    def _hand(self, given: Iterable[tuple[Message, Notification]]) -> None:
        for oldest in self._handed().add(given):
            self._refuse(oldest, 503, "too many requests of this client wait for a reply")

    def _refuse(self, event: Notification, status: int, reason: str) -> None:
        self._connection().tell("error", {**problem_document(status, reason), "id": event.id})

    def _be_busy(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(
                f"another task is waiting for messages of client {self.id!r}: let one task receive them"
            )
        _set(self, "_busy", True)

    async def send(self, message: Message) -> bool:
        """Send this client alone `message`, outside of the log, and wait until the kernel has it.

        Of a `Notification` a raw client gets the data. What isn't one, a client that speaks CloudEvents
        gets as an event with default attributes.

        Always a checkpoint. When the client is slow this waits; cancelled then, the message
        still goes out whole, or the connection ends. Raises `Disconnected` when the client is gone.

        In the session of another client, one that is gone is no error, because it isn't that one's:
        the message is dropped, with a line in the log. Returns whether the kernel has it.
        """
        if not isinstance(message, str | bytes | Notification):
            raise TypeError(f"message must be str, bytes or Notification, not {type(message).__name__}")
        try:
            await self._connection().send(message)
        except Disconnected as error:
            error.client = self
            session = None if self.hub is None else self.hub.clients.in_session()
            if session is None or session is self:
                raise
            logger.info(
                "client %.64r has left: what the session of client %.64r sent to it is dropped",
                self.id,
                session.id,
                extra={"event": "not_sent", "id": self.id, "by": session.id},
            )
            await trio.lowlevel.checkpoint()
            return False
        return True

    async def publish(self, *messages: Message) -> None:
        """Publish messages of this client: with the attributes that its query gives, `echo` in force.

        A `Notification` is published as it is, and acknowledged to a client that speaks CloudEvents.
        All go into the channel together. Waits, and checkpoints, only while the channel is full, for
        what is to be acknowledged, and for its turn to check a long text. Cancelled before they are in
        the channel, none was published. Raises
        `Disconnected` when the client is gone, `trio.ClosedResourceError` when the hub is closed, and
        ValueError when a message isn't what the query's `datacontenttype` says; then none was published.
        """
        try:
            await self._connection().publish(messages)
        except Disconnected as error:
            error.client = self
            raise
        if self._unanswered is not None:
            self._unanswered.forget(messages)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection with `code` and `reason` (cut at 123 bytes). Doesn't block.

        The session's iteration ends, what was received and not handled is dropped, and nothing more is
        sent. Nothing happens to a client that has left. Raises ValueError for a code that must not be
        sent, and `Disconnected` when it was never connected.
        """
        check_close(code, reason)
        self._received = None
        if self._link is None and self.hub is not None:
            return
        self._connection().end(code, reason.encode(errors="replace").decode())

    def connect(self, hub: Hub, link: Link | None) -> None:
        """Tie the record to its connection, or with None untie it: for the hub alone.

        Raises ValueError when it has one already.
        """
        if link is not None and self._link is not None:
            raise ValueError(f"client {self.id!r} is connected: make a new Client for each connection")
        self.hub, self._link = hub, link
        self._task = None if link is None else trio.lowlevel.current_task()

    def is_served_in(self, tasks: Collection[trio.lowlevel.Task]) -> bool:
        """Whether one of these is the task in which its session runs."""
        return self._task in tasks

    def _refilter(self, predicates: tuple[Wanted, ...] | None) -> str | None:
        self._predicates = predicates
        return None if self._link is None else self._link.refilter(self.predicate)

    def _connection(self) -> Link:
        if self._link is None:
            raise Disconnected(f"client {self.id!r} is not connected")
        return self._link

    def __repr__(self) -> str:
        return f"<Client {self.id!r} {self.role} {self.format} {self.remote}>"
