"""The process that writes a log for `templates`: `python -m tests.damage.writer PATH PARAMETERS`.

It says `old` when the earlier copies may be made, and `done` when all is acknowledged, and each time
waits for a line. At the end of its stdin it ends in good order. What it has published is in PATH.truth.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from random import Random
from typing import Any

import trio

from tests.damage.events import Content, content, random_notification
from trionotify import Hub, open_hub
from trionotify.storage import database

__all__: list[str] = []


async def _write(path: str, *, seed: int, count: int, old_at: int, limit: int, lives: int) -> None:
    random, truth = Random(seed), dict[int, Content]()
    options: dict[str, Any] = {"store": f"sqlite:{path}", "max_log_entries": limit}
    for life in range(lives):
        async with open_hub(**options) as hub:
            upto = count * (life + 1) // lives
            while len(truth) < upto:
                await _publish(hub, random, truth, min(random.choice((1, 1, 5, 20)), upto - len(truth)))
                if len(truth) >= old_at:
                    old_at = count + 1
                    _ask("old")
            if life == lives - 1:
                _tell(path, (hub.log.epoch, hub.log.start, hub.log.head, truth))
                _ask("done")


async def _publish(hub: Hub, random: Random, truth: dict[int, Content], number: int) -> None:
    """So many in one commit, more or less."""
    for left in range(number, 0, -1):
        made = random_notification(random, len(truth) + 1, "old")
        truth[len(truth) + 1] = content(made)
        if left > 1:
            hub.publish_nowait(made)
        else:
            receipt = await hub.publish(made, confirm=True)
            assert receipt.cursor == f"{hub.log.epoch}:{len(truth)}"


def _tell(path: str, what: object) -> None:
    Path(f"{path}.truth").write_bytes(pickle.dumps(what))


def _ask(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    database._MERGE = given.pop("merge")  # type: ignore[misc] # it is final for everyone else
    trio.run(lambda: _write(sys.argv[1], **given))
