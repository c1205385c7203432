"""Hosts and ports: the server that a request means, by its target or by `Host`."""

from __future__ import annotations

import pytest
import trio.testing

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel
from tests.web import Web, get
from trionotify import Client, Request
from trionotify.http.authorities import parse_authority
from trionotify.http.serving import serve_transport

Clock = trio.testing.MockClock


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("", "", None),
        ("LocalHost", "localhost", None),
        ("a_b-c.example.", "a_b-c.example.", None),
        ("localhost:", "localhost", None),
        ("localhost:8765", "localhost", 8765),
        ("127.0.0.1:080", "127.0.0.1", 80),
        ("[::1]", "[::1]", None),
        ("[0:0:0:0:0:0:0:1]:8765", "[::1]", 8765),
        ("[2001:DB8::192.0.2.1]", "[2001:db8::c000:201]", None),
        ("[fe80::1%eth0]:1", "[fe80::1%eth0]", 1),
        ("evil%2eEXAMPLE", "evil.example", None),
    ],
)
def test_the_normal_form(text: str, host: str, port: int | None) -> None:
    """Spellings of the same authority have one form, and `str` of it is read again as itself."""
    found = parse_authority(text)
    assert (found.host, found.port) == (host, port)
    assert parse_authority(str(found)) == found


NO_HOSTS = [
    *("user@localhost", "local host", "localhost/x", "localhost?x", "localhost#x", "localhost\\x"),
    *("localhost:port", "localhost:1:2", "localhost:65536", "localhost:99999999", "localhost:-1"),
    *("[::1", "::1", "[::1]x", "[::1].evil.example", "[127.0.0.1]", "[g::]", "[]"),
    *("caf\xe9", "a\x7fb", "a%00b", "a%2fb", "a%40b", "caf%C3%A9", "%", "%ff"),
]


@pytest.mark.parametrize("host", NO_HOSTS)
async def test_what_is_no_host(host: str, room: Room, autojump_clock: Clock) -> None:
    """It is refused with 400, which names the header."""
    request = get("/livez").replace(b"Host: test", b"Host: " + host.encode("latin-1"))
    answer = await Web(room).ask(request)
    assert answer.status == 400
    if "\x7f" not in host:  # of which the parser says that it is in no header
        assert answer.json["detail"].startswith("Host: ")


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        ("http://user@test/livez", "request target: must not have a user in front of an @"),
        ("http://test:port/livez", "request target: must be HOST or HOST:PORT"),
        ("http:///livez", "request target: must have a host"),
    ],
)
async def test_a_target_without_a_good_host(
    target: str, detail: str, room: Room, autojump_clock: Clock
) -> None:
    """The same for an absolute target."""
    answer = await Web(room).ask(get(target))
    assert answer.status == 400
    assert answer.json["detail"].startswith(detail)


@pytest.mark.parametrize(
    ("target", "host", "authority"),
    [
        ("/events", "TEST:8765", "test:8765"),
        ("/events", "", ""),
        ("http://Other:80/events", "test", "other:80"),
        ("HTTPS://[::1]/events?id=a", "test", "[::1]"),
    ],
)
async def test_what_a_request_is_for(
    target: str, host: str, authority: str, autojump_clock: Clock
) -> None:
    """An absolute target says it, else `Host`: `authenticate` sees which."""
    seen: list[str] = []

    def authenticate(request: Request) -> Client:
        seen.append(request.authority)
        return request.client()

    async with open_room(authenticate=authenticate) as room:
        await Web(room).ask(
            get(target, method="HEAD").replace(b"Host: test", f"Host: {host}".encode()), "HEAD"
        )
    assert seen == [authority]


async def test_an_absolute_target_counts_against_rebinding(room: Room, autojump_clock: Clock) -> None:
    """A server for its own machine looks at the name in the target, whatever `Host` says."""
    for target, status in (("http://evil.example/livez", 403), ("http://localhost/livez", 200)):
        kernel = FakeKernel()
        kernel.feed(get(target))
        room.nursery.start_soon(lambda k=kernel: serve_transport(room.hub, k, "127.0.0.1:1", local=True))
        await room.quiet()
        assert int(kernel.taken[9:12]) == status
