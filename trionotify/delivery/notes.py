"""What a client that is behind notes down under the lag policy `latest`: the newest of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trionotify.delivery.counters import Lag
    from trionotify.delivery.entry import Entry

__all__ = ["Notes"]

#: Notes of one client at most; notes of all clients together, above which one may have `FEW`.
KINDS: Final = 10_000
NOTED: Final = 100_000
FEW: Final = 16


class Notes:
    """For one client under `latest`: the offset of the newest of each kind, in the order of the log.

    They are let go of in many ways, so the count of all of them is kept by their end.
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
        """Whether they must be sent before more are taken: they must not grow with the log."""
        return len(self._offsets) >= (KINDS if self._lag.noted < NOTED else FEW)

    def add(self, entry: Entry) -> None:
        """Note this one, behind all others, in the place of an older one of its kind."""
        self._lag.thinned += self.take(entry)
        self._offsets[_kind(entry)] = entry.offset
        self._lag.noted += 1

    def take(self, entry: Entry) -> bool:
        """Take the note of its kind off; whether there was one."""
        found = self._offsets.pop(_kind(entry), None) is not None
        self._lag.noted -= found
        return found


def _kind(entry: Entry) -> tuple[str, str | None]:
    return entry.notification.source, entry.notification.subject
