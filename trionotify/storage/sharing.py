"""Detecting other processes that have a log's file open, a danger with some SQLite versions.

SQLite from 3.7.0 to 3.51.2 has a fault, "the WAL-reset bug": when two connections write and merge
the write-ahead log at one moment, the database can be damaged. A server has one connection to its file.
A program that looks at the file has another.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

__all__ = ["has_reset_bug", "other_users", "warning"]


def warning(path: str) -> str | None:
    """Return a warning for the operator if the file at `path` is in danger, or None. Blocks."""
    if not has_reset_bug(sqlite3.sqlite_version_info) or not (others := other_users(path)):
        return None
    return (
        f"{path}: also open in process {', '.join(map(str, sorted(others)))}, and SQLite"
        f" {sqlite3.sqlite_version} can damage a shared file; end that process or upgrade SQLite to"
        f" 3.51.3, and make backups with `trionotify store backup sqlite:{path} DEST`"
    )


def has_reset_bug(version: tuple[int, int, int]) -> bool:
    """Return whether this version of SQLite has the fault. Two older lines were fixed as well."""
    fixed = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    return version >= (3, 7, 0) and not fixed


def other_users(path: str) -> set[int]:
    """Return the ids of other processes that use the database at `path`, as far as Linux shows them.

    They hold locks on it. A process that holds none, such as one that hasn't read yet, isn't seen.
    """
    files = [name for name in (path, path + "-shm") if os.path.exists(name)]
    inodes = {str(os.stat(name).st_ino) for name in files}
    try:
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return set()
    # 1: POSIX  ADVISORY  READ 1234 00:2b:5678 1073741826 1073742335
    fields = [line.split() for line in locks if "->" not in line]
    pids = {int(each[4]) for each in fields if len(each) > 5 and each[5].rpartition(":")[2] in inodes}
    # In a container, a process may have another number in /proc than it knows of itself.
    ours = int(os.readlink("/proc/self"))
    return {pid for pid in pids if pid not in (-1, 0, ours) and _may_have(pid, files)}


def _may_have(pid: int, files: list[str]) -> bool:
    """Return whether a process has one of these files open; True if that is unknown."""
    try:
        return any(os.readlink(link) in files for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return True
