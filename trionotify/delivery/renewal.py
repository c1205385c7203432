"""Readers after the log has lost entries that they have read.

A log that several servers share can lose its newest end and continue without it (`BeganAgain`). Then no
reader can continue from its position. Each reader falls off the log, like one that was too slow. Its own
task then finds the gap, reports it according to its lag policy, and continues at the head.

The old position of a reader is kept as a negative offset. Nothing can be read at it, and its cursor has
the old epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trionotify.delivery.log import Evicted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trionotify.delivery.clients import Client
    from trionotify.delivery.log import Log
    from trionotify.delivery.matching import Matcher
    from trionotify.delivery.position import Position

__all__ = ["BeganAgain", "Left", "begin_again", "place_before"]


class BeganAgain(Exception):
    """The log has lost entries, so no reader can continue from its position.

    `epoch` is the old epoch. The log continues at its `head`.
    """

    def __init__(self, epoch: str) -> None:
        super().__init__(epoch)
        self.epoch = epoch


class Left(Evicted):
    """The reader's position is in the log from before it began again."""

    reason = "the log began again"


class Broadcasting(Protocol):
    """The part of the broadcast that is used here."""

    log: Log
    matcher: Matcher
    taken: int
    done: int
    epoch_before: str

    def fix(self, position: Position) -> int:
        """Fix the position's cursor where it is now, and return its offset."""


def begin_again(broadcast: Broadcasting, before: str, clients: Iterable[Client]) -> None:
    """Make all readers fall off the log. `before` is its old epoch. Doesn't block."""
    broadcast.epoch_before = before
    positions = [client.position for client in clients if client.position]
    positions += broadcast.matcher.audiences.everywhere
    for position in positions:
        offset = broadcast.fix(position)
        position.live = False
        position.stand_at(offset if offset < 0 else -1 - offset)
    broadcast.taken = broadcast.done = broadcast.log.head
    for position in positions:
        position.outlet.wake()


def place_before(offset: int) -> int:
    """Return the offset that a negative one stands for."""
    return -1 - offset
