"""Many subscribers in a process of their own: `python -m tests.swarm PORT SUBSCRIBERS PUBLISHES KINDS`.

Subscriber i wants the type `t{i % KINDS}`; message number n has the type `t{n % KINDS}` and is the
text n. With `streams` behind it, every second subscriber is one of Server-Sent Events. Prints `ready`
when all are connected, and at the end `complete`, or who got what instead. A plain epoll loop, so that
a thousand clients cost less than the server that they test.
"""

from __future__ import annotations

import select
import socket
import sys

from tests.kernel import upgrade


class Subscriber:
    """One connection, and the sequence that it has got so far."""

    def __init__(self, port: int, kind: int, publishes: int, kinds: int) -> None:
        self.expected = iter(range(kind, publishes, kinds))
        self.left = len(range(kind, publishes, kinds))
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.sendall(self.request(f"/events?exact.type=t{kind}"))
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.sock.recv(4096)
        self.rest = self.rest.partition(b"\r\n\r\n")[2]

    def request(self, target: str) -> bytes:
        return upgrade(target)

    def read(self) -> bool:
        """Read what there is; True when the sequence is complete. ValueError when it isn't right."""
        data = self.rest + self.sock.recv(1 << 16)
        self.rest = data[self.take(data) :]
        return not self.left

    def take(self, data: bytes) -> int:
        """Take the whole frames at the beginning; return where they end."""
        at = 0
        while at + 2 <= len(data) and at + 2 + data[at + 1] <= len(data):
            end = at + 2 + data[at + 1]
            if data[at] == 0x81:
                self.check(data[at + 2 : end])
            elif data[at] != 0x89:  # pings are welcome
                raise ValueError(f"the frame {data[at:end]!r} came")
            at = end
        return at

    def check(self, text: bytes) -> None:
        got, due = int(text), next(self.expected)
        if got != due:
            raise ValueError(f"{got} came where {due} was due")
        self.left -= 1


class StreamSubscriber(Subscriber):
    """One that gets blocks, each in a chunk."""

    def request(self, target: str) -> bytes:
        return f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode()

    def take(self, data: bytes) -> int:
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:end], 16)
            if len(data) < end + 2 + size + 2:
                break
            block = data[end + 2 : end + 2 + size]
            at = end + 2 + size + 2
            if not block.endswith(b"\n\n") or data[at - 2 : at] != b"\r\n":
                raise ValueError(f"the block {block!r} came")
            _, found, text = block.partition(b"\ndata: ")
            if found:  # else it is where the stream is, or a sign of life
                self.check(text)
        return at


def main(port: int, subscribers: int, publishes: int, kinds: int, *streams: str) -> None:
    poll = select.epoll()
    open_ = {}
    for i in range(subscribers):
        made = StreamSubscriber if streams and i % 2 else Subscriber
        subscriber = made(port, i % kinds, publishes, kinds)
        open_[subscriber.sock.fileno()] = subscriber
        poll.register(subscriber.sock, select.EPOLLIN)
    print("ready", flush=True)
    while open_:
        for fd, _ in poll.poll():
            if open_[fd].read():
                open_.pop(fd).sock.close()
    print("complete", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), *sys.argv[5:])  # type: ignore[arg-type] # four numbers
