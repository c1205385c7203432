"""A budget of bytes, for what is still arriving.

Each body of a request and each message of a WebSocket has a limit of its own. A thousand connections
that each stop one byte short of it would still take gigabytes, so all of them together have a limit,
too.
"""

from __future__ import annotations

__all__ = ["Budget"]


class Budget:
    """Made by the hub. Whoever keeps bytes of what isn't complete yet says so here."""

    def __init__(self, most: int) -> None:
        self._most = most
        #: Bytes that are kept at the moment.
        self.held = 0

    def hold(self, change: int) -> bool:
        """Note that so many bytes more are kept, or fewer; False when that is more than there may be.

        They count in either case, until they are given back.
        """
        self.held += change
        return change <= 0 or self.held <= self._most
