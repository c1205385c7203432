"""HTTP as values: the request that `authenticate` and every handler gets, and the answer to it.

A refusal is answered with an RFC 9457 problem document. `http.connection` turns bytes into requests and
answers into bytes, and `routes` finds the handler. There is no I/O and no state here.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote

import attrs

from trionotify.connection.formats import chosen
from trionotify.delivery.clients import Client
from trionotify.errors import Refused, encodable, problem_document, reason_of
from trionotify.http.authorities import parse_authority
from trionotify.model.filters import DEFAULT_LIMITS
from trionotify.model.jsontext import write_json
from trionotify.model.media import NOSNIFF
from trionotify.model.query import Filters, Query, parse_query
from trionotify.settings import FilterLimits

if TYPE_CHECKING:
    from trionotify.http.heads import Head

__all__ = [
    "NO_STORE",
    "Answer",
    "Authenticate",
    "ReadBody",
    "Request",
    "client_of",
    "nothing_at",
    "problem",
    "request_of",
]

#: Reads the request's body, which may have at most this many bytes. Raises `Refused` or EOFError.
ReadBody = Callable[[int], Awaitable[bytes]]


#: A function, sync or async, that returns the `Client` of a request, or raises `Refused`.
Authenticate = Callable[["Request"], Client | Awaitable[Client]]


@attrs.frozen
class Request:
    """The head of a request. Created by the connection's task, and frozen.

    `path` is percent-decoded and without the query, which is in `params`. `headers` are in order, with
    names in lower case. `remote` is the peer's address as text. `format` is set if the transport leaves
    the client no choice. `authority` is the host that the request is for, perhaps with a port, in lower
    case. It comes from an absolute target, or else from the header `Host`. `secure` says whether the
    request came over TLS, to this server or to a trusted proxy in front of it.
    """

    method: str
    path: str
    params: Mapping[str, str]
    headers: tuple[tuple[str, str], ...]
    remote: str
    http_version: str = "1.1"
    format: str | None = None
    authority: str = ""
    secure: bool = False
    _limits: FilterLimits = DEFAULT_LIMITS
    _subprotocols: tuple[str, ...] = ()
    #: The application's own keys of the query, if only these are allowed.
    _allowed: frozenset[str] | None = None
    _joined: dict[str, str] = attrs.field(init=False, repr=False, eq=False)
    #: The filters of the query, once parsed. At most one item.
    _filters: list[Filters] = attrs.field(factory=list, init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        joined: dict[str, str] = {}
        for name, value in self.headers:
            # Cookies are separated by semicolons (RFC 6265, section 5.4). HTTP/2 and proxies split
            # them.
            comma = "; " if name == "cookie" else ", "
            joined[name] = f"{joined[name]}{comma}{value}" if name in joined else value
        object.__setattr__(self, "_joined", joined)

    def header(self, name: str) -> str | None:
        """The value of the header `name` (in lower case); None if it is absent.

        Several values are joined by commas, those of `cookie` by semicolons.
        """
        return self._joined.get(name)

    def tokens(self, name: str) -> list[str]:
        """The items of a header that is a comma-separated list, unchanged."""
        text = self._joined.get(name)
        return [item for part in text.split(",") if (item := part.strip())] if text else []

    def client(self, id: str | None = None) -> Client:
        """The client that the query names, or `id` instead.

        Return it from `authenticate`. Predicates that you register on it limit the client. The query's
        own filter applies within them, once `authenticate` has returned. Raises `Refused` (400).
        """
        client = client_of(self, self.query(id))
        client.named = client.named or id is not None
        return client

    def query(self, id: str | None = None, known: Collection[str] = ()) -> Query:
        """The meaning of the query and of the header `Last-Event-ID`. Raises `Refused` (400).

        `known` are keys that are allowed in addition to the server's `allow_params`.
        """
        if self.method != "POST" and "audience" in self.params:
            raise Refused(
                400,
                "audience: allowed only in the query of a POST; on a connection, give each event"
                " the attribute audience (format=cloudevents)",
                logged="audience",
            )
        return Query.of(
            self.params,
            id,
            subprotocol=self.subprotocol,
            format=self.format,
            # A browser that reconnects sends the same URL, with its position in this header.
            last_event_id=self.header("last-event-id"),
            limits=self._limits,
            filters=self._filters[0] if self._filters else None,
            allowed=self._allowed if self._allowed is None else self._allowed.union(known),
        )

    def lists(self, key: str) -> bool:
        """Return whether the server's `allow_params` has this key."""
        return self._allowed is not None and key in self._allowed

    @property
    def has_long_filters(self) -> bool:
        """Whether parsing the filters of the query may take more than a turn."""
        return not self._filters and Filters.are_long(self.params)

    def read_filters(self) -> None:
        """Parse the filters of the query now, and only once. Raises `Refused` (400)."""
        self._filters[:] = [Filters.of(self.params, self._limits)]

    def __reduce__(self) -> tuple[Callable[..., Request], tuple[type[Request], dict[str, object]]]:
        """Copy and pickle it as its fields, because Python doesn't pickle a read-only mapping."""
        given: dict[Any, object] = {
            each.alias: getattr(self, each.name) for each in attrs.fields(Request) if each.init
        }
        return _unpickled, (type(self), {**given, "params": dict(self.params)})

    def as_operator(self) -> Self:
        """The request of an operator, whose query selects clients and doesn't describe one."""
        request = attrs.evolve(self, allowed=None)
        request._filters[:] = [Filters(None, None)]
        return request

    @property
    def subprotocol(self) -> str | None:
        """The agreed subprotocol, among those that the client offers and the server has."""
        offered = self.tokens("sec-websocket-protocol")
        return chosen(offered, self._subprotocols) if offered else None


def _unpickled(kind: type[Request], given: dict[str, Any]) -> Request:
    return kind(**{**given, "params": MappingProxyType(given["params"])})


def client_of(request: Request, query: Query) -> Client:
    """The client that the request's `query` names, without its filter."""
    client = Client(query.id, request.params, query.role, request.remote)
    client.made_of_query, client.named = True, "id" in request.params
    return client


def request_of(
    head: Head,
    remote: str,
    limits: FilterLimits,
    subprotocols: tuple[str, ...],
    allowed: frozenset[str] | None,
    *,
    secure: bool,
) -> Request:
    """The `Request` for a parsed head. Raises `Refused` (400) for an invalid target or `Host`."""
    authority = _authority("Host", next((value for name, value in head.headers if name == "host"), ""))
    target = head.target
    if target.lower().startswith(("http://", "https://")):
        # The absolute form. Its authority counts, and not Host (RFC 9112, section 3.2.2). If the path
        # is empty, the first slash may be in the query.
        rest, mark, query = target.partition("://")[2].partition("?")
        host, _, path = rest.partition("/")
        if not host:
            raise Refused(400, "request target: must have a host", logged="request target")
        authority, target = _authority("request target", host), f"/{path}{mark}{query}"
    elif not target.startswith("/") and target != "*":
        raise Refused(
            400, "request target: must be a path that starts with /, or a URL", logged="request target"
        )
    path, _, query = target.partition("?")
    version = head.http_version
    return Request(
        method=head.method,
        path=unquote(path),
        params=parse_query(query),
        headers=head.headers,
        remote=remote,
        # A higher minor version than the server's counts as the server's (RFC 9110, section 6.2).
        http_version="1.1" if version.startswith("1.") and version > "1.1" else version,
        authority=authority,
        secure=secure,
        limits=limits,
        subprotocols=subprotocols,
        allowed=allowed,
    )


def _authority(where: str, text: str) -> str:
    try:
        return str(parse_authority(text))
    except ValueError as error:
        raise Refused(400, f"{where}: {error}", logged=where) from None


_QUERY_IN_PATH: Final = re.compile(r"[?&;#=]")
#: A part of a path that may be a token, a ticket or a secret.
_LONG_PART: Final = re.compile(r"[^/]{24,}")


def nothing_at(request: Request, hint: str = "") -> Refused:
    """The refusal of a path that doesn't exist."""
    # Behind a "?" that was encoded or forgotten by mistake, the path has the query.
    path = _LONG_PART.sub("…", _QUERY_IN_PATH.split(request.path)[0])
    logged = f"there is nothing at {path!r}"
    return Refused(404, f"there is nothing at {request.path!r}{hint}", logged=logged)


def _with_nosniff(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    headers = tuple(headers)
    there = any(name.lower() == "x-content-type-options" for name, _ in headers)
    return headers if there else (*headers, NOSNIFF)


@attrs.frozen
class Answer:
    """A response: its `status`, body and headers, always with `NOSNIFF`.

    With `close`, it is the last one on its connection.
    """

    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_with_nosniff)
    close: bool = False

    @property
    def reason(self) -> str:
        """The reason phrase of the status."""
        return reason_of(self.status)

    @classmethod
    def json(cls, value: object) -> Self:
        """Return an answer with a value as JSON, which caches must not store."""
        return cls(200, _line_of(value), "application/json", NO_STORE)


def _line_of(value: object) -> bytes:
    """JSON as a line, so that a shell's prompt begins on the next one."""
    return write_json(value) + b"\n"


#: The header of content that changes at any time.
NO_STORE: Final = (("Cache-Control", "no-store"),)
#: A 401 must have one (RFC 9110, section 15.5.2). An application may give another.
_CHALLENGE: Final = ("WWW-Authenticate", 'Bearer realm="trionotify"')


def problem(refused: Refused, *, close: bool) -> Answer:
    """The answer to a refused request: a problem document."""
    document = problem_document(refused.status, encodable(refused.detail))
    body, headers = _line_of(document), (*NO_STORE, *refused.headers)
    if refused.status == 401 and not any(name.lower() == "www-authenticate" for name, _ in headers):
        headers = (*headers, _CHALLENGE)
    return Answer(refused.status, body, "application/problem+json", headers, close)
