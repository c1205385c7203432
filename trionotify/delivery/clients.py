"""Clients: the record of one connection.

`authenticate`, or the server from the query, creates a `Client` when a request is accepted. From then
on it belongs to the connection's task. The predicates registered on it select what it gets. Registering
one moves the client between groups at its own position in the log, so it takes effect between two
notifications, never inside one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, cast

import attrs
import trio

from trionotify.delivery.fields import (
    check_identity,
    check_moment,
    check_params,
    check_role,
    copied,
)
from trionotify.delivery.unanswered import Unanswered
from trionotify.errors import CloseCode, Disconnected, check_close, encodable, problem_document, quoted
from trionotify.model.filters import check_filter
from trionotify.model.jsontext import write_json
from trionotify.model.keys import CREDENTIALS
from trionotify.model.notification import Notification
from trionotify.model.predicates import EVERYTHING, NOTHING, AllOf, AnyOf, Wanted, key_of
from trionotify.model.replies import acknowledged, reply_of
from trionotify.scopes import Alive, check_thread

if TYPE_CHECKING:
    from trionotify.delivery.hub import Hub
    from trionotify.delivery.position import Position
    from trionotify.delivery.rights import Rights
    from trionotify.model.replies import Message

__all__ = ["Client", "Link"]

logger: logging.Logger = logging.getLogger("trionotify")


class Link(Protocol):
    """The interface that a client's record needs of its connection, while it has one."""

    @property
    def position(self) -> Position:
        """The client's position in the log."""

    def receive(self) -> Awaitable[list[Message]]:
        """Return the messages of one read; an empty list if there will be no more."""

    async def send(self, message: Message) -> None:
        """Send one message, and wait until the kernel has it."""

    def tell(self, kind: str, data: Mapping[str, object]) -> None:
        """Tell the client the server's own event `kind`, if it speaks CloudEvents. Doesn't block."""

    async def say(self, kind: str, data: Mapping[str, object]) -> None:
        """Send the client the server's own event `kind`, and wait until the kernel has it."""

    async def publish(self, messages: tuple[Message, ...]) -> None:
        """Publish the client's messages, on its behalf."""

    def discard(self) -> None:
        """Drop messages that were received and not understood yet."""

    def close(self, code: int | None, reason: str = "") -> None:
        """Queue a Close frame, behind which nothing is sent. Doesn't block."""

    def refilter(self, predicate: Wanted) -> str:
        """Replace the client's filter from its present position on; return the cursor there."""


#: Marks a field that may be set. The others are frozen.
_free: Final = attrs.setters.NO_OP
#: For frozen fields, and for those set often, because attrs first checks whether a field is frozen.
_set: Final = object.__setattr__


@attrs.define(eq=False, repr=False, on_setattr=attrs.setters.frozen)
class Client(Alive):
    """One connected client, and the API of its session.

    `id` is its identity, which several connections may share. `params` is the whole query. `role` is
    `subscriber`, `publisher` or `both`. `remote` is its address as text. `subprotocol` and `format` are
    those of its connection. `connected_at` is in seconds since 1970. `hub` is its hub, or None before
    it is connected. The server closes the connection (4401) at `expires_at`, in seconds since 1970.

    Iterate over the client to receive its messages (`str` or `bytes`). The iteration ends when the
    client is gone or the server ends the connection. Only its session may iterate. Any task may call
    the methods.

    Raises TypeError or ValueError, beginning with the attribute's name, for an invalid value.
    """

    id: str = attrs.field(validator=check_identity)
    params: Mapping[str, str] = attrs.field(factory=dict, converter=copied, validator=check_params)
    role: str = attrs.field(default="subscriber", validator=check_role)
    remote: str = attrs.field(default="")
    subprotocol: str | None = attrs.field(default=None)
    format: str = attrs.field(default="raw")
    connected_at: float = attrs.field(factory=time.time)
    expires_at: float | None = attrs.field(default=None, validator=check_moment)
    #: A session only runs while there is one, so the type leaves out None.
    hub: Hub = attrs.field(default=cast("Any", None), init=False, on_setattr=_free)
    #: Whether the request's query made it: see `Request.client`.
    made_of_query: bool = attrs.field(default=False, init=False, on_setattr=_free)
    #: Whether its `id` was given, and not made up for it.
    named: bool = attrs.field(default=True, init=False, on_setattr=_free)
    #: The rights of its token, live and on replay, whatever is registered. None: it has no token.
    rights: Rights | None = attrs.field(default=None, init=False, on_setattr=_free)
    #: The id and the parameters that come from its token. None: it has no token.
    granted: Mapping[str, str] | None = attrs.field(default=None, init=False, on_setattr=_free)
    #: Whether the application has set `expires_at`, so that another token doesn't change it.
    keeps_expiry: bool = attrs.field(default=False, init=False, on_setattr=_free)
    #: Whether it has the server's secret, so that no rates apply to it.
    exempt: bool = attrs.field(default=False, init=False, on_setattr=_free)
    #: The widest filter that `authenticate` allows, whatever the client asks for.
    _allowed: Wanted | None = attrs.field(default=None, init=False, on_setattr=_free)
    #: None if it was never given a filter, and therefore wants everything.
    _predicates: tuple[Wanted, ...] | None = attrs.field(default=None, init=False, on_setattr=_free)
    _link: Link | None = attrs.field(default=None, init=False, on_setattr=_free)
    received: deque[Message] | None = attrs.field(default=None, init=False, on_setattr=_free)
    #: Whether a task waits for messages.
    _busy: bool = attrs.field(default=False, init=False, on_setattr=_free)
    #: The task of its connection, in which its session runs.
    _task: trio.lowlevel.Task | None = attrs.field(default=None, init=False, on_setattr=_free)
    #: Events that its session was given and hasn't answered.
    _unanswered: Unanswered | None = attrs.field(default=None, init=False, on_setattr=_free)

    @property
    def position(self) -> Position | None:
        """The client's position in the hub's log; None while it isn't connected."""
        return None if self._link is None else self._link.position

    @property
    def predicates(self) -> tuple[Wanted, ...]:
        """The registered predicates, in the order of registration."""
        return self._predicates or ()

    @property
    def predicate(self) -> Wanted:
        """The client's filter, as one predicate that matches if any registered one does.

        A client that was never given a filter wants everything, or nothing if it is a publisher. After
        the last predicate was unsubscribed, it wants nothing. Its `rights` restrict what it wants.
        """
        return self.asked if self.rights is None else self.rights.restrict(self.asked)

    @property
    def asked(self) -> Wanted:
        """The client's filter without the restriction by its `rights`."""
        if self._predicates is None:
            return NOTHING if self.role == "publisher" else EVERYTHING
        if not self._predicates:
            return NOTHING
        return self._predicates[0] if len(self._predicates) == 1 else AnyOf(self._predicates)

    def subscribe(self, predicate: Wanted) -> str | None:
        """Register `predicate`. From its position on, the client also gets what this one selects.

        The first predicate replaces "everything". Returns the cursor after which it applies, or None
        before the client is connected. Raises TypeError for a predicate that isn't callable, and
        ValueError for an invalid attribute name in it. Doesn't block.
        """
        check_filter(predicate)
        check_thread("subscribe", "client", self._link)
        if key_of(predicate) in map(key_of, self.predicates):
            return self._refilter(self._predicates)
        return self._refilter((*self.predicates, predicate))

    def unsubscribe(self, *predicates: Wanted) -> str | None:
        """Remove predicates that equal these, or without arguments all of them.

        Returns the cursor after which that applies, or None before the client is connected. Raises
        ValueError if one is not registered, and then removes none. Doesn't block.
        """
        check_thread("unsubscribe", "client", self._link)
        remaining = {key_of(predicate): predicate for predicate in self.predicates}
        for gone in predicates or self.predicates:
            if remaining.pop(key_of(gone), None) is None:
                raise ValueError(f"predicate: {quoted(gone)} is not registered on client {self.id!r}")
        return self._refilter(tuple(remaining.values()))

    def bound(self, *, signed: bool = False) -> None:
        """Limit the client permanently to the registered predicates. Only the server calls this.

        A publisher with a `signed` query may be limited to nothing.
        """
        if self._predicates is not None or (signed and self.role == "publisher"):
            self._allowed = self.asked

    def choose(self, predicate: Wanted) -> None:
        """Set the client's own filter, within its limits. Only the server calls this."""
        if self._allowed is not None:
            predicate = AllOf([self._allowed, predicate])
        self._refilter((predicate,))

    def narrow(self, predicate: Wanted) -> None:
        """Restrict the registered predicates further. Only the server calls this."""
        self.choose(predicate if self._predicates is None else AllOf([self.asked, predicate]))

    def come_from(self, remote: str) -> None:
        """Set its address unless it was created with one. Only the server calls this."""
        _set(self, "remote", self.remote or remote)

    def expire(self, expires_at: float) -> None:
        """Lower `expires_at` to this if it is later or None. Only the server calls this."""
        if self.expires_at is None or expires_at < self.expires_at:
            _set(self, "expires_at", expires_at)

    def renew(self, rights: Rights, expires_at: float) -> None:
        """Apply another token's rights from the client's position on. Only the server calls this."""
        self.rights = rights
        _set(self, "expires_at", self.expires_at if self.keeps_expiry else expires_at)
        self._refilter(self._predicates)

    def may_receive(self, notification: Notification) -> bool:
        """Return whether its rights allow it to receive this notification."""
        return self.rights is None or bool(self.rights.subscribe(notification))

    def speak(self, format: str, subprotocol: str | None) -> None:
        """Set the agreed format and subprotocol. Only the server calls this."""
        _set(self, "format", format)
        _set(self, "subprotocol", subprotocol)

    def get(self, name: str) -> str | None:
        """Return the query's parameter `name`, as audiences see it. `id` and `role` always exist."""
        if name in ("id", "role"):
            return self.id if name == "id" else self.role
        return None if name in CREDENTIALS else self.params.get(name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        """Return the next message. A checkpoint only if a new read is needed.

        Asking for the next message accepts the previous one: see `reply`. Raises
        `trio.BusyResourceError` if another task waits for one.
        """
        self.accept()
        if not self.received:
            self._be_busy()
            try:
                self.received = deque(await self._connection().receive()) or None
            finally:
                _set(self, "_busy", False)
            if not self.received:
                raise StopAsyncIteration
        message = self.received.popleft()
        if not isinstance(message, Notification):
            return message
        data = "" if message.data is None else message.data
        self._hand([(data, message)])
        return data

    async def receive_batch(self) -> list[Message]:
        """Return the messages of one read, or of a part of it; an empty list if the iteration is over.

        Each is `str` or `bytes`, or a whole `Notification` if the client speaks CloudEvents. Always a
        checkpoint. Cancelled, it loses none. Asking for more accepts the ones before: see `reply`.
        Raises `trio.BusyResourceError` if another task waits for messages.
        """
        self.accept()
        self._be_busy()
        try:
            if self.received:
                await trio.lowlevel.checkpoint()
                batch, self.received = list(self.received or ()), None
            else:
                batch = await self._connection().receive()
        finally:
            _set(self, "_busy", False)
        if self.format != "raw":
            self._hand(zip(batch, cast("list[Notification]", batch), strict=True))
        return batch

    async def reply(self, message: Message, data: object = None) -> None:
        """Answer `message` of this client with `data`, which is text, bytes or a value for JSON.

        `message` is the object that the session received. The client's `request` returns `data`. An
        event that isn't a request is acknowledged. A raw client gets `data` as a message, unless None.

        A session answers an event with `reply`, `reject` or `publish`. The server acknowledges the other
        events when the session asks for more or ends. But a request waits for its reply, so another task
        may give it. If more than 1,000 requests of one client wait, the oldest is refused (503).

        Always a checkpoint. Waits while the client is slow. A cancelled call may have answered. Raises
        `Disconnected` if the client is gone, TypeError or ValueError for data that JSON can't represent
        (such as NaN), and ValueError for a message that isn't this client's or was answered already.
        """
        reply = reply_of(data)
        if self.format != "raw":
            event = self._handed().take(message)
            await self._connection().say("ack", acknowledged(event, reply))
        elif data is None:
            await trio.lowlevel.checkpoint()
        else:
            text = data if isinstance(data, str | bytes) else write_json(data).decode()
            await self._connection().send(text)

    def reject(self, message: Message, reason: str, status: int = 422) -> None:
        """Refuse `message` of this client, whose `publish` or `request` then raises `Refused`.

        `status` is an HTTP status from 400 to 599. A raw client isn't told. Doesn't block. Raises
        ValueError for another status, and for a message that isn't this client's or was answered.
        """
        if not isinstance(reason, str) or not isinstance(status, int):
            raise TypeError(f"reason and status: must be str and int, not {reason!r} and {status!r}")
        if not 400 <= status <= 599:
            raise ValueError(f"status: must be an HTTP status from 400 to 599, not {status!r}")
        check_thread("reject", "client", self._link)
        if self.format != "raw":
            self._refuse(self._handed().take(message), status, reason)

    def accept(self) -> None:
        """Acknowledge all events the session received, except requests. Only the server calls this."""
        for event in () if self._unanswered is None else self._unanswered.take_all():
            self._connection().tell("ack", acknowledged(event))

    def is_unanswered(self, message: Message) -> bool:
        """Return whether `message` of this client is an event without an answer."""
        return self._unanswered is not None and message in self._unanswered

    def _handed(self) -> Unanswered:
        if self._unanswered is None:  # created late, because most clients never send anything
            self._unanswered = Unanswered()
        return self._unanswered

    def _hand(self, given: Iterable[tuple[Message, Notification]]) -> None:
        for oldest in self._handed().add(given):
            self._refuse(oldest, 503, "too many requests of this client are waiting for a reply")

    def _refuse(self, event: Notification, status: int, reason: str) -> None:
        self._connection().tell("error", {**problem_document(status, reason), "id": event.id})

    def _be_busy(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(
                f"another task is receiving the messages of client {self.id!r}; let one task"
                " receive them"
            )
        _set(self, "_busy", True)

    async def send(self, message: Message) -> bool:
        """Send `message` to this client only, outside of the log, and wait until the kernel has it.

        A raw client gets only the data of a `Notification`. Text or bytes become an event with default
        attributes for a client that speaks CloudEvents.

        Returns whether the kernel has the message. Always a checkpoint. Waits while the client is slow.
        If it is cancelled then, the message is not sent, is sent whole, or the connection ends. Raises
        `Disconnected` if the client is gone. If the caller is the session of another client, it drops
        and logs the message instead, and returns False.
        """
        if not isinstance(message, str | bytes | Notification):
            raise TypeError(f"message: must be str, bytes or Notification, not {type(message).__name__}")
        try:
            await self._connection().send(message)
        except Disconnected as error:
            error.client = self
            session = None if self.hub is None else self.hub.clients.in_session()
            if session is None or session is self:
                raise
            logger.info(
                "client %.64r has left, so a message to it from the session of client %.64r is dropped",
                self.id,
                session.id,
                extra={"event": "not_sent", "id": self.id, "by": session.id},
            )
            await trio.lowlevel.checkpoint()
            return False
        return True

    async def publish(self, *messages: Message) -> None:
        """Publish messages on behalf of this client, with the attributes of its query and its `echo`.

        A `Notification` is published as it is, and acknowledged if the client speaks CloudEvents. All
        messages go into the channel together. Waits, and checkpoints, only while the channel is full,
        for acknowledgements, and for a turn to check a long text. If it is cancelled before they are in
        the channel, none was published. Raises `Disconnected` if the client is gone or its authorization
        ends before that, `trio.ClosedResourceError` if the hub is closed, and ValueError if a message
        contradicts the query's `datacontenttype`.
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

        The session's iteration ends. Messages that were received but not handled are dropped, and
        nothing more is sent. For a client that has left, it does nothing. Raises ValueError for a code
        that must not be sent, and `Disconnected` if the client was never connected.
        """
        check_close(code, reason)
        check_thread("close", "client", self._link)
        self.received = None
        if self._link is None and self.hub is not None:
            return
        link = self._connection()
        link.discard()
        link.close(code, encodable(reason))

    def connect(self, hub: Hub, link: Link | None) -> None:
        """Tie the record to its connection, or untie it (None). Only the server calls this."""
        if link is not None and self._link is not None:
            raise ValueError(
                f"client {self.id!r} is already connected; make a new Client for each connection"
            )
        _set(self, "hub", hub)
        _set(self, "_link", link)
        _set(self, "_task", None if link is None else trio.lowlevel.current_task())

    def is_served_in(self, tasks: Collection[trio.lowlevel.Task]) -> bool:
        """Return whether one of these tasks runs its session."""
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
