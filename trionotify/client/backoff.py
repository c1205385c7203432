"""Exponential back-off with full jitter: the delays before attempts to connect.

After the nth failure in a row, a random time between 0 and `first * 2**n` seconds, at most `cap`. The
whole of it is random, because all clients of a server lose it in the same moment, and should not come
back in one.

A server may ask for more time, in an event or in a header. `capped` and `retry_after` read what it asks
for. They never return more than an hour, because a number that is too large is a mistake more often than
a wish.
"""

from __future__ import annotations

import calendar
import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate
from typing import Final

__all__ = ["LONGEST", "Backoff", "capped", "retry_after"]

_FIRST: Final = 0.5
_CAP: Final = 30.0
#: Seconds after which a client tries again, however much more time the server asks for.
LONGEST: Final = 3600.0
#: Digits of a `Retry-After` that is read as a number. A longer one is too long to wait for anyway.
_DIGITS: Final = 9


class Backoff:
    """The delays of one client's attempts. `draw` gives random numbers from 0 up to 1."""

    def __init__(
        self, first: float = _FIRST, cap: float = _CAP, draw: Callable[[], float] = random.random
    ) -> None:
        self._first = first
        self._cap = cap
        self._draw = draw
        self._bound = first

    def next(self) -> float:
        """Count a failure; return the seconds to wait before the next attempt."""
        bound, self._bound = self._bound, min(self._bound * 2, self._cap)
        return bound * self._draw()

    def reset(self) -> None:
        """Start over after a connection that succeeded."""
        self._bound = self._first


def capped(wait: object, per_second: int = 1) -> float:
    """Return the seconds that a server asks for, in units of which `per_second` make a second.

    At most `LONGEST`, and 0 for a value that isn't a valid number. (An int may be too large for a float,
    so it is compared first.)
    """
    if not isinstance(wait, int | float) or not wait > 0:
        return 0.0
    return float(min(wait, LONGEST * per_second)) / per_second


def retry_after(headers: Mapping[bytes, bytes]) -> float:
    """Return the seconds that `Retry-After` asks for, a number or a date (RFC 9110, section 10.2.3).

    A date is compared with the response's own `Date`, if it has one, because this machine's clock may be
    wrong.
    """
    text = headers.get(b"retry-after", b"").decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return capped(int(text)) if len(text) <= _DIGITS else LONGEST
    until, now = _moment(text), _moment(headers.get(b"date", b"").decode("latin-1"))
    return 0.0 if until is None else capped(until - (time.time() if now is None else now))


def _moment(text: str) -> float | None:
    """Return the seconds since 1970 of an HTTP date, which is always in GMT; None if it is invalid."""
    found = parsedate(text)
    try:
        return None if found is None else calendar.timegm(found)
    except (ValueError, OverflowError):  # a year or a month that is none
        return None
