"""The note of a log's head is read as it was written, or not at all."""

from __future__ import annotations

from zlib import crc32

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trionotify.storage.heads import NOTE_SIZE, Head

HEAD = Head(
    "0f1e2d3c4b5a", 1234, 567_890, 1764123456.789, 4321.5, "8482709e-89b1-40c4-a411-27bb13736822", 7
)


@given(
    st.builds(
        Head,
        st.text("0123456789abcdef", min_size=1, max_size=12),
        st.integers(0, 2**63 - 1),
        st.integers(0, 2**63 - 1),
        st.floats(allow_nan=False),
        st.floats(allow_nan=False),
        st.sampled_from(["", HEAD.boot]),
        st.integers(0, 2**63 - 1),
        st.booleans(),
        st.floats(allow_nan=False),
    )
)
def test_it_is_read_as_it_was_written(head: Head) -> None:
    """Whatever it says; and it always has the same size, which is less than a disk's sector."""
    assert len(head.to_bytes()) == NOTE_SIZE
    assert Head.from_bytes(head.to_bytes()) == head


@pytest.mark.parametrize("bit", range(8))
def test_a_bit_that_was_flipped(bit: int) -> None:
    """Wherever it is, but in the padding."""
    note = HEAD.to_bytes()
    for at in range(len(note.rstrip())):
        damaged = bytearray(note)
        damaged[at] ^= 1 << bit
        assert Head.from_bytes(bytes(damaged)) is None


def test_a_note_of_an_earlier_version() -> None:
    """It lacks the unconfirmed seconds."""
    text = HEAD.to_bytes().rstrip().rpartition(b" ")[0].removesuffix(b"0.0")
    assert Head.from_bytes(text + b"%08x\n" % crc32(text)) == HEAD


def test_what_is_cut_or_something_else() -> None:
    """Nothing is made of it."""
    note = HEAD.to_bytes().rstrip()
    assert [Head.from_bytes(note[:size]) for size in range(len(note))] == [None] * len(note)
    for other in (bytes(NOTE_SIZE), b" " * NOTE_SIZE, b"\xff" * NOTE_SIZE, b"hello"):
        assert Head.from_bytes(other) is None
    assert Head.from_bytes(attrs.evolve(HEAD, boot="").to_bytes()) == attrs.evolve(HEAD, boot="")
