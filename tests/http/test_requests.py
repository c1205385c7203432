"""Requests on one connection: answered in order, within limits, and never taken for something else."""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import h11
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock as Clock

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel, upgrade
from tests.web import Web, get, post
from trionotify import Client, Prefix, Refused, Request, open_server
from trionotify.http import files as files_module
from trionotify.http.connection import _without_empty_lines
from trionotify.http.routes import ADMIN, ALL, PUBLIC


async def test_requests_follow_each_other(room: Room, autojump_clock: Clock) -> None:
    """The connection is kept for the next."""
    web = Web(room)
    for _ in range(3):
        answer = await web.ask(get("/livez"))
        assert (answer.status, answer.body) == (200, b"ok\n")
        assert "connection" not in answer.headers
    assert not web.kernel.eof_sent


REQUESTS = [get("/livez"), post("/events?id=p", "hello"), get("/nope"), get("/readyz", method="HEAD")]
METHODS = ("GET", "POST", "GET", "HEAD")


@given(st.lists(st.integers(0, sum(map(len, REQUESTS))), max_size=8))
@settings(max_examples=60, deadline=None)
def test_pipelined_requests_are_answered_in_order(cuts: list[int]) -> None:
    """However they are cut into pieces."""

    async def main() -> None:
        async with open_room() as room:
            web = Web(room)
            data = b"".join(REQUESTS)
            for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
                if start < end:
                    web.kernel.feed(data[start:end])
                    await room.quiet()
            found = web.answers(*METHODS)
            assert [answer.status for answer in found] == [200, 200, 404, 200]
            assert found[1].json["cursor"].endswith(":1")
            assert found[3].body == b""

    trio.run(main, clock=Clock(autojump_threshold=0))


async def test_an_upgrade_after_other_requests(room: Room, autojump_clock: Clock) -> None:
    """A connection may become a client late."""
    web = Web(room)
    await web.ask(get("/livez"))
    web.kernel.feed(upgrade("/?id=late"))
    await room.quiet()
    assert room.hub.clients.by_id("late")


POST = b"POST /events HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: x"
SMUGGLED = {
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "length and chunks": POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a sign": POST + b"Content-Length: +1\r\n\r\na",
    "a list": POST + b"Content-Length: 1, 2\r\n\r\na",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 1\r\n\r\na",
    "a folded line": GET + b"\r\nX: a\r\n b\r\n\r\n",
    "bare line feeds": GET.replace(b"\r", b"") + b"\n\n",
    "one bare line feed": GET + b"\nX: y\r\n\r\n",
    "a bare carriage return": GET + b"\rX: y\r\n\r\n",
    "a zero byte": GET + b"\0\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"\r\nHost: y\r\n\r\n",
    "a chunk of another size": CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
    "a chunk's size with a bare line feed": CHUNKED + b"1\na\r\n0\r\n\r\n",
    "a bare line feed behind the trailers": CHUNKED + b"1\r\na\r\n0\r\nX: y\n\n",
    "a bare line feed behind a trailer": CHUNKED + b"1\r\na\r\n0\r\nX: y\nZ: 1\r\n\r\n",
    "a bare line feed behind the last chunk": CHUNKED + b"1\r\na\r\n0\r\n\n",
    "a folded trailer": CHUNKED + b"1\r\na\r\n0\r\nX: y\r\n z\r\n\r\n",
    "a bare carriage return in a chunk's line": CHUNKED + b"1;a\rb\r\na\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-1\r\n\r\n",
}


@pytest.mark.parametrize("size", [1, 7, 1_000])
@pytest.mark.parametrize("shape", SMUGGLED)
async def test_what_could_be_smuggled(shape: str, size: int, room: Room, autojump_clock: Clock) -> None:
    """It is refused, and behind it the connection is closed: the rest belongs to no request."""
    web = Web(room)
    request = SMUGGLED[shape] + get("/clients")
    for at in range(0, len(request), size):
        web.kernel.feed(request[at : at + size])
        await room.quiet()
    (answer,) = web.answers("POST")
    assert answer.status in (400, 501)
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/problem+json"
    assert web.kernel.eof_sent
    assert room.hub.log.head == 0


async def test_ten_thousand_header_fields(room: Room, autojump_clock: Clock) -> None:
    """431, by their number or by their size."""
    for count in (101, 10_000):
        answer = await Web(room).ask(get("/livez", *[f"X{n}: y" for n in range(count)]))
        assert answer.status == 431


@pytest.mark.parametrize("end", [b"", b"\r\n"])
async def test_a_body_that_drips(end: bytes, autojump_clock: Clock) -> None:
    """408 after `request_timeout`, and nothing is published."""
    async with open_room(request_timeout=7) as room:
        web = Web(room)
        begun = trio.current_time()
        web.kernel.feed(get("/events", "Content-Length: 100", method="POST"))
        while not web.kernel.taken:
            web.kernel.feed(b"x" + end)
            await trio.sleep(1)
        assert trio.current_time() - begun == pytest.approx(7, abs=1)
        (answer,) = web.answers("POST")
        assert answer.status == 408
        assert room.hub.log.head == 0


async def test_a_body_that_is_too_long(autojump_clock: Clock) -> None:
    """413 as soon as it shows, whether it said so or not."""
    async with open_room(max_body_bytes=10) as room:
        assert (await Web(room).ask(post("/events", "x" * 11))).status == 413
        chunked = get("/events", "Transfer-Encoding: chunked", method="POST") + b"b\r\nhello world\r\n"
        answer = await Web(room).ask(chunked)
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert (await Web(room).ask(post("/events", "x" * 10))).status == 200


async def test_a_body_that_says_it_is_too_long(autojump_clock: Clock) -> None:
    """413 by its `Content-Length` alone: none of it is asked for, or waited for."""
    async with open_room(max_message_bytes=10) as room:
        for length, fields in ((11, ()), (11, ("Expect: 100-continue",)), (10**19, ())):
            web = Web(room)
            head = get("/events", f"Content-Length: {length}", *fields, method="POST")
            answer = await web.ask(head, "POST")
            assert (answer.status, answer.headers["connection"]) == (413, "close")
            assert answer.json["detail"] == "request body: must have at most 10 bytes"
            assert bytes(web.kernel.taken).count(b"HTTP/1.1") == 1
        batch = "Content-Type: application/cloudevents-batch+json"
        web = Web(room)
        web.kernel.feed(
            get("/events", "Content-Length: 11", "Expect: 100-continue", batch, method="POST")
        )
        await room.quiet()
        assert bytes(web.kernel.taken) == b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_a_length_is_of_one_request(autojump_clock: Clock) -> None:
    """The next one, without a body, isn't taken to be as long."""
    async with open_room(max_message_bytes=10) as room:
        web = Web(room)
        batch = "Content-Type: application/cloudevents-batch+json"
        assert (await web.ask(post("/events", "[]".ljust(20), batch), "POST")).status == 200
        assert (await web.ask(get("/events", method="POST"), "POST")).status == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_who_sends_all_before_it_reads_hears_why_not(chunked: bool) -> None:
    """The rest of its body is discarded for a while. Otherwise its kernel would discard the answer."""
    body, field = b"x" * (8 << 20), f"Content-Length: {8 << 20}"
    if chunked:
        body, field = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), "Transfer-Encoding: chunked"
    async with open_server(port=0, close_timeout=120) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port or 0) as stream:
            await stream.send_all(get("/events", field, method="POST") + body)
            await stream.send_eof()
            said = b"".join([data async for data in stream])
    assert said.startswith(b"HTTP/1.1 413")
    assert said.endswith(b'"request body: must have at most 1048576 bytes"}\n')


async def test_the_peer_leaves_in_the_middle_of_a_body(room: Room, autojump_clock: Clock) -> None:
    """Nothing is published."""
    web = Web(room)
    web.kernel.feed(get("/events", "Content-Length: 100", method="POST") + b"half")
    web.kernel.hang_up()
    await room.quiet()
    assert web.kernel.closed
    assert not web.kernel.taken
    assert room.hub.log.head == 0


async def test_a_body_that_waits_to_be_asked_for(room: Room, autojump_clock: Clock) -> None:
    """`Expect: 100-continue`: it is, when it is wanted, and else the answer comes at once."""
    web = Web(room)
    head = get("/events", "Content-Length: 5", "Expect: 100-continue", method="POST")
    web.kernel.feed(head)
    await room.quiet()
    assert bytes(web.kernel.taken) == b"HTTP/1.1 100 Continue\r\n\r\n"
    web.kernel.taken.clear()
    assert (await web.ask(b"hello", "POST")).status == 200
    answer = await Web(room).ask(head.replace(b"/events", b"/nope"))
    assert (answer.status, answer.headers["connection"]) == (404, "close")


async def test_an_idle_connection_is_closed(autojump_clock: Clock) -> None:
    """After `keep_alive_timeout`, without a word."""
    async with open_room(keep_alive_timeout=9) as room:
        web = Web(room)
        await web.ask(get("/livez"))
        await trio.sleep(8.9)
        assert not web.kernel.closed
        await trio.sleep(0.4)
        assert web.kernel.closed
        assert not web.kernel.was_reset
        assert not room.hub.entrance.half_open


async def test_idle_connections_make_room(autojump_clock: Clock) -> None:
    """They count as half-open: the oldest goes when there are too many."""
    async with open_room(max_half_open=2) as room:
        first, second = Web(room), Web(room)
        await first.ask(get("/livez"))
        await second.ask(get("/livez"))
        assert (await Web(room).ask(get("/livez"))).status == 200
        assert (first.kernel.closed, second.kernel.closed) == (True, False)


@pytest.mark.parametrize("other", ["192.0.2.1:1", "192.0.2.2:1"])
async def test_the_one_that_is_idle_for_longest_makes_room(other: str, autojump_clock: Clock) -> None:
    """Not the one that came first, if it has asked since. The same holds between two addresses."""
    async with open_room(max_half_open=2) as room:
        first = Web(room, remote="192.0.2.1:1")
        await room.quiet()
        second = Web(room, remote=other)
        for web in (first, second, first):
            await web.ask(get("/livez"))
            await trio.sleep(1)
        assert (await Web(room, remote="192.0.2.3:1").ask(get("/livez"))).status == 200
        assert (first.kernel.closed, second.kernel.closed) == (False, True)


async def test_each_request_has_its_own_time(autojump_clock: Clock) -> None:
    """However long the connection was idle before, and however long the head and the body took."""
    async with open_room(keep_alive_timeout=5, head_timeout=7, request_timeout=10) as room:
        web = Web(room)
        await web.ask(get("/livez"))
        for part in (b"GET /li", b"vez HTTP/1.1\r\nHost: test\r\n\r\n"):
            await trio.sleep(4.9)
            web.kernel.feed(part)
        await room.quiet()
        assert [answer.status for answer in web.answers()] == [200]
        head = get("/events", "Content-Length: 5", method="POST")
        for part in (head[:9], head[9:], b"he", b"llo"):
            await trio.sleep(4.9)
            web.kernel.feed(part)
        await room.quiet()
        (answer,) = web.answers("POST")
        assert (answer.status, "connection" in answer.headers) == (200, False)


async def test_a_request_whose_time_is_over_is_the_last(mock_clock: Clock) -> None:
    """If its answer is found nonetheless, it is sent."""

    def authenticate(request: Request) -> Client:
        mock_clock.jump(31)
        return request.client("al")

    async with open_room(authenticate=authenticate, request_timeout=30) as room:
        web = Web(room)
        answer = await web.ask(
            get("/events", "Content-Encoding: gzip", "Content-Length: 0", method="POST")
        )
        assert (answer.status, answer.headers["connection"]) == (415, "close")


async def test_an_answer_whose_time_is_over_is_sent_whole(mock_clock: Clock) -> None:
    """Also if the kernel has no room for all of it."""

    def authenticate(request: Request) -> Client:
        mock_clock.jump(31)
        return request.client("al")

    async with open_room(authenticate=authenticate, request_timeout=30) as room:
        web = Web(room, FakeKernel(credit=10))
        head = get("/events", "Content-Encoding: gzip", "Content-Length: 0", method="POST")
        web.kernel.feed(head)
        await room.quiet()
        assert web.kernel.taken == b"HTTP/1.1 4"
        web.kernel.grant(None)
        await room.quiet()
        (answer,) = web.answers()
        assert (answer.status, answer.headers["connection"]) == (415, "close")


async def test_a_stop_cuts_an_answer_off(autojump_clock: Clock) -> None:
    """No other answer follows, because it would be taken for that to the peer's next request."""
    async with open_room() as room:
        web = Web(room, FakeKernel(credit=10))
        web.kernel.feed(get("/livez"))
        await room.quiet()
        room.hub.entrance.stop_accepting("the server stops")
        await trio.sleep(1.1)
        assert (web.kernel.taken, web.kernel.was_reset) == (b"HTTP/1.1 2", True)


async def test_a_stop_closes_idle_connections(autojump_clock: Clock) -> None:
    """Once no client is let in any more, they aren't waited for."""
    async with open_room() as room:
        web = Web(room)
        await web.ask(get("/livez"))
        await room.hub.drain(60)
        assert web.kernel.closed


async def test_old_http(room: Room, autojump_clock: Clock) -> None:
    """HTTP/1.0 gets its answer, and the connection is closed."""
    web = Web(room)
    answer = await web.ask(b"GET /livez HTTP/1.0\r\n\r\n")
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert web.kernel.eof_sent


@pytest.mark.parametrize("target", ["/", "/livez", "/readyz", "/metrics", "/clients", "/trionotify.js"])
async def test_old_http_reads_all(target: str, room: Room, autojump_clock: Clock) -> None:
    """With a length, and the end behind it, even for who wants the connection kept."""
    fields = ("Accept: text/html, */*;q=0.8", "Connection: keep-alive")
    new = await Web(room).ask(get(target, *fields))
    web = Web(room)
    old = await web.ask(get(target, *fields, version="1.0"))
    assert (old.status, old.headers["connection"]) == (200, "close")
    assert old.headers["content-length"] == str(len(old.body))
    assert "transfer-encoding" not in old.headers
    assert old.headers["content-type"] == new.headers["content-type"]
    assert web.kernel.eof_sent


async def test_old_http_publishes(room: Room, autojump_clock: Clock) -> None:
    """And is refused as others are; it can't ask to be asked for its body."""
    for text, expect in (("one", ()), ("two", ("Expect: 100-continue",))):
        web = Web(room)
        answer = await web.ask(post("/events", text, *expect).replace(b"HTTP/1.1", b"HTTP/1.0"), "POST")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert bytes(web.kernel.taken).startswith(b"HTTP/1.1 200")
    found = [entry.notification.data for entry in room.hub.log.read(0, 100)]
    assert found == ["one", "two"]
    request = post("/events?type=trionotify.x", "x").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert (await Web(room).ask(request, "POST")).status == 400
    answer = await Web(room).ask(b"POST /events HTTP/1.0\r\n\r\nnobody knows how long I am", "POST")
    assert (answer.status, answer.headers["connection"]) == (411, "close")
    assert room.hub.log.head == 2


@pytest.mark.parametrize("version", ["0.9", "2.0"])
async def test_http_of_another_version(version: str, room: Room, autojump_clock: Clock) -> None:
    """Is refused by whatever it asks."""
    for target in ("/livez", "/events"):
        request = get(target, "Accept: text/event-stream").replace(
            b"HTTP/1.1", b"HTTP/" + version.encode()
        )
        assert (await Web(room).ask(request)).status == 505


async def test_a_later_minor_version(room: Room, autojump_clock: Clock) -> None:
    """Is served as 1.1 (RFC 9110, section 6.2)."""
    web = Web(room)
    for _ in range(2):
        answer = await web.ask(get("/livez", version="1.2"))
        assert (answer.status, answer.headers.get("connection")) == (200, None)
    web.kernel.feed(upgrade("/?id=late").replace(b"HTTP/1.1", b"HTTP/1.3"))
    await room.quiet()
    assert room.hub.clients.by_id("late")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_length_of_nothing_is_no_body(method: str, room: Room, autojump_clock: Clock) -> None:
    """The connection is kept, and what is behind it is the next request."""
    web = Web(room)
    web.kernel.feed(get("/livez", "Content-Length: 0", method=method) + get("/livez"))
    await room.quiet()
    first, second = web.answers(method, "GET")
    assert "connection" not in first.headers
    assert (second.status, second.body) == (200, b"ok\n")


HUGE = {
    "target": b"GET /livez?" + b"x" * 300_000 + b" HTTP/1.1\r\n%b\r\n",
    "field": b"GET /livez HTTP/1.1\r\nCookie: " + b"x" * 300_000 + b"\r\n%b\r\n",
    "number of fields": b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 50_000 + b"%b\r\n",
}


@pytest.mark.parametrize("size", [999, 65_536])
@pytest.mark.parametrize("name", HUGE)
async def test_why_a_huge_head_is_refused(
    name: str, size: int, room: Room, autojump_clock: Clock
) -> None:
    """An allowed page can read that, and the server keeps little of the head."""
    page = b"hOst : test\r\nOrigin: http://test\r\n"
    for fields, allowed in ((page, "http://test"), (b"X" + page, None)):
        web, request = Web(room), HUGE[name] % fields
        for at in range(0, len(request), size):
            web.kernel.feed(request[at : at + size])
            await room.quiet()
        (answer,) = web.answers()
        assert answer.status == 431
        assert answer.headers.get("access-control-allow-origin") == allowed


async def test_a_head_without_an_end(room: Room, autojump_clock: Clock) -> None:
    """It is refused after half a second, however it is sent."""
    for line in (b"x" * 50_000, b"a: b\r\n" * 9_000, b"Origin: a\r\n" * 5_000):
        web = Web(room)
        web.kernel.feed(b"GET / HTTP/1.1\r\n")
        for _ in range(30):
            web.kernel.feed(line)
        await trio.sleep(1)
        (answer,) = web.answers()
        assert answer.status == 431


async def test_other_methods(room: Room, autojump_clock: Clock) -> None:
    """405 with those that there are; OPTIONS asks for them."""
    answer = await Web(room).ask(get("/events", method="DELETE"))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST, HEAD, OPTIONS")
    answer = await Web(room).ask(get("/livez", method="OPTIONS"))
    assert (answer.status, answer.headers["allow"], answer.body) == (204, "GET, HEAD, OPTIONS", b"")
    assert "content-length" not in answer.headers


async def test_what_is_asked_about_the_whole_server(room: Room, autojump_clock: Clock) -> None:
    """OPTIONS alone; at an admin port, too."""
    for routes, allowed in (
        (ALL, "GET, POST, DELETE, HEAD, OPTIONS"),
        (ADMIN, "GET, DELETE, HEAD, OPTIONS"),
    ):
        web = Web(room, routes=routes)
        answer = await web.ask(get("*", method="OPTIONS"))
        assert (answer.status, answer.headers["allow"]) == (204, allowed)
        answer = await web.ask(get("*"))
        assert answer.status == 400
        assert answer.json["detail"] == "request target: * is only for OPTIONS"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        *[("GET", target) for target in ("livez", "?x=1", "test:80", "ftp://test/livez", "x", "*x")],
        *[("OPTIONS", "livez"), ("CONNECT", "test:443"), ("TRACE", "livez"), ("POST", "events")],
    ],
)
async def test_what_is_no_target(method: str, target: str, room: Room, autojump_clock: Clock) -> None:
    """RFC 9112, section 3.2: a path that starts with a slash, or a URL. A star is for OPTIONS alone."""
    web = Web(room)
    answer = await web.ask(get(target, method=method), method)
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert answer.json["detail"] == "request target: must be a path that starts with /, or a URL"


async def test_answers_in_json_are_lines(room: Room, autojump_clock: Clock) -> None:
    """So a shell's prompt begins on the next one."""
    await room.connect("/?id=a")
    for request, method in (
        (get("/clients"), "GET"),
        (get("/clients?limit=0"), "GET"),
        (get("/clients?exact.id=b", method="DELETE"), "DELETE"),
        (get("/nodes"), "GET"),
        (get("/metrics", "Accept: application/json"), "GET"),
        (get("/nowhere"), "GET"),
        (post("/events", "x"), "POST"),
        (post("/events", "[]", "Content-Type: application/cloudevents-batch+json"), "POST"),
    ):
        answer = await Web(room).ask(request, method)
        assert answer.headers["content-type"] in ("application/json", "application/problem+json")
        assert answer.body.endswith((b"}\n", b"]\n"))
        assert answer.body.count(b"\n") == 1


@pytest.mark.parametrize("page", [True, False])
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ((), "text/plain"),
        (("Accept: */*",), "text/plain"),
        (("Accept: text/*",), "text/plain"),
        (("Accept: text/html;q=0.5, text/plain",), "text/plain"),
        (("Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",), "text/html"),
        (("Accept: text/html",), "text/html"),
        (("Accept: application/json",), None),
        (("Accept: image/*, text/event-stream",), None),
    ],
)
async def test_who_asks_what_is_here(
    accept: tuple[str, ...], kind: str | None, page: bool, autojump_clock: Clock
) -> None:
    """A person gets the page, a program, like a load balancer, a few words; others want a WebSocket."""
    async with open_room(page=page) as room:
        answer = await Web(room).ask(get("/", *accept))
        if kind is None:
            assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")
            return
        found = kind if page else "text/plain"
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, found)
        assert found == "text/html" or b"Connect a WebSocket to /events" in answer.body
        head = await Web(room).ask(get("/", *accept, method="HEAD"), "HEAD")
        assert (head.status, head.headers["content-length"], head.body) == (
            *(200, str(len(answer.body))),
            b"",
        )


async def test_no_browser_is_to_guess(room: Room, autojump_clock: Clock) -> None:
    """Every answer says what its content is."""
    for request in (
        *(
            get("/"),
            get("/livez"),
            get("/metrics"),
            get("/clients"),
            get("/trionotify.js"),
            get("/nowhere"),
        ),
        *(
            get("/", method="OPTIONS"),
            post("/events", "x"),
            get("/events?id="),
            get("/events", "Accept: x/y"),
        ),
    ):
        answer = await Web(room).ask(request)
        assert answer.headers["x-content-type-options"] == "nosniff"
    for kind in ("text/event-stream", "application/x-ndjson"):
        web = Web(room)
        web.kernel.feed(get("/events", f"Accept: {kind}"))
        await room.quiet()
        assert web.stream()[0].headers["x-content-type-options"] == "nosniff"


async def test_a_reader_that_takes_no_answer(autojump_clock: Clock) -> None:
    """It is dropped after `stall_timeout`, and one that takes a byte now and then is not."""
    async with open_room() as room:
        seconds = room.hub.settings.stall_timeout
        slow, web = (Web(room, FakeKernel(credit=0)) for _ in range(2))
        slow.kernel.feed(get("/livez", "Connection: close"))
        web.kernel.feed(get("/livez"))
        await trio.sleep(seconds - 0.1)
        slow.kernel.grant(1)
        assert not web.kernel.closed
        await trio.sleep(0.2)
        assert web.kernel.was_reset
        slow.kernel.grant(20)
        await room.quiet()
        while not slow.kernel.taken.endswith(b"ok\n"):
            await trio.sleep(seconds - 0.1)
            assert not slow.kernel.closed
            slow.kernel.grant(20)
            await room.quiet()


async def test_authenticate_is_asked_about_who_is_connected(autojump_clock: Clock) -> None:
    """And about the metrics and checks, but not at a port of the operator's own; it sees the path."""

    async def authenticate(request: Request) -> Client:
        if request.header("cookie") != f"may={request.path}":
            raise Refused(403, "cookie: not for you")
        return request.client("operator")

    async with open_room(authenticate=authenticate) as room:
        for path in ("/clients", "/metrics"):
            answer = await Web(room).ask(get(path))
            assert (answer.status, answer.json["detail"]) == (403, "cookie: not for you")
            assert (await Web(room).ask(get(path, f"Cookie: may={path}"))).status == 200
            assert (await Web(room, routes=ADMIN).ask(get(path))).status == 200
        for path in ("/readyz", "/readyz?verbose"):
            answer = await Web(room).ask(get(path))
            assert (answer.status, answer.body) == (200, b"ok\n")
        details = b"accepting: ok\nlog: ok\n"
        assert (await Web(room).ask(get(path, "Cookie: may=/readyz"))).body == details
        assert (await Web(room, routes=ADMIN).ask(get(path))).body == details


@pytest.mark.parametrize(
    "query",
    [
        {"exact.user_name": "al"},
        {"filters": json.dumps([{"exact": {"user_name": "al"}}])},
        {"filters": json.dumps([{"prefix": {"user_name": "a"}}] * 9)},
    ],
)
async def test_whom_an_application_lets_disconnect_others(
    query: dict[str, str], autojump_clock: Clock
) -> None:
    """The filters are about the parameters of clients, which may have any name."""
    async with open_room(authenticate=lambda request: request.client()) as room:
        peer = await room.connect("/?id=al&user_name=al")
        answer = await Web(room).ask(get(f"/clients?{urlencode(query)}", method="DELETE"), "DELETE")
        assert (answer.status, answer.json) == (200, {"disconnected": 1})
        await room.quiet()
        assert peer.look().close == (4403, "disconnected")


async def test_who_administers_elsewhere(room: Room, autojump_clock: Clock) -> None:
    """With a port of their own, `/clients` and the like are there, and clients aren't."""
    assert (await Web(room, routes=PUBLIC).ask(get("/clients"))).status == 404
    assert (await Web(room, routes=ADMIN).ask(get("/clients"))).status == 200
    assert (await Web(room, routes=ADMIN).ask(get("/events"))).status == 404
    assert (await Web(room, routes=ADMIN).ask(upgrade("/"))).status == 404


async def test_readiness(room: Room, autojump_clock: Clock) -> None:
    """503 while draining; `?verbose` lists the checks."""
    assert (await Web(room).ask(get("/readyz"))).body == b"ok\n"
    web = Web(room)
    assert (await web.ask(get("/readyz?verbose"))).body == b"accepting: ok\nlog: ok\n"
    web.kernel.feed(get("/readyz?verbose")[:-2])
    await room.quiet()
    room.hub.stop_accepting("draining")
    answer = await web.ask(b"\r\n")
    assert (answer.status, answer.body) == (503, b"accepting: draining\nlog: ok\n")


def early(port: int, request: bytes) -> trio.SocketStream:
    """A connection whose request is there before the server accepts it, so that none comes too late."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(request)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def test_real_sockets_and_a_bystander() -> None:
    """Whatever one sends, or doesn't, it is answered with an error and closed; another goes on."""
    requests = [request + get("/clients") for request in SMUGGLED.values()]
    requests += [get("/livez", *[f"X{n}: y" for n in range(10_000)]), b"\x16\x03\x01", b"\n" * 100_000]
    requests += [post("/events", "x" * 100_000), get("/events", "Content-Length: 9", method="POST")]
    requests += [GET]
    options: dict[str, Any] = {"head_timeout": 0.2, "request_timeout": 0.2, "max_body_bytes": 10_000}
    async with (
        open_server(port=0, **options) as server,
        early(server.port or 0, get("/events")) as bystander,
    ):
        assert (await bystander.receive_some()).startswith(b"HTTP/1.1 200")
        for request in requests:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port or 0)
            said = b""
            async with stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(request)
                    async for data in stream:
                        said += data
            assert said.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501")), (request[:80], said)
            assert said.count(b"HTTP/1.1") == 1
        await server.hub.publish("fine", confirm=True)
        heard = b""
        while b"data: fine" not in heard:
            heard += (more := await bystander.receive_some())
            assert more, heard
        assert server.hub.log.head == 1


async def test_empty_lines_before_a_request(room: Room, autojump_clock: Clock) -> None:
    """RFC 9112, section 2.2: they are ignored, however they are cut, also behind a body."""
    for pieces in ((b"\r\n",), (b"\r", b"\n"), (b"\r\n" * 5,), (b"\r\n\r", b"\n")):
        web = Web(room)
        for number in range(3):
            for piece in pieces:
                web.kernel.feed(piece)
                await room.quiet()
                assert len(web.kernel.taken) == web._read
            request = get("/livez") if number != 1 else post("/events?type=x", "x")
            assert (await web.ask(request)).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ("X: y\nZ: 1\r\n", 400),
        (" folded\r\n", 400),
        ("a: b\r\n" * 101, 431),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", 400),
        ("X: " + "a" * 17_000 + "\r\n", 431),
        ("caf\xe9: x\r\n", 400),
        ("Upgrade: h2c\r\nX: y\nZ: 1\r\n", 400),
    ],
)
async def test_what_cant_be_read_is_answered(
    method: str, fields: str, status: int, room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """To HEAD without a body; and a page that may use the server can see why."""
    web = Web(room)
    lines = f"{method} /livez HTTP/1.1\r\nHost: test\r\nOrigin: http://test\r\n{fields}\r\n"
    web.kernel.feed(lines.encode("latin-1"))
    await trio.sleep(1)
    (answer,) = web.answers(method)
    assert answer.status == status
    assert answer.headers["access-control-allow-origin"] == "http://test"
    assert bool(answer.body) == (method == "GET")
    assert int(answer.headers["content-length"]) > 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_machine_that_is_out_of_something(
    room: Room, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the system in a handler is a 503, without a traceback."""

    def fail(*_: object) -> bytes:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(files_module, "_contents", fail)
    answer = await Web(room).ask(get("/trionotify.js"))
    assert answer.status == 503
    assert answer.headers["retry-after"]


async def test_chunks_that_weigh_more_than_what_is_in_them(room: Room, autojump_clock: Clock) -> None:
    """Their framing counts, too: extensions of kilobytes around each byte are a 413."""
    web = Web(room)
    chunk = b"1;" + b"x" * 1_000 + b"\r\na\r\n"
    web.kernel.feed(get("/events?type=x", "Transfer-Encoding: chunked", method="POST") + chunk * 2_500)
    await room.quiet()
    assert web.kernel.taken.startswith(b"HTTP/1.1 413 ")


async def test_an_interim_answer_that_was_cut_goes_out_first(room: Room, autojump_clock: Clock) -> None:
    """Where the deadline comes in the middle of "100 Continue", the refusal stands behind all of it."""
    kernel = FakeKernel(credit=5)
    Web(room, kernel)
    kernel.feed(get("/events", "Expect: 100-continue", "Content-Length: 5", method="POST"))
    await trio.sleep(room.hub.settings.request_timeout + 1)
    assert kernel.taken == b"HTTP/"
    kernel.grant(None)
    await room.quiet()
    assert kernel.taken.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 408 ")


#: What takes a parser long that does all of it in one go: as many as fit into one read, and the answer.
LONG_WORK = {
    "empty lines": (b"\r\n" * 32_000 + get("/livez"), 200),
    "header fields": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 15_000 + b"\r\n", 431),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n" + b"a:\r\n" * 15_000 + b"\r\n", 431),
    "a chunk's extension": (CHUNKED + b"1" + b";a=b" * 15_000 + b"\r\nx\r\n0\r\n\r\n", 431),
}


@pytest.mark.parametrize("name", LONG_WORK)
async def test_no_request_takes_long_in_one_step(
    room: Room, autojump_clock: Clock, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much of one thing is in it: the parser works in one go, so it gets little at a time."""
    given: list[int] = []
    receive = h11.Connection.receive_data

    def noting(parser: h11.Connection, data: bytes) -> None:
        given.append(len(data))
        receive(parser, data)

    monkeypatch.setattr(h11.Connection, "receive_data", noting)
    request, status = LONG_WORK[name]
    web = Web(room)
    web.kernel.feed(request)
    await room.quiet()
    monkeypatch.undo()
    assert [answer.status for answer in web.answers()] == [status]
    assert max(given, default=0) <= 1024


def test_empty_lines_are_cut_off_at_once() -> None:
    """Two bytes at a time, a million of them would take hours."""
    assert _without_empty_lines(b"\r\n" * 1_000_000 + b"x") == b"x"


async def test_the_first_items_of_a_long_list_count(room: Room, autojump_clock: Clock) -> None:
    """Thousands fit into a head, and each takes its time."""
    many = ", ".join(f"a/{number}" for number in range(1_000))
    assert (await Web(room).ask(get("/events", f"Accept: {many}, text/event-stream"))).status == 406
    asked = "Access-Control-Request-Headers: " + ", ".join(f"x{number}" for number in range(1_000))
    page = ("Origin: http://test", "Access-Control-Request-Method: POST", asked)
    answer = await Web(room).ask(get("/events", *page, method="OPTIONS"), "OPTIONS")
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert "x0" in allowed
    assert "x999" not in allowed


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
async def test_short_trailers_are_let_pass(room: Room, autojump_clock: Clock, size: int) -> None:
    """Trailers, and what a chunk says besides its size, are left out, however the body is cut."""
    web = Web(room)
    trailers = b"".join(b"x-%d: y\r\n" % number for number in range(20))
    request = CHUNKED + b"3;a=b\r\na\nc\r\n2\r\n\r \r\n0\r\n" + trailers + b"\r\n"
    for at in range(0, len(request), size):
        web.kernel.feed(request[at : at + size])
        await room.quiet()
    (answer,) = web.answers("POST")
    assert answer.status == 200
    assert [entry.notification.data for entry in room.hub.log.read(0, 9)] == ["a\nc\r "]
    assert (await web.ask(get("/livez"))).status == 200


async def test_a_head_may_be_as_long_as_the_limit(room: Room, autojump_clock: Clock) -> None:
    """In whatever pieces it comes, and what is behind it counts for itself."""
    start = b"GET /livez HTTP/1.1\r\nHost: x\r\nX: "
    head = start + b"x" * (16_384 - len(start) - 4) + b"\r\n\r\n"
    whole = Web(room)
    whole.kernel.feed(head * 3)
    pieces = Web(room)
    for at in range(0, 3 * len(head), 1_000):
        pieces.kernel.feed((head * 3)[at : at + 1_000])
        await room.quiet()
    for web in (whole, pieces):
        assert [answer.status for answer in web.answers("GET", "GET", "GET")] == [200] * 3
    assert (await whole.ask(head.replace(b"X:", b"XX:"))).status == 431


# --- a process that was stopped ---


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [
        (b"", get("/livez")),
        (b"GET /livez HT", b"TP/1.1\r\nHost: test\r\n\r\n"),
        (get("/events?type=t", "Content-Length: 2", method="POST") + b"x", b"y"),
        (CHUNKED + b"1\r\nx\r\n", b"0\r\n\r\n"),
        (get("/livez"), get("/livez")),
    ],
)
async def test_what_came_while_the_process_was_stopped_is_read_first(
    room: Room, autojump_clock: Clock, before: bytes, meanwhile: bytes
) -> None:
    """No deadline that went by meanwhile counts against a request that is here."""
    web = Web(room)
    if before:
        web.kernel.feed(before)
    await room.quiet()
    web.kernel.feed(meanwhile)
    autojump_clock.jump(3600)
    await room.quiet()
    statuses = re.findall(rb"^HTTP/1.1 (\d+)", bytes(web.kernel.taken), re.MULTILINE)
    assert statuses == [b"200"] * (2 if before.startswith(b"GET /livez HTTP") else 1)


async def test_an_answer_goes_on_after_a_stop(room: Room, autojump_clock: Clock) -> None:
    """The client has read all the time, so there is room for more."""
    web = Web(room, FakeKernel(credit=10))
    web.kernel.feed(get("/page.js"))
    await room.quiet()
    web.kernel.credit = None
    autojump_clock.jump(3600)
    await room.quiet()
    (answer,) = web.answers()
    assert answer.status == 200


async def test_cookies_in_several_headers_are_one_list(autojump_clock: Clock) -> None:
    """HTTP/2 splits them, and a proxy passes that on; other headers are joined by commas."""
    seen: list[tuple[str | None, str | None]] = []

    def authenticate(request: Request) -> Client:
        seen.append((request.header("cookie"), request.header("x-tag")))
        return request.client()

    async with open_room(authenticate=authenticate) as room:
        await room.connect("/", "Cookie: a=1", "X-Tag: one", "Cookie: b=2; c=3", "X-Tag: two")
    assert seen == [("a=1; b=2; c=3", "one, two")]


class Stubborn(FakeKernel):
    """A transport that doesn't close until it is made to."""

    async def aclose(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._close()


async def test_closing_has_a_deadline_and_is_counted(autojump_clock: Clock) -> None:
    """Also where a connection ends because no other request came on it."""
    async with open_room(keep_alive_timeout=5, close_timeout=2) as room:
        web = Web(room, Stubborn())
        await web.ask(get("/livez"))
        await trio.sleep(5.5)
        assert not web.kernel.closed
        await trio.sleep(2)
        assert web.kernel.closed
        assert not room.hub.entrance.half_open


@pytest.mark.parametrize("query", ["", "&exact.type=b", "&prefix.type=a"])
async def test_a_predicate_of_authenticate_is_a_limit(query: str, autojump_clock: Clock) -> None:
    """Also on the record that the query describes."""

    def authenticate(request: Request) -> Client:
        client = request.client("al")
        client.subscribe(Prefix(type="a"))
        return client

    async with open_room(authenticate=authenticate) as room:
        peer = await room.connect(f"/?format=cloudevents{query}")
        for type in ("b", "a1"):
            await room.hub.publish(type=type, confirm=True)
        peer.say(
            '{"specversion":"1.0","id":"1","source":"/s","type":"trionotify.subscribe","data":{"filters":[]}}'
        )
        await room.quiet()
        for type in ("b", "a2"):
            await room.hub.publish(type=type, confirm=True)
        await room.quiet()
        types = [json.loads(text)["type"] for text in peer.look().messages]
        got = [type for type in types if not type.startswith("trionotify.")]
        assert got == (["a2"] if "exact" in query else ["a1", "a2"])
