"""Nodes of a log on Redis in one process, their clients, and a proxy that can part them from Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel, Peer
from tests.redis_server import DEADLINE
from trionotify import Hub, StoreError


async def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    with trio.fail_after(DEADLINE):
        while not condition():  # noqa: ASYNC110 - it shows in what a peer has got
            await trio.sleep(0.002)


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    """What was logged of this event."""
    return [one.getMessage() for one in caplog.records if getattr(one, "event", None) == event]


@asynccontextmanager
async def open_nodes(*stores: str, **options: Any) -> AsyncIterator[list[Room]]:
    """A room for each URL."""
    options = {"close_timeout": 0.05, **options}  # peers here don't answer a Close
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(open_room(store=store, node_name=f"node {n}", **options))
            for n, store in enumerate(stores, 1)
        ]


async def connected(room: Room, target: str = "/", kernel: FakeKernel | None = None) -> Peer:
    """A connection that was answered."""
    peer = await room.connect(target, kernel=kernel)
    await until(lambda: peer.look().head)
    return peer


async def recovered(room: Room, cursor: str | None) -> str | None:
    """Whether a client that comes with this cursor is told that it has recovered."""
    peer = await connected(room, f"/?format=cloudevents&since={cursor}")
    return peer.header("Trionotify-Recovered")


def events(peer: Peer) -> list[dict[str, Any]]:
    """The events that it has got, read."""
    return [json.loads(message) for message in peer.look().messages]


def data(peer: Peer) -> list[Any]:
    """The data of notifications that it has got, and `gap` where it was told of one."""
    found = [event for event in events(peer) if event["type"] in {"message", "trionotify.gap"}]
    return ["gap" if event["type"] == "trionotify.gap" else event["data"] for event in found]


async def publish(hub: Hub, text: str, id: str | None = None) -> str:
    """Publish it, again and again until it is accepted; return its cursor."""
    with trio.fail_after(DEADLINE):
        while True:
            with suppress(StoreError):
                return (await hub.publish(text, id=id or text, source="s", confirm=True)).cursor or ""
            await trio.sleep(0.01)


@attrs.define(eq=False)
class Proxy:
    """In front of a port. What goes through can be cut, or held back for those that say a word."""

    target: int
    port: int = 0
    #: No connection is made, and all that there were are cut.
    parted: bool = False
    #: Answers on a connection over which this word was sent don't arrive for now.
    silent: bytes | None = None
    #: Nothing arrives for now, as if a cable were pulled.
    held: bool = False
    #: What stands in answers, and what is to stand there, of the same length.
    instead: dict[bytes, bytes] = attrs.Factory(dict)
    _scopes: set[trio.CancelScope] = attrs.Factory(set)

    def part(self) -> None:
        """Part the two sides."""
        self.parted = True
        for scope in tuple(self._scopes):
            scope.cancel()

    async def _serve(self, here: trio.SocketStream) -> None:
        if self.parted:
            return
        said = bytearray()
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                there = await trio.open_tcp_stream("127.0.0.1", self.target)
                async with there, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass, here, there, said, nursery.cancel_scope)
                    await self._pass(there, here, None, nursery.cancel_scope, said)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._scopes.discard(scope)

    async def _pass(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        said: bytearray | None,
        scope: trio.CancelScope,
        heard: bytearray | None = None,
    ) -> None:
        try:
            while chunk := await source.receive_some():
                if said is not None:
                    said += chunk
                while self.held or (self.silent and self.silent in (heard or b"")):  # noqa: ASYNC110 - a test says when it ends
                    await trio.sleep(0.05)
                for found, other in self.instead.items() if heard is not None else ():
                    chunk = chunk.replace(found, other)
                await sink.send_all(chunk)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def open_proxy(target: int) -> AsyncIterator[Proxy]:
    """A proxy in front of this port."""
    proxy = Proxy(target)
    async with trio.open_nursery() as nursery:
        listeners: list[Any] = await nursery.start(trio.serve_tcp, proxy._serve, 0)
        proxy.port = listeners[0].socket.getsockname()[1]
        yield proxy
        nursery.cancel_scope.cancel()
