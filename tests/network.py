"""A network made of Python: streams between clients and a server that a test can count and cut."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trio
import trio.testing
import trio_websocket

from trionotify import Hub, Remote, connect, open_hub

Serve = Callable[[trio.abc.Stream], Awaitable[None]]
Script = Callable[["FakeServer"], Awaitable[None]]


class Cable(trio.abc.Stream):
    """The client's end of a connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._scopes: set[trio.CancelScope] = set()
        self._broken = False
        #: Bytes that the client has taken.
        self.received = 0
        #: What the server sends doesn't arrive any more; what the client sends does.
        self.deaf = False
        #: Nothing arrives any more, in either direction, without an error.
        self.dead = False

    def cut(self) -> None:
        """From now on it is broken: the client sees a reset, the server the end."""
        self._broken = True
        self._wake()

    def die(self) -> None:
        self.dead = self.deaf = True
        self._wake()

    def _wake(self) -> None:
        for scope in tuple(self._scopes):
            scope.cancel()

    async def _pass(self, operation: Callable[[], Awaitable[Any]], held: Callable[[], bool]) -> Any:
        while not self._broken:
            with trio.CancelScope() as scope:
                self._scopes.add(scope)
                try:
                    if held():
                        await trio.sleep_forever()
                    return await operation()
                finally:
                    self._scopes.discard(scope)
        with trio.move_on_after(0, shield=True):
            await self._stream.aclose()
        raise trio.BrokenResourceError("cut")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._pass(partial(self._stream.receive_some, max_bytes), lambda: self.dead))
        if self.deaf:  # it came too late
            await self._pass(trio.sleep_forever, lambda: True)
        self.received += len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.dead:
            await self._pass(partial(self._stream.send_all, data), lambda: False)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Network:
    """Where clients of a test connect: by `connect("http://test", open_stream=network.dial)`.

    `serve` is what the server does with a stream, None when there is no server. `made` are all cables,
    and `dialled_at` the moments of the attempts, successful or not.
    """

    def __init__(self, nursery: trio.Nursery, pair: Callable[[], Any]) -> None:
        self.serve: Serve | None = None
        self.made: list[Cable] = []
        self.dialled_at: list[float] = []
        self._dialled = trio.lowlevel.ParkingLot()
        self._nursery = nursery
        self._pair = pair

    async def dial(self) -> trio.abc.Stream:
        self.dialled_at.append(trio.current_time())
        self._dialled.unpark_all()
        await trio.lowlevel.checkpoint()
        if self.serve is None:
            raise ConnectionRefusedError("nobody listens")
        ours, theirs = self._pair()
        self._nursery.start_soon(self.serve, theirs)
        self.made.append(Cable(ours))
        return self.made[-1]

    async def dials(self, count: int) -> None:
        """Wait until so many attempts have been made."""
        while len(self.dialled_at) < count:
            await self._dialled.park()

    def cut(self) -> None:
        """Cut all cables."""
        for cable in self.made:
            cable.cut()

    def connect(self, url: str = "http://test", **options: Any) -> Any:
        return connect(url, open_stream=self.dial, **options)

    def fake(self, *scripts: Script) -> None:
        """Serve one connection after the other by these; the last script serves all that follow."""
        left = list(scripts)

        async def serve(stream: trio.abc.Stream) -> None:
            await run_fake(stream, left.pop(0) if len(left) > 1 else left[0])

        self.serve = serve


@asynccontextmanager
async def open_network(
    hub: Hub | None = None, pair: Callable[[], Any] = trio.testing.memory_stream_pair
) -> AsyncIterator[Network]:
    """A network, for less than a day of the virtual clock, so that an endless wait fails."""
    with trio.fail_after(86_400):
        async with _open_network(hub, pair) as network:
            yield network


@asynccontextmanager
async def _open_network(hub: Hub | None, pair: Callable[[], Any]) -> AsyncIterator[Network]:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, pair)
        network.serve = hub and hub.handle
        yield network
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_both(**options: Any) -> AsyncIterator[tuple[Hub, Network]]:
    """A hub, and a network that leads to it."""
    async with open_hub(**options) as hub, open_network(hub) as network:
        yield hub, network


async def ignore(stream: trio.abc.Stream) -> None:
    """A server that accepts, and then does nothing."""
    await trio.sleep_forever()


class FakeServer:
    """A server that says what a test wants it to say; it has accepted the connection already."""

    def __init__(self, websocket: trio_websocket.WebSocketConnection) -> None:
        self.websocket = websocket
        self.path = websocket.path or ""

    async def say(
        self, kind: str, data: object = None, cursor: str | None = None, **attributes: Any
    ) -> None:
        """An event of the server's own, `trionotify.KIND`; or with a dot in it, any other."""
        type = kind if "." in kind else f"trionotify.{kind}"
        event = {"specversion": "1.0", "id": "1", "source": "/trionotify", "type": type, **attributes}
        event |= {} if data is None else {"data": data}
        event |= {} if cursor is None else {"cursor": cursor}
        await self.websocket.send_message(json.dumps(event))

    async def welcome(self, cursor: str = "e:0", **data: Any) -> None:
        role = query(self).get("role", "subscriber")
        await self.say("welcome", {"epoch": "e", "head": 0, "id": "al", "role": role, **data}, cursor)

    async def hear(self) -> dict[str, Any]:
        """The client's next event."""
        event: dict[str, Any] = json.loads(await self.websocket.get_message())
        return event

    async def acknowledge(self, event: dict[str, Any], cursor: str = "e:1") -> None:
        data = {"source": event["source"], "id": event["id"], "cursor": cursor}
        await self.say("ack", {**data, "wanted": 0, "written": 0, "behind": 0})

    async def listen(self) -> None:
        """Until the client leaves."""
        try:
            while True:
                await self.websocket.get_message()
        except trio_websocket.ConnectionClosed:
            return


async def run_fake(stream: trio.abc.Stream, script: Script) -> None:
    """Accept by trio-websocket, run the script, and close with 1000 if it hasn't yet."""
    async with trio.open_nursery() as nursery:
        request = await trio_websocket.wrap_server_stream(nursery, stream)
        server = FakeServer(await request.accept(subprotocol="cloudevents.json"))
        with suppress(trio_websocket.ConnectionClosed):
            await script(server)
        await server.websocket.aclose()
        nursery.cancel_scope.cancel()


def query(server: FakeServer) -> dict[str, str]:
    """The query of the client's connection."""
    return {key: values[0] for key, values in parse_qs(urlsplit(server.path).query).items()}


quiet = trio.testing.wait_all_tasks_blocked


async def take(client: Remote, count: int) -> list[Any]:
    """The data of so many notifications."""
    return [(await anext(client)).data for _ in range(count)]
