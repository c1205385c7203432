"""Transports: a byte stream as the Wire needs it.

A `SocketTransport` is written synchronously, straight into the kernel, and so is TLS (`tls`). A
`StreamTransport` wraps any Trio stream of an application, which only a waiting task can write.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

import trio

from trionotify.delivery.position import Sendable

__all__ = ["SocketTransport", "StreamTransport", "Transport", "Woken", "linger"]

#: The most bytes of one read.
_READ_SIZE: Final = 1 << 16
#: Zero seconds of lingering make close() send a reset and free the kernel's buffers.
_NO_LINGERING: Final = struct.pack("ii", 1, 0)
#: The longest time, in milliseconds, that the kernel waits for an acknowledgement: 24 days.
_LONGEST_WAIT: Final = (1 << 31) - 1
#: The most bytes to write to a stream in one go.
_PIECE: Final = 1 << 14


if sys.platform == "linux":
    import fcntl
    import termios

    #: The ioctl for the number of bytes in a socket's send queue (SIOCOUTQ).
    _OUTQ: int | None = termios.TIOCOUTQ
else:  # pragma: no cover - there is no portable way to know
    _OUTQ = None


class Woken(Exception):
    """`wake_reader` was called. Nothing was read, and nothing is lost."""


class Transport(Protocol):
    """A byte stream as the Wire needs it. A broken connection raises `trio.BrokenResourceError`."""

    #: Whether `send` can take anything. If not, only `send_some` can.
    synchronous: bool
    #: Whether `send_eof` tells the peer that we have closed.
    half_closes: bool
    #: Whether the bytes go over TLS.
    encrypted: bool

    def send(self, data: Sendable, /) -> int:
        """Pass on what can go out at once. Raises BlockingIOError if nothing can."""

    async def wait_writable(self) -> None:
        """Wait until `send` may take something. Only for a synchronous transport."""

    async def send_some(self, data: Sendable) -> int:
        """Wait until something goes out; return how many of these bytes were passed on."""

    @property
    def unacknowledged(self) -> int | None:
        """Return the number of bytes that the peer hasn't acknowledged; None if that is unknown."""

    def expect_acknowledgements(self, seconds: float) -> None:
        """Break the connection if the peer acknowledges nothing for `seconds`, if supported."""

    def receive_nowait(self) -> bytes:
        """Return bytes that have arrived. Raises BlockingIOError if there are none."""

    async def receive_some(self) -> bytes:
        """Wait for bytes; return `b""` at the end of file. Raises `Woken` after `wake_reader`."""

    def wake_reader(self) -> None:
        """Make the task that is in `receive_some` stop waiting. Doesn't block.

        A cancel scope around each read would do the same, but takes as long as the read itself.
        """

    async def send_eof(self) -> None:
        """Half-close, if the transport can. A checkpoint."""

    def reset(self) -> None:
        """Drop the connection at once, if that is possible without waiting. Doesn't block."""

    async def aclose(self) -> None:
        """Close in good order and release the resource. Cancelled, it only releases it."""


class SocketTransport:
    """A connected non-blocking stream socket of the standard library. Closed with the Wire."""

    __slots__ = ("_sock", "_waiting", "_woken", "send")

    synchronous = True
    half_closes = True
    encrypted = False
    send: Callable[[Sendable], int]

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._woken = False
        #: The number of tasks that wait for the socket.
        self._waiting = 0
        self.send = sock.send

    async def wait_writable(self) -> None:
        self._check_open()
        self._waiting += 1
        try:
            await trio.lowlevel.wait_writable(self._sock)
        except trio.ClosedResourceError:
            self._check_open()  # if still open, this was a wake-up for the reader
        finally:
            self._waiting -= 1

    async def send_some(self, data: Sendable) -> int:
        while True:
            await self.wait_writable()
            try:
                return self.send(data)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

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
            wait = int(min(seconds * 1000, _LONGEST_WAIT))
            with suppress(OSError):  # the socket was reset meanwhile
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, wait)

    def receive_nowait(self) -> bytes:
        try:
            return self._sock.recv(_READ_SIZE)
        except BlockingIOError:
            raise
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def receive_some(self) -> bytes:
        # Almost all connections wait here almost all the time. So what this frame and its callers
        # hold is the memory of a connection.
        while True:
            self._check_open()
            if self._woken:
                self._woken = False
                raise Woken
            self._waiting += 1
            try:
                await trio.lowlevel.wait_readable(self._sock)
            except trio.ClosedResourceError:
                continue
            finally:
                self._waiting -= 1
            try:
                return self._sock.recv(_READ_SIZE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

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
            raise trio.BrokenResourceError(str(error)) from error
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        if self._sock.fileno() >= 0:
            with suppress(OSError):  # macOS: EINVAL if the peer has reset the connection
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
            self._close()

    async def aclose(self) -> None:
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        if self._sock.fileno() >= 0:
            if self._waiting:  # else it would only take time
                trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class StreamTransport:
    """Any Trio stream. Closed with the Wire."""

    synchronous = False
    unacknowledged = None

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.half_closes: bool = isinstance(stream, trio.abc.HalfCloseableStream)
        self.encrypted: bool = isinstance(stream, trio.SSLStream)
        self._reset = False
        #: The scopes of tasks that wait for the stream. A reset cancels them.
        self._waiting: set[trio.CancelScope] = set()
        self._reading = trio.CancelScope()

    def send(self, _: Sendable, /) -> int:
        raise BlockingIOError(errno.EAGAIN, "a stream is written by a task that waits")

    async def wait_writable(self) -> None:
        raise AssertionError("a stream is written by `send_some`")

    async def send_some(self, data: Sendable) -> int:
        # A send that was cancelled may have sent half a frame. The Wire takes care of that. One piece
        # at a time, so that the Wire can see whether a slow peer takes any.
        piece = data[:_PIECE]
        with self._until_reset():
            await self._stream.send_all(piece)
        return len(piece)

    def expect_acknowledgements(self, seconds: float) -> None:
        """Do nothing, because the transport below the stream is unknown."""

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
        """Wake the waiting tasks. The connection's task closes the stream, which may have to wait."""
        self._reset = True
        for scope in self._waiting:
            scope.cancel()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def linger(transport: Transport, patience: float) -> None:
    """Half-close, and read until the peer has closed, too, so that it gets our last bytes.

    If the server closed with bytes unread, the kernel would reset the connection and lose them. After
    `patience` seconds, the server gives up a peer that hasn't acknowledged anything in that time. A
    slow peer that makes progress gets everything. A peer that can't see our half-close isn't waited
    for. Always a checkpoint if the transport can half-close.
    """
    before: int | None = None
    told = False
    while transport.half_closes:
        with trio.move_on_after(patience) as scope:
            if not told:  # over TLS this may have to wait, too
                await transport.send_eof()
                told = True
            while await transport.receive_some():
                pass
        last, before = before, transport.unacknowledged
        if not (scope.cancelled_caught and before and (last is None or before < last)):
            return
