"""Turns: the time that a task works before it lets other tasks run.

Trio only switches tasks at checkpoints. So work whose amount a peer decides needs some: the frames of
one read, the events of a body, the filters that a batch meets. Counting items is no limit, because one
item may take a thousand times as long as another. A `Turn` measures time instead. Its owner checks it
between two pieces of work, and passes the turn on when it is over:

    turn = Turn()
    for piece in pieces:
        work(piece)
        if turn.over:
            await turn.pass_on()

At such a checkpoint, other tasks see the work half done, and the owner may be cancelled.

Turns don't suffice if there are many of them: three hundred connections that each take a turn are as
bad as one that takes three hundred. So a task that a peer feeds passes its turn on through a `Lane`
(`Hub.crowd`), which lets a few tasks continue between two turns of all tasks. The same holds for a
piece of work that takes longer than a turn and can't be divided, such as parsing a long filter
(`Hub.slow_lane`, one at a time), and for work that comes in crowds (`Hub.door`, `Hub.pace`). Unknown
peers can queue up in a lane by the thousand. So a lane serves one task of each address in turn.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from itertools import count
from time import perf_counter
from typing import Final

import trio

__all__ = ["OPERATORS", "Lane", "Turn"]

#: The address of operators and the application itself. They don't wait behind any other.
OPERATORS: Final = "\noperators"

#: The length of a turn in seconds. A checkpoint takes about 4 microseconds, less than one percent of
#: it.
SECONDS = 0.001


class Turn:
    """One task's turn. It begins when it is created. `wait`, a checkpoint, passes it on."""

    __slots__ = ("_end", "_wait", "passed")

    def __init__(self, wait: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint) -> None:
        self._wait = wait
        #: The number of times it was passed on.
        self.passed: int = 0
        self._end = perf_counter() + SECONDS

    @property
    def over(self) -> bool:
        """Whether other tasks should run now."""
        return perf_counter() >= self._end

    async def pass_on(self) -> None:
        """Let all other tasks run, then begin again. A checkpoint."""
        await self._wait()
        self.passed += 1
        self._end = perf_counter() + SECONDS


class Lane:
    """Admits `width` tasks at a time, for work that takes longer than a turn or comes in crowds.

    The hub creates lanes, and any task may use them:

        async with lane.one_of(address):
            work(piece)
    """

    def __init__(self, width: int = 1) -> None:
        #: The number of tasks that may still enter.
        self.free: int = width
        #: The waiting tasks by address. The address that is served next is in front. The first task of
        #: its line is the one that has had least, and among equals the one that came first.
        self._lines: dict[str, list[tuple[float, int, trio.lowlevel.Task]]] = {}
        self._numbers = count()

    def one_of(self, address: str, had: float = 0.0) -> AbstractAsyncContextManager[None]:
        """A context manager around a place in the lane. Entering is always a checkpoint.

        Cancelled while it enters, it holds no place. Of one address, the tasks that have `had` least go
        first. You choose the unit of `had`.
        """
        return _Inside(self, address, had)

    async def turn(self, address: str) -> None:
        """Wait for a place in the lane, and give it up at once. Always a checkpoint.

        Of many tasks that do so at once, `width` continue between two turns of all others.
        """
        await self.enter(address)
        self.leave()
        # A deadline may have passed on the way, and the caller often has no other checkpoint.
        await trio.lowlevel.checkpoint_if_cancelled()

    async def enter(self, address: str, had: float = 0.0) -> None:
        """Enter as `one_of` does; then you must call `leave`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.free:
            await self._wait(address, had)
        else:
            self.free -= 1
            # With the place taken, so that a task that comes meanwhile also waits for a turn of all
            # tasks.
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _wait(self, address: str, had: float) -> None:
        """Wait until `leave` has let this task in."""
        if address == OPERATORS:
            self._lines = {address: self._lines.pop(address, []), **self._lines}
        line = self._lines.setdefault(address, [])
        place = (had, next(self._numbers), trio.lowlevel.current_task())

        def give_up(_: object) -> trio.lowlevel.Abort:
            line.remove(place)
            if not line:
                del self._lines[address]
            return trio.lowlevel.Abort.SUCCEEDED

        insort(line, place)
        await trio.lowlevel.wait_task_rescheduled(give_up)

    def leave(self) -> None:
        """Let the next task in. Doesn't block."""
        if not self._lines:
            self.free += 1
            return
        address = next(iter(self._lines))
        line = self._lines.pop(address)
        task = line.pop(0)[2]
        if line:
            self._lines[address] = line  # behind all others
        trio.lowlevel.reschedule(task)


class _Inside(AbstractAsyncContextManager[None]):
    def __init__(self, lane: Lane, address: str, had: float) -> None:
        self._lane = lane
        self._address = address
        self._had = had

    async def __aenter__(self) -> None:
        await self._lane.enter(self._address, self._had)

    async def __aexit__(self, *_: object) -> None:
        self._lane.leave()
