"""Where a client connects, and what its query says: checked before anything is sent. No tasks, no state.

The checks are the server's own (`query`): what it would refuse with 400 is a ValueError here, which
names the argument, and nothing has been connected yet.
"""

from __future__ import annotations

import inspect
import secrets
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import urlencode

import attrs
import trio

from trionotify.client.endpoint import Endpoint, OpenStream
from trionotify.errors import Refused, check_headers, quoted
from trionotify.model.cloudevents import SUBPROTOCOL
from trionotify.model.cursor import SPELLINGS
from trionotify.model.filters import check_filter, from_json
from trionotify.model.jsontext import write_json
from trionotify.model.keys import UNSIGNED
from trionotify.model.predicates import AllOf, Predicate, to_json
from trionotify.model.query import Filters, Query, parse_query
from trionotify.settings import FilterLimits, duration

__all__ = [
    "FILTERS",
    "START",
    "AskParams",
    "Target",
    "filters_key",
    "filters_of",
    "predicate_in",
    "wanted_in",
    "without",
]

Params: TypeAlias = Mapping[str, str] | str
#: A function that gives the parameters for one connection, or the query that `trionotify.sign` makes.
AskParams: TypeAlias = Callable[[], Params | Awaitable[Params]]

#: The keys of a query that say what is wanted (or begin so), and where to start.
FILTERS: Final = ("exact.", "prefix.", "suffix.", "filters", "sql", "narrow")
START: Final = SPELLINGS

_OURS: Final = frozenset({"host", "connection", "upgrade", "content-length", "transfer-encoding"})
#: How large filters may be is the server's decision.
_ANY_SIZE: Final = FilterLimits(1 << 30, 100, 1 << 30, 1 << 60)


def filters_of(wanted: object) -> list[Any]:
    """The JSON array of filters that a predicate is, or that has been given as such.

    Raises TypeError or ValueError that begins with `filters`.
    """
    if isinstance(wanted, Mapping):
        wanted = [wanted]
    try:
        if isinstance(wanted, list):
            from_json(wanted, _ANY_SIZE)
            return wanted
        if not callable(wanted):
            hint = "; CloudEvents SQL goes into sql" if isinstance(wanted, str) else ""
            raise TypeError(
                f"a predicate or a JSON array of filters is needed, not {quoted(wanted)}{hint}"
            )
        check_filter(wanted)
        found = to_json(wanted)
    except TypeError as error:
        why = "; a callable can't be sent to a server" if callable(wanted) else ""
        raise TypeError(f"filters: {error}{why}") from None
    except ValueError as error:
        raise ValueError(f"filters: {error}") from None
    return found if isinstance(found, list) else [found]


def filters_key(params: Mapping[str, str]) -> str:
    """Where in a query filters go: `filters`, unless it is signed, and they can only narrow it."""
    return "narrow" if "sig" in params else "filters"


def wanted_in(query: Mapping[str, str]) -> dict[str, str]:
    """What of a query says what is wanted, and can be replaced: of a signed one, only `narrow`."""
    rest = without(query, *(FILTERS if filters_key(query) == "filters" else ("narrow",)))
    return {key: text for key, text in query.items() if key not in rest}


def predicate_in(wanted: Mapping[str, str]) -> Predicate:
    """What such a part of a query wants, of which all must hold."""
    found = Filters.of(wanted, _ANY_SIZE)
    parts = [part for part in (found.filter, found.narrow) if part is not None]
    return parts[0] if len(parts) == 1 else AllOf(parts)


def without(params: Mapping[str, str], *keys: str) -> dict[str, str]:
    """The parameters but for these keys; one that ends in a dot stands for all that begin so."""
    prefixes = tuple(key for key in keys if key.endswith("."))
    return {k: text for k, text in params.items() if k not in keys and not k.startswith(prefixes)}


def _count(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{attribute.name} must be at least 1, not {value}")


@attrs.frozen(kw_only=True)
class Target:
    """A server, as one client means to use it. Made by `of`.

    `params` is the query without `role`, which each connection says for itself. `str()` of it has no
    query: it is for logs.
    """

    endpoint: Endpoint
    params: Mapping[str, str]
    #: The function that is asked for more parameters, for each connection.
    ask: AskParams | None
    role: str
    headers: list[tuple[bytes, bytes]]
    ssl_context: ssl.SSLContext | None
    open_stream: OpenStream | None
    max_buffered: int = attrs.field(validator=_count)
    max_unacknowledged: int = attrs.field(validator=_count)
    connect_timeout: float = duration()
    close_timeout: float = duration()
    ping_interval: float = duration()
    ping_timeout: float = duration()

    @classmethod
    def of(
        cls,
        url: str,
        *,
        params: Mapping[str, str] | AskParams | None,
        filters: object,
        sql: str | None,
        said: Mapping[str, str | None],
        extra_headers: Iterable[tuple[str, str]],
        ssl_context: ssl.SSLContext | None,
        **rest: Any,
    ) -> Target:
        """Read the arguments of `connect`; `said` are those that are keys of the query.

        Raises TypeError or ValueError that begins with the name of the one at fault.
        """
        endpoint = Endpoint.of(url)
        if ssl_context is not None and endpoint.scheme == "http":
            scheme = "unix" if endpoint.unix is not None else url.partition(":")[0].lower()
            raise ValueError(f"ssl_context: {scheme}: has no TLS")
        if endpoint.scheme == "https" and ssl_context is None:
            ssl_context = ssl.create_default_context()
        extra = tuple(extra_headers)
        try:
            check_headers(extra, _OURS)
        except (TypeError, ValueError) as error:
            raise type(error)(f"extra_{error}") from None
        ask = params if callable(params) else None
        merged = _merged(endpoint.query, None if callable(params) else params, said, filters, sql)
        return cls(
            endpoint=endpoint,
            ask=ask,
            role=merged.pop("role", "subscriber" if "sig" in merged else "both"),
            params=merged,
            headers=[(name.encode(), value.encode()) for name, value in extra],
            ssl_context=ssl_context,
            **rest,
        )

    def __str__(self) -> str:
        return str(self.endpoint)

    @property
    def authority(self) -> str:
        """Host and port, as the header `Host` has them."""
        return self.endpoint.authority

    def resource(self, query: Mapping[str, str]) -> str:
        """What to request."""
        return f"{self.endpoint.path}?{urlencode(query)}"

    async def open(self) -> trio.abc.Stream:
        """A stream to the server, through TLS where the URL says so. Raises OSError."""
        return await self.endpoint.open(self.ssl_context, self.open_stream)

    async def given(self) -> object:
        """What the function `params` gives for the next connection; without one, nothing.

        Raises what it raises, and TimeoutError when it takes longer than `connect_timeout`.
        """
        if self.ask is None:
            return {}
        with trio.move_on_after(self.connect_timeout):
            found = self.ask()
            return await found if inspect.isawaitable(found) else found
        raise TimeoutError(f"params: the function took longer than {self.connect_timeout:g} seconds")

    def query(self, own: Mapping[str, str], given: object, role: str) -> dict[str, str]:
        """The query of a connection in this `role`: the client's `own`, and what `params` has `given`.

        A query that is given signed goes out as it is. Of the client's own remains what the bearer of
        a signed query may choose, and its filters narrow what was signed.

        Raises TypeError or ValueError for what can't be sent, and `Refused` for what is given for
        another role.
        """
        if self.ask is None:
            return {**own, "role": role}
        query = _read_given(given)
        signed = "sig" in query
        allowed = query.get("role", "subscriber" if signed else "both")
        if allowed not in (role, "both"):
            can = "publish" if role == "publisher" else "receive anything"
            raise Refused(
                403,
                f"role: the query that params gave is that of a {allowed}, so this client can't {can};"
                " give one with role=both",
            )
        if signed:
            wanted = wanted_in(own)
            own = {key: text for key, text in own.items() if key in UNSIGNED and key not in wanted}
            if wanted and "narrow" in query:
                raise ValueError("narrow: given twice, by params and as filters")
            if wanted:
                own["narrow"] = write_json(filters_of(predicate_in(wanted))).decode()
        made = {**own, **query, "role": role}
        _check(made)
        return made


def _read_given(given: object) -> dict[str, str]:
    """What the function `params` gives: a mapping, or a query as `trionotify.sign` makes it."""
    try:
        found = parse_query(given) if isinstance(given, str) else given
    except Refused as refused:
        raise ValueError(f"params: {refused.detail}") from None
    if not isinstance(found, Mapping):
        kind = type(given).__name__  # the value itself may be a secret, and this is logged
        raise TypeError(f"params: the function must return a mapping or a query, not {kind}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"params: {name} must be str, not {type(value).__name__}")
    return dict(found)


def _merged(
    query: str,
    params: Mapping[str, str] | None,
    said: Mapping[str, str | None],
    filters: object,
    sql: str | None,
) -> dict[str, str]:
    """What the URL, `params` and the arguments say, each key once, checked as the server does."""
    try:
        merged = parse_query(query)
    except Refused as refused:
        raise ValueError(f"url: {refused.detail}") from None
    given = {name: value for name, value in said.items() if value is not None}
    given |= _said_wanted(filters, sql, signed="sig" in merged or "sig" in (params or {}))
    for source in (params or {}, given):
        for name, value in source.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"{name} must be str, not {value!r}")
            if name == "role" and ("sig" in merged or merged.get(name) == value):
                merged[name] = value  # the server knows which roles were signed
                continue
            if name in merged:
                raise ValueError(f"{'filters' if name == 'narrow' else name}: given twice")
            merged[name] = value
    _check(merged)
    # Who publishes is a part of what tells a repetition, so it must be the same on every connection.
    return {"id": secrets.token_urlsafe(9), **merged}


def _said_wanted(filters: object, sql: str | None, *, signed: bool) -> dict[str, str]:
    """What the arguments `filters` and `sql` are in a query. What is signed they can only narrow."""
    wanted = None if filters is None else filters_of(filters)
    if signed and sql is not None:
        wanted, sql = [*(wanted or []), {"sql": sql}], None
    said = {} if sql is None else {"sql": sql}
    if wanted is not None:
        said["narrow" if signed else "filters"] = write_json(wanted).decode()
    return said


def _check(query: Mapping[str, str]) -> None:
    """Raise ValueError for a query that the server would refuse, or that this client can't do with."""
    if query.get("echo") == "0":
        raise ValueError("echo: this client publishes over a connection of its own; look at `source`")
    try:
        Query.of(query, limits=_ANY_SIZE, subprotocol=SUBPROTOCOL)
    except Refused as refused:
        raise ValueError(refused.detail) from None
    if "sig" in query and "id" not in query:
        raise ValueError("id: a signed query needs one to come back with; let it be signed with one")
