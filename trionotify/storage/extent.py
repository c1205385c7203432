"""The extent of a log's file, as it is found when the file is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from trionotify.storage.faults import damaged
from trionotify.storage.reading import next_whole
from trionotify.storage.rows import MOMENT, SIZE, TOTAL

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Extent", "read_extent"]


@attrs.frozen
class Extent:
    """The extent of a log, which keeps the offsets in (`start`, `head`].

    `total` counts the bytes of all entries that there ever were, up to `head`, `base` of those up to
    `start`, and `moment` is when the head was appended.
    """

    start: int
    head: int
    base: int
    total: int
    moment: float


def read_extent(connection: sqlite3.Connection, path: str) -> Extent:
    """Read the extent from the first and the last intact row, and from the log's own row.

    Damaged rows at the ends count as kept, but their bytes don't. Raises StoreError if the
    ends can't be found or don't fit together. The rows between them are checked when they are read,
    because checking all of a large file would take minutes, at each start.
    """
    found = connection.execute("SELECT head, total, moment FROM log").fetchall()
    ends = connection.execute(_ENDS).fetchone()
    try:
        ((head, total, moment),) = found
        head, total, moment = int(head), int(total), float(moment)
    except (TypeError, ValueError) as error:
        raise damaged(path, f"its table `log` can't be read ({error})") from error
    if ends[0] is None:
        return Extent(head, head, total, total, moment)
    first, last = (int(end) for end in ends)
    if not head < first <= last:
        raise damaged(path, "its first and last entries don't match")

    oldest = next_whole(connection, first, last)
    newest = next_whole(connection, last, first)
    if oldest is None or newest is None:
        return Extent(first - 1, last, total, total, moment)
    base = oldest[TOTAL] - oldest[SIZE]
    if not (total <= base <= newest[TOTAL] and moment <= oldest[MOMENT] <= newest[MOMENT]):
        raise damaged(path, "its first and last entries don't match")
    return Extent(first - 1, last, base, newest[TOTAL], newest[MOMENT])


_ENDS: Final = "SELECT (SELECT min(offset) FROM entries), (SELECT max(offset) FROM entries)"
