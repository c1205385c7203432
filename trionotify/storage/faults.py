"""Faults of a file, as errors that name the file, the reason and the fix.

SQLite says "unable to open database file" or "disk I/O error", and keeps the errno to itself. So the
reason is found by repeating the write, in a scratch file in the same directory, at the same position.
SQLite's own files are never opened here. When a process closes any descriptor of a file, POSIX removes
all its locks on that file, including those of SQLite.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import tempfile
from typing import Final

from trionotify.errors import StoreError

__all__ = [
    "FAULTS",
    "check_access",
    "control_socket",
    "damaged",
    "database_files",
    "existing",
    "file_identity",
    "is_damage",
    "is_unsynced",
    "not_a_database",
    "os_fault",
    "remove",
    "store_fault",
    "sync_directory",
]

#: The exceptions of sqlite3 for faults that are not the program's.
FAULTS: Final = (sqlite3.Error, MemoryError, OverflowError, UnicodeError)

_FULL: Final = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_FIXES: Final = {
    errno.ENOSPC: "free some space there",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.ENOENT: "create the directory, or name another path",
    errno.ENOTDIR: "name a path in a directory",
    errno.EISDIR: "name a file in it",
    errno.EROFS: "make the file system writable, or name a path on another one",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit on open files",
    errno.ENOLCK: "name a path on a local file system",
    errno.EIO: "check the disk and the system's log",
    errno.EACCES: "let the server's user write the file and its directory",
}
_FIXES[getattr(errno, "EDQUOT", errno.ENOSPC)] = "free some space, or have the quota raised"
_FIXES[errno.EPERM] = _FIXES[errno.EACCES]

#: Bytes written to test whether there is room.
_PROBE: Final = 64 << 10
#: The files that SQLite has open at once: its three, and for a moment their directory.
_DESCRIPTORS: Final = 4


def os_fault(path: str, error: OSError) -> StoreError:
    """Return the StoreError for an operating system error about `path`."""
    number = error.errno or 0
    why = f"{error.strerror or error} ({errno.errorcode.get(number, number)})"
    fix = _FIXES.get(number, "check that path")
    return StoreError(507 if number in _FULL else 503, f"{path}: {why}; {fix}")


def damaged(path: str, why: str) -> StoreError:
    """Return the StoreError for a damaged file."""
    return StoreError(
        503,
        f"{path}: damaged: {why}; stop the server, then run `trionotify store repair sqlite:{path}`"
        " to keep the undamaged part, or restore a backup",
    )


def is_damage(error: BaseException) -> bool:
    """Return whether one of `FAULTS`, raised while rows were read, means that the file is damaged.

    Without a code, it comes from the module itself, for a text that isn't UTF-8 any more.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, sqlite3.Error)
    return code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_TOOBIG}


def is_unsynced(error: BaseException) -> bool:
    """Return whether an `fsync` failed, so that the file's content is unknown.

    The kernel may have dropped those pages and count them as written. A second `fsync` would succeed and
    mean nothing.
    """
    return getattr(error, "sqlite_errorcode", None) in {
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_DIR_FSYNC,
    }


def store_fault(path: str, error: BaseException) -> StoreError:
    """Return the StoreError for one of `FAULTS` of the database at `path`."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(error, UnicodeEncodeError | OverflowError):
        why = f"the notification can't be stored: {error}"
        return StoreError(422, f"{path}: {why}", why)
    if isinstance(error, MemoryError):
        return StoreError(
            503, f"{path}: out of memory; give the server more memory, or lower its limits"
        )
    if code is None:
        # It comes from the module itself, for a text that isn't UTF-8 any more, or from a mistake in
        # this package.
        return damaged(path, str(error))
    return _by_code(path, code & 0xFF, error)


def _by_code(path: str, code: int, error: BaseException) -> StoreError:
    if code in _KNOWN:
        status, why = _KNOWN[code]
        return StoreError(status, f"{path}: {why}")
    if code not in _SYSTEM:
        return damaged(path, str(error))
    if reason := _reason(path):
        return os_fault(reason.filename if reason.filename in database_files(path) else path, reason)
    if code == sqlite3.SQLITE_FULL:
        return StoreError(507, f"{path}: the disk is full; {_FIXES[errno.ENOSPC]}")
    return StoreError(503, f"{path}: {error}; check the disk, and who may write the file")


_NOT_OURS: Final = "not an SQLite database; name another path; the file is left as it is"
_WRITTEN: Final = (
    "another program is writing it; end that program; while a server has the file, others may only"
    " read it"
)
_KNOWN: Final = {
    sqlite3.SQLITE_NOTADB: (503, _NOT_OURS),
    sqlite3.SQLITE_BUSY: (503, _WRITTEN),
    sqlite3.SQLITE_LOCKED: (503, _WRITTEN),
    sqlite3.SQLITE_PROTOCOL: (503, _WRITTEN),
    sqlite3.SQLITE_TOOBIG: (507, "can't store a notification of this size; publish smaller ones"),
}
#: The codes of SQLite for a failed system call.
_SYSTEM: Final = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH),
    }
)


def not_a_database(path: str) -> StoreError:
    """Return the StoreError for a file that isn't a database."""
    return StoreError(503, f"{path}: {_NOT_OURS}")


def _reason(path: str) -> OSError | None:
    """Return why a database at `path` can't be opened or written, if the cause still exists."""
    try:
        largest = max(_size(name) for name in database_files(path))
        with contextlib.ExitStack() as scratches:
            for _ in range(_DESCRIPTORS):
                scratch = scratches.enter_context(tempfile.TemporaryFile(dir=os.path.dirname(path)))
            scratch.seek(largest)  # it takes no space up to there, but limits on size count it
            scratch.write(bytes(_PROBE))
            scratch.flush()
            os.fsync(scratch.fileno())
    except OSError as error:
        return error
    return None


def _size(name: str) -> int:
    try:
        size = os.stat(name).st_size
    except FileNotFoundError:
        return 0
    check_access(name)
    return size


def check_access(name: str) -> None:
    """Raise OSError if this process can't read and write the file."""
    if not os.access(name, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), name)


def database_files(path: str) -> tuple[str, str, str]:
    """Return the names of a database's file, its WAL, and its shared memory."""
    return path, path + "-wal", path + "-shm"


def existing(path: str | os.PathLike[str]) -> str:
    """Return the path of a log's file without links. Raises StoreError if it doesn't exist."""
    found = os.path.realpath(path)
    if not os.path.exists(found):
        raise StoreError(503, f"{found}: does not exist; name the file of a log")
    return str(found)


def remove(name: str) -> None:
    """Remove a file that an earlier command has left, if there is one. Raises StoreError."""
    try:
        os.unlink(name)
    except OSError as error:
        if not os.path.lexists(name):
            return  # and what follows tells whether one can be created there
        why = error.strerror or error
        raise StoreError(
            503, f"{name}: is in the way and can't be removed ({why}); remove it, then try again"
        ) from error


def file_identity(name: str) -> tuple[int, int] | None:
    """Return the device and inode of a file, following links; None if it doesn't exist."""
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def control_socket(path: str) -> str:
    """Return the name of the socket beside a log, which `cp log.db* …` doesn't match."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}-control")


def sync_directory(path: str) -> None:
    """Sync the directory of `path` to the disk. Raises OSError."""
    if os.name == "posix":
        descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
