"""Backups of a log that is in use, one at a time, in turns with its commits.

A copy is made in its own thread. Like commits and readers, it has the file for one step at a
time. Between two steps it goes to the end of the line.
"""

from __future__ import annotations

import trio

from trionotify.storage.sqlite import SqliteStore

__all__ = ["Backups"]


class Backups:
    """The backups of one log. Made by it, with its store and the limiter for the store's thread."""

    def __init__(self, store: SqliteStore, turns: trio.CapacityLimiter) -> None:
        self._store = store
        self._turns = turns
        #: Held during a copy, because two copies to one place would damage each other.
        self._copying = trio.Lock()

    async def make(self, destination: str) -> int:
        """Copy all of the log to the file `destination`; return the newest offset in it.

        Raises StoreError. If cancelled, there is no copy.
        """
        async with self._copying:
            return await self._make(destination)

    async def _make(self, destination: str) -> int:
        copy = object()  # its place among those who want the file
        await self._turns.acquire_on_behalf_of(copy)
        held, head = True, 0

        def leave() -> None:
            nonlocal held, head
            head = self._store.head
            self._turns.release_on_behalf_of(copy)
            held = False

        async def give_way() -> None:
            nonlocal held
            leave()
            await self._turns.acquire_on_behalf_of(copy)
            held = True

        def in_thread() -> None:
            self._store.backup(
                destination,
                lambda: trio.from_thread.run(give_way),
                lambda: trio.from_thread.run_sync(leave),
            )

        try:
            # Not with Trio's default limiter, because commits wait until this has a thread.
            await trio.to_thread.run_sync(in_thread, limiter=trio.CapacityLimiter(1))
        finally:
            if held:
                self._turns.release_on_behalf_of(copy)
        return head
