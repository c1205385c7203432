"""Admission: what lets no one in, whichever way it comes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock as Clock

from tests.conftest import Room, open_room, stop_the_time
from tests.kernel import FakeKernel, Peer
from tests.provider import Provider
from tests.web import Web, get, post
from trionotify import Client, Exact, Request, Tokens, sign

KEY = b"0123456789abcdef0123456789abcdef"
EVENTS = "Sec-WebSocket-Protocol: cloudevents.json"


@pytest.mark.parametrize("left", [0, -1, -1e9])
async def test_a_client_whose_time_is_over(
    left: float, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """An application's record may be old. It lets in nowhere, also in that very second."""
    now = stop_the_time(monkeypatch)

    def authenticate(request: Request) -> Client:
        return Client("al", role="both", expires_at=now + left)

    async with open_room(authenticate=authenticate) as room:
        peer = await room.connect("/")
        assert (peer.status, b"expires_at: the client's authorization" in peer.kernel.taken) == (
            401,
            True,
        )
        for request, method in (
            (get("/events", "Accept: text/event-stream"), "GET"),
            (get("/events", "Accept: text/event-stream", method="HEAD"), "HEAD"),
            (post("/events", "x"), "POST"),
            (get("/clients"), "GET"),
            (get("/clients?exact.id=al", method="DELETE"), "DELETE"),
            (get("/metrics"), "GET"),
        ):
            assert (await Web(room).ask(request, method)).status == 401
        assert (room.hub.log.head, room.hub.broadcast.counts.opened) == (0, {})


async def test_a_client_whose_time_ends_meanwhile(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """While the application looks it up."""
    now = stop_the_time(monkeypatch)

    async def authenticate(request: Request) -> Client:
        client = Client("al", role="both", expires_at=now + 1)
        await trio.sleep(1)
        monkeypatch.setattr("time.time", lambda: now + 1)
        return client

    async with open_room(authenticate=authenticate) as room:
        peer = await room.connect("/")
        await trio.sleep(2)
        assert peer.look().status == 401


async def test_a_body_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """What arrives after the end isn't published."""
    now = stop_the_time(monkeypatch)

    def authenticate(request: Request) -> Client:
        return Client("al", role="both", expires_at=now + 1)

    async with open_room(authenticate=authenticate) as room:
        for later, status in ((0.5, 200), (1, 401)):
            web = Web(room)
            web.kernel.feed(post("/events", "xy")[:-1])
            await room.quiet()
            monkeypatch.setattr("time.time", lambda later=later: now + later)
            assert (await web.ask(b"y", "POST")).status == status
            monkeypatch.setattr("time.time", lambda: now)
        assert room.hub.log.head == 1


async def test_no_audience_reads_a_signature(autojump_clock: Clock) -> None:
    """With one that tests its beginning, a publisher could find it out from receipts, digit by digit."""
    async with open_room(secret=KEY) as room:
        query = sign("id=boss&exact.type=t&team=a", KEY)
        assert (await room.connect(f"/?{query}")).status == 101
        (client,) = room.hub.clients
        signature = client.params["sig"]
        mallory = sign("id=mallory&role=publisher&type=t", KEY)

        async def wanted(*filters: dict[str, Any]) -> int:
            # The audience is in an event, because a query with one would have to be signed.
            event = {"specversion": "1.0", "id": str(room.hub.log.head), "source": "/s", "type": "t"}
            event["audience"] = json.dumps([{"exact": {"id": "boss"}}, *filters])
            body, kind = json.dumps(event), "Content-Type: application/cloudevents+json"
            answer = await Web(room).ask(post(f"/events?{mallory}", body, kind), "POST")
            assert answer.status == 200
            return int(answer.json["wanted"])

        assert await wanted({"exact": {"team": "a"}}) == 1
        for filters, count in (
            ({"prefix": {"sig": signature[0]}}, 0),
            ({"exact": {"sig": signature}}, 0),
            ({"suffix": {"sig": signature[-1]}}, 0),
            ({"sql": f"sig LIKE '{signature[0]}%'"}, 0),
            ({"sql": "EXISTS sig"}, 0),
            ({"not": {"prefix": {"sig": signature[0]}}}, 1),
            ({"any": [{"exact": {"sig": signature}}, {"prefix": {"ticket": "a"}}]}, 0),
        ):
            assert await wanted(filters) == count, filters
        assert await room.hub.disconnect(Exact(sig=signature)) == 0


# --- cookies ---


async def connect(room: Room, kernel: FakeKernel, *fields: str) -> Peer:
    return await room.connect("/", *fields, kernel=kernel, remote="192.0.2.1:7")


async def test_pages_without_tls(provider: Provider, tmp_path: Path, autojump_clock: Clock) -> None:
    """Anyone on the way can change them. So none sends a cookie to the same host's server with TLS,
    whether it has TLS itself or behind a proxy."""
    tokens = Tokens(provider.trusted(tmp_path / "keys"), cookie="session")
    cookie = f"Cookie: session={provider.token()}"
    plain, safe = "Origin: http://test", "Origin: https://test"
    told = "X-Forwarded-Proto: https"
    for trusted, encrypted, fields, status in (
        ((), True, (plain,), 403),
        ((), True, (safe,), 101),
        ((), False, (plain,), 101),
        ((), False, (safe,), 101),
        ((), False, (plain, told), 101),
        (("192.0.2.1",), False, (plain, told), 403),
        (("192.0.2.1",), False, (plain, "X-Forwarded-Proto: http, HTTPS"), 403),
        (("192.0.2.1",), False, (safe, told), 101),
        (("192.0.2.1",), False, (safe, told, "X-Forwarded-For: 192.0.2.9"), 101),
        (("192.0.2.1",), False, (plain, "X-Forwarded-Proto: http"), 101),
        (("192.0.2.1",), True, (plain, "X-Forwarded-Proto: http"), 101),
        (("192.0.2.1",), True, (plain,), 403),
        ((), True, (plain, "X-Forwarded-Proto: http"), 403),
    ):
        async with open_room(authenticate=tokens, trusted_proxy=trusted) as room:
            kernel = FakeKernel()
            kernel.encrypted = encrypted
            peer = await connect(room, kernel, cookie, *fields)
            assert peer.status == status, (trusted, encrypted, fields)
    async with open_room(authenticate=tokens, allow_origin=["http://test"]) as room:
        kernel = FakeKernel()
        kernel.encrypted = True
        assert (await connect(room, kernel, cookie, plain)).status == 101


async def test_cookies_of_one_name(provider: Provider, tmp_path: Path, autojump_clock: Clock) -> None:
    """Which of them is the user's own can't be told."""
    tokens = Tokens(provider.trusted(tmp_path / "keys"), cookie="session")
    own, foreign = provider.token(), provider.token(sub="mallory")
    async with open_room(authenticate=tokens) as room:
        for cookies, status in (
            (f"session={own}; session={foreign}", 400),
            (f"session={foreign}; other=1; session={own}", 400),
            (f"session={own}; session={own}", 101),
            (f"session=; session={own}", 101),
            (f'session="{own}"; session=""', 101),
        ):
            peer = await room.connect("/", f"Cookie: {cookies}", "Origin: http://test")
            assert peer.status == status, cookies
        peer = await room.connect(
            "/", f"Cookie: session={own}", f"Cookie: session={foreign}", "Origin: http://test"
        )
        assert (peer.status, b"cookie: given with different values" in peer.kernel.taken) == (400, True)
        assert {client.id for client in room.hub.clients} == {"alice"}


@pytest.fixture
def provider() -> Provider:
    return Provider()


# --- an application's own limits ---


@pytest.mark.parametrize("own", [50, 500])
async def test_a_time_of_the_applications_own(
    own: float,
    provider: Provider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: Clock,
) -> None:
    """It stays, whatever token renews the connection."""
    now = stop_the_time(monkeypatch)

    def then(request: Request, client: Client) -> Client:
        return Client(client.id, client.params, expires_at=now + own)

    tokens = Tokens(provider.trusted(tmp_path / "keys"), then=then)
    async with open_room(authenticate=tokens, ping_interval=1e6, max_log_age=1e9) as room:
        peer = await room.connect("/", provider.bearer(exp=now + 100), EVENTS)
        data = {"token": provider.token(exp=now + 200)}
        event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "trionotify.authenticate"}
        peer.say(json.dumps({**event, "data": data}))
        await room.quiet()
        ack = json.loads(peer.look().messages[-1])
        assert (ack["type"], ack["data"]["expires_in"]) == ("trionotify.ack", own)
        await trio.sleep(own - 2)
        assert peer.look().close is None
        await trio.sleep(4)
        assert peer.look().close == (4401, "expired")
