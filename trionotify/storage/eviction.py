"""Eviction of the oldest entries, in the transaction of an append.

Every row has the running total of bytes up to and including it, so what is held is one subtraction, and
the oldest row alone says whether any must go. Whether the rows that go are damaged is not looked at,
because that would take reading all of them. So what such a row says of itself is believed only as far
as it can be.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Final

import attrs

from trionotify.storage.extent import Extent

if TYPE_CHECKING:
    import sqlite3

    from trionotify.storage.moments import Move

__all__ = ["Limits", "evict"]

#: The most entries, and bytes, that one call evicts, besides as much as was appended. So no call
#: takes long, and a backlog (the limits were lowered between two runs) is gone after a while.
STEP: Final = 1000
STEP_BYTES: Final = 16 << 20

_OLDEST: Final = (
    "SELECT offset, ifnull(CAST(moment AS REAL), 0), ifnull(CAST(size AS INTEGER), 0),"
    " ifnull(CAST(total AS INTEGER), 0)"
    " FROM entries WHERE offset > ? AND offset <= ? ORDER BY offset LIMIT ?"
)


@attrs.frozen
class Limits:
    """The most entries that a log keeps, their bytes (`Entry.size`), and their age in seconds."""

    max_entries: int
    max_bytes: int
    max_age: float


def evict(
    connection: sqlite3.Connection,
    limits: Limits,
    before: Extent,
    extent: Extent,
    *,
    upto: int,
    now: float,
    move: Move | None,
) -> Extent:
    """Delete entries over the limits, none behind the offset `upto`; return the new extent.

    `before` is the extent before the append, and `extent` after it. Some moments may still have to be
    moved.
    """
    count = STEP + extent.head - before.head
    room = STEP_BYTES + extent.total - before.total
    # The rows from there on fit.
    offset_fits = extent.head - limits.max_entries + 1
    base_fits = extent.total - limits.max_bytes
    moment_fits = now - limits.max_age
    start, base, moment = extent.start, extent.base, -math.inf
    with contextlib.closing(connection.execute(_OLDEST, (start, upto, count))) as oldest:
        for offset, noted, size, total in oldest:
            # An impossible value is from a damaged row, which goes with the one before.
            if noted <= extent.moment:
                moment = move.moved(offset, noted) if move else noted
            begin = base
            if total != begin + size or not begin <= total <= extent.total:
                total = min(max(begin, total), extent.total)  # noqa: PLW2901 - what it is taken for
                begin = total - min(max(0, size), total - begin)
            if room < 0 or (offset >= offset_fits and begin >= base_fits and moment >= moment_fits):
                break
            room -= total - base
            start, base = int(offset), total
    if start == extent.start:
        return extent
    connection.execute("DELETE FROM entries WHERE offset <= ?", (start,))
    if start == extent.head:
        # No row is left that has the log's head.
        connection.execute(
            "UPDATE log SET head = ?, total = ?, moment = ?", (extent.head, extent.total, extent.moment)
        )
    return Extent(start, extent.head, base, extent.total, extent.moment)
