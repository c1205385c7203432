"""What is made of a log's file when it is opened: what it keeps, and whether anything of it was lost.

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

#: How far a file may be ahead of its note: by what is committed together, and by far.
_AHEAD: Final = 1 << 20


@attrs.frozen
class Recovered:
    """A file as it was found."""

    epoch: str
    extent: Extent
    #: What the last owner has noted, if that is of this file.
    note: Head | None
    #: Why the epoch is a new one, in words; None if it isn't.
    renewed: str | None
    #: The machine's boot, if that has a name.
    boot: str | None

    @property
    def doubtful(self) -> bool:
        """Whether the disk had failed, so that all of the file is to be looked through."""
        return self.note is not None and self.note.doubtful

    @property
    def same_boot(self) -> bool:
        """Whether the machine has been up since the note was made."""
        return self.note is not None and self.boot is not None and self.note.boot == self.boot

    @property
    def timed_from(self) -> int:
        """Moments behind this offset were noted by the clock that goes on."""
        return self.note.timed_from if self.note is not None and self.same_boot else self.extent.head


def recover(database: Database, durability: Durability) -> Recovered:
    """Look at the file, and write down who has it from now on. Raises StoreError.

    A file that is damaged so that it can't be used stays as it is.
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
    """Raise StoreError if the last offset can't be right: nothing would have a place behind it."""
    if extent.head > extent.start and whole_row(connection, extent.head) is None:
        raise damaged(path, f"its last offset is {extent.head}, and {note.offset} was noted")


def _has_note(connection: sqlite3.Connection) -> bool:
    """Whether the lock file has ever had a note.

    It hasn't when the file was made just now, or is of an earlier version. Whoever made it may have been
    killed before the first note: then no offset was given out either.
    """
    return bool(connection.execute("SELECT noted FROM log").fetchone()[0])


def missing(epoch: str, extent: Extent, note: Head | None, *, expected: bool) -> str | None:
    """What of a file was lost, in words, as far as its note shows it; None if nothing was.

    Whether a note is `expected`: a file that never had one lacks nothing.
    """
    if note is None and not expected:
        return None
    if note is None:
        return "the note of how far it goes, in the file -lock beside it, is missing or damaged"
    if note.epoch != epoch:
        other = "it isn't the file that the note in the file -lock beside it speaks of"
        return other if expected else "it was missing, and a new one was made"
    if note.offset > extent.head:
        return f"it ends at the offset {extent.head}, and went to {note.offset}"
    if note.offset == extent.head and note.total != extent.total and extent.head > extent.start:
        return f"its entry at the offset {extent.head} is not the one that was there"
    return None


def clock_of(found: Recovered) -> LogClock:
    """The log's clock, which goes on where the last process has left it."""
    clock, note = LogClock(), found.note
    if note is not None and found.same_boot:
        clock.resume(note.moment, steady() - note.steady, exact=True)
    elif found.extent.head:
        last = found.extent.moment if note is None else note.moment
        clock.resume(last, 0.0 if note is None else passed(found, note), exact=False)
    return clock


def passed(found: Recovered, note: Head) -> float:
    """How many seconds, at the least, have passed since a note that may be of another boot."""
    now = steady()
    if note.steady > now or (note.boot and found.boot):
        return now  # it is of another boot, and this one has been up for so long
    return now - note.steady


def new_epoch(path: str | os.PathLike[str]) -> str:
    """Give the log at `path` a new epoch, and return it: to be done when a snapshot of all its files was
    put in their place.

    Otherwise clients that saw more than the snapshot has would take others' notifications for those.
    What is in the file stays there. Raises StoreError when there is no such file, when it isn't ours
    or is damaged, and while a server has it.
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
    """A note for a file without one, whose newest entry is of `moment`.

    It names no boot, because nobody knows how long ago that was.
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
    """Remove what was refused because the disk failed, and is there all the same."""
    with database.writing() as connection:
        connection.execute("DELETE FROM entries WHERE offset > ?", (offset,))
        if extent.start >= offset:
            connection.execute("UPDATE log SET head = ?", (offset,))
        return read_extent(connection, database.path)
