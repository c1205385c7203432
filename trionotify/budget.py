"""A budget of bytes, for what is still arriving.

Each body of a request and each message of a WebSocket has a limit of its own. A thousand connections
that each stop one byte short of it would still take gigabytes, so all of them together have a limit as
well.
"""

from __future__ import annotations

__all__ = ["Budget"]


class Budget:
    """Made by the hub. HTTP connections and Wires note here what they keep that isn't complete yet."""

    def __init__(self, most: int) -> None:
        self._most = most
        #: Bytes that are kept now.
        self.held = 0

    def hold(self, change: int) -> bool:
        """Note that `change` bytes more are kept, or fewer; return False when the budget is exceeded.

        The bytes count in either case, until they are given back.
        """
        self.held += change
        return change <= 0 or self.held <= self._most
