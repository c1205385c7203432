"""Opening a log's file, and detecting whether it has lost anything.

Offsets that were given out must never be given again under the same epoch. So the epoch is renewed when
the file can't be shown to have them all:

* it doesn't reach as far as its note says, or isn't the file that the note speaks of (`heads`): the WAL
  was damaged, the disk has lied, or a backup was put in its place;
* it was written without waiting for the disk, and the machine lost its power (`epochs`).

A file that turns out to be another one than it should be may also be damaged within, in ways that would
destroy what is written next. Then, and only then, SQLite checks its structure, which may take minutes.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Final

import attrs

from trionotify.storage import epochs
from trionotify.storage.clock import LogClock, steady
from trionotify.storage.database import Database
from trionotify.storage.epochs import Durability
from trionotify.storage.extent import Extent, read_extent
from trionotify.storage.faults import damaged, existing
from trionotify.storage.heads import Head
from trionotify.storage.reading import whole_row

__all__ = ["Recovered", "clock_of", "missing", "new_epoch", "passed", "recover", "unknown_time"]

#: The most offsets by which a file may be ahead of its note, far more than one commit.
_AHEAD: Final = 1 << 20


@attrs.frozen
class Recovered:
    """The state of a file when it was opened."""

    epoch: str
    extent: Extent
    #: The note of the last owner, if it is about this file.
    note: Head | None
    #: Why the epoch is a new one, in words; None if it isn't.
    renewed: str | None
    #: The id of the machine's boot; None if it is unknown.
    boot: str | None

    @property
    def doubtful(self) -> bool:
        """Whether the disk had failed, so that the whole file must be checked."""
        return self.note is not None and self.note.doubtful

    @property
    def same_boot(self) -> bool:
        """Whether the machine has been up since the note was made."""
        return self.note is not None and self.boot is not None and self.note.boot == self.boot

    @property
    def timed_from(self) -> int:
        """The offset behind which moments were noted by the clock that continues."""
        return self.note.timed_from if self.note is not None and self.same_boot else self.extent.head


def recover(database: Database, durability: Durability) -> Recovered:
    """Check the file, and record this process as its owner. Raises StoreError.

    A file that is too damaged to use stays as it is.
    """
    note = database.noted()
    with database.reading() as connection:
        extent = read_extent(connection, database.path)
        epoch, has_note = epochs.epoch_of(connection), _has_note(connection)
        if note is not None and extent.head > note.offset + _AHEAD:
            _check_last(connection, database.path, extent, note)
    lost = missing(epoch, extent, note, expected=has_note or database.has_damaged_note())
    if lost is not None or (note is not None and note.doubtful):
        _check_structure(database)
    if lost is None and note is not None and note.doubtful and extent.head > note.offset:
        extent = _take_back(database, extent, note.offset)
    boot = epochs.boot_id()
    epoch, renewed = epochs.begin(database, durability, boot, lost)
    if not has_note:
        database.note_first(_head(unknown_time(extent.moment), epoch, extent))
    return Recovered(epoch, extent, note if renewed is None else None, renewed, boot)


def _check_last(connection: sqlite3.Connection, path: str, extent: Extent, note: Head) -> None:
    """Raise StoreError if the last offset is so high that no offset could follow it."""
    if extent.head > extent.start and whole_row(connection, extent.head) is None:
        raise damaged(path, f"its last offset is {extent.head}, but its note says {note.offset}")


def _has_note(connection: sqlite3.Connection) -> bool:
    """Return whether the lock file has ever had a note.

    There is none if the file is new or of an earlier version. If the process that created it was killed
    before the first note, no offset was given out either.
    """
    return bool(connection.execute("SELECT noted FROM log").fetchone()[0])


def missing(epoch: str, extent: Extent, note: Head | None, *, expected: bool) -> str | None:
    """Return the loss that the note shows, in words; None if nothing is missing.

    With `expected`, a missing note is a loss. A file that never had a note has lost nothing.
    """
    if note is None and not expected:
        return None
    if note is None:
        return "the note of its last offset, in the -lock file beside it, is missing or damaged"
    if note.epoch != epoch:
        other = "it is not the file that the note in the -lock file beside it describes"
        return other if expected else "it was missing, and a new one was created"
    if note.offset > extent.head:
        return f"it ends at offset {extent.head}, but had reached {note.offset}"
    if note.offset == extent.head and note.total != extent.total and extent.head > extent.start:
        return f"its entry at offset {extent.head} is not the one that was there"
    return None


def clock_of(found: Recovered) -> LogClock:
    """Return the log's clock, which continues where the last process stopped."""
    clock, note = LogClock(), found.note
    if note is not None and found.same_boot:
        past = steady() - note.steady
        clock.resume(note.moment, past, exact=True, unconfirmed=note.unconfirmed)
    elif found.extent.head:
        note = note or unknown_time(found.extent.moment)
        clock.resume(note.moment, passed(found, note), exact=False, unconfirmed=note.unconfirmed)
    return clock


def passed(found: Recovered, note: Head) -> float:
    """Return the least number of seconds since a note, which may be from another boot."""
    now = steady()
    if note.steady > now or (note.boot and found.boot):
        return now  # it is of another boot, and this one has been up for so long
    return now - note.steady


def new_epoch(path: str | os.PathLike[str]) -> str:
    """Give the log at `path` a new epoch, and return it.

    Do this after a snapshot of all its files was restored.

    Otherwise clients that got more than the snapshot has would mistake new notifications for old ones.
    The entries stay. Raises StoreError if there is no such file, if it isn't a log or is
    damaged, or if a server has it open.
    """
    path = existing(path)
    database = Database.open(path)
    try:
        with database.reading() as connection:
            extent = read_extent(connection, path)
            before = epochs.epoch_of(connection)
        note = database.noted()
        if note is None or note.epoch != before:
            note = unknown_time(extent.moment)
        epoch = epochs.renew(database)
        database.note_first(_head(note, epoch, extent))
    finally:
        database.close()
    return epoch


def unknown_time(moment: float) -> Head:
    """Return a note for a file without one, whose newest entry has this `moment`.

    It names no boot, because it is unknown how long ago that was.
    """
    return Head("", 0, 0, moment, steady(), "")


def _head(note: Head, epoch: str, extent: Extent) -> Head:
    return attrs.evolve(note, epoch=epoch, offset=extent.head, total=extent.total)


def _check_structure(database: Database) -> None:
    with database.reading() as connection:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise damaged(database.path, str(found).replace("\n", " "))


def _take_back(database: Database, extent: Extent, offset: int) -> Extent:
    """Remove entries that were refused because the disk failed, but were stored."""
    with database.writing() as connection:
        connection.execute("DELETE FROM entries WHERE offset > ?", (offset,))
        if extent.start >= offset:
            connection.execute("UPDATE log SET head = ?", (offset,))
        return read_extent(connection, database.path)
