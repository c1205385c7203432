"""A subscriber receives each event once, in order, and is told of losses in place. Filters. Slowness."""

from __future__ import annotations

import json
import random
from typing import Any
from urllib.parse import urlencode

import pytest
import trio
import trio.testing

from tests.conftest import cancel_at_every_await
from tests.network import FakeServer, open_both, open_network, query, quiet, take
from trionotify import (
    AnyOf,
    Client,
    Exact,
    Lagged,
    Prefix,
    Refused,
    Request,
    from_json,
    open_hub,
    sign,
    to_json,
)
from trionotify.client.target import wanted_in
from trionotify.model.jsontext import write_json

Clock = trio.testing.MockClock


async def test_filters_are_replaced(autojump_clock: Clock) -> None:
    """The URL's too; they hold behind the cursor that is returned, and over a reconnect."""
    async with open_both() as (hub, network):
        async with network.connect("http://test/?exact.type=a", filter=Prefix(subject="s")) as client:
            for type in ("a", "b"):
                await hub.publish(f"1{type}", type=type, subject="s1", confirm=True)
            cursor = await client.subscribe(Exact(type="b"))
            assert cursor == f"{hub.log.epoch}:2"
            for type in ("a", "b"):
                await hub.publish(f"2{type}", type=type, confirm=True)
            assert await take(client, 2) == ["1a", "2b"]
            network.cut()
            for type in ("a", "b"):
                await hub.publish(f"3{type}", type=type, confirm=True)
            assert await take(client, 1) == ["3b"]


async def test_another_life_of_the_log(autojump_clock: Clock) -> None:
    """A server with a new log: `Lagged`, once and in its place, and it goes on behind that."""
    async with open_both() as (old, network), open_hub() as new:
        async with network.connect() as client:
            await old.publish("1", confirm=True)
            await old.publish("2", confirm=True)
            await quiet()
            network.serve = new.handle
            network.cut()
            await new.publish("not seen", confirm=True)
            await trio.sleep(1)
            await new.publish("3", confirm=True)
            assert await take(client, 2) == ["1", "2"]
            with pytest.raises(Lagged) as caught:
                await anext(client)
            assert caught.value.after == f"{old.log.epoch}:2"
            assert caught.value.upto == client.cursor == f"{new.log.epoch}:1"
            assert await take(client, 1) == ["3"]


async def test_away_for_too_long(autojump_clock: Clock) -> None:
    """Entries that have left the log meanwhile are reported as lost. A replay is never partial."""
    async with open_both(max_log_entries=3) as (hub, network):
        async with network.connect() as client:
            network.serve = None
            network.cut()
            for n in range(5):
                await hub.publish(f"{n}", confirm=True)
            network.serve = hub.handle
            with pytest.raises(Lagged) as caught:
                await anext(client)
            assert (caught.value.after, caught.value.upto) == (f"{hub.log.epoch}:0", client.cursor)
            await hub.publish("5")
            assert await take(client, 1) == ["5"]


@pytest.mark.parametrize("key", ["since", "last_event_id", "since=start&lastEventId"])
async def test_a_cursor_that_cant_be_resumed(key: str, autojump_clock: Clock) -> None:
    """The first that the iteration says is what is lost since then."""
    async with open_both() as (hub, network):
        async with network.connect(f"http://test/?{key}=old:7") as client:
            await hub.publish("1")
            with pytest.raises(Lagged) as caught:
                await anext(client)
            assert (caught.value.after, caught.value.upto) == ("old:7", f"{hub.log.epoch}:0")
            assert await take(client, 1) == ["1"]


async def test_resuming_in_another_process(autojump_clock: Clock) -> None:
    """Another client that gets the cursor of the last event handed out receives the rest."""
    async with open_both() as (hub, network):
        async with network.connect(since="start") as client:
            for n in range(5):
                await hub.publish(f"{n}", confirm=True)
            await quiet()
            assert await take(client, 2) == ["0", "1"]
            cursor = client.cursor
        async with network.connect(since=cursor) as client:
            assert await take(client, 3) == ["2", "3", "4"]


async def test_a_gap(autojump_clock: Clock) -> None:
    """`trionotify.gap` is `Lagged` between what came before it and what comes after."""

    async def script(server: FakeServer) -> None:
        await server.welcome()
        await server.say("a.b", 1, "e:1", datacontenttype="application/json")
        await server.say("gap", {"from": "e:1", "to": "e:9"}, "e:9")
        await server.say("a.b", 10, "e:10", datacontenttype="application/json")
        await server.listen()

    async with open_network() as network:
        network.fake(script)
        async with network.connect() as client:
            assert await take(client, 1) == ["1"]
            with pytest.raises(Lagged) as caught:
                await anext(client)
            assert (caught.value.after, caught.value.upto, client.cursor) == ("e:1", "e:9", "e:9")
            assert await take(client, 1) == ["10"]


async def test_positions_move_the_cursor(autojump_clock: Clock) -> None:
    """Where nothing is wanted the cursor moves on; never past what wasn't handed out yet."""

    async def script(server: FakeServer) -> None:
        await server.welcome("e:3")
        await server.say("position", {}, "e:5")
        await trio.sleep(1)
        await server.say("a.b", 7, "e:7", datacontenttype="application/json")
        await server.say("unknown", {"x": 1})
        await server.say("position", {}, "e:9")
        await server.listen()

    async with open_network() as network:
        network.fake(script)
        async with network.connect() as client:
            await quiet()
            assert client.cursor == "e:5"
            await trio.sleep(2)
            assert client.cursor == "e:5"
            assert await take(client, 1) == ["7"]
            assert client.cursor == "e:9"


async def test_a_change_of_filters_is_lost(autojump_clock: Clock) -> None:
    """It is repeated: the filters hold behind the cursor that comes back in the end."""
    async with open_both() as (hub, network), network.connect(filter=Exact(type="a")) as client:
        network.made[0].deaf = True
        got: list[Any] = []

        async def change() -> None:
            got.append(await client.subscribe(Exact(type="b")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            await quiet()
            for type in ("a", "b"):
                await hub.publish(f"1{type}", type=type, confirm=True)
            network.cut()
        assert got == [f"{hub.log.epoch}:2"]
        for type in ("a", "b"):
            await hub.publish(f"2{type}", type=type, confirm=True)
        assert await take(client, 2) == ["1a", "2b"]


async def test_filters_that_the_server_doesnt_take(autojump_clock: Clock) -> None:
    """They are refused, and the old ones hold."""
    async with (
        open_both(max_filters=2) as (hub, network),
        network.connect(filter=Exact(type="a")) as client,
    ):
        with pytest.raises(Refused, match="max_filters"):
            await client.subscribe([{"exact": {"type": "b"}}] * 3)
        network.cut()
        for type in ("b", "a"):
            await hub.publish(type, type=type, confirm=True)
        assert await take(client, 1) == ["a"]


async def test_a_change_of_filters_is_cancelled(autojump_clock: Clock) -> None:
    """At every await: the new ones hold, or the old ones, also on the next connection."""
    async with open_both() as (hub, network), network.connect(filter=Exact(type="0")) as client:

        async def operation(steps: int) -> None:
            await client.subscribe(Exact(type=f"{steps}"))

        awaits = await cancel_at_every_await(operation)
        assert awaits >= 1
        network.cut()
        await hub.publish("no", type="0")
        await hub.publish("yes", type=f"{awaits}")
        assert await take(client, 1) == ["yes"]


async def test_a_slow_consumer_is_bounded(autojump_clock: Clock) -> None:
    """It reads ahead `max_buffered` notifications, not all that there is; then it gets the rest."""
    text = "x" * 10_000
    async with open_both() as (hub, network):
        async with network.connect(max_buffered=10, ping_interval=1e6) as client:
            for _ in range(200):
                await hub.publish(text, confirm=True)
            await quiet()
            assert 10 * len(text) < network.made[0].received < 30 * len(text)
            assert await take(client, 200) == [text] * 200


async def test_a_consumer_that_takes_ten_minutes(autojump_clock: Clock) -> None:
    """The server drops a connection that takes nothing; nothing is lost by that."""
    async with (
        open_hub() as hub,
        open_network(hub, trio.testing.lockstep_stream_pair) as network,
        network.connect(max_buffered=2) as client,
    ):
        for n in range(100):
            await hub.publish(f"{n} " + "x" * 10_000, confirm=True)
        got = []
        for n in range(100):
            got.append(str((await anext(client)).data).split()[0])
            if n % 20 == 0:
                await trio.sleep(600)
        assert got == [f"{n}" for n in range(100)]
        assert 3 <= len(network.made) <= 6  # once for each of the stalls, at most


async def test_a_consumer_that_takes_ten_minutes_where_little_happens(autojump_clock: Clock) -> None:
    """As long as the buffer has room, the connection lives."""
    async with open_both() as (hub, network), network.connect() as client:
        for n in range(50):
            await hub.publish(f"{n}")
        await anext(client)
        await trio.sleep(600)
        assert await take(client, 49) == [f"{n}" for n in range(1, 50)]
        assert len(network.made) == 1


async def test_publishing_and_subscribing_in_the_loop(autojump_clock: Clock) -> None:
    """With a full buffer: neither waits for the loop that it is in."""
    async with (
        open_hub() as hub,
        open_network(hub, trio.testing.lockstep_stream_pair) as network,
        network.connect(max_buffered=1) as client,
    ):
        for n in range(100):
            await hub.publish(f"{n} " + "x" * 10_000, type="t", confirm=True)
        seen = 0
        async for notification in client:
            await client.publish("answer", type="a")
            await client.subscribe(Exact(type="t"))
            seen += notification.type == "t"
            if seen == 100:
                break
        assert hub.log.head == 100 + seen
        assert trio.current_time() < 1


async def test_iterating_is_cancelled(autojump_clock: Clock) -> None:
    """At every await: nothing is lost, and the cursor is behind what was handed out."""
    got: list[Any] = []
    async with open_both() as (hub, network), network.connect() as client:

        async def operation(steps: int) -> None:
            await hub.publish(f"{steps}", confirm=True)
            got.append((await anext(client)).data)

        assert await cancel_at_every_await(operation) >= 3
        while len(got) < hub.log.head:
            got.append((await anext(client)).data)
        assert got == [entry.notification.data for entry in hub.log.read(0, 99)]
        assert client.cursor == f"{hub.log.epoch}:{hub.log.head}"


async def test_several_tasks_iterate(autojump_clock: Clock) -> None:
    """Each notification goes to one of them."""
    got: list[Any] = []
    async with open_both() as (hub, network), network.connect() as client:

        async def iterate() -> None:
            async for notification in client:
                got.append(notification.data)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(iterate)
            for n in range(30):
                await hub.publish(f"{n}", confirm=True)
            await quiet()
            nursery.cancel_scope.cancel()
    assert sorted(got) == sorted(f"{n}" for n in range(30))


# --- filters that are too long for a URL ---

#: What the server takes in band, and not in a URL: 5 KiB, and 3 times as much when percent-encoded.
LONG = AnyOf([Prefix(type="a."), *(Prefix(type=f"{'äöü' * 8}{n}") for n in range(95))])


@pytest.mark.parametrize("how", ["filters", "url", "subscribe"])
async def test_long_filters_hold_over_a_reconnect(how: str, autojump_clock: Clock) -> None:
    """Wherever they were said: nothing is lost or doubled, and nothing comes that isn't wanted."""
    wanted = write_json(to_json(LONG)).decode()
    url = f"http://test/?{urlencode({'filters': wanted})}" if how == "url" else "http://test"
    async with open_both() as (hub, network):
        async with network.connect(url, filters=LONG if how == "filters" else None) as client:
            if how == "subscribe":
                await client.subscribe(LONG)
            for n in range(5):
                await quiet()
                for type in ("b.", "a.", "b."):
                    await hub.publish(f"{n}{type}", type=type, confirm=True)
                network.cut()
                for type in ("b.", "a.", "b."):
                    await hub.publish(f"{n}{type}away", type=type, confirm=True)
                assert await take(client, 2) == [f"{n}a.", f"{n}a.away"]
            await hub.publish("last", type="a.")
            assert await take(client, 1) == ["last"]
            await quiet()  # the server has read the filters, too
            (made,) = hub.clients
            assert made.predicate == LONG or made.predicates == (LONG,)
            assert not wanted_in(made.params)


@pytest.mark.parametrize("seed", range(3))
async def test_long_filters_whatever_is_cut(seed: int, autojump_clock: Clock) -> None:
    """The wanted events come once, in order, while connections are cut at random."""
    chance = random.Random(seed)
    async with open_both() as (hub, network), network.connect(filters=LONG, max_buffered=3) as client:
        got: list[Any] = []

        async def cut() -> None:
            while True:
                await trio.sleep(chance.random() / 4)
                network.made[-1].deaf = True
                await trio.sleep(chance.random() / 4)
                network.cut()

        async def publish() -> None:
            for n in range(200):
                await hub.publish(f"{n}", type=chance.choice(["a.", "b."]), confirm=True)
                await trio.sleep(chance.random() / 10)
            await hub.publish("end", type="a.")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            nursery.start_soon(publish)
            while got[-1:] != ["end"]:
                got += await take(client, 1)
            nursery.cancel_scope.cancel()
        log = [entry.notification for entry in hub.log.read(0, 999)]
        assert got == [one.data for one in log if one.type == "a."]
        assert len(network.made) > 10


@pytest.mark.parametrize("status", [414, 431])
async def test_a_server_that_takes_short_urls(status: int, autojump_clock: Clock) -> None:
    """Or a proxy: filters are said in band from then on, and the refusal is not reported."""
    refused: list[str] = []

    def authenticate(request: Request) -> Client:
        if "exact.type" in request.params or "filters" in request.params:
            refused.append(request.path)
            raise Refused(status, "the URL is too long")
        return request.client()

    async with open_both(authenticate=authenticate) as (hub, network):
        async with network.connect("http://test/?exact.type=a", filters=Prefix(subject="s")) as client:
            for n in range(3):
                for type, subject in (("a", "x"), ("b", "s"), ("a", "s")):
                    await hub.publish(f"{n}", type=type, subject=subject, confirm=True)
                assert await take(client, 1) == [f"{n}"]
                network.cut()
    assert len(refused) == 1


async def test_a_url_that_is_too_long_without_filters(autojump_clock: Clock) -> None:
    """Then there is nothing to say in band, and the refusal is raised."""

    def authenticate(request: Request) -> Client:
        raise Refused(431, "the head is too long")

    async with open_both(authenticate=authenticate) as (_, network):
        for filters in (None, Exact(type="a")):
            with pytest.raises(Refused, match="431"):
                async with network.connect(filters=filters):
                    raise AssertionError("it was entered")
    assert len(network.dialled_at) == 3


async def test_what_is_signed_stays_in_the_url(autojump_clock: Clock) -> None:
    """Long filters narrow it, in band."""
    secret = b"0123456789abcdef0123456789abcdef"
    query = sign({"id": "al", "prefix.subject": "s"}, secret)
    async with open_both(secret=secret) as (hub, network):
        async with network.connect(f"http://test/?{query}", filters=LONG) as client:
            for n in range(3):
                for type, subject in (("a.", "x"), ("b.", "s"), ("a.", "s")):
                    await hub.publish(f"{n}", type=type, subject=subject, confirm=True)
                assert await take(client, 1) == [f"{n}"]
                network.cut()
            await quiet()
            await client.subscribe([])
            await hub.publish("all", type="b.", subject="s")
            assert await take(client, 1) == ["all"]


async def test_until_filters_are_known_they_are_applied_here(autojump_clock: Clock) -> None:
    """Events that the server sends before that aren't handed out, and the cursor moves on."""

    async def script(server: FakeServer) -> None:
        assert not wanted_in(query(server))
        await server.welcome("e:0")
        for n, type in enumerate(("b.x", "a.x", "b.x"), 1):
            await server.say(type, n, f"e:{n}", datacontenttype="application/json")
        event = await server.hear()
        filters = event["data"]["filters"]
        assert from_json(filters) == LONG
        await server.say("ack", {"id": event["id"], "filters": filters}, "e:3")
        await server.say("c.x", 4, "e:4", datacontenttype="application/json")
        await server.listen()

    async with open_network() as network:
        network.fake(script)
        async with network.connect(filters=LONG) as client:
            assert await take(client, 1) == ["2"]
            assert await take(client, 1) == ["4"]  # from here on the server decides
            assert client.cursor == "e:4"


async def test_long_filters_that_the_server_refuses(autojump_clock: Clock) -> None:
    """Iterating raises the reason, as it would be raised for a URL."""
    async with open_both(max_filters=50) as (_, network), network.connect(filters=LONG) as client:
        for _ in range(2):
            with pytest.raises(Refused, match="400: max_filters: at most 50"):
                await anext(client)


async def test_the_longest_filters_that_a_url_may_have(autojump_clock: Clock) -> None:
    """Are taken in band, too: what is around them there doesn't count."""
    short = [{"any": [{"exact": {"type": "a"}}, {"exact": {"type": ""}}]}]
    filters = json.loads(
        write_json(short).replace(b'""', b'"' + b"t" * (8192 - len(write_json(short))) + b'"')
    )
    assert len(write_json(filters)) == 8192
    async with open_both() as (hub, network), network.connect(filters=filters) as client:
        for type in ("no", "a"):
            await hub.publish(type, type=type)
        assert await take(client, 1) == ["a"]
        await quiet()  # the server has read the filters, too
        (made,) = hub.clients
        assert made.predicates == (from_json(filters),)


async def test_names_for_filters(autojump_clock: Clock) -> None:
    """As in a query: `filters` and `sql`, of which both must hold; `filter` is the old name."""
    for options in (
        {"filters": Exact(type="a"), "sql": "subject = 's'"},
        {"filter": [{"exact": {"type": "a"}}, {"sql": "subject = 's'"}]},
        {"sql": "type = 'a' AND subject = 's'"},
    ):
        async with open_both() as (hub, network):
            for early in (True, False):
                async with network.connect(**options if early else {}) as client:
                    if not early:
                        await client.subscribe(**options)
                    for type, subject in (("a", "x"), ("b", "s"), ("a", "s")):
                        await hub.publish(type + subject, type=type, subject=subject)
                    assert await take(client, 1) == ["as"]
                    with pytest.raises(
                        TypeError, match=("filters: must be a predicate or a JSON array of filters")
                    ):
                        await client.subscribe()
                    with pytest.raises(ValueError, match="filters: given twice"):
                        await client.subscribe([], filter=[])
                    with pytest.raises(ValueError, match="sql: line 1, column 7"):
                        await client.subscribe(sql="type =")
