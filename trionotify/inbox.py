"""The memory channel that feeds the broadcast, bounded by count and by bytes.

What goes through it is a list of publications: all that one read of a socket held goes in together,
because a hop through a channel per message costs more than everything else an ingest does, and would
leave the broadcast nothing to batch. When the channel is full, publishers wait, are not read meanwhile,
and so TCP holds back their peers.
"""

from __future__ import annotations

import attrs
import trio

from trionotify.notification import Notification

__all__ = ["Inbox", "Pending", "Publication", "Receipt"]


@attrs.frozen
class Receipt:
    """What became of a notification: its `cursor`, and how many clients.

    `wanted` of them want it; the kernel took it at once for `written`; `behind` are catching up and get
    it later, if they don't leave.
    """

    cursor: str
    wanted: int
    written: int
    behind: int


@attrs.define(eq=False)
class Pending:
    """A receipt in the making, for the publisher that waits for it."""

    done: trio.Event = attrs.Factory(trio.Event)
    wanted: int = 0
    written: int = 0
    receipt: Receipt | None = None
    #: What the publisher's own audience raised first.
    error: Exception | None = None


@attrs.define(eq=False)
class Publication:
    """A notification on its way to the log; `origin` is the key of the connection it came from."""

    notification: Notification
    origin: int | None = None
    pending: Pending | None = None


class Inbox:
    """Made by the broadcast, which alone takes from it; any task may put."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        # Each list holds at least one publication, so the channel has room whenever the count has.
        self._send, self._receive = trio.open_memory_channel[list[Publication]](max_count)
        self._max_count = max_count
        self._max_bytes = max_bytes
        #: Publications inside.
        self.count = 0
        self._bytes = 0
        #: Nothing can be put in any more.
        self.closed = False
        self._publishers = trio.lowlevel.ParkingLot()

    @property
    def full(self) -> bool:
        """Whether the next publisher has to wait. One list may go over the bounds, not a second."""
        return self.count >= self._max_count or self._bytes >= self._max_bytes

    async def put(self, publications: list[Publication]) -> None:
        """Put a list in, whole. Waits while the channel is full, and is a checkpoint only then.

        An empty one is nothing to wait for. Cancelled, nothing was put in. Raises
        `trio.ClosedResourceError` after `close`.
        """
        if not publications:
            return
        while self.full and not self.closed:
            await self._publishers.park()
        self._send.send_nowait(publications)
        self.count += len(publications)
        self._bytes += sum(publication.notification.size for publication in publications)

    async def take_all(self) -> list[Publication]:
        """Wait for publications; return all that are there. Raises `trio.EndOfChannel` at the end."""
        return await self._receive.receive() + self._take_rest()

    def close(self) -> list[Publication]:
        """Let no more in; return what nobody took."""
        self.close_to_publishers()
        return self._take_rest()

    def close_to_publishers(self) -> None:
        """Let no more in. What is inside can still be taken."""
        self.closed = True
        self._send.close()
        self._publishers.unpark_all()

    def _take_rest(self) -> list[Publication]:
        rest: list[Publication] = []
        try:
            while True:
                rest += self._receive.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            pass
        self.count = self._bytes = 0
        self._publishers.unpark_all()
        return rest
