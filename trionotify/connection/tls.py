"""TLS on a socket, as a transport that is written synchronously.

The `ssl` module encrypts in memory (`SSLObject`), and this transport moves the bytes. So the broadcast
can write to a client over TLS as it writes to a plain socket: `send` encrypts, and passes on what the
kernel takes. A write that is cancelled tears nothing, because nothing is half encrypted.

The interface of a transport counts plain bytes. But encrypted bytes must go out, in order, before any
others. So if the kernel takes only a part of a record, the rest of the ciphertext stays here, and the
last of its plain bytes counts as not sent. The Wire then owes at least that byte and sends it again.
Once the ciphertext has gone out, this transport takes the byte without encrypting it again. It keeps at
most one record (16 KiB) like that.

`send_eof` sends `close_notify` right behind the last byte and then half-closes the socket. So a peer
that reads to the end sees it at once, whether it looks at TLS or at TCP.
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Final

import trio

from trionotify.connection.transport import SocketTransport
from trionotify.delivery.position import Sendable
from trionotify.delivery.turns import Turn

__all__ = ["TlsTransport", "prepare", "transport_of"]

#: The most plain bytes of a record (RFC 8446, section 5.1).
_RECORD: Final = 1 << 14
_NOTSENT_LOWAT: Final = 1 << 14
_UNIX: Final = getattr(socket, "AF_UNIX", None)
#: Whether an accepted socket has the options of the listening one. Setting them takes system calls.
_PASSED_ON: Final = sys.platform == "linux"
#: Bytes of ciphertext to decrypt in one go. A peer may fit 150 key updates into it, and each takes 30
#: microseconds. Besides, a MemoryBIO never shrinks.
_PIECE: Final = 1 << 12
#: Bytes of ciphertext that may wait for the kernel. Beyond that the server gives up a peer that keeps
#: asking for new keys without reading the answers.
_MOST_UNSENT: Final = 1 << 16
#: The errors for a peer that is gone, or has announced that it won't write any more.
_ENDS: Final = (ssl.SSLZeroReturnError, ssl.SSLEOFError)


def prepare(sock: socket.socket) -> None:
    """Set the options of a connection, or of a listening socket, from which connections have them."""
    if sock.family != _UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # As in Trio. Bytes that the network can't take yet stay in the log, not in the kernel.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOTSENT_LOWAT)


#: Entered around each step of a handshake.
Lane = Callable[[], AbstractAsyncContextManager[None]]


def transport_of(
    sock: socket.socket, context: ssl.SSLContext | None, lane: Lane = nullcontext
) -> SocketTransport:
    """Return a transport on an accepted socket, over TLS if there is a `context`. Raises OSError.

    The socket was accepted by one that is prepared: see `prepare`.
    """
    sock.setblocking(False)
    if not _PASSED_ON:
        prepare(sock)
    return SocketTransport(sock) if context is None else TlsTransport(sock, context, lane)


class TlsTransport(SocketTransport):
    """The server's side of TLS on a connected non-blocking socket.

    The handshake is a part of the first read. Each of its steps, which take milliseconds with a long
    key, runs inside a `lane`.

    One task reads, and any task may write, because between two checkpoints each leaves the state whole.
    After the handshake, the reader never waits for the kernel to take something. Only one task at a
    time may, and that is the writer. So a peer that is slow to read is still read.
    """

    __slots__ = (
        *("_tls", "_lane", "_incoming", "_outgoing", "_ready", "_closing"),
        *("_received", "_unsent", "_repeated"),
    )

    encrypted = True

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, lane: Lane = nullcontext) -> None:
        super().__init__(sock)
        self._lane = lane
        # An instance attribute, because the base class puts the socket's own `send` here.
        self.send: Callable[[Sendable], int] = self._send
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        #: Whether the handshake is done.
        self._ready = False
        #: Whether `close_notify` was sent.
        self._closing = False
        #: Ciphertext that was read but not decrypted.
        self._received: Sendable = b""
        #: Ciphertext that the kernel hasn't taken yet.
        self._unsent = b""
        #: Whether the next byte to send was encrypted already, as the last one of `_unsent`.
        self._repeated = False

    # --- out ---

    def _send(self, data: Sendable, /) -> int:
        """See `Transport.send`. Raises OSError before the handshake, in which the client speaks first.

        Returns 0 if only earlier ciphertext has gone out, which counts as progress, too.
        """
        if not self._ready:
            raise BrokenPipeError("the TLS handshake is not done")
        before = len(self._unsent) + self._outgoing.pending
        if not self._flush():
            if len(self._unsent) == before:
                raise BlockingIOError
            return 0  # some earlier ciphertext has gone out
        taken = 0
        if self._repeated and data:
            self._repeated, taken = False, 1
        view = memoryview(data)
        while taken < len(view):
            # If an application's own context allows renegotiation, this fails in the middle of one.
            taken += self._tls.write(view[taken : taken + _RECORD])
            if not self._flush():
                self._repeated = True
                taken -= 1
                break
        if not taken and data:
            raise BlockingIOError
        return taken

    def _flush(self) -> bool:
        """Pass ciphertext to the kernel; return whether it took all of it. Raises OSError."""
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()
        if self._unsent:
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except BlockingIOError:
                return False
        return not self._unsent

    async def _flush_all(self) -> None:
        while True:
            try:
                if self._flush():
                    return
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            await super().wait_writable()

    # --- in ---

    def receive_nowait(self) -> bytes:
        raise BlockingIOError

    async def receive_some(self) -> bytes:
        self._woken = False  # a wake-up for an earlier read that returned bytes all the same
        if self._received or self._incoming.pending or self._tls.pending():
            await trio.lowlevel.checkpoint()  # one read may hold thousands of tiny records
        turn = Turn()
        while True:
            try:
                if not self._ready:
                    async with self._lane() if self._incoming.pending else nullcontext():
                        self._tls.do_handshake()
                    await self._flush_all()
                    self._ready = True
                return self._tls.read(_RECORD)
            except ssl.SSLWantReadError:
                await self._answer()
            except _ENDS:
                return b""
            except ssl.SSLError as error:
                if self._closing:
                    break
                self._give_up()
                raise trio.BrokenResourceError(str(error)) from error
            if not self._received:
                # No local variable, because it would keep the bytes while this frame waits.
                self._received = await super().receive_some()
            if self._received:
                self._incoming.write(self._received[:_PIECE])
                self._received = memoryview(self._received)[_PIECE:] or b""
            else:
                self._incoming.write_eof()
            if turn.over:
                await turn.pass_on()
        # What comes behind our `close_notify` can't always be read as TLS, but its end can be seen.
        while await super().receive_some():
            pass
        return b""

    async def _answer(self) -> None:
        """Send what TLS itself has to send. During the handshake, this may wait."""
        if not self._ready:
            await self._flush_all()
            return
        try:
            if not self._flush() and len(self._unsent) > _MOST_UNSENT:
                raise trio.BrokenResourceError("it doesn't read what it asks for")
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    # --- the end ---

    async def send_eof(self) -> None:
        self._say_goodbye()
        await self._flush_all()
        await super().send_eof()

    def _say_goodbye(self) -> None:
        if self._ready and not self._closing:
            self._closing = True
            with suppress(ssl.SSLError):  # it asks for the peer's, which `receive_some` reads
                self._tls.unwrap()

    async def aclose(self) -> None:
        self._give_up()
        await super().aclose()

    def _give_up(self) -> None:
        """Close the socket, after a last TLS record if possible: `close_notify` or an alert."""
        if self._sock.fileno() >= 0:
            self._say_goodbye()
            with suppress(OSError):
                self._flush()
            self._close()

    def _close(self) -> None:
        super()._close()
        self.send = self._sock.send  # a bound method of its own would be a reference cycle
