"""Publishing inside the process, as an application that embeds the hub does, without sockets."""

from __future__ import annotations

import statistics
import tempfile
import time

import trio

import trionotify

#: How many publishers wait, each for its own commit.
WAITING = (1, 64)


async def publishes(publishers: int, store: str, durability: str, seconds: float) -> float:
    """How many a second so many tasks get through, each waiting for its own before the next."""
    limits = {"max_log_entries": 1 << 24, "max_log_bytes": 1 << 40}
    done = 0

    async def publish() -> None:
        nonlocal done
        while True:
            await hub.publish("." * 64, type="t")
            done += 1

    async with trionotify.open_hub(store=store, durability=durability, **limits) as hub:
        async with trio.open_nursery() as nursery:
            for _ in range(publishers):
                nursery.start_soon(publish)
            await trio.sleep(seconds / 5)
            before, start = done, time.perf_counter()
            await trio.sleep(seconds)
            rate = (done - before) / (time.perf_counter() - start)
            nursery.cancel_scope.cancel()
    return rate


def compare(durability: str, rounds: int, seconds: float = 2.0) -> dict[int, float]:
    """The medians, by how many publishers wait; they take turns."""
    rates: dict[int, list[float]] = {number: [] for number in WAITING}
    for _ in range(rounds):
        for number, found in rates.items():
            with tempfile.TemporaryDirectory() as directory:
                store = f"sqlite:{directory}/log"
                found.append(trio.run(publishes, number, store, durability, seconds))
    return {number: statistics.median(found) for number, found in rates.items()}
