"""The tally: what the publishers of a slice are told of it, how many clients wanted it and have it."""

from __future__ import annotations

import logging

from trionotify.delivery.entry import Entry
from trionotify.delivery.position import Position

__all__ = ["Tally"]

logger: logging.Logger = logging.getLogger("trionotify")


class Tally:
    """What is told to the publishers that wait, and counted for those who want a receipt."""

    def __init__(self, entries: list[Entry]) -> None:
        self.asked: list[Entry] = [entry for entry in entries if entry.pending]
        #: Whether any of them will ask how many clients there were.
        self.counted: bool = any(entry.pending.counted for entry in self.asked if entry.pending)

    @staticmethod
    def count(
        positions: tuple[Position, ...], wants: list[Entry], incomplete: list[tuple[Position, int]]
    ) -> None:
        """The clients among these want the entries, and their kernels took them.

        But for those who are `incomplete`: theirs took the first so many.
        """
        clients = sum([position.client is not None for position in positions])
        short = [whole for position, whole in incomplete if position.client is not None]
        for at, entry in enumerate(wants):
            if pending := entry.pending:
                pending.wanted += clients
                pending.written += clients - sum([whole <= at for whole in short])

    @staticmethod
    def fail(entry: Entry, error: Exception | None) -> None:
        """The audience raised; its publisher will be told, or if it doesn't wait, the logger."""
        if error and entry.pending:
            entry.pending.error = error
        elif error:
            said = {"event": "audience_failed"}
            logger.error("an audience failed; its publisher has gone on", exc_info=error, extra=said)

    def tell(self, epoch: str) -> None:
        """Wake the publishers that wait."""
        for entry in self.asked:
            pending, entry.pending = entry.pending, None
            assert pending is not None  # that is why it is here
            pending.place = (epoch, entry.offset)
            pending.done.set()
