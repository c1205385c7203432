"""Back-off: its bounds double up to the cap, all of it is random, and it begins again."""

from __future__ import annotations

import random

import pytest

from trionotify.backoff import Backoff


def test_the_bound_doubles_up_to_the_cap() -> None:
    """With the largest number that can be drawn, the delays are the bounds."""
    backoff = Backoff(0.5, 30.0, draw=lambda: 1.0)
    assert [backoff.next() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_reset() -> None:
    """After a success the next failure is the first again."""
    backoff = Backoff(0.5, 30.0, draw=lambda: 1.0)
    assert [backoff.next(), backoff.next()] == [0.5, 1]
    backoff.reset()
    assert [backoff.next(), backoff.next()] == [0.5, 1]


@pytest.mark.parametrize("drawn", [0.0, 0.25, 0.999])
def test_the_jitter_is_full(drawn: float) -> None:
    """What is drawn scales the whole delay, down to nothing."""
    backoff = Backoff(0.5, 30.0, draw=lambda: drawn)
    assert [backoff.next() for _ in range(3)] == [0.5 * drawn, 1 * drawn, 2 * drawn]


def test_clients_spread_over_the_whole_interval() -> None:
    """A thousand clients that fail for the seventh time come back in every one of 30 seconds."""
    draw = random.Random(1).random
    seconds = set()
    for _ in range(1000):
        backoff = Backoff(draw=draw)
        delays = [backoff.next() for _ in range(7)]
        assert all(
            0 <= delay <= bound for delay, bound in zip(delays, (0.5, 1, 2, 4, 8, 16, 30), strict=True)
        )
        seconds.add(int(delays[-1]))
    assert seconds == set(range(30))
