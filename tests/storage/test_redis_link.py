"""Faults of Redis, and of the way there.

Each time publishing is refused, or can be repeated; connections stay; and afterwards each client has
everything in order, exactly once, or was told that it hasn't.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.redis_nodes import (
    connected,
    data,
    events,
    open_nodes,
    open_proxy,
    publish,
    recovered,
    until,
)
from tests.redis_server import DEADLINE, IMPATIENT, RedisServer, open_redis, open_sentinel
from trionotify import Lagged, StoreError
from trionotify.storage import redis_link, redis_scripts, redis_store
from trionotify.storage.redis_errors import Unanswered
from trionotify.storage.redis_rows import Stored

pytestmark = pytest.mark.usefixtures("patient", "quickly")

KEPT = ("--appendonly", "yes", "--appendfsync", "no")


async def test_a_restart_that_loses_nothing(tmp_path: Path) -> None:
    """While Redis is away, publishing is refused at once and readiness says why; then it goes on."""
    async with open_redis(tmp_path, *KEPT) as server, open_nodes(server.url, server.url) as (one, two):
        peers = [await connected(room, "/?format=cloudevents") for room in (one, two)]
        await publish(one.hub, "a")
        await server.stop()
        await until(lambda: not one.hub.ready and not two.hub.ready)
        assert str(server.port) in one.hub.checks()["log"]
        with pytest.raises(StoreError) as refused:
            await one.hub.publish("refused", source="s")
        assert refused.value.status == 503
        assert str(server.port) not in refused.value.told
        await server.start()
        await publish(two.hub, "b")
        await until(lambda: one.hub.ready and two.hub.ready)
        await publish(one.hub, "c")
        for peer in peers:
            await until(lambda peer=peer: data(peer)[-1] == "c")
            assert data(peer) == ["a", "b", "c"]
            assert peer.close is None


async def test_a_restart_that_loses_everything(tmp_path: Path) -> None:
    """It is another log: clients that can be told are told, others are closed, and no cursor resumes."""
    async with open_redis(tmp_path) as server, open_nodes(server.url, server.url) as (one, two):
        peer = await connected(one, "/?format=cloudevents")
        raw = await connected(two, "/")
        state = await connected(two, "/?format=cloudevents&lag=latest")
        cursor = await publish(one.hub, "a")
        epoch = one.hub.log.epoch
        await until(lambda: two.hub.statistics().head == cursor)
        async with two.hub.subscribe() as notifications:
            await server.stop()
            await server.start()
            await until(lambda: epoch not in (one.hub.log.epoch, two.hub.log.epoch))
            assert one.hub.log.epoch == two.hub.log.epoch
            with pytest.raises(Lagged) as lagged:
                await anext(notifications)
            assert lagged.value.after == f"{epoch}:1"
            assert "the log has begun again" in str(lagged.value)
            await publish(two.hub, "b")
            assert (await anext(notifications)).data == "b"
        await until(lambda: data(peer) == ["a", "gap", "b"])
        await until(lambda: data(state) == ["a", "gap", "b"])
        (gap,) = (event for event in events(peer) if event["type"] == "trionotify.gap")
        assert gap["data"]["from"] == f"{epoch}:1"
        assert gap["data"]["to"] == gap["cursor"]
        assert gap["cursor"].startswith(f"{one.hub.log.epoch}:0:x")
        await until(lambda: raw.look().close)
        assert raw.close == (1013, "the log began again")
        assert await recovered(two, cursor) == "false"
        assert await recovered(two, gap["cursor"]) == "true"
        assert one.hub.log.renewed


async def test_redis_is_flushed(tmp_path: Path) -> None:
    """As a restart that loses everything, while the connections stay."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        peer = await connected(one, "/?format=cloudevents")
        cursor = await publish(one.hub, "a")
        await server.command("FLUSHALL")
        await publish(one.hub, "b")
        await until(lambda: data(peer)[-1] == "b")
        assert data(peer) == ["a", "gap", "b"]
        assert await recovered(one, cursor) == "false"


async def test_redis_is_flushed_just_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a node that leaves finds is another log, also for a client that had nothing of the first."""
    monkeypatch.setattr(redis_link, "BEAT", 3600.0)
    async with open_redis(tmp_path) as server:
        async with open_nodes(server.url) as (one,):
            cursor = (await connected(one, "/?format=cloudevents")).header("Trionotify-Cursor")
            await publish(one.hub, "lost")
            await server.command("FLUSHALL")
        async with open_nodes(server.url) as (one,):
            assert await recovered(one, cursor) == "false"


async def test_the_stream_alone_is_deleted(tmp_path: Path) -> None:
    """A client that has everything goes on, and one that needs a lost entry is told."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        peer = await connected(one, "/?format=cloudevents")
        first = await publish(one.hub, "a")
        second = await publish(one.hub, "b")
        await server.command("DEL", "trionotify:{trionotify}:log")
        await until(lambda: one.hub.log.start == 2)
        await publish(one.hub, "c")
        await until(lambda: data(peer)[-1] == "c")
        assert data(peer) == ["a", "b", "c"]
        assert await recovered(one, first) == "false"
        assert await recovered(one, second) == "true"


async def test_another_program_takes_the_key(tmp_path: Path) -> None:
    """It is said what is wrong, for as long as it is."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        peer = await connected(one, "/?format=cloudevents")
        await publish(one.hub, "a")
        await server.command("SET", "trionotify:{trionotify}:log", "x")
        await until(lambda: "another program" in one.hub.checks()["log"])
        with pytest.raises(StoreError):
            await one.hub.publish("refused")
        await server.command("DEL", "trionotify:{trionotify}:log")
        await publish(one.hub, "b")
        await until(lambda: data(peer)[-1] == "b")
        assert data(peer) == ["a", "b"]


async def test_another_program_adds_to_the_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and publishing is refused, however often the node connects."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        await publish(one.hub, "a")
        await server.command("XADD", "trionotify:{trionotify}:log", "999-0", "a", "b")
        await until(lambda: one.hub.log.problem)
        sessions = await count_sessions(server)
        with trio.fail_after(DEADLINE):
            while await count_sessions(server) < sessions + 5:
                assert "another program has added" in one.hub.log.problem
        events = [getattr(record, "event", None) for record in caplog.records]
        assert events.count("publishing_refused") == 1
        assert "publishing_possible" not in events
        await server.command("FLUSHALL")
        await publish(one.hub, "b")


async def count_sessions(server: RedisServer) -> int:
    """How often nodes have loaded the scripts."""
    stats = await server.command("INFO", "commandstats")
    (calls,) = re.findall(r"cmdstat_script\|load:calls=(\d+)", stats)
    return int(calls) // len(redis_scripts.ALL)


async def test_redis_is_out_of_memory(tmp_path: Path) -> None:
    """Refused with 507, until there is room again; reading goes on."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        await publish(one.hub, "a")
        await server.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreError) as refused:
            await one.hub.publish("refused")
        assert refused.value.status in {503, 507}
        await until(lambda: "give Redis more memory" in one.hub.checks()["log"])
        peer = await connected(one, "/?format=cloudevents&since=start")
        await until(lambda: data(peer) == ["a"])
        await server.command("CONFIG", "SET", "maxmemory", "0")
        await publish(one.hub, "b")
        await until(lambda: data(peer) == ["a", "b"])


async def test_redis_forgets_the_scripts(tmp_path: Path) -> None:
    """They are loaded again."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        peer = await connected(one, "/?format=cloudevents")
        await publish(one.hub, "a")
        await server.command("SCRIPT", "FLUSH")
        await publish(one.hub, "b")
        await until(lambda: data(peer) == ["a", "b"])
        assert data(peer) == ["a", "b"]


async def test_the_primary_becomes_a_replica(tmp_path: Path) -> None:
    """It refuses, and is asked again until it is a primary."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        peer = await connected(one, "/?format=cloudevents")
        await publish(one.hub, "a")
        await server.command("REPLICAOF", "127.0.0.1", "1")
        await until(lambda: "name the primary" in one.hub.checks()["log"])
        with pytest.raises(StoreError):
            await one.hub.publish("refused")
        await server.command("REPLICAOF", "NO", "ONE")
        await publish(one.hub, "b")
        await until(lambda: data(peer) == ["a", "b"])


async def test_redis_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sent entry may have been appended. The answer says so, and a repetition is recognized."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        peer = await connected(one, "/?format=cloudevents")
        await publish(one.hub, "a")
        await server.command("CLIENT", "PAUSE", "3600000", "WRITE")
        with monkeypatch.context() as patch:
            patch.setattr(redis_store, "ANSWER_TIMEOUT", 0.5)
            with pytest.raises(StoreError) as unknown:
                await one.hub.publish("b", id="b", source="s")
            assert "not known" in unknown.value.told or "publish it again" in unknown.value.told
            await until(lambda: not one.hub.ready)
        await server.command("CLIENT", "UNPAUSE")
        await publish(one.hub, "b")
        await publish(one.hub, "c")
        await until(lambda: data(peer)[-1] == "c")
        assert data(peer) == ["a", "b", "c"]


async def test_a_redis_that_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connections live, but nothing answers."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        peer = await connected(one, "/?format=cloudevents")
        await publish(one.hub, "a")
        server.signal(signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr(redis_store, "ANSWER_TIMEOUT", 0.5)
            patch.setattr(redis_store, "CONNECT_TIMEOUT", 0.5)
            with pytest.raises(StoreError):
                await one.hub.publish("b", id="b", source="s")
            await until(lambda: not one.hub.ready)
        server.signal(signal.SIGCONT)
        await publish(one.hub, "b")
        await publish(one.hub, "c")
        await until(lambda: data(peer)[-1] == "c")
        assert data(peer) == ["a", "b", "c"]


async def test_a_tail_that_is_silent(tmp_path: Path) -> None:
    """On a healthy connection: it is noticed, and another one reads on."""
    async with open_redis(tmp_path) as server, open_proxy(server.port) as proxy:
        store = f"redis://127.0.0.1:{proxy.port}"
        async with open_nodes(store, server.url) as (one, two):
            peer = await connected(one, "/?format=cloudevents")
            await publish(two.hub, "a")
            await until(lambda: data(peer) == ["a"])
            proxy.silent = b"XREAD"
            await publish(two.hub, "b")
            await until(lambda: one.hub.log.problem and "does not send" in one.hub.log.problem)
            proxy.silent = None
            await publish(two.hub, "c")
            await until(lambda: data(peer)[-1] == "c")
            assert data(peer) == ["a", "b", "c"]


async def test_a_node_is_parted_from_redis(tmp_path: Path) -> None:
    """It refuses, its clients stay and get afterwards what they have missed; the others go on."""
    async with open_redis(tmp_path) as server, open_proxy(server.port) as proxy:
        store = f"redis://127.0.0.1:{proxy.port}"
        async with open_nodes(store, server.url) as (one, two):
            peers = [await connected(room, "/?format=cloudevents") for room in (one, two)]
            await publish(one.hub, "a")
            proxy.part()
            await until(lambda: not one.hub.ready)
            cursor = await publish(two.hub, "b")
            # A client that comes from there is ahead of this node. It gets neither a gap nor a refusal.
            assert (await connected(one, f"/?since={cursor}")).status == 503
            with pytest.raises(StoreError):
                await one.hub.publish("c", id="c", source="s")
            proxy.parted = False
            await publish(one.hub, "c")
            for peer in peers:
                await until(lambda peer=peer: data(peer)[-1] == "c")
                assert data(peer) == ["a", "b", "c"]
            assert await recovered(one, cursor) == "true"


async def test_a_slow_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If entries don't arrive in time, fewer are asked for, by the tail and by those who read pages."""

    def slow(read: Callable[..., Awaitable[list[Stored]]]) -> Callable[..., Awaitable[list[Stored]]]:
        async def read_slowly(*arguments: Any, **options: Any) -> list[Stored]:
            rows = await read(*arguments, **options)
            if len(rows) > 2:
                raise Unanswered("it took too long")
            return rows

        return read_slowly

    for name in ("tail", "page"):
        monkeypatch.setattr(redis_store.Session, name, slow(getattr(redis_store.Session, name)))
    texts = [f"{number}" for number in range(20)]
    async with open_redis(tmp_path) as server, open_proxy(server.port) as proxy:
        async with open_nodes(f"redis://127.0.0.1:{proxy.port}", server.url) as (one, two):
            peer = await connected(one, "/?format=cloudevents")
            proxy.part()
            await until(lambda: not one.hub.ready)
            for text in texts:
                await publish(two.hub, text)
            proxy.parted = False
            await until(lambda: data(peer) == texts)
        async with open_nodes(server.url) as (three,):
            link = three.hub.log._link
            with trio.fail_after(DEADLINE):
                while True:
                    with suppress(StoreError):
                        await three.hub.log.load(0)
                        break
                    await until(lambda: link.session)
            assert three.hub.log.read(0, 9)[0].offset == 1


async def test_a_node_that_has_not_read_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't ready, even if its heartbeats are answered."""
    beats, evict = 0, redis_store.Session.evict

    async def count(*arguments: Any) -> None:
        nonlocal beats
        await evict(*arguments)
        beats += 1

    monkeypatch.setattr(redis_store.Session, "evict", count)
    async with open_redis(tmp_path) as server, open_proxy(server.port) as proxy:
        async with open_nodes(f"redis://127.0.0.1:{proxy.port}") as (one,):
            await until(lambda: one.hub.ready)
            proxy.part()
            await until(lambda: not one.hub.ready)
            proxy.silent, beats = b"XREAD", 0
            proxy.parted = False
            await until(lambda: beats > 3)
            assert not one.hub.ready
            proxy.silent = None
            await until(lambda: one.hub.ready)


async def test_all_connections_break_at_once(tmp_path: Path) -> None:
    """Again and again, while tail, heartbeat and publishers use them: that is one problem, not three."""
    async with open_redis(tmp_path) as server, open_proxy(server.port) as proxy:
        async with open_nodes(f"redis://127.0.0.1:{proxy.port}") as (one,):
            peer = await connected(one, "/?format=cloudevents")
            for number in range(20):
                await publish(one.hub, f"{number}")
                proxy.part()
                proxy.parted = False
            await publish(one.hub, "last")
            await until(lambda: data(peer)[-1] == "last")
            assert data(peer) == [*map(str, range(20)), "last"]


async def test_a_node_that_was_away_for_too_long(tmp_path: Path) -> None:
    """Entries that it had to read next were evicted. Its clients are told of the gap, others aren't."""
    async with open_redis(tmp_path) as server, open_proxy(server.port) as proxy:
        store = f"redis://127.0.0.1:{proxy.port}"
        async with open_nodes(store, server.url, max_log_entries=5) as (one, two):
            peers = [await connected(room, "/?format=cloudevents") for room in (one, two)]
            first = await publish(one.hub, "first")
            proxy.part()
            for number in range(20):
                last = await publish(two.hub, f"{number}")
            proxy.parted = False
            await until(lambda: one.hub.ready)
            await publish(one.hub, "then")
            await until(lambda: "then" in data(peers[0]) and "then" in data(peers[1]))
            assert data(peers[0]) == ["first", "gap", "then"]
            assert data(peers[1]) == ["first", *map(str, range(20)), "then"]
            assert await recovered(one, first) == "false"
            assert await recovered(one, last) == "true"
            assert one.hub.log.renewed is None


async def replicated(primary: RedisServer, replica: RedisServer) -> None:
    """Wait until the replica has what the primary has now."""
    (due,) = re.findall(r"master_repl_offset:(\d+)", await primary.command("INFO", "replication"))
    linked = re.compile(r"master_link_status:up.*slave_repl_offset:(\d+)", re.DOTALL)
    with trio.fail_after(DEADLINE):
        while True:
            found = linked.search(await replica.command("INFO", "replication"))
            if found is not None and int(found[1]) >= int(due):
                return


async def test_two_primaries(tmp_path: Path) -> None:
    """Their histories part, under one epoch: the cursor tells which one a client has seen."""
    async with open_redis(tmp_path / "a") as left, open_redis(tmp_path / "b") as right:
        await right.command("REPLICAOF", "127.0.0.1", str(left.port))
        async with open_nodes(left.url) as (one,):
            common = await publish(one.hub, "common")
            await replicated(left, right)
            await right.command("REPLICAOF", "NO", "ONE")
            async with open_nodes(right.url) as (two,):
                assert one.hub.log.epoch == two.hub.log.epoch
                on_left = [await publish(one.hub, text) for text in ("l1", "l2")]
                on_right = [await publish(two.hub, text) for text in ("r1", "r2", "r3")]
                assert on_left[0].rpartition(":")[0] == on_right[0].rpartition(":")[0]
                for cursor in on_left:
                    assert await recovered(two, cursor) == "false"
                    assert await recovered(one, cursor) == "true"
                for cursor in on_right:
                    assert await recovered(one, cursor) == "false"
                    assert await recovered(two, cursor) == "true"
                assert await recovered(one, common) == "true"
                assert await recovered(two, common) == "true"


async def test_two_primaries_become_one(tmp_path: Path) -> None:
    """The history that one node has delivered is gone: everyone is told."""
    async with open_redis(tmp_path / "a") as left, open_redis(tmp_path / "b") as right:
        async with open_proxy(left.port) as proxy:
            await right.command("REPLICAOF", "127.0.0.1", str(left.port))
            async with open_nodes(f"redis://127.0.0.1:{proxy.port}") as (one,):
                peer = await connected(one, "/?format=cloudevents")
                await publish(one.hub, "common")
                await replicated(left, right)
                await right.command("REPLICAOF", "NO", "ONE")
                async with open_nodes(right.url) as (two,):
                    other = await connected(two, "/?format=cloudevents")
                    await publish(two.hub, "kept")
                    lost = await publish(one.hub, "lost")
                    proxy.target = right.port
                    proxy.part()
                    proxy.parted = False
                    await until(lambda: one.hub.log.renewed and two.hub.log.renewed)
                    await publish(one.hub, "then")
                    await until(lambda: data(peer)[-1] == data(other)[-1] == "then")
                    assert data(peer) == ["common", "lost", "gap", "then"]
                    assert data(other) == ["kept", "gap", "then"]
                    assert await recovered(two, lost) == "false"
                    # "lost" may be published again: no log has it.
                    await publish(two.hub, "lost")
                    await until(lambda: data(peer)[-1] == "lost")


async def test_a_primary_that_was_replaced(tmp_path: Path) -> None:
    """It lives, and knows nothing of it: but the Sentinel does, so the nodes leave it."""
    async with open_redis(tmp_path / "a") as left, open_redis(tmp_path / "b") as right:
        await right.command("REPLICAOF", "127.0.0.1", str(left.port))
        async with open_sentinel(tmp_path / "sentinel", left) as sentinel:
            async with open_nodes(f"redis+sentinel://127.0.0.1:{sentinel.port}/main") as (one,):
                peer = await connected(one, "/?format=cloudevents")
                await publish(one.hub, "a")
                await replicated(left, right)
                await sentinel.command("SENTINEL", "REMOVE", "main")
                await right.command("REPLICAOF", "NO", "ONE")
                await sentinel.command("SENTINEL", "MONITOR", "main", "127.0.0.1", str(right.port), "1")
                log = "trionotify:{trionotify}:log"
                # What it takes until then is lost, so nothing is published.
                await until(lambda: one.hub.log.problem)
                await publish(one.hub, "b")
                await until(lambda: data(peer) == ["a", "b"])
                assert await left.command("XLEN", log) == 1
                assert await right.command("XLEN", log) == 2


async def test_a_sentinel_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is asked, so the nodes leave a primary that was replaced."""
    async with open_redis(tmp_path / "a") as left, open_redis(tmp_path / "b") as right:
        await right.command("REPLICAOF", "127.0.0.1", str(left.port))
        async with (
            open_sentinel(tmp_path / "sentinel", left) as sentinel,
            open_proxy(sentinel.port) as proxy,
            open_nodes(f"redis+sentinel://127.0.0.1:{proxy.port},127.0.0.1:{sentinel.port}/main") as (
                one,
            ),
        ):
            peer = await connected(one, "/?format=cloudevents")
            await publish(one.hub, "a")
            await replicated(left, right)
            proxy.held = True
            monkeypatch.setattr(redis_store, "CONNECT_TIMEOUT", 4.0)
            await sentinel.command("SENTINEL", "REMOVE", "main")
            await right.command("REPLICAOF", "NO", "ONE")
            await sentinel.command("SENTINEL", "MONITOR", "main", "127.0.0.1", str(right.port), "1")
            await until(lambda: one.hub.log.problem)
            await publish(one.hub, "b")
            await until(lambda: data(peer) == ["a", "b"])
            assert await right.command("XLEN", "trionotify:{trionotify}:log") == 2


@pytest.mark.parametrize("lossy", [False, True])
async def test_sentinel_promotes_a_replica(lossy: bool, tmp_path: Path) -> None:
    """Nothing is lost, or the clients are told; then the nodes are at the new primary."""
    async with open_redis(tmp_path / "a") as left:
        options = ("--replicaof", f"127.0.0.1 {left.port}", *KEPT)
        async with (
            open_redis(tmp_path / "b", *options) as right,
            open_sentinel(tmp_path / "sentinel", left) as sentinel,
        ):
            await sentinel.knows_replica()
            store = f"redis+sentinel://127.0.0.1:{sentinel.port},127.0.0.1:1/main"
            async with open_nodes(store, store) as (one, two):
                peers = [await connected(room, "/?format=cloudevents") for room in (one, two)]
                await publish(one.hub, "a")
                await replicated(left, right)
                if lossy:
                    await right.stop()
                    cursor = await publish(one.hub, "b")
                    await until(lambda: all(data(peer) == ["a", "b"] for peer in peers))
                    await left.stop()
                    await right.start()
                else:
                    cursor = await publish(one.hub, "b")
                    await replicated(left, right)
                    await left.stop()
                await sentinel.wait_only(IMPATIENT)
                # What is published before both have noticed may lie in the gap of one.
                await until(lambda: not lossy or (one.hub.log.renewed and two.hub.log.renewed))
                await publish(two.hub, "c")
                for peer in peers:
                    await until(lambda peer=peer: data(peer)[-1] == "c")
                    assert data(peer) == (["a", "b", "gap", "c"] if lossy else ["a", "b", "c"])
                assert await recovered(one, cursor) == ("false" if lossy else "true")
