"""A Redis made of Python, for the log's sessions: with replicas that lag, promotions, and cuts.

A server holds a history; a promotion gives another server a copy of it, without the newest entries.
Clients of the old one stay there until the test cuts their connections.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha1
from random import Random

import attrs
import trio

from trionotify.storage.redis_errors import Refusal, Unanswered
from trionotify.storage.redis_rows import Stored, chained
from trionotify.storage.redis_state import Appended, Limits, Rows, State

#: Seconds that a request takes at most, each way.
_LATENCY = 0.01


@attrs.define
class History:
    """The contents of one server."""

    epoch: str = ""
    start: int = 0
    edge: str = ""
    entries: list[tuple[Stored, int, bytes, float]] = attrs.Factory(list)
    ids: dict[bytes, tuple[int, str]] = attrs.Factory(dict)
    nodes: dict[bytes, tuple[float, bytes]] = attrs.Factory(dict)

    @property
    def top(self) -> int:
        return self.start + len(self.entries)

    @property
    def chain(self) -> str:
        return self.entries[-1][0].chain if self.entries else self.edge

    @property
    def size(self) -> int:
        return sum(size for _, size, _, _ in self.entries)

    def without(self, newest: int) -> History:
        """A copy that lacks so many of the newest."""
        other = copy.deepcopy(self)
        for stored, _, key, _ in self.entries[len(self.entries) - newest :]:
            other.entries.pop()
            if other.ids.get(key, (0, ""))[0] == stored.offset:
                del other.ids[key]
        return other


@attrs.define(eq=False)
class FakeServer:
    """One server: its history, and what is going on at it."""

    history: History = attrs.Factory(History)
    up: bool = True
    changed: trio.Event = attrs.Factory(trio.Event)
    scopes: set[trio.CancelScope] = attrs.Factory(set)
    #: How often all connections were broken.
    cuts: int = 0

    def cut(self) -> None:
        """Break all connections; what was asked may have been done."""
        self.cuts += 1
        for scope in tuple(self.scopes):
            scope.cancel()


@attrs.define(eq=False)
class FakeRedis:
    """All servers, and which one is the primary."""

    random: Random
    primary: FakeServer = attrs.Factory(FakeServer)
    #: The cursor in front of each, as text without the epoch: how histories go on.
    before: dict[tuple[int, str], tuple[int, str]] = attrs.Factory(dict)
    address: str = "fake"
    #: Whether the tail gets a random part of what there is.
    in_parts: bool = True

    def promote(self, lost: int) -> FakeServer:
        """Another server is the primary, without the newest; return the old one, which lives on."""
        old = self.primary
        lost = min(lost, len(old.history.entries))
        self.primary = FakeServer(old.history.without(lost))
        return old

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[FakeSession]:
        await trio.sleep(self.random.random() * _LATENCY)
        if not self.primary.up:
            raise Unanswered("fake: connection refused")
        yield FakeSession(self, self.primary, self.primary.cuts)


@attrs.define(eq=False)
class FakeSession:
    """A session with one server."""

    redis: FakeRedis
    server: FakeServer
    cuts: int
    tail_bytes: int = 0

    async def _there(self) -> History:
        """The way there, on which a connection may break."""
        await self._travel()
        return self.server.history

    async def _travel(self) -> None:
        with trio.CancelScope() as scope:
            self.server.scopes.add(scope)
            try:
                await trio.sleep(self.redis.random.random() * _LATENCY)
            finally:
                self.server.scopes.discard(scope)
        if scope.cancelled_caught or not self.server.up or self.cuts != self.server.cuts:
            raise Unanswered("fake: connection lost")

    async def append(
        self, epoch: str, limits: Limits, rows: Rows, after: int = 0, most: int = 0
    ) -> Appended:
        history = await self._there()
        if history.epoch != epoch:
            raise Refusal("fake", "EPOCH", f"EPOCH {history.epoch}")
        unread = [stored for stored, *_ in history.entries if stored.offset > after]
        found: list[tuple[int, str] | None] = []
        for payload, size, key in rows:
            first = history.ids.get(key) if key else None
            found.append(first)
            if first is None:
                before = history.top, history.chain
                stored = Stored(history.top + 1, chained(history.chain, payload), payload)
                history.entries.append((stored, size, key, trio.current_time()))
                self.redis.before[stored.offset, stored.chain] = before
                if key:
                    history.ids[key] = stored.offset, stored.chain
        self._evict(history, limits)
        appended = Appended(
            *(history.start, history.size, history.top, history.chain),
            *(unread if len(unread) <= most else [], found),
        )
        self.server.changed.set()
        self.server.changed = trio.Event()
        await self._travel()
        return appended

    def _evict(self, history: History, limits: Limits) -> None:
        while len(history.entries) > limits.entries or history.size > limits.bytes:
            stored, _, key, _ = history.entries.pop(0)
            history.start, history.edge = stored.offset, stored.chain
            history.ids.pop(key, None)

    async def confirmed(self, durability: str, seconds: float) -> bool:
        return True

    async def tail(self, after: int, limit: int, seconds: float) -> list[Stored]:
        history = await self._there()
        while history.top <= after:
            with trio.CancelScope() as scope:
                self.server.scopes.add(scope)
                try:
                    with trio.move_on_after(seconds) as patience:
                        await self.server.changed.wait()
                finally:
                    self.server.scopes.discard(scope)
            if scope.cancelled_caught:
                raise Unanswered("fake: connection lost")
            if patience.cancelled_caught:
                return []
        found = [stored for stored, *_ in history.entries if stored.offset > after]
        return found[: self.redis.random.randrange(1, limit + 1) if self.redis.in_parts else limit]

    async def page(self, after: int, limit: int) -> list[Stored]:
        history = await self._there()
        return [stored for stored, *_ in history.entries if stored.offset > after][:limit]

    async def find(self, *, at: float | None = None, ago: float = 0.0) -> tuple[int, str]:
        history = await self._there()
        return history.start, history.edge

    async def beat(self, offset: int, epoch: str, process: bytes, said: bytes, lease: float) -> State:
        history = await self._there()
        if not history.epoch:
            history.epoch = epoch
            history.edge = sha1(epoch.encode(), usedforsecurity=False).hexdigest()[:16]
        now = trio.current_time()
        history.nodes[process] = now + lease, said
        there = {history.start: history.edge} | {s.offset: s.chain for s, *_ in history.entries}
        nodes = [text for until, text in history.nodes.values() if until >= now]
        await self._travel()
        return State(
            *(history.epoch, history.top, history.chain, history.start, history.edge, history.size),
            *(now, there.get(offset), nodes),
        )

    async def has_moved(self) -> bool:
        return False

    async def check_rights(self) -> None:
        await self._there()

    async def find_danger(self) -> str | None:
        await self._there()
        return None

    async def evict(self, limits: Limits) -> None:
        self._evict(await self._there(), limits)

    async def renew(self, epoch: str, new: str) -> None:
        history = await self._there()
        if history.epoch == epoch:
            history.epoch = new
