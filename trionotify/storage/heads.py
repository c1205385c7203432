"""The head of a log in a file, noted a second time, outside of the database.

SQLite ends its write-ahead log at the first frame that is not whole, and says nothing. Entries that were
committed after it are then missing, and their offsets would be given again under the same epoch. So
after each commit the store notes how far it has come in the lock file, which no fault of the database
touches. When a file is opened that doesn't reach as far as its note, or that the note doesn't speak of,
something was lost, and the log gets a new epoch.

The note is written behind the commit and doesn't wait for the disk. So it may be older than the
database, after a crash, which means nothing; but it is never newer, unless the database has lost
something. It fits into one sector of the disk, so that it is never half an old one and half a new one.
"""

from __future__ import annotations

from typing import Final, Self
from zlib import crc32

import attrs

__all__ = ["NOTE_SIZE", "Head"]

#: Bytes of a note.
NOTE_SIZE: Final = 224


@attrs.frozen
class Head:
    """The head of a log: the offset of its newest entry, and the bytes of all entries up to it.

    `moment` is the log's time then, in seconds since 1970. `steady` is the time of the machine's steady
    clock since the boot `boot`, which is empty if the boot has no name. The moments of the entries
    behind the offset `timed_from` were noted by that same clock. `doubtful` means that after a failed
    write it isn't known what is on the disk. `unconfirmed` are the seconds up to `moment` of which only
    a wall clock knows (`LogClock.unconfirmed`). Notes of earlier versions lack them.
    """

    epoch: str
    offset: int
    total: int
    moment: float
    steady: float
    boot: str
    timed_from: int = 0
    doubtful: bool = False
    unconfirmed: float = 0.0

    def to_bytes(self) -> bytes:
        """Return the note: a line of text with a checksum, padded to `NOTE_SIZE` bytes."""
        text = (
            f"{self.epoch} {self.offset} {self.total} {self.moment!r} {self.steady!r} {self.boot or '-'}"
            f" {self.timed_from} {'doubtful' if self.doubtful else 'sure'} {self.unconfirmed!r} "
        )
        return f"{text}{crc32(text.encode()):08x}\n".encode().ljust(NOTE_SIZE)

    @classmethod
    def from_bytes(cls, note: bytes) -> Self | None:
        """Parse the result of `to_bytes`; return None for anything else."""
        text, _, check = note.rstrip().rpartition(b" ")
        try:
            if check != f"{crc32(text + b' '):08x}".encode():
                return None
            epoch, offset, total, moment, steady, boot, timed_from, *rest = text.decode().split(" ")
            state, unconfirmed = rest if len(rest) > 1 else (*rest, "0.0")
            return cls(
                epoch,
                int(offset),
                int(total),
                float(moment),
                float(steady),
                "" if boot == "-" else boot,
                int(timed_from),
                state == "doubtful",
                float(unconfirmed),
            )
        except ValueError:
            return None
