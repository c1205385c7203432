"""The secret: signed queries, requests that present it, and what each of them may do."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import time
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
import trio
from trio.testing import MockClock as Clock

import trionotify
from tests.conftest import open_room, stop_the_time
from tests.web import Web, blocks, get, post
from trionotify import Client, CloseCode, Exact, Refused, Request, sign
from trionotify.http.jwks import Keys
from trionotify.http.secret import Secret, canonical
from trionotify.model.query import parse_query

KEY = b"0123456789abcdef0123456789abcdef"
BEARER = f"Authorization: Bearer {KEY.decode()}"


def reload(source: Secret | Keys) -> list[str]:
    """As a server does: read the files, then let them count."""
    files = source.reread()
    for _, take in files:
        take()
    return [path for path, _ in files]


def by_hand(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def test_what_is_signed() -> None:
    """All but what its bearer may choose, sorted, percent-encoded; the default role counts as none."""
    before = int(time.time())
    query = sign({"id": "al ice/ü", "exact.type": "a&b=c", "role": "subscriber", "since": "start"}, KEY)
    found = dict(parse_qsl(query))
    assert before + 3600 <= int(found["exp"]) <= time.time() + 3600
    text = f"exact.type=a%26b%3Dc&exp={found['exp']}&id=al%20ice%2F%C3%BC"
    assert found["sig"] == by_hand(KEY, text)
    assert (found["since"], found["role"]) == ("start", "subscriber")


def test_a_query_or_a_url_is_signed_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text in, text out; a secret may be text of several lines, of which the first one signs."""
    now = stop_the_time(monkeypatch)
    lines = f"{KEY.decode()}\nan old one, long enough\n"
    query = sign("id=a&exact.type=x%20y", lines, expires_in=60)
    assert Secret(KEY).check(dict(parse_qsl(query))) == now + 60
    url = urlsplit(sign("wss://example.org/events?id=a", KEY))
    assert (url.scheme, url.netloc, url.path) == ("wss", "example.org", "/events")
    Secret(KEY).check(dict(parse_qsl(url.query)))
    assert sign("/events?id=a", KEY).startswith("/events?id=a&exp=")
    assert sign("unix:/run/hub%3F.sock?id=a", KEY).startswith("unix:/run/hub%3F.sock?id=a&exp=")
    assert sign("Unix://[run/\n?id=a", KEY).startswith("Unix://[run/\n?id=a&exp=")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ("id=", "^id: must have 1 to 255 characters"),
        ("id=a&id=b", "^id: given twice; give it once"),
        ("id=a&exact.Type=x", "^exact.Type: "),
        ({"id": "a", "exp": "1"}, "^exp: signing adds it; leave it out"),
        ({"id": "a", "sig": "1"}, "^sig: signing adds it; leave it out"),
        ("https://a.example/events?id=a#top", "^url: a '#' must be written as %23"),
        ({"id": "a", "role": "admin"}, "^role: must be one of subscriber, publisher, both"),
    ],
)
def test_what_a_server_would_refuse_is_not_signed(params: dict[str, str] | str, words: str) -> None:
    """The error names the key."""
    with pytest.raises(ValueError, match=words):
        sign(params, KEY)


def test_what_cannot_sign() -> None:
    """No secret, no time."""
    with pytest.raises(ValueError, match="secret: must not be empty"):
        sign({"id": "a"}, b" \n")
    with pytest.raises(
        ValueError, match=("expires_in: must be greater than 0 and at most 1000000000 seconds")
    ):
        sign({"id": "a"}, KEY, expires_in=0)
    for seconds in (2e9, time.time() * 1000, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"^expires_in: must be .* at most 1000000000 seconds"):
            sign({"id": "a"}, KEY, expires_in=seconds)


def changed(query: str, **values: str) -> dict[str, str]:
    return {**dict(parse_qsl(query, keep_blank_values=True)), **values}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"id": "a"}, "sig: missing"),
        (changed(sign("id=a", KEY), id="b"), "sig: not the signature of this query"),
        (changed(sign("id=a", KEY), extra="x"), "sig: not the signature of this query"),
        (changed(sign("id=a", KEY), exp="99999999999"), "sig: not the signature of this query"),
        (changed(sign("id=a", KEY), sig="ü"), "sig: not the signature of this query"),
        (changed(sign("id=a", KEY), role="publisher"), "sig: not the signature of this query"),
        (
            changed(sign("id=a&role=publisher", KEY), role="subscriber"),
            "sig: not the signature of this query",
        ),
        (changed(sign("id=a", b"another secret, long enough")), "sig: not the signature of this query"),
        (
            {"id": "a", "sig": by_hand(KEY, "id=a")},
            "exp: must be a whole number of seconds since 1970, when the signed query expires",
        ),
        (
            {"id": "a", "exp": "soon", "sig": by_hand(KEY, "exp=soon&id=a")},
            "exp: must be a whole number of seconds since 1970, when the signed query expires",
        ),
        ({"id": "a", "exp": "1", "sig": by_hand(KEY, "exp=1&id=a")}, "exp: this query has expired"),
        (
            {"id": "a", "exp": "1795000000000", "sig": by_hand(KEY, "exp=1795000000000&id=a")},
            "exp: must be in seconds since 1970, not in milliseconds",
        ),
    ],
)
def test_what_is_refused(query: dict[str, str], words: str) -> None:
    """With 401, and what is at fault."""
    with pytest.raises(Refused, match=words) as caught:
        Secret(KEY).check(query)
    assert caught.value.status == 401


@pytest.mark.parametrize(
    ("signed", "said"),
    [
        ("id=a", {"since": "start", "lag": "gap", "format": "raw", "echo": "0", "narrow": "[]"}),
        ("id=a", {"role": "subscriber"}),
        ("id=a&role=both", {"role": "subscriber"}),
        ("id=a&role=both", {"role": "publisher"}),
    ],
)
def test_what_a_bearer_may_choose(signed: str, said: dict[str, str]) -> None:
    """How, and less."""
    Secret(KEY).check(changed(sign(signed, KEY), **said))


@pytest.mark.parametrize(
    ("moment", "error"),
    [
        pytest.param(time.time() * 1000, ValueError, id="milliseconds"),
        (float("inf"), ValueError),
        (float("nan"), ValueError),
        ("1795000000", TypeError),
        (True, TypeError),
    ],
)
def test_when_a_client_cannot_expire(moment: Any, error: type[Exception]) -> None:
    """An application that counts in milliseconds is told so: its clients would stay for ever."""
    with pytest.raises(error, match=r"^expires_at: must be "):
        Client("a", expires_at=moment)
    assert Client("a", expires_at=9_999_999_999).expires_at == 9_999_999_999


def test_a_file_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The new contents count from then on. A file that can't be read leaves everything as it was."""
    path = tmp_path / "secret"
    path.write_text("first secret, long enough\n")
    secret = Secret(path)
    old = dict(parse_qsl(sign("id=a", path.read_bytes())))
    path.write_text("second secret, long enough\n\nfirst secret, long enough\n")
    reload(secret)
    assert secret.key == b"second secret, long enough"
    secret.check(old)
    path.write_text("\n")
    with pytest.raises(ValueError, match=re.escape(f"secret: {path}: must not be empty")):
        reload(secret)
    path.unlink()
    with pytest.raises(ValueError, match=re.escape(f"secret: {path} can't be read: No such file")):
        reload(secret)
    secret.check(old)
    path.write_text("second secret, long enough\n")
    reload(secret)
    with pytest.raises(Refused):
        secret.check(old)
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xe7" * 32, "must be ASCII text"),
        (b"0123456789abcdef\x000123456789", "must be ASCII text"),
        (b" \n\t\n", ": must not be empty"),
        (b"\xef\xbb\xbf" + KEY, "must not start with a byte order mark; save it as UTF-8 without one"),
    ],
)
def test_what_is_no_secret(text: bytes, words: str, tmp_path: Path) -> None:
    """Nothing, and bytes that would be several secrets where one ends a line."""
    path = tmp_path / "secret"
    path.write_bytes(text)
    for source, name in ((path, f"secret: {path}"), (text, "secret")):
        with pytest.raises(ValueError, match=f"^{re.escape(name)}.*{words}"):
            Secret(source)


TEXT = "0123456789abcdef" * 2


@pytest.mark.parametrize("text", [TEXT, "a_url-safe_base64_one-with_43_characters-00"])
async def test_a_secret_as_text(text: str, autojump_clock: Clock) -> None:
    """Signing and the server take the same."""
    async with open_room(secret=text) as room:
        peer = await room.connect(f"/?{sign('id=al', text)}")
        assert peer.status == 101
        peer = await room.connect(f"/?{sign('id=al', text.encode())}")
        assert peer.status == 101


async def test_the_path_of_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """As a path, as text that names a file, and by its own option; signing takes it, too."""
    path = tmp_path / "a_secret_of_some_length"
    path.write_bytes(KEY)
    monkeypatch.chdir(tmp_path)
    ways: list[dict[str, Any]] = [{"secret": path}, {"secret": str(path)}, {"secret": path.name}]
    ways += [{"secret_file": path}, {"secret_file": str(path)}, {"secret_file": path.name}]
    for options in ways:
        async with open_room(**options) as room:
            for given in (path, str(path), path.name, KEY):
                peer = await room.connect(f"/?{sign('id=al', given)}")
                assert peer.status == 101


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"secret": "correct-horse"},
            ValueError,
            "secret: no file has this name; give the secret itself as bytes",
        ),
        ({"secret": "/etc/0123456789abcdef"}, ValueError, "secret: no file has this name"),
        ({"secret": "0123456789abcdef.txt"}, ValueError, "secret: no file has this name"),
        ({"secret": 7}, TypeError, "secret: must be str, bytes or a path, not int; give the secret its"),
        ({"secret": Path(TEXT)}, ValueError, "secret: the file can't be read: No such file"),
        ({"secret_file": TEXT}, ValueError, "secret_file: the file can't be read: No such file"),
        ({"secret_file": f"{TEXT}/{TEXT}"}, ValueError, "secret_file: the file can't be read: No such"),
        ({"secret_file": "nowhere"}, ValueError, "secret_file: nowhere can't be read: No such file"),
        ({"secret_file": KEY}, TypeError, "secret_file: must be the path of a file, not bytes"),
        (
            {"secret_file": "x", "secret": "y"},
            TypeError,
            "secret: must not be combined with secret_file",
        ),
    ],
)
async def test_no_error_tells_the_secret(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """It says what is wrong and how to write it."""
    with pytest.raises(error, match=f"^{words}") as caught:
        async with trionotify.open_hub(**options):
            raise AssertionError("it opened")
    assert "0123456789" not in str(caught.value)
    assert "horse" not in str(caught.value)
    assert "a secret" not in str(caught.value)


@pytest.mark.parametrize("expires_in", [900, 900.0, "15m", "900", timedelta(minutes=15)])
def test_how_long_a_signature_is_good(expires_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Durations are written as everywhere."""
    now = stop_the_time(monkeypatch)
    signed = dict(parse_qsl(sign("id=al", KEY, expires_in=expires_in)))
    assert int(signed["exp"]) == now + 900


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({7: "x"}, KEY), "params: names must be str, not int"),
        (
            (None, KEY),
            "params: must be a mapping, a query or a URL, not NoneType; write {'id'",
        ),
        (({"id": "al"}, None), "secret: must be str, bytes or a path, not NoneType; give"),
        (({"id": "al"}, KEY, None), "expires_in: must be a number of seconds or a text like '15m'"),
        (({"id": "al"}, KEY, True), "expires_in: must be a number of seconds or a text like '15m'"),
    ],
)
def test_signing_with_wrong_types(arguments: tuple[Any, ...], words: str) -> None:
    """The error names the argument, and says what to write."""
    params, secret, *rest = arguments
    with pytest.raises(TypeError, match=f"^{re.escape(words)}"):
        sign(params, secret, **({"expires_in": rest[0]} if rest else {}))


@pytest.mark.parametrize(
    ("params", "name"), [({"a": "\ud800"}, "a"), ({"\ud800": "a"}, "params"), ("a=\ud800", "params")]
)
def test_signing_what_has_no_bytes(params: Any, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: must not contain the character '\\ud800'$"):
        sign(params, KEY)


@pytest.mark.parametrize("text", [b"fifteen letters", b"the good one, long enough\nx\n"])
def test_what_could_be_guessed(text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is taken, with a warning."""
    assert Secret(text).key == text.splitlines()[0]
    assert (
        "a line has fewer than 16 characters, so a client that has one signed query can"
        " guess it by trying"
    ) in caplog.text


def test_what_could_be_guessed_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At the first signature with it, and not at each; of a file, whenever it is read."""
    first, second = token_hex(6), token_hex(6)  # nothing was signed with these yet
    for secret in (first, first.encode(), second):
        for _ in range(3):
            sign("id=a", secret)
    assert len(caplog.records) == 2
    path = tmp_path / "secret"
    path.write_text(first)
    reload(Secret(path))
    assert [f"secret: {path}: a line has" in record.getMessage() for record in caplog.records] == [
        *(False, False, True, True)
    ]


VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "signatures.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda vector: vector["about"])
def test_the_canonical_form(vector: dict[str, Any]) -> None:
    """The published examples for authors of signers: parameters, text, signature, and queries."""
    key = VECTORS["secret"].encode()
    assert canonical(vector["params"]) == vector["text"]
    assert by_hand(key, vector["text"]) == vector["sig"]
    for query in vector["queries"]:
        Secret(key).check(parse_query(f"{query}&sig={vector['sig']}"))


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda vector: vector["about"])
def test_what_is_another_form(vector: dict[str, Any]) -> None:
    """Another is refused, however similar it is, because there is one secret."""
    with pytest.raises(Refused, match="sig: not the signature of this query"):
        Secret(VECTORS["secret"].encode()).check(parse_query(vector["query"]))


# --- what each may do ---


async def test_a_wrong_secret_is_named_in_a_handshake(autojump_clock: Clock) -> None:
    """It isn't told that a signature is missing. What another scheme authorizes is no secret."""
    async with open_room(secret=KEY) as room:
        for field, words in (
            ("Authorization: Bearer wrong", b"Authorization: not this server's secret"),
            ("Authorization: Basic eDp5", b"sig: missing"),
        ):
            peer = await room.connect("/?id=al", field)
            assert (peer.status, words in peer.kernel.taken) == (401, True)


async def test_without_a_signature_nobody_comes_in(autojump_clock: Clock) -> None:
    """Neither over a WebSocket nor over a stream; health checks, scripts and the page are for all."""
    async with open_room(secret=KEY) as room:
        peer = await room.connect("/?id=al")
        assert (peer.status, b"sig: missing" in peer.kernel.taken) == (
            401,
            True,
        )
        answer = await Web(room).ask(get("/events?id=al", "Accept: text/event-stream"))
        assert answer.status == 401
        for path in ("/livez", "/readyz", "/trionotify.js"):
            assert (await Web(room).ask(get(path))).status == 200
        assert (await Web(room).ask(get("/", "Accept: text/html"))).status == 200


async def test_a_signed_client_is_who_the_query_says(autojump_clock: Clock) -> None:
    """And wants no more than it says, whatever it asks for later."""
    async with open_room(secret=KEY) as room:
        target = "/?" + sign({"id": "al", "exact.type": "a"}, KEY)
        peer = await room.connect(target, "Sec-WebSocket-Protocol: cloudevents.json")
        assert peer.status == 101
        event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "trionotify.subscribe"}
        peer.say(json.dumps({**event, "data": {"filters": [{"prefix": {"type": ""}}]}}))
        await room.quiet()
        await room.hub.publish("one", type="a")
        await room.hub.publish("two", type="b")
        await room.quiet()
        found = [json.loads(message) for message in peer.look().messages]
        assert [event["data"] for event in found if event["source"] == "/hub"] == ["one"]
        (client,) = room.hub.clients
        assert client.id == "al"


async def test_narrowing(autojump_clock: Clock) -> None:
    """Unsigned filters can only take away. Without a secret they are one more filter."""
    for options in ({"secret": KEY}, {}):
        async with open_room(**options) as room:
            query = "id=al&exact.type=a"
            target = "/?" + (sign(query, KEY) if options else query)
            peer = await room.connect(
                target + "&narrow=%7B%22exact%22%3A%7B%22subject%22%3A%22x%22%7D%7D"
            )
            alone = await room.connect("/?" + (sign("id=b", KEY) if options else "id=b") + "&narrow=[]")
            for type, subject in (("a", "x"), ("a", "y"), ("b", "x")):
                await room.hub.publish(type + subject, type=type, subject=subject)
            await room.quiet()
            assert peer.look().messages == ["ax"]
            assert alone.look().messages == ["ax", "ay", "bx"]
            bad = await room.connect(target + "&narrow=x")
            assert (bad.status, b"narrow: " in bad.kernel.taken) == (400, True)


async def test_a_signed_publisher_reads_nothing(autojump_clock: Clock) -> None:
    """Not even if it asks."""
    async with open_room(secret=KEY) as room:
        target = "/?" + sign("id=p&role=publisher&type=t", KEY)
        peer = await room.connect(target + "&narrow=[]", "Sec-WebSocket-Protocol: cloudevents.json")
        event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "trionotify.subscribe"}
        peer.say(json.dumps({**event, "data": {"filters": []}}))
        await room.quiet()
        await room.hub.publish("not for it", confirm=True)
        await room.quiet()
        assert not [text for text in peer.look().messages if "not for it" in text]


async def test_its_time_ends_the_connection(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 4401, on a WebSocket; a stream ends; who has the secret stays."""
    stop_the_time(monkeypatch)
    async with open_room(secret=KEY, ping_interval=1e6, max_log_age=1e9) as room:
        soon = await room.connect("/?" + sign("id=a", KEY, expires_in=100))
        later = await room.connect("/?" + sign("id=a", KEY, expires_in=200))
        stays = await room.connect("/?id=b", BEARER)
        stream = Web(room)
        query = sign("id=s", KEY, expires_in=100)
        stream.kernel.feed(get(f"/events?{query}", "Accept: text/event-stream"))
        await trio.sleep(98)
        assert len(room.hub.clients) == 4
        await trio.sleep(4)
        assert soon.look().close == (CloseCode.UNAUTHORIZED, "expired")
        assert not CloseCode.UNAUTHORIZED.reconnect
        assert b"\r\n0\r\n" in stream.kernel.taken
        assert {client.id for client in room.hub.clients} >= {"b"}
        await trio.sleep(100)
        assert later.look().close == (4401, "expired")
        assert stays.look().close is None


async def test_who_has_the_secret_may_do_everything(autojump_clock: Clock) -> None:
    """It may publish, monitor, and connect under any id. No other request may, whatever it sends."""
    async with open_room(secret=b"new one, long enough\n" + KEY) as room:
        for given in ("", "Authorization: Bearer x", f"Authorization: Basic {KEY.decode()}"):
            fields = [given] if given else []
            for path in ("/clients", "/metrics"):
                answer = await Web(room).ask(get(path, *fields))
                assert answer.status == 401
                why = "not this server's secret" if fields else "missing"
                assert answer.json["detail"] == (
                    f"Authorization: {why}; {path} needs Authorization: Bearer SECRET"
                )
            assert (await Web(room).ask(post("/events", "x", *fields), "POST")).status == 401
            assert (await Web(room).ask(get("/readyz?verbose", *fields))).body == b"ok\n"
        assert room.hub.log.head == 0
        for path in ("/clients", "/metrics"):
            assert (await Web(room).ask(get(path, BEARER))).status == 200
        assert (await Web(room).ask(post("/events", "x", BEARER), "POST")).status == 200
        assert b"log: ok" in (await Web(room).ask(get("/readyz?verbose", BEARER))).body
        peer = await room.connect("/?id=al&since=start", BEARER)
        assert peer.look().messages == ["x"]


async def test_publishing_with_a_signed_query(autojump_clock: Clock) -> None:
    """Only if it was signed for that."""
    async with open_room(secret=KEY) as room:
        for role, status in (("", 403), ("&role=subscriber", 403), ("&role=both", 200)):
            query = sign(f"id=al{role}", KEY)
            answer = await Web(room).ask(post(f"/events?{query}", "x"), "POST")
            assert answer.status == status, role
        forged = query.replace("id=al", "id=bo")
        assert (await Web(room).ask(post(f"/events?{forged}", "x"), "POST")).status == 401
        assert room.hub.log.head == 1


async def test_both_must_agree(autojump_clock: Clock) -> None:
    """`authenticate` is asked only about what was signed, and what it gives is narrowed by that."""
    asked = []

    def authenticate(request: Request) -> Client:
        asked.append(request.params["id"])
        client = Client(request.params["id"], request.params, expires_at=time.time() + 50)
        client.subscribe(Exact(subject="s"))
        return client

    async with open_room(secret=KEY, authenticate=authenticate, ping_interval=1e6) as room:
        assert (await room.connect("/?id=nobody")).status == 401
        target = "/?" + sign("id=al&exact.type=a", KEY)
        peer = await room.connect(target, "Sec-WebSocket-Protocol: cloudevents.json")
        event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "trionotify.subscribe"}
        peer.say(json.dumps({**event, "data": {"filters": []}}))
        await room.quiet()
        for type, subject in (("a", "s"), ("a", "t"), ("b", "s")):
            await room.hub.publish(type + subject, type=type, subject=subject)
        await room.quiet()
        found = [json.loads(text) for text in peer.look().messages]
        assert [one["data"] for one in found if one["source"] == "/hub"] == ["as"]
        assert asked == ["al"]
        await trio.sleep(60)
        assert peer.look().close == (4401, "expired")


async def test_an_end_at_the_beginning_of_time(autojump_clock: Clock) -> None:
    """An application's 0 is a time, too, and no later one counts."""
    async with open_room(secret=KEY, authenticate=lambda _: Client("al", expires_at=0)) as room:
        peer = await room.connect("/?" + sign("id=al", KEY))
        assert peer.status == 401


async def test_a_stranger_sends_no_body(autojump_clock: Clock) -> None:
    """A client that may not publish is refused before its body, which would fill the memory."""
    async with open_room(secret=KEY) as room:
        for target, status in (
            ("/events", 401),
            (f"/events?{sign('id=a', KEY)}", 403),
            ("/events?sig=x", 401),
        ):
            web = Web(room)
            fields = ("Content-Length: 1000000", "Expect: 100-continue")
            answer = await web.ask(get(target, *fields, method="POST"), "POST")
            assert (answer.status, answer.headers["connection"]) == (status, "close")


async def test_who_has_expired_publishes_nothing(autojump_clock: Clock) -> None:
    """Not even while it makes a show of closing; nor may it hear any more."""
    async with open_room(secret=KEY, ping_interval=1e6, close_timeout=60) as room:
        peer = await room.connect("/?" + sign("id=a&role=both", KEY, expires_in=100))
        await trio.sleep(101)
        peer.say("too late")
        await room.quiet()
        await room.hub.publish("not for it", confirm=True)
        await room.quiet()
        assert room.hub.log.head == 1
        assert (peer.look().messages, peer.close) == ([], (4401, "expired"))
        peer.say_close()


@pytest.mark.parametrize(
    ("said", "status"),
    [
        # What isn't signed can't be smuggled in under another spelling of its name.
        ("&id=bo", 400),
        ("&i%64=bo", 400),
        ("&ID=bo", 401),
        ("&exact.type=b", 400),
        ("&prefix.type=", 401),
        ("&sql=TRUE", 401),
        ("&filters=[]", 401),
        ("&role=publisher", 401),
        ("&exp=99999999999", 400),
        ("&sig=", 400),
        ("&", 101),
        ("&=", 401),
        ("&x", 401),
        ("&since=start", 101),
        ("&last_event_id=start", 101),
        ("&lastEventId=start", 410),
        ("&since=x&lastEventId=start", 410),
        ("&lasteventid=start", 401),
        ("&narrow=[]", 101),
    ],
)
async def test_what_is_added_to_a_signed_query(said: str, status: int, autojump_clock: Clock) -> None:
    """Is refused, unless it is one of those that say how; and never gets more."""
    async with open_room(secret=KEY) as room:
        peer = await room.connect("/?" + sign("id=al&exact.type=a", KEY) + said)
        assert peer.status == status
        await room.hub.publish("one", type="a")
        await room.hub.publish("two", type="b")
        await room.hub.publish("three", type="a", to="bo")
        await room.quiet()
        assert peer.look().messages == (["one"] if status == 101 else [])


@pytest.mark.parametrize(
    "spelling", ["id=a%20b&exact.type=x%2By", "id=a+b&exact.type=x%2by", "exact%2Etype=x%2By&id=a%20b"]
)
def test_a_query_may_be_spelled_otherwise(spelling: str) -> None:
    """A proxy may do so, and a browser's URLSearchParams does: what counts is what it means."""
    signed = dict(parse_qsl(sign({"id": "a b", "exact.type": "x+y"}, KEY)))
    text = f"{spelling}&exp={signed['exp']}&sig={signed['sig']}"
    Secret(KEY).check(dict(parse_qsl(text)))


async def test_the_header_last_event_id_gives_no_more(autojump_clock: Clock) -> None:
    """It says where to start, and the filters of the signed query hold for that, too."""
    async with open_room(secret=KEY) as room:
        for type in ("a", "b"):
            await room.hub.publish(type, type=type, confirm=True)
        target = "/events?" + sign("id=al&exact.type=a", KEY)
        cursor = f"Last-Event-ID: {room.hub.log.epoch}:0"
        web = Web(room)
        web.kernel.feed(get(target, "Accept: text/event-stream", cursor))
        await room.quiet()
        assert [block["data"] for block in blocks(web.stream()[1]) if "data" in block] == ["a"]


async def test_an_exception_does_not_tell_the_query(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """From `authenticate`, a session or a predicate, and also in a group, a cause or a note."""
    token = "t0ken of/her"

    def authenticate(request: Request) -> Client:
        if "boom" in request.params:
            try:
                raise KeyError(request.params["token"])
            except KeyError as error:
                error.add_note(f"it was {quote(request.params['token'])}")
                raise ExceptionGroup("all", [ValueError(f"no such {token}")]) from error
        if "refuse" in request.params:
            raise Refused(403, f"nobody knows {token} or {request.params['pin']}")
        client = Client("al", request.params)
        if "fail" in request.params:
            client.subscribe(lambda notification: {}[client.params["token"]])
        return client

    async def session(client: Client) -> None:
        async for _ in client:
            raise RuntimeError(f"{client.params['token']!r}")

    caplog.set_level(logging.DEBUG)
    async with open_room(authenticate=authenticate, session=session) as room:
        query = f"/?token={quote(token, safe='')}&pin=1234"
        assert (await room.connect(f"{query}&boom=")).status == 500
        refused = await room.connect(f"{query}&refuse=")
        assert token.encode() in refused.kernel.taken  # it may hear what it said
        peer = await room.connect(query)
        peer.say("x")
        await room.quiet()
        await room.connect(f"{query}&fail=")
        await room.hub.publish("x")
        await room.quiet()
    for words in ("the request failed", "the session of client 'al'", "a predicate of client 'al'"):
        assert words in caplog.text
    assert "refused: 403 'Forbidden'" in caplog.text
    assert caplog.text.count("Traceback") >= 3
    assert "t0ken" not in caplog.text
    assert "1234" not in caplog.text
    assert all(record.exc_info for record in caplog.records if record.levelname == "ERROR")


@pytest.mark.parametrize(
    "head",
    [
        "GET /?t0ken.abc.def HTTP/1.1",
        "GET /?t0ken&t0ken HTTP/1.1",
        "GET /?exact.t0ken.x=1 HTTP/1.1",
        "GET /events%3Fid=al&sig=t0ken HTTP/1.1",
        "GET /events&ticket=t0ken HTTP/1.1",
        "GET /events;sig=t0ken HTTP/1.1",
        "GET /events#ticket=t0ken HTTP/1.1",
        "GET /ticket=t0ken HTTP/1.1",
        f"GET /events/t0ken{'x' * 20}/y HTTP/1.1",
        "GET http://test?exact.x.y=/t0ken HTTP/1.1",
        "POST /nowhere?t0ken=1 HTTP/1.1",
        "GET /events?t0ken=%ff HTTP/1.1",
        "GET /events?id=al&t0ken=1\x00 HTTP/1.1",
        "GET /events?t0ken=1",
        "GET /events?t0ken=1 HTTP/9.9",
        "GET /?lag=t0ken HTTP/1.1",
        "GET /clients?limit=t0ken HTTP/1.1",
    ],
)
async def test_a_refusal_does_not_tell_the_query(
    head: str, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with a request, and wherever the token stands."""
    caplog.set_level(logging.DEBUG)
    async with open_room() as room:
        web = Web(room)
        fields = ["Host: test", "Upgrade: websocket", "Connection: Upgrade"]
        fields += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + "A" * 22 + "=="]
        for more in (fields[:1], fields):
            web = Web(room)
            web.kernel.feed("\r\n".join([head, *more, "", ""]).encode("latin-1"))
            await room.quiet()
            assert web.kernel.taken.startswith(b"HTTP/1.1 ")
    assert "web:1 refused: " in caplog.text
    assert "t0ken" not in caplog.text


async def test_nothing_of_a_query_is_logged(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a signature nor what else is in it."""
    caplog.set_level(logging.DEBUG)
    async with open_room(secret=KEY) as room:
        query = sign("id=al&token=t0ken", KEY)
        peer = await room.connect("/?" + query)
        peer.say_close()
        await room.connect("/?" + query.replace("al", "bo"))
        await room.connect("/?id=x&t0ken.x=1")
        await room.quiet()
    assert "client 'al'" in caplog.text
    assert "refused: 401 'sig'" in caplog.text
    assert "t0ken" not in caplog.text
    assert dict(parse_qsl(query))["sig"] not in caplog.text


async def test_a_server_with_a_secret_may_be_reached_by_anyone(tmp_path: Path) -> None:
    """Without one it listens on loopback only."""
    path = tmp_path / "secret"
    path.write_bytes(KEY)
    with pytest.raises(
        ValueError,
        match=(
            r"^host: everyone can reach 0\.0\.0\.0, so a secret is needed \(--secret"
            r" FILE\); or listen on 127\.0\.0\.1, or accept every client \(--insecure\)"
        ),
    ):
        async with trionotify.open_server(host="0.0.0.0", port=0):
            raise AssertionError("it listens")
    async with trionotify.open_server(host="0.0.0.0", port=0, secret=path) as server:
        url = sign(f"http://127.0.0.1:{server.port}/?id=al", path.read_bytes())
        async with trionotify.connect(url) as client:
            await server.hub.publish("hello", to="al")
            assert (await anext(client)).data == "hello"
        with pytest.raises(Refused, match="401: sig"):
            async with trionotify.connect(f"http://127.0.0.1:{server.port}/?id=al"):
                raise AssertionError("it was let in")


async def test_the_python_client_with_a_signed_query(autojump_clock: Clock) -> None:
    """It publishes and receives, comes back, and narrows what it gets, over reconnects."""
    async with trionotify.open_server(port=0, secret=KEY) as server:
        url = sign(f"{server.url}/?id=al&role=both&prefix.type=a", KEY)
        async with trionotify.connect(url, filter=Exact(subject="x")) as client:
            await client.publish("one", type="a.b", subject="x")
            await client.publish("two", type="b.b", subject="x")
            await client.publish("three", type="a.b", subject="y")
            assert (await anext(client)).data == "one"
            await client.subscribe(Exact(subject="y"))
            for connection in tuple(server.hub.connections.values()):
                connection.abort()
            await client.publish("four", type="a.c", subject="x")
            await client.publish("five", type="a.c", subject="y")
            assert (await anext(client)).data == "five"
        with pytest.raises(RuntimeError, match="role: a subscriber can't publish"):
            async with trionotify.connect(sign(f"{server.url}/?id=al", KEY)) as client:
                await client.publish("x")
        with pytest.raises(ValueError, match=r"^id: a signed query must have one, "):
            async with trionotify.connect(sign(f"{server.url}/?team=a", KEY)):
                raise AssertionError("it was let in")


def test_the_parameters_of_a_client_do_not_change() -> None:
    """It has a copy, but takes what is read-only as it is."""
    given = {"room": "a"}
    client = Client("x", given)
    given["room"] = "b"
    assert client.params == {"room": "a"}
    with pytest.raises(TypeError):
        client.params["room"] = "b"  # type: ignore[index] # that is the point
    assert Client("x", client.params).params is client.params
