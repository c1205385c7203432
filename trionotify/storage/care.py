"""Maintenance of a log's file that no server has open: check, repair, copy.

A check leaves the file as it is. A repair writes the intact entries to another file, and puts it in the
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
from trionotify.storage.faults import FAULTS, existing, is_damage, os_fault, remove, sync_directory
from trionotify.storage.heads import Head
from trionotify.storage.lock import FileLock
from trionotify.storage.reading import damages, next_whole, read_rows
from trionotify.storage.recovery import missing, unknown_time
from trionotify.storage.rows import COLUMNS, MOMENT, SIZE, TOTAL, Row, checksum, insertion
from trionotify.storage.schema import open_database, open_to_read, transaction

__all__ = ["Repaired", "backup", "check", "repair"]

#: The most structural faults that SQLite reports.
_FAULTS: Final = 20
#: The most rows, and bytes, that are copied at a time.
_ROWS: Final = 1000
_BYTES: Final = 4 << 20


def check(path: str | os.PathLike[str]) -> list[str]:
    """Check the whole file; return a sentence for each fault.

    A copy without its lock file is complete, too. A server that opens it renews the epoch.

    Raises StoreError if it can't be read at all, or if a server has it open.
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
            # A copy may have no note.
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

    If a server has the log open, the server makes the copy.
    """
    path = os.path.realpath(path)
    try:
        ask(path, destination)
    except (OSError, AttributeError):  # some systems have no such sockets
        # No server has it. Otherwise the error of the lock names the process.
        with _owned(path), open_to_read(path) as connection:
            copy_database(connection, path, destination)


@attrs.frozen
class Repaired:
    """The result of a repair: the numbers of entries kept and lost, and the damaged file's path."""

    kept: int
    lost: int
    epoch: str
    aside: str


def repair(path: str | os.PathLike[str]) -> Repaired:
    """Keep the intact entries of the file, with a new epoch and without holes.

    Raises StoreError if nothing can be read, if there is no room, or if a server has it open;
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
            with contextlib.suppress(StoreError):
                _remove(repaired)
            raise
        aside = _put_in_place(file, repaired)
        lock.note(head, on_disk=True)
    kept = head.offset - extent.start
    return Repaired(kept, extent.head - head.offset, head.epoch, aside)


@contextlib.contextmanager
def _owned(path: str | os.PathLike[str]) -> Iterator[tuple[str, FileLock]]:
    """Lock the file in this block; yield its path without links, and the lock."""
    path = existing(path)
    lock = FileLock.take(path)
    try:
        yield path, lock
    finally:
        lock.release()


def _extent(connection: sqlite3.Connection, path: str, note: Head | None) -> Extent:
    """Return the extent of the file. If its ends can't be read, the note's head is the end."""
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
    """Write the intact rows to a new file; return its head. The log's time continues from `note`."""
    with contextlib.closing(open_database(destination)) as new:
        # Without a WAL: there is one file to put in place, and a disk that becomes full shows at the
        # commit.
        new.execute("PRAGMA journal_mode = DELETE")
        with transaction(new):
            epoch = epochs.fresh()
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
            # A reader takes long steps here, and may skip intact rows. A repair must not.
            at = _next(connection, at, extent.head)
            continue
        yield from rows
        at = rows[-1][0]


def _next(connection: sqlite3.Connection, after: int, head: int) -> int:
    """Return the offset before the next row behind `after + 1`, as far as it can be found."""
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
        # A damaged index has let in a repetition. Both entries were delivered, so both stay.
        publisher = COLUMNS.index("publisher")
        content = (*content[:publisher], None, *content[publisher + 1 :])
        new.execute(insertion(1), (*content, checksum(content)))


def _put_in_place(path: str, repaired: str) -> str:
    """Rename the damaged file, and give its name to the new one. Return the damaged file's new name."""
    number, aside = 1, path + "-damaged"
    while os.path.exists(aside):
        number, aside = number + 1, f"{path}-damaged-{number + 1}"
    remove(path + "-shm")  # first of all, because this may fail
    try:
        if os.path.exists(path + "-wal"):
            _give_name(path + "-wal", aside + "-wal")
        _give_name(path, aside)
        sync_directory(path)
        # The new one must never stand beside the old one's WAL, which SQLite would apply to it.
        remove(path + "-wal")
        os.replace(repaired, path)
        sync_directory(path)
    except OSError as error:
        raise os_fault(path, error) from error
    return aside


def _take_after(path: str, repaired: str) -> None:
    """Copy the old file's owner and permissions to the new one. Raises StoreError."""
    try:
        shutil.copymode(path, repaired)
        if os.name == "posix":
            found = os.stat(path)
            os.chown(repaired, found.st_uid, found.st_gid)
    except OSError as error:
        raise os_fault(repaired, error) from error


def _give_name(path: str, other: str) -> None:
    """Give a file a second name, or rename it if hard links aren't possible.

    A rename leaves a moment without the file, in which a server would create an empty log.
    """
    try:
        os.link(path, other)
    except OSError:
        os.rename(path, other)  # some file systems have one name for each file


def _remove(path: str) -> None:
    for name in (path, path + "-wal", path + "-shm", path + "-journal"):
        remove(name)
