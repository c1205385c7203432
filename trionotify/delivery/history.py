"""The history: which entries of the log may concern a reader that is behind.

After an outage, thousands of clients come back at once. All of them read the same part of the log, and
each wants little of it. If each evaluated its predicate for every entry, this would take longer than
everything else together. So the entries are filed by the values of an attribute, once for all readers:
by an attribute of which the reader's predicate demands certain values, or else by `to`. A reader only
looks at the entries that are filed under the values that concern it, and evaluates these as always.

The entries are filed in blocks, a block when the first reader comes to it. A block has offsets and
hashes of values, so it doesn't keep anything in memory that the log has dropped. There is no I/O, and a
reader gets the same as without the history, which only leaves out what it certainly doesn't want.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from operator import attrgetter
from typing import Final

import attrs

from trionotify.delivery.audience import is_meant
from trionotify.delivery.entry import Entry
from trionotify.delivery.log import Damaged, Evicted, Log, NotLoaded
from trionotify.delivery.position import Position
from trionotify.model.predicates import EVERYTHING, demanded, is_value

__all__ = ["SCAN", "History", "wants"]

#: The most entries that one step looks at.
SCAN = 2048
#: The offsets of a block. Filing it takes a quarter of a millisecond.
BLOCK = 512
#: The most blocks, of all attributes together. Each takes 5 to 80 KiB.
BLOCKS: Final = 64
#: A reader for which fewer entries are left looks at each.
FEW = 8
#: The most attributes to file by for one reader.
_NAMES: Final = 4
#: Attributes that differ between an entry's notification and its template.
_OWN: Final = frozenset({"id", "time", "datacontenttype"})
_offset: Final = attrgetter("offset")


def wants(position: Position, entry: Entry) -> bool:
    """Return whether this reader gets this entry, by predicate, audience, `echo` and `expirytime`."""
    notification = entry.notification
    if position.is_deaf_to(entry) or notification.expired:
        return False
    if position.predicate is not EVERYTHING and not position.predicate(notification):
        return False
    return is_meant(position.client, notification)


@attrs.define(eq=False)
class _Block:
    """Some consecutive entries, filed by the value of one attribute, or rather its hash."""

    #: All entries up to this offset are filed.
    upto: int
    #: The offsets, in order, by the hash of the value, which is None where the attribute is missing.
    offsets: dict[int, list[int]] = attrs.field(factory=dict, init=False)

    def file(self, log: Log, name: str, end: int) -> None:
        """File the entries up to `end` that the log has by now. Raises as `Log.read` does."""
        while self.upto < end and (entries := log.read(self.upto, BLOCK)):
            for entry in entries:
                self.upto = min(entry.offset, end)
                if entry.offset > end:
                    return
                # Asking for the notification may create it, which takes time and memory.
                attributes = entry.notification if name in _OWN else entry.template
                self.offsets.setdefault(hash(attributes.get(name)), []).append(entry.offset)


class History:
    """Finds the entries that may concern a reader. Created by the broadcast. Nothing here blocks."""

    def __init__(self) -> None:
        #: By epoch, number and attribute. The block that was used longest ago is in front.
        self._blocks: dict[tuple[str, int, str], _Block] = {}

    def narrow(self, position: Position, log: Log, after: int, taken: int) -> Iterable[Entry]:
        """Return the next entries behind `after`, up to `taken`, that may concern the reader.

        The last one that was looked at is always among them. Raises as `Log.read` does.
        """
        entries = log.read(after, SCAN)
        if entries and entries[-1].offset > taken:
            entries = entries[: bisect_right(entries, taken, key=_offset)]
        demands = _demands(position) if len(entries) > FEW else None
        return entries if demands is None else self._narrowed(position, demands, log, entries)

    def _narrowed(
        self, position: Position, demands: dict[str, list[str | None]], log: Log, entries: list[Entry]
    ) -> Iterator[Entry]:
        predicate = position.predicate
        for entry in self._candidates(demands, log, entries):
            yield entry
            if position.predicate is not predicate:
                return  # an audience has changed it, and what was left out was not what this one wants

    def _candidates(
        self, demands: dict[str, list[str | None]], log: Log, entries: list[Entry]
    ) -> Iterator[Entry]:
        at = 0
        while at < len(entries):
            number = (entries[at].offset - 1) // BLOCK
            stop = bisect_right(entries, (number + 1) * BLOCK, lo=at, key=_offset)
            offsets = self._filed(log, number, entries[stop - 1].offset, demands)
            if offsets is None or len(offsets) * 2 > stop - at:
                yield from entries[at:stop]
            else:
                for offset in offsets[bisect_left(offsets, entries[at].offset) :]:
                    at = bisect_left(entries, offset, lo=at, hi=stop, key=_offset)
                    if at < stop and entries[at].offset == offset:
                        yield entries[at]
            at = stop

    def _filed(
        self, log: Log, number: int, upto: int, demands: dict[str, list[str | None]]
    ) -> list[int] | None:
        """Return the offsets under these values in a block, or None if it isn't filed up to `upto`.

        `upto` is among them, so that the reader can give way between two blocks.
        """
        found = {upto}
        for name, values in demands.items():
            block = self._block(log, number, name)
            if block.upto < upto:
                return None
            for value in values:
                found.update(block.offsets.get(hash(value), ()))
        return sorted(found)

    def _block(self, log: Log, number: int, name: str) -> _Block:
        key = (log.epoch, number, name)
        block = self._blocks.pop(key, None) or _Block(number * BLOCK)
        if len(self._blocks) >= BLOCKS:
            del self._blocks[next(iter(self._blocks))]
        self._blocks[key] = block
        with suppress(Evicted, Damaged, NotLoaded):  # its beginning is gone, or its end isn't here
            block.file(log, name, (number + 1) * BLOCK)
        return block


def _demands(position: Position) -> dict[str, list[str | None]] | None:
    """Return attributes, and for each the values under which all is that the reader may want.

    The reader wants nothing that is filed elsewhere under all of these attributes. None: not known.
    """
    if not is_value(position.predicate):  # an application's own callable may have effects
        return None
    found: dict[str, list[str | None]] = {}
    for name, value in demanded(position.predicate) or ():
        found.setdefault(name, []).append(value)
    if not found and position.client is not None:
        return {"to": [None, position.client.id]}
    return found if 0 < len(found) <= _NAMES else None
