"""A durable log's file in the hands of the one process that owns it.

All writing goes through `Database.writing`, all reading through `Database.reading`; they turn what
goes wrong into StoreError, and leave no transaction open. A write that fails has changed nothing, and
the next one tries anew: that is all there is to recovery.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Self

from trionotify.errors import StoreError
from trionotify.logs.faults import FAULTS, database_files, store_fault
from trionotify.logs.lock import FileLock
from trionotify.logs.schema import open_database, transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

__all__ = ["Database"]


class Database:
    """Made by `open`; nobody else's until `close`. One thread at a time."""

    def __init__(self, path: str, lock: FileLock, connection: sqlite3.Connection) -> None:
        self.path = path
        self._lock = lock
        self._connection: sqlite3.Connection | None = connection
        #: Whether the last attempt to write failed.
        self._failing = False
        #: Which files have the names of SQLite's three, as they were opened.
        self._identities = [(name, _identity(name)) for name in database_files(path)]

    @classmethod
    def open(cls, path: str) -> Self:
        """Own the file at `path`, which is made when it is missing. Raises StoreError."""
        with contextlib.ExitStack() as undo:
            lock = FileLock.take(path)
            undo.callback(lock.release)
            connection = open_database(path)
            undo.callback(connection.close)
            database = cls(path, lock, connection)
            undo.pop_all()
        return database

    def close(self) -> None:
        """Let go of the file. Never raises; may be called again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # SQLite does so itself, but not when others read, or when the file was given another name.
            self._checkpoint(connection)
            with contextlib.suppress(*FAULTS):
                connection.close()
            self._lock.release()

    @property
    def connection(self) -> sqlite3.Connection:
        """For settings and queries; raises StoreError when the file was let go of."""
        if self._connection is None:
            raise StoreError(503, f"{self.path} is closed: open it again")
        return self._connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection; what fails in the block is raised as StoreError."""
        try:
            yield self.connection
        except FAULTS as error:
            raise store_fault(self.path, error) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection, in a transaction that the end of the block commits.

        Whatever fails, it is rolled back; a fault of the file is raised as StoreError.
        """
        connection = self._writable()
        try:
            with transaction(connection):
                yield connection
        except FAULTS as error:
            self._failing = True
            fault = store_fault(self.path, error)
            if fault.status == 507:
                # What was in the WAL is in the database then, and the WAL's own space is free.
                self._checkpoint(connection)
            raise fault from error
        self._failing = False

    def check(self) -> None:
        """Raise StoreError if writing fails, as far as can be said: cheap while all is well.

        After a write that failed, a small one is tried.
        """
        self._writable()
        if self._failing:
            with self.writing() as connection:
                # Something has to change: what is as it was, SQLite doesn't write.
                connection.execute("UPDATE log SET checks = checks + 1")

    def _writable(self) -> sqlite3.Connection:
        """The connection; raises StoreError if SQLite's files don't have their names any more.

        SQLite would go on with files that nobody finds again when this process has ended.
        """
        connection = self.connection
        for name, identity in self._identities:
            if _identity(name) != identity:
                raise StoreError(
                    503,
                    f"{name} was removed or replaced while the server has it open: put it back, or start"
                    " the server again with what is there now",
                )
        return connection

    @staticmethod
    def _checkpoint(connection: sqlite3.Connection) -> None:
        """Copy what the WAL holds into the database, as far as nobody else still reads it."""
        with contextlib.suppress(*FAULTS):
            connection.execute("PRAGMA wal_checkpoint")


def _identity(name: str) -> tuple[int, int] | None:
    """Which file has this name: its device and its number there; None if there is none."""
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_dev, found.st_ino
