"""The WebSocket handshake: the request judged, and the 101 that opens the connection.

It is trio-websocket's, through its public API. It runs on a small stream that gives it the request,
which was checked already, and collects what it answers. Then it is told that the stream is at its end,
and lets go. The frames are the Wire's, for the reasons in docs/how-it-works.md.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final

import trio
import trio_websocket

from trionotify.errors import Refused
from trionotify.http import nothing_at

if TYPE_CHECKING:
    from trionotify.http import Request

__all__ = ["check_upgrade", "shake_hands", "wants_upgrade"]

#: Where WebSocket clients connect.
PATHS: Final = ("/", "/events")


def wants_upgrade(request: Request) -> bool:
    """Whether this is meant to be a WebSocket handshake."""
    return "websocket" in [token.lower() for token in request.tokens("upgrade")]


def check_upgrade(request: Request) -> None:
    """Return if this is a good WebSocket handshake (RFC 6455, section 4.2.1); else raise `Refused`."""
    if request.path not in PATHS:
        raise nothing_at(request, "; WebSocket clients connect to /events")
    if request.method != "GET":
        raise Refused(405, f"{request.method} is not allowed here", headers=(("Allow", "GET"),))
    if request.http_version != "1.1" or "upgrade" not in [
        token.lower() for token in request.tokens("connection")
    ]:
        raise Refused(400, "a WebSocket handshake is HTTP/1.1 with the header Connection: Upgrade")
    if request.header("content-length") not in (None, "0") or request.header("transfer-encoding"):
        raise Refused(400, "a WebSocket handshake has no body")
    if request.header("sec-websocket-version") != "13":
        raise Refused(
            426,
            "Sec-WebSocket-Version: 13 is needed",
            headers=(("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")),
        )
    # A browser fails a connection that has none of the subprotocols of its page, and doesn't say why.
    offered = request.tokens("sec-websocket-protocol")
    if offered and request.subprotocol is None and request.header("origin") is not None:
        raise Refused(
            400,
            f"Sec-WebSocket-Protocol: {', '.join(offered):.200} is not served here, and without a"
            " subprotocol a browser fails the connection; offer cloudevents.json or none, or start the"
            " server with --subprotocol NAME",
        )
    try:
        key = base64.b64decode(request.header("sec-websocket-key") or "", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 16:
        raise Refused(400, "Sec-WebSocket-Key: the base64 of 16 bytes is needed, once")


class _Script(trio.abc.Stream):
    """A stream that plays the request to trio-websocket, and keeps what it answers."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._over = trio.Event()
        self.answer = b""

    def finish(self) -> None:
        """From now on, the end of the file."""
        self._over.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        # No checkpoint but where there is something to wait for: it would be half of what this costs.
        if self._request:
            request, self._request = self._request, b""
            return request
        await self._over.wait()
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.answer += data

    async def wait_send_all_might_not_block(self) -> None:
        """It never blocks."""

    async def aclose(self) -> None:
        self.finish()


async def shake_hands(request: Request) -> bytes:
    """Let trio-websocket answer the handshake; return its 101."""
    # Only what it has to know: the rest of the head was judged before, and can't confuse it.
    subprotocol = request.subprotocol
    script = _Script(
        b"GET / HTTP/1.1\r\nHost: trionotify\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        + (f"Sec-WebSocket-Protocol: {subprotocol}\r\n".encode() if subprotocol else b"")
        + b"Sec-WebSocket-Key: "
        + (request.header("sec-websocket-key") or "").encode()
        + b"\r\n\r\n"
    )
    async with trio.open_nursery() as nursery:
        proposal = await trio_websocket.wrap_server_stream(nursery, script)
        await proposal.accept(subprotocol=subprotocol)
        script.finish()
    return script.answer
