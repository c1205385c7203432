"""A log on Redis: the messages between its nodes and to their publishers, and its end."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

import trionotify.storage
from tests.conftest import cancel_at_every_await
from tests.fake_redis import FakeRedis
from tests.redis_nodes import connected, data, open_nodes, open_proxy, publish, recovered, said, until
from tests.redis_server import DEADLINE, open_redis
from trionotify import Notification, Settings, StoreError, open_hub
from trionotify.delivery.entry import Entry
from trionotify.delivery.publish_queue import Inbox
from trionotify.storage import redis_checks, redis_link, redis_log
from trionotify.storage.redis_checks import Checks
from trionotify.storage.redis_log import RedisLog

pytestmark = pytest.mark.usefixtures("patient", "quickly")


async def test_the_nodes(tmp_path: Path) -> None:
    """Each knows all, with their clients; one that has left isn't listed any more."""
    async with open_redis(tmp_path) as server, open_nodes(server.url, server.url) as (one, two):
        await connected(one, "/?id=a")
        await connected(two, "/?id=b")
        await connected(two, "/?id=c")
        log = one.hub.log
        assert isinstance(log, RedisLog)
        await until(
            lambda: [(n["name"], n["clients"]) for n in log.nodes] == [("node 1", 1), ("node 2", 2)]
        )
        assert log.nodes[0].keys() == {"name", "version", "since", "clients", "tail_age"}
        await until(lambda: log.tail_age < 10)
        async with open_hub(store=server.url, node_name="guest"):
            await until(lambda: len(log.nodes) == 3)
        await until(lambda: len(log.nodes) == 2)


async def test_two_nodes_of_one_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The older one says so once, because the younger one may only have replaced it."""
    async with open_redis(tmp_path) as server, open_nodes(server.url, server.url):
        async with open_hub(store=server.url, node_name="node 1"):
            await until(lambda: said(caplog, "same_node_name"))
        async with open_hub(store=server.url, node_name="node 1") as third:
            assert isinstance(third.log, RedisLog)
            await until(lambda: len(third.log.nodes) == 3)
    assert said(caplog, "same_node_name") == [
        "another node has the name node 1 as well; give each its own --node-name"
    ]


async def test_a_client_that_is_ahead_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes from a node that has read further."""
    monkeypatch.setattr(redis_link, "BEAT", 3600.0)  # or the node notices, and connects again
    async with open_redis(tmp_path) as server, open_proxy(server.port) as proxy:
        async with open_nodes(f"redis://127.0.0.1:{proxy.port}", server.url) as (one, two):
            await publish(two.hub, "a")
            await until(lambda: one.hub.statistics().log_entries == 1)
            proxy.silent = b"XREAD"
            cursor = await publish(two.hub, "b")
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def come() -> None:
                    assert await recovered(one, cursor) == "true"

                proxy.silent = None
            await publish(one.hub, "c")


def test_checks_of_many_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are read, those at the end of the log and the last that were read stay known."""
    monkeypatch.setattr(redis_checks, "_BLOCKS", 20)
    checks = Checks()
    end = 1_000_000
    for offset in range(end - 10_000, end + 1):
        checks.note(offset, "abcdef01")
    for offset in range(0, 900_000, 1000):
        checks.note(offset, "abcdef01")
    assert checks.find(899_000) == checks.find(end) == checks.find(end - 10_000) == "xabcdef01"
    assert checks.find(0) is None


async def test_what_is_replicated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is acknowledged when a replica has it; without one the outcome is unknown, and repeatable."""
    async with open_redis(tmp_path / "a") as server, open_redis(tmp_path / "b") as replica:
        async with open_nodes(server.url, durability="replicated") as (one,):
            peer = await connected(one, "/?format=cloudevents")
            with monkeypatch.context() as patch:
                patch.setattr(redis_log, "_CONFIRMING", 0.1)
                with pytest.raises(StoreError) as unknown:
                    await one.hub.publish("a", id="a", source="s")
            assert unknown.value.status == 503
            assert unknown.value.told.endswith("publish it again with the same id")
            await until(lambda: data(peer) == ["a"])
            await replica.command("REPLICAOF", "127.0.0.1", str(server.port))
            cursor = await publish(one.hub, "a")
            assert cursor.rpartition(":")[0].endswith(":1")
            receipt = await one.hub.publish("b", confirm=True)
            assert receipt.durability == "replicated"
            await until(lambda: data(peer) == ["a", "b"])


async def test_confirmation_is_refused(tmp_path: Path) -> None:
    """The primary becomes a replica while others are waited for: then it is in the log, or isn't."""
    async with open_redis(tmp_path) as server, open_nodes(server.url, durability="replicated") as (one,):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def demote() -> None:
                while await server.command("XLEN", "trionotify:{trionotify}:log") == 0:
                    pass
                await server.command("REPLICAOF", "127.0.0.1", "1")

            with pytest.raises(StoreError) as unknown:
                await one.hub.publish("a", id="a", source="s")
        assert unknown.value.told.endswith("publish it again with the same id")


async def test_a_reader_is_cancelled(tmp_path: Path) -> None:
    """A reader that is cancelled while it waits for Redis disturbs no other."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        for text in "ab":
            await publish(one.hub, text)
        async with open_nodes(server.url) as (two,):
            log = two.hub.log
            assert isinstance(log, RedisLog)
            session = log._link.session
            assert session is not None

            async def read(_: int) -> None:
                await log.load(0)

            assert await cancel_at_every_await(read) > 1
            assert len(log.read(0, 9)) == 2
            await publish(two.hub, "c")
            assert log._link.session is session


async def test_pages_while_the_application_uses_all_threads(tmp_path: Path) -> None:
    """They are parsed in a thread that the log has for itself."""
    threads = trio.to_thread.current_default_thread_limiter()
    users = [object() for _ in range(int(threads.total_tokens))]
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        await publish(one.hub, "a")
        async with open_nodes(server.url) as (two,):
            for user in users:
                threads.acquire_on_behalf_of_nowait(user)
            with trio.move_on_after(DEADLINE):
                await two.hub.log.load(0)
            for user in users:
                threads.release_on_behalf_of(user)
            assert [entry.data for entry in two.hub.log.read(0, 9)] == ["a"]


async def test_large_notifications(tmp_path: Path) -> None:
    """Some are read at a time."""
    async with open_redis(tmp_path) as server, open_nodes(server.url, server.url) as (one, two):
        texts = [f"{number}{'x' * 200_000}" for number in range(12)]
        async with trio.open_nursery() as nursery:
            for number, text in enumerate(texts):
                nursery.start_soon(publish, one.hub, text, f"{number}")
        peer = await connected(two, "/?format=cloudevents&since=start")
        await until(lambda: len(peer.look().messages) == 13)
        assert sorted(data(peer)) == sorted(texts)


async def test_it_ends_while_redis_is_away(tmp_path: Path) -> None:
    """Nothing is waited for that can't come."""
    async with open_redis(tmp_path) as server:
        with trio.fail_after(DEADLINE):
            async with open_hub(store=server.url) as hub:
                await hub.publish("a")
                await server.stop()
                hub.publish_nowait("nobody waits for this one")


async def test_opening_can_be_cancelled(tmp_path: Path) -> None:
    """At any point; nothing is left behind that would keep others from it."""
    async with open_redis(tmp_path) as server:

        async def open_and_publish(_: int) -> None:
            async with open_hub(store=server.url) as hub:
                await hub.publish("a")

        assert await cancel_at_every_await(open_and_publish) > 10
        async with open_hub(store=server.url) as hub:
            with trio.fail_after(DEADLINE):
                await hub.publish("b")


class Failing(FakeRedis):
    """A Redis that has lost its newest entry whenever a node connects."""

    def connect(self) -> AbstractAsyncContextManager[Any]:
        self.promote(1)
        return super().connect()


async def test_the_log_changes_while_it_is_opened(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found when it was opened is lost before the first session; the hub opens all the same."""
    redis = FakeRedis(Random(0))
    monkeypatch.setattr(trionotify.storage, "RedisStore", lambda address, durability: redis)
    async with open_hub(store="redis://fake") as hub:
        for text in "abc":
            await hub.publish(text)
    redis = Failing(Random(0), redis.primary)
    with trio.fail_after(120):
        async with open_hub(store="redis://fake") as hub:
            await until(lambda: hub.ready)
            assert hub.log.renewed == "fake: has lost notifications that were delivered already"
            await hub.publish("d")


async def test_it_ends_while_others_publish(autojump_clock: trio.testing.MockClock) -> None:
    """The tail waits for a broadcast that is busy. That is no error at the end."""
    redis, inbox = FakeRedis(Random(0)), Inbox(4, 1000)
    one, two = [await RedisLog.open(redis, "primary", Settings(), name) for name in ("one", "two")]
    async with trio.open_nursery() as nursery:
        await nursery.start(two.run, Inbox(4, 1000))
        async with trio.open_nursery() as ends:
            await ends.start(one.run, inbox)
            await two._commit([Entry(Notification("a"))])
            await until(lambda: one._reading.send_batch.statistics().tasks_waiting_send)
            inbox.close_to_publishers()
        nursery.cancel_scope.cancel()


async def test_a_slow_broadcast_holds_publishers_back(autojump_clock: trio.testing.MockClock) -> None:
    """Redis takes more than the broadcast does; the rest must not gather in memory."""
    log, inbox = await RedisLog.open(FakeRedis(Random(0)), "primary", Settings(), "one"), Inbox(4, 9999)

    async def publish_on() -> None:
        for _ in range(100):
            inbox.put_nowait([Entry(Notification("a"))])
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        await nursery.start(log.run, inbox)
        with pytest.raises(trio.WouldBlock):
            await publish_on()
        with trio.fail_after(120):
            while log.head < 6:  # two in flight, and four that wait
                await log.take(inbox)
        assert not inbox.full
        nursery.cancel_scope.cancel()
