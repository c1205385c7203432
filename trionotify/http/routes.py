"""Routes, which map paths to the functions that answer them.

Clients (WebSockets and streams) are not here, because they don't get a response but a connection of
their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

import attrs

from trionotify.delivery.turns import OPERATORS
from trionotify.errors import Refused
from trionotify.http.access import admit, admit_operator
from trionotify.http.clients_page import disconnect, roster
from trionotify.http.files import FILES, PAGE, load_files
from trionotify.http.messages import NO_STORE, Answer, ReadBody, Request, nothing_at
from trionotify.http.metrics import CONTENT_TYPE, figures, render
from trionotify.http.negotiation import preferred
from trionotify.http.publish import post
from trionotify.http.tickets import LIFETIME, issue
from trionotify.http.tokens import METADATA
from trionotify.model.keys import TICKET

if TYPE_CHECKING:
    from trionotify.http.web_hub import WebHub

__all__ = ["ADMIN", "ALL", "PUBLIC", "Routes", "load_files", "respond"]

Handler = Callable[["WebHub", Request, ReadBody], Answer | Awaitable[Answer]]
#: Handlers by path and method. GET also answers HEAD.
Routes = Mapping[str, Mapping[str, Handler]]


_PUBLISHING: Final = "/events"
#: The target of an OPTIONS request about the server as a whole (RFC 9110, section 9.3.7).
_SERVER: Final = "*"


async def respond(hub: WebHub, routes: Routes, request: Request, read_body: ReadBody) -> Answer:
    """Return the answer to a request. Raises `Refused`, EOFError, and what the handler raises."""
    path = request.path
    if hub.tokens is not None and path == hub.tokens.metadata_path:
        path = METADATA
    methods: Mapping[str, Handler] | None = routes.get(path)
    if request.path == _SERVER:
        if request.method != "OPTIONS":
            raise Refused(400, "request target: * is only for OPTIONS", logged="request target")
        methods = {name: handler for at in routes.values() for name, handler in at.items()}
    hint = f"; to publish, POST to {_PUBLISHING}" if _is_lost(routes, request) else ""
    if methods is None:
        if request.method == "OPTIONS" and request.header("access-control-request-method"):
            # The page is allowed to ask, so that it can read the 404.
            return Answer(204, headers=hub.origins.preflight(request))
        raise nothing_at(request, hint)
    handler = methods.get("GET" if request.method == "HEAD" else request.method)
    if handler is None:
        allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])
        if request.method == "OPTIONS":
            return Answer(204, headers=(("Allow", allowed), *hub.origins.preflight(request)))
        detail = f"{request.method} is not allowed at {request.path}{hint}"
        logged = f"{request.method} is not allowed here"
        raise Refused(405, detail, headers=(("Allow", allowed),), logged=logged)
    answer = handler(hub, request, read_body)
    return answer if isinstance(answer, Answer) else await answer


def _is_lost(routes: Routes, request: Request) -> bool:
    """Return whether the request tries to publish at a path that isn't `/events`."""
    return request.method in ("POST", "PUT") and _PUBLISHING in routes


def _stream(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    raise Refused(
        406,
        "Accept: must be text/event-stream or application/x-ndjson here, or use a WebSocket",
        logged="Accept",
    )


#: The response to `GET /` for a program, such as a load balancer that checks whether the server is
#: there.
_WELCOME: Final = b"""\
This is trionotify, a notification server.

Connect a WebSocket to /events, or read it as text/event-stream or application/x-ndjson.
A POST to /events publishes.
"""


def _page(hub: WebHub, request: Request, read_body: ReadBody) -> Answer:
    """Serve the page to a browser and a short text to a program; refuse a broken handshake."""
    kinds = ("text/plain", "text/html")
    kind = preferred(request.header("accept"), kinds)
    # A handshake whose other headers a proxy has removed.
    if request.header("sec-websocket-key") is None and kind is not None:
        if kind == "text/html" and hub.page:
            return PAGE(hub, request, read_body)
        return Answer(200, _WELCOME, "text/plain", NO_STORE)
    raise Refused(
        426,
        "this is a WebSocket server; connect with a WebSocket client",
        logged="no WebSocket handshake",
        headers=(("Upgrade", "websocket"),),
    )


def _live(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    """Answer the liveness check. Nothing is checked but that the process answers."""
    return Answer(200, b"ok\n", "text/plain", NO_STORE)


async def _ready(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    """Answer the readiness check: whether to send clients to this server."""
    status = 200 if hub.ready else 503
    # A log that has lost something serves the rest, so clients should still be sent here.
    lost = {"damage": hub.log.damage, "epoch": hub.log.renewed}
    # The same holds while tokens are verified with old keys, or while Redis may evict the log.
    old = hub.tokens.problem if hub.tokens is not None else None
    known = {**lost, "danger": hub.log.danger, "keys": old}
    found = {**hub.checks(), **{name: text for name, text in known.items() if text}}
    if hub.log.node is not None:
        found["node"], found["tail"] = hub.log.node, f"{hub.log.tail_age:.1f} s old"
    lines = [f"{name}: {text}" for name, text in found.items()]
    # A problem may name files, so only operators who ask for it get it.
    verbose = "verbose" in request.params and await _is_operator(hub, request)
    brief = "ok, but the log has lost something" if any(lost.values()) else "ok"
    if not hub.ready:
        brief = "not ready"
    text = "\n".join(lines) if verbose else brief
    return Answer(status, f"{text}\n".encode(), "text/plain", NO_STORE)


async def _metrics(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    """Serve metrics, one request at a time, because each counts all clients."""
    await admit_operator(hub, request)
    kinds = ("text/plain", "application/json")
    async with hub.slow_lane.one_of(OPERATORS):
        if preferred(request.header("accept"), kinds) == "application/json":
            return Answer.json(figures(hub))
        return Answer(200, render(hub), CONTENT_TYPE, NO_STORE)


async def _is_operator(hub: WebHub, request: Request) -> bool:
    try:
        await admit_operator(hub, request)
    except Refused:
        return False
    return True


async def _clients(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    await admit_operator(hub, request)
    async with hub.slow_lane.one_of(OPERATORS):
        return Answer(200, await roster(hub, request.params), "application/json", NO_STORE)


async def _tickets(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    """Issue a ticket for the token of this request."""
    if hub.tokens is None or hub.tickets is None:
        raise nothing_at(request)
    if TICKET in request.params:
        raise Refused(400, "ticket: a ticket is not given for another one")
    if hub.secret is not None and hub.secret.is_borne_by(request):
        raise Refused(
            400, "ticket: a ticket stands for a token, not for the secret; sign the URL instead"
        )
    grant = await hub.tokens.grant(request, hub.origins)
    if grant is None:
        raise hub.tokens.missing()
    ticket = await issue(hub.tickets, grant)
    return Answer.json({"ticket": ticket, "expires_in": LIFETIME})


def _metadata(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    """Serve the metadata that tell a client where to get a token (RFC 9728)."""
    if hub.tokens is None:
        raise nothing_at(request)
    resource = hub.tokens.resource or f"https://{request.authority}"
    return Answer.json({"resource": resource, **hub.tokens.metadata})


async def _disconnect(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    await admit_operator(hub, request)
    filters = {name: text for name, text in request.params.items() if name != TICKET}
    async with hub.slow_lane.one_of(OPERATORS):
        return Answer.json({"disconnected": await disconnect(hub, filters)})


async def _nodes(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    """List the servers that share the log."""
    await admit_operator(hub, request)
    return Answer.json({"nodes": hub.log.nodes})


async def _admit_caller(hub: WebHub, request: Request) -> None:
    """Ask `authenticate` about an operator's request, if nothing else decides. Raises `Refused`."""
    if hub.secret is None and hub.tokens is None and hub.authenticate is not None:
        await admit(hub, request.as_operator())


def _for_the_admitted(handler: Callable[[WebHub, Request, ReadBody], Awaitable[Answer]]) -> Handler:
    """Restrict a handler to admitted clients, for the port that clients reach.

    Without a secret, `authenticate` is called for these requests, too.
    """

    async def ask(hub: WebHub, request: Request, read_body: ReadBody) -> Answer:
        await _admit_caller(hub, request)
        return await handler(hub, request, read_body)

    return ask


async def _ready_for_all(hub: WebHub, request: Request, read_body: ReadBody) -> Answer:
    """Answer the readiness check on the port that clients reach, and its details only if admitted."""
    if "verbose" in request.params:
        try:
            await _admit_caller(hub, request)
        except Refused:
            request = attrs.evolve(request, params={})
    return await _ready(hub, request, read_body)


PUBLIC: Final[Routes] = {
    "/": {"GET": _page},
    **{path: {"GET": file} for path, file in FILES.items()},
    _PUBLISHING: {"GET": _stream, "POST": post},
    "/tickets": {"POST": _tickets},
    METADATA: {"GET": _metadata},
}
ADMIN: Final[Routes] = {
    "/clients": {"GET": _clients, "DELETE": _disconnect},
    "/nodes": {"GET": _nodes},
    "/livez": {"GET": _live},
    "/readyz": {"GET": _ready},
    "/metrics": {"GET": _metrics},
}
ALL: Final[Routes] = {
    **PUBLIC,
    **ADMIN,
    "/clients": {"GET": _for_the_admitted(_clients), "DELETE": _for_the_admitted(_disconnect)},
    "/nodes": {"GET": _for_the_admitted(_nodes)},
    "/metrics": {"GET": _for_the_admitted(_metrics)},
    "/readyz": {"GET": _ready_for_all},
}
