"""Tokens: a client that presents one has its name, its rights and no others."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock as Clock

from tests.conftest import open_room, stop_the_time
from tests.kernel import Peer
from tests.provider import ISSUER, Provider
from tests.web import Web, blocks, get, post
from trionotify import Client, Exact, Notification, Refused, Request, Tokens, sign

EVENTS = "Sec-WebSocket-Protocol: cloudevents.json"
KEY = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def tokens(provider: Provider, tmp_path: Path) -> Tokens:
    return Tokens(provider.trusted(tmp_path / "keys", params={"team": "team"}))


@pytest.fixture(autouse=True)
def no_token_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, the log shows no token and no ticket."""
    caplog.set_level(logging.DEBUG)
    yield
    shown = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert "eyJ" not in shown
    assert "ticket=" not in shown


def said(peer: Peer) -> list[dict[str, Any]]:
    return [json.loads(message) for message in peer.look().messages]


def event(type: str, data: Any = None, **attributes: Any) -> str:
    given = {"specversion": "1.0", "id": "1", "source": "/s", "type": type, **attributes}
    return json.dumps(given if data is None else {**given, "data": data})


async def test_a_token_lets_in_everywhere(
    provider: Provider, tokens: Tokens, autojump_clock: Clock
) -> None:
    """A WebSocket, a stream and a POST: as the client that the token names."""
    async with open_room(authenticate=tokens) as room:
        bearer = provider.bearer(team="ops")
        peer = await room.connect("/", bearer)
        assert peer.status == 101
        web = Web(room)
        web.kernel.feed(get("/events", "Accept: text/event-stream", bearer))
        await room.quiet()
        assert [(client.id, dict(client.params)) for client in room.hub.clients] == [
            ("alice", {"id": "alice", "team": "ops"})
        ] * 2
        answer = await Web(room).ask(post("/events", "hello", bearer), "POST")
        assert answer.status == 200
        await room.quiet()
        assert peer.look().messages == ["hello"]
        assert [block["data"] for block in blocks(web.stream()[1]) if "data" in block] == ["hello"]
        (entry,) = room.hub.log.read(0, 1)
        assert entry.notification.source == "/clients/alice"


@pytest.mark.parametrize(
    ("fields", "status", "challenge"),
    [
        ([], 401, 'Bearer realm="trionotify"'),
        (["Authorization: Basic eA=="], 401, 'Bearer realm="trionotify"'),
        (["Authorization: Bearer x"], 401, 'error="invalid_token", error_description="token: must be'),
    ],
)
async def test_without_a_good_token(
    fields: list[str], status: int, challenge: str, tokens: Tokens, autojump_clock: Clock
) -> None:
    """The request can't connect, publish, read or get a ticket, and the answer follows RFC 6750."""
    async with open_room(authenticate=tokens) as room:
        peer = await room.connect("/", *fields)
        assert (peer.status, challenge.encode() in peer.kernel.taken) == (status, True)
        for request, method in (
            (get("/events", "Accept: text/event-stream", *fields), "GET"),
            (post("/events", "x", *fields), "POST"),
            (post("/tickets", "", *fields), "POST"),
            (get("/clients", *fields), "GET"),
            (get("/metrics", *fields), "GET"),
        ):
            answer = await Web(room).ask(request, method)
            assert answer.status == status
            assert challenge in answer.headers["www-authenticate"]
        assert (await Web(room).ask(get("/readyz?verbose", *fields))).body == b"ok\n"
        assert room.hub.log.head == 0


async def test_what_is_granted_and_asked_for(
    provider: Provider, tokens: Tokens, autojump_clock: Clock
) -> None:
    """Both must hold: at connect, live, on replay, and at a change of filter."""
    grant = {"trionotify": {"subscribe": [{"prefix": {"type": "order."}}]}}
    async with open_room(authenticate=tokens) as room:
        for type in ("order.old", "secret.old"):
            await room.hub.publish(type=type, confirm=True)
        bearer = provider.bearer(**grant)
        peer = await room.connect("/?since=start&suffix.type=d", bearer, EVENTS)
        for type in ("order.paid", "order.new", "secret.paid"):
            await room.hub.publish(type=type, confirm=True)
        peer.say(event("trionotify.subscribe", {"filters": []}))
        await room.quiet()
        for type in ("order.new", "secret.paid"):
            await room.hub.publish(type=type, confirm=True)
        await room.quiet()
        heard = [one["type"] for one in said(peer) if one["source"] == "/hub"]
        assert heard == ["order.old", "order.paid", "order.new"]
        (client,) = room.hub.clients
        found = room.hub.explain(Notification(type="secret.paid"), client)
        assert not found
        assert [(part.condition, part.holds) for part in found.parts] == [
            ("its right", False),
            ("its filter", True),
        ]


async def test_an_audience_is_no_way_round(
    provider: Provider, tokens: Tokens, autojump_clock: Clock
) -> None:
    """A client's own keys come only from its token, or are listed in `allow_params`."""
    async with open_room(authenticate=tokens) as room:
        for target, bearer, words in (
            ("/?team=ops", provider.bearer(), b"team: must come from the token"),
            ("/?team=ops", provider.bearer(team="hr"), b"team: must be what the token says"),
            ("/?id=bob", provider.bearer(), b"id: must be what the token says"),
        ):
            peer = await room.connect(target, bearer)
            assert (peer.status, words in peer.kernel.taken) == (403, True)
        for target in ("/?team=ops", "/?id=alice", "/"):
            assert (await room.connect(target, provider.bearer(team="ops"))).status == 101
    async with open_room(authenticate=tokens, allow_params="device") as room:
        assert (await room.connect("/?device=phone", provider.bearer())).status == 101
        (client,) = room.hub.clients
        assert client.params["device"] == "phone"


async def test_publishing_beyond_ones_right(
    provider: Provider, tokens: Tokens, autojump_clock: Clock
) -> None:
    """403, an `error` event, and 1008 for a raw client; what is granted goes out."""
    grant = {"trionotify": {"subscribe": [], "publish": [{"prefix": {"type": "chat."}}]}}
    async with open_room(authenticate=tokens) as room:
        bearer = provider.bearer(**grant)
        answer = await Web(room).ask(post("/events?type=order.paid", "x", bearer), "POST")
        assert (answer.status, "token: grants no right to publish this" in answer.json["detail"]) == (
            403,
            True,
        )
        challenge = answer.headers["www-authenticate"]
        assert 'error="insufficient_scope", scope="trionotify:publish"' in challenge
        batch = json.dumps([json.loads(event("chat.a")), json.loads(event("order.a"))])
        fields = ("Content-Type: application/cloudevents-batch+json", bearer)
        assert (await Web(room).ask(post("/events", batch, *fields), "POST")).status == 403
        assert room.hub.log.head == 0
        assert (await Web(room).ask(post("/events?type=chat.a", "x", bearer), "POST")).status == 200

        peer = await room.connect("/?role=both&echo=0", bearer, EVENTS)
        peer.say(event("order.paid", id="bad"))
        peer.say(event("chat.line", id="good"))
        await room.quiet()
        told = [(one["type"], one["data"].get("status"), one["data"].get("id")) for one in said(peer)]
        assert ("trionotify.error", 403, "bad") in told
        assert ("trionotify.ack", None, "good") in told
        raw = await room.connect("/?role=publisher&type=order.paid", bearer)
        raw.say("x")
        await room.quiet()
        code, reason = raw.look().close or (0, "")
        assert (code, reason.startswith("token: grants no right to publish this")) == (1008, True)
        assert room.hub.log.head == 2
        assert room.hub.broadcast.counts.refused["right"] == 4


@pytest.mark.parametrize("key", ["exact.team", "filters", "sql"])
async def test_a_filter_addresses_nobody(
    key: str, provider: Provider, tokens: Tokens, autojump_clock: Clock
) -> None:
    """A POST with one is refused, because it would go to everyone."""
    async with open_room(authenticate=tokens) as room:
        value = {"filters": "[]", "sql": "TRUE"}.get(key, "ops")
        answer = await Web(room).ask(post(f"/events?{key}={value}", "x", provider.bearer()), "POST")
        assert (answer.status, room.hub.log.head) == (400, 0)
        assert answer.json["detail"].startswith(f"{key}: filters are for clients that subscribe")
        bearer = provider.bearer(team="ops")
        assert (await Web(room).ask(post("/events?team=ops", "x", bearer), "POST")).status == 200


@pytest.mark.parametrize(
    ("scope", "refused", "let_in"),
    [
        ("trionotify:subscribe", ("publisher", "both"), ("subscriber",)),
        ("trionotify:publish", ("subscriber", "both"), ("publisher",)),
        ("trionotify:publish trionotify:subscribe", (), ("publisher", "subscriber", "both")),
        ("openid", ("publisher", "subscriber", "both"), ()),
        (None, ("publisher", "subscriber", "both"), ()),
    ],
)
async def test_scopes(
    scope: str | None, refused: tuple[str], let_in: tuple[str], tmp_path: Path, autojump_clock: Clock
) -> None:
    """For providers that can do no more. Without any right, a client is refused."""
    provider = Provider()
    async with open_room(authenticate=Tokens(provider.trusted(tmp_path / "keys"))) as room:
        for role in refused:
            peer = await room.connect(f"/?role={role}", provider.bearer(scope=scope))
            assert peer.status == 403
            assert b'error="insufficient_scope", scope="trionotify:' in peer.kernel.taken
        for role in let_in:
            assert (await room.connect(f"/?role={role}", provider.bearer(scope=scope))).status == 101


async def test_operators(provider: Provider, tokens: Tokens, autojump_clock: Clock) -> None:
    """Have a scope of their own."""
    async with open_room(authenticate=tokens) as room:
        for path in ("/clients", "/metrics"):
            assert (await Web(room).ask(get(path, provider.bearer()))).status == 403
            admin = provider.bearer(scope="trionotify:admin")
            assert (await Web(room).ask(get(path, admin))).status == 200
        assert b"keys: ok" in (await Web(room).ask(get("/readyz?verbose", admin))).body


async def test_equal_rights_share_one_group(
    provider: Provider, tokens: Tokens, autojump_clock: Clock
) -> None:
    """Also where each client has a token of its own."""
    grant = {"subscribe": [{"prefix": {"type": "order."}}]}
    async with open_room(authenticate=tokens) as room:
        for number in range(100):
            await room.connect("/", provider.bearer(sub=f"client {number}", trionotify=grant))
        assert len(room.hub.broadcast.matcher._groups) == 1
        assert len({id(client.predicate) for client in room.hub.clients}) == 1


async def test_a_secret_and_tokens_are_two_doors(
    provider: Provider, tokens: Tokens, autojump_clock: Clock
) -> None:
    """One is enough."""
    async with open_room(authenticate=tokens, secret=KEY) as room:
        bearer = f"Authorization: Bearer {KEY.decode()}"
        for target, *fields in (
            ("/?id=operator&any=thing", bearer),
            (f"/?{sign('id=bob&any=thing', KEY)}",),
            ("/", provider.bearer()),
        ):
            assert (await room.connect(target, *fields)).status == 101, target
        assert (await room.connect("/?id=x")).status == 401
        assert (await room.connect("/?id=x&sig=y", provider.bearer())).status == 401
        assert (await Web(room).ask(post("/events", "x", bearer), "POST")).status == 200
        assert (await Web(room).ask(get("/clients", bearer))).status == 200
        assert (await Web(room).ask(get("/clients", provider.bearer()))).status == 403


async def test_a_cookie(provider: Provider, tmp_path: Path, autojump_clock: Clock) -> None:
    """Only of the name that was agreed on, and from pages of one's own."""
    tokens = Tokens(provider.trusted(tmp_path / "keys"), cookie="session")
    cookie = f"Cookie: other=1; session={provider.token()}"
    good, named, bad, sandboxed = (
        "Origin: http://test",
        "Origin: https://app.example",
        "Origin: https://evil.example",
        "Origin: null",
    )
    options: dict[str, Any] = {"allow_origin": ["https://app.example", "null", "*"]}
    async with open_room(authenticate=tokens, **options) as room:
        for fields, status in (
            ((cookie, "Origin: http://test"), 101),
            ((cookie, named), 101),
            ((cookie, bad), 403),
            ((cookie, sandboxed), 403),
            ((cookie,), 403),
            ((cookie.replace("session", "Session"), named), 401),
        ):
            assert (await room.connect("/", *fields)).status == status, fields
        stream = ("Accept: text/event-stream", cookie)
        for fields, status in (
            ((*stream, good), 200),
            ((*stream, "Sec-Fetch-Site: same-origin"), 200),
            ((*stream, "Sec-Fetch-Site: cross-site"), 403),
            ((*stream, bad), 403),
            ((*stream, sandboxed), 403),
        ):
            web = Web(room)
            web.kernel.feed(get("/events", *fields))
            await room.quiet()
            assert web.kernel.taken.startswith(b"HTTP/1.1 %d " % status), fields
        for fields, status in (((cookie, good), 200), ((cookie,), 403), ((cookie, bad), 403)):
            answer = await Web(room).ask(post("/events", "x", *fields), "POST")
            assert answer.status == status
            assert (b"no Origin" in answer.body) == (fields == (cookie,))
        assert room.hub.log.head == 1
    async with open_room(authenticate=Tokens(provider.trusted(tmp_path / "keys"))) as room:
        assert (await room.connect("/", cookie, "Origin: http://test")).status == 401


@pytest.mark.parametrize("value", ["", '""'])
async def test_an_empty_cookie(
    value: str, provider: Provider, tmp_path: Path, autojump_clock: Clock
) -> None:
    """It is none, because some applications empty it at a logout."""
    issuer, cookie = provider.trusted(tmp_path / "keys"), f"Cookie: session={value}"
    async with open_room(authenticate=Tokens(issuer, cookie="session")) as room:
        peer = await room.connect("/", cookie, "Origin: http://test")
        assert (peer.status, b"Authorization: missing" in peer.kernel.taken) == (401, True)
        assert room.hub.broadcast.counts.refused == {"token_missing": 1}
    tokens = Tokens(issuer, cookie="session", otherwise=lambda request: request.client("guest"))
    async with open_room(authenticate=tokens) as room:
        assert (await room.connect("/", cookie)).status == 101


async def test_its_time_ends_the_connection(
    provider: Provider, tokens: Tokens, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a signed query does; renewed before, it stays."""
    until = stop_the_time(monkeypatch) + 70
    async with open_room(authenticate=tokens, ping_interval=1e6, max_log_age=1e9) as room:
        peer = await room.connect("/", provider.bearer(exp=until), EVENTS)
        renewed = await room.connect("/", provider.bearer(exp=until), EVENTS)
        assert said(peer)[0]["data"]["expires_in"] == 100
        grant = {"subscribe": [{"prefix": {"type": "order."}}]}
        token = provider.token(exp=until + 100, trionotify=grant)
        await room.hub.publish(type="chat", confirm=True)
        renewed.say(event("trionotify.authenticate", {"token": token}, id="again"))
        await room.quiet()
        ack = said(renewed)[-1]
        assert (ack["type"], ack["data"]["id"]) == ("trionotify.ack", "again")
        assert ack["data"]["expires_in"] == 200
        for type in ("chat", "order.paid"):
            await room.hub.publish(type=type, confirm=True)
        await trio.sleep(110)
        assert peer.look().close == (4401, "expired")
        assert renewed.look().close is None
        heard = [one["type"] for one in said(renewed) if one["source"] == "/hub"]
        assert heard == ["chat", "order.paid"]
        await trio.sleep(100)
        assert renewed.look().close == (4401, "expired")


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"sub": "bob"}, "token: names another client"),
        ({"team": "hr"}, "token: has other parameters"),
        ({"team": None}, "token: has other parameters"),
        ({"trionotify": {"subscribe": [], "params": {"room": "1"}}}, "token: has other parameters"),
        ({"exp": 1}, "token: exp: this token has expired"),
    ],
)
async def test_what_renews_nothing(
    claims: dict[str, Any], words: str, provider: Provider, tokens: Tokens, autojump_clock: Clock
) -> None:
    """The client is told why, and stays as it is."""
    async with open_room(authenticate=tokens) as room:
        peer = await room.connect("/", provider.bearer(team="ops"), EVENTS)
        token = provider.token(**{"team": "ops", **claims})
        peer.say(event("trionotify.authenticate", {"token": token}))
        await room.quiet()
        error = said(peer)[-1]
        assert (error["type"], error["data"]["status"] in (401, 403)) == ("trionotify.error", True)
        assert error["data"]["detail"].startswith(words)
        peer.say(event("trionotify.authenticate", {"tokens": token}))
        await room.quiet()
        assert said(peer)[-1]["data"]["detail"] == 'data: must be {"token": "..."}'
        assert len(room.hub.clients) == 1


async def test_what_was_sent_before_another_token(
    provider: Provider, tokens: Tokens, autojump_clock: Clock
) -> None:
    """It is judged by the token of that time, even if both arrive together."""
    rights = [{"subscribe": [], "publish": [{"exact": {"type": type}}]} for type in "ab"]
    async with open_room(authenticate=tokens) as room:
        bearer = provider.bearer(trionotify=rights[0])
        peer = await room.connect("/?role=both&echo=0", bearer, EVENTS)
        token = provider.token(trionotify=rights[1])
        sent = [
            event("a", id="1"),
            event("b", id="2"),
            event("trionotify.authenticate", {"token": token}, id="3"),
            event("b", id="4"),
            event("a", id="5"),
        ]
        peer.say(*sent)
        await room.quiet()
        told = [(one["type"].removeprefix("trionotify."), one["data"]["id"]) for one in said(peer)[1:]]
        assert sorted(told, key=lambda one: one[1]) == [
            ("ack", "1"),
            ("error", "2"),
            ("ack", "3"),
            ("ack", "4"),
            ("error", "5"),
        ]


async def test_who_came_without_a_token_renews_nothing(autojump_clock: Clock) -> None:
    """Neither on a server that takes none."""
    async with open_room() as room:
        peer = await room.connect("/", EVENTS)
        peer.say(event("trionotify.authenticate", {"token": "x"}))
        await room.quiet()
        assert said(peer)[-1]["data"]["status"] == 400


async def test_metadata(provider: Provider, tmp_path: Path, autojump_clock: Clock) -> None:
    """RFC 9728: where to get a token; and the challenge says where that stands."""
    path = "/.well-known/oauth-protected-resource"
    tokens = Tokens(provider.trusted(tmp_path / "keys"), resource="https://push.example.org")
    async with open_room(authenticate=tokens) as room:
        answer = await Web(room).ask(get(path))
        assert answer.json["resource"] == "https://push.example.org"
        assert answer.json["authorization_servers"] == [ISSUER]
        refused = await Web(room).ask(get("/clients"))
        assert refused.headers["www-authenticate"] == (
            f'Bearer realm="trionotify", resource_metadata="https://push.example.org{path}"'
        )
    async with open_room() as room:
        assert (await Web(room).ask(get(path))).status == 404


async def test_metadata_of_a_path(provider: Provider, tmp_path: Path, autojump_clock: Clock) -> None:
    """A proxy may have the server below a path. The metadata are where the challenge says."""
    resource = "https://example.org/push/"
    tokens = Tokens(provider.trusted(tmp_path / "keys"), resource=resource)
    async with open_room(authenticate=tokens) as room:
        challenge = (await Web(room).ask(get("/clients"))).headers["www-authenticate"]
        url = challenge.partition('resource_metadata="')[2].removesuffix('"')
        assert url == "https://example.org/.well-known/oauth-protected-resource/push"
        answer = await Web(room).ask(get(url.removeprefix("https://example.org")))
        assert (answer.status, answer.json["resource"]) == (200, resource)


@pytest.mark.parametrize(
    "resource",
    [
        "",
        "push.example.org",
        "https://",
        "https://exämple.org",
        'https://a"b',
        "https://a/ b",
        "https://[x",
        "https://a]",
        "https://a/#b",
    ],
)
def test_what_is_no_resource(resource: str, provider: Provider, tmp_path: Path) -> None:
    """It couldn't be said in a challenge."""
    with pytest.raises(
        ValueError, match=r"^resource: must be a URL like https://push.example.org, not "
    ):
        Tokens(provider.trusted(tmp_path / "keys"), resource=resource)


async def test_together_with_an_application(
    provider: Provider, tmp_path: Path, autojump_clock: Clock
) -> None:
    """It may look at who comes with a token, and let in others."""

    async def then(request: Request, client: Client) -> Client:
        if client.id == "mallory":
            raise Refused(403, "banned")
        return client

    def otherwise(request: Request) -> Client:
        if request.header("x-key") != "robot":
            raise Refused(401, "no key")
        return request.client("robot")

    issuer = provider.trusted(tmp_path / "keys")
    async with open_room(authenticate=Tokens(issuer, then=then, otherwise=otherwise)) as room:
        assert (await room.connect("/", provider.bearer())).status == 101
        assert (await room.connect("/", provider.bearer(sub="mallory"))).status == 403
        assert (await room.connect("/", "X-Key: robot")).status == 101
        assert (await room.connect("/")).status == 401
        assert {client.id for client in room.hub.clients} == {"alice", "robot"}


async def test_another_client_of_the_application(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """It has the rights and the expiry of the token, and is renewed with another one for the same
    client, whatever the application calls it."""

    def then(request: Request, client: Client) -> Client:
        return Client(f"db/{client.id}", {**client.params, "plan": "gold"}, client.role)

    now = stop_the_time(monkeypatch)
    rights = {"subscribe": [{"exact": {"type": "a"}}], "publish": [{"exact": {"type": "a"}}]}
    claims = {"exp": now + 60, "trionotify": rights}
    tokens = Tokens(provider.trusted(tmp_path / "keys", leeway=0), then=then)
    async with open_room(authenticate=tokens) as room:
        bearer = provider.bearer(**claims)
        peer = await room.connect("/?role=both&echo=0", bearer, EVENTS)
        (client,) = room.hub.clients
        assert (client.id, client.params["plan"], client.expires_at) == ("db/alice", "gold", now + 60)
        peer.say(event("b", id="1"))
        await room.quiet()
        for type, status in (("a", 200), ("b", 403)):
            await room.hub.publish(type=type)
            answer = await Web(room).ask(post(f"/events?type={type}", "x", bearer), "POST")
            assert answer.status == status
        for sub in ("bob", "alice"):
            token = provider.token(**{**claims, "exp": now + 90, "sub": sub})
            peer.say(event("trionotify.authenticate", {"token": token}, id=sub))
        await room.quiet()
        error, ack = "trionotify.error", "trionotify.ack"
        assert [one["type"] for one in said(peer)[1:]] == [error, "a", "a", error, ack]
        assert client.expires_at == now + 90


async def test_limits_of_the_applications_own(
    provider: Provider, tmp_path: Path, autojump_clock: Clock
) -> None:
    """They count instead of those of the token."""

    def then(request: Request, client: Client) -> Client:
        return Client(client.id, expires_at=3e9)

    tokens = Tokens(provider.trusted(tmp_path / "keys"), then=then)
    async with open_room(authenticate=tokens) as room:
        assert (await room.connect("/", provider.bearer())).status == 101
        (client,) = room.hub.clients
        assert client.expires_at == 3e9
        answer = await Web(room).ask(post("/events", "x", provider.bearer()), "POST")
        assert (answer.status, answer.json["detail"][:20]) == (403, "role: a subscriber m")


async def test_an_application_and_a_secret(
    provider: Provider, tmp_path: Path, autojump_clock: Clock
) -> None:
    """Whom the application lets in without either may publish, with an id and without one."""
    tokens = Tokens(
        provider.trusted(tmp_path / "keys"), otherwise=lambda request: request.client("robot")
    )
    async with open_room(authenticate=tokens, secret=KEY) as room:
        for target in ("/events", "/events?role=publisher", "/events?id=robot"):
            assert (await Web(room).ask(post(target, "x"), "POST")).status == 200
        assert room.hub.log.head == 3


async def test_what_an_application_raises_shows_no_token(
    provider: Provider, tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    """Not even where its text has it."""

    def then(request: Request, client: Client) -> Client:
        raise LookupError(request.header("authorization"))

    async with open_room(authenticate=Tokens(provider.trusted(tmp_path / "keys"), then=then)) as room:
        assert (await room.connect("/", provider.bearer())).status == 500
    assert "LookupError" in caplog.text
    caplog.clear()  # the records have the exception itself, as that of any fault


async def test_several_issuers(provider: Provider, tmp_path: Path, autojump_clock: Clock) -> None:
    """Each with its keys: a token of one is never verified with another's, whatever its `kid`."""
    other = Provider(issuer="https://other.example")
    other.rotate(keep=False)
    tokens = Tokens(provider.trusted(tmp_path / "a"), other.trusted(tmp_path / "b"))
    async with open_room(authenticate=tokens) as room:
        assert (await room.connect("/", provider.bearer())).status == 101
        assert (await room.connect("/", other.bearer())).status == 101
        for token in (
            other.token(iss=ISSUER),
            other.token({"kid": provider.key.kid}, iss=ISSUER),
            provider.token(iss="https://third.example"),
        ):
            peer = await room.connect("/", f"Authorization: Bearer {token}")
            assert peer.status == 401
    with pytest.raises(ValueError, match="issuers: an issuer is given twice"):
        Tokens(provider.trusted(tmp_path / "a"), provider.trusted(tmp_path / "a"))
    with pytest.raises(TypeError, match="issuers: must be one or more Issuer objects"):
        Tokens()
    for name, words in [
        ("cookie", "str"),
        ("resource", "str"),
        ("then", "a function"),
        ("otherwise", "a function"),
        ("tickets", "a TicketStore"),
    ]:
        options: dict[str, Any] = {name: 7}
        with pytest.raises(TypeError, match=f"^{name}: must be {words}, not int$"):
            Tokens(provider.trusted(tmp_path / "a"), **options)


async def test_a_parameter_that_the_token_has(
    provider: Provider, tmp_path: Path, autojump_clock: Clock
) -> None:
    """It may be in the query, too, also where the server allows only some keys."""
    tokens = Tokens(provider.trusted(tmp_path / "keys", params={"team": "team"}))
    async with open_room(authenticate=tokens, allow_params=["room"]) as room:
        bearer = provider.bearer(team="ops")
        for query, status in (("team=ops&room=1", 101), ("team=hr", 403), ("tier=1", 403)):
            assert (await room.connect(f"/?{query}", bearer)).status == status


async def test_disconnecting(provider: Provider, tokens: Tokens, autojump_clock: Clock) -> None:
    """A right that was withdrawn ends a connection at once, by an operator or the application."""
    async with open_room(authenticate=tokens) as room:
        alice = await room.connect("/", provider.bearer())
        bob = await room.connect("/", provider.bearer(sub="bob"))
        carol = await room.connect("/", provider.bearer(sub="carol"))
        assert await room.hub.disconnect(Exact(id="bob"), "banned") == 1
        await room.quiet()
        assert bob.look().close == (4403, "banned")
        admin = provider.bearer(scope="trionotify:admin")

        async def delete(query: str, bearer: str) -> Any:
            return await Web(room).ask(get(f"/clients{query}", bearer, method="DELETE"), "DELETE")

        assert (await delete("?exact.id=alice", provider.bearer())).status == 403
        for everyone in ("", "?filters=[]", "?filters=[]&filters="):
            assert (await delete(everyone, admin)).status == 400
        with pytest.raises(TypeError, match=r"^predicate: must be "):
            await room.hub.disconnect("alice")  # type: ignore[arg-type] # a mistake on purpose
        with pytest.raises(TypeError, match=r"^predicate: must be a plain function"):
            await room.hub.disconnect(trio.sleep)
        assert (await delete("?exact.idd=alice&x=y", admin)).status == 400
        for number in (1, 0):  # she hasn't answered the Close frame yet
            assert (await delete("?exact.id=alice", admin)).json == {"disconnected": number}
        await room.quiet()
        assert alice.look().close == (4403, "disconnected")
        assert carol.look().close is None
        assert (await delete("?exact.id=nobody", admin)).json == {"disconnected": 0}
