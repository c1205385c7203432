"""The interface of a WebSocket that an application accepted, as `hub.attach` needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["AcceptedWebSocket"]


class AcceptedWebSocket(Protocol):
    """The interface that `hub.attach` needs. A `trio_websocket.WebSocketConnection` has it.

    If it is closed, the first two methods raise `trio_websocket.ConnectionClosed`.
    """

    async def get_message(self) -> str | bytes:
        """Wait for the next message. Only one task may call it."""

    async def send_message(self, message: str | bytes) -> None:
        """Send a message, and wait until it was handed to the network."""

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        """Close with this code and reason, and wait until it is closed."""

    @property
    def path(self) -> str | None:
        """The path of the request, with its query."""

    @property
    def handshake_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """The request's headers, with names in lower case."""

    @property
    def subprotocol(self) -> str | None:
        """The agreed subprotocol, if any."""

    @property
    def remote(self) -> object:
        """The peer, as an object with `address` and `port`, or as text."""
