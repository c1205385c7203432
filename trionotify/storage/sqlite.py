"""The entries of a durable log, in a file that one server at a time owns.

Everything here is synchronous, blocks for the disk, and knows nothing of tasks. A store is used from one
thread at a time, which may be any.

Two invariants always hold. Offsets are contiguous, from behind `start` up to `head`. The store's state
changes only when a commit has succeeded, so a call that fails has changed nothing, here or in the
file.

After each commit the store notes its head outside of the database (`heads`), and each row has a
checksum. So damage is noticed when the file is opened (`recovery`), or when it is read (`reading`).

Every row has the running total of bytes up to and including it, and the moment of its append, which
never decreases, not even when the clock does. So a moment is found by bisection, and the oldest row
alone says whether any must go. Nothing is scanned, and nothing is loaded when the file is opened. What
must go goes in the transaction of the append that makes it necessary (`eviction`). Moments that a wrong
clock has noted are moved in the same way, some at a time (`moments`).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sqlite3
from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING, Final, Self, cast

from trionotify.errors import StoreError
from trionotify.storage import epochs, moments
from trionotify.storage.clock import steady
from trionotify.storage.database import Database
from trionotify.storage.epochs import Durability
from trionotify.storage.eviction import Limits, evict
from trionotify.storage.extent import Extent
from trionotify.storage.faults import damaged
from trionotify.storage.heads import Head
from trionotify.storage.moments import Move
from trionotify.storage.reading import damages, next_whole, read_rows
from trionotify.storage.recovery import Recovered, new_epoch, recover
from trionotify.storage.refusals import unfit, unstorable
from trionotify.storage.rows import MOMENT, TOTAL, Row, entry_of, insertion, row_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from trionotify.delivery.entry import Entry

__all__ = ["Durability", "SqliteStore", "new_epoch"]

#: By the number of rows, halved again and again. One statement for many rows is faster, and much more so
#: beside a busy loop, because the thread releases the interpreter once for each statement. (Some builds
#: of SQLite take 999 values at most.)
_INSERT: Final = {number: insertion(number) for number in (32, 16, 8, 4, 2, 1)}
_REPEATED: Final = "SELECT offset FROM entries WHERE publisher = ? AND source = ? AND id = ?"
_KEY: Final = "SELECT publisher, source, id FROM entries WHERE offset = ?"
_TAKE_BACK: Final = "DELETE FROM entries WHERE offset > ? AND offset <= ?"
#: The pages that a commit writes besides its entries.
_COMMIT: Final = 48 << 10


class SqliteStore:
    """A log's entries in a file. Made by `open`, owns the file until `close`.

    Every method but `refuses` and `restore` may block for the disk, and raises StoreError when the
    file can't be read or written.
    """

    def __init__(self, database: Database, recovered: Recovered, limits: Limits) -> None:
        self._database = database
        #: The state that was found when the file was opened.
        self.recovered: Recovered = recovered
        #: The current epoch.
        self.epoch: str = recovered.epoch
        self._extent = extent = recovered.extent
        #: The head when the file was opened. This process has stored the entries after it.
        self._opened_at = extent.head
        #: Moments behind this offset were noted by the clock that continues, or brought down to it.
        self._timed_from = recovered.timed_from
        #: The log's time as it was last given, the steady clock's at that time, and the unconfirmed
        #: seconds in it.
        self._told = extent.moment, steady(), 0.0
        #: Why the head couldn't be noted after the last commit.
        self._not_noted: StoreError | None = None
        #: Moments that are still to be moved.
        self._move: Move | None = None
        self._limits = limits
        # Half of what a row may have is left for how it is written: JSON, and the row's own numbers.
        row = database.connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        self._max_size = min(limits.max_bytes, row // 2)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "full",
        max_entries: int,
        max_bytes: int,
        max_age: float,
    ) -> Self:
        """Lock and open the file at `path`, or create it. Call `begin` next.

        It keeps at most `max_entries` entries, of `max_bytes` bytes altogether (`Entry.size`), for
        `max_age` seconds. The epoch is a new one if something that was acknowledged was lost, or may
        have been: `recovered` says why.

        Raises StoreError if there can be no such file, if another server has it, if it isn't a log, or
        if it is too damaged to be used. Then it is left as it is. Raises ValueError for another
        `durability`.
        """
        if durability not in ("full", "normal"):
            raise ValueError(f"durability: must be 'full' or 'normal', not {durability!r}")
        database = Database.open(os.path.realpath(path))
        try:
            # In this order, so that a damaged file is left as it is.
            recovered = recover(database, durability)
        except BaseException:
            database.close()
            raise
        return cls(database, recovered, Limits(max_entries, max_bytes, max_age))

    def begin(self, now: float, unconfirmed: float = 0.0) -> None:
        """Begin at the time `now`, in seconds since 1970.

        An entry from the future counts as appended now, because a clock was wrong then.
        """
        self._note(self._extent, now, unconfirmed, on_disk=True)
        if self._extent.moment > now:
            # A hole in the middle is found by its readers, and left as it is.
            with contextlib.suppress(StoreError):
                self._bring_down(-math.inf, now)
        # If damage prevents this, publishing will be refused, but intact entries can be read.
        with contextlib.suppress(StoreError):
            self.evict(self.head, now, unconfirmed)

    def close(self) -> None:
        """Record that nothing is missing, and close the file. May be called again.

        Never raises. If nothing can be written any more, the next start treats it as a crash.
        """
        with contextlib.suppress(StoreError):
            if self._move is not None and not self._move.down:
                self._finish()  # else the next process takes the rest for much older, and evicts it
        with contextlib.suppress(StoreError):
            epochs.end(self._database)
        self._database.close()

    @property
    def path(self) -> str:
        """The path of the file, with links resolved."""
        return self._database.path

    @property
    def head(self) -> int:
        """The offset of the newest entry that is committed, 0 before the first."""
        return self._extent.head

    @property
    def start(self) -> int:
        """The oldest offset that `read` accepts. Every entry behind it is kept."""
        return self._extent.start

    @property
    def bytes(self) -> int:
        """The size of all entries, by `Entry.size`."""
        return self._extent.total - self._extent.base

    def refuses(self, entry: Entry) -> StoreError | None:
        """Return the error if this entry can never be stored, in any state of the disk; None otherwise.

        Check this before `append`, where such an entry fails the whole group. Doesn't block. Any
        thread may call it.
        """
        return unstorable(entry, self._max_size, self.path)

    def append(
        self, entries: list[Entry], upto: int, now: float, unconfirmed: float = 0.0
    ) -> list[Entry]:
        """Append entries, all or none, and give each its offset; return those that are new.

        An entry that repeats one that is still kept, or an earlier one in the list, gets the offset of
        that one and isn't appended. Then the oldest are evicted as the limits require, none behind the
        offset `upto`. `now` may be any time. If it is before the newest entry's moment, that moment is
        used. The `unconfirmed` seconds of an entry's age don't count.
        """
        before = self._extent
        if self._not_noted is not None:
            self._note(before, now, unconfirmed)
            self._not_noted = None
        moment = float(max(now, before.moment))
        with self._database.writing() as connection:
            # Repetitions are rare, so they are looked for only when the index objects to one.
            rows, fresh, offsets = self._placed(entries, moment, lambda key: None)
            changes = connection.total_changes
            try:
                _insert(connection, rows)
            except sqlite3.IntegrityError:
                # What earlier statements have put there must go, too. A rollback would make a backup
                # that is under way start again.
                there = before.head + connection.total_changes - changes
                connection.execute(_TAKE_BACK, (before.head, there))
                rows, fresh, offsets = self._placed(entries, moment, partial(self._first, connection))
                _insert(connection, rows)
            extent = before
            if rows:
                extent = Extent(
                    before.start, before.head + len(rows), before.base, rows[-1][TOTAL], moment
                )
            move = self._move
            if move is not None:
                extent, move = moments.step(connection, extent, move)
            extent = evict(
                connection,
                self._limits,
                before,
                extent,
                upto=upto,
                now=now - unconfirmed,
                move=move,
            )
        self._extent, self._move = extent, move
        for entry, offset in zip(entries, offsets, strict=True):
            entry.offset = offset
        self._committed(before, now, unconfirmed)
        return fresh

    def _committed(self, before: Extent, now: float, unconfirmed: float) -> None:
        """Note the head, and merge the WAL, after a commit.

        An error is reported by the next commit, because this one is done.
        """
        extent = self._extent
        try:
            self._note(extent, now, unconfirmed)
        except StoreError as error:
            self._not_noted = error
        with contextlib.suppress(StoreError):
            written = extent.total - before.total + extent.base - before.base
            self._database.merge(_COMMIT + written)

    def _note(self, extent: Extent, now: float, unconfirmed: float, *, on_disk: bool = False) -> None:
        if math.isfinite(
            now
        ):  # else the clock was not read yet, and the next process continues from before
            self._told = now, steady(), unconfirmed
        moment, since_boot, unconfirmed = self._told
        head = Head(
            self.epoch,
            extent.head,
            extent.total,
            moment,
            since_boot,
            self.recovered.boot or "",
            self._timed_from,
            unconfirmed=unconfirmed,
        )
        self._database.note(head, on_disk=on_disk)

    def evict(self, upto: int, now: float, unconfirmed: float = 0.0) -> bool:
        """Evict the oldest entries, as the limits ask, none behind the offset `upto`.

        It does a bounded amount of work. If limits were lowered a lot between two runs, it may take
        several calls. Returns whether moments are left to be moved, for which it must be called again.
        """
        self.append([], upto, now, unconfirmed)
        return self._move is not None

    def shift(self, by: float, now: float) -> None:
        """Move the moments noted by a clock that is set by `by` seconds, to `now`.

        Later calls of `append` and `evict` do this in steps. New entries are noted by the clock as it is
        set then. If this raises, nothing is moved.
        """
        self._finish()  # an earlier one, which is all but done by now
        if by < 0:
            with self._database.reading() as connection:
                first = next_whole(connection, max(self._timed_from, self.start) + 1, self.head)
            noted = now - by if first is None else first[MOMENT]
            self._bring_down(by, min(now, noted + by))
        else:
            move = Move(by, 0.0, self._timed_from, self.head)
            # The head moves at once, because nothing after it may have an earlier moment.
            with self._database.writing() as connection:
                extent, rest = moments.step(connection, self._extent, move)
            self._extent, self._move = extent, rest
        self._told = now, steady(), 0.0

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
        """Raise StoreError if appending is known to fail. Cheap if the last write succeeded.

        After a failed write, this tries a small one.
        """
        self._database.check()

    def read(self, after: int, limit: int, max_bytes: int) -> list[Row]:
        """Return at most `limit` rows, and `max_bytes` of entries, after the offset `after`, in order.

        Returns at least one if there are any, and none if the next one was evicted. `restore` converts
        them to entries. Ends before a damaged row. Raises `Damaged` if that is the first one.
        """
        limit = min(limit, self.head - after)
        if limit <= 0 or after < self.start:
            return []
        with self._database.reading() as connection:
            return read_rows(connection, after, self.head, limit, max_bytes)

    def restore(self, row: Row) -> Entry:
        """Return the entry of a row, with its offset.

        It has its `origin` only if this process stored it, because keys of connections are only valid in
        one process. Doesn't block. Any thread may call it. Raises StoreError for an invalid row.
        """
        try:
            return entry_of(row, ours=row[0] > self._opened_at)
        except (TypeError, ValueError, AttributeError) as error:
            raise damaged(self.path, f"the entry at offset {row[0]}: {error}") from error

    def offset_at(self, moment: float) -> int:
        """Return the offset behind which everything was appended at `moment` or later."""
        with self._database.reading() as connection:
            key = partial(self._moment, connection)
            return self.start + bisect_left(range(self.start + 1, self.head + 1), moment, key=key)

    def _moment(self, connection: sqlite3.Connection, offset: int) -> float:
        """Return the moment of the entry at this offset, or if it is damaged, of the next one."""
        row = next_whole(connection, offset, self.head)
        if row is None:
            return math.inf
        moment: float = row[MOMENT]
        return moment if self._move is None else self._move.moved(row[0], moment)

    def newest(self, max_bytes: int) -> int:
        """Return the offset behind which the newest entries have at most `max_bytes` bytes together."""
        if self.bytes <= max_bytes:
            return self.start
        with self._database.reading() as connection:

            def total(offset: int) -> int:
                row = next_whole(connection, offset, self.head)
                return self._extent.total if row is None else int(row[TOTAL])

            offsets = range(self.start + 1, self.head + 1)
            return offsets[bisect_left(offsets, self._extent.total - max_bytes, key=total)]

    def damages(self) -> list[tuple[int, int]]:
        """Check all rows. Yield each stretch (after, upto] that is damaged. Takes long."""
        with self._database.reading() as connection:
            return list(damages(connection, self.start, self.head))

    def backup(self, destination: str, between: Callable[[], None], done: Callable[[], None]) -> None:
        """Copy the log to the file `destination`, which is replaced. Takes long.

        `between` is called between two steps, and `done` when only the wait for the disk remains. Inside
        `between`, and after `done`, the store may be used in another thread. If one of them raises, no
        copy is left behind.
        """
        self._database.backup(destination, between, done)

    def _placed(
        self, entries: list[Entry], moment: float, kept: Callable[[Hashable], int | None]
    ) -> tuple[list[Row], list[Entry], list[int]]:
        """Return the rows to store, the new entries, and the offsets of all. `kept` looks up keys."""
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
                try:
                    rows.append(row_of(entry, head, moment, total))
                except (TypeError, ValueError) as error:
                    raise unfit(self.path, error) from error
                fresh.append(entry)
                first = head
                if key is not None:
                    firsts[key] = head
            offsets.append(first)
        return rows, fresh, offsets

    def _first(self, connection: sqlite3.Connection, key: Hashable) -> int | None:
        """Return the offset of the entry with this key, or None if it isn't kept.

        The index answers that alone, and it has no checksum. If it is damaged, it may name another
        entry, and what is published would be acknowledged as a repetition of that, and lost.
        """
        found = connection.execute(_REPEATED, cast("tuple[str, str, str]", key)).fetchone()
        if found is None:
            return None
        offset = int(found[0])
        if connection.execute(_KEY, (offset,)).fetchone() != key:
            raise damaged(self.path, f"its index of repetitions is wrong about offset {offset}")
        return offset


def _insert(connection: sqlite3.Connection, rows: list[Row]) -> None:
    done = 0
    for number, statement in _INSERT.items():
        while len(rows) - done >= number:
            values = itertools.chain.from_iterable(rows[done : done + number])
            connection.execute(statement, tuple(values))
            done += number
