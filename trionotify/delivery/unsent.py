"""Frames that went out in part, and wait for readers that have stalled.

A reader that stalls in the middle of a frame is owed the rest of it. All who stall in one frame share
it, and it stays in memory when the log has evicted it. When thousands of readers stall, each in another
frame, that is as much as the log again and again. So there is a limit on all of them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trionotify.delivery.position import Position

__all__ = ["Unsent"]


class Unsent:
    """The frames, by reader; those of one frame share it. Together they have at most `most` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        #: By the position, in the order in which they have stalled.
        self._frames: dict[Position, bytes] = {}
        #: How many share a frame, by the identity of its bytes.
        self._sharing: dict[int, int] = {}
        self.bytes: int = 0

    def add(self, position: Position, frame: bytes) -> None:
        """A reader has stalled in this frame. If it is too much, whoever stalled first is dropped."""
        self._frames[position] = frame
        sharing = self._sharing.get(id(frame), 0)
        self._sharing[id(frame)] = sharing + 1
        if not sharing:
            self.bytes += len(frame)
        while self.bytes > self._most and len(self._frames) > 1:
            longest = next(iter(self._frames))
            self.discard(longest)
            longest.outlet.give_up()

    def discard(self, position: Position) -> None:
        """It goes on, or has left."""
        frame = self._frames.pop(position, None)
        if frame is None:
            return
        self._sharing[id(frame)] -= 1
        if not self._sharing[id(frame)]:
            del self._sharing[id(frame)]
            self.bytes -= len(frame)
