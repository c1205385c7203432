"""Fixtures of several test files: a hub on a virtual clock, and clients on a kernel made of Python."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import hypothesis
import pytest
import trio
import trio.testing

from tests.kernel import FakeKernel, Peer, upgrade
from trionotify import Hub, open_hub
from trionotify.http.serving import serve_transport
from trionotify.settings import raise_file_limit

# Each run tries the same examples, so that a change fails because of what it changes. To look for
# others, run `pytest --hypothesis-profile=search`. No example fails because the machine stands still.
hypothesis.settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "search", hypothesis.settings.get_profile("same"), derandomize=False, max_examples=5_000
)
hypothesis.settings.load_profile("same")
# Some tests have a thousand connections, and both ends of them.
raise_file_limit()
# What runs in a shell's background ignores it, and so would the programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Any:
    """Say why an async test was skipped: pytest-trio raises another exception, which doesn't."""
    skipped = None if call.excinfo is None else call.excinfo.value
    if isinstance(skipped, pytest.skip.Exception) and isinstance(
        skipped.__context__, BaseExceptionGroup
    ):
        skipped.msg = skipped.msg or _leaf(skipped.__context__).msg
    return (yield)


def _leaf(error: BaseException) -> Any:
    """The only exception in groups of groups."""
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


@attrs.define
class Room:
    """A hub and the nursery of its connections."""

    hub: Hub
    nursery: trio.Nursery

    async def connect(
        self,
        target: str = "/",
        *headers: str,
        kernel: FakeKernel | None = None,
        remote: str = "test:1",
    ) -> Peer:
        """A connection that has been answered, whatever the answer is."""
        kernel = kernel or FakeKernel()
        kernel.feed(upgrade(target, *headers))
        self.nursery.start_soon(serve_transport, self.hub, kernel, remote)
        peer = Peer(kernel)
        await trio.testing.wait_all_tasks_blocked()
        return peer.look()

    async def quiet(self) -> None:
        """Wait until nothing moves any more."""
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def open_room(**options: Any) -> AsyncIterator[Room]:
    """A hub with room for connections, which is found empty at the end."""
    async with open_hub(**options) as hub:
        async with trio.open_nursery() as nursery:
            yield Room(hub, nursery)
            nursery.cancel_scope.cancel()
        assert_whole(hub)


def assert_whole(hub: Hub) -> None:
    """No client is registered, nothing waits or arrives, and the broadcast is at the log's head."""
    assert len(hub.clients) == 0
    assert not hub.connections
    assert not hub.broadcast.matcher._groups
    assert not hub.broadcast.matcher._index._filed
    assert hub.broadcast.done == hub.broadcast.taken == hub.log.head
    assert hub.arriving.held == 0


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nothing listens, unless the test does. No other process can take it meanwhile."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield int(sock.getsockname()[1])


@pytest.fixture
async def room(autojump_clock: trio.testing.MockClock) -> AsyncIterator[Room]:
    async with open_room() as room:
        yield room


@asynccontextmanager
async def raw_client(port: int | None, target: str = "/", *headers: str) -> AsyncIterator[RawClient]:
    """A client on a plain socket, which closes it (trio-websocket's doesn't, when the server began)."""
    assert port is not None
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        client = RawClient(stream)
        await stream.send_all(upgrade(target, *headers))
        await client.until(lambda peer: peer.head)
        yield client


class RawClient:
    """Reads from a stream, understands by wsproto."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.kernel = FakeKernel()
        self.peer = Peer(self.kernel)

    async def until(self, condition: Callable[[Peer], object]) -> Peer:
        """Read until the condition holds."""
        while not condition(self.peer.look()):
            data = await self.stream.receive_some()
            assert data, "the server closed"
            self.kernel.taken += data
        return self.peer


def stop_the_time(monkeypatch: pytest.MonkeyPatch) -> float:
    """Stop the wall clock, so that no time passes between two looks at it; return the time."""
    now = float(int(time.time()))
    monkeypatch.setattr(time, "time", lambda: now)
    return now


async def cancel_at_every_await(
    operation: Callable[[int], Awaitable[None]], *, of_all_tasks: bool = False
) -> int:
    """Run `operation(n)` for n = 0, 1, … and cancel it in its n-th await, until it ends before that.

    With n = 0 it is cancelled before it begins. Returns how often it was cancelled. With `of_all_tasks`
    the awaits of all tasks count, whichever they are: for an operation that runs tasks of its own.
    """

    class Countdown(trio.abc.Instrument):
        def __init__(self, awaits: int) -> None:
            self.left = awaits
            self.scope = trio.CancelScope()
            self.task: Any = None

        def after_task_step(self, task: Any) -> None:
            if self.task is not None and (of_all_tasks or task is self.task):
                self.left -= 1
                if self.left == 0:
                    self.scope.cancel()

    for awaits in range(1000):
        countdown = Countdown(awaits)

        async def run(countdown: Countdown = countdown, awaits: int = awaits) -> None:
            countdown.task = trio.lowlevel.current_task()
            with countdown.scope:
                if awaits == 0:
                    countdown.scope.cancel()
                await operation(awaits)

        trio.lowlevel.add_instrument(countdown)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
        trio.lowlevel.remove_instrument(countdown)
        if not countdown.scope.cancelled_caught:
            return awaits
    raise AssertionError("it never ends")
