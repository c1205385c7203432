"""Copies of a log's file. A backup is complete, or it doesn't exist."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING, Final

from trionotify.errors import StoreError
from trionotify.storage.faults import (
    FAULTS,
    control_socket,
    file_identity,
    is_damage,
    os_fault,
    remove,
    store_fault,
    sync_directory,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["copy_database"]

#: The pages copied in one step, about 1 MB.
_STEP: Final = 256


def copy_database(
    connection: sqlite3.Connection,
    source: str,
    destination: str,
    between: Callable[[], None] | None = None,
    done: Callable[[], None] | None = None,
) -> None:
    """Copy the database at `source`, which `connection` has open, to the file `destination`.

    The file is replaced at the end. `between` is called between two steps. It may write through the
    connection, and thereby make the database longer. So it is called only when fewer pages are left than
    ever before, or the copy might never end. `done` is called when the connection isn't needed any more,
    and only the wait for the disk remains. If one of them raises, no copy is left behind. Raises
    StoreError when the file can't be written, or is a log's, and what sqlite3 raises.
    """
    least = math.inf

    def progress(_: int, remaining: int, __: int) -> None:
        nonlocal least
        if between and 0 < remaining < least:
            least = remaining
            between()

    part = destination + "-part"
    _check_destination(source, destination, part)
    try:
        remove(part)
        with open(part, "xb"):  # SQLite wouldn't say why it can't
            shutil.copymode(source, part)
        with contextlib.closing(sqlite3.connect(part)) as copy:
            # The wait for the disk comes below, once, and not in the store's thread.
            copy.execute("PRAGMA synchronous = OFF")
            connection.backup(copy, pages=_STEP, progress=progress)
            # A copy is one file, with nothing beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
        if done:
            done()
        _sync(part)
        os.replace(part, destination)
        sync_directory(destination)
    except OSError as error:
        raise os_fault(destination, error) from error
    except FAULTS as error:
        if is_damage(error):
            raise  # it is the log that is damaged
        raise store_fault(destination, error) from error
    finally:
        for name in (part, part + "-journal", part + "-wal", part + "-shm"):
            with contextlib.suppress(OSError):
                os.unlink(name)


def _check_destination(source: str, destination: str, part: str) -> None:
    """Raise StoreError if a copy there would replace a file that a log needs, or isn't possible."""
    if os.path.isdir(destination):
        raise StoreError(503, f"{destination}: is a directory; name a file in it")
    ours = [*(source + ending for ending in _OF_A_LOG), control_socket(source)]
    known = {identity for name in ours if (identity := file_identity(name))}
    for name in (destination, *(part + ending for ending in _OF_A_LOG)):
        place = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        if place in ours or file_identity(name) in known:
            raise StoreError(
                503, f"{destination}: a backup there would destroy the log; name another path"
            )
    if os.path.exists(destination) and not os.path.isfile(destination):
        raise StoreError(503, f"{destination}: not a file; name a file")
    if os.path.exists(destination + "-wal"):
        # SQLite would take it for the copy's own, and damage the copy.
        raise StoreError(
            503, f"{destination}: belongs to a log, because {destination}-wal exists; name another path"
        )


#: The endings of the names of a log's files.
_OF_A_LOG: Final = ("", "-wal", "-shm", "-journal", "-lock")


def _sync(path: str) -> None:
    """Sync a file to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
