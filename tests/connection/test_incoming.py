"""The incoming half: messages, pings and the last word, in whatever pieces the bytes come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel import masked
from trionotify.connection.frames import (
    Close,
    Fault,
    FrameParser,
    close_frame,
    message_frame,
    ping_frame,
)
from trionotify.connection.incoming import Incoming

BYTES = b"".join(
    map(
        masked,
        (
            message_frame("one"),
            ping_frame(b"1"),
            message_frame(b"two"),
            ping_frame(b"2"),
            close_frame(1000, "bye"),
        ),
    )
)


@given(st.lists(st.integers(0, len(BYTES)), max_size=9))
def test_in_whatever_pieces(cuts: list[int]) -> None:
    """The same messages, pongs and last word."""
    incoming = Incoming(lambda: FrameParser(1 << 20))
    found: list[str | bytes] = []
    ends = [*sorted(cuts), len(BYTES)]
    for start, end in zip([0, *ends], ends, strict=False):
        found += incoming.feed(BYTES[start:end])
    assert found == ["one", b"two"]
    assert incoming.received == 2
    assert incoming.take_pongs() == b"\x8a\x011\x8a\x012"
    assert incoming.take_pongs() == b""
    assert incoming.last_event == Close(1000, "bye")
    assert incoming.held == 0


def test_a_fault_is_the_last_event() -> None:
    """The events before it count, and nothing after it."""
    incoming = Incoming(lambda: FrameParser(1 << 20))
    assert incoming.feed(masked(message_frame("good")) + b"\x83\x80abcd" + BYTES) == ["good"]
    assert isinstance(incoming.last_event, Fault)
    assert incoming.feed(BYTES) == []


@pytest.mark.parametrize("size", [0, 500])
@pytest.mark.parametrize("end", ["discard", "forget"])
def test_behind_the_end_nothing_is_kept(end: str, size: int) -> None:
    """No message, no answer to a Ping; a Close is heard only while it is of interest."""
    incoming = Incoming(lambda: FrameParser(1 << 20), b"early")
    frame = masked(message_frame("x" * 1000))
    incoming.feed(frame[:size])
    getattr(incoming, end)()
    assert incoming.held == 0
    assert incoming.feed(frame[size:]) == []
    assert incoming.held == 0
    for _ in range(100):
        assert incoming.feed(masked(ping_frame(b"x"))) == []
    assert incoming.pongs == b""


def test_the_early_bytes_are_given_once() -> None:
    incoming = Incoming(lambda: FrameParser(1 << 20), b"early")
    assert (incoming.take_early(), incoming.take_early()) == (b"early", b"")
