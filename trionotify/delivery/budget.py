"""A budget of bytes for incomplete bodies and messages.

Each body of a request and each message of a WebSocket has a limit of its own. But a thousand
connections that each stop one byte short of it would still take gigabytes. So there is a common limit,
too.

If the common limit is exceeded, the largest holder at the address that holds most must give up its
bytes. If the newcomer had to give up instead, a few connections that hold all of it would lock out all
others. A connection that is the only holder keeps its bytes, because they have a limit of their own.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

__all__ = ["Budget", "Holder"]


class Holder(Protocol):
    """A connection on which a body or a message is arriving."""

    @property
    def site(self) -> str:
        """The network of the peer's address."""

    def give_up_arriving(self) -> None:
        """Discard the incomplete bytes and tell the peer. Doesn't block."""


class Budget:
    """The budget of a hub, which creates it. Connections report the incomplete bytes that they keep."""

    def __init__(self, most: int) -> None:
        self._most = most
        #: The bytes kept now, in total and by connection.
        self.held: int = 0
        self._holders: dict[Holder, int] = {}

    def hold(self, holder: Holder, change: int) -> None:
        """Note that `holder` keeps `change` bytes more, or fewer. A holder may have to give up."""
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
