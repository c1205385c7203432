"""A WebSocket client's connection: frames both ways.

half-open:  head read (h11), checked, authenticated       `http.requests`
handshake:  checked, and answered with the 101            `http.handshake`
open:       the session; the Wire has the frames          `http.serving`
closing:    shielded, under a deadline                    `Wire.aclose`
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self

import attrs

from trionotify.connection.connection import ClientConnection
from trionotify.connection.dialogue import publish
from trionotify.connection.frames import WEBSOCKET, FrameParser
from trionotify.connection.wire import Wire
from trionotify.errors import Disconnected
from trionotify.model.notification import Notification
from trionotify.model.query import Query, template

if TYPE_CHECKING:
    from trionotify.connection.formats import Format
    from trionotify.connection.transport import Transport
    from trionotify.delivery.clients import Client
    from trionotify.delivery.hub import Hub
    from trionotify.model.replies import Message

__all__ = ["WebSocketConnection"]


@attrs.define(eq=False)
class WebSocketConnection(ClientConnection):
    """Made by `enter`."""

    transport_name = "websocket"

    #: What its notifications are like, once it has published any.
    _template: Notification | None = attrs.field(default=None, init=False)

    @classmethod
    def enter(  # noqa: PLR0917 - what the request has come to
        cls,
        hub: Hub,
        format: Format,
        transport: Transport,
        client: Client,
        query: Query,
        early: bytes,
        response: bytes,
        *,
        max_message_bytes: int,
    ) -> Self:
        """Take a place in the log, and say so in the head of the 101, `response`.

        `early` is what came behind the request. Raises `Refused` (410).
        """
        self = cls(hub, client, format)
        wire = Wire(transport, FrameParser(max_message_bytes), self, early)
        fields, first = self._enter(transport, wire, query)
        # Had the kernel no room even for this, what is owed would go out before anything else.
        with suppress(Disconnected):
            hello = b"" if first is None else WEBSOCKET.message(first)
            wire.write(response[:-2] + fields.encode() + b"\r\n" + hello)
            hub.broadcast.join(self.position, self._told)
        return self

    async def publish(self, messages: tuple[Message, ...]) -> None:
        if self._template is None:
            self._template = template(self.client.params, self.client.id)
        await publish(self, self._template, messages)

    def _check_life(self, now: float) -> None:
        """Silent: ping it. Pinged and still silent: it is dead, drop it.

        While its session is busy and nobody reads it, silence doesn't count.
        """
        wire, settings = self.wire, self.hub.settings
        if wire.heard or not wire.reading:
            wire.heard = False
            self._silent_since, self._pinged_at = now, None
        elif self._pinged_at is not None:
            if now - self._pinged_at >= settings.ping_timeout:
                self._drop("was silent", now - self._silent_since)
        elif now - self._silent_since >= settings.ping_interval:
            wire.ping()
            self._pinged_at = now
