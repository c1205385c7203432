"""Several nodes on one Redis with a replica and a Sentinel: killed, stopped, cut off and promoted.

Each node reaches Redis and the Sentinel through proxies of its own, so that it can be cut off alone.
Subscribers want everything and use all nodes' URLs; publishers repeat what wasn't acknowledged, with the
same id. What each subscriber has got is compared with what was acknowledged:

* in each of its stretches without a gap, the offsets of one epoch follow each other;
* nothing comes twice without a gap in between;
* all that have seen a cursor have seen the same notification there;
* what was acknowledged it has, unless it was told of a gap; and where nothing can have been lost, there
  are no gaps.
"""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random

import attrs
import trio

from tests.fleet.server import ServerProcess, server_process
from tests.redis_nodes import Proxy, open_proxy
from tests.redis_server import (
    IMPATIENT,
    PATIENT,
    RedisServer,
    ReplyError,
    Sentinel,
    open_redis,
    open_sentinel,
)
from trionotify import Lagged, Refused, Remote, connect
from trionotify.model.cursor import Cursor

__all__ = ["NodesRun", "carry_out_nodes", "judge_nodes"]

#: Seconds. Nothing takes so long: a run that hangs has found something.
PATIENCE = 500.0
_SUBSCRIBERS = 6
_PUBLISHERS = 4
#: Notifications that are acknowledged between two deaths, and after the last.
_BETWEEN = 60
#: Seconds for which a node is stopped, or cut off: longer than its lease, and than Redis is waited for.
_STOPPED = 6.0
_DEATHS = ("node", "node", "stop", "cut", "hold", "redis", "promote", "lossy")
_AGE = re.compile(r"^tail: ([\d.]+) s old$", re.MULTILINE)
#: Redis has written before it answers; only power could take that back.
_KEPT = ("--appendonly", "yes", "--appendfsync", "no")


@attrs.define(eq=False)
class NodesRun:
    """Everything done and seen in a run."""

    seed: int
    deaths: list[str]
    #: What each subscriber has got: a cursor and the data, or None for a gap.
    got: list[list[tuple[Cursor, str] | None]] = attrs.Factory(list)
    acknowledged: dict[str, Cursor] = attrs.Factory(dict)
    #: How often something may have been lost.
    lossy: int = 0
    #: How many of them the Sentinel has decided on by itself.
    unasked: int = 0
    #: Set whenever something is acknowledged.
    progress: trio.Event = attrs.Factory(trio.Event)
    over: bool = False

    async def acks(self, more: int) -> None:
        """Wait until so many more are acknowledged."""
        wanted = len(self.acknowledged) + more
        while len(self.acknowledged) < wanted:
            await self.progress.wait()


@attrs.define(eq=False)
class _Fleet:
    run: NodesRun
    nodes: list[ServerProcess]
    #: Those of each node.
    proxies: list[list[Proxy]]
    primary: RedisServer
    replica: RedisServer
    sentinel: Sentinel

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{node.port}" for node in self.nodes]

    async def die(self, death: str, random: Random) -> None:
        """Let it happen, and put right what must be."""
        number = random.randrange(len(self.nodes))
        node, proxies = self.nodes[number], self.proxies[number]
        if death == "node":
            node.signal(random.choice((signal.SIGKILL, signal.SIGTERM)))
            await node.ended()
            await _begin(node)
        elif death == "cut":
            for proxy in proxies:
                proxy.part()
            await trio.sleep(random.choice((0.0, 1.0, _STOPPED)))
            for proxy in proxies:
                proxy.parted = False
        elif death == "hold":
            for proxy in proxies:
                proxy.held = True
            await trio.sleep(random.choice((1.0, _STOPPED)))
            for proxy in proxies:
                proxy.held = False
        elif death == "stop":
            node.signal(signal.SIGSTOP)
            await trio.sleep(_STOPPED)
            node.signal(signal.SIGCONT)
            node.listening.set()
        elif death == "redis":
            # Sentinel sees it, or doesn't: either is right.
            await self._level()
            await self.sentinel.wait_only(IMPATIENT)
            await self.primary.stop()
            self.primary.options = _KEPT  # it may have begun as a replica
            await self.primary.start()
            await self.sentinel.wait_only(PATIENT)
        else:
            await self._promote(lossy=death == "lossy")
        await self.settled()

    async def _promote(self, *, lossy: bool) -> None:
        run, old = self.run, self.primary
        if lossy:
            await self.replica.stop()
            await run.acks(5)  # which only the primary has
            run.lossy += 1
        else:
            await self._level()
        await old.stop()
        await self.sentinel.wait_only(IMPATIENT)
        if lossy:
            self.replica.options = (*_KEPT, *_replica_of(old))
            await self.replica.start()
        await run.acks(1)  # there is a primary again
        await self.sentinel.wait_only(PATIENT)
        old.options = _KEPT
        await old.start()
        assert await self._agreed()

    async def settled(self) -> None:
        """Wait until all agree on a primary, and count a promotion that isn't part of the run.

        The Sentinel may decide on one after a restart. Then what the old primary took before the nodes
        noticed may be lost.
        """
        if await self._agreed():
            self.run.lossy += 1
            self.run.unasked += 1

    async def _level(self) -> None:
        """Let the replica have all that was acknowledged, and nothing be acknowledged any more."""
        await self.primary.command("CLIENT", "PAUSE", "60000", "WRITE")
        while True:
            found = re.findall(r"offset[:=](\d+)", await self.primary.command("INFO", "replication"))
            # The replica's, and the primary's own.
            if len(found) > 1 and found[0] == found[1]:
                return
            await trio.sleep(0.02)

    async def _agreed(self) -> bool:
        """Wait until the Sentinel and both servers agree on a primary; whether it is another one."""
        while True:
            with suppress(OSError, ReplyError):
                said = await self.sentinel.command("SENTINEL", "MASTER", "main")
                facts = dict(zip(said[::2], said[1::2], strict=True))
                primary, replica = self.primary, self.replica
                if facts["port"] != str(primary.port):
                    primary, replica = replica, primary
                info = await replica.command("INFO", "replication")
                port = f"master_port:{primary.port}\r\n"
                linked = "role:slave" in info and port in info and "master_link_status:up" in info
                if linked and facts["flags"] == "master":
                    moved = primary is not self.primary
                    self.primary, self.replica = primary, replica
                    return moved
            await trio.sleep(0.05)

    async def noticed(self) -> None:
        """Every node has compared what it has read with what Redis has; and once more, because another
        one may have renewed the epoch after that."""
        for _ in range(2):
            begun = trio.current_time()
            for node in self.nodes:
                while await _tail_age(node) + 0.1 > trio.current_time() - begun:  # noqa: ASYNC110 - it is asked by HTTP
                    await trio.sleep(0.05)

    # --- clients ---

    async def subscribe(self, number: int, begun: trio.Event) -> None:
        """Read everything, until the last one that was acknowledged has come."""
        got: list[tuple[Cursor, str] | None] = []
        self.run.got.append(got)
        urls = self.urls[number % len(self.urls) :] + self.urls[: number % len(self.urls)]
        async with connect(urls, id=f"s{number}", role="subscriber", keep_trying=True) as client:
            begun.set()
            while True:
                try:
                    notification = await anext(client)
                except Lagged:
                    got.append(None)
                    continue
                got.append((Cursor.parse(client.cursor), str(notification.data)))
                if notification.data == "last":
                    return

    async def publish(self, number: int) -> None:
        """Publish one after the other, each until it is acknowledged."""
        async with connect(self.urls, id=f"p{number}", role="publisher", keep_trying=True) as client:
            count = 0
            while not self.run.over:
                count += 1
                await self._publish(client, f"{number}-{count}")

    async def _publish(self, client: Remote, text: str) -> None:
        while True:
            try:
                receipt = await client.publish(text, id=text, source="fleet")
            except Refused as refused:
                if refused.status != 503:
                    raise
                await trio.sleep(0.02)
            else:
                self.run.acknowledged[text] = Cursor.parse(receipt.cursor or "")
                self.run.progress.set()
                self.run.progress = trio.Event()
                return


def _replica_of(server: RedisServer) -> tuple[str, str]:
    return "--replicaof", f"127.0.0.1 {server.port}"


async def _begin(node: ServerProcess) -> None:
    """Start it again and again, as systemd does, until Redis is there."""
    while True:
        await node.spawn()
        if await node.first_line():
            return
        await node.ended()


async def _tail_age(node: ServerProcess) -> float:
    """For how long it hasn't been known that a node has everything; for ever, if it isn't ready."""
    async with await trio.open_tcp_stream("127.0.0.1", node.port) as stream:
        await stream.send_all(b"GET /readyz?verbose HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join([chunk async for chunk in stream]).decode()
    age = _AGE.search(answer)
    return float(age[1]) if age is not None and " 200 " in answer[:15] else float("inf")


@asynccontextmanager
async def _open_fleet(run: NodesRun, count: int, directory: Path) -> AsyncIterator[_Fleet]:
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(open_redis(directory / "a", *_KEPT))
        replica = await stack.enter_async_context(
            open_redis(directory / "b", *_KEPT, *_replica_of(primary))
        )
        sentinel = await stack.enter_async_context(open_sentinel(directory / "s", primary))
        await sentinel.knows_replica()
        nodes, proxies = [], []
        for number in range(count):
            mine = [
                await stack.enter_async_context(open_proxy(server.port))
                for server in (primary, replica, sentinel)
            ]
            # What the Sentinel says of servers leads to this node's way to them.
            mine[2].instead = {
                b"\r\n%d\r\n" % proxy.target: b"\r\n%d\r\n" % proxy.port for proxy in mine[:2]
            }
            proxies.append(mine)
            store = f"redis+sentinel://127.0.0.1:{mine[2].port}/main"
            place = directory / f"node {number}"
            place.mkdir()
            options = ("--store", store, "--node-name", f"n{number}", "--max-log-entries", "100000")
            node = await stack.enter_async_context(server_process(place, *options, patience=PATIENCE))
            await _begin(node)
            nodes.append(node)
        yield _Fleet(run, nodes, proxies, primary, replica, sentinel)


async def carry_out_nodes(
    seed: int, count: int, directory: Path, deaths: Iterable[str] = ()
) -> NodesRun:
    """Run it once, with four deaths that the seed chooses, or with these."""
    random = Random(seed)
    run = NodesRun(seed, [*deaths] or [random.choice(_DEATHS) for _ in range(4)])
    async with _open_fleet(run, count, directory) as fleet:
        async with trio.open_nursery() as reading:
            for number in range(_SUBSCRIBERS):
                begun = trio.Event()
                reading.start_soon(fleet.subscribe, number, begun)
                await begun.wait()
            async with trio.open_nursery() as publishing:
                for number in range(_PUBLISHERS):
                    publishing.start_soon(fleet.publish, number)
                for death in run.deaths:
                    await run.acks(random.randrange(1, _BETWEEN))
                    await fleet.die(death, random)
                await run.acks(_BETWEEN)
                run.over = True
            await fleet.settled()
            await fleet.noticed()
            async with connect(fleet.urls, id="last", role="publisher", keep_trying=True) as client:
                await fleet._publish(client, "last")
    return run


def judge_nodes(run: NodesRun) -> dict[str, int]:
    """Compare; return figures. Raises AssertionError."""
    seen: dict[Cursor, str] = {}
    lost = gaps = 0
    for got in run.got:
        before: Cursor | None = None
        since_gap: set[str] = set()
        everything: set[str] = set()
        told = 0
        for item in got:
            if item is None:
                before, told = None, told + 1
                since_gap = set()
                continue
            cursor, text = item
            assert text not in since_gap, f"{text} came twice"
            assert seen.setdefault(cursor, text) == text, f"{cursor} is {text} and {seen[cursor]}"
            if before is not None:
                assert (cursor.epoch, cursor.offset) == (before.epoch, before.offset + 1), (
                    before,
                    cursor,
                )
            before = cursor
            since_gap.add(text)
            everything.add(text)
        missing = run.acknowledged.keys() - everything
        assert not missing or told, f"{sorted(missing)[:5]} were lost without a word"
        assert run.lossy or not told, "it was told of a gap, though nothing can have been lost"
        lost, gaps = lost + len(missing), gaps + told
    return {
        "acknowledged": len(run.acknowledged),
        "received": sum(len(got) for got in run.got),
        "lossy promotions": run.lossy,
        "of the Sentinel": run.unasked,
        "gaps": gaps,
        "missing, and told": lost,
        "epochs": len({cursor.epoch for cursor in seen}),
    }
