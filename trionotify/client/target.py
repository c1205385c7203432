"""A client's servers, query and options, checked before anything is sent. No tasks, no state.

The checks are the server's own (`query`). A value that it would refuse with 400 is a ValueError here,
before anything is connected, and the error names the argument.
"""

from __future__ import annotations

import inspect
import re
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
from trionotify.model.predicates import AllOf, Predicate, Sql, to_json
from trionotify.model.query import Filters, Query, parse_query
from trionotify.model.text import check_unicode
from trionotify.settings import FilterLimits, duration

__all__ = [
    "FILTERS",
    "START",
    "AskParams",
    "AskToken",
    "Target",
    "check_sql",
    "filters_key",
    "filters_of",
    "predicate_in",
    "wanted_in",
    "without",
]

Params: TypeAlias = Mapping[str, str] | str
#: A function that gives the parameters for one connection, or the query that `trionotify.sign` makes.
AskParams: TypeAlias = Callable[[], Params | Awaitable[Params]]

#: A token, or a function that gives one for one connection.
AskToken: TypeAlias = str | Callable[[], str | Awaitable[str]]

#: The keys of a query that say what is wanted (or begin so), and where to start.
FILTERS: Final = ("exact.", "prefix.", "suffix.", "filters", "sql", "narrow")
START: Final = SPELLINGS

_OURS: Final = frozenset({"host", "connection", "upgrade", "content-length", "transfer-encoding"})
#: A token, such as a JWT, or a server's secret.
_SENDABLE: Final = re.compile(r"[!-~]([ -~]*[!-~])?")
#: No limits, because the server decides how large filters may be.
_ANY_SIZE: Final = FilterLimits(1 << 30, 100, 1 << 30, 1 << 60)


def filters_of(wanted: object) -> list[Any]:
    """Return the JSON array of filters for a predicate, or check one given as JSON.

    Raises TypeError or ValueError that begins with `filters`.
    """
    if isinstance(wanted, Mapping):
        wanted = [wanted]
    try:
        if isinstance(wanted, list):
            from_json(wanted, _ANY_SIZE)
            return wanted
        if not callable(wanted):
            hint = "; pass CloudEvents SQL as sql" if isinstance(wanted, str) else ""
            raise TypeError(
                f"must be a predicate or a JSON array of filters, not {quoted(wanted)}{hint}"
            )
        check_filter(wanted)
        found = to_json(wanted)
    except TypeError as error:
        why = "; a callable can't be sent to a server" if callable(wanted) else ""
        raise TypeError(f"filters: {error}{why}") from None
    except ValueError as error:
        raise ValueError(f"filters: {error}") from None
    return found if isinstance(found, list) else [found]


def check_sql(sql: str) -> None:
    """Raise TypeError or ValueError that begins with `sql` if it isn't a filter in CloudEvents SQL."""
    try:
        Sql(sql)
    except ValueError as error:
        raise ValueError(f"sql: {str(error).removeprefix('sql: ')}") from None


def filters_key(params: Mapping[str, str]) -> str:
    """Return the query key for filters: `filters`, or `narrow` if the query is signed."""
    return "narrow" if "sig" in params else "filters"


def wanted_in(query: Mapping[str, str]) -> dict[str, str]:
    """Return the filters in a query that can be replaced. In a signed query, that is only `narrow`."""
    rest = without(query, *(FILTERS if filters_key(query) == "filters" else ("narrow",)))
    return {key: text for key, text in query.items() if key not in rest}


def predicate_in(wanted: Mapping[str, str]) -> Predicate:
    """Return the predicate for the result of `wanted_in`, whose filters must all match."""
    found = Filters.of(wanted, _ANY_SIZE)
    parts = [part for part in (found.filter, found.narrow) if part is not None]
    return parts[0] if len(parts) == 1 else AllOf(parts)


def without(params: Mapping[str, str], *keys: str) -> dict[str, str]:
    """Return the parameters without these keys. A key with a dot at its end is a prefix."""
    prefixes = tuple(key for key in keys if key.endswith("."))
    return {k: text for k, text in params.items() if k not in keys and not k.startswith(prefixes)}


def _check_token(token: str) -> None:
    """Raise ValueError, which doesn't repeat the token, if it can't be sent in a header."""
    if not _SENDABLE.fullmatch(token):
        raise ValueError(
            "token: must be printable ASCII without spaces around it, because it is sent in a header"
        )


def _count(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{attribute.name}: must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{attribute.name}: must be at least 1, not {value}")


def _function(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{attribute.name}: must be a function, not {type(value).__name__}")


@attrs.frozen(kw_only=True)
class Target:
    """The server of one client, and the options of their connections. Made by `of`.

    `params` is the query without `role`, which each connection says for itself. `str()` of it is for
    logs, and has no query.
    """

    endpoint: Endpoint
    #: The servers to try next if this one can't be reached, in order.
    others: tuple[Endpoint, ...] = ()
    params: Mapping[str, str]
    #: The function that is asked for more parameters, for each connection.
    ask: AskParams | None
    token: AskToken | None = attrs.field(repr=False)
    role: str
    headers: list[tuple[bytes, bytes]]
    ssl_context: ssl.SSLContext | None
    open_stream: OpenStream | None = attrs.field(validator=_function)
    max_buffered: int = attrs.field(validator=_count)
    max_unacknowledged: int = attrs.field(validator=_count)
    connect_timeout: float = duration()
    close_timeout: float = duration()
    ping_interval: float = duration()
    ping_timeout: float = duration()

    @classmethod
    def of(
        cls,
        url: str | Iterable[str],
        *,
        params: Mapping[str, str] | AskParams | None,
        filters: object,
        sql: str | None,
        said: Mapping[str, str | None],
        token: AskToken | None = None,
        extra_headers: Iterable[tuple[str, str]],
        ssl_context: ssl.SSLContext | None,
        **rest: Any,
    ) -> Target:
        """Check the arguments of `connect`; `said` are those that are query keys.

        Raises TypeError or ValueError that begins with the name of the one at fault.
        """
        urls = tuple(url) if isinstance(url, Iterable) and not isinstance(url, str | bytes) else (url,)
        if not urls:
            raise ValueError("url: must be one URL or several, not none")
        endpoint, *others = endpoints = [Endpoint.of(each) for each in urls]
        if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
            kind = type(ssl_context).__name__
            raise TypeError(f"ssl_context: must be an ssl.SSLContext, not {kind}")
        for text, each in zip(urls, endpoints, strict=True):
            if ssl_context is not None and each.scheme == "http":
                scheme = "unix" if each.unix is not None else text.partition(":")[0].lower()
                raise ValueError(f"ssl_context: must be left out, because a {scheme}: URL has no TLS")
            if each.query not in ("", endpoint.query):
                raise ValueError("url: must have the query of the first URL, or none")
        if others and rest.get("open_stream") is not None:
            raise ValueError("open_stream: must be left out, because there are several URLs")
        if ssl_context is None and any(each.scheme == "https" for each in endpoints):
            ssl_context = ssl.create_default_context()
        try:
            extra = check_headers(extra_headers, _OURS)
        except (TypeError, ValueError) as error:
            raise type(error)(f"extra_{error}") from None
        if token is not None and not isinstance(token, str) and not callable(token):
            raise TypeError(f"token: must be str or a function, not {type(token).__name__}")
        if isinstance(token, str):
            _check_token(token)
        if token is not None and any(name.lower() == "authorization" for name, _ in extra):
            raise ValueError("token: given twice, as token and in extra_headers")
        ask = params if callable(params) else None
        merged = _merged(endpoint.query, None if callable(params) else params, said, filters, sql)
        if token is None:
            # The server recognizes repetitions by the publisher, so it must be the same on every
            # connection. (A token says itself who its bearer is.)
            merged = {"id": secrets.token_urlsafe(9), **merged}
        return cls(
            endpoint=endpoint,
            others=tuple(others),
            ask=ask,
            token=token,
            role=merged.pop("role", "subscriber" if "sig" in merged else "both"),
            params=merged,
            headers=[(name.encode(), value.encode()) for name, value in extra],
            ssl_context=ssl_context,
            **rest,
        )

    def __str__(self) -> str:
        return str(self.endpoint)

    @property
    def next(self) -> Target:
        """Return the target for the client's next server, or this one if there are no others."""
        here, *others = (*self.others, self.endpoint)
        return attrs.evolve(self, endpoint=here, others=tuple(others))

    @property
    def authority(self) -> str:
        """The host and port as written in the `Host` header."""
        return self.endpoint.authority

    def resource(self, query: Mapping[str, str]) -> str:
        """Return the request target, which is the path with this query."""
        return f"{self.endpoint.path}?{urlencode(query)}"

    async def open(self) -> trio.abc.Stream:
        """Open a stream to the server, with TLS if the URL asks for it. Raises OSError."""
        return await self.endpoint.open(self.ssl_context, self.open_stream)

    async def given(self) -> object:
        """Return the result of the function `params` for the next connection; `{}` without one.

        Raises the function's exception, and TimeoutError if it takes longer than `connect_timeout`.
        """
        if self.ask is None:
            return {}
        with trio.move_on_after(self.connect_timeout):
            found = self.ask()
            return await found if inspect.isawaitable(found) else found
        raise TimeoutError(
            f"params: the function took longer than connect_timeout, {self.connect_timeout:g} seconds"
        )

    async def bearer(self) -> str | None:
        """Return the token for the next connection, or to replace the current one; None without one.

        Raises the function's exception, TypeError or ValueError if its result can't be a token, and
        TimeoutError if it takes longer than `connect_timeout`.
        """
        if self.token is None or isinstance(self.token, str):
            return self.token
        with trio.move_on_after(self.connect_timeout):
            found = self.token()
            token = await found if inspect.isawaitable(found) else found
            if not isinstance(token, str):
                raise TypeError(f"token: the function must return str, not {type(token).__name__}")
            _check_token(token)
            return token
        raise TimeoutError(f"token: the function took longer than {self.connect_timeout:g} seconds")

    @property
    def asks(self) -> bool:
        """Whether a function returns the credentials, so that a refusal may be temporary."""
        return self.ask is not None or callable(self.token)

    def query(self, own: Mapping[str, str], given: object, role: str) -> dict[str, str]:
        """Return the query for this `role`, from the client's `own` and the `given` result of `params`.

        A signed query is sent unchanged. Only those of the client's own keys are added that the bearer
        of a signed query may choose, and its filters, which narrow the signed ones.

        Raises TypeError or ValueError for an invalid query, and `Refused` for one signed for another
        role.
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
                f"role: the query from params is for a {allowed}, so this client can't {can};"
                " return one with role=both",
            )
        if signed:
            wanted = wanted_in(own)
            own = {key: text for key, text in own.items() if key in UNSIGNED and key not in wanted}
            if wanted and "narrow" in query:
                raise ValueError("narrow: given twice, by params and as filters; give it once")
            if wanted:
                own["narrow"] = write_json(filters_of(predicate_in(wanted))).decode()
        made = {**own, **query, "role": role}
        _check(made)
        return made


def _read_given(given: object) -> dict[str, str]:
    """Check the result of the function `params`: a mapping, or a query as `trionotify.sign` makes it."""
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
    """Merge the URL's query, `params` and the arguments; check them as the server does."""
    try:
        merged = dict(parse_query(query))
    except Refused as refused:
        raise ValueError(f"url: {refused.detail}") from None
    if isinstance(params, str):  # perhaps with a signature, which no error may show
        raise TypeError(
            "params: must be a mapping or a function, not a query; put the query into the URL, or give a"
            " function that returns it"
        )
    if not isinstance(params, Mapping | None):
        raise TypeError(
            f"params: must be a mapping or a function that returns one, not {quoted(params)}"
        )
    given = {name: value for name, value in said.items() if value is not None}
    given |= _said_wanted(filters, sql, signed="sig" in merged or "sig" in (params or {}))
    for source in (params or {}, given):
        for name, value in source.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"{name}: must be str, not {value!r}")
            if name == "role" and ("sig" in merged or merged.get(name) in (value, "both")):
                merged[name] = value  # the server knows which roles were signed
                continue
            if name in merged:
                raise ValueError(f"{'filters' if name == 'narrow' else name}: given twice; give it once")
            merged[name] = value
    _check(merged)
    return merged


def _said_wanted(filters: object, sql: str | None, *, signed: bool) -> dict[str, str]:
    """Return the arguments `filters` and `sql` as query keys. They can only narrow a signed query."""
    wanted = None if filters is None else filters_of(filters)
    if sql is not None:
        check_sql(sql)
    if signed and sql is not None:
        wanted, sql = [*(wanted or []), {"sql": sql}], None
    said = {} if sql is None else {"sql": sql}
    if wanted is not None:
        said["narrow" if signed else "filters"] = write_json(wanted).decode()
    return said


def _check(query: Mapping[str, str]) -> None:
    """Raise ValueError for a query that the server would refuse, or that this client can't use."""
    if query.get("echo") == "0":
        raise ValueError(
            "echo: must not be 0, because this client publishes over a connection of its own; compare"
            " `source` instead"
        )
    for name, value in query.items():
        check_unicode("params", name)
        check_unicode(name, value)
    try:
        Query.of(query, limits=_ANY_SIZE, subprotocol=SUBPROTOCOL)
    except Refused as refused:
        raise ValueError(refused.detail) from None
    if "sig" in query and "id" not in query:
        raise ValueError(
            "id: a signed query must have one, so that the client can reconnect; have it signed with an"
            " id"
        )
