"""How long others wait: a process that asks for /livez every 100 ms, on a connection of its own.

`python -m tests.fuzz.lag PORT` asks until its standard input ends, and prints the milliseconds that
each answer took. It counts from the moment at which it was due, so that an answer of 3 s weighs as much
as the 30 questions that had to wait for it.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["Lag", "measured_lag"]

#: Seconds between two questions.
_INTERVAL = 0.1
#: Seconds, at the 99th percentile.
BOUND = 0.25


class Lag:
    """The waits, in seconds, sorted. Complete when the block of `measured_lag` is left."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def percentile(self, share: float) -> float:
        return self.waits[min(len(self.waits) - 1, int(len(self.waits) * share))] if self.waits else 0.0

    def __str__(self) -> str:
        figures = [f"{name} {self.percentile(share) * 1000:.0f}" for name, share in _SHARES]
        return f"/livez: {', '.join(figures)} ms ({len(self.waits)} times)"


_SHARES = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))


@asynccontextmanager
async def measured_lag(port: int) -> AsyncIterator[Lag]:
    """Measure while the block runs, which begins after the first answer."""
    lag = Lag()
    command = [sys.executable, "-m", "tests.fuzz.lag", str(port)]
    pipe = subprocess.PIPE
    process = await trio.lowlevel.open_process(command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    said = bytearray()
    answered = trio.Event()

    async def read() -> None:
        assert process.stdout is not None
        async for data in process.stdout:
            said.extend(data)
            answered.set()
        answered.set()  # it failed

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await answered.wait()
            yield lag
            await process.stdin.aclose()
            await process.wait()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    lag.waits = sorted(float(line) / 1000 for line in said.split())


def _ask_for_ever(port: int) -> None:
    due = time.monotonic()
    sock = socket.create_connection(("127.0.0.1", port))
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = sock.recv(4096)
            if not data:
                raise SystemExit("the server closed the connection of /livez")
            answer += data
        assert answer.startswith(b"HTTP/1.1 200"), answer
        now = time.monotonic()
        while due <= now:
            print(f"{(now - due) * 1000:.1f}", flush=True)
            due += _INTERVAL


if __name__ == "__main__":
    _ask_for_ever(int(sys.argv[1]))
