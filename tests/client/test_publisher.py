"""Publishing from a client: each once, in order, over any number of connections."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import cancel_at_every_await
from tests.network import FakeServer, open_both, open_network, quiet, take
from trionotify import Client, CloseCode, Closed, Exact, Notification, Refused, Request, open_hub

Clock = trio.testing.MockClock


async def test_it_publishes(autojump_clock: Clock) -> None:
    """With the attributes that are given, else the URL's, else as every publisher; and hears of it."""
    async with open_both() as (hub, network), hub.subscribe() as seen:
        async with network.connect("http://test/?type=log&team=ops", id="al&o") as client:
            receipt = await client.publish("text", type="t", subject="s", to="bo", id="1", level=3)
            heard = await anext(seen)
            assert (heard.data, heard.type, heard.subject, heard.to) == ("text", "t", "s", "bo")
            assert (heard.id, heard.source, heard.get("level")) == ("1", "/clients/al%26o", "3")
            assert receipt.cursor == f"{hub.log.epoch}:1"
            assert (receipt.wanted, receipt.written, receipt.behind) == (0, 0, 0)
            await client.publish("text")
            assert (await anext(seen)).type == "log"
            given = Notification(b"\x00", source="/me", subject="s", extensions={"level": 3})
            await client.publish(given)
            assert await anext(seen) == given


async def test_an_audience_goes_along(autojump_clock: Clock) -> None:
    """As JSON; only those that it means get the notification."""
    async with open_both() as (_, network):
        async with network.connect(params={"team": "ops"}) as ops, network.connect() as other:
            await other.publish("1", audience=Exact(team="ops"))
            await other.publish("2")
            assert await take(ops, 2) == ["1", "2"]
            assert await take(other, 1) == ["2"]


async def test_json_goes_along(autojump_clock: Clock) -> None:
    """As the data, with its type, whatever type the URL says; the URL's `to` holds."""
    async with open_both() as (_, network):
        given = {"datacontenttype": "text/x", "type": "t", "to": "al"}
        async with network.connect(id="al", params=given) as client, network.connect() as other:
            await client.publish(json=[1, "é"], extensions={"level": 3})
            await client.publish("text", to=None)
            await client.publish(json=None, type=None, datacontenttype="text/json")
            found = [await anext(client) for _ in range(3)]
            await client.publish("for all", to="bo")
            assert (await other.publish("the end")).wanted == 2
            assert await take(other, 1) == ["the end"]
    assert [one.data for one in found] == ['[1,"é"]', "text", "null"]
    kinds = [one.datacontenttype for one in found]
    assert kinds == ["application/json", "text/x", "text/json"]
    assert {(one.type, one.to) for one in found} == {("t", "al")}
    assert found[0].extensions == {"level": 3, "to": "al"}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            ("x", {"type": "trionotify.x"}),
            ValueError,
            "type: types that start with trionotify",
        ),
        (("x", {"subject": ""}), ValueError, "subject: must not be empty"),
        (("x", {"json": 1}), TypeError, "json: must not be combined with data"),
        ((None, {"json": {1}}), TypeError, "json: a value of type set"),
        ((Notification("x"), {"json": None}), TypeError, "published as it is"),
        (
            ("x", {"audience": len}),
            TypeError,
            ("audience: <built-in function len> can't be written as JSON"),
        ),
        ((Notification("x"), {"type": "t"}), TypeError, "published as it is"),
        (("x", {f"x{n}": "y" for n in range(92)}), ValueError, "extensions: at most 91"),
        ((5, {}), TypeError, "data: must be str, bytes or None"),
    ],
)
async def test_what_cant_be_published(
    arguments: tuple[Any, dict[str, Any]], error: type[Exception], words: str, autojump_clock: Clock
) -> None:
    """It is refused before anything is sent, with the attribute's name."""
    data, attributes = arguments
    async with open_both() as (_, network), network.connect() as client:
        with pytest.raises(error, match=words):
            await client.publish(data, **attributes)
        assert len(network.made) == 1
        await client.publish("x", **{f"x{n}": "y" for n in range(91)})
        assert (await anext(client)).get("x90") == "y"


async def test_an_acknowledgement_is_lost(autojump_clock: Clock) -> None:
    """The event is published again, and is in the log once. The receipt has the first cursor."""
    async with open_both() as (hub, network):
        async with network.connect(role="publisher") as client:
            network.made[0].deaf = True
            async with trio.open_nursery() as nursery:
                receipts: list[Any] = []

                async def publish(text: str) -> None:
                    receipts.append(await client.publish(text))

                for text in ("1", "2", "3"):
                    nursery.start_soon(publish, text)
                    await quiet()
                assert hub.log.head == 3
                await hub.publish("4", confirm=True)
                network.cut()
            assert [receipt.cursor for receipt in receipts] == [
                f"{hub.log.epoch}:{n}" for n in (1, 2, 3)
            ]
        assert [entry.notification.data for entry in hub.log.read(0, 9)] == ["1", "2", "3", "4"]


async def test_the_id_is_the_same_on_every_connection(autojump_clock: Clock) -> None:
    """Though nobody gave one: it is what tells a repetition."""
    async with open_both() as (hub, network):
        async with network.connect() as client:
            await client.publish("1")
            network.cut()
            await client.publish("2")
            assert {c.id for c in hub.clients} == {client.id}


async def test_publishing_while_nobody_listens(autojump_clock: Clock) -> None:
    """It waits, and is in the log once somebody does; those of one task in their order."""
    async with open_both() as (hub, network):
        async with network.connect() as client:
            network.serve = None
            network.cut()
            async with trio.open_nursery() as nursery:
                for n in range(10):
                    await nursery.start(partial(client.publish, f"{n}"))
                await trio.sleep(60)
                assert hub.log.head == 0
                network.serve = hub.handle
        assert [entry.notification.data for entry in hub.log.read(0, 99)] == [f"{n}" for n in range(10)]


async def test_a_bound_on_what_waits(autojump_clock: Clock) -> None:
    """`max_unacknowledged` are sent; the next waits for an acknowledgement, and `start` with it."""
    heard: list[str] = []
    may_answer = trio.Event()

    async def script(server: FakeServer) -> None:
        await server.welcome()
        events = [await server.hear(), await server.hear()]
        heard.extend(event["data"] for event in events)
        await may_answer.wait()
        await server.acknowledge(events[1])
        events.append(await server.hear())
        heard.append(events[2]["data"])
        for event in events:
            await server.acknowledge(event)
        await server.listen()

    async with open_network() as network:
        network.fake(script)
        async with network.connect(role="publisher", max_unacknowledged=2) as client:
            async with trio.open_nursery() as nursery:
                for text in ("1", "2"):
                    await nursery.start(partial(client.publish, text))
                with trio.move_on_after(10) as scope:
                    await nursery.start(partial(client.publish, "not"))
                assert scope.cancelled_caught
                assert heard == ["1", "2"]
                may_answer.set()
                await nursery.start(partial(client.publish, "3"))
    assert heard == ["1", "2", "3"]


@pytest.mark.parametrize("status", [400, 503, 507])
async def test_a_publish_is_refused(status: int, autojump_clock: Clock) -> None:
    """With the server's status and detail; others are not concerned, and it isn't repeated."""

    async def script(server: FakeServer) -> None:
        await server.welcome()
        bad, good = await server.hear(), await server.hear()
        problem = {"status": status, "title": "No", "detail": "that is why", "id": bad["id"]}
        await server.say("error", problem, "e:0")
        await server.acknowledge(good)
        await server.websocket.aclose(1012)

    async def another(server: FakeServer) -> None:
        await server.welcome()
        await server.acknowledge(await server.hear(), "e:2")
        await server.listen()

    async with open_network() as network:
        network.fake(script, another)
        async with network.connect(role="publisher") as client, trio.open_nursery() as nursery:

            async def be_refused() -> None:
                with pytest.raises(Refused) as caught:
                    await client.publish("bad")
                assert (caught.value.status, caught.value.detail) == (status, "that is why")

            nursery.start_soon(be_refused)
            await quiet()
            assert (await client.publish("good")).cursor == "e:1"
            assert (await client.publish("later")).cursor == "e:2"


async def test_there_is_no_way_to_publish(autojump_clock: Clock) -> None:
    """Waiting publishers are told. A later publish starts a new attempt. The subscriber goes on."""
    refuse = True

    def authenticate(request: Request) -> Client:
        if refuse and request.params["role"] == "publisher":
            raise Refused(403, "role: you may not publish")
        return request.client()

    async with open_both(authenticate=authenticate) as (_, network), network.connect() as client:
        with pytest.raises(Refused, match="403: role: you may not publish"):
            await client.publish("x")
        refuse = False
        await client.publish("y")
        assert await take(client, 1) == ["y"]


async def test_a_message_that_is_too_big(autojump_clock: Clock) -> None:
    """It ends the publisher's connection (1009), and what waits with it; not for ever."""
    async with open_both(max_message_bytes=1000) as (_, network), network.connect() as client:
        with pytest.raises(Closed) as caught:
            await client.publish("x" * 1000)
        assert caught.value.code == CloseCode.MESSAGE_TOO_BIG
        await client.publish("small")
        assert await take(client, 1) == ["small"]


async def test_a_publish_is_cancelled(autojump_clock: Clock) -> None:
    """At every await: it was published or not, once, and those after it are."""
    returned: list[str] = []
    async with open_both() as (hub, network), network.connect(max_unacknowledged=1) as client:

        async def operation(steps: int) -> None:
            await client.publish(f"{steps}", id=f"{steps}")
            returned.append(f"{steps}")

        assert await cancel_at_every_await(operation) >= 2
        await client.publish("after")
        log = [str(entry.notification.data) for entry in hub.log.read(0, 99)]
        assert len(set(log)) == len(log)
        assert {*returned, "after"} <= set(log)


async def test_a_cancelled_publish_is_not_repeated(autojump_clock: Clock) -> None:
    """It is forgotten."""
    async with open_both() as (hub, network), network.connect() as client:
        network.serve = None
        network.cut()
        with trio.move_on_after(60):
            await client.publish("not")
        network.serve = hub.handle
        await client.publish("this")
        assert [entry.notification.data for entry in hub.log.read(0, 99)] == ["this"]


async def test_two_of_one_id(autojump_clock: Clock) -> None:
    """One after the other: the second is a repetition of the first, if the source is the same."""
    async with (
        open_both() as (hub, network),
        network.connect() as client,
        trio.open_nursery() as nursery,
    ):
        receipts = []

        async def publish(source: str) -> None:
            receipts.append((source, (await client.publish("x", id="1", source=source)).cursor))

        for source in ("/a", "/a", "/b"):
            nursery.start_soon(publish, source)
        while len(receipts) < 3:
            await quiet()
        assert hub.log.head == 2
        cursors = dict(receipts)
        assert sorted(receipts) == [("/a", cursors["/a"])] * 2 + [("/b", cursors["/b"])]


async def test_a_publish_into_a_dead_connection(autojump_clock: Clock) -> None:
    """Is repeated on the next."""
    async with open_both() as (hub, network):
        async with network.connect(role="publisher", ping_interval=5, ping_timeout=3) as client:
            network.made[0].die()
            await client.publish("x")
    assert [entry.notification.data for entry in hub.log.read(0, 9)] == ["x"]


async def test_a_publisher_that_keeps_trying(autojump_clock: Clock) -> None:
    """Until it is connected for the first time, before it has anything to say."""
    async with open_hub() as hub, open_network() as network:

        async def come_late() -> None:
            await network.dials(5)
            network.serve = hub.handle

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_late)
            async with network.connect(role="publisher", keep_trying=True) as client:
                assert (await client.publish("at last")).cursor == f"{hub.log.epoch}:1"
