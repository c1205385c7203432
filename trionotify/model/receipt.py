"""The receipt of what was published: where it is in the log, and how many clients it concerned."""

from __future__ import annotations

import attrs

__all__ = ["Receipt"]


@attrs.frozen
class Receipt:
    """What became of a notification: its `cursor`, and how many clients.

    (The `cursor` that a client gets is None where the server's session took what it published.)
    `wanted` of them want it; the kernel took it at once for `written`; `behind` are catching up and get
    it later, if they don't leave.
    """

    cursor: str | None
    wanted: int
    written: int
    behind: int
