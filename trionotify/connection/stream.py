"""A client over plain HTTP: the answer to `GET /events`, which doesn't end.

It has the same record, query, log, groups and lag policies as any other client. A publisher gets what
its filters want, and nothing without filters. It gets blocks (`sse`) instead of frames. It can't send
messages, so it publishes with separate requests. It can't answer a Ping either, so the kernel has to
find out that it is gone, when the server's pings aren't acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING, ClassVar, Final

import attrs

from trionotify.connection.connection import ClientConnection
from trionotify.connection.frames import Nothing
from trionotify.connection.incoming import Incoming
from trionotify.connection.keepalive import SignsOfLife
from trionotify.connection.sse import LINES, LINES_UNCHUNKED, SSE, SSE_UNCHUNKED
from trionotify.connection.wire import Wire
from trionotify.connection.zipped import HEADER, LINES_ZIPPED, SSE_ZIPPED
from trionotify.model.media import NOSNIFF
from trionotify.model.query import Query

if TYPE_CHECKING:
    from trionotify.connection.formats import Format
    from trionotify.connection.frames import Framing
    from trionotify.connection.transport import Transport
    from trionotify.delivery.clients import Client
    from trionotify.delivery.hub import Hub
    from trionotify.model.replies import Message

__all__ = ["FIELDS", "NDJSON", "SSE_TYPE", "STREAMS", "ZIPPED", "StreamConnection"]

SSE_TYPE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
#: The media types of streams in `Accept`, the preferred one first.
STREAMS: Final = (SSE_TYPE, NDJSON)

#: Proxies that compress or buffer a stream delay its events. `no-transform` turns off the compression
#: of development servers, and `X-Accel-Buffering` the buffering of nginx and similar proxies.
FIELDS: Final = (
    ("Cache-Control", "no-store, no-transform"),
    ("X-Accel-Buffering", "no"),
    ("Vary", "Accept-Encoding"),
    NOSNIFF,
)
ZIPPED: Final = ("Content-Encoding", "gzip")


@attrs.define(eq=False)
class StreamConnection(ClientConnection):
    """Created by `enter`, as one of the two kinds below; ends with the connection's task."""

    framing: ClassVar[Framing]
    unchunked: ClassVar[Framing]
    zipped: ClassVar[Framing]

    @staticmethod
    def enter(  # noqa: PLR0917 - what the request has led to
        hub: Hub,
        formats: Mapping[tuple[str, str], Format],
        transport: Transport,
        client: Client,
        query: Query,
        kind: str,
        fields: Iterable[tuple[str, str]],
        *,
        chunked: bool,
        zipped: bool,
    ) -> StreamConnection:
        """Take a place in the log, and answer the request with it and with the headers `fields`.

        An HTTP/1.0 answer is not `chunked`. It ends with the connection, so a loss may look like its
        end. After either, a client resumes by its cursor. Only a chunked one may be `zipped`. Raises
        `Refused` (410).
        """
        made = _EventStream if kind == STREAMS[0] else _Lines
        framing = made.zipped if zipped else made.framing if chunked else made.unchunked
        format, wire = formats[made.transport_name, query.format], Wire(transport, framing)
        self = made(hub, client, format, wire, Incoming(Nothing), SignsOfLife(hub.settings))
        ours, welcome = self.take_place(query)
        transport.expect_acknowledgements(hub.settings.stall_timeout)
        given = [("Date", formatdate(usegmt=True)), ("Content-Type", kind), *FIELDS, *fields]
        given += [ZIPPED] if zipped else []
        head = "HTTP/1.1 200 OK\r\n" + ("Transfer-Encoding: chunked\r\n" if chunked else "")
        head += "Connection: close\r\n"
        head += "".join([f"{field}: {value}\r\n" for field, value in given]) + ours
        hello = b"" if welcome is None else framing.message(welcome)
        self.begin(head.encode() + b"\r\n" + (HEADER if zipped else b"") + hello)
        return self

    async def publish(self, messages: tuple[Message, ...]) -> None:
        raise ValueError("a client on a stream can't publish")


class _EventStream(StreamConnection):
    transport_name = "sse"
    framing, unchunked, zipped = SSE, SSE_UNCHUNKED, SSE_ZIPPED


class _Lines(StreamConnection):
    transport_name = "ndjson"
    framing, unchunked, zipped = LINES, LINES_UNCHUNKED, LINES_ZIPPED
