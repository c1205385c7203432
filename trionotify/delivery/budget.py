"""A budget of bytes, for what is still arriving.

Each body of a request and each message of a WebSocket has a limit of its own. A thousand connections
that each stop one byte short of it would still take gigabytes, so all together have a limit, too.

When that is exceeded, the address that holds most loses its largest holder. If the newcomer had to go
instead, a few connections that hold on to all there is would lock everyone else out. A connection that
holds something alone keeps it, whatever its size: what it may have by itself has a limit of its own.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

__all__ = ["Budget", "Holder"]


class Holder(Protocol):
    """A connection on which something is arriving."""

    @property
    def site(self) -> str:
        """Where it comes from."""

    def give_up_arriving(self) -> None:
        """Let go of it, and say so to the peer. Doesn't block."""


class Budget:
    """Made by the hub. Connections say here how many bytes they keep of what isn't complete yet."""

    def __init__(self, most: int) -> None:
        self._most = most
        #: Bytes that are kept at the moment, altogether and by connection.
        self.held: int = 0
        self._holders: dict[Holder, int] = {}

    def hold(self, holder: Holder, change: int) -> None:
        """Note that a connection keeps this many bytes more, or fewer. It may have to give them up."""
        self.held += change
        held = self._holders.pop(holder, 0) + change
        if held:
            self._holders[holder] = held
        if change > 0 and self.held > self._most and len(self._holders) > 1:
            self._largest().give_up_arriving()

    def _largest(self) -> Holder:
        by_site: Counter[str] = Counter()
        for holder, held in self._holders.items():
            by_site[holder.site] += held
        ((site, _),) = by_site.most_common(1)
        return max([each for each in self._holders if each.site == site], key=self._holders.__getitem__)
