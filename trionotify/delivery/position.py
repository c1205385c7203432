"""Positions: where each reader stands in the log, and the groups that want the same bytes.

A position is *live* or *catching up*. The rule, on which everything hangs, is stated once, here, and
kept by the broadcast:

* Everything up to `done` has been handed to every live position; the broadcast is at work on
  (`done`, `taken`]. Between two batches they are equal.
* A live position stands at `max(cursor, done)`. Its own `cursor` may be less than `done`: nothing it
  wanted lay between. That spares the broadcast to touch those who want nothing.
* The batch (`done`, `taken`] is sent to those who are live with `cursor <= done`, and their `cursor` is
  set to `taken` *before* the send. One already at `taken` caught up by itself, and is passed over.
* A position that is catching up stands at `cursor`, and becomes live at `taken` exactly: never at the
  head of the log, and never while its Wire owes bytes.
* A position for which an entry of the batch wasn't evaluated is no longer live, before anything of the
  batch is sent.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from trionotify.model.predicates import NOTHING, Subject, Wanted

if TYPE_CHECKING:
    from trionotify.delivery.entry import Entry
    from trionotify.delivery.notes import Notes
    from trionotify.model.costs import Price

__all__ = ["Chunk", "Encode", "Group", "Outlet", "Position"]

#: Makes an entry's frame in one format. Functions compare by identity, which makes the groups.
Encode = Callable[["Entry"], bytes]
#: Bytes that go out.
Sendable = bytes | memoryview


class Recipient(Subject, Protocol):
    """A client, as far as it matters here whom a notification is for."""

    @property
    def id(self) -> str:
        """Its identity."""


class Outlet(Protocol):
    """The reader behind a position, as the broadcast sees it. Nothing here blocks."""

    @property
    def synchronous(self) -> bool:
        """Whether `Position.send` ever takes anything: else frames are owed."""

    @property
    def owed(self) -> object:
        """True in a condition while bytes must go out before the next frame."""

    def owe(self, rest: Sendable, /) -> None:
        """Take charge of what is left of a cut frame, or of a whole one."""

    def wake(self) -> None:
        """There is something to catch up with."""

    def put_off(self) -> None:
        """The same; but not now, for it may take long."""

    def fail(self, error: Exception) -> None:
        """The reader's own predicate raised."""

    def abort(self) -> None:
        """The connection turned out to be dead."""

    def give_up(self) -> None:
        """Drop the connection, because what stalled ones are owed is too much, and it was the first."""


class _NoOutlet:
    """The outlet of a position that has left."""

    owed = False
    synchronous = True

    def owe(self, rest: Sendable, /) -> None: ...
    def wake(self) -> None: ...
    def put_off(self) -> None: ...
    def fail(self, error: Exception) -> None: ...
    def abort(self) -> None: ...
    def give_up(self) -> None: ...


NO_OUTLET: Final = _NoOutlet()


def _takes_nothing(_: bytes) -> int:
    raise BlockingIOError


@attrs.define(eq=False)
class Position:
    """One reader's place in the log. Made when it joins, dies when it leaves.

    Only the broadcast changes `cursor`, `live`, `group` and `joined`.
    """

    outlet: Outlet
    predicate: Wanted
    #: None: it reads notifications, not bytes, and is only woken.
    encode: Encode | None
    #: Hands bytes to the kernel, as a socket's `send`: the one call on the hot path.
    send: Callable[[bytes], int]
    #: None: a subscription inside the process, to which every audience is open.
    client: Recipient | None = None
    #: The key of its connection when it doesn't want to hear itself (`echo=0`).
    deaf_to: int | None = None
    #: The lag policy `latest`: while behind, only the newest per (`source`, `subject`).
    latest_only: bool = False

    cursor: int = attrs.field(default=0, init=False)
    #: Notifications that it was handed.
    sent: int = attrs.field(default=0, init=False)
    #: The offset of what it was sent last: so far its client knows where it is.
    told: int = attrs.field(default=-1, init=False)
    live: bool = attrs.field(default=False, init=False)
    group: Group | None = attrs.field(default=None, init=False)
    joined: bool = attrs.field(default=False, init=False)
    #: While behind under `latest`: what it has noted, and up to where it has looked.
    latest: Notes | None = attrs.field(default=None, init=False)
    scanned: int = attrs.field(default=0, init=False)

    def forget_outlet(self) -> None:
        """Let go of the outlet of a position that has left for good."""
        self.outlet, self.send, self.predicate = NO_OUTLET, _takes_nothing, NOTHING

    def wants(self, entry: Entry) -> bool:
        """Whether its predicate does. If that raises, the reader is told."""
        try:
            return bool(self.predicate(entry.notification))
        except Exception as error:  # an application's own callable may raise anything
            self.outlet.fail(error)
            return False

    def merged(self, own: list[Entry], shared: list[Entry]) -> list[Entry]:
        """What it gets by itself and with its group, in order, but for what it published itself."""
        heard = [entry for entry in own + shared if not self.is_deaf_to(entry)]
        return sorted(heard, key=lambda entry: entry.offset)

    def is_deaf_to(self, entry: Entry) -> bool:
        """Whether it published this entry itself, and doesn't want to hear itself."""
        return self.deaf_to is not None and self.deaf_to == entry.origin


@attrs.define(eq=False)
class Group:
    """The positions with equal predicates and one format. Its first member makes it.

    `price` is what it takes to evaluate the predicate, if that may be costly.
    """

    predicate: Wanted
    encode: Encode | None
    price: Price | None = None
    members: dict[Position, None] = attrs.Factory(dict)


@attrs.frozen(eq=False)
class Chunk:
    """Frames joined for one send: where in `data` each ends, and the offset of each."""

    frames: list[bytes]
    offsets: list[int]
    data: bytes
    ends: list[int]


#: The most bytes that are joined for one send, unless a single frame is longer.
CHUNK_SIZE: Final = 1 << 16


def join_frames(entries: list[Entry], encode: Encode | None) -> list[Chunk]:
    """The entries' frames as chunks of at most `CHUNK_SIZE` bytes; none without an encoding."""
    chunks: list[Chunk] = []
    if encode is None:
        return chunks
    frames: list[bytes] = []
    offsets: list[int] = []
    size = 0
    for entry in entries:
        frame = entry.frame(encode)
        if frames and size + len(frame) > CHUNK_SIZE:
            chunks.append(_chunk(frames, offsets))
            frames, offsets, size = [], [], 0
        frames.append(frame)
        offsets.append(entry.offset)
        size += len(frame)
    if frames:
        chunks.append(_chunk(frames, offsets))
    return chunks


def _chunk(frames: list[bytes], offsets: list[int]) -> Chunk:
    data = frames[0] if len(frames) == 1 else b"".join(frames)
    return Chunk(frames, offsets, data, list(accumulate(map(len, frames))))


def cut(position: Position, chunk: Chunk, sent: int) -> bytes:
    """The kernel took only `sent` bytes of `chunk`: its reader is behind now.

    The first frame that didn't go out whole is returned, and becomes owed: a view of that frame, which
    all who stall in it share, never of the chunk.
    """
    whole = bisect_right(chunk.ends, sent)
    frame = chunk.frames[whole]
    position.live = False
    position.cursor = position.told = chunk.offsets[whole]
    position.latest = None  # what it had noted down may be in the part that didn't go
    position.outlet.owe(memoryview(frame)[sent - (chunk.ends[whole] - len(frame)) :])
    return frame
