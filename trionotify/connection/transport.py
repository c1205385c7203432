"""Transports: a byte stream as the Wire needs it.

A `SocketTransport` is written synchronously, straight into the kernel, and so is TLS (`tls`).
A `StreamTransport` is any Trio stream of an application's, which only a task that waits can write.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NoReturn, Protocol

import trio

from trionotify.delivery.position import Sendable

__all__ = ["SocketTransport", "StreamTransport", "Transport", "Woken", "linger"]

#: The most that one read takes, in bytes.
_READ_SIZE: Final = 1 << 16
#: The most that is written to a stream in one go.
_PIECE: Final = 1 << 14


if sys.platform == "linux":
    import fcntl
    import termios

    #: Asks a socket for the bytes in its send queue (SIOCOUTQ).
    _OUTQ: int | None = termios.TIOCOUTQ
else:  # pragma: no cover - no portable way to know
    _OUTQ = None


class Woken(Exception):
    """`wake_reader` was called. Nothing was read, and nothing is lost."""


class Transport(Protocol):
    """A byte stream as the Wire needs it. Errors of the connection are `trio.BrokenResourceError`."""

    #: Whether `send` ever takes anything: else only `send_some` does.
    synchronous: bool
    #: Whether `send_eof` tells the peer that we have closed.
    half_closes: bool

    def send(self, data: Sendable, /) -> int:
        """Hand over what can be had at once; raises BlockingIOError when nothing goes out."""

    async def wait_writable(self) -> None:
        """Wait until `send` may take something. Only of one that is synchronous."""

    async def send_some(self, data: Sendable) -> int:
        """Wait until something goes out; return how many of these bytes were handed over."""

    @property
    def unacknowledged(self) -> int | None:
        """Bytes that the peer has not acknowledged yet; None where that can't be known."""

    def expect_acknowledgements(self, seconds: float) -> None:
        """Where that can be, break a connection whose peer hasn't acknowledged bytes for so long."""

    def receive_nowait(self) -> bytes:
        """Bytes that are there already; raises BlockingIOError when there are none."""

    async def receive_some(self) -> bytes:
        """Wait for bytes; none at the peer's end of file. Raises `Woken` after `wake_reader`."""

    def wake_reader(self) -> None:
        """Let the task that is in `receive_some` stop waiting. Doesn't block.

        A cancel scope around each read would do so, too, but it takes as long as the read itself.
        """

    async def send_eof(self) -> None:
        """Half-close, where the transport can."""

    def reset(self) -> None:
        """Drop the connection at once, where that can be done without waiting."""

    async def aclose(self) -> None:
        """Close in good order, and give the resource back; cancelled, it just gives it back."""


class SocketTransport:
    """A connected non-blocking stream socket of the standard library."""

    __slots__ = ("_sock", "_woken", "send")

    synchronous = True
    half_closes = True
    send: Callable[[Sendable], int]

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._woken = False
        self.send = sock.send

    async def wait_writable(self) -> None:
        self._check_open()
        try:
            await trio.lowlevel.wait_writable(self._sock)
        except trio.ClosedResourceError:
            self._check_open()  # else it was the reader that was to be woken

    async def send_some(self, data: Sendable) -> int:
        while True:
            await self.wait_writable()
            try:
                return self.send(data)
            except BlockingIOError:
                continue
            except OSError as error:
                _broken(error)

    @property
    def unacknowledged(self) -> int | None:
        if _OUTQ is None or self._sock.fileno() < 0:
            return None
        room = bytearray(struct.calcsize("i"))
        try:
            fcntl.ioctl(self._sock.fileno(), _OUTQ, room)
        except OSError:
            return None
        return int(struct.unpack("i", room)[0])

    def expect_acknowledgements(self, seconds: float) -> None:
        if hasattr(socket, "TCP_USER_TIMEOUT") and self._sock.family != socket.AF_UNIX:
            with suppress(OSError):  # it was reset meanwhile
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))

    def receive_nowait(self) -> bytes:
        try:
            return self._sock.recv(_READ_SIZE)
        except BlockingIOError:
            raise
        except OSError as error:
            _broken(error)

    async def receive_some(self) -> bytes:
        # Nearly all connections are in here nearly all the time: what this frame and those above
        # it hold is what a connection costs.
        while True:
            self._check_open()
            if self._woken:
                self._woken = False
                raise Woken
            try:
                await trio.lowlevel.wait_readable(self._sock)
            except trio.ClosedResourceError:
                continue
            try:
                return self._sock.recv(_READ_SIZE)
            except BlockingIOError:
                continue
            except OSError as error:
                _broken(error)

    def wake_reader(self) -> None:
        if self._sock.fileno() >= 0:
            self._woken = True
            trio.lowlevel.notify_closing(self._sock)

    def _check_open(self) -> None:
        if self._sock.fileno() < 0:
            raise trio.BrokenResourceError("this connection was reset")

    async def send_eof(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            _broken(error)
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        if self._sock.fileno() >= 0:
            # Zero seconds of lingering make close() send a reset, and free what the kernel holds.
            with suppress(OSError):  # macOS: EINVAL, once the peer has reset it
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._close()

    async def aclose(self) -> None:
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class StreamTransport:
    """Any Trio stream. It is closed with the Wire."""

    synchronous = False
    unacknowledged = None

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.half_closes: bool = isinstance(stream, trio.abc.HalfCloseableStream)
        self._reset = False
        #: Of those who wait for the stream: a reset wakes them.
        self._waiting: set[trio.CancelScope] = set()
        self._reading = trio.CancelScope()

    def send(self, _: Sendable, /) -> int:
        raise BlockingIOError(errno.EAGAIN, "a stream is written by a task that waits")

    async def wait_writable(self) -> None:
        raise AssertionError("a stream is written by `send_some`")

    async def send_some(self, data: Sendable) -> int:
        # A stream that was cancelled in here may have sent half a frame. The Wire knows.
        # A piece at a time, so that it shows whether a slow peer takes any.
        piece = data[:_PIECE]
        with self._until_reset():
            await self._stream.send_all(piece)
        return len(piece)

    def expect_acknowledgements(self, seconds: float) -> None:
        """What is below is not known."""

    def receive_nowait(self) -> bytes:
        raise BlockingIOError(errno.EAGAIN, "a stream is read by a task that waits")

    async def receive_some(self) -> bytes:
        with self._until_reset() as self._reading:
            return bytes(await self._stream.receive_some(_READ_SIZE))
        raise Woken

    def wake_reader(self) -> None:
        self._reading.cancel()

    @contextmanager
    def _until_reset(self) -> Iterator[trio.CancelScope]:
        with trio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                if not self._reset:
                    yield scope
            finally:
                self._waiting.discard(scope)
        if self._reset:
            raise trio.BrokenResourceError("this connection was reset")

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        else:
            await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        """Wake whoever waits; the connection's task closes the stream, which can take waiting."""
        self._reset = True
        for scope in self._waiting:
            scope.cancel()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _broken(error: OSError) -> NoReturn:
    raise trio.BrokenResourceError(str(error)) from error


async def linger(transport: Transport, patience: float) -> None:
    """Half-close, and read until the peer has closed too, so that it gets our last bytes.

    Closing with bytes unread would make the kernel reset the connection, and lose them. A peer that
    isn't done within `patience` seconds is given up, unless it has acknowledged something in that time:
    a slow one that makes progress gets everything. One that couldn't see that we have closed isn't
    waited for.
    """
    before: int | None = None
    told = False
    while transport.half_closes:
        with trio.move_on_after(patience) as scope:
            if not told:  # over TLS that may have to wait, too
                await transport.send_eof()
                told = True
            while await transport.receive_some():
                pass
        last, before = before, transport.unacknowledged
        if not (scope.cancelled_caught and before and (last is None or before < last)):
            return
