"""The server's fates: its deaths, starts that fail, and a disk that is full for a while."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING

import trio

from tests.fleet.plan import Death, Fault

if TYPE_CHECKING:
    from tests.fleet.run import Run

__all__ = ["begin", "die", "fill_disk"]


async def begin(run: Run) -> None:
    """The first life."""
    for place in run.plan.births:
        await _abort_birth(run, place)
    await run.server.start(*run.plan.first)


async def die(run: Run, death: Death) -> None:
    """Wait until it is time, send the signal in that very moment, and start the server again."""
    dead = trio.Event()

    def strike() -> None:
        run.life += 1
        run.server.signal(death.signal)
        dead.set()

    getattr(run, death.what).when(death.count, strike)
    await dead.wait()
    codes = {-SIGKILL} if death.signal == SIGKILL else {0}
    if death.signal == SIGTERM and death.patience is not None:
        await _turns(death.patience)
        run.server.signal(SIGKILL)
        codes = {0, -SIGKILL}
    assert await run.server.ended() in codes
    for place in death.births:
        await _abort_birth(run, place)
    await run.server.start(*death.options)
    _limit(run)


async def _abort_birth(run: Run, place: str) -> None:
    """Start the server, and kill it at once, or later, but before anyone has connected."""
    await run.server.spawn()
    if place == "locked":
        while not _is_locked(run):
            await trio.lowlevel.checkpoint()
        await _turns(run.random.choice((0, 1, 10, 100, 1000)))
    elif place == "listening":
        await run.server.first_line()
    run.life += 1
    run.server.signal()
    await run.server.ended()


async def _turns(count: int) -> None:
    """Let some of the server's time pass, which is measured in our own turns."""
    for _ in range(count):
        await trio.lowlevel.checkpoint()


def _is_locked(run: Run) -> bool:
    """The server has its file."""
    store = run.server.options[run.server.options.index("--store") + 1]
    with suppress(FileNotFoundError):
        # Behind the first line is the note of the log's head.
        first, _, _ = Path(f"{store.removeprefix('sqlite:')}-lock").read_text().partition("\n")
        return first == f"{run.server.pid}"
    return False


async def fill_disk(run: Run, fault: Fault) -> None:
    """Wait until it is time, and let the server's files not grow any more, until enough was refused."""
    if sys.platform != "linux":
        return  # the limits of other processes can't be set there
    await getattr(run, fault.what).wait(fault.count)
    if run.over or run.disk_is_full:
        return
    run.disk_is_full = True
    _limit(run)
    await run.refused.wait(fault.refusals)
    run.disk_is_full = False
    _limit(run)


def _limit(run: Run) -> None:
    """Tell the system, once the server lives. It outlives the server: see `die`."""
    if sys.platform == "linux" and run.server.listening.is_set():
        import resource  # noqa: PLC0415 - there is none on Windows

        resource.prlimit(run.server.pid, resource.RLIMIT_FSIZE, (4096 if run.disk_is_full else -1, -1))
