"""Back-off: its bounds double up to the cap, all of it is random, and it begins again."""

from __future__ import annotations

import math
import random
import time
from email.utils import formatdate

import pytest

from trionotify.client.backoff import LONGEST, Backoff, capped, retry_after


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
    """The random number scales the whole delay, down to nothing."""
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


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (7000, 7.0),
        (0.5, 0.0005),
        (0, 0.0),
        (-1, 0.0),
        (math.nan, 0.0),
        (math.inf, LONGEST),
        (10**400, LONGEST),
        (LONGEST * 1000 + 1, LONGEST),
        ("7000", 0.0),
        (None, 0.0),
        ([1], 0.0),
    ],
)
def test_what_a_server_asks_for_has_a_bound(asked: object, seconds: float) -> None:
    """An hour, however large the number is; nothing for what is no number."""
    assert capped(asked, per_second=1000) == seconds


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("2678400", LONGEST),
        ("9" * 5000, LONGEST),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 6.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 6.0),
        ("Sun Nov  6 08:49:37 1994", 6.0),
        ("Sun, 06 Nov 1994 08:49:30 GMT", 0.0),
        ("Sun, 06 Nov 2094 08:49:37 GMT", LONGEST),
        ("Sun, 06 Nov 99999999999 08:49:37 GMT", 0.0),
        ("-5", 0.0),
        ("1e9", 0.0),
        ("²", 0.0),
        ("soon", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after(field: str, seconds: float) -> None:
    """Seconds, or a date in any of HTTP's forms, by the clock of the server that says it."""
    date = b"Sun, 06 Nov 1994 08:49:31 GMT"
    assert retry_after({b"retry-after": field.encode("latin-1"), b"date": date}) == seconds


def test_retry_after_without_a_date() -> None:
    """Then this machine's clock counts; and without the header there is nothing to wait for."""
    begun = time.time()
    until = formatdate(begun + 600, usegmt=True)  # in whole seconds
    seconds = retry_after({b"retry-after": until.encode()})
    assert begun + 599 - time.time() <= seconds <= 600
    assert retry_after({}) == 0
