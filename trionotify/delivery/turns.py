"""Turns: how long a task works before it lets the others run.

Trio switches tasks at checkpoints alone, so work whose amount a peer decides must have some: the frames
of one read, the events of a body, the filters that a batch meets. Counting items bounds nothing, because
one item may cost a thousand times what another does. A `Turn` measures time instead. Its owner looks at
it between two pieces of work, and passes the turn on when it is over:

    turn = Turn()
    for piece in pieces:
        work(piece)
        if turn.over:
            await turn.pass_on()

Other tasks see everything half done at such a checkpoint, and it is where the owner may be cancelled.

That is not enough where there are many: three hundred connections that each take a turn are as bad as
one that takes three hundred. So a task that a peer feeds passes its turn on through a `Lane`
(`Hub.crowd`), which lets a few go on between two turns of everyone. The same holds for a piece of work
that takes longer than a turn and can't be divided, such as parsing a long filter (`Hub.slow_lane`, one
at a time), and for what comes in crowds (`Hub.door`, `Hub.pace`). Strangers can queue up there by the
thousand. So those who wait are served by where they come from: one of each address, then the next of
each.
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

#: Where those come from who look after the server: no address, so they don't wait behind any.
OPERATORS: Final = "\noperators"

#: Seconds. A checkpoint takes about 4 microseconds, so turns cost less than one percent.
SECONDS = 0.001


class Turn:
    """One task's turn. It begins when it is made, and is passed on by `wait`, a checkpoint."""

    __slots__ = ("_end", "_wait", "passed")

    def __init__(self, wait: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint) -> None:
        self._wait = wait
        #: How many times it was passed on.
        self.passed: int = 0
        self._end = perf_counter() + SECONDS

    @property
    def over(self) -> bool:
        """Whether the others should run now."""
        return perf_counter() >= self._end

    async def pass_on(self) -> None:
        """Let all other tasks run, then begin again. A checkpoint."""
        await self._wait()
        self.passed += 1
        self._end = perf_counter() + SECONDS


class Lane:
    """Work that takes longer than a turn, one piece at a time. Made by the hub; any task may use it:

    async with lane.one_of(address):
        work(piece)

    One that is wider lets in `width` tasks at a time.
    """

    def __init__(self, width: int = 1) -> None:
        #: The number of tasks that may still enter.
        self.free: int = width
        #: Who waits, by address. The address that is served next is in front. In a line it is the task
        #: that has had least so far, and of equals the first one.
        self._lines: dict[str, list[tuple[float, int, trio.lowlevel.Task]]] = {}
        self._numbers = count()

    def one_of(self, address: str, had: float = 0.0) -> AbstractAsyncContextManager[None]:
        """Be in the lane for a block. To enter is always a checkpoint; cancelled, it was not entered.

        Of one address, those go first that have `had` least, in seconds or whatever they count.
        """
        return _Inside(self, address, had)

    async def turn(self, address: str) -> None:
        """Wait for a place in the lane, and hold it no longer. Always a checkpoint.

        Of many tasks that do so at once, `width` go on between two turns of all others.
        """
        await self.enter(address)
        self.leave()
        # The deadline may have come on the way, and whoever is here often waits for nothing else.
        await trio.lowlevel.checkpoint_if_cancelled()

    async def enter(self, address: str, had: float = 0.0) -> None:
        """See `one_of`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.free:
            await self._wait(address, had)
        else:
            self.free -= 1
            # From inside, so that whoever comes meanwhile waits for a turn of everyone, too.
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
        """Let the next one in. Doesn't block."""
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
