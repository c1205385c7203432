"""Counts of what was seen, by which everything is triggered."""

from __future__ import annotations

from collections.abc import Callable

import trio

__all__ = ["Count"]


class Count:
    """Goes up. A task that waits for a number is called at the moment at which it is reached."""

    def __init__(self) -> None:
        self.value = 0
        self._due: list[tuple[int, Callable[[], None]]] = []
        self._stopped = False

    def add(self, count: int = 1) -> None:
        self.value += count
        due = [call for at, call in self._due if at <= self.value]
        if due:
            self._due = [(at, call) for at, call in self._due if at > self.value]
        for call in due:
            call()

    def when(self, more: int, call: Callable[[], None]) -> None:
        """Call `call` when it is by so many higher, or when there will be no more."""
        if self._stopped:
            call()
        else:
            self._due.append((self.value + more, call))

    async def wait(self, more: int) -> None:
        """Wait for that."""
        reached = trio.Event()
        self.when(more, reached.set)
        await reached.wait()

    def stop(self) -> None:
        """There will be no more that is worth waiting for."""
        self._stopped = True
        for _, call in self._due:
            call()
        self._due.clear()
