"""The memory channel that feeds the broadcast, bounded by count and by bytes.

Lists of entries go through it. All entries of one socket read go in together, because one hop through a
channel per message would cost more than the rest of an ingest and leave the broadcast nothing to batch.
While the channel is full, publishers wait and their connections aren't read, so TCP holds back their
peers. They wait in line. Whenever the broadcast has emptied the channel, as many of the first lists are
put in as there is room for. The other publishers keep their places.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from trionotify.delivery.entry import Entry, Sender, authorization_ended

__all__ = ["Inbox"]

#: The most times that other tasks run while a group gathers.
_PATIENCE: Final = 10


@attrs.define(eq=False)
class _Publisher:
    """A task that waits in `put` until its entries are in the channel (`served`)."""

    task: trio.lowlevel.Task
    entries: list[Entry]
    sender: Sender | None
    served: bool = False


class Inbox:
    """The channel. Created by the hub; only the log's `take` or `run` takes. Any task may put."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        # Each list holds at least one entry, so the channel never has more lists than `max_count`.
        self._send, self._receive = trio.open_memory_channel[list[Entry]](max_count)
        self._max_count = max_count
        self._max_bytes = max_bytes
        #: The number of entries inside.
        self.count: int = 0
        self._bytes = 0
        #: Whether publishers are refused.
        self.closed: bool = False
        #: Publishers that wait, in order. A cancelled one leaves from any place.
        self._line: dict[_Publisher, None] = {}
        # The numbers of entries ever put in, and of those settled.
        self._accepted = self._done = 0
        self._abandoned = False
        self._waiting = trio.lowlevel.ParkingLot()  # tasks that wait in `settled`

    @property
    def full(self) -> bool:
        """Whether the next publisher must wait. A single list may exceed the bounds, not a second."""
        return self.count >= self._max_count or self._bytes >= self._max_bytes

    async def put(self, entries: list[Entry], sender: Sender | None = None) -> None:
        """Put a whole list in. Waits while the channel is full, and is a checkpoint only then.

        Returns at once if the list is empty. Cancelled, it has put nothing in. Raises
        `trio.ClosedResourceError` after `close`, and `Disconnected` for a `sender` that is revoked.
        """
        if sender is not None and sender.revoked:
            raise authorization_ended()
        if entries and self._must_wait():
            await self._wait_in_line(entries, sender)
        elif entries:
            self._insert(entries)

    def put_nowait(self, entries: list[Entry]) -> None:
        """Put a whole list in. Raises `trio.WouldBlock` instead of waiting, otherwise as `put` does."""
        if self._must_wait():
            raise trio.WouldBlock
        self._insert(entries)

    def _must_wait(self) -> bool:
        if self.closed:
            raise trio.ClosedResourceError("the hub is closed")
        return self.full or bool(self._line)

    async def _wait_in_line(self, entries: list[Entry], sender: Sender | None) -> None:
        """Wait until `_serve_line` has put `entries` in.

        A publisher is woken after it was served, as in Trio's own channel. So no other task can take
        its place in between, and none is woken in vain.
        """
        publisher = _Publisher(trio.lowlevel.current_task(), entries, sender)

        def give_up(_: object) -> trio.lowlevel.Abort:
            del self._line[publisher]
            return trio.lowlevel.Abort.SUCCEEDED

        self._line[publisher] = None
        await trio.lowlevel.wait_task_rescheduled(give_up)
        if not publisher.served:
            raise trio.ClosedResourceError("the hub is closed") if self.closed else authorization_ended()

    def _serve_line(self) -> None:
        """Put in the waiting lists, in order, while there is room. If closed, wake all publishers."""
        while self._line and (self.closed or not self.full):
            publisher = next(iter(self._line))
            del self._line[publisher]
            if not (self.closed or (publisher.sender and publisher.sender.revoked)):
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

        `hoped` is the size of the last group, from a caller to which each group is expensive. While
        fewer entries are there, other tasks may run for a moment. Publishers that wait for receipts
        publish again as soon as they have them. Without this moment, an early one would be committed
        alone while the others wait for it, then it would wait for theirs, and so on.
        """
        first = await self._receive.receive()
        before = 0
        for _ in range(_PATIENCE):
            if self.count >= hoped or (self.count == before and 2 * self.count >= hoped):
                break
            before = self.count
            # Shielded, because a cancellation would lose `first`.
            await trio.lowlevel.cancel_shielded_checkpoint()
        return first + self._take_rest()

    def settle(self, count: int) -> None:
        """Note that so many of the entries that were taken have been broadcast or refused."""
        self._done += count
        if self._waiting:
            self._waiting.unpark_all()

    async def settled(self) -> None:
        """Wait until all entries put in so far are settled, or can't be. May be a checkpoint."""
        accepted = self._accepted
        while self._done < accepted and not self._abandoned:
            await self._waiting.park()

    def close(self) -> list[Entry]:
        """Accept no more, and return the entries not taken. The broadcast calls it at its end."""
        self.close_to_publishers()
        self._abandoned = True
        self._waiting.unpark_all()
        return self._take_rest()

    def close_to_publishers(self) -> None:
        """Accept no more. The entries inside can still be taken."""
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
