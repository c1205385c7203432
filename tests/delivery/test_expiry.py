"""Expiry: the wall clock says when, also one that is set while tasks wait."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import open_room
from trionotify import Client, Disconnected, Exact
from trionotify.delivery import expiry
from trionotify.delivery.entry import Entry
from trionotify.delivery.expiry import Expiry
from trionotify.delivery.memory_log import MemoryLog
from trionotify.delivery.publish_queue import Inbox

Clock = trio.testing.MockClock


class Wall:
    """A wall clock that goes by Trio's, and can be set. So is the monotonic one, which can't."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 1e9
        self.looks = 0
        fake = SimpleNamespace(time=self.time, monotonic=trio.current_time)
        monkeypatch.setattr(expiry, "time", fake)

    def time(self) -> float:
        self.looks += 1
        return trio.current_time() + self.ahead


class Connections(dict[int, Any]):
    """Connections that are open, and when each was ended."""

    def __init__(self, count: int = 0) -> None:
        super().__init__()
        self.ended: dict[int, float] = {}
        for key in range(count):
            self.open(key)

    def open(self, key: int) -> None:
        def end(code: int, reason: str) -> None:
            assert (code, reason) == (4401, "expired")
            self.ended[key] = trio.current_time()

        self[key] = SimpleNamespace(revoke=end)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)


async def test_each_in_its_second(wall: Wall, autojump_clock: Clock, nursery: trio.Nursery) -> None:
    """In whatever order they came. One that has left is ignored."""
    connections = Connections(4)
    expiring = Expiry(connections)
    nursery.start_soon(expiring.run)
    for key, seconds in enumerate((30.5, 10.0, 20.0, 15.0)):
        expiring.add(key, wall.time() + seconds)
    del connections[3]
    await trio.sleep(40)
    assert connections.ended == pytest.approx({1: 10.0, 2: 20.0, 0: 30.5})


async def test_a_clock_that_is_set_ahead(
    wall: Wall, autojump_clock: Clock, nursery: trio.Nursery
) -> None:
    """Or a machine that slept: whose time is over goes at once, and nobody else."""
    connections = Connections(2)
    expiring = Expiry(connections)
    nursery.start_soon(expiring.run)
    expiring.add(0, wall.time() + 600)
    expiring.add(1, wall.time() + 7200)
    await trio.sleep(10.5)
    wall.ahead += 3600
    await trio.sleep(1.1)
    assert list(connections.ended) == [0]
    await trio.sleep(7200 - 3600 - 11)
    assert list(connections.ended) == [0, 1]


async def test_a_clock_that_is_set_back(
    wall: Wall, autojump_clock: Clock, nursery: trio.Nursery
) -> None:
    """No client goes before the clock says so, and a new one is judged by the same clock."""
    connections = Connections(2)
    expiring = Expiry(connections)
    nursery.start_soon(expiring.run)
    over = wall.time() + 600
    expiring.add(0, over)
    await trio.sleep(300)
    wall.ahead -= 3600
    expiring.add(1, wall.time() + 100)
    await trio.sleep(1000)
    assert list(connections.ended) == [1]
    await trio.sleep(over - wall.time() - 1)
    assert list(connections.ended) == [1]
    await trio.sleep(1.5)
    assert list(connections.ended) == [1, 0]


async def test_a_clock_that_was_wrong_for_a_moment(
    wall: Wall, autojump_clock: Clock, nursery: trio.Nursery
) -> None:
    """Set back and right again between two looks, or while a client comes, makes no difference."""
    connections = Connections(2)
    expiring = Expiry(connections)
    nursery.start_soon(expiring.run)
    expiring.add(0, wall.time() + 60)
    wall.ahead -= 3600
    expiring.add(1, wall.time() + 3600 + 90)
    wall.ahead += 3600
    await trio.sleep(61)
    assert list(connections.ended) == [0]
    await trio.sleep(30)
    assert list(connections.ended) == [0, 1]


async def test_it_looks_only_while_somebody_is_due(
    wall: Wall, autojump_clock: Clock, nursery: trio.Nursery
) -> None:
    """Once a second then, and else never."""
    connections = Connections(1)
    expiring = Expiry(connections)
    nursery.start_soon(expiring.run)
    await trio.sleep(1000)
    assert wall.looks == 0
    expiring.add(0, wall.time() + 100)
    await trio.sleep(200)
    assert connections.ended == pytest.approx({0: 1100.0})
    looks = wall.looks
    assert 100 <= looks < 250
    await trio.sleep(1000)
    assert wall.looks == looks
    expiring.add(0, math.inf)  # never
    await trio.sleep(10)
    assert 8 <= wall.looks - looks < 30


async def test_thousands_at_once_let_others_run(
    wall: Wall, autojump_clock: Clock, nursery: trio.Nursery
) -> None:
    """Between some hundred of them."""
    connections = Connections(2000)
    expiring = Expiry(connections)
    nursery.start_soon(expiring.run)
    for key in connections:
        expiring.add(key, wall.time() + 10)
    await trio.sleep(10)
    seen = [len(connections.ended)]
    while seen[-1] < 2000:
        await trio.lowlevel.checkpoint()
        seen.append(len(connections.ended))
    assert max(after - before for before, after in pairwise(seen)) <= 2 * 256


async def test_nothing_is_kept_of_those_that_left(
    wall: Wall, autojump_clock: Clock, nursery: trio.Nursery
) -> None:
    """However many come and go: not after their time, whether it was renewed or not."""
    connections = Connections()
    expiring = Expiry(connections)
    nursery.start_soon(expiring.run)
    for key in range(100):
        connections.open(key)
        expiring.add(key, wall.time() + 10)
        if key % 2:
            expiring.add(key, wall.time() + 20)
        if key % 3:
            del connections[key]
        await trio.sleep(1)
    await trio.sleep(30)
    assert set(connections.ended) == set(range(0, 100, 3))
    assert (expiring._due, expiring._last) == ([], {})


async def test_what_a_session_has_not_got_yet(autojump_clock: Clock) -> None:
    """Once its client is disconnected, an application's session gets no more, and publishes nothing."""
    got: list[object] = []
    gate = trio.Event()

    async def session(client: Client) -> None:
        async for message in client:
            got.append(message)
            await gate.wait()
            try:
                await client.publish(message)
            except Disconnected as error:
                got.append(str(error))

    async with open_room(session=session) as room:
        peer = await room.connect("/?id=al&role=both")
        peer.say("1", "2", "3")
        await room.quiet()
        assert await room.hub.disconnect(Exact(id="al")) == 1
        gate.set()
        await room.quiet()
        why = "the client's authorization has ended, so nothing more of it is published"
        assert (got, room.hub.log.head, peer.look().close) == (["1", why], 0, (4403, "disconnected"))


@pytest.mark.parametrize("end", [True, False])
async def test_what_waits_for_room(
    end: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """If the channel is full when its client is disconnected, it isn't published; else it is."""
    gate, take = trio.Event(), MemoryLog.take

    async def held(log: MemoryLog, inbox: Inbox) -> tuple[list[Entry], list[Entry]]:
        await gate.wait()
        return await take(log, inbox)

    async with open_room(max_waiting=1) as room:
        monkeypatch.setattr(MemoryLog, "take", held)
        await room.hub.publish("0")  # taken already
        await room.quiet()
        peer = await room.connect("/?id=al&role=publisher")
        for text in ("1", "2"):
            peer.say(text)
            await room.quiet()
        if end:
            assert await room.hub.disconnect(Exact(id="al")) == 1
        gate.set()
        await room.quiet()
        entries = room.hub.log.read(0, 10)
        assert [entry.data for entry in entries] == (["0", "1"] if end else ["0", "1", "2"])
