"""What a stream over HTTP is made of: events as blocks of text, each in one chunk. No I/O, no Trio.

Server-Sent Events (the HTML standard, section 9.2) are blocks of lines with an empty one behind; NDJSON
has one line for each event. A block goes out as one chunk of HTTP/1.1 (RFC 9112, section 7.1), or to
HTTP/1.0, which has no chunks, as it is; and as with frames, the same bytes go to many clients.

Siblings of the formats in `formats`: a *message* here is a block.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from trionotify.connection.frames import Framing, Nothing
from trionotify.model.cloudevents import encode, encode_own
from trionotify.model.cursor import Cursor
from trionotify.model.notification import Data, Notification

if TYPE_CHECKING:
    from trionotify.connection.formats import Format
    from trionotify.delivery.entry import Entry
    from trionotify.model.replies import Message

__all__ = [
    "LINES",
    "LINES_UNCHUNKED",
    "SSE",
    "SSE_UNCHUNKED",
    "EventsFormat",
    "Nothing",
    "RawEventsFormat",
    "stream_formats",
    "unchunked",
]

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
#: What some reader or other takes for the end of a line, and how JSON puts it otherwise. The first two
#: stand between the tokens of a publisher's own JSON, the others in strings.
_JSON_LINE_END: Final = re.compile(rb"[\r\n]|\xc2\x85|\xe2\x80[\xa8\xa9]")
_ON_ONE_LINE: Final = {
    b"\r": b" ",
    b"\n": b" ",
    b"\xc2\x85": rb"\u0085",
    b"\xe2\x80\xa8": rb"\u2028",
    b"\xe2\x80\xa9": rb"\u2029",
}
#: Milliseconds until a browser comes back by itself: from so many, and not all in the same moment.
_RETRY: Final = (1000, 2000)
#: How a block goes out.
_Wrap = Callable[[str | bytes], bytes]


def unchunked(text: str | bytes) -> bytes:
    """As it is."""
    return text.encode() if isinstance(text, str) else text


def chunk(text: str | bytes) -> bytes:
    """One chunk."""
    data = unchunked(text)
    return b"%x\r\n%b\r\n" % (len(data), data)


def _last(code: int | None, reason: str) -> bytes:
    """There is no place for a code or a reason: the stream is over."""
    return b"0\r\n\r\n"


def _nothing(code: int | None, reason: str) -> bytes:
    """Without chunks, the connection's end is the stream's."""
    return b""


#: A sign of life is a comment in the one, and an empty line in the other.
SSE: Final = Framing(chunk, _last, chunk(":\n\n"))
LINES: Final = Framing(chunk, _last, chunk("\n"))
#: For HTTP/1.0.
SSE_UNCHUNKED: Final = Framing(unchunked, _nothing, unchunked(":\n\n"))
LINES_UNCHUNKED: Final = Framing(unchunked, _nothing, unchunked("\n"))


def _data_lines(data: Data) -> str:
    """Lines that make a browser's `event.data`: it joins them with line feeds. Bytes are base64."""
    text = base64.b64encode(data).decode() if isinstance(data, bytes) else data or ""
    if text.isascii() and text.isprintable():
        return f"data: {text}\n"
    return "".join([f"data: {line}\n" for line in _LINE_END.split(text)])


def _retry(kind: str, data: Mapping[str, object]) -> str:
    """The line that says when a browser shall come back by itself, where the server's event does."""
    if kind == "welcome":
        least, spread = _RETRY
        return f"retry: {least + secrets.randbelow(spread)}\n"
    return f"retry: {data['retry_after_ms']}\n" if kind == "drain" else ""


class RawEventsFormat:
    """Server-Sent Events of data, and nothing but data."""

    name = "raw"
    default_lag = "disconnect"

    def __init__(self, epoch: str, wrap: _Wrap = chunk) -> None:
        def frame(entry: Entry) -> bytes:
            cursor = f"{epoch}:{entry.offset}"
            return wrap(self.message(entry.notification, cursor))

        self.encode: Callable[[Entry], bytes] = frame

    def message(self, message: Message, cursor: str | None = None) -> str | bytes:
        """A block: the cursor as `id`, a type other than `message` as `event`, the data."""
        head = f"id: {cursor}\n" if cursor else ""
        if isinstance(message, Notification):
            if message.type != "message":
                head += f"event: {message.type}\n"
            message = message.data  # type: ignore[assignment] # None is nothing to say
        return f"{head}{_data_lines(message)}\n"  # type: ignore[arg-type]

    def say(self, kind: str, data: Mapping[str, object], cursor: str | None) -> str | None:
        """Where the stream is, and when to come back, which a browser keeps to itself."""
        if kind in ("welcome", "position", "drain"):
            return f"{_retry(kind, data)}id: {cursor}\n\n"
        return None


class EventsFormat:
    """CloudEvents in JSON, one line each: as it is, or in a block with the cursor as its `id`."""

    name = "cloudevents"
    default_lag = "gap"

    def __init__(self, epoch: str, wrap: _Wrap = chunk, *, blocks: bool) -> None:
        self._blocks = blocks

        def frame(entry: Entry) -> bytes:
            cursor = str(Cursor(epoch, entry.offset))
            return wrap(self._block(encode(entry.notification, cursor), cursor))

        self.encode: Callable[[Entry], bytes] = frame

    def _block(self, event: bytes, cursor: str | None) -> bytes:
        if not event.isascii() or b"\n" in event or b"\r" in event:
            event = _JSON_LINE_END.sub(lambda found: _ON_ONE_LINE[found[0]], event)
        if not self._blocks:
            return event + b"\n"
        return (b"id: %b\n" % cursor.encode() if cursor else b"") + b"data: %b\n\n" % event

    def message(self, message: Message, cursor: str | None = None) -> str | bytes:
        """The event; what is no notification yet becomes one."""
        if not isinstance(message, Notification):
            message = Notification(message)
        return self._block(encode(message, cursor), cursor)

    def say(self, kind: str, data: Mapping[str, object], cursor: str | None) -> str | None:
        """The event of that type; in a block with when to come back, where it says so."""
        text = self._block(encode_own(kind, data, cursor), cursor).decode()
        return _retry(kind, data) + text if self._blocks else text


def stream_formats(epoch: str, wrap: _Wrap = chunk) -> dict[tuple[str, str], Format]:
    """By the name of the transport, and of the format."""
    return {
        ("sse", "raw"): RawEventsFormat(epoch, wrap),
        ("sse", "cloudevents"): EventsFormat(epoch, wrap, blocks=True),
        ("ndjson", "cloudevents"): EventsFormat(epoch, wrap, blocks=False),
    }
