"""The locks by which one server at a time has a log. The kernel releases them when the process ends.

SQLite's own locks let any number of programs write in turn, and a second server would give the same
offsets again. So a server locks a file beside the log. That file stays after the lock is released. If it
were removed, two servers could hold a lock each, one of them on a file that has no name any more. It
also carries the note of the log's head (`heads`), behind the number of the process that holds it.

But anyone can remove that file, and a log can have several names, such as hard links, each with another
file beside it. So the server also locks the database itself, at a byte that SQLite doesn't use. When a
process closes any descriptor of a file, it loses all its locks on that file, including those of SQLite.
So this descriptor is closed after SQLite's, and a database that is locked by this process is never
opened here a second time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from typing import Final, Self

from trionotify.errors import StoreError
from trionotify.storage.faults import file_identity, os_fault, sync_directory
from trionotify.storage.heads import NOTE_SIZE, Head

__all__ = ["FileLock"]

if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def _lock(descriptor: int) -> None:
        # Windows keeps others from reading what is locked; so it is a byte that is never read.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

    def _unlock(descriptor: int) -> None:
        """Do nothing, because closing the file unlocks it."""

    def _write_at(descriptor: int, data: bytes, at: int) -> None:
        os.lseek(descriptor, at, os.SEEK_SET)
        os.write(descriptor, data)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        # A process that was forked has the descriptor as well, so closing it here isn't enough.
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    _write_at = os.pwrite

_HELD: Final = (BlockingIOError, PermissionError)

#: The note's place in the file, behind the id of the process.
_NOTE_AT: Final = 32
#: The byte of a database behind those that SQLite locks.
_BYTE: Final = 0x40000200

_OF_DIRECTORY: Final = (errno.ENOENT, errno.ENOTDIR, errno.EROFS)

#: The databases that this process has locked, by device and inode.
_locked: Final[dict[tuple[int, int], FileLock]] = {}
#: Hubs open and close their logs in threads. One of these at a time opens or closes a database here.
_changing: Final = threading.Lock()


class FileLock:
    """The locks on one log, which are held from `take` to `release`, or to the end of the process."""

    def __init__(self, path: str, descriptor: int, name: str) -> None:
        #: The name of the lock file, and its identity, which changes if it is replaced.
        self.name = name
        self.identity: tuple[int, int] = _identity(descriptor)
        self._path = path
        self._descriptor = descriptor
        #: The descriptor of the database, once that is locked.
        self._database: int | None = None

    @classmethod
    def take(cls, path: str) -> Self:
        """Lock the file beside `path`, or create it, and lock the database at `path`, if it exists.

        Raises StoreError if another server has it, or if a file can't be opened or locked.
        """
        if os.path.exists(path) and not os.path.isfile(path):
            raise StoreError(503, f"{path}: not a file; name a file")
        name = path + "-lock"
        try:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            # If the directory is at fault, the error names the log's path, which the operator gave.
            raise os_fault(path if error.errno in _OF_DIRECTORY else name, error) from error
        try:
            _lock(descriptor)
        except OSError as error:
            holder = os.read(descriptor, _NOTE_AT).decode("ascii", "replace").strip()
            os.close(descriptor)
            if isinstance(error, _HELD):
                raise _taken(path, f"process {holder}" if holder else "another process") from error
            raise os_fault(name, error) from error
        lock = cls(path, descriptor, name)
        try:
            lock.lock_database()
        except StoreError:
            lock.release()
            raise
        # For the error of a second server. Nothing depends on it, so a full disk doesn't matter.
        with contextlib.suppress(OSError):
            os.write(descriptor, (b"%d\n" % os.getpid()).ljust(_NOTE_AT))
        return lock

    def lock_database(self) -> None:
        """Lock the database, if it exists and isn't locked yet. Raises StoreError if a server has it."""
        if sys.platform == "win32" or self._database is not None or not os.path.isfile(self._path):
            return  # Windows keeps an open file from being removed
        with _changing:
            if file_identity(self._path) in _locked:
                raise _taken(self._path, _RENAMED)
            try:
                descriptor = os.open(self._path, os.O_RDWR)
            except OSError as error:
                raise os_fault(self._path, error) from error
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _BYTE)
            except OSError as error:
                os.close(descriptor)
                if isinstance(error, _HELD):
                    raise _taken(self._path, _RENAMED) from error
                raise os_fault(self._path, error) from error
            self._database = descriptor
            _locked[_identity(descriptor)] = self

    def note(self, head: Head, *, on_disk: bool = False) -> None:
        """Note the log's head. With `on_disk`, sync it to the disk.

        Raises StoreError.
        """
        try:
            _write_at(self._descriptor, head.to_bytes(), _NOTE_AT)
            if on_disk:
                os.fsync(self._descriptor)
                sync_directory(self.name)
        except OSError as error:
            raise os_fault(self.name, error) from error

    def noted(self) -> Head | None:
        """Return the note of the last owner; None if there is no readable one."""
        return Head.from_bytes(self._note())

    def has_damaged_note(self) -> bool:
        """Return whether there is a note that can't be read."""
        return self.noted() is None and bool(self._note().strip())

    def _note(self) -> bytes:
        try:
            os.lseek(self._descriptor, _NOTE_AT, os.SEEK_SET)
            return os.read(self._descriptor, NOTE_SIZE)
        except OSError:
            return b""

    def release(self, *, stays_open: bool = False) -> None:
        """Release the locks. Call this once only.

        With `stays_open`, SQLite still has the database open and keeps its own locks.
        """
        if sys.platform != "win32" and self._database is not None:
            with _changing:
                del _locked[_identity(self._database)]
                if stays_open:
                    fcntl.lockf(self._database, fcntl.LOCK_UN, 1, _BYTE)
                else:
                    os.close(self._database)
        _unlock(self._descriptor)
        os.close(self._descriptor)


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


_RENAMED: Final = "under another name, or its -lock file was removed"


def _taken(path: str, holder: str) -> StoreError:
    if file_identity(path) in _locked:
        holder = f"process {os.getpid()}, which is this one and may still be closing it"
    return StoreError(
        503, f"{path}: in use by a running server ({holder}); stop it, or name another path"
    )
