"""Frames: the same bytes through our parser and through wsproto's give the same messages and fault."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from tests.kernel import masked
from trionotify.connection.frames import (
    Close,
    Fault,
    FrameParser,
    Ping,
    Pong,
    close_frame,
    message_frame,
    ping_frame,
    pong_frame,
)
from trionotify.errors import CloseCode, check_close

MAX = 1 << 20


def header(first: int, size: int, *, mask: bytes | None = b"abcd", wide: int | None = None) -> bytes:
    """A frame's header, with the length in as many bytes as said."""
    flag = 0x80 if mask is not None else 0
    if wide is None:
        wide = 0 if size < 126 else 2 if size < 65536 else 8
    length = (
        bytes([flag | size])
        if not wide
        else bytes([flag | {2: 126, 8: 127}[wide]]) + size.to_bytes(wide)
    )
    return bytes([first]) + length + (mask or b"")


def frame(first: int, payload: bytes, *, mask: bytes | None = b"abcd", wide: int | None = None) -> bytes:
    covered = payload if mask is None else bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
    return header(first, len(payload), mask=mask, wide=wide) + covered


def ours(chunks: list[bytes], limit: int = MAX) -> tuple[list[object], CloseCode | None]:
    """(events, the fault's code)."""
    parser = FrameParser(limit)
    events: list[object] = []
    for chunk in chunks:
        events += parser.feed(chunk)
    if events and isinstance(events[-1], Fault):
        return events[:-1], events[-1].code
    return events, None


def reference(data: bytes) -> tuple[list[object], int | None]:
    """The same by wsproto."""
    protocol = FrameProtocol(client=False, extensions=[])
    protocol.receive_bytes(data)
    events: list[object] = []
    parts: list[str | bytes] = []
    try:
        for got in protocol.received_frames():
            if got.opcode in (Opcode.TEXT, Opcode.BINARY):
                parts.append(got.payload)
                if got.message_finished:
                    events.append(type(got.payload)().join(parts))
                    parts = []
            elif got.opcode is Opcode.PING:
                events.append(Ping(bytes(got.payload)))
            elif got.opcode is Opcode.PONG:
                events.append(Pong(bytes(got.payload)))
            elif got.opcode is Opcode.CLOSE:
                code, reason = got.payload
                events.append(Close(None if code == 1005 else int(code), reason))
    except ParseFailed as failed:
        return events, int(failed.code)
    return events, None


text = st.text(max_size=40).map(str.encode)
payload = st.one_of(
    text,
    st.binary(max_size=40),
    st.sampled_from([125, 126, 127, 65535, 65536]).map(lambda size: b"x" * size),
    st.sampled_from(
        [b"\xce\xba\xe1\xbd\xb9\xcf\x83", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"]
    ),
)
mask = st.binary(min_size=4, max_size=4)
whole = st.builds(frame, st.sampled_from([0x81, 0x82]), payload, mask=mask)
fragment = st.builds(frame, st.sampled_from([0x01, 0x02, 0x00, 0x80]), payload, mask=mask)
control = st.builds(frame, st.sampled_from([0x89, 0x8A]), st.binary(max_size=125), mask=mask)
# (Not 1014, which wsproto doesn't know.)
codes = st.sampled_from(
    [
        0,
        999,
        1000,
        1003,
        1004,
        1005,
        1006,
        1007,
        1011,
        1012,
        1013,
        1015,
        1016,
        2999,
        3000,
        4999,
        5000,
    ]
)
close = st.one_of(
    st.builds(
        lambda code, reason: frame(0x88, code.to_bytes(2) + reason), codes, text.map(lambda t: t[:123])
    ),
    st.sampled_from([frame(0x88, b""), frame(0x88, b"\x03"), frame(0x88, b"\x03\xe8\xff")]),
)
odd = st.one_of(
    st.builds(frame, st.integers(0, 255), payload, mask=st.none() | mask),
    st.builds(
        frame, st.sampled_from([0x81, 0x82]), st.binary(max_size=125), wide=st.sampled_from([2, 8])
    ),
    st.builds(lambda first: header(first, 1 << 63, wide=8), st.sampled_from([0x81, 0x82])),
    st.binary(max_size=20),
)
sequence = st.lists(
    st.one_of(whole, whole, fragment, fragment, control, control, close, odd), max_size=8
)


def cuts(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in pairwise(places)]


@given(sequence, st.lists(st.integers(0, 10_000), max_size=12))
@example([frame(0x01, b"\xce"), frame(0x89, b"p"), frame(0x80, b"\xba")], [1, 2, 3])
def test_same_messages_and_same_fault_as_wsproto(frames: list[bytes], at: list[int]) -> None:
    """Valid or not, cut anywhere or nowhere: same messages, same controls, same fault's code."""
    # A frame with no end keeps wsproto from looking at what a header already gives away.
    data = b"".join(frames) + frame(0x89, b"end")
    expected = reference(data)
    events, code = ours(cuts(data, at))
    if code is not None and expected[1] is None:
        # It saw a fault in the header of a frame whose payload never came; wsproto waits for that.
        assert events == expected[0]
        assert reference(data + bytes(200_000))[1] == code
    else:
        assert (events, code) == expected


@given(sequence)
def test_cutting_into_single_bytes_changes_nothing(frames: list[bytes]) -> None:
    """Whole, or byte by byte: the same events."""
    data = b"".join(part for part in frames if len(part) < 1000)
    assert ours([bytes([byte]) for byte in data]) == ours([data])


@given(sequence, st.integers(1, 5), st.lists(st.integers(0, 2000), max_size=4))
def test_stopping_now_and_then_changes_nothing(frames: list[bytes], most: int, at: list[int]) -> None:
    """Called again until it isn't behind, the parser makes the same of the bytes."""
    data = b"".join(part for part in frames if len(part) < 1000)
    parser, events = FrameParser(MAX), []
    for chunk in cuts(data, at):
        events += parser.feed(chunk, most)
    while parser.behind:
        found = parser.feed(b"", most)
        assert len(found) <= most + 1  # a fault besides
        events += found
    code = events.pop().code if events and isinstance(events[-1], Fault) else None
    assert (events, code) == ours([data])


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 70_000])
@pytest.mark.parametrize("kind", [str, bytes])
def test_what_we_write_is_what_wsproto_reads(size: int, kind: type) -> None:
    """One frame per message, with the shortest length."""
    message = "é" * (size // 2) if kind is str else b"x" * size
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(message_frame(message))
    (got,) = protocol.received_frames()
    assert got.payload == message
    assert got.message_finished


def test_control_frames_are_what_wsproto_reads() -> None:
    """Ping, Pong and Close, the Close reason cut between characters at 123 bytes."""
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(ping_frame(b"a") + pong_frame(b"b") + close_frame(1008, "é" * 100))
    ping, pong, closing = protocol.received_frames()
    assert (ping.opcode, ping.payload) == (Opcode.PING, b"a")
    assert (pong.opcode, pong.payload) == (Opcode.PONG, b"b")
    assert closing.payload == (1008, "é" * 61)


def test_a_length_is_judged_at_the_header() -> None:
    """A header that announces a gibibyte is 1009 at once; so is the fragment that goes over."""
    assert ours([header(0x82, 1 << 30)]) == ([], CloseCode.MESSAGE_TOO_BIG)
    assert ours([frame(0x02, b"x" * 6), header(0x80, 5)], limit=10) == ([], CloseCode.MESSAGE_TOO_BIG)
    assert ours([frame(0x02, b"x" * 6), frame(0x80, b"y" * 4)], limit=10) == (
        [b"x" * 6 + b"y" * 4],
        None,
    )
    assert ours([frame(0x81, b"x" * 11)], limit=10) == ([], CloseCode.MESSAGE_TOO_BIG)


def test_bad_utf_8_is_seen_while_the_frame_arrives() -> None:
    """The fault comes with the bad byte, not at the end of the frame; half a character is no fault."""
    data = frame(0x81, b"\xce\xba" * 50 + b"\xff" + b"x" * 1000)
    assert ours([data[:58]]) == ([], None)
    assert ours([data[:110]]) == ([], CloseCode.INVALID_DATA)


def test_nothing_is_parsed_behind_a_close() -> None:
    """Bytes that a peer sends after its Close frame are ignored."""
    assert ours([frame(0x88, b"") + frame(0x81, b"late"), frame(0x81, b"later")]) == (
        [Close(None)],
        None,
    )


def test_a_code_that_is_newer_than_the_rfc() -> None:
    """1014, "bad gateway", in IANA's registry since 2017: a peer that closes with it is answered."""
    assert ours([frame(0x88, (1014).to_bytes(2) + b"x")]) == ([Close(1014, "x")], None)


def test_what_the_peer_of_the_tests_masks_is_read() -> None:
    """The tests' own helper speaks the protocol."""
    assert ours([masked(message_frame("hällo"))]) == (["hällo"], None)


@pytest.mark.parametrize("fragment", [frame(0x00, b""), frame(0x00, b"xy")])
@pytest.mark.parametrize("first", [0x01, 0x02])
def test_small_fragments_weigh_what_their_bytes_do(first: int, fragment: bytes) -> None:
    """Not an object each; empty ones nothing at all."""
    parser = FrameParser(MAX)
    parser.feed(frame(first, b""))
    tracemalloc.start()
    parser.feed(fragment * 25_000)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 100_000


def test_what_a_close_frame_may_bear() -> None:
    """RFC 6455, section 7.4: refused when it is asked for, not when it is sent."""
    for code in (1000, 1003, 1007, 1013, 3000, 4999):
        check_close(code, "why")
    for code in (-1, 5, 999, 1004, 1005, 1006, 1014, 1015, 2999, 5000, 70_000):
        with pytest.raises(
            ValueError, match=f"code: must be a code that a Close frame may have, .* not {code}"
        ):
            check_close(code, "")
    with pytest.raises(TypeError, match="must be int and str"):
        check_close("1000", "")  # type: ignore[arg-type] # a mistake on purpose


def test_text_that_is_discarded_need_not_be_utf_8() -> None:
    """The peer's Close behind it is what our closing handshake waits for."""
    parser = FrameParser(1000)
    parser.discard()
    frames = masked(b"\x81\x02\xff\xfe") + masked(close_frame(1000))
    assert parser.feed(frames) == [Close(1000)]
