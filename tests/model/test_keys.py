"""The keys of a query: a misspelt one is refused, an application's own is kept."""

from __future__ import annotations

import pytest
from trio.testing import MockClock as Clock

from tests.conftest import Room, open_room, raw_client
from tests.server.test_attach import application
from tests.web import Web, get
from trionotify import Client, CloseCode, Refused, Request, connect, open_hub, sign
from trionotify.model.keys import OURS, allowed_params, check_keys
from trionotify.model.query import Query

#: What applications call their parameters.
APPLICATIONS = """
    room team topic user user_id uid userId username name email tenant tenant_id org org_id
    project project_id account workspace group groups channel channels board game match player
    device device_id session session_id sid token access_token ticket auth api_key apikey key
    secret code state nonce jwt csrf lang language locale region country city tz timezone page
    limit offset after before sort order q query search tag tags label labels category kind
    version v build app platform client client_id os browser referrer ref utm_source debug
    trace trace_id request_id roles types sources subjects formats level priority status event
    events event_type topics object objects item items cart shop order_id lat lon log flag tick
    rule mode node time date from until end start resource content data text message title url
    path host port no do go co t x y _ ts cb callback plan tier scope permission permissions
    department floor building table sensor sensors vehicle driver course score since_id role_id
    source_id subject_id type_id format_version tape each ids ip pid origin target sender
    author language_code dark_mode
""".split()  # noqa: SIM905 - a list of words

#: What is written for a key of ours.
MISSPELT = {
    "type": "tpye typ tyype Type TYPE",
    "to": "To TO recipient Recipient recipients",
    "id": "Id ID",
    "role": "rloe rol rolle Role",
    "filters": "filter Filter fliter filers filtesr fitlers FILTERS",
    "sql": "SQL Sql",
    "exact.ATTR=VALUE": "exact Exact exakt exat",
    "prefix.ATTR=VALUE": "prefix prefx Prefix",
    "suffix.ATTR=VALUE": "suffix sufix suffx",
    "last_event_id": "lastEventID LastEventId last-event-id last_eventid",
    "since": "sicne sinse Since cursor",
    "lag": "Lag LAG",
    "format": "fromat formt Format",
    "echo": "ehco echoo Echo",
    "source": "sorce soruce Source",
    "subject": "subjct subejct Subject",
    "narrow": "narow Narrow",
    "datacontenttype": "dataContentType data_content_type datacontentype",
    "audience": "audiance Audience audiences",
}


def test_an_applications_keys_are_its_own() -> None:
    """However like ours they look to a machine: people know them apart."""
    assert len(APPLICATIONS) == len(set(APPLICATIONS)) >= 100
    check_keys(dict.fromkeys(APPLICATIONS, "x"))
    assert allowed_params(APPLICATIONS) == set(APPLICATIONS)


@pytest.mark.parametrize(
    ("key", "meant"), [(key, meant) for meant, keys in MISSPELT.items() for key in keys.split()]
)
def test_a_misspelt_key_is_refused(key: str, meant: str) -> None:
    """The reason says what to write. It can't be allowed, either: every client would have to know."""
    with pytest.raises(Refused) as caught:
        Query.of({key: "x"})
    assert caught.value.detail == f"{key}: unknown key; did you mean {meant!r}?"
    with pytest.raises(ValueError, match=r"^allow_params: .* too similar to"):
        allowed_params(key)
    with pytest.raises(ValueError, match="did you mean"):
        sign({key: "x"}, "0123456789abcdef")


def test_each_key_of_ours_is_known() -> None:
    """And so are the dotted ones."""
    check_keys(dict.fromkeys([*OURS, "exact.type", "prefix.team", "suffix.x"], "x"), frozenset())


@pytest.mark.parametrize(
    ("allowed", "found"),
    [
        (None, None),
        ((), frozenset()),
        ("", frozenset()),
        ("room", {"room"}),
        ("room, team user", {"room", "team", "user"}),
        (["room,team", "user"], {"room", "team", "user"}),
        (["id"], {"id"}),
    ],
)
def test_what_allow_params_takes(allowed: object, found: object) -> None:
    """Names, in one text or in several."""
    assert allowed_params(allowed) == found  # type: ignore[arg-type] # it is the point


@pytest.mark.parametrize(("allowed", "words"), [([7], "must be str, not int"), ("a.b", "has a dot")])
async def test_what_allow_params_refuses(allowed: object, words: str) -> None:
    """At the start, by its name."""
    with pytest.raises((TypeError, ValueError), match=f"^allow_params.*{words}"):
        async with open_hub(allow_params=allowed):
            pass


async def refused(room: Room, target: str, *fields: str, method: str = "GET") -> str:
    """The reason, without a client."""
    answer = await Web(room).ask(get(target, *fields, method=method), method)
    assert answer.status == 400
    assert len(room.hub.clients) == 0
    return str(answer.json["detail"]) if method == "GET" else ""


UPGRADE = (
    *("Connection: Upgrade", "Upgrade: websocket"),
    *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
)


@pytest.mark.parametrize("fields", [UPGRADE, (), ("Accept: application/x-ndjson",)])
async def test_every_connection_has_the_rule(
    room: Room, fields: tuple[str, ...], autojump_clock: Clock
) -> None:
    """WebSockets and streams; HEAD has no body to say why."""
    assert "did you mean 'filters'?" in await refused(room, "/events?filter=[]", *fields)
    assert "audience: allowed only in the query of a POST" in await refused(
        room, "/events?audience=[]", *fields
    )
    if not fields:
        await refused(room, "/events?tpye=x", method="HEAD")


async def test_only_what_is_allowed(autojump_clock: Clock) -> None:
    """With `allow_params`, any other key is a 400, that of a `POST` included."""
    async with open_room(allow_params="room team") as room:
        peer = await room.connect("/?room=1&id=al&exact.type=t")
        (client,) = room.hub.clients
        assert client.params["room"] == "1"
        peer.kernel.hang_up()
        await room.quiet()
        for fields in (UPGRADE, ()):
            detail = await refused(room, "/events?rom=1", *fields)
            assert detail == "rom: unknown key; did you mean 'room'?"
            detail = await refused(room, "/events?user=1", *fields)
            assert detail == ("user: unknown key; remove it, or add it to the server's allow_params")
        await refused(room, "/events?user=1", method="POST")
        answer = await Web(room).ask(get("/events?room=1", method="POST"), "POST")
        assert answer.status == 200


async def test_operators_have_keys_of_their_own(autojump_clock: Clock) -> None:
    """`/clients` takes its own keys, with `allow_params` and with `authenticate`."""

    def authenticate(request: Request) -> Client:
        return request.client("operator")

    async with open_room(allow_params=(), authenticate=authenticate) as room:
        assert (await Web(room).ask(get("/clients?limit=5&after=0"))).json["total"] == 0


async def test_embedded_it_is_the_same_rule() -> None:
    """A connection that the application accepted is closed, with the reason."""
    async with application(allow_params="room") as (_, port):
        for target, words in (
            ("/?filter=[]", "filter: unknown key; did you mean 'filters'?"),
            ("/?rom=1", "rom: unknown key; did you mean 'room'?"),
        ):
            async with raw_client(port, target) as client:
                peer = await client.until(lambda peer: peer.close)
                assert peer.close == (CloseCode.POLICY_VIOLATION, words)


async def test_a_client_says_it_at_once() -> None:
    """Before it connects anywhere."""
    for options in ({"params": {"filter": "[]"}}, {"url": "http://127.0.0.1:1/?exact=x"}):
        with pytest.raises(ValueError, match=r": unknown key; did you mean '"):
            async with connect(**{"url": "http://127.0.0.1:1", **options}):  # type: ignore[arg-type] # either
                pass
