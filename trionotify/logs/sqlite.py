"""The entries of a durable log, in a file of which one server at a time is the owner.

Everything here is synchronous, blocks for the disk, and knows nothing of tasks: a store is driven
from one thread at a time, whichever that is.

What always holds: offsets are contiguous, from behind `start` up to `head`; and what the store knows
changes only when a commit has succeeded, so a call that fails has changed nothing, here or in the
file.

Every row has the running total of bytes up to and including it, and the moment of its append, which
never decreases, not even when the clock does. So what is held is one subtraction, the oldest row
alone says whether any must go, and a moment is found by bisection: nothing is scanned, and nothing is
loaded when the file is opened. What must go goes in the transaction of the append that makes it
necessary. Moments that a wrong clock has noted are moved in the same way, some at a time (`moments`).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sqlite3
from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, cast

import attrs

from trionotify.errors import StoreError
from trionotify.logs import epochs, moments
from trionotify.logs.database import Database
from trionotify.logs.epochs import Durability, new_epoch
from trionotify.logs.extent import Extent, read_extent
from trionotify.logs.faults import damaged
from trionotify.logs.moments import Move
from trionotify.logs.rows import COLUMNS, SIZE, TOTAL, Row, audience_text, entry_of, row_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from trionotify.entries import Entry

__all__ = ["Durability", "SqliteStore", "new_epoch"]

#: What one call evicts at most, besides as much as it appends: entries, and their bytes. So no call
#: takes long, and a backlog (the limits were lowered between two runs) is gone after a while.
STEP: Final = 1000
STEP_BYTES: Final = 16 << 20

_NAMES: Final = ", ".join(COLUMNS)
_VALUES: Final = f"({', '.join('?' * len(COLUMNS))})"
#: By the number of rows, halved again and again. One statement for many of them is faster, and much more
#: so beside a busy loop: the thread lets go of the interpreter once for each. (Some builds of SQLite
#: take 999 values at most.)
_INSERT: Final = {
    number: f"INSERT INTO entries ({_NAMES}) VALUES {', '.join([_VALUES] * number)}"
    for number in (32, 16, 8, 4, 2, 1)
}
_READ: Final = f"SELECT {_NAMES} FROM entries WHERE offset > ? ORDER BY offset LIMIT ?"
_REPEATED: Final = "SELECT offset FROM entries WHERE publisher = ? AND source = ? AND id = ?"
_OLDEST: Final = (
    "SELECT offset, moment, size, total FROM entries WHERE offset > ? AND offset <= ?"
    " ORDER BY offset LIMIT ?"
)


class SqliteStore:
    """A log's entries in a file. Made by `open`; owns the file until `close`.

    Every method but `refuses` and `restore` may block for the disk, and raises StoreError when the
    file can't be read or written.
    """

    def __init__(
        self,
        database: Database,
        epoch: str,
        extent: Extent,
        *,
        max_entries: int,
        max_bytes: int,
        max_age: float,
    ) -> None:
        self._database = database
        #: The name of this life of the log.
        self.epoch = epoch
        self._extent = extent
        #: The head when the file was opened: what is behind it, this process has stored.
        self._opened_at = extent.head
        #: Moments behind it were noted by the clock of this process, or brought down to it.
        self._timed_from = extent.head
        #: Moments that are still to be moved.
        self._move: Move | None = None
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._max_age = max_age
        # Half of what a row may have is left for how it is written: JSON, and the row's own numbers.
        row = database.connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        self._max_size = min(max_bytes, row // 2)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "full",
        max_entries: int,
        max_bytes: int,
        max_age: float,
        now: float,
    ) -> Self:
        """Own the file at `path`, which is made when it is missing.

        It keeps at most `max_entries` entries, of `max_bytes` bytes altogether (`Entry.size`), for
        `max_age` seconds. `now` is the time of day, in seconds since 1970, as everywhere. What seems to
        be from the future counts as appended now: a clock was wrong then. The epoch is a new one if
        something that was acknowledged may have been lost.

        Raises StoreError when there can be no such file, when another server has it, and when it
        isn't one of ours that is whole: then it stays as it is. Raises ValueError for another
        `durability`.
        """
        if durability not in ("full", "normal"):
            raise ValueError(f"durability must be 'full' or 'normal', not {durability!r}")
        database = Database.open(os.path.realpath(path))
        try:
            with database.reading() as connection:
                extent = read_extent(connection, database.path)
            # In this order: a file that is found damaged stays as it is.
            epoch = epochs.begin(database, durability)
            store = cls(
                database,
                epoch,
                extent,
                max_entries=max_entries,
                max_bytes=max_bytes,
                max_age=max_age,
            )
            if extent.moment > now:
                # A hole in the middle is found by its readers: it stays as it is.
                with contextlib.suppress(StoreError):
                    store._bring_down(-math.inf, now)
            store.evict(store.head, now)
        except BaseException:
            database.close()
            raise
        return store

    def close(self) -> None:
        """Write down that nothing is missing, and let go of the file. May be called again.

        Never raises: when nothing can be written any more, the next start takes it for a crash.
        """
        with contextlib.suppress(StoreError):
            if self._move is not None and not self._move.down:
                self._finish()  # else the next process takes the rest for much older, and evicts it
        with contextlib.suppress(StoreError):
            epochs.end(self._database)
        self._database.close()

    @property
    def path(self) -> str:
        """Where the file is, links resolved."""
        return self._database.path

    @property
    def head(self) -> int:
        """The offset of the newest entry that is committed, 0 before the first."""
        return self._extent.head

    @property
    def start(self) -> int:
        """The oldest offset to read after: everything behind it is kept."""
        return self._extent.start

    @property
    def bytes(self) -> int:
        """What is held, by `Entry.size`."""
        return self._extent.total - self._extent.base

    def refuses(self, entry: Entry) -> StoreError | None:
        """Why this entry can't be stored, whatever the state of the disk; None if it can.

        To be asked before `append`, which such an entry fails for all. Doesn't block; any thread may
        ask.
        """
        if entry.size > self._max_size:
            why = (
                f"a notification of {entry.size} bytes is larger than all that the log may hold,"
                f" {self._max_size}: let it hold more (max_log_bytes), or publish smaller ones"
            )
            return StoreError(507, f"{self.path}: {why}", why)
        if entry.notification.audience is not None:
            try:
                audience_text(entry.notification.audience)
            except (TypeError, ValueError) as error:
                return _unfit(self.path, error)
        return None

    def append(self, entries: list[Entry], upto: int, now: float) -> list[Entry]:
        """Append entries, all or none, and give each its offset; return those that are new.

        One that repeats what is still kept, or what comes before it in the list, has that one's
        offset, and is not appended. Then the oldest are evicted, as the limits ask, none behind the
        offset `upto`. `now` may be anything: where it is before the newest entry's moment, that holds.
        """
        before = self._extent
        moment = max(now, before.moment)
        with self._database.writing() as connection:
            # Repetitions are rare: only when the index objects to one are they looked for.
            rows, fresh, offsets = self._placed(entries, moment, lambda key: None)
            try:
                _insert(connection, rows)
            except sqlite3.IntegrityError:
                # What earlier statements have put there must go, too.
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                rows, fresh, offsets = self._placed(entries, moment, partial(_first, connection))
                _insert(connection, rows)
            extent = before
            if rows:
                extent = Extent(
                    before.start, before.head + len(rows), before.base, rows[-1][TOTAL], moment
                )
            move = self._move
            if move is not None:
                extent, move = moments.step(connection, extent, move)
            extent = self._evict(connection, extent, upto, now, move)
        self._extent, self._move = extent, move
        for entry, offset in zip(entries, offsets, strict=True):
            entry.offset = offset
        return fresh

    def evict(self, upto: int, now: float) -> bool:
        """Evict the oldest entries, as the limits ask, none behind the offset `upto`.

        Bounded: to meet limits that were lowered a lot between two runs may take several calls. Returns
        whether moments are left to be moved, for which it must be called again.
        """
        self.append([], upto, now)
        return self._move is not None

    def shift(self, by: float, now: float) -> None:
        """The clock is set by `by` seconds, and will say `now`: move what was noted by it along.

        The rest of that is done bit by bit, in the calls of `append` and `evict` to come; what they
        append is noted by the clock as it is set then. If this raises, nothing is moved.
        """
        self._finish()  # an earlier one, which is all but done by now
        if by < 0:
            first = max(self._timed_from, self.start) + 1
            with self._database.reading() as connection:
                noted = (
                    _number("moment", connection, self.path, first) if first <= self.head else now - by
                )
            self._bring_down(by, min(now, noted + by))
        else:
            move = Move(by, 0.0, self._timed_from, self.head)
            # The head goes at once: nothing that comes behind it may have an earlier moment.
            with self._database.writing() as connection:
                extent, rest = moments.step(connection, self._extent, move)
            self._extent, self._move = extent, rest

    def _finish(self) -> None:
        """Move all moments that are left to be moved."""
        while self._move is not None:
            self.evict(self.start, -math.inf)

    def _bring_down(self, by: float, floor: float) -> None:
        """Move the moments down, as far as they are above `floor`."""
        after = self.offset_at(floor)
        self._move = Move(by, floor, after, self.head)
        self._timed_from = min(self._timed_from, after)

    def check(self) -> None:
        """Raise StoreError while appending fails, as far as can be said; cheap when all is well.

        After a write that failed, a small one is tried.
        """
        self._database.check()

    def read(self, after: int, limit: int, max_bytes: int) -> list[Row]:
        """The rows behind the offset `after`, in order: at most `limit`, and `max_bytes` of entries.

        At least one, where there are any; none when what comes next was evicted. `restore` makes entries
        of them.
        """
        limit = min(limit, self.head - after)
        if limit <= 0 or after < self.start:
            return []
        rows: list[Row] = []
        with (
            self._database.reading() as connection,
            contextlib.closing(connection.execute(_READ, (after, limit))) as found,
        ):
            for row in found:
                max_bytes -= row[SIZE]
                if max_bytes < 0 and rows:
                    break
                rows.append(row)
        if not rows or (rows[0][0], rows[-1][0]) != (after + 1, after + len(rows)):
            raise damaged(self.path, f"entries behind the offset {after} are missing")
        return rows

    def restore(self, row: Row) -> Entry:
        """The entry that a row was made of, with its offset.

        It has its `origin` only if this process stored it, for keys of connections are a process's own.
        Doesn't block; any thread may ask. Raises StoreError when the row can't be understood.
        """
        try:
            return entry_of(row, ours=row[0] > self._opened_at)
        except (TypeError, ValueError, AttributeError) as error:
            raise damaged(self.path, f"the entry at the offset {row[0]}: {error}") from error

    def offset_at(self, moment: float) -> int:
        """The offset, from `start` to `head`, behind which all was appended at `moment` or later."""
        with self._database.reading() as connection:
            key = partial(self._moment, connection)
            return self.start + bisect_left(range(self.start + 1, self.head + 1), moment, key=key)

    def _moment(self, connection: sqlite3.Connection, offset: int) -> float:
        moment: float = _number("moment", connection, self.path, offset)
        return moment if self._move is None else self._move.moved(offset, moment)

    def newest(self, max_bytes: int) -> int:
        """The offset behind which are the newest entries, of at most `max_bytes` bytes altogether."""
        if self.bytes <= max_bytes:
            return self.start
        with self._database.reading() as connection:
            key = partial(_number, "total", connection, self.path)
            offsets = range(self.start + 1, self.head + 1)
            return offsets[bisect_left(offsets, self._extent.total - max_bytes, key=key)]

    def _placed(
        self, entries: list[Entry], moment: float, kept: Callable[[Hashable], int | None]
    ) -> tuple[list[Row], list[Entry], list[int]]:
        """The rows to store, the entries that are new, and the offsets of all; `kept` knows keys."""
        head, total = self._extent.head, self._extent.total
        rows: list[Row] = []
        fresh: list[Entry] = []
        offsets: list[int] = []
        firsts: dict[Hashable, int] = {}
        for entry in entries:
            key = entry.key
            first = None if key is None else firsts.get(key) or kept(key)
            if first is None:
                head += 1
                total += entry.size
                rows.append(self._row(entry, head, moment, total))
                fresh.append(entry)
                first = head
                if key is not None:
                    firsts[key] = head
            offsets.append(first)
        return rows, fresh, offsets

    def _row(self, entry: Entry, offset: int, moment: float, total: int) -> Row:
        try:
            return row_of(entry, offset, moment, total)
        except (TypeError, ValueError) as error:
            raise _unfit(self.path, error) from error

    def _evict(
        self, connection: sqlite3.Connection, extent: Extent, upto: int, now: float, move: Move | None
    ) -> Extent:
        """Delete what is over the limits, some moments being still to be moved; return what is kept."""
        start, base = self._doomed(connection, extent, upto, now - self._max_age, move)
        if start > extent.start:
            connection.execute("DELETE FROM entries WHERE offset <= ?", (start,))
        if start == extent.head > extent.start:
            # No row says any more how far the log had come.
            connection.execute(
                "UPDATE log SET head = ?, total = ?, moment = ?",
                (extent.head, extent.total, extent.moment),
            )
        return attrs.evolve(extent, start=start, base=base)

    def _doomed(
        self,
        connection: sqlite3.Connection,
        extent: Extent,
        upto: int,
        too_old: float,
        move: Move | None,
    ) -> tuple[int, int]:
        """The offset up to which entries must go, and may go in one call; and the `base` then."""
        count = STEP + extent.head - self.head
        room = STEP_BYTES + extent.total - self._extent.total
        start, base = extent.start, extent.base
        with contextlib.closing(connection.execute(_OLDEST, (start, upto, count))) as oldest:
            for offset, moment, size, total in oldest:
                fits = (
                    extent.head - offset < self._max_entries
                    and extent.total - total + size <= self._max_bytes
                    and (move.moved(offset, moment) if move else moment) >= too_old
                )
                if fits or room < 0:
                    break
                start, base = offset, total
                room -= size
        return int(start), int(base)


def _insert(connection: sqlite3.Connection, rows: list[Row]) -> None:
    done = 0
    for number, statement in _INSERT.items():
        while len(rows) - done >= number:
            values = itertools.chain.from_iterable(rows[done : done + number])
            connection.execute(statement, tuple(values))
            done += number


def _first(connection: sqlite3.Connection, key: Hashable) -> int | None:
    """Where the entry with this key is, if it is kept."""
    found = connection.execute(_REPEATED, cast("tuple[str, str, str]", key)).fetchone()
    return None if found is None else int(found[0])


def _number(column: str, connection: sqlite3.Connection, path: str, offset: int) -> Any:
    found = connection.execute(f"SELECT {column} FROM entries WHERE offset = ?", (offset,)).fetchone()
    if found is None:
        raise damaged(path, f"the entry at the offset {offset} is missing")
    return found[0]


def _unfit(path: str, error: Exception) -> StoreError:
    return StoreError(422, f"{path}: {error}", str(error))
