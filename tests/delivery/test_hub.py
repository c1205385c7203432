"""The hub: publishing, audiences, receipts, subscriptions inside the process, back-pressure."""

from __future__ import annotations

import json
import logging
import time
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel
from tests.model.test_predicates import Odd
from trionotify import (
    EVERYTHING,
    AllOf,
    AnyOf,
    Client,
    Exact,
    Hub,
    Lagged,
    Not,
    Notification,
    Predicate,
    Prefix,
    Receipt,
    open_hub,
)
from trionotify.delivery import broadcast as broadcast_module
from trionotify.delivery import turns as turns_module


async def test_each_gets_what_its_query_asked_for(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """Filters, and nothing given at all: everything."""
    all_, orders, both = [
        await room.connect(target)
        for target in ("/", "/?prefix.type=order.", "/events?exact.type=order.created&exact.subject=7")
    ]
    await room.hub.publish("1", type="order.created", subject="7")
    await room.hub.publish("2", type="order.shipped", subject="7")
    await room.hub.publish(b"3", type="user.created")
    await room.quiet()
    assert all_.look().messages == ["1", "2", b"3"]
    assert orders.look().messages == ["1", "2"]
    assert both.look().messages == ["1"]


@pytest.mark.parametrize(
    "data", ["", b"", "text", b"\xff\x00", "é" * 35_000, b"x" * 70_000, "🎉\u00a0\n"]
)
async def test_data_goes_out_as_it_came_in(
    room: Room, data: Any, autojump_clock: trio.testing.MockClock
) -> None:
    """Text, bytes, empty, long and multi-byte; from the process and from a publisher."""
    reader, writer = await room.connect("/?exact.type=t"), await room.connect("/?role=publisher&type=t")
    await room.hub.publish(data, type="t")
    writer.say(data)
    await room.quiet()
    assert reader.look().messages == [data, data]
    assert writer.look().messages == []


async def test_no_data_is_an_empty_text(room: Room, autojump_clock: trio.testing.MockClock) -> None:
    """A raw message can't be nothing."""
    peer = await room.connect()
    await room.hub.publish(type="ping")
    await room.quiet()
    assert peer.look().messages == [""]


async def test_a_receipt_says_what_became_of_it(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """wanted, written at once, behind; the cursor is the notification's own."""
    await room.connect("/?exact.type=t")
    await room.connect("/?exact.type=t")
    await room.connect("/?exact.type=other")
    slow = await room.connect("/?exact.type=t")
    slow.kernel.stall()
    receipt = await room.hub.publish("x", type="t", confirm=True)
    assert receipt == Receipt(f"{room.hub.log.epoch}:1", wanted=3, written=2, behind=1)
    receipt = await room.hub.publish("y", type="t", confirm=True)
    assert receipt == Receipt(f"{room.hub.log.epoch}:2", wanted=3, written=2, behind=1)
    assert await room.hub.publish("z") is None


async def test_to_one_identity(room: Room, autojump_clock: trio.testing.MockClock) -> None:
    """Every connection with that id, and no other. Their filters still hold."""
    tab1, tab2 = await room.connect("/?id=alice"), await room.connect("/?id=alice&exact.type=a")
    other = await room.connect("/?id=bob")
    await room.hub.publish("1", to="alice", type="a")
    receipt = await room.hub.publish("2", to="alice", type="b", confirm=True)
    await room.hub.publish("3", to="nobody")
    await room.quiet()
    assert tab1.look().messages == ["1", "2"]
    assert tab2.look().messages == ["1"]
    assert other.look().messages == []
    assert receipt.wanted == 1


@pytest.mark.parametrize(
    "audience",
    [
        Exact(team="ops"),
        Exact(team="ops") & Not(Exact(id="carol")),
        Exact(team="ops") | Exact(id="alice"),
        Prefix(team="op"),
        Exact(user_id="7"),
        Exact({"Size-X": "L"}) & Prefix(team="op"),
        lambda client: client.params.get("team") == "ops",
    ],
)
async def test_an_audience_is_a_condition_on_clients(
    room: Room, audience: Any, autojump_clock: trio.testing.MockClock
) -> None:
    """By hash where it names a parameter, by asking everyone where it doesn't: the same clients."""
    alice = await room.connect("/?id=alice&team=ops&user_id=7&Size-X=L")
    bob = await room.connect("/?id=bob&team=dev&user_id=8")
    await room.hub.publish("1", audience=audience)
    await room.hub.publish("2")
    late = await room.connect("/?id=alice&team=ops&user_id=7&Size-X=L&since=start")
    await room.quiet()
    assert alice.look().messages == ["1", "2"]
    assert bob.look().messages == ["2"]
    assert late.look().messages == ["1", "2"]


async def test_to_and_audience_must_both_hold(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """Only those of alice's connections that belong to the team."""
    phone, desk = await room.connect("/?id=a&on=phone"), await room.connect("/?id=a&on=desk")
    await room.hub.publish("1", to="a", audience=Exact(on="desk"))
    await room.quiet()
    assert (phone.look().messages, desk.look().messages) == ([], ["1"])


async def test_an_audience_that_raises(room: Room, autojump_clock: trio.testing.MockClock) -> None:
    """It is false where it raises, true elsewhere, and `publish` raises what it raised."""

    def audience(client: Client) -> bool:
        return {"alice": True}[client.id]

    alice, bob = await room.connect("/?id=alice"), await room.connect("/?id=bob")
    with pytest.raises(KeyError):
        await room.hub.publish("1", audience=audience)
    again = await room.connect("/?id=bob&since=start")
    await room.quiet()
    assert alice.look().messages == ["1"]
    assert bob.look().messages == again.look().messages == []


async def test_a_batch_that_mixes_all_kinds_keeps_the_order(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """Shared, targeted and echoed notifications of one batch arrive in log order."""
    alice = await room.connect("/?id=alice&role=both&echo=0")
    bob = await room.connect("/?id=bob")
    async with trio.open_nursery() as nursery:
        for data, to in [("1", None), ("2", "alice"), ("3", None), ("4", "bob"), ("5", None)]:
            nursery.start_soon(lambda data=data, to=to: room.hub.publish(data, to=to))
    alice.say("mine")
    await room.quiet()
    order = [entry.notification for entry in room.hub.log.read(0, 10)]
    assert alice.look().messages == [n.data for n in order if n.to in (None, "alice")][:-1]
    assert bob.look().messages == [n.data for n in order if n.to in (None, "bob")]


async def test_echo(room: Room, autojump_clock: trio.testing.MockClock) -> None:
    """By default one hears oneself; with echo=0 not this connection, but others of the same id."""
    deaf = await room.connect("/?id=a&role=both&echo=0")
    same = await room.connect("/?id=a&role=both")
    deaf.say("1")
    same.say("2")
    await room.quiet()
    assert deaf.look().messages == ["2"]
    assert sorted(same.look().messages) == ["1", "2"]


async def test_filters_can_change(room: Room, autojump_clock: trio.testing.MockClock) -> None:
    """On the record, at the client's own position; the last one unsubscribed: nothing."""
    peer = await room.connect("/?id=a")
    (client,) = room.hub.clients.by_id("a")
    await room.hub.publish("0", type="z", confirm=True)
    assert client.subscribe(Exact(type="a")) == f"{room.hub.log.epoch}:1"
    client.subscribe(Exact(type="b"))
    assert client.predicates == (Exact(type="a"), Exact(type="b"))
    for kind in "abc":
        await room.hub.publish(kind, type=kind, confirm=True)
    client.unsubscribe(Exact(type="a"))
    for kind in "abc":
        await room.hub.publish(kind, type=kind, confirm=True)
    assert client.unsubscribe() == f"{room.hub.log.epoch}:7"
    await room.hub.publish("x", confirm=True)
    client.subscribe(EVERYTHING)
    await room.hub.publish("y", confirm=True)
    assert peer.look().messages == ["0", "a", "b", "b", "y"]
    with pytest.raises(ValueError, match="is not registered on client 'a'"):
        client.unsubscribe(Exact(type="a"))
    with pytest.raises(TypeError, match="is not a predicate or a callable"):
        client.subscribe("a")  # type: ignore[arg-type] # a mistake on purpose


async def test_a_predicate_that_raises_ends_its_client_alone(
    room: Room, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """1011, whether the client is live or catching up; the others get everything."""
    broken, behind, fine = [await room.connect(f"/?id={name}") for name in ("broken", "behind", "fine")]
    for name in ("broken", "behind"):
        (client,) = room.hub.clients.by_id(name)
        client.subscribe(lambda notification: {"1": True}[notification.data])
    behind.kernel.stall()
    await room.hub.publish("1")
    await room.quiet()
    await room.hub.publish("2")
    await room.quiet()
    behind.kernel.grant(1000)
    await room.quiet()
    for peer in (broken, behind):
        assert peer.look().messages == ["1"]
        assert peer.close == (1011, "a predicate of this client failed")
    assert fine.look().messages == ["1", "2"]
    assert "<lambda>\nKeyError\n" in caplog.text  # where it was raised, without the value


async def test_subscriptions_inside_the_process(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """They see what their predicate wants, whatever the audience, from the moment they are entered."""
    await room.hub.publish("before", type="t", confirm=True)
    async with room.hub.subscribe(Exact(type="t")) as notifications:
        await room.hub.publish("1", type="t", to="alice")
        await room.hub.publish("no", type="u")
        await room.hub.publish("2", type="t")
        received = [await anext(notifications), await anext(notifications)]
        assert [notification.data for notification in received] == ["1", "2"]
        cursor = notifications.cursor
        await room.hub.publish("3", type="t")
    async with room.hub.subscribe(Exact(type="t"), since=cursor) as notifications:
        assert (await anext(notifications)).data == "3"
    with pytest.raises(StopAsyncIteration):
        await anext(notifications)
    with pytest.raises(ValueError, match="can't resume at nope:1"):
        room.hub.subscribe(since="nope:1")
    with pytest.raises(TypeError, match="is not a predicate or a callable"):
        room.hub.subscribe("t")  # type: ignore[arg-type] # a mistake on purpose


async def test_a_subscription_that_is_too_slow_is_told(autojump_clock: trio.testing.MockClock) -> None:
    """`Lagged` names the gap; then it goes on at the head."""
    async with (
        open_room(max_log_entries=3) as room,
        room.hub.subscribe(Exact(type="t")) as notifications,
    ):
        for i in range(9):
            await room.hub.publish(f"{i}", type="t", confirm=True)
        with pytest.raises(Lagged, match="are no longer in the log") as caught:
            await anext(notifications)
        assert (caught.value.after, caught.value.upto) == (
            f"{room.hub.log.epoch}:0",
            f"{room.hub.log.epoch}:9",
        )
        await room.hub.publish("new", type="t")
        assert (await anext(notifications)).data == "new"


async def test_a_subscriptions_predicate_that_raises(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """The iteration raises it; the hub goes on."""
    async with room.hub.subscribe(lambda notification: 1 / 0) as notifications:
        await room.hub.publish("x", confirm=True)
        with pytest.raises(ZeroDivisionError):
            await anext(notifications)
    async with room.hub.subscribe(lambda notification: True) as notifications:
        await room.hub.publish("y")
        assert (await anext(notifications)).data == "y"
    # Not even this one is taken for the end of the subscription.
    sender, _ = trio.open_memory_channel[None](1)
    sender.close()
    async with room.hub.subscribe(lambda notification: sender.send_nowait(None)) as notifications:
        await room.hub.publish("z")
        with pytest.raises(trio.ClosedResourceError):
            await anext(notifications)


async def test_publishing_a_record(room: Room, autojump_clock: trio.testing.MockClock) -> None:
    """As it is; attributes beside it are refused."""
    peer = await room.connect("/?id=al&exact.type=t")
    await room.hub.publish(Notification("x", type="t", extensions={"to": "al"}), confirm=True)
    assert peer.look().messages == ["x"]
    with pytest.raises(TypeError, match="published as it is"):
        await room.hub.publish(Notification("x"), type="t")


async def test_bad_attributes_are_refused_at_once(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """Nothing of it goes further."""
    with pytest.raises(ValueError, match="type: must not be empty"):
        await room.hub.publish("x", type="")
    with pytest.raises(
        ValueError, match="attribute name 'Bad': must consist of lower-case letters a to z and digits"
    ):
        await room.hub.publish("x", Bad="x")
    assert room.hub.log.head == 0


async def test_a_closed_hub_refuses(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing hangs on a hub that is gone."""
    async with open_hub() as hub:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await hub.publish("x")
    with pytest.raises(trio.ClosedResourceError):
        await hub.publish("x", confirm=True)


async def test_who_waits_for_a_receipt_learns_of_the_end(autojump_clock: trio.testing.MockClock) -> None:
    """A hub that is cancelled before the broadcast doesn't let publishers wait for ever."""
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with open_hub() as hub:
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()

                @nursery.start_soon
                async def publish() -> None:
                    with trio.CancelScope(shield=True), pytest.raises(trio.ClosedResourceError):
                        await hub.publish("x", confirm=True)

                await trio.lowlevel.checkpoint()


async def test_leaving_the_hub_broadcasts_what_was_published(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The channel is emptied into the log before the end."""
    async with open_hub() as hub:
        await trio.testing.wait_all_tasks_blocked()
        for i in range(3):
            await hub.publish(f"{i}")
    assert hub.log.head == 3


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"max_log_entrys": 5},
            TypeError,
            r"max_log_entrys: unknown option; did you mean 'max_log_entries'\?",
        ),
        ({"ping_interval": 0}, ValueError, "ping_interval: must be greater than 0"),
        ({"max_connections": "5"}, TypeError, "max_connections: must be a number"),
        (
            {"max_log_age": "1x"},
            ValueError,
            "max_log_age: must be a duration in seconds, like 90, or a text like 15m or 1h30m, not '1x'",
        ),
        (
            {"max_log_age": None},
            TypeError,
            "max_log_age: must be a number of seconds or a text like '15m'",
        ),
        (
            {"store": "mysql://x"},
            ValueError,
            "store: must be 'memory:', 'sqlite:PATH' or 'redis://HOST'",
        ),
        (
            {"session": print, "handler": print},
            TypeError,
            "session: must not be combined with handler, which is its short form",
        ),
    ],
)
async def test_bad_options_are_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """By name, with the nearest known one."""
    with pytest.raises(error, match=words):
        async with open_hub(**options):
            raise AssertionError("it opened")


async def test_latest_sends_only_the_newest_of_each_kind(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """While behind: one per (source, subject), in log order; live, everything."""
    peer = await room.connect("/?lag=latest")
    await room.hub.publish("live 1", subject="a", confirm=True)
    await room.hub.publish("live 2", subject="a", confirm=True)
    peer.kernel.stall()
    for i in range(2000):
        await room.hub.publish(f"{i}", subject=f"s{i % 3}", confirm=True)
    peer.kernel.grant(3 + 4)  # the frame of "0", which was begun, and a part of the next
    await room.quiet()
    await room.hub.publish("one more", subject="s1", confirm=True)
    peer.kernel.credit = None
    peer.kernel.grant(None)
    await room.quiet()
    await room.hub.publish("live 3", subject="s1", confirm=True)
    await room.hub.publish("live 4", subject="s1", confirm=True)
    assert peer.look().messages == [
        *("live 1", "live 2", "0", "1997", "1998", "one more", "live 3", "live 4")
    ]


@pytest.mark.parametrize("format", ["raw", "cloudevents"])
async def test_latest_goes_on_with_what_the_log_still_has(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    """One that fell off it is thinned out, not closed; who can be told is told where the gap ends."""
    async with open_room(max_log_entries=50) as room:
        peer = await room.connect(f"/?lag=latest&format={format}")
        peer.kernel.stall()
        for i in range(400):
            await room.hub.publish(f"{i}", subject=f"s{i % 3}", confirm=True)
        peer.kernel.credit = None
        peer.kernel.grant(None)
        await room.quiet()
        await room.hub.publish("live", confirm=True)
        peer.look()
        if format == "raw":
            assert peer.messages == ["0", "397", "398", "399", "live"]
        else:
            _, first, gap, *rest = map(json.loads, peer.messages)
            epoch = room.hub.log.epoch
            assert (first["data"], gap["type"]) == ("0", "trionotify.gap")
            assert gap["data"] == {"from": f"{epoch}:1", "to": f"{epoch}:350"}
            assert [event["data"] for event in rest] == ["397", "398", "399", "live"]
        assert peer.close is None
        assert room.hub.statistics().gaps == 1


async def test_statistics(room: Room, autojump_clock: trio.testing.MockClock) -> None:
    """A frozen record of what the hub holds."""
    await room.connect()
    slow = await room.connect()
    slow.kernel.stall()
    await room.hub.publish("x", type="t", source="s", confirm=True)
    found = room.hub.statistics()
    (entry,) = room.hub.log.read(0, 9)
    assert (found.clients, found.behind, found.log_entries) == (2, 1, 1)
    assert found.log_bytes == entry.size
    assert found.head == f"{room.hub.log.epoch}:1"


async def test_a_client_that_falls_off_the_log_is_told_that_it_is_slow(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """1013 `slow`, behind the frame that was cut; nothing is lost silently."""
    async with open_room(max_log_entries=5) as room:
        peer = await room.connect(kernel=FakeKernel())
        peer.kernel.stall()
        peer.kernel.grant(3)
        for i in range(20):
            await room.hub.publish(f"number {i}", confirm=True)
        peer.kernel.grant(1000)
        await room.quiet()
        assert peer.look().messages == ["number 0"]
        assert peer.close == (1013, "slow")


async def test_a_subscription_ends_with_the_hub(autojump_clock: trio.testing.MockClock) -> None:
    """When it has given out what there was; also one whose block has ended."""
    received: list[Any] = []

    async def listen(hub: Hub, task_status: Any) -> None:
        async with hub.subscribe() as notifications:
            task_status.started()
            async for notification in notifications:
                received.append(notification.data)
                await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        async with open_hub() as hub:
            await nursery.start(listen, hub)
            for data in ("a", "b", "c"):
                await hub.publish(data)
    assert received == ["a", "b", "c"]


async def test_the_cursor_of_a_subscription_that_was_left(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """Is where it stood, though nothing of late was for it."""
    async with room.hub.subscribe(Exact(type="t")) as notifications:
        for _ in range(5):
            await room.hub.publish("x", confirm=True)
    assert notifications.cursor == f"{room.hub.log.epoch}:5"


async def test_the_broadcast_gives_way(
    room: Room, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others run while it hands out, and see that some clients have it already, and some don't yet."""
    monkeypatch.setattr(broadcast_module, "TURN", 2)
    monkeypatch.setattr(turns_module, "SECONDS", 0.0)
    peers = [await room.connect() for _ in range(6)]
    await room.hub.publish("x")
    seen = set()
    while len(peers) not in seen:
        await trio.lowlevel.checkpoint()
        seen.add(sum(bool(peer.look().messages) for peer in peers))
    assert seen & {2, 4}


async def test_a_subscription_gets_what_stands_before_the_error_of_its_predicate(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """Live or behind; then the error, once, and what stands behind it."""

    def picky(notification: Notification) -> bool:
        if notification.data == "bad":
            raise ZeroDivisionError
        return True

    start = f"{room.hub.log.epoch}:0"
    for since in (None, start):
        async with room.hub.subscribe(picky, since=since) as notifications:
            if since is None:
                for data in ("a", "b", "bad", "c"):
                    await room.hub.publish(data)
            assert [(await anext(notifications)).data for _ in range(2)] == ["a", "b"]
            with pytest.raises(ZeroDivisionError):
                await anext(notifications)
            assert (await anext(notifications)).data == "c"


async def test_callables_count_by_identity(room: Room, autojump_clock: trio.testing.MockClock) -> None:
    """Whatever their hash and their equality say, and whenever they change their mind."""
    await room.connect("/?id=a")
    await room.connect("/?id=b")
    odd = [Odd(), Odd()]
    for client, predicate in zip(room.hub.clients, odd, strict=True):
        client.subscribe(predicate)
        client.subscribe(predicate)
        assert client.predicates == (predicate,)
    odd[0].value = 2
    assert await room.hub.publish("x", confirm=True)
    for client, predicate in zip(room.hub.clients, odd, strict=True):
        client.unsubscribe(predicate)
        assert client.predicates == ()


async def test_an_audience_of_a_class_of_ones_own_may_raise(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """Its publisher hears of it, as of any callable."""

    class Broken(Predicate):
        def __call__(self, subject: Any) -> bool:
            raise ValueError("mine")

    await room.connect("/")
    with pytest.raises(ValueError, match="mine"):
        await room.hub.publish("x", audience=Broken())


async def test_publishing_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """`client.publish()` without messages does nothing, however often."""

    async def session(client: Client) -> None:
        for _ in range(100):
            await client.publish()
        await client.publish("x")

    async with open_room(session=session, max_waiting=10) as room:
        await room.connect("/?role=publisher")
        await room.quiet()
        assert room.hub.log.head == 1


def test_a_client_can_not_be_changed_behind_the_registrys_back() -> None:
    """Neither its parameters."""
    params = {"team": "ops"}
    client = Client("al", params)
    params["team"] = "web"
    assert client.params["team"] == "ops"
    with pytest.raises(TypeError):
        client.params["team"] = "web"  # type: ignore[index] # a mistake on purpose


async def test_an_index_that_is_asked_for_stays(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """Names that are in no query don't crowd it out. A dropped one is made again."""
    await room.connect("/?id=alice&team=ops&n3=x")
    for number in range(40):
        for audience, wanted in ((Exact(team="ops"), 1), (Exact({f"n{number}": "x"}), number == 3)):
            receipt = await room.hub.publish("x", audience=audience, confirm=True)
            assert receipt.wanted == wanted
        indexed = room.hub.clients._by_param
        assert "team" in indexed
        assert len(indexed) <= room.hub.clients.MAX_INDEXED
    await room.connect("/?id=bob&n3=x")
    assert (await room.hub.publish("x", audience=Exact(n3="x"), confirm=True)).wanted == 2


async def test_an_audience_of_many_parameters_makes_no_index(
    room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """All clients are looked at once, and what other audiences are found by stays."""
    await room.connect("/?id=alice&team=ops&k7=v")
    await room.connect("/?id=bob&team=web")
    await room.hub.publish("x", audience=Exact(team="ops"))
    many = AnyOf([Exact({f"k{number}": "v"}) for number in range(50)])
    for audience, wanted in (
        (many, 1),
        (AllOf([many, Exact(team="web")]), 0),
        (AllOf([many, Exact(team="ops")]), 1),
        (AnyOf([many, Exact(id="bob")]), 2),
        (AnyOf([many, Exact(role="subscriber")]), 2),
        (AnyOf([Exact(team="ops"), Exact(id="bob"), Exact(team="web")]), 2),
    ):
        receipt = await room.hub.publish("x", audience=audience, confirm=True)
        assert receipt.wanted == wanted
    assert list(room.hub.clients._by_param) == ["team"]


async def test_the_sweep_lets_others_run(autojump_clock: trio.testing.MockClock) -> None:
    """Between some hundred connections; one that left meanwhile isn't checked."""
    checked: list[int] = []
    begun = trio.Event()

    class Looked:
        def __init__(self, key: int) -> None:
            self.key = key

        def check(self, now: float) -> None:
            checked.append(self.key)
            begun.set()
            room.hub.connections.pop(999, None)

    async with open_room() as room:
        room.hub.connections |= {key: Looked(key) for key in range(1000)}  # type: ignore[misc] # fakes
        await begun.wait()
        seen = [len(checked)]
        while seen[-1] < 999:
            await trio.lowlevel.checkpoint()
            seen.append(len(checked))
        assert max(after - before for before, after in pairwise([0, *seen])) <= 2 * 256
        assert checked == [*range(999)]
        room.hub.connections.clear()


async def test_how_long_it_was_here(
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """That is no matter of the wall clock, which may be set meanwhile."""
    with caplog.at_level(logging.INFO, "trionotify"):
        async with open_room() as room:
            peer = await room.connect("/")
            await trio.sleep(5)
            monkeypatch.setattr(time, "time", lambda: 0.0)
            peer.say_close()
            await room.quiet()
    (record,) = [record for record in caplog.records if getattr(record, "event", "") == "left"]
    assert record.seconds == pytest.approx(5.0)  # type: ignore[attr-defined] # extra
    assert "left after 5.0 s" in record.message


async def test_publishing_without_waiting(room: Room, autojump_clock: trio.testing.MockClock) -> None:
    """In the order of the calls, among those that wait; for the same clients."""
    al, bo = await room.connect("/?id=al"), await room.connect("/?id=bo")
    room.hub.publish_nowait("1", to="al")
    room.hub.publish_nowait(Notification("2"))
    room.hub.publish_nowait(json=[3])
    assert al.look().messages == []
    await room.hub.publish("4")
    await room.quiet()
    assert al.look().messages == ["1", "2", "[3]", "4"]
    assert bo.look().messages == ["2", "[3]", "4"]


async def test_publishing_without_waiting_in_another_thread(room: Room) -> None:
    """It is refused before anything changes, and the error says how to do it."""
    async with room.hub.subscribe() as notifications:
        with pytest.raises(RuntimeError, match=r"write trio.from_thread.run_sync\(hub.publish_nowait"):
            await trio.to_thread.run_sync(room.hub.publish_nowait, "x")
        await trio.to_thread.run_sync(trio.from_thread.run_sync, room.hub.publish_nowait, "y")
        assert (await anext(notifications)).data == "y"


async def test_publishing_without_waiting_into_a_full_channel(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It isn't published then, nor when the hub is closed."""
    async with open_room(max_waiting=1) as room:
        peer = await room.connect("/")
        room.hub.publish_nowait("1")
        with pytest.raises(trio.WouldBlock):
            room.hub.publish_nowait("2")
        await room.quiet()
        room.hub.publish_nowait("3")
        await room.quiet()
        assert peer.look().messages == ["1", "3"]
    with pytest.raises(trio.ClosedResourceError):
        room.hub.publish_nowait("4")


@pytest.mark.parametrize(
    ("data", "attributes", "named"),
    [
        ({"a": 1}, {}, "data: must be str, bytes or None"),
        ("x", {"type": ""}, "type: must not be empty"),
        ("x", {"type": "trionotify.mine"}, "type: "),
        ("x", {"json": 1}, "json: "),
        (Notification("x"), {"to": "al"}, "published as it is"),
    ],
)
async def test_what_is_wrong_is_raised_without_waiting(
    room: Room, data: Any, attributes: dict[str, Any], named: str
) -> None:
    """The same as by `publish`, and nothing is in the channel."""
    with pytest.raises((TypeError, ValueError), match=named) as waiting:
        await room.hub.publish(data, **attributes)
    with pytest.raises((TypeError, ValueError), match=named) as without:
        room.hub.publish_nowait(data, **attributes)
    assert repr(waiting.value) == repr(without.value)
    assert room.hub.inbox.count == 0


async def test_a_failing_audience_without_waiting(
    room: Room, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """No publisher waits for the error, so it is logged. The other clients get the notification.

    The text of the error may have come from a client's query, so the log doesn't have it.
    """
    peers = [await room.connect("/?id=al"), await room.connect("/?id=bo")]

    def audience(client: Client) -> bool:
        if client.id == "al":
            raise KeyError("level")
        return True

    room.hub.publish_nowait("x", audience=audience)
    await room.quiet()
    assert [peer.look().messages for peer in peers] == [[], ["x"]]
    (record,) = [one for one in caplog.records if getattr(one, "event", "") == "audience_failed"]
    assert record.getMessage() == "an audience failed, and no publisher waited"
    assert caplog.text.rstrip().endswith("\nKeyError")
    assert "in test_a_failing_audience_without_waiting.<locals>.audience" in caplog.text
    assert record.levelno == logging.ERROR


async def test_publishing_json(room: Room, autojump_clock: trio.testing.MockClock) -> None:
    """A value in place of the data, and its type said."""
    async with room.hub.subscribe() as notifications:
        receipt = await room.hub.publish(json={"amount": 12.5, "to": "Zoë"}, type="paid", confirm=True)
        found = await anext(notifications)
    assert receipt.wanted == 0
    assert (found.data, found.type) == ('{"amount":12.5,"to":"Zoë"}', "paid")
    assert found.datacontenttype == "application/json"


@pytest.mark.parametrize("how", ["filter", "audience", "itself"])
async def test_a_callable_that_changes_a_filter_loses_nothing(
    room: Room, autojump_clock: trio.testing.MockClock, how: str
) -> None:
    """In the middle of a list of entries, a reader becomes live, and the rest is still for it."""
    peers = {name: await room.connect(f"/?id={name}") for name in ("al", "bo")}
    clients = {client.id: client for client in room.hub.clients}
    clients["bo"].subscribe(Exact(type="t"))

    def changes(_: object) -> bool:
        clients["bo"].subscribe(Exact(type="u"))
        return True

    def at_the_second(notification: Notification) -> bool:
        return notification.data != "2" or changes(notification)

    if how in {"filter", "itself"}:
        clients["al" if how == "filter" else "bo"].subscribe(at_the_second)
    audience = (lambda client: client.id == "bo" or changes(client)) if how == "audience" else None
    for data in "1234":
        room.hub.publish_nowait(data, type="t", audience=audience if data == "2" else None)
    await room.quiet()
    room.hub.publish_nowait("5", type="t")
    await room.quiet()
    assert peers["bo"].look().messages == list("12345")
    assert clients["bo"].position is not None
    assert clients["bo"].position.live


@pytest.mark.parametrize("params", [5, None, "team=ops", [1]])
def test_params_that_are_no_mapping(params: Any) -> None:
    """The error names them, and doesn't repeat what may be a secret."""
    kind = type(params).__name__
    with pytest.raises(TypeError, match=f"^params: must be a mapping of str to str, not {kind}$"):
        Client("al", params)
