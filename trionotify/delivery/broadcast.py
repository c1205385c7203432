"""The broadcast: one task, fed by a memory channel through the log, that hands out.

Publishers put lists of entries into the channel. The task takes from the log all that is new there,
finds for each notification the groups that want it, joins each group's frames, and hands the same bytes
to every live member: one synchronous send per client and batch. A client whose kernel takes less falls
behind; its own task goes on from the log, step by step (`advance`). The rule that keeps this free of
gaps and duplicates is in `position`.

A batch is handed out in slices: as many entries as one turn suffices to match, at most `SLICE` of them.
`taken` is the end of the slice: it moves to each entry before that entry is matched. Other tasks run at
the checkpoints inside a slice, and only there do they see `done < taken`.

Everyone waits for what is evaluated here. So whom an audience means is found out in its publisher's
task (`put`), and when an `Allowance` for costly filters is spent, their readers fall behind.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable
from typing import Final

import trio

from trionotify.delivery.audience import Audiences
from trionotify.delivery.catchup import read_latest, read_on
from trionotify.delivery.counters import Counts, Lag
from trionotify.delivery.entry import Entry
from trionotify.delivery.log import Log
from trionotify.delivery.position import Chunk, Group, Position, cut, join_frames
from trionotify.delivery.publish_queue import Inbox
from trionotify.delivery.registry import Registry
from trionotify.delivery.tally import Tally
from trionotify.delivery.turns import Turn
from trionotify.delivery.unsent import Unsent
from trionotify.model.costs import Allowance, Price
from trionotify.model.cursor import Cursor, Moment
from trionotify.model.index import Filed, PredicateIndex
from trionotify.model.predicates import NOTHING, Wanted, key_of

__all__ = ["TURN", "Broadcast"]

#: How many clients are served between two looks at the clock.
TURN = 64
#: The most entries, and bytes of them, that are handed out together. (The first one may be longer.)
SLICE: Final = 1024
SLICE_BYTES: Final = 1 << 20
#: Bytes that were joined for single clients of a slice and may be kept for others that want the same.
_JOINED_BYTES: Final = 4 << 20


class Broadcast:
    """The positions, the groups and the task that serves them. Made by the hub, lives as long.
    Positions join, move and leave by synchronous calls from their own tasks.
    """

    def __init__(self, log: Log, registry: Registry, inbox: Inbox, max_unsent: int) -> None:
        self.log = log
        self.inbox = inbox
        self.counts: Counts = Counts()
        #: What became of those who were too slow.
        self.lag: Lag = self.counts.lag
        #: The end of the last batch taken, and of the last that was handed to everyone live.
        self.taken: int = log.head
        self.done: int = log.head
        #: There will be nothing more.
        self.over: bool = False
        self._index: PredicateIndex[Group] = PredicateIndex()
        self._groups: dict[tuple[Hashable, object], Group] = {}
        self._audiences = Audiences(registry)
        self._unsent = Unsent(max_unsent)
        #: What costly evaluations may still take of the list that is being handed out.
        self._allowance = Allowance()

    async def put(self, entries: list[Entry], site: str) -> None:
        """Put a publisher's list into the channel: see `Inbox.put`.

        First find out whom audiences mean, in this task: it is the publisher at this `site` that waits.
        """
        await self._audiences.judge(entries, site)
        await self.inbox.put(entries)

    def cursor(self, offset: int) -> str:
        """`offset` as the text of a cursor."""
        return str(Cursor(self.log.epoch, offset))

    def resume(self, cursor: Cursor) -> int | None:
        """The offset to go on behind, or None when not everything since `cursor` is there."""
        there = cursor.epoch == self.log.epoch and cursor.offset <= self.taken
        return cursor.offset if there and self.log.is_whole_behind(cursor.offset) else None

    async def find(self, moment: Moment) -> int:
        """The offset behind which all stands that was published then or later. A checkpoint."""
        log = self.log
        at = await (log.offset_at(moment.at) if moment.ago is None else log.offset_ago(moment.ago))
        return self.within(at)

    def within(self, offset: int) -> int:
        """The nearest offset where a reader can start."""
        return max(self.log.start, min(offset, self.taken))

    # --- positions ---

    def join(self, position: Position, offset: int) -> None:
        """Let a reader start behind `offset`; it gets everything after that, and no gap."""
        position.cursor = offset
        position.joined = True
        if position.client is None:
            self._audiences.everywhere[position] = None
        self._enter_group(position)
        self._settle_or_wake(position)

    def leave(self, position: Position) -> None:
        """Send it nothing more. May be called again."""
        if position.joined:
            self.fix(position)
            self._unsent.discard(position)
            position.joined = position.live = False
            self._audiences.everywhere.pop(position, None)
            self._leave_group(position)

    def standing(self, position: Position) -> int:
        """The offset up to which the reader has got what it wants."""
        return max(position.cursor, self.done) if position.live else position.cursor

    def fix(self, position: Position) -> int:
        """Let its cursor be where it stands, and return that."""
        position.cursor = self.standing(position)
        return position.cursor

    def refilter(self, position: Position, predicate: Wanted) -> int:
        """Change what the reader wants, behind the returned offset: its own position."""
        if not position.joined:
            position.predicate = predicate
            return self.taken
        offset = self.fix(position)
        self._leave_group(position)
        position.predicate = predicate
        position.latest = None
        self._enter_group(position)
        if position.live:
            self._settle_or_wake(position)  # in the middle of a batch, it isn't where that ends
        return offset

    def fall_behind(self, position: Position) -> None:
        """Its Wire owes bytes, or it reads at its own pace: hand it nothing until it has caught up."""
        if position.live:
            self.fix(position)
            position.live = False

    def _put_off(self, position: Position) -> None:
        """Hand it nothing of this slice, before it has found out what of it it wants."""
        if position.live:
            self.fall_behind(position)
            position.outlet.put_off()

    def go_back(self, position: Position, offset: int) -> None:
        """Let the reader stand at `offset`, which can be resumed, until its outlet is woken."""
        if position.joined:
            position.live, position.latest = False, None
            position.cursor = position.told = offset

    def settle(self, position: Position) -> bool:
        """Make it live if it stands where the broadcast does and owes nothing."""
        position.live = position.cursor == self.taken and not position.outlet.owed
        return position.live

    def _settle_or_wake(self, position: Position) -> None:
        if not self.settle(position):
            position.outlet.wake()

    def _enter_group(self, position: Position) -> None:
        if position.predicate is NOTHING:
            return
        key = (key_of(position.predicate), position.encode)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(position.predicate, position.encode)
            group.price = self._index.add(group.predicate, group).price
        group.members[position] = None
        position.group = group

    def _leave_group(self, position: Position) -> None:
        group, position.group = position.group, None
        if group is None:
            return
        del group.members[position]
        if not group.members:
            del self._groups[key_of(group.predicate), group.encode]
            self._index.remove(group.predicate, group)

    # --- the task ---

    async def run(self) -> None:
        """Hand out, until the inbox is closed and empty."""
        entries: list[Entry] = []
        try:
            while True:
                entries, fresh = await self.log.take(self.inbox)
                await self._hand_out(entries, fresh)
        except trio.EndOfChannel:
            return
        finally:
            # Cancelled: whoever waits for a receipt must not wait for ever.
            for entry in entries + self.inbox.close():
                if entry.pending:
                    entry.pending.done.set()
            self.over = True
            for position in self._audiences.everywhere:
                position.outlet.wake()

    async def _hand_out(self, entries: list[Entry], fresh: list[Entry]) -> None:
        turn = Turn()
        self._allowance = Allowance()
        start = 0
        while start < len(fresh):
            shared, singled, end = await self._match(fresh, start, turn)
            tally = Tally(fresh[start:end])
            await self._send_all(shared, singled, tally, turn)
            self.done = self.taken
            self.log.evict(self.done, trio.current_time())
            tally.tell(self.log.epoch)
            start = end
            # To serve many takes longer than a checkpoint, in which publishers bring more.
            if turn.over or any(len(group.members) >= TURN for group in shared):
                await turn.pass_on()
        self._audiences.forget()
        self.taken = self.done = self.log.head
        self.counts.hand_out(entries, fresh, trio.current_time())
        if len(fresh) < len(entries):  # repetitions: the log had them already
            Tally(entries).tell(self.log.epoch)
        self.inbox.settle(entries)

    async def _send_all(
        self,
        shared: dict[Group, list[Entry]],
        singled: dict[Position, list[Entry]],
        tally: Tally,
        turn: Turn,
    ) -> None:
        # The members now: a position that moves while others are served finds its own way.
        members = {group: tuple(group.members) for group in shared}
        if singled:
            for group, all_ in members.items():
                members[group] = tuple(position for position in all_ if position not in singled)
        joined: dict[tuple[object, ...], list[Chunk]] = {}
        size = 0
        for position, own in singled.items():
            wants = position.merged(own, shared.get(position.group, [])) if position.group else own
            key = (position.encode, *[entry.offset for entry in wants])
            if key not in joined:
                if size > _JOINED_BYTES:
                    joined.clear()
                    size = 0
                joined[key] = join_frames(wants, position.encode)
                size += sum([len(chunk.data) for chunk in joined[key]])
            await self._send((position,), wants, joined[key], tally, turn)
        for group, wants in shared.items():
            await self._send(members[group], wants, join_frames(wants, group.encode), tally, turn)

    async def _match(
        self, entries: list[Entry], start: int, turn: Turn
    ) -> tuple[dict[Group, list[Entry]], dict[Position, list[Entry]], int]:
        """Find the groups that want the next slice, and what goes to single positions in addition.

        The slice begins with the entry at `start`. The last value that is returned is its end: the entry
        at which the turn was over, or was passed on. After that no entry may be added, because other
        tasks have seen `taken`.
        """
        shared: dict[Group, list[Entry]] = {}
        singled: dict[Position, list[Entry]] = {}
        failed: dict[Group, Exception] = {}
        passed, size, at = turn.passed, 0, start
        origin, deaf = None, None
        for entry in entries[start : start + SLICE]:
            notification, size = entry.notification, size + entry.size
            if at > start and (size > SLICE_BYTES or turn.passed > passed or turn.over):
                break
            at += 1
            self.taken = entry.offset
            if entry.origin != origin:
                origin, deaf = entry.origin, self._audiences.deaf(entry.origin)
            if deaf:
                singled.setdefault(deaf, [])
            if self._audiences.is_for_all(notification):
                for filed in (found := self._index.candidates(notification)):
                    if len(found) > 1 and turn.over:  # for one, the look above will do
                        await turn.pass_on()
                    if filed.price and self._puts_off(filed, filed.price, entry):
                        continue
                    for group in self._index.holding(filed, notification, failed):
                        shared.setdefault(group, []).append(entry)
                continue
            for position in await self._match_chosen(entry, turn):
                singled.setdefault(position, []).append(entry)
        for group, reason in failed.items():
            for position in tuple(group.members):
                position.outlet.fail(reason)
        return shared, singled, at

    async def _match_chosen(self, entry: Entry, turn: Turn) -> list[Position]:
        """Those for whom it is, and who want it."""
        chosen, late, error = await self._audiences.choose(entry, turn, self._allowance)
        Tally.fail(entry, error)
        for position in late:
            self._put_off(position)
        found = []
        for position in chosen:
            if turn.over:
                await turn.pass_on()
            price = position.group and position.group.price
            if price and not self._allows(price, entry):
                self._put_off(position)
            elif position.wants(entry):
                found.append(position)
        return found

    def _puts_off(self, filed: Filed[Group], price: Price, entry: Entry) -> bool:
        """Put off those who share a filter, if it may not be evaluated here; whether it was so."""
        groups = tuple(self._index.members(filed))
        if self._allows(price, entry, sum([len(group.members) for group in groups])):
            return False
        for group in groups:
            for position in group.members:
                self._put_off(position)
        return True

    def _allows(self, price: Price, entry: Entry, readers: int = 1) -> bool:
        """Whether a filter of this price may be evaluated here, for so many readers."""
        return self._allowance.covers(price.on(entry.longest), readers)

    async def _send(
        self,
        positions: tuple[Position, ...],
        wants: list[Entry],
        chunks: list[Chunk],
        tally: Tally,
        turn: Turn,
    ) -> None:
        """Hand `wants`, as `chunks`, to those of `positions` who are live and don't have it yet."""
        for start in range(0, len(positions), TURN):
            if turn.over:
                await turn.pass_on()
            self._hand_to(positions[start : start + TURN], wants, chunks, tally)

    def _hand_to(
        self, positions: tuple[Position, ...], wants: list[Entry], chunks: list[Chunk], tally: Tally
    ) -> None:
        # The hot path: what is in this loop is paid for each delivery.
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
            elif not pieces:  # it takes notifications, not bytes, and takes them from the log
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
                        self._unsent.add(position, cut(position, chunk, sent))
                        whole = sum(entry.offset < position.cursor for entry in wants)
                        incomplete.append((position, whole))
                        # The one that was cut goes out in full, but later.
                        missed += number - whole - 1
                        position.sent -= number - whole - 1
                        missed_bytes += all_bytes - sent
                        break
        if tally.counted:
            tally.count(positions, wants, incomplete)
        self.counts.delivered += len(positions) * number - missed
        self.counts.delivered_bytes += len(positions) * all_bytes - missed_bytes

    # --- catching up ---

    def advance(self, position: Position) -> bool:
        """Bring one client that is behind a step further; False when it is live, or gone.

        Whenever it returns True, wait until it is owed nothing and come back. Doesn't block. Raises
        `Evicted` when the client fell off the log's old end, `Damaged` when what comes next is,
        `NotLoaded` when the log must load it first, and whatever the client's own predicate raises.
        """
        self._unsent.discard(position)
        if not position.joined or self.settle(position):
            return False
        if position.latest_only:
            chunk, offset = read_latest(position, self.log, self.taken, self.lag)
        else:
            chunk, offset = read_on(position, self.log, self.taken)
        if not position.joined:
            return False  # a predicate of the client's own has closed it
        position.cursor = offset
        if chunk is None:
            return True
        position.told = chunk.offsets[-1]
        outlet = position.outlet
        if not outlet.synchronous:
            self._unsent.add(position, chunk.data)
            outlet.owe(chunk.data)
            self._count_caught_up(position, chunk, len(chunk.data))
            return True
        try:
            # Behind an answer that the session is still sending, not into the middle of it.
            sent = 0 if outlet.owed else position.send(chunk.data)
        except BlockingIOError:
            sent = 0
        except OSError:
            outlet.abort()
            return False
        if sent < len(chunk.data):
            self._unsent.add(position, cut(position, chunk, sent))
        self._count_caught_up(position, chunk, sent)
        return True

    def _count_caught_up(self, position: Position, chunk: Chunk, sent: int) -> None:
        # One that was cut has begun to go out.
        number = min(bisect_right(chunk.ends, sent) + 1, len(chunk.ends))
        position.sent += number
        self.counts.delivered += number
        self.counts.delivered_bytes += sent
