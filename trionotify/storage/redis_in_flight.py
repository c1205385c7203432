"""Entries that a node has sent to Redis and not yet handed out.

An entry is stored with a number. When the node reads that number, it hands out the entry itself, whose
publisher waits for a receipt, and not a decoded copy. If the connection is lost, it is not known whether
the remaining entries were appended, and their publishers are told so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trionotify.storage.refusals import refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trionotify.delivery.entry import Entry
    from trionotify.errors import StoreError

__all__ = ["InFlight"]


class InFlight:
    """Created by the log. The committer adds entries, and the task that reads them removes them.

    The task that finds a fault refuses them.
    """

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        #: The highest number given.
        self.newest: int = 0
        #: Entries with these numbers must not be handed out before the event is set.
        self._unconfirmed: dict[int, trio.Event] = {}
        self._removed = trio.Event()
        #: Called with the number of entries that were refused. The log sets it to `Inbox.settle`.
        self.settle: Callable[[int], object] = int

    def add(self, entries: list[Entry]) -> dict[int, Entry]:
        """Number each entry, and return them by number."""
        sent = dict(enumerate(entries, self.newest + 1))
        self.newest += len(sent)
        self._entries.update(sent)
        return sent

    def hold(self, numbers: Iterable[int]) -> None:
        """Keep these from being handed out before `release`."""
        self._unconfirmed.update(dict.fromkeys(numbers, trio.Event()))

    def release(self, numbers: Iterable[int]) -> None:
        """Allow these to be handed out."""
        for number in numbers:
            confirmed = self._unconfirmed.pop(number, None)
            if confirmed is not None:
                confirmed.set()

    async def confirmed(self, numbers: Iterable[int | None]) -> None:
        """Wait until none of these is held. A checkpoint only before that."""
        for number in numbers if self._unconfirmed else ():
            if number in self._unconfirmed:
                await self._unconfirmed[number].wait()

    def find(self, number: int | None) -> Entry | None:
        """Return the entry with this number."""
        return self._entries.get(number)  # type: ignore[arg-type] # None isn't there

    def take(self, numbers: Iterable[int | None]) -> list[Entry]:
        """Forget these, because the caller has handed them out, or will. Return them."""
        found = [self._entries.pop(number, None) for number in numbers]  # type: ignore[arg-type] # as above
        self._removed.set()
        return [entry for entry in found if entry is not None]

    def refuse(self, numbers: Iterable[int], error: StoreError | None) -> None:
        """Refuse these with `error`. With None, tell their publishers that the outcome is unknown."""
        self.give_up(self.take(numbers), error)

    def give_up(self, entries: list[Entry], error: StoreError | None) -> None:
        """Refuse entries that were taken. See `refuse`."""
        refuse(entries, error)
        self.settle(len(entries))

    def refuse_all(self, error: StoreError) -> None:
        """Refuse all entries with `error`."""
        self.refuse(list(self._entries), error)

    async def read(self, upto: int) -> None:
        """Wait until no entry with a number up to this one is in flight."""
        while self._entries and next(iter(self._entries)) <= upto:
            self._removed = trio.Event()
            await self._removed.wait()
