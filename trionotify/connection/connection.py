"""A client's connection ties its record, its position and its Wire together.

Each part can be read alone. The connection decides how they affect each other:

    wire        outgoing bytes and the state of the connection                 `wire`
    incoming    incoming messages                                              `incoming`
    catch_up    brings the client up to date while it is behind                `catchup`
    keepalive   finds out that the client is gone                              `keepalive`
    position    where the client stands in the log                             `delivery.position`

`WebSocketConnection` and `StreamConnection` add how a connection begins and what its client may send.

A connection has one task, which reads and runs the session (`http.serving`). While its client is
behind, a second task in the hub's nursery writes what the log has for it. They share the Wire, where
one task writes at a time. An error in either ends only this connection.

A position is never live while the Wire owes bytes. So every write here checks what the Wire returns,
and starts the catch-up if bytes are owed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import attrs
import trio

from trionotify.connection.base import Connection
from trionotify.connection.catchup import CatchUp
from trionotify.connection.closing import close_in_order
from trionotify.connection.dialogue import understand
from trionotify.connection.failures import log_leaving
from trionotify.connection.frames import Close
from trionotify.connection.keepalive import Drop, Keepalive, Ping
from trionotify.connection.transport import Woken
from trionotify.connection.wire import State
from trionotify.delivery.latest import Latest
from trionotify.delivery.position import Position, Sendable
from trionotify.errors import CloseCode, Disconnected
from trionotify.model.query import Query

if TYPE_CHECKING:
    from trionotify.connection.incoming import Incoming
    from trionotify.connection.wire import Wire
    from trionotify.model.replies import Message

__all__ = ["ClientConnection"]

#: Characters that may stand unescaped in a header.
_SAFE: Final = "!#$&'()*+,/:;=?@[]~"


@attrs.define(eq=False)
class ClientConnection(Connection):
    """Created by the connection's task, which alone enters, receives, closes in order and leaves."""

    wire: Wire
    incoming: Incoming
    keepalive: Keepalive
    _catch_up: CatchUp | None = attrs.field(default=None, init=False)
    #: Messages that wait to be understood. They are events, and reading one may take a turn.
    _unread: deque[str | bytes] | None = attrs.field(default=None, init=False)
    #: Events that were understood, while others of the same read weren't.
    _found: list[Message] | None = attrs.field(default=None, init=False)
    #: Whether an answer is owed. The peer isn't read meanwhile.
    _reply_owed: bool = attrs.field(default=False, init=False)
    #: Bytes of an incomplete message, as counted in the hub's budget.
    _held: int = attrs.field(default=0, init=False)
    #: The line of tasks that send. The first one creates it.
    _senders: trio.StrictFIFOLock | None = attrs.field(default=None, init=False)
    #: The offset that the client knows, and since when.
    _told: int = attrs.field(default=0, init=False)
    _told_at: float = attrs.field(default=0.0, init=False)
    #: Why the server dropped the connection.
    _dropped: str = attrs.field(default="", init=False)

    def take_place(self, query: Query) -> tuple[str, str | None]:
        """Take a place in the log; return the headers that describe it, and the welcome.

        Raises `Refused` (410). What you write to the Wire next goes out before anything of the log.
        """
        hub, client = self.hub, self.client
        hub.quotas.check(client)
        offset, recovered = hub.start(query)
        fields = f"Trionotify-Id: {quote(client.id, safe=_SAFE)}\r\n"
        fields += f"Trionotify-Cursor: {hub.broadcast.cursor(offset)}\r\n"
        if recovered is not None:
            fields += f"Trionotify-Recovered: {'true' if recovered else 'false'}\r\n"
        self._told, self._told_at = offset, self.entered_at
        position = Position(
            self,
            client.predicate,
            self.format.encode,
            self.wire.transport.send,
            client,
            deaf_to=None if query.echo else self.key,
        )
        self.connect(query, position)
        if self.lag == "latest":
            position.reading = Latest(hub.broadcast.lag, client.may_receive)
        position.told = offset
        return fields, self.welcome(offset, recovered)

    def begin(self, head: bytes) -> None:
        """Write the answer to the request, with the welcome, then join the log."""
        # If the kernel has no room even for this, what is owed goes out before anything else.
        with suppress(Disconnected):
            self._write(head)
            self.hub.broadcast.join(self.position, self._told)

    def leave(self) -> None:
        """Remove the connection from the hub and release its memory."""
        wire = self.wire
        closed, last_word = wire.state is State.CLOSED, wire.last_word
        code = last_word.code if last_word else None
        self._over()
        self.disconnect((code or CloseCode.NORMAL) if closed else None)
        log_leaving(self, self.incoming.received, code, last_word.reason if last_word else self._dropped)
        # The cycle collector would find these too, but only after a while. Release them now.
        self._catch_up = None
        self.position.forget_outlet()

    # --- out ---

    def _write(self, data: Sendable) -> bool:
        """Write frames; return whether the kernel took all. Raises `Disconnected` if it is over."""
        try:
            done = self.wire.write(data)
        except Disconnected:
            self._over()
            raise
        if not done:
            self._fall_behind()
        return done

    def _fall_behind(self) -> None:
        """Keep the log back until the bytes that are owed are out."""
        self.hub.broadcast.fall_behind(self.position)
        if self.position.joined:
            self._catching_up.start()

    @property
    def _catching_up(self) -> CatchUp:
        if self._catch_up is None:
            self._catch_up = CatchUp(self, self.wire)
        return self._catch_up

    async def _send(self, message: str | bytes) -> None:
        """Write one message as a frame, and wait until the kernel has it. Always a checkpoint.

        Only one sender at a time has its frame among the owed bytes. The others wait in line, so the
        Wire holds one frame, however many senders there are. If the first byte hasn't gone out when
        this is cancelled, the frame is taken back.
        """
        if self._senders is None:
            self._senders = trio.StrictFIFOLock()
        try:
            self._senders.acquire_nowait()
        except trio.WouldBlock:
            await self._senders.acquire()
        frame = self.wire.framing.message(message)
        try:
            self._write(frame)
            await self.wire.drained()
        except trio.Cancelled:
            self.wire.take_back(frame)
            raise
        except Disconnected:
            self._over()
            raise
        finally:
            self._senders.release()

    def reply(self, frames: bytes) -> None:
        """Write an answer without waiting. While it is owed, the peer isn't read.

        If the peer is gone, the answer is dropped without an error.
        """
        with suppress(Disconnected):
            if not self._write(frames):
                self._reply_owed = True

    def answer(self, *messages: str | None) -> None:
        frames = [self.wire.framing.message(message) for message in messages if message is not None]
        if frames:
            self.reply(b"".join(frames))

    def ping(self) -> None:
        """Write a ping, unless bytes are owed or the connection is closing."""
        if not self.wire.owed:
            with suppress(Disconnected):
                self._write(self.wire.framing.ping)

    # --- in ---

    async def _receive(self) -> list[str | bytes]:
        """Return the messages of one read, or of a part of it; an empty list if there will be no more.

        It acts on a Close frame or a fault after the messages before it were handled. Always a
        checkpoint. Cancelled, it loses nothing.
        """
        wire, incoming, keepalive = self.wire, self.incoming, self.keepalive
        while wire.state is State.OPEN:
            data = b""
            try:
                if self._reply_owed:
                    # A peer that asks but doesn't read the answers is not read either.
                    await wire.drained()
                    self._reply_owed = False
                    continue  # the connection may have ended meanwhile
                if incoming.behind:
                    await self.pass_on()
                elif last := incoming.last_event:
                    self.close(last.code, "" if isinstance(last, Close) else last.reason)
                    break
                elif incoming.early:
                    await trio.lowlevel.checkpoint()
                    data = incoming.take_early()
                else:
                    keepalive.reading = True
                    data = await wire.transport.receive_some()
                    keepalive.heard = True
                    if not data:
                        wire.lose()
                        self._over()
                        return []  # without another checkpoint, because the read was one
            except Woken:
                pass  # the connection is closing
            except (trio.BrokenResourceError, trio.ClosedResourceError, Disconnected):
                wire.abort()
            finally:
                keepalive.reading = False
            messages = incoming.feed(data)
            if incoming.pongs:
                self.reply(incoming.take_pongs())
            self._note_held()
            if messages:
                return messages
        self._over()
        await trio.lowlevel.checkpoint()
        return []

    def _note_held(self) -> None:
        """Count the bytes of an incomplete message in the budget that all connections share."""
        if (held := self.incoming.held) != self._held:
            change, self._held = held - self._held, held
            self.hub.arriving.hold(self, change)

    def give_up_arriving(self) -> None:
        self.close(CloseCode.TRY_AGAIN_LATER, "too many bodies and messages are arriving at once")

    # --- its end ---

    def discard(self) -> None:
        for messages in (self._unread, self._found):
            if messages:
                messages.clear()

    def close(self, code: int | None, reason: str = "") -> None:
        if self.wire.close(code, reason):
            self.incoming.discard()
            self._note_held()
            self.hub.broadcast.leave(self.position)
            if self.keepalive.reading:
                self.wire.transport.wake_reader()
        if self.wire.state is State.LOST:
            self._over()

    def abort(self, reason: str = "") -> None:
        """Drop the connection at once. Doesn't block."""
        self._dropped = self._dropped or reason
        self.wire.abort()
        self._over()

    def _over(self) -> None:
        """Release the connection's memory if it is over."""
        if self.wire.over:
            self.hub.broadcast.leave(self.position)
            self.incoming.forget()
            self._note_held()

    async def aclose(self) -> None:
        """Close in good order, with 1000 unless `close` gave another code: see `close_in_order`."""
        self.close(CloseCode.NORMAL)
        await close_in_order(self.wire, self.incoming, self.pass_on)

    # --- as the `Link` of the client's record ---

    def receive(self) -> Awaitable[list[Message]]:
        """Return the messages for the session. See `Link.receive`."""
        if self.format.name != "raw":
            return self._events()
        return self._receive()  # type: ignore[return-value] # a list of some messages is one of any

    async def _events(self) -> list[Message]:
        while True:
            if self._unread:
                await trio.lowlevel.checkpoint()
            else:
                self._unread = deque(await self._receive())
                if not self._unread:
                    return []
            found = self._found = self._found or []
            await understand(self, self._unread, found)
            if found:
                self._found = None
                return found

    async def send(self, message: Message) -> None:
        await self._send(self.format.message(message))

    async def say(self, kind: str, data: Mapping[str, object]) -> None:
        if (text := self.format.say(kind, data, None)) is not None:
            await self._send(text)

    # --- as the `Outlet` of the position ---

    @property
    def owed(self) -> object:
        return self.wire.owed

    def owe(self, rest: Sendable, /) -> None:
        self.wire.owe(rest)
        self._catching_up.start()

    def wake(self) -> None:
        self._catching_up.wake()

    def put_off(self) -> None:
        self._catching_up.start()

    # --- as one of the hub's connections ---

    def check(self, now: float) -> None:
        """Tell the client how far the log is, and end the connection if the client seems gone."""
        self._tell_position(now)
        verdict = self.keepalive.check(self.wire, self.incoming, self._told_at, now)
        if verdict is Ping.NOW:
            self.ping()
        elif isinstance(verdict, Drop):
            self.abort(verdict.reason)
        elif verdict is not None:
            self.close(verdict.code, verdict.reason)

    def _tell_position(self, now: float) -> None:
        """Tell a client that got nothing for a while at which cursor it can resume."""
        position = self.position
        if position.told != self._told:
            self._told, self._told_at = position.told, now
        elif (
            now - self._told_at >= self.hub.settings.position_interval
            and position.live
            and self.hub.broadcast.fix(position) > self._told
        ):
            position.told = self._told = position.cursor
            self._told_at = now
            self.answer(self.format.say("position", {}, self.here()))
