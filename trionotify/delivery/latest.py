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

from itertools import takewhile
from typing import TYPE_CHECKING, Final

from trionotify.delivery.history import wants
from trionotify.delivery.log import Log, NotLoaded
from trionotify.delivery.position import CHUNK_SIZE, Chunk, Narrow, Position, join_frames
from trionotify.delivery.turns import Turn
from trionotify.model.predicates import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trionotify.delivery.counters import Lag
    from trionotify.delivery.entry import Entry

__all__ = ["Latest", "Notes"]

#: The most notes of one client, and of all clients. Above the latter, one client may have `FEW`.
KINDS: Final = 10_000
NOTED: Final = 100_000
FEW: Final = 16


class Notes:
    """The offset of the newest entry of each kind, for one client, in the order of the log.

    Notes are dropped in many places, so `__del__` keeps the count of all notes right.
    """

    __slots__ = ("_lag", "_offsets")

    def __init__(self, lag: Lag) -> None:
        self._lag = lag
        self._offsets: dict[tuple[str, str | None], int] = {}

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[int]:
        return iter(self._offsets.values())

    def __del__(self) -> None:
        self._lag.noted -= len(self._offsets)

    @property
    def full(self) -> bool:
        """Whether they must be sent before more are added, because they must not grow with the log."""
        return len(self._offsets) >= (KINDS if self._lag.noted < NOTED else FEW)

    def add(self, entry: Entry) -> None:
        """Note this entry behind all others. It replaces an older one of its kind."""
        kind = entry.notification.source, entry.notification.subject
        older = self._offsets.pop(kind, None) is not None
        self._offsets[kind] = entry.offset
        self._lag.thinned += older
        self._lag.noted += not older

    def forget(self, upto: int) -> None:
        """Remove the notes of entries up to this offset, which the kernel has."""
        sent = takewhile(lambda item: item[1] <= upto, self._offsets.items())
        for kind in [kind for kind, _ in sent]:
            del self._offsets[kind]
            self._lag.noted -= 1


class Latest:
    """The `position.Reading` of one client under `latest`, while it is behind.

    Created by the client's connection, whose position owns it.
    """

    __slots__ = ("_lag", "_notes", "chosen")

    def __init__(self, lag: Lag) -> None:
        self._lag = lag
        self._notes: Notes | None = None
        #: The offset up to which it has looked. A filter applies to what comes behind.
        self.chosen: int = 0

    def forget(self) -> None:
        """Discard the notes, and begin again at the position's cursor."""
        self._notes, self.chosen = None, 0

    def read(self, position: Position, log: Log, taken: int, narrow: Narrow) -> tuple[Chunk | None, int]:
        """Return the next noted frames, once all up to `taken` was seen, and the position's new offset.

        Raises `Evicted`, `Damaged` and `NotLoaded` as `read_on` does.
        """
        if self._notes is None:
            self._notes = Notes(self._lag)
        notes = self._notes
        # A note is kept until the kernel has its frame, because only it says that an older notification
        # of its kind was left out.
        notes.forget(position.cursor)
        self.chosen = max(self.chosen, position.cursor)
        if self.chosen < taken and not notes.full:
            self._look(position, notes, log, taken, narrow)
            if self.chosen < taken and not notes.full:
                return None, position.cursor
        assert position.encode is not None  # only readers of bytes come here
        found: list[Entry] = []
        size = 0
        turn = Turn()
        try:
            for offset in notes:
                (entry,) = log.read(offset - 1, 1)
                size += len(entry.frame(position.encode))
                if found and (size > CHUNK_SIZE or turn.over):
                    break
                found.append(entry)
        except NotLoaded:
            if not found:
                raise
        offset = found[-1].offset if len(found) < len(notes) else self.chosen
        return (join_frames(found, position.encode)[0] if found else None), offset

    def _look(self, position: Position, notes: Notes, log: Log, taken: int, narrow: Narrow) -> None:
        """Look at the next entries of one turn, and at one at least."""
        turn = Turn()
        begun = self.chosen
        for entry in narrow(position, log, begun, taken):
            if notes.full or (turn.over and self.chosen > begun):
                break
            if position.predicate is not NOTHING and wants(position, entry):
                notes.add(entry)
            self.chosen = entry.offset
