"""A proxy that puts clients far away. In both directions, bytes arrive half a round trip later.

Like a network it has a window, the number of bytes that may be on their way at a time. It takes the next
bytes when the first are acknowledged, a round trip later. All further bytes stay in the server's kernel,
or in the server.
"""

from __future__ import annotations

import heapq
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count

import attrs

from benchmarks.machine import LOAD_CORE, pin

WINDOW = 256 << 10  # bytes


@contextmanager
def delaying_proxy(port: int, round_trip: float) -> Iterator[int]:
    """A port that leads to `port`, and is `round_trip` seconds away."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.proxy", str(port), str(round_trip)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=partial(pin, LOAD_CORE),
    ) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@attrs.define(eq=False)
class Pipe:
    """One direction of one connection."""

    source: socket.socket
    target: socket.socket
    #: Bytes read that the far end has not acknowledged yet.
    unacknowledged: int = 0
    arrived: deque[bytes] = attrs.Factory(deque)


class Proxy:
    def __init__(self, port: int, round_trip: float) -> None:
        self.port = port
        self.half = round_trip / 2
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.poll = select.epoll()
        self.poll.register(self.listener, select.EPOLLIN)
        self.reads: dict[int, Pipe] = {}
        self.writes: dict[int, Pipe] = {}
        self.interest: dict[int, int] = {}
        #: (due, tie breaker, pipe, bytes that arrive, or None: an acknowledgement, size)
        self.events: list[tuple[float, int, Pipe, bytes | None, int]] = []
        self.tie = count()

    def run(self) -> None:
        print(self.listener.getsockname()[1], flush=True)
        while True:
            wait = max(self.events[0][0] - time.monotonic(), 0.0) if self.events else -1
            for fd, what in self.poll.poll(wait):
                if fd == self.listener.fileno():
                    self.accept()
                    continue
                if what & select.EPOLLOUT and fd in self.writes:
                    self.flush(self.writes[fd])
                if what & ~select.EPOLLOUT and fd in self.reads:
                    self.read(self.reads[fd])
            now = time.monotonic()
            while self.events and self.events[0][0] <= now:
                _, _, pipe, data, size = heapq.heappop(self.events)
                if data is None:
                    pipe.unacknowledged -= size
                    self.want(pipe.source, select.EPOLLIN, True)
                else:
                    pipe.arrived.append(data)
                    self.flush(pipe)

    def accept(self) -> None:
        near, _ = self.listener.accept()
        far = socket.socket()
        # The kernel must not read on behalf of a window that is closed.
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
        far.connect(("127.0.0.1", self.port))
        for source, target in ((near, far), (far, near)):
            source.setblocking(False)
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.reads[source.fileno()] = self.writes[target.fileno()] = Pipe(source, target)
        for sock in (near, far):
            self.interest[sock.fileno()] = select.EPOLLIN
            self.poll.register(sock, select.EPOLLIN)

    def want(self, sock: socket.socket, what: int, wanted: bool) -> None:
        fd = sock.fileno()
        if fd < 0:
            return
        interest = self.interest[fd] | what if wanted else self.interest[fd] & ~what
        if interest != self.interest[fd]:
            self.interest[fd] = interest
            self.poll.modify(fd, interest)

    def read(self, pipe: Pipe) -> None:
        room = WINDOW - pipe.unacknowledged
        if room <= 0:
            self.want(pipe.source, select.EPOLLIN, False)
            return
        try:
            data = pipe.source.recv(min(room, 1 << 16))
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.close(pipe)
            return
        now = time.monotonic()
        pipe.unacknowledged += len(data)
        self.after(now + self.half, pipe, data)
        self.after(now + 2 * self.half, pipe, None, len(data))

    def after(self, due: float, pipe: Pipe, data: bytes | None, size: int = 0) -> None:
        heapq.heappush(self.events, (due, next(self.tie), pipe, data, size))

    def flush(self, pipe: Pipe) -> None:
        while pipe.arrived:
            data = pipe.arrived[0]
            try:
                sent = pipe.target.send(data)
            except BlockingIOError:
                break
            except OSError:
                self.close(pipe)
                return
            if sent == len(data):
                pipe.arrived.popleft()
            else:
                pipe.arrived[0] = data[sent:]
        self.want(pipe.target, select.EPOLLOUT, bool(pipe.arrived))

    def close(self, pipe: Pipe) -> None:
        pipe.arrived.clear()
        for sock in (pipe.source, pipe.target):
            if sock.fileno() >= 0:
                self.reads.pop(sock.fileno(), None)
                self.writes.pop(sock.fileno(), None)
                self.interest.pop(sock.fileno(), None)
                self.poll.unregister(sock)
                sock.close()


if __name__ == "__main__":
    Proxy(int(sys.argv[1]), float(sys.argv[2])).run()
