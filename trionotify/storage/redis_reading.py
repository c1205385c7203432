"""How far a node has read the log, and what it hands to the broadcast.

Two tasks read, one at a time. The *tail* waits for entries. The *committer* appends those of this node.
If appends follow each other closely, it reads along: an append then also returns what others have
appended before. So the node doesn't read its own entries back, which would double what each one costs.

For this, the tail rests after each batch with entries of this node. It waits until the broadcast is
done with the batch, so its rest delays nothing. Then it waits for another moment, because publishers
that have waited for the broadcast may publish again. If they don't, it goes on. While it waits in Redis,
it gets all entries, and the committer only appends.

Each entry must continue the chain of the one before, so neither task can miss one.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from trionotify.delivery.turns import Turn
from trionotify.errors import StoreError
from trionotify.storage.redis_rows import Stored, chained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trionotify.delivery.entry import Entry
    from trionotify.storage.redis_in_flight import InFlight
    from trionotify.storage.redis_state import Appended, Rows, State

__all__ = ["Batch", "Beginning", "Reading"]

#: Seconds for which the tail rests at a time.
REST: float = 0.005


@attrs.frozen
class Batch:
    """Entries that were read: those of this node, all of them, and the chain at each."""

    own: list[Entry] = attrs.Factory(list)
    fresh: list[Entry] = attrs.Factory(list)
    chains: list[str] = attrs.Factory(list)

    def add(self, entry: Entry, chain: str, own: bool) -> None:
        """Add the next entry."""
        if own:
            entry.key = None  # Redis recognizes repetitions
            self.own.append(entry)
        self.fresh.append(entry)
        self.chains.append(chain)


@attrs.frozen
class Beginning:
    """The log has begun again, with this state."""

    state: State


class Reading:
    """Created by the log, which receives from `batches`. Only a task that has the `turn` changes it."""

    def __init__(self, place: object, state: State, process: bytes, in_flight: InFlight) -> None:
        #: The epoch of what is read, the end of what was read, and the chain there.
        self.epoch: str = state.epoch
        self.at: int = state.top
        self.chain: str = state.chain
        self.turn: trio.Lock = trio.Lock()
        #: Whether the tail has read in this session.
        self.begun: bool = False
        self._place = place
        self._process = process
        self.in_flight = in_flight
        #: How many batches had entries of this node, and how many when the tail last began to rest.
        self._handed_out = self._rested = 0
        #: Whether an append had too much to return, which the tail must read.
        self._behind = False
        # The channel has no buffer, so the task that reads waits while the broadcast is busy.
        send, receive = trio.open_memory_channel[Batch | Beginning](0)
        self.send_batch: trio.MemorySendChannel[Batch | Beginning] = send
        self.batches: trio.MemoryReceiveChannel[Batch | Beginning] = receive

    @contextmanager
    def along(self, may: bool) -> Iterator[bool]:
        """If it `may`, take the turn for an append, unless the tail has or needs it. Return whether."""
        free = may and self.begun and not self._behind and not self.turn.locked()
        if free:
            self.turn.acquire_nowait()
        try:
            yield free
        finally:
            if free:
                self.turn.release()

    async def rest(self) -> None:
        """Wait until the broadcast is done, and the committer hasn't read along for a moment.

        A checkpoint only when it waits.
        """
        while not self._behind and (self._rested < self._handed_out or self.turn.locked()):
            if self.batches.statistics().tasks_waiting_receive:  # the broadcast is done
                self._rested = self._handed_out
            await trio.sleep(REST)

    async def take(self, rows: list[Stored]) -> None:
        """Hand out what the tail has read. Raises `StoreError` if it doesn't continue the log."""
        numbers = [row.number(self._process) for row in rows]
        await self.in_flight.confirmed(numbers)
        await self._hand_out(await self._batch(rows, numbers), numbers)
        self._behind = False

    async def take_appended(self, appended: Appended, sent: dict[int, Entry], rows: Rows) -> None:
        """Hand out what an append has returned, and the rows that it has appended for `sent`.

        The caller has the turn. If there was too much to return, nothing is handed out, because the tail
        must read that first. Raises `StoreError` if it doesn't continue the log.
        """
        fresh = appended.firsts.count(None)
        if appended.top != self.at + len(appended.before) + fresh:
            self._behind = True
            return
        numbers = [row.number(self._process) for row in appended.before]
        batch = await self._batch(appended.before, numbers)
        chain, turn = batch.chains[-1] if batch.chains else self.chain, Turn()
        for number, row, first in zip(sent, rows, appended.firsts, strict=True):
            if first is None:
                chain = chained(chain, row[0])
                batch.add(sent[number], chain, own=True)
                numbers.append(number)
            if turn.over:
                await turn.pass_on()
        if chain != appended.chain:
            raise self._broken()
        await self._hand_out(batch, numbers)

    async def _batch(self, rows: list[Stored], numbers: list[int | None]) -> Batch:
        """Check what Redis has sent, and return it. A checkpoint if that takes more than a turn."""
        batch, turn = Batch(), Turn()
        at, chain = self.at, self.chain
        for row, number in zip(rows, numbers, strict=True):
            if row.offset != at + 1 or chained(chain, row.payload) != row.chain:
                raise self._broken()
            at, chain = row.offset, row.chain
            own = self.in_flight.find(number)
            batch.add(own or row.restored(self._process), chain, own is not None)
            if turn.over:
                await turn.pass_on()
        return batch

    def _broken(self) -> StoreError:
        return StoreError(503, f"{self._place}: an entry does not continue the log that was read")

    async def _hand_out(self, batch: Batch, numbers: list[int | None]) -> None:
        if not batch.fresh:
            return
        await self.send_batch.send(batch)
        self.at, self.chain = self.at + len(batch.fresh), batch.chains[-1]
        self.in_flight.take(numbers)
        self._handed_out += bool(batch.own)

    async def repeat(self, numbers: list[int]) -> None:
        """Hand out these repetitions. They are in the log, so it doesn't matter if the session ends."""
        entries = self.in_flight.take(numbers)
        try:
            await self.send_batch.send(Batch(own=entries))
        except BaseException:
            self.in_flight.give_up(entries, None)
            raise

    async def begin_again(self, state: State) -> None:
        """Let the broadcast, and then the readers, continue at the log's current head."""
        await self.send_batch.send(Beginning(state))
        self.epoch, self.at, self.chain = state.epoch, state.top, state.chain
