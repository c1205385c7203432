"""Where a client connects, and what its query says: checked before anything is sent. No tasks, no state.

The checks are the server's own (`query`): what it would refuse with 400 is a ValueError here, which
names the argument, and nothing has been connected yet.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import attrs
import trio

from trionotify.addresses import unix_path, unix_url
from trionotify.errors import Refused, check_headers
from trionotify.filters import FilterLimits, check_filter, from_json
from trionotify.jsontext import write_json
from trionotify.predicates import to_json
from trionotify.query import Query, parse_query
from trionotify.since import SPELLINGS

__all__ = ["FILTERS", "START", "Target", "filters_key", "filters_of", "open_unix", "without"]

OpenStream = Callable[[], Awaitable[trio.abc.Stream]]

#: The keys of a query that say what is wanted (or begin so), and where to start.
FILTERS: Final = ("exact.", "prefix.", "suffix.", "filters", "sql", "narrow")
START: Final = SPELLINGS

_PORTS: Final = {"http": 80, "https": 443}
_SCHEMES: Final = {"ws": "http", "wss": "https", "http": "http", "https": "https"}
#: What a path may hold as it is, its escapes included (RFC 3986, section 3.3).
_PATH: Final = "/%:@!$&'()*+,;=~"
_OURS: Final = frozenset({"host", "connection", "upgrade", "content-length", "transfer-encoding"})
#: There is no file, or one at which nobody listens.
_NOBODY: Final = (errno.ENOENT, errno.ECONNREFUSED)
#: How large filters may be is the server's decision.
_ANY_SIZE: Final = FilterLimits(1 << 30, 100, 1 << 30, 1 << 60)


def filters_of(wanted: object) -> list[Any]:
    """The JSON array of filters that a predicate is, or that has been given as such.

    Raises TypeError or ValueError that begins with `filter`.
    """
    if isinstance(wanted, Mapping):
        wanted = [wanted]
    try:
        if isinstance(wanted, list):
            from_json(wanted, _ANY_SIZE)
            return wanted
        if not callable(wanted):
            raise TypeError(f"a predicate or a JSON array of filters is needed, not {wanted!r}")
        check_filter(wanted)
        found = to_json(wanted)
    except TypeError as error:
        why = "; a callable can't be sent to a server" if callable(wanted) else ""
        raise TypeError(f"filter: {error}{why}") from None
    except ValueError as error:
        raise ValueError(f"filter: {error}") from None
    return found if isinstance(found, list) else [found]


def filters_key(params: Mapping[str, str]) -> str:
    """Where in a query filters go: `filters`, unless it is signed, and they can only narrow it."""
    return "narrow" if "sig" in params else "filters"


def without(params: Mapping[str, str], *keys: str) -> dict[str, str]:
    """The parameters but for these keys; one that ends in a dot stands for all that begin so."""
    prefixes = tuple(key for key in keys if key.endswith("."))
    return {k: text for k, text in params.items() if k not in keys and not k.startswith(prefixes)}


def _seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be a number of seconds, not {value!r}")
    if not value > 0:
        raise ValueError(f"{attribute.name} must be greater than 0, not {value}")


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

    scheme: str
    host: str
    port: int
    path: str
    #: The path of the server's Unix socket, if it has one in place of host and port.
    unix: str | None
    params: Mapping[str, str]
    role: str
    headers: list[tuple[bytes, bytes]]
    ssl_context: ssl.SSLContext | None
    open_stream: OpenStream | None
    max_buffered: int = attrs.field(validator=_count)
    max_unacknowledged: int = attrs.field(validator=_count)
    connect_timeout: float = attrs.field(validator=_seconds)
    close_timeout: float = attrs.field(validator=_seconds)
    ping_interval: float = attrs.field(validator=_seconds)
    ping_timeout: float = attrs.field(validator=_seconds)

    @classmethod
    def of(
        cls,
        url: str,
        *,
        params: Mapping[str, str] | None,
        filter: object,
        said: Mapping[str, str | None],
        extra_headers: Iterable[tuple[str, str]],
        ssl_context: ssl.SSLContext | None,
        **rest: Any,
    ) -> Target:
        """Read the arguments of `connect`; `said` are those that are keys of the query.

        Raises TypeError or ValueError that begins with the name of the one at fault.
        """
        split, scheme, port, unix = _split(url)
        if ssl_context is not None and scheme == "http":
            raise ValueError(f"ssl_context: {split.scheme if unix is None else 'unix'}: has no TLS")
        if scheme == "https" and ssl_context is None:
            ssl_context = ssl.create_default_context()
        extra = tuple(extra_headers)
        try:
            check_headers(extra, _OURS)
        except (TypeError, ValueError) as error:
            raise type(error)(f"extra_{error}") from None
        merged = _merged(split.query, params, said, filter)
        return cls(
            scheme=scheme,
            host=split.hostname or "",
            port=port,
            path=quote(split.path if split.path.strip("/") else "/events", safe=_PATH),
            role=merged.pop("role", "subscriber" if "sig" in merged else "both"),
            unix=unix,
            params=merged,
            headers=[(name.encode(), value.encode()) for name, value in extra],
            ssl_context=ssl_context,
            **rest,
        )

    def __str__(self) -> str:
        if self.unix is not None:
            return unix_url(self.unix)
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """Host and port, as the head field `Host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def resource(self, params: Mapping[str, str]) -> str:
        """What to request."""
        return f"{self.path}?{urlencode(params)}"

    async def open(self) -> trio.abc.Stream:
        """A stream to the server, through TLS where the URL says so. Raises OSError."""
        stream = await (self._connect() if self.open_stream is None else self.open_stream())
        if self.ssl_context is None:
            return stream
        secure = trio.SSLStream(
            stream, self.ssl_context, server_hostname=self.host, https_compatible=True
        )
        try:
            await secure.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(stream)
            raise OSError(f"TLS failed: {error.__cause__ or error}") from error
        except BaseException:
            with trio.move_on_after(0, shield=True):  # at once, whoever waits for what
                await stream.aclose()
            raise
        return secure

    async def _connect(self) -> trio.abc.Stream:
        if self.unix is not None:
            return await open_unix(self.unix)
        try:
            return await trio.open_tcp_stream(self.host, self.port)
        except socket.gaierror as error:
            raise OSError(f"{self.host} can't be found: {error.strerror}") from error
        except OSError as error:
            # Trio says that all attempts failed; the last of them, why.
            cause = error.__cause__
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[-1]
            why = f": {os.strerror(cause.errno)}" if isinstance(cause, OSError) and cause.errno else ""
            raise OSError(f"{error}{why}") from error


async def open_unix(path: str) -> trio.abc.Stream:
    """A stream to the server at a Unix socket. Raises OSError that names it, and what to do."""
    try:
        return await trio.open_unix_socket(path)
    except (OSError, RuntimeError) as error:  # the latter where the system has no such sockets
        number = error.errno if isinstance(error, OSError) else None
        # Of a path that is too long Python says it without a number.
        why = os.strerror(number) if number else error
        hint = "; start a server there, with --unix, or give another path" if number in _NOBODY else ""
        raise OSError(f"{unix_url(path)}: {why}{hint}") from error


def _split(url: object) -> tuple[SplitResult, str, int, str | None]:
    """The URL, HTTP's scheme for it, the port, and the path of a Unix socket."""
    if not isinstance(url, str):
        raise TypeError(f"url must be str, not {type(url).__name__}")
    unix = unix_path(url)
    if unix is not None:
        # What is left is the query. The server lets in whoever opened its socket, by any name.
        url = f"http://localhost?{url.partition('?')[2]}"
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError as error:
        raise ValueError(f"url: {error}") from None
    scheme = _SCHEMES.get(split.scheme)
    if scheme is None:
        raise ValueError(f"url: http, https, ws, wss or unix is needed, not {split.scheme or url!r}")
    if not split.hostname:
        raise ValueError("url: there is no host in it")
    if split.username is not None:
        raise ValueError("url: credentials belong into extra_headers, as Authorization")
    if split.fragment:
        raise ValueError("url: a '#' must be written as %23")
    return split, scheme, _PORTS[scheme] if port is None else port, unix


def _merged(
    query: str, params: Mapping[str, str] | None, said: Mapping[str, str | None], filter: object
) -> dict[str, str]:
    """What the URL, `params` and the arguments say, each key once, checked as the server does."""
    try:
        merged = parse_query(query)
    except Refused as refused:
        raise ValueError(f"url: {refused.detail}") from None
    given = {name: value for name, value in said.items() if value is not None}
    if filter is not None:
        given[filters_key(merged)] = write_json(filters_of(filter)).decode()
    for source in (params or {}, given):
        for name, value in source.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"{name} must be str, not {value!r}")
            if name == "role" and ("sig" in merged or merged.get(name) == value):
                merged[name] = value  # the server knows which roles were signed
                continue
            if name in merged:
                raise ValueError(f"{'filter' if name in ('filters', 'narrow') else name}: given twice")
            merged[name] = value
    if merged.get("echo") == "0":
        raise ValueError("echo: this client publishes over a connection of its own; look at `source`")
    try:
        Query.of(merged, limits=_ANY_SIZE, subprotocol="cloudevents.json")
    except Refused as refused:
        raise ValueError(refused.detail) from None
    if "sig" in merged and "id" not in merged:
        raise ValueError("id: a signed query needs one to come back with; let it be signed with one")
    # Who publishes is a part of what tells a repetition, so it must be the same on every connection.
    return {"id": secrets.token_urlsafe(9), **merged}
