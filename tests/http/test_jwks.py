"""Keys: in a file, in a secret, and behind a URL, where they change."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock as Clock

from tests.conftest import open_room
from tests.http.test_secret import reload
from tests.provider import AUDIENCE, ISSUER, SECRET, Provider, made_by_hand, secret_issuer
from tests.web import Web, get
from trionotify import Issuer, Refused, Tokens, open_server
from trionotify.http import jwks
from trionotify.http.fetching import Fetched
from trionotify.http.jwks import FileKeys, RemoteKeys, SecretKeys, parse_key_set
from trionotify.http.jws import BadToken, Token


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[]", '^must be a JSON object with "keys"'),
        (b'{"keys": {}}', '^must be a JSON object with "keys"'),
        (json.dumps({"keys": [{}] * 101}).encode(), "of at most 100 keys"),
        (b'{"keys": []}', "^has no key for RS256"),
        (b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "^has no key for RS256"),
        (b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}', "at least 2048 bits"),
        (b"<html>", "JSON"),
    ],
)
def test_what_is_no_key_set(text: bytes, words: str) -> None:
    """It says what is wrong."""
    with pytest.raises(ValueError, match=words):
        parse_key_set(text)


async def test_a_file(tmp_path: Path) -> None:
    """It is read again on demand; what can't be read changes nothing."""
    provider, path = Provider(), tmp_path / "keys.json"
    provider.trusted(path)
    keys = FileKeys(path)
    old = Token.read(provider.token())
    await keys.verify(old)
    provider.rotate()
    new = Token.read(provider.token())
    with pytest.raises(BadToken, match="kid: the issuer has no key 'EC-1' for ES256"):
        await keys.verify(new)
    path.write_bytes(provider.key_set)
    assert reload(keys) == [str(path)]
    for token in (old, new):
        await keys.verify(token)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"^jwks: .*keys.json: must be a JSON object"):
        reload(keys)
    path.unlink()
    with pytest.raises(ValueError, match=r"^jwks: .*keys.json can't be read: No such file"):
        reload(keys)
    await keys.verify(new)


async def test_all_files_are_read_again_or_none(tmp_path: Path) -> None:
    """While one of them is invalid, what the others contained before stays in force."""
    provider, good, bad = Provider(), tmp_path / "good.json", tmp_path / "bad.json"
    provider.trusted(good)
    bad.write_bytes(provider.key_set)
    other = Issuer("https://other.example.org", audience=AUDIENCE, jwks=bad)
    tokens = Tokens(Issuer(ISSUER, audience=AUDIENCE, jwks=good), other)
    async with open_server(port=0, authenticate=tokens) as server:
        provider.rotate()
        good.write_bytes(provider.key_set)
        bad.write_text("{}")
        with pytest.raises(ValueError, match=r"^jwks: .*bad.json: must be a JSON object"):
            server.reload()
        with pytest.raises(Refused, match="the issuer has no key 'EC-1'"):
            await tokens.check(provider.token())
        bad.write_bytes(provider.key_set)
        assert server.reload() == [str(good), str(bad)]
        await tokens.check(provider.token())


async def test_a_token_without_a_kid(tmp_path: Path) -> None:
    """There must be no choice, because strangers would have all keys tried."""
    provider, path = Provider(), tmp_path / "keys.json"
    provider.trusted(path)
    keys = FileKeys(path)
    head = {"alg": "ES256", "typ": "at+jwt"}
    token = Token.read(made_by_hand(head, provider.claims(), provider.key, "ES256"))
    await keys.verify(token)
    provider.rotate()
    path.write_bytes(provider.key_set)
    reload(keys)
    with pytest.raises(BadToken, match="kid: missing, but the issuer has several keys"):
        await keys.verify(token)


async def test_a_secret(tmp_path: Path) -> None:
    """Each line of its file is one; short ones are refused."""
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\nanother one that is long enough, too\n")
    keys = SecretKeys(path)
    assert reload(keys) == [str(path)]
    with pytest.raises(ValueError, match=r"^secret: must have at least 32 bytes for HS256, not 20"):
        SecretKeys(b"twenty characters 20")
    assert secret_issuer().algorithms == ("HS256",)


class Net:
    """A replacement for `fetch`, on a clock that jumps: each fetch takes a second."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.times: list[float] = []
        self.headers = {"cache-control": "max-age=600"}
        self.failure: Exception | None = None

    async def fetch(self, url: str, **_: Any) -> Fetched:
        self.times.append(trio.current_time())
        found = self.provider.key_set
        await trio.sleep(1)
        if self.failure is not None:
            raise self.failure
        return Fetched(found, self.headers)


@asynccontextmanager
async def fetched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Net, RemoteKeys]]:
    net = Net(Provider())
    monkeypatch.setattr(jwks, "fetch", net.fetch)
    keys = RemoteKeys("https://id.example.org/keys")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.run)
        await trio.testing.wait_all_tasks_blocked()
        yield net, keys
        nursery.cancel_scope.cancel()


async def test_one_flight(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    """Requests that need a key meanwhile wait for the same answer."""
    async with fetched(monkeypatch) as (net, keys):
        token = Token.read(net.provider.token())
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(keys.verify, token)
        assert len(net.times) == 1
        await trio.sleep(40)
        net.provider.rotate()
        token = Token.read(net.provider.token())
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(keys.verify, token)
        assert len(net.times) == 2


async def test_an_unknown_key(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    """It has the set fetched, at most every 30 seconds in all. No client is refused meanwhile."""
    async with fetched(monkeypatch) as (net, keys):
        await trio.sleep(2)
        made_up = Token.read(net.provider.token({"kid": "made up"}))
        with pytest.raises(Refused, match="keys were fetched less than 30 seconds ago") as caught:
            await keys.verify(made_up)
        assert caught.value.headers == (("Retry-After", "28"),)
        await trio.sleep(28)
        with pytest.raises(BadToken, match="kid: the issuer has no key 'made up'"):
            await keys.verify(made_up)
        assert net.times == [0, 30]
        # Now it is known that there is none.
        with pytest.raises(BadToken):
            await keys.verify(made_up)
        net.provider.rotate()
        new = Token.read(net.provider.token())
        with pytest.raises(Refused, match="503"):
            await keys.verify(new)
        await trio.sleep(30)
        await keys.verify(new)
        assert len(net.times) == 3


async def test_a_key_that_is_newer_than_a_fetch(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """The fetch under way can't show that there is none."""
    async with fetched(monkeypatch) as (net, keys):
        net.provider.rotate()
        new = Token.read(net.provider.token())
        with pytest.raises(Refused, match="keys were fetched less than 30 seconds ago") as caught:
            await keys.verify(new)
        assert caught.value.headers == (("Retry-After", "29"),)
        await trio.sleep(29)
        await keys.verify(new)
        assert net.times == [0, 30]


@pytest.mark.parametrize("first", [0, 1])
async def test_two_hubs(first: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    """They share the fetches. When one of them ends, the other goes on, whichever it is."""
    net = Net(Provider())
    monkeypatch.setattr(jwks, "fetch", net.fetch)
    keys = RemoteKeys("https://id.example.org/keys")
    async with trio.open_nursery() as nursery:
        hubs = [trio.CancelScope() for _ in range(2)]

        async def run(hub: trio.CancelScope) -> None:
            with hub:
                await keys.run()

        for hub in hubs:
            nursery.start_soon(run, hub)
        await trio.sleep(31)
        assert net.times == [0]
        hubs[first].cancel()
        await trio.sleep(31)
        net.provider.rotate()
        token = Token.read(net.provider.token())
        with trio.fail_after(120):
            await keys.verify(token)
        hubs[1 - first].cancel()
    with pytest.raises(RuntimeError, match="pass these Tokens to a hub"):
        await keys.verify(Token.read(net.provider.token({"kid": "made up"})))


async def test_a_new_key_without_a_name(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    """It shows in a signature that no known key made. Forged ones neither hide it nor cost fetches."""
    async with fetched(monkeypatch) as (net, keys):

        def token() -> Token:
            head = {"alg": "ES256", "typ": "at+jwt"}
            return Token.read(made_by_hand(head, net.provider.claims(), net.provider.key, "ES256"))

        await keys.verify(token())
        forged = attrs.evolve(token(), signature=bytes(64))
        with pytest.raises(Refused, match="503: token: its key is unknown"):
            await keys.verify(forged)
        await trio.sleep(30)
        for _ in range(2):
            with pytest.raises(BadToken, match="not signed with a key of its issuer"):
                await keys.verify(forged)
        assert len(net.times) == 2
        net.provider.rotate(keep=False)
        with pytest.raises(Refused, match="503: token: its key is unknown"):
            await keys.verify(token())
        await trio.sleep(30)
        await keys.verify(token())
        assert len(net.times) == 3


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 3600),
        ({"cache-control": "max-age=600"}, 600),
        ({"cache-control": "public, Max-Age=900, must-revalidate"}, 900),
        ({"cache-control": "max-age=900", "age": "100"}, 800),
        ({"cache-control": "max-age=0"}, 300),
        ({"cache-control": "max-age=1"}, 300),
        ({"cache-control": "no-store"}, 300),
        ({"cache-control": "no-cache, max-age=900"}, 300),
        ({"cache-control": "max-age=999999999"}, 86_400),
        ({"cache-control": "s-max-age=7, max-age=x"}, 3600),
    ],
)
async def test_how_long_a_set_is_fresh(
    headers: dict[str, str],
    seconds: float,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: Clock,
) -> None:
    """As its headers say, between five minutes and a day."""
    async with fetched(monkeypatch) as (net, _):
        net.headers = headers
        await trio.sleep(seconds)
        assert net.times == [0]
        await trio.sleep(1.5)
        assert net.times == [0, seconds + 1]


async def test_the_provider_is_away(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The keys from before stay for two days, and it says so; then no token can be verified."""
    async with fetched(monkeypatch) as (net, keys):
        await trio.sleep(2)
        token = Token.read(net.provider.token())
        assert (keys.problem, keys.usable) == (None, True)
        net.failure = OSError("connection refused")
        await trio.sleep(700)
        assert keys.problem is not None
        assert keys.problem.endswith("can't be fetched: connection refused; the old keys remain in use")
        await keys.verify(token)
        assert keys.usable
        await trio.sleep(2 * 86_400)
        assert not keys.usable
        with pytest.raises(Refused, match="503"):
            await keys.verify(token)
        net.failure = None
        await trio.sleep(31)
        await keys.verify(token)
        assert keys.problem is None
    assert caplog.records[0].__dict__["event"] == "keys_unavailable"


async def test_the_provider_is_away_at_first(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """Until the keys are there, the server isn't ready, and answers clients with 503."""
    provider = Provider()
    net = Net(provider)
    net.failure = ValueError("the server answered 404")
    monkeypatch.setattr(jwks, "fetch", net.fetch)
    issuer = Issuer(ISSUER, audience=AUDIENCE, jwks="https://id.example.org/keys")
    async with open_room(authenticate=Tokens(issuer)) as room:
        await trio.sleep(1.5)
        assert (await room.connect("/", provider.bearer())).status == 503
        answer = await Web(room).ask(get("/readyz"))
        assert (answer.status, answer.body) == (503, b"not ready\n")
        assert room.hub.checks()["keys"].startswith("https://id.example.org/keys can't be fetched")
        net.failure = None
        await trio.sleep(10)
        assert (await Web(room).ask(get("/readyz"))).status == 200
        assert (await room.connect("/", provider.bearer())).status == 101


async def test_who_fetches_nothing() -> None:
    """Outside of a hub, no task fetches keys. Verifying says so, and doesn't wait."""
    with pytest.raises(RuntimeError, match="pass these Tokens to a hub"):
        await RemoteKeys("https://id.example.org/keys").verify(Token.read(Provider().token()))
    with pytest.raises(
        ValueError, match=r"^jwks: must be a URL like https.*, not 'http://id.example.org/keys'"
    ):
        RemoteKeys("http://id.example.org/keys")
