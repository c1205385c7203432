"""The ways to be told: CloudEvents, streams over HTTP, and what is compressed.

Here a delivery's size isn't known before: cursors grow, and how far a message shrinks depends on what it
says. So one client, the probe, looks at each delivery, and the others count bytes as they always do.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count, repeat

import attrs

from benchmarks.cases.fanout import fanout
from benchmarks.cases.measures import US, Figures, Run, closing
from benchmarks.load import (
    DEFLATE,
    NDJSON,
    PATIENCE,
    SSE,
    WEBSOCKET,
    NotOffered,
    Readers,
    client_frame,
    connect,
    connect_all,
    send_all,
)
from benchmarks.servers import Server


def one_frame(client: socket.socket) -> int:
    """Read one WebSocket frame of less than 64 KiB; returns how many bytes it has."""
    size = client.recv(2, socket.MSG_WAITALL)[1]
    if size < 126:
        return 2 + _read(client, size)
    return 4 + _read(client, int.from_bytes(client.recv(2, socket.MSG_WAITALL)))


def one_chunk(client: socket.socket) -> int:
    """Read one chunk of an HTTP response; returns how many bytes it has with its frame."""
    head = b""
    while not head.endswith(b"\r\n"):
        head += client.recv(1)
    return len(head) + _read(client, int(head, 16) + 2)


def _read(client: socket.socket, size: int) -> int:
    return len(client.recv(size, socket.MSG_WAITALL))


@attrs.frozen
class Way:
    """What a client says, how it reads one delivery, and what the server must answer to be measured."""

    request: str
    one: Callable[[socket.socket], int]
    target: str = "/"
    offered: bytes = b""

    def zipped(self) -> Way:
        """The same, if the server compresses it."""
        request = self.request.replace("\r\n\r\n", "\r\nAccept-Encoding: gzip, deflate\r\n\r\n")
        return attrs.evolve(self, request=request, offered=b"content-encoding: gzip")


RAW = Way(WEBSOCKET, one_frame)
EVENTS = Way(WEBSOCKET, one_frame, "/?format=cloudevents")
DEFLATED = Way(DEFLATE, one_frame, offered=b"permessage-deflate")
SSE_STREAM = Way(SSE, one_chunk, "/events")
NDJSON_STREAM = Way(NDJSON, one_chunk, "/events")


def dots() -> Iterator[bytes]:
    """Messages of 128 bytes."""
    return repeat(b"." * 128)


def orders() -> Iterator[bytes]:
    """Messages of 1 KiB in JSON, as a shop might publish them, each different."""
    choose = random.Random(1)
    words = ("red", "green", "small", "large", "cotton", "linen", "shirt", "scarf", "hat", "coat")
    for number in count():
        items: list[dict[str, object]] = []
        order = {"order": number, "customer": f"c{choose.randrange(10**6)}", "items": items}
        while len(json.dumps(order)) < 900:
            name = " ".join(choose.choices(words, k=3))
            items.append({"sku": choose.randrange(10**8), "name": name, "cents": choose.randrange(9999)})
        yield json.dumps({**order, "note": ""}).encode().ljust(1024)


def told(
    server: Server, way: Way, subscribers: int, messages: Iterator[bytes], seconds: float
) -> tuple[float, list[int]]:
    """Send to all subscribers in one way; returns the server's CPU seconds, and each message's size."""
    _check(server, way)
    with closing(connect_all(server.port, [way.target] * subscribers, way.request)) as clients:
        publisher = connect(server.port, server.kind.publish)
        everybody = Readers(clients)
        while any(got for _, got in everybody.read_some(0.2)):
            pass  # what came behind the heads
        *others, probe = clients
        probe.settimeout(PATIENCE)
        readers, sizes = Readers(others), list[int]()
        cpu, start = server.cpu(), time.perf_counter()
        while time.perf_counter() - start < seconds or not sizes:
            send_all(publisher, client_frame(next(messages)))
            sizes.append(way.one(probe))
            readers.wait(sizes[-1] * len(others))
        cpu = server.cpu() - cpu
        publisher.close()
    return cpu, sizes


def _check(server: Server, way: Way) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        client.sendall(way.request.format(way.target).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += client.recv(1 << 16)
    if way.offered not in answer.lower():
        raise NotOffered(f"it does not answer with {way.offered.decode()}")


def ways(
    subscribers: int,
    ways: Mapping[str, Way],
    messages: Callable[[], Iterator[bytes]],
    seconds: float = 2.0,
) -> Run:
    """Each subscriber gets everything, in one way after the other."""

    def run(server: Server) -> Figures:
        figures: Figures = {}
        for name, way in ways.items():
            cpu, sizes = told(server, way, subscribers, messages(), seconds)
            figures[f"CPU us/delivery{name}"] = cpu / len(sizes) / subscribers * US
            figures[f"bytes/delivery{name}"] = sum(sizes) / len(sizes)
        return figures

    return run


def events(subscribers: int, seconds: float = 2.0) -> Run:
    """Each subscriber gets everything as CloudEvents. For comparison: raw messages of the same size."""

    def run(server: Server) -> Figures:
        cpu, sizes = told(server, EVENTS, subscribers, dots(), seconds)
        raw = fanout(subscribers, sorted(sizes)[len(sizes) // 2] - 4, 1, seconds)(server)
        figure = "CPU us/delivery"
        return {figure: cpu / len(sizes) / subscribers * US, f"{figure}, raw": raw[figure]}

    return run
