"""Clients over Server-Sent Events and NDJSON: who gets in, what they get, and how it ends."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import Room, open_room
from tests.eventstream import NDJSON, Dispatched, StreamPeer, stream
from tests.kernel import FakeKernel, upgrade
from tests.server.test_server import PATIENT
from tests.test_peers import need
from tests.web import Web, get, post
from trionotify import Client, Exact, Notification, open_server
from trionotify.connection.transport import SocketTransport

Clock = trio.testing.MockClock

KINDS = {
    "sse": ("/events?", ()),
    "sse, events": ("/events?format=cloudevents&", ()),
    "ndjson": ("/events?", (NDJSON,)),
}
EVENTS = "Accept: text/event-stream"
every_kind = pytest.mark.parametrize("kind", KINDS)


async def open_kind(room: Room, kind: str, query: str = "", **options: Any) -> StreamPeer:
    """One of the three."""
    target, headers = KINDS[kind]
    peer = await stream(room, target + query, *headers, **options)
    assert peer.status == 200, peer.body
    return peer


def data_of(peer: StreamPeer, kind: str) -> list[str]:
    """The data of what has come; of events, without the welcome."""
    found = peer.look().messages
    return found if kind == "sse" else [json.loads(message)["data"] for message in found[1:]]


# --- the beginning ---


async def test_the_head_of_an_event_stream(room: Room, autojump_clock: Clock) -> None:
    """Its type, that caches and proxies must not keep it, the client's id, and where it starts."""
    await room.hub.publish("before")
    peer = await stream(room, "/events?id=al%C3%A9")
    cursor = f"{room.hub.log.epoch}:1"
    fields = {
        "content-type": "text/event-stream",
        "cache-control": "no-store, no-transform",
        "x-accel-buffering": "no",
        "connection": "close",
        "transfer-encoding": "chunked",
        "trionotify-id": "al%C3%A9",
        "trionotify-cursor": cursor,
        "trionotify-recovered": None,
    }
    assert peer.status == 200
    assert {name: peer.header(name) for name in fields} == fields
    assert peer.header("date") is not None
    assert (peer.source.events, peer.source.last_event_id) == ([], cursor)
    assert peer.source.retry is not None
    assert peer.body.count(b"\n") == 3


@pytest.mark.parametrize("kind", ["sse, events", "ndjson"])
async def test_events_begin_with_the_welcome(kind: str, room: Room, autojump_clock: Clock) -> None:
    """As on a WebSocket."""
    peer = await open_kind(room, kind, "id=al")
    (welcome,) = map(json.loads, peer.messages)
    assert welcome["type"] == "trionotify.welcome"
    assert welcome["cursor"] == peer.header("trionotify-cursor")
    assert welcome["data"] == {"epoch": room.hub.log.epoch, "head": 0, "id": "al", "role": "subscriber"}
    (client,) = room.hub.clients
    assert (client.format, client.role) == ("cloudevents", "subscriber")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ((), "text/event-stream"),
        (("Accept: */*",), "text/event-stream"),
        (("Accept:",), "text/event-stream"),
        (("Accept: text/html, */*;q=0.8",), "text/event-stream"),
        (("Accept: application/x-ndjson",), "application/x-ndjson"),
        (("Accept: text/event-stream;q=0.5, application/*",), "application/x-ndjson"),
        (("Accept: text/html",), "application/problem+json"),
        (("Accept: text/event-stream;q=0",), "application/problem+json"),
    ],
)
async def test_accept_says_which(
    accept: tuple[str, ...], kind: str, room: Room, autojump_clock: Clock
) -> None:
    """Server-Sent Events, unless lines are liked better; 406 for who takes neither."""
    peer = await stream(room, "/events", *accept)
    assert peer.header("content-type") == kind
    assert peer.status == (406 if "problem" in kind else 200)


@pytest.mark.parametrize(
    ("target", "headers", "status", "detail"),
    [
        ("/events?role=king", (), 400, "role: "),
        ("/events?lag=gap", (), 400, "lag: "),
        ("/events?format=raw", (NDJSON,), 400, "format: "),
        ("/events?exakt.type=a", (), 400, "exakt.type: "),
        (
            "/events?since=yesterday",
            (),
            400,
            (
                "since: must be a cursor (EPOCH:OFFSET), a time (2026-01-31T10:00:00Z), a"
                " duration (10m) or 'start'"
            ),
        ),
        (
            "/events?last_event_id=yesterday",
            (),
            400,
            (
                "last_event_id: must be a cursor (EPOCH:OFFSET), a time (2026-01-31T10:00:00Z), a"
                " duration (10m) or 'start'"
            ),
        ),
        ("/events", ("Last-Event-ID: yesterday",), 410, "since: not everything after 'yesterday' is"),
        (
            "/events",
            ("Last-Event-ID: start",),
            410,
            "since: not everything after 'start' is still in the log",
        ),
        (
            "/events",
            ("Last-Event-ID: 10m",),
            410,
            "since: not everything after '10m' is still in the log",
        ),
        ("/events", ("Last-Event-ID: 2026-01-31T10:00:00Z",), 410, "since: not everything after"),
        (
            "/events?lastEventId=start",
            (),
            410,
            "since: not everything after 'start' is still in the log",
        ),
        ("/events?lastEventId=42", (), 410, "since: not everything after '42' is still in the log"),
        ("/events?since=start", ("Last-Event-ID: 5f2b1c:7-0",), 410, "since: "),
        ("/events", ("Last-Event-ID: ffffffffffff:1",), 410, "since: "),
    ],
)
async def test_what_is_refused(  # noqa: PLR0917 - a table of four columns
    target: str, headers: tuple[str, ...], status: int, detail: str, room: Room, autojump_clock: Clock
) -> None:
    """With a problem document before anything of a stream. No client has connected."""
    peer = await stream(room, target, *headers)
    assert (peer.status, peer.header("content-type")) == (status, "application/problem+json")
    assert json.loads(peer.body)["detail"].startswith(detail)
    assert not room.hub.connections


@every_kind
async def test_lag_gap_is_for_those_who_can_be_told(
    kind: str, room: Room, autojump_clock: Clock
) -> None:
    """Which NDJSON always is, whether or not its query says `format`."""
    target, headers = KINDS[kind]
    peer = await stream(room, target + "lag=gap", *headers)
    assert peer.status == (400 if kind == "sse" else 200)


@every_kind
async def test_head_gets_the_head(kind: str, room: Room, autojump_clock: Clock) -> None:
    """Without a client; refused as GET would be; and another request can follow."""
    target, headers = KINDS[kind]
    gone = await stream(room, f"{target}role=king", *headers, method="HEAD")
    assert gone.status == 400
    peer = await stream(room, target, *headers, method="HEAD")
    assert (peer.status, peer.ended, peer.body) == (200, True, b"")
    fields = ("content-type", "transfer-encoding", "cache-control", "x-accel-buffering")
    found = [peer.header(name) for name in fields]
    assert found[2:] == ["no-store, no-transform", "no"]
    assert (peer.header("content-length"), peer.header("connection")) == (None, None)
    assert not room.hub.connections
    peer.kernel.taken.clear()
    peer.kernel.feed(get(target, *headers))
    await room.quiet()
    after = StreamPeer(peer.kernel).look()
    assert [after.header(name) for name in fields] == found
    assert len(room.hub.connections) == 1


async def test_head_of_a_lost_cursor(room: Room, autojump_clock: Clock) -> None:
    """410, as GET."""
    peer = await stream(room, "/events?since=ffffffffffff:1", method="HEAD")
    assert (peer.status, peer.body) == (410, b"")


async def test_authenticate_sees_the_query_as_it_was_sent(autojump_clock: Clock) -> None:
    """Headers are not mixed into it, and the client is the one that it returns."""
    seen: list[dict[str, str]] = []

    def authenticate(request: Any) -> Client:
        seen.append(dict(request.params))
        return Client("known", {"team": "ops"})

    async with open_room(authenticate=authenticate) as room:
        await room.hub.publish("one")
        cursor = f"Last-Event-ID: {room.hub.log.epoch}:0"
        peer = await stream(room, "/events?since=start&id=al", NDJSON, cursor)
        assert seen == [{"since": "start", "id": "al"}]
        assert peer.header("trionotify-id") == "known"
        assert peer.header("trionotify-recovered") == "true"
        assert [json.loads(message)["type"] for message in peer.messages] == [
            *("trionotify.welcome", "message")
        ]


async def test_origins_hold_for_streams(autojump_clock: Clock) -> None:
    """403 for a page that may not, and for one that may the fields that let it read."""
    async with open_room(allow_origin="https://example.org") as room:
        peer = await stream(room, "/events", "Origin: https://elsewhere.example")
        assert peer.status == 403
        peer = await stream(room, "/events", "Origin: https://example.org")
        assert peer.header("access-control-allow-origin") == "https://example.org"
        assert "Trionotify-Cursor" in (peer.header("access-control-expose-headers") or "")


# --- what comes ---


@every_kind
async def test_a_publisher_gets_what_it_filters_for(
    kind: str, room: Room, autojump_clock: Clock
) -> None:
    """And nothing without a filter; its stream stays, so that it sees whether the server lives."""
    silent = await open_kind(room, kind, "role=publisher")
    asking = await open_kind(room, kind, "role=publisher&exact.type=a")
    for type in "ab":
        await room.hub.publish(type, type=type, confirm=True)
    assert (data_of(silent, kind), data_of(asking, kind)) == ([], ["a"])
    assert not silent.ended


async def test_raw_events_as_they_are_published(room: Room, autojump_clock: Clock) -> None:
    """Each with its cursor; text, lines, bytes, nothing; and its type, if it has one."""
    peer = await stream(room, "/events")
    epoch = room.hub.log.epoch
    for data, kind in (("hi", "message"), ("a\nb", "t"), (b"\0\xff", "t"), (None, "t")):
        await room.hub.publish(data, type=kind)
    await room.quiet()
    assert peer.look().source.events == [
        Dispatched("message", "hi", f"{epoch}:1"),
        Dispatched("t", "a\nb", f"{epoch}:2"),
        Dispatched("t", "AP8=", f"{epoch}:3"),
        Dispatched("t", "", f"{epoch}:4"),
    ]


@every_kind
async def test_query_and_audience_choose(kind: str, room: Room, autojump_clock: Clock) -> None:
    """As for any client."""
    peer = await open_kind(room, kind, "id=al&team=ops&prefix.type=order.")
    for data, attributes in {
        "no": {"type": "other"},
        "yes": {"type": "order.paid"},
        "not you": {"type": "order.paid", "to": "bo"},
        "you": {"type": "order.paid", "to": "al"},
        "your team": {"type": "order.paid", "audience": Exact(team="ops")},
    }.items():
        await room.hub.publish(data, **attributes)
    await room.quiet()
    assert data_of(peer, kind) == ["yes", "you", "your team"]


class Recording(FakeKernel):
    """It keeps what it was handed."""

    def send(self, data: bytes | memoryview) -> int:
        self.last = data
        return super().send(data)


@every_kind
async def test_streams_of_a_kind_share_their_bytes(kind: str, room: Room, autojump_clock: Clock) -> None:
    """One encoding for all: two kernels are handed the same object, and a WebSocket's another."""
    kernels = [Recording() for _ in range(3)]
    for kernel in kernels[:2]:
        await open_kind(room, kind, kernel=kernel)
    await room.connect("/", kernel=kernels[2])
    await room.hub.publish("hi", type="t")
    await room.quiet()
    first, second, other = [kernel.last for kernel in kernels]
    assert first is second
    assert first != other
    assert b"hi" in bytes(first)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/events?since={}:1", ()),
        ("/events?last_event_id={}:1", ()),
        ("/events", ("Last-Event-ID: {}:1",)),
        ("/events?since=start&last_event_id={}:0", ("Last-Event-ID: {}:1",)),
        ("/events?lastEventId={}:1", ()),
        ("/events?since=start&last_event_id={}:0&lastEventId={}:1", ()),
        ("/events?lastEventId={}:0", ("Last-Event-ID: {}:1",)),
        ("/events?lastEventId={}:1", ("Last-Event-ID: ",)),
        ("/events?since={}:1&lastEventId=", ()),
    ],
)
async def test_resuming(
    target: str, headers: tuple[str, ...], room: Room, autojump_clock: Clock
) -> None:
    """From the cursor in the header or else in the query; all behind it comes, once."""
    for i in range(1, 4):
        await room.hub.publish(f"{i}")
    epoch = room.hub.log.epoch
    peer = await stream(room, target.replace("{}", epoch), *[header.format(epoch) for header in headers])
    assert peer.header("trionotify-recovered") == "true"
    assert peer.header("trionotify-cursor") == f"{epoch}:1"
    await room.hub.publish("4")
    await room.quiet()
    assert peer.look().messages == ["2", "3", "4"]


async def test_an_empty_last_event_id_is_none(room: Room, autojump_clock: Clock) -> None:
    """A browser that has had no event yet would send none; others send an empty one."""
    await room.hub.publish("one")
    peer = await stream(room, "/events?since=start", "Last-Event-ID: ")
    assert (peer.status, peer.messages) == (200, ["one"])


@pytest.mark.parametrize("kind", ["sse, events", "ndjson"])
@pytest.mark.parametrize("where", ["since=ffffffffffff:1", "lastEventId=42", "lastEventId=%E9%9B%AA%0A"])
async def test_a_lost_cursor_is_told_in_events(
    where: str, kind: str, room: Room, autojump_clock: Clock
) -> None:
    """`recovered` is false, and the stream starts at the head; whatever another server's id was like."""
    await room.hub.publish("one")
    peer = await open_kind(room, kind, where)
    assert peer.header("trionotify-recovered") == "false"
    (welcome,) = map(json.loads, peer.messages)
    assert (welcome["data"]["recovered"], welcome["cursor"]) == (False, f"{room.hub.log.epoch}:1")


# --- alive, slow, gone ---


async def test_a_silent_stream_shows_that_it_lives(autojump_clock: Clock) -> None:
    """A comment, or an empty line, when nothing else was sent for so long."""
    async with open_room(ping_interval=10, position_interval=1e6) as room:
        sse, lines = await open_kind(room, "sse"), await open_kind(room, "ndjson")
        before = lines.look().lines.count("")
        await trio.sleep(45)
        assert sse.look().source.comments == 4
        assert lines.look().lines.count("") - before == 4
        for _ in range(10):
            await room.hub.publish("busy")
            await trio.sleep(5)
        assert sse.look().source.comments == 4
        assert len(sse.messages) == 10


async def test_where_nothing_matches_the_position_is_told(autojump_clock: Clock) -> None:
    """By a block with `id` alone: no event, but a browser resumes there."""
    async with open_room(ping_interval=1e6, position_interval=30) as room:
        sse, lines = [await open_kind(room, kind, "exact.type=t") for kind in ("sse", "ndjson")]
        for _ in range(3):
            await room.hub.publish("not this", type="u")
        await trio.sleep(60)
        assert (sse.look().messages, sse.source.last_event_id) == ([], f"{room.hub.log.epoch}:3")
        told = json.loads(lines.look().messages[-1])
        assert (told["type"], told["cursor"]) == ("trionotify.position", f"{room.hub.log.epoch}:3")


@pytest.mark.parametrize("behind", [False, True])
async def test_what_was_for_others_is_told_behind_what_was_not(
    behind: bool, autojump_clock: Clock
) -> None:
    """Live or catching up, a client knows of what it was sent last, and is told of the rest."""
    async with open_room(ping_interval=1e6, position_interval=30) as room:
        if not behind:
            lines = await open_kind(room, "ndjson", "id=al")
        event = {"specversion": "1.0", "source": "/s", "type": "t", "datacontenttype": "text/plain"}
        both = [{**event, "id": "1", "data": "for all"}, {**event, "id": "2", "data": "no", "to": "bob"}]
        kind = "Content-Type: application/cloudevents-batch+json"
        await Web(room).ask(post("/events", json.dumps(both), kind))
        if behind:
            lines = await open_kind(room, "ndjson", "id=al&since=start")
        got = [json.loads(message) for message in lines.look().messages]
        assert got[-1]["data"] == "for all"
        await trio.sleep(60)
        told = json.loads(lines.look().messages[-1])
        assert (told["type"], told["cursor"]) == ("trionotify.position", f"{room.hub.log.epoch}:2")
        count = len(lines.messages)
        await trio.sleep(600)
        assert len(lines.look().messages) == count


@every_kind
@pytest.mark.parametrize("credit", [*range(1, 30, 4), 150, 300])
async def test_cut_anywhere_and_finished(
    kind: str, credit: int, room: Room, autojump_clock: Clock
) -> None:
    """A kernel that takes so many bytes, and later the rest: every event, once, in order."""
    peer = await open_kind(room, kind)
    peer.kernel.credit = credit
    for i in range(10):
        await room.hub.publish(f"{i}")
    await room.quiet()
    assert not next(iter(room.hub.clients)).position.live  # type: ignore[union-attr] # it is connected
    peer.kernel.grant(None)
    peer.kernel.credit = None
    peer.kernel.grant(None)
    await room.quiet()
    assert data_of(peer, kind) == [f"{i}" for i in range(10)]


async def fall_off(room: Room, peer: StreamPeer) -> StreamPeer:
    """It reads nothing until what it needs next is gone from the log."""
    peer.kernel.stall()
    for i in range(40):
        await room.hub.publish(f"{i}", subject=f"{i % 2}")
    await room.quiet()
    peer.kernel.credit = None
    peer.kernel.grant(None)
    await room.quiet()
    return peer.look()


async def test_raw_that_falls_off_the_log_ends(autojump_clock: Clock) -> None:
    """In good order; coming back with its cursor is 410."""
    async with open_room(max_log_entries=10) as room:
        peer = await fall_off(room, await open_kind(room, "sse"))
        assert peer.ended
        cursor = f"{room.hub.log.epoch}:1"
        assert (peer.messages, peer.source.last_event_id) == (["0"], cursor)
        assert (await stream(room, "/events", f"Last-Event-ID: {cursor}")).status == 410


@pytest.mark.parametrize("kind", ["sse, events", "ndjson"])
async def test_events_that_fall_off_the_log_are_told_of_the_gap(
    kind: str, autojump_clock: Clock
) -> None:
    """And go on at the head; or they end too, if they asked to."""
    async with open_room(max_log_entries=10) as room:
        peer = await fall_off(room, await open_kind(room, kind))
        gap = json.loads(peer.messages[-1])
        epoch = room.hub.log.epoch
        assert (gap["type"], gap["cursor"]) == ("trionotify.gap", f"{epoch}:40")
        assert gap["data"] == {"from": f"{epoch}:1", "to": f"{epoch}:40"}
        assert not peer.ended
        assert (await fall_off(room, await open_kind(room, kind, "lag=disconnect"))).ended


async def test_lag_latest(autojump_clock: Clock) -> None:
    """While behind, only the newest of each subject; raw may ask for it too."""
    async with open_room() as room:
        peer = await fall_off(room, await open_kind(room, "sse", "lag=latest"))
        assert peer.messages == ["0", "38", "39"]


@every_kind
async def test_one_that_takes_nothing_is_dropped(kind: str, autojump_clock: Clock) -> None:
    """After `stall_timeout`, and no other client waits for it."""
    async with open_room(stall_timeout=60) as room:
        peer = await open_kind(room, kind)
        peer.kernel.stall()
        await room.hub.publish("x" * 100)
        await trio.sleep(200)
        assert peer.kernel.was_reset
        assert not room.hub.connections


@every_kind
async def test_one_that_hangs_up_has_left(kind: str, room: Room, autojump_clock: Clock) -> None:
    """At once: a client of HTTP that closes its side has gone."""
    peer = await open_kind(room, kind)
    peer.kernel.hang_up()
    await room.quiet()
    assert not room.hub.connections
    assert peer.kernel.closed


async def test_what_it_says_is_not_heard(room: Room, autojump_clock: Clock) -> None:
    """Neither a body nor another request: the answer to the first one is under way."""
    peer = await stream(room, "/events")
    for _ in range(10):
        peer.kernel.feed(get("/events") * 1000)
    await room.hub.publish("still there")
    await room.quiet()
    assert peer.look().messages == ["still there"]
    assert len(room.hub.connections) == 1


LONGEST = (1 << 31) - 1


@pytest.mark.parametrize(("seconds", "asked"), [(60, 60_000), (2_592_000, LONGEST), (math.inf, LONGEST)])
async def test_the_kernel_is_asked_to_miss_acknowledgements(seconds: float, asked: int) -> None:
    """Only the kernel can notice that a peer without Pings has vanished. It counts up to 24 days."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as sock:
            SocketTransport(sock).expect_acknowledgements(seconds)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == asked


async def test_a_unix_socket_has_no_acknowledgements() -> None:
    pair = socket.socketpair()
    SocketTransport(pair[0]).expect_acknowledgements(60)
    for end in pair:
        end.close()


async def close_while_cut(room: Room, peer: StreamPeer) -> None:
    """Close the only client, whose kernel has taken a part of a block, and let it take the rest."""
    await room.quiet()
    (client,) = room.hub.clients
    client.close()
    await room.quiet()
    assert not peer.look().ended
    peer.kernel.credit = None
    peer.kernel.grant(None)
    await room.quiet()
    assert peer.look().ended


# --- HTTP/1.0 ---


@every_kind
async def test_http_1_0_gets_the_same_without_chunks(
    kind: str, room: Room, autojump_clock: Clock
) -> None:
    """At once; it has no chunks, so the stream ends with the connection."""
    new, old = await open_kind(room, kind, "id=a"), await open_kind(room, kind, "id=a", version="1.0")
    fields = ("content-type", "connection", "cache-control", "trionotify-cursor")
    assert [old.header(name) for name in fields] == [new.header(name) for name in fields]
    assert (old.header("connection"), old.header("transfer-encoding")) == ("close", None)
    for data in ("one", "two\nlines", "x" * 100_000):
        await room.hub.publish(data, confirm=True)
        await room.quiet()
        assert data_of(old, kind)[-1] == data
    assert data_of(old, kind) == data_of(new, kind)
    assert not old.ended
    for client in room.hub.clients:
        client.close()
    await room.quiet()
    assert old.look().ended
    assert bytes(old.kernel.taken).partition(b"\r\n\r\n")[2] == old.body
    old.kernel.hang_up()
    await room.quiet()
    assert not old.kernel.was_reset


@every_kind
async def test_without_chunks_the_bytes_are_shared_too(
    kind: str, room: Room, autojump_clock: Clock
) -> None:
    """Clients without chunks are a group of their own."""
    kernels = [Recording() for _ in range(3)]
    for kernel, version in zip(kernels, ("1.0", "1.0", "1.1"), strict=True):
        await open_kind(room, kind, kernel=kernel, version=version)
    await room.hub.publish("hi")
    await room.quiet()
    first, second, other = [kernel.last for kernel in kernels]
    assert first is second
    assert bytes(first) in bytes(other)
    assert first != other


@every_kind
@pytest.mark.parametrize("credit", [1, 7, 20, 150])
async def test_without_chunks_it_is_finished_before_it_ends(
    kind: str, credit: int, room: Room, autojump_clock: Clock
) -> None:
    """Cut anywhere; there is no last word, and nothing of the log behind the cut block."""
    peer = await open_kind(room, kind, version="1.0")
    peer.kernel.credit = credit
    for data in ("first", "second " * 100):
        await room.hub.publish(data)
    await room.quiet()
    await close_while_cut(room, peer)
    assert data_of(peer, kind)[0] == "first"
    assert peer.body.endswith(b"\n" if kind == "ndjson" else b"\n\n")


@every_kind
async def test_without_chunks_over_tls(kind: str, room: Room, autojump_clock: Clock) -> None:
    """A peer that sees neither chunks nor a half-close only sees a close, so that comes at once."""
    peer = await open_kind(room, kind, version="1.0")
    peer.kernel.half_closes = False
    (client,) = room.hub.clients
    client.close()
    await room.quiet()
    assert peer.kernel.closed
    assert not peer.kernel.was_reset
    assert not room.hub.connections


@every_kind
async def test_without_chunks_it_lives_and_is_sent_away(kind: str, autojump_clock: Clock) -> None:
    """Signs of life, and what the drain says, as for all."""
    async with open_room(ping_interval=10, position_interval=1e6) as room:
        peer = await open_kind(room, kind, version="1.0")
        before = len(peer.body)
        await trio.sleep(25)
        assert peer.look().body[before:] == (b"\n\n" if kind == "ndjson" else b":\n\n" * 2)
        room.nursery.start_soon(room.hub.drain)
        await room.quiet()
        assert peer.look().ended
        word = b"retry: " if kind == "sse" else b"trionotify.drain"
        assert word in peer.body[before:]
        peer.kernel.hang_up()


@every_kind
async def test_head_of_http_1_0(kind: str, room: Room, autojump_clock: Clock) -> None:
    """As GET would be answered."""
    target, headers = KINDS[kind]
    peer = await stream(room, target, *headers, method="HEAD", version="1.0")
    assert (peer.status, peer.ended, peer.body) == (200, True, b"")
    found = [peer.header(name) for name in ("transfer-encoding", "content-length", "connection")]
    assert found == [None, None, "close"]


async def test_curl_by_http_1_0() -> None:
    """It gets what is published, and its connection ends well when the server stops."""
    need(shutil.which("curl"), "curl is not installed")
    async with open_server(port=0, close_timeout=600) as server, trio.open_nursery() as nursery:
        command = ["curl", "-sN", "--http1.0", server.url + "/events", "-H", NDJSON]
        found: list[Any] = []

        async def curl() -> None:
            found.append(await trio.run_process(command, capture_stdout=True, check=False))

        nursery.start_soon(curl)
        with trio.fail_after(120):
            while not server.hub.clients:
                await trio.lowlevel.checkpoint()
        await server.hub.publish("hi", type="t", confirm=True)
        server.stop()
    assert found[0].returncode == 0
    assert [json.loads(line)["type"] for line in found[0].stdout.splitlines()] == [
        *("trionotify.welcome", "t", "trionotify.drain")
    ]


# --- the session, and the end ---


@every_kind
async def test_a_session_sends_and_closes(kind: str, autojump_clock: Clock) -> None:
    """Its messages have no place in the log. Closing ends the stream without a code."""

    async def session(client: Client) -> None:
        await client.send("hello")
        await client.send(Notification("note", type="t"))
        client.close(4401, "expired")
        assert [message async for message in client] == []

    async with open_room(session=session) as room:
        peer = await open_kind(room, kind)
        if kind == "sse":
            assert {event.last_event_id for event in peer.source.events} == {f"{room.hub.log.epoch}:0"}
            assert [event.type for event in peer.source.events] == ["message", "t"]
        assert data_of(peer, kind) == ["hello", "note"]
        assert peer.ended
        assert b"expired" not in peer.body
        assert peer.kernel.eof_sent
        peer.kernel.hang_up()
        await room.quiet()
        assert room.hub.broadcast.counts.closed[4401] == 1


@every_kind
async def test_a_stream_has_nothing_to_publish(kind: str, autojump_clock: Clock) -> None:
    """A session that does so on its behalf is told; its connection ends."""
    errors: list[str] = []

    async def session(client: Client) -> None:
        try:
            await client.publish("x")
        except ValueError as error:
            errors.append(str(error))

    async with open_room(session=session) as room:
        peer = await open_kind(room, kind)
        assert peer.ended
        assert errors == ["a client on a stream can't publish"]
        assert room.hub.log.head == 0


@every_kind
async def test_a_session_that_fails(
    kind: str, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its stream ends in good order, and no other one does."""

    async def session(client: Client) -> None:
        if client.id == "bad":
            raise LookupError("no")
        await trio.sleep_forever()

    async with open_room(session=session) as room:
        good = await open_kind(room, kind)
        bad = await open_kind(room, kind, "id=bad")
        assert bad.ended
        await room.hub.publish("on it goes")
        await room.quiet()
        assert b"on it goes" in good.look().body
        assert "the session of client 'bad' failed" in caplog.text


class Answering(FakeKernel):
    """Its peer hangs up when the stream is at its end."""

    def _take(self, data: bytes | memoryview) -> int:
        count = super()._take(data)
        if self.taken.endswith(b"\r\n0\r\n\r\n"):
            self.hang_up()
        return count


async def test_the_drain_says_when_to_come_back(room: Room, autojump_clock: Clock) -> None:
    """Raw by `retry`, with the last cursor, and events by theirs; then the streams end."""
    raw, events, lines = [await open_kind(room, kind, kernel=Answering()) for kind in KINDS]
    await room.hub.publish("last")
    await room.hub.drain()
    cursor = f"{room.hub.log.epoch}:1"
    assert raw.look().messages == ["last"]
    assert raw.source.last_event_id == events.look().source.last_event_id == cursor
    for peer in (events, lines.look()):
        told = json.loads(peer.messages[-1])
        assert (told["type"], told["cursor"]) == ("trionotify.drain", cursor)
    told = json.loads(events.messages[-1])
    assert events.source.retry == told["data"]["retry_after_ms"]
    block = raw.body.split(b"\n\n")[-2].decode()
    assert block == f"retry: {raw.source.retry}\nid: {cursor}"
    assert raw.ended
    assert events.ended
    assert lines.ended
    assert not room.hub.connections


class HalfClosed(FakeKernel):
    """It remembers when that was."""

    async def send_eof(self) -> None:
        self.eof_at = trio.current_time()
        await super().send_eof()


async def test_who_comes_back_after_a_drain_meets_nobody(room: Room, autojump_clock: Clock) -> None:
    """Not even on a connection that was open already: its 503 would be an `EventSource`'s end."""
    peer = await open_kind(room, "sse", kernel=Answering())
    early = Web(room, HalfClosed())
    await room.quiet()
    begun = trio.current_time()
    await room.hub.drain()
    assert peer.look().ended
    assert peer.source.retry is not None
    eof_at = early.kernel.eof_at  # type: ignore[attr-defined] # a HalfClosed
    assert begun + peer.source.retry / 1000 > eof_at


@every_kind
async def test_the_end_comes_behind_the_cut_block(kind: str, room: Room, autojump_clock: Clock) -> None:
    """Which is finished first; what is behind it in the log is not sent any more."""
    peer = await open_kind(room, kind)
    peer.kernel.credit = 20
    for data in ("first", "second"):
        await room.hub.publish(data)
    await close_while_cut(room, peer)
    assert b"first" in peer.body
    assert b"second" not in peer.body


@every_kind
async def test_who_does_not_take_the_end_is_cut_off(kind: str, autojump_clock: Clock) -> None:
    """After `close_timeout`."""
    async with open_room(close_timeout=5) as room:
        peer = await open_kind(room, kind)
        peer.kernel.stall()
        (client,) = room.hub.clients
        client.close()
        await room.quiet()
        assert not peer.kernel.closed
        await trio.sleep(5.1)
        assert peer.kernel.was_reset
        assert not room.hub.connections


@every_kind
async def test_over_any_trio_stream(kind: str, room: Room, autojump_clock: Clock) -> None:
    """Without a socket below, too."""
    target, headers = KINDS[kind]
    ours, theirs = trio.testing.memory_stream_pair()
    room.nursery.start_soon(room.hub.handle, ours)
    await theirs.send_all(get(target, *headers))
    await room.quiet()
    await room.hub.publish("hi")
    await room.quiet()
    room.hub.clients.by_id(next(iter(room.hub.clients)).id)[0].close()
    peer = StreamPeer(FakeKernel())
    while not peer.ended:
        peer.kernel.taken += await theirs.receive_some()
        peer.look()
    assert b"hi" in peer.body
    await theirs.aclose()
    await room.quiet()
    assert not room.hub.connections


async def test_who_is_connected_and_how(room: Room, autojump_clock: Clock) -> None:
    """Streams are among the clients, and are counted as what they are."""
    for kind in KINDS:
        await open_kind(room, kind)
    assert room.hub.broadcast.counts.opened == {
        ("sse", "raw"): 1,
        ("sse", "cloudevents"): 1,
        ("ndjson", "cloudevents"): 1,
    }
    shown = (await Web(room).ask(get("/clients"))).json["clients"]
    assert [(one["transport"], one["format"]) for one in shown] == [
        *(("sse", "raw"), ("sse", "cloudevents"), ("ndjson", "cloudevents"))
    ]


async def test_curl() -> None:
    """In both formats; it ends well when the server drains, and not when the connection is lost."""
    need(shutil.which("curl"), "curl is not installed")
    found: dict[str, Any] = {}

    async def curl(name: str, url: str, *arguments: str) -> None:
        command = ["curl", "-sN", *arguments, url]
        found[name] = await trio.run_process(command, capture_stdout=True, check=False)

    async with open_server(port=0, close_timeout=600) as server, trio.open_nursery() as nursery:
        url, epoch = server.url + "/events", server.hub.log.epoch
        nursery.start_soon(curl, "raw", url + "?exact.type=disk.full")
        nursery.start_soon(curl, "lines", url, "-H", NDJSON)
        nursery.start_soon(curl, "lost", url + "?id=lost")
        while len(server.hub.clients) < 3:
            await trio.lowlevel.checkpoint()
        await server.hub.publish("disk is full", type="disk.full", confirm=True)
        for connection in tuple(server.hub.connections.values()):
            if connection.client.id == "lost":  # type: ignore[attr-defined] # it is of HTTP
                connection.abort()
        await server.hub.publish("no", confirm=True)
        server.stop()
    raw, lines, lost = [found[name] for name in ("raw", "lines", "lost")]
    assert [raw.returncode, lines.returncode, lost.returncode != 0] == [0, 0, True]
    assert re.sub(r"retry: \d{4}\n", "", raw.stdout.decode()) == (
        f"id: {epoch}:0\n\nid: {epoch}:1\nevent: disk.full\ndata: disk is full\n\nid: {epoch}:2\n\n"
    )
    assert [json.loads(line)["type"] for line in lines.stdout.splitlines()] == [
        *("trionotify.welcome", "disk.full", "message", "trionotify.drain")
    ]


async def test_two_hundred_streams_and_as_many_websockets() -> None:
    """On real sockets: all get all, in order."""
    subscribers, publishes = 400, 500
    async with open_server(port=0, **PATIENT) as server, trio.open_nursery() as nursery:
        command = [sys.executable, "-m", "tests.swarm", str(server.port)]
        command += [str(subscribers), str(publishes), "1", "streams"]
        swarm = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE))
        output = b""
        while not output.endswith(b"ready\n"):
            output += await swarm.stdout.receive_some()
        opened = server.hub.broadcast.counts.opened
        assert opened == {("websocket", "raw"): 200, ("sse", "raw"): 200}
        for i in range(publishes):
            await server.hub.publish(f"{i}", type="t0")
        async for chunk in swarm.stdout:
            output += chunk
        assert output == b"ready\ncomplete\n"


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
    assert "x-mine" in allowed
    assert "POST" in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize(
    "origin", ["example.org", "https://example.org/path", "", "https://a, https://b"]
)
async def test_what_is_no_origin(origin: str) -> None:
    """Said before anything listens."""
    with pytest.raises(ValueError, match="allow_origin"):
        async with open_room(allow_origin=[origin]):
            raise AssertionError("it opened")


@pytest.mark.parametrize(
    ("host", "options", "status"),
    [
        ("127.0.0.1:8765", {}, 200),
        ("localhost:8765", {}, 200),
        ("LocalHost", {}, 200),
        ("hub.localhost", {}, 200),
        ("[::1]:8765", {}, 200),
        ("192.0.2.1", {}, 200),
        ("build-box", {}, 200),
        ("evil.example:8765", {}, 403),
        ("evil.example.", {}, 403),
        ("127.0.0.1.evil.example", {}, 403),
        ("localhost.evil.example", {}, 403),
        ("evil.example", {"allow_origin": "https://evil.example"}, 200),
        ("evil.example", {"trusted_proxy": "192.0.2.7"}, 403),
        ("evil.example", {"trusted_proxy": "127.0.0.1"}, 200),
        ("evil.example", {"insecure": True}, 200),
        ("evil.example", {"authenticate": lambda request: request.client()}, 200),
    ],
)
async def test_a_name_that_leads_here(host: str, options: dict[str, Any], status: int) -> None:
    """A page that rebinds its site's name to this machine is refused, where only that let it in."""
    async with open_server(port=0, **options) as server:
        for request, good, bad in (
            (get("/livez"), 200, 403),
            (get("/events"), 200, 403),
            (upgrade("/", f"Origin: http://{host}"), 101, 403),
            (upgrade("/"), 101, 101),  # which no page can send
        ):
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                named = request.replace(b"Host: test", f"Host: {host}".encode())
                assert f"Host: {host}".encode() in named
                await stream.send_all(named)
                found = int((await stream.receive_some())[9:12])
            assert found == (good if status == 200 else bad)
