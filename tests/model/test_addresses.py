"""Addresses, behind proxies that are trusted and others."""

from __future__ import annotations

import os

import pytest
from trio.testing import MockClock as Clock

from tests.conftest import open_room
from tests.kernel import FakeKernel
from tests.web import Web, get
from trionotify import Client, Refused, Request
from trionotify.http.serving import serve_transport
from trionotify.model.addresses import Proxies, name_of, neighbourhood, unix_path, unix_url

TRUSTED = ("127.0.0.1", "10.0.0.0/8", "2001:db8::/32")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1:80", None, "127.0.0.1:80"),
        ("127.0.0.1:80", "203.0.113.9", "203.0.113.9"),
        ("198.51.100.1:80", "203.0.113.9", "198.51.100.1:80"),
        ("127.0.0.1:80", "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1:80", "6.6.6.6, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("127.0.0.1:80", "6.6.6.6,, 10.1.2.3", "10.1.2.3"),
        ("127.0.0.1:80", "unknown", "127.0.0.1:80"),
        ("127.0.0.1:80", "", "127.0.0.1:80"),
        ("127.0.0.1:80", "10.0.0.1, 10.0.0.2", "10.0.0.1"),
        ("127.0.0.1:80", "203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:80", "[2001:db9::7]:4711", "2001:db9::7"),
        ("[2001:db8::1]:80", "2001:db9::7", "2001:db9::7"),
        ("[::ffff:127.0.0.1]:80", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.1:80", "203.0.113.9, ::ffff:10.0.0.1", "203.0.113.9"),
        ("127.0.0.1:80", "6.6.6.6, fe80::1%eth0", "fe80::1"),
        ("127.0.0.1:80", "6.6.6.6, [2001:db9::7", "2001:db9::7"),
        ("127.0.0.1:80", "6.6.6.6, 2001:db9::7]:80, 10.0.0.1", "10.0.0.1"),
        ("127.0.0.1:80", "6.6.6.6, 203.0.113.9:80:90, 10.0.0.1", "10.0.0.1"),
        ("127.0.0.1:80", "6.6.6.6, unix, 10.0.0.1", "10.0.0.1"),
        ("127.0.0.1:80", "6.6.6.6, 010.0.0.1", "127.0.0.1:80"),
        ("127.0.0.1:80", "6.6.6.6, 203.0.113.9 10.0.0.1", "127.0.0.1:80"),
        ("unix", "203.0.113.9", "unix"),
        ("", "203.0.113.9", ""),
    ],
)
def test_who_is_behind(peer: str, forwarded: str | None, client: str) -> None:
    """From the end of the field, as far as those who wrote it are trusted."""
    assert Proxies(TRUSTED).client(peer, forwarded) == client


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (("192.0.2.7", 1), "192.0.2.7:1"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7:1"),
        (("::1", 1, 0, 0), "[::1]:1"),
        (("::ffff:1", 1, 0, 0), "[::ffff:1]:1"),
        ("", "unix"),
    ],
)
def test_a_peers_name(name: object, text: str) -> None:
    """An address of IPv4 is shown as one, also where a socket for both wrote it."""
    assert name_of(name) == text


def test_by_default_nobody_is_trusted() -> None:
    """And those at a Unix socket only by name."""
    assert Proxies().client("127.0.0.1:80", "203.0.113.9") == "127.0.0.1:80"
    assert Proxies("unix").client("unix", "203.0.113.9") == "203.0.113.9"


@pytest.mark.parametrize("network", ["::ffff:10.0.0.0/104", "::ffff:10.1.2.3"])
def test_a_network_of_ipv4_written_as_ipv6(network: str) -> None:
    """Is the same network, as its addresses are the same."""
    assert Proxies([network]).client("10.1.2.3:80", "203.0.113.9") == "203.0.113.9"


@pytest.mark.parametrize("text", ["nginx", "10.0.0.1/8", "10.0.0.0/33", ""])
def test_what_is_no_network(text: str) -> None:
    """Is refused by name."""
    with pytest.raises(ValueError, match=r"^trusted_proxy: .* a network like 10\.0\.0\.0/8, or unix"):
        Proxies([text])


@pytest.mark.parametrize(
    ("remote", "found"),
    [
        ("203.0.113.9:80", "203.0.113.9"),
        ("203.0.113.9", "203.0.113.9"),
        ("[2001:db8:1:2:3::4]:80", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::4", "2001:db8:1:2::/64"),
        ("[fe80::1%eth0]:80", "fe80::/64"),
        ("unix", None),
        ("", None),
    ],
)
def test_what_counts_as_one(remote: str, found: str | None) -> None:
    """An address of IPv4, the 64 bits of IPv6 that a subscriber has for himself."""
    assert neighbourhood(remote) == found


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/run/trionotify.sock", "unix:/run/trionotify.sock"),
        ("hub.sock", "unix:hub.sock"),
        ("//tmp/hub@1:a+b=c,d~", "unix://tmp/hub@1:a+b=c,d~"),
        ("/tmp/50%3F?#", "unix:/tmp/50%253F%3F%23"),
        ("/tmp/grüße an\n", "unix:/tmp/gr%C3%BC%C3%9Fe%20an%0A"),
        ("/tmp/\udcff", "unix:/tmp/%FF"),
        (b"\0without a file", "unix:%00without%20a%20file"),
    ],
)
def test_a_path_in_a_url(path: str | bytes, url: str) -> None:
    """There and back, whatever is in it."""
    assert unix_url(path) == url
    assert unix_path(f"{url}?x=/%3F?") == os.fsdecode(path)


def test_a_path_that_somebody_wrote() -> None:
    """Only a `?`, a `#` and a `%` must be encoded; of other URLs nothing is a socket's path."""
    assert unix_path("unix:/tmp/grüße an 100%") == "/tmp/grüße an 100%"
    assert unix_path("http://host/unix:/tmp") is None
    for url, words in [
        ("unix:", "a unix URL must have a path"),
        ("unix:?id=al", "a unix URL must have a path"),
        ("unix:/tmp/a#b?id=al", "a '#' must be written as %23"),
    ]:
        with pytest.raises(ValueError, match=f"^url: {words}$"):
            unix_path(url)


async def test_the_clients_address(autojump_clock: Clock) -> None:
    """It is the record's, behind a proxy that is trusted; others say what they like."""
    async with open_room(trusted_proxy=["192.0.2.0/24"]) as room:
        kernels = [("test:1", "test:1"), ("192.0.2.1:80", "203.0.113.9")]
        for remote, expected in kernels:
            peer = await room.connect("/?id=al", "X-Forwarded-For: 203.0.113.9", remote=remote)
            (client,) = room.hub.clients
            assert client.remote == expected
            peer.say_close()
            await room.quiet()


async def test_an_application_that_names_no_address(autojump_clock: Clock) -> None:
    """Its clients have the request's, and the limit of an address holds for them, too."""
    options = {"authenticate": lambda request: Client("al"), "max_connections_per_address": 1}
    async with open_room(**options) as room:
        assert (await room.connect(remote="192.0.2.1:80")).status == 101
        (client,) = room.hub.clients
        assert client.remote == "192.0.2.1:80"
        assert (await room.connect(remote="192.0.2.1:81")).status == 429


async def test_refusals_leave_no_count(autojump_clock: Clock) -> None:
    """Neither of a cursor that can't be resumed, nor of HEAD, nor of what is refused for its number."""
    async with open_room(max_connections_per_id=1, max_connections_per_address=1) as room:
        for _ in range(3):
            peer = await room.connect("/?id=al&since=nowhere:1", remote="192.0.2.1:80")
            assert peer.status == 410
            head = get("/events?id=al", "Accept: text/event-stream", method="HEAD")
            assert (await Web(room).ask(head, "HEAD")).status == 200
        assert not room.hub.quotas._counts
        first = await room.connect("/?id=al", remote="192.0.2.1:80")
        assert (await room.connect("/?id=al", remote="192.0.2.2:80")).status == 429
        stream = Web(room)
        stream.kernel.feed(get("/events?id=al", "Accept: text/event-stream"))
        await room.quiet()
        assert stream.kernel.taken.startswith(b"HTTP/1.1 429")
        first.kernel.hang_up()
        await room.quiet()
        assert not room.hub.quotas._counts


async def test_requests_of_several_clients(autojump_clock: Clock) -> None:
    """Which a proxy sends on one connection: none counts as that of the one before."""
    seen = []

    def authenticate(request: Request) -> Client:
        seen.append(request.remote)
        raise Refused(403, "not here")

    async with open_room(trusted_proxy=["unix"], authenticate=authenticate) as room:
        kernel = FakeKernel()
        room.nursery.start_soon(serve_transport, room.hub, kernel, "unix")
        for field in ("203.0.113.9", "unix:", "203.0.113.8"):
            kernel.feed(get("/clients", f"X-Forwarded-For: {field}"))
            await room.quiet()
        kernel.feed(get("/clients"))
        await room.quiet()
        kernel.hang_up()
    assert seen == ["203.0.113.9", "unix", "203.0.113.8", "unix"]


async def test_a_field_on_several_lines(autojump_clock: Clock) -> None:
    """Is one field, whose end is that of the last line; other fields say nothing."""
    async with open_room(trusted_proxy=["192.0.2.1"]) as room:
        fields = (
            *("X-Forwarded-For: 6.6.6.6", "x-forwarded-for: 7.7.7.7, 203.0.113.9"),
            *("Forwarded: for=8.8.8.8", "X-Real-IP: 8.8.8.8", "X_Forwarded_For: 8.8.8.8"),
        )
        peer = await room.connect("/?id=al", *fields, remote="192.0.2.1:80")
        (client,) = room.hub.clients
        assert client.remote == "203.0.113.9"
        peer.say_close()
        await room.quiet()


async def test_limits(autojump_clock: Clock) -> None:
    """Connections per client and per address: 429 above, and room again when one has left."""
    options = {"max_connections_per_id": 2, "max_connections_per_address": 3}
    async with open_room(trusted_proxy=["192.0.2.1"], **options) as room:

        async def come(id: str, address: str) -> tuple[int | None, bytes]:
            field = f"X-Forwarded-For: {address}"
            peer = await room.connect(f"/?id={id}", field, remote="192.0.2.1:80")
            peers.append(peer)
            return peer.status, bytes(peer.kernel.taken)

        peers = []
        for id, address, status, words in [
            ("a", "203.0.113.1", 101, b""),
            ("a", "203.0.113.2", 101, b""),
            ("a", "203.0.113.3", 429, b"id: a already has 2 connections, the maximum"),
            ("b", "203.0.113.1", 101, b""),
            ("c", "203.0.113.1", 101, b""),
            ("d", "203.0.113.1", 429, b"address: 203.0.113.1 already has 3 connections, the maximum"),
        ]:
            found, body = await come(id, address)
            assert (found, words in body) == (status, True)
        assert b"retry-after: 5" in bytes(peers[-1].kernel.taken).lower()
        peers[0].say_close()
        await room.quiet()
        assert (await come("a", "203.0.113.1"))[0] == 101
        assert (await come("d", "203.0.113.4"))[0] == 101
        for peer in peers:
            if peer.status == 101:
                peer.kernel.hang_up()
        await room.quiet()
        assert not room.hub.quotas._counts
