"""How long to wait before the next attempt: exponential back-off with full jitter.

After the nth failure in a row, a random time between 0 and `first * 2**n` seconds, at most `cap`. The
whole of it is random, because all clients of a server lose it in the same moment, and should not come
back in one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

__all__ = ["Backoff"]

_FIRST: Final = 0.5
_CAP: Final = 30.0


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
        """How long to wait now, in seconds. Each call is one more failure."""
        bound, self._bound = self._bound, min(self._bound * 2, self._cap)
        return bound * self._draw()

    def reset(self) -> None:
        """It worked: the next failure is the first again."""
        self._bound = self._first
