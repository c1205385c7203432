"""The nodes of a hub. Each registers on Redis, with a lease that expires by the clock of Redis."""

from __future__ import annotations

import secrets
import socket
import time
from datetime import UTC, datetime
from typing import Final, Self

import attrs
import msgspec

from trionotify.version import __version__

__all__ = ["LEASE", "Clock", "Identity", "Node"]

#: Seconds. A node that hasn't renewed its lease for this long is no longer listed.
LEASE: Final = 5.0
#: Seconds by which two clocks may drift apart between two answers, or one be corrected.
_DRIFT: Final = 2.0


@attrs.frozen
class Node:
    """A node's registration. `since` is in seconds since 1970, `tail_age` in seconds."""

    name: str
    version: str
    since: float
    clients: int
    tail_age: float

    def members(self) -> dict[str, object]:
        """Return the node as `GET /nodes` shows it."""
        since = datetime.fromtimestamp(self.since, UTC).isoformat().replace("+00:00", "Z")
        return {**attrs.asdict(self), "since": since}

    def said(self) -> bytes:
        """Return what it registers. See `all_of`."""
        return msgspec.json.encode(attrs.asdict(self))

    @classmethod
    def all_of(cls, said: list[bytes]) -> list[Self]:
        """Return the registered nodes, by name. Unknown forms of later versions are left out."""
        found = []
        for text in said:
            try:
                found.append(cls(**msgspec.json.decode(text)))
            except (TypeError, msgspec.DecodeError):
                continue
        return sorted(found, key=lambda node: node.name)


@attrs.frozen
class Identity:
    """This process among the nodes. `process` is new after each start, and has eight bytes."""

    name: str
    process: bytes
    since: float

    @classmethod
    def here(cls, name: str | None) -> Self:
        """Return the identity with the given name, or else with the machine's name."""
        return cls(name or socket.gethostname(), secrets.token_hex(4).encode(), time.time())

    def node(self, clients: int, tail_age: float) -> Node:
        """Return this node as it is now."""
        return Node(self.name, __version__, self.since, clients, round(tail_age, 3))


class Clock:
    """The clock of Redis, compared with Trio's at each answer. Created and used by the link alone."""

    def __init__(self) -> None:
        #: The least and the most by which it was ahead of Trio's.
        self._ahead: tuple[float, float] | None = None

    def jump(self, now: float, asked: float, answered: float) -> float:
        """Return by how many seconds it has jumped since the last answer; 0.0 if it hasn't.

        It was `now` at a moment between `asked` and `answered` on Trio's clock.
        """
        least, most = now - answered, now - asked
        before, self._ahead = self._ahead, (least, most)
        if before is None or (least <= before[1] + _DRIFT and most >= before[0] - _DRIFT):
            return 0.0
        return (least + most - sum(before)) / 2
