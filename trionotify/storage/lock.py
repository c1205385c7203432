"""One server at a time: a lock file, which the kernel unlocks when its process dies, however that is.

SQLite's own locks let any number of programs write in turn, and a second server would give the same
offsets again. The lock is on a file of its own because SQLite must be the only one in the process that
opens and closes a database.

The file stays when the lock is gone: if it were removed, two servers could hold a lock each, one of
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
        # Windows keeps others from reading what is locked; so it is a byte that nobody wants to read.
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


#: Where in the file the note begins: behind the number of the process.
_NOTE_AT: Final = 32

_OF_DIRECTORY: Final = (errno.ENOENT, errno.ENOTDIR, errno.EROFS)


class FileLock:
    """Held from `take` to `release`, or to the end of the process."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    @classmethod
    def take(cls, path: str) -> Self:
        """Lock the file beside `path`, which is made when it is missing.

        Raises StoreError when another process has it, and when the file can't be opened or locked.
        """
        name = path + "-lock"
        try:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            # Where the directory is at fault, it is the log's own name that was given.
            raise os_fault(path if error.errno in _OF_DIRECTORY else name, error) from error
        try:
            _lock(descriptor)
        except OSError as error:
            holder = os.read(descriptor, _NOTE_AT).decode("ascii", "replace").strip()
            os.close(descriptor)
            if isinstance(error, _HELD):
                raise _taken(path, holder) from error
            raise os_fault(name, error) from error
        # For the one who comes second. Nothing depends on it, so a full disk doesn't matter.
        with contextlib.suppress(OSError):
            os.write(descriptor, (b"%d\n" % os.getpid()).ljust(_NOTE_AT))
        return cls(descriptor, name)

    def note(self, head: Head, *, on_disk: bool = False) -> None:
        """Note how far the log has come. With `on_disk`, wait for the disk.

        Raises StoreError when that can't be done.
        """
        try:
            _write_at(self._descriptor, head.to_bytes(), _NOTE_AT)
            if on_disk:
                os.fsync(self._descriptor)
                sync_directory(self._name)
        except OSError as error:
            raise os_fault(self._name, error) from error

    def noted(self) -> Head | None:
        """What the last owner has noted; None if there is nothing that can be read."""
        return Head.from_bytes(self._note())

    def has_damaged_note(self) -> bool:
        """Whether there is something that can't be read."""
        return self.noted() is None and bool(self._note().strip())

    def _note(self) -> bytes:
        try:
            os.lseek(self._descriptor, _NOTE_AT, os.SEEK_SET)
            return os.read(self._descriptor, NOTE_SIZE)
        except OSError:
            return b""

    def release(self) -> None:
        """Let others have it. Once only."""
        os.close(self._descriptor)


def _taken(path: str, holder: str) -> StoreError:
    who = f"process {holder}" if holder else "another process"
    return StoreError(
        503, f"{path} belongs to a server that runs ({who}): stop that one, or name another path"
    )
