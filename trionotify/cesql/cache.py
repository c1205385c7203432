"""A cache that limits the total weight of its values, not their number.

Its keys are texts from strangers, who could fill a cache that counts entries with the largest ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Cache"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """Calls `make` with a key, and caches the values. The least recently used value is dropped first.

    Together they weigh at most `max_weight` by `weigh`. A heavier value isn't cached. Exceptions of
    `make` are raised and not cached. Any thread may call it. Two threads that ask for the same new key
    at once may both make the value.
    """

    def __init__(
        self, make: Callable[[Key], Value], weigh: Callable[[Key, Value], int], max_weight: int
    ) -> None:
        self._make = make
        self._weigh = weigh
        self._max_weight = max_weight
        self._kept: dict[Key, tuple[Value, int]] = {}  # the one that was asked for last at the end
        self._weight = 0
        self._lock = threading.Lock()

    def __call__(self, key: Key) -> Value:
        """Return the value of `key`, from the cache or from `make`."""
        with self._lock:
            found = self._kept.pop(key, None)
            if found is not None:
                self._kept[key] = found
                return found[0]
        value = self._make(key)
        weight = self._weigh(key, value)
        with self._lock:
            if weight <= self._max_weight and key not in self._kept:
                self._kept[key] = (value, weight)
                self._weight += weight
                while self._weight > self._max_weight:
                    _, gone = self._kept.pop(next(iter(self._kept)))
                    self._weight -= gone
        return value

    @property
    def weight(self) -> int:
        """The total weight of the cached values."""
        return self._weight

    def __len__(self) -> int:
        return len(self._kept)
