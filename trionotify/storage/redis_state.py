"""What a session with Redis is told and what it answers: the limits, rows, and states of a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from trionotify.storage.redis_rows import Stored

__all__ = ["Appended", "Limits", "Rows", "State"]

#: The payload, size and key of each entry to append.
Rows = list[tuple[bytes, int, bytes]]


@attrs.frozen
class Limits:
    """The limits of a log, in entries, bytes and seconds."""

    entries: int
    bytes: int
    age: float

    @property
    def arguments(self) -> tuple[int, int, int]:
        """The limits in the form that the scripts take."""
        return self.entries, self.bytes, int(min(self.age * 1000, 1e15))


@attrs.frozen
class State:
    """The state of a log on Redis at one moment. `there` is the chain at the requested offset."""

    epoch: str
    top: int
    chain: str
    start: int
    edge: str
    size: int
    #: The clock of Redis, in seconds since 1970.
    now: float
    there: str | None
    nodes: list[Any]


@attrs.frozen
class Appended:
    """The state of a log after rows were appended, and the entries before them that were asked for."""

    start: int
    size: int
    top: int
    chain: str
    #: All entries between an offset and these rows; none if there are too many.
    before: list[Stored]
    #: For each row that is a repetition, the offset and chain of the first; for the others None.
    firsts: list[tuple[int, str] | None]
