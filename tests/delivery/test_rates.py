"""Rates: refused, told, or not read, and never dropped."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock as Clock

from tests.conftest import open_room, stop_the_time
from tests.web import Web, get, post
from trionotify import Client, Exact, Settings
from trionotify.delivery import rates as module
from trionotify.delivery.rates import Rate

EVENTS = "Sec-WebSocket-Protocol: cloudevents.json"
KEY = b"0123456789abcdef0123456789abcdef"


async def test_a_rate(autojump_clock: Clock) -> None:
    """At once as many as the burst has room for, then one in each interval."""
    rate = Rate(2, burst=5)
    for _ in range(10):
        assert rate.wait("a") == 0
        rate.take("a")
    assert rate.wait("a") == 0.5
    assert rate.wait("b") == 0
    await trio.sleep(0.5)
    rate.take("a", 10)
    assert rate.wait("a") == 5
    await trio.sleep(100)
    assert rate.wait("a") == 0


async def test_no_rate(autojump_clock: Clock) -> None:
    """Nothing is kept."""
    rate = Rate(None, 1)
    rate.take("a", 1000)
    assert (rate.wait("a"), rate._due) == (0, {})


async def test_what_is_kept(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    """Those who have caught up are forgotten."""
    monkeypatch.setattr(module, "_KEPT", 10)
    rate = Rate(1, 1)
    for number in range(1000):
        rate.take(f"{number}")
        await trio.sleep(1)
    assert len(rate._due) <= 10


@pytest.mark.parametrize("rate", [0, -1, "x", True])
def test_what_is_no_rate(rate: object) -> None:
    """It is named."""
    with pytest.raises((TypeError, ValueError), match=r"^publish_rate_per_id: must be "):
        Settings(publish_rate_per_id=rate)  # type: ignore[arg-type] # that is the point


async def test_requests(autojump_clock: Clock) -> None:
    """429, and when to come again; by client, and by address; the bearer of the secret goes free."""
    async with open_room(publish_rate_per_id=1, rate_burst=2) as room:
        for status in (200, 200, 429):
            answer = await Web(room).ask(post("/events?id=al", "x"), "POST")
            assert answer.status == status
        assert answer.headers["retry-after"] == "1"
        assert answer.json["detail"] == "rate: publishing too often; wait 1 s"
        assert (await Web(room).ask(post("/events?id=bo", "x"), "POST")).status == 200
        await trio.sleep(1)
        assert (await Web(room).ask(post("/events?id=al", "x"), "POST")).status == 200
        assert room.hub.broadcast.counts.refused == {"rate_publish": 1}
    async with open_room(publish_rate_per_address=0.5, rate_burst=1, secret=KEY) as room:
        bearer = f"Authorization: Bearer {KEY.decode()}"
        for _ in range(10):
            assert (await Web(room).ask(post("/events", "x", bearer), "POST")).status == 200


async def test_events(autojump_clock: Clock) -> None:
    """Each above is answered with an error, the others are published."""
    async with open_room(publish_rate_per_id=1, rate_burst=2) as room:
        peer = await room.connect("/?role=publisher&id=al", EVENTS)
        for number in range(5):
            event = {"specversion": "1.0", "id": f"{number}", "source": "/s", "type": "t"}
            peer.say(json.dumps(event))
        await room.quiet()
        told = [json.loads(one) for one in peer.look().messages][1:]
        assert [(one["type"], one["data"]["id"]) for one in told if "error" in one["type"]] == [
            ("trionotify.error", "2"),
            ("trionotify.error", "3"),
            ("trionotify.error", "4"),
        ]
        errors = [one["data"] for one in told if "error" in one["type"]]
        assert {(data["status"], data["retry_after_ms"]) for data in errors} == {(429, 1000)}
        assert room.hub.log.head == 2


async def test_raw_messages(autojump_clock: Clock) -> None:
    """They wait, and all of them are published, in order."""
    async with open_room(publish_rate_per_id=1, rate_burst=2, ping_interval=1e6) as room:
        peer = await room.connect("/?role=publisher&id=al")
        listener = await room.connect("/?id=bo")
        for number in range(10):
            peer.say(f"{number}")
            await room.quiet()
        assert room.hub.log.head == 2
        await trio.sleep(20)
        assert listener.look().messages == [f"{number}" for number in range(10)]
        assert peer.look().close is None


async def test_a_raw_client_that_leaves_meanwhile(autojump_clock: Clock) -> None:
    """No task waits for its turn any longer."""
    async with open_room(publish_rate_per_id=0.001, rate_burst=1, ping_interval=1e6) as room:
        peer = await room.connect("/?role=publisher&id=al")
        for _ in range(3):
            peer.say("x")
            await room.quiet()
        (client,) = room.hub.clients
        client.close(4000)
        await trio.sleep(10)
        assert len(room.hub.clients) == 0


async def test_a_raw_client_whose_authorization_ends(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """What the rate holds back then is never published, and what it had let through stays."""
    now = stop_the_time(monkeypatch)
    options: dict[str, Any] = {"publish_rate_per_id": 0.01, "rate_burst": 100, "ping_interval": 1e6}
    for end in ("disconnected", "expired"):
        async with open_room(
            **options, authenticate=lambda request: Client("al", role="publisher", expires_at=now + 5)
        ) as room:
            peer = await room.connect("/")
            for number in range(3):
                peer.say(f"{number}")
                await room.quiet()
            assert room.hub.log.head == 1
            if end == "disconnected":
                assert await room.hub.disconnect(Exact(id="al")) == 1
            else:
                monkeypatch.setattr("time.time", lambda: now + 5)
            await trio.sleep(1000)
            code = 4403 if end == "disconnected" else 4401
            assert (peer.look().close, room.hub.log.head) == ((code, end), 1)
            assert len(room.hub.clients) == 0
            monkeypatch.setattr("time.time", lambda: now)


async def test_a_raw_client_that_is_sent_away(autojump_clock: Clock) -> None:
    """By a drain, which loses nothing that was received."""
    options: dict[str, Any] = {"publish_rate_per_id": 0.01, "rate_burst": 100, "ping_interval": 1e6}
    async with open_room(**options) as room:
        peer = await room.connect("/?role=publisher&id=al")
        for number in range(2):
            peer.say(f"{number}")
            await room.quiet()
        assert room.hub.log.head == 1
        await room.hub.drain(20)
        assert (peer.look().close or [0])[0] == 1012
        assert room.hub.log.head == 2


@pytest.mark.parametrize("burst", [1, 3, 10])
@pytest.mark.parametrize("per_second", [0.3, 3, 7, 10, 1000])
async def test_a_burst_is_exact(per_second: float, burst: float, mock_clock: Clock) -> None:
    """Whatever the clock shows: rounding takes nothing away, and gives nothing."""
    for start in (0.0, 12_345.678, 987_654.321):
        mock_clock.jump(max(0.0, start - trio.current_time()))
        rate, count = Rate(per_second, burst), 0
        while not rate.wait("a"):
            rate.take("a")
            count += 1
        assert count == max(1, math.floor(per_second * burst + 1e-9))
        mock_clock.jump(1 / per_second)
        assert rate.wait("a") == 0


async def test_connections(autojump_clock: Clock) -> None:
    """All connections of an address count, also those that end. Others are let in."""
    async with open_room(connection_rate_per_address=0.1, rate_burst=20) as room:
        statuses = [(await room.connect("/", remote="192.0.2.1:7")).status for _ in range(5)]
        assert statuses == [101, 101, 429, 429, 429]
        assert (await room.connect("/", remote="192.0.2.2:7")).status == 101
        web = Web(room, remote="192.0.2.1:8")
        answer = await web.ask(get("/events", "Accept: text/event-stream"))
        assert (answer.status, answer.headers["retry-after"]) == (429, "10")
        assert (await Web(room, remote="192.0.2.1:9").ask(get("/livez"))).status == 200


async def test_connections_with_the_secret(autojump_clock: Clock) -> None:
    """They go free, and a wrong secret counts."""
    stream = "Accept: text/event-stream"
    right, wrong = (f"Authorization: Bearer {key}" for key in (KEY.decode(), "guess"))
    async with open_room(connection_rate_per_address=0.1, rate_burst=20, secret=KEY) as room:
        for _ in range(4):
            assert (await room.connect("/", right)).status == 101
            answer = await Web(room).ask(get("/events", stream, right, method="HEAD"), "HEAD")
            assert answer.status == 200
        statuses = [(await room.connect("/", wrong)).status for _ in range(3)]
        assert statuses == [401, 401, 429]
