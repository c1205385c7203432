"""The tally of the clients that want each entry of a slice and have it, for receipts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trionotify.delivery.entry import Entry
from trionotify.delivery.faults import log_fault
from trionotify.delivery.position import Position

if TYPE_CHECKING:
    from collections.abc import Callable

    from trionotify.delivery.log import Log

__all__ = ["Tally"]


class Tally:
    """Counts for publishers that want a receipt, and wakes those that wait. One per slice."""

    def __init__(self, entries: list[Entry]) -> None:
        self.asked: list[Entry] = [entry for entry in entries if entry.pending]
        #: Whether any receipt needs the numbers of clients.
        self.counted: bool = any(entry.pending.counted for entry in self.asked if entry.pending)

    @staticmethod
    def count(
        positions: tuple[Position, ...], wants: list[Entry], incomplete: list[tuple[Position, int]]
    ) -> None:
        """Count that the clients of `positions` want the entries, and that their kernels have them.

        The exceptions are `incomplete`: of such a client's entries, the kernel took only that many.
        """
        clients = sum([position.client is not None for position in positions])
        short = [whole for position, whole in incomplete if position.client is not None]
        for at, entry in enumerate(wants):
            if pending := entry.pending:
                pending.wanted += clients
                pending.written += clients - sum([whole <= at for whole in short])

    @staticmethod
    def fail(entry: Entry, error: Exception | None) -> None:
        """Report an audience's exception to the waiting publisher, or else to the logger."""
        if error and entry.pending:
            entry.pending.error = error
        elif error:
            log_fault(error, "an audience failed, and no publisher waited", event="audience_failed")

    def tell(self, log: Log, cursor: Callable[[int], str]) -> None:
        """Wake the publishers that wait. `cursor` gives an offset's text."""
        for entry in self.asked:
            pending, entry.pending = entry.pending, None
            assert pending is not None  # `asked` has only entries with one
            pending.cursor = cursor(entry.offset) if pending.counted else ""
            pending.node, pending.durability = log.node, log.durability
            pending.done.set()
