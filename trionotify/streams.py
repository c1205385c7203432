"""A client over plain HTTP: the answer to `GET /events`, which doesn't end.

It is a client as any other: the same record, query, log, groups and lag policies; a publisher gets what
its filters want, and nothing without one. What it gets are blocks (`blocks`) instead of frames. It can't
say anything more, so it publishes with requests of their own; and it can't answer a Ping, so what shows
that it is gone is the kernel, which gets no acknowledgement for signs of life.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from email.utils import formatdate
from typing import TYPE_CHECKING, ClassVar, Final

import attrs

from trionotify.blocks import LINES, LINES_UNCHUNKED, SSE, SSE_UNCHUNKED, Nothing
from trionotify.connections import ClientConnection
from trionotify.errors import Disconnected, Refused
from trionotify.http import NOSNIFF, Answer
from trionotify.query import Query
from trionotify.wire import Wire

if TYPE_CHECKING:
    from trionotify.clients import Client
    from trionotify.formats import Message
    from trionotify.frames import Framing
    from trionotify.http import Request
    from trionotify.hub import Hub
    from trionotify.transport import Transport

__all__ = ["STREAMS", "StreamConnection", "stream_head", "stream_request"]

_SSE: Final = "text/event-stream"
_NDJSON: Final = "application/x-ndjson"
#: What streams are called in `Accept`, the preferred one first.
STREAMS: Final = (_SSE, _NDJSON)

#: What compresses a stream, or collects it, holds back what is to be seen at once: `no-transform` stops
#: the compression of development servers, the other field nginx and what follows its fashion.
_FIELDS: Final = (
    ("Cache-Control", "no-store, no-transform"),
    ("X-Accel-Buffering", "no"),
    NOSNIFF,
)


def stream_request(request: Request, kind: str) -> Request:
    """The request as any client's; raises `Refused` (400). NDJSON leaves no choice of the format."""
    if kind != _NDJSON:
        return request
    if request.params.get("format") == "raw":
        raise Refused(400, f"format: {_NDJSON} is of events; raw data is in {_SSE}")
    return attrs.evolve(request, format="cloudevents")


def stream_head(hub: Hub, query: Query, kind: str, *, chunked: bool) -> Answer:
    """What HEAD is answered: the head, without the fields that say where a client stands who enters.

    Raises `Refused` (410).
    """
    hub.start(query)
    return Answer(200, b"", kind, (*_FIELDS, ("Transfer-Encoding", "chunked")) if chunked else _FIELDS)


@attrs.define(eq=False)
class StreamConnection(ClientConnection):
    """Made by `enter`, of one of the two kinds below."""

    framing: ClassVar[Framing]
    unchunked: ClassVar[Framing]

    @staticmethod
    def enter(  # noqa: PLR0917 - what the request has come to
        hub: Hub,
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
        formats = hub.stream_formats if chunked else hub.unchunked_formats
        framing = made.framing if chunked else made.unchunked
        self = made(hub, client, formats[made.transport_name, query.format])
        wire = Wire(transport, Nothing(), self, framing=framing)
        ours, first = self._enter(transport, wire, query)
        transport.expect_acknowledgements(hub.settings.stall_timeout)
        given = [("Date", formatdate(usegmt=True)), ("Content-Type", kind), *_FIELDS, *fields]
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
