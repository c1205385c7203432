"""Sets of items, most of which have one, and dicts of several items per key, where most keys have one.

A dict for every key would take a quarter of a KiB for each client. So a single item is stored by itself
or in a tuple, and only several items have a dict, in insertion order.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

__all__ = ["Bags", "Few", "with_item", "without_item"]

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item", bound=Hashable)

#: A set of items in insertion order. Change it by `with_item` and `without_item`, which return it.
Few = tuple[Item, ...] | dict[Item, None]


def with_item(items: Few[Item], item: Item) -> Few[Item]:
    """Return the items, and this one."""
    if not items:
        return (item,)
    items = items if isinstance(items, dict) else dict.fromkeys(items)
    items[item] = None
    return items


def without_item(items: Few[Item], item: Item) -> Few[Item]:
    """Return the items without this one, which is among them."""
    if not isinstance(items, dict):
        return ()
    del items[item]
    return items


class Bags(Generic[Key, Item]):
    """A map from keys to sets of items. An item must not be a dict."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[Key, Item | dict[Item, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, key: Key, item: Item) -> None:
        """Add `item` under `key`."""
        found = self._found.setdefault(key, item)
        if isinstance(found, dict):
            found[item] = None
        elif found != item:
            self._found[key] = {found: None, item: None}

    def remove(self, key: Key, item: Item) -> None:
        """Remove `item`. Raises KeyError if it isn't there."""
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
        """Return the items of `key`, in insertion order."""
        found = self._found.get(key)
        if found is None:
            return ()
        return found if isinstance(found, dict) else (found,)

    def count(self, key: Key) -> int:
        """Return the number of items of `key`."""
        found = self._found.get(key)
        if found is None:
            return 0
        return len(found) if isinstance(found, dict) else 1
