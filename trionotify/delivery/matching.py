"""Matching: finding the readers that want a notification, without asking each of them.

Readers with equal predicates and one format form a `Group`, and an index finds the groups that want a
notification (`model.index`). Single readers come in addition: those that a notification with an
audience is for, and those that published it themselves and don't want it.

All other tasks wait while a filter is evaluated here. So audiences are evaluated in the publisher's
task (`intake`), and an `Allowance` limits the time that expensive filters may take for one list of
entries. If it is spent, the readers of such a filter fall behind and evaluate it in their own tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Protocol

from trionotify.delivery.audience import Audiences
from trionotify.delivery.entry import Entry
from trionotify.delivery.position import Group, Position
from trionotify.delivery.registry import Registry
from trionotify.delivery.tally import Tally
from trionotify.delivery.turns import Turn
from trionotify.model.costs import Allowance, Price
from trionotify.model.index import Filed, PredicateIndex
from trionotify.model.multimap import with_item, without_item
from trionotify.model.predicates import NOTHING, key_of

__all__ = ["Matcher", "Slice"]

#: The most entries, and bytes, that are handed out together. A single entry may be longer.
SLICE: Final = 1024
SLICE_BYTES: Final = 1 << 20


class Reached(Protocol):
    """The broadcast, which records how far matching has come, and where a reader became live."""

    taken: int
    settled: int


class Slice:
    """The entries that are handed out together, by the readers that want them."""

    __slots__ = ("end", "shared", "singled")

    def __init__(self) -> None:
        self.shared: dict[Group, list[Entry]] = {}
        #: The entries for single positions, in addition.
        self.singled: dict[Position, list[Entry]] = {}
        #: The place in the list of entries where the next slice begins.
        self.end: int = 0


class Matcher:
    """The groups, and the index that finds them. Created by the broadcast; only its task matches.

    `put_off` makes a reader fall behind before anything of the slice is sent to it.
    """

    def __init__(self, registry: Registry, put_off: Callable[[Position], None]) -> None:
        self.audiences: Audiences = Audiences(registry)
        self._put_off = put_off
        self._index: PredicateIndex[Group] = PredicateIndex()
        self._groups: dict[tuple[Hashable, object], Group] = {}
        #: The time that expensive filters may still take for this list.
        self._allowance = Allowance()

    def enter(self, position: Position) -> None:
        """Let a reader receive the entries that its predicate selects. Doesn't block."""
        if position.predicate is NOTHING:
            return
        key = key_of(position.predicate)
        group = self._groups.get((key, position.encode))
        if group is None:
            group = self._groups[key, position.encode] = Group(position.predicate, position.encode)
            group.price = self._index.add(group.predicate, group, key).price
        group.members = with_item(group.members, position)
        position.group = group

    def leave(self, position: Position) -> None:
        """Let a reader receive nothing more. May be called again. Doesn't block."""
        group, position.group = position.group, None
        if group is None:
            return
        group.members = without_item(group.members, position)
        if not group.members:
            del self._groups[key_of(group.predicate), group.encode]
            self._index.remove(group.predicate, group)

    def begin(self) -> None:
        """Start a new list of entries."""
        self._allowance = Allowance()

    def forget(self) -> None:
        """End a list that was handed out."""
        self.audiences.forget()

    async def match(  # noqa: PLR0912 - one loop, because each call in it would be paid for each entry
        self, entries: list[Entry], start: int, turn: Turn, reached: Reached
    ) -> Slice:
        """Find the readers of the next slice, which begins with the entry at `start`.

        The slice ends with the entry at which the turn was over or was passed on, or at which a reader
        became live, because an application's callable has changed its filter. No entry may be added
        after that, because others have seen `reached.taken`, which moves to each entry before that entry
        is matched. A checkpoint whenever the turn is over inside an entry.
        """
        found = Slice()
        failed: dict[Group, Exception] = {}
        passed, size, at = turn.passed, 0, start
        origin: int | None = None
        shared, selective = found.shared, self._index.selective
        for entry in entries[start : start + SLICE]:
            size += entry.size
            if at > start and (
                size > SLICE_BYTES
                or turn.passed > passed
                or reached.settled == reached.taken
                or turn.over
            ):
                break
            at += 1
            reached.taken = entry.offset
            if entry.origin != origin:
                origin = entry.origin
                if deaf := self.audiences.deaf(origin):
                    found.singled.setdefault(deaf, [])
            if not self.audiences.is_for_all(entry.template):
                for position in await self._match_chosen(entry, turn):
                    found.singled.setdefault(position, []).append(entry)
            elif shared and not selective:  # the groups that wanted the last one want all
                for wants in shared.values():
                    wants.append(entry)
            else:
                notification = entry.notification if selective else entry.template
                for filed in (candidates := self._index.candidates(notification)):
                    if len(candidates) > 1 and turn.over:  # for a single one, the check above suffices
                        await turn.pass_on()
                    if filed.price and self._puts_off(filed, filed.price, entry):
                        continue
                    for group in self._index.holding(filed, notification, failed):
                        shared.setdefault(group, []).append(entry)
        self._fail(failed)
        found.end = at
        return found

    @staticmethod
    def _fail(failed: dict[Group, Exception]) -> None:
        """Tell the readers whose own predicate raised."""
        for group, reason in failed.items():
            for position in tuple(group.members):
                position.outlet.fail(reason)

    async def _match_chosen(self, entry: Entry, turn: Turn) -> list[Position]:
        """Return the positions that an entry with an audience is for and that want it."""
        chosen, late, error = await self.audiences.choose(entry, turn, self._allowance)
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
        """Put off the readers of a filter that may not be evaluated here; return whether it did."""
        groups = tuple(self._index.members(filed))
        if self._allows(price, entry, sum([len(group.members) for group in groups])):
            return False
        for group in groups:
            for position in group.members:
                self._put_off(position)
        return True

    def _allows(self, price: Price, entry: Entry, readers: int = 1) -> bool:
        """Return whether a filter of this price may be evaluated here for this many readers."""
        return self._allowance.covers(price.on(entry.longest), readers)
