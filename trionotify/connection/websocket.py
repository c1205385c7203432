"""A WebSocket client's connection. Its stages, and the modules where they run:

half-open:  head read, checked, authenticated             `http.requests`
handshake:  checked, and answered with the 101            `http.handshake`
open:       the session; the Wire has the frames          `http.serving`
closing:    shielded, under a deadline                    `closing`
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Self

import attrs

from trionotify.connection.connection import ClientConnection
from trionotify.connection.dialogue import publish
from trionotify.connection.frames import WEBSOCKET, FrameParser
from trionotify.connection.incoming import Incoming
from trionotify.connection.inflate import InflatingParser
from trionotify.connection.keepalive import Pings
from trionotify.connection.wire import Wire
from trionotify.model.query import Query

if TYPE_CHECKING:
    from trionotify.connection.deflate import Deflate
    from trionotify.connection.formats import Format
    from trionotify.connection.transport import Transport
    from trionotify.delivery.clients import Client
    from trionotify.delivery.hub import Hub

__all__ = ["WebSocketConnection"]


@attrs.define(eq=False)
class WebSocketConnection(ClientConnection):
    """Created by `enter`; ends with the connection's task."""

    transport_name = "websocket"

    publish = publish

    @classmethod
    def enter(  # noqa: PLR0917 - what the request has led to
        cls,
        hub: Hub,
        format: Format,
        transport: Transport,
        client: Client,
        query: Query,
        early: bytes,
        response: bytes,
        *,
        deflate: Deflate | None = None,
        max_message_bytes: int,
    ) -> Self:
        """Take a place in the log, and add it to `response`, the head of the 101.

        `early` are the bytes behind the request, and `deflate` is the extension that was agreed on.
        Raises `Refused` (410).
        """
        window_bits = deflate.client_window_bits if deflate else None
        incoming = Incoming(_parser_factory(max_message_bytes, window_bits), early)
        self = cls(hub, client, format, Wire(transport), incoming, Pings(hub.settings))
        fields, welcome = self.take_place(query)
        hello = b"" if welcome is None else WEBSOCKET.message(welcome)
        self.begin(response[:-2] + fields.encode() + b"\r\n" + hello)
        return self


@lru_cache(maxsize=64)
def _parser_factory(max_message_bytes: int, window_bits: int | None) -> Callable[[], FrameParser]:
    """Return a function that makes parsers, the same one for all clients alike."""
    if window_bits is None:
        return partial(FrameParser, max_message_bytes)
    return partial(InflatingParser, max_message_bytes, window_bits)
