"""HTTP/1.1: every request's head, read by h11, and the answer to all that isn't a WebSocket client.

An answer that is not the 101 is an RFC 9457 problem document, and the last thing on its connection.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import attrs
import h11

from trionotify.clients import Client
from trionotify.errors import Refused
from trionotify.formats import SUBPROTOCOL
from trionotify.jsontext import write_json
from trionotify.predicates import DEFAULT_LIMITS, FilterLimits
from trionotify.query import Query, parse_query

if TYPE_CHECKING:
    from trionotify.transport import Transport

__all__ = ["Request", "check_upgrade", "client_of", "problem", "read_head", "request_of"]

#: Where WebSocket clients connect.
PATHS: Final = ("/", "/events")


@attrs.frozen
class Request:
    """The head of a request.

    `path` is percent-decoded and without the query, which is in `params`; `headers` are in order, their
    names in lower case; `remote` is the peer's address as text.
    """

    method: str
    path: str
    params: Mapping[str, str]
    headers: tuple[tuple[str, str], ...]
    remote: str
    http_version: str = "1.1"
    _limits: FilterLimits = DEFAULT_LIMITS
    _joined: dict[str, str] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        joined: dict[str, str] = {}
        for name, value in self.headers:
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        object.__setattr__(self, "_joined", joined)

    def header(self, name: str) -> str | None:
        """The value of the header `name` (in lower case), several joined by commas; None if absent."""
        return self._joined.get(name)

    def tokens(self, name: str) -> list[str]:
        """The items of a header that is a comma-separated list, as they are."""
        return [item for part in (self.header(name) or "").split(",") if (item := part.strip())]

    def client(self, id: str | None = None) -> Client:
        """The client that the query names, or `id` in its place, with the query's filter registered.

        What an `authenticate` returns when it has nothing to add. Raises `Refused` (400).
        """
        return client_of(self, self.query(id))

    def query(self, id: str | None = None) -> Query:
        """What the query says; raises `Refused` (400)."""
        return Query.of(self.params, id, subprotocol=self.subprotocol, limits=self._limits)

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that is agreed on: ours, if the client offers it."""
        return SUBPROTOCOL if SUBPROTOCOL in self.tokens("sec-websocket-protocol") else None


def client_of(request: Request, query: Query) -> Client:
    """The client that a query, which is the request's, names."""
    client = Client(query.id, request.params, query.role, request.remote)
    client.made_of_query = True
    if query.filter is not None:
        client.subscribe(query.filter)
    return client


async def read_head(transport: Transport, max_head_bytes: int) -> tuple[h11.Request, bytes]:
    """Read one request's head; return it, and what the peer sent behind it already.

    Raises `Refused` with the right status for what can't be understood, and EOFError when the peer
    leaves before it has said anything whole. A checkpoint when it has to wait.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head_bytes)
    size = 0
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            try:
                # Often the head came along with the connection.
                data = transport.receive_nowait()
            except BlockingIOError:
                data = await transport.receive_some()
            if not data:
                raise EOFError
            size += len(data)
            connection.receive_data(data)
    except h11.RemoteProtocolError as error:
        raise Refused(error.error_status_hint, f"not a request that can be read: {error}") from None
    if not isinstance(event, h11.Request):
        raise EOFError
    early = connection.trailing_data[0]
    # h11 looks at the size of what is incomplete only: a head may arrive as one piece.
    if size - len(early) > max_head_bytes:
        raise Refused(431, f"a request's head may have at most {max_head_bytes} bytes")
    return event, early


def request_of(head: h11.Request, remote: str, limits: FilterLimits) -> Request:
    """What `authenticate` sees of a head; raises `Refused` (400) when its query can't be read."""
    target = head.target.decode("ascii")
    if target.lower().startswith(("http://", "https://")):
        # The absolute form (RFC 9112, section 3.2.2): its authority says nothing that Host doesn't.
        target = "/" + target.partition("://")[2].partition("/")[2]
    path, _, query = target.partition("?")
    return Request(
        method=head.method.decode("ascii"),
        path=unquote(path),
        params=parse_query(query),
        # Lowered here: h11's own lower-case view is slow to go through.
        headers=tuple(
            [(n.decode("ascii").lower(), v.decode("latin-1")) for n, v in head.headers.raw_items()]
        ),
        remote=remote,
        http_version=head.http_version.decode("ascii"),
        limits=limits,
    )


def check_upgrade(request: Request) -> None:
    """Return if this is a good WebSocket handshake (RFC 6455, section 4.2.1); else raise `Refused`."""
    if request.path not in PATHS:
        raise Refused(404, f"nothing is at {request.path!r}; WebSocket clients connect to /events")
    if request.method != "GET":
        raise Refused(405, f"{request.method} is not allowed here", headers=(("Allow", "GET"),))
    if "websocket" not in [token.lower() for token in request.tokens("upgrade")]:
        raise Refused(
            426,
            "this is a WebSocket server: connect with a WebSocket client",
            headers=(("Upgrade", "websocket"),),
        )
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
    try:
        key = base64.b64decode(request.header("sec-websocket-key") or "", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 16:
        raise Refused(400, "Sec-WebSocket-Key: the base64 of 16 bytes is needed, once")


def problem(refused: Refused, method: str = "GET") -> bytes:
    """The whole answer: a head that closes the connection, and an RFC 9457 problem document."""
    try:
        title = HTTPStatus(refused.status).phrase
    except ValueError:
        title = "Refused"
    document = {
        "type": "about:blank",
        "title": title,
        "status": refused.status,
        "detail": refused.detail.encode(errors="replace").decode(),  # an application may say anything
    }
    body = write_json(document)
    upgrade = any(name.lower() == "upgrade" for name, _ in refused.headers)
    response = h11.Response(
        status_code=refused.status,
        reason=title.encode(),
        headers=[
            ("Content-Type", "application/problem+json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Connection", "Upgrade, close" if upgrade else "close"),
            *refused.headers,
        ],
    )
    # Only the writing half of h11 is used here: it knows how to spell a head.
    writer = h11.Connection(h11.SERVER)
    head = writer.send(response)
    assert head is not None  # h11 returns None for ConnectionClosed alone
    return head if method == "HEAD" else head + body
