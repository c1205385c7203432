"""What is measured. A case takes a server that has just started, and returns figures by name."""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from benchmarks.load import (
    PATIENCE,
    Readers,
    Stuck,
    client_frame,
    connect,
    connect_all,
    frame_size,
    numbered,
    send_all,
)
from benchmarks.proxy import delaying_proxy
from benchmarks.servers import FLOOR, FULL, KINDS, NORMAL, OURS, SLOW, Server

Figures = dict[str, float]

#: Ours on each log, and everybody's usual way.
LOGS = (OURS, NORMAL, FULL)
DISKS = (*LOGS, SLOW)
USUAL = tuple(name for name in KINDS if name not in (NORMAL, FULL, SLOW))
Run = Callable[[Server], Figures]

#: Microseconds, milliseconds, KiB: the units of the figures.
US, MS, KIB, MIB = 1e6, 1e3, 1 / 1024, 1 / (1 << 20)


@attrs.frozen
class Case:
    """A case, the servers that it is for, and the figure by which they are compared."""

    name: str
    about: str
    compare: str
    run: Run
    kinds: tuple[str, ...] = USUAL


@contextmanager
def closing(clients: list[socket.socket]) -> Iterator[list[socket.socket]]:
    """Close them all at the end."""
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def latencies(seconds: list[float]) -> Figures:
    """The usual percentiles, in milliseconds."""
    return {
        "p50 ms": percentile(seconds, 0.5) * MS,
        "p99 ms": percentile(seconds, 0.99) * MS,
        "p99.9 ms": percentile(seconds, 0.999) * MS,
    }


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


# --- fanout, filtered, targeted ---


def fanout(
    subscribers: int, size: int, flight: int, seconds: float = 2.0, *, awake: bool = False
) -> Run:
    """Everybody gets everything."""

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


def events(subscribers: int, seconds: float = 2.0) -> Run:
    """Everybody gets everything as CloudEvents; and beside it, raw messages of the same size."""

    def run(server: Server) -> Figures:
        with closing(connect_all(server.port, ["/?format=cloudevents"] * subscribers)) as clients:
            publisher, probe = connect(server.port, server.kind.publish), clients.pop()
            probe.setblocking(True)
            readers = Readers(clients)
            while any(got for _, got in readers.read_some(0.2)):
                pass  # what came behind the heads
            frame, sizes = client_frame(b"." * 128), []
            cpu, start = server.cpu(), time.perf_counter()
            while time.perf_counter() - start < seconds:
                send_all(publisher, frame)
                # One of them tells how long an event is: its id and its cursor grow.
                sizes.append(_one_frame(probe))
                readers.wait(sizes[-1] * len(clients))
            cpu = server.cpu() - cpu
            publisher.close()
            probe.close()
        raw = fanout(subscribers, int(percentile(sizes, 0.5)) - 4, 1, seconds)(server)
        figure = "CPU us/delivery"
        return {figure: cpu / len(sizes) / subscribers * US, f"{figure}, raw": raw[figure]}

    return run


def _one_frame(client: socket.socket) -> int:
    """Read one frame of 126 bytes to 64 KiB; returns how many bytes it has."""
    data = client.recv(4, socket.MSG_WAITALL)
    size = int.from_bytes(data[2:])
    client.recv(size, socket.MSG_WAITALL)
    return 4 + size


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


# --- ingest ---


def ingest(publishers: int, flight: int, size: int = 128, seconds: float = 2.0) -> Run:
    """A window of `flight` messages on the way to one subscriber, shared by the publishers."""

    def run(server: Server) -> Figures:
        with closing(connect_all(server.port, ["/"])) as (client,):
            pubs = [connect(server.port, server.kind.publish) for _ in range(publishers)]
            frame, due = client_frame(b"." * size), frame_size(size)
            client.settimeout(PATIENCE)
            sent = received = 0
            turn = 0
            begin: tuple[float, float, int] | None = None
            started = time.perf_counter()
            while True:
                room = flight - (sent - received // due)
                for number in range(min(room, publishers)):
                    # Shared out as evenly as it goes.
                    count = room // publishers + (number < room % publishers)
                    send_all(pubs[(turn + number) % publishers], frame * count)
                turn += room
                sent += room
                data = client.recv(1 << 18)
                if not data:
                    raise Stuck("the server closed the subscriber")
                received += len(data)
                now = time.perf_counter()
                if begin is None and now - started > seconds / 10:
                    begin = (server.cpu(), now, received)
                if now - started > seconds:
                    break
            assert begin is not None  # the tenth part comes before the whole
            cpu, start, first = begin
            messages = (received - first) // due
            figures = {
                "CPU us/message": (server.cpu() - cpu) / messages * US,
                "messages/s": messages / (now - start),
            }
            for publisher in pubs:
                publisher.close()
        return figures

    return run


# --- idle ---


def idle(connections: int) -> Run:
    """Connect, and say nothing more."""

    def run(server: Server) -> Figures:
        ours = server.kind.name == OURS
        targets = [f"/?id=u{n}&exact.type=t{n}" if ours else "/" for n in range(connections)]
        with closing(connect_all(server.port, targets[:200])):
            pass  # the first ones pay for what is made once
        time.sleep(0.5)
        memory, cpu, start = server.memory(), server.cpu(), time.perf_counter()
        with closing(connect_all(server.port, targets)):
            clock = time.perf_counter() - start
            time.sleep(0.5)
            connecting, memory = server.cpu() - cpu, server.memory() - memory
            cpu = server.cpu()
            time.sleep(5)
            resting = server.cpu() - cpu
        return {
            "KiB/connection": memory / connections * KIB,
            "CPU us/connect": connecting / connections * US,
            "connects/s": connections / clock,
            "idle CPU %": resting / 5 * 100,
        }

    return run


# --- steady: messages at a fixed rate, while others misbehave ---


def steady(
    server: Server,
    clients: list[socket.socket],
    rate: float,
    size: int,
    seconds: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> Figures:
    """Publish at `rate` a second; how late is each client that reads, and what does it cost?

    All frames have the same length, so the bytes of a client tell which message they end.
    """
    publisher = connect(server.port, server.kind.publish)
    frames, due = [client_frame(p) for p in numbered(int(rate * seconds), size)], frame_size(size)
    readers = Readers(clients)
    received = {client.fileno(): 0 for client in clients}
    sent_at: list[float] = []
    late: list[float] = []
    missing = len(frames) * len(clients)
    memory, cpu, start = server.memory(), server.cpu(), time.perf_counter()
    most = memory
    while missing:
        now = time.perf_counter()
        while len(sent_at) < len(frames) and now - start >= len(sent_at) / rate:
            sent_at.append(time.perf_counter())
            send_all(publisher, frames[len(sent_at) - 1])
            most = max(most, server.memory())
        meanwhile()
        for fd, got in readers.read_some(0.001):
            if not got:
                raise Stuck("the server closed a client that reads")
            now = time.perf_counter()
            before, received[fd] = received[fd] // due, received[fd] + got
            for number in range(before, received[fd] // due):
                late.append(now - sent_at[number])
                missing -= 1
        if now - start > seconds + PATIENCE:
            raise Stuck(f"{missing} deliveries did not come")
    publisher.close()
    return {
        **latencies(late),
        "CPU us/delivery": (server.cpu() - cpu) / len(late) * US,
        "memory growth MiB": (most - memory) * MIB,
    }


def slow(subscribers: int, misbehaving: bool, seconds: float = 6.0) -> Run:
    """One in a hundred never reads, and one in a hundred reads 10 kB a second."""

    def run(server: Server) -> Figures:
        with closing(connect_all(server.port, ["/"] * subscribers)) as clients:
            never, slowly = subscribers // 100, subscribers // 50
            if not misbehaving:
                never = slowly = 0
            last = time.perf_counter()

            def read_slowly() -> None:
                nonlocal last
                now = time.perf_counter()
                if now - last >= 0.1:
                    last = now
                    for client in clients[never:slowly]:
                        client.recv(1000)

            return steady(server, clients[slowly:], 100, 1024, seconds, read_slowly)

    return run


def churn(subscribers: int, moving: bool, seconds: float = 6.0) -> Run:
    """Clients come and go, a hundred a second, while others stay."""

    def run(server: Server) -> Figures:
        passing: list[socket.socket] = []
        handshake = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        handshake += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        last = time.perf_counter()

        def come_and_go() -> None:
            nonlocal last
            now = time.perf_counter()
            if now - last >= 0.01:
                last = now
                client = socket.create_connection(("127.0.0.1", server.port))
                client.sendall(handshake)
                passing.append(client)
                if len(passing) > 50:
                    passing.pop(random.randrange(len(passing))).close()

        with closing(connect_all(server.port, ["/"] * subscribers)) as clients, closing(passing):
            return steady(server, clients, 100, 128, seconds, come_and_go if moving else lambda: None)

    return run


# --- far ---


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


# --- logs ---


def acknowledged(publishers: int, seconds: float = 2.0) -> Run:
    """Each publishes one event at a time, and waits until it is acknowledged."""

    def run(server: Server) -> Figures:
        target = "/?role=publisher&format=cloudevents"
        with closing(connect_all(server.port, [target] * publishers)) as clients:
            poll = select.epoll()
            by_fd = {client.fileno(): client for client in clients}
            waits: dict[int, float] = {}
            taken: list[float] = []
            for fd, client in by_fd.items():
                client.settimeout(PATIENCE)
                waits[fd] = _say_event(client, fd, 0)  # the welcome came with the head
                poll.register(fd, select.EPOLLIN)
            cpu, start = server.cpu(), time.perf_counter()
            while (now := time.perf_counter()) - start < seconds:
                for fd, _ in poll.poll(PATIENCE):
                    _one_frame(by_fd[fd])
                    taken.append(time.perf_counter() - waits[fd])
                    waits[fd] = _say_event(by_fd[fd], fd, len(taken))
        return {
            "publishes/s": len(taken) / (now - start),
            "CPU us/publish": (server.cpu() - cpu) / len(taken) * US,
            **latencies(taken),
        }

    return run


def _say_event(client: socket.socket, source: int, id: int) -> float:
    event = f'{{"specversion":"1.0","type":"t","source":"/{source}","id":"{id}","data":"{"." * 64}"}}'
    client.sendall(client_frame(event.encode()))
    return time.perf_counter()


def replay(count: int) -> Run:
    """One client reads back a log of so many, of which it wants one in a hundred."""
    size = 128

    def run(server: Server) -> Figures:
        targets = ["/", *[f"/?role=publisher&type={type}" for type in "ab"]]
        with closing(connect_all(server.port, targets)) as (reader, *publishers):
            reader.settimeout(PATIENCE)
            for _ in range(count // 1000):
                for publisher, times in zip(publishers, (990, 10), strict=True):
                    send_all(publisher, client_frame(b"." * size) * times)
                due = 1000 * frame_size(size)
                while due > 0:
                    due -= len(reader.recv(due))
        memory, cpu, start = server.memory(), server.cpu(), time.perf_counter()
        with closing(connect_all(server.port, ["/?exact.type=b&since=start"])) as (reader,):
            due, most = count // 100 * frame_size(size), memory
            reader.settimeout(PATIENCE)
            while due > 0:
                due -= len(reader.recv(1 << 16))
                most = max(most, server.memory())
        clock = time.perf_counter() - start
        return {
            "seconds": clock,
            "read/s": count / clock,
            "CPU us/read": (server.cpu() - cpu) / count * US,
            "memory growth MiB": (most - memory) * MIB,
        }

    return run


#: Those that can't push back, or lose what they can't send, are not asked to.
_WITH_LIMITS = (OURS, "ws", "websockets")
_FANOUT = "CPU us/delivery"

CASES = {
    case.name: case
    for case in (
        Case("fanout-1", "1,000 subscribers, 128 bytes, one at a time", _FANOUT, fanout(1000, 128, 1)),
        Case("fanout-16", "1,000 subscribers, 128 bytes, 16 in flight", _FANOUT, fanout(1000, 128, 16)),
        Case("fanout-4k", "1,000 subscribers, 4 KiB, 4 in flight", _FANOUT, fanout(1000, 4096, 4)),
        Case(
            "fanout-10k",
            "10,000 subscribers, 128 bytes, one at a time",
            _FANOUT,
            fanout(10_000, 128, 1),
            (OURS, FLOOR, "uWebSockets", "picows", "ws"),
        ),
        *(
            Case(f"filtered-{name}", about, "CPU us/publish", filtered(subscribers, kinds), (OURS,))
            for name, about, subscribers, kinds in (
                ("alone", "one subscriber, with an exact filter", 1, 1),
                ("one", "10,000 distinct exact filters, one matches", 10_000, 10_000),
                ("1%", "10,000 subscribers with 100 exact filters, one matches", 10_000, 100),
                ("all", "10,000 subscribers with the same exact filter", 10_000, 1),
            )
        ),
        Case("targeted", "one of 10,000 is told", "CPU us/publish", targeted(10_000), (OURS,)),
        Case("events", "1,000 CloudEvents subscribers, one at a time", _FANOUT, events(1000), (OURS,)),
        Case("ingest-1", "one publisher, 128 bytes, 64 in flight", "CPU us/message", ingest(1, 64)),
        Case("ingest-10", "ten publishers, 128 bytes, 64 in flight", "CPU us/message", ingest(10, 64)),
        Case(
            "idle",
            "5,000 connections (ours each with an id and a filter)",
            "KiB/connection",
            idle(5000),
            tuple(name for name in USUAL if name != FLOOR),
        ),
        Case("calm", "1,000 clients, 1 KiB, 100 a second", "p99 ms", slow(1000, False), _WITH_LIMITS),
        Case(
            "slow",
            "the same; 1 % never read, 1 % read 10 kB/s",
            "p99 ms",
            slow(1000, True),
            _WITH_LIMITS,
        ),
        Case("fanout-log", "fanout-1, by log", _FANOUT, fanout(1000, 128, 1, 4.0, awake=True), LOGS),
        Case(
            "fanout-16-log", "fanout-16, by log", _FANOUT, fanout(1000, 128, 16, 4.0, awake=True), LOGS
        ),
        Case(
            "fanout-10k-log",
            "fanout-10k, by log",
            _FANOUT,
            fanout(10_000, 128, 1, 4.0, awake=True),
            LOGS,
        ),
        Case("ingest-log", "ingest-1, by log", "CPU us/message", ingest(1, 64), LOGS),
        Case("ack-1", "one publisher waits for each commit", "publishes/s", acknowledged(1), DISKS),
        Case("ack-64", "64 publishers wait, each for its own", "publishes/s", acknowledged(64), DISKS),
        Case(
            "replay",
            "a log of 1,000,000, of which one client wants 1 %",
            "seconds",
            replay(1_000_000),
            (NORMAL,),
        ),
        Case("near", "100 clients, bursts of 1 MiB", _FANOUT, far(100, 0.0), (OURS,)),
        Case("far", "the same, 100 ms away", _FANOUT, far(100, 0.1), (OURS,)),
        Case("stay", "500 clients, 128 bytes, 100 a second", "p99 ms", churn(500, False), _WITH_LIMITS),
        Case(
            "churn",
            "the same, while 100 clients a second come and go",
            "p99 ms",
            churn(500, True),
            _WITH_LIMITS,
        ),
    )
}
