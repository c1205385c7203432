"""The Wire: one client's end of a connection. Frames in, bytes out.

**Out.** `write` never blocks. What the kernel refuses is *owed*: at most the rest of one frame of the
log, plus replies whose senders wait for them. `on_owing` is called when something becomes owed (the
broadcast then starts the task that catches up), and `drained` waits until it is out. Whoever waits
first does the writing; when that task is cancelled, the next one takes over where the kernel stopped,
for `owed` is brought up to date after each send, before anything can be cancelled. So there is no
lock and no torn frame. After a Close frame nothing is written.

**In.** `receive` belongs to the connection's task. It answers Pings, and gives messages in batches: all
that one read held. A Close or a fault is acted upon at the call after, when the messages before it were
dealt with.

**The end.** `end` queues the Close frame behind what is owed and wakes the reader. `aclose` then waits
for it to go out, half-closes, lingers until the peer has closed too, and closes. Whoever calls it puts
a deadline around it; at the deadline the connection is reset.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from trionotify.errors import CloseCode, Disconnected
from trionotify.frames import (
    WEBSOCKET,
    Close,
    Event,
    Fault,
    Framing,
    Parser,
    Ping,
    Pong,
    pong_frame,
)
from trionotify.transport import Sendable, Transport

if TYPE_CHECKING:
    from trionotify.formats import Message

__all__ = ["Owner", "Wire"]


class Owner(Protocol):
    """Whom the Wire tells. Neither call may block."""

    def on_owing(self) -> None:
        """Bytes became owed: somebody must wait in `drained`."""

    def on_end(self) -> None:
        """Nothing may be written any more."""

    def understand(self, messages: list[str | bytes], /) -> list[Message]:
        """What of these messages is for the session; the rest is answered."""


@attrs.define(eq=False)
class Wire:
    """Made by the connection's task when a request is accepted; dies with that task."""

    transport: Transport
    _parser: Parser
    owner: Owner
    #: What the peer sent right behind its request.
    _early: bytes = b""
    framing: Framing = WEBSOCKET

    #: Messages that came.
    received: int = attrs.field(default=0, init=False)
    #: What the kernel refused so far, in order. Written by whoever is in `drained`.
    owed: list[Sendable] = attrs.field(factory=list, init=False)
    #: Our Close frame, once it is queued.
    ended: Close | None = attrs.field(default=None, init=False)
    #: The connection is dead: nothing can be read or written.
    broken: bool = attrs.field(default=False, init=False)
    #: It was closed in good order.
    closed: bool = attrs.field(default=False, init=False)
    #: The connection's task waits for bytes: only then does silence count against the client.
    reading: bool = attrs.field(default=False, init=False)
    #: Bytes came in / the kernel took owed bytes, since the last look of the sweep.
    heard: bool = attrs.field(default=True, init=False)
    moved: bool = attrs.field(default=False, init=False)

    _drains: int = attrs.field(default=0, init=False)
    _draining: trio.Event | None = attrs.field(default=None, init=False)
    _receive_scope: trio.CancelScope | None = attrs.field(default=None, init=False)
    #: A Close or a fault that was read, to act upon when the messages before it are dealt with.
    _last_event: Close | Fault | None = attrs.field(default=None, init=False)
    #: Answers could not go out at once: they go before the next read.
    _reply_owed: bool = attrs.field(default=False, init=False)

    # --- out ---

    def write(self, data: Sendable) -> bool:
        """Write whole frames; True when the kernel has all of them, False when some is owed.

        Raises `Disconnected` behind a Close frame, or when the connection is dead.
        """
        if self.ended or self.broken:
            raise Disconnected("the connection is closed")
        return self._write(data)

    def _write(self, data: Sendable) -> bool:
        if not self.owed:
            try:
                taken = self.transport.send(data)
            except BlockingIOError:
                taken = 0
            except OSError:
                self.abort()
                raise Disconnected("the connection is lost") from None
            if taken == len(data):
                return True
            data = memoryview(data)[taken:]
        self.owe(data)
        return False

    def owe(self, rest: Sendable) -> None:
        """Take charge of bytes that must go out next."""
        self.owed.append(rest)
        self.owner.on_owing()

    async def drained(self) -> None:
        """Wait until what is owed now is out. Always a checkpoint.

        Cancelled, it leaves the rest to others, except on a stream, which may be cut in the middle
        of a frame then: it is dead. Raises `Disconnected` when the connection is lost.
        """
        drains = self._drains
        if not self.owed:
            await trio.lowlevel.checkpoint()
        while self.owed and self._drains == drains and not self.broken:
            if self._draining is not None:
                await self._draining.wait()
                continue
            self._draining = trio.Event()
            try:
                await self._drain()
            finally:
                self._draining.set()
                self._draining = None
        if self.broken:
            raise Disconnected("the connection is lost")

    async def _drain(self) -> None:
        owed = self.owed
        while owed:
            # Many small replies (pongs, answers) go out as one.
            if len(owed) > 1:
                owed[:] = [b"".join(owed)]
            data = owed[0]
            try:
                taken = await self.transport.send_some(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.abort()
                return
            except BaseException:
                if not self.transport.synchronous:
                    self.abort()  # cut somewhere in a frame, and nobody knows where
                raise
            self.moved = True
            # `owed` may have grown behind `data` meanwhile, never in front of it.
            owed[:1] = [memoryview(data)[taken:]] if taken < len(data) else []
        self._drains += 1

    async def send(self, message: str | bytes) -> None:
        """Write one message as a frame, and wait until the kernel has it. Always a checkpoint."""
        self.write(self.framing.message(message))
        await self.drained()

    def reply(self, frames: bytes) -> None:
        """Write an answer that nobody waits for. As long as it is owed, the peer isn't read.

        To a peer that is gone it is not written, and that is no error: it has said what it said.
        """
        with suppress(Disconnected):
            if not self.write(frames):
                self._reply_owed = True

    def ping(self) -> None:
        """Write a Ping; nothing when bytes are owed, or when the connection ends already."""
        if not (self.owed or self.ended or self.broken):
            with suppress(Disconnected):
                self._write(self.framing.ping)

    # --- in ---

    async def receive(self) -> list[Message]:
        """The messages of one read, at least one; none when there will be no more.

        Always a checkpoint but at the end. Cancelled, it loses nothing.
        """
        while not (self.ended or self.broken):
            if last := self._last_event:
                self.end(last.code, "" if isinstance(last, Close) else last.reason)
                break
            data = b""
            try:
                if self._reply_owed:
                    # Whoever asks and doesn't read the answers is not read either.
                    await self.drained()
                    self._reply_owed = False
                    continue  # the end may have come meanwhile
                if self._early:
                    await trio.lowlevel.checkpoint()
                    data, self._early = self._early, b""
                else:
                    self.reading = True
                    with trio.CancelScope() as self._receive_scope:
                        data = await self.transport.receive_some()
                        self.heard = True
                        if not data:
                            self._lose()
            except (trio.BrokenResourceError, trio.ClosedResourceError, Disconnected):
                self.abort()
            finally:
                self.reading = False
                self._receive_scope = None
            if data and (messages := self._take(self._parser.feed(data))):
                return messages
        return []

    def _take(self, events: list[Event]) -> list[Message]:
        """Answer Pings, remember a Close or a fault; return what is for the session."""
        messages: list[str | bytes] = []
        pongs: list[bytes] = []
        for event in events:
            if isinstance(event, str | bytes):
                messages.append(event)
            elif isinstance(event, Ping):
                pongs.append(pong_frame(event.payload))
            elif not isinstance(event, Pong):
                self._last_event = event
        if pongs:
            self.reply(b"".join(pongs))
        self.received += len(messages)
        return self.owner.understand(messages) if messages else []

    # --- the end ---

    def end(self, code: int | None, reason: str = "") -> None:
        """Queue a Close frame, and let nothing be written behind it. Wakes the reader.

        Only the first call has an effect; it doesn't block.
        """
        if self.ended or self.broken:
            return
        frame = self.framing.close(code, reason)  # of no bytes, where it is the connection that ends
        self.ended = Close(code, reason)
        self.owner.on_end()
        if self._receive_scope:
            self._receive_scope.cancel()
        if frame:
            with suppress(Disconnected):
                self._write(frame)

    def abort(self) -> None:
        """Drop the connection: nothing is read or written any more. Doesn't block."""
        self._lose()
        self.transport.reset()

    def _lose(self) -> None:
        if not self.broken:
            self.broken = True
            self.owed.clear()
            self.owner.on_end()
            if self._receive_scope:
                self._receive_scope.cancel()
            if self._draining is not None:
                self._draining.set()

    async def _hear_out(self) -> None:
        """Read on, discarding, until the peer's Close frame, or until it is gone.

        The server closes first (RFC 6455, section 7.1.1), but not before the peer has said all: closing
        with bytes unread would make the kernel reset the connection, and our Close frame would be lost.
        """
        if isinstance(fault := self._last_event, Fault):
            # Nothing behind a fault can be understood: what can be awaited is the peer's end of file.
            # One that can't see ours waits for us; then whatever it says next is its answer.
            if fault.in_close:
                return
            if not self.transport.half_closes:
                await self.transport.receive_some()
                return
        if not (self.transport.half_closes or self.framing.close(None, "")):
            return  # the peer sees neither a last word nor an end of file, before we close
        while not isinstance(self._last_event, Close):
            data = await self.transport.receive_some()
            if not data:
                return
            for event in self._parser.feed(data):
                if isinstance(event, Close):
                    self._last_event = event

    async def aclose(self) -> None:
        """Close in good order: Close frame out, half-close, linger until the peer closes too, close.

        For the connection's task, once, inside a shield with a deadline: cancelled, it resets the
        connection. Always a checkpoint.
        """
        self.end(CloseCode.NORMAL)
        try:
            await self.drained()
            await self.transport.send_eof()
            await self._hear_out()
            await self.transport.aclose()
            self.closed = self.broken = True
        except (Disconnected, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            if not self.broken:
                self.abort()
