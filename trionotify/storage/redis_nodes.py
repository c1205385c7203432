"""The nodes of a hub. Each registers on Redis, with a lease that expires by Redis' clock."""

from __future__ import annotations

import secrets
import socket
import time
from datetime import UTC, datetime
from typing import Final, Self

import attrs
import msgspec

from trionotify.version import __version__

__all__ = ["LEASE", "Identity", "Node"]

#: Seconds. A node that hasn't renewed its lease for this long is no longer listed.
LEASE: Final = 5.0


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
