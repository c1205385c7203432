"""A lock file, so that one server at a time has a log. The kernel unlocks it when the process ends.

SQLite's own locks let any number of programs write in turn, and a second server would give the same
offsets again. The lock is on a file of its own because SQLite must be the only one in the process that
opens and closes a database.

The file stays after the lock is released. If it were removed, two servers could hold a lock each, one of
them on a file that has no name any more. It also carries the note of the log's head (`heads`), behind
the number of the process that holds it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Final, Self

from trionotify.errors import StoreError
from trionotify.storage.faults import os_fault, sync_directory
from trionotify.storage.heads import NOTE_SIZE, Head

__all__ = ["FileLock"]

if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def _lock(descriptor: int) -> None:
        # Windows keeps others from reading what is locked; so it is a byte that is never read.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

    def _write_at(descriptor: int, data: bytes, at: int) -> None:
        os.lseek(descriptor, at, os.SEEK_SET)
        os.write(descriptor, data)

    _HELD: Final = PermissionError
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    _write_at = os.pwrite
    _HELD: Final = BlockingIOError


#: The note's place in the file, behind the id of the process.
_NOTE_AT: Final = 32

_OF_DIRECTORY: Final = (errno.ENOENT, errno.ENOTDIR, errno.EROFS)


class FileLock:
    """A lock that is held from `take` to `release`, or to the end of the process."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    @classmethod
    def take(cls, path: str) -> Self:
        """Lock the file beside `path`, or create it.

        Raises StoreError if another process has it, or if it can't be opened or locked.
        """
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
                raise _taken(path, holder) from error
            raise os_fault(name, error) from error
        # For the error of a second server. Nothing depends on it, so a full disk doesn't matter.
        with contextlib.suppress(OSError):
            os.write(descriptor, (b"%d\n" % os.getpid()).ljust(_NOTE_AT))
        return cls(descriptor, name)

    def note(self, head: Head, *, on_disk: bool = False) -> None:
        """Note the log's head. With `on_disk`, sync it to the disk.

        Raises StoreError.
        """
        try:
            _write_at(self._descriptor, head.to_bytes(), _NOTE_AT)
            if on_disk:
                os.fsync(self._descriptor)
                sync_directory(self._name)
        except OSError as error:
            raise os_fault(self._name, error) from error

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

    def release(self) -> None:
        """Release the lock. Call this once only."""
        os.close(self._descriptor)


def _taken(path: str, holder: str) -> StoreError:
    who = f"process {holder}" if holder else "another process"
    return StoreError(503, f"{path}: in use by a running server ({who}); stop it, or name another path")
