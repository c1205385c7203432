"""CloudEvents over a connection: the server's own events, publishing, filters, and what is no event."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel, Peer, masked
from trionotify import Client, Exact, Notification, Prefix, Request
from trionotify.connection import base
from trionotify.connection.dialogue import MAX_BAD, understand
from trionotify.connection.formats import CloudEventsFormat
from trionotify.connection.frames import message_frame
from trionotify.delivery import turns
from trionotify.delivery.position import CHUNK_SIZE

Clock = trio.testing.MockClock

OFFER = "Sec-WebSocket-Protocol: mqtt, cloudevents.json"
EVENT: dict[str, Any] = {"specversion": "1.0", "source": "/s", "type": "t"}


def say(peer: Peer, *messages: Any) -> None:
    """Send messages in one go: events from mappings, others as they are."""
    frames = [message_frame(json.dumps(m) if isinstance(m, dict) else m) for m in messages]
    peer.kernel.feed(b"".join(map(masked, frames)))


def event(id: str, **members: Any) -> dict[str, Any]:
    return {**EVENT, "id": id, **members}


def heard(peer: Peer) -> list[dict[str, Any]]:
    """The events that came so far."""
    return [json.loads(message) for message in peer.look().messages]


def own(peer: Peer, kind: str) -> list[dict[str, Any]]:
    """The server's own ones of a kind, each with its cursor and its data."""
    found = []
    for got in heard(peer):
        if got["type"] == f"trionotify.{kind}":
            assert got["source"] == "/trionotify"
            assert got["specversion"] == "1.0"
            found.append(got)
    return found


async def join(room: Room, target: str = "/", *headers: str, **options: Any) -> Peer:
    return await room.connect(target, OFFER, *headers, **options)


async def test_the_subprotocol_is_agreed_on(room: Room, autojump_clock: Clock) -> None:
    """Ours among those offered; the client's record knows."""
    peer = await join(room, "/?id=al&format=raw")
    assert peer.header("Sec-WebSocket-Protocol") == "cloudevents.json"
    (client,) = room.hub.clients
    assert (client.subprotocol, client.format) == ("cloudevents.json", "cloudevents")
    peer = await room.connect("/?id=bo&format=cloudevents")
    assert peer.header("Sec-WebSocket-Protocol") is None
    (client,) = room.hub.clients.by_id("bo")
    assert (client.subprotocol, client.format) == (None, "cloudevents")
    await room.connect("/?id=cy")
    (client,) = room.hub.clients.by_id("cy")
    assert (client.subprotocol, client.format) == (None, "raw")


async def test_welcome_comes_first(room: Room, autojump_clock: Clock) -> None:
    """Where the stream starts, and whether the log has that place. If not, nothing is replayed."""
    epoch = room.hub.log.epoch
    for number in range(3):
        await room.hub.publish(f"{number}", confirm=True)
    welcomes = []
    for since in ("", f"&since={epoch}:1", "&since=other:1", f"&since={epoch}:9"):
        peer = await join(room, "/?id=a" + since)
        first, *rest = heard(peer)
        assert first["type"] == "trionotify.welcome"
        welcomes.append((first["cursor"], first["data"], [got["data"] for got in rest]))
    common = {"epoch": epoch, "head": 3, "id": "a", "role": "subscriber"}
    assert welcomes == [
        (f"{epoch}:3", common, []),
        (f"{epoch}:1", {**common, "recovered": True}, ["1", "2"]),
        (f"{epoch}:3", {**common, "recovered": False}, []),
        (f"{epoch}:3", {**common, "recovered": False}, []),
    ]
    assert peer.header("Trionotify-Recovered") == "false"


async def test_every_notification_has_its_cursor(room: Room, autojump_clock: Clock) -> None:
    """A client that resumes there gets everything after it. Raw or not, there is one log."""
    peer = await join(room)
    raw = await room.connect("/?id=al&role=publisher")
    say(raw, "one", b"\x00two")
    await room.quiet()
    await room.hub.publish('{"n": 3}', datacontenttype="application/json", n=5)
    await room.quiet()
    epoch = room.hub.log.epoch
    one, two, three = heard(peer)[1:]
    assert (one["data"], one["cursor"], one["source"]) == ("one", f"{epoch}:1", "/clients/al")
    assert (two["data_base64"], two["cursor"]) == ("AHR3bw==", f"{epoch}:2")
    assert (three["data"], three["cursor"], three["n"]) == ({"n": 3}, f"{epoch}:3", 5)
    again = await join(room, f"/?since={one['cursor']}")
    assert heard(again)[1:] == [two, three]


async def test_publishing_is_acknowledged(room: Room, autojump_clock: Clock) -> None:
    """With what became of each; raw subscribers get the data."""
    publisher = await join(room, "/?role=publisher")
    raw = await room.connect("/?exact.type=t")
    slow = await room.connect()
    slow.kernel.stall()
    say(publisher, event("1", data="x", datacontenttype="text/plain"), event("2", type="u", data=[1]))
    await room.quiet()
    epoch = room.hub.log.epoch
    assert raw.look().messages == ["x"]
    acks = own(publisher, "ack")
    assert [ack["data"] for ack in acks] == [
        {"source": "/s", "id": "1", "cursor": f"{epoch}:1", "wanted": 2, "written": 1, "behind": 1},
        {"source": "/s", "id": "2", "cursor": f"{epoch}:2", "wanted": 1, "written": 0, "behind": 1},
    ]
    assert not any("cursor" in ack for ack in acks)


async def test_what_an_event_does_not_say_the_query_says(room: Room, autojump_clock: Clock) -> None:
    """Above all its recipient, because a message to one client must not go to all."""
    bystander, al = await join(room, "/?id=bo"), await join(room, "/?id=al")
    query = "role=publisher&to=al&type=u&source=/q&subject=x&datacontenttype=text/plain"
    peer = await join(room, f"/?{query}")
    say(peer, {"specversion": "1.0", "id": "1", "data": "a"}, event("2", subject="y", to="bo"))
    await room.quiet()
    assert not own(peer, "error")
    _, found = heard(al)
    assert (found["type"], found["source"], found["subject"], found["data"]) == ("u", "/q", "x", "a")
    assert (found["to"], found["datacontenttype"]) == ("al", "text/plain")
    _, found = heard(bystander)
    assert (found["id"], found["type"], found["source"], found["subject"]) == ("2", "t", "/s", "y")


async def test_a_repetition_is_acknowledged_and_not_sent(room: Room, autojump_clock: Clock) -> None:
    """With the first one's cursor, also in one batch; another publisher's is another event."""
    reader = await room.connect()
    al, bo = await join(room, "/?id=al&role=publisher"), await join(room, "/?id=bo&role=publisher")
    texts = {"datacontenttype": "text/plain"}
    say(al, event("1", data="a", **texts), event("1", data="b", **texts), event("2", data="c", **texts))
    await room.quiet()
    say(al, event("2", data="d", **texts), event("2", source="/other", data="e", **texts))
    await room.quiet()
    say(bo, event("1", data="f", **texts))
    await room.quiet()
    assert reader.look().messages == ["a", "c", "e", "f"]
    epoch = room.hub.log.epoch
    cursors = [ack["data"]["cursor"] for ack in own(al, "ack")]
    assert cursors == [f"{epoch}:{offset}" for offset in (1, 1, 2, 2, 3)]
    assert own(al, "ack")[1]["data"]["wanted"] == 0


async def test_repetitions_are_known_as_long_as_the_log_is(autojump_clock: Clock) -> None:
    """Inside the process too; what the log has forgotten is new."""
    async with open_room(max_log_entries=2) as room:
        reader = await room.connect()
        for id in ("1", "2", "1", "3", "4", "1"):
            receipt = await room.hub.publish(id, id=id, confirm=True)
        await room.quiet()
        assert reader.look().messages == ["1", "2", "3", "4", "1"]
        assert receipt.cursor.endswith(":5")
        twice = Notification("x")  # its id was made up, so publishing it again is deliberate
        await room.hub.publish(twice)
        await room.hub.publish(twice, confirm=True)
        assert reader.look().messages[5:] == ["x", "x"]


async def test_audiences_on_the_wire(room: Room, autojump_clock: Clock) -> None:
    """`to` names one id, `audience` a condition; a replay honours them."""
    publisher = await join(room, "/?role=publisher")
    ops, dev = await room.connect("/?id=al&team=ops&Desk_No=3"), await room.connect("/?id=bo&team=dev")
    both = await join(room, "/?id=al&team=dev")
    texts = {"datacontenttype": "text/plain"}
    say(publisher, event("1", data="ops", audience='[{"exact":{"team":"ops"}}]', **texts))
    say(publisher, event("2", data="al", to="al", **texts))
    say(publisher, event("3", data="al at dev", to="al", audience='[{"exact":{"team":"dev"}}]', **texts))
    say(publisher, event("4", data="3", audience='[{"exact":{"Desk_No":"3"}}]', **texts))
    await room.quiet()
    assert ops.look().messages == ["ops", "al", "3"]
    assert dev.look().messages == []
    assert [got["data"] for got in heard(both)[1:]] == ["al", "al at dev"]
    assert "audience" not in heard(both)[-1]
    assert heard(both)[-1]["to"] == "al"
    late = await room.connect("/?id=cy&team=ops&since=start")
    assert late.look().messages == ["ops"]


async def test_filters_can_be_replaced(room: Room, autojump_clock: Clock) -> None:
    """The acknowledgement names the cursor behind which they hold; none wants everything."""
    peer = await join(room, "/?exact.type=a")
    for type in ("a", "b"):
        await room.hub.publish(type=type, confirm=True)
    filters: list[Any] = [{"sql": "type = 'b'"}]
    say(peer, event("s1", type="trionotify.subscribe", data={"filters": filters}))
    await room.quiet()
    for type in ("a", "b"):
        await room.hub.publish(type=type, confirm=True)
    say(peer, event("s2", type="trionotify.subscribe", data={"filters": []}))
    await room.quiet()
    await room.hub.publish(type="c", confirm=True)
    await room.quiet()
    epoch = room.hub.log.epoch
    assert [(got["type"], got["cursor"]) for got in heard(peer)[1:]] == [
        ("a", f"{epoch}:1"),
        ("trionotify.ack", f"{epoch}:2"),
        ("b", f"{epoch}:4"),
        ("trionotify.ack", f"{epoch}:4"),
        ("c", f"{epoch}:5"),
    ]
    assert [ack["data"] for ack in own(peer, "ack")] == [
        {"id": "s1", "filters": filters},
        {"id": "s2", "filters": []},
    ]


async def test_filters_with_a_place_to_start(room: Room, autojump_clock: Clock) -> None:
    """The stream goes on after that cursor if it can be resumed, else from the client's place."""
    epoch = room.hub.log.epoch
    for number in range(3):
        for type in ("a", "b"):
            await room.hub.publish(f"{number}", type=type, confirm=True)
    peer = await join(room, f"/?sql=FALSE&since={epoch}:1")
    for id, filter, since in (
        ("s1", {"exact": {"type": "b"}}, f"{epoch}:1"),
        ("s2", {"exact": {"type": "a"}}, f"{epoch}:4"),
        ("s3", {"exact": {"type": "c"}}, "another:1"),
    ):
        data = {"filters": [filter], "since": since}
        say(peer, event(id, type="trionotify.subscribe", data=data))
        await room.quiet()
    await room.hub.publish("now", type="c", confirm=True)
    await room.quiet()
    assert [(got["type"], got["cursor"]) for got in heard(peer)[1:]] == [
        ("trionotify.ack", f"{epoch}:1"),
        *(("b", f"{epoch}:{offset}") for offset in (2, 4, 6)),
        ("trionotify.ack", f"{epoch}:4"),
        ("a", f"{epoch}:5"),
        ("trionotify.ack", f"{epoch}:6"),
        ("c", f"{epoch}:7"),
    ]
    say(peer, event("s4", type="trionotify.subscribe", data={"filters": [], "since": "10m"}))
    await room.quiet()
    (wrong,) = own(peer, "error")
    assert wrong["data"]["detail"].startswith("since: cursor: must be EPOCH:OFFSET")


async def test_filters_never_widen_what_authenticate_allows(autojump_clock: Clock) -> None:
    """Whatever the query or a later subscription asks for."""

    def authenticate(request: Request) -> Client:
        client = Client("al")
        client.subscribe(Prefix(type="public."))
        return client

    async with open_room(authenticate=authenticate) as room:
        peer = await join(room, "/?exact.type=public.a")
        say(peer, event("s", type="trionotify.subscribe", data={"filters": []}))
        await room.quiet()
        for type in ("public.b", "secret.c"):
            await room.hub.publish(type=type, confirm=True)
        await room.quiet()
        assert [got["type"] for got in heard(peer)[2:]] == ["public.b"]


async def test_a_change_of_filter_while_behind(room: Room, autojump_clock: Clock) -> None:
    """The acknowledgement goes behind what is owed, and what comes later is of the new filter alone."""
    peer = await join(room, "/?exact.type=a")
    peer.kernel.credit = 20
    for number in range(3):
        await room.hub.publish(f"{number}", type="a", confirm=True)
        await room.hub.publish(f"{number}", type="b", confirm=True)
    say(peer, event("s", type="trionotify.subscribe", data={"filters": [{"exact": {"type": "b"}}]}))
    await room.quiet()
    peer.kernel.grant(None)
    peer.kernel.credit = None
    peer.kernel.grant(0)
    await room.quiet()
    shown = [(got["type"], got["cursor"].rpartition(":")[2]) for got in heard(peer)[1:]]
    assert shown == [("a", "1"), ("trionotify.ack", "1"), ("b", "2"), ("b", "4"), ("b", "6")]


@pytest.mark.parametrize(
    ("message", "words", "id"),
    [
        ("hello", "not valid JSON", None),
        (b"{}", "an event must be JSON in a text message", None),
        ({"specversion": "1.0", "id": "7"}, "source: missing", "7"),
        (
            event("7", type="trionotify.gap"),
            (
                "type: types that start with trionotify. are reserved, except"
                " trionotify.subscribe, trionotify.authenticate and trionotify.position"
            ),
            "7",
        ),
        (event("7", type="trionotify.subscribe"), "data: ", "7"),
        (event("7", type="trionotify.subscribe", data=[]), "data: ", "7"),
        (event("7", type="trionotify.subscribe", data={"filters": {}}), "data: ", "7"),
        (event("7", type="trionotify.subscribe", data_base64="AA=="), "data: ", "7"),
        (
            event("7", type="trionotify.subscribe", data={"filters": [{"sql": "type ="}]}),
            "filters[0].sql: line 1, column 7",
            "7",
        ),
        (
            event("7", type="trionotify.subscribe", data={"filters": [{"sql": "x" * 20_000}]}),
            "max_filter_bytes",
            "7",
        ),
    ],
)
async def test_what_is_no_event_is_answered(
    message: Any, words: str, id: str | None, room: Room, autojump_clock: Clock
) -> None:
    """By a problem document; the connection goes on, and so does what stands behind it."""
    await room.hub.publish(confirm=True)
    peer = await join(room, "/?role=both")
    say(peer, message, event("8", data=1))
    await room.quiet()
    (error,) = own(peer, "error")
    assert words in error["data"].pop("detail")
    expected = {"type": "about:blank", "title": "Bad Request", "status": 400}
    assert error["data"] == (expected if id is None else {**expected, "id": id})
    assert error["cursor"] == f"{room.hub.log.epoch}:1"
    assert [got["id"] for got in heard(peer) if got["source"] == "/s"] == ["8"]
    assert peer.close is None


async def test_too_many_in_a_row_that_are_no_events(room: Room, autojump_clock: Clock) -> None:
    """They end the connection with 1008. A good event resets the count."""
    peer = await join(room, "/?role=publisher")
    say(peer, *["x"] * (MAX_BAD - 1), event("1"), *["x"] * (MAX_BAD - 1))
    await room.quiet()
    assert peer.look().close is None
    say(peer, "x", event("2"))
    await room.quiet()
    assert peer.look().close == (1008, "20 messages in a row were not events")
    assert [ack["data"]["id"] for ack in own(peer, "ack")] == ["1"]


async def test_a_subscriber_may_not_publish_events(room: Room, autojump_clock: Clock) -> None:
    """Each is refused, and the stream goes on. (In the raw format, 1008.)"""
    peer = await join(room, "/?id=al")
    say(peer, event("1"), event("2"))
    await room.quiet()
    refusals = own(peer, "error")
    assert [(each["data"]["id"], each["data"]["status"]) for each in refusals] == [
        ("1", 403),
        ("2", 403),
    ]
    assert "role=publisher" in refusals[0]["data"]["detail"]
    await room.hub.publish("news", confirm=True)
    assert heard(peer)[-1]["data"] == "news"
    assert peer.close is None
    assert room.hub.log.head == 1


async def test_who_does_not_read_the_answers_is_not_read(room: Room, autojump_clock: Clock) -> None:
    """So that they don't pile up here."""
    peer = await join(room, "/?role=publisher")
    peer.kernel.stall()
    for number in range(10):
        say(peer, event(f"{number}"))
        await room.quiet()
    assert room.hub.log.head == 1
    peer.kernel.credit = None
    peer.kernel.grant(0)
    await room.quiet()
    assert room.hub.log.head == 10
    assert [ack["data"]["id"] for ack in own(peer, "ack")] == [f"{number}" for number in range(10)]


async def test_a_gap_is_told(autojump_clock: Clock) -> None:
    """A client that falls off the log is told what it lost, and goes on at the head."""
    async with open_room(max_log_entries=3) as room:
        peer = await join(room)
        peer.kernel.stall()
        for number in range(9):
            await room.hub.publish(f"{number}", confirm=True)
        peer.kernel.credit = None
        peer.kernel.grant(0)
        await room.quiet()
        await room.hub.publish("live", confirm=True)
        epoch = room.hub.log.epoch
        (gap,) = own(peer, "gap")
        assert gap["data"] == {"from": f"{epoch}:1", "to": f"{epoch}:9"}
        assert gap["cursor"] == f"{epoch}:9"
        assert [got.get("data") for got in heard(peer) if got["source"] == "/hub"] == ["0", "live"]


async def test_lag_may_disconnect_here_too(autojump_clock: Clock) -> None:
    """If the query says so."""
    async with open_room(max_log_entries=3) as room:
        peer = await join(room, "/?lag=disconnect")
        peer.kernel.stall()
        for number in range(9):
            await room.hub.publish(f"{number}", confirm=True)
        peer.kernel.credit = None
        peer.kernel.grant(0)
        await room.quiet()
        assert peer.look().close == (1013, "slow")


async def test_who_gets_nothing_learns_where_it_is(autojump_clock: Clock) -> None:
    """After 30 seconds in which the log moved without it, once; else it is left alone."""
    async with open_room(ping_interval=1e6) as room:
        peer = await join(room, "/?exact.type=a")
        raw = await room.connect("/?exact.type=a")
        await trio.sleep(100)
        assert own(peer, "position") == []
        await room.hub.publish(type="b", confirm=True)
        await trio.sleep(100)
        epoch = room.hub.log.epoch
        assert [got["cursor"] for got in own(peer, "position")] == [f"{epoch}:1"]
        await room.hub.publish(type="a", confirm=True)
        await trio.sleep(100)
        assert len(own(peer, "position")) == 1
        assert raw.look().messages == [""]


async def test_who_caught_up_with_nothing_learns_it_too(autojump_clock: Clock) -> None:
    """Its next resume need not begin so far back again."""
    async with open_room(ping_interval=1e6) as room:
        for _ in range(5):
            await room.hub.publish(type="b", confirm=True)
        peer = await join(room, "/?exact.type=a&since=start")
        await trio.sleep(100)
        assert [got["cursor"] for got in own(peer, "position")] == [f"{room.hub.log.epoch}:5"]


async def test_what_has_expired_is_not_replayed(room: Room, autojump_clock: Clock) -> None:
    """A notification past its `expirytime` is of no use to one who comes late."""
    live = await room.connect()
    await room.hub.publish("old", expirytime="2020-01-01T00:00:00Z")
    await room.hub.publish("new", expirytime="2999-01-01T00:00:00Z", confirm=True)
    late = await room.connect("/?since=start")
    assert live.look().messages == ["old", "new"]
    assert late.look().messages == ["new"]


@pytest.mark.parametrize(
    ("clients", "spread"), [(1, 1_000), (1_000, 1_000), (5_000, 5_000), (1_000_000, 60_000)]
)
def test_not_all_are_told_to_come_back_at_once(clients: int, spread: int) -> None:
    """But spread over as many milliseconds as there are clients, within bounds."""

    class Connection:
        format = CloudEventsFormat("e:{}".format)

        def here(self) -> str:
            return "e:7"

        def answer(self, message: str) -> None:
            told.append(json.loads(message)["data"]["retry_after_ms"])

    told: list[int] = []
    for _ in range(1000):
        base.Connection.announce_end(Connection(), clients)  # type: ignore[arg-type] # all that is needed
    assert min(told) >= 1500
    assert max(told) < 1500 + spread
    assert max(told) - min(told) > spread / 2


async def test_the_goodbye_says_when_to_come_back(autojump_clock: Clock) -> None:
    """Jittered, so that not all come at once; behind it, the Close."""
    async with open_room() as room:
        peers = [await join(room) for _ in range(20)]
    drains = [own(peer, "drain") for peer in peers]
    delays = [drain["data"]["retry_after_ms"] for (drain,) in drains]
    assert len(set(delays)) > 1
    assert all(1500 <= delay < 2500 for delay in delays)
    assert {peer.close for peer in peers} == {(1001, "")}


async def test_a_session_sees_data_and_answers_in_events(autojump_clock: Clock) -> None:
    """It need not know what its client speaks; if it wants to, whole notifications are there."""
    batches: list[Any] = []

    async def session(client: Client) -> None:
        async for message in client:
            await client.send(message)
            if message == "enough":
                break
        batches.extend(await client.receive_batch())
        await client.send(Notification("bye", type="goodbye"))

    async with open_room(session=session) as room:
        peer = await join(room)
        texts = {"datacontenttype": "text/plain"}
        say(peer, event("1", data="hello", **texts), event("2", data_base64="AA=="), event("3"))
        say(peer, event("4", data="enough", **texts))
        await room.quiet()
        say(peer, event("5", subject="x"))
        await room.quiet()
        acks = [each["data"] for each in own(peer, "ack")]
        assert acks == [{"source": "/s", "id": str(number)} for number in range(1, 6)]
        others = [got for got in heard(peer)[1:] if got["type"] != "trionotify.ack"]
        answers = [(got["type"], got.get("data", got.get("data_base64"))) for got in others]
        assert answers == [
            ("message", "hello"),
            ("message", "AA=="),
            ("message", ""),
            ("message", "enough"),
            ("goodbye", "bye"),
        ]
        assert all("cursor" not in got for got in heard(peer)[1:])
        assert [got.subject for got in batches] == ["x"]


async def test_a_raw_publisher_that_does_not_keep_its_word(room: Room, autojump_clock: Clock) -> None:
    """JSON that is none ends it with 1007; what came before it counts."""
    peer = await room.connect("/?role=publisher&datacontenttype=application/json")
    say(peer, "[1]", "[2", "[3]")
    await room.quiet()
    assert peer.look().close is not None
    assert peer.close[0] == 1007
    assert "not valid JSON" in peer.close[1]
    assert [entry.notification.data for entry in room.hub.log.read(0, 9)] == ["[1]"]


async def test_the_servers_types_are_its_own(room: Room, autojump_clock: Clock) -> None:
    """No client can publish an event that looks like the server's own."""
    with pytest.raises(ValueError, match="type: types that start with trionotify"):
        await room.hub.publish(type="trionotify.gap")
    with pytest.raises(ValueError, match="type: types that start with trionotify"):
        await room.hub.publish(Notification(type="trionotify.x"))


async def test_groups_share_frames_within_a_format(room: Room, autojump_clock: Clock) -> None:
    """One encoding for all clients of a format, whatever their number."""
    for _ in range(3):
        await join(room, "/?exact.type=t")
        await room.connect("/?exact.type=t")
    await room.hub.publish("x", type="t", confirm=True)
    (entry,) = room.hub.log.read(0, 1)
    assert len(entry._frames) == 2
    assert len(room.hub.broadcast.matcher._groups) == 2


async def test_a_burst_is_cut_between_frames(room: Room, autojump_clock: Clock) -> None:
    """Larger than one chunk, to a kernel that takes a little at a time: whole, in order, once."""
    kernel = FakeKernel(3000)
    kernel.drain = 3000
    peer = await join(room, kernel=kernel)
    size = CHUNK_SIZE // 10
    for number in range(30):
        await room.hub.publish(f"{number}".ljust(size, "."))
    await room.hub.publish("last", confirm=True)
    await room.quiet()
    assert [got["data"].rstrip(".") for got in heard(peer)[1:]] == [*map(str, range(30)), "last"]
    assert Exact(type="message")(Notification())


async def test_long_events_are_read_one_at_a_time(room: Room, autojump_clock: Clock) -> None:
    """So however many connections send them, the others have their turn; what is behind one waits."""
    long, short = (await join(room, "/?role=publisher"), await join(room, "/?role=publisher"))
    hub = room.hub
    async with hub.slow_lane.one_of("test"):
        say(long, event("1", data=[[]] * 10_000), event("2"))
        say(short, event("3"))
        await room.quiet()
        assert [got["data"]["id"] for got in own(short, "ack")] == ["3"]
        assert own(long, "ack") == []
    await room.quiet()
    assert [got["data"]["id"] for got in own(long, "ack")] == ["1", "2"]


async def test_a_long_event_may_wait_behind_the_end(room: Room, autojump_clock: Clock) -> None:
    """One whose connection ends while it waits is read no more, and its place is given back."""
    peer = await join(room, "/?role=publisher")
    async with room.hub.slow_lane.one_of("test"):
        say(peer, event("1", data=[[]] * 10_000))
        await room.quiet()
        for client in room.hub.clients:
            client.close()
        await room.quiet()
    peer.say_close()
    await room.quiet()
    assert room.hub.log.head == 0
    assert (room.hub.slow_lane.free, room.hub.arriving.held) == (1, 0)


async def test_a_raw_client_s_long_json_is_checked_one_at_a_time(
    room: Room, autojump_clock: Clock
) -> None:
    """As long events are."""
    target = "/?role=publisher&datacontenttype=application/json"
    long, short = (await room.connect(target), await room.connect(target))
    async with room.hub.slow_lane.one_of("test"):
        say(long, json.dumps([[]] * 20_000))
        say(short, "[]")
        await room.quiet()
        assert room.hub.log.head == 1
    await room.quiet()
    assert room.hub.log.head == 2


async def test_the_events_of_one_read_are_published_together(
    room: Room, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many turns it takes to understand them."""
    monkeypatch.setattr(turns, "SECONDS", 0.0)
    peer = await join(room, "/?role=publisher")
    say(peer, *[event(f"{number}") for number in range(50)])
    await room.quiet()
    assert [got["data"]["id"] for got in own(peer, "ack")] == [f"{number}" for number in range(50)]
    assert sum(room.hub.broadcast.counts.batches.counts) == 1


async def test_cancelled_while_the_events_of_one_read_are_understood(
    room: Room, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is found, or still to be understood."""
    monkeypatch.setattr(turns, "SECONDS", 0.0)
    await join(room)
    (connection,) = room.hub.connections.values()
    unread = deque(json.dumps(event(f"{number}")) for number in range(50))
    found: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(understand, connection, unread, found)
        while not found:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert 0 < len(found) < 50
    ids = [one.id for one in found] + [json.loads(text)["id"] for text in unread]
    assert ids == [f"{number}" for number in range(50)]


async def test_closed_while_the_events_of_one_read_are_understood(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session gets none of them."""
    monkeypatch.setattr(turns, "SECONDS", 0.0)
    batches: list[list[Any]] = []

    async def session(client: Client) -> None:
        batches.append(await client.receive_batch())

    async with open_room(session=session) as room:
        peer = await join(room, "/?role=publisher")
        (connection,) = room.hub.connections.values()
        say(peer, *[event(f"{number}") for number in range(50)])
        while not getattr(connection, "_found", None):
            await trio.lowlevel.checkpoint()
        connection.client.close()
        await room.quiet()
        assert batches == [[]]
        peer.say_close()
        await room.quiet()
