"""One `GET` over HTTP/1.1, by h11 on a Trio stream. The package needs no more of an HTTP client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import h11
import trio

from trionotify.client.endpoint import Endpoint
from trionotify.errors import Refused
from trionotify.model.jsontext import read_json

__all__ = ["fetch"]

#: The longest accepted answer, in bytes.
_LONGEST: Final = 16 << 20
_READ_SIZE: Final = 1 << 16


async def fetch(
    url: str, name: str, accept: str, extra_headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """Fetch the resource `name` beside `/events` from the server at `url`; return its body.

    Always a checkpoint; put a deadline around it. Raises ValueError for an invalid URL, OSError if
    there is no answer, or none that can be read, and `Refused` with the status and the reason for one
    that isn't 200.
    """
    endpoint = Endpoint.of(url)
    try:
        return await _fetch(endpoint, name, [("Accept", accept), *extra_headers])
    except trio.BrokenResourceError as error:
        raise OSError(f"{endpoint}: {error}") from None


async def _fetch(endpoint: Endpoint, name: str, headers: list[tuple[str, str]]) -> bytes:
    async with await endpoint.open() as stream:
        connection = h11.Connection(h11.CLIENT)
        fields = [("Host", endpoint.authority), *headers, ("Connection", "close")]
        request = [
            h11.Request(method="GET", target=endpoint.beside(name), headers=fields),
            h11.EndOfMessage(),
        ]
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
                    raise OSError(f"{endpoint}: the answer can't be read")
        except h11.RemoteProtocolError as error:
            raise OSError(f"{endpoint}: the answer can't be read: {error}") from None
    if status != 200:
        raise Refused(status, _detail(bytes(body)))
    return bytes(body)


def _detail(body: bytes) -> str:
    try:
        return str(read_json(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return "not a trionotify server, or a proxy in front of it answered"
