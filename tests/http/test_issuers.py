"""Issuers: their configuration, and the clients that their tokens give."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import stop_the_time
from tests.provider import AUDIENCE, ISSUER, SECRET, Provider
from trionotify import Client, Issuer
from trionotify.http.jws import BadToken, Token


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"jwks": None}, ValueError, "^jwks and secret: must be given one of them"),
        ({"secret": SECRET}, ValueError, "^jwks and secret: must be given one of them"),
        ({"issuer": ""}, TypeError, "^issuer: must be a non-empty string"),
        ({"audience": ()}, ValueError, "^audience: must be one or more strings"),
        ({"audience": 7}, ValueError, r"^audience: must be one or more strings, not \(7,\)"),
        ({"typ": 7}, ValueError, "^typ: must be one or more strings"),
        ({"jwks": 7}, TypeError, "^jwks: must be a URL or the path of a file, not 7"),
        ({"algorithms": ["none"]}, ValueError, "^algorithms: must be among ES256, .*, not 'none'$"),
        ({"algorithms": ["HS256"]}, ValueError, "not 'HS256'; HS256 needs secret, not jwks"),
        ({"algorithms": ["RS256", "HS512"]}, ValueError, "^algorithms: .*, not 'HS512'$"),
        (
            {"jwks": None, "secret": SECRET, "algorithms": ["RS256"]},
            ValueError,
            "^algorithms: must be among HS256 with these keys, not 'RS256'$",
        ),
        ({"jwks": None, "secret": b"x" * 31}, ValueError, "^secret: .* at least 32 bytes .* not 31"),
        ({"jwks": "http://id.example.org/keys"}, ValueError, "^jwks: must be a URL like https"),
        ({"jwks": "nowhere.json"}, ValueError, "^jwks: nowhere.json can't be read"),
        ({"leeway": 301}, ValueError, "^leeway: must be from 0 to 300 seconds, not 301"),
        ({"leeway": -1}, ValueError, "^leeway: "),
        ({"ssl_context": True}, TypeError, r"^ssl_context: must be an ssl\.SSLContext, not bool$"),
        ({"leeway": "6m"}, ValueError, "^leeway: must be from 0 to 300 seconds, not 360$"),
        ({"leeway": math.nan}, ValueError, "^leeway: must be from 0 to 300 seconds, not nan$"),
        ({"leeway": "ten"}, ValueError, "^leeway: must be a duration in seconds, like 90, or a text"),
        ({"leeway": None}, TypeError, "^leeway: must be a number of seconds or a text like"),
        ({"leeway": True}, TypeError, "^leeway: must be a number of seconds or a text like"),
        ({"params": {"id": "sub"}}, ValueError, "^params: 'id' has another meaning in a query"),
        ({"params": {"exact.type": "x"}}, ValueError, "^params: 'exact.type' has another meaning"),
        ({"params": {"team": 7}}, TypeError, "^params: must map names of parameters to names of claims"),
        ({"params": 7}, TypeError, "^params: must map names of parameters to names of claims, not 7"),
        ({"id": ""}, TypeError, "^id: must be a non-empty string"),
        ({"rights": {"subscribe": "x"}}, ValueError, "^rights: trionotify: subscribe must be an array"),
        ({"rights": {"params": {"id": "x"}}}, ValueError, "^rights: params: 'id' has another meaning"),
    ],
)
def test_what_cannot_be_configured(
    options: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    """The error names the option."""
    provider, path = Provider(), tmp_path / "keys"
    path.write_bytes(provider.key_set)
    given = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": path, **options}
    with pytest.raises(error, match=words):
        Issuer(given.pop("issuer"), **given)


def test_the_leeway_is_a_duration() -> None:
    """Written as durations are elsewhere."""
    for leeway, seconds in [("10s", 10), ("0", 0), ("5m", 300), (timedelta(minutes=1), 60), (1.5, 1.5)]:
        issuer = Issuer(ISSUER, audience=AUDIENCE, secret=SECRET, leeway=leeway)
        assert issuer.leeway == seconds


async def test_what_a_token_comes_to(tmp_path: Path) -> None:
    """Its id, and parameters from claims of some kinds; a claim that isn't there is none."""
    params = {"team": "org.team", "level": "level", "beta": "beta", "none": "none"}
    issuer = Provider().trusted(tmp_path / "keys", id="email", params=params)
    provider = Provider()
    claims = {"email": "al@example.org", "org": {"team": "ops"}, "level": 7, "beta": True}
    until = int(time.time()) + 100
    grant = await issuer.grant(Token.read(provider.token(**claims, exp=until, aud=["x", AUDIENCE])))
    assert (grant.id, grant.issuer) == ("al@example.org", ISSUER)
    assert grant.params == {"team": "ops", "level": "7", "beta": "true"}
    assert grant.expires_at == until + 30
    with pytest.raises(BadToken, match="level: must be a string, because it is the parameter level"):
        await issuer.grant(Token.read(provider.token(**{**claims, "level": [1]})))


async def test_clocks_may_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the leeway, and no more."""
    provider = Provider()
    issuer = provider.trusted(tmp_path / "keys", leeway=60)
    now = stop_the_time(monkeypatch)
    for claims in ({"exp": now - 50}, {"nbf": now + 50}, {"exp": now + 0.5}):
        await issuer.grant(Token.read(provider.token(**claims)))
    for claims, words in (
        ({"exp": now - 61}, "exp: this token has expired"),
        ({"nbf": now + 70}, "nbf: "),
    ):
        with pytest.raises(BadToken, match=words):
            await issuer.grant(Token.read(provider.token(**claims)))


async def test_the_latest_end(tmp_path: Path) -> None:
    """A token that ends in the last second that is taken for one makes a client, leeway or not."""
    provider = Provider()
    issuer = provider.trusted(tmp_path / "keys", leeway=60)
    grant = await issuer.grant(Token.read(provider.token(exp=99_999_999_999)))
    assert Client(grant.id, expires_at=grant.expires_at).expires_at == 99_999_999_999
    with pytest.raises(BadToken, match="exp: must be in seconds since 1970, not in milliseconds"):
        await issuer.grant(Token.read(provider.token(exp=100_000_000_000)))


async def test_types(tmp_path: Path) -> None:
    """Access tokens, and others only where that was configured; case and `application/` don't count."""
    provider = Provider()
    strict = provider.trusted(tmp_path / "keys")
    lax = provider.trusted(tmp_path / "keys", typ=["at+jwt", "JWT"])
    long = provider.trusted(tmp_path / "keys", typ="application/at+JWT")
    for typ in ("at+jwt", "AT+JWT", "application/at+jwt"):
        await strict.grant(Token.read(provider.token({"typ": typ})))
        await long.grant(Token.read(provider.token({"typ": typ})))
    token = Token.read(provider.token({"typ": "JWT"}))
    await lax.grant(token)
    with pytest.raises(BadToken, match=r"typ: must be at\+jwt, not 'jwt'"):
        await strict.grant(token)
