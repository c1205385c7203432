"""Readers that receive notifications instead of bytes, at their own pace.

Such a reader has a position in the log like any client. The broadcast only wakes it, and it reads from
the log in the task that calls `next`. `Subscription` is the reader inside the process, from
`hub.subscribe()`. A connection that an application accepted itself (`server.attach`) uses `Reader`,
too.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Self

import trio

from trionotify.delivery.entry import Entry
from trionotify.delivery.history import wants
from trionotify.delivery.log import Damaged, Evicted, NotLoaded
from trionotify.delivery.position import Position, Sendable, takes_nothing
from trionotify.delivery.turns import Turn
from trionotify.errors import Lagged, StoreError
from trionotify.model.cursor import Cursor, Moment
from trionotify.scopes import Alive

if TYPE_CHECKING:
    from types import TracebackType

    from trionotify.delivery.broadcast import Broadcast
    from trionotify.delivery.clients import Client
    from trionotify.model.notification import Notification
    from trionotify.model.predicates import Wanted

__all__ = ["Reader", "Subscription", "not_resumable"]

#: The most entries that one step looks at, and that a reader keeps.
SCAN: Final = 128


def not_resumable(cursor: Cursor) -> ValueError:
    """Return the error for a `since` at which the log can't resume."""
    return ValueError(f"can't resume at {cursor}, because it is no longer in the log")


class Reader:
    """Reads the notifications that a position wants. One task at a time may call `next`.

    Created by a `Subscription` or a connection, which also ends it.
    """

    owed = False  # as an `Outlet`: nothing is ever sent in part

    def __init__(self, broadcast: Broadcast, predicate: Wanted, client: Client | None = None) -> None:
        self._broadcast = broadcast
        self.position: Position = Position(self, predicate, None, takes_nothing, client)
        self._woken = trio.Event()
        #: Whether a task is in `next`.
        self._busy = False
        #: Entries that were looked up already, and the predicate that selected them.
        self._ahead: deque[Entry] = deque()
        self._ahead_for = predicate
        #: The exception that the predicate has raised last.
        self.fault: Exception | None = None

    def begin(self, offset: int) -> None:
        """Join the broadcast behind `offset`, without anything left from before."""
        self._ahead.clear()
        self._broadcast.join(self.position, offset)

    async def next(self) -> Notification:
        """Wait for the next notification that the position wants.

        Always a checkpoint. Cancelled, it loses nothing. Raises `Evicted` if the log no longer has what
        comes next, and `Damaged` if that can't be read; `skip` continues behind the gap. Raises
        whatever the predicate raises; the next call continues behind that entry. Raises `StoreError` if
        the log can't be read, `trio.ClosedResourceError` after the reader has left or the hub has
        ended, and `trio.BusyResourceError` if another task waits here.
        """
        if self._busy:
            raise trio.BusyResourceError(
                "another task is waiting for the next notification; subscribe once in each task"
            )
        self._busy = True
        try:
            await trio.lowlevel.checkpoint()
            return await self._next()
        finally:
            self._busy = False

    async def _next(self) -> Notification:
        position, broadcast = self.position, self._broadcast
        while True:
            if not position.joined:
                raise trio.ClosedResourceError("this subscription has ended")
            if self._ahead_for is not position.predicate or position.cursor < 0:
                self._ahead.clear()
                self._ahead_for = position.predicate
            if self._ahead:
                entry = self._ahead.popleft()
                position.cursor = entry.offset
                return entry.notification
            if position.live or broadcast.settle(position):
                if broadcast.over:
                    raise trio.ClosedResourceError("the hub is closed")
                self._woken = trio.Event()
                await self._woken.wait()
                continue
            try:
                self._look_ahead()
            except NotLoaded as absent:
                await self._load(absent.after)
            else:
                if not self._ahead:
                    await trio.lowlevel.checkpoint()

    async def _load(self, after: int) -> None:
        try:
            await self._broadcast.log.load(after)
        except StoreError:
            if self._broadcast.over:  # the log is closed, too
                raise trio.ClosedResourceError("the hub is closed") from None
            raise

    def skip(self, lost: Evicted | Damaged) -> tuple[int, int]:
        """Continue at the head or behind the damage; return the offsets around what is lost."""
        taken = self._broadcast.taken
        upto = min(lost.upto, taken) if isinstance(lost, Damaged) else taken
        after, self.position.cursor = self.position.cursor, upto
        return after, upto

    def _look_ahead(self) -> None:
        position = self.position
        turn, begun = Turn(), position.cursor
        for entry in self._broadcast.log.read(position.cursor, SCAN):
            if entry.offset > self._broadcast.taken:
                return
            if turn.over and (self._ahead or position.cursor > begun):
                return
            try:
                wanted = wants(position, entry)
            except Exception as error:  # an application's own callable may raise anything
                if self._ahead:
                    return  # first return what comes before this entry
                position.cursor = entry.offset
                self.fault = error
                raise
            if wanted:
                self._ahead.append(entry)
            elif not self._ahead:
                position.cursor = entry.offset
            if position.predicate is not self._ahead_for:
                # The predicate has replaced itself. What the old one selected so far stays.
                self._ahead_for = position.predicate
                return

    # --- as the `Outlet` of the position ---

    def owe(self, rest: Sendable, /) -> None:
        """Never called, because nothing is written to a reader."""
        raise AssertionError("a reader is not written to")

    def wake(self) -> None:
        """Let a waiting `next` look again."""
        self._woken.set()

    def put_off(self) -> None:
        """Let a waiting `next` look again, because it evaluates in its own task anyway."""
        self.wake()

    def fail(self, error: Exception) -> None:
        """Let `next` evaluate the predicate, which raised, itself."""
        self._broadcast.fall_behind(self.position)
        self.wake()

    def abort(self, reason: str = "") -> None:
        """Never called, because there is no connection."""
        raise AssertionError("a reader has no connection")


class Subscription(Alive):
    """The result of `hub.subscribe()`: an async context manager, and inside it an async iterator.

    It starts at the head of the log, or at `since`, when you enter it. It gets every notification that
    its predicate wants, whatever the audience, because it belongs to the server. If the iteration was
    too slow, it raises `Lagged` instead of skipping notifications silently, and you may continue after
    that. One task at a time may iterate. If you enter it again after you have left it, it starts over.
    """

    def __init__(self, broadcast: Broadcast, predicate: Wanted, since: Cursor | Moment | None) -> None:
        self._broadcast = broadcast
        self._reader = Reader(broadcast, predicate)
        self._since = since
        self._entered = False

    async def __aenter__(self) -> Self:
        """Start. A checkpoint. Raises RuntimeError if it has been entered and not left.

        Raises ValueError if a log that is shared can't be resumed at its cursor, and `StoreError` if it
        can't be read.
        """
        broadcast, since = self._broadcast, self._since
        offset: int | None = None
        await trio.lowlevel.checkpoint()
        if isinstance(since, Moment):
            offset = await broadcast.find(since)
        elif since is not None:
            offset = since.offset
            if broadcast.log.node is not None:
                await broadcast.log.look_up(since)
                if broadcast.resume(since) is None:
                    raise not_resumable(since)
        if self._reader.position.joined:  # perhaps by another task, during one of these waits
            raise RuntimeError(
                "this subscription is in use; call hub.subscribe() once for each `async with`"
            )
        self._reader.begin(broadcast.taken if offset is None else offset)
        self._entered = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._broadcast.leave(self._reader.position)
        self._reader.wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notification:
        """Wait for the next notification. Always a checkpoint. Cancelled, it loses nothing.

        Raises `Lagged`, `StoreError` or the predicate's exception. If you iterate again, it continues
        after that place. Raises `trio.BusyResourceError` if another task waits for the next one, and
        RuntimeError if the subscription was never entered. Ends when the subscription or the hub ends.
        """
        if not self._entered:
            raise RuntimeError(
                "hub.subscribe() must be entered first: async with hub.subscribe(...) as notifications:"
                " async for notification in notifications:"
            )
        try:
            return await self._reader.next()
        except (Evicted, Damaged) as lost:
            self._broadcast.lag.gaps += 1
            after, upto = self._reader.skip(lost)
            raise Lagged(self._broadcast.cursor(after), self._broadcast.cursor(upto)) from None
        except trio.ClosedResourceError as error:
            if error is self._reader.fault:
                raise  # the predicate's
            raise StopAsyncIteration from None

    @property
    def cursor(self) -> str:
        """The cursor of the last notification returned. Pass it as `since` to continue from there."""
        return self._broadcast.cursor(self._broadcast.standing(self._reader.position))
