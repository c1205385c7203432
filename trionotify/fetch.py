"""One `GET` over HTTP/1.1, by h11 on a Trio stream: as much of an HTTP client as the package needs."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

import h11
import trio

from trionotify.addresses import unix_path
from trionotify.errors import Refused
from trionotify.jsontext import read_json
from trionotify.target import open_unix

__all__ = ["fetch"]

_PORTS: Final = {"http": 80, "https": 443}
#: The longest answer that is taken, in bytes.
_LONGEST: Final = 16 << 20
_READ_SIZE: Final = 1 << 16


async def fetch(
    url: str, path: str, accept: str, extra_headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """The body of what is at `path` of the server at `url` (`http`, `https`, `unix:PATH`).

    Always a checkpoint; put a deadline around it. Raises ValueError for another URL, OSError when there
    is no answer, or none that can be read, and `Refused` with the status and the reason for one that
    isn't 200.
    """
    try:
        return await _fetch(url, path, [("Accept", accept), *extra_headers])
    except trio.BrokenResourceError as error:
        raise OSError(f"{url}: {error}") from None


async def _fetch(url: str, path: str, headers: list[tuple[str, str]]) -> bytes:
    stream, host = await _connect(url)
    async with stream:
        connection = h11.Connection(h11.CLIENT)
        fields = [("Host", host), *headers, ("Connection", "close")]
        request = [h11.Request(method="GET", target=path, headers=fields), h11.EndOfMessage()]
        await stream.send_all(b"".join([connection.send(event) or b"" for event in request]))
        status, body = 0, bytearray()
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    connection.receive_data(bytes(await stream.receive_some(_READ_SIZE)))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
                if len(body) > _LONGEST or isinstance(event, h11.ConnectionClosed):
                    raise OSError(f"{url} gave no answer that can be read")
        except h11.RemoteProtocolError as error:
            raise OSError(f"{url} gave no answer that can be read: {error}") from None
    if status != 200:
        raise Refused(status, _detail(bytes(body)))
    return bytes(body)


async def _connect(url: str) -> tuple[trio.abc.Stream, str]:
    """A stream to the server, and what to call it."""
    unix = unix_path(url)
    if unix is not None:
        return await open_unix(unix), "localhost"
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"url: http://HOST:PORT, https://… or unix:PATH is needed, not {url!r}")
    port = parts.port or _PORTS[parts.scheme]
    stream: trio.abc.Stream = await trio.open_tcp_stream(parts.hostname, port)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        stream = trio.SSLStream(stream, context, server_hostname=parts.hostname)
    return stream, parts.netloc


def _detail(body: bytes) -> str:
    try:
        return str(read_json(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return "it isn't a trionotify server, or something stands in front of it"
