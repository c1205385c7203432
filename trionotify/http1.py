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

import re
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11
import trio

from trionotify.errors import Refused
from trionotify.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from trionotify.http import Answer
    from trionotify.transport import Sendable, Transport

__all__ = ["HttpConnection"]

#: Of a request. No honest client sends more.
_MAX_FIELDS: Final = 100
#: A head that is too long is read up to this many bytes, because CORS depends on the fields in it.
_OVERLONG: Final = 1 << 16
_OVERLONG_TIMEOUT: Final = 0.5
#: Bytes that a body may have on the wire beyond twice its limit, because chunks are framed.
_FRAMING: Final = 1 << 16
#: A body in chunks is parsed in pieces of so many bytes. A chunk's own line, and the trailers, may have
#: twice as many at most: each line takes its time, and nobody has a use for more.
_PIECE: Final = 1 << 10
_END_OF_LINE: Final = b"\r\n"
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)*+")
_FIELD: Final = rb"\r\n%b[ \t]*:[ \t]*([^\r\n]*)"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpConnection:
    """The requests of one connection. Made by the connection's task, which alone uses it.

    `hold` hears how many bytes of a body it keeps more, or fewer. A peer has `stall_timeout` seconds to
    take the next part of an answer.
    """

    def __init__(
        self,
        transport: Transport,
        max_head_bytes: int,
        stall_timeout: float,
        hold: Callable[[int], None],
    ) -> None:
        self._transport = transport
        self._stall_timeout = stall_timeout
        self._max_head_bytes = max_head_bytes
        self._hold = hold
        #: The last request has a body that was not read to its end.
        self.body_to_come: bool = False
        #: How long that is, if it said so.
        self._length = 0
        #: The bytes of a body that are kept.
        self._held = 0
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

    async def wait(self) -> None:
        """Wait until something of the next request is there. A checkpoint.

        Raises EOFError if there will be no request.
        """
        if self.early:
            await trio.lowlevel.checkpoint()  # a turn for each request, however many came at once
        await self._begin()

    async def _begin(self) -> None:
        """Wait for a request's first byte. Empty lines before it are skipped (RFC 9112, section 2.2)."""
        found = _without_empty_lines(self._rest)
        while not found or found == b"\r":
            found = _without_empty_lines(found + await self._read())
        self._rest = found

    async def read_head(self) -> h11.Request:
        """Read the next request's head. Not always a checkpoint.

        Raises `Refused` with the right status for what can't be understood, and EOFError when the peer
        leaves before it has said anything whole.
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
        self._length = _length_of(event) if self.body_to_come else 0
        self._persistent = event.http_version == b"1.1" and not _says_close(event)
        return event

    async def _give_head(self) -> None:
        """Give the parser what is here of the head, within the limits, and nothing behind it."""
        known, raw = len(self._raw), self._raw + self._rest
        end = _END_OF_HEAD.search(raw, max(known - 2, 0))
        head = raw if end is None else raw[: end.end()]
        self._raw, self._rest = head, raw[len(head) :]
        if len(head) > self._max_head_bytes and end is None:
            await self._read_overlong()
        self._check_size(self._raw)
        # The beginning shows whether it is HTTP at all; more is of use only when all is here.
        if end is not None or len(head) <= _PIECE:
            self._h11.receive_data(head[self._given :])
            self._given = len(head)

    async def _read_overlong(self) -> None:
        """Read on to the end of a head that is too long, if the end is near."""
        with trio.move_on_after(_OVERLONG_TIMEOUT), suppress(EOFError):
            while b"\r\n\r\n" not in self._raw and len(self._raw) < _OVERLONG:
                self._raw += await self._read()

    @property
    def _method(self) -> str:
        """The last request's method, as far as an answer depends on it. It may be unreadable."""
        return "HEAD" if self._raw.startswith(b"HEAD ") else "GET"

    def raw_field(self, name: bytes) -> str | None:
        """The field `name`, from a head that may be unreadable otherwise."""
        found = re.search(_FIELD % name, self._raw.partition(b"\r\n\r\n")[0], re.IGNORECASE)
        return found[1].rstrip().decode("latin-1") if found else None

    def _check_size(self, raw: bytes) -> None:
        if len(raw) > self._max_head_bytes:
            raise Refused(431, f"a request's head may have at most {self._max_head_bytes} bytes")
        # One line is the request's own, and the last is empty.
        if raw.count(b"\n") - 2 > _MAX_FIELDS:
            raise Refused(431, f"a request may have at most {_MAX_FIELDS} header fields")

    def _check_head(self, raw: bytes) -> None:
        if raw.count(b"\n") != raw.count(_END_OF_LINE):
            raise Refused(400, "a line of a request's head must end with CR LF")
        if b"\r\n " in raw or b"\r\n\t" in raw:
            raise Refused(400, "a header field must be on one line")
        lowered = raw.lower()
        lengths = lowered.count(b"\r\ncontent-length:") + lowered.count(b"\r\ntransfer-encoding:")
        if lengths > 1:
            raise Refused(400, "a request says once how long its body is: by its length, or in chunks")
        self.body_to_come = lengths > 0

    async def read_body(self, max_bytes: int) -> bytes:
        """Read the last request's body. Not always a checkpoint.

        Raises `Refused` (413, 400), and EOFError when the peer leaves in the middle of it. One that is
        too long by its own account isn't asked for, nor waited for.
        """
        if self._length > max_bytes:
            raise _too_long(max_bytes)
        if self._h11.they_are_waiting_for_100_continue:
            await self._send(_CONTINUE)
        body = bytearray()
        turn, framed = Turn(), 0
        try:
            while not isinstance(event := self._h11.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    if not self._rest:
                        self._rest = await self._read()
                        turn = Turn()
                    framed += self._give_piece()
                elif isinstance(event, h11.Data):
                    body += event.data
                    self._held += len(event.data)
                    self._hold(len(event.data))
                if len(body) > max_bytes or framed > 2 * max_bytes + _FRAMING:
                    raise _too_long(max_bytes)
                if turn.over:
                    await turn.pass_on()
        except h11.RemoteProtocolError as error:
            raise _unreadable(error) from None
        self.body_to_come = False
        return bytes(body)

    def _give_piece(self) -> int:
        """Give the parser a piece of what is here of the body; return its size."""
        rest = self._rest
        piece = rest if self._length else rest[:_PIECE]
        self._rest = rest[len(piece) :]
        self._h11.receive_data(piece)
        return len(piece)

    def forget_body(self) -> None:
        """Give back the bytes of the last request's body, because nothing of it is kept any more."""
        if self._held:
            self._hold(-self._held)
            self._held = 0

    async def _read(self) -> bytes:
        """Bytes from the peer; raises EOFError at their end. A checkpoint, except the first time."""
        begun, self._begun = self._begun, True
        try:
            if begun:
                raise BlockingIOError
            data = self._transport.receive_nowait()
        except BlockingIOError:
            data = await self._transport.receive_some()
        if not data:
            raise EOFError
        return data

    # --- out ---

    async def answer(self, answer: Answer) -> bool:
        """Answer the last request; whether another one can follow. A checkpoint when it has to wait.

        Not if its body was not read, nor if it could not be understood, nor if either side wants it so.
        Raises `trio.TooSlowError` when the peer has taken nothing for too long.
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
            with trio.fail_after(self._stall_timeout):
                self._unsent = self._unsent[await self._transport.send_some(self._unsent) :]


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


def _without_empty_lines(data: bytes) -> bytes:
    found = _EMPTY_LINES.match(data)
    return data[found.end() :] if found else data


def _too_long(max_bytes: int) -> Refused:
    return Refused(413, f"a request's body may have at most {max_bytes} bytes")


def _length_of(head: h11.Request) -> int:
    """By its field, which has been checked: a number, and there once; 0 if there is none."""
    return next((int(value) for name, value in head.headers if name == b"content-length"), 0)


def _says_close(head: h11.Request) -> bool:
    tokens = [value for name, value in head.headers if name == b"connection"]
    return b"close" in [token.strip().lower() for value in tokens for token in value.split(b",")]


def _unreadable(error: h11.RemoteProtocolError) -> Refused:
    return Refused(error.error_status_hint, f"not a request that can be read: {error}")
