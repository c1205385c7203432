"""Several servers on one Redis, beside one server with its log in memory: `python -m benchmarks.nodes`.

Nodes share the server's core, and Redis has the load's, so a figure here is CPU time wherever that is
what counts. The servers take turns in each round; the tables show medians.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import attrs
import click

from benchmarks.cases.fanout import fanout
from benchmarks.cases.measures import Figures, closing, percentile
from benchmarks.cases.publishing import ingest, replay
from benchmarks.load import (
    PATIENCE,
    Readers,
    Stuck,
    client_frame,
    connect,
    connect_all,
    frame_size,
    raise_file_limit,
    send_all,
)
from benchmarks.machine import LOAD_CORE, cpu_time, describe, pin
from benchmarks.servers import Kind, Server, running

_SIZE = 128
_US, _MS = 1e6, 1e3


@attrs.frozen
class Redis:
    """A Redis that runs."""

    pid: int
    port: int

    def cpu(self) -> float:
        """Seconds of CPU that it has used so far."""
        return cpu_time(self.pid)

    def empty(self) -> None:
        """Forget everything."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as sock:
            sock.sendall(b"FLUSHALL\r\n")
            assert sock.recv(16) == b"+OK\r\n"


@contextmanager
def redis_server(program: str) -> Iterator[Redis]:
    """Start one that keeps nothing on the disk, and kill it at the end."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, preexec_fn=partial(pin, LOAD_CORE)
        ) as process:
            try:
                deadline = time.monotonic() + PATIENCE
                while True:
                    try:
                        socket.create_connection(("127.0.0.1", port)).close()
                        break
                    except OSError:
                        if process.poll() is not None or time.monotonic() > deadline:
                            raise RuntimeError(f"{program} did not start") from None
                        time.sleep(0.01)
                yield Redis(process.pid, port)
            finally:
                process.kill()


def _kind(store: str) -> Kind:
    limits = ("--max-half-open=20000", "--ping-interval=3600")
    kept = ("--max-log-entries=2000000", f"--max-log-bytes={1 << 40}")
    command = (sys.executable, "-m", "trionotify", "--port=0", f"--store={store}", *limits, *kept)
    return Kind(store.partition(":")[0], command, lambda: "", publish="/?role=publisher")


@contextmanager
def nodes(store: str, count: int = 1) -> Iterator[list[Server]]:
    """So many servers with this store."""
    with ExitStack() as stack:
        yield [stack.enter_context(running(_kind(store))) for _ in range(count)]


def both(redis: Redis) -> dict[str, str]:
    """The stores that are compared."""
    redis.empty()
    return {"memory": "memory:", "redis": f"redis://127.0.0.1:{redis.port}"}


# --- the cases: each gives rows of figures ---


def fan_out(redis: Redis, subscribers: int, seconds: float) -> dict[str, Figures]:
    """CPU of a node for each delivery, one message at a time and 16 in flight."""
    found: dict[str, Figures] = {}
    for name, store in both(redis).items():
        figures = found[name] = {}
        for flight in (1, 16):
            with nodes(store) as (server,):
                run = fanout(subscribers, _SIZE, flight, seconds)
                figures[f"CPU us/delivery, {flight} in flight"] = run(server)["CPU us/delivery"]
    return found


def latency(redis: Redis, count: int) -> dict[str, Figures]:
    """From a publisher at one node to a subscriber at another; in memory, at the same. One by one."""
    found = {}
    frame = client_frame(b"." * _SIZE)
    for name, store in both(redis).items():
        with nodes(store, 1 if name == "memory" else 2) as servers:
            with closing([connect(servers[-1].port, "/")]) as (reader,):
                publisher = connect(servers[0].port, servers[0].kind.publish)
                reader.settimeout(PATIENCE)
                taken = []
                for _ in range(count):
                    begun = time.perf_counter()
                    publisher.sendall(frame)
                    _read(reader, frame_size(_SIZE))
                    taken.append(time.perf_counter() - begun)
                publisher.close()
        found[name] = {f"p{share:g} ms": percentile(taken, share / 100) * _MS for share in (50, 99)}
    return found


def _read(reader: socket.socket, due: int) -> None:
    while due > 0:
        got = len(reader.recv(due))
        if not got:
            raise Stuck("the server closed a connection")
        due -= got


def publishes(redis: Redis, seconds: float) -> dict[str, Figures]:
    """What goes through with 64 in flight, and what it costs a node and Redis."""
    found = {}
    for name, store in both(redis).items():
        with nodes(store) as (server,):
            before, begun = redis.cpu(), time.perf_counter()
            figures = ingest(1, 64, _SIZE, seconds)(server)
            clock = time.perf_counter() - begun
            share = (redis.cpu() - before) / clock
        found[name] = {**figures, "cores of Redis": share}
    return found


def history(redis: Redis, count: int) -> dict[str, Figures]:
    """One client reads back all of a log, of which it wants one in a hundred."""
    found = {}
    for name, store in both(redis).items():
        with nodes(store) as (server,):
            found[name] = replay(count)(server)
    redis.empty()
    return found


def tailing(redis: Redis, count: int, most: int) -> dict[str, Figures]:
    """What one publish, of 64 in flight, costs Redis and each node, when so many nodes tail."""
    found: dict[str, Figures] = {}
    store = both(redis)["redis"]
    burst, flight = client_frame(b"." * _SIZE) * 64, 64
    number = 1
    while number <= most:
        with nodes(store, number) as servers:
            with closing([connect(server.port, "/") for server in servers]) as clients:
                publisher = connect(servers[0].port, servers[0].kind.publish)
                readers = Readers(clients)
                before = redis.cpu(), [server.cpu() for server in servers]
                for _ in range(count // flight):
                    send_all(publisher, burst)
                    readers.wait(flight * frame_size(_SIZE) * number)
                spent = [server.cpu() - cpu for server, cpu in zip(servers, before[1], strict=True)]
                publisher.close()
                used = redis.cpu() - before[0]
        messages = count // flight * flight
        others = spent[1:]
        found[f"{number} nodes"] = {
            "Redis, CPU us/publish": used / messages * _US,
            "publishing node": spent[0] / messages * _US,
            **({"each other node": statistics.mean(others) / messages * _US} if others else {}),
        }
        number *= 2
    return found


def share_out(redis: Redis, subscribers: int, seconds: float) -> dict[str, Figures]:
    """All clients at one node, and half of them at each of two: CPU for a delivery, 16 in flight."""
    found = {}
    flight = 16
    burst = client_frame(b"." * _SIZE) * flight
    for number in (1, 2):
        redis.empty()
        with nodes(both(redis)["redis"], number) as servers, ExitStack() as stack:
            clients = [
                client
                for server in servers
                for client in stack.enter_context(
                    closing(connect_all(server.port, ["/"] * (subscribers // number)))
                )
            ]
            publisher = stack.enter_context(closing([connect(servers[0].port, servers[0].kind.publish)]))
            readers, bursts = Readers(clients), 0
            before, begun = [server.cpu() for server in servers], time.perf_counter()
            while (clock := time.perf_counter() - begun) < seconds:
                send_all(publisher[0], burst)
                readers.wait(flight * frame_size(_SIZE) * len(clients))
                bursts += 1
            spent = [server.cpu() - cpu for server, cpu in zip(servers, before, strict=True)]
        each = bursts * flight * len(clients) / number
        found[f"{number} nodes"] = {
            **{f"node {n}, CPU us/delivery": cpu / each * _US for n, cpu in enumerate(spent, 1)},
            "deliveries/s": bursts * flight * len(clients) / clock,
        }
    return found


CASES: dict[str, Callable[[Redis, float], dict[str, Figures]]] = {
    "fanout": lambda redis, scale: fan_out(redis, round(1000 * scale), 2 * scale),
    "latency": lambda redis, scale: latency(redis, round(500 * scale)),
    "publishes": lambda redis, scale: publishes(redis, max(0.5, 4 * scale)),
    "tailing": lambda redis, scale: tailing(redis, round(40_000 * scale), 8 if scale > 0.1 else 2),
    "share": lambda redis, scale: share_out(redis, round(1000 * scale), 4 * scale),
    "replay": lambda redis, scale: history(redis, round(1000 * scale) * 1000),
}


def median(rounds: list[dict[str, Figures]]) -> dict[str, Figures]:
    """The median of each figure."""
    return {
        row: {name: statistics.median(found[row][name] for found in rounds) for name in figures}
        for row, figures in rounds[0].items()
    }


def table(name: str, rows: dict[str, Figures]) -> str:
    """In Markdown."""
    columns = list(dict.fromkeys(column for figures in rows.values() for column in figures))
    lines = [[name, *columns], ["---", *["---:" for _ in columns]]]
    lines += [
        [row, *[f"{figures[name]:,.3g}" if name in figures else "" for name in columns]]
        for row, figures in rows.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CASES)))
@click.option("--rounds", default=3, show_default=True, help="How often; replay once.")
@click.option("--scale", default=1.0, show_default=True, help="How long, and with how many clients.")
@click.option("--redis", default="redis-server", show_default=True, help="The program.")
def main(names: tuple[str, ...], rounds: int, scale: float, redis: str) -> None:
    """Measure these cases, or all."""
    pin(LOAD_CORE)
    raise_file_limit()
    click.echo(f"{describe()}; {subprocess.check_output([redis, '--version'], text=True).strip()}\n")
    for name in names or CASES:
        with redis_server(redis) as server:
            found = [CASES[name](server, scale) for _ in range(1 if name == "replay" else rounds)]
        click.echo(table(name, median(found)) + "\n")


if __name__ == "__main__":
    main()
