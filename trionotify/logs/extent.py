"""From where to where a log's file goes, as it is found when the file is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trionotify.logs.faults import damaged
from trionotify.logs.rows import COLUMNS, entry_of

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Extent", "read_extent"]


@attrs.frozen
class Extent:
    """What is kept: the offsets in (`start`, `head`].

    `total` counts the bytes of all entries that there ever were, up to `head`, `base` of those up to
    `start`, and `moment` is when the head was appended.
    """

    start: int
    head: int
    base: int
    total: int
    moment: float


def read_extent(connection: sqlite3.Connection, path: str) -> Extent:
    """What is kept, by the first row and the last, and by what the log says of itself.

    Raises StoreError when these can't be read or don't fit together. What lies between them is looked
    at when it is read: to look through all of a large file would take minutes, at each start.
    """
    found = connection.execute("SELECT head, total, moment FROM log").fetchall()
    rows = [
        *connection.execute(f"{_SELECT} ASC LIMIT 1"),
        *connection.execute(f"{_SELECT} DESC LIMIT 1"),
    ]
    try:
        ((head, total, moment),) = found
        if not rows:
            return Extent(int(head), int(head), int(total), int(total), float(moment))
        for row in rows:
            entry_of(row, ours=False)
        (first, first_moment, first_size, first_total), (last, *last_values) = (row[:4] for row in rows)
        last_moment, last_size, last_total = last_values
        in_order = (
            head < first <= last
            and moment <= first_moment <= last_moment
            and total <= first_total - first_size <= last_total - last_size
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise damaged(path, f"its first or last entry can't be read ({error})") from error
    if not in_order:
        raise damaged(path, "its first and last entries don't fit together")
    return Extent(first - 1, last, first_total - first_size, last_total, last_moment)


_SELECT = f"SELECT {', '.join(COLUMNS)} FROM entries ORDER BY offset"
