"""The part of a log's interface that is about sharing it between servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trionotify.model.cursor import Cursor

__all__ = ["Alone", "Shared", "Shelf"]


class Shelf(Protocol):
    """A store of small values that the servers of a shared log have in common. Raises `StoreError`."""

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        """Keep `value` under `key` for this many seconds, by the shared clock."""

    async def take(self, key: str) -> bytes | None:
        """Remove and return the value of `key`. Only the first caller gets it, all others None."""

    async def missing(self, keys: Sequence[str]) -> list[str]:
        """Return those of these keys that have no value."""


class Shared(Protocol):
    """The interface that the hub needs of a log that may be shared."""

    #: The store of values that the servers have in common; None if the log isn't shared.
    shelf: Shelf | None

    #: Returns the number of this process's clients, for the other nodes. The hub sets it.
    count_clients: Callable[[], int]

    @property
    def node(self) -> str | None:
        """This process's name among those that share the log; None if the log isn't shared."""

    @property
    def durability(self) -> str | None:
        """The guarantee of an acknowledgement; None if the log isn't shared."""

    @property
    def nodes(self) -> Sequence[Mapping[str, object]]:
        """The registrations of all nodes; empty if the log isn't shared."""

    @property
    def tail_age(self) -> float:
        """Seconds since this process last had all entries of the log."""

    @property
    def danger(self) -> str | None:
        """What endangers the log, in words, although it works; None if nothing is known."""

    def check(self, offset: int) -> str | None:
        """Return the digest that a cursor at this offset carries; None if it isn't known.

        It is empty if the log can't have another history under the same epoch.
        """

    async def look_up(self, cursor: Cursor) -> None:
        """Load the digest for `check`, and wait until this process has read up to the cursor.

        May be a checkpoint. Raises `StoreError` if the log can't be reached.
        """


class Alone:
    """The implementation for a log that isn't shared."""

    shelf: Shelf | None = None
    count_clients: Callable[[], int] = int
    node: str | None = None
    durability: str | None = None
    nodes: Sequence[Mapping[str, object]] = ()
    tail_age: float = 0.0
    danger: str | None = None

    def check(self, offset: int) -> str:
        """Return an empty text, because there is only one history."""
        return ""

    async def look_up(self, cursor: Cursor) -> None:
        """Do nothing."""
