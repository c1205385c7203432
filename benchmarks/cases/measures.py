"""What a case is, and the figures that all of them return."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs

from benchmarks.servers import USUAL, Server

Figures = dict[str, float]
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


def settle(server: Server) -> None:
    """Wait until the server has done what it had to do, but at most five seconds."""
    before = server.cpu()
    for _ in range(25):
        time.sleep(0.2)
        if (now := server.cpu()) - before < 0.02:  # some are never quite at rest
            break
        before = now


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def latencies(seconds: list[float]) -> Figures:
    """The usual percentiles, in milliseconds."""
    return {
        "p50 ms": percentile(seconds, 0.5) * MS,
        "p99 ms": percentile(seconds, 0.99) * MS,
        "p99.9 ms": percentile(seconds, 0.999) * MS,
    }
