"""The receipt of a published notification: its place in the log, and the numbers of clients."""

from __future__ import annotations

from typing import Any

import attrs

__all__ = ["Receipt"]


@attrs.frozen
class Receipt:
    """The result of a publish: the notification's `cursor`, and numbers of connected clients.

    `wanted` is the number of clients that want the notification. Of these, the kernel took it at once
    for `written`, and `behind` are catching up and get it later, if they don't leave.

    In a log that several servers share, the clients are those of the server `node`, and `durability`
    says how safe the notification is: `primary`, `replicated` or `fsynced`. Otherwise, both are None.
    In a Python client, `cursor` is None if the server's session has accepted the notification itself.
    """

    cursor: str | None
    wanted: int
    written: int
    behind: int
    node: str | None = None
    durability: str | None = None

    def members(self) -> dict[str, Any]:
        """Return the members of a remote publisher's receipt."""
        found: dict[str, Any] = {} if self.cursor is None else {"cursor": self.cursor}
        found |= {"wanted": self.wanted, "written": self.written, "behind": self.behind}
        if self.node is not None:
            found["node"] = self.node
        if self.durability is not None:
            found["durability"] = self.durability
        return found
