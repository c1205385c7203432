"""Tokens that come again: their signature isn't verified twice, and nothing else is left out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.http.test_jwks import fetched
from tests.http.test_secret import reload
from tests.provider import AUDIENCE, ISSUER, Provider
from trionotify import Issuer, Refused, Tokens
from trionotify.http import verified
from trionotify.http.jws import Key, Token


class Counted:
    """The tokens, and how many signatures were verified."""

    def __init__(self, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = tokens
        self.signatures = 0
        verifies = Key.verifies

        def counting(key: Key, token: Token) -> bool:
            self.signatures += 1
            return verifies(key, token)

        monkeypatch.setattr(Key, "verifies", counting)


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def counted(provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(Tokens(provider.trusted(tmp_path / "keys")), monkeypatch)


async def test_it_is_verified_once(counted: Counted, provider: Provider) -> None:
    """And has the same grant each time. Another token has its own."""
    text = provider.token()
    first = await counted.tokens.check(text)
    assert await counted.tokens.check(text) == first
    assert counted.signatures == 1
    assert (await counted.tokens.check(provider.token(sub="bob"))).id == "bob"
    assert counted.signatures == 2


async def test_a_signature_that_was_changed(counted: Counted, provider: Provider) -> None:
    """It is another token, also when it differs in its last bits only."""
    text = provider.token()
    await counted.tokens.check(text)
    for other in (text[:-1], text + "A", text[:-3] + text[-2:] + "Q", text + "=", "\ud800" + text):
        with pytest.raises(Refused, match=r"token: (its parts|not signed)"):
            await counted.tokens.check(other)


async def test_it_expires(counted: Counted, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its time; and if the clock is set back, it isn't valid yet."""
    now = time.time()
    text = provider.token(exp=now + 600, nbf=now - 10)
    for at, why in ((0, None), (620, None), (631, "exp: this token has expired"), (-41, "nbf: this")):
        monkeypatch.setattr(time, "time", lambda at=at: now + at)
        if why is None:
            await counted.tokens.check(text)
        else:
            with pytest.raises(Refused, match=why):
                await counted.tokens.check(text)


async def test_its_key_is_withdrawn(counted: Counted, provider: Provider, tmp_path: Path) -> None:
    """Then it is refused, also if it was accepted before."""
    text = provider.token()
    await counted.tokens.check(text)
    provider.rotate(keep=False)
    (tmp_path / "keys").write_bytes(provider.key_set)
    reload(counted.tokens)
    with pytest.raises(Refused, match="the issuer has no key 'EC-0'"):
        await counted.tokens.check(text)


async def test_its_key_is_no_longer_published(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next fetch decides; and without any fetch that succeeds, the keys are too old one day."""
    async with fetched(monkeypatch) as (net, keys):
        issuer = Issuer(ISSUER, audience=AUDIENCE, jwks="https://id.example.org/keys")
        object.__setattr__(issuer, "keys", keys)
        tokens = Tokens(issuer)
        await trio.sleep(2)
        old = net.provider.token(exp=99_999_999_999)
        await tokens.check(old)
        net.provider.rotate(keep=False)
        await trio.sleep(601 + 31)
        with pytest.raises(Refused, match="the issuer has no key 'EC-0'"):
            await tokens.check(old)
        new = net.provider.token(exp=99_999_999_999)
        await tokens.check(new)
        net.failure = OSError("away")
        await trio.sleep(2 * 86_400 - 1)
        await tokens.check(new)
        await trio.sleep(3601)
        with pytest.raises(Refused, match="keys can't be fetched at the moment"):
            await tokens.check(new)


async def test_no_more_than_so_many_are_remembered(
    counted: Counted, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was used longest ago is forgotten."""
    monkeypatch.setattr(verified, "_MOST", 2)
    texts = [provider.token(sub=name) for name in ("al", "bo", "cy")]

    async def check(*names: Any) -> int:
        before = counted.signatures
        for name in names:
            await counted.tokens.check(texts[name])
        return counted.signatures - before

    assert await check(0, 1, 0, 2) == 3
    assert await check(0, 2) == 0
    assert await check(1) == 1


async def test_a_token_that_is_refused_is_not_remembered(counted: Counted, provider: Provider) -> None:
    """It is verified again each time."""
    text = provider.token(aud="another")
    for _ in range(2):
        with pytest.raises(Refused, match="aud: must be"):
            await counted.tokens.check(text)
