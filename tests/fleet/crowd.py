"""A crowd: thousands of clients that come back, each with its cursor, when the server was restarted.

They live in a process of their own, `python -m tests.fleet.crowd PORT CLIENTS AT_ONCE`, on one epoll
loop, so that they cost less than the server. A line on stdin says what to do, and a line on stdout that
it is done:

    connect     whoever isn't connected does so, at most AT_ONCE handshakes at a time
    leave N     N clients leave
    read N      everyone who is connected reads up to the offset N
    lost        everyone hears that the server is gone

A client that gets a notification twice, or not, ends it all.
"""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import msgspec
import trio

from benchmarks.load import raise_file_limit
from tests.fleet.events import Said
from tests.fleet.line import Frames, Line, open_line
from tests.fleet.server import ServerProcess, server_process
from tests.kernel import upgrade

__all__ = ["Return", "come_back"]


@attrs.define(eq=False)
class Member:
    """One client, connected or not."""

    cursor: str = ""
    sock: socket.socket | None = None
    #: The answer to its request has come, and then the welcome.
    head: bytes = b""
    welcome: bool = False
    frames: Frames = attrs.Factory(Frames)

    def connect(self, port: int) -> int:
        """Ask for a connection."""
        self.sock = socket.create_connection(("127.0.0.1", port))
        since = f"&since={self.cursor}" if self.cursor else ""
        self.sock.send(upgrade(f"/?format=cloudevents{since}"))
        self.sock.setblocking(False)
        self.head, self.welcome, self.frames = b"", False, Frames()
        return self.sock.fileno()

    def read(self) -> bool:
        """Read what there is; False at the end of the connection."""
        assert self.sock is not None
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionError:
            return False
        if not data:
            return False
        if not self.head.endswith(b"\r\n\r\n"):
            head, end, data = (self.head + data).partition(b"\r\n\r\n")
            self.head = head + end
            assert self.head.startswith(b"HTTP/1.1 101 "[: len(self.head)]), self.head + data
        return all(self.hear(opcode, payload) for opcode, payload in self.frames.feed(data))

    def hear(self, opcode: int, payload: bytes) -> bool:
        """One frame; False for a Close."""
        if opcode != 0x1:
            return opcode != 0x8
        event = msgspec.json.decode(payload)
        cursor = event.get("cursor")
        if event["source"] != "/trionotify":
            assert offset_of(cursor) == self.offset + 1, f"{cursor} came behind {self.cursor}"
            self.cursor = cursor
        elif event["type"] == "trionotify.welcome":
            resumed = (event["data"].get("recovered"), cursor) == (True, self.cursor)
            assert resumed or not self.cursor, f"{event} came for {self.cursor}"
            self.cursor, self.welcome = cursor, True
        else:
            assert event["type"] in ("trionotify.position", "trionotify.drain"), event
        return True

    def leave(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    @property
    def offset(self) -> int:
        return offset_of(self.cursor) if self.cursor else 0


def offset_of(cursor: str) -> int:
    return int(cursor.rpartition(":")[2])


class Loop:
    """The process."""

    def __init__(self, port: int, count: int, at_once: int) -> None:
        self.port = port
        self.at_once = at_once
        self.members = [Member() for _ in range(count)]
        self.by_fd: dict[int, Member] = {}
        self.poll = select.epoll()
        #: Requests that were sent, and how many of them have not been answered.
        self.requests = self.waiting = 0

    def run(self) -> None:
        for line in sys.stdin:
            name, *numbers = line.split()
            getattr(self, f"do_{name}")(*map(int, numbers))
            print(self.requests, flush=True)

    def do_connect(self) -> None:
        absent = [member for member in self.members if member.sock is None]
        while absent or self.waiting:
            while absent and self.waiting < self.at_once:
                member = absent.pop()
                fd = member.connect(self.port)
                self.by_fd[fd] = member
                self.poll.register(fd, select.EPOLLIN)
                self.waiting += 1
                self.requests += 1
            absent += self.turn()

    def do_leave(self, count: int) -> None:
        for fd, member in list(self.by_fd.items())[:count]:
            self.forget(fd, member)

    def do_read(self, upto: int) -> None:
        self.until(lambda: all(member.offset >= upto for member in self.by_fd.values()))

    def do_lost(self) -> None:
        self.until(lambda: not self.by_fd)

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.turn()

    def turn(self) -> list[Member]:
        """Let everyone read; return whom the server has let go."""
        gone = []
        for fd, _ in self.poll.poll():
            member = self.by_fd[fd]
            waited = not member.welcome
            stays = member.read()
            if waited and (member.welcome or not stays):
                self.waiting -= 1
            if not stays:
                self.forget(fd, member)
                gone.append(member)
        return gone

    def forget(self, fd: int, member: Member) -> None:
        self.poll.unregister(fd)
        del self.by_fd[fd]
        member.leave()


# --- in the test ---


class Crowd:
    """The process, seen from outside."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process

    async def do(self, command: str) -> int:
        """Let it be done; return how many requests there were until then."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        await stdin.send_all(f"{command}\n".encode())
        line = b""
        while not line.endswith(b"\n"):
            data = await stdout.receive_some()
            assert data, f"the crowd could not {command}"
            line += data
        return int(line)


@asynccontextmanager
async def open_crowd(port: int, count: int, at_once: int) -> AsyncIterator[Crowd]:
    command = [sys.executable, "-m", "tests.fleet.crowd", str(port), str(count), str(at_once)]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Crowd(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@attrs.frozen
class Return:
    """How it went: `seconds` from the first line of the server to the last client that was back."""

    clients: int
    seconds: float
    #: Requests that were made for it: more than clients, where the server let some go.
    requests: int


async def come_back(
    directory: Path, count: int, number: signal.Signals, *, at_once: int = 256
) -> Return:
    """Let a server with so many clients be ended by a signal, and start it again."""
    options = ("--store", f"sqlite:{directory}/log", "--close-timeout", "60")
    async with server_process(directory, *options) as server:
        await server.start()
        async with open_crowd(server.port, count, at_once) as crowd:
            before = await crowd.do("connect")
            await publish(server, 0, 10)
            await crowd.do("read 10")
            await crowd.do(f"leave {count // 3}")
            await publish(server, 10, 20)
            await crowd.do("read 20")
            server.signal(number)
            await crowd.do("lost")
            assert await server.ended() == (0 if number == signal.SIGTERM else -number)
            await server.start()
            begun = time.perf_counter()
            seconds, requests = 0.0, 0

            async def connect() -> None:
                nonlocal seconds, requests
                requests = await crowd.do("connect") - before
                seconds = time.perf_counter() - begun

            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect)
                await publish(server, 20, 30)
            await crowd.do("read 30")
        assert "Traceback" not in server.errors
    return Return(count, seconds, requests)


async def publish(server: ServerProcess, after: int, upto: int) -> None:
    """Publish what gets these offsets, one after the other, each acknowledged."""
    query = {"format": "cloudevents", "role": "publisher", "id": "p"}
    async with open_line(server.port, query) as line:
        await line.read()
        for offset in range(after + 1, upto + 1):
            await line.send(Said(f"n{offset}", "/p", str(offset), "a", size=100).event)
            (ack,) = await next_events(line)
            assert offset_of(ack["data"]["cursor"]) == offset


async def next_events(line: Line) -> list[dict[str, object]]:
    while not (events := await line.events()):
        pass
    return events


if __name__ == "__main__":
    raise_file_limit()
    with suppress(KeyboardInterrupt):
        Loop(*map(int, sys.argv[1:])).run()
