"""Dicts of several items per key, where most keys have one.

A dict of its own for every key would weigh a quarter of a KiB for each client; so one item stands by
itself, and only several have a dict, in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

__all__ = ["Bags"]

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item", bound=Hashable)


class Bags(Generic[Key, Item]):
    """From keys to items, none twice under one key. An item is not a dict."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[Key, Item | dict[Item, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, key: Key, item: Item) -> None:
        """Put `item` under `key`."""
        found = self._found.setdefault(key, item)
        if isinstance(found, dict):
            found[item] = None
        elif found != item:
            self._found[key] = {found: None, item: None}

    def remove(self, key: Key, item: Item) -> None:
        """Take `item` away; raises KeyError when it isn't there."""
        found = self._found[key]
        if not isinstance(found, dict):
            if found != item:
                raise KeyError(item)
            del self._found[key]
            return
        del found[item]
        if len(found) == 1:
            (self._found[key],) = found

    def get(self, key: Key) -> Iterable[Item]:
        """What is under `key`."""
        found = self._found.get(key)
        if found is None:
            return ()
        return found if isinstance(found, dict) else (found,)

    def count(self, key: Key) -> int:
        """How many."""
        found = self._found.get(key)
        if found is None:
            return 0
        return len(found) if isinstance(found, dict) else 1
