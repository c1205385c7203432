"""Epochs: an offset is given once in each, so a cursor of another one is void.

The file's epoch is made with it, and stays while every offset that was ever given out is in the file.
Two things can take some away, and then the same offsets would be given to others: a loss of power,
when commits don't wait for the disk; this is found out at the next start, by what the last owner
wrote down. And a file that is put back from a backup: that only its operator knows, and says so by
`new_epoch`.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trionotify.errors import StoreError
from trionotify.logs.database import Database

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Durability", "begin", "boot_id", "end", "new_epoch"]

#: `full`: what was appended survives the loss of power. `normal`: only the death of the process, but
#: a commit doesn't wait for the disk.
Durability = Literal["full", "normal"]


def begin(database: Database, durability: Durability) -> str:
    """Write down who has the file from now on; return its epoch, which may be a new one.

    It is new when the last owner didn't close the file and didn't wait for the disk, and the machine
    isn't known to have been up ever since. Raises StoreError.
    """
    here = boot_id()
    with database.writing() as connection:
        found = connection.execute("SELECT epoch, clean, durability, boot FROM log").fetchone()
        epoch, clean, last, there = found
        if not clean and last == "normal" and (here is None or here != there):
            epoch = secrets.token_hex(6)
        connection.execute(
            "UPDATE log SET epoch = ?, clean = 0, durability = ?, boot = ?", (epoch, durability, here)
        )
    # Only now: what was just written must be on the disk before anything that it speaks of.
    with database.reading() as connection:
        connection.execute(f"PRAGMA synchronous = {durability}")
    return str(epoch)


def end(database: Database) -> None:
    """Write down that nothing is missing. Raises StoreError."""
    with database.reading() as connection:
        # Behind this one commit all that came before it is on the disk, too, whatever the durability.
        connection.execute("PRAGMA synchronous = FULL")
    with database.writing() as connection:
        _mark_clean(connection)


def new_epoch(path: str | os.PathLike[str]) -> str:
    """Give the log at `path` a new epoch, and return it: to be done when a backup was put in its
    place.

    Otherwise clients that saw more than the backup has would take others' notifications for those.
    What is in the file stays there. Raises StoreError when there is no such file, when it isn't ours
    or is damaged, and while a server has it.
    """
    path = os.path.realpath(path)
    if not os.path.exists(path):
        raise StoreError(503, f"{path} isn't there: name the file of a log")
    database = Database.open(path)
    try:
        epoch = secrets.token_hex(6)
        with database.writing() as connection:
            connection.execute("UPDATE log SET epoch = ?", (epoch,))
            _mark_clean(connection)
    finally:
        database.close()
    return epoch


def _mark_clean(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE log SET clean = 1")


def boot_id() -> str | None:
    """A text that is another one after each boot of the machine; None where there is none. Blocks."""
    try:
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        else:
            text = Path("/proc/sys/kernel/random/boot_id").read_text()
    except (OSError, subprocess.SubprocessError):
        return None
    return text.strip() or None
