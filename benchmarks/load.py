"""The load: WebSocket clients on one epoll loop, with no WebSocket library in the way.

It must cost less than the servers that it measures. So it doesn't parse frames while the clock runs. It
knows how long each one is, and counts bytes. (The tests check that servers deliver what they should, and
in order.)
"""

from __future__ import annotations

import resource
import select
import socket
import time
from collections.abc import Callable, Iterable

#: The requests that open a connection: a WebSocket, one that may be compressed (as Chromium offers it),
#: a stream of Server-Sent Events or of JSON lines.
WEBSOCKET = (
    "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
DEFLATE = WEBSOCKET.replace(
    "\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
SSE = "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
NDJSON = SSE.replace("text/event-stream", "application/x-ndjson")
_MASK = b"\x5a\xa5\x3c\xc3"
_CHUNK = 1 << 18
_CONNECTING = 32  # in a step

#: Nothing takes longer. A server that loses something must not stop the benchmark for ever.
PATIENCE = 60.0


class Stuck(Exception):
    """The expected bytes didn't arrive."""


class NotOffered(Exception):
    """The server doesn't have the feature that a case is about."""


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


def connect_all(port: int, targets: Iterable[str], request: str = WEBSOCKET) -> list[socket.socket]:
    """Clients whose handshakes are done, in the order of their targets; some are under way at a time."""
    handshakes = Handshakes(port, targets, request)
    deadline = time.monotonic() + PATIENCE
    while handshakes.under_way:
        if handshakes.step(1.0):
            deadline = time.monotonic() + PATIENCE
        elif time.monotonic() > deadline:
            raise Stuck("handshakes were not answered")
    handshakes.poll.close()
    return handshakes.clients


class Handshakes:
    """Clients that connect, `at_a_time` of them; a step takes a millisecond or two."""

    def __init__(
        self, port: int, targets: Iterable[str], request: str = WEBSOCKET, at_a_time: int = 32
    ) -> None:
        self._address = "127.0.0.1", port
        self._requests = (request.format(target).encode() for target in targets)
        self._at_a_time = at_a_time
        self._waiting: dict[int, tuple[socket.socket, bytes]] = {}
        self._more = True
        self.poll = select.epoll()
        #: In the order of their targets.
        self.clients: list[socket.socket] = []
        #: What came behind the heads, of all together.
        self.behind = 0

    @property
    def under_way(self) -> bool:
        """Whether someone is left that isn't connected."""
        return self._more or bool(self._waiting)

    def step(self, timeout: float) -> list[socket.socket]:
        """Begin some, and finish some; returns those."""
        for _ in range(min(self._at_a_time - len(self._waiting), _CONNECTING)):
            request = next(self._requests, None)
            if request is None:
                self._more = False
                break
            client = socket.socket()
            self.clients.append(client)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.connect(self._address)
            client.setblocking(False)
            client.send(request)
            self._waiting[client.fileno()] = (client, b"")
            self.poll.register(client, select.EPOLLIN)
        read = [self._read(fd) for fd, _ in self.poll.poll(timeout, _CONNECTING)]
        return [connected for connected in read if connected]

    def _read(self, fd: int) -> socket.socket | None:
        client, head = self._waiting[fd]
        data = client.recv(1 << 16)
        head, end, behind = (head + data).partition(b"\r\n\r\n")
        if not data or (end and head.split(maxsplit=2)[1] not in {b"101", b"200"}):
            for other in self.clients:
                other.close()
            raise Stuck(f"a request was answered with {head + end + behind!r}")
        if not end:
            self._waiting[fd] = (client, head)
            return None
        self.behind += len(behind)
        del self._waiting[fd]
        self.poll.unregister(fd)
        return client


class Readers:
    """Clients that read whatever comes, and count it; with `awake`, without ever sleeping.

    On one machine, a server that sends to a sleeping client has to wake it, and pays for that. This is
    more frequent the longer the server pauses between bursts. So where servers that pause for different
    times are compared, no client sleeps. (Clients elsewhere cost a server no wake-ups.)
    """

    def __init__(self, clients: list[socket.socket], awake: bool = False) -> None:
        self._patience = 0.0 if awake else 5.0
        self._poll = select.epoll()
        self._receive: dict[int, Callable[[bytearray], int]] = {}
        for client in clients:
            self.add(client)
        self._buffer = bytearray(_CHUNK)
        #: Bytes that came beyond what was waited for.
        self.ahead = 0

    def add(self, client: socket.socket) -> None:
        """Read from this one too."""
        self._poll.register(client, select.EPOLLIN)
        self._receive[client.fileno()] = client.recv_into

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
        """Return (file descriptor, bytes) of clients that got something within `timeout` seconds."""
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
