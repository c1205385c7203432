"""HTTP/1.1 on one connection: requests in, answers out, one after the other, by h11.

A request is read to its end before the next one is looked at, so answers are in order, however many
requests came at once. What one server takes for one request and another for two is how requests are
smuggled past a proxy: where h11 is forgiving (bare line feeds, folded lines, two ways to say where the
body ends), this module isn't. Behind a request that can't be read, nothing is read on its connection.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11
import trio

from trionotify.errors import Refused

if TYPE_CHECKING:
    from trionotify.http import Answer
    from trionotify.transport import Sendable, Transport

__all__ = ["HttpConnection"]

#: Of a request: whoever sends more doesn't mean well.
_MAX_FIELDS: Final = 100

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpConnection:
    """The requests of one connection. Made by the connection's task, which alone uses it."""

    def __init__(self, transport: Transport, max_head_bytes: int) -> None:
        self._transport = transport
        self._max_head_bytes = max_head_bytes
        #: The last request has a body that was not read to its end.
        self.body_to_come = False
        #: How long that is, if it said so.
        self._length = 0
        # It looks at the size of what is incomplete only: a head may come as one piece.
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head_bytes)

    @property
    def early(self) -> bytes:
        """What came behind the last request already."""
        return self._h11.trailing_data[0]

    # --- in ---

    async def wait(self) -> None:
        """Wait until something of the next request is there; raises EOFError if nothing will be."""
        if not self.early:
            await self._receive()

    async def read_head(self) -> h11.Request:
        """Read the next request's head.

        A checkpoint when it has to wait. Raises `Refused` with the right status for what can't be
        understood, and EOFError when the peer leaves before it has said anything whole.
        """
        raw = self.early
        try:
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                raw += await self._receive()
        except h11.RemoteProtocolError as error:
            raise _unreadable(error) from None
        if not isinstance(event, h11.Request):
            raise EOFError
        self._check_head(raw[: len(raw) - len(self.early)])
        self._length = _length_of(event) if self.body_to_come else 0
        return event

    def _check_head(self, raw: bytes) -> None:
        if len(raw) > self._max_head_bytes:
            raise Refused(431, f"a request's head may have at most {self._max_head_bytes} bytes")
        lines = raw.count(b"\r\n")
        # One is the request's own, and the last is empty.
        if lines - 2 > _MAX_FIELDS:
            raise Refused(431, f"a request may have at most {_MAX_FIELDS} header fields")
        if raw.count(b"\n") != lines:
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
            self._h11.send(h11.InformationalResponse(status_code=100, headers=[]))
            await self._send(_CONTINUE)
        body = bytearray()
        try:
            while not isinstance(event := self._h11.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    await self._receive()
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > max_bytes:
                        raise _too_long(max_bytes)
        except h11.RemoteProtocolError as error:
            raise _unreadable(error) from None
        self.body_to_come = False
        return bytes(body)

    async def _receive(self) -> bytes:
        """Bytes for h11; raises EOFError at their end."""
        try:
            # Often they came along with the connection.
            data = self._transport.receive_nowait()
        except BlockingIOError:
            data = await self._transport.receive_some()
        if not data:
            raise EOFError
        self._h11.receive_data(data)
        return data

    # --- out ---

    async def answer(self, answer: Answer, method: str = "GET") -> bool:
        """Answer the last request; whether another one can follow. A checkpoint when it has to wait.

        Not if its body was not read, nor if it could not be understood, nor if either side wants it so.
        """
        close = answer.close or self.body_to_come
        if self._h11.their_state is h11.SEND_BODY and not self.body_to_come:
            self._h11.next_event()  # its end
        fields = [("Date", formatdate(usegmt=True)), *answer.headers]
        # HEAD without a body asks about a stream, whose length nobody knows.
        if answer.status != HTTPStatus.NO_CONTENT and (answer.body or method != "HEAD"):
            fields.append(("Content-Length", str(len(answer.body))))
        if answer.content_type is not None:
            fields.insert(0, ("Content-Type", answer.content_type))
        if close:
            upgrade = any(name.lower() == "upgrade" for name, _ in answer.headers)
            fields.append(("Connection", "Upgrade, close" if upgrade else "close"))
        body = b"" if method == "HEAD" else answer.body
        head = h11.Response(status_code=answer.status, headers=fields, reason=answer.reason.encode())
        events: list[h11.Event] = [head, h11.Data(data=body), h11.EndOfMessage()]
        await self._send(b"".join([self._h11.send(event) or b"" for event in events]))
        if (self._h11.our_state, self._h11.their_state) != (h11.DONE, h11.DONE):
            return False
        self._h11.start_next_cycle()
        return True

    async def _send(self, data: Sendable) -> None:
        try:
            data = data[self._transport.send(data) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from None
        while data:
            data = data[await self._transport.send_some(data) :]


def _too_long(max_bytes: int) -> Refused:
    return Refused(413, f"a request's body may have at most {max_bytes} bytes")


def _length_of(head: h11.Request) -> int:
    """By its field, which has been checked: a number, and there once; 0 if there is none."""
    return next((int(value) for name, value in head.headers if name == b"content-length"), 0)


def _unreadable(error: h11.RemoteProtocolError) -> Refused:
    return Refused(error.error_status_hint, f"not a request that can be read: {error}")
