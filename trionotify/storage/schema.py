"""The file of a durable log: its mark, its tables, and the migration of old versions.

An SQLite database in WAL mode, so that a commit appends to one file and waits for the disk once. (Other
programs must not open it while a server has it, unless SQLite is new enough: see `sharing`.) It has two
tables. `entries` has a row for each entry that is kept, their offsets without a hole; `log` has one row,
on the log as a whole.

A file is never overwritten or removed. A foreign file, or one of a newer version, is refused and left as
it is.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trionotify.errors import StoreError
from trionotify.storage.faults import (
    FAULTS,
    check_access,
    damaged,
    not_a_database,
    os_fault,
    store_fault,
)
from trionotify.storage.rows import COLUMNS, checksum, moved_checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["APPLICATION_ID", "MIGRATIONS", "open_database", "open_to_read", "transaction"]

#: The mark of a log's file, in the database header.
APPLICATION_ID: Final = int.from_bytes(b"tnfy", "big")

#: Seconds to wait for another program that writes or checkpoints.
_BUSY_TIMEOUT: Final = 5.0


def _version_1(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    # `clean` means that it was closed in good order. `durability` and `boot` are those of the server
    # that had it last. `head`, `total` and `moment` are those of the last entry that there was when
    # there was none any more.
    db.execute(
        """
        CREATE TABLE log (
            epoch TEXT NOT NULL,
            clean INTEGER NOT NULL,
            durability TEXT NOT NULL,
            boot TEXT,
            head INTEGER NOT NULL,
            total INTEGER NOT NULL,
            moment REAL NOT NULL,
            checks INTEGER NOT NULL
        )
        """
    )
    db.execute("INSERT INTO log VALUES (?, 1, 'full', NULL, 0, 0, 0.0, 0)", (secrets.token_hex(6),))
    # `moment` is in seconds since 1970, and never decreases; nor does `total`, the bytes of all
    # entries up to and including this one. Columns without a type keep what is put into them.
    db.execute(
        """
        CREATE TABLE entries (
            offset INTEGER PRIMARY KEY,
            moment REAL NOT NULL,
            size INTEGER NOT NULL,
            total INTEGER NOT NULL,
            origin INTEGER,
            publisher TEXT,
            id TEXT NOT NULL,
            given INTEGER NOT NULL,
            source TEXT NOT NULL,
            type TEXT NOT NULL,
            time NOT NULL,
            subject TEXT,
            datacontenttype TEXT,
            audience TEXT,
            extensions TEXT,
            data
        )
        """
    )
    db.execute(
        """
        CREATE UNIQUE INDEX repetitions ON entries (id, source, publisher)
        WHERE publisher IS NOT NULL
        """
    )


def _version_2(db: sqlite3.Connection) -> None:
    # Whether there has been a note of the head in the lock file.
    db.execute("ALTER TABLE log ADD COLUMN noted INTEGER NOT NULL DEFAULT 0")
    # A checksum for each row. This reads and writes all of the file once.
    db.execute("ALTER TABLE entries ADD COLUMN crc INTEGER")
    _define_checksum(db)
    db.execute(f"UPDATE entries SET crc = checksum({_SUMMED})")


#: Step n makes a file of version n one of version n + 1, inside a transaction; version 0 is empty.
MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_version_1, _version_2)


def open_database(path: str) -> sqlite3.Connection:
    """Open or create the file at `path`, and bring its tables up to date.

    Every commit is on the disk when it returns (`synchronous=FULL`). Raises StoreError, and leaves a
    file that isn't a log as it was.
    """
    size, has_wal = _size(path), _has_wal(path)
    try:
        with contextlib.ExitStack() as undo:
            db = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            undo.callback(db.close)
            if not _is_new(db, path):
                _check_owner(db, path)
                # A last page in part is also what a crash leaves; but then the WAL has it whole.
                if size % _pragma(db, "page_size") and not has_wal:
                    raise damaged(path, "its end was cut off")
            _set_up(db, path)
            if _pragma(db, "user_version") < len(MIGRATIONS):
                _migrate(db)
                # So that damage to the WAL can't remove the tables.
                db.execute("PRAGMA wal_checkpoint")
            undo.pop_all()
    except FAULTS as error:
        raise store_fault(path, error) from error
    return db


@contextlib.contextmanager
def open_to_read(path: str) -> Iterator[sqlite3.Connection]:
    """Open the file at `path` for reading only, in this block.

    Raises StoreError, also for faults of the file in the block.
    """
    if not _size(path):
        raise StoreError(503, f"{path}: does not exist; name the file of a log")
    try:
        # Without a WAL there is nothing to share, so SQLite leaves no files for that behind.
        mode = "mode=ro" if _has_wal(path) else "immutable=1"
        with contextlib.closing(sqlite3.connect(f"{Path(path).as_uri()}?{mode}", uri=True)) as db:
            _check_owner(db, path)
            if _pragma(db, "user_version") == 1:
                _add_checksums(db)
            yield db
    except FAULTS as error:
        raise store_fault(path, error) from error


def _add_checksums(db: sqlite3.Connection) -> None:
    """Give a file of the first version a column of checksums, for this connection only.

    The file may be too damaged to be migrated.
    """
    _define_checksum(db)
    view = f"SELECT {_SUMMED}, checksum({_SUMMED}) AS crc FROM main.entries"
    db.execute(f"CREATE TEMP VIEW entries AS {view}")


def _define_checksum(db: sqlite3.Connection) -> None:
    db.create_function("checksum", len(COLUMNS) - 1, _checksum)


#: The columns of a row's checksum.
_SUMMED: Final = ", ".join(COLUMNS[:-1])


def _checksum(*row: Any) -> int | None:
    try:
        return checksum(row)
    except (TypeError, ValueError, OverflowError):
        return None  # of a damaged row


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Run the block in a transaction. Its end commits, and any exception rolls back."""
    _roll_back(db)
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error, MemoryError):
            _roll_back(db)
        raise


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")


def _size(path: str) -> int:
    """Return a file's size in bytes, 0 if it is missing. Raises StoreError if it can't be a log."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(503, f"{path}: not a file; name a file")
        check_access(path)  # SQLite would open it for reading only, and leave files behind
        size = found.st_size
    except FileNotFoundError:
        size = 0
    except OSError as error:
        raise os_fault(path, error) from error
    if size == 0 and _has_wal(path):
        # SQLite would remove it, with entries that aren't in the database yet.
        raise StoreError(
            503, f"{path}: missing, but {path}-wal exists; put {path} back, or move {path}-wal away, too"
        )
    return size


def _has_wal(path: str) -> bool:
    try:
        return os.path.getsize(path + "-wal") > 0
    except OSError:
        return False


def _is_new(db: sqlite3.Connection, path: str) -> bool:
    """Return whether the file has no bytes, or is a database without tables."""
    # Before SQLite counts pages, it rolls back what a crash has left half done, perhaps everything.
    if not _pragma(db, "page_count") and _size(path) > 0:
        raise not_a_database(path)
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return not (tables or _pragma(db, "application_id") or _pragma(db, "user_version"))


def _check_owner(db: sqlite3.Connection, path: str) -> None:
    if _pragma(db, "application_id") != APPLICATION_ID:
        raise StoreError(
            503,
            f"{path}: the database of another application; name another path; the file is left as it is",
        )
    version, newest = _pragma(db, "user_version"), len(MIGRATIONS)
    if version < 1:
        raise damaged(path, f"its version is {version}, which never existed")
    if version > newest:
        raise StoreError(
            503,
            f"{path}: has version {version}, but this trionotify reads at most {newest}; upgrade"
            " trionotify, or name another path",
        )


def _set_up(db: sqlite3.Connection, path: str) -> None:
    if (mode := _pragma(db, "journal_mode = WAL")) != "wal":
        raise StoreError(
            503,
            f"{path}: SQLite's WAL mode is not possible there (it says {mode!r}); name a path on a"
            " local file system",
        )
    for setting in _SETTINGS:
        db.execute(f"PRAGMA {setting}")
    db.create_function("moved_checksum", 3, _moved_checksum, deterministic=True)


_SETTINGS: Final = (
    "synchronous = FULL",
    "fullfsync = ON",  # macOS: fsync alone stops at the disk's own cache; elsewhere it says nothing
    "secure_delete = FAST",  # some systems' default writes zeros over all that is evicted
    "journal_size_limit = 67108864",  # bytes of the WAL to keep after a burst
    "cell_size_check = ON",  # finds a damaged page when it is read, at next to no cost
    "trusted_schema = OFF",
    "wal_autocheckpoint = 0",  # it hides that the disk has failed: see `Database.merge`
)


def _migrate(db: sqlite3.Connection) -> None:
    for version in range(_pragma(db, "user_version"), len(MIGRATIONS)):
        with transaction(db):
            MIGRATIONS[version](db)
            db.execute(f"PRAGMA user_version = {version + 1}")


def _moved_checksum(check: Any, before: Any, after: Any) -> Any:
    try:
        return moved_checksum(check, before, after)
    except (TypeError, ValueError, OverflowError, struct.error):
        return check  # of a damaged row, and it stays so


def _pragma(db: sqlite3.Connection, statement: str) -> Any:
    return db.execute(f"PRAGMA {statement}").fetchone()[0]
