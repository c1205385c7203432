"""Reading the log on behalf of one position: what it gets next, and where it stands then.

Functions of the position, the log and the end of the batch that the broadcast took last. Each call looks
at entries for one turn at most and makes a bounded number of bytes, so that one reader's long way back
never holds up the others.
"""

from __future__ import annotations

from typing import Final

from trionotify.delivery.audience import is_meant
from trionotify.delivery.counters import Lag
from trionotify.delivery.entry import Entry
from trionotify.delivery.log import Log, NotLoaded
from trionotify.delivery.notes import Notes
from trionotify.delivery.position import CHUNK_SIZE, Chunk, Position, join_frames
from trionotify.delivery.turns import Turn
from trionotify.model.predicates import EVERYTHING, NOTHING

__all__ = ["read_latest", "read_on", "wants"]

#: How many entries one step looks at, at most.
SCAN: Final = 512


def wants(position: Position, entry: Entry) -> bool:
    """Whether this reader, who is behind, gets this entry: predicate, audience, `echo`, `expirytime`."""
    notification = entry.notification
    if position.is_deaf_to(entry) or notification.expired:
        return False
    if position.predicate is not EVERYTHING and not position.predicate(notification):
        return False
    return is_meant(position.client, notification)


def read_on(position: Position, log: Log, taken: int) -> tuple[Chunk | None, int]:
    """The next frames behind the cursor, up to `taken`, and the offset up to which it has been read.

    Raises `Evicted` when the log no longer has what comes next, `Damaged` when that can't be read, and
    `NotLoaded` when it isn't in memory.
    """
    offset = position.cursor
    if position.predicate is NOTHING:
        return None, taken
    assert position.encode is not None  # this is for those who read bytes
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


def read_latest(position: Position, log: Log, taken: int, lag: Lag) -> tuple[Chunk | None, int]:
    """The same under the lag policy `latest`: only the newest per (`source`, `subject`), in log order.

    What it wants is noted by offset until all up to `taken` has been seen, a newer notification in
    the place of an older one of its kind; then the notes are sent, oldest first. (Or until they are
    `full`.)
    """
    if position.latest is None:
        position.latest = Notes(lag)
        position.scanned = position.cursor
    notes = position.latest
    if position.scanned < taken and not notes.full:
        _note(position, notes, log, taken)
        if position.scanned < taken and not notes.full:
            return None, position.cursor
    assert position.encode is not None  # this is for those who read bytes
    found: list[Entry] = []
    size = 0
    try:
        for offset in notes:
            (entry,) = log.read(offset - 1, 1)
            size += len(entry.frame(position.encode))
            if found and size > CHUNK_SIZE:
                break
            found.append(entry)
    except NotLoaded:
        if not found:
            raise
    for entry in found:
        notes.take(entry)
    offset = found[-1].offset if notes else position.scanned
    if not notes:
        position.latest = None
    return (join_frames(found, position.encode)[0] if found else None), offset


def _note(position: Position, notes: Notes, log: Log, taken: int) -> None:
    """Look at the next entries, at one of them at least."""
    turn = Turn()
    begun = position.scanned
    for entry in log.read(position.scanned, SCAN):
        if entry.offset > taken or notes.full or (turn.over and position.scanned > begun):
            break
        wanted = position.predicate is not NOTHING and wants(position, entry)
        # A predicate that has replaced itself begins behind this entry: not anew, or it might never end.
        position.latest = notes
        if wanted:
            notes.add(entry)
        position.scanned = entry.offset
