"""Requests for a stream: what they may ask for, and what HEAD is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trionotify.connection.stream import FIELDS, NDJSON, SSE_TYPE
from trionotify.errors import Refused
from trionotify.http.messages import Answer

if TYPE_CHECKING:
    from trionotify.http.messages import Request
    from trionotify.http.web_hub import WebHub
    from trionotify.model.query import Query

__all__ = ["stream_head", "stream_request"]


def stream_request(request: Request, kind: str) -> Request:
    """The request as any client's; raises `Refused` (400). NDJSON leaves no choice of the format."""
    if kind != NDJSON:
        return request
    if request.params.get("format") == "raw":
        raise Refused(400, f"format: {NDJSON} is of events; raw data is in {SSE_TYPE}")
    return attrs.evolve(request, format="cloudevents")


def stream_head(hub: WebHub, query: Query, kind: str, *, chunked: bool) -> Answer:
    """What HEAD is answered: the head, without the fields that say where a client stands who enters.

    Raises `Refused` (410).
    """
    hub.start(query)
    return Answer(200, b"", kind, (*FIELDS, ("Transfer-Encoding", "chunked")) if chunked else FIELDS)
