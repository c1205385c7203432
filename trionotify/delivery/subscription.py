"""Readers that want notifications rather than bytes, and take them at their own pace.

Such a reader has a position in the log like any client. The broadcast only wakes it; what there is to
read it reads from the log. `Subscription` is the one inside the process, `hub.subscribe()`; a connection
that an application accepted itself (`server.attach`) builds on the same `Reader`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Self

import trio

from trionotify.delivery.catchup import wants
from trionotify.delivery.entry import Entry
from trionotify.delivery.log import Damaged, Evicted, NotLoaded
from trionotify.delivery.position import Position, Sendable
from trionotify.delivery.turns import Turn
from trionotify.errors import Lagged, StoreError
from trionotify.model.cursor import Moment

if TYPE_CHECKING:
    from types import TracebackType

    from trionotify.delivery.broadcast import Broadcast
    from trionotify.delivery.clients import Client
    from trionotify.model.notification import Notification
    from trionotify.model.predicates import Wanted

__all__ = ["Reader", "Subscription"]

#: How many entries one step looks at, which is also the most that a reader holds on to.
SCAN: Final = 128


def _takes_nothing(_: bytes) -> int:
    raise BlockingIOError


class Reader:
    """Reads what a position wants, one notification after the other. One task at a time calls `next`."""

    owed = False  # as an outlet: nothing is ever half sent

    def __init__(self, broadcast: Broadcast, predicate: Wanted, client: Client | None = None) -> None:
        self._broadcast = broadcast
        self.position: Position = Position(self, predicate, None, _takes_nothing, client)
        self._woken = trio.Event()
        #: A task is in `next`.
        self._busy = False
        #: What it has looked up already, and the predicate that wanted it.
        self._ahead: deque[Entry] = deque()
        self._ahead_for = predicate

    def begin(self, offset: int) -> None:
        """Join behind `offset`, with nothing left of an earlier time."""
        self._ahead.clear()
        self._broadcast.join(self.position, offset)

    async def next(self) -> Notification:
        """Wait for the next notification that the position wants.

        Always a checkpoint; cancelled, it loses nothing. Raises `Evicted` when what comes next has left
        the log, `Damaged` when it can't be read any more (`skip` goes on behind the gap), whatever the
        position's predicate raises at what comes next (the call after goes on behind that),
        `StoreError` when the log can't be read, `trio.ClosedResourceError` once it has left, or the hub
        has nothing more, and `trio.BusyResourceError` when another task waits here.
        """
        if self._busy:
            raise trio.BusyResourceError(
                "another task is waiting for the next notification; let each task subscribe on its own"
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
            if self._ahead_for is not position.predicate:
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

    def skip(self, lost: Evicted | Damaged) -> tuple[str, str]:
        """Go on at the head, or behind the damage; return the cursors between which all is lost."""
        taken = self._broadcast.taken
        upto = min(lost.upto, taken) if isinstance(lost, Damaged) else taken
        after, self.position.cursor = self.position.cursor, upto
        return self._broadcast.cursor(after), self._broadcast.cursor(self.position.cursor)

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
            except Exception:  # an application's own callable may raise anything
                if self._ahead:
                    return  # first what stands before it
                position.cursor = entry.offset
                raise
            if wanted:
                self._ahead.append(entry)
            elif not self._ahead:
                position.cursor = entry.offset
            if position.predicate is not self._ahead_for:
                # The predicate has replaced itself: what it has said so far holds.
                self._ahead_for = position.predicate
                return

    # As an outlet of the broadcast.

    synchronous = True

    def owe(self, rest: Sendable, /) -> None:
        """Never called: nothing is written to a reader."""
        raise AssertionError("a reader is not written to")

    def wake(self) -> None:
        """Let the waiting `next` look."""
        self._woken.set()

    def put_off(self) -> None:
        """The same: it looks in its own task anyway."""
        self.wake()

    def fail(self, error: Exception) -> None:
        """The predicate raised: so will `next`, when it comes there."""
        self._broadcast.fall_behind(self.position)
        self.wake()

    def abort(self) -> None:
        """Never called: there is no connection to lose."""
        raise AssertionError("a reader has no connection")

    def give_up(self) -> None:
        """Never called: a reader is owed nothing."""
        raise AssertionError("a reader has no connection")


class Subscription:
    """What `hub.subscribe()` gives: an async context manager, and inside it an async iterator.

    It begins at the head of the log, or at `since`, when it is entered. It sees every notification that
    its predicate wants, whatever their audience: it is the server's own. Iterating never skips silently:
    it raises `Lagged` when it was too slow, and may be continued after that. One task at a time
    iterates. When it was left, it may be entered again, and begins anew.
    """

    def __init__(self, broadcast: Broadcast, predicate: Wanted, since: int | Moment | None) -> None:
        self._broadcast = broadcast
        self._reader = Reader(broadcast, predicate)
        self._since = since
        self._entered = False

    async def __aenter__(self) -> Self:
        """Begin. A checkpoint. Raises RuntimeError when it has begun already."""
        broadcast, since = self._broadcast, self._since
        if self._reader.position.joined:
            raise RuntimeError(
                "this subscription is in use: call hub.subscribe() once for each `async with`"
            )
        if isinstance(since, Moment):
            since = await broadcast.find(since)
        else:
            await trio.lowlevel.checkpoint()
        self._reader.begin(broadcast.taken if since is None else since)
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
        """The next notification. Always a checkpoint; cancelled, it loses nothing.

        Raises `Lagged`, `StoreError` or what the predicate raised, and iterating on continues behind
        that. Raises `trio.BusyResourceError` when another task waits for the next one, and RuntimeError
        when the subscription was never entered. Ends when the subscription or the hub does.
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
            raise Lagged(*self._reader.skip(lost)) from None
        except trio.ClosedResourceError:
            raise StopAsyncIteration from None

    @property
    def cursor(self) -> str:
        """Behind what it has given out so far: `since` of a subscription that should go on from here."""
        return self._broadcast.cursor(self._broadcast.standing(self._reader.position))
