"""A client's connection: answers, what is owed, the end, and cancellation at any moment."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.kernel import FakeKernel, Peer
from trionotify import Client, Hub, open_hub
from trionotify.connection.frames import message_frame
from trionotify.connection.websocket import WebSocketConnection
from trionotify.connection.wire import State
from trionotify.errors import CloseCode, Disconnected
from trionotify.http.web_hub import WebHub
from trionotify.model.query import Query

MESSAGE = "grüße " * 30
FRAME = message_frame(MESSAGE)


def enter(hub: Hub, kernel: FakeKernel) -> WebSocketConnection:
    """A connection of this task, whose session is the test."""
    assert isinstance(hub, WebHub)
    return WebSocketConnection.enter(
        hub,
        hub.formats["raw"],
        kernel,
        Client("a"),
        Query.of({"id": "a"}),
        b"",
        b"HTTP/1.1 101 .\r\n\r\n",
        max_message_bytes=1 << 20,
    )


@asynccontextmanager
async def connected(
    credit: int | None = None, **options: Any
) -> AsyncIterator[tuple[WebSocketConnection, FakeKernel, Peer]]:
    """One whose kernel takes `credit` bytes behind the answer to the request."""
    async with open_hub() as hub:
        kernel = FakeKernel(**options)
        connection = enter(hub, kernel)
        kernel.credit = credit
        try:
            yield connection, kernel, Peer(kernel)
        finally:
            connection.abort()
            connection.leave()


async def test_waiting_for_one_message_does_not_wait_for_all_that_follow() -> None:
    """`drained` is over when what was owed at its call is out, even if more is owed by then."""
    async with connected(credit=3) as (connection, kernel, _):
        connection._write(FRAME)

        async def refill() -> None:
            while True:
                await connection.wire.drained()
                connection._write(FRAME)
                kernel.grant(40)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refill)
            await trio.testing.wait_all_tasks_blocked()
            kernel.grant(500)
            await connection.send("answer")
            nursery.cancel_scope.cancel()


async def test_pings_are_answered_in_order_behind_what_is_owed() -> None:
    """Pongs have the Pings' payloads. Until they are sent, the client isn't read."""
    async with connected(credit=0) as (connection, kernel, peer):
        peer.say_ping(b"1")
        peer.say_ping(b"2")
        peer.say("message")
        async with trio.open_nursery() as nursery:
            received: list[Any] = []

            async def read() -> None:
                received.extend(await connection.receive())

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert received == []
            kernel.grant(100)
        assert received == ["message"]
        assert peer.look().pongs == [b"1", b"2"]


async def test_a_client_that_is_behind_is_still_read() -> None:
    """Pending notifications don't stop reading, because two that write to each other would deadlock."""
    async with connected(credit=0) as (connection, _, peer):
        connection.owe(memoryview(FRAME))
        peer.say("still here")
        assert await connection.receive() == ["still here"]


async def test_a_close_is_answered_after_the_messages_before_it() -> None:
    """The messages come first; then the Close goes back with its own code, and nothing behind it."""
    async with connected() as (connection, kernel, peer):
        peer.say("last words")
        peer.say_close(3000, "bye")
        assert await connection.receive() == ["last words"]
        assert peer.look().close is None
        assert await connection.receive() == []
        assert peer.look().close == (3000, "")
        assert not connection.position.joined
        with pytest.raises(Disconnected):
            connection._write(FRAME)
        await connection.aclose()
        assert kernel.eof_sent
        assert not kernel.was_reset


async def test_a_fault_comes_after_the_messages_before_it() -> None:
    """The messages before the broken frame count, and the fault's code is sent."""
    async with connected() as (connection, kernel, peer):
        peer.say("good")
        kernel.feed(b"\x83\x80abcd")
        assert await connection.receive() == ["good"]
        assert await connection.receive() == []
        assert peer.look().close == (1002, "unknown opcode 0x3")


async def test_the_close_frame_goes_behind_the_cut_frame() -> None:
    """A frame that is begun is finished before the Close; the backlog behind it isn't sent."""
    async with connected(credit=9) as (connection, kernel, peer):
        connection._write(FRAME)
        connection.close(CloseCode.TRY_AGAIN_LATER, "slow")
        peer.say_close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.aclose)
            await trio.testing.wait_all_tasks_blocked()
            assert peer.look().close is None
            kernel.grant(1000)
        assert peer.look().messages == [MESSAGE]
        assert peer.look().close == (1013, "slow")
        assert not kernel.was_reset


async def test_lingering_reads_until_the_peer_closes(autojump_clock: trio.testing.MockClock) -> None:
    """After our Close, pings, garbage and floods are read and dropped until the peer's own Close."""
    async with connected() as (connection, kernel, peer):
        connection.close(CloseCode.GOING_AWAY)
        peer.say_ping(b"now?")
        peer.say("too late")
        peer.say_close()
        with trio.fail_after(1):
            await connection.aclose()
        assert peer.look().close == (1001, "")
        assert peer.pongs == []
        assert kernel.closed
        assert not kernel.was_reset


async def test_a_peer_that_never_closes_is_reset(autojump_clock: trio.testing.MockClock) -> None:
    """At the caller's deadline, the connection is dropped."""
    async with connected() as (connection, kernel, _):
        with trio.move_on_after(5) as scope:
            await connection.aclose()
        assert scope.cancelled_caught
        assert kernel.was_reset


async def test_the_end_wakes_the_reader() -> None:
    """A task that waits for messages learns that there will be none."""
    async with connected() as (connection, _, peer):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                assert await connection.receive() == []

            await trio.testing.wait_all_tasks_blocked()
            connection.close(CloseCode.GOING_AWAY)
        assert peer.look().close == (1001, "")


async def test_a_lost_connection_wakes_everybody() -> None:
    """Reader and writer alike; and what was owed is dropped."""
    async with connected(credit=0) as (connection, kernel, _):
        connection._write(FRAME)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                assert await connection.receive() == []

            @nursery.start_soon
            async def drain() -> None:
                with pytest.raises(Disconnected):
                    await connection.wire.drained()

            await trio.testing.wait_all_tasks_blocked()
            connection.abort()
        assert not connection.wire.owed
        assert kernel.was_reset
        assert not connection.position.joined


async def test_a_cancelled_send_is_taken_back() -> None:
    """A message that has not begun to go out never does, and one that has begun goes out whole."""
    async with connected(credit=3) as (connection, kernel, peer):
        connection._write(FRAME)  # cut, so that what comes next waits behind it
        with trio.move_on_after(0) as scope:
            await connection.send("never")
        assert scope.cancelled_caught
        assert len(connection.wire.owed) == 1
        kernel.grant(len(FRAME) - 3 + 4)
        await connection.wire.drained()
        with trio.move_on_after(0) as scope:
            await connection.send("begun")
        assert scope.cancelled_caught
        kernel.grant(100)
        await connection.wire.drained()
        assert peer.look().messages == [MESSAGE, "begun"]


async def test_senders_wait_in_line() -> None:
    """However many tasks send to a slow client, one frame of theirs is kept; all go out in order."""
    async with connected(credit=0) as (connection, kernel, peer):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(connection.send, f"{number:04}" * 100)
                await trio.testing.wait_all_tasks_blocked()
            assert len(connection.wire.owed) == 1
            kernel.grant(None)
            kernel.credit = None
            kernel.grant(0)
        assert peer.look().messages == [f"{number:04}" * 100 for number in range(50)]


async def test_a_send_that_is_cancelled_again_and_again() -> None:
    """To a client that takes a little between the attempts: what is owed doesn't grow."""
    async with connected(credit=0) as (connection, kernel, _):
        for _ in range(100):
            kernel.grant(7)
            with trio.move_on_after(0):
                await connection.send("x" * 1000)
            assert sum(map(len, connection.wire.owed)) <= 2 * 1004


async def test_the_end_is_a_checkpoint() -> None:
    """A session that goes on reading behind the end can be cancelled."""
    async with connected() as (connection, _, _):
        connection.close(1000)
        with trio.move_on_after(0) as scope:
            while True:
                assert await connection.receive() == []
        assert scope.cancelled_caught


async def test_what_is_arriving_is_said_and_given_back() -> None:
    """Byte for byte, and all of it when the message is there or the connection is over."""
    async with connected() as (connection, kernel, _):
        kernel.feed(b"\x01\xfe\x03\xe8abcd" + b"x" * 500)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.receive)
            await trio.testing.wait_all_tasks_blocked()
            assert connection.hub.arriving.held == connection.incoming.held == 500
            kernel.feed(b"x" * 500 + b"\x00\xfe\x03\xe8abcd" + b"x" * 20)
            await trio.testing.wait_all_tasks_blocked()
            assert connection.hub.arriving.held == 1020
            connection.abort()
            assert connection.hub.arriving.held == connection.incoming.held == 0


async def test_a_connection_that_has_left_is_kept_by_nobody() -> None:
    """It goes with its last reference, without the cycle collector, whatever it was about to do."""
    async with open_hub() as hub:
        kernel = FakeKernel()
        connection = enter(hub, kernel)
        kernel.credit = 3
        connection.reply(FRAME)  # it is behind now, and a task catches up
        gone = weakref.ref(connection)
        gc.disable()
        try:
            connection.abort()
            connection.leave()
            await trio.testing.wait_all_tasks_blocked()
            del connection
            assert gone() is None
        finally:
            gc.enable()


async def test_a_connection_that_owes_is_not_live() -> None:
    """Whatever the bytes are: nothing of the log may get into the middle of a frame."""
    async with connected(credit=0) as (connection, kernel, peer):
        assert connection.position.live
        connection.ping()
        assert not connection.position.live
        await connection.hub.publish("behind it")
        kernel.grant(100)
        await trio.testing.wait_all_tasks_blocked()
        assert connection.position.live
        assert (peer.look().pings, peer.messages) == (1, ["behind it"])


async def test_a_dead_kernel_is_noticed_by_the_broadcast() -> None:
    """The connection leaves the broadcast at the first write that fails."""
    async with connected() as (connection, kernel, _):
        kernel.reset()
        await connection.hub.publish("x")
        await trio.testing.wait_all_tasks_blocked()
        assert connection.wire.state is State.LOST
        assert not connection.position.joined
