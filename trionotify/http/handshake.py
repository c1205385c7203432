"""The WebSocket handshake: its checks, and the 101 that opens the connection.

The request has been parsed and checked like any other, so nothing is left but to hash its key. A test
compares the answer with trio-websocket's, on which the Python client and `hub.attach` stand.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Final

from trionotify.errors import Refused
from trionotify.http.messages import nothing_at

if TYPE_CHECKING:
    from trionotify.connection.deflate import Deflate
    from trionotify.http.messages import Request

__all__ = ["check_upgrade", "switching_protocols", "wants_upgrade"]

#: Where WebSocket clients connect.
PATHS: Final = ("/", "/events")
#: The text that a server appends to the client's key before hashing (RFC 6455, section 1.3).
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def wants_upgrade(request: Request) -> bool:
    """Return whether the request is meant as a WebSocket handshake.

    In any other request the field `Upgrade` says nothing, least of all in HTTP/1.0 (RFC 9110, section
    7.8). But a handshake that a proxy has made HTTP/1.0, or one for another path, hears what is wrong.
    """
    if request.method != "GET" or "websocket" not in [n.lower() for n in request.tokens("upgrade")]:
        return False
    signs = (request.path in PATHS, request.header("sec-websocket-key") is not None)
    return all(signs) if request.http_version == "1.0" else any(signs)


def check_upgrade(request: Request) -> None:
    """Raise `Refused` if this isn't a valid WebSocket handshake (RFC 6455, section 4.2.1)."""
    if request.path not in PATHS:
        raise nothing_at(request, "; WebSocket clients connect to /events")
    if request.http_version != "1.1" or "upgrade" not in [
        token.lower() for token in request.tokens("connection")
    ]:
        raise Refused(
            400,
            "Connection: a WebSocket handshake must be HTTP/1.1 with Connection: Upgrade",
            logged="Connection",
        )
    if request.header("content-length") not in (None, "0") or request.header("transfer-encoding"):
        raise Refused(
            400, "Content-Length: a WebSocket handshake must not have a body", logged="Content-Length"
        )
    if request.header("sec-websocket-version") != "13":
        raise Refused(
            426,
            "Sec-WebSocket-Version: must be 13",
            logged="Sec-WebSocket-Version",
            headers=(("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")),
        )
    # A browser fails a connection that has none of the subprotocols of its page, and doesn't say why.
    offered = request.tokens("sec-websocket-protocol")
    if offered and request.subprotocol is None and request.header("origin") is not None:
        raise Refused(
            400,
            f"Sec-WebSocket-Protocol: {', '.join(offered):.200} is not served here, and a browser"
            " fails a connection without its subprotocol; offer cloudevents.json or none, or start"
            " the server with --subprotocol NAME",
            logged="Sec-WebSocket-Protocol",
        )
    try:
        key = base64.b64decode(request.header("sec-websocket-key") or "", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 16:
        raise Refused(
            400, "Sec-WebSocket-Key: must be the base64 of 16 bytes, once", logged="Sec-WebSocket-Key"
        )


def switching_protocols(request: Request, deflate: Deflate | None = None) -> bytes:
    """Return the 101 for a request that `check_upgrade` accepts, up to and including its empty line.

    `deflate` is the extension that was agreed on.
    """
    key = (request.header("sec-websocket-key") or "").encode()
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    fields = [b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: " + accept]
    if request.subprotocol:
        fields.append(b"Sec-WebSocket-Protocol: " + request.subprotocol.encode())
    if deflate is not None:
        fields.append(b"Sec-WebSocket-Extensions: " + deflate.answer.encode())
    return b"\r\n".join([b"HTTP/1.1 101 Switching Protocols", *fields, b"", b""])
