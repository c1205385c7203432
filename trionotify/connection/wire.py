"""The Wire: one client's outgoing bytes, and the state of its connection.

**Outgoing bytes.** `write` never blocks. What the kernel refuses is *owed*: at most the rest of one
frame of the log, plus replies whose senders wait for them. `write` returns False then, and its caller
makes sure that a task waits in `drained` until all is out. The first task that waits does the writing.
If that task is cancelled, the next one continues where the kernel stopped, because `owed` is updated
after each send, before anything can be cancelled. So there is no lock and no torn frame.

**The state.** Only the `TRANSITIONS` change it:

    OPEN      frames go both ways
    CLOSING   our Close frame is queued behind what is owed; nothing is written behind it
    CLOSED    both sides have closed
    LOST      the connection is dead: nothing can be read or written

`close` queues the Close frame and wakes the reader. `flush` waits until all that is owed is out, as
long as the peer takes some of it. `closing.close_in_order` does the rest. `abort` drops the connection.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import attrs
import trio

from trionotify.connection.frames import WEBSOCKET, Close, Framing
from trionotify.connection.transport import Transport
from trionotify.delivery.position import Sendable
from trionotify.errors import Disconnected

__all__ = ["TRANSITIONS", "State", "Step", "Wire"]

#: The most owed bytes to join for one send.
_JOINED: Final = 1 << 14


class State(enum.Enum):
    """The states of a connection."""

    OPEN = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()
    LOST = enum.auto()


class Step(enum.Enum):
    """The events that change the state."""

    #: The server closes it, or answers the peer's Close frame.
    CLOSE = enum.auto()
    #: The peer has closed, too, and has received all that was owed.
    FINISH = enum.auto()
    #: The connection broke, the peer left without a Close frame, or the server dropped it.
    LOSE = enum.auto()


#: A step without an entry changes nothing.
TRANSITIONS: Final[Mapping[tuple[State, Step], State]] = {
    (State.OPEN, Step.CLOSE): State.CLOSING,
    (State.OPEN, Step.LOSE): State.LOST,
    (State.CLOSING, Step.FINISH): State.CLOSED,
    (State.CLOSING, Step.LOSE): State.LOST,
}


@attrs.define(eq=False)
class Wire:
    """Created by the connection's task when it accepts a request; dies with that task."""

    transport: Transport
    framing: Framing = WEBSOCKET

    state: State = attrs.field(default=State.OPEN, init=False)
    #: Our Close frame, once it is queued.
    last_word: Close | None = attrs.field(default=None, init=False)
    #: The bytes that the kernel has refused, in order. The task inside `drained` sends them.
    owed: list[Sendable] = attrs.field(factory=list, init=False)
    #: Whether the kernel took owed bytes since the keepalive last looked.
    moved: bool = attrs.field(default=False, init=False)

    _drains: int = attrs.field(default=0, init=False)
    _draining: trio.Event | None = attrs.field(default=None, init=False)
    #: The number of items of `owed` that the transport is writing now.
    _begun: int = attrs.field(default=0, init=False)

    def _go(self, step: Step) -> bool:
        """Change the state; return False if the step changes nothing."""
        state = TRANSITIONS.get((self.state, step))
        if state is None:
            return False
        self.state = state
        return True

    # --- out ---

    def write(self, data: Sendable) -> bool:
        """Write whole frames; return False if the kernel didn't take all, and the rest is owed.

        Raises `Disconnected` behind a Close frame, or if the connection is lost.
        """
        if self.state is not State.OPEN:
            raise Disconnected("the connection is closed")
        return self._write(data)

    def _write(self, data: Sendable) -> bool:
        taken = self._send(data)
        if taken == len(data):
            return True
        self.owed.append(memoryview(data)[taken:] if taken else data)
        return False

    def _send(self, data: Sendable) -> int:
        """Write to the kernel; return the number of bytes taken, 0 while earlier bytes are owed."""
        if self.owed:
            return 0
        try:
            return self.transport.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.abort()
            raise Disconnected("the connection is lost") from None

    def write_some(self, data: bytes) -> int | None:
        """Write as much of the log's frames as the kernel takes; return the number of bytes.

        The rest isn't owed yet: the caller decides how much of it must follow. Returns None for a
        stream, which takes nothing at once. Raises `Disconnected` if the connection is lost.
        """
        return self._send(data) if self.transport.synchronous else None

    def owe(self, rest: Sendable) -> None:
        """Send these bytes next, behind what is already owed."""
        self.owed.append(rest)

    async def drained(self) -> None:
        """Wait until the bytes owed now are sent. Always a checkpoint.

        Cancelled, it leaves the rest to other tasks. On a stream, the send may be cut in the middle of
        a frame, so the connection is lost then. Raises `Disconnected` if the connection is lost.
        """
        drains = self._drains
        if not self.owed:
            await trio.lowlevel.checkpoint()
        while self.owed and self._drains == drains and self.state is not State.LOST:
            if self._draining is not None:
                await self._draining.wait()
                continue
            self._draining = trio.Event()
            try:
                await self._drain()
            finally:
                self._draining.set()
                self._draining = None
        if self.state is State.LOST:
            raise Disconnected("the connection is lost")

    async def flush(self, patience: float) -> None:
        """Wait until all owed bytes are sent. Drops a peer that takes none for `patience` seconds."""
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
                    self.abort()  # cut in the middle of a frame, at an unknown place
                raise
            finally:
                self._begun = 0
            self.moved = True
            self._pay(taken)
        self._drains += 1

    def _next_owed(self) -> tuple[Sendable, int]:
        """Return the bytes to send next, and the number of items of `owed` in them."""
        owed = self.owed
        if len(owed) < 2:
            return (owed[0], 1) if owed else (b"", 0)  # empty if a frame was taken back meanwhile
        # Many small replies (pongs, answers) go out in one send.
        size = number = 0
        for each in owed:
            if number and size + len(each) > _JOINED:
                break
            size += len(each)
            number += 1
        return (owed[0] if number == 1 else b"".join(owed[:number])), number

    def _pay(self, taken: int) -> None:
        """Remove `taken` bytes from the front of `owed`. Later additions are behind them."""
        owed = self.owed
        while owed and taken >= len(owed[0]):
            taken -= len(owed.pop(0))
        if taken and owed:  # empty if the connection was dropped meanwhile
            owed[0] = memoryview(owed[0])[taken:]

    def take_back(self, frame: bytes) -> None:
        """Remove this frame from `owed`, unless some of it has gone out already."""
        for at in range(self._begun, len(self.owed)):
            if self.owed[at] is frame:  # a frame that has begun to go out is a view of its rest
                del self.owed[at]
                return

    # --- its life ---

    @property
    def over(self) -> bool:
        """Whether nothing can be read or written any more."""
        return self.state is State.CLOSED or self.state is State.LOST

    def close(self, code: int | None, reason: str = "") -> bool:
        """Queue a Close frame, behind which nothing is written; return whether it was open.

        Only the first call has an effect. Doesn't block. `drained` waits until the frame is out.
        """
        if not self._go(Step.CLOSE):
            return False
        self.last_word = Close(code, reason)
        if frame := self.framing.close(code, reason):  # empty if the end of the stream says it
            with suppress(Disconnected):
                self._write(frame)
        return True

    def abort(self) -> None:
        """Drop the connection. Nothing is read or written any more. Doesn't block."""
        self.lose()
        self.transport.reset()

    def lose(self) -> None:
        """Mark the connection as lost, so that its tasks stop waiting and no bytes are kept."""
        if self._go(Step.LOSE):
            self.owed.clear()
            if self._draining is not None:
                self._draining.set()

    def finish(self) -> None:
        """Mark the connection as closed by both sides."""
        if self._go(Step.FINISH):
            self.owed.clear()
