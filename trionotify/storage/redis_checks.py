"""The digests of a shared log's chain that this node knows, by offset.

A cursor of a shared log carries the digest at its offset.
"""

from __future__ import annotations

from array import array
from typing import Final

__all__ = ["Checks"]

#: Offsets in a block, and how many blocks are kept. The least recently used one is dropped first, but
#: none of those at the end of the log.
_BLOCK: Final = 1024
_BLOCKS: Final = 4096
_NEWEST: Final = 16
_UNKNOWN: Final = -1
#: Hexadecimal digits of the chain in a cursor. Two histories agree by chance once in 2^32.
_DIGITS: Final = 8


class Checks:
    """Created and used by the log alone. It takes eight bytes for each offset."""

    def __init__(self) -> None:
        self._blocks: dict[int, array[int]] = {}

    def note(self, offset: int, chain: str) -> bool:
        """Remember the chain at an offset. Return False if a different one is known there."""
        number, at = divmod(offset, _BLOCK)
        block = self._blocks.pop(number, None) or array("q", [_UNKNOWN]) * _BLOCK
        self._blocks[number] = block
        if len(self._blocks) > _BLOCKS:
            # Live readers need the newest, also while nothing is published.
            newest = max(self._blocks)
            del self._blocks[next(each for each in self._blocks if each <= newest - _NEWEST)]
        check = int(chain[:_DIGITS], 16)
        known = block[at]
        block[at] = check
        return known in (_UNKNOWN, check)

    def find(self, offset: int) -> str | None:
        """Return the digest that a cursor at this offset carries, or None if it isn't known."""
        block = self._blocks.get(offset // _BLOCK)
        if block is None or block[offset % _BLOCK] == _UNKNOWN:
            return None
        return f"x{block[offset % _BLOCK]:0{_DIGITS}x}"
