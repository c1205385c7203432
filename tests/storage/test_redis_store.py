"""Redis as a log uses it: the scripts, and the refusal of a server that doesn't fit."""

from __future__ import annotations

import importlib.util
import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme

from tests.fleet.server import free_port
from tests.redis_server import DEADLINE, RedisServer, open_redis
from trionotify import StoreError, open_hub
from trionotify.storage import redis_scripts, redis_store
from trionotify.storage.redis_address import RedisAddress
from trionotify.storage.redis_errors import Refusal, Unanswered
from trionotify.storage.redis_rows import chained
from trionotify.storage.redis_state import Appended, Limits, State
from trionotify.storage.redis_store import RedisStore, Session

pytestmark = pytest.mark.usefixtures("patient")

WIDE = Limits(1000, 1 << 20, 1e9)


def store_of(server: RedisServer, query: str = "") -> RedisStore:
    return RedisStore(RedisAddress.parse(server.url + query))


async def beat(session: Session, at: int = 0, process: bytes = b"p", said: bytes = b"{}") -> State:
    return await session.beat(at, "epoch", process, said, 3600.0)


def rows(*data: bytes, key: bytes = b"") -> list[tuple[bytes, int, bytes]]:
    return [(each, 10, key) for each in data]


def place(appended: Appended) -> tuple[int, int, list[tuple[int, str] | None]]:
    return appended.start, appended.size, appended.firsts


async def test_append_and_read(tmp_path: Path) -> None:
    """Offsets are dense, the chain continues, and the state says where the log is."""
    async with open_redis(tmp_path) as server, store_of(server).connect() as session:
        state = await beat(session)
        assert (state.epoch, state.top, state.start, state.size) == ("epoch", 0, 0, 0)
        assert state.chain == state.edge == state.there
        appended = await session.append("epoch", WIDE, rows(b"a", b"b"))
        assert (appended.start, appended.size, appended.top, appended.before) == (0, 20, 2, [])
        first, second = await session.tail(0, 9, 1.0)
        assert (first.offset, first.payload, first.chain) == (1, b"a", chained(state.chain, b"a"))
        assert (second.offset, second.chain) == (2, chained(first.chain, b"b"))
        assert appended.chain == second.chain
        assert await session.page(1, 9) == [second]
        state = await beat(session, 1)
        assert (state.top, state.chain, state.there) == (2, second.chain, first.chain)


async def test_an_append_returns_what_was_not_read(tmp_path: Path) -> None:
    """Everything that was there after an offset, but nothing if that is too much."""
    async with open_redis(tmp_path) as server, store_of(server).connect() as session:
        await beat(session)
        await session.append("epoch", WIDE, rows(b"a", b"b", b"c"))
        for after, most, expected in ((0, 3, [1, 2, 3]), (2, 2, [3, 4]), (5, 9, []), (0, 5, [])):
            appended = await session.append("epoch", WIDE, rows(b"d"), after, most)
            everything = await session.page(0, 9)
            assert [row.offset for row in appended.before] == expected
            assert all(row in everything for row in appended.before)
            assert (appended.top, appended.chain) == (len(everything), everything[-1].chain)


async def test_an_append_returns_what_another_program_has_added(tmp_path: Path) -> None:
    """Its outcome isn't known then, although it is in the log."""
    async with open_redis(tmp_path) as server, store_of(server).connect() as session:
        await beat(session)
        await session.append("epoch", WIDE, rows(b"a"))
        await server.command("XADD", "trionotify:{trionotify}:log", "1-1", "other", "program")
        with pytest.raises(Unanswered, match="another program has added to the log's stream"):
            await session.append("epoch", WIDE, rows(b"b"), 0, 9)
        assert (await beat(session)).top == 2


async def test_a_repetition_lives_as_long_as_its_entry(tmp_path: Path) -> None:
    """Also within one group."""
    async with open_redis(tmp_path) as server, store_of(server).connect() as session:
        await beat(session)
        none, first = (await session.append("epoch", WIDE, rows(b"a", b"a", key=b"k"))).firsts
        assert none is None
        assert first is not None
        assert first[0] == 1
        assert (await session.append("epoch", WIDE, rows(b"x", key=b"k"))).firsts == [first]
        narrow = Limits(1, 1 << 20, 1e9)
        assert place(await session.append("epoch", narrow, rows(b"b"))) == (1, 10, [None])
        assert (await session.append("epoch", narrow, rows(b"c", key=b"k"))).firsts == [None]
        assert await server.command("HLEN", "trionotify:{trionotify}:ids") == 1


@pytest.mark.parametrize("limits", [Limits(3, 1000, 1e9), Limits(1000, 30, 1e9), Limits(1000, 1000, 0)])
async def test_eviction(limits: Limits, tmp_path: Path) -> None:
    """By count, bytes and age; the chain in front of the oldest stays known."""
    async with open_redis(tmp_path) as server, store_of(server).connect() as session:
        state = await beat(session)
        await session.append("epoch", WIDE, rows(*[b"%d" % n for n in range(200)]))
        found = await session.tail(0, 200, 1.0)
        if limits.age == 0:
            moment = (await beat(session)).now
            while (await beat(session)).now == moment:  # the clock must tick
                pass
        await session.evict(limits)
        state = await beat(session)
        left = 0 if limits.age == 0 else 3
        assert (state.start, state.top, state.size) == (200 - left, 200, 10 * left)
        assert state.edge == found[199 - left].chain
        assert await server.command("XLEN", "trionotify:{trionotify}:log") == left
        assert (await beat(session, state.start)).there == state.edge
        assert (await beat(session, state.start - 1)).there is None


async def test_the_stream_is_deleted_before_an_append(tmp_path: Path) -> None:
    """What was in it takes up no room any more, and can be published again."""
    async with open_redis(tmp_path) as server, store_of(server).connect() as session:
        await beat(session)
        narrow = Limits(1000, 35, 1e9)
        await session.append("epoch", narrow, rows(b"a", b"b") + rows(b"c", key=b"k"))
        await server.command("DEL", "trionotify:{trionotify}:log")
        assert place(await session.append("epoch", narrow, rows(b"c", key=b"k"))) == (3, 10, [None])
        assert place(await session.append("epoch", narrow, rows(b"d"))) == (3, 20, [None])
        assert [row.offset for row in await session.page(3, 9)] == [4, 5]


async def test_another_epoch_is_refused(tmp_path: Path) -> None:
    """Nothing is appended; and an epoch is renewed only once."""
    async with open_redis(tmp_path) as server, store_of(server).connect() as session:
        await beat(session)
        await session.renew("epoch", "second")
        await session.renew("epoch", "third")
        with pytest.raises(Refusal, match="EPOCH second"):
            await session.append("epoch", WIDE, rows(b"a"))
        state = await beat(session)
        assert (state.epoch, state.top) == ("second", 0)


async def test_leases(tmp_path: Path) -> None:
    """Those that hold one are listed; one that leaves, or is silent too long, isn't."""
    async with open_redis(tmp_path) as server, store_of(server).connect() as session:
        await session.beat(0, "epoch", b"late", b"late", 0.0)
        await beat(session, process=b"a", said=b"says a")
        await beat(session, process=b"b", said=b"says b")
        state = await beat(session, process=b"a", said=b"")
        while b"late" in state.nodes:
            state = await beat(session, process=b"a", said=b"")
        assert state.nodes == [b"says b"]


async def test_where_a_time_is(tmp_path: Path) -> None:
    """By Redis' clock, with the chain there."""
    async with open_redis(tmp_path) as server, store_of(server).connect() as session:
        state = await beat(session)
        await session.append("epoch", WIDE, rows(b"a", b"b"))
        between = (await beat(session)).now
        while (await beat(session)).now <= between:
            pass
        await session.append("epoch", WIDE, rows(b"c"))
        found = await session.tail(0, 9, 1.0)
        assert await session.find(at=0.0) == (0, state.chain)
        assert await session.find(ago=3600) == (0, state.chain)
        assert await session.find(at=between + 0.0015) == (2, found[1].chain)
        assert await session.find(at=between + 3600) == (3, found[2].chain)


@pytest.mark.parametrize("key", ["log", "meta", "ids", "nodes"])
async def test_another_programs_keys(key: str, tmp_path: Path) -> None:
    """It is said, and nothing is written."""
    async with open_redis(tmp_path) as server, store_of(server).connect() as session:
        await server.command("SET", f"trionotify:{{trionotify}}:{key}", "x")
        with pytest.raises(Refusal, match=r"another program uses these keys.*\?hub=NAME"):
            await beat(session)
        with pytest.raises(StoreError, match="another program"):
            async with open_hub(store=server.url):
                raise AssertionError("it must not open")
        assert await server.command("DBSIZE") == 1


async def test_two_hubs_on_one_redis(tmp_path: Path) -> None:
    """By their names they have nothing to do with each other."""
    async with open_redis(tmp_path) as server:
        async with (
            open_hub(store=f"{server.url}?hub=a") as one,
            open_hub(store=f"{server.url}/1") as two,
        ):
            await one.publish("x")
            assert two.statistics().log_entries == 0


async def test_a_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is needed, and shown nowhere."""
    caplog.set_level(logging.DEBUG)
    async with open_redis(tmp_path / "redis") as server:
        page = (Path(__file__).parents[2] / "docs" / "howto" / "many-nodes.md").read_text()
        (rights,) = re.findall(r"`ACL SETUSER trionotify on >PASSWORD (.*)`", page)
        await server.command("ACL", "SETUSER", "me", "on", ">geheim", *rights.split())
        place = f"127.0.0.1:{server.port}"
        for wrong in ("falsch1", "falsch2"):
            with pytest.raises(StoreError, match=r"WRONGPASS|invalid username-password") as error:
                async with open_hub(store=f"redis://me:{wrong}@{place}"):
                    raise AssertionError("it must not open")
            assert wrong not in repr(error.value) + str(error.value)
        async with open_hub(store=f"redis://me:geheim@{place}") as hub:
            await hub.publish("x")
    assert not {"geheim", "falsch"} & set(caplog.text.split())
    assert "geheim" not in caplog.text
    assert "falsch" not in caplog.text


async def test_a_user_that_lacks_a_right(tmp_path: Path) -> None:
    """It says what to give it, before anything is written."""
    async with open_redis(tmp_path) as server:
        await server.command("ACL", "SETUSER", "me", "on", "nopass", "~trionotify:*", "+@all")
        called = set(re.findall(r"redis\.call\('(\w+)'", "".join(redis_scripts.ALL)))
        for command in sorted(called | {"ROLE", "EVALSHA", "XREAD", "SET", "GETDEL", "WAIT"}):
            await server.command("ACL", "SETUSER", "me", f"-{command}")
            with pytest.raises(StoreError, match=r"says: NOPERM .*; give this user the rights that"):
                async with open_hub(
                    store=f"redis://me:x@127.0.0.1:{server.port}", durability="replicated"
                ):
                    raise AssertionError(f"it must not open without {command}")
            await server.command("ACL", "SETUSER", "me", f"+{command}")
        await server.command("ACL", "SETUSER", "me", "resetkeys")
        with pytest.raises(StoreError, match=r"says: NOPERM .*; give this user the rights that"):
            async with open_hub(store=f"redis://me:x@127.0.0.1:{server.port}"):
                raise AssertionError("it must not open")
        assert await server.command("DBSIZE") == 0


async def test_a_user_that_loses_a_right(tmp_path: Path) -> None:
    """It says what to give it, also if a script lacks it."""
    async with open_redis(tmp_path) as server:
        await server.command("ACL", "SETUSER", "me", "on", "nopass", "~trionotify:*", "+@all")
        store = RedisStore(RedisAddress.parse(f"redis://me:x@127.0.0.1:{server.port}"))
        async with store.connect() as session:
            await server.command("ACL", "SETUSER", "me", "-hmget")
            with pytest.raises(Refusal, match=r"says: NOPERM .*; give this user the rights that"):
                await beat(session)


async def test_a_redis_that_is_no_sentinel(tmp_path: Path) -> None:
    """It says so."""
    async with open_redis(tmp_path) as server:
        with pytest.raises(StoreError, match=rf"127.0.0.1:{server.port} is not a Sentinel; name"):
            async with open_hub(store=f"redis+sentinel://127.0.0.1:{server.port}/main"):
                raise AssertionError("it must not open")


async def test_a_redis_without_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for more of what it doesn't understand, so the time is up."""
    monkeypatch.setattr(redis_store, "CONNECT_TIMEOUT", 0.5)
    async with open_redis(tmp_path) as server:
        with pytest.raises(StoreError, match="if Redis has no TLS there, write redis://"):
            async with open_hub(store=f"rediss://127.0.0.1:{server.port}"):
                raise AssertionError("it must not open")


async def test_a_sentinel_that_wants_a_password(tmp_path: Path) -> None:
    """It says which server it is, and how to give it one."""
    async with open_redis(tmp_path) as server:
        await server.command("CONFIG", "SET", "requirepass", "geheim")
        place = f"127.0.0.1:{server.port}"
        said = rf"^redis\+sentinel://{place}/main: Sentinel {place}: .* NOAUTH .*sentinel_password_file"
        with pytest.raises(StoreError, match=said):
            async with open_hub(store=f"redis+sentinel://:geheim@{place}/main"):
                raise AssertionError("it must not open")


async def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how to install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StoreError, match=r"run `python -m pip install 'trionotify\[redis\]'"):
        async with open_hub(store="redis://127.0.0.1:1"):
            raise AssertionError("it must not open")


async def test_nobody_is_there() -> None:
    """It says where, and why."""
    with pytest.raises(StoreError, match=r"^redis://127.0.0.1:1: .*refused"):
        async with open_hub(store="redis://me:geheim@127.0.0.1:1"):
            raise AssertionError("it must not open")


async def test_redis_ends_the_connections(tmp_path: Path) -> None:
    """It says so in words."""
    async with open_redis(tmp_path) as server, store_of(server).connect() as session:
        await beat(session)

        async def read() -> None:
            with pytest.raises(Unanswered, match=r"Connection (lost|reset)"):
                await session.tail(0, 9, DEADLINE)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            while "xread" not in await server.command("CLIENT", "LIST"):
                await trio.lowlevel.checkpoint()
            await server.command("CLIENT", "KILL", "TYPE", "normal")


async def test_a_replica_is_refused(tmp_path: Path) -> None:
    """It says what to name instead."""
    async with open_redis(tmp_path) as server:
        await server.command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreError, match="name the primary"):
            async with open_hub(store=server.url):
                raise AssertionError("it must not open")


VERSION_6 = b"%3\r\n+version\r\n+6.2.9\r\n+proto\r\n:3\r\n+id\r\n:1\r\n"
#: It repeats what it was asked.
VERSION_5 = b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `me`, `geheim`, \r\n"


@pytest.mark.parametrize(("hello", "version"), [(VERSION_6, "6.2.9"), (VERSION_5, "an older one")])
async def test_a_server_that_is_too_old(
    hello: bytes, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is found out before anything else is asked, and the password isn't shown."""
    caplog.set_level(logging.DEBUG)
    answers = [hello, *[b"+OK\r\n"] * 5]

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            for answer in answers:
                if not await stream.receive_some():
                    return
                await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners: list[Any] = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(StoreError, match=r"must be Redis 7.0 or Valkey 7.2 at least") as error:
            async with open_hub(store=f"redis://me:geheim@127.0.0.1:{port}"):
                raise AssertionError("it must not open")
        assert str(error.value).endswith(f"not {version}")
        assert "geheim" not in str(error.value) + caplog.text
        nursery.cancel_scope.cancel()


async def test_fsynced_needs_a_server_that_can(tmp_path: Path) -> None:
    """It is found out at the start, whether it has no such command or no file to write to."""
    async with open_redis(tmp_path) as server:
        with pytest.raises(StoreError, match=r"; durability fsynced needs Redis 7.2 or Valkey"):
            async with open_hub(store=server.url, durability="fsynced"):
                raise AssertionError("it must not open")


async def test_what_is_fsynced(tmp_path: Path) -> None:
    """Its receipt says so. When the file is turned off, the outcome is unknown; then it is refused."""
    async with open_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        if "redis_version:7.0" in (info := await server.command("INFO", "server")):
            assert "valkey" not in info
            pytest.skip("Redis 7.0 has no WAITAOF: set TRIONOTIFY_REDIS_SERVER to another one")
        async with open_hub(store=server.url, durability="fsynced") as hub:
            receipt = await hub.publish("x", confirm=True)
            assert receipt.durability == "fsynced"
            await server.command("CONFIG", "SET", "appendonly", "no")
            with pytest.raises(StoreError) as error:
                await hub.publish("y", source="s", id="y")
            assert error.value.told.endswith("publish it again with the same id")
            with trio.fail_after(DEADLINE):
                while "with appendonly yes" not in hub.checks()["log"]:
                    await trio.lowlevel.checkpoint()
                await server.command("CONFIG", "SET", "appendonly", "yes")
                while not hub.ready:
                    await trio.lowlevel.checkpoint()
                receipt = await hub.publish("y", source="s", id="y", confirm=True)
            assert (receipt.cursor or "").split(":")[1] == "2"


@attrs.frozen
class Tls:
    """A server's options, with a certificate for one name that no machine has."""

    authority: trustme.CA
    options: tuple[str, ...]

    @classmethod
    def made(cls, directory: Path, *names: str) -> Tls:
        authority = trustme.CA()
        certificate = authority.issue_cert(*names)
        certificate.private_key_pem.write_to_path(directory / "key")
        certificate.cert_chain_pems[0].write_to_path(directory / "cert")
        authority.cert_pem.write_to_path(directory / "ca")
        files = ("--tls-cert-file", "cert", "--tls-key-file", "key", "--tls-ca-cert-file", "ca")
        files = tuple(file if file.startswith("--") else str(directory / file) for file in files)
        return cls(authority, (*files, "--tls-auth-clients", "no"))


async def test_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate must be of an authority that is trusted, and valid for the host in the URL."""
    port = free_port()
    tls = Tls.made(tmp_path, "localhost")
    async with open_redis(tmp_path / "redis", *tls.options, "--tls-port", str(port)):
        with pytest.raises(StoreError, match="certificate verify failed"):
            async with open_hub(store=f"rediss://me:geheim@localhost:{port}"):
                raise AssertionError("it must not open")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca"))
        with pytest.raises(StoreError, match="IP address mismatch") as error:
            async with open_hub(store=f"rediss://me:geheim@127.0.0.1:{port}"):
                raise AssertionError("it must not open")
        assert "geheim" not in str(error.value)
        async with open_hub(store=f"rediss://localhost:{port}") as hub:
            assert (await hub.publish("x", confirm=True)).durability == "primary"


async def test_a_socket_on_this_machine(tmp_path: Path) -> None:
    """Without a port."""
    path = tmp_path / "redis.sock"
    async with open_redis(tmp_path / "redis", "--unixsocket", str(path)) as server:
        async with (
            open_hub(store=f"unix://{path}?db=3") as hub,
            open_hub(store=f"{server.url}/3") as two,
        ):
            await hub.publish("x")
            with trio.fail_after(DEADLINE):
                while not two.statistics().log_entries:
                    await trio.lowlevel.checkpoint()
    with pytest.raises(StoreError, match=r"^unix://.*redis.sock: .*refused"):
        async with open_hub(store=f"unix://{path}"):
            raise AssertionError("it must not open")


async def test_what_nodes_put_down_for_each_other(tmp_path: Path) -> None:
    """Only the first node that takes it gets it, and it lasts as long as was said."""
    async with open_redis(tmp_path) as server, store_of(server).connect() as session:
        await session.put("a", b"x", 3600)
        (key,) = await server.command("KEYS", "*")
        assert key == "trionotify:{trionotify}:shelf:a"
        assert 0 < await server.command("PTTL", key) <= 3_600_000
        assert (await session.take("a"), await session.take("a")) == (b"x", None)
        await session.put("b", b"y", 3600)
        assert await session.missing(["a", "b", "c"]) == ["a", "c"]
        assert await session.missing([]) == []
