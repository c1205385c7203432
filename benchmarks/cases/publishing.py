"""Publishing: what a message costs that comes in."""

from __future__ import annotations

import select
import socket
import time
from itertools import count

from benchmarks.cases.measures import MIB, US, Figures, Run, closing, latencies
from benchmarks.cases.ways import one_frame
from benchmarks.load import (
    PATIENCE,
    Handshakes,
    Stuck,
    client_frame,
    connect,
    connect_all,
    frame_size,
    send_all,
)
from benchmarks.servers import Server

#: What each acknowledgement has once.
_ACK = b'"trionotify.ack"'


class Stretch:
    """What a server does and uses in so many seconds, without the first tenth, in which it warms up.

    `least` must be done in it, however long that takes.
    """

    def __init__(self, server: Server, seconds: float, least: int) -> None:
        self._server = server
        self._seconds = seconds
        self._least = least
        self._started = time.perf_counter()
        self._begin: tuple[float, float, int] | None = None
        #: What was done, the server's CPU and the clock's seconds. Known when it is over.
        self.done = 0
        self.cpu = self.clock = 0.0

    def lasts(self, done: int) -> bool:
        """Return whether it isn't over, when so much was done since the server was started."""
        now = time.perf_counter()
        if self._begin is None:
            if now - self._started > self._seconds / 10:
                self._begin = self._server.cpu(), now, done
            return True
        cpu, start, first = self._begin
        if now - self._started <= self._seconds or done - first <= self._least:
            return True
        self.done, self.cpu, self.clock = done - first, self._server.cpu() - cpu, now - start
        return False


def ingest(publishers: int, flight: int, size: int = 128, seconds: float = 2.0) -> Run:
    """A window of `flight` messages on the way to one subscriber, shared by the publishers."""

    def run(server: Server) -> Figures:
        with closing(connect_all(server.port, ["/"])) as (client,):
            pubs = [connect(server.port, server.kind.publish) for _ in range(publishers)]
            frame, due = client_frame(b"." * size), frame_size(size)
            client.settimeout(PATIENCE)
            sent = received = 0
            turn = 0
            stretch = Stretch(server, seconds, due)
            while stretch.lasts(received):
                room = flight - (sent - received // due)
                for number in range(min(room, publishers)):
                    # Shared out as evenly as it goes.
                    share = room // publishers + (number < room % publishers)
                    send_all(pubs[(turn + number) % publishers], frame * share)
                turn += room
                sent += room
                data = client.recv(1 << 18)
                if not data:
                    raise Stuck("the server closed the subscriber")
                received += len(data)
            messages = stretch.done // due
            figures = {
                "CPU us/message": stretch.cpu / messages * US,
                "messages/s": messages / stretch.clock,
            }
            for publisher in pubs:
                publisher.close()
        return figures

    return run


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
            while (now := time.perf_counter()) - start < seconds or len(taken) < 20:
                for fd, _ in poll.poll(PATIENCE):
                    one_frame(by_fd[fd])
                    taken.append(time.perf_counter() - waits[fd])
                    waits[fd] = _say_event(by_fd[fd], fd, len(taken))
        return {
            "publishes/s": len(taken) / (now - start),
            "CPU us/publish": (server.cpu() - cpu) / len(taken) * US,
            **latencies(taken),
        }

    return run


def _say_event(client: socket.socket, source: int, id: int) -> float:
    client.sendall(_event(source, id))
    return time.perf_counter()


def _event(source: int, id: int) -> bytes:
    event = f'{{"specversion":"1.0","type":"t","source":"/{source}","id":"{id}","data":"{"." * 64}"}}'
    return client_frame(event.encode())


def acknowledged_in_a_window(flight: int, seconds: float = 2.0) -> Run:
    """One publisher has so many events on the way, and sends another for each acknowledgement."""

    def run(server: Server) -> Figures:
        with closing(connect_all(server.port, ["/?role=publisher&format=cloudevents"])) as (client,):
            client.settimeout(PATIENCE)
            acknowledged, room, rest = 0, flight, b""
            stretch = Stretch(server, seconds, flight)
            while stretch.lasts(acknowledged):
                client.sendall(b"".join([_event(0, acknowledged + number) for number in range(room)]))
                if not (data := client.recv(1 << 18)):
                    raise Stuck("the server closed the publisher")
                *each, rest = (rest + data).split(_ACK)
                rest, room = rest[1 - len(_ACK) :], len(each)
                acknowledged += room
        return {
            "publishes/s": stretch.done / stretch.clock,
            "CPU us/publish": stretch.cpu / stretch.done * US,
        }

    return run


def replay(entries: int) -> Run:
    """One client reads back a log of so many, of which it wants one in a hundred."""
    size = 128

    def run(server: Server) -> Figures:
        targets = ["/", *[f"/?role=publisher&type={type}" for type in "ab"]]
        with closing(connect_all(server.port, targets)) as (reader, *publishers):
            reader.settimeout(PATIENCE)
            for _ in range(entries // 1000):
                for publisher, times in zip(publishers, (990, 10), strict=True):
                    send_all(publisher, client_frame(b"." * size) * times)
                due = 1000 * frame_size(size)
                while due > 0:
                    due -= len(reader.recv(due))
        memory, cpu, start = server.memory(), server.cpu(), time.perf_counter()
        handshakes = Handshakes(server.port, ["/?exact.type=b&since=start"])
        while handshakes.under_way:
            handshakes.step(PATIENCE)
        with closing(handshakes.clients) as (reader,):
            due, most = entries // 100 * frame_size(size) - handshakes.behind, memory
            reader.settimeout(PATIENCE)
            while due > 0:
                due -= len(reader.recv(1 << 16))
                most = max(most, server.memory())
        clock = time.perf_counter() - start
        return {
            "seconds": clock,
            "read/s": entries / clock,
            "CPU us/read": (server.cpu() - cpu) / entries * US,
            "memory growth MiB": (most - memory) * MIB,
        }

    return run


def posts(connections: int, seconds: float = 2.0) -> Run:
    """Each connection posts one event at a time, and waits for the answer; one subscriber reads."""

    def run(server: Server) -> Figures:
        with closing(connect_all(server.port, ["/"])) as (subscriber,):
            poll, numbers = select.epoll(), count()
            poll.register(subscriber, select.EPOLLIN)
            address = ("127.0.0.1", server.port)
            with closing([socket.create_connection(address) for _ in range(connections)]) as clients:
                posting = {client.fileno(): _Posting(client) for client in clients}
                for fd, one in posting.items():
                    poll.register(fd, select.EPOLLIN)
                    one.begin(next(numbers))
                taken: list[float] = []
                cpu, start = server.cpu(), time.perf_counter()
                while (now := time.perf_counter()) - start < seconds or len(taken) < 20:
                    for fd, _ in poll.poll(PATIENCE):
                        if fd not in posting:
                            subscriber.recv(1 << 18)
                        elif posting[fd].is_answered():
                            taken.append(time.perf_counter() - posting[fd].began)
                            posting[fd].begin(next(numbers))
                cpu = server.cpu() - cpu
        return {
            "CPU us/post": cpu / len(taken) * US,
            "posts/s": len(taken) / (now - start),
            **latencies(taken),
        }

    return run


class _Posting:
    """A connection that posts."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._answer = b""
        self.began = 0.0

    def begin(self, number: int) -> None:
        body = f'{{"specversion":"1.0","type":"t","source":"/s","id":"{number}","data":"{"." * 64}"}}'
        self._client.sendall(
            b"POST /events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/cloudevents+json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body.encode())
        )
        self.began, self._answer = time.perf_counter(), b""

    def is_answered(self) -> bool:
        """Read what came; is it the whole answer?"""
        data = self._client.recv(1 << 16)
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not data or (end and not head.startswith(b"HTTP/1.1 2")):
            raise Stuck(f"a POST was answered with {self._answer!r}")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return bool(end) and len(body) == int(length)
