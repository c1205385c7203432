"""Clients over plain HTTP: Server-Sent Events and NDJSON, the same log as everyone's."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock as Clock

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel, upgrade
from tests.web import Web, blocks, get
from trionotify import Client
from trionotify.blocks import EventsFormat, RawEventsFormat
from trionotify.entries import Entry
from trionotify.notification import Notification

EVENTS = "Accept: text/event-stream"
LINES = "Accept: application/x-ndjson"


async def stream(
    room: Room, target: str = "/events", *fields: str, kernel: FakeKernel | None = None
) -> Web:
    """A client that has been answered."""
    web = Web(room, kernel)
    web.kernel.feed(get(target, *fields))
    await room.quiet()
    return web


def data(web: Web) -> list[str]:
    """Of the blocks that have come, what a browser dispatches."""
    return [block["data"] for block in blocks(web.stream()[1]) if "data" in block]


def lines(web: Web) -> list[dict[str, Any]]:
    return [json.loads(line) for line in web.stream()[1].splitlines() if line]


async def say(room: Room, *texts: str, **attributes: str) -> None:
    for text in texts:
        await room.hub.publish(text, confirm=True, **attributes)


@pytest.mark.parametrize("fields", [(), (EVENTS,), ("Accept: */*",), ("Accept: text/html, */*;q=0.1",)])
async def test_server_sent_events(fields: tuple[str, ...], room: Room, autojump_clock: Clock) -> None:
    """What is published, each with its cursor, and with its type where that isn't `message`."""
    web = await stream(room, "/events?id=a", *fields)
    await say(room, "one")
    await say(room, "two", type="disk.full")
    head, text = web.stream()
    epoch = room.hub.log.epoch
    assert head.headers["content-type"] == "text/event-stream"
    assert (head.headers["trionotify-id"], head.headers["trionotify-cursor"]) == ("a", f"{epoch}:0")
    assert (head.headers["cache-control"], head.headers["x-accel-buffering"]) == ("no-store", "no")
    first, *rest = blocks(text)
    assert (first["id"], first["retry"].isdigit()) == (f"{epoch}:0", True)
    assert rest == [
        {"id": f"{epoch}:1", "data": "one"},
        {"id": f"{epoch}:2", "event": "disk.full", "data": "two"},
    ]


async def test_events_in_blocks(room: Room, autojump_clock: Clock) -> None:
    """`format=cloudevents`: each is one line of JSON, the server's own too."""
    web = await stream(room, "/events?format=cloudevents&id=a", EVENTS)
    await room.hub.publish('{"a":\n1}', datacontenttype="application/json", confirm=True)
    welcome, event = (json.loads(text) for text in data(web))
    assert (welcome["type"], welcome["data"]["id"]) == ("trionotify.welcome", "a")
    assert (event["data"], event["cursor"]) == ({"a": 1}, f"{room.hub.log.epoch}:1")
    assert [block["id"] for block in blocks(web.stream()[1])] == [welcome["cursor"], event["cursor"]]


async def test_events_on_lines(room: Room, autojump_clock: Clock) -> None:
    """NDJSON: one event per line."""
    web = await stream(room, "/events?exact.type=a", LINES)
    await say(room, "no", type="b")
    await say(room, "yes", type="a")
    assert web.stream()[0].headers["content-type"] == "application/x-ndjson"
    assert [event["type"] for event in lines(web)] == ["trionotify.welcome", "a"]


@given(
    st.text(st.characters(exclude_categories=["Cs"])) | st.binary(), st.sampled_from(["raw", "events"])
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_said_comes_out(said: str | bytes, form: str) -> None:
    """As a browser hears it: line ends are line feeds, bytes are base64; in events, all as it was."""
    entry = Entry(Notification(said))
    encode = (RawEventsFormat("e") if form == "raw" else EventsFormat("e", blocks=True)).encode
    size, _, rest = encode(entry).partition(b"\r\n")
    assert int(size, 16) == len(rest) - 2
    (block,) = blocks(rest[:-2].decode())
    if form == "events":
        event = json.loads(block["data"])
        assert "data_base64" in event if isinstance(said, bytes) else event["data"] == said
    elif isinstance(said, str):
        assert block["data"] == said.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize("how", ["Last-Event-ID", "last_event_id", "since"])
async def test_resuming(how: str, room: Room, autojump_clock: Clock) -> None:
    """Behind the cursor, exactly once; the header wins over the query, which a browser can't change."""
    await say(room, "one", "two", "three")
    cursor = f"{room.hub.log.epoch}:1"
    if how == "Last-Event-ID":
        web = await stream(room, f"/events?since={room.hub.log.epoch}:3", f"Last-Event-ID: {cursor}")
    else:
        web = await stream(room, f"/events?{how}={cursor}")
    assert web.stream()[0].headers["trionotify-recovered"] == "true"
    assert data(web) == ["two", "three"]


async def test_what_cannot_be_resumed(room: Room, autojump_clock: Clock) -> None:
    """410 for raw data; events say so in the welcome."""
    web = Web(room)
    assert (await web.ask(get("/events", "Last-Event-ID: other:1"))).status == 410
    web = await stream(room, "/events", LINES, "Last-Event-ID: other:1")
    assert lines(web)[0]["data"]["recovered"] is False


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (get("/events", "Accept: text/html"), 406, "Accept"),
        (get("/events", "Accept: text/event-stream;q=0"), 406, "Accept"),
        (get("/events?role=publisher"), 400, "role: a publisher receives nothing"),
        (get("/events?format=raw", LINES), 400, "format: NDJSON has events only"),
        (get("/events?lag=gap"), 400, "lag: the raw format can't tell"),
        (get("/events?exact.A=b"), 400, "exact.A"),
        (b"GET /events HTTP/1.0\r\n\r\n", 505, "HTTP/1.1"),
    ],
)
async def test_what_is_refused(
    request_: bytes, status: int, words: str, room: Room, autojump_clock: Clock
) -> None:
    """Before anything is sent, with the reason."""
    answer = await Web(room).ask(request_)
    assert answer.status == status
    assert words in answer.json["detail"]


async def test_who_is_slow_catches_up(room: Room, autojump_clock: Clock) -> None:
    """A stream that is cut goes on in the middle of its chunk, from the log."""
    kernel = FakeKernel()
    web = await stream(room, kernel=kernel)
    kernel.stall()
    await say(room, *(f"{n} {'.' * 300}" for n in range(50)))
    kernel.grant(20)
    await room.quiet()
    kernel.credit = None
    kernel.grant(None)
    await room.quiet()
    assert [text.split()[0] for text in data(web)] == [str(n) for n in range(50)]


async def test_signs_of_life(autojump_clock: Clock) -> None:
    """A comment, or an empty line, when it is quiet; and where the stream is, when the log moves on."""
    async with open_room(ping_interval=5, position_interval=20) as room:
        raw, events = await stream(room, "/events?exact.type=a"), await stream(room, "/events", LINES)
        await say(room, "no", type="b")
        await trio.sleep(30)
        text = raw.stream()[1]
        assert text.count(":\n\n") == pytest.approx(5, abs=1)
        assert blocks(text)[-1] == {"id": f"{room.hub.log.epoch}:1"}
        assert events.stream()[1].splitlines().count("") == pytest.approx(5, abs=1)
        assert not raw.kernel.closed


async def test_the_end_of_a_drain(room: Room, autojump_clock: Clock) -> None:
    """When to come back, the last chunk, and the connection is closed in good order."""
    raw, events = await stream(room), await stream(room, "/events", LINES)
    room.nursery.start_soon(room.hub.drain, 60)
    await room.quiet()
    for web in (raw, events):
        assert web.kernel.taken.endswith(b"\r\n0\r\n\r\n")
        assert web.kernel.eof_sent
        web.kernel.hang_up()
    await room.quiet()
    assert int(blocks(raw.stream()[1])[-1]["retry"]) >= 500
    assert lines(events)[-1]["type"] == "trionotify.drain"
    assert room.hub.broadcast.counts.closed == {1012: 2}


async def test_the_peer_leaves(room: Room, autojump_clock: Clock) -> None:
    """Its place is free at once; what it says meanwhile is nobody's request."""
    web = await stream(room)
    web.kernel.feed(get("/clients"))
    await room.quiet()
    assert len(room.hub.clients) == 1
    web.kernel.hang_up()
    await room.quiet()
    assert len(room.hub.clients) == 0
    assert web.kernel.closed


async def test_an_application_speaks_to_one(autojump_clock: Clock) -> None:
    """`client.send` is a block without a cursor; `client.close` ends the stream."""

    async def session(client: Client) -> None:
        await client.send("for you")
        await client.send(b"\0")
        client.close(4403, "enough")

    async with open_room(session=session) as room:
        web = await stream(room)
        assert blocks(web.stream()[1])[1:] == [{"data": "for you"}, {"data": "AA=="}]
        assert web.kernel.taken.endswith(b"0\r\n\r\n")
        web.kernel.hang_up()


async def test_all_kinds_of_clients_share_a_hub(room: Room, autojump_clock: Clock) -> None:
    """One publisher on a WebSocket; everyone has everything, in order."""
    raw, events = await stream(room), await stream(room, "/events", LINES)
    socket = await room.connect("/")
    await say(room, *map(str, range(20)))
    expected = [str(n) for n in range(20)]
    assert data(raw) == [event["data"] for event in lines(events)[1:]] == expected
    assert socket.look().messages == expected
    roster = (await Web(room).ask(get("/clients"))).json
    assert [client["transport"] for client in roster["clients"]] == ["sse", "ndjson", "websocket"]


# --- origins ---


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://test", "test", True),
        ("https://TEST:443", "test", True),
        ("http://test:8080", "test:8080", True),
        ("http://test:8080", "test", False),
        ("http://other", "test", False),
        ("null", "test", False),
        ("https://app.example.org", "test", True),
        ("https://example.org", "test", False),
        ("https://evilexample.org", "test", False),
        ("http://app.example.org", "test", False),
        ("https://exact.net", "test", True),
        ("https://exact.net.evil", "test", False),
    ],
)
async def test_whose_pages_may(origin: str, host: str, allowed: bool, autojump_clock: Clock) -> None:
    """Those of the same host, and those that are named; for all that a page can do."""
    allow = ["https://*.example.org", "https://exact.net"]
    fields = (f"Origin: {origin}",)
    async with open_room(allow_origin=allow) as room:
        for request in (get("/livez", *fields), get("/events", EVENTS, *fields), upgrade("/", *fields)):
            web = Web(room)
            web.kernel.feed(request.replace(b"Host: test", f"Host: {host}".encode()))
            await room.quiet()
            head = bytes(web.kernel.taken).partition(b"\r\n\r\n")[0].decode()
            assert (" 403 " in head.splitlines()[0]) is not allowed
            if not request.startswith(b"GET /livez"):
                continue
            assert (f"Access-Control-Allow-Origin: {origin}" in head) is allowed
            assert "Vary: Origin" in head


async def test_a_question_before_a_request(room: Room, autojump_clock: Clock) -> None:
    """A preflight is answered, with the fields that an event in binary mode has."""
    fields = ("Origin: http://test", "Access-Control-Request-Headers: ce-id, x-mine")
    answer = await Web(room).ask(get("/events", *fields, method="OPTIONS"))
    assert answer.status == 204
    allowed = answer.headers["access-control-allow-headers"]
    assert "ce-id" in allowed
    assert "x-mine" not in allowed
    assert "POST" in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize(
    "origin", ["example.org", "https://example.org/path", "", "https://a, https://b"]
)
async def test_what_is_no_origin(origin: str) -> None:
    """Said before anything listens."""
    with pytest.raises(ValueError, match="allow_origin"):
        async with open_room(allow_origin=[origin]):
            raise AssertionError("it opened")
