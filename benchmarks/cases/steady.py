"""Messages at a fixed rate, and how late they are while others misbehave; and clients far away."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

from benchmarks.cases.fanout import bursts
from benchmarks.cases.measures import MIB, US, Figures, Run, closing, latencies
from benchmarks.load import (
    PATIENCE,
    Readers,
    Stuck,
    client_frame,
    connect,
    connect_all,
    frame_size,
    send_all,
)
from benchmarks.proxy import delaying_proxy
from benchmarks.servers import Server


def steady(
    server: Server,
    clients: list[socket.socket],
    rate: float,
    size: int,
    goes_on: Callable[[], bool],
    publish: str | None = None,
) -> Figures:
    """Publish at `rate` a second; how late is each client that reads, and what does it cost?

    `goes_on` is called in each turn, and may do something; when it says no, no more is published. All
    frames have the same length, so the bytes of a client tell which message they end.
    """
    publisher = connect(server.port, publish or server.kind.publish)
    readers, due = Readers(clients), frame_size(size)
    received = {client.fileno(): 0 for client in clients}
    sent_at: list[float] = []
    late: list[float] = []
    memory, cpu, start = server.memory(), server.cpu(), time.perf_counter()
    most, last, going = memory, start, True
    while going or len(late) < len(sent_at) * len(clients):
        now = time.perf_counter()
        while going and now - start >= len(sent_at) / rate:
            frame = client_frame(str(len(sent_at)).rjust(size, ".").encode())
            sent_at.append(time.perf_counter())
            send_all(publisher, frame)
            most = max(most, server.memory())
        going = going and goes_on()
        for fd, got in readers.read_some(0.001):
            if not got:
                raise Stuck("the server closed a client that reads")
            last = time.perf_counter()
            before, received[fd] = received[fd] // due, received[fd] + got
            late += [last - sent for sent in sent_at[before : received[fd] // due]]
        if now - last > PATIENCE:
            raise Stuck(f"{len(sent_at) * len(clients) - len(late)} deliveries did not come")
    publisher.close()
    return {
        **latencies(late),
        "CPU us/delivery": (server.cpu() - cpu) / len(late) * US,
        "memory growth MiB": (most - memory) * MIB,
    }


def lasting(
    seconds: float, meanwhile: Callable[[], None] = lambda: None, every: float = 0.0
) -> Callable[[], bool]:
    """Whether less than `seconds` have passed; and `meanwhile`, once in `every` seconds."""
    last = time.perf_counter()
    end = last + seconds

    def goes_on() -> bool:
        nonlocal last
        now = time.perf_counter()
        if now - last >= every:
            last = now
            meanwhile()
        return time.perf_counter() < end

    return goes_on


def slow(subscribers: int, misbehaving: bool, seconds: float = 6.0) -> Run:
    """One in a hundred never reads, and one in a hundred reads 10 kB a second."""

    def run(server: Server) -> Figures:
        with closing(connect_all(server.port, ["/"] * subscribers)) as clients:
            never, slowly = subscribers // 100, subscribers // 50
            if not misbehaving:
                never = slowly = 0

            def read_slowly() -> None:
                for client in clients[never:slowly]:
                    client.recv(1000)

            return steady(server, clients[slowly:], 100, 1024, lasting(seconds, read_slowly, every=0.1))

    return run


def churn(subscribers: int, moving: bool, seconds: float = 6.0) -> Run:
    """Clients come and go, a hundred a second, while others stay."""

    def run(server: Server) -> Figures:
        passing: list[socket.socket] = []
        handshake = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        handshake += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

        def come_and_go() -> None:
            client = socket.create_connection(("127.0.0.1", server.port))
            client.sendall(handshake)
            passing.append(client)
            if len(passing) > 50:
                passing.pop(random.randrange(len(passing))).close()

        with closing(connect_all(server.port, ["/"] * subscribers)) as clients, closing(passing):
            goes_on = lasting(seconds, come_and_go, every=0.01) if moving else lasting(seconds)
            return steady(server, clients, 100, 128, goes_on)

    return run


def far(subscribers: int, round_trip: float, seconds: float = 5.0) -> Run:
    """Bursts of 1 MiB, in messages of 4 KiB, to clients that are `round_trip` seconds away."""
    size, count = 4096, 256

    def run(server: Server) -> Figures:
        with delaying_proxy(server.port, round_trip) as port:
            with closing(connect_all(port, ["/"] * subscribers)) as clients:
                publisher = connect(server.port, server.kind.publish)
                readers = Readers(clients)
                cpu, _, taken, messages = bursts(
                    server, publisher, readers, subscribers, size, count, seconds
                )
                publisher.close()
        return {"CPU us/delivery": cpu / (messages * subscribers) * US, **latencies(taken)}

    return run
