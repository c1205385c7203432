"""Moving the moments of entries that a wrong clock has noted.

That happens at two times. When a file is opened, some moments may be in the future, because the clock
was wrong in an earlier run. They are set to now. While it is open, the log's clock may follow the wall
clock after a jump. Then the moments that it has noted move along.

A log may have millions of entries, so this is done in steps, each in the transaction of an append or of
an eviction. Between two steps the file is as whole as ever: moments never decrease from entry to entry.
For this, moments that come down do so from the oldest on, and those that go up, from the newest. A
reader that asks for a moment meanwhile gets the moved one (`Move.moved`).
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Final

import attrs

from trionotify.storage.extent import Extent

__all__ = ["Move", "step"]

#: The most entries, and bytes, that one step moves.
STEP: Final = 1000
STEP_BYTES: Final = 16 << 20

_SIZES: Final = "SELECT offset, size FROM entries WHERE offset > ? AND offset <= ? ORDER BY offset"
_MOVE: Final = (
    "UPDATE entries SET moment = max(:floor, moment + :by),"
    " crc = moved_checksum(crc, moment, max(:floor, moment + :by))"
    " WHERE offset >= :first AND offset <= :last"
)


@attrs.frozen
class Move:
    """An incomplete move of the entries in (`after`, `upto`] by `by` seconds, not below `floor`.

    If the moments become earlier, entries appended meanwhile can't be older than the newest, so theirs
    become earlier as well.
    """

    by: float
    floor: float
    after: int
    upto: int

    @property
    def down(self) -> bool:
        """Whether the moments become earlier."""
        return self.by < 0

    def moved(self, offset: int, moment: float) -> float:
        """Return the final moment of the entry at `offset`, from its present `moment`."""
        waits = offset > self.after and (self.down or offset <= self.upto)
        return max(self.floor, moment + self.by) if waits else moment


def step(connection: sqlite3.Connection, extent: Extent, move: Move) -> tuple[Extent, Move | None]:
    """Move some moments, inside a transaction; return the new extent and the rest of the move."""
    after, upto = max(move.after, extent.start), extent.head if move.down else move.upto
    if move.down:
        # This one must not be above the first entry.
        connection.execute("UPDATE log SET moment = min(moment, ?)", (move.floor,))
    if after >= upto:
        if move.down and extent.start == extent.head:
            extent = attrs.evolve(extent, moment=min(extent.moment, move.floor))
        return extent, None
    first, last = _some(connection, after, upto, newest=not move.down)
    connection.execute(_MOVE, {"floor": move.floor, "by": move.by, "first": first, "last": last})
    if last == extent.head:
        extent = attrs.evolve(extent, moment=max(move.floor, extent.moment + move.by))
    rest = attrs.evolve(move, after=last) if move.down else attrs.evolve(move, upto=first - 1)
    return extent, None if (rest.after >= extent.head if move.down else rest.upto <= after) else rest


def _some(connection: sqlite3.Connection, after: int, upto: int, *, newest: bool) -> tuple[int, int]:
    """Return the first and the last offset of the oldest or newest entries in (`after`, `upto`]."""
    order, room = " DESC" if newest else "", STEP_BYTES
    offsets: list[int] = []
    with contextlib.closing(
        connection.execute(f"{_SIZES}{order} LIMIT ?", (after, upto, STEP))
    ) as found:
        for offset, size in found:
            room -= size
            if room < 0 and offsets:
                break
            offsets.append(int(offset))
    # A file from which rows are missing is damaged, which its readers report.
    return (min(offsets), max(offsets)) if offsets else (after + 1, upto)
