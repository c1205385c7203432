"""HTTP/1.1 on one connection: requests in, by h11, and answers out, one after the other.

A request is read to its end before the next one is looked at, so answers are in order, however many
requests came at once. What one server takes for one request and another for two is how requests are
smuggled past a proxy: where h11 is forgiving (bare line feeds, folded lines, two ways to say where the
body ends), this module isn't. Behind a request that can't be read, nothing is read on its connection.

Each request has an h11 connection of its own. So h11 parses, and nothing else: an answer must also go
out to what h11 could not parse, and is written here. It parses all the lines of a head, or of trailers,
in one go. So it gets a head only as far as that is within the limits, and chunks in small pieces.

Every read from the network waits, if only for its turn, and a body gives way between its parts. So a
peer that sends without a pause doesn't hold up the others, and every deadline fires.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11
import trio

from trionotify.delivery.turns import Turn
from trionotify.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trionotify.connection.transport import Transport
    from trionotify.delivery.position import Sendable
    from trionotify.http.messages import Answer

__all__ = ["HttpConnection"]

#: Of a request. No honest client sends more.
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
#: twice as many at most: each line takes its time, and nobody has a use for more.
_PIECE: Final = 1 << 10
#: Seconds to read what has arrived already, before a peer is taken for too slow.
_GRACE: Final = 0.25
_END_OF_LINE: Final = b"\r\n"
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)*+")
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
        #: When what is read must be there, on Trio's clock; and whether that was put off already.
        self._deadline = math.inf
        self._put_off = False
        #: The last request has a body that was not read to its end.
        self.body_to_come: bool = False
        #: How long that is, if it said so.
        self._length = 0
        #: What the parser has taken of a body in chunks since its last part.
        self._framing = b""
        #: The last request's head, or what there is of it.
        self._raw = b""
        #: The rest of an answer that is going out.
        self._unsent: Sendable = b""
        #: How many bytes of it the parser has got.
        self._given = 0
        #: What came behind it, and the parser hasn't got yet.
        self._rest = b""
        #: Another request may follow the last one.
        self._persistent = False
        #: Whether the connection was read from: often the first bytes come along with the connection.
        self._begun = False
        self._h11 = _new_parser()

    @property
    def early(self) -> bytes:
        """What came behind the last request already."""
        return self._h11.trailing_data[0] + self._rest

    # --- in ---

    def expect(self, seconds: float) -> None:
        """From now on the peer has so many seconds for what is read: see `_read`."""
        self._deadline, self._put_off = trio.current_time() + seconds, False

    async def wait(self) -> None:
        """Wait until something of the next request is there. A checkpoint.

        Raises EOFError if there will be no request, and `trio.TooSlowError` if none comes in time.
        """
        if self.early:
            await self._pass_on()  # a turn for each request, however many came at once
        await self._begin()

    async def _begin(self) -> None:
        """Wait for a request's first byte. Empty lines before it are skipped (RFC 9112, section 2.2)."""
        found = _without_empty_lines(self._rest)
        while not found or found == b"\r":
            found = _without_empty_lines(found + await self._read())
        self._rest = found

    async def read_head(self) -> h11.Request:
        """Read the next request's head. Not always a checkpoint.

        Raises `Refused` with the right status for what can't be understood, EOFError when the peer
        leaves before it has said anything whole, and `trio.TooSlowError`.
        """
        self._raw, self._given = b"", 0
        self._persistent = self.body_to_come = False
        await self._begin()
        try:
            await self._give_head()
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                self._rest = await self._read()
                await self._give_head()
        except h11.RemoteProtocolError as error:
            raise _unreadable(error) from None
        if not isinstance(event, h11.Request):
            raise EOFError
        self._check_head(self._raw)
        self._length, chunked = _framing_of(event)
        self.body_to_come = chunked or self._length > 0
        self._persistent = event.http_version >= b"1.1" and not _says_close(event)
        return event

    async def _give_head(self) -> None:
        """Give the parser what is here of the head, within the limits, and nothing behind it."""
        known, raw = len(self._raw), self._raw + self._rest
        end = _END_OF_HEAD.search(raw, max(known - 2, 0))
        head = raw if end is None else raw[: end.end()]
        self._raw, self._rest = head, raw[len(head) :]
        if too_long := self._too_long(head):
            if end is None:
                await self._read_overlong()
            raise Refused(431, too_long)
        # The beginning shows whether it is HTTP at all; more is of use only when all is here.
        if end is not None or len(head) <= _PIECE:
            self._h11.receive_data(head[self._given :])
            self._given = len(head)

    def _too_long(self, head: bytes) -> str | None:
        """Which limit a head exceeds, or what there is of it; None if none."""
        if len(head) > self._max_head_bytes:
            return f"a request's head may have at most {self._max_head_bytes} bytes"
        # One line is the request's own, and the last is empty.
        if head.count(b"\n") - 2 > _MAX_FIELDS:
            return f"a request may have at most {_MAX_FIELDS} header fields"
        return None

    async def _read_overlong(self) -> None:
        """Read on to the end of a head that is too long, if the end is near."""
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
        """The last request's method, as far as an answer depends on it. It may be unreadable."""
        return "HEAD" if self._raw.startswith(b"HEAD ") else "GET"

    def raw_field(self, name: bytes) -> str | None:
        """The field `name`, from a head that may be unreadable otherwise."""
        found = re.search(_FIELD % name, self._raw.partition(b"\r\n\r\n")[0], re.IGNORECASE)
        return found[1].rstrip().decode("latin-1") if found else None

    def _check_head(self, raw: bytes) -> None:
        _check_lines(raw, "a request's head")
        lowered = raw.lower()
        lengths = lowered.count(b"\r\ncontent-length:") + lowered.count(b"\r\ntransfer-encoding:")
        if lengths > 1:
            raise Refused(400, "a request says once how long its body is: by its length, or in chunks")

    async def invite_body(self, max_bytes: int) -> None:
        """Ask for the last request's body, if the peer waits for that. Not always a checkpoint.

        Raises `Refused` (413) for one that is too long by its own account: it isn't read, either.
        """
        if self._length > max_bytes:
            raise _too_long(max_bytes)
        if self._h11.they_are_waiting_for_100_continue:
            await self._send(_CONTINUE)

    async def read_body(self, max_bytes: int, hold: Callable[[int], None]) -> bytes:
        """Read it. Not always a checkpoint.

        `hold` hears of the bytes that it keeps. Raises `Refused` (413, 400), EOFError when the peer
        leaves in the middle of it, and `trio.TooSlowError`.
        """
        body = bytearray()
        turn, framed = Turn(self._pass_on), 0
        try:
            while not isinstance(event := self._next_part(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    if not self._rest:
                        self._rest = await self._read()
                        turn = Turn(self._pass_on)
                    framed += self._give_piece()
                elif isinstance(event, h11.Data):
                    body += event.data
                    hold(len(event.data))
                if len(body) > max_bytes or framed > 2 * max_bytes + _FRAMING:
                    raise _too_long(max_bytes)
                if turn.over:
                    await turn.pass_on()
        except h11.RemoteProtocolError as error:
            raise _unreadable(error) from None
        self.body_to_come = False
        return bytes(body)

    def _next_part(self) -> object:
        """The parser's next event of a body; raises `Refused` (400) for lines that are no lines."""
        if self._length:
            return self._h11.next_event()
        before = self._h11.trailing_data[0]
        event = self._h11.next_event()
        self._framing += before[: len(before) - len(self._h11.trailing_data[0])]
        if event is not h11.NEED_DATA:
            data = len(event.data) if isinstance(event, h11.Data) else 0
            framing, self._framing = self._framing[: len(self._framing) - data], b""
            _check_lines(framing, "a body in chunks")
        return event

    def _give_piece(self) -> int:
        """Give the parser a piece of what is here of the body; return its size."""
        rest = self._rest
        piece = rest if self._length else rest[:_PIECE]
        self._rest = rest[len(piece) :]
        self._h11.receive_data(piece)
        return len(piece)

    async def _read(self) -> bytes:
        """Bytes from the peer. A checkpoint, except the first time.

        Raises EOFError at their end, and `trio.TooSlowError` at the deadline. Before that it reads what
        has come by then: this process may have been stopped.
        """
        begun, self._begun = self._begun, True
        data: bytes | None = None
        if not begun:
            with suppress(BlockingIOError):
                data = self._transport.receive_nowait()
        while data is None:
            with trio.move_on_at(self._deadline):
                data = await self._transport.receive_some()
            if data is None and self._put_off:
                raise trio.TooSlowError
            if data is None:
                self._deadline, self._put_off = trio.current_time() + _GRACE, True
        if not data:
            raise EOFError
        return data

    # --- out ---

    async def answer(self, answer: Answer) -> bool:
        """Answer the last request; whether another one can follow. A checkpoint when it has to wait.

        Not if its body was not read, nor if it could not be understood, nor if either side wants it so.
        A peer that takes nothing for too long is reset, and EOFError raised.
        """
        close = answer.close or self.body_to_come or not self._persistent
        await self._send(_bytes_of(answer, self._method, close))
        if close:
            return False
        if self._h11.their_state is h11.SEND_BODY:
            self._h11.next_event()  # the end of a body that isn't there
        self._rest = self.early
        self._h11 = _new_parser()
        return True

    async def _send(self, data: Sendable) -> None:
        # What has begun to go out goes first, if its deadline has come in the middle of it.
        self._unsent = data = bytes(self._unsent) + data if self._unsent else data
        try:
            self._unsent = data[self._transport.send(data) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from None
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
    """An answer as it goes out."""
    fields = [("Date", formatdate(usegmt=True)), *answer.headers]
    if answer.content_type is not None:
        fields.insert(0, ("Content-Type", answer.content_type))
    # A HEAD answer without a body is a stream's, whose length isn't known.
    if answer.status != HTTPStatus.NO_CONTENT and (answer.body or method != "HEAD"):
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


def _new_parser() -> h11.Connection:
    # It looks at the size of what is incomplete only. (A long head comes as one piece.)
    return h11.Connection(h11.SERVER, max_incomplete_event_size=_PIECE)


def _check_lines(raw: bytes, where: str) -> None:
    """Return if these are lines that everyone takes for the same; else raise `Refused` (400)."""
    if not raw.count(b"\n") == raw.count(b"\r") == raw.count(_END_OF_LINE):
        raise Refused(400, f"a line of {where} must end with CR LF")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise Refused(400, "a header field must be on one line")


def _without_empty_lines(data: bytes) -> bytes:
    found = _EMPTY_LINES.match(data)
    return data[found.end() :] if found else data


def _too_long(max_bytes: int) -> Refused:
    return Refused(413, f"a request's body may have at most {max_bytes} bytes")


def _framing_of(head: h11.Request) -> tuple[int, bool]:
    """How long the body is by its field, which has been checked, and whether it is in chunks."""
    length, chunked = 0, False
    for name, value in head.headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = True
    return length, chunked


def _says_close(head: h11.Request) -> bool:
    tokens = [value for name, value in head.headers if name == b"connection"]
    return b"close" in [token.strip().lower() for value in tokens for token in value.split(b",")]


def _unreadable(error: h11.RemoteProtocolError) -> Refused:
    # One of h11's frames has the error, which has the frames: they would stay until the cycle collector.
    error.__traceback__ = None
    return Refused(error.error_status_hint, f"not a request that can be read: {error}")
