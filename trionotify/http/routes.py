"""Routes: what is at which path, and who answers for it.

Clients (WebSockets and streams) are not here: they don't get an answer but a connection of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import attrs

from trionotify.delivery.turns import OPERATORS
from trionotify.errors import Refused
from trionotify.http.access import admit
from trionotify.http.clients_page import roster
from trionotify.http.messages import NO_STORE, Answer, ReadBody, Request, nothing_at, preferred
from trionotify.http.metrics import CONTENT_TYPE, figures, render
from trionotify.http.publish import post

if TYPE_CHECKING:
    from trionotify.http.web_hub import WebHub

__all__ = ["ADMIN", "ALL", "PUBLIC", "Routes", "load_files", "respond"]

Handler = Callable[["WebHub", Request, ReadBody], Answer | Awaitable[Answer]]
#: By path, and there by method. GET answers for HEAD.
Routes = Mapping[str, Mapping[str, Handler]]


_PUBLISHING: Final = "/events"
#: What OPTIONS may be asked about: the server as a whole (RFC 9110, section 9.3.7).
_SERVER: Final = "*"


async def respond(hub: WebHub, routes: Routes, request: Request, read_body: ReadBody) -> Answer:
    """The answer to a request; raises `Refused`, EOFError, and whatever a handler does."""
    methods: Mapping[str, Handler] | None = routes.get(request.path)
    if request.path == _SERVER:
        if request.method != "OPTIONS":
            raise Refused(400, "the request's target: * is for OPTIONS alone")
        methods = {name: handler for at in routes.values() for name, handler in at.items()}
    hint = f"; publish with a POST to {_PUBLISHING}" if _is_lost(routes, request) else ""
    if methods is None:
        if request.method == "OPTIONS" and request.header("access-control-request-method"):
            # The page may ask, so that it can read that nothing is there.
            return Answer(204, headers=hub.origins.preflight(request))
        raise nothing_at(request, hint)
    allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])
    if request.method == "OPTIONS":
        return Answer(204, headers=(("Allow", allowed), *hub.origins.preflight(request)))
    handler = methods.get("GET" if request.method == "HEAD" else request.method)
    if handler is None:
        detail = f"{request.method} is not allowed at {request.path}{hint}"
        logged = f"{request.method} is not allowed here"
        raise Refused(405, detail, headers=(("Allow", allowed),), logged=logged)
    answer = handler(hub, request, read_body)
    return answer if isinstance(answer, Answer) else await answer


def _is_lost(routes: Routes, request: Request) -> bool:
    """Whether somebody wants to publish, and this is another path."""
    return request.method in ("POST", "PUT") and _PUBLISHING in routes


def _stream(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    raise Refused(
        406,
        "Accept: a stream of text/event-stream or application/x-ndjson is here, or a WebSocket",
    )


#: What `GET /` says to a program, such as a load balancer that checks whether the server is there.
_WELCOME: Final = b"""\
This is trionotify, a notification server.

Connect a WebSocket to /events, or read it as text/event-stream or application/x-ndjson.
A POST to /events publishes.
"""


def _page(hub: WebHub, request: Request, read_body: ReadBody) -> Answer:
    """For a person, the page; for a program, what this is; else it wants a WebSocket."""
    kinds = ("text/plain", "text/html")
    kind = preferred(request.header("accept"), kinds)
    # A handshake whose other fields a proxy has left out.
    if request.header("sec-websocket-key") is None and kind is not None:
        if kind == "text/html" and hub.page:
            return _PAGE(hub, request, read_body)
        return Answer(200, _WELCOME, "text/plain", NO_STORE)
    raise Refused(
        426,
        "this is a WebSocket server: connect with a WebSocket client",
        headers=(("Upgrade", "websocket"),),
    )


def _live(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    """The process answers: that is all."""
    return Answer(200, b"ok\n", "text/plain", NO_STORE)


def _ready(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    """Whether clients should be sent here."""
    status = 200 if hub.ready else 503
    # A log that has lost something serves what it has: clients should still be sent here.
    lost = {"damage": hub.log.damage, "epoch": hub.log.renewed}
    found = {**hub.checks(), **{name: text for name, text in lost.items() if text}}
    lines = [f"{name}: {text}" for name, text in found.items()]
    # What is wrong may name files: who asks for no more gets no more, nor who may not know.
    verbose = "verbose" in request.params and (hub.secret is None or hub.secret.is_borne_by(request))
    brief = "ok, but the log has lost something" if any(lost.values()) else "ok"
    if not hub.ready:
        brief = "not ready"
    text = "\n".join(lines) if verbose else brief
    return Answer(status, f"{text}\n".encode(), "text/plain", NO_STORE)


async def _metrics(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    """For Prometheus, or as JSON. It counts all clients, so it serves one request at a time."""
    _check_operator(hub, request)
    async with hub.slow_lane.one_of(OPERATORS):
        return _figures(hub, request)


def _figures(hub: WebHub, request: Request) -> Answer:
    if preferred(request.header("accept"), ("text/plain", "application/json")) == "application/json":
        return Answer.json(figures(hub))
    return Answer(200, render(hub), CONTENT_TYPE, NO_STORE)


def _check_operator(hub: WebHub, request: Request) -> None:
    """Return if this may be seen; raises `Refused` (401)."""
    if hub.secret is not None:
        hub.secret.check_bearer(request, request.path)


async def _clients(hub: WebHub, request: Request, _: ReadBody) -> Answer:
    _check_operator(hub, request)
    async with hub.slow_lane.one_of(OPERATORS):
        return Answer(200, await roster(hub, request.params), "application/json", NO_STORE)


def _for_the_admitted(handler: Callable[[WebHub, Request, ReadBody], Awaitable[Answer]]) -> Handler:
    """What is at a port that anyone reaches: without a secret, `authenticate` is asked about it, too."""

    async def ask(hub: WebHub, request: Request, read_body: ReadBody) -> Answer:
        if hub.secret is None and hub.authenticate is not None:
            # Its keys are those of a page of clients: they are no client's.
            await admit(hub, attrs.evolve(request, allowed=None))
        return await handler(hub, request, read_body)

    return ask


@functools.cache
def _contents(name: str) -> bytes:
    return files("trionotify").joinpath("web", name).read_bytes()


def load_files() -> None:
    """Read the package's own files, as long as the process has descriptors for that. Blocks."""
    for methods in PUBLIC.values():
        for handler in (*methods.values(), _PAGE):
            if isinstance(handler, _File):
                _contents(handler.name)


@attrs.frozen
class _File:
    """A file of the package's own."""

    name: str
    content_type: str

    def __call__(self, hub: WebHub, request: Request, _: ReadBody) -> Answer:
        return Answer(200, _contents(self.name), self.content_type, _OF_FILES)


#: The page gets all that it needs from here, and runs nothing else.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_OF_FILES: Final = (
    ("Cache-Control", "no-cache"),
    ("Content-Security-Policy", _POLICY),
    ("Referrer-Policy", "no-referrer"),
)
_SCRIPT: Final = "text/javascript; charset=utf-8"
_STYLE: Final = "text/css; charset=utf-8"
_PAGE: Final = _File("page.html", "text/html; charset=utf-8")

PUBLIC: Final[Routes] = {
    "/": {"GET": _page},
    "/page.js": {"GET": _File("page.js", _SCRIPT)},
    "/page.css": {"GET": _File("page.css", _STYLE)},
    "/vendor/uplot.js": {"GET": _File("vendor/uplot.js", _SCRIPT)},
    "/vendor/uplot.css": {"GET": _File("vendor/uplot.css", _STYLE)},
    "/trionotify.js": {"GET": _File("trionotify.js", _SCRIPT)},
    "/trionotify.d.ts": {"GET": _File("trionotify.d.ts", "text/plain; charset=utf-8")},
    _PUBLISHING: {"GET": _stream, "POST": post},
}
ADMIN: Final[Routes] = {
    "/clients": {"GET": _clients},
    "/livez": {"GET": _live},
    "/readyz": {"GET": _ready},
    "/metrics": {"GET": _metrics},
}
ALL: Final[Routes] = {
    **PUBLIC,
    **ADMIN,
    "/clients": {"GET": _for_the_admitted(_clients)},
    "/metrics": {"GET": _for_the_admitted(_metrics)},
}
