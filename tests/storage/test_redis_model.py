"""Random programs of nodes on a Redis that loses entries at promotions, on a virtual clock.

Whatever a client is sent continues what it had before, in one history, unless it was told otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trionotify.storage
from tests.conftest import Room, open_room
from tests.fake_redis import FakeRedis, FakeServer
from tests.kernel import Peer
from trionotify import StoreError
from trionotify.model.cursor import Cursor
from trionotify.storage import redis_reading


@attrs.define(eq=False)
class Reader:
    """A client that comes back, at whichever node, with its cursor."""

    redis: FakeRedis
    id: str
    peer: Peer | None = None
    read: int = 0
    #: The last notification's cursor, and where to resume; None: what comes next needn't continue it.
    last: Cursor | None = None
    since: str | None = None
    got: list[str] = attrs.Factory(list)
    gaps: int = 0

    async def connect(self, room: Room) -> None:
        """Come to this node, from wherever it was."""
        if self.peer is not None:
            self.look()
            self.peer.kernel.hang_up()
        since = f"&since={self.since}" if self.since else ""
        self.peer, self.read = await room.connect(f"/?id={self.id}&format=cloudevents{since}"), 0
        peer = self.peer
        await until(lambda: peer.look().head or peer.kernel.closed)
        if self.peer.status != 101:
            self.peer = None  # the node is away from Redis: it comes again

    def look(self) -> None:
        """Check what has come."""
        if self.peer is None:
            return
        messages = self.peer.look().messages
        for text in messages[self.read :]:
            event = json.loads(text)
            cursor = event.get("cursor")
            welcome = event["type"] == "trionotify.welcome"
            if event["type"] == "trionotify.gap" or (
                welcome and event["data"].get("recovered") is False
            ):
                self.gaps += 1
                self.last = None
            elif event["type"] == "message":
                self._note(Cursor.parse(cursor), event["data"])
            self.since = cursor or self.since
        self.read = len(messages)

    def _note(self, cursor: Cursor, data: str) -> None:
        if self.last is not None:
            assert cursor.offset == self.last.offset + 1, f"{self.id}: {self.last}, and then {cursor}"
            assert cursor.epoch == self.last.epoch
            chains = [chain for offset, chain in self.redis.before if offset == cursor.offset]
            (chain,) = (chain for chain in chains if cursor.check == f"x{chain[:8]}")
            offset, before = self.redis.before[cursor.offset, chain]
            assert (offset, f"x{before[:8]}") == (self.last.offset, self.last.check), (
                f"{self.id}: {cursor} doesn't continue {self.last}"
            )
        self.last = cursor
        self.got.append(data)


@attrs.define(eq=False)
class Program:
    """One random program."""

    random: Random
    redis: FakeRedis
    rooms: tuple[Room, ...]
    readers: list[Reader]
    #: Promotions lose nothing, and there is one primary at a time.
    safe: bool
    #: Those that were primaries, and may still be taken for it.
    stale: list[FakeServer] = attrs.Factory(list)
    acknowledged: set[str] = attrs.Factory(set)

    async def publish(self, text: str) -> None:
        """Publish it at any node, again and again until it is acknowledged."""
        while text not in self.acknowledged:
            with suppress(StoreError):
                await self.random.choice(self.rooms).hub.publish(text, id=text, confirm=True)
                self.acknowledged.add(text)
            await trio.sleep(0.1)

    async def step(self, number: int) -> None:
        """Publish some, and let something happen meanwhile."""
        async with trio.open_nursery() as nursery:
            for each in range(self.random.randrange(8)):
                nursery.start_soon(self.publish, f"{number}-{each}")
            await self._happen(self.random.randrange(10))
        for reader in self.readers:
            reader.look()

    async def _happen(self, what: int) -> None:
        redis, random = self.redis, self.random
        if what == 0:
            old = redis.promote(0 if self.safe else random.randrange(4))
            if self.safe:
                old.up = False
                old.cut()
            else:
                self.stale.append(old)
        elif what == 1 and self.stale:
            self.stale.pop().cut()
        elif what == 2:
            redis.primary.cut()
        elif what == 3:
            redis.primary.up = False
            redis.primary.cut()
            await trio.sleep(random.random() * 3)
            redis.primary.up = True
        elif what == 4:
            await trio.sleep(random.random() * 8)
        elif what < 8:
            await random.choice(self.readers).connect(random.choice(self.rooms))

    async def end(self) -> None:
        """Let there be one primary, and everyone be there."""
        for server in self.stale:
            server.up = False
            server.cut()
        await until(lambda: all(self._is_settled(room) for room in self.rooms))
        await trio.sleep(5)  # they have seen each other's renewals
        for reader in self.readers:
            if reader.peer is None or reader.peer.kernel.closed:
                await reader.connect(self.rooms[0])
        await self.publish("last")
        await trio.sleep(5)
        for reader in self.readers:
            reader.look()
            assert reader.got[-1] == "last", reader
            assert reader.gaps or self.acknowledged <= set(reader.got), reader
            assert reader.gaps or len(set(reader.got)) == len(reader.got), reader

    def _is_settled(self, room: Room) -> bool:
        history, log = self.redis.primary.history, room.hub.log
        return room.hub.ready and (log.epoch, log.head) == (history.epoch, history.top)


async def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - on a virtual clock
            await trio.sleep(0.05)


async def _at_once(function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
    """Run it here: while a thread works, the virtual clock would run away."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


async def _run(seed: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run one; return how often a reader was told that it misses something: never, if nothing is."""
    random = Random(seed)
    redis = FakeRedis(random)
    monkeypatch.setattr(trionotify.storage, "RedisStore", lambda address, fsynced: redis)
    monkeypatch.setattr(trio.to_thread, "run_sync", _at_once)
    options: dict[str, Any] = {"store": "redis://fake", "close_timeout": 0.1, "max_tail_bytes": 20_000}
    # The fake is slower than Redis. In every other pair of programs, nodes read along.
    monkeypatch.setattr(redis_reading, "REST", 0.1 if seed % 4 < 2 else 0.001)
    safe = seed % 2 == 0
    options |= {} if safe else random.choice(({}, {"max_log_entries": 30}))
    async with AsyncExitStack() as stack:
        rooms = [await stack.enter_async_context(open_room(**options, node_name=name)) for name in "abc"]
        readers = [Reader(redis, f"r{number}") for number in range(4)]
        for reader in readers:
            await reader.connect(random.choice(rooms))
        program = Program(random, redis, tuple(rooms), readers, safe)
        for step in range(40):
            await program.step(step)
        await program.end()
    gaps = sum(reader.gaps for reader in readers)
    assert not (safe and gaps)
    return gaps


async def test_random_programs(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With replicas that lag, stale primaries, cuts and evictions."""
    gaps = [await _run(seed, monkeypatch) for seed in range(8)]
    assert any(gaps)
