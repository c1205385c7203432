"""Positions of readers in the log, and groups of readers that want the same bytes.

A position is *live* or *catching up*. The broadcast keeps this rule, on which all deliveries depend:

* Everything up to `done` has been handed to every live position. The broadcast is at work on
  (`done`, `taken`]. Between two batches, `done` and `taken` are equal.
* A live position stands at `max(cursor, done)`. Its own `cursor` may be less than `done` if it wanted
  nothing in between. So the broadcast needn't touch positions that want nothing.
* The batch (`done`, `taken`] goes to live positions with `cursor <= done`. Their `cursor` is set to
  `taken` *before* the send. A position already at `taken` caught up by itself and is skipped.
* A position that is catching up stands at `cursor`. It becomes live at `taken` exactly, never at the
  head of the log, and never while its Wire owes bytes.
* A position for which an entry of the batch wasn't evaluated stops being live before any is sent.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import accumulate, filterfalse
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from trionotify.model.multimap import Few
from trionotify.model.predicates import NOTHING, Subject, Wanted

if TYPE_CHECKING:
    from trionotify.delivery.entry import Entry
    from trionotify.delivery.log import Log
    from trionotify.model.costs import Price

__all__ = ["Chunk", "Encode", "Group", "Narrow", "Outlet", "Position", "Reading", "takes_nothing"]

#: Makes an entry's frame in one format. Functions compare by identity, which is how groups form.
Encode = Callable[["Entry"], bytes]
#: Bytes that go out.
Sendable = bytes | memoryview
#: Reads those of the next entries, up to an offset, that may concern a reader. See `History.narrow`.
Narrow = Callable[["Position", "Log", int, int], Iterable["Entry"]]


class Recipient(Subject, Protocol):
    """The part of a client that decides whether a notification is for it."""

    @property
    def id(self) -> str:
        """Its identity, which several connections may share."""


class Outlet(Protocol):
    """The reader behind a position, as the broadcast sees it. No method blocks."""

    @property
    def owed(self) -> object:
        """Truthy while bytes must go out before the next frame."""

    def owe(self, rest: Sendable, /) -> None:
        """Send the rest of a cut frame before anything else. The position is no longer live."""

    def wake(self) -> None:
        """Start to catch up, because the log has more."""

    def put_off(self) -> None:
        """Start to catch up, but in a task of its own, because it may take long."""

    def fail(self, error: Exception) -> None:
        """Handle an exception of the reader's own predicate."""

    def abort(self, reason: str = "") -> None:
        """Drop the connection, which is dead or is ended for this reason."""


class _NoOutlet:
    """The outlet of a position that has left."""

    owed = False

    def owe(self, rest: Sendable, /) -> None: ...
    def wake(self) -> None: ...
    def put_off(self) -> None: ...
    def fail(self, error: Exception) -> None: ...
    def abort(self, reason: str = "") -> None: ...


NO_OUTLET: Final = _NoOutlet()


class Reading(Protocol):
    """A reader's own way to read the log while it is behind, if not everything in order."""

    def read(
        self, position: Position, log: Log, taken: int, narrow: Narrow, /
    ) -> tuple[Chunk | None, int]:
        """Return the next frames, and the offset behind them. See `scan.read_on`."""

    def forget(self) -> None:
        """Discard what was chosen, because the position moved, or is live."""

    def keep(self) -> None:
        """Send what was chosen, although the predicate changes. The new one begins at the cursor."""


def takes_nothing(_: bytes) -> int:
    """The `send` of a reader that takes no bytes, or has left."""
    raise BlockingIOError


@attrs.define(eq=False)
class Position:
    """One reader's place in the log. The reader creates it when it joins and drops it when it leaves.

    Only the broadcast changes `cursor`, `live`, `group` and `joined`.
    """

    outlet: Outlet
    predicate: Wanted
    #: None if it reads notifications, not bytes, and is only woken.
    encode: Encode | None
    #: Hands bytes to the kernel, like a socket's `send`. The only call on the hot path.
    send: Callable[[bytes], int]
    #: None for a subscription inside the process, which every audience includes.
    client: Recipient | None = None
    #: The key of its connection if it doesn't want its own notifications (`echo=0`).
    deaf_to: int | None = None
    #: Its way to read the log while it is behind. None means everything that it wants, in order.
    reading: Reading | None = None

    cursor: int = attrs.field(default=0, init=False)
    #: The number of notifications handed to it.
    sent: int = attrs.field(default=0, init=False)
    #: The offset of the entry sent last. The client knows its place up to here.
    told: int = attrs.field(default=-1, init=False)
    live: bool = attrs.field(default=False, init=False)
    group: Group | None = attrs.field(default=None, init=False)
    joined: bool = attrs.field(default=False, init=False)

    def stand_at(self, offset: int) -> None:
        """Move it to this offset and discard what was chosen to be sent."""
        self.cursor = offset
        if self.reading is not None:
            self.reading.forget()

    def forget_outlet(self) -> None:
        """Release the outlet of a position that has left for good."""
        self.outlet, self.send, self.predicate = NO_OUTLET, takes_nothing, NOTHING

    def wants(self, entry: Entry) -> bool:
        """Return whether its predicate selects the entry. If it raises, tell the outlet and say no."""
        try:
            return bool(self.predicate(entry.notification))
        except Exception as error:  # an application's own callable may raise anything
            self.outlet.fail(error)
            return False

    def merged(self, own: list[Entry], shared: list[Entry]) -> list[Entry]:
        """Merge its own entries with its group's, in order, without those it published itself."""
        return sorted(filterfalse(self.is_deaf_to, own + shared), key=lambda entry: entry.offset)

    def is_deaf_to(self, entry: Entry) -> bool:
        """Return whether it published this entry itself and doesn't want its own notifications."""
        return self.deaf_to is not None and self.deaf_to == entry.origin


@attrs.define(eq=False)
class Group:
    """The positions with equal predicates and one format. The first member creates it.

    `price` is the time that the predicate takes to evaluate, if that may be much.
    """

    predicate: Wanted
    encode: Encode | None
    price: Price | None = None
    members: Few[Position] = ()


@attrs.frozen(eq=False)
class Chunk:
    """Frames joined for one send, with the end of each in `data` and its offset in the log."""

    frames: list[bytes]
    offsets: list[int]
    data: bytes
    ends: list[int]

    def begun(self, sent: int) -> int:
        """Return the number of frames in the first `sent` bytes, including one that was cut."""
        return min(bisect_right(self.ends, sent) + 1, len(self.ends))


#: The most bytes to join for one send, unless a single frame is longer.
CHUNK_SIZE: Final = 1 << 16


def join_frames(entries: list[Entry], encode: Encode | None) -> list[Chunk]:
    """Join the entries' frames into chunks of at most `CHUNK_SIZE` bytes; none without `encode`."""
    if encode is None:
        return []
    parts: list[tuple[list[bytes], list[int]]] = []
    size = 0
    for entry in entries:
        frame = entry.frame(encode)
        size += len(frame)
        if not parts or size > CHUNK_SIZE:
            parts.append(([], []))
            size = len(frame)
        frames, offsets = parts[-1]
        frames.append(frame)
        offsets.append(entry.offset)
    return [
        Chunk(frames, offsets, b"".join(frames), list(accumulate(map(len, frames))))
        for frames, offsets in parts
    ]


def cut(position: Position, chunk: Chunk, sent: int) -> tuple[bytes, memoryview]:
    """Mark `position` as behind, because the kernel took only `sent` bytes of `chunk`.

    Returns the first frame that wasn't sent whole, and its rest, which is owed. The rest is a view of
    that frame, never of the chunk. All readers that stall in the same frame share it.
    """
    whole = bisect_right(chunk.ends, sent)
    frame = chunk.frames[whole]
    position.live = False
    position.cursor = position.told = chunk.offsets[whole]
    return frame, memoryview(frame)[sent - (chunk.ends[whole] - len(frame)) :]
