"""What operators do to Redis: its configuration, rights, clock, keys and connections."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.redis_nodes import connected, data, events, open_nodes, publish, recovered, said, until
from tests.redis_server import RedisServer, open_redis
from tests.web import Web, get
from trionotify import StoreError
from trionotify.storage import redis_log, redis_nodes, redis_scripts, redis_store
from trionotify.storage.redis_address import RedisAddress
from trionotify.storage.redis_errors import Refusal, Unanswered
from trionotify.storage.redis_nodes import Clock
from trionotify.storage.redis_state import Limits
from trionotify.storage.redis_store import RedisStore, Session

pytestmark = pytest.mark.usefixtures("patient", "quickly")

WIDE = Limits(1000, 1 << 20, 1e9)
STREAM = "trionotify:{trionotify}:log"


# --- the configuration ---


async def test_a_redis_that_may_evict_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The node works, and says so once, until it is configured otherwise."""
    options = ("--maxmemory-policy", "allkeys-lru", "--maxmemory", "1gb")
    async with open_redis(tmp_path, *options) as server, open_nodes(server.url) as (one,):
        await until(lambda: one.hub.log.danger)
        danger = (
            f"{server.url}: maxmemory-policy is allkeys-lru, so Redis may evict the log;"
            " set it to noeviction"
        )
        assert said(caplog, "log_in_danger") == [danger]
        assert one.hub.ready
        answer = await Web(one).ask(get("/readyz?verbose"))
        assert answer.status == 200
        assert f"\ndanger: {danger}\n" in answer.body.decode()
        assert b"\ntrionotify_log_in_danger 1.0\n" in (await Web(one).ask(get("/metrics"))).body
        await publish(one.hub, "a")
        await server.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        await until(lambda: one.hub.log.danger is None)
        assert b"\ntrionotify_log_in_danger 0.0\n" in (await Web(one).ask(get("/metrics"))).body
        assert said(caplog, "log_in_danger") == [danger]


async def test_a_user_that_may_not_ask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whether Redis may evict the log isn't known then. Redis is asked only once."""
    async with open_redis(tmp_path, "--maxmemory-policy", "allkeys-lru") as server:
        await server.command("ACL", "SETUSER", "me", "on", "nopass", "~*", "+@all", "-info")
        async with open_nodes(f"redis://me:x@127.0.0.1:{server.port}") as (one,):
            await publish(one.hub, "a")
            beats = await calls(server, "evalsha")
            with trio.fail_after(120.0):
                while await calls(server, "evalsha") < beats + 20:
                    pass
            assert one.hub.log.danger is None
            (entry, *others) = await server.command("ACL", "LOG")
            assert not others
            assert dict(zip(entry[::2], entry[1::2], strict=True))["count"] == 1


async def calls(server: RedisServer, command: str) -> int:
    """How often it was called."""
    found = re.search(rf"cmdstat_{command}:calls=(\d+)", await server.command("INFO", "commandstats"))
    return int(found[1]) if found else 0


# --- rights ---


@pytest.mark.parametrize("right", ["xadd", "hset", "xtrim", "hdel", "del", "hget", "xrange", "evalsha"])
async def test_a_right_is_taken_away(
    right: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Publishing is refused with the reason, also if nothing was published; it comes back by itself."""
    async with open_redis(tmp_path) as server:
        await server.command("ACL", "SETUSER", "me", "on", "nopass", "~trionotify:*", "+@all")
        url = f"redis://me:x@127.0.0.1:{server.port}"
        async with open_nodes(url, server.url, max_log_entries=3) as (one, two):
            peer = await connected(one, "/?format=cloudevents")
            for text in "abcd":
                await publish(one.hub, text)
            await server.command("ACL", "SETUSER", "me", f"-{right}")
            await until(lambda: not one.hub.ready)
            said_why = one.hub.checks()["log"]
            assert "NOPERM" in said_why
            assert "give this user the rights that the guide" in said_why
            with pytest.raises(StoreError) as refused:
                await one.hub.publish("e", id="e", source="s")
            assert refused.value.status == 503
            await publish(two.hub, "f")
            await server.command("ACL", "SETUSER", "me", f"+{right}")
            await until(lambda: one.hub.ready)
            await publish(one.hub, "e")
            await publish(two.hub, "g")
            await until(lambda: data(peer)[-1] == "g")
            assert [text for text in data(peer) if text != "gap"] == list("abcdfeg")
    assert len(said(caplog, "publishing_refused")) == 1
    assert len(said(caplog, "publishing_possible")) == 1


@pytest.mark.parametrize("right", ["xadd", "hset", "xtrim", "hdel", "del", "hget", "hmget", "time"])
async def test_a_right_is_taken_away_before_a_script(right: str, tmp_path: Path) -> None:
    """It does all of its work, or nothing."""
    async with open_redis(tmp_path) as server:
        await server.command("ACL", "SETUSER", "me", "on", "nopass", "~trionotify:*", "+@all")
        store = RedisStore(RedisAddress.parse(f"redis://me:x@127.0.0.1:{server.port}"))
        narrow = Limits(1, 1 << 20, 1e9)
        async with store.connect() as session:
            await session.beat(0, "epoch", b"p", b"{}", 3600.0)
            await session.append("epoch", WIDE, rows(b"a", b"b", b"c"))
            before = [await server.command("DUMP", key) for key in sorted(await keys(server))]
            await server.command("ACL", "SETUSER", "me", f"-{right}")
            for limits in (WIDE, narrow):
                with pytest.raises(Refusal, match=r"says: NOPERM .*; give this user the rights that"):
                    await session.append("epoch", limits, rows(b"d"))
            if right not in {"xadd", "hget"}:
                with pytest.raises(Refusal, match=r"says: NOPERM"):
                    await session.evict(narrow)
            assert before == [await server.command("DUMP", key) for key in sorted(await keys(server))]
            await server.command("ACL", "SETUSER", "me", f"+{right}")
            assert (await session.append("epoch", narrow, rows(b"d"))).start == 3


async def keys(server: RedisServer) -> list[str]:
    found: list[str] = await server.command("KEYS", "*")
    return found


def rows(*payloads: bytes) -> list[tuple[bytes, int, bytes]]:
    """Rows that can be repeated."""
    return [(payload, 10, payload) for payload in payloads]


# --- the clock ---


def test_the_clock_is_compared() -> None:
    """A jump is seen however long the answers take. Drift isn't a jump, nor is a slow answer."""
    clock = Clock()
    assert clock.jump(1000.0, 0.0, 0.1) == 0.0
    assert clock.jump(1001.5, 1.0, 1.1) == 0.0
    assert clock.jump(1010.0, 2.0, 40.0) == 0.0
    assert clock.jump(1041.0, 41.0, 41.1) == 0.0
    assert clock.jump(4642.0, 42.0, 42.0) == pytest.approx(3600, abs=1)
    assert clock.jump(4643.0, 43.0, 43.0) == 0.0
    assert clock.jump(1044.0, 44.0, 44.0) == pytest.approx(-3600, abs=1)


@pytest.fixture
def time_key(monkeypatch: pytest.MonkeyPatch) -> str:
    """The clock of Redis is what this list of seconds and microseconds says."""
    names = ("APPEND", "EVICT", "BEAT", "RENEW", "FIND", "RIGHTS")
    for name in names:
        text = getattr(redis_scripts, name)
        text = text.replace("redis.call('TIME')", "redis.call('LRANGE', 'time', 0, -1)")
        monkeypatch.setattr(redis_scripts, name, text)
    monkeypatch.setattr(redis_scripts, "ALL", tuple(getattr(redis_scripts, name) for name in names))
    return "time"


async def set_clock(server: RedisServer, seconds: int) -> None:
    await server.command("DEL", "time")
    await server.command("RPUSH", "time", str(seconds), "0")


async def published(session: Session, text: bytes) -> None:
    await session.append("epoch", WIDE, rows(text))


@pytest.mark.usefixtures("time_key")
async def test_the_clock_of_redis_is_set_back(tmp_path: Path) -> None:
    """By little, it stands still; by much, it is followed. `since` finds too much, never too little."""
    async with open_redis(tmp_path) as server:
        await set_clock(server, 1_000_000)
        store = RedisStore(RedisAddress.parse(server.url))
        async with store.connect() as session:
            assert (await session.beat(0, "epoch", b"a", b"a", 5.0)).now == 1_000_000
            await published(session, b"1")
            await set_clock(server, 999_970)
            await published(session, b"2")  # as old as the first
            assert (await session.find(ago=0))[0] == 0
            await set_clock(server, 2_000_000)
            await published(session, b"3")
            assert (await session.find(ago=10))[0] == 2
            await set_clock(server, 1_000_100)
            assert (await session.find(ago=90))[0] == 2
            await published(session, b"4")
            assert (await session.find(ago=10))[0] == 2
            await set_clock(server, 1_000_200)
            await published(session, b"5")
            assert (await session.find(ago=10))[0] in {2, 4}
            await session.evict(Limits(1000, 1 << 20, 150.0))
            assert (await session.beat(5, "epoch", b"a", b"a", 5.0)).start == 2


@pytest.mark.usefixtures("time_key")
async def test_leases_after_the_clock_was_set(tmp_path: Path) -> None:
    """A node that is gone isn't listed for long, and one that is there isn't missing for long."""
    async with open_redis(tmp_path) as server:
        await set_clock(server, 2_000_000)
        async with RedisStore(RedisAddress.parse(server.url)).connect() as session:
            await session.beat(0, "epoch", b"a", b"gone", 5.0)
            await published(session, b"1")
            await set_clock(server, 1_000_000)
            assert (await session.beat(1, "epoch", b"b", b"here", 5.0)).nodes == [b"here"]
            await set_clock(server, 1_000_006)
            assert (await session.beat(1, "epoch", b"c", b"c", 5.0)).nodes == [b"c"]


@pytest.mark.usefixtures("time_key")
async def test_nodes_when_the_clock_jumps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go on listing each other, and say so."""
    monkeypatch.setattr(redis_nodes, "_DRIFT", 40_000.0)  # the clock of Redis stands still here
    async with open_redis(tmp_path) as server:
        await set_clock(server, 1_000_000)
        async with open_nodes(server.url, server.url) as (one, two):
            logs = [one.hub.log, two.hub.log]
            await until(lambda: [len(log.nodes) for log in logs] == [2, 2])
            peer = await connected(one, "/?format=cloudevents")
            cursor = await publish(one.hub, "a")
            await set_clock(server, 1_086_400)
            await until(lambda: len(said(caplog, "clock_jumped")) == 2)
            assert [len(log.nodes) for log in logs] == [2, 2]
            await until(lambda: one.hub.log.start == 1)  # max_log_age is an hour
            assert await recovered(one, cursor) == "true"
            await set_clock(server, 1_000_000)
            await until(lambda: len(said(caplog, "clock_jumped")) == 4)
            await publish(two.hub, "b")
            await until(lambda: data(peer) == ["a", "b"])
            assert [len(log.nodes) for log in logs] == [2, 2]
    ahead, _, back, _ = said(caplog, "clock_jumped")
    assert re.search(
        r"jumped ahead by 86\d\d\d seconds, .*; notifications may be evicted too early", ahead
    )
    assert re.search(r"jumped back by 86\d\d\d seconds, .*; notifications may be kept for longer", back)


# --- the keys ---


async def test_entries_are_deleted_from_the_middle(tmp_path: Path) -> None:
    """A client that needs them gets what is in front of them, and is told of the gap."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        cursors = [await publish(one.hub, text) for text in "abcdef"]
        await server.command("XDEL", STREAM, "3-0", "4-0")
        async with open_nodes(server.url) as (two,):
            peer = await connected(two, f"/?format=cloudevents&since={cursors[0]}")
            await until(lambda: "gap" in data(peer))
            await publish(two.hub, "g")
            await until(lambda: data(peer)[-1] == "g")
            assert data(peer) == ["b", "gap", "g"]
            (gap,) = (event for event in events(peer) if event["type"] == "trionotify.gap")
            assert gap["data"]["from"] == cursors[1]
            peer = await connected(two, "/?format=cloudevents&since=1h")
            await until(lambda: data(peer) and data(peer)[-1] in {"gap", "g"})
            assert "c" not in data(peer)


async def test_an_old_copy_of_the_stream_is_put_back(tmp_path: Path) -> None:
    """What it lacks is gone. Clients that need it are told, and all others go on."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        peer = await connected(one, "/?format=cloudevents")
        cursors = [await publish(one.hub, text) for text in "ab"]
        assert await server.command("COPY", STREAM, "copy") == 1
        cursors += [await publish(one.hub, text) for text in "cd"]
        assert await server.command("RENAME", "copy", STREAM) == "OK"
        cursors += [await publish(one.hub, text) for text in "ef"]
        await until(lambda: data(peer) == list("abcdef"))
        async with open_nodes(server.url) as (two,):
            old = await connected(two, f"/?format=cloudevents&since={cursors[0]}")
            assert await recovered(two, cursors[4]) == "true"
            await until(lambda: "gap" in data(old))
            await publish(two.hub, "g")
            await until(lambda: data(old)[-1] == "g")
            assert data(old) == ["b", "gap", "g"]


async def test_the_stream_is_gone_for_a_while(tmp_path: Path) -> None:
    """What nodes have given up in between stays given up, and is deleted."""
    async with open_redis(tmp_path) as server, open_nodes(server.url, max_log_entries=3) as (one,):
        peer = await connected(one, "/?format=cloudevents")
        cursors = [await publish(one.hub, text) for text in "abc"]
        await server.command("RENAME", STREAM, "away")
        await until(lambda: one.hub.log.start == 3)
        await publish(one.hub, "d")
        await server.command("RENAME", "away", STREAM)
        await publish(one.hub, "e")
        await until(lambda: data(peer) == list("abcde"))
        await until(lambda: one.hub.log.start >= 3)
        for cursor in cursors[:2]:
            assert await recovered(one, cursor) == "false"
        await publish(one.hub, "f")
        await until(lambda: data(peer) == list("abcdef"))
        assert await server.command("XLEN", STREAM) <= 3


async def test_databases_are_swapped(tmp_path: Path) -> None:
    """It is another log, and another one again when they are swapped back."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        peer = await connected(one, "/?format=cloudevents")
        cursor = await publish(one.hub, "a")
        await server.command("SWAPDB", "0", "1")
        await publish(one.hub, "b")
        await until(lambda: data(peer)[-1] == "b")
        await server.command("SWAPDB", "0", "1")
        await publish(one.hub, "c")
        await until(lambda: data(peer)[-1] == "c")
        assert data(peer) == ["a", "gap", "b", "gap", "c"]
        assert await recovered(one, cursor) == "true"


# --- the connections ---


async def test_each_connection_is_killed(tmp_path: Path) -> None:
    """Also one that isn't in use is replaced, before the next publish needs it."""
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        peer = await connected(one, "/?format=cloudevents")
        sent = [str(number) for number in range(3)]
        for number in range(3):
            ids = await connections(server)
            await server.command("CLIENT", "KILL", "ID", sorted(ids, key=int)[number])
            with trio.fail_after(120.0):
                while len(ids & await connections(server)) or not one.hub.ready:
                    pass
            await one.hub.publish(sent[number], source="s")
        await until(lambda: data(peer) == sent)


async def connections(server: RedisServer) -> set[str]:
    """The ids of a node's connections, once there are three."""
    while True:
        listed = await server.command("CLIENT", "LIST")
        ids = set(re.findall(r"^id=(\d+) .* name=trionotify-trionotify ", listed, re.MULTILINE))
        if len(ids) == 3:
            return ids


async def test_groups_of_some_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many large entries are sent some at a time, in order."""
    monkeypatch.setattr(redis_log, "_GROUP_BYTES", 3000)
    async with open_redis(tmp_path) as server, open_nodes(server.url) as (one,):
        peer = await connected(one, "/?format=cloudevents")
        publisher = await connected(one, "/?role=publisher")
        before = await calls(server, "xadd")
        texts = [f"{number}" for number in range(50)]
        publisher.say(*texts)
        await until(lambda: data(peer) == texts)
        assert await calls(server, "xadd") == before + 50


# --- a slow link ---


@attrs.define
class SlowConnection:
    """It answers after so many seconds. Until then, bytes arrive now and then, or none."""

    seconds: float
    is_trickling: bool
    statistics: SimpleNamespace = attrs.Factory(
        lambda: SimpleNamespace(bytes_read=0, requests_pending=0)
    )

    def create_request(self, *_: Any, **__: Any) -> SlowAnswer:
        return SlowAnswer(self, trio.current_time() + self.seconds)


@attrs.define
class SlowAnswer:
    """It may be awaited again after a cancellation."""

    connection: SlowConnection
    due: float

    def __await__(self) -> Generator[Any, None, Any]:
        return self._arrive().__await__()

    async def _arrive(self) -> Any:
        while trio.current_time() < self.due:
            await trio.sleep(min(1.0, self.due - trio.current_time()))
            self.connection.statistics.bytes_read += self.connection.is_trickling
        return [b"0", b"10", b"1", b"ab", []]


def slow_session(connection: SlowConnection) -> Session:
    address = RedisAddress.parse("redis://redis")
    scripts = dict.fromkeys(redis_scripts.ALL, b"")
    return Session(address, *[connection] * 3, scripts, "primary")  # type: ignore[arg-type] # a fake


@pytest.mark.parametrize(
    ("seconds", "is_trickling", "size", "arrives"),
    [
        (2.0, False, 100, True),
        (3.4, False, 100, True),
        (60.0, True, 100, True),
        (4.0, False, 100, False),
        (25.0, False, 900_000, True),
        (60.0, False, 900_000, False),
    ],
)
async def test_an_answer_that_takes_long(  # noqa: PLR0917 - the cases
    seconds: float,
    is_trickling: bool,
    size: int,
    arrives: bool,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is waited for while bytes arrive, and while the request may still be on its way."""
    monkeypatch.setattr(redis_store, "ANSWER_TIMEOUT", 3.0)
    session = slow_session(SlowConnection(seconds, is_trickling))
    if arrives:
        assert (await session.append("epoch", WIDE, [(bytes(size), size, b"")])).firsts == [None]
    else:
        with pytest.raises(Unanswered, match=r"EVALSHA: no answer for 3 seconds"):
            await session.append("epoch", WIDE, [(bytes(size), size, b"")])
