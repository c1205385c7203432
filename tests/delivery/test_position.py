"""A chunk that the kernel took only in part."""

from __future__ import annotations

from itertools import accumulate

import pytest

from trionotify.delivery.position import NO_OUTLET, Chunk, Position, cut
from trionotify.model.predicates import EVERYTHING

FRAMES = [b"first", b"2", b"the third", b"4th"]
OFFSETS = [7, 9, 10, 20]


@pytest.mark.parametrize("sent", range(len(b"".join(FRAMES))))
def test_a_cut_chunk(sent: int) -> None:
    """The frame that was cut is owed, and the reader stands at it: what comes behind it was not sent."""
    chunk = Chunk(FRAMES, OFFSETS, b"".join(FRAMES), list(accumulate(map(len, FRAMES))))
    position = Position(NO_OUTLET, EVERYTHING, None, lambda data: 0)
    position.live = True
    frame, rest = cut(position, chunk, sent)
    at = OFFSETS.index(position.cursor)
    assert b"".join(FRAMES[: at + 1]) == chunk.data[:sent] + rest
    assert rest
    assert frame is FRAMES[at]
    assert position.told == position.cursor
    assert not position.live
