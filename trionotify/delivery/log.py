"""The log: the one ordered, bounded sequence of notifications.

It is fed by the memory channel, and only the broadcast task takes from it what is new; everyone may
read. An *offset* counts the notifications of one life of the log, its *epoch*; `epoch:offset` is a
*cursor* and means "resume after here". Offsets grow, and are compared but never counted: a log may skip
some.

`Log` is the seam where the hub meets what keeps its notifications. Here is the one in memory; what
outlives the process is in `storage`.
"""

from __future__ import annotations

import secrets
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, Protocol

import trio

from trionotify.delivery.counters import SECONDS, Histogram

if TYPE_CHECKING:
    from collections.abc import Hashable

    from trionotify.delivery.entry import Entry
    from trionotify.delivery.publish_queue import Inbox

__all__ = ["Damaged", "Evicted", "Log", "MemoryLog", "NotLoaded"]


#: Frames are kept on the newest entries that together weigh this many bytes: every burst sends those
#: who are far away back a little. They come on top of what the log is bounded by. An entry weighs 800
#: bytes at least, so 10,000 small ones, which is all that the log keeps by default, never are old here:
#: to look at each of them once more takes longer than to free its frames together with it.
FRAMES_KEPT: Final = 16 << 20


class Evicted(Exception):
    """What should be read next is not kept any more."""

    #: Why a client that can't be told of the gap is closed.
    reason = "slow"


class Damaged(Exception):
    """Nothing in (`after`, `upto`] can be read any more; what is behind it can."""

    reason = "damaged"

    def __init__(self, after: int, upto: int) -> None:
        super().__init__(after, upto)
        self.after = after
        self.upto = upto


class NotLoaded(Exception):
    """What stands behind the offset `after` is kept, but not in memory: `await log.load(after)`."""

    def __init__(self, after: int) -> None:
        super().__init__(after)
        self.after = after


class Log(Protocol):
    """What the hub needs of a log."""

    epoch: str
    #: An acknowledgement is worth something: what was accepted outlives the process. Publishing then
    #: waits until it has been.
    durable: bool
    #: Seconds of each commit, and how many failed.
    commits: Histogram
    failed_commits: int

    @property
    def head(self) -> int:
        """The offset of the newest entry that `take` has given."""

    @property
    def start(self) -> int:
        """The oldest offset to read after: everything behind it is kept."""

    @property
    def bytes(self) -> int:
        """What is held, by `Notification.size`."""

    def __len__(self) -> int: ...

    @property
    def problem(self) -> str | None:
        """Why it takes no entries at the moment, in words; None when it does."""

    @property
    def damage(self) -> str | None:
        """What of it can't be read any more, in words; None if nothing is known to be damaged."""

    @property
    def damaged_entries(self) -> int:
        """How many entries that is."""

    @property
    def renewed(self) -> str | None:
        """Why it began with a new epoch, though it isn't a new log; None if it didn't."""

    def is_whole_behind(self, offset: int) -> bool:
        """Whether everything behind this offset can be read, as far as is known."""

    def refusal(self, entry: Entry) -> Exception | None:
        """Why it will never take this entry, or None."""

    async def run(
        self, inbox: Inbox, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Do what must be done beside the broadcast, until the inbox is closed and empty."""

    async def take(self, inbox: Inbox) -> tuple[list[Entry], list[Entry]]:
        """Wait for what has been published next: all of it, and of that what is no repetition.

        Every entry has its offset, and what is no repetition can be read. Raises `trio.EndOfChannel`
        at the end.
        """

    def read(self, after: int, limit: int) -> list[Entry]:
        """Some entries behind the offset `after`, at most `limit`; none at the head.

        Raises `Evicted` when they are gone, `Damaged` when they can't be read any more, `NotLoaded` when
        they must be loaded first.
        """

    async def load(self, after: int) -> None:
        """Let `read` have what stands behind `after`. A checkpoint."""

    async def offset_at(self, moment: float) -> int:
        """The offset behind which everything was taken at this time of day, or later."""

    async def offset_ago(self, seconds: float) -> int:
        """The offset behind which everything was taken within the last so many seconds.

        By the log's own clock: the wall clock may have been set meanwhile.
        """

    def evict(self, upto: int, now: float) -> None:
        """Drop what the bounds ask, none behind the offset `upto`. `now` is Trio's."""

    async def aclose(self) -> None:
        """Let go of everything, when `run` is over. A checkpoint."""


class MemoryLog:
    """A log in memory: gone with the process, and cheap.

    Bounded by count, by bytes (`Notification.size`) and by age in seconds. Nothing is evicted that has
    not been broadcast: the caller says up to where that is.

    Entries lie in a list in order, so appending, finding and evicting take constant time: evicted places
    are blanked at once, and cut off when they are as many as what is left.
    """

    durable = False
    problem = None
    failed_commits = 0
    damage = None
    damaged_entries = 0
    renewed = None

    def __init__(
        self,
        *,
        max_entries: int,
        max_bytes: int,
        max_age: float,
        epoch: str | None = None,
        head: int = 0,
    ) -> None:
        self.epoch: str = epoch or secrets.token_hex(6)
        #: The offset of the newest entry, 0 before the first.
        self.head: int = head
        #: Bytes held, by `Notification.size`.
        self.bytes: int = 0
        #: There are none.
        self.commits: Histogram = Histogram(SECONDS)
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._entries: list[Entry | None] = []
        #: Where what can be repeated stands.
        self._offsets: dict[Hashable, int] = {}
        self._blank = 0  # how many of them, from the front, are evicted
        self._young = 0  # bytes of the entries whose frames are kept
        self._old = head  # the offset up to which they aren't

    @property
    def start(self) -> int:
        """The oldest offset to read after: everything behind it is kept."""
        return self.head - len(self)

    def __len__(self) -> int:
        return len(self._entries) - self._blank

    async def run(
        self, inbox: Inbox, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """There is nothing to do beside the broadcast."""
        task_status.started()
        await trio.lowlevel.checkpoint()

    def is_whole_behind(self, offset: int) -> bool:
        """Whether everything behind this offset is kept."""
        return offset >= self.start

    def refusal(self, entry: Entry) -> None:
        """It takes everything."""

    async def take(self, inbox: Inbox) -> tuple[list[Entry], list[Entry]]:
        """Append all that waits."""
        entries = await inbox.take_all()
        return entries, self.append(entries, trio.current_time())

    def append(self, entries: list[Entry], now: float) -> list[Entry]:
        """Append entries at the moment `now`, and give each its offset; return those that are new.

        One that repeats what is still kept has that one's offset, and is not appended.
        """
        size, offset = 0, self.head
        fresh: list[Entry] = []
        for entry in entries:
            if entry.key is not None:
                first = self._offsets.setdefault(entry.key, offset + 1)
                if first <= offset:
                    entry.offset = first
                    continue
            offset += 1
            entry.offset, entry.at = offset, now
            size += entry.size
            fresh.append(entry)
        self._entries += fresh
        self.head = offset
        self.bytes += size
        self._young += size
        return fresh

    def read(self, after: int, limit: int) -> list[Entry]:
        """At most `limit` entries behind the offset `after`; raises Evicted when they are gone."""
        if after < self.start:
            raise Evicted
        at = len(self._entries) - (self.head - after)
        return self._entries[at : at + limit]  # type: ignore[return-value] # no blanks from `start` on

    async def load(self, after: int) -> None:
        """Everything is in memory."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """There is nothing to let go of."""
        await trio.lowlevel.checkpoint()

    async def offset_at(self, moment: float) -> int:
        """Where the first entry of that time of day, or later, is the next one."""
        return await self.offset_ago(time.time() - moment)

    async def offset_ago(self, seconds: float) -> int:
        """Where the first entry that is no older than this is the next one."""
        await trio.lowlevel.checkpoint()
        at = trio.current_time() - seconds
        entries = self._entries
        first = bisect_left(entries, at, lo=self._blank, key=lambda entry: entry.at)  # type: ignore[union-attr] # no blanks from there
        return self.head - len(entries) + first

    def evict(self, upto: int, now: float) -> None:
        """Drop the oldest entries, as the bounds ask, none behind the offset `upto`; and old frames."""
        self._forget_frames()
        entries, at, size = self._entries, self._blank, self.bytes
        too_many = len(self) - self._max_entries
        too_old = now - self._max_age
        while at < len(entries):
            oldest = entries[at]
            assert oldest is not None  # blanks are only in front of `_blank`
            if oldest.offset > upto or not (
                too_many > 0 or size > self._max_bytes or oldest.at < too_old
            ):
                break
            entries[at] = None
            at += 1
            too_many -= 1
            size -= oldest.size
            if oldest.key is not None:
                del self._offsets[oldest.key]
            if oldest.offset > self._old:
                self._old = oldest.offset
                self._young -= oldest.size
        self._blank, self.bytes = at, size
        if self._blank * 2 > len(self._entries):
            del self._entries[: self._blank]
            self._blank = 0

    def _forget_frames(self) -> None:
        """Keep the frames of the youngest entries only."""
        young, at = self._young, self._old - self.head
        while young > FRAMES_KEPT:
            entry = self._entries[at]
            assert entry is not None  # young ones are evicted after this, and then they are old
            entry.forget_frames()
            young -= entry.size
            at += 1
        self._young, self._old = young, at + self.head
