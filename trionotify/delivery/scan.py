"""Reading the log for one position.

These are functions of the position, the log and the end of the batch that the broadcast took last. Each
call looks at entries for one turn at most and makes a bounded number of bytes. So a reader that is far
behind never holds up the others.
"""

from __future__ import annotations

from typing import Final

from trionotify.delivery.audience import is_meant
from trionotify.delivery.entry import Entry
from trionotify.delivery.log import Log
from trionotify.delivery.position import CHUNK_SIZE, Chunk, Position, join_frames
from trionotify.delivery.turns import Turn
from trionotify.model.predicates import EVERYTHING, NOTHING

__all__ = ["SCAN", "read_on", "wants"]

#: The most entries that one step looks at.
SCAN: Final = 512


def wants(position: Position, entry: Entry) -> bool:
    """Return whether this reader gets this entry, by predicate, audience, `echo` and `expirytime`."""
    notification = entry.notification
    if position.is_deaf_to(entry) or notification.expired:
        return False
    if position.predicate is not EVERYTHING and not position.predicate(notification):
        return False
    return is_meant(position.client, notification)


def read_on(position: Position, log: Log, taken: int) -> tuple[Chunk | None, int]:
    """Return the next frames behind the cursor up to `taken`, and the offset of the last entry read.

    Raises `Evicted` if the log no longer has what comes next, `Damaged` if that can't be read, and
    `NotLoaded` if it isn't in memory.
    """
    offset = position.cursor
    if position.predicate is NOTHING:
        return None, taken
    assert position.encode is not None  # only readers of bytes come here
    found: list[Entry] = []
    size = 0
    turn = Turn()
    for entry in log.read(offset, SCAN):
        if entry.offset > taken or (turn.over and offset > position.cursor):
            break
        if wants(position, entry):
            size += len(entry.frame(position.encode))
            if found and size > CHUNK_SIZE:
                break
            found.append(entry)
        offset = entry.offset
    return (join_frames(found, position.encode)[0] if found else None), offset
