"""Origins: which ones are allowed, which can't be, and what a browser is told."""

from __future__ import annotations

import pytest
import trio.testing

from tests.conftest import Room, open_room
from tests.kernel import upgrade
from tests.web import Web, get, post
from trionotify.http.origins import Origins

Clock = trio.testing.MockClock


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        ("file://", "file://", True),
        ("file://", "file://host", False),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("capacitor://localhost", "http://localhost", False),
        ("chrome-extension://abc", "chrome-extension://abc", True),
        ("null", "null", True),
        ("null", "file://", False),
        ("https://Example.org:443", "https://example.org", True),
        ("https://example.org", "https://example.org:443", True),
        ("https://example.org", "https://example.org:8443", False),
        ("https://example.org", "https://example.org.", False),
        ("https://bücher.example", "https://xn--bcher-kva.example", True),
        ("https://*.bücher.example", "https://shop.xn--bcher-kva.example", True),
        ("https://BÜCHER.example:444", "https://xn--bcher-kva.example:444", True),
        ("https://💩.la", "https://xn--ls8h.la", True),
        ("https://*.☃.Example", "https://a.xn--n3h.example", True),
        ("https://bü_cher.example:81", "https://xn--b_cher-3ya.example:81", True),
        ("https://*.example.org:8443", "https://a.b.example.org:8443", True),
        ("https://*.example.org:8443", "https://a.example.org", False),
        ("https://*.example.org", "https://evilexample.org", False),
        ("https://*.example.org", "https://example.org", False),
        ("https://*.example.org", "http://a.example.org", False),
        ("https://*.example.org", "https://a.example.org.evil", False),
        ("http://[::1]:3000", "http://[0:0::1]:3000", True),
        ("http://[::1]:3000", "http://[::1]", False),
        ("*", "https://anything.example", True),
        ("*", "null", True),
        ("*", "https://caf\xe9", False),
        ("*", "https://a\x1b[31m", False),
        ("*", "https://a/path", False),
        ("*", "https://a https://b", False),
        ("*", "https://a, https://b", False),
        ("*", "https://user@a", False),
        ("*", "https://", False),
        ("*", "a.example", False),
        ("*", "NULL", False),
        ("*", "", False),
    ],
)
def test_what_is_allowed(allowed: str, origin: str, expected: bool) -> None:
    """By scheme, host and port; what is no origin never is, and is not repeated."""
    origins = Origins([allowed])
    assert origins.allows(origin, "test") is expected
    fields = dict(origins.fields_for(origin, "test"))
    assert fields.get("Access-Control-Allow-Origin") == (origin if expected else None)
    assert fields["Vary"] == "Origin"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "give each origin by itself"),
        ("https://a, https://b", "give each origin by itself, without spaces and commas"),
        ("https://a https://b", "give each origin by itself"),
        ("https://a\n", "give each origin by itself"),
        ("example.org", "it has no scheme and host; write https://example.org"),
        ("*.example.org", "write https://*.example.org"),
        ("localhost:3000", "write https://localhost:3000"),
        ("https:/example.org/", "write https://example.org"),
        ("file:", "write file://"),
        ("NULL", "write null"),
        ("about:blank", "write null"),
        ("https://example.org/", "an origin has no path; write https://example.org"),
        ("https://*.example.org/app", "an origin has no path; write https://*.example.org"),
        ("https://example.org?x", "an origin has no path; write https://example.org"),
        ("file:///", "an origin has no path; write file://"),
        ("ws://example.org", "a WebSocket has the origin of its page; write http://example.org"),
        ("wss://example.org:9", "write https://example.org:9"),
        ("https://user@example.org", "must not have a user in front of an @; leave it out"),
        ("https://example.org:port", "must be HOST or HOST:PORT"),
        (
            "https://example.org:*",
            (
                "allow_origin: 'https://example.org:*' can't be the origin of a page: a *"
                " may only stand in front of a host's first dot"
            ),
        ),
        ("https://example.org:65536", "must have a port of at most 65535"),
        ("https://example.org:0", "no server has the port 0"),
        ("https://", "it has no host; write https://example.org"),
        ("file://:80", "it has no host; write "),
        ("https://*", "write * for all origins, or https://*.example.org"),
        ("https://*example.org", "write * for all origins, or https://*.example.org"),
        ("https://*.", "it has no host; write "),
        (
            "https://a.*.org",
            (
                "allow_origin: 'https://a.*.org' can't be the origin of a page: a * may"
                " only stand in front of a host's first dot"
            ),
        ),
        ("https://*.*.org", "write * for all origins"),
        ("https://*.127.0.0.1", "this host can't have hosts below it"),
        ("*://example.org", "'*' is not a scheme; write https://example.org"),
        ("http://127.1", "write an IPv4 address with four decimal numbers"),
        ("http://0x7f000001", "write an IPv4 address with four decimal numbers"),
        (
            "http://[::1",
            "allow_origin: 'http://[::1' can't be the origin of a page: must be HOST or HOST:PORT",
        ),
        (
            "http://[fe80::1%eth0]",
            (
                "allow_origin: 'http://[fe80::1%eth0]' can't be the origin of a page: a"
                " page's address can't have a zone"
            ),
        ),
        ("https://a..ü.example", "is not a valid host name: "),
        ("https://⒈.ü", "is not a valid host name: "),
        ("https://ü%.example", "must be a host name, but has characters that no host name has"),
        (
            "https://user@☃.example",
            (
                "allow_origin: 'https://user@☃.example' can't be the origin of a page: must"
                " not have a user in front of an @"
            ),
        ),
        ("app://ü", "a host of app: must be written in ASCII"),
    ],
)
def test_what_can_never_match(text: str, why: str) -> None:
    """It is refused at the start, with the reason and what to write."""
    with pytest.raises(ValueError, match=r"^allow_origin: ") as caught:
        Origins([text])
    assert why in str(caught.value)


def test_an_origin_is_text() -> None:
    """The name of the option is in the error."""
    with pytest.raises(TypeError, match=r"^allow_origin: must be str, not bytes"):
        Origins([b"https://example.org"])  # type: ignore[list-item] # the mistake is the point


@pytest.mark.parametrize(
    ("allowed", "origin", "trusted"),
    [
        (["https://app.example"], "https://app.example", True),
        (["https://*.example"], "https://app.example", True),
        (["*", "https://app.example"], "https://app.example", True),
        (["file://"], "file://", True),
        (["*"], "https://app.example", False),
        (["*"], "null", False),
        (["null"], "null", False),
        ([], "http://test", False),
        ([], "https://app.example", False),
    ],
)
def test_whose_pages_may_send_cookies(allowed: list[str], origin: str, trusted: bool) -> None:
    """Those that are named: not those of everyone, nor those that any page can pretend to be."""
    fields = dict(Origins(allowed).fields_for(origin, "test"))
    assert fields.get("Access-Control-Allow-Credentials") == ("true" if trusted else None)


@pytest.mark.parametrize("authority", ["[::1", "a b", "\xe9", "", "user@test"])
def test_an_authority_that_is_none(authority: str) -> None:
    """It is nobody's own host, and no error: it may be that of a request that can't be read."""
    assert Origins().fields_for("http://test", authority) == (("Vary", "Origin"),)
    assert Origins().fields_for(None, authority) == ()


async def test_a_preflight_allows_what_is_asked_for(room: Room, autojump_clock: Clock) -> None:
    """All that can be a header's name, and nothing else; what isn't asked for stays as it was."""
    asked = "traceparent, x-Requested-With, content-type, bad name, caf\xe9, ce-\x80"
    request = get("/events", "Origin: http://test", "X: y", method="OPTIONS")
    request = request.replace(b"X: y", b"Access-Control-Request-Headers: " + asked.encode("latin-1"))
    answer = await Web(room).ask(request)
    assert answer.status == 204
    names = answer.headers["access-control-allow-headers"]
    assert names == "Authorization, Content-Type, Last-Event-ID, traceparent, x-Requested-With"
    assert "access-control-allow-private-network" not in answer.headers


async def test_a_preflight_for_nothing(room: Room, autojump_clock: Clock) -> None:
    """It is answered, so that the page can read the 404 behind it; others are refused."""
    asks = "Access-Control-Request-Method: POST"
    answer = await Web(room).ask(get("/nope", "Origin: http://test", asks, method="OPTIONS"))
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, "http://test")
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, POST, DELETE"
    answer = await Web(room).ask(get("/nope", "Origin: http://other", asks, method="OPTIONS"))
    assert answer.status == 403
    assert (await Web(room).ask(get("/nope", method="OPTIONS"))).status == 404


async def test_a_page_of_the_public_web_asks_for_a_private_server(
    room: Room, autojump_clock: Clock
) -> None:
    """Private Network Access: an allowed page may; another one hears no more than that it may not."""
    asks = "Access-Control-Request-Private-Network: true"
    answer = await Web(room).ask(get("/events", "Origin: http://test", asks, method="OPTIONS"))
    assert answer.headers["access-control-allow-private-network"] == "true"
    answer = await Web(room).ask(get("/events", "Origin: http://other", asks, method="OPTIONS"))
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control-allow")]


@pytest.mark.parametrize(
    "origin", ["https://caf\xe9", "https://a\x80", "https://a b", "x", "null, null"]
)
@pytest.mark.parametrize("kind", ["answer", "stream", "websocket"])
async def test_what_is_no_origin_is_refused(origin: str, kind: str, autojump_clock: Clock) -> None:
    """With the reason, on all that a page can ask for, also where all origins are allowed."""
    async with open_room(allow_origin="*") as room:
        field = f"Origin: {origin}"
        request = {
            "answer": get("/livez", "X: y"),
            "stream": get("/events", "X: y"),
            "websocket": upgrade("/", "X: y"),
        }[kind]
        answer = await Web(room).ask(request.replace(b"X: y", field.encode("latin-1")))
        assert answer.status == 403
        assert answer.json["detail"].startswith("Origin: must be SCHEME://HOST")
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "Origin", "Accept", "Authorization", "Content-Type", "Content-Encoding", "Cookie"),
        *("Last-Event-ID", "X-Forwarded-For", "Access-Control-Request-Headers", "Sec-WebSocket-Key"),
        *("Sec-WebSocket-Protocol", "Sec-WebSocket-Version", "Upgrade", "Connection", "ce-id", "Expect"),
    ],
)
async def test_any_bytes_in_any_header(
    name: str, caplog: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    """They are answered, in ASCII, and are no exception of the server's own."""
    odd = b"caf\xc3\xa9 \xe9\x80\xff\t\"';,=:@%/"
    options = {"allow_origin": "*", "trusted_proxy": "192.0.2.1"}
    async with open_room(**options) as room:
        for request in (
            get("/", "X: y"),
            get("/events", "X: y"),
            get("/events", "X: y", method="OPTIONS"),
            get("/events", "X: y", version="1.0"),
            get("/metrics", "X: y"),
            post("/events", "data", "X: y"),
            upgrade("/", "X: y"),
        ):
            web = Web(room)
            given = request.replace(b"X: y", name.encode() + b": " + odd)
            web.kernel.feed(given.replace(b"Host: test\r\n", b"") if name == "Host" else given)
            await room.quiet()
            head = bytes(web.kernel.taken).partition(b"\r\n\r\n")[0]
            assert head.startswith(b"HTTP/1.1 ")
            assert not head.startswith(b"HTTP/1.1 5")
            assert head.isascii()
            web.kernel.hang_up()
    assert not [record for record in caplog.records if record.exc_info]
