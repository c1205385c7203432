"""The short form of `python -m tests.rolling`: a rolling restart behind nginx, with few clients."""

from __future__ import annotations

from pathlib import Path

from tests.redis_server import SERVER, needed
from tests.rolling import roll


async def test_a_rolling_restart(tmp_path: Path) -> None:
    """Three nodes, one after the other: everyone gets everything once, and comes back at least once."""
    needed(SERVER)
    rolled = await roll(tmp_path, 50, 3)
    assert rolled.published >= 40
    assert rolled.requests >= 2 * rolled.clients
