"""`POST /events`: four ways to say what is published, and the receipts."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock as Clock

from tests.conftest import Room, open_room
from tests.web import Answered, Web, get, post
from trionotify import Client, Exact, Notification, Refused, Request, sign
from trionotify.model import jsontext
from trionotify.model.jsontext import TooLong, TooMany, cut_items

STRUCTURED = "Content-Type: application/cloudevents+json"
BATCH = "Content-Type: application/cloudevents-batch+json; charset=utf-8"
BINARY = ("ce-specversion: 1.0", "ce-id: 1", "ce-source: /shop", "ce-type: order.paid")
EVENT = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid", "data": {"n": 1}}
#: Long enough to be read one at a time, if its audience isn't known.
SUBSCRIBING = {**EVENT, "type": "trionotify.subscribe", "data": "x" * 300, "audience": []}


def published(room: Room) -> list[Notification]:
    return [entry.notification for entry in room.hub.log.read(0, 100)]


async def send(room: Room, target: str, body: str | bytes, *fields: str) -> Answered:
    return await Web(room).ask(post(target, body, *fields), "POST")


async def refused(room: Room, target: str, body: str | bytes, *fields: str) -> tuple[int, str]:
    """The status and the reason; nothing was published."""
    before = room.hub.log.head
    answer = await send(room, target, body, *fields)
    assert answer.headers["content-type"] == "application/problem+json"
    assert room.hub.log.head == before
    return answer.status, answer.json["detail"]


async def test_what_an_event_does_not_say_the_query_says(room: Room, autojump_clock: Clock) -> None:
    """In every mode; what it says itself counts."""
    target = "/events?to=alice&type=u&subject=x&source=/q"
    bare = {"specversion": "1.0", "id": "1"}
    await send(room, target, json.dumps(bare), STRUCTURED)
    await send(room, target, json.dumps([{**EVENT, "to": "bob"}]), BATCH)
    await send(room, target, "", "ce-specversion: 1.0", "ce-id: 3", "ce-subject: y")
    found = [(one.to, one.type, one.source, one.subject) for one in published(room)]
    assert found == [
        ("alice", "u", "/q", "x"),
        ("bob", "order.paid", "/shop", "x"),
        ("alice", "u", "/q", "y"),
    ]


async def test_a_plain_body(room: Room, autojump_clock: Clock) -> None:
    """Is the data; its attributes are in the query, and what it is in the Content-Type."""
    target = "/events?id=ops&type=disk.full&subject=/dev/sda&to=alice"
    answer = await send(room, target, "{}", "Content-Type: application/json")
    cursor = f"{room.hub.log.epoch}:1"
    assert answer.json == {"cursor": cursor, "wanted": 0, "written": 0, "behind": 0}
    (found,) = published(room)
    assert (found.data, found.type, found.subject, found.to) == ("{}", "disk.full", "/dev/sda", "alice")
    assert (found.source, found.datacontenttype) == ("/clients/ops", "application/json")


@pytest.mark.parametrize(
    ("field", "body", "data", "kind"),
    [
        (None, "grüße".encode(), "grüße", "text/plain"),
        (None, b"\xff\x00", b"\xff\x00", "application/octet-stream"),
        (
            "application/x-www-form-urlencoded",
            b"what curl says of all",
            "what curl says of all",
            "text/plain",
        ),
        ("text/csv; charset=UTF-8", b"a,b", "a,b", "text/csv; charset=UTF-8"),
        ('Text/Plain; Format=flowed; CharSet = "UTF-8"', b"a", "a", None),
        ("text/plain; charset=utf8", b"a", "a", None),
        ("text/plain; charset=x-unicode20utf8", b"a", "a", None),
        ("text/plain; charset=ascii", b"a", "a", None),
        ('text/plain; x="a; charset=latin-1"; charset="utf\\8"', b"a", "a", None),
        ("image/png; charset=latin-1", b"\x89PNG", b"\x89PNG", None),
        ("application/json", b'\xef\xbb\xbf{"a":1}', '{"a":1}', None),
        ("text/plain", b"\xef\xbb\xbfa", "\ufeffa", None),
        ("image/png", b"\xef\xbb\xbfa", b"\xef\xbb\xbfa", None),
        ("image/png", b"\x89PNG", b"\x89PNG", "image/png"),
        ("application/atom+xml", b"<a/>", "<a/>", "application/atom+xml"),
        ("Application/XML; charset=utf-8", b"<a/>", "<a/>", None),
        ("application/xml-dtd", b"<a/>", "<a/>", None),
        ("application/xml-external-parsed-entity", b"<a/>", "<a/>", None),
        ("application/xmlish", b"<a/>", b"<a/>", None),
        (None, b"", "", "text/plain"),
        ("", b"x", "x", "text/plain"),
    ],
)
async def test_what_a_plain_body_is(  # noqa: PLR0917 - what is sent, and what comes
    room: Room,
    field: str | None,
    body: bytes,
    data: str | bytes,
    kind: str | None,
    autojump_clock: Clock,
) -> None:
    """Text where its type says so, or says nothing and it is; the type is kept to the letter."""
    await send(room, "/events", body, *([] if field is None else [f"Content-Type: {field}"]))
    (found,) = published(room)
    assert (found.data, found.datacontenttype, found.source) == (data, kind or field, "/http")


async def test_the_content_type_counts_before_the_query(room: Room, autojump_clock: Clock) -> None:
    """Of a plain body, too."""
    fields = ("Content-Type: text/html",)
    assert (await send(room, "/events?datacontenttype=text/csv", b"a", *fields)).status == 200
    assert published(room)[0].datacontenttype == "text/html"


async def test_an_event_in_fields(room: Room, autojump_clock: Clock) -> None:
    """Binary mode: `ce-` fields, percent-decoded, are attributes; the body is the data."""
    fields = [
        *("ce-specversion: 1.0", "ce-id: 7", "CE-Source: /shop", "ce-type: order.paid"),
        *("ce-subject: %E2%82%AC%20%22x%22", 'ce-note: "quoted"', "ce-time: 2026-01-02T03:04:05Z"),
        *("ce-to: alice", 'ce-audience: [{"exact":{"team":"ops"}}]', "ce-cursor: mine:1"),
    ]
    await send(room, "/events", '{"n": 1}', "Content-Type: application/json", *fields)
    (found,) = published(room)
    assert (found.id, found.source, found.type, found.subject) == ("7", "/shop", "order.paid", '€ "x"')
    assert found.extensions == {"note": "quoted", "to": "alice"}
    assert found.audience is not None
    assert (found.data, found.time) == ('{"n": 1}', "2026-01-02T03:04:05Z")


@pytest.mark.parametrize(
    ("query", "field", "kind"),
    [
        ("?datacontenttype=application/json", None, "application/json"),
        ("?datacontenttype=application/json", "text/csv", "text/csv"),
        ("?datacontenttype=text/csv", "application/x-www-form-urlencoded", "text/csv"),
        ("", "application/x-www-form-urlencoded", "text/plain"),
        ("", "", "text/plain"),
    ],
)
async def test_what_the_data_of_an_event_in_fields_is(
    room: Room, autojump_clock: Clock, query: str, field: str | None, kind: str
) -> None:
    """The Content-Type says it or, if that says nothing, the query."""
    fields = [] if field is None else [f"Content-Type: {field}"]
    assert (await send(room, f"/events{query}", "{}", *BINARY, *fields)).status == 200
    (found,) = published(room)
    assert (found.data, found.datacontenttype) == ("{}", kind)


async def test_a_field_in_quotes(room: Room, autojump_clock: Clock) -> None:
    """A backslash takes what follows as it is."""
    await send(room, "/events", "", *BINARY, r'ce-subject: "\a\b\\\"%41"')
    assert published(room)[0].subject == r"ab\"A"


async def test_an_event_in_json(room: Room, autojump_clock: Clock) -> None:
    """Structured mode."""
    answer = await send(room, "/events", json.dumps(EVENT), STRUCTURED)
    assert answer.json["cursor"] == f"{room.hub.log.epoch}:1"
    (found,) = published(room)
    assert (found.id, found.data) == ("1", '{"n": 1}')


OPS = '[{"exact":{"team":"ops"}}]'
DEV = '[{"exact":{"team":"dev"}}]'


async def test_an_audience_in_the_query(room: Room, autojump_clock: Clock) -> None:
    """It holds for what has none of its own, in every mode; with `to`, both must hold."""
    peers = {
        name: await room.connect(f"/?id={name}&team={team}")
        for name, team in (("al", "ops"), ("bo", "ops"), ("cy", "dev"))
    }
    target = f"/events?audience={quote(OPS)}"
    bare = {"specversion": "1.0", "source": "/q", "type": "t"}

    async def heard(target: str, body: str, *fields: str) -> list[str]:
        seen = {name: len(peer.look().messages) for name, peer in peers.items()}
        answer = await send(room, target, body, *fields)
        assert answer.status == 200
        await room.quiet()
        return [name for name, peer in peers.items() if len(peer.look().messages) > seen[name]]

    assert await heard(target, "plain") == ["al", "bo"]
    assert await heard(f"{target}&to=bo", "plain") == ["bo"]
    assert await heard(f"{target}&to=cy", "plain") == []
    assert await heard(target, json.dumps({**bare, "id": "1"}), STRUCTURED) == ["al", "bo"]
    assert await heard(target, json.dumps({**bare, "id": "2", "to": "al"}), STRUCTURED) == ["al"]
    own = {**bare, "id": "3", "audience": DEV}
    assert await heard(target, json.dumps(own), STRUCTURED) == ["cy"]
    assert await heard(target, json.dumps([{**bare, "id": "4", "audience": None}]), BATCH) == [
        "al",
        "bo",
    ]
    assert await heard(target, "x", *BINARY) == ["al", "bo"]
    assert await heard(target, "x", *BINARY[:1], "ce-id: 5", *BINARY[2:], f"ce-audience: {DEV}") == [
        "cy"
    ]


async def test_a_long_audience_in_the_query_waits_its_turn(room: Room, autojump_clock: Clock) -> None:
    """It is parsed as other long filters are: one at a time."""
    parts = [{"sql": f"type = '{n}'"} for n in range(20)]
    web = Web(room)
    async with room.hub.slow_lane.one_of("test"):
        web.kernel.feed(post(f"/events?audience={quote(json.dumps(parts))}", "x"))
        await room.quiet()
        assert not web.kernel.taken
    await room.quiet()
    assert web.answers("POST")[0].status == 200


async def test_a_signed_audience(autojump_clock: Clock) -> None:
    """It is signed like the rest, so it can't be removed or replaced."""
    key = "0123456789abcdef0123456789abcdef"
    signed = sign({"id": "al", "role": "publisher", "team": "ops", "audience": OPS}, key)
    async with open_room(secret=key.encode()) as room:
        assert (await send(room, f"/events?{signed}", "x")).status == 200
        assert published(room)[0].audience == Exact(team="ops")
        for other in (
            signed.replace("ops%22%7D%7D", "dev%22%7D%7D"),
            re.sub("audience=[^&]*&", "", signed),
        ):
            assert other != signed
            assert (await refused(room, f"/events?{other}", "x"))[0] == 401


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("audience=ops", "audience: must be a JSON array of filters"),
        ("audience=[{}]", "audience: filters[0]: must be an object"),
        ("audiance=[]", "audiance: unknown key; did you mean 'audience'?"),
        ("To=al", "To: unknown key; did you mean 'to'?"),
        ("recipient=al", "recipient: unknown key; did you mean 'to'?"),
        ("topic=x", "topic: unknown key; to choose who receives it, write to=ID or audience="),
        ("room=5&id=al", "room: unknown key; to choose who receives it, write to=ID or audience="),
        ("typeof=x", "typeof: unknown key; did you mean 'type'?"),
        (
            "exact.team=ops",
            "exact.team: filters are for clients that subscribe; to choose who receives it",
        ),
        ("filters=[]", "filters: filters are for clients that subscribe; to choose"),
    ],
)
@pytest.mark.parametrize("fields", [(), BINARY], ids=["plain", "binary"])
async def test_a_key_that_means_nothing(
    room: Room, query: str, words: str, fields: tuple[str, ...], autojump_clock: Clock
) -> None:
    """It is refused: most likely it was to say who gets it, and it would go to everyone."""
    status, detail = await refused(room, f"/events?{query}", "x", *fields)
    assert status == 400
    assert detail.startswith(words)


async def test_an_applications_key_that_means_something(autojump_clock: Clock) -> None:
    """To `authenticate`; and of the client whose events these are."""
    async with open_room() as room:
        assert (await send(room, "/events?id=al&team=ops", json.dumps(EVENT), STRUCTURED)).status == 200
        assert (await refused(room, "/events?team=ops", json.dumps(EVENT), STRUCTURED))[0] == 400
    async with open_room(authenticate=lambda request: request.client("al")) as room:
        assert (await send(room, "/events?token=x&role=both", "x")).status == 200
        assert (await refused(room, "/events?recipient=x&role=both", "x"))[0] == 400


@pytest.mark.parametrize("kind", ["", "Content-Type: application/json"])
async def test_a_body_that_seems_to_be_addressed(room: Room, kind: str, autojump_clock: Clock) -> None:
    """It is published as it is, to everyone, and the receipt warns of that."""
    fields = [kind] if kind else []
    body = json.dumps({"to": "al", "text": "for al"})
    answer = await send(room, "/events", body, *fields)
    assert published(room)[0].data == body
    assert answer.json["warning"].startswith("published to everyone, because the member 'to'")
    assert "to=ID" in answer.json["warning"]
    long = json.dumps({"text": "x" * 300_000, "to": "al"})
    assert "warning" in (await send(room, "/events", long, *fields)).json
    audience = quote('[{"exact":{"id":"al"}}]')
    for target, text in (
        *(("/events?to=al", body), (f"/events?audience={audience}", body)),
        *(("/events", '{"a": {"to": "al"}}'), ("/events", '["to"]'), ("/events", '{"a": "\\"to\\""}')),
    ):
        assert "warning" not in (await send(room, target, text, *fields)).json
    assert "warning" not in (await send(room, "/events", '{"to": ')).json
    assert "warning" not in (await send(room, "/events", body, *BINARY)).json
    assert "warning" not in (await send(room, "/events", json.dumps(EVENT), STRUCTURED)).json


async def test_a_batch(room: Room, autojump_clock: Clock) -> None:
    """All of it, in order, with a receipt for each."""
    events = [{**EVENT, "id": str(n)} for n in range(3)]
    answer = await send(room, "/events", json.dumps(events), BATCH)
    assert [receipt["cursor"][-2:] for receipt in answer.json] == [":1", ":2", ":3"]
    assert [found.id for found in published(room)] == ["0", "1", "2"]


@pytest.mark.parametrize("charset", ["", "; charset=utf8", '; Charset="UTF-8"'])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
async def test_an_editors_mark_and_labels_of_utf_8(
    mark: bytes, charset: str, room: Room, autojump_clock: Clock
) -> None:
    """In front of events in JSON a byte order mark is ignored, and any label of UTF-8 will do."""
    for body, kind in ((EVENT, STRUCTURED), ([{**EVENT, "id": "2"}], BATCH.partition(";")[0])):
        answer = await send(room, "/events", mark + json.dumps(body).encode(), kind + charset)
        assert answer.status == 200
    assert [one.id for one in published(room)] == ["1", "2"]


async def test_a_batch_is_all_or_nothing(room: Room, autojump_clock: Clock) -> None:
    """One that won't do, and none is published; the reason says which."""
    events = [EVENT, {**EVENT, "id": ""}]
    status, detail = await refused(room, "/events", json.dumps(events), BATCH)
    assert (status, detail) == (400, "event 2: id: must not be empty")
    assert (await send(room, "/events", "[]", BATCH)).json == []


async def test_a_repetition(room: Room, autojump_clock: Clock) -> None:
    """Has the receipt's cursor of the first, for the same publisher; another's is another."""
    for target, offset in (("/events?id=a", 1), ("/events?id=a", 1), ("/events", 2)):
        answer = await send(room, target, json.dumps(EVENT), STRUCTURED)
        assert answer.json["cursor"].endswith(f":{offset}")
    answer = await send(room, "/events?id=b", json.dumps([EVENT, EVENT]), BATCH)
    assert [receipt["cursor"][-2:] for receipt in answer.json] == [":3", ":3"]


@pytest.mark.parametrize("remote", ["192.0.2.7:1", "[2001:db8::7]:1", "unix"])
async def test_strangers_repeat_nothing(room: Room, autojump_clock: Clock, remote: str) -> None:
    """Two programs without an `id` may use the same event `id`: neither loses what it publishes."""
    for data in ("A", "B"):
        event, web = {**EVENT, "data": data}, Web(room, remote=remote)
        await web.ask(post("/events", json.dumps(event), STRUCTURED), "POST")
    assert [one.data for one in published(room)] == ['"A"', '"B"']


async def test_repetitions_of_those_who_were_let_in(autojump_clock: Clock) -> None:
    """The bearer of the secret is one publisher, each signature another: none can pre-empt another's."""
    key = "0123456789abcdef0123456789abcdef"
    bearer = f"Authorization: Bearer {key}"
    first, second = (sign(f"role=publisher&team={n}", key) for n in "ab")
    async with open_room(secret=key.encode()) as room:
        cursors = []
        for query, fields in (
            *((first, ()), (second, ()), ("", (bearer,)), (first, ()), (second, ())),
            *(("", (bearer,)), (first, (bearer,)), ("id=secret", (bearer,))),
        ):
            answer = await send(room, f"/events?{query}", json.dumps(EVENT), STRUCTURED, *fields)
            cursors.append(answer.json["cursor"].rpartition(":")[2])
    assert cursors == ["1", "2", "3", "1", "2", "3", "3", "4"]


@pytest.mark.parametrize(
    ("id", "sources", "cursors"),
    [
        ("al", ["/clients/al"] * 2, [1, 1, 1]),
        (None, ["/http", "/clients/x"], [1, 2, 3]),
    ],
)
async def test_whom_an_application_names(
    id: str | None, sources: list[str], cursors: list[int], autojump_clock: Clock
) -> None:
    """That is the publisher's identity; otherwise it is the one in the query, if there is any."""
    async with open_room(authenticate=lambda request: request.client(id)) as room:
        found = []
        for target in ("/events", "/events", "/events?id=x"):
            answer = await send(room, target, json.dumps(EVENT), STRUCTURED)
            found.append(int(answer.json["cursor"].rpartition(":")[2]))
        assert found == cursors
        for target in ("/events", "/events?id=x"):
            assert (await send(room, target, "x")).status == 200
        assert [one.source for one in published(room)[-2:]] == sources


async def test_the_receipt_counts(room: Room, autojump_clock: Clock) -> None:
    """Clients that want it, on whatever they came by."""
    await room.connect("/?exact.type=order.paid")
    await room.connect("/?exact.type=other")
    answer = await send(room, "/events?type=order.paid", "x")
    assert (answer.json["wanted"], answer.json["written"], answer.json["behind"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("target", "body", "fields", "status", "words"),
    [
        ("/events?type=trionotify.x", "x", (), 400, "type: types that start with trionotify."),
        ("/events?id=a&id=b", "x", (), 400, "id: given twice; give it once"),
        ("/events?role=subscriber", "x", (), 403, "role: a subscriber may not publish"),
        (
            "/events",
            b"\xff",
            ("Content-Type: text/plain",),
            400,
            "body: must be UTF-8, because the Content-Type is text/plain: invalid start byte",
        ),
        (
            "/events",
            "x",
            ("Content-Type: text/plain; charset=latin-1",),
            415,
            "Content-Type: text must be UTF-8",
        ),
        (
            "/events",
            "x",
            ('Content-Type: text/plain; Charset="UTF-16"',),
            415,
            "Content-Type: text must be UTF-8",
        ),
        ("/events", "{}", (f"{STRUCTURED}; charset=utf-16",), 415, "Content-Type: text must be UTF-8"),
        ("/events", "[]", (f"{STRUCTURED}; charset=latin1",), 415, "Content-Type: text must be UTF-8"),
        ("/events", "[]", (BATCH.replace("utf-8", "cp1252"),), 415, "Content-Type: text must be UTF-8"),
        ("/events", "{", ("Content-Type: application/json",), 400, "not valid JSON"),
        (
            "/events",
            "<e/>",
            ("Content-Type: application/cloudevents+xml",),
            415,
            "Content-Type: application/cloudevents+xml is not supported",
        ),
        ("/events", "{", (STRUCTURED,), 400, "not valid JSON"),
        ("/events", "{}", (STRUCTURED,), 400, "specversion: missing"),
        ("/events", "{}", (BATCH,), 400, "must be a JSON array"),
        (
            "/events",
            json.dumps(SUBSCRIBING),
            (STRUCTURED,),
            400,
            "audience: must be a string that contains",
        ),
        (
            "/events",
            json.dumps([SUBSCRIBING]),
            (BATCH,),
            400,
            "audience: must be a string that contains",
        ),
        ("/events", "x", ("ce-specversion: 0.3",), 400, "ce-specversion: must be '1.0'"),
        ("/events", "x", ("ce-specversion: 1.0", "ce-id: 1"), 400, "ce-source: missing"),
        ("/events", "x", ("CE-Type: t",), 400, "ce-specversion: missing; an event needs this header"),
        ("/events?type=t", "x", BINARY[1:], 400, "specversion: missing"),
        (
            "/events",
            "x",
            ("ce-specversion: 1.0", "ce-id: 1", "ce-id: 2"),
            400,
            "ce-id: given twice; give it once",
        ),
        ("/events", "x", ("ce-specversion: 1.0", "ce-id: %ff"), 400, "ce-id: must be UTF-8"),
        (
            "/events",
            "x",
            (*BINARY, "ce-datacontenttype: a/b"),
            400,
            "ce-datacontenttype: leave it out",
        ),
    ],
)
async def test_what_is_refused(  # noqa: PLR0917 - what is sent, and what comes
    room: Room,
    target: str,
    body: str | bytes,
    fields: tuple[str, ...],
    status: int,
    words: str,
    autojump_clock: Clock,
) -> None:
    """With the status, and a reason that names the thing; the connection goes on."""
    found, detail = await refused(room, target, body, *fields)
    assert found == status
    assert words in detail


@pytest.mark.parametrize("coding", ["gzip", "Identity, br"])
async def test_a_body_that_is_compressed(coding: str, room: Room, autojump_clock: Clock) -> None:
    """415, before it is asked for; the answer says what would be taken."""
    fields = (f"Content-Encoding: {coding}", "Content-Length: 9", "Expect: 100-continue")
    web = Web(room)
    answer = await web.ask(get("/events", *fields, method="POST"), "POST")
    assert (answer.status, answer.headers["accept-encoding"]) == (415, "identity")
    name = coding.rpartition(" ")[2]
    assert answer.json["detail"] == f"Content-Encoding: {name} is not supported; send the body as it is"
    assert b"100 Continue" not in web.kernel.taken
    assert room.hub.log.head == 0


async def test_a_body_that_is_not_compressed_may_say_so(room: Room, autojump_clock: Clock) -> None:
    """`identity` is no coding."""
    assert (await send(room, "/events", "x", "Content-Encoding: Identity")).status == 200
    assert published(room)[0].data == "x"


@pytest.mark.parametrize("fields", [(), BINARY, (STRUCTURED,)], ids=["plain", "binary", "structured"])
async def test_the_largest_message(fields: tuple[str, ...], autojump_clock: Clock) -> None:
    """A body of `max_message_bytes` is taken, whatever its attributes; one byte more isn't."""
    target = "/events?subject=" + "long/" * 20
    async with open_room(max_message_bytes=200) as room:
        body = json.dumps(EVENT).ljust(200)
        assert (await send(room, target, body, *fields)).status == 200
        status, detail = await refused(room, target, body + " ", *fields)
        assert (status, detail) == (413, "request body: must have at most 200 bytes")


async def test_the_largest_events_of_a_batch(autojump_clock: Clock) -> None:
    """Each may have `max_message_bytes` of JSON, as on a WebSocket, and all of them `max_body_bytes`."""
    text = json.dumps(EVENT)
    async with open_room(max_message_bytes=len(text), max_body_bytes=3 * len(text)) as room:
        assert (await send(room, "/events", f"[{text}, {text}]", BATCH)).status == 200
        longer = text.replace("paid", "repaid")
        assert await refused(room, "/events", f"[{text}, {longer}]", BATCH) == (
            413,
            f"event 2: a message may have at most {len(text)} bytes",
        )
        status, detail = await refused(room, "/events", f"[{text}, {text}, {text}]", BATCH)
        assert (status, detail) == (413, f"request body: must have at most {3 * len(text)} bytes")
        status, detail = await refused(room, "/events?subject=" + "s" * 999, f"[{text}, {text}]", BATCH)
        assert (status, detail.partition(",")[0]) == (
            413,
            f"a batch may have at most {3 * len(text)} bytes",
        )


async def test_a_limit_on_bodies_holds_for_messages(autojump_clock: Clock) -> None:
    """The lower one of the two counts."""
    async with open_room(max_body_bytes=10) as room:
        assert (await send(room, "/events", "x" * 10)).status == 200
        assert (await refused(room, "/events", "x" * 11))[0] == 413


async def test_the_events_of_a_batch_are_counted(autojump_clock: Clock) -> None:
    """Not above `max_batch`."""
    async with open_room(max_batch=2) as room:
        status, detail = await refused(room, "/events", json.dumps([EVENT] * 3), BATCH)
        assert (status, detail) == (413, "a batch may have at most 2 events")


async def test_authenticate_is_asked(autojump_clock: Clock) -> None:
    """A client that it returns may publish, and one that it makes a subscriber may not."""

    def authenticate(request: Request) -> Client:
        token = request.header("authorization")
        if token is None:
            raise Refused(401, "authorization: a token is needed")
        return Client(token, role="publisher" if token == "alice" else "subscriber")

    async with open_room(authenticate=authenticate) as room:
        assert (await refused(room, "/events", "x"))[0] == 401
        assert (await refused(room, "/events", "x", "Authorization: bob"))[0] == 403
        await send(room, "/events?id=mallory", "x", "Authorization: alice")
        assert published(room)[0].source == "/clients/alice"


async def test_a_channel_that_is_full(autojump_clock: Clock) -> None:
    """The request waits, at most for `request_timeout`; then nothing of it was published."""
    async with open_room(max_waiting=1) as room:
        web = Web(room)
        room.hub.broadcast.inbox.count = 1  # as if the broadcast were busy
        web.kernel.feed(post("/events", "x"))
        await trio.sleep(31)
        (answer,) = web.answers("POST")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        room.hub.broadcast.inbox.count = 0
        assert room.hub.log.head == 0


async def test_a_server_that_goes_down(room: Room, autojump_clock: Clock) -> None:
    """503, and when to come again."""
    web = Web(room)
    await room.quiet()
    room.hub.stop_accepting("draining")
    answer = await web.ask(post("/events", "x"), "POST")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert room.hub.log.head == 0


async def test_a_durable_log(tmp_path: Path) -> None:
    """The answer comes after the commit; what it can't keep is refused with 507."""
    async with open_room(store=f"sqlite:{tmp_path}/log", max_log_bytes=1000) as room:
        web = Web(room)

        async def answered(text: str) -> Answered:
            web.kernel.feed(post("/events", text))
            while len(web.kernel.taken) == web._read:
                await room.quiet()
            return web.answers("POST")[0]

        assert (await answered("hello")).json["cursor"].endswith(":1")
        answer = await answered("x" * 1000)
        assert (answer.status, "larger than the whole log may be" in answer.json["detail"]) == (
            507,
            True,
        )


LONG: list[Any] = [[]] * 20_000
LONG_BODIES = {
    "an event": (json.dumps({**EVENT, "data": LONG}), STRUCTURED),
    "an event of a batch": (json.dumps([{**EVENT, "data": LONG}]), BATCH),
    "JSON": (json.dumps(LONG), "Content-Type: application/json"),
}


@pytest.mark.parametrize("name", LONG_BODIES)
async def test_long_bodies_are_read_one_at_a_time(room: Room, autojump_clock: Clock, name: str) -> None:
    """So however many connections bring them, the others have their turn."""
    body, kind = LONG_BODIES[name]
    web = Web(room)
    async with room.hub.slow_lane.one_of("test"):
        web.kernel.feed(post("/events", body, kind))
        assert (await send(room, "/events", "{}", "Content-Type: application/json")).status == 200
        assert not web.kernel.taken
    await room.quiet()
    (answer,) = web.answers("POST")
    assert answer.status == 200
    assert room.hub.arriving.held == 0


# --- a batch, cut into its events ---

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(
    st.lists(JSON_VALUES, max_size=6),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.integers(1, 40),
    st.sampled_from([0, jsontext.LONG]),
)
@settings(max_examples=200, deadline=None)
def test_an_array_is_cut_into_its_items(
    values: list[Any], indent: int | None, is_ascii: bool, window: int, long: int
) -> None:
    """Whatever is in them, all at once or in pieces, and wherever a look at the clock comes."""
    text = json.dumps(values, indent=indent, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsontext, "_WINDOW", window)
        patch.setattr(jsontext, "LONG", long)
        items = [item for some in cut_items(text, 6, len(text)) for item in some]
    assert [json.loads(item) for item in items] == values


@pytest.mark.parametrize(
    ("text", "error"),
    [
        *[
            (text, ValueError)
            for text in (b"", b"{}", b"[", b"[1", b"[1] x", b'["a', b'["\\', b"[1}", b"[1}]")
        ],
        (b"[1,2,3,x", TooMany),
        (b"[1, " + b"9" * 101 + b"]", TooLong),
        (b'["' + b"9" * 20_000, TooLong),
        (b"[[" + b"{}," * 10_000, TooLong),
    ],
)
def test_what_can_not_be_cut(text: bytes, error: type[ValueError]) -> None:
    """Nothing behind the first limit that is exceeded is looked at."""
    with pytest.raises(error):
        list(cut_items(text, 2, 100))


def test_an_array_is_cut_in_pieces() -> None:
    """However it is made: there is a turn for others every few thousand bytes."""
    for part in (
        b"[[" + b"{}," * 300_000,
        b"[[" + b'"",' * 300_000,
        b"[" + b" " * 900_000,
        b'["' + b"\\n" * 400_000,
    ):
        looks = 0
        with suppress(ValueError):
            for _ in cut_items(part + b"]", 1000, 1 << 20):
                looks += 1
        assert looks > 100


@pytest.mark.parametrize("depth", [129, 400, 967])
async def test_data_that_is_nested_too_deep(room: Room, autojump_clock: Clock, depth: int) -> None:
    """No parser of a client's takes it, so it isn't published, whichever way it comes."""
    data = "[" * depth + "]" * depth
    event = json.dumps(EVENT)[:-1] + f', "data": {data}}}'
    for body, kind in (
        (event, STRUCTURED),
        (f"[{event}]", BATCH),
        (data, "Content-Type: application/json"),
    ):
        status, detail = await refused(room, "/events", body, kind)
        assert (status, "nested too deep" in detail) == (400, True)
    assert room.hub.log.head == 0
