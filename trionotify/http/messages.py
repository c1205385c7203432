"""HTTP as values: the request that `authenticate` and every handler sees, and the answer to it.

Whatever is refused is answered with an RFC 9457 problem document. How requests and answers become bytes
is in `http.connection`, who answers what in `routes`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote

import attrs

from trionotify.connection.formats import chosen
from trionotify.delivery.clients import Client
from trionotify.errors import Refused, problem_document, reason_of
from trionotify.http.authorities import parse_authority
from trionotify.model.filters import DEFAULT_LIMITS
from trionotify.model.jsontext import write_json
from trionotify.model.media import NOSNIFF
from trionotify.model.query import Filters, Query, parse_query
from trionotify.settings import FilterLimits

if TYPE_CHECKING:
    import h11

__all__ = [
    "NO_STORE",
    "Answer",
    "Authenticate",
    "ReadBody",
    "Request",
    "client_of",
    "nothing_at",
    "preferred",
    "problem",
    "request_of",
]

#: Reads the request's body, of at most so many bytes; raises `Refused` or EOFError.
ReadBody = Callable[[int], Awaitable[bytes]]


#: Says who is behind a request: returns its `Client`, or raises `Refused`. Plain or async.
Authenticate = Callable[["Request"], Client | Awaitable[Client]]


@attrs.frozen
class Request:
    """The head of a request.

    `path` is percent-decoded and without the query, which is in `params`; `headers` are in order, their
    names in lower case; `remote` is the peer's address as text. `format` is what the client will speak,
    where the transport leaves it no choice. `authority` is the host that it is for, maybe with a port:
    that of an absolute target, else of the header `Host`, in lower case.
    """

    method: str
    path: str
    params: Mapping[str, str]
    headers: tuple[tuple[str, str], ...]
    remote: str
    http_version: str = "1.1"
    format: str | None = None
    authority: str = ""
    _limits: FilterLimits = DEFAULT_LIMITS
    _subprotocols: tuple[str, ...] = ()
    #: The application's keys of the query, if it may have no others.
    _allowed: frozenset[str] | None = None
    _joined: dict[str, str] = attrs.field(init=False, repr=False, eq=False)
    #: The filters in the query, once they have been parsed.
    _filters: list[Filters] = attrs.field(factory=list, init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        joined: dict[str, str] = {}
        for name, value in self.headers:
            # Cookies are a list of another kind (RFC 6265, section 5.4), which HTTP/2 and proxies split.
            comma = "; " if name == "cookie" else ", "
            joined[name] = f"{joined[name]}{comma}{value}" if name in joined else value
        object.__setattr__(self, "_joined", joined)

    def header(self, name: str) -> str | None:
        """The value of the header `name` (in lower case); None if absent.

        Several are joined by commas, those of `cookie` by semicolons.
        """
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
        """What the query says, and the header `Last-Event-ID`; raises `Refused` (400)."""
        if self.method != "POST" and "audience" in self.params:
            raise Refused(
                400,
                "audience: only a POST takes it in the query; on a connection, an event says its own in"
                " its attribute audience (format=cloudevents)",
            )
        return Query.of(
            self.params,
            id,
            subprotocol=self.subprotocol,
            format=self.format,
            # A browser that comes back asks with the same URL, and with the header for where it is.
            last_event_id=self.header("last-event-id"),
            limits=self._limits,
            filters=self._filters[0] if self._filters else None,
            allowed=self._allowed,
        )

    @property
    def has_long_filters(self) -> bool:
        """Whether parsing the filters in the query may take more than a turn."""
        return Filters.are_long(self.params)

    def read_filters(self) -> None:
        """Parse the filters in the query now, and once; raises `Refused` (400)."""
        self._filters[:] = [Filters.of(self.params, self._limits)]

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that is agreed on: of those that the client offers, one that is served."""
        return chosen(self.tokens("sec-websocket-protocol"), self._subprotocols)


def client_of(request: Request, query: Query) -> Client:
    """The client that a query, which is the request's, names."""
    client = Client(query.id, request.params, query.role, request.remote)
    client.made_of_query = True
    if query.filter is not None:
        client.subscribe(query.filter)
    return client


def request_of(
    head: h11.Request,
    remote: str,
    limits: FilterLimits,
    subprotocols: tuple[str, ...] = (),
    allowed: frozenset[str] | None = None,
) -> Request:
    """What `authenticate` sees of a head; raises `Refused` (400) for a bad target or `Host`."""
    # Lowered here: h11's own lower-case view is slow to go through.
    headers = [(n.decode("ascii").lower(), v.decode("latin-1")) for n, v in head.headers.raw_items()]
    authority = _authority("Host", next((value for name, value in headers if name == "host"), ""))
    target = head.target.decode("ascii")
    if target.lower().startswith(("http://", "https://")):
        # The absolute form: its authority counts, and not Host (RFC 9112, section 3.2.2). Where no path
        # is, the first slash may be one of the query.
        rest, mark, query = target.partition("://")[2].partition("?")
        host, _, path = rest.partition("/")
        if not host:
            raise Refused(400, "the request's target: there is no host in it")
        authority, target = _authority("the request's target", host), f"/{path}{mark}{query}"
    path, _, query = target.partition("?")
    version = head.http_version.decode("ascii")
    return Request(
        method=head.method.decode("ascii"),
        path=unquote(path),
        params=parse_query(query),
        headers=tuple(headers),
        remote=remote,
        # A minor version that is higher than the server's is as good as that (RFC 9110, section 6.2).
        http_version="1.1" if version.startswith("1.") and version > "1.1" else version,
        authority=authority,
        limits=limits,
        subprotocols=subprotocols,
        allowed=allowed,
    )


def _authority(where: str, text: str) -> str:
    try:
        return str(parse_authority(text))
    except ValueError as error:
        raise Refused(400, f"{where}: {error}") from None


def nothing_at(request: Request, hint: str = "") -> Refused:
    """What to raise for a path where nothing is."""
    # A "?" that was encoded by mistake has brought the query along.
    logged = f"nothing is at {request.path.partition('?')[0]!r}"
    return Refused(404, f"nothing is at {request.path!r}{hint}", logged=logged)


def _with_nosniff(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    headers = tuple(headers)
    there = any(name.lower() == "x-content-type-options" for name, _ in headers)
    return headers if there else (*headers, NOSNIFF)


@attrs.frozen
class Answer:
    """An answer: its `status`, what it says, and further header fields, `NOSNIFF` always among them.

    With `close`, it is the last one on its connection.
    """

    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_with_nosniff)
    close: bool = False

    @property
    def reason(self) -> str:
        """The status in words."""
        return reason_of(self.status)

    @classmethod
    def json(cls, value: object, status: int = 200) -> Self:
        """A value as JSON, which nobody should keep."""
        return cls(status, write_json(value), "application/json", NO_STORE)


#: What is said is true now.
NO_STORE: Final = (("Cache-Control", "no-store"),)
#: A 401 must have one (RFC 9110, section 15.5.2). An application may have another.
_CHALLENGE: Final = ("WWW-Authenticate", 'Bearer realm="trionotify"')


def problem(refused: Refused, *, close: bool) -> Answer:
    """The answer to a request that is refused: a problem document."""
    # An application may say anything.
    document = problem_document(refused.status, refused.detail.encode(errors="replace").decode())
    body, headers = write_json(document), (*NO_STORE, *refused.headers)
    if refused.status == 401 and not any(name.lower() == "www-authenticate" for name, _ in headers):
        headers = (*headers, _CHALLENGE)
    return Answer(refused.status, body, "application/problem+json", headers, close)


#: Items of an `Accept` that count: browsers send ten, and thousands fit into a head.
_ACCEPTED: Final = 100


def preferred(accept: str | None, offered: Sequence[str]) -> str | None:
    """Which of the media types in `offered` a header `Accept` likes best; None if it takes none.

    By RFC 9110, section 12.5.1, without parameters but for `q`. Of equals, the first. An empty one is as
    none.
    """
    if accept is None or not accept.strip():
        return offered[0]
    items = accept.split(",", _ACCEPTED)[:_ACCEPTED]
    weights = {kind: weight for kind, weight in map(_weighed, items) if kind}

    def liking(kind: str) -> float:
        wildcards = (kind, kind.partition("/")[0] + "/*", "*/*")
        return next((weights[name] for name in wildcards if name in weights), 0.0)

    best = max(offered, key=liking)
    return best if liking(best) > 0 else None


def _weighed(item: str) -> tuple[str, float]:
    kind, *parameters = [part.strip().lower() for part in item.split(";")]
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return kind, float(value)
            except ValueError:
                return kind, 0.0
    return kind, 1.0
