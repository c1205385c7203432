"""The formats of a stream over HTTP: events as blocks of text, each in one chunk. No I/O, no Trio.

A Server-Sent Event (the HTML standard, section 9.2) is a block of lines with an empty line behind it.
In NDJSON each event is one line. A block is sent as one chunk of HTTP/1.1 (RFC 9112, section 7.1), or
unchanged to an HTTP/1.0 client, which has no chunks. As with frames, the same bytes go to many clients.

The classes have the methods of those in `formats`. A *message* here is a block.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from trionotify.connection.frames import Framing
from trionotify.model.cloudevents import encode, encode_own
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
    "RawEventsFormat",
    "stream_formats",
    "unchunked",
]

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
#: Characters that some readers take for a line end, and how to write them otherwise. The first two
#: occur between the tokens of a publisher's own JSON, the others only in strings.
_JSON_LINE_END: Final = re.compile(rb"[\r\n]|\xc2\x85|\xe2\x80[\xa8\xa9]")
_ON_ONE_LINE: Final = {
    b"\r": b" ",
    b"\n": b" ",
    b"\xc2\x85": rb"\u0085",
    b"\xe2\x80\xa8": rb"\u2028",
    b"\xe2\x80\xa9": rb"\u2029",
}
#: The least and the additional random milliseconds until a browser reconnects by itself.
_RETRY: Final = (1000, 2000)
#: Turns a block into the bytes to send.
_Wrap = Callable[[str | bytes], bytes]
#: An offset as the text of a cursor.
_CursorOf = Callable[[int], str]


def unchunked(text: str | bytes) -> bytes:
    """Return the block as bytes, unchanged."""
    return text.encode() if isinstance(text, str) else text


def chunk(text: str | bytes) -> bytes:
    """Return the block as one chunk of HTTP/1.1."""
    data = unchunked(text)
    return b"%x\r\n%b\r\n" % (len(data), data)


def _last(code: int | None, reason: str) -> bytes:
    """The last chunk. There is no place for a code or a reason."""
    return b"0\r\n\r\n"


def _nothing(code: int | None, reason: str) -> bytes:
    """No bytes, because without chunks the connection's end is the end of the stream."""
    return b""


#: A ping is a comment in Server-Sent Events, and an empty line in NDJSON.
SSE: Final = Framing(chunk, _last, chunk(":\n\n"))
LINES: Final = Framing(chunk, _last, chunk("\n"))
#: The framing for HTTP/1.0.
SSE_UNCHUNKED: Final = Framing(unchunked, _nothing, unchunked(":\n\n"))
LINES_UNCHUNKED: Final = Framing(unchunked, _nothing, unchunked("\n"))


def _data_lines(data: Data) -> str:
    """The lines that a browser joins with line feeds to its `event.data`. Bytes become base64."""
    text = base64.b64encode(data).decode() if isinstance(data, bytes) else data or ""
    if text.isascii() and text.isprintable():
        return f"data: {text}\n"
    return "".join([f"data: {line}\n" for line in _LINE_END.split(text)])


def _retry(kind: str, data: Mapping[str, object]) -> str:
    """The line that tells a browser when to reconnect, if the server's event `kind` has one."""
    if kind == "welcome":
        least, spread = _RETRY
        return f"retry: {least + secrets.randbelow(spread)}\n"
    return f"retry: {data['retry_after_ms']}\n" if kind == "drain" else ""


class RawEventsFormat:
    """Server-Sent Events with the data of notifications, and nothing else."""

    name = "raw"
    default_lag = "disconnect"

    def __init__(self, cursor: _CursorOf, wrap: _Wrap = chunk) -> None:
        def frame(entry: Entry) -> bytes:
            return wrap(self.message(entry.notification, cursor(entry.offset)))

        self.encode: Callable[[Entry], bytes] = frame

    def message(self, message: Message, cursor: str | None = None) -> str | bytes:
        """A block with the cursor as `id`, a type other than `message` as `event`, and the data."""
        head = f"id: {cursor}\n" if cursor else ""
        if isinstance(message, Notification):
            if message.type != "message":
                head += f"event: {message.type}\n"
            message = message.data  # type: ignore[assignment] # None becomes an empty line of data
        return f"{head}{_data_lines(message)}\n"  # type: ignore[arg-type]

    def say(self, kind: str, data: Mapping[str, object], cursor: str | None) -> str | None:
        """A block that sets the browser's last event ID and reconnection time, for some events."""
        if kind in ("welcome", "position", "drain"):
            return f"{_retry(kind, data)}id: {cursor}\n\n"
        return None


class EventsFormat:
    """CloudEvents in JSON, one per line, plain or in a block with the cursor as its `id`."""

    name = "cloudevents"
    default_lag = "gap"

    def __init__(self, cursor: _CursorOf, wrap: _Wrap = chunk, *, blocks: bool) -> None:
        self._blocks = blocks

        def frame(entry: Entry) -> bytes:
            here = cursor(entry.offset)
            return wrap(self._block(encode(entry.notification, here), here))

        self.encode: Callable[[Entry], bytes] = frame

    def _block(self, event: bytes, cursor: str | None) -> bytes:
        if not event.isascii() or b"\n" in event or b"\r" in event:
            event = _JSON_LINE_END.sub(lambda found: _ON_ONE_LINE[found[0]], event)
        if not self._blocks:
            return event + b"\n"
        return (b"id: %b\n" % cursor.encode() if cursor else b"") + b"data: %b\n\n" % event

    def message(self, message: Message, cursor: str | None = None) -> str | bytes:
        """The event. Text or bytes become a notification first."""
        if not isinstance(message, Notification):
            message = Notification(message)
        return self._block(encode(message, cursor), cursor)

    def say(self, kind: str, data: Mapping[str, object], cursor: str | None) -> str | None:
        """The event `trionotify.KIND`. A block also has the reconnection time, if `kind` has one."""
        text = self._block(encode_own(kind, data, cursor), cursor).decode()
        return _retry(kind, data) + text if self._blocks else text


def stream_formats(cursor: _CursorOf, wrap: _Wrap = chunk) -> dict[tuple[str, str], Format]:
    """Return the formats of streams, by the names of the transport and of the format."""
    return {
        ("sse", "raw"): RawEventsFormat(cursor, wrap),
        ("sse", "cloudevents"): EventsFormat(cursor, wrap, blocks=True),
        ("ndjson", "cloudevents"): EventsFormat(cursor, wrap, blocks=False),
    }
