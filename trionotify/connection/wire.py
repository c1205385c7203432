"""The Wire: one client's end of a connection. Frames in, bytes out.

**Out.** `write` never blocks. What the kernel refuses is *owed*: at most the rest of one frame of the
log, plus replies whose senders wait for them. `on_owing` is called when something becomes owed (the
broadcast then starts the task that catches up), and `drained` waits until it is out. Whoever waits
first does the writing; when that task is cancelled, the next one takes over where the kernel stopped,
because `owed` is brought up to date after each send, before anything can be cancelled. So there is no
lock and no torn frame. After a Close frame nothing is written.

**In.** `receive` belongs to the connection's task. It answers Pings, and gives messages in batches: all
that one read held, or where that was many, all of one turn. A Close or a fault is acted upon at the call
after, when the messages before it were dealt with.

**The end.** `end` queues the Close frame behind what is owed and wakes the reader. `flush` waits for all
that to go out, as long as the peer takes some of it. `aclose` then half-closes, lingers until the peer
has closed too, and closes. Whoever calls it puts a deadline around it; at the deadline the connection is
reset.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, Protocol

import attrs
import trio

from trionotify.connection.frames import (
    WEBSOCKET,
    Close,
    Event,
    Fault,
    Framing,
    Nothing,
    Parser,
    Ping,
    pong_frame,
)
from trionotify.connection.transport import Transport, Woken
from trionotify.delivery.position import Sendable
from trionotify.errors import CloseCode, Disconnected

__all__ = ["NO_OWNER", "Owner", "Wire"]

#: The number of frames of one read that are looked at in one turn.
_FRAMES: Final = 256
#: What of the events is a message. (A union, `str | bytes`, takes three times as long to ask about.)
_MESSAGE: Final = (str, bytes)
#: Bytes of what is owed that are joined for one send.
_JOINED: Final = 1 << 14


class Owner(Protocol):
    """Whom the Wire tells. None of the calls but `pass_on` may block."""

    def on_owing(self) -> None:
        """Bytes became owed: somebody must wait in `drained`."""

    def on_end(self) -> None:
        """Nothing may be written any more."""

    def on_holding(self, change: int, /) -> None:
        """The Wire keeps `change` bytes more, or fewer, of a message that is still arriving."""

    async def pass_on(self) -> None:
        """Let the others go on, because the peer has sent much. A checkpoint."""


class _NoOwner:
    """The owner of a Wire whose connection has left."""

    def on_owing(self) -> None: ...
    def on_end(self) -> None: ...
    def on_holding(self, change: int, /) -> None: ...
    async def pass_on(self) -> None:
        await trio.lowlevel.checkpoint()


NO_OWNER: Final = _NoOwner()


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
    #: A Close or a fault that was read, to act upon when the messages before it are dealt with.
    _last_event: Close | Fault | None = attrs.field(default=None, init=False)
    #: Answers could not go out at once: they go before the next read.
    _reply_owed: bool = attrs.field(default=False, init=False)
    #: Bytes of a message in progress, as the owner was told.
    _held: int = attrs.field(default=0, init=False)
    #: How many items of `owed` the transport is writing now.
    _begun: int = attrs.field(default=0, init=False)
    #: The line of tasks that send. Made by the first one.
    _senders: trio.StrictFIFOLock | None = attrs.field(default=None, init=False)

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
            if taken:
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

    async def flush(self, patience: float) -> None:
        """Wait until what is owed is out. A peer that takes none for `patience` seconds is dropped."""
        left = 0
        while self.owed and left != (left := sum(map(len, self.owed))):
            with trio.move_on_after(patience), suppress(Disconnected):
                await self.drained()
        if self.owed:
            self.abort()

    async def _drain(self) -> None:
        transport, owed = self.transport, self.owed
        while owed:
            try:
                if transport.synchronous:
                    await transport.wait_writable()
                    data, _ = self._next_owed()
                    taken = transport.send(data) if data else 0
                else:
                    data, self._begun = self._next_owed()
                    taken = await transport.send_some(data)
            except BlockingIOError:
                continue
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                self.abort()
                return
            except BaseException:
                if not transport.synchronous:
                    self.abort()  # cut somewhere in a frame, and nobody knows where
                raise
            finally:
                self._begun = 0
            self.moved = True
            self._pay(taken)
        self._drains += 1

    def _next_owed(self) -> tuple[Sendable, int]:
        """The bytes to send next, and how many items of `owed` they are made of."""
        owed = self.owed
        if len(owed) < 2:
            return (owed[0], 1) if owed else (b"", 0)  # none, if it was taken back meanwhile
        # Many small replies (pongs, answers) go out as one.
        size = number = 0
        for each in owed:
            if number and size + len(each) > _JOINED:
                break
            size += len(each)
            number += 1
        return (owed[0] if number == 1 else b"".join(owed[:number])), number

    def _pay(self, taken: int) -> None:
        """The kernel took `taken` bytes of what is owed. (What was added meanwhile is behind them.)"""
        owed = self.owed
        while owed and taken >= len(owed[0]):
            taken -= len(owed.pop(0))
        if taken and owed:  # nothing is left where the connection was dropped meanwhile
            owed[0] = memoryview(owed[0])[taken:]

    async def send(self, message: str | bytes) -> None:
        """Write one message as a frame, and wait until the kernel has it. Always a checkpoint.

        One sender at a time has its frame among what is owed; the others wait in line, so however many
        there are, the Wire holds one. Cancelled before the first byte went out, the frame is taken back.
        """
        if self._senders is None:
            self._senders = trio.StrictFIFOLock()
        try:
            self._senders.acquire_nowait()
        except trio.WouldBlock:
            await self._senders.acquire()
        frame = self.framing.message(message)
        try:
            self.write(frame)
            await self.drained()
        except trio.Cancelled:
            self._take_back(frame)
            raise
        finally:
            self._senders.release()

    def _take_back(self, frame: bytes) -> None:
        for at in range(self._begun, len(self.owed)):
            if self.owed[at] is frame:  # what has begun to go out is a view of the rest
                del self.owed[at]
                return

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

    async def receive(self) -> list[str | bytes]:
        """The messages of one read, or of a part of it, at least one; none when there will be no more.

        Always a checkpoint. Cancelled, it loses nothing.
        """
        while not (self.ended or self.broken):
            data = b""
            try:
                if self._reply_owed:
                    # Whoever asks and doesn't read the answers is not read either.
                    await self.drained()
                    self._reply_owed = False
                    continue  # the end may have come meanwhile
                if self._parser.behind:
                    await self.owner.pass_on()  # `_FRAMES` frames are a turn
                elif last := self._last_event:
                    self.end(last.code, "" if isinstance(last, Close) else last.reason)
                    break
                elif self._early:
                    await trio.lowlevel.checkpoint()
                    data, self._early = self._early, b""
                else:
                    self.reading = True
                    data = await self.transport.receive_some()
                    self.heard = True
                    if not data:
                        self._lose()
            except Woken:
                pass  # it ends
            except (trio.BrokenResourceError, trio.ClosedResourceError, Disconnected):
                self.abort()
            finally:
                self.reading = False
            if messages := self._take(self._parser.feed(data, _FRAMES)):
                return messages
        await trio.lowlevel.checkpoint()
        return []

    def _take(self, events: list[Event]) -> list[str | bytes]:
        """Answer Pings, remember a Close or a fault; return the messages."""
        messages = [event for event in events if isinstance(event, _MESSAGE)]
        if len(messages) < len(events):
            self._take_control(events)
        self.received += len(messages)
        self._note_held()
        return messages

    def _take_control(self, events: list[Event]) -> None:
        pongs = [pong_frame(event.payload) for event in events if isinstance(event, Ping)]
        if isinstance(last := events[-1], Close | Fault):
            self._last_event = last
        if pongs:
            self.reply(b"".join(pongs))

    def _note_held(self) -> None:
        if (held := self._parser.held) != self._held:
            change, self._held = held - self._held, held
            self.owner.on_holding(change)

    @property
    def held(self) -> int:
        """Bytes of a message that is still arriving."""
        return self._held

    # --- the end ---

    def end(self, code: int | None, reason: str = "") -> None:
        """Queue a Close frame, and let nothing be written behind it. Wakes the reader.

        Only the first call has an effect; it doesn't block.
        """
        if self.ended or self.broken:
            return
        frame = self.framing.close(code, reason)  # of no bytes, where it is the connection that ends
        self.ended = Close(code, reason)
        # From now on only the peer's Close frame is of interest.
        self._parser.discard()
        self._note_held()
        self.owner.on_end()
        if self.reading:
            self.transport.wake_reader()
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
            self._let_go()
            self.owner.on_end()
            if self._draining is not None:
                self._draining.set()

    def _let_go(self) -> None:
        """Keep no bytes, because the record of a connection that is over may live on."""
        self.owed.clear()
        self._parser, self._early = Nothing(), b""
        self._note_held()

    def forget_owner(self) -> None:
        """Let go of the owner, so that Wire and owner don't keep each other in memory."""
        self.owner = NO_OWNER

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
                await self._read_on()
                return
        if not (self.transport.half_closes or self.framing.close(None, "")):
            return  # the peer sees neither a last word nor an end of file, before we close
        while not isinstance(self._last_event, Close):
            data = b""
            if self._parser.behind:
                await self.owner.pass_on()
            elif not (data := await self._read_on()):
                return
            for event in self._parser.feed(data, _FRAMES):
                if isinstance(event, Close):
                    self._last_event = event
            self._note_held()

    async def _read_on(self) -> bytes:
        while True:
            with suppress(Woken):  # that was for a reader that was cancelled before it heard of it
                return await self.transport.receive_some()

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
            self._let_go()
        except (Disconnected, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            if not self.broken:
                self.abort()
