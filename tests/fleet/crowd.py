"""A crowd: thousands of clients that come back, each with its cursor, when the server was restarted.

They live in a thread, on one selector, and so cost less than the server. A client that gets a
notification twice, or not, ends it all.
"""

from __future__ import annotations

import selectors
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import msgspec
import trio

from tests.fleet.events import Said
from tests.fleet.line import Frames, open_line
from tests.fleet.server import ServerProcess, server_process
from tests.kernel import upgrade

__all__ = ["Return", "come_back"]

#: Handshakes at a time, as many as a listener's backlog takes.
_AT_ONCE = 256
#: Seconds in which the server has to say something, and in which all has to be over.
_SILENCE, _PATIENCE = 120.0, 600.0


class Member:
    """One client, connected or not. With some `answers` that are refusals, it comes again."""

    def __init__(self, *answers: bytes) -> None:
        self.cursor = ""
        self.offset = 0
        self._answers = answers

    def connect(self, port: int) -> socket.socket:
        """Ask for a connection."""
        self.sock = socket.create_connection(("127.0.0.1", port))
        since = f"&since={self.cursor}" if self.cursor else ""
        self.sock.send(upgrade(f"/?format=cloudevents{since}"))
        self.sock.setblocking(False)
        self.head, self.welcome, self.frames = b"", False, Frames()
        return self.sock

    def read(self) -> bool:
        """Read what there is; False at the end of the connection."""
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionError:
            return False
        if data and not self.head.endswith(b"\r\n\r\n"):
            head, end, rest = (self.head + data).partition(b"\r\n\r\n")
            self.head = head + end
            if self.head.startswith(self._answers):
                return False
            assert self.head.startswith(b"HTTP/1.1 101 "[: len(self.head)]), self.head + rest
            return all(self.hear(*frame) for frame in self.frames.feed(rest))
        return bool(data) and all(self.hear(*frame) for frame in self.frames.feed(data))

    def hear(self, opcode: int, payload: bytes) -> bool:
        """One frame; False for a Close."""
        if opcode != 0x1:
            return opcode != 0x8
        event = msgspec.json.decode(payload)
        cursor = event.get("cursor")
        if event["source"] != "/trionotify":
            assert offset_of(cursor) == self.offset + 1, f"{cursor} came behind {self.cursor}"
            self.cursor, self.offset = cursor, self.offset + 1
        elif event["type"] == "trionotify.welcome":
            resumed = (event["data"].get("recovered"), cursor) == (True, self.cursor)
            assert resumed or not self.cursor, f"{event} came for {self.cursor}"
            self.cursor, self.offset, self.welcome = cursor, offset_of(cursor), True
        else:
            assert event["type"] in ("trionotify.position", "trionotify.drain"), event
        return True


def offset_of(cursor: str) -> int:
    return int(cursor.split(":")[1])


class Crowd:
    """All of them. What they do together blocks, until everyone has done it."""

    def __init__(self, port: int, count: int, *answers: bytes) -> None:
        #: Requests that were sent.
        self.requests = 0
        self._port = port
        self._absent = [Member(*answers) for _ in range(count)]
        self._present: set[Member] = set()
        self._waiting = 0  # for their welcome
        self._selector = selectors.DefaultSelector()

    def connect(self) -> None:
        """Connect all that aren't connected."""
        while self._absent or self._waiting:
            self._ask()
            self._turn()

    def _ask(self) -> None:
        """Some of those who are absent ask for a connection."""
        while self._absent and self._waiting < _AT_ONCE:
            member = self._absent.pop()
            self._selector.register(member.connect(self._port), selectors.EVENT_READ, member)
            self._present.add(member)
            self._waiting += 1
            self.requests += 1

    def stay(self, end: Callable[[], int | None]) -> None:
        """Read, and come back whenever it must be, until there is an `end` and everyone is there."""
        while (upto := end()) is None or self._absent or any(m.offset < upto for m in self._present):
            self._ask()
            self._turn()

    def leave(self, count: int) -> None:
        """So many leave."""
        for member in list(self._present)[:count]:
            self._forget(member)

    def read(self, upto: int) -> None:
        """Everyone who is connected reads up to that offset."""
        while any(member.offset < upto for member in self._present):
            self._turn()

    def lose(self) -> None:
        """Everyone hears that the server is gone."""
        while self._present:
            self._turn()

    def _turn(self) -> None:
        """Let all read. Those that the server disconnects are absent then."""
        ready = self._selector.select(_SILENCE)
        assert ready, "the server says nothing"
        for key, _ in ready:
            member: Member = key.data
            waited = not member.welcome
            stays = member.read()
            if waited and (member.welcome or not stays):
                self._waiting -= 1
            if not stays:
                self._forget(member)

    def _forget(self, member: Member) -> None:
        self._selector.unregister(member.sock)
        member.sock.close()
        self._present.remove(member)
        self._absent.append(member)


@attrs.frozen
class Return:
    """How it went, in seconds from the signal: the old server had ended, the new one listened, the last
    client was back."""

    clients: int
    ended: float
    listened: float
    returned: float
    #: Requests that were made for it: more than clients, where the server let some go.
    requests: int


async def come_back(directory: Path, count: int, number: signal.Signals) -> Return:
    """Let a server with so many clients be ended by a signal, and start it again.

    A third of them leave before, and have missed something already. When they come back, somebody
    publishes.
    """
    options = ("--store", f"sqlite:{directory}/log", "--close-timeout", "60")
    async with server_process(directory, *options, patience=_PATIENCE) as server:
        await server.start()
        crowd = Crowd(server.port, count)
        await all_of_them(crowd.connect)
        await publish(server, 0, 10)
        await all_of_them(crowd.read, 10)
        crowd.leave(count // 3)
        await publish(server, 10, 20)
        await all_of_them(crowd.read, 20)
        before = crowd.requests
        begun = time.perf_counter()
        server.signal(number)
        await all_of_them(crowd.lose)
        assert await server.ended() == (0 if number == signal.SIGTERM else -number)
        ended = time.perf_counter() - begun
        await server.start()
        listened = time.perf_counter() - begun
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish, server, 20, 30)
            await all_of_them(crowd.connect)
            returned = time.perf_counter() - begun
        await all_of_them(crowd.read, 30)
        crowd.leave(count)
        assert "Traceback" not in server.errors
    return Return(count, ended, listened, returned, crowd.requests - before)


async def all_of_them(do: Callable[..., None], *args: int) -> None:
    """Let the thread do it."""
    await trio.to_thread.run_sync(do, *args)


async def publish(server: ServerProcess, after: int, upto: int) -> None:
    """Publish what gets these offsets, one after the other, each acknowledged."""
    query = {"format": "cloudevents", "role": "publisher", "id": "p"}
    async with open_line(server.port, query) as line:
        for offset in range(after + 1, upto + 1):
            await line.send(Said(f"n{offset}", "/p", str(offset), "a", size=100).event)
            acks: list[str] = []
            while not acks:
                events = await line.events()
                acks = [one["data"]["cursor"] for one in events if one["type"] == "trionotify.ack"]
            assert offset_of(acks[0]) == offset
