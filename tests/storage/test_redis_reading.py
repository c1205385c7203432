"""The two readers of a log on Redis: the tail, and a committer that reads along."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.fake_redis import FakeRedis, FakeSession
from tests.redis_nodes import until
from trionotify import Notification, Settings
from trionotify.delivery.entry import Entry, Pending
from trionotify.delivery.publish_queue import Inbox
from trionotify.delivery.renewal import BeganAgain
from trionotify.storage import redis_log, redis_reading
from trionotify.storage.redis_log import RedisLog
from trionotify.storage.redis_rows import Stored
from trionotify.storage.redis_state import Appended

#: How many a node publishes at a time.
MANY = 8


@attrs.define(eq=False)
class Node:
    """One node: its log, what the broadcast gets, and what is settled."""

    log: RedisLog
    inbox: Inbox
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    got: list[Entry] = attrs.Factory(list)
    settled: int = 0
    took: int = 0

    @property
    def texts(self) -> list[object]:
        return [entry.notification.data for entry in self.got]

    async def broadcast(self) -> None:
        """Do what the broadcast does."""
        while True:
            await self.take()

    async def take(self) -> None:
        try:
            own, fresh = await self.log.take(self.inbox)
        except BeganAgain:
            return
        self.got += fresh
        self.took += 1
        for entry in own:
            if entry.pending:
                entry.pending.cursor = "published"
                entry.pending.done.set()
        self.inbox.settle(len(own))

    async def publish(self, *texts: str) -> list[Entry]:
        """Publish these together; return their entries when their outcome is known."""
        entries = []
        for text in texts:
            notification = Notification(text, id=text, source="s")
            entries.append(Entry(notification, None, Pending(), ("me", "s", text)))
        self.inbox.put_nowait(list(entries))
        for pending in [entry.pending for entry in entries]:
            assert pending
            await pending.done.wait()
        return entries


@attrs.define(eq=False)
class World:
    """Nodes on one fake Redis; what was asked of it."""

    redis: FakeRedis
    nursery: trio.Nursery
    #: The offsets that the tails have read, and what the appends have returned.
    tails: list[int] = attrs.Factory(list)
    appends: list[Appended] = attrs.Factory(list)
    #: Whether one had more to return than it may.
    was_behind: bool = False
    #: Changes what an append returns.
    change: Callable[[Appended], Appended] = lambda appended: appended

    async def node(self, name: str, broadcast: bool = True, durability: str = "primary") -> Node:
        log = await RedisLog.open(self.redis, durability, Settings(), name)
        node = Node(log, Inbox(10_000, 1 << 20))

        def settle(count: int, settle: Callable[[int], None] = node.inbox.settle) -> None:
            node.settled += count
            settle(count)

        node.inbox.settle = settle  # type: ignore[method-assign] # counts

        async def run(task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - the log calls it
            with node.scope:
                await log.run(node.inbox, task_status)

        await self.nursery.start(run)
        if broadcast:
            self.nursery.start_soon(node.broadcast)
        return node

    async def node_that_rests(self) -> Node:
        """One that has published a group, and whose broadcast takes only what a test lets it take."""
        node = await self.node("a", broadcast=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.publish, *named("a"))
            while len(node.got) < MANY:
                await node.take()
        return node


async def in_world(
    monkeypatch: pytest.MonkeyPatch, test: Callable[[World], Awaitable[None]], seed: int = 0
) -> None:
    """Run a test in a world of its own."""
    async with trio.open_nursery() as nursery:
        world = World(FakeRedis(Random(seed)), nursery)
        tail, append = FakeSession.tail, FakeSession.append

        async def watched_tail(*arguments: Any, seconds: float) -> list[Stored]:
            rows = await tail(*arguments, seconds)
            world.tails += [row.offset for row in rows]
            return rows

        async def watched_append(session: FakeSession, *arguments: Any) -> Appended:
            appended = await append(session, *arguments)
            _, _, rows, after, most = arguments
            world.appends.append(appended)
            missing = appended.top - after - len(appended.before) - len(rows)
            world.was_behind |= most > 0 and missing > 0
            return world.change(appended)

        with monkeypatch.context() as patch:
            patch.setattr(redis_reading, "REST", 0.1)  # the fake is slower than Redis
            patch.setattr(FakeSession, "tail", watched_tail)
            patch.setattr(FakeSession, "append", watched_append)
            with trio.fail_after(600):
                await test(world)
        nursery.cancel_scope.cancel()


def named(name: str, count: int = MANY) -> list[str]:
    return [f"{name}{number}" for number in range(count)]


async def test_what_a_node_appends_is_not_read_back(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it publishes without a pause. After one, its tail waits for entries, and reads them."""

    async def test(world: World) -> None:
        world.redis.in_parts = False
        node = await world.node("a")
        groups = [named(name) for name in "abcd"]
        for group in groups:
            await node.publish(*group)
        assert world.tails == list(range(1, MANY + 1))
        await trio.sleep(1)
        await node.publish("later")
        await node.publish("after that")
        assert world.tails[MANY:] == [4 * MANY + 1]
        assert node.texts == [*(text for group in groups for text in group), "later", "after that"]
        assert node.settled == len(node.got)

    await in_world(monkeypatch, test)


@pytest.mark.parametrize("seed", range(4))
async def test_nodes_that_publish_at_once(
    seed: int, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All broadcast the same in one order, and an append returns what others have appended."""

    async def test(world: World) -> None:
        nodes = [await world.node(name) for name in "abc"]
        last = await world.node("d")  # publishes nothing

        async def publish_on(number: int) -> None:
            for group in range(12):
                texts = named(f"{number}-{group}-")
                for entry in await nodes[number].publish(*texts):
                    assert entry.pending
                    assert entry.pending.cursor
                await trio.sleep(world.redis.random.random() * 0.01)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(publish_on, number)
        await until(lambda: all(len(node.got) == 36 * MANY for node in (*nodes, last)))
        for node in nodes:
            assert node.texts == last.texts
            assert [entry.offset for entry in node.got] == list(range(1, 36 * MANY + 1))
            assert node.settled == 12 * MANY
        assert any(appended.before for appended in world.appends)

    await in_world(monkeypatch, test, seed)


async def test_others_have_appended_too_much(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append doesn't return it, so the tail reads it, before anything else is appended."""
    monkeypatch.setattr(redis_log, "_ALONG", 3)

    async def test(world: World) -> None:
        one, two = [await world.node(name) for name in "ab"]

        async def publish_on(node: Node, name: str) -> None:
            for group in range(10):
                await node.publish(*named(f"{name}{group}-"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_on, one, "a")
            nursery.start_soon(publish_on, two, "b")
        await until(lambda: len(one.got) == len(two.got) == 20 * MANY)
        assert one.texts == two.texts
        assert sorted(one.texts) == sorted(set(one.texts))
        assert one.settled == two.settled == 10 * MANY
        assert world.was_behind

    await in_world(monkeypatch, test)


@pytest.mark.parametrize("how", ["replicated", "large"])
async def test_nothing_is_read_along(
    how: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If each append waits for a confirmation, or entries are large."""

    async def test(world: World) -> None:
        node = await world.node("a", durability="replicated" if how == "replicated" else "primary")
        filler = "x" * 4000 if how == "large" else ""
        for name in "abc":
            await node.publish(*named(filler + name))
        assert world.tails == list(range(1, 3 * MANY + 1))
        assert node.settled == 3 * MANY

    await in_world(monkeypatch, test)


async def test_it_is_cancelled_while_an_append_is_handed_out(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No publisher waits for ever."""

    async def test(world: World) -> None:
        node = await world.node_that_rests()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.publish, *named("b"))
            await until(lambda: node.log._reading.send_batch.statistics().tasks_waiting_send)
            node.scope.cancel()
        assert node.settled == 2 * MANY

    await in_world(monkeypatch, test)


async def test_repetitions_among_many(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are settled, and not broadcast again, also if a whole group repeats."""

    async def test(world: World) -> None:
        node = await world.node("a")
        await node.publish(*named("a"))
        mixed = await node.publish("a0", *named("b"), "b1", "a2")
        again = await node.publish(*named("b"))
        assert node.texts == named("a") + named("b")
        assert [entry.offset for entry in mixed] == [1, *range(9, 17), 10, 3]
        assert [entry.offset for entry in again] == list(range(9, 17))
        assert node.settled == len(named("a")) + len(mixed) + len(again)
        await trio.sleep(1)
        await node.publish("c")
        assert node.texts[-1] == "c"

    await in_world(monkeypatch, test)


async def test_an_append_does_not_continue_the_log(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publishers don't know the outcome; the tail of another session reads what there is."""

    async def test(world: World) -> None:
        node = await world.node("a")
        await node.publish(*named("a"))
        world.change = lambda appended: attrs.evolve(appended, chain="0" * 16)
        refused = await node.publish(*named("b"))
        world.change = lambda appended: appended
        for entry in refused:
            assert entry.pending is None
        await until(lambda: len(node.got) == 2 * MANY)
        await until(lambda: node.log.problem is None)
        again = await node.publish(*named("b"), "c")
        assert node.texts == [*named("a"), *named("b"), "c"]
        assert [entry.offset for entry in again] == list(range(9, 18))
        assert node.settled == 3 * MANY + 1

    await in_world(monkeypatch, test)


async def test_the_connection_breaks_while_repetitions_are_handed_out(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the log, so their publishers hear of them, and each is settled once."""

    async def test(world: World) -> None:
        node = await world.node_that_rests()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.publish, *named("a"))
            await until(lambda: node.log._reading.send_batch.statistics().tasks_waiting_send)
            world.redis.primary.cut()
            await trio.sleep(3)  # several heartbeats
            assert node.settled == MANY
            await node.take()
        assert node.settled == 2 * MANY
        assert node.texts == named("a")

    await in_world(monkeypatch, test)


@pytest.mark.parametrize("restart", [False, True])
async def test_the_connection_breaks_while_an_append_is_handed_out(
    restart: bool, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broadcast gets it, before the log begins again if it must. Each entry is settled once."""

    async def test(world: World) -> None:
        node = await world.node_that_rests()
        world.nursery.start_soon(node.publish, *named("b"))
        await until(lambda: node.log._reading.send_batch.statistics().tasks_waiting_send)
        world.redis.promote(MANY + 1 if restart else 0).cut()
        await trio.sleep(5)  # several heartbeats
        assert node.settled == MANY
        world.nursery.start_soon(node.broadcast)
        await until(lambda: node.log.problem is None)
        assert node.texts == named("a") + named("b")
        assert node.settled == 2 * MANY
        assert bool(node.log.renewed) is restart
        await node.publish("c")
        assert node.texts[-1] == "c"

    await in_world(monkeypatch, test)
