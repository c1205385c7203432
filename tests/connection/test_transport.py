"""Transports: a reader that is woken has lost nothing, and a writer beside it goes on."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest
import trio

from tests.connection.test_tls import open_pair
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
