"""TLS on a socket, as a transport that is written synchronously.

The `ssl` module encrypts in memory (`SSLObject`), and this transport moves the bytes. That is what lets
the broadcast write to a client over TLS as it writes to a plain socket: `send` encrypts, and hands over
what the kernel takes. And a write that is cancelled leaves nothing torn, because nothing is half
encrypted.

One rule makes that fit the interface of a transport, which counts plain bytes. Once bytes are encrypted
they must go out, in order, before any others. So when the kernel takes only a part of a record, the rest
of the ciphertext stays here, and of the plain bytes in it the last one counts as not sent. The Wire
therefore owes at least that byte and comes back with it. When the ciphertext has gone out, the byte is
taken without being encrypted again. At most one record (16 KiB) is kept like that.

The end: `send_eof` says `close_notify` right behind the last byte, and then half-closes the socket, so a
peer that reads up to the end sees it at once, whether it looks at TLS or at TCP.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Final

import trio

from trionotify.connection.transport import SocketTransport
from trionotify.delivery.position import Sendable
from trionotify.delivery.turns import Turn

__all__ = ["TlsTransport", "transport_of"]

#: Plain bytes of a record, at most (RFC 8446, section 5.1).
_RECORD: Final = 1 << 14
_NOTSENT_LOWAT: Final = 1 << 14
_UNIX: Final = getattr(socket, "AF_UNIX", None)
#: Ciphertext that is decrypted in one go, in bytes. A peer may put 150 changes of keys into it, and each
#: takes 30 microseconds. Besides, a MemoryBIO never gives back the room that it once needed.
_PIECE: Final = 1 << 12
#: Ciphertext that may wait for the kernel, in bytes. A peer that asks for new keys again and again, and
#: reads none of the answers, is given up there.
_MOST_UNSENT: Final = 1 << 16
#: The peer is gone, or has said that it won't write any more.
_ENDS: Final = (ssl.SSLZeroReturnError, ssl.SSLEOFError)


#: What each step of a handshake is done in.
Lane = Callable[[], AbstractAsyncContextManager[None]]


def transport_of(
    sock: socket.socket, context: ssl.SSLContext | None, lane: Lane = nullcontext
) -> SocketTransport:
    """A transport on a socket that was accepted; with a `context`, over TLS. Raises OSError."""
    sock.setblocking(False)
    if sock.family != _UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # As Trio does: what the network can't take yet stays with us, where it is the log's.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOTSENT_LOWAT)
    return SocketTransport(sock) if context is None else TlsTransport(sock, context, lane)


class TlsTransport(SocketTransport):
    """The server's side of TLS on a connected non-blocking socket. The handshake is a part of the first
    read, and its steps, which take milliseconds with a long key, are done in a `lane`.

    Reading belongs to one task, writing to any: what each does between two checkpoints leaves the state
    whole. Once the handshake is done, the reader never waits for the kernel to take something: only one
    task at a time may, and that is the writer. So a peer that is slow to read is still read.
    """

    __slots__ = (
        *("_tls", "_lane", "_incoming", "_outgoing", "_ready", "_closing"),
        *("_received", "_unsent", "_repeated"),
    )

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, lane: Lane = nullcontext) -> None:
        super().__init__(sock)
        self._lane = lane
        # The base class has the socket's own here.
        self.send: Callable[[Sendable], int] = self._send
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        #: The handshake is done.
        self._ready = False
        #: `close_notify` was said.
        self._closing = False
        #: Ciphertext that was read, and is still to be decrypted.
        self._received: Sendable = b""
        #: Ciphertext that the kernel has not taken yet.
        self._unsent = b""
        #: The next byte that is sent was encrypted already, and stands at the end of what is unsent.
        self._repeated = False

    # --- out ---

    def _send(self, data: Sendable, /) -> int:
        """See `Transport.send`. Raises OSError before the handshake is done: a client speaks first.

        Returns 0 when only ciphertext of before has gone out, which is progress, too.
        """
        if not self._ready:
            raise BrokenPipeError("the TLS handshake is not done")
        before = len(self._unsent) + self._outgoing.pending
        if not self._flush():
            if len(self._unsent) == before:
                raise BlockingIOError
            return 0  # some ciphertext of before has gone out
        taken = 0
        if self._repeated and data:
            self._repeated, taken = False, 1
        view = memoryview(data)
        while taken < len(view):
            # (Where an application's own context allows renegotiation, this fails in the middle of one.)
            taken += self._tls.write(view[taken : taken + _RECORD])
            if not self._flush():
                self._repeated = True
                taken -= 1
                break
        if not taken and data:
            raise BlockingIOError
        return taken

    def _flush(self) -> bool:
        """Hand over ciphertext; whether the kernel has all of it. Raises OSError."""
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

    async def send_some(self, data: Sendable) -> int:
        while True:
            await self.wait_writable()
            try:
                return self._send(data)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

    # --- in ---

    def receive_nowait(self) -> bytes:
        raise BlockingIOError

    async def receive_some(self) -> bytes:
        self._woken = False  # the last read had bytes all the same
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
                # (No variable has it, because one would keep it for as long as this frame waits.)
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
        """Send what TLS itself has to say. In the handshake that may have to wait."""
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
            with suppress(ssl.SSLError):  # it wants to read the peer's, which `receive_some` does
                self._tls.unwrap()

    async def aclose(self) -> None:
        self._give_up()
        await super().aclose()

    def _give_up(self) -> None:
        """Close, with what TLS has to say about it: the goodbye, or an alert."""
        if self._sock.fileno() >= 0:
            self._say_goodbye()
            with suppress(OSError):
                self._flush()
            self._close()

    def _close(self) -> None:
        super()._close()
        self.send = self._sock.send  # instead of its own method, which would keep it in memory
