"""The memory channel that feeds the broadcast, bounded by count and by bytes.

What goes through it are lists of entries: all that one read of a socket held goes in together,
because a hop through a channel per message costs more than everything else an ingest does, and would
leave the broadcast nothing to batch. When the channel is full, publishers wait and are not read
meanwhile, so TCP holds back their peers. They wait in line: whenever the broadcast has emptied the
channel, the lists of the first ones are put in, as many as there is room for, and the others keep their
places.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from trionotify.delivery.entry import Entry

__all__ = ["Inbox"]

#: How often others may run while a group gathers.
_PATIENCE: Final = 10


@attrs.define(eq=False)
class _Publisher:
    """A task that waits in `put`, with what it brings."""

    task: trio.lowlevel.Task
    entries: list[Entry]
    #: The list is in the channel.
    served: bool = False


class Inbox:
    """Made by the broadcast, which alone takes from it; any task may put."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        # Each list holds at least one entry, so the channel has room whenever the count has.
        self._send, self._receive = trio.open_memory_channel[list[Entry]](max_count)
        self._max_count = max_count
        self._max_bytes = max_bytes
        #: Entries inside.
        self.count: int = 0
        self._bytes = 0
        #: Nothing can be put in any more.
        self.closed: bool = False
        #: Publishers that wait for a place, the first in front. (A cancelled one leaves from anywhere.)
        self._line: dict[_Publisher, None] = {}
        # Entries ever put in, and those of them that were dealt with.
        self._accepted = self._done = 0
        self._abandoned = False
        self._waiting = trio.lowlevel.ParkingLot()  # of those who wait in `settled`

    @property
    def full(self) -> bool:
        """Whether the next publisher has to wait. One list may go over the bounds, not a second."""
        return self.count >= self._max_count or self._bytes >= self._max_bytes

    async def put(self, entries: list[Entry]) -> None:
        """Put a list in, whole. Waits while the channel is full, and is a checkpoint only then.

        An empty one is nothing to wait for. Cancelled, nothing was put in. Raises
        `trio.ClosedResourceError` after `close`.
        """
        if not entries:
            return
        try:
            self.put_nowait(entries)
        except trio.WouldBlock:
            await self._wait_in_line(entries)

    def put_nowait(self, entries: list[Entry]) -> None:
        """Put a list in, whole. Raises `trio.WouldBlock` when the channel is full.

        It also does when others wait in line: they come first. Raises `trio.ClosedResourceError` after
        `close`.
        """
        if self.closed:
            raise trio.ClosedResourceError
        if self.full or self._line:
            raise trio.WouldBlock
        self._insert(entries)

    async def _wait_in_line(self, entries: list[Entry]) -> None:
        """Wait until `_serve_line` has put `entries` in.

        Trio's own channel does the same: a publisher is woken after it was served. So no other task can
        take its place in between, and none is woken in vain.
        """
        publisher = _Publisher(trio.lowlevel.current_task(), entries)

        def give_up(_: object) -> trio.lowlevel.Abort:
            del self._line[publisher]
            return trio.lowlevel.Abort.SUCCEEDED

        self._line[publisher] = None
        await trio.lowlevel.wait_task_rescheduled(give_up)
        if not publisher.served:
            raise trio.ClosedResourceError

    def _serve_line(self) -> None:
        """Put in the lists of those that wait, in order, while there is room; if it is closed, none."""
        while self._line and (self.closed or not self.full):
            publisher = next(iter(self._line))
            del self._line[publisher]
            if not self.closed:
                self._insert(publisher.entries)
                publisher.served = True
            trio.lowlevel.reschedule(publisher.task)

    def _insert(self, entries: list[Entry]) -> None:
        self._send.send_nowait(entries)
        now, size = trio.current_time(), 0
        for entry in entries:
            entry.put_at = now
            size += entry.size
        self._bytes += size
        self.count += len(entries)
        self._accepted += len(entries)

    async def take_all(self, hoped: int = 0) -> list[Entry]:
        """Wait for entries; return all that are there. Raises `trio.EndOfChannel` at the end.

        `hoped` is for a caller that does something expensive with each group: that many came the last
        time, so it pays to let others run for a moment while there are fewer. Publishers that wait for
        receipts publish again as soon as they have them. Without a moment's patience an early one is
        committed alone, the others wait for that, it waits for theirs, and so it goes on.
        """
        first = await self._receive.receive()
        before = 0
        for _ in range(_PATIENCE):
            if self.count >= hoped or (self.count == before and 2 * self.count >= hoped):
                break
            before = self.count
            # Not to be cancelled: `first` would be lost.
            await trio.lowlevel.cancel_shielded_checkpoint()
        return first + self._take_rest()

    def settle(self, entries: list[Entry]) -> None:
        """Note that these, which were taken, have been dealt with: broadcast, or refused."""
        self._done += len(entries)
        if self._waiting:
            self._waiting.unpark_all()

    async def settled(self) -> None:
        """Wait until all that is in by now has been dealt with, or nobody will. May be a checkpoint."""
        accepted = self._accepted
        while self._done < accepted and not self._abandoned:
            await self._waiting.park()

    def close(self) -> list[Entry]:
        """Let no more in; return what nobody took. For the broadcast, when it ends."""
        self.close_to_publishers()
        self._abandoned = True
        self._waiting.unpark_all()
        return self._take_rest()

    def close_to_publishers(self) -> None:
        """Let no more in. What is inside can still be taken."""
        self.closed = True
        self._send.close()
        self._serve_line()

    def _take_rest(self) -> list[Entry]:
        rest: list[Entry] = []
        try:
            while True:
                rest += self._receive.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            pass
        self.count = self._bytes = 0
        self._serve_line()
        return rest
