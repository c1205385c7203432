"""HTTP/1.1 on one connection: requests in, and answers out, one after the other.

A request is read to its end before the next one is looked at, so answers are in order, however many
requests came at once. If one server reads one request where another reads two, requests can be smuggled
past a proxy. So this module is strict where h11 is lenient (bare line feeds, folded lines, two ways to
say where the body ends). Behind a request that can't be read, nothing is read on its connection.

A plain head is read by `heads`, and a body that says how long it is needs no parser. The rest is h11's.
Each request that needs it has an h11 connection of its own. So h11 only parses. Responses are written
here, because a request that h11 can't parse also gets one. It parses all the lines of a head, or of
trailers, in one go. So it gets a head only as far as that is within the limits, and chunks in small
pieces.

Every read from the network waits, if only for its turn, and a body gives way between its parts. So a
peer that sends without a pause doesn't hold up the others, and every deadline fires.
"""

from __future__ import annotations

import math
import re
import time
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11
import trio

from trionotify.delivery.turns import Turn
from trionotify.errors import Refused
from trionotify.http.heads import Head, plain_head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trionotify.connection.transport import Transport
    from trionotify.delivery.position import Sendable
    from trionotify.http.messages import Answer

__all__ = ["HttpConnection"]

#: The most header lines of a request. No honest client sends more.
_MAX_FIELDS: Final = 100
#: A head that is too long is read up to this many bytes, because CORS depends on two fields in it. Kept
#: of it are these, and the beginnings of its first line and its last.
_OVERLONG: Final = 1 << 20
_OVERLONG_TIMEOUT: Final = 0.5
_OVERLONG_KEPT: Final = 1 << 16
_UNNEEDED: Final = re.compile(rb"(?<=\n)(?!(?:origin|host)[ \t]*:|\r?\n)[^\n]*\n", re.IGNORECASE)
_LONG_LINE: Final = re.compile(rb"([^\r\n]{1024})[^\r\n]+")
#: Bytes that a body may have on the wire beyond twice its limit, because chunks are framed.
_FRAMING: Final = 1 << 16
#: A body in chunks is parsed in pieces of so many bytes. A chunk's own line, and the trailers, may have
#: at most twice as many, because each line takes time, and no client needs more.
_PIECE: Final = 1 << 10
#: Seconds to read what has arrived already, before a peer is taken for too slow.
_GRACE: Final = 0.25
_END_OF_LINE: Final = b"\r\n"
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_without_empty_lines: Final = partial(re.compile(rb"\A(?:\r\n)++").sub, b"")
_LENGTHS: Final = re.compile(rb"\r\ncontent-length:[^\r\n]*,")
_FIELD: Final = rb"\r\n%b[ \t]*:[ \t]*([^\r\n]*)"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpConnection:
    """The requests of one connection. Made by the connection's task, which alone uses it.

    A peer has `stall_timeout` seconds to take the next part of an answer. One that has sent much waits
    in `pass_on`, a checkpoint.
    """

    def __init__(
        self,
        transport: Transport,
        max_head_bytes: int,
        stall_timeout: float,
        pass_on: Callable[[], Awaitable[None]],
    ) -> None:
        self._transport = transport
        self._pass_on = pass_on
        self._stall_timeout = stall_timeout
        self._max_head_bytes = max_head_bytes
        #: The deadline of a read, on Trio's clock, and whether it was extended already.
        self._deadline = math.inf
        self._put_off = False
        #: Whether the last request has a body that was not read to its end.
        self.body_to_come: bool = False
        #: The length of that body in bytes; 0 if it comes in chunks.
        self._length = 0
        #: Bytes of a body in chunks that the parser has taken since its last part.
        self._framing = b""
        #: The last request's head, or as much of it as has arrived.
        self._raw = b""
        #: The rest of an answer that is going out.
        self._unsent: Sendable = b""
        #: The number of bytes given to the parser.
        self._given = 0
        #: The bytes after it, which the parser hasn't got yet.
        self._rest = b""
        #: Whether another request may follow the last one.
        self._persistent = False
        #: Whether the last request had to be waited for. Often the first one comes with the connection.
        self.waited: bool = False
        self._begun = False  # whether the connection was read from
        #: The parser of a head that isn't plain, and of a body in chunks.
        self._h11: h11.Connection | None = None

    @property
    def early(self) -> bytes:
        """The bytes after the last request, if any have arrived."""
        return self._rest if self._h11 is None else self._h11.trailing_data[0] + self._rest

    # --- in ---

    def expect(self, seconds: float) -> None:
        """Set the deadline of the next reads, in seconds from now. See `_read`."""
        self._deadline, self._put_off = trio.current_time() + seconds, False

    async def wait(self) -> None:
        """Wait for the first bytes of the next request. A checkpoint.

        Raises EOFError if the peer sends no more, and `trio.TooSlowError` if nothing comes in time.
        """
        self.waited = True
        if self.early:
            await self._pass_on()  # a turn for each request, however many came at once
        await self._begin()

    async def _begin(self) -> None:
        """Wait for a request's first byte. Empty lines before it are skipped (RFC 9112, section 2.2)."""
        found = _without_empty_lines(self._rest)
        while not found or found == b"\r":
            found = _without_empty_lines(found + await self._read())
        self._rest = found

    async def read_head(self) -> Head:
        """Read the next request's head. Not always a checkpoint.

        Raises `Refused` with the right status for an invalid head, EOFError if the peer
        leaves before the head is complete, and `trio.TooSlowError`.
        """
        self._raw, self._given = b"", 0
        self._persistent = self.body_to_come = False
        await self._begin()
        try:
            while (head := await self._next_head()) is None:
                self._rest = await self._read()
        except h11.RemoteProtocolError as error:
            raise _unreadable(error) from None
        self._length = head.length
        self.body_to_come = head.chunked or head.length > 0
        self._persistent = head.persistent
        return head

    async def _next_head(self) -> Head | None:
        """Parse the head if it is complete, and nothing behind it; return None if more must be read."""
        known, raw = len(self._raw), self._raw + self._rest
        end = _END_OF_HEAD.search(raw, max(known - 2, 0))
        text = raw if end is None else raw[: end.end()]
        self._raw, self._rest = text, raw[len(text) :]
        if too_long := self._too_long(text):
            if end is None:
                await self._read_overlong()
            raise Refused(431, too_long)
        if end is not None and (plain := plain_head(text)) is not None:
            self._h11 = None
            return plain
        # The beginning shows whether it is HTTP at all; more is of use only when all is here.
        if end is None and len(text) > _PIECE:
            return None
        parser = self._parser
        parser.receive_data(text[self._given :])
        self._given = len(text)
        event = parser.next_event()
        if not isinstance(event, h11.Request):
            return None
        self._check_head(text)
        return Head.parsed(event)

    @property
    def _parser(self) -> h11.Connection:
        if self._h11 is None:
            self._h11 = _new_parser()
        return self._h11

    def _too_long(self, head: bytes) -> str | None:
        """Return which limit a head, complete or not, exceeds; None if none."""
        if len(head) > self._max_head_bytes:
            return (
                f"headers: must have at most {self._max_head_bytes} bytes together with the request line"
            )
        # One line is the request's own, and the last is empty.
        if head.count(b"\n") - 2 > _MAX_FIELDS:
            return f"headers: must be at most {_MAX_FIELDS} lines"
        return None

    async def _read_overlong(self) -> None:
        """Read the rest of a head that is too long, up to `_OVERLONG` bytes."""
        size = len(self._raw)
        with trio.move_on_after(_OVERLONG_TIMEOUT), suppress(EOFError):
            while b"\r\n\r\n" not in self._raw and size < _OVERLONG:
                self._raw = _LONG_LINE.sub(rb"\1", _UNNEEDED.sub(b"", self._raw))
                if len(self._raw) > _OVERLONG_KEPT:
                    break
                data = await self._read()
                self._raw, size = self._raw + data, size + len(data)

    @property
    def _method(self) -> str:
        """Return `HEAD` for a HEAD request, otherwise `GET`, even if the request is invalid."""
        return "HEAD" if self._raw.startswith(b"HEAD ") else "GET"

    def raw_field(self, name: bytes) -> str | None:
        """Return the header `name` from the last head, even if the rest of it can't be parsed."""
        found = re.search(_FIELD % name, self._raw.partition(b"\r\n\r\n")[0], re.IGNORECASE)
        return found[1].rstrip().decode("latin-1") if found else None

    def _check_head(self, raw: bytes) -> None:
        _check_lines(raw, "the request line and headers")
        lowered = raw.lower()
        lengths = lowered.count(b"\r\ncontent-length:") + lowered.count(b"\r\ntransfer-encoding:")
        if lengths > 1 or _LENGTHS.search(lowered):
            raise Refused(
                400,
                "Content-Length and Transfer-Encoding: a request must have only one of them, once",
                logged="Content-Length and Transfer-Encoding",
            )

    @property
    def body_is_here(self) -> bool:
        """Return whether the last request's whole body has arrived."""
        return 0 < self._length <= len(self._rest)

    async def invite_body(self, max_bytes: int) -> None:
        """Send `100 Continue` if the peer waits for it. Not always a checkpoint.

        Raises `Refused` (413) if the declared length of the body is over `max_bytes`.
        """
        if self._length > max_bytes:
            raise _too_long(max_bytes)
        if self._h11 is not None and self._h11.they_are_waiting_for_100_continue:
            self._write(_CONTINUE)
            await self.drain()

    async def read_body(self, max_bytes: int, hold: Callable[[int], None]) -> bytes:
        """Read the last request's body. Not always a checkpoint.

        `hold` is called with the number of bytes kept. Raises `Refused` (413, 400), EOFError if the peer
        leaves in the middle of it, and `trio.TooSlowError`.
        """
        if self._length > max_bytes:
            raise _too_long(max_bytes)
        if self._length:
            body = await self._read_bytes(hold)
        elif self.body_to_come:
            body = await self._read_chunks(max_bytes, hold)
        else:
            body = b""
        self.body_to_come = False
        return body

    async def _read_bytes(self, hold: Callable[[int], None]) -> bytes:
        """Read a body with a `Content-Length`."""
        body = bytearray()  # a list of tiny parts would be many times as large
        while True:
            left = self._length - len(body)
            part, self._rest = self._rest[:left], self._rest[left:]
            hold(len(part))
            body += part
            if len(part) == left:
                return bytes(body)
            self._rest = await self._read()

    async def _read_chunks(self, max_bytes: int, hold: Callable[[int], None]) -> bytes:
        body = bytearray()
        turn, framed = Turn(self._pass_on), 0
        try:
            while not isinstance(event := self._next_part(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    if not self._rest:
                        self._rest = await self._read()
                        turn = Turn(self._pass_on)
                    piece, self._rest = self._rest[:_PIECE], self._rest[_PIECE:]
                    self._parser.receive_data(piece)
                    framed += len(piece)
                elif isinstance(event, h11.Data):
                    body += event.data
                    hold(len(event.data))
                if len(body) > max_bytes or framed > 2 * max_bytes + _FRAMING:
                    raise _too_long(max_bytes)
                if turn.over:
                    await turn.pass_on()
        except h11.RemoteProtocolError as error:
            raise _unreadable(error) from None
        return bytes(body)

    def _next_part(self) -> object:
        """Return the parser's next event of a body. Raises `Refused` (400) for invalid lines."""
        before = self._parser.trailing_data[0]
        event = self._parser.next_event()
        self._framing += before[: len(before) - len(self._parser.trailing_data[0])]
        if event is not h11.NEED_DATA:
            data = len(event.data) if isinstance(event, h11.Data) else 0
            framing, self._framing = self._framing[: len(self._framing) - data], b""
            _check_lines(framing, "a chunked body")
        return event

    async def _read(self) -> bytes:
        """Read bytes from the peer. A checkpoint, except the first time.

        Raises EOFError at the end, and `trio.TooSlowError` at the deadline. Before that it reads
        everything that has arrived by then, because this process may have been stopped.
        """
        begun, self._begun = self._begun, True
        data: bytes | None = None
        if not begun:
            with suppress(BlockingIOError):
                data = self._transport.receive_nowait()
        while data is None:
            data = await self._receive()
            if data is None and self._put_off:
                raise trio.TooSlowError
            if data is None:
                self._deadline, self._put_off = trio.current_time() + _GRACE, True
        if not data:
            raise EOFError
        return data

    async def _receive(self) -> bytes | None:
        """Read bytes from the peer: `b""` at the end, None at the deadline."""
        self.waited = True
        if self._deadline == math.inf:
            return await self._transport.receive_some()  # a scope takes as long as the read itself
        with trio.move_on_at(self._deadline):
            return await self._transport.receive_some()
        return None

    # --- out ---

    def answer(self, answer: Answer) -> bool:
        """Answer the last request; return whether another one can follow. Doesn't block.

        None can if the body was not read, if the request was invalid, or if either side wants to close.
        The rest that the kernel doesn't take at once is `unsent`. Then call `drain`.
        """
        close = answer.close or self.body_to_come or not self._persistent
        self._write(_bytes_of(answer, self._method, close))
        if close:
            return False
        self._rest, self._h11 = self.early, None
        return True

    @property
    def unsent(self) -> bool:
        """Whether a part of an answer still waits for the peer."""
        return bool(self._unsent)

    def _write(self, data: Sendable) -> None:
        # If its deadline has come in the middle of a response, the rest of the response goes first.
        self._unsent = data = bytes(self._unsent) + data if self._unsent else data
        try:
            self._unsent = data[self._transport.send(data) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from None

    async def drain(self) -> None:
        """Wait until everything is sent. A checkpoint if anything is unsent.

        If the peer takes nothing for `stall_timeout` seconds, resets the connection and raises EOFError.
        """
        while self._unsent:
            # The deadline counts from the last progress, so a client on a slow line gets everything.
            before = self._unsent
            with trio.move_on_after(self._stall_timeout):
                self._unsent = self._unsent[await self._transport.send_some(self._unsent) :]
                continue
            # This process may have been stopped, and there is room by now.
            with suppress(OSError):
                self._unsent = self._unsent[self._transport.send(self._unsent) :]
            if self._unsent is before:
                self._transport.reset()
                raise EOFError


def _bytes_of(answer: Answer, method: str, close: bool) -> bytes:
    """Return the bytes of an answer."""
    fields = [("Date", _date(int(time.time()))), *answer.headers]
    if answer.content_type is not None:
        fields.insert(0, ("Content-Type", answer.content_type))
    # A HEAD answer without a body is a stream's, whose length isn't known.
    without = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
    if answer.status not in without and (answer.body or method != "HEAD"):
        fields.append(("Content-Length", str(len(answer.body))))
    if close:
        upgrade = any(name.lower() == "upgrade" for name, _ in answer.headers)
        fields.append(("Connection", "Upgrade, close" if upgrade else "close"))
    lines = [
        f"HTTP/1.1 {answer.status} {answer.reason}",
        *[f"{name}: {value}" for name, value in fields],
    ]
    head = "\r\n".join([*lines, "", ""])
    return head.encode("latin-1") + (b"" if method == "HEAD" else answer.body)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _new_parser() -> h11.Connection:
    # h11 checks the size of incomplete events only. (A long head comes as one piece.)
    return h11.Connection(h11.SERVER, max_incomplete_event_size=_PIECE)


def _check_lines(raw: bytes, where: str) -> None:
    """Raise `Refused` (400) for line endings or folding that parsers read differently."""
    if not raw.count(b"\n") == raw.count(b"\r") == raw.count(_END_OF_LINE):
        raise Refused(400, f"each line of {where} must end with CR LF", logged="line endings")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise Refused(400, "each header must be on one line", logged="a folded header")


def _too_long(max_bytes: int) -> Refused:
    return Refused(413, f"request body: must have at most {max_bytes} bytes")


def _unreadable(error: h11.RemoteProtocolError) -> Refused:
    # The error and h11's frames refer to each other, and would stay until the cycle collector runs.
    error.__traceback__ = None
    why, _, _ = str(error).partition(": bytearray(")  # the bytes as Python would write them
    return Refused(error.error_status_hint, f"request: not valid HTTP: {why}", logged="not valid HTTP")
