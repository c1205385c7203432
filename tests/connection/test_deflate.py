"""permessage-deflate: the negotiation, and the frames that clients get."""

from __future__ import annotations

import random
import zlib
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate

from tests.conftest import Room, open_room
from tests.kernel import DEFLATE, FakeKernel, Peer
from trionotify import Notification
from trionotify.connection.deflate import WINDOWS, deflated, deflater, negotiate
from trionotify.connection.frames import message_frame
from trionotify.delivery import compression, turns
from trionotify.delivery.compression import CompressedEncode
from trionotify.delivery.entry import Entry
from trionotify.delivery.turns import Turn

Clock = trio.testing.MockClock

P = "permessage-deflate"
ALWAYS = f"{P}; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        (None, None),
        ("", None),
        ("x-webkit-deflate-frame", None),
        (P, ALWAYS),
        (f" {P} ; ", None),
        (f"foo, {P}", ALWAYS),
        (f"{P}-2", None),
        # What is always answered may be asked for, too, but has no value.
        (f"{P}; server_no_context_takeover; client_no_context_takeover", ALWAYS),
        (f"{P}; server_no_context_takeover=1", None),
        (f"{P}; server_no_context_takeover=", None),
        (f"{P}; client_no_context_takeover=true", None),
        # The server's window is one of two classes, and never larger than asked for.
        (f"{P}; server_max_window_bits=15", f"{ALWAYS}; server_max_window_bits=12"),
        (f"{P}; server_max_window_bits=12", f"{ALWAYS}; server_max_window_bits=12"),
        (f"{P}; server_max_window_bits=11", f"{ALWAYS}; server_max_window_bits=9"),
        (f"{P}; server_max_window_bits=9", f"{ALWAYS}; server_max_window_bits=9"),
        (f"{P}; server_max_window_bits=8", None),
        (f'{P}; server_max_window_bits="10"', f"{ALWAYS}; server_max_window_bits=9"),
        (f"{P}; server_max_window_bits", None),
        (f"{P}; server_max_window_bits=0", None),
        (f"{P}; server_max_window_bits=7", None),
        (f"{P}; server_max_window_bits=16", None),
        (f"{P}; server_max_window_bits=012", None),
        (f"{P}; server_max_window_bits=+12", None),
        (f"{P}; server_max_window_bits=1²", None),
        # The client's window is limited if it lets the server do that.
        (f"{P}; client_max_window_bits", f"{ALWAYS}; client_max_window_bits=12"),
        (f"{P}; client_max_window_bits=15", f"{ALWAYS}; client_max_window_bits=12"),
        (f"{P}; client_max_window_bits=8", f"{ALWAYS}; client_max_window_bits=8"),
        (f"{P}; client_max_window_bits=10", f"{ALWAYS}; client_max_window_bits=10"),
        (f"{P}; client_max_window_bits=", None),
        (f"{P}; client_max_window_bits=08", None),
        (f"{P}; client_max_window_bits=16", None),
        (
            f"{P}; client_max_window_bits; server_max_window_bits=10",
            f"{ALWAYS}; server_max_window_bits=9; client_max_window_bits=12",
        ),
        # Unknown and repeated parameters.
        (f"{P}; foo", None),
        (f"{P}; server_no_context_takeover; server_no_context_takeover", None),
        (f"{P}; client_max_window_bits; client_max_window_bits=9", None),
        # The first offer that will do.
        (f"{P}; foo, {P}; server_max_window_bits=8, {P}", ALWAYS),
        (f"{P}; server_max_window_bits=10, {P}", f"{ALWAYS}; server_max_window_bits=9"),
        (", ".join([f"{P}; foo"] * 20) + f", {P}", None),
    ],
)
def test_negotiation(offers: str | None, answer: str | None) -> None:
    """RFC 7692, section 7.1."""
    agreed = negotiate(offers)
    assert (agreed and agreed.answer) == answer


@pytest.mark.parametrize("window", WINDOWS)
@given(st.binary(max_size=300), st.integers(0, 300))
def test_every_client_reads_what_is_compressed(window: int, piece: bytes, times: int) -> None:
    """In the window that was agreed on, without anything before it."""
    data = piece * times
    inflater = zlib.decompressobj(-window)
    assert inflater.decompress(deflated(data, window)) == data
    assert not inflater.unused_data


@pytest.mark.parametrize("message", ["x" * 600, "é" * 600, b"\0" * 600, "y" * 70_000, b"z" * 200_000])
def test_a_frame(message: str | bytes) -> None:
    """Text stays text, whatever the length of its length."""
    frame = deflater(12, 512)(message_frame(message))
    assert frame is not None
    assert frame[0] == (0xC2 if isinstance(message, bytes) else 0xC1)
    peer = Peer(FakeKernel())
    peer.kernel.taken += f"HTTP/1.1 101 X\r\nSec-WebSocket-Extensions: {ALWAYS}\r\n\r\n".encode() + frame
    assert peer.look().messages == [message]


def test_what_stays_as_it_is() -> None:
    """Short messages, and those that don't get shorter."""
    noise = random.Random(1).randbytes(400)
    assert deflater(12, 100)(message_frame("x" * 99)) is None
    assert deflater(12, 100)(message_frame("x" * 100)) is not None
    assert deflater(12, 1)(message_frame(noise)) is None


# --- through a hub ---


async def test_compressed_once_for_all(room: Room, autojump_clock: Clock) -> None:
    """Clients that agreed to it get one frame, and the others the plain one."""
    peers = [await room.connect("/", DEFLATE) for _ in range(3)]
    plain = await room.connect("/")
    assert "permessage-deflate" in (peers[0].header("Sec-WebSocket-Extensions") or "")
    assert plain.header("Sec-WebSocket-Extensions") is None
    await room.hub.publish("x" * 1000, confirm=True)
    assert [peer.look().messages for peer in [*peers, plain]] == [["x" * 1000]] * 4
    counts = room.hub.broadcast.counts.compression
    assert counts.plain_bytes == 1004
    assert counts.compressed_bytes < 30
    assert len(peers[0].kernel.taken) < len(plain.kernel.taken) - 800


async def test_each_window_has_its_frames(room: Room, autojump_clock: Clock) -> None:
    """A client with a small window gets one that it can read."""
    small = await room.connect("/", f"Sec-WebSocket-Extensions: {P}; server_max_window_bits=10")
    large = await room.connect("/", DEFLATE)
    text = "".join(map(str, range(2000))) * 2
    await room.hub.publish(text, confirm=True)
    assert [small.look().messages, large.look().messages] == [[text], [text]]


async def test_formats_of_both_kinds(room: Room, autojump_clock: Clock) -> None:
    """An event is compressed with its cursor; the server's own are not."""
    events = await room.connect("/?format=cloudevents", DEFLATE)
    raw = await room.connect("/", DEFLATE)
    await room.hub.publish("x" * 1000, type="t", confirm=True)
    welcome, event = events.look().messages
    assert '"trionotify.welcome"' in str(welcome)
    assert f'"{room.hub.log.epoch}:1"' in str(event)
    assert raw.look().messages == ["x" * 1000]


async def test_a_client_that_resumes_gets_them_too(room: Room, autojump_clock: Clock) -> None:
    """The log has some compressed. Others are compressed as they are sent, unless they are large."""
    for text in ("x" * 1000, "y" * 70_000, "z" * 1000):
        await room.hub.publish(text, confirm=True)
    peer = await room.connect("/?since=start", DEFLATE)
    await room.quiet()
    assert [message[0] for message in peer.look().messages] == ["x", "y", "z"]
    assert 70_000 < len(peer.kernel.taken) < 71_000


async def test_old_entries_are_not_compressed_again(room: Room, autojump_clock: Clock) -> None:
    """They keep no frames, so everyone who reads them would do it again."""
    await room.hub.publish("x" * 1000, confirm=True)
    (entry,) = room.hub.log.read(0, 1)
    entry.forget_frames()
    peer = await room.connect("/?since=start", DEFLATE)
    await room.quiet()
    assert peer.look().messages == ["x" * 1000]
    assert room.hub.broadcast.counts.compression.plain_bytes == 0


async def check_trickle(room: Room, peer: Any, kernel: FakeKernel, first: int) -> None:
    """A client whose kernel takes a few bytes at a time gets everything whole and in order."""
    kernel.stall()
    kernel.grant(first)
    texts = ["".join(map(str, range(at, at + 300))) for at in range(5)]
    for text in texts:
        await room.hub.publish(text, confirm=True)
    assert peer.look().messages == []
    for _ in range(20):
        kernel.grant(30)
        await room.quiet()
    kernel.credit = None
    kernel.grant(None)
    await room.quiet()
    assert peer.look().messages == texts


async def test_a_compressed_frame_that_is_cut(room: Room, autojump_clock: Clock) -> None:
    """It goes out whole, before the next one."""
    kernel = FakeKernel()
    await check_trickle(room, await room.connect("/", DEFLATE, kernel=kernel), kernel, 7)


async def test_large_ones_in_a_thread() -> None:
    """In order with what is around them, for both kinds of clients."""
    async with open_room() as room:
        peers = [await room.connect("/", DEFLATE), await room.connect("/")]
        texts = ["a", "b" * 700, "c" * 300_000, "d" * 700, "e" * 100_000, "f"]
        for text in texts[:-1]:
            await room.hub.publish(text)
        await room.hub.publish(texts[-1], confirm=True)
        assert [peer.look().messages for peer in peers] == [texts, texts]
        assert len(peers[0].kernel.taken) < 10_000


async def test_plain_frames_do_not_wait(
    room: Room, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread is compressing; clients without compression have the notification already."""
    begun, done = trio.Event(), trio.Event()

    async def in_thread(compress: Any, frame: bytes, limiter: trio.CapacityLimiter) -> Any:
        begun.set()
        await done.wait()
        return compress(frame)

    monkeypatch.setattr(compression, "_in_thread", in_thread)
    peers = [await room.connect("/", DEFLATE), await room.connect("/")]
    await room.hub.publish("x" * 100_000)
    await begun.wait()
    assert [len(peer.look().messages) for peer in peers] == [0, 1]
    late = await room.connect("/", DEFLATE)
    gone = await room.connect("/", DEFLATE)
    gone.kernel.hang_up()
    await room.hub.publish("next")
    done.set()
    await room.quiet()
    assert [len(peer.look().messages) for peer in [*peers, late]] == [2, 2, 1]


async def test_others_run_between_two_frames(
    room: Room, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compressing a long list takes many turns."""
    turn = Turn()
    monkeypatch.setattr(turns, "SECONDS", 0.0)
    plain = [Entry(Notification("x" * 1000)) for _ in range(50)]
    await room.connect("/", DEFLATE)
    (connection,) = room.hub.connections.values()
    await turn.pass_on()
    encode = connection.position.encode
    assert isinstance(encode, CompressedEncode)
    await encode.prepare(plain, turn)
    assert turn.passed == 51
    assert all(entry.has_frame(encode) for entry in plain)


async def test_switched_off(autojump_clock: Clock) -> None:
    """The offer is declined."""
    async with open_room(compression=False) as room:
        peer = await room.connect("/", DEFLATE)
        assert peer.header("Sec-WebSocket-Extensions") is None
        await room.hub.publish("x" * 1000, confirm=True)
        assert peer.look().messages == ["x" * 1000]


async def test_a_higher_threshold(autojump_clock: Clock) -> None:
    """Shorter frames stay plain."""
    async with open_room(compression_threshold=2000) as room:
        peer = await room.connect("/", DEFLATE)
        await room.hub.publish("x" * 1999, confirm=True)
        await room.hub.publish("x" * 2000, confirm=True)
        assert peer.look().messages == ["x" * 1999, "x" * 2000]
        assert room.hub.broadcast.counts.compression.plain_bytes == 2004


def test_wsproto_agrees() -> None:
    """Its client takes our answer."""
    client = PerMessageDeflate(client_max_window_bits=15)
    offer = client.offer()
    agreed = negotiate(f"{P}; {offer}")
    assert agreed
    client.finalize(agreed.answer)
    assert client.enabled()
