"""The database of a durable log, owned by one process.

All writing goes through `Database.writing`, all reading through `Database.reading`. They convert
errors to StoreError, and leave no transaction open. A write that fails has changed nothing, and the
next one tries again.

There is one exception. When an `fsync` fails, the kernel may have dropped what it couldn't write, and
the next `fsync` succeeds without it. So nothing is written any more, and the note in the lock file says
that the file is in doubt. It must be opened again, which checks it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Self

import attrs

from trionotify.errors import StoreError
from trionotify.storage.copying import copy_database
from trionotify.storage.faults import FAULTS, database_files, file_identity, is_unsynced, store_fault
from trionotify.storage.lock import FileLock
from trionotify.storage.schema import open_database, transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from trionotify.storage.heads import Head

__all__ = ["Database"]

#: The WAL is copied into the database after commits of so many bytes, as entries weigh. That is some
#: 4 MiB of pages.
_MERGE: Final = 12 << 20

#: Connections to files in doubt. Closing one would write to its database, and remove the WAL.
_given_up: Final[list[sqlite3.Connection]] = []


class Database:
    """The connection of one store, from `open` to `close`. Used in one thread at a time."""

    def __init__(self, path: str, lock: FileLock, connection: sqlite3.Connection) -> None:
        self.path = path
        self._lock = lock
        #: Why the file is in doubt.
        self._doubt: StoreError | None = None
        #: The head of the log, even if it couldn't be noted.
        self._head: Head | None = None
        self._unmerged = 0
        self._connection: sqlite3.Connection | None = connection
        #: Whether the last attempt to write failed.
        self._failing = False
        #: The identities of SQLite's three files and of the lock file, as they were opened.
        self._identities = [(name, file_identity(name)) for name in database_files(path)]
        self._identities.append((lock.name, lock.identity))

    @classmethod
    def open(cls, path: str) -> Self:
        """Lock and open the file at `path`, or create it. Raises StoreError."""
        with contextlib.ExitStack() as undo:
            lock = FileLock.take(path)
            undo.callback(lock.release)
            connection = open_database(path)
            undo.callback(connection.close)
            lock.lock_database()  # if SQLite has just created it
            database = cls(path, lock, connection)
            undo.pop_all()
        return database

    def close(self) -> None:
        """Close and unlock the file. Never raises; may be called again."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._doubt is None:
            # SQLite does this itself, but not while others read, or if the file was renamed.
            with contextlib.suppress(StoreError):
                self._checkpoint(connection)
        if self._doubt is None:
            with contextlib.suppress(*FAULTS):
                connection.close()
        else:
            _given_up.append(connection)
        self._lock.release(stays_open=self._doubt is not None)

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, for settings and queries. Raises StoreError once it is closed."""
        if self._connection is None:
            raise StoreError(503, f"{self.path}: is closed; open it again")
        return self._connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection. Faults of the file in the block are raised as StoreError."""
        try:
            yield self.connection
        except FAULTS as error:
            raise store_fault(self.path, error) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection, in a transaction that the end of the block commits.

        Any exception rolls it back. A fault of the file is raised as StoreError.
        """
        connection = self._writable()
        try:
            with transaction(connection):
                yield connection
        except FAULTS as error:
            self._failing = True
            fault = self._fault(error)
            if fault.status == 507:
                # This moves the WAL's content into the database, and frees its space.
                with contextlib.suppress(StoreError):
                    self._checkpoint(connection)
            raise fault from error
        self._failing = False

    def merge(self, written: int) -> None:
        """Copy the WAL into the database if these `written` bytes have made it long.

        SQLite would do so by itself, but wouldn't report a failure of the disk. This raises StoreError;
        earlier commits stay committed.
        """
        self._unmerged += written
        if self._unmerged >= _MERGE:
            self._unmerged = 0
            self._checkpoint(self.connection)

    def backup(self, destination: str, between: Callable[[], None], done: Callable[[], None]) -> None:
        """Copy the database to the file `destination`, as it is at the end. Raises StoreError.

        SQLite copies some pages in each step, and what is written through this connection between two
        steps goes into the copy, too. But a rollback of pages that were changed makes it start again.
        """
        with self.reading() as connection:
            copy_database(connection, self.path, destination, between, done)

    def note(self, head: Head, *, on_disk: bool = False) -> None:
        """Note the log's head outside of the database. Raises StoreError."""
        self._head = head
        if self._doubt is not None:
            raise self._doubt
        self._lock.note(head, on_disk=on_disk)

    def note_first(self, head: Head) -> None:
        """Note the first head on the disk, and record in the database that there is a note.

        Raises StoreError.
        """
        self.note(head, on_disk=True)
        with self.writing() as connection:
            connection.execute("UPDATE log SET noted = 1")
        # So that damage to the WAL can't undo this.
        self._checkpoint(self.connection)

    def noted(self) -> Head | None:
        """Return the head that the last owner has noted; None if there is no readable note."""
        return self._lock.noted()

    def has_damaged_note(self) -> bool:
        """Return whether there is a note that can't be read."""
        return self._lock.has_damaged_note()

    def _fault(self, error: BaseException) -> StoreError:
        if not is_unsynced(error):
            return store_fault(self.path, error)
        self._doubt = StoreError(
            503,
            f"{self.path}: the disk failed to store what was written ({error}) and may lack some of"
            " it; check the disk and the system's log, then restart the server, which checks the"
            " file",
        )
        if self._head is not None:
            with contextlib.suppress(StoreError):
                self._lock.note(attrs.evolve(self._head, doubtful=True), on_disk=True)
        return self._doubt

    def check(self) -> None:
        """Raise StoreError if writing is known to fail. Cheap if the last write succeeded.

        After a failed write, this tries a small one.
        """
        self._writable()
        if self._failing:
            with self.writing() as connection:
                # A value has to change, because SQLite doesn't write an unchanged one.
                connection.execute("UPDATE log SET checks = checks + 1")

    def _writable(self) -> sqlite3.Connection:
        """Return the connection. Raises StoreError if a file of the log was renamed or removed.

        SQLite would continue with files that can't be found again after this process, and so would the
        note of the head.
        """
        connection = self.connection
        if self._doubt is not None:
            raise self._doubt
        for name, identity in self._identities:
            if file_identity(name) != identity:
                raise StoreError(
                    503,
                    f"{name}: was removed or replaced while the server has it open; put it back, or"
                    " restart the server with the file that is there now",
                )
        return connection

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Copy the WAL into the database, as far as no other process still reads it.

        Raises StoreError.
        """
        try:
            connection.execute("PRAGMA wal_checkpoint")
        except FAULTS as error:
            raise self._fault(error) from error
