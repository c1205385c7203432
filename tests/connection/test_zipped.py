"""Streams in gzip: segments that are shared, and what clients make of them."""

from __future__ import annotations

import json
import zlib

import pytest
import trio.testing

from tests.conftest import Room, open_room
from tests.connection.test_deflate import check_trickle
from tests.eventstream import ENDED, NDJSON, stream
from tests.kernel import FakeKernel
from trionotify.connection.sse import chunk
from trionotify.connection.zipped import HEADER, stored_chunk, zipper

Clock = trio.testing.MockClock

GZIP = "Accept-Encoding: gzip, deflate"


#: An empty block, before which Go's inflater hands out nothing.
EMPTY = b"\0\0\xff\xff"


def unchunked(data: bytes) -> bytes:
    """The one chunk of which `data` consists."""
    size, _, rest = data.partition(b"\r\n")
    assert rest.endswith(b"\r\n")
    assert int(size, 16) == len(rest) - 2
    return rest[:-2]


@pytest.mark.parametrize("size", [1, 500, 65_535, 65_536, 200_000])
def test_segments_in_any_order(size: int) -> None:
    """Each can follow any other, stored or compressed."""
    block = "".join(map(str, range(size)))[:size]
    zipped = zipper(1)(block.encode()) or stored_chunk(block)
    segments = [zipped, stored_chunk(block), zipped, zipped, stored_chunk(":\n\n")]
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    assert inflater.decompress(unchunked(HEADER)) == b""
    for segment, text in zip(segments, [block] * 4 + [":\n\n"], strict=True):
        # Each is whole when it has come: a client need not wait for the next one.
        assert inflater.decompress(unchunked(segment)).decode() == text


def test_what_is_stored() -> None:
    """Short blocks, and those that don't get shorter."""
    assert zipper(10)(b"x" * 9) is None
    assert zipper(1)(b"abc") is None
    found = zipper(10)(b"x" * 100)
    assert found is not None
    assert unchunked(found).endswith(EMPTY)
    assert unchunked(stored_chunk("x")).endswith(EMPTY)


@pytest.mark.parametrize(
    ("target", "fields"),
    [("/events", ()), ("/events?format=cloudevents", ()), ("/events", (NDJSON,))],
)
async def test_a_stream(target: str, fields: tuple[str, ...], room: Room, autojump_clock: Clock) -> None:
    """It says that it is gzip, and the same events come as without."""
    peers = [await stream(room, target, GZIP, *fields) for _ in range(2)]
    plain = await stream(room, target, *fields)
    texts = ["short", "x" * 1000, "é\n" * 400]
    for text in texts:
        await room.hub.publish(text, confirm=True)
    for peer in (*peers, plain):
        assert peer.header("vary") == "Accept-Encoding"
        found = peer.look().messages[-3:]
        raw = target == "/events" and not fields
        assert (found if raw else [json.loads(text)["data"] for text in found]) == texts
    assert [peer.header("content-encoding") for peer in peers] == ["gzip", "gzip"]
    assert plain.header("content-encoding") is None
    assert len(peers[0].kernel.taken) < len(plain.kernel.taken) - 1500


async def test_its_pings_and_its_end(autojump_clock: Clock) -> None:
    """They are in gzip, too, and the end is the last chunk."""
    async with open_room(ping_interval=10) as room:
        peer = await stream(room, "/events", GZIP)
        await trio.sleep(15)
        assert peer.look().source.comments == 1
        (client,) = room.hub.clients
        client.close()
        await room.quiet()
        assert peer.look().close == ENDED


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Accept-Encoding: identity",),
        ("Accept-Encoding: gzip;q=0, deflate",),
        ("Accept-Encoding: br, zstd",),
        # As Go and OkHttp ask by themselves, who would take its end for an error.
        ("Accept-Encoding: gzip",),
    ],
)
async def test_who_does_not_take_it(fields: tuple[str, ...], room: Room, autojump_clock: Clock) -> None:
    """Gets the stream as it is."""
    peer = await stream(room, "/events", *fields)
    assert peer.header("content-encoding") is None
    await room.hub.publish("x" * 1000, confirm=True)
    assert peer.look().messages == ["x" * 1000]


async def test_http_1_0(room: Room, autojump_clock: Clock) -> None:
    """Such a client has no chunks, and gets the stream as it is."""
    peer = await stream(room, "/events", GZIP, version="1.0")
    assert (peer.status, peer.header("content-encoding")) == (200, None)


async def test_switched_off(autojump_clock: Clock) -> None:
    """As if the client didn't take it."""
    async with open_room(compression=False) as room:
        assert (await stream(room, "/events", GZIP)).header("content-encoding") is None


async def test_head(room: Room, autojump_clock: Clock) -> None:
    """HEAD is answered as GET would be."""
    peer = await stream(room, "/events", GZIP, method="HEAD")
    assert (peer.status, peer.header("content-encoding")) == (200, "gzip")


async def test_a_slow_client(room: Room, autojump_clock: Clock) -> None:
    """A segment that was cut goes out whole before the next one, in order."""
    kernel = FakeKernel()
    await check_trickle(room, await stream(room, "/events", GZIP, kernel=kernel), kernel, 5)


async def test_it_resumes(room: Room, autojump_clock: Clock) -> None:
    """A new stream has a header of its own, and goes on where the last one ended."""
    first = await stream(room, "/events", GZIP)
    await room.hub.publish("x" * 1000, confirm=True)
    cursor = first.look().source.last_event_id
    await room.hub.publish("y" * 1000, confirm=True)
    again = await stream(room, "/events", GZIP, f"Last-Event-ID: {cursor}")
    assert again.messages == ["y" * 1000]


def test_the_header_of_gzip() -> None:
    """RFC 1952, section 2.3: deflate, no flags, no time, an unknown system."""
    assert chunk(b"\x1f\x8b\x08\0\0\0\0\0\0\xff") == HEADER
