"""Attackers, in a process of their own: `python -m tests.soak.attacks PORT WAY SECONDS`.

Each tries to have the server busy with itself alone: by many small things that are at hand at once, by
work that is expensive, or by connections. None of them publishes anything.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from tests.fuzz.inputs import client_frame
from tests.kernel import upgrade

__all__ = ["WAYS"]

_HOST = b"Host: localhost\r\n"
_LIKES = " AND ".join(f"subject NOT LIKE '%_{n}a_%b%'" for n in range(100))
_NOT_READ = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)

Attack = Callable[[int], Awaitable[None]]


async def _dial(port: int, first: bytes) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(first)
    return stream


async def _pour(stream: trio.SocketStream, data: bytes) -> None:
    """Send it again and again, and read what comes, until either side has enough."""

    async def send() -> None:
        while True:
            await stream.send_all(data)

    async def read() -> None:
        while await stream.receive_some(1 << 16):
            pass
        nursery.cancel_scope.cancel()

    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(read)


async def _pipeline(port: int) -> None:
    """Requests on one connection, as fast as they go."""
    request = b"GET /livez HTTP/1.1\r\n" + _HOST + b"\r\n"
    await _pour(await _dial(port, request), request * 1000)


async def _chunks(port: int) -> None:
    """A body in chunks of one byte, which is no event, and too long in the end."""
    kind = b"Content-Type: application/cloudevents+json\r\n"
    head = b"POST /events HTTP/1.1\r\n" + _HOST + kind + b"Transfer-Encoding: chunked\r\n\r\n"
    await _pour(await _dial(port, head), b"1\r\nx\r\n" * 10_000)


async def _pings(port: int) -> None:
    """Empty Pings."""
    await _pour(await _dial(port, upgrade("/?exact.type=none")), client_frame(b"", 0x9) * 10_000)


async def _positions(port: int) -> None:
    """Questions where one is."""
    event = {"specversion": "1.0", "id": "1", "source": "/", "type": "trionotify.position"}
    frames = client_frame(json.dumps(event).encode()) * 500
    await _pour(await _dial(port, upgrade("/?format=cloudevents&exact.type=none")), frames)


async def _subscriptions(port: int) -> None:
    """Other filters, as many and as large as there may be, again and again."""
    event = {"specversion": "1.0", "id": "1", "source": "/", "type": "trionotify.subscribe"}
    filters = [{"exact": {f"x{n}": "a"}} for n in range(240)]
    frames = client_frame(json.dumps({**event, "data": {"filters": [{"any": filters}]}}).encode()) * 10
    await _pour(await _dial(port, upgrade("/?format=cloudevents&exact.type=none")), frames)


async def _audiences(port: int) -> None:
    """Batches whose audiences take long to understand; the last event is none, so all are refused."""
    event = {"specversion": "1.0", "id": "1", "source": "/", "type": "a"}
    events = [
        {**event, "audience": json.dumps([{"sql": f"{_LIKES} AND {n} = {n}"}])} for n in range(100)
    ]
    body = json.dumps([*events, {}]).encode()
    kind = b"Content-Type: application/cloudevents-batch+json\r\n"
    head = b"POST /events HTTP/1.1\r\n" + _HOST + kind + b"Content-Length: %d\r\n\r\n" % len(body)
    async with await _dial(port, head + body) as stream:
        await stream.receive_some(1 << 16)


async def _replays(port: int) -> None:
    """All that is kept, by a filter that takes long and wants nothing of it."""
    query = f"since=start&sql={_LIKES} AND type = 'none'".replace(" ", "+").replace("%", "%25")
    request = f"GET /events?{query} HTTP/1.1\r\n".encode() + _HOST + b"\r\n"
    stream = await _dial(port, request)
    async with stream:
        await stream.receive_some(1 << 16)
        await trio.sleep(2)


async def _filters(port: int) -> None:
    """A filter that takes long, on everything that is published meanwhile."""
    query = f"sql={_LIKES} AND NOT (type = 'none')".replace(" ", "+").replace("%", "%25")
    async with await _dial(port, upgrade(f"/?{query}")) as stream:
        while await stream.receive_some(1 << 16):
            pass


async def _connections(port: int) -> None:
    """Connections that end at once."""
    async with await _dial(port, b"G"):
        pass


async def _bodies(port: int) -> None:
    """Half of a large body."""
    kind = b"Content-Type: application/cloudevents-batch+json\r\n"
    head = b"POST /events HTTP/1.1\r\n" + _HOST + kind + b"Content-Length: 4000000\r\n\r\n"
    async with await _dial(port, head + b" " * 2_000_000):
        await trio.sleep(2)


async def _resets(port: int) -> None:
    """Connections that are reset, in the middle of something."""
    stream = await _dial(port, upgrade("/?format=cloudevents")[:-1])
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


#: How many attackers do so at a time. One whose connection ends starts again.
WAYS: dict[str, tuple[Attack, int]] = {
    "pipeline": (_pipeline, 1),
    "chunks": (_chunks, 1),
    "pings": (_pings, 40),
    "positions": (_positions, 20),
    "subscriptions": (_subscriptions, 5),
    "audiences": (_audiences, 2),
    "replays": (_replays, 5),
    "filters": (_filters, 20),
    "connections": (_connections, 50),
    "bodies": (_bodies, 20),
    "resets": (_resets, 20),
}


async def _attack(port: int, way: str, seconds: float) -> None:
    attack, count = WAYS[way]

    async def again_and_again() -> None:
        while True:
            with suppress(*_NOT_READ):
                try:
                    await attack(port)
                except* _NOT_READ:
                    pass
            await trio.lowlevel.checkpoint()

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(again_and_again)


if __name__ == "__main__":
    trio.run(_attack, int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
