"""A durable log. A file holds all of it, and memory its newest end.

    publishers ──channel──▶ the committer ──▶ the broadcast
                              │    one commit for all that waits
                              ▼
                            the file      one worker thread at a time

The committer, a task, takes all entries that wait, lets a worker thread commit them, and hands them to
the broadcast. It commits the next group while the broadcast hands out the previous one. So no client
ever sees an entry that might still be lost. A publisher gets its receipt after both.

Live clients, and clients that are only a little behind, are served from memory. A reader that is
further back gets `NotLoaded`, loads a page, and continues. Because there is one worker thread, at most
one page is loaded between two commits, so a reader far back does not delay the others.

Entries that the file can't take are refused, with the reason, and nothing is changed. The next group
tries again, so the log recovers by itself when the fault goes away.

Damage in the file is noticed when it is read. The first reader that comes upon it makes it
known, and each is told of the gap and reads on behind it.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import trio

from trionotify.delivery.counters import SECONDS, Histogram
from trionotify.delivery.entry import Entry
from trionotify.delivery.log import Damaged, Evicted, NotLoaded
from trionotify.delivery.memory_log import MemoryLog
from trionotify.delivery.sharing import Alone
from trionotify.errors import StoreError
from trionotify.storage import sharing
from trionotify.storage.backups import Backups
from trionotify.storage.clock import LogClock
from trionotify.storage.control import serve_control
from trionotify.storage.damage import Losses
from trionotify.storage.pages import Pages
from trionotify.storage.recovery import clock_of
from trionotify.storage.refusals import Problem, only_here, refuse
from trionotify.storage.sqlite import Durability, SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trionotify.delivery.publish_queue import Inbox
    from trionotify.settings import Settings

__all__ = ["DurableLog"]

logger: logging.Logger = logging.getLogger("trionotify")

Result = TypeVar("Result")

#: The most entries in memory. A setting limits their bytes.
_TAIL: Final = 10_000
#: The most entries, and bytes, of a page.
_PAGE: Final = 128
_PAGE_BYTES: Final = 1 << 20
#: The most bytes of all pages that are kept.
_PAGES_BYTES: Final = 16 << 20
#: The most entries that eviction drops at a time. If it drops this many, there are more.
_STEP: Final = 500
#: The most damaged stretches that are logged. Metrics count all.
_NAMED: Final = 100
#: Seconds between two rounds of maintenance while nothing is published.
_INTERVAL: Final = 5.0


class DurableLog(Alone):
    """A log in a file. Made by `open`, which reads the newest end; ended by `aclose`."""

    durable = True

    def __init__(self, store: SqliteStore, tail: MemoryLog, clock: LogClock | None = None) -> None:
        self.epoch: str = store.epoch
        #: Why nothing can be published at the moment.
        self._problem = Problem()
        self.commits: Histogram = Histogram(SECONDS)
        self.failed_commits: int = 0
        self._store = store
        self._tail = tail
        self._clock = clock or LogClock()
        self._pages = Pages(_PAGES_BYTES)
        self._losses = Losses()
        #: The newest offset that the broadcast has handed out. Entries up to it may be evicted.
        self._upto = tail.head
        self._thread = trio.CapacityLimiter(1)
        #: One loading task at a time waits for the thread, so commits have it every other time.
        self._loader = trio.CapacityLimiter(1)
        #: The application may use all of Trio's threads, so each thread here has a limiter of its own.
        self._parser = trio.CapacityLimiter(1)
        self._backups = Backups(store, self._thread)
        # The channel has no buffer, so the committer waits while the broadcast is busy.
        self._commits, self._committed = trio.open_memory_channel[tuple[list[Entry], list[Entry]]](0)

    @classmethod
    async def open(cls, path: str, durability: Durability, settings: Settings) -> Self:
        """Open or create the file. Raises `StoreError`. If cancelled, it is not open."""
        return await trio.to_thread.run_sync(cls._open, path, durability, settings)

    @classmethod
    def _open(cls, path: str, durability: Durability, settings: Settings) -> Self:
        store = SqliteStore.open(
            path,
            durability=durability,
            max_entries=settings.max_log_entries,
            max_bytes=settings.max_log_bytes,
            max_age=settings.max_log_age,
        )
        try:
            # This comes first, so that if this process is killed meanwhile, the next one has the same
            # doubts.
            damages = _looked_through(store) if store.recovered.doubtful else []
            clock = clock_of(store.recovered)
            store.begin(clock.now(), clock.unconfirmed())
            log = cls(store, _tail_of(store, settings.max_tail_bytes), clock)
            log._say_what_was_found(damages)
        except BaseException:
            store.close()
            raise
        return log

    def _say_what_was_found(self, damages: list[tuple[int, int]]) -> None:
        recovered = self._store.recovered
        if recovered.renewed is not None:
            logger.error(
                "%s: something was lost: %s; the log has a new epoch, and clients reload their state",
                self._store.path,
                recovered.renewed,
                extra={"event": "epoch_renewed", "reason": recovered.renewed},
            )
        if (danger := sharing.warning(self._store.path)) is not None:
            logger.warning("%s", danger, extra={"event": "shared_file", "reason": danger})
        for after, upto in damages:
            self._lose(after, upto)

    async def aclose(self) -> None:
        """Close the file. A checkpoint. If cancelled, a thread closes it later, and a line says so."""
        # The application may use all of Trio's threads, so this one has a limiter of its own.
        limiter = trio.CapacityLimiter(1)
        try:
            await trio.to_thread.run_sync(self._store.close, abandon_on_cancel=True, limiter=limiter)
        except trio.Cancelled:
            logger.warning(
                "%s: not closed yet, because the disk is slow; no server can open it until it is closed",
                self._store.path,
                extra={"event": "log_closes_late"},
            )
            raise

    # --- what is in memory ---

    @property
    def head(self) -> int:
        """The newest offset that the broadcast has."""
        return self._tail.head

    @property
    def start(self) -> int:
        """The offset behind which the file begins."""
        return self._store.start

    @property
    def bytes(self) -> int:
        """The size of the file's entries, by `Notification.size`."""
        return self._store.bytes

    def __len__(self) -> int:
        return self.head - self.start

    @property
    def problem(self) -> str | None:
        """Why nothing can be published at the moment, in words; None if publishing works."""
        return self._problem.text

    @property
    def damage(self) -> str | None:
        """The damage that readers have found, in words; None without any."""
        return f"{self._store.path}: damaged at the offsets {self._losses}" if self._losses else None

    @property
    def damaged_entries(self) -> int:
        """The number of entries that readers have found damaged."""
        return len(self._losses)

    @property
    def renewed(self) -> str | None:
        """Why the epoch was renewed when the file was opened, if it was."""
        return self._store.recovered.renewed

    def is_whole_behind(self, offset: int) -> bool:
        """Return whether everything behind this offset is kept, and none of it was found damaged."""
        return offset >= self.start and not self._losses.any_behind(offset)

    def read(self, after: int, limit: int) -> list[Entry]:
        """Return some entries behind `after`, if they are in memory. See `Log.read`."""
        if after < self.start:
            raise Evicted
        if after >= self._tail.start:
            return self._tail.read(after, limit)
        if (upto := self._losses.upto(after)) is not None:
            raise Damaged(after, upto)
        if found := self._pages.find(after, limit):
            return found
        raise NotLoaded(after)

    def evict(self, upto: int, now: float) -> None:
        """Evict from memory at once, and from the file with the next commit or a little later."""
        self._upto = upto
        self._tail.evict(upto, now)
        self._losses.forget(self.start)

    # --- what is in the file ---

    async def load(self, after: int) -> None:
        """Load a page from the file. A checkpoint. Raises `StoreError`.

        Several tasks that want the same page load it once. It may be evicted afterwards, so the
        caller must read again.
        """
        await self._pages.load(max(after - after % _PAGE, self.start), after, self._page)

    async def _page(self, after: int) -> None:
        async with self._loader:
            try:
                rows = await self._in_thread(self._store.read, after, _PAGE, _PAGE_BYTES)
            except Damaged as damage:
                self._lose(damage.after, damage.upto)
                return
            # Parsing audiences may take seconds, so it happens neither in Trio's thread nor in the
            # store's.
            entries = await self._beside(_all_restored, self._store, rows)
        if entries:  # else they were evicted meanwhile
            self._pages.add(after, entries)

    def _lose(self, after: int, upto: int) -> None:
        if self._losses.add(after, upto) and self._losses.stretches <= _NAMED:
            logger.error(
                "%s: damaged; the notifications with the offsets %d to %d can't be read any more",
                self._store.path,
                after + 1,
                upto,
                extra={"event": "log_damaged", "from": after + 1, "to": upto},
            )

    async def offset_at(self, moment: float) -> int:
        """See `Log.offset_at`. Raises `StoreError`."""
        return await self._in_thread(self._store.offset_at, moment)

    async def offset_ago(self, seconds: float) -> int:
        """See `Log.offset_ago`. Raises `StoreError`."""
        return await self._in_thread(lambda: self._store.offset_at(self._clock.now() - seconds))

    async def _beside(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that doesn't need the file, in another thread. Commits continue meanwhile."""
        return await trio.to_thread.run_sync(function, *arguments, limiter=self._parser)

    async def _in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function of the store in its thread. Once begun, it is awaited even if cancelled."""
        return await trio.to_thread.run_sync(function, *arguments, limiter=self._thread)

    async def _timed(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function of the store with the log's time, and the unconfirmed seconds in it."""
        clock = self._clock
        return await self._in_thread(lambda: function(*arguments, clock.now(), clock.unconfirmed()))

    async def backup(self, destination: str) -> int:
        """Copy all of the log to the file `destination`; return the newest offset in it.

        Commits continue meanwhile. Raises StoreError. If cancelled, there is no copy.
        """
        return await self._backups.make(destination)

    # --- what is published ---

    def refusal(self, entry: Entry) -> Exception | None:
        """Return the error if this entry can't be kept, or None."""
        return only_here(entry) or self._store.refuses(entry)

    async def run(
        self, inbox: Inbox, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Commit published entries until the inbox is closed and empty."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_after, name="trionotify: care of the log")
            control = partial(serve_control, self._store.path, self.backup)
            nursery.start_soon(control, name="trionotify: backups on request")
            task_status.started()
            with self._commits:
                await self._commit_all(inbox)
            nursery.cancel_scope.cancel()

    async def _commit_all(self, inbox: Inbox) -> None:
        entries: list[Entry] = []
        while True:
            try:
                entries = await inbox.take_all(hoped=len(entries))
            except trio.EndOfChannel:
                return
            try:
                fresh = await self._append(entries)
                await self._commits.send((entries, fresh))
            except StoreError as error:
                refuse(entries, error)
                inbox.settle(len(entries))
            except BaseException:
                # When this is cancelled, a task that waits for a receipt must not wait for ever.
                refuse(entries, None)
                raise

    async def _append(self, entries: list[Entry]) -> list[Entry]:
        begun = trio.current_time()
        with self._noting():
            try:
                fresh = await self._timed(self._store.append, entries, self._upto)
            except StoreError:
                raise
            except Exception:
                # The boundary of the process: an error of the file must not stop the server.
                logger.exception("the log failed", extra={"event": "log_failed"})
                raise StoreError(503, "the log failed; see the server's log") from None
        self.commits.add(trio.current_time() - begun)
        for entry in fresh:
            # The file recognizes repetitions, so the tail need not.
            entry.key = None
        return fresh

    async def take(self, inbox: Inbox) -> tuple[list[Entry], list[Entry]]:
        """Wait for the next committed group; return it, and those of its entries that are new."""
        entries, fresh = await self._committed.receive()
        assert not fresh or fresh[0].offset == self._tail.head + 1, "the tail goes on where it ended"
        self._tail.append(fresh, 0.0)
        return entries, fresh

    # --- its health ---

    async def _look_after(self) -> None:
        """Evict by age and check for faults and clock jumps, also while nothing is published."""
        while True:
            await trio.sleep(_INTERVAL)
            with suppress(StoreError), self._noting():
                await self._in_thread(self._store.check)
                # This is one call, because the time noted by an append in between would be moved twice.
                await self._in_thread(self._clock.take_over, self._store.shift)
                dropped, more = _STEP, False
                while more or dropped >= _STEP:
                    before = self.start
                    more = await self._timed(self._store.evict, self._upto)
                    dropped = self.start - before

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Update `problem` from the outcome of the block."""
        try:
            yield
        except StoreError as error:
            self.failed_commits += 1
            self._problem.note(error)
            raise
        self._problem.solved()


def _looked_through(store: SqliteStore) -> list[tuple[int, int]]:
    logger.warning(
        "%s: the disk has failed before, so all %d notifications are checked before the server listens",
        store.path,
        store.head - store.start,
        extra={"event": "checking", "count": store.head - store.start},
    )
    return store.damages()


def _tail_of(store: SqliteStore, max_bytes: int) -> MemoryLog:
    """Return the newest end of the file, behind any damage there."""
    rows: list[Any] = []
    at = max(store.newest(max_bytes), store.head - _TAIL)
    while at < store.head:
        try:
            rows += store.read(at, store.head - at, max_bytes)
            at = rows[-1][0]
        except Damaged as damage:
            rows, at = [], damage.upto
    tail = MemoryLog(
        max_entries=_TAIL,
        max_bytes=max_bytes,
        max_age=math.inf,
        epoch=store.epoch,
        head=store.head - len(rows),
    )
    tail.append(_all_restored(store, rows), 0.0)
    assert tail.head == store.head, "the tail ends where the file does"
    return tail


def _all_restored(store: SqliteStore, rows: list[Any]) -> list[Entry]:
    return [_restored(store, row) for row in rows]


def _restored(store: SqliteStore, row: Any) -> Entry:
    entry = store.restore(row)
    entry.key = None
    return entry
