"""Partly sent frames: the memory that stalled clients hold is bounded for all of them together."""

from __future__ import annotations

import logging

import pytest
from trio.testing import MockClock as Clock

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel, Peer

SIZE = 100_000


async def stalled(room: Room, number: int) -> Peer:
    """A client whose kernel takes some bytes of the next notification, and no more."""
    peer = await room.connect("/", remote=f"10.0.0.{number}:1")
    peer.kernel.stall()
    peer.kernel.grant(7)
    return peer


async def test_each_in_another_frame(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Above what the log may hold, those that stalled first are dropped. The others lose nothing."""
    caplog.set_level(logging.INFO, logger="trionotify")
    async with open_room(max_log_bytes=4 * SIZE - 1000, max_log_entries=2) as room:
        peers = []
        for number in range(6):
            peers.append(await stalled(room, number))
            await room.hub.publish(f"{number}" * SIZE)
            await room.quiet()
        assert [peer.kernel.was_reset for peer in peers] == [True] * 3 + [False] * 3
        assert room.hub.statistics().slow_closed == 3
        assert "too many clients have stalled" in caplog.text
        for number, peer in enumerate(peers[3:], 3):
            peer.kernel.grant(None)
            await room.quiet()
            first, *_ = peer.look().messages
            assert first == f"{number}" * SIZE


async def test_all_in_one_frame(autojump_clock: Clock) -> None:
    """They share it: it counts once, however many they are, and as long as one of them needs it."""
    async with open_room(max_log_bytes=2 * SIZE, max_log_entries=2) as room:
        peers = [await stalled(room, number) for number in range(20)]
        await room.hub.publish("x" * SIZE)
        await room.quiet()
        unsent = room.hub.broadcast._unsent
        assert unsent.bytes > SIZE
        for peer in peers:
            assert SIZE < unsent.bytes < 2 * SIZE
            peer.kernel.grant(None)
            await room.quiet()
            assert peer.look().messages == ["x" * SIZE]
        assert unsent.bytes == 0
        assert not unsent._frames


async def test_one_that_leaves(autojump_clock: Clock) -> None:
    """Its pending data doesn't count any more."""
    async with open_room() as room:
        peer = await stalled(room, 1)
        await room.hub.publish("x" * SIZE)
        await room.quiet()
        assert room.hub.broadcast._unsent.bytes > SIZE
        peer.kernel.reset()
        await room.quiet()
        assert room.hub.broadcast._unsent.bytes == 0


async def test_a_stream_of_an_application(autojump_clock: Clock) -> None:
    """It is written by a task that waits, and is owed whole frames."""
    async with open_room() as room:
        kernel = FakeKernel(synchronous=False)
        peer = await room.connect("/", kernel=kernel)
        kernel.stall()
        await room.hub.publish("x" * SIZE)
        await room.quiet()
        assert room.hub.broadcast._unsent.bytes > SIZE
        kernel.grant(None)
        await room.quiet()
        assert peer.look().messages == ["x" * SIZE]
        assert room.hub.broadcast._unsent.bytes == 0
