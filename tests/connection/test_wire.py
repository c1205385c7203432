"""The Wire: partial writes, replies, the end, and cancellation at any moment."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import trio
import trio.testing

from tests.kernel import FakeKernel, Peer
from trionotify.connection.frames import FrameParser, message_frame
from trionotify.connection.wire import Wire
from trionotify.errors import CloseCode, Disconnected


class Owner:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.owing = 0
        self.ended = 0
        self.held = 0

    def on_owing(self) -> None:
        self.owing += 1

    def on_end(self) -> None:
        self.ended += 1

    def on_holding(self, change: int, /) -> None:
        self.held += change


def make(credit: int | None = None, **options: Any) -> tuple[Wire, FakeKernel, Peer, Owner]:
    kernel = FakeKernel(credit, **options)
    kernel.taken += b"HTTP/1.1 101 .\r\n\r\n"
    owner = Owner()
    return Wire(kernel, FrameParser(1 << 20), owner), kernel, Peer(kernel), owner


MESSAGE = "grüße " * 30
FRAME = message_frame(MESSAGE)


@pytest.mark.parametrize("k", range(len(FRAME) + 1))
async def test_the_kernel_takes_k_of_n_bytes(k: int) -> None:
    """However many bytes of a frame are refused, the rest follows, and nothing gets in between."""
    wire, kernel, peer, owner = make(credit=k)
    assert wire.write(FRAME) is (k == len(FRAME))
    assert owner.owing == (k < len(FRAME))
    wire_is_free = wire.write(message_frame("second"))
    assert not wire_is_free
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.drained)
        await trio.testing.wait_all_tasks_blocked()
        assert peer.look().messages == ([MESSAGE] if k == len(FRAME) else [])
        kernel.grant(len(FRAME) - k + 3)
        await trio.testing.wait_all_tasks_blocked()
        assert peer.look().messages == [MESSAGE]
        kernel.grant(100)
    assert peer.look().messages == [MESSAGE, "second"]
    assert not wire.owed


@pytest.mark.parametrize("k", range(0, len(FRAME), 7))
async def test_who_drains_may_be_cancelled_and_the_next_goes_on(k: int) -> None:
    """A cancelled writer leaves no torn frame on a socket: another task finishes it."""
    wire, kernel, peer, _ = make(credit=k)
    wire.write(FRAME)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.drained)
            nursery.start_soon(wire.drained)
            await trio.testing.wait_all_tasks_blocked()
            kernel.grant(5)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    kernel.grant(1000)
    await wire.drained()
    assert peer.look().messages == [MESSAGE]


async def test_what_becomes_owed_meanwhile_goes_out_too() -> None:
    """Whoever waits writes what was added behind its own, as well."""
    wire, kernel, peer, _ = make(credit=0)
    wire.write(FRAME)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.drained)
        await trio.testing.wait_all_tasks_blocked()
        wire.write(message_frame("second"))
        kernel.grant(len(FRAME))
        await trio.testing.wait_all_tasks_blocked()
        assert peer.look().messages == [MESSAGE]
        kernel.grant(100)
    assert peer.look().messages == [MESSAGE, "second"]


async def test_a_cancelled_send_on_a_stream_ends_the_connection() -> None:
    """A stream cut somewhere in a frame is dead: nothing more is written to it."""
    wire, kernel, _, owner = make(credit=10, synchronous=False)
    wire.write(FRAME)
    with trio.move_on_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.drained)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert wire.broken
    assert kernel.closed
    assert owner.ended == 1
    with pytest.raises(Disconnected):
        wire.write(FRAME)


async def test_waiting_for_one_message_does_not_wait_for_all_that_follow() -> None:
    """`drained` is over when what was owed at its call is out, even if more is owed by then."""
    wire, kernel, _, _ = make(credit=3)
    wire.write(FRAME)

    async def refill() -> None:
        while True:
            await wire.drained()
            wire.write(FRAME)
            kernel.grant(40)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refill)
        await trio.testing.wait_all_tasks_blocked()
        kernel.grant(500)
        await wire.send("answer")
        nursery.cancel_scope.cancel()


async def test_pings_are_answered_in_order_behind_what_is_owed() -> None:
    """Pongs bear the Pings' payloads; until they are out, the client isn't read."""
    wire, kernel, peer, _ = make(credit=0)
    peer.say_ping(b"1")
    peer.say_ping(b"2")
    peer.say("message")
    async with trio.open_nursery() as nursery:
        received: list[Any] = []

        async def read() -> None:
            received.extend(await wire.receive())

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert received == []
        kernel.grant(100)
    assert received == ["message"]
    assert peer.look().pongs == [b"1", b"2"]


async def test_a_client_that_is_behind_is_still_read() -> None:
    """Owing notifications doesn't stop reading: else two that write to each other would deadlock."""
    wire, _, peer, _ = make(credit=0)
    wire.owe(memoryview(FRAME))
    peer.say("still here")
    assert await wire.receive() == ["still here"]


async def test_a_close_is_answered_after_the_messages_before_it() -> None:
    """The messages come first; then the Close goes back with its own code, and nothing behind it."""
    wire, kernel, peer, owner = make()
    peer.say("last words")
    peer.say_close(3000, "bye")
    assert await wire.receive() == ["last words"]
    assert peer.look().close is None
    assert await wire.receive() == []
    assert peer.look().close == (3000, "")
    assert owner.ended == 1
    with pytest.raises(Disconnected):
        wire.write(FRAME)
    await wire.aclose()
    assert kernel.eof_sent
    assert not kernel.was_reset


async def test_a_fault_comes_after_the_messages_before_it() -> None:
    """What came before the broken frame counts; the fault's code is sent."""
    wire, kernel, peer, _ = make()
    peer.say("good")
    kernel.feed(b"\x83\x80abcd")
    assert await wire.receive() == ["good"]
    assert await wire.receive() == []
    assert peer.look().close == (1002, "there is no opcode 0x3")


async def test_the_close_frame_goes_behind_the_cut_frame() -> None:
    """A frame that is begun is finished before the Close; the backlog behind it isn't sent."""
    wire, kernel, peer, _ = make(credit=9)
    wire.write(FRAME)
    wire.end(CloseCode.TRY_AGAIN_LATER, "slow")
    peer.say_close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.aclose)
        await trio.testing.wait_all_tasks_blocked()
        assert peer.look().close is None
        kernel.grant(1000)
    assert peer.look().messages == [MESSAGE]
    assert peer.look().close == (1013, "slow")
    assert not kernel.was_reset


async def test_lingering_reads_until_the_peer_closes(autojump_clock: trio.testing.MockClock) -> None:
    """After our Close, pings, garbage and floods are read and dropped until the peer's own Close."""
    wire, kernel, peer, _ = make()
    wire.end(CloseCode.GOING_AWAY)
    peer.say_ping(b"now?")
    peer.say("too late")
    peer.say_close()
    with trio.fail_after(1):
        await wire.aclose()
    assert peer.look().close == (1001, "")
    assert peer.pongs == []
    assert kernel.closed
    assert not kernel.was_reset


async def test_a_peer_that_never_closes_is_reset(autojump_clock: trio.testing.MockClock) -> None:
    """At the caller's deadline, the connection is dropped."""
    wire, kernel, _, _ = make()
    with trio.move_on_after(5) as scope:
        await wire.aclose()
    assert scope.cancelled_caught
    assert kernel.was_reset


async def test_the_end_wakes_the_reader() -> None:
    """A task that waits for messages learns that there will be none."""
    wire, _, peer, _ = make()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            assert await wire.receive() == []

        await trio.testing.wait_all_tasks_blocked()
        wire.end(CloseCode.GOING_AWAY)
    assert peer.look().close == (1001, "")


async def test_a_lost_connection_wakes_everybody() -> None:
    """Reader and writer alike; and what was owed is dropped."""
    wire, kernel, _, owner = make(credit=0)
    wire.write(FRAME)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            assert await wire.receive() == []

        @nursery.start_soon
        async def drain() -> None:
            with pytest.raises(Disconnected):
                await wire.drained()

        await trio.testing.wait_all_tasks_blocked()
        wire.abort()
    assert not wire.owed
    assert kernel.was_reset
    assert owner.ended == 1


async def test_a_cancelled_send_is_taken_back() -> None:
    """What has not begun to go out never does, and what has begun goes out whole."""
    wire, kernel, peer, _ = make(credit=3)
    wire.write(FRAME)  # cut, so that what comes next waits behind it
    with trio.move_on_after(0) as scope:
        await wire.send("never")
    assert scope.cancelled_caught
    assert len(wire.owed) == 1
    kernel.grant(len(FRAME) - 3 + 4)
    await wire.drained()
    with trio.move_on_after(0) as scope:
        await wire.send("begun")
    assert scope.cancelled_caught
    kernel.grant(100)
    await wire.drained()
    assert peer.look().messages == [MESSAGE, "begun"]


async def test_senders_wait_in_line() -> None:
    """However many tasks send to a slow client, one frame of theirs is kept; all go out in order."""
    wire, kernel, peer, _ = make(credit=0)
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(wire.send, f"{number:04}" * 100)
            await trio.testing.wait_all_tasks_blocked()
        assert len(wire.owed) == 1
        kernel.grant(None)
        kernel.credit = None
        kernel.grant(0)
    assert peer.look().messages == [f"{number:04}" * 100 for number in range(50)]


async def test_a_send_that_is_cancelled_again_and_again() -> None:
    """To a client that takes a little between the attempts: what is owed doesn't grow."""
    wire, kernel, _, _ = make(credit=0)
    for _ in range(100):
        kernel.grant(7)
        with trio.move_on_after(0):
            await wire.send("x" * 1000)
        assert sum(map(len, wire.owed)) <= 2 * 1004


async def test_the_end_is_a_checkpoint() -> None:
    """A session that goes on reading behind the end can be cancelled."""
    wire, _, _, _ = make()
    wire.end(1000)
    with trio.move_on_after(0) as scope:
        while True:
            assert await wire.receive() == []
    assert scope.cancelled_caught


async def test_what_is_arriving_is_said_and_given_back() -> None:
    """Byte for byte, and all of it when the message is there or the connection is over."""
    wire, kernel, _, owner = make()
    kernel.feed(b"\x01\xfe\x03\xe8abcd" + b"x" * 500)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.receive)
        await trio.testing.wait_all_tasks_blocked()
        assert owner.held == wire.held == 500
        kernel.feed(b"x" * 500 + b"\x00\xfe\x03\xe8abcd" + b"x" * 20)
        await trio.testing.wait_all_tasks_blocked()
        assert owner.held == 1020
        wire.abort()
        assert owner.held == wire.held == 0


def test_a_wire_that_is_over_keeps_nobody() -> None:
    """Its owner goes when nobody else has it, without the cycle collector."""
    wire, _, _, owner = make()
    gone = weakref.ref(owner)
    gc.disable()
    try:
        wire.abort()
        wire.forget_owner()
        del owner
        assert gone() is None
    finally:
        gc.enable()
