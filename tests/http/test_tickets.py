"""Tickets: each stands for a token in a URL, once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import pytest
import trio
from trio.testing import MockClock as Clock

from tests.conftest import Room, open_room
from tests.provider import Provider
from tests.redis_nodes import connected, events, open_nodes, until
from tests.redis_server import RedisServer, open_redis
from tests.web import Answered, Web, get, post
from trionotify import Refused, StoreError, Tokens
from trionotify.http import tickets as module
from trionotify.http.claims import Grant
from trionotify.http.tickets import MemoryTickets, SharedTickets, issue, redeem
from trionotify.storage import redis_link

RIGHTS = json.dumps({"subscribe": [[]], "publish": [[]], "admin": False, "issuer": ""})


def grant_of(id: str) -> Grant:
    return Grant("https://i", id, {}, RIGHTS, 1e9)


GRANT = grant_of("al")
#: Bytes of it and of its key, on a shelf.
SIZE = len(GRANT.to_json()) + len(hashlib.sha256().hexdigest())


async def test_once_and_for_a_while(autojump_clock: Clock) -> None:
    """Only the first request gets it, and none after 30 seconds."""
    store = MemoryTickets()
    ticket = await issue(store, GRANT)
    assert await redeem(store, "another") is None
    assert await redeem(store, ticket) == GRANT
    assert await redeem(store, ticket) is None
    late = await issue(store, GRANT)
    await trio.sleep(30)
    assert await redeem(store, late) is None


@pytest.mark.parametrize("moment", [{"expires_at": 1e9}, {"not_before": 4e9}])
async def test_it_lasts_no_longer_than_its_token(
    moment: dict[str, float], tmp_path: Path, autojump_clock: Clock
) -> None:
    """Nor does it begin earlier."""
    provider = Provider()
    issuer = provider.trusted(tmp_path / "keys")
    grant = Grant(issuer.issuer, "al", {}, RIGHTS, 4e9)
    store = MemoryTickets()
    async with open_room(authenticate=Tokens(issuer, tickets=store)) as room:
        for given, status in ((grant, 200), (attrs.evolve(grant, **moment), 401)):
            ticket = await issue(store, given)
            answer = await Web(room).ask(post(f"/events?ticket={ticket}", "x"), "POST")
            assert answer.status == status


async def test_not_too_many(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    """Those that are over or used make room."""
    monkeypatch.setattr(module, "_MAX_TICKETS", 3)
    store = MemoryTickets()
    tickets = [await issue(store, grant_of(str(number))) for number in range(3)]
    with pytest.raises(Refused, match="503: tickets: too many"):
        await issue(store, GRANT)
    assert await redeem(store, tickets[1]) == grant_of("1")
    assert await redeem(store, await issue(store, GRANT)) == GRANT
    await issue(store, GRANT)
    await trio.sleep(30)
    assert await redeem(store, await issue(store, GRANT)) == GRANT


@pytest.mark.parametrize("shared", [False, True])
async def test_nobody_takes_all_the_room(
    shared: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """The client that has most loses its oldest, for others and for more of its own."""
    monkeypatch.setattr(module, "_MAX_TICKETS", 4)
    monkeypatch.setattr(module, "_MAX_SHARED", 4 * SIZE)
    store = SharedTickets(Shelf()) if shared else MemoryTickets()
    tickets = [await issue(store, GRANT) for _ in range(5)]
    bob, eve = grant_of("bo"), grant_of("ev")
    others = [await issue(store, grant) for grant in (bob, eve)]
    tickets.append(await issue(store, GRANT))
    for number, ticket in enumerate(tickets):
        assert await redeem(store, ticket) == (GRANT if number > 3 else None)
    assert [await redeem(store, ticket) for ticket in others] == [bob, eve]


async def test_in_a_url(tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """It lets in the token's client once, with the same rights and until the same time."""
    caplog.set_level(logging.DEBUG)
    provider = Provider()
    tokens = Tokens(provider.trusted(tmp_path / "keys", params={"team": "team"}))
    async with open_room(authenticate=tokens) as room:
        bearer = provider.bearer(team="ops", trionotify={"subscribe": [{"exact": {"type": "a"}}]})
        answer = await Web(room).ask(post("/tickets", "", bearer), "POST")
        assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
        assert answer.json.keys() == {"ticket", "expires_in"}
        assert answer.json["expires_in"] == 30
        ticket = quote(answer.json["ticket"])
        both = await room.connect(f"/?ticket={ticket}", bearer)
        assert (both.status, b'error="invalid_request"' in both.kernel.taken) == (400, True)
        peer = await room.connect(f"/?ticket={ticket}", "Sec-WebSocket-Protocol: cloudevents.json")
        assert peer.status == 101
        (client,) = room.hub.clients
        assert dict(client.params) == {"id": "alice", "team": "ops"}
        for type in ("a", "b"):
            await room.hub.publish(type=type, confirm=True)
        await room.quiet()
        assert [json.loads(one)["type"] for one in peer.look().messages][1:] == ["a"]
        assert (await room.connect(f"/?ticket={ticket}")).status == 401
        for query in (f"?ticket={ticket}", ""):
            assert (await Web(room).ask(post(f"/tickets{query}", ""), "POST")).status in (400, 401)
        statuses = Counter[int]()
        answer = await Web(room).ask(post("/tickets", "", bearer), "POST")
        for _ in range(3):
            found = await room.connect(f"/?ticket={answer.json['ticket']}")
            statuses[found.status] += 1
        assert statuses == {101: 1, 401: 2}
        assert room.hub.broadcast.counts.refused["token_ticket"] == 3
    assert ticket not in caplog.text
    async with open_room() as room:
        assert (await Web(room).ask(post("/tickets", ""), "POST")).status == 404
        assert (await Web(room).ask(get("/tickets"))).status == 405


async def test_for_operators(tmp_path: Path, autojump_clock: Clock) -> None:
    """It stands for their token on every page, and isn't taken for a filter of clients."""
    provider = Provider()
    async with open_room(authenticate=Tokens(provider.trusted(tmp_path / "keys"))) as room:
        bearer = provider.bearer(scope="trionotify:admin")
        for target, method in (
            ("/clients?limit=1", "GET"),
            ("/clients?exact.id=alice", "DELETE"),
            ("/metrics?", "GET"),
            ("/nodes?", "GET"),
        ):
            answer = await Web(room).ask(post("/tickets", "", bearer), "POST")
            request = get(f"{target}&ticket={answer.json['ticket']}", method=method)
            assert (await Web(room).ask(request, method)).status == 200, target


async def test_not_for_the_secret(tmp_path: Path, autojump_clock: Clock) -> None:
    """What has the secret signs URLs, and needs no ticket."""
    tokens = Tokens(Provider().trusted(tmp_path / "keys"))
    async with open_room(authenticate=tokens, secret=b"s" * 32) as room:
        bearer = f"Authorization: Bearer {'s' * 32}"
        answer = await Web(room).ask(post("/tickets", "", bearer), "POST")
        assert (answer.status, b"sign the URL instead" in answer.body) == (400, True)


# --- those of servers that share a log ---


class Shelf:
    """One in memory, which may be away."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.away = False
        self.asked = 0

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        await self._arrive()
        self.kept[key] = value

    async def take(self, key: str) -> bytes | None:
        await self._arrive()
        return self.kept.pop(key, None)

    async def missing(self, keys: Sequence[str]) -> list[str]:
        self.asked += 1
        await self._arrive()
        return [key for key in keys if key not in self.kept]

    async def _arrive(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise StoreError(503, "redis://secret.place: away")


async def test_on_a_shelf(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    """There is a limit to what a server issues at a time; and when it is away, that is said, without its
    place."""
    shelf = Shelf()
    store = SharedTickets(shelf)
    ticket = await issue(store, GRANT)
    assert ticket not in str(shelf.kept)
    assert await redeem(store, ticket) == GRANT
    monkeypatch.setattr(module, "_MAX_SHARED", 3 * SIZE)
    store = SharedTickets(shelf)
    for id in ("al", "bo", "cy"):
        await issue(store, grant_of(id))
    with pytest.raises(Refused, match="503: tickets: too many"):
        await issue(store, grant_of("di"))
    await trio.sleep(30)
    ticket = await issue(store, GRANT)
    shelf.away = True
    for attempt in (issue(store, GRANT), redeem(store, ticket)):
        with pytest.raises(Refused, match="503: tickets: the log that keeps them") as refused:
            await attempt
        assert "secret" not in refused.value.detail
        assert refused.value.headers == (("Retry-After", "5"),)


async def test_used_ones_make_room(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    """At once here, and when they are needed those that were used at other servers."""
    shelf = Shelf()
    monkeypatch.setattr(module, "_MAX_SHARED", 3 * SIZE)
    here, there = SharedTickets(shelf), SharedTickets(shelf)
    for number in range(10):
        grant = grant_of(f"{number:02}")
        assert await redeem(here, await issue(here, grant)) == grant
    assert (shelf.asked, here._room._sum) == (0, 0)
    for number in range(9):
        grant = grant_of(f"{number:02}")
        ticket = await issue(here, grant)
        assert await redeem(there, ticket) == grant
        if number % 3 == 2:
            await trio.sleep(1)
    assert shelf.asked == 2
    kept = [await issue(here, grant_of(f"{number:02}")) for number in range(3)]
    for _ in range(5):
        with pytest.raises(Refused, match="503: tickets: too many"):
            await issue(here, GRANT)
    assert shelf.asked == 3
    assert [(await redeem(there, ticket) or GRANT).id for ticket in kept] == ["00", "01", "02"]
    await trio.sleep(1)
    shelf.away = True
    with pytest.raises(Refused, match="503: tickets: the log that keeps them"):
        await issue(here, GRANT)


@pytest.mark.parametrize(
    "change",
    [
        {"scope": "narrow"},
        {"id": 5},
        {"id": ""},
        {"issuer": ["https://i"]},
        {"params": None},
        {"params": {"team": 1}},
        {"rights": {"subscribe": []}},
        {"rights": "{}"},
        {"rights": "[]"},
        {"rights": "x"},
        {"rights": RIGHTS.replace("false", '"false"')},
        {"rights": RIGHTS.replace("{", '{"presence": [], ', 1)},
        {"rights": RIGHTS.replace("[[]]", '[[{"near": {"type": "t"}}]]', 1)},
        {"expires_at": "2030-01-01T00:00:00Z"},
        {"expires_at": None},
        {"expires_at": 1e15},
        {"not_before": float("nan")},
        b"x",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
    ],
)
async def test_one_of_another_version(
    change: dict[str, Any] | bytes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: Clock,
) -> None:
    """It is refused, even if only one member is unknown, and the log says why."""
    shelf = Shelf()
    issuer = Provider().trusted(tmp_path / "keys")
    async with open_room(authenticate=Tokens(issuer, tickets=SharedTickets(shelf))) as room:
        grant = Grant(issuer.issuer, "al", {}, RIGHTS, 4e9)
        for given, status in ((grant.to_json(), 101), (change, 401)):
            ticket = await issue(SharedTickets(shelf), grant)
            made = given
            if isinstance(given, dict):
                made = json.dumps({**json.loads(grant.to_json()), **given}).encode()
            shelf.kept = dict.fromkeys(shelf.kept, made)
            assert (await room.connect(f"/?ticket={ticket}")).status == status
        assert room.hub.broadcast.counts.refused == {"token_ticket": 1}
    (record,) = (one for one in caplog.records if getattr(one, "event", "") == "ticket_unreadable")
    assert record.getMessage().startswith("a ticket can't be read, because another version")
    assert ticket not in caplog.text


async def ask_for_one(room: Room, bearer: str) -> Answered:
    """The answer of a node, which has to ask Redis first."""
    web = Web(room)
    web.kernel.feed(post("/tickets", "", bearer))
    await until(lambda: web.kernel.taken.endswith(b"}\n"))
    (answer,) = web.answers("POST")
    return answer


async def shown(server: RedisServer) -> str:
    """All that Redis has, but for the log."""
    keys = [key for key in await server.command("KEYS", "*") if "shelf" in key]
    return " ".join([*keys, *[await server.command("GET", key) for key in keys]])


async def test_at_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ticket of one node is good at another one, once among all of them, with the rights of its token;
    Redis has neither the token nor the ticket, and forgets it by its own clock."""
    monkeypatch.setattr(redis_link, "BEAT", 0.05)
    provider = Provider()
    tokens = [Tokens(provider.trusted(tmp_path / name, params={"team": "team"})) for name in "ab"]
    bearer = provider.bearer(team="ops", trionotify={"subscribe": [{"exact": {"type": "a"}}]})
    async with open_redis(tmp_path / "redis") as server:
        async with (
            open_nodes(server.url, authenticate=tokens[0]) as (one,),
            open_nodes(server.url, authenticate=tokens[1]) as (two,),
        ):
            ticket = (await ask_for_one(one, bearer)).json["ticket"]
            found = await shown(server)
            assert "alice" in found
            assert ticket not in found
            assert bearer.partition("Bearer ")[2] not in found
            (key,) = await server.command("KEYS", "*shelf*")
            assert 0 < await server.command("PTTL", key) <= 30_000
            target = f"/?format=cloudevents&ticket={quote(ticket)}"
            peers = [await room.connect(target) for room in (one, two) for _ in range(4)]
            await until(lambda: all(peer.look().head for peer in peers))
            assert sorted(peer.status for peer in peers) == [101, *[401] * 7]
            (client,) = [*one.hub.clients, *two.hub.clients]
            assert dict(client.params) == {"id": "alice", "team": "ops", "format": "cloudevents"}
            for type in ("a", "b", "a"):
                await two.hub.publish(type=type)
            (peer,) = (peer for peer in peers if peer.status == 101)
            await until(lambda: len(events(peer)) == 3)
            assert [event["type"] for event in events(peer)] == ["trionotify.welcome", "a", "a"]
            assert await shown(server) == ""

            ticket = (await ask_for_one(two, bearer)).json["ticket"]
            (key,) = await server.command("KEYS", "*shelf*")
            await server.command("PEXPIRE", key, "1")
            while await server.command("EXISTS", key):
                pass
            assert (await connected(one, f"/?ticket={ticket}")).status == 401

            ticket = (await ask_for_one(two, bearer)).json["ticket"]
            await server.stop()
            await until(lambda: not one.hub.ready)
            answer = await ask_for_one(one, bearer)
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert answer.json["detail"].startswith("tickets: the log that keeps them")
            assert (await connected(one, f"/?ticket={ticket}")).status == 503
            await server.start()
            await until(lambda: one.hub.ready)
            assert (await ask_for_one(one, bearer)).status == 200


async def test_a_store_of_the_applications_own(tmp_path: Path) -> None:
    """Then tickets are there, and nowhere else; those of an issuer that isn't known are no good."""
    provider, store = Provider(), MemoryTickets()
    tokens = Tokens(provider.trusted(tmp_path / "keys"), tickets=store)
    async with open_redis(tmp_path / "redis") as server:
        async with open_nodes(server.url, authenticate=tokens) as (room,):
            ticket = (await ask_for_one(room, provider.bearer())).json["ticket"]
            assert await shown(server) == ""
            assert (await connected(room, f"/?ticket={ticket}")).status == 101
            strange = await issue(store, GRANT)
            assert (await connected(room, f"/?ticket={strange}")).status == 401
