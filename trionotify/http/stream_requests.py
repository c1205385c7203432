"""Requests for a stream: their checks, and the answer to HEAD."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trionotify.connection.stream import FIELDS, NDJSON, SSE_TYPE, ZIPPED
from trionotify.errors import Refused
from trionotify.http.messages import Answer
from trionotify.http.negotiation import takes_gzip

if TYPE_CHECKING:
    from trionotify.http.messages import Request
    from trionotify.http.web_hub import WebHub
    from trionotify.model.query import Query

__all__ = ["stream_head", "stream_request", "takes_zipped_stream"]


def stream_request(request: Request, kind: str) -> Request:
    """Return the request with its format set for NDJSON. Raises `Refused` (400)."""
    if kind != NDJSON:
        return request
    if request.params.get("format") == "raw":
        raise Refused(
            400, f"format: {NDJSON} has events only; for raw data use {SSE_TYPE}", logged="format"
        )
    return attrs.evolve(request, format="cloudevents")


def takes_zipped_stream(request: Request) -> bool:
    """Return whether to send the client a stream in gzip.

    Clients that accept nothing but gzip get a plain stream. Their libraries (Go, OkHttp) ask for gzip on
    their own and report an error at its end, because it has no checksum (see `zipped`).
    """
    return len(request.tokens("accept-encoding")) > 1 and takes_gzip(request)


def stream_head(hub: WebHub, query: Query, kind: str, *, chunked: bool, zipped: bool) -> Answer:
    """The response to HEAD. It has no headers about a client's position, because no client connects.

    Raises `Refused` (410).
    """
    hub.start(query)
    coded = ((("Transfer-Encoding", "chunked"),) if chunked else ()) + ((ZIPPED,) if zipped else ())
    return Answer(200, b"", kind, (*FIELDS, *coded))
