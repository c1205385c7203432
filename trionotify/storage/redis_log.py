"""A log that several servers, its *nodes*, share. It is a stream on Redis, with its end in memory.

    publishers ──channel──▶ the committer ──▶ Redis ──▶ the tail ──▶ the broadcast
                                    one script for       of each
                                    all that waits        node

**Appending and broadcasting.** A log in a file has one process, which broadcasts what it has committed.
Here others append as well. So a node broadcasts what it has *read*, in the order of Redis, whichever
node published it. This gives all nodes one order. Usually its *tail* reads, which waits for entries in
Redis. While the node itself publishes without a pause, its committer reads: each append also returns
what others have appended before, so the node needn't read back its own entries (`redis_reading`).

An entry of this node that the tail reads comes back as bytes, with a number by which it finds the
original entry, for which its publisher waits (`redis_in_flight`). So the broadcast gives the receipt, as
with every log, and the script's answer and the tail may arrive in any order. Only repetitions go to the
broadcast without being read, because they are in the log already.

**Losses** are described in `redis_link`. If a connection breaks, it isn't known whether the entries in
flight were appended, and their publishers are told so. They publish again with the same `id`, at any
node. The repetition is recognized for as long as the log keeps the first.

**Cursors** carry a part of the chain, which is compared when a client resumes. So a client from a node
on another primary, whose history differs from this one, is also told that it can't resume. If this node
has nothing in memory at that offset, it asks Redis (`look_up`). If a cursor is ahead of this node, the
client waits for the node.

Live clients, and those that are only a little behind, are served from memory. Others get `NotLoaded`,
load a page, and continue, as in `durable`.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, Self

import trio

from trionotify.delivery.counters import SECONDS, Histogram
from trionotify.delivery.log import Evicted, NotLoaded
from trionotify.delivery.memory_log import MemoryLog
from trionotify.delivery.renewal import BeganAgain, Left
from trionotify.errors import StoreError
from trionotify.storage.pages import Pages
from trionotify.storage.redis_checks import Checks
from trionotify.storage.redis_errors import Refusal, Unanswered
from trionotify.storage.redis_in_flight import InFlight
from trionotify.storage.redis_link import SERIOUS, RedisLink, Store, new_epoch
from trionotify.storage.redis_nodes import LEASE, Identity
from trionotify.storage.redis_reading import Beginning, Reading
from trionotify.storage.redis_rows import Stored, key_of, payload_of
from trionotify.storage.redis_state import Limits
from trionotify.storage.refusals import only_here, unstorable

if TYPE_CHECKING:
    from collections.abc import Callable

    from trionotify.delivery.entry import Entry
    from trionotify.delivery.publish_queue import Inbox
    from trionotify.delivery.sharing import Shelf
    from trionotify.model.cursor import Cursor
    from trionotify.settings import Settings
    from trionotify.storage.redis_state import Appended, Rows, State

__all__ = ["RedisDurability", "RedisLog"]

logger: logging.Logger = logging.getLogger("trionotify")

RedisDurability = Literal["primary", "replicated", "fsynced"]

#: The most entries in memory. A setting limits their bytes.
_TAIL: Final = 10_000
#: The most entries, and bytes on average, that are appended at a time.
_GROUP: Final = 1024
_GROUP_BYTES: Final = 2 << 20
#: The most entries that an append returns.
_ALONG: Final = 256
#: The most entries of a page.
_PAGE: Final = 128
#: Bytes of all pages that are kept.
_PAGES_BYTES: Final = 16 << 20
#: Seconds for which a client waits if its cursor is ahead of this node.
_PATIENCE: Final = 3.0
#: Seconds in which other servers must confirm an append.
_CONFIRMING: Final = 3.0


class RedisLog:
    """A log on Redis. Created by `open`, ended by `aclose`. The broadcast takes batches from it."""

    durable = True
    damage = None
    damaged_entries = 0

    def __init__(
        self, store: Store, state: State, settings: Settings, durability: str, name: str | None
    ) -> None:
        self.durability: str = durability
        self.commits: Histogram = Histogram(SECONDS)
        self.failed_commits: int = 0
        self._address = store.address
        self._limits = Limits(settings.max_log_entries, settings.max_log_bytes, settings.max_log_age)
        self._max_tail_bytes = settings.max_tail_bytes
        self._me = Identity.here(name)
        self._in_flight = InFlight()
        self._reading = Reading(store.address, state, self._me.process, self._in_flight)
        self._link = RedisLink(store, state, self._me, self._limits, self._reading)
        self.shelf: Shelf | None = self._link
        #: The application may use all of Trio's threads, so the thread here has a limiter of its own.
        self._parser = trio.CapacityLimiter(1)
        #: Set when the broadcast has advanced.
        self._moved = trio.Event()
        self._begin(state)

    @classmethod
    async def open(cls, store: Store, durability: str, settings: Settings, name: str | None) -> Self:
        """Open the log, or create it if it doesn't exist. Raises `StoreError`."""
        async with store.connect() as session:
            state = await session.beat(0, new_epoch(), b"", b"", 0.0)
        return cls(store, state, settings, durability, name)

    async def aclose(self) -> None:
        """Do nothing, because connections end with `run`."""
        await trio.lowlevel.checkpoint()

    # --- in memory, for the broadcast and for readers ---

    def _begin(self, state: State) -> None:
        """Continue at the head that Redis has now, with nothing in memory."""
        self.epoch: str = state.epoch
        self._tail = MemoryLog(
            max_entries=_TAIL,
            max_bytes=self._max_tail_bytes,
            max_age=math.inf,
            epoch=state.epoch,
            head=state.top,
        )
        self._pages = Pages(_PAGES_BYTES)
        self._checks = Checks()
        self._checks.note(state.start, state.edge)
        self._checks.note(state.top, state.chain)
        #: The newest offset that the broadcast has handed out. Entries up to it may be evicted.
        self._upto = state.top

    @property
    def count_clients(self) -> Callable[[], int]:
        """Returns the number of this node's clients."""
        return self._link.count_clients

    @count_clients.setter
    def count_clients(self, count: Callable[[], int]) -> None:
        self._link.count_clients = count

    @property
    def node(self) -> str:
        """This process's name among the nodes."""
        return self._me.name

    @property
    def nodes(self) -> list[dict[str, object]]:
        """The nodes that hold a lease, by name; this one as it is now."""
        return [node.members() for node in self._link.nodes]

    @property
    def tail_age(self) -> float:
        """Seconds since this node last had all entries."""
        return self._link.tail_age

    @property
    def problem(self) -> str | None:
        """Why nothing can be published at the moment; None if publishing works."""
        return self._link.problem.text

    @property
    def danger(self) -> str | None:
        """What endangers the log, in words, although it works; None if nothing is known."""
        return self._link.danger

    @property
    def renewed(self) -> str | None:
        """Why the epoch was renewed while this node ran, if it was."""
        return self._link.renewed

    @property
    def head(self) -> int:
        """The newest offset that the broadcast has."""
        return self._tail.head

    @property
    def start(self) -> int:
        """The offset behind which the stream starts, or the last one broadcast here if lower."""
        return min(self._link.start, self._upto)

    @property
    def bytes(self) -> int:
        """The size of the stream, by `Notification.size`, in the latest state from Redis."""
        return self._link.size

    def __len__(self) -> int:
        return self.head - self.start

    def is_whole_behind(self, offset: int) -> bool:
        """Return whether all entries after this offset are kept."""
        return offset >= self.start

    def read(self, after: int, limit: int) -> list[Entry]:
        """Return some entries after `after`, if they are in memory. See `Log.read`."""
        if after < self.start:
            raise Left if after < 0 else Evicted
        if after >= self._tail.start:
            return self._tail.read(after, limit)
        if found := self._pages.find(after, limit):
            return found
        raise NotLoaded(after)

    def evict(self, upto: int, now: float) -> None:
        """Evict from memory. (Redis evicts at each append, and at each heartbeat.)"""
        self._upto = upto
        self._tail.evict(upto, now)
        self._moved.set()

    def check(self, offset: int) -> str | None:
        """Return a part of the chain at this offset, or None if it isn't known here."""
        return self._checks.find(offset)

    # --- only in Redis ---

    async def load(self, after: int) -> None:
        """Load a page from Redis. A checkpoint. Raises `StoreError`.

        Several tasks that want the same page load it once. The page may be evicted afterwards, so the
        caller must read again.
        """
        await self._pages.load(max(after - after % _PAGE, self.start), after, self._page)

    async def _page(self, after: int) -> None:
        pages, checks = self._pages, self._checks
        rows = await self._link.read(_PAGE, partial(self._link.connected().page, after))
        # Parsing their audiences may take long.
        entries = await trio.to_thread.run_sync(self._all_restored, rows, limiter=self._parser)
        if pages is not self._pages:
            return  # the log began again meanwhile
        first = rows[0].offset if rows else self.head + 1
        if first != after + 1:  # what lay between was evicted
            self._link.start = max(self._link.start, first - 1)
            return
        if rows and rows[-1].offset != after + len(rows):
            # Another program has deleted some. A reader that gets there finds that they are gone.
            rows = [row for offset, row in enumerate(rows, first) if row.offset == offset]
        same = [checks.note(row.offset, row.chain) for row in rows]
        if not all(same):
            error = StoreError(503, f"{self._address}: the log is not the one that was read")
            self._link.drop(error)
            raise error
        pages.add(after, entries[: len(rows)])

    def _all_restored(self, rows: list[Stored]) -> list[Entry]:
        return [row.restored(self._me.process) for row in rows]

    async def look_up(self, cursor: Cursor) -> None:
        """Find the chain at a cursor for `check`, and wait until this node has broadcast up to it."""
        if not cursor.check:
            return  # it is from a log that isn't shared
        if cursor.epoch == self.epoch and cursor.offset <= self._upto and self.check(cursor.offset):
            return
        with trio.move_on_after(_PATIENCE) as patience:
            session, said = self._link.connected(), self._link.said()
            state = await session.beat(cursor.offset, new_epoch(), self._me.process, said, LEASE)
            if cursor.epoch != state.epoch or not state.start <= cursor.offset <= state.top:
                return  # it certainly can't be resumed
            while self.epoch != cursor.epoch or self._upto < cursor.offset:
                if self._moved.is_set():
                    self._moved = trio.Event()
                await self._moved.wait()
            if state.there is not None:
                self._checks.note(cursor.offset, state.there)
        if patience.cancelled_caught:
            raise StoreError(503, f"{self._address}: this node is behind; try again later")

    async def offset_at(self, moment: float) -> int:
        """See `Log.offset_at`. Raises `StoreError`."""
        return self._noted(*await self._link.connected().find(at=moment))

    async def offset_ago(self, seconds: float) -> int:
        """See `Log.offset_ago`. It goes by Redis' clock. Raises `StoreError`."""
        return self._noted(*await self._link.connected().find(ago=seconds))

    def _noted(self, offset: int, chain: str) -> int:
        if chain and self.start <= offset <= self._upto:
            self._checks.note(offset, chain)
        return offset

    # --- publishing ---

    def refusal(self, entry: Entry) -> Exception | None:
        """Return the error if this entry can't be kept, or None."""
        return only_here(entry) or unstorable(entry, self._limits.bytes, self._address)

    async def run(
        self, inbox: Inbox, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Append published entries, and read the log, until the inbox is closed and empty."""
        self._in_flight.settle = inbox.settle
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._link.run, name="trionotify: link to the log")
            await self._link.tried.wait()
            task_status.started()
            with self._reading.send_batch:
                entries: list[Entry] = []
                before = 0
                while True:
                    # While the broadcast is busy, publishers are held back. At most two groups are in
                    # flight: this one and the one before.
                    await self._in_flight.read(before)
                    try:
                        entries = await inbox.take_all(hoped=len(entries))
                    except trio.EndOfChannel:
                        break
                    before = self._in_flight.newest
                    size = sum([entry.size for entry in entries])
                    most = max(1, min(_GROUP, _GROUP_BYTES * len(entries) // size))
                    for start in range(0, len(entries), most):
                        await self._commit(entries[start : start + most])
                await self._in_flight.read(self._in_flight.newest)
                await self._link.leave()
                # Before the channel is closed, in which the tail may wait for the broadcast.
                nursery.cancel_scope.cancel()

    async def _commit(self, entries: list[Entry]) -> None:
        """Append a group, and hand it out if the tail rests. Otherwise the tail reads and does it."""
        sent = self._in_flight.add(entries)
        try:
            if self.problem is not None:
                raise StoreError(503, self.problem)
            rows = [
                (payload_of(entry, self._me.process, number), entry.size, key_of(entry))
                for number, entry in sent.items()
            ]
            with self._reading.along(self._may_read_along()) as along:
                appended = await self._append(sent, rows, _ALONG if along else 0)
                if along:
                    await self._take_appended(appended, sent, rows)
            repeated = []
            for (number, entry), first in zip(sent.items(), appended.firsts, strict=True):
                if first is not None:
                    entry.offset, chain = first
                    self._checks.note(entry.offset, chain)
                    repeated.append(number)
            if repeated:
                await self._reading.repeat(repeated)
        except Exception as failure:
            error = _said(failure, self._address)
            self.failed_commits += 1
            if isinstance(error, Unanswered) or (isinstance(error, Refusal) and error.code in SERIOUS):
                self._link.drop(error)
            else:
                self._link.problem.note(error)
            self._in_flight.refuse(sent, error)
        except BaseException:
            # When this is cancelled, a publisher must not wait for its receipt for ever.
            self._in_flight.refuse(sent, None)
            raise

    def _may_read_along(self) -> bool:
        """Return whether an append may return entries, too.

        Not if a confirmation would hold up the tail meanwhile, and not if entries are large. Other nodes
        need time to read these, so their publishers are held back until this node has read them.
        """
        return self.durability == "primary" and self._link.most >= _ALONG

    async def _append(self, sent: dict[int, Entry], rows: Rows, most: int) -> Appended:
        """Append, and wait for the confirmation that `durability` asks for.

        The answer also has what others have appended before, at most `most` entries.
        """
        session, reading = self._link.connected(), self._reading
        begun = trio.current_time()
        if self.durability != "primary":
            self._in_flight.hold(sent)
        try:
            appended = await session.append(reading.epoch, self._limits, rows, reading.at, most)
            self._link.start, self._link.size = appended.start, appended.size
            if self.durability != "primary" and not await session.confirmed(
                self.durability, _CONFIRMING
            ):
                self._leave_open(sent, f"not {self.durability} within {_CONFIRMING:g} seconds")
        finally:
            self._in_flight.release(sent)
        self.commits.add(trio.current_time() - begun)
        return appended

    async def _take_appended(self, appended: Appended, sent: dict[int, Entry], rows: Rows) -> None:
        try:
            await self._reading.take_appended(appended, sent, rows)
        except StoreError as error:
            raise Unanswered(error.detail) from None  # the rows are in a log, but perhaps in another one

    def _leave_open(self, sent: dict[int, Entry], why: str) -> None:
        """Refuse the receipts of entries that are in the log, and are broadcast, but may be lost."""
        error = Unanswered(f"{self._address}: {why}")
        for entry in sent.values():
            if entry.pending:
                entry.pending.refuse(error)
                entry.pending = None

    async def take(self, inbox: Inbox) -> tuple[list[Entry], list[Entry]]:
        """Wait for the next batch that was read. Raises `BeganAgain`."""
        batch = await self._reading.batches.receive()
        if isinstance(batch, Beginning):
            before = self.epoch
            self._begin(batch.state)
            raise BeganAgain(before)
        self._tail.append(batch.fresh, 0.0)
        for entry, chain in zip(batch.fresh, batch.chains, strict=True):
            self._checks.note(entry.offset, chain)
        return batch.own, batch.fresh


def _said(failure: Exception, place: object) -> StoreError:
    """Return the error that publishers get. No failure of the log may end the server."""
    if isinstance(failure, StoreError):
        return failure
    logger.error("the log failed", exc_info=failure, extra={"event": "log_failed"})
    return Unanswered(f"{place}: the log failed; see the server's log")
