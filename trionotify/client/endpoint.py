"""The address of a server: its URL, parsed and checked, and a stream to it.

A URL is that of `/events`. One without a path, or with a path that ends in a slash, gets `events` at its
end, so that a server below the path of a proxy is named by that path alone: `https://example.org/hub/`.
Other resources of the server are beside it (`beside`). The client for browsers reads URLs in the same
way.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

import attrs
import trio

from trionotify.model.addresses import unix_path, unix_url
from trionotify.model.text import check_unicode

__all__ = ["Endpoint", "OpenStream", "Unopened", "Unreachable"]

OpenStream = Callable[[], Awaitable[trio.abc.Stream]]

_PORTS: Final = {"http": 80, "https": 443}
_SCHEMES: Final = {"ws": "http", "wss": "https", "http": "http", "https": "https"}
#: The characters that a path may have unescaped, and its escapes (RFC 3986, section 3.3).
_PATH: Final = "/%:@!$&'()*+,;=~"
#: A text that looks like a URL without its scheme.
_NO_SCHEME: Final = re.compile(r"(\[[0-9a-f:]+\]|[\w.-]+)(:\d+)?([/?].*)?", re.IGNORECASE)
#: The socket file doesn't exist, or no server listens on it.
_NOBODY: Final = (errno.ENOENT, errno.ECONNREFUSED)
#: OpenSSL's errors for a peer that answers in plain text, in several versions.
_PLAIN: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


class Unreachable(OSError):
    """There is no stream to a server. `why` is the reason alone, without the URL and without advice."""

    def __init__(self, endpoint: Endpoint, why: str, advice: str = "") -> None:
        super().__init__(f"{endpoint}: {why}{advice}")
        self.why = why


class Unopened(Exception):
    """The application's own function `open_stream` raised `error`, which isn't an OSError."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@attrs.frozen(kw_only=True)
class Endpoint:
    """A server's URL. Made by `of`. As text it has no query, so that it can be put into logs."""

    scheme: str
    host: str
    port: int
    path: str
    #: The path of the server's Unix socket, if it has one in place of host and port.
    unix: str | None
    query: str

    @classmethod
    def of(cls, url: object) -> Endpoint:
        """Read a URL: `http`, `https`, `ws`, `wss`, or `unix:PATH`.

        Raises TypeError or ValueError that begins with `url` and says what to write.
        """
        if not isinstance(url, str):
            raise TypeError(f"url: must be str, not {type(url).__name__}")
        unix = unix_path(url)
        # Behind the path of a socket only the query is left, and any name will do for the host.
        split = _split(url if unix is None else f"http://localhost?{url.partition('?')[2]}")
        scheme = _SCHEMES[split.scheme]
        return cls(
            scheme=scheme,
            host=split.hostname or "",
            port=_PORTS[scheme] if split.port is None else split.port,
            path=quote(_completed(split.path), safe=_PATH),
            unix=unix,
            query=split.query,
        )

    def __str__(self) -> str:
        if self.unix is not None:
            return unix_url(self.unix)
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """The host and port as written in the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def beside(self, name: str) -> str:
        """Return the path of a resource beside `/events`. For `/hub/events` it is `/hub/NAME`."""
        return f"{self.path.rpartition('/')[0]}/{name}"

    async def open(
        self, ssl_context: ssl.SSLContext | None = None, open_stream: OpenStream | None = None
    ) -> trio.abc.Stream:
        """Open a stream to the server, with TLS if the URL asks for it. Put a deadline around it.

        `open_stream` makes the stream below TLS in place of the URL, `ssl_context` replaces the default
        one. Raises OSError that names the URL, and `Unopened`.
        """
        stream = await (self._connect() if open_stream is None else _opened_by(open_stream))
        if self.scheme != "https":
            return stream
        context = ssl_context or ssl.create_default_context()
        secure = trio.SSLStream(stream, context, server_hostname=self.host, https_compatible=True)
        try:
            await secure.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(stream)
            raise Unreachable(self, *_why_no_tls(error, self)) from error
        except BaseException:
            with trio.move_on_after(0, shield=True):  # at once, even if a task waits for it
                await stream.aclose()
            raise
        return secure

    async def _connect(self) -> trio.abc.Stream:
        if self.unix is not None:
            return await self._connect_unix(self.unix)
        try:
            return await trio.open_tcp_stream(self.host, self.port)
        except socket.gaierror as error:
            why = f"the host {self.host} was not found ({error.strerror})"
            raise Unreachable(self, why, "; check the URL") from error
        except OSError as error:
            # Trio's error only says that all attempts failed. The last attempt's error has the reason.
            cause = error.__cause__
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[-1]
            number = cause.errno if isinstance(cause, OSError) else None
            hint = f"; is the server running? Start it with --port {self.port}, or give another URL"
            why = os.strerror(number) if number else str(error)
            raise Unreachable(self, why, hint if number in _NOBODY else "") from error

    async def _connect_unix(self, path: str) -> trio.abc.Stream:
        try:
            return await trio.open_unix_socket(path)
        except (OSError, RuntimeError) as error:  # the latter where the system has no such sockets
            number = error.errno if isinstance(error, OSError) else None
            # If the path is too long, Python's error has no number.
            why = os.strerror(number) if number else str(error)
            hint = (
                "; start a server there, with --unix, or give another path" if number in _NOBODY else ""
            )
            raise Unreachable(self, why, hint) from error


async def _opened_by(open_stream: OpenStream) -> trio.abc.Stream:
    try:
        opening = open_stream()
        if not inspect.isawaitable(opening):
            raise TypeError("open_stream: must be an async function; write async def open_stream()")
        stream = await opening
        if not hasattr(stream, "receive_some"):
            kind = type(stream).__name__
            raise TypeError(f"open_stream: the function must return a trio.abc.Stream, not {kind}")
    except OSError:
        raise
    except Exception as error:  # the application's own function may raise anything
        raise Unopened(error) from error
    return stream


def _split(url: str) -> SplitResult:
    """Split an HTTP or WebSocket URL. Raises ValueError that says what to write."""
    check_unicode("url", url)
    try:
        split = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"url: {error}") from None
    if split.scheme not in _SCHEMES:
        hint = f"; did you mean http://{url}?" if _NO_SCHEME.fullmatch(url) else ""
        raise ValueError(
            f"url: must start with http, https, ws, wss or unix, not {split.scheme or url!r}{hint}"
        )
    if not split.hostname:
        raise ValueError(f"url: must have a host; write {split.scheme}://HOST:PORT")
    try:
        _ = split.port
    except ValueError:
        port = split.netloc.rpartition(":")[2]
        raise ValueError(f"url: must have a port from 0 to 65535, not {port!r}") from None
    if split.username is not None:
        raise ValueError(
            "url: must not have credentials; send them in the header Authorization (extra_headers in"
            " Python, --secret on the command line)"
        )
    if "#" in url:
        raise ValueError("url: a '#' must be written as %23")
    return split


def _completed(path: str) -> str:
    return f"{path or '/'}events" if path[-1:] in ("", "/") else path


def _why_no_tls(error: trio.BrokenResourceError, endpoint: Endpoint) -> tuple[str, str]:
    """Return why the TLS handshake failed, and advice on how to fix it."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError) and cause.reason in _PLAIN:
        plain = f"http://{endpoint.authority}"
        return "the server does not speak TLS", f"; use {plain}, or start it with --tls-cert"
    return f"TLS failed: {cause or error}", ""
