"""The lag policy `latest`: a client that is behind gets only the newest notification of each kind.

A kind is a pair of `source` and `subject`. While the client is behind, `Latest` reads the log instead
of `scan.read_on`. First it looks at everything up to the head, and notes the offsets of what the client
wants. A newer notification replaces an older one of its kind. Then it sends what is noted, oldest
first. It does both in steps of one turn each.

Notes take memory, so they are limited for one client and for all clients together. If a client's notes
are `full`, they are sent before it looks further. Then fewer notifications are left out, and
nothing is lost.
"""

from __future__ import annotations

from heapq import merge
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from trionotify.delivery.history import wants
from trionotify.delivery.log import Log, NotLoaded
from trionotify.delivery.position import CHUNK_SIZE, Chunk, Narrow, Position, join_frames
from trionotify.delivery.turns import Turn
from trionotify.model.predicates import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trionotify.delivery.counters import Lag
    from trionotify.delivery.entry import Entry
    from trionotify.model.notification import Notification

__all__ = ["Latest", "Notes"]

#: The most notes of one client, and of all clients. Above the latter, one client may have `FEW`.
KINDS: Final = 10_000
NOTED: Final = 100_000
FEW: Final = 16


class Notes:
    """The offset of the newest entry of each kind, for one client, in the order of the log.

    Notes are dropped in many places, so `__del__` keeps the count of all notes right.
    """

    __slots__ = ("_kept", "_lag", "_offsets")

    def __init__(self, lag: Lag) -> None:
        self._lag = lag
        self._offsets: dict[tuple[str, str | None], int] = {}
        #: The offsets, in order, that an earlier filter has chosen.
        self._kept: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._offsets) + len(self._kept)

    def __iter__(self) -> Iterator[int]:
        return merge(self._kept, self._offsets.values())

    def __del__(self) -> None:
        self._lag.noted -= len(self)

    @property
    def full(self) -> bool:
        """Whether they must be sent before more are added, because they must not grow with the log."""
        return len(self) >= (KINDS if self._lag.noted < NOTED else FEW)

    def add(self, entry: Entry) -> None:
        """Note this entry behind all others. It replaces an older one of its kind."""
        kind = entry.notification.source, entry.notification.subject
        before = len(self)
        self._lag.thinned += self._offsets.pop(kind, None) is not None
        if entry.offset not in self._kept:
            self._offsets[kind] = entry.offset
        self._lag.noted += len(self) - before

    def keep(self) -> None:
        """Let no other entry replace those that are noted."""
        self._kept = dict.fromkeys(self)
        self._offsets = {}

    def forget(self, upto: int) -> None:
        """Remove the notes of entries up to this offset, which the kernel has."""
        before = len(self)
        for offset in tuple(takewhile(upto.__ge__, self._kept)):
            del self._kept[offset]
        for kind, _ in tuple(takewhile(lambda item: item[1] <= upto, self._offsets.items())):
            del self._offsets[kind]
        self._lag.noted += len(self) - before


class Latest:
    """The `position.Reading` of one client under `latest`, while it is behind.

    Created by the client's connection, whose position owns it. `allows` is asked again before anything
    is sent, because the client's rights may have changed since it was noted.
    """

    __slots__ = ("_allows", "_lag", "_notes", "_seen")

    def __init__(self, lag: Lag, allows: Callable[[Notification], bool]) -> None:
        self._lag = lag
        self._allows = allows
        self._notes: Notes | None = None
        #: The offset up to which it has looked.
        self._seen = 0

    def forget(self) -> None:
        """Discard the notes, and begin again at the position's cursor."""
        self._notes = None

    def keep(self) -> None:
        """Keep the notes, and look again from the position's cursor on.

        An older entry of a kind was left out because of the one that is noted. So this one must be sent,
        even if the new filter doesn't want it.
        """
        if self._notes is not None:
            self._notes.keep()
            self._seen = 0

    def read(self, position: Position, log: Log, taken: int, narrow: Narrow) -> tuple[Chunk | None, int]:
        """Return the next noted frames, once all up to `taken` was seen, and the position's new offset.

        Raises `Evicted`, `Damaged` and `NotLoaded` as `read_on` does.
        """
        if self._notes is None:
            self._notes, self._seen = Notes(self._lag), position.cursor
        notes = self._notes
        notes.forget(position.cursor)  # only now, because the kernel may not have taken all of the last
        self._seen = max(self._seen, position.cursor)
        if self._seen < taken and not notes.full:
            self._look(position, notes, log, taken, narrow)
            if self._seen < taken and not notes.full:
                return None, position.cursor
        assert position.encode is not None  # only readers of bytes come here
        found: list[Entry] = []
        size, turn, behind = 0, Turn(), position.cursor
        try:
            for offset in notes:
                if turn.over and behind > position.cursor:
                    break
                (entry,) = log.read(offset - 1, 1)
                if not entry.notification.expired and self._allows(entry.notification):
                    size += len(entry.frame(position.encode))
                    if found and size > CHUNK_SIZE:
                        break
                    found.append(entry)
                behind = offset
            else:
                behind = self._seen
        except NotLoaded:
            if behind == position.cursor:
                raise
        return (join_frames(found, position.encode)[0] if found else None), behind

    def _look(self, position: Position, notes: Notes, log: Log, taken: int, narrow: Narrow) -> None:
        """Look at the next entries of one turn, and at one at least."""
        turn = Turn()
        begun = self._seen
        for entry in narrow(position, log, begun, taken):
            if notes.full or (turn.over and self._seen > begun):
                break
            if position.predicate is not NOTHING and wants(position, entry):
                notes.add(entry)
            # If the predicate has replaced itself, the new one begins behind this entry. Otherwise this
            # might never end.
            self._seen = entry.offset
