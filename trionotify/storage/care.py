"""Maintenance of a log's file while no server has it: check, repair, copy.

A check leaves the file as it is. A repair writes another file of what is whole, and puts it in the
place of the damaged one, which keeps its content under another name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from typing import Final

import attrs

from trionotify.delivery.log import Damaged
from trionotify.errors import StoreError
from trionotify.storage import epochs
from trionotify.storage.control import ask
from trionotify.storage.copying import copy_database
from trionotify.storage.extent import Extent, read_extent
from trionotify.storage.faults import FAULTS, existing, is_damage, os_fault, sync_directory
from trionotify.storage.heads import Head
from trionotify.storage.lock import FileLock
from trionotify.storage.reading import damages, next_whole, read_rows
from trionotify.storage.recovery import missing, unknown_time
from trionotify.storage.rows import COLUMNS, MOMENT, SIZE, TOTAL, Row, checksum, insertion
from trionotify.storage.schema import open_database, open_to_read, transaction

__all__ = ["Repaired", "backup", "check", "repair"]

#: How many faults of its structure SQLite names at most.
_FAULTS: Final = 20
#: What is copied at once: rows, and their bytes.
_ROWS: Final = 1000
_BYTES: Final = 4 << 20


def check(path: str | os.PathLike[str]) -> list[str]:
    """Look through all of the file; return a sentence for each fault, none if it is whole.

    A copy without its lock file is whole, too: a server that opens it renews the epoch.

    Raises StoreError when it can't be read at all, and while a server has it.
    """
    with _owned(path) as (file, lock), open_to_read(file) as connection:
        faults = [
            f"structure: {line}"
            for (text,) in _structure(connection)
            for line in text.splitlines()
            if line != "ok" and not line.startswith("***")
        ]
        try:
            extent = read_extent(connection, file)
            # A copy may well be without a note.
            lost = missing(
                epochs.epoch_of(connection), extent, lock.noted(), expected=lock.has_damaged_note()
            )
        except FAULTS as error:
            return [*faults, str(error)]
        except StoreError as error:
            return [*faults, error.detail]
        if lost is not None:
            faults.append(f"lost: {lost}")
        for after, upto in damages(connection, extent.start, extent.head):
            faults.append(f"damaged: offsets {after + 1} to {upto}")
        return faults


def _structure(connection: sqlite3.Connection) -> list[tuple[str]]:
    try:
        return connection.execute(f"PRAGMA integrity_check({_FAULTS})").fetchall()
    except FAULTS as error:
        if not is_damage(error):
            raise
        return [(str(error),)]


def backup(path: str | os.PathLike[str], destination: str) -> None:
    """Copy the log to the file `destination`, which is replaced. Raises StoreError.

    A server that has the log is asked to do it.
    """
    path = os.path.realpath(path)
    try:
        ask(path, destination)
    except OSError:
        # No server has it; or else the lock is held, and says by whom.
        with _owned(path), open_to_read(path) as connection:
            copy_database(connection, destination)


@attrs.frozen
class Repaired:
    """What became of a file: how many entries it has and has lost, and where the damaged one is."""

    kept: int
    lost: int
    epoch: str
    aside: str


def repair(path: str | os.PathLike[str]) -> Repaired:
    """Keep what is whole of the file, with a new epoch and without holes.

    Raises StoreError when nothing of it can be read, when there is no room, and while a server has it;
    then it stays as it is.
    """
    with _owned(path) as (file, lock):
        repaired = file + "-repaired"
        _remove(repaired)
        try:
            with open_to_read(file) as connection:
                extent = _extent(connection, file, lock.noted())
                head = _rewrite(connection, extent, repaired, lock.noted())
            _take_after(file, repaired)
        except BaseException:
            _remove(repaired)
            raise
        aside = _put_in_place(file, repaired)
        lock.note(head, on_disk=True)
    kept = head.offset - extent.start
    return Repaired(kept, extent.head - head.offset, head.epoch, aside)


@contextlib.contextmanager
def _owned(path: str | os.PathLike[str]) -> Iterator[tuple[str, FileLock]]:
    """The path without links, and its lock, while no server has the file."""
    path = existing(path)
    lock = FileLock.take(path)
    try:
        yield path, lock
    finally:
        lock.release()


def _extent(connection: sqlite3.Connection, path: str, note: Head | None) -> Extent:
    """From where to where there may be rows; where the ends can't be read, by the note."""
    try:
        return read_extent(connection, path)
    except (StoreError, *FAULTS):
        head = 0 if note is None else note.offset
        first = next_whole(connection, 1, head) if head else None
        if first is None:
            raise
        return Extent(first[0] - 1, head, 0, 0, 0.0)


def _rewrite(
    connection: sqlite3.Connection, extent: Extent, destination: str, note: Head | None
) -> Head:
    """Write what is whole to a new file; return its head. The log's time goes on as in `note`."""
    new = open_database(destination)
    epoch = epochs.fresh()
    # Without a WAL: there is one file to put in place, and a disk that becomes full shows at the commit.
    new.execute("PRAGMA journal_mode = DELETE")
    with contextlib.closing(new), transaction(new):
        offset, total, moment = extent.start, extent.base, 0.0
        for row in _whole_rows(connection, extent):
            offset += 1
            total += row[SIZE]
            moment = max(moment, row[MOMENT])
            _insert(new, (offset, row[SIZE], total, *row[TOTAL + 1 : MOMENT], moment))
        new.execute(
            "UPDATE log SET epoch = ?, head = ?, total = ?, moment = ?",
            (epoch, extent.start, extent.base, 0.0),
        )
    return attrs.evolve(
        note or unknown_time(moment),
        epoch=epoch,
        offset=offset,
        total=total,
        timed_from=offset,
        doubtful=False,
    )


def _whole_rows(connection: sqlite3.Connection, extent: Extent) -> Iterator[Row]:
    at = extent.start
    while at < extent.head:
        try:
            rows = read_rows(connection, at, extent.head, min(_ROWS, extent.head - at), _BYTES)
        except Damaged:
            # A reader takes long steps here, and may pass over rows that are whole. A repair must not.
            at = _next(connection, at, extent.head)
            continue
        yield from rows
        at = rows[-1][0]


def _next(connection: sqlite3.Connection, after: int, head: int) -> int:
    """The offset in front of the next row behind `after + 1`, as far as that can be found out."""
    try:
        (found,) = connection.execute(_FIRST, (after + 1,)).fetchone()
    except FAULTS as error:
        if not is_damage(error):
            raise
        return after + 1
    return head if found is None else int(found) - 1


_FIRST: Final = "SELECT min(offset) FROM entries WHERE offset > ?"


def _insert(new: sqlite3.Connection, content: Row) -> None:
    try:
        new.execute(insertion(1), (*content, checksum(content)))
    except sqlite3.IntegrityError:
        # The index was damaged, and let in a repetition. Both were given out: both stay.
        publisher = COLUMNS.index("publisher")
        content = (*content[:publisher], None, *content[publisher + 1 :])
        new.execute(insertion(1), (*content, checksum(content)))


def _put_in_place(path: str, repaired: str) -> str:
    """Give the damaged file another name, which is returned, and its own name to the new one."""
    number, aside = 1, path + "-damaged"
    while os.path.exists(aside):
        number, aside = number + 1, f"{path}-damaged-{number + 1}"
    try:
        if os.path.exists(path + "-wal"):
            _give_name(path + "-wal", aside + "-wal")
        _give_name(path, aside)
        sync_directory(path)
        # The new one must never stand beside the old one's WAL, which SQLite would apply to it.
        for name in (path + "-wal", path + "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        os.replace(repaired, path)
        sync_directory(path)
    except OSError as error:
        raise os_fault(path, error) from error
    return aside


def _take_after(path: str, repaired: str) -> None:
    """Let the same users read and write the new file. Raises StoreError."""
    try:
        shutil.copymode(path, repaired)
        if os.name == "posix":
            found = os.stat(path)
            os.chown(repaired, found.st_uid, found.st_gid)
    except OSError as error:
        raise os_fault(repaired, error) from error


def _give_name(path: str, other: str) -> None:
    """Give a file another name, and let it keep its own where that is possible.

    If this process is killed, a server would make an empty log where there is none.
    """
    try:
        os.link(path, other)
    except OSError:
        os.rename(path, other)  # some file systems have one name for each file


def _remove(path: str) -> None:
    for name in (path, path + "-wal", path + "-shm", path + "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
