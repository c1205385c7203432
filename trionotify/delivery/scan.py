"""Reading the log for one position.

A call looks at entries for one turn at most, and makes a bounded number of bytes. So a reader that is
far behind never holds up the others.
"""

from __future__ import annotations

from trionotify.delivery.entry import Entry
from trionotify.delivery.history import wants
from trionotify.delivery.log import Log
from trionotify.delivery.position import CHUNK_SIZE, Chunk, Narrow, Position, join_frames
from trionotify.delivery.turns import Turn
from trionotify.model.predicates import NOTHING

__all__ = ["read_on"]


def read_on(position: Position, log: Log, taken: int, narrow: Narrow) -> tuple[Chunk | None, int]:
    """Return the next frames behind the cursor up to `taken`, and the offset of the last entry read.

    Raises `Evicted` if the log no longer has what comes next, `Damaged` if that can't be read, and
    `NotLoaded` if it isn't in memory.
    """
    offset = position.cursor
    if position.predicate is NOTHING:
        return None, taken
    assert position.encode is not None  # only readers of bytes come here
    found: list[Entry] = []
    size, turn = 0, Turn()
    for entry in narrow(position, log, offset, taken):
        if turn.over and offset > position.cursor:
            break
        if wants(position, entry):
            size += len(entry.frame(position.encode))
            if found and size > CHUNK_SIZE:
                break
            found.append(entry)
        offset = entry.offset
    return (join_frames(found, position.encode)[0] if found else None), offset
