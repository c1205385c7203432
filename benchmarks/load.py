"""The load: WebSocket clients on one epoll loop, with no WebSocket library in the way.

It must cost less than the servers that it measures. So it doesn't look at frames while the clock runs:
it knows how long each one is, and counts bytes. (That servers deliver what they should, and in order, is
what the tests are for.)
"""

from __future__ import annotations

import resource
import select
import socket
import time
from collections.abc import Callable, Iterable

_HANDSHAKE = (
    "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_MASK = b"\x5a\xa5\x3c\xc3"
_CHUNK = 1 << 18
_CONNECTING = 32  # at a time

#: Nothing takes longer; a server that loses something must not hang the benchmark.
PATIENCE = 60.0


class Stuck(Exception):
    """What was due didn't come."""


def frame_size(payload_size: int) -> int:
    """Bytes of a server's frame."""
    return payload_size + (2 if payload_size < 126 else 4 if payload_size < 1 << 16 else 10)


def client_frame(payload: bytes) -> bytes:
    """A client's masked text frame."""
    size = len(payload)
    head = bytes([0x81, 0x80 | size]) if size < 126 else b"\x81\xfe" + size.to_bytes(2)
    mask = (_MASK * (size // 4 + 1))[:size]
    return head + _MASK + (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(size)


def connect(port: int, target: str) -> socket.socket:
    """A client whose handshake is done."""
    (client,) = connect_all(port, [target])
    return client


def connect_all(port: int, targets: Iterable[str]) -> list[socket.socket]:
    """Clients whose handshakes are done, in the order of their targets; some are under way at a time."""
    clients: list[socket.socket] = []
    waiting: dict[int, tuple[socket.socket, bytes]] = {}
    poll = select.epoll()
    left = iter(targets)
    more = True
    deadline = time.monotonic() + PATIENCE
    while more or waiting:
        while more and len(waiting) < _CONNECTING:
            target = next(left, None)
            if target is None:
                more = False
                break
            sock = socket.socket()
            clients.append(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(("127.0.0.1", port))
            sock.setblocking(False)
            sock.send(_HANDSHAKE.format(target).encode())
            waiting[sock.fileno()] = (sock, b"")
            poll.register(sock, select.EPOLLIN)
        for fd, _ in poll.poll(1.0):
            sock, head = waiting[fd]
            data = sock.recv(1 << 16)
            head += data
            if not data or (b"\r\n\r\n" in head and b" 101 " not in head):
                for other in clients:
                    other.close()
                raise Stuck(f"a handshake was answered with {head!r}")
            waiting[fd] = (sock, head)
            if b"\r\n\r\n" in head:
                # What came behind the head is of no interest: counting begins later.
                del waiting[fd]
                poll.unregister(fd)
        if time.monotonic() > deadline:
            raise Stuck(f"{len(waiting)} handshakes were not answered")
    poll.close()
    return clients


class Readers:
    """Clients that read whatever comes, and count it; with `awake`, without ever sleeping.

    On one machine, whoever sends to a client that sleeps has to wake it, and pays for that. It happens
    more often the longer the server pauses between bursts. So where servers that pause for different
    times are compared, nobody sleeps. (Clients elsewhere cost a server no wake-ups.)
    """

    def __init__(self, clients: list[socket.socket], awake: bool = False) -> None:
        self._patience = 0.0 if awake else 5.0
        self._poll = select.epoll()
        self._receive: dict[int, Callable[[bytearray], int]] = {}
        for client in clients:
            self._poll.register(client, select.EPOLLIN)
            self._receive[client.fileno()] = client.recv_into
        self._buffer = bytearray(_CHUNK)
        #: Bytes that came beyond what was waited for.
        self.ahead = 0

    def wait(self, size: int) -> None:
        """Read until `size` more bytes have come, from all together."""
        receive, buffer, poll = self._receive, self._buffer, self._poll.poll
        size -= self.ahead
        deadline = time.monotonic() + PATIENCE
        while size > 0:
            for fd, _ in poll(self._patience, 4096):
                got = receive[fd](buffer)
                if not got:
                    raise Stuck("the server closed a connection")
                size -= got
            if time.monotonic() > deadline:
                raise Stuck(f"{size} bytes did not come")
        self.ahead = -size

    def read_some(self, timeout: float) -> list[tuple[int, int]]:
        """(client's file descriptor, bytes) of all who have something, within `timeout` seconds."""
        return [(fd, self._receive[fd](self._buffer)) for fd, _ in self._poll.poll(timeout, 4096)]


def numbered(count: int, size: int) -> list[bytes]:
    """Payloads that can be told apart."""
    return [str(number).rjust(size, ".").encode() for number in range(count)]


def raise_file_limit() -> int:
    """As many sockets as there may be; returns how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def send_all(sock: socket.socket, data: bytes) -> None:
    """Send from a non-blocking socket, waiting for room."""
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            select.select([], [sock], [], PATIENCE)
