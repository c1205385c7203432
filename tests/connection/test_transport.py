"""Transports: a reader that is woken has lost nothing, and a writer beside it goes on."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from tests.connection.test_tls import open_pair
from tests.kernel import upgrade
from trionotify import open_hub
from trionotify.connection.tls import prepare, transport_of
from trionotify.connection.transport import SocketTransport, StreamTransport, Transport, Woken

PATIENCE = 120
Pair = AbstractAsyncContextManager[tuple[Transport, trio.abc.Stream]]


@asynccontextmanager
async def a_socket() -> AsyncIterator[tuple[Transport, trio.abc.Stream]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield SocketTransport(ours), trio.SocketStream(trio.socket.from_stdlib_socket(theirs))


@asynccontextmanager
async def a_stream() -> AsyncIterator[tuple[Transport, trio.abc.Stream]]:
    ours, theirs = trio.testing.memory_stream_pair()
    yield StreamTransport(ours), theirs


def test_a_connection_has_the_options_of_its_listener() -> None:
    """Small frames go out at once, and what the network can't take yet stays in the log."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        prepare(listener)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as sock:
            transport_of(sock, None)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 1 << 14


@pytest.mark.parametrize("make", [a_socket, a_stream])
async def test_a_reader_that_is_woken(make: Callable[[], Pair]) -> None:
    """It stops waiting, and reads on when it is asked to."""
    woken = trio.Event()
    with trio.fail_after(PATIENCE):
        async with make() as (transport, peer), trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                with pytest.raises(Woken):
                    await transport.receive_some()
                woken.set()

            await trio.testing.wait_all_tasks_blocked()
            transport.wake_reader()
            await woken.wait()
            await peer.send_all(b"later")
            assert await transport.receive_some() == b"later"


async def test_a_writer_beside_it_goes_on() -> None:
    """It waits for the same socket, and takes no notice."""
    with trio.fail_after(PATIENCE):
        async with a_socket() as (transport, peer), trio.open_nursery() as nursery:
            sent = 0
            with suppress(BlockingIOError):
                while True:
                    sent += transport.send(bytes(1000))

            @nursery.start_soon
            async def write() -> None:
                nonlocal sent
                sent += await transport.send_some(b"x")

            @nursery.start_soon
            async def read() -> None:
                with pytest.raises(Woken):
                    await transport.receive_some()

            await trio.testing.wait_all_tasks_blocked()
            transport.wake_reader()
            await trio.testing.wait_all_tasks_blocked()
            received = bytearray()
            while not received.endswith(b"x"):
                received += await peer.receive_some()
            assert len(received) == sent


async def test_a_reader_over_tls() -> None:
    """Whatever of a record has come is kept."""
    async with open_pair() as (transport, peer):
        peer.tls.write(b"later")
        data = peer._outgoing.read()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                with pytest.raises(Woken):
                    await transport.receive_some()

            peer.sock.send(data[:7])
            await trio.testing.wait_all_tasks_blocked()
            transport.wake_reader()
        peer.sock.send(data[7:])
        assert await transport.receive_some() == b"later"


class RaisingStream(trio.abc.HalfCloseableStream):
    """An application's own stream, of which one method raises at its n-th call."""

    def __init__(self, stream: trio.StapledStream, method: str, number: int) -> None:
        self._stream = stream
        self._method = method
        self._left = number

    def _called(self, method: str) -> None:
        self._left -= method == self._method
        if method == self._method and self._left == 0:
            raise RuntimeError(method)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._called("send_all")
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self._called("receive_some")
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        self._called("send_eof")
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self._called("aclose")
        await self._stream.aclose()


@pytest.mark.parametrize(
    ("method", "number"),
    [
        *(("receive_some", 1), ("receive_some", 2), ("receive_some", 3)),
        *(("send_all", 1), ("send_all", 2), ("send_eof", 1), ("aclose", 1)),
    ],
)
async def test_a_stream_that_raises(
    method: str, number: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Whatever it raises, and wherever, that ends its own connection, and `handle` raises nothing."""
    async with open_hub() as hub:
        ours, theirs = trio.testing.memory_stream_pair()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hub.handle, RaisingStream(ours, method, number))
                await theirs.send_all(upgrade("/"))
                await trio.testing.wait_all_tasks_blocked()
                with suppress(trio.BrokenResourceError):  # it may have ended already
                    await theirs.send_all(b"\x88\x80mask")  # a Close frame
                    await theirs.send_eof()
        assert not hub.connections
        assert await hub.publish("x", confirm=True)
