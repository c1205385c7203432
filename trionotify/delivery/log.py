"""The log: the one ordered, bounded sequence of notifications.

The memory channel feeds it. Only the broadcast takes new entries; any task may read. An *offset*
numbers the notifications of one life of the log, its *epoch*. `epoch:offset` is a *cursor* and means
"resume after here". Offsets grow but may have gaps, so they are compared and never counted.

`Log` is the interface between the hub and a store: memory (`memory_log`), a file or Redis (`storage`).
`sharing` has the part of it that is about logs that several servers share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from trionotify.delivery.sharing import Shared

if TYPE_CHECKING:
    from trionotify.delivery.counters import Histogram
    from trionotify.delivery.entry import Entry
    from trionotify.delivery.publish_queue import Inbox

__all__ = ["Damaged", "Evicted", "Log", "NotLoaded"]


class Evicted(Exception):
    """The next entry is no longer kept."""

    #: The reason in the Close frame of a client whose format can't report the gap.
    reason = "slow"


class Damaged(Exception):
    """No entry in (`after`, `upto`] can be read any more. Entries behind `upto` can."""

    reason = "damaged"

    def __init__(self, after: int, upto: int) -> None:
        super().__init__(after, upto)
        self.after = after
        self.upto = upto


class NotLoaded(Exception):
    """The entries behind the offset `after` are kept, but not in memory: `await log.load(after)`."""

    def __init__(self, after: int) -> None:
        super().__init__(after)
        self.after = after


class Log(Shared, Protocol):
    """The interface that the hub needs of a log. `open_hub` opens it and closes it."""

    #: Changes only in `take`, which raises `renewal.BeganAgain` then.
    epoch: str
    #: Whether acknowledged entries outlive the process. If so, publishing waits until they are stored.
    durable: bool
    #: The duration of each commit in seconds, and the number of failures.
    commits: Histogram
    failed_commits: int

    @property
    def head(self) -> int:
        """The offset of the newest entry that `take` has returned."""

    @property
    def start(self) -> int:
        """The oldest offset to read after. All entries behind it are kept."""

    @property
    def bytes(self) -> int:
        """The size of the entries that are held, in the bytes of `Notification.size`."""

    def __len__(self) -> int: ...

    @property
    def problem(self) -> str | None:
        """Why it accepts no entries at the moment, in words, or None."""

    @property
    def damage(self) -> str | None:
        """The unreadable part, in words; None if no damage is known."""

    @property
    def damaged_entries(self) -> int:
        """The number of damaged entries."""

    @property
    def renewed(self) -> str | None:
        """Why an existing log began a new epoch, in words, or None."""

    def is_whole_behind(self, offset: int) -> bool:
        """Return whether everything behind this offset can be read, as far as is known."""

    def refusal(self, entry: Entry) -> Exception | None:
        """Return the error if the log will never accept this entry, or None."""

    async def run(
        self, inbox: Inbox, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Do the work beside the broadcast, until the inbox is closed and empty."""

    async def take(self, inbox: Inbox) -> tuple[list[Entry], list[Entry]]:
        """Wait for published entries. Return all of them, and those that are not repetitions.

        Every entry has its offset, and those that are not repetitions can be read. In a log that is
        shared, the second list also has the entries of others. Raises `trio.EndOfChannel` at the end.
        """

    def read(self, after: int, limit: int) -> list[Entry]:
        """Return at most `limit` entries behind the offset `after`; none at the head.

        Raises `Evicted` if they are gone, `Damaged` if they can't be read, `NotLoaded` before `load`.
        """

    async def load(self, after: int) -> None:
        """Bring the entries behind `after` into memory for `read`. A checkpoint."""

    async def offset_at(self, moment: float) -> int:
        """Return the offset behind which all entries were taken at this time (since 1970) or later."""

    async def offset_ago(self, seconds: float) -> int:
        """Return the offset behind which all entries were taken within the last `seconds`.

        It uses the log's own clock, because the wall clock may have been set in between.
        """

    def evict(self, upto: int, now: float) -> None:
        """Drop entries as the bounds require, none behind the offset `upto`. `now` is Trio's time."""

    async def aclose(self) -> None:
        """Release everything, after `run` has ended. A checkpoint."""
