"""Compressed messages from clients: vectors of RFC 7692, faults, bombs, and fragments."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Room, open_room
from tests.connection.test_frames import frame
from tests.kernel import DEFLATE, FakeKernel
from trionotify import Client
from trionotify.connection.frames import Close, Fault, FrameParser, Ping
from trionotify.connection.inflate import InflatingParser
from trionotify.errors import CloseCode

Clock = trio.testing.MockClock

MAX = 1 << 20
TEXT, BINARY, FIN, RSV1 = 0x01, 0x02, 0x80, 0x40


class Deflater:
    """A client's half of the extension. By default it keeps its context, as Safari does."""

    def __init__(self, window: int = 12) -> None:
        self._compressor = zlib.compressobj(6, zlib.DEFLATED, -window)

    def __call__(self, data: bytes) -> bytes:
        found = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        assert found.endswith(b"\0\0\xff\xff")
        return found[:-4]


def fed(*chunks: bytes, limit: int = MAX) -> list[Any]:
    parser = InflatingParser(limit, 15)
    return [event for chunk in chunks for event in parser.feed(chunk)]


def code_of(events: list[Any]) -> CloseCode:
    assert isinstance(events[-1], Fault), events
    return events[-1].code


HELLO = bytes.fromhex("f248cdc9c90700")
#: RFC 7692, section 7.2.3: payloads that inflate to "Hello".
VECTORS = {
    "one block": HELLO,
    "no compression": bytes.fromhex("000500faff48656c6c6f00"),
    "a final block": bytes.fromhex("f348cdc9c9070000"),
    "two blocks": bytes.fromhex("f24805000000ffffcac9c90700"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_the_rfc(name: str) -> None:
    """In one frame, byte by byte, and in two frames."""
    payload = VECTORS[name]
    whole = frame(FIN | RSV1 | TEXT, payload)
    assert fed(whole) == ["Hello"]
    assert fed(*(bytes([byte]) for byte in whole)) == ["Hello"]
    parts = frame(RSV1 | TEXT, payload[:3]) + frame(FIN, payload[3:])
    assert fed(parts) == ["Hello"]
    assert fed(whole * 3) == ["Hello"] * 3


def test_sliding_window() -> None:
    """The second message refers to the first (section 7.2.3.2)."""
    second = frame(FIN | RSV1 | TEXT, bytes.fromhex("f200110000"))
    assert fed(frame(FIN | RSV1 | TEXT, HELLO) + second) == ["Hello", "Hello"]
    assert code_of(fed(second)) == 1007


def test_an_empty_message() -> None:
    """Section 7.2.3.6."""
    assert fed(frame(FIN | RSV1 | TEXT, b"\0")) == [""]
    assert fed(frame(FIN | RSV1 | BINARY, b"\0")) == [b""]


@given(st.lists(st.tuples(st.text(max_size=200), st.booleans(), st.integers(1, 50)), max_size=8))
def test_any_messages(messages: list[tuple[str, bool, int]]) -> None:
    """Compressed or plain, in any pieces, with and without context."""
    for takeover in (True, False):
        deflater = Deflater()
        data = b""
        for text, compressed, piece in messages:
            payload = text.encode()
            if compressed:
                payload = deflater(payload)
                deflater = deflater if takeover else Deflater()
            pieces = [payload[at : at + piece] for at in range(0, len(payload), piece)] or [b""]
            for at, part in enumerate(pieces):
                first = (RSV1 * compressed | TEXT) if at == 0 else 0
                data += frame(first | FIN * (at == len(pieces) - 1), part)
                data += frame(FIN | 0x9, b"p")
        expected = [text for text, _, _ in messages]
        found = [event for event in fed(data) if not isinstance(event, Ping)]
        assert found == expected
        assert [e for e in fed(*map(bytes, zip(data))) if not isinstance(e, Ping)] == expected


@pytest.mark.parametrize(
    ("data", "code"),
    {
        "the bit on a continuation": (
            frame(RSV1 | TEXT, HELLO[:3]) + frame(FIN | RSV1, HELLO[3:]),
            1002,
        ),
        "on a continuation of a plain message": (frame(TEXT, b"a") + frame(FIN | RSV1, b"b"), 1002),
        "on a ping": (frame(FIN | RSV1 | 0x9, b""), 1002),
        "on a pong": (frame(FIN | RSV1 | 0xA, b""), 1002),
        "on a close": (frame(FIN | RSV1 | 0x8, b""), 1002),
        "on an unknown opcode": (frame(FIN | RSV1 | 0x3, b""), 1002),
        "another bit": (frame(FIN | 0x20 | TEXT, b""), 1002),
        "another bit besides": (frame(FIN | RSV1 | 0x10 | TEXT, HELLO), 1002),
        "not deflate": (frame(FIN | RSV1 | TEXT, b"\xff\xff\xff\xff"), 1007),
        "text that is no UTF-8": (frame(FIN | RSV1 | TEXT, Deflater()(b"\xff")), 1007),
        "text that ends in a character": (frame(FIN | RSV1 | TEXT, Deflater()("é".encode()[:1])), 1007),
        "nothing but final blocks": (frame(FIN | RSV1 | TEXT, b"\x03\0" * 100), 1007),
    }.values(),
)
def test_faults(data: bytes, code: int) -> None:
    """Each ends the connection with its code, and what came before it counts."""
    before = frame(FIN | RSV1 | TEXT, HELLO)
    events = fed(before + data)
    assert events[0] == "Hello"
    assert code_of(events) == code


def test_the_bit_without_the_extension() -> None:
    """1002, as for any reserved bit."""
    assert code_of(FrameParser(MAX).feed(frame(FIN | RSV1 | TEXT, HELLO))) == 1002


@pytest.mark.parametrize("fragments", [1, 3])
def test_a_bomb(fragments: int) -> None:
    """It stops at the limit, and not a gigabyte later."""
    limit = 100_000
    exact = Deflater()(b"x" * limit)
    assert fed(frame(FIN | RSV1 | BINARY, exact), limit=limit) == [b"x" * limit]
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(compressor.compress(b"\0" * (1 << 20)) for _ in range(60))
    bomb += compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
    assert len(bomb) < limit
    size = len(bomb) // fragments + 1
    parts = [bomb[at : at + size] for at in range(0, len(bomb), size)]
    data = b"".join(
        frame((RSV1 | BINARY) * (at == 0) | FIN * (at == len(parts) - 1), part)
        for at, part in enumerate(parts)
    )
    events = fed(data, limit=limit)
    assert code_of(events) == 1009
    assert "100000 bytes" in events[-1].reason


def test_a_message_over_the_limit_by_one() -> None:
    """1009, also if its last byte comes with its end."""
    data = frame(FIN | RSV1 | TEXT, Deflater()(b"x" * 1001))
    assert code_of(fed(data, limit=1000)) == 1009
    assert code_of(fed(*map(bytes, zip(data)), limit=1000)) == 1009


def test_a_read_full_of_large_messages_takes_several_turns() -> None:
    """The inflated size of a message counts, so few of them are parsed in one turn."""
    data = frame(FIN | RSV1 | BINARY, Deflater()(b"x" * MAX)) * 20
    parser = InflatingParser(MAX, 15)
    turns = [parser.feed(data, 256)]
    while parser.behind:
        turns.append(parser.feed(b"", 256))
    assert max(map(len, turns)) <= 2
    assert sum(map(len, turns)) == 20


def test_what_is_discarded_is_not_inflated() -> None:
    """After our Close only the peer's Close counts."""
    parser = InflatingParser(MAX, 15)
    parser.discard()
    data = frame(FIN | RSV1 | TEXT, b"\xff\xff\xff") + frame(FIN | 0x8, b"\x03\xe8")
    assert parser.feed(data) == [Close(1000)]


def test_what_is_held() -> None:
    """The inflated bytes of an incomplete message count."""
    parser = InflatingParser(MAX, 15)
    payload = Deflater()(b"x" * 50_000)
    assert parser.feed(frame(RSV1 | BINARY, payload)) == []
    assert parser.held == 50_000
    assert parser.feed(frame(FIN, b"")) == [b"x" * 50_000]
    assert parser.held == 0


# --- through a hub ---


async def test_a_client_says_something(room: Room, autojump_clock: Clock) -> None:
    """Compressed, with and without takeover; a Ping in between is answered."""
    reader = await room.connect("/")
    kernel = FakeKernel()
    writer = await room.connect("/?role=publisher", DEFLATE, kernel=kernel)
    texts = ["x" * 1000, "x" * 1000 + "y", "", "grüße"]
    writer.say(*texts)
    await room.quiet()
    safari = Deflater()
    again = ["Hello " * 20, "Hello " * 20]
    for text in again:
        payload = safari(text.encode())
        kernel.feed(frame(RSV1 | TEXT, payload[:5]) + frame(FIN | 0x9, b"?") + frame(FIN, payload[5:]))
    await room.quiet()
    assert reader.look().messages == texts + again
    assert writer.look().pongs == [b"?", b"?"]


@pytest.mark.parametrize(
    ("raw", "code", "reason"),
    [
        (frame(FIN | RSV1 | TEXT, b"\xff\xff\xff"), 1007, "a compressed message is damaged"),
        (frame(FIN | RSV1, b""), 1002, "only the first frame of a message may have the bit RSV1"),
        (
            frame(FIN | RSV1 | TEXT, Deflater()(b"x" * 3000)),
            1009,
            "a message may have at most 2000 bytes inflated",
        ),
    ],
)
async def test_how_it_ends(raw: bytes, code: int, reason: str, autojump_clock: Clock) -> None:
    """With a Close frame that says why."""
    async with open_room(max_message_bytes=2000) as room:
        peer = await room.connect("/?role=publisher", DEFLATE)
        peer.kernel.feed(raw)
        await room.quiet()
        assert peer.look().close == (code, reason)


async def test_echo(autojump_clock: Clock) -> None:
    """A session's own answers are plain frames, which the client reads as well."""

    async def echo(client: Client) -> None:
        async for message in client:
            await client.send(message)

    async with open_room(session=echo) as room:
        peer = await room.connect("/", DEFLATE)
        peer.say("x" * 1000, b"y" * 1000)
        await room.quiet()
        assert peer.look().messages == ["x" * 1000, b"y" * 1000]
