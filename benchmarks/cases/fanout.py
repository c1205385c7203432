"""Fan-out: the cost of a delivery, and of finding the clients that a message is for."""

from __future__ import annotations

import socket
import time

from benchmarks.cases.measures import US, Figures, Run, closing, latencies
from benchmarks.load import Readers, client_frame, connect, connect_all, frame_size, numbered, send_all
from benchmarks.servers import Server


def bursts(
    server: Server,
    publisher: socket.socket,
    readers: Readers,
    subscribers: int,
    size: int,
    flight: int,
    seconds: float,
) -> tuple[float, float, list[float], int]:
    """Publish `flight` messages, wait until the last subscriber has them, and again.

    Returns the server's CPU and the clock's seconds, those of each burst, and how many messages.
    """
    burst = b"".join(map(client_frame, numbered(flight, size)))
    due = subscribers * flight * frame_size(size)
    for _ in range(5):
        send_all(publisher, burst)
        readers.wait(due)
    taken: list[float] = []
    cpu, start = server.cpu(), time.perf_counter()
    while (now := time.perf_counter()) - start < seconds or len(taken) < 20:
        send_all(publisher, burst)
        readers.wait(due)
        taken.append(time.perf_counter() - now)
    return server.cpu() - cpu, time.perf_counter() - start, taken, len(taken) * flight


def fanout(
    subscribers: int, size: int, flight: int, seconds: float = 2.0, *, awake: bool = False
) -> Run:
    """Each subscriber gets everything."""

    def run(server: Server) -> Figures:
        with closing(connect_all(server.port, ["/"] * subscribers)) as clients:
            publisher = connect(server.port, server.kind.publish)
            readers = Readers(clients, awake)
            cpu, clock, taken, messages = bursts(
                server, publisher, readers, subscribers, size, flight, seconds
            )
            publisher.close()
        deliveries = subscribers * messages
        return {
            "CPU us/delivery": cpu / deliveries * US,
            "deliveries/s": deliveries / clock,
            **latencies(taken),
        }

    return run


def one_of_many(targets: list[str], publish: str, matching: int, seconds: float = 2.0) -> Run:
    """Of the subscribers at `targets`, the first `matching` want what is published."""

    def run(server: Server) -> Figures:
        with closing(connect_all(server.port, targets)) as clients:
            publisher = connect(server.port, publish)
            readers = Readers(clients)
            cpu, _, taken, messages = bursts(server, publisher, readers, matching, 128, 1, seconds)
            publisher.close()
        return {"CPU us/publish": cpu / messages * US, **latencies(taken)}

    return run


def filtered(subscribers: int, kinds: int, seconds: float = 2.0) -> Run:
    """Everyone has an `exact` filter, on one of so many types; one type is published."""
    targets = [f"/?exact.type=t{number % kinds}" for number in range(subscribers)]
    return one_of_many(targets, "/?role=publisher&type=t0", -(-subscribers // kinds), seconds)


def targeted(subscribers: int, seconds: float = 2.0) -> Run:
    """One of them is told."""
    targets = [f"/?id=u{number}" for number in range(subscribers)]
    return one_of_many(targets, f"/?role=publisher&to=u{subscribers // 2}", 1, seconds)
