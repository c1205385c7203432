"""The log in memory, which ends with the process. A durable log has one for its newest end.

It runs no task. Only the broadcast's task appends; any task may read.
"""

from __future__ import annotations

import secrets
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import trio

from trionotify.delivery.counters import SECONDS, Histogram
from trionotify.delivery.log import Evicted
from trionotify.delivery.sharing import Alone

if TYPE_CHECKING:
    from collections.abc import Hashable

    from trionotify.delivery.entry import Entry
    from trionotify.delivery.publish_queue import Inbox

__all__ = ["MemoryLog"]

#: The newest entries keep their frames, up to this many bytes of entries, because clients on slow
#: networks read the same frames a little later. Frames come in addition to the bounds of the log. An
#: entry has at least 800 bytes, so the 10,000 small ones that a log keeps by default all keep their
#: frames. Visiting each again would take longer than freeing its frames together with it.
FRAMES_KEPT: Final = 16 << 20


class MemoryLog(Alone):
    """A log in memory. `open_log` or a durable log creates it.

    It is bounded by count, by bytes (`Notification.size`) and by age in seconds. An entry is never
    evicted before it was broadcast. The caller says how far that is.

    Entries are in a list in order. Evicted places are blanked at once, and removed once there are as
    many as entries. So appending and evicting take constant time.
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
        #: The size of all entries, in the bytes of `Notification.size`.
        self.bytes: int = 0
        #: Always empty.
        self.commits: Histogram = Histogram(SECONDS)
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._entries: list[Entry | None] = []
        #: The offsets of entries that can be repeated, by key.
        self._offsets: dict[Hashable, int] = {}
        self._blank = 0  # how many places at the front are blank
        self._young = 0  # the size of the entries that keep their frames
        self._old = head  # the offset up to which entries don't

    @property
    def start(self) -> int:
        """The oldest offset to read after. All entries behind it are kept."""
        return self.head - len(self)

    def __len__(self) -> int:
        return len(self._entries) - self._blank

    async def run(
        self, inbox: Inbox, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Return at once, because there is nothing to do beside the broadcast."""
        task_status.started()
        await trio.lowlevel.checkpoint()

    def is_whole_behind(self, offset: int) -> bool:
        """Return whether everything behind this offset is kept."""
        return offset >= self.start

    def refusal(self, entry: Entry) -> None:
        """Refuse nothing."""

    async def take(self, inbox: Inbox) -> tuple[list[Entry], list[Entry]]:
        """Wait for entries and append them."""
        entries = await inbox.take_all()
        return entries, self.append(entries, trio.current_time())

    def append(self, entries: list[Entry], now: float) -> list[Entry]:
        """Append entries at the time `now` and give each its offset; return those that are new.

        An entry that repeats one that is still kept gets the offset of that one and isn't appended.
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
        """Return at most `limit` entries behind `after`. Raises `Evicted` if they are gone."""
        if after < self.start:
            raise Evicted
        at = len(self._entries) - (self.head - after)
        return self._entries[at : at + limit]  # type: ignore[return-value] # no blanks from `start` on

    async def load(self, after: int) -> None:
        """Do nothing, because everything is in memory. A checkpoint."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Release nothing. A checkpoint."""
        await trio.lowlevel.checkpoint()

    async def offset_at(self, moment: float) -> int:
        """Return the offset behind which is the first entry of this time (since 1970) or later."""
        # Both clocks are read at one moment, before the checkpoint. The steady clock is read first, so
        # that an entry of just this time counts.
        return await self._offset_from(trio.current_time() - (time.time() - moment))

    async def offset_ago(self, seconds: float) -> int:
        """Return the offset behind which is the first entry that is at most `seconds` old."""
        return await self._offset_from(trio.current_time() - seconds)

    async def _offset_from(self, at: float) -> int:
        """Return the offset behind which is the first entry of Trio's time `at` or later."""
        await trio.lowlevel.checkpoint()
        entries = self._entries
        first = bisect_left(entries, at, lo=self._blank, key=lambda entry: entry.at)  # type: ignore[union-attr] # no blanks from there
        return self.head - len(entries) + first

    def evict(self, upto: int, now: float) -> None:
        """Drop the oldest entries as the bounds require, none behind `upto`, and old frames."""
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
        """Keep only the frames of the youngest entries."""
        young, at = self._young, self._old - self.head
        while young > FRAMES_KEPT:
            entry = self._entries[at]
            assert entry is not None  # an evicted entry counts as old, so young ones aren't blank
            entry.forget_frames()
            young -= entry.size
            at += 1
        self._young, self._old = young, at + self.head
