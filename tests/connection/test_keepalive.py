"""Which clients count as dead, and when. The tests pass the times, so they need no clock."""

from __future__ import annotations

import pytest

from tests.kernel import FakeKernel, masked
from trionotify import Settings
from trionotify.connection.frames import Close, FrameParser, Nothing, message_frame
from trionotify.connection.incoming import Incoming
from trionotify.connection.keepalive import Drop, Keepalive, Ping, Pings, SignsOfLife
from trionotify.connection.wire import Wire

SETTINGS = Settings(ping_interval=20, ping_timeout=10, stall_timeout=30)


async def make(kind: type[Keepalive]) -> tuple[Keepalive, Wire, Incoming, float]:
    keepalive = kind(SETTINGS)
    keepalive.reading = True
    incoming = Incoming(lambda: FrameParser(1 << 20) if kind is Pings else Nothing())
    return keepalive, Wire(FakeKernel(0)), incoming, keepalive.silent_since


async def test_a_silent_client_is_pinged_and_then_dropped() -> None:
    keepalive, wire, incoming, begun = await make(Pings)
    found = [keepalive.check(wire, incoming, begun, begun + at) for at in (1, 20, 21, 30, 31)]
    assert found == [None, None, Ping.NOW, None, Drop("it was silent for 30 seconds")]


@pytest.mark.parametrize("sign", ["heard", "busy"])
async def test_a_sign_of_life_begins_the_count_again(sign: str) -> None:
    """Bytes came in; or the session is busy, so they weren't read."""
    keepalive, wire, incoming, begun = await make(Pings)
    for at in (1, 21, 30):
        keepalive.check(wire, incoming, begun, begun + at)
    keepalive.heard = sign == "heard"
    keepalive.reading = sign == "heard"
    assert keepalive.check(wire, incoming, begun, begun + 31) is None
    keepalive.reading = True
    found = [keepalive.check(wire, incoming, begun, begun + at) for at in (50, 51, 60, 61)]
    assert found == [None, Ping.NOW, None, Drop("it was silent for 30 seconds")]


@pytest.mark.parametrize("kind", [Pings, SignsOfLife])
async def test_owed_bytes_must_move_now_and_then(kind: type[Keepalive]) -> None:
    """However few; when none do for `stall_timeout`, it is dropped. It isn't pinged meanwhile."""
    keepalive, wire, incoming, begun = await make(kind)
    wire.write(b"12345")
    assert keepalive.check(wire, incoming, begun, begun + 1) is None
    assert keepalive.check(wire, incoming, begun, begun + 30) is None
    wire.moved = True
    assert keepalive.check(wire, incoming, begun, begun + 31) is None
    assert keepalive.check(wire, incoming, begun, begun + 60) is None
    assert keepalive.check(wire, incoming, begun, begun + 61) == Drop("it took nothing for 30 seconds")


async def test_a_message_must_arrive_by_a_kibibyte_in_each_timeout() -> None:
    keepalive, wire, incoming, begun = await make(Pings)
    frame = masked(message_frame("x" * 10_000))
    at = 0.0
    for number in range(3):
        incoming.feed(frame[number * 1024 : (number + 1) * 1024])
        keepalive.heard = True
        at += 29
        assert keepalive.check(wire, incoming, begun, begun + at) is None
    incoming.feed(frame[3 * 1024 : 3 * 1024 + 1000])
    keepalive.heard = True
    verdict = keepalive.check(wire, incoming, begun, begun + at + 30)
    assert verdict == Close(1008, "a message arrived too slowly")


async def test_a_stream_gets_a_sign_of_life_where_nothing_else_was_written() -> None:
    keepalive, wire, incoming, begun = await make(SignsOfLife)
    moments = [(0, 19), (0, 20), (0, 39), (35, 40), (35, 55)]
    found = [keepalive.check(wire, incoming, begun + w, begun + now) for w, now in moments]
    assert found == [None, Ping.NOW, None, None, Ping.NOW]
