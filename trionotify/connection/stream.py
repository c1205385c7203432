"""A client over plain HTTP: the answer to `GET /events`, which doesn't end.

It is a client as any other: the same record, query, log, groups and lag policies; a publisher gets what
its filters want, and nothing without one. What it gets are blocks (`sse`) instead of frames. It can't
say anything more, so it publishes with requests of their own; and it can't answer a Ping, so what shows
that it is gone is the kernel, which gets no acknowledgement for signs of life.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from email.utils import formatdate
from typing import TYPE_CHECKING, ClassVar, Final

import attrs

from trionotify.connection.connection import ClientConnection
from trionotify.connection.sse import LINES, LINES_UNCHUNKED, SSE, SSE_UNCHUNKED, Nothing
from trionotify.connection.wire import Wire
from trionotify.errors import Disconnected
from trionotify.model.media import NOSNIFF
from trionotify.model.query import Query

if TYPE_CHECKING:
    from trionotify.connection.formats import Format
    from trionotify.connection.frames import Framing
    from trionotify.connection.transport import Transport
    from trionotify.delivery.clients import Client
    from trionotify.delivery.hub import Hub
    from trionotify.model.replies import Message

__all__ = ["FIELDS", "NDJSON", "SSE_TYPE", "STREAMS", "StreamConnection"]

SSE_TYPE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
#: What streams are called in `Accept`, the preferred one first.
STREAMS: Final = (SSE_TYPE, NDJSON)

#: What compresses a stream, or collects it, holds back what is to be seen at once: `no-transform` stops
#: the compression of development servers, the other field nginx and what follows its fashion.
FIELDS: Final = (
    ("Cache-Control", "no-store, no-transform"),
    ("X-Accel-Buffering", "no"),
    NOSNIFF,
)


@attrs.define(eq=False)
class StreamConnection(ClientConnection):
    """Made by `enter`, of one of the two kinds below."""

    framing: ClassVar[Framing]
    unchunked: ClassVar[Framing]

    @staticmethod
    def enter(  # noqa: PLR0917 - what the request has come to
        hub: Hub,
        formats: Mapping[tuple[str, str], Format],
        transport: Transport,
        client: Client,
        query: Query,
        kind: str,
        fields: Iterable[tuple[str, str]],
        *,
        chunked: bool,
    ) -> StreamConnection:
        """Take a place in the log, and say so in the head, with further `fields`.

        HTTP/1.0 has it not `chunked`: it ends with the connection, and a loss may look like its end. A
        client resumes by its cursor behind either.

        Raises `Refused` (410).
        """
        made = _EventStream if kind == STREAMS[0] else _Lines
        framing = made.framing if chunked else made.unchunked
        self = made(hub, client, formats[made.transport_name, query.format])
        wire = Wire(transport, Nothing(), self, framing=framing)
        ours, first = self._enter(transport, wire, query)
        transport.expect_acknowledgements(hub.settings.stall_timeout)
        given = [("Date", formatdate(usegmt=True)), ("Content-Type", kind), *FIELDS, *fields]
        head = "HTTP/1.1 200 OK\r\n" + ("Transfer-Encoding: chunked\r\n" if chunked else "")
        head += "Connection: close\r\n"
        head += "".join([f"{field}: {value}\r\n" for field, value in given]) + ours
        with suppress(Disconnected):
            hello = b"" if first is None else framing.message(first)
            wire.write(head.encode() + b"\r\n" + hello)
            hub.broadcast.join(self.position, self._told)
        return self

    async def publish(self, messages: tuple[Message, ...]) -> None:
        raise ValueError("a client on a stream has nothing to publish")

    def _check_life(self, now: float) -> None:
        """Say something now and then: proxies end what is silent, and the kernel sees who is gone."""
        # Where its position moved, something was written.
        if now - max(self._silent_since, self._told_at) >= self.hub.settings.ping_interval:
            self._silent_since = now
            self.wire.ping()


class _EventStream(StreamConnection):
    transport_name = "sse"
    framing, unchunked = SSE, SSE_UNCHUNKED


class _Lines(StreamConnection):
    transport_name = "ndjson"
    framing, unchunked = LINES, LINES_UNCHUNKED
