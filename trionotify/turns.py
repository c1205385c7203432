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

A piece of work that takes longer than a turn and can't be divided (parsing a long filter) needs more:
forty connections that each take a long turn are as bad as one that takes forty. Such work goes through a
`trio.CapacityLimiter` of the hub (`Hub.slow_lane`), one piece at a time, and between two pieces all
other tasks have a turn.
"""

from __future__ import annotations

from time import perf_counter

import trio

__all__ = ["Turn"]

#: Seconds. A checkpoint takes about 4 microseconds, so turns cost less than one percent.
SECONDS = 0.001


class Turn:
    """One task's turn. It begins when it is made."""

    __slots__ = ("_end", "passed")

    def __init__(self) -> None:
        #: How many times it was passed on.
        self.passed = 0
        self._end = perf_counter() + SECONDS

    @property
    def over(self) -> bool:
        """Whether the others should run now."""
        return perf_counter() >= self._end

    async def pass_on(self) -> None:
        """Let all other tasks run, then begin again. A checkpoint."""
        await trio.lowlevel.checkpoint()
        self.passed += 1
        self._end = perf_counter() + SECONDS
