"""Fetching one document by HTTPS, for the keys of an identity provider.

This does only what keys need: one GET on a connection of its own, with limits on size and time, and
without redirects, cookies and content coding. Trio does TLS, and h11 does HTTP.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import attrs
import h11
import trio

from trionotify.version import __version__

__all__ = ["Fetched", "check_https", "fetch"]

_RECEIVE_BYTES: Final = 1 << 14
_HTTPS: Final = 443
#: The characters of a URL (RFC 3986). Others are percent-encoded, or in a host's name written as IDNA.
_PLAIN: Final = re.compile(r"[!-~]+")


@attrs.frozen
class Fetched:
    """A document and its headers, whose names are in lower case. Several values have commas between."""

    body: bytes
    headers: Mapping[str, str]


def check_https(url: str) -> None:
    """Raise ValueError if this isn't a valid `https` URL."""
    split = urlsplit(url)
    good = split.scheme == "https" and split.hostname and split.username is None and not split.fragment
    if not (good and _PLAIN.fullmatch(url)):
        raise ValueError(f"must be a URL like https://example.org/keys, not {url!r}")
    _ = split.port  # raises ValueError


async def fetch(
    url: str,
    *,
    accept: str,
    max_bytes: int,
    timeout: float,  # noqa: ASYNC109 - the server that is asked may never answer
    ssl_context: ssl.SSLContext | None = None,
) -> Fetched:
    """Fetch at most `max_bytes` from `url` within `timeout` seconds. Always a checkpoint.

    Raises OSError if there is no connection, if TLS fails or if it takes too long. Raises ValueError if
    the answer is not a complete 200, or is larger.
    """
    with trio.move_on_after(timeout):
        return await _fetch(url, accept, max_bytes, ssl_context or ssl.create_default_context())
    raise TimeoutError(f"no answer within {timeout:g} seconds")


async def _fetch(url: str, accept: str, max_bytes: int, context: ssl.SSLContext) -> Fetched:
    split = urlsplit(url)
    host, port = split.hostname or "", split.port or _HTTPS
    raw = await trio.open_tcp_stream(host, port)
    stream = trio.SSLStream(raw, context, server_hostname=host, https_compatible=True)
    try:
        await stream.do_handshake()
        request = h11.Request(
            method="GET",
            target=(split.path or "/") + (f"?{split.query}" if split.query else ""),
            headers=[
                ("Host", split.netloc),
                ("Accept", accept),
                ("User-Agent", f"trionotify/{__version__}"),
                ("Connection", "close"),
            ],
        )
        return await _ask(stream, request, max_bytes)
    except trio.BrokenResourceError as error:
        raise OSError(f"the connection failed: {error.__cause__ or error}") from None
    except h11.RemoteProtocolError as error:
        raise ValueError(f"the answer is not HTTP: {error}") from None
    finally:
        with trio.move_on_after(0, shield=True):  # without waiting for a goodbye
            await stream.aclose()


async def _ask(stream: trio.abc.Stream, request: h11.Request, max_bytes: int) -> Fetched:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_RECEIVE_BYTES)
    await stream.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    headers: dict[str, list[str]] = {}
    body = bytearray()
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(_RECEIVE_BYTES)))
        elif isinstance(event, h11.Response):
            if event.status_code != 200:
                hint = ", and redirects are not followed" if 300 <= event.status_code < 400 else ""
                raise ValueError(f"the server answered {event.status_code}{hint}")
            for name, value in event.headers:
                headers.setdefault(name.decode(), []).append(value.decode("latin-1"))
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > max_bytes:
                raise ValueError(f"the answer has more than {max_bytes} bytes")
    return Fetched(bytes(body), {name: ", ".join(values) for name, values in headers.items()})
