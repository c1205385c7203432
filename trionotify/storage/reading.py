"""Reading the intact rows of a log's file.

Each row has a checksum, and offsets have no holes. So a row that was changed is noticed when it is
read, and so is one that is missing, or that SQLite can't get at because the page that holds it, or one
on the way to that page, is damaged. Nothing of such rows is served. The rows after them are.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from trionotify.delivery.log import Damaged
from trionotify.storage.faults import FAULTS, is_damage
from trionotify.storage.rows import NAMES, SIZE, Row, is_whole

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

__all__ = ["damages", "next_whole", "read_rows", "whole_row"]

_ROW: Final = f"SELECT {NAMES} FROM entries WHERE offset = ?"
_READ: Final = f"SELECT {NAMES} FROM entries WHERE offset > ? ORDER BY offset LIMIT ?"
#: The most rows, and bytes, that a full check reads at a time.
_SCAN: Final = 1000
_SCAN_BYTES: Final = 4 << 20
#: The number of offsets tried one by one before larger steps.
_ONE_BY_ONE: Final = 64


def read_rows(
    connection: sqlite3.Connection, after: int, head: int, limit: int, max_bytes: int
) -> list[Row]:
    """Return at least one and at most `limit` rows after the offset `after`, which is below `head`.

    They have at most `max_bytes` bytes together, except for the first one. Ends before a damaged row.
    Raises `Damaged` if that is the first one, and what sqlite3 raises, except for damage.
    """
    rows: list[Row] = []
    try:
        with contextlib.closing(connection.execute(_READ, (after, limit))) as found:
            for offset, row in enumerate(found, after + 1):
                if row[0] != offset or not is_whole(row):
                    break
                max_bytes -= row[SIZE]
                if max_bytes < 0 and rows:
                    break
                rows.append(row)
    except FAULTS as error:
        if not is_damage(error):
            raise
    if not rows:
        # The module reads one row ahead, so the first one may be intact, and the second not.
        whole = next_whole(connection, after + 1, head)
        if whole is None or whole[0] > after + 1:
            raise Damaged(after, head if whole is None else whole[0] - 1)
        rows.append(whole)
    return rows


def damages(connection: sqlite3.Connection, start: int, head: int) -> Iterator[tuple[int, int]]:
    """Check all rows in (`start`, `head`]. Yield each stretch (after, upto] that is damaged.

    Takes long. Raises what sqlite3 raises, except for damage.
    """
    while start < head:
        try:
            start = read_rows(connection, start, head, _SCAN, _SCAN_BYTES)[-1][0]
        except Damaged as damage:
            yield damage.after, damage.upto
            start = damage.upto


def next_whole(connection: sqlite3.Connection, begin: int, end: int) -> Row | None:
    """Return the first intact row from `begin` to `end`, both included, in either direction.

    It looks at some offsets one by one, and then takes longer and longer steps. So a stretch of damage
    of any length costs little, but intact rows between two stretches may be skipped. None if there
    is none.
    """
    way, count = (1, end - begin + 1) if begin <= end else (-1, begin - end + 1)
    for at in range(min(_ONE_BY_ONE, count)):
        if (row := whole_row(connection, begin + way * at)) is not None:
            return row
    bad, step = _ONE_BY_ONE - 1, _ONE_BY_ONE
    row = None
    while row is None:
        found = min(bad + step, count - 1)
        if found <= bad:
            return None
        row = whole_row(connection, begin + way * found)
        if row is None:
            bad, step = found, 2 * step
    while found - bad > 1:
        middle = (bad + found) // 2
        nearer = whole_row(connection, begin + way * middle)
        if nearer is None:
            bad = middle
        else:
            row, found = nearer, middle
    return row


def whole_row(connection: sqlite3.Connection, offset: int) -> Row | None:
    """Return the row at `offset`; None if it is missing or damaged.

    Raises what sqlite3 raises, except for damage.
    """
    try:
        row = connection.execute(_ROW, (offset,)).fetchone()
    except FAULTS as error:
        if is_damage(error):
            return None
        raise
    return row if row is not None and row[0] == offset and is_whole(row) else None
