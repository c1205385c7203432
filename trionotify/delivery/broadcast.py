"""The broadcast: the one task that takes new entries from the log and hands them out.

Publishers put lists of entries into a memory channel. The task takes from the log all entries that are
new. For each it finds the groups that want it. It joins each group's frames and hands the same bytes to
every live member, with one synchronous send per client and batch. A client whose kernel takes less
falls behind. That client's own task then continues from the log, step by step (`advance`). The rule
that rules out gaps and duplicates is in `position`.

A batch is handed out in slices. A slice has as many entries as one turn suffices to match, at most
`SLICE` (`matching`). `taken` is the end of the slice and moves to each entry before that entry is
matched. Other tasks run only at the checkpoints inside a slice. Only there can they see `done < taken`.
"""

from __future__ import annotations

from typing import Final

import trio

from trionotify.delivery.compression import CompressedEncode, compressed_last
from trionotify.delivery.counters import Counts, Lag
from trionotify.delivery.entry import Entry
from trionotify.delivery.history import History
from trionotify.delivery.log import Log
from trionotify.delivery.matching import Matcher
from trionotify.delivery.position import Chunk, Group, Position, Sendable, cut, join_frames
from trionotify.delivery.publish_queue import Inbox
from trionotify.delivery.registry import Registry
from trionotify.delivery.renewal import BeganAgain, begin_again, place_before
from trionotify.delivery.scan import read_on
from trionotify.delivery.tally import Tally
from trionotify.delivery.turns import Turn
from trionotify.delivery.unsent import Unsent
from trionotify.model.cursor import Cursor, Moment, cursor_text
from trionotify.model.predicates import Wanted

__all__ = ["TURN", "Broadcast"]

#: The clients served between two looks at the clock.
TURN = 64
#: The most bytes joined for single clients that are cached, for other clients that want the same.
_JOINED_BYTES: Final = 4 << 20


class Broadcast:
    """The positions and the task that serves them. Created by the hub, and lives as long.

    Positions join, move and leave by synchronous calls from their own tasks.
    """

    def __init__(self, log: Log, registry: Registry, inbox: Inbox, max_unsent: int) -> None:
        self.log = log
        self.inbox = inbox
        self.counts: Counts = Counts()
        #: Counts of clients that were too slow.
        self.lag: Lag = self.counts.lag
        #: The ends of the last slice taken and of the last one handed out; where a reader became live.
        self.taken: int = log.head
        self.done: int = log.head
        self.settled: int = log.head
        #: Whether the task has ended.
        self.over: bool = False
        self.matcher: Matcher = Matcher(registry, self._put_off)
        self._registry = registry
        #: The log's epoch before it began again.
        self.epoch_before: str = ""
        self._unsent = Unsent(max_unsent, self.lag)
        self._history = History()

    def cursor(self, offset: int) -> str:
        """Return the text of a cursor. A negative offset is from before the log began again."""
        if offset < 0:
            return cursor_text(self.epoch_before, place_before(offset), None)
        return cursor_text(self.log.epoch, offset, self.log.check(offset))

    def resume(self, cursor: Cursor) -> int | None:
        """Return the offset to continue behind, or None if the log lacks something since `cursor`."""
        offset, log = cursor.offset, self.log
        same = cursor.epoch == log.epoch and offset <= self.taken and cursor.check == log.check(offset)
        return offset if same and log.is_whole_behind(offset) else None

    async def find(self, moment: Moment) -> int:
        """Return the offset behind which everything was published at `moment` or later. A checkpoint."""
        log = self.log
        at = await (log.offset_at(moment.at) if moment.ago is None else log.offset_ago(moment.ago))
        return self.within(at)

    def within(self, offset: int) -> int:
        """Return the nearest offset at which a reader can start."""
        return max(self.log.start, min(offset, self.taken))

    # --- positions ---

    def join(self, position: Position, offset: int) -> None:
        """Start a reader behind `offset`. It gets everything after that, without a gap."""
        position.cursor, position.joined = offset, True
        if position.client is None:
            self.matcher.audiences.everywhere[position] = None
        self.matcher.enter(position)
        self._settle_or_wake(position)

    def leave(self, position: Position) -> None:
        """Send this reader nothing more. May be called again."""
        if position.joined:
            self.fix(position)
            self._unsent.discard(position)
            position.joined = position.live = False
            self.matcher.audiences.everywhere.pop(position, None)
            self.matcher.leave(position)

    def standing(self, position: Position) -> int:
        """Return the offset up to which the reader has everything it wants."""
        return max(position.cursor, self.done) if position.live else position.cursor

    def fix(self, position: Position) -> int:
        """Set the reader's cursor to where it stands, and return it."""
        position.cursor = self.standing(position)
        return position.cursor

    def refilter(self, position: Position, predicate: Wanted) -> int:
        """Change the predicate. It takes effect behind the returned offset, where the reader is now."""
        if not position.joined:
            position.predicate = predicate
            return self.taken
        offset = self.fix(position)
        self.matcher.leave(position)
        position.predicate = predicate
        if position.reading is not None:
            position.reading.keep()
        self.matcher.enter(position)
        if position.live:
            self._settle_or_wake(position)  # in the middle of a batch, `taken` may be further on
        return offset

    def fall_behind(self, position: Position) -> None:
        """Hand a reader nothing until it has caught up. It owes bytes, or reads at its own pace."""
        if position.live:
            self.fix(position)
            position.live = False

    def _put_off(self, position: Position) -> None:
        """Skip a reader in this slice. It evaluates its predicate in its own task."""
        if position.live:
            self.fall_behind(position)
            position.outlet.put_off()

    def go_back(self, position: Position, offset: int) -> None:
        """Put the reader at `offset`, which can be resumed, until its outlet is woken."""
        if position.joined:
            position.live, position.told = False, offset
            position.stand_at(offset)

    def settle(self, position: Position) -> bool:
        """Make the reader live if it stands where the broadcast does and owes nothing."""
        position.live = position.cursor == self.taken and not position.outlet.owed
        if position.live:
            self.settled = self.taken
            position.stand_at(self.taken)
        return position.live

    def _settle_or_wake(self, position: Position) -> None:
        if not self.settle(position):
            position.outlet.wake()

    # --- the task ---

    async def run(self) -> None:
        """Hand out until the inbox is closed and empty."""
        entries: list[Entry] = []
        try:
            while True:
                try:
                    entries, fresh = await self.log.take(self.inbox)
                except BeganAgain as again:
                    begin_again(self, again.epoch, self._registry)
                else:
                    await self._hand_out(entries, fresh)
        except trio.EndOfChannel:
            return
        finally:
            # After a cancellation, no publisher may wait for a receipt for ever.
            for entry in entries + self.inbox.close():
                if entry.pending:
                    entry.pending.done.set()
            self.over = True
            for position in self.matcher.audiences.everywhere:
                position.outlet.wake()

    async def _hand_out(self, entries: list[Entry], fresh: list[Entry]) -> None:
        turn = Turn()
        self.matcher.begin()
        start = 0
        while start < len(fresh):
            found = await self.matcher.match(fresh, start, turn, self)
            tally = Tally(fresh[start : found.end])
            await self._send_all(found.shared, found.singled, tally, turn)
            self.done = self.taken
            self.log.evict(self.done, trio.current_time())
            tally.tell(self.log, self.cursor)
            start = found.end
            # Serving many clients takes longer than a checkpoint, in which publishers bring more.
            if turn.over or any(len(group.members) >= TURN for group in found.shared):
                await turn.pass_on()
        self.matcher.forget()
        self.taken = self.done = self.log.head
        self.counts.hand_out(entries, fresh, trio.current_time())
        if len(fresh) < len(entries):  # the log had the others already
            Tally(entries).tell(self.log, self.cursor)
        self.inbox.settle(len(entries))

    async def _send_all(
        self,
        shared: dict[Group, list[Entry]],
        singled: dict[Position, list[Entry]],
        tally: Tally,
        turn: Turn,
    ) -> None:
        # A snapshot, because a position that moves while others are served finds its own way.
        members = {group: tuple(group.members) for group in shared}
        if singled:
            for group, all_ in members.items():
                members[group] = tuple(position for position in all_ if position not in singled)
        made: dict[tuple[object, ...], list[Chunk]] = {}
        size = 0
        for position in sorted(singled, key=compressed_last):
            own = singled[position]
            wants = position.merged(own, shared.get(position.group, [])) if position.group else own
            key = (position.encode, *[entry.offset for entry in wants])
            if key not in made:
                if size > _JOINED_BYTES:
                    made.clear()
                    size = 0
                if isinstance(position.encode, CompressedEncode):
                    await position.encode.prepare(wants, turn)
                made[key] = join_frames(wants, position.encode)
                size += sum([len(chunk.data) for chunk in made[key]])
            await self._send((position,), wants, made[key], tally, turn)
        for group in sorted(shared, key=compressed_last):
            if isinstance(group.encode, CompressedEncode):
                await group.encode.prepare(shared[group], turn)
            chunks = join_frames(shared[group], group.encode)
            await self._send(members[group], shared[group], chunks, tally, turn)

    async def _send(
        self,
        positions: tuple[Position, ...],
        wants: list[Entry],
        chunks: list[Chunk],
        tally: Tally,
        turn: Turn,
    ) -> None:
        """Hand `wants`, as `chunks`, to the live positions that don't have it yet."""
        for start in range(0, len(positions), TURN):
            if turn.over:
                await turn.pass_on()
            self._hand_to(positions[start : start + TURN], wants, chunks, tally)

    def _hand_to(
        self, positions: tuple[Position, ...], wants: list[Entry], chunks: list[Chunk], tally: Tally
    ) -> None:
        # This is the hot path. Every delivery pays for each line of this loop.
        done, taken = self.done, self.taken
        missed = missed_bytes = 0
        incomplete: list[tuple[Position, int]] = []
        all_bytes = sum([len(chunk.data) for chunk in chunks])
        pieces = [(chunk.data, len(chunk.data), chunk) for chunk in chunks]
        number, last = len(wants), chunks[-1].offsets[-1] if chunks else 0
        for position in positions:
            if not position.live or position.cursor > done:
                missed += number
                missed_bytes += all_bytes
                if not position.live:
                    incomplete.append((position, 0))
            elif not pieces:  # this reader takes notifications from the log, not bytes
                missed += number
                incomplete.append((position, 0))
                self.fall_behind(position)
                position.outlet.wake()
            else:
                position.cursor, position.told = taken, last
                position.sent += number
                send = position.send
                for data, size, chunk in pieces:
                    try:
                        sent = send(data)
                    except BlockingIOError:
                        sent = 0
                    except OSError:
                        incomplete.append((position, 0))
                        position.outlet.abort()
                        break
                    if sent != size:
                        frame, rest = cut(position, chunk, sent)
                        position.outlet.owe(rest)
                        self._unsent.add(position, frame)
                        whole = sum(entry.offset < position.cursor for entry in wants)
                        incomplete.append((position, whole))
                        # The frame that was cut goes out whole, but later.
                        missed += number - whole - 1
                        position.sent -= number - whole - 1
                        missed_bytes += all_bytes - sent
                        break
        if tally.counted:
            tally.count(positions, wants, incomplete)
        self.counts.delivered += len(positions) * number - missed
        self.counts.delivered_bytes += len(positions) * all_bytes - missed_bytes

    # --- catching up ---

    def advance(self, position: Position) -> Chunk | None:
        """Return the next frames for a client that is behind, or None if there are none to send.

        After None, the position is live, has left, or must be advanced again. Otherwise send the
        frames, then call `hand_over`. Doesn't block. Raises `Evicted` if the log no longer has what
        comes next, `Damaged` if it can't read that, `NotLoaded` if it must load that first, and
        whatever the client's own predicate raises.
        """
        self._unsent.discard(position)
        if not position.joined or self.settle(position):
            return None
        read = read_on if position.reading is None else position.reading.read
        chunk, offset = read(position, self.log, self.taken, self._history.narrow)
        if not position.joined:
            return None  # the client's own predicate has closed it
        position.cursor = offset
        if chunk is not None:
            position.told = chunk.offsets[-1]
        return chunk

    def hand_over(self, position: Position, chunk: Chunk, taken: int | None) -> Sendable:
        """Note that the kernel took `taken` bytes of `chunk`; return the bytes that are owed.

        None means that nothing is written synchronously, so the whole chunk is owed.
        """
        rest: Sendable = b""
        if taken is None:
            rest = chunk.data
            self._unsent.add(position, chunk.data)
        elif taken < len(chunk.data):
            frame, rest = cut(position, chunk, taken)
            self._unsent.add(position, frame)
        sent = len(chunk.data) if taken is None else taken
        position.sent += chunk.begun(sent)
        self.counts.delivered += chunk.begun(sent)
        self.counts.delivered_bytes += sent
        return rest

    def skip_to(self, position: Position, offset: int, *, told: bool) -> None:
        """Continue after `offset`, because the rest is gone. `told`: the reader knows of the gap."""
        position.cursor = offset
        position.told = offset if told else position.told
