"""Many subscribers in a process of their own: `python -m tests.swarm PORT SUBSCRIBERS PUBLISHES KINDS`.

Subscriber i wants the type `t{i % KINDS}`; message number n has the type `t{n % KINDS}` and is the
text n. Prints `ready` when all are connected, and at the end `complete`, or who got what instead. A
plain epoll loop, so that a thousand clients cost less than the server that they test.
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
        self.sock.sendall(upgrade(f"/?exact.type=t{kind}"))
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.sock.recv(4096)
        self.rest = self.rest.partition(b"\r\n\r\n")[2]

    def read(self) -> bool:
        """Read what there is; True when the sequence is complete. ValueError when it isn't right."""
        data = self.rest + self.sock.recv(1 << 16)
        at = 0
        while at + 2 <= len(data) and at + 2 + data[at + 1] <= len(data):
            end = at + 2 + data[at + 1]
            if data[at] == 0x81:
                got, due = int(data[at + 2 : end]), next(self.expected)
                if got != due:
                    raise ValueError(f"{got} came where {due} was due")
                self.left -= 1
            elif data[at] != 0x89:  # pings are welcome
                raise ValueError(f"the frame {data[at:end]!r} came")
            at = end
        self.rest = data[at:]
        return not self.left


def main(port: int, subscribers: int, publishes: int, kinds: int) -> None:
    poll = select.epoll()
    open_ = {}
    for i in range(subscribers):
        subscriber = Subscriber(port, i % kinds, publishes, kinds)
        open_[subscriber.sock.fileno()] = subscriber
        poll.register(subscriber.sock, select.EPOLLIN)
    print("ready", flush=True)
    while open_:
        for fd, _ in poll.poll():
            if open_[fd].read():
                open_.pop(fd).sock.close()
    print("complete", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
