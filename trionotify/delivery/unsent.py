"""Frames that were sent in part and wait for readers that have stalled.

A reader that stalls in the middle of a frame is owed the rest of it. All readers that stall in the same
frame share it, and it stays in memory after the log has evicted it. If thousands of readers stall in
different frames, that is many times the size of the log. So there is a limit on all of them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trionotify.delivery.counters import Lag
    from trionotify.delivery.position import Position

__all__ = ["Unsent"]

_TOO_MANY: Final = "too many clients have stalled, and this one was among the first"


class Unsent:
    """The frames by reader, at most `most` bytes together. Created by the broadcast."""

    def __init__(self, most: int, lag: Lag) -> None:
        self._most = most
        self._lag = lag
        #: The frame of each position, in the order in which they stalled.
        self._frames: dict[Position, bytes] = {}
        #: The number of positions that share a frame, by the identity of its bytes.
        self._sharing: dict[int, int] = {}
        self.bytes: int = 0

    def add(self, position: Position, frame: bytes) -> None:
        """Note that a reader stalled in this frame. Above the limit, drop those that stalled first."""
        self._frames[position] = frame
        sharing = self._sharing.get(id(frame), 0)
        self._sharing[id(frame)] = sharing + 1
        if not sharing:
            self.bytes += len(frame)
        while self.bytes > self._most and len(self._frames) > 1:
            longest = next(iter(self._frames))
            self.discard(longest)
            self._lag.closed += 1
            longest.outlet.abort(_TOO_MANY)

    def discard(self, position: Position) -> None:
        """Remove a reader that continues or has left."""
        frame = self._frames.pop(position, None)
        if frame is None:
            return
        self._sharing[id(frame)] -= 1
        if not self._sharing[id(frame)]:
            del self._sharing[id(frame)]
            self.bytes -= len(frame)
