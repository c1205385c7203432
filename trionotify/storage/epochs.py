"""Epochs. In each, an offset is given once, so a cursor of another epoch is invalid.

The file's epoch is created with it, and stays while every offset that was ever assigned is in the file.
If some are missing, the same offsets would be assigned again. `recovery` detects this when the file
is opened. One case is detected here, by the note of the last owner. It is a loss of power when commits
don't wait for the disk. A restored snapshot of all files of a log can't be recognized. Only its operator
knows, and calls `new_epoch`.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trionotify.storage.database import Database

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Durability", "begin", "boot_id", "end", "epoch_of", "fresh", "renew"]

#: `full` means that what was appended survives the loss of power. `normal` means that it survives the
#: death of the process only, but a commit doesn't wait for the disk.
Durability = Literal["full", "normal"]


def begin(
    database: Database, durability: Durability, here: str | None, lost: str | None
) -> tuple[str, str | None]:
    """Record this process as the owner; return the epoch and, if it is new, the reason.

    `here` is this boot's id, and `lost` says in words what is missing. The epoch is also new when the
    last owner didn't close the file and didn't wait for the disk, and the machine isn't known to have
    been up ever since. Raises StoreError.
    """
    with database.writing() as connection:
        found = connection.execute("SELECT epoch, clean, durability, boot FROM log").fetchone()
        epoch, clean, last, there = found
        if lost is None and not clean and last == "normal" and (here is None or here != there):
            lost = "the machine stopped, and commits did not wait for its disk"
        if lost is not None:
            epoch = fresh()
        connection.execute(
            "UPDATE log SET epoch = ?, clean = 0, durability = ?, boot = ?", (epoch, durability, here)
        )
    # Only now, because the row just written must be on the disk before any entry of its epoch.
    with database.reading() as connection:
        connection.execute(f"PRAGMA synchronous = {durability}")
    return str(epoch), lost


def epoch_of(connection: sqlite3.Connection) -> str:
    """Return the file's epoch. Raises what sqlite3 raises."""
    return str(connection.execute("SELECT epoch FROM log").fetchone()[0])


def end(database: Database) -> None:
    """Record that the file was closed in good order. Raises StoreError."""
    with database.reading() as connection:
        # This commit also syncs all earlier ones to the disk, with any durability.
        connection.execute("PRAGMA synchronous = FULL")
    with database.writing() as connection:
        connection.execute("UPDATE log SET clean = 1")


def fresh() -> str:
    """Return a new random name for an epoch."""
    return secrets.token_hex(6)


def renew(database: Database) -> str:
    """Give the log a new epoch, in which nothing counts as missing, and return it. Raises StoreError."""
    epoch = fresh()
    with database.writing() as connection:
        connection.execute("UPDATE log SET epoch = ?, clean = 1", (epoch,))
    return epoch


def boot_id() -> str | None:
    """Return an id that changes with each boot of the machine; None if it is unknown. Blocks."""
    try:
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        else:
            text = Path("/proc/sys/kernel/random/boot_id").read_text()
    except (OSError, subprocess.SubprocessError):
        return None
    return text.strip() or None
