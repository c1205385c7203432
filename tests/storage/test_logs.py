"""Promises of every log: in memory, in a file, and on Redis, which two nodes share here.

With one node, both names are that one's.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel, Peer
from tests.redis_server import DEADLINE, open_redis
from trionotify import Exact, Hub, Lagged, StoreError

pytestmark = pytest.mark.usefixtures("patient")

KINDS = ["memory", "sqlite", "redis"]


@attrs.define(eq=False)
class Logs:
    """One log, and how to open hubs on it."""

    store: str
    shared: bool
    durable: bool

    @asynccontextmanager
    async def nodes(self, **options: Any) -> AsyncIterator[tuple[Room, Room]]:
        """Two rooms on the log; they are the same where it can't be shared."""
        options = {"close_timeout": 0.05, **options}  # peers here don't answer a Close
        async with AsyncExitStack() as stack:
            one = await stack.enter_async_context(open_room(store=self.store, **options))
            if not self.shared:
                yield one, one
                return
            options = {**options, "node_name": "two"}
            yield one, await stack.enter_async_context(open_room(store=self.store, **options))


@pytest.fixture(params=KINDS)
async def logs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Logs]:
    """Each kind."""
    if request.param == "memory":
        yield Logs("memory:", shared=False, durable=False)
    elif request.param == "sqlite":
        yield Logs(f"sqlite:{tmp_path}/log.db", shared=False, durable=True)
    else:
        async with open_redis(tmp_path / "redis") as server:
            yield Logs(server.url, shared=True, durable=True)


async def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    with trio.fail_after(DEADLINE):
        while not condition():  # noqa: ASYNC110 - it shows in what a peer has got
            await trio.sleep(0.002)


async def got(peer: Peer, count: int) -> list[Any]:
    """The peer's messages, when there are so many."""
    await until(lambda: len(peer.look().messages) >= count)
    return peer.messages


async def connected(room: Room, target: str, kernel: FakeKernel | None = None) -> Peer:
    """A connection that was answered."""
    peer = await room.connect(target, kernel=kernel)
    await until(lambda: peer.look().head)
    return peer


async def publish(hub: Hub, *data: str, **attributes: Any) -> list[str]:
    """Publish these, one after the other; return the cursors."""
    receipts = [await hub.publish(each, confirm=True, **attributes) for each in data]
    return [receipt.cursor or "" for receipt in receipts]


def events(peer: Peer) -> list[dict[str, Any]]:
    """The events that it has got, read."""
    return [json.loads(message) for message in peer.look().messages]


async def test_everyone_gets_everything_in_one_order(logs: Logs) -> None:
    """Regardless of the publisher and its node."""
    async with logs.nodes() as (one, two):
        peers = [await connected(room, "/?id=a") for room in (one, two, one)]
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(publish, (one, two)[number % 2].hub, f"{number}")
        first = await got(peers[0], 20)
        assert sorted(first, key=int) == [f"{number}" for number in range(20)]
        for peer in peers[1:]:
            assert await got(peer, 20) == first


@pytest.mark.parametrize("format", ["raw", "cloudevents"])
async def test_a_cursor_is_resumed(format: str, logs: Logs) -> None:
    """At any node: everything since follows, exactly once."""
    async with logs.nodes() as (one, two):
        cursors = await publish(one.hub, *"abc")
        peer = await connected(two, f"/?format={format}&since={cursors[0]}")
        assert peer.header("Trionotify-Recovered") == "true"
        await publish(two.hub, "d")
        if format == "raw":
            assert await got(peer, 3) == ["b", "c", "d"]
        else:
            await got(peer, 4)
            assert [event.get("data") for event in events(peer)[1:]] == ["b", "c", "d"]
            assert events(peer)[1]["cursor"] == cursors[1]


@pytest.mark.parametrize("since", ["start", "1h", "1970-01-01T00:00:00Z"])
async def test_what_is_kept_is_replayed(since: str, logs: Logs) -> None:
    """From its beginning, a time or a duration."""
    async with logs.nodes() as (one, two):
        await publish(one.hub, *"abc")
        peer = await connected(two, f"/?since={since}")
        assert await got(peer, 3) == ["a", "b", "c"]
        assert peer.header("Trionotify-Recovered") is None
        cursor = peer.header("Trionotify-Cursor")
        again = await connected(one, f"/?since={cursor}")
        assert again.header("Trionotify-Recovered") == "true"
        assert await got(again, 3) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "wrong", ["other:1", "{epoch}:99", "{epoch}:1:x00000000", "{epoch}:99:x00000000"]
)
async def test_what_cannot_be_resumed_is_said(wrong: str, logs: Logs) -> None:
    """Never as recovered; where it can't be said, it is a 410."""
    async with logs.nodes() as (one, two):
        await publish(one.hub, *"abc")
        since = wrong.format(epoch=one.hub.log.epoch)
        peer = await connected(two, f"/?format=cloudevents&since={since}")
        assert peer.header("Trionotify-Recovered") == "false"
        raw = await connected(two, f"/?since={since}")
        assert raw.status == 410
        with pytest.raises(ValueError, match="can't resume"):
            async with two.hub.subscribe(since=since):
                raise AssertionError("it must not begin")


async def test_a_repetition_is_recognized(logs: Logs) -> None:
    """By source and id, in one group as in another, and it has the first one's cursor."""
    async with logs.nodes() as (one, two):
        peer = await connected(one, "/")
        receipts: list[Any] = []

        async def repeat(hub: Hub) -> None:
            receipts.append(await hub.publish("a", id="x", source="s", confirm=True))

        async with trio.open_nursery() as nursery:
            for hub in (one.hub, two.hub, one.hub, one.hub):
                nursery.start_soon(repeat, hub)
        assert len({receipt.cursor for receipt in receipts}) == 1
        await publish(two.hub, "b", id="x", source="other")
        assert await got(peer, 2) == ["a", "b"]


async def test_a_receipt_counts_the_clients(logs: Logs) -> None:
    """The clients of this node. With several nodes, it says which, and what the count is worth."""
    async with logs.nodes(node_name="one") as (one, _):
        for number in range(3):
            await connected(one, f"/?id={number}")
        receipt = await one.hub.publish("a", to="1", confirm=True)
        assert (receipt.wanted, receipt.written, receipt.behind) == (1, 1, 0)
        where = ("one", "primary") if logs.shared else (None, None)
        assert (receipt.node, receipt.durability) == where


async def test_an_audience_and_an_echo(logs: Logs) -> None:
    """They hold live and on replay, at every node."""
    async with logs.nodes() as (one, two):
        deaf = await connected(one, "/?id=a&role=both&echo=0")
        other = await connected(two, "/?id=b&team=ops")
        deaf.say("mine")
        assert await got(other, 1) == ["mine"]
        await publish(one.hub, "for ops", audience=Exact(team="ops"))
        await publish(two.hub, "for a", to="a")
        assert await got(deaf, 1) == ["for a"]
        assert await got(other, 2) == ["mine", "for ops"]
        late = await connected(two, "/?id=a&since=start")
        assert await got(late, 2) == ["mine", "for a"]


async def test_what_has_expired_is_not_replayed(logs: Logs) -> None:
    """Its `expirytime` is over."""
    async with logs.nodes() as (one, two):
        await publish(one.hub, "old", extensions={"expirytime": "2001-01-01T00:00:00Z"})
        await publish(one.hub, "new")
        peer = await connected(two, "/?since=start")
        assert await got(peer, 1) == ["new"]


@pytest.mark.parametrize("bound", ["max_log_entries", "max_log_bytes"])
async def test_the_log_is_bounded(bound: str, logs: Logs) -> None:
    """By count and by bytes; what was evicted can't be resumed, and can be published again."""
    options = {"max_log_entries": 10} if bound == "max_log_entries" else {"max_log_bytes": 20_000}
    async with logs.nodes(**options) as (one, two):
        filling = "x" * 1000
        (first,) = await publish(one.hub, filling, id="x")
        for _ in range(40):
            last = await publish(one.hub, filling)
        assert one.hub.statistics().log_entries <= 20
        # (The other node may still have it in memory.)
        peer = await connected(one, f"/?format=cloudevents&since={first}")
        assert peer.header("Trionotify-Recovered") == "false"
        start = await connected(two, "/?since=start")
        await got(start, one.hub.statistics().log_entries)
        (again,) = await publish(two.hub, "again", id="x")
        assert int(again.split(":")[1]) > int(last[0].split(":")[1])


async def test_a_subscription_that_was_too_slow(logs: Logs) -> None:
    """It is told of the gap, once, and goes on at the head."""
    async with logs.nodes(max_log_entries=5) as (one, _):
        async with one.hub.subscribe() as notifications:
            cursors = await publish(one.hub, *(f"{number}" for number in range(30)))
            await until(lambda: one.hub.statistics().head == cursors[-1])
            with pytest.raises(Lagged) as lagged:
                await anext(notifications)
            assert lagged.value.upto == cursors[-1]
            await publish(one.hub, "live")
            assert (await anext(notifications)).data == "live"


@pytest.mark.parametrize("lag", ["gap", "disconnect", "latest"])
async def test_a_client_that_was_too_slow(lag: str, logs: Logs) -> None:
    """Its lag policy says what happens."""
    async with logs.nodes(max_log_entries=5) as (one, _):
        kernel = FakeKernel()
        peer = await connected(one, f"/?format=cloudevents&lag={lag}", kernel)
        await until(lambda: peer.look().messages)
        kernel.stall()
        cursors = await publish(one.hub, *(f"{number}" for number in range(30)), subject="s")
        await until(lambda: one.hub.statistics().head == cursors[-1])
        kernel.credit = None
        kernel.grant(None)
        await until(lambda: peer.look().close or len(peer.messages) > 2)
        if lag == "disconnect":
            assert peer.close == (1013, "slow")
            return
        told = [event for event in events(peer) if event["type"] == "trionotify.gap"]
        if lag == "gap":
            assert [event["data"]["to"] for event in told] == [cursors[-1]]
        await publish(one.hub, "live")
        await until(lambda: events(peer)[-1].get("data") == "live")


async def test_a_long_way_back(logs: Logs) -> None:
    """Entries that aren't in memory are read in pages, by many at once, in order."""
    async with logs.nodes(max_tail_bytes=20_000) as (one, two):
        everything = [f"{number}" for number in range(600)]
        async with trio.open_nursery() as nursery:
            for number in everything:
                nursery.start_soon(publish, one.hub, number)
        peers = [await connected(two, "/?since=start") for _ in range(5)]
        first = await got(peers[0], 600)
        assert sorted(first, key=int) == everything
        for peer in peers:
            assert await got(peer, 600) == first


@pytest.mark.parametrize("logs", KINDS[1:], indirect=True)
async def test_a_restart(logs: Logs) -> None:
    """Acknowledged entries are there, and cursors, offsets and repetitions go on."""
    async with logs.nodes() as (one, _):
        cursors = await publish(one.hub, *"ab", id="x", source="s")
        cursors += await publish(one.hub, "c")
    async with logs.nodes() as (one, _):
        peer = await connected(one, f"/?since={cursors[0]}")
        assert peer.header("Trionotify-Recovered") == "true"
        assert await publish(one.hub, "a", id="x", source="s") == cursors[:1]
        await publish(one.hub, "d")
        assert await got(peer, 2) == ["c", "d"]


async def test_what_no_log_can_keep_is_refused(logs: Logs) -> None:
    """Larger than the log, and a callable where the log must write it down."""
    async with logs.nodes(max_log_bytes=5000) as (one, _):
        if not logs.durable:
            await publish(one.hub, "x" * 6000, audience=lambda client: True)
            return
        with pytest.raises(StoreError, match="max_log_bytes"):
            await publish(one.hub, "x" * 6000)
        with pytest.raises(TypeError, match="audience"):
            await publish(one.hub, "x", audience=lambda client: True)


async def test_the_end_of_a_hub_settles_everything(logs: Logs) -> None:
    """Notifications in the channel when the block is left are broadcast and acknowledged."""
    async with logs.nodes() as (one, two):
        for number in range(10):
            one.hub.publish_nowait(f"{number}")
        with trio.fail_after(DEADLINE):
            await one.hub.drain(1)
        async with two.hub.subscribe(since="start") as notifications:
            assert [(await anext(notifications)).data for _ in range(10)] == [*map(str, range(10))]
