"""Heads: reading without h11 gives the same result as h11."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trionotify.http.heads import Head, plain_head

HANDSHAKE = (
    b"GET /?id=a&exact.type=b HTTP/1.1\r\nHost: example.org:8765\r\nUpgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nOrigin: http://example.org\r\n"
    b'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: a=b; c="d"\r\n\r\n'
)
POST = (
    b"POST /events?type=a HTTP/1.1\r\nHost: [::1]:8765\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
    b"Content-Type: application/json\r\nContent-Length: 12\r\n\r\n"
)


def by_h11(raw: bytes) -> Head:
    """The same by h11, which must take all of it; raises `h11.RemoteProtocolError`."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(raw)
    event = parser.next_event()
    assert isinstance(event, h11.Request)
    assert parser.trailing_data[0] == b""
    assert not parser.they_are_waiting_for_100_continue
    return Head.parsed(event)


@pytest.mark.parametrize("raw", [HANDSHAKE, POST])
def test_what_clients_send_is_plain(raw: bytes) -> None:
    """It is read without h11, and means the same."""
    assert plain_head(raw) == by_h11(raw)


def test_a_plain_head() -> None:
    """Names are in lower case, and values without the space around them."""
    head = plain_head(
        b"POST /a?b HTTP/1.0\r\nHOST:  x\t \r\nA:\r\nContent-Length: 007\r\nb: \xe9 \xa0\r\n\r\n"
    )
    assert head == Head(
        "POST",
        "/a?b",
        "1.0",
        (("host", "x"), ("a", ""), ("content-length", "007"), ("b", "\xe9 \xa0")),
        7,
    )


@pytest.mark.parametrize(
    ("line", "persistent"),
    [
        (b"a: close", True),
        (b"Connection: closed", True),
        (b"Connection: close", False),
        (b"connection: Upgrade , Close", False),
        (b"Connection: x\r\nConnection: CLOSE", False),
    ],
)
def test_what_ends_a_connection(line: bytes, persistent: bool) -> None:
    """`close` among the tokens of any `Connection`, and HTTP/1.0."""
    for version, more in ((b"1.1", persistent), (b"1.0", False)):
        head = plain_head(b"GET / HTTP/" + version + b"\r\nHost: x\r\n" + line + b"\r\n\r\n")
        assert head is not None
        assert head.persistent == more


#: Parts of heads, which are put in the place of each other.
LINES = [
    b"Host: x",
    b"host:y",
    b"Host : x",
    b"Content-Length: 5",
    b"Content-Length: 5, 5",
    b"Content-Length: +5",
    b"Content-Length: 0x5",
    b"Content-Length: 5\xb2",
    b"Content-Length:",
    b"Content-Length: " + b"1" * 21,
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: gzip, chunked",
    b"Transfer-Encoding : chunked",
    b"Expect: 100-continue",
    b"Upgrade: websocket",
    b"Connection: close",
    b"a: b",
    b" folded",
    b"\tfolded",
    b"a",
    b"",
    b": no name",
    b"a: \x00",
    b"a: \x01",
    b"a: \x0b",
    b"a: \x7f",
    b"a: \x85b",
    b"\xe9: b",
    b"a: b\rc: d",
    b"a: b\nc: d",
    b"a:  \t b c \t ",
]
BEGINNINGS = [
    b"GET / HTTP/1.1",
    b"POST /events HTTP/1.1",
    b"HEAD * HTTP/1.0",
    b"GET / HTTP/2.0",
    b"GET / HTTP/1.2",
    b"GET / HTTP/1.1 ",
    b"GET  / HTTP/1.1",
    b" GET / HTTP/1.1",
    b"GET\t/ HTTP/1.1",
    b"get / HTTP/1.1",
    b"CONNECT a:1 HTTP/1.1",
    b"PUT / HTTP/1.1",
    b"GET /\x7f HTTP/1.1",
    b"GET /\xe9 HTTP/1.1",
    b"GET / http/1.1",
    b"GET /",
]
ENDS = [b"\r\n", b"\n", b"\r", b"\r\r\n"]
NOT_PLAIN = [
    b"GET / HTTP/1.1\r\n\r\n",
    *[b"GET / HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n" for line in LINES[:1] + LINES[4:14]],
    *[b"GET / HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n" for line in LINES[17:24]],
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n",
    HANDSHAKE[:-2],
    HANDSHAKE + b"x",
    HANDSHAKE.replace(b"\r\n", b"\n"),
]


@pytest.mark.parametrize("raw", NOT_PLAIN)
def test_what_only_h11_can_judge(raw: bytes) -> None:
    """A head that is wrong, or that moves the end of its request, isn't plain."""
    assert plain_head(raw) is None


@given(
    st.sampled_from(BEGINNINGS),
    st.lists(st.sampled_from(LINES), max_size=6),
    st.sampled_from(ENDS),
    st.none() | st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=2)),
)
@example(b"GET / HTTP/1.1", [b"Host: x", b"Content-Length: 5"], b"\r\n", None)
def test_no_head_is_read_in_another_way(
    beginning: bytes, lines: list[bytes], end: bytes, change: tuple[int, bytes] | None
) -> None:
    """However a head is put together, and whatever is written over it: h11 takes the plain ones, too."""
    raw = end.join([beginning, b"Host: x", *lines, b"", b""])
    if change is not None:
        at, data = change
        raw = raw[: at % len(raw)] + data + raw[at % len(raw) + len(data) :]
    head = plain_head(raw)
    if head is not None:
        assert head == by_h11(raw)


def test_a_long_head_is_judged_in_linear_time() -> None:
    """The patterns never go back: a quadratic one would take minutes for this."""
    for text in (b"a" * 1_000_000, b"a:" * 500_000, b" \t" * 500_000, b"a: b\r\n" * 200_000):
        assert plain_head(b"GET / HTTP/1.1\r\n" + text) is None
        assert (
            plain_head(
                b"GET / HTTP/1.1\r\nHost: x\r\na: " + text.replace(b"\r\n", b" ") + b"\x00\r\n\r\n"
            )
            is None
        )
