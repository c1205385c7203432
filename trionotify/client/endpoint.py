"""Where a server is: its URL, taken apart and checked, and a stream to it.

A URL is that of `/events`. One without a path, or with a path that ends in a slash, gets `events` at its
end, so that a server below the path of a proxy is named by that path alone: `https://example.org/hub/`.
What else the server has lies beside it (`beside`). The client for browsers reads URLs in the same way.
"""

from __future__ import annotations

import errno
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

__all__ = ["Endpoint", "OpenStream"]

OpenStream = Callable[[], Awaitable[trio.abc.Stream]]

_PORTS: Final = {"http": 80, "https": 443}
_SCHEMES: Final = {"ws": "http", "wss": "https", "http": "http", "https": "https"}
#: What a path may hold as it is, its escapes included (RFC 3986, section 3.3).
_PATH: Final = "/%:@!$&'()*+,;=~"
#: What looks like a URL whose scheme was left out.
_NO_SCHEME: Final = re.compile(r"(\[[0-9a-f:]+\]|[\w.-]+)(:\d+)?([/?].*)?", re.IGNORECASE)
#: There is no file, or one at which nobody listens.
_NOBODY: Final = (errno.ENOENT, errno.ECONNREFUSED)
#: What OpenSSL says about a peer that answers in plain text, in its several versions.
_PLAIN: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


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
            raise TypeError(f"url must be str, not {type(url).__name__}")
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
        """Host and port, as the header `Host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def beside(self, name: str) -> str:
        """The path of what lies beside `/events`: for `/hub/events`, `/hub/NAME`."""
        return f"{self.path.rpartition('/')[0]}/{name}"

    async def open(
        self, ssl_context: ssl.SSLContext | None = None, open_stream: OpenStream | None = None
    ) -> trio.abc.Stream:
        """A stream to the server, through TLS where the URL says so. Put a deadline around it.

        `open_stream` makes the stream below TLS in place of the URL, `ssl_context` replaces the default
        one. Raises OSError that names the URL.
        """
        stream = await (self._connect() if open_stream is None else open_stream())
        if self.scheme != "https":
            return stream
        context = ssl_context or ssl.create_default_context()
        secure = trio.SSLStream(stream, context, server_hostname=self.host, https_compatible=True)
        try:
            await secure.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(stream)
            raise OSError(f"{self}: {_why_no_tls(error, self)}") from error
        except BaseException:
            with trio.move_on_after(0, shield=True):  # at once, whoever waits for what
                await stream.aclose()
            raise
        return secure

    async def _connect(self) -> trio.abc.Stream:
        if self.unix is not None:
            return await self._connect_unix(self.unix)
        try:
            return await trio.open_tcp_stream(self.host, self.port)
        except socket.gaierror as error:
            raise OSError(
                f"{self}: the host {self.host} can't be found: {error.strerror}; check the URL"
            ) from error
        except OSError as error:
            # Trio says that all attempts failed; the last of them, why.
            cause = error.__cause__
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[-1]
            number = cause.errno if isinstance(cause, OSError) else None
            hint = f"; is the server running? Start it with --port {self.port}, or give another URL"
            raise OSError(
                f"{self}: {os.strerror(number) if number else error}{hint if number in _NOBODY else ''}"
            ) from error

    async def _connect_unix(self, path: str) -> trio.abc.Stream:
        try:
            return await trio.open_unix_socket(path)
        except (OSError, RuntimeError) as error:  # the latter where the system has no such sockets
            number = error.errno if isinstance(error, OSError) else None
            # Of a path that is too long Python says it without a number.
            why = os.strerror(number) if number else error
            hint = (
                "; start a server there, with --unix, or give another path" if number in _NOBODY else ""
            )
            raise OSError(f"{self}: {why}{hint}") from error


def _split(url: str) -> SplitResult:
    """The parts of a URL of HTTP or WebSocket."""
    try:
        split = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"url: {error}") from None
    if split.scheme not in _SCHEMES:
        hint = f"; did you mean http://{url}?" if _NO_SCHEME.fullmatch(url) else ""
        raise ValueError(
            f"url: http, https, ws, wss or unix is needed, not {split.scheme or url!r}{hint}"
        )
    if not split.hostname:
        raise ValueError(f"url: there is no host in it; write {split.scheme}://HOST:PORT")
    try:
        _ = split.port
    except ValueError:
        port = split.netloc.rpartition(":")[2]
        raise ValueError(f"url: the port must be a number from 0 to 65535, not {port!r}") from None
    if split.username is not None:
        raise ValueError("url: credentials belong into extra_headers, as Authorization")
    if "#" in url:
        raise ValueError("url: a '#' must be written as %23")
    return split


def _completed(path: str) -> str:
    return f"{path or '/'}events" if path[-1:] in ("", "/") else path


def _why_no_tls(error: trio.BrokenResourceError, endpoint: Endpoint) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError) and cause.reason in _PLAIN:
        plain = f"http://{endpoint.authority}"
        return f"the server there doesn't speak TLS; write {plain}, or start it with --tls-cert"
    return f"TLS failed: {cause or error}"
