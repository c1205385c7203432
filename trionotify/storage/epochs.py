"""Epochs: an offset is given once in each, so a cursor of another one is void.

The file's epoch is made with it, and stays while every offset that was ever given out is in the file.
When some are missing, the same offsets would be given to others. `recovery` finds that out when the file
is opened. One case is found here, by what the last owner wrote down: a loss of power when commits don't
wait for the disk. And a snapshot of all files of a log, put back together, shows nothing: that only its
operator knows, and says so by `new_epoch`.
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

#: `full`: what was appended survives the loss of power. `normal`: only the death of the process, but
#: a commit doesn't wait for the disk.
Durability = Literal["full", "normal"]


def begin(
    database: Database, durability: Durability, here: str | None, lost: str | None
) -> tuple[str, str | None]:
    """Write down who has the file from now on; return its epoch, and why that is a new one, if it is.

    `here` is this boot's id, and `lost` says in words what is missing. The epoch is also new when the
    last owner didn't close the file and didn't wait for the disk, and the machine isn't known to have
    been up ever since. Raises StoreError.
    """
    with database.writing() as connection:
        found = connection.execute("SELECT epoch, clean, durability, boot FROM log").fetchone()
        epoch, clean, last, there = found
        if lost is None and not clean and last == "normal" and (here is None or here != there):
            lost = "the machine has stopped, and commits didn't wait for its disk"
        if lost is not None:
            epoch = fresh()
        connection.execute(
            "UPDATE log SET epoch = ?, clean = 0, durability = ?, boot = ?", (epoch, durability, here)
        )
    # Only now: what was just written must be on the disk before anything that it speaks of.
    with database.reading() as connection:
        connection.execute(f"PRAGMA synchronous = {durability}")
    return str(epoch), lost


def epoch_of(connection: sqlite3.Connection) -> str:
    """The epoch that the file names. Raises what sqlite3 raises."""
    return str(connection.execute("SELECT epoch FROM log").fetchone()[0])


def end(database: Database) -> None:
    """Write down that nothing is missing. Raises StoreError."""
    with database.reading() as connection:
        # Behind this one commit all that came before it is on the disk, too, whatever the durability.
        connection.execute("PRAGMA synchronous = FULL")
    with database.writing() as connection:
        connection.execute("UPDATE log SET clean = 1")


def fresh() -> str:
    """A name that no epoch has had."""
    return secrets.token_hex(6)


def renew(database: Database) -> str:
    """Give the log another epoch, and return it; nothing of it counts as missing. Raises StoreError."""
    epoch = fresh()
    with database.writing() as connection:
        connection.execute("UPDATE log SET epoch = ?, clean = 1", (epoch,))
    return epoch


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
