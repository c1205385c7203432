"""Tokens taken apart: the vectors of RFC 7515, and each known attack on readers of tokens, tried."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk
from trio.testing import MockClock as Clock

from tests.conftest import open_room
from tests.provider import AUDIENCE, ISSUER, Provider, base64url, made_by_hand
from trionotify import Issuer, Tokens
from trionotify.http.jws import BadToken, Token, key_of_jwk, key_of_secret

# RFC 7515, appendix A: its payload, and of each section the header, the key, and the signature.
PAYLOAD = (
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
)
A1 = (
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
)
A2 = (
    "eyJhbGciOiJSUzI1NiJ9",
    {
        "kty": "RSA",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt"
        "0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5"
        "z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aG"
        "hyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "e": "AQAB",
    },
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGb"
    "ds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0G"
    "arZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6Lbg"
    "GY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
)
A3 = (
    "eyJhbGciOiJFUzI1NiJ9",
    {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    },
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
)


@pytest.mark.parametrize(("header", "key", "signature"), [A1, A2, A3])
def test_the_vectors_of_the_rfc(header: str, key: Any, signature: str) -> None:
    """Sections A.1 to A.3: read, and verified with the key alone that has signed."""
    token = Token.read(f"{header}.{PAYLOAD}.{signature}")
    assert token.claims == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
    if isinstance(key, str):
        verifier = key_of_secret(base64.urlsafe_b64decode(key + "=="))
    else:
        verifier = key_of_jwk(key)
    assert verifier is not None
    assert verifier.verifies(token)
    spoilt = Token.read(f"{header}.{PAYLOAD}.{base64url(b'x' + token.signature[1:])}")
    assert not verifier.verifies(spoilt)
    for _, other, _ in (A2, A3):
        if other != key:
            found = key_of_jwk(other)
            assert found is not None
            assert not found.verifies(token)


def test_what_the_rfc_has_besides() -> None:
    """Section A.4, ES512 with a payload that is no JSON, and A.5, an unsecured token, are not taken."""
    for text, words in (
        (f"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.{A3[2]}", "claims: not valid JSON"),
        (f"eyJhbGciOiJub25lIn0.{PAYLOAD}.", "its parts must be base64url"),
        (f"eyJhbGciOiJFUzUxMiJ9.{PAYLOAD}.{A3[2]}", "alg: 'ES512' is not supported"),
    ):
        with pytest.raises(BadToken, match=words):
            Token.read(text)


RSA = Provider("RSA")


def head(**members: Any) -> dict[str, Any]:
    given = {"alg": "RS256", "typ": "at+jwt", "kid": RSA.key.kid, **members}
    return {name: value for name, value in given.items() if value is not None}


def by(payload: Any, **header: Any) -> str:
    """Signed by the issuer's own key, as whatever the header says."""
    return made_by_hand(head(**header), payload, RSA.key, "RS256")


@functools.cache
def stranger() -> Any:
    return jwk.RSAKey.generate_key(2048, {"kid": RSA.key.kid})


def by_stranger(**header: Any) -> str:
    return made_by_hand(head(**header), RSA.claims(), stranger(), "RS256")


def by_secret(secret: bytes) -> str:
    # (joserfc doesn't sign with such secrets.)
    signed = ".".join(base64url(json.dumps(one).encode()) for one in (head(alg="HS256"), RSA.claims()))
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64url(mac)}"


def public_pem() -> bytes:
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    pem: bytes = RSA.key.public_key.public_bytes(serialization.Encoding.PEM, kind)
    return pem


def claims_text(text: str) -> bytes:
    """The claims of a good token with this in front."""
    return ("{" + text + json.dumps(RSA.claims())[1:]).encode()


def parts(place: int, change: Callable[[str], str]) -> str:
    found = RSA.token().split(".")
    found[place] = change(found[place])
    return ".".join(found)


def unsigned(algorithm: str) -> str:
    text = [json.dumps(one).encode() for one in (head(alg=algorithm), RSA.claims())]
    return ".".join([*map(base64url, text), ""])


NOW = int(time.time())

ATTACKS: dict[str, tuple[Callable[[], str], str]] = {
    "alg none": (lambda: unsigned("none"), "malformed"),
    "alg None": (lambda: unsigned("None"), "malformed"),
    "alg none with a signature": (lambda: by(RSA.claims(), alg="none"), "algorithm"),
    "alg missing": (lambda: by(RSA.claims(), alg=None), "algorithm"),
    "alg a list": (lambda: by(RSA.claims(), alg=["RS256"]), "algorithm"),
    "RS256 key as the secret of HS256, PEM": (lambda: by_secret(public_pem()), "algorithm"),
    "RS256 key as the secret of HS256, DER": (
        lambda: by_secret(base64.b64decode(b"".join(public_pem().splitlines()[1:-1]))),
        "algorithm",
    ),
    "an empty secret": (lambda: by_secret(b"\0" * 32), "algorithm"),
    "RS512, which isn't allowed": (lambda: by(RSA.claims(), alg="RS512"), "algorithm"),
    "RS256 as PS256": (lambda: by(RSA.claims(), alg="PS256"), "signature"),
    "RS256 as ES256": (lambda: by(RSA.claims(), alg="ES256"), "key"),
    "a stranger's key": (by_stranger, "signature"),
    "a stranger's key in jwk": (
        lambda: by_stranger(jwk=stranger().as_dict(private=False)),
        "signature",
    ),
    "a stranger's key set in jku": (lambda: by_stranger(jku="https://evil.example/keys"), "signature"),
    "a stranger's certificate in x5u": (lambda: by_stranger(x5u="https://evil.example/c"), "signature"),
    "a stranger's certificate in x5c": (lambda: by_stranger(x5c=["MIIB"]), "signature"),
    "kid a path": (lambda: by(RSA.claims(), kid="../../../../dev/null"), "key"),
    "kid SQL": (lambda: by(RSA.claims(), kid="x' UNION SELECT 'key"), "key"),
    "kid a URL": (lambda: by_stranger(kid="https://evil.example/keys"), "key"),
    "kid a number": (lambda: by(RSA.claims(), kid=7), "malformed"),
    "kid very long": (lambda: by(RSA.claims(), kid="x" * 4000), "key"),
    "crit": (lambda: by(RSA.claims(), crit=["exp"]), "malformed"),
    "crit empty": (lambda: by(RSA.claims(), crit=[]), "malformed"),
    "b64 false": (lambda: by(RSA.claims(), b64=False), "malformed"),
    "typ JWT, which isn't allowed": (lambda: by(RSA.claims(), typ="JWT"), "type"),
    "typ missing": (lambda: by(RSA.claims(), typ=None), "type"),
    "typ of an id token": (lambda: by(RSA.claims(), typ="ID"), "type"),
    "typ of a logout token": (lambda: by(RSA.claims(), typ="logout+jwt"), "type"),
    "nested": (lambda: by(RSA.token().encode(), cty="JWT"), "malformed"),
    "nested without cty": (lambda: by(RSA.token().encode()), "malformed"),
    "claims in quotes": (lambda: by(json.dumps(json.dumps(RSA.claims())).encode()), "malformed"),
    "claims an array": (lambda: by([RSA.claims()]), "malformed"),
    "claims with a byte order mark": (
        lambda: by(b"\xef\xbb\xbf" + json.dumps(RSA.claims()).encode()),
        "malformed",
    ),
    "claims in UTF-16": (lambda: by(json.dumps(RSA.claims()).encode("utf-16")), "malformed"),
    "claims nested very deep": (lambda: by(claims_text('"x":' + "[" * 2900)), "malformed"),
    "a claim very deep": (
        lambda: by(claims_text('"x":' + "[" * 1400 + "]" * 1400 + ",")),
        "malformed",
    ),
    "encrypted, five parts": (lambda: "a.b.c.d.e", "malformed"),
    "enc in the header": (lambda: by(RSA.claims(), enc="A128GCM"), "malformed"),
    "zip in the header": (lambda: by(RSA.claims(), zip="DEF"), "malformed"),
    "two exp": (lambda: by(claims_text(f'"exp":{NOW + 9999},')), "malformed"),
    "two exp, the first of them over": (lambda: by(claims_text('"exp":1,')), "malformed"),
    "two sub": (lambda: by(claims_text('"sub":"bob",')), "malformed"),
    "two aud, one escaped": (lambda: by(claims_text('"\\u0061ud":"x",')), "malformed"),
    "two alg": (
        lambda: made_by_hand(
            b'{"alg":"none",' + json.dumps(head()).encode()[1:], RSA.claims(), RSA.key, "RS256"
        ),
        "malformed",
    ),
    "exp missing": (lambda: by(RSA.claims(exp=None)), "claims"),
    "exp null": (lambda: by({**RSA.claims(), "exp": None}), "claims"),
    "exp text": (lambda: by(RSA.claims(exp=str(NOW + 600))), "claims"),
    "exp true": (lambda: by(RSA.claims(exp=True)), "claims"),
    "exp a list": (lambda: by(RSA.claims(exp=[NOW + 600])), "claims"),
    "exp over": (lambda: by(RSA.claims(exp=NOW - 100)), "expired"),
    "exp negative": (lambda: by(RSA.claims(exp=-1)), "expired"),
    "exp in milliseconds": (lambda: by(RSA.claims(exp=(NOW + 600) * 1000)), "claims"),
    "exp huge": (lambda: by(RSA.claims(exp=10**400)), "claims"),
    "exp of more digits than Python reads": (
        lambda: by(claims_text('"iat":' + "9" * 5000 + ",")),
        "malformed",
    ),
    "exp 1e999": (lambda: by(claims_text('"x":1,').replace(b'"exp": ', b'"exp": 1e999,"y":')), "claims"),
    "exp Infinity": (
        lambda: by(claims_text('"x":1,').replace(b'"exp": ', b'"exp": Infinity,"y":')),
        "malformed",
    ),
    "exp NaN": (
        lambda: by(claims_text('"x":1,').replace(b'"exp": ', b'"exp": NaN,"y":')),
        "malformed",
    ),
    "nbf to come": (lambda: by(RSA.claims(nbf=NOW + 100_000)), "not_yet"),
    "nbf text": (lambda: by(RSA.claims(nbf="0")), "claims"),
    "iss missing": (lambda: by(RSA.claims(iss=None)), "issuer"),
    "iss with a slash more": (lambda: by(RSA.claims(iss=f"{ISSUER}/")), "issuer"),
    "iss in upper case": (lambda: by(RSA.claims(iss=ISSUER.upper())), "issuer"),
    "iss a list": (lambda: by(RSA.claims(iss=[ISSUER])), "issuer"),
    "iss an object": (lambda: by(RSA.claims(iss={})), "issuer"),
    "aud of another service": (lambda: by(RSA.claims(aud="billing")), "audience"),
    "aud missing": (lambda: by(RSA.claims(aud=None)), "audience"),
    "aud a prefix": (lambda: by(RSA.claims(aud=AUDIENCE[:-1])), "audience"),
    "aud empty": (lambda: by(RSA.claims(aud=[])), "audience"),
    "aud nested": (lambda: by(RSA.claims(aud=[[AUDIENCE]])), "audience"),
    "aud an object": (lambda: by(RSA.claims(aud={AUDIENCE: 1})), "audience"),
    "sub missing": (lambda: by(RSA.claims(sub=None)), "claims"),
    "sub empty": (lambda: by(RSA.claims(sub="")), "claims"),
    "sub a number": (lambda: by(RSA.claims(sub=7)), "claims"),
    "sub with a line feed": (lambda: by(RSA.claims(sub="al\nice")), "claims"),
    "sub very long": (lambda: by(RSA.claims(sub="x" * 256)), "claims"),
    "a grant that is text": (lambda: by(RSA.claims(trionotify="*")), "claims"),
    "a grant with a member that isn't known": (
        lambda: by(RSA.claims(trionotify={"subscribe": [], "not": []})),
        "claims",
    ),
    "a grant of filters that can't be": (
        lambda: by(RSA.claims(trionotify={"subscribe": [{"like": {"type": "x"}}]})),
        "claims",
    ),
    "a grant that says who it is": (
        lambda: by(RSA.claims(trionotify={"params": {"id": "root"}})),
        "claims",
    ),
    "1 MB": (lambda: "a" * 1_000_000, "malformed"),
    "a padded part": (lambda: parts(1, lambda text: text + "="), "malformed"),
    "a part in base64, not base64url": (
        lambda: parts(2, lambda text: text.replace("-", "+").replace("_", "/") + "+"),
        "malformed",
    ),
    "bits left over": (lambda: parts(2, lambda text: text[:-1] + chr(ord(text[-1]) + 1)), "malformed"),
    "a space": (lambda: RSA.token().replace(".", " ."), "malformed"),
    "an empty part": (lambda: parts(2, lambda _: ""), "malformed"),
    "four parts": (lambda: RSA.token() + ".x", "malformed"),
    "a changed claim": (
        lambda: parts(1, lambda _: base64url(json.dumps(RSA.claims(sub="bob")).encode())),
        "signature",
    ),
    "the signature of another token": (
        lambda: parts(2, lambda _: RSA.token(sub="bob").rpartition(".")[2]),
        "signature",
    ),
    "two tokens": (lambda: f"{RSA.token()}, {RSA.token()}", "malformed"),
    "another issuer's token with the same kid": (by_stranger, "signature"),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_attacks(name: str, tmp_path: Path, autojump_clock: Clock) -> None:
    """None gets in, each is refused for its reason, and the log shows none."""
    make, counted = ATTACKS[name]
    token = make()
    async with open_room(
        authenticate=Tokens(RSA.trusted(tmp_path / "keys")), max_head_bytes=1 << 21
    ) as room:
        peer = await room.connect("/", f"Authorization: Bearer {token}")
        assert (peer.status, peer.close) == (401, None)
        assert b'WWW-Authenticate: Bearer realm="trionotify", error="invalid_token"' in peer.kernel.taken
        assert len(token) > 100_000 or token.encode() not in peer.kernel.taken
        assert room.hub.broadcast.counts.refused == {f"token_{counted}": 1}
        good = await room.connect("/", RSA.bearer())
        assert good.status == 101


@pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
def test_a_key_that_says_what_it_is_for(algorithm: str) -> None:
    """It does nothing else."""
    member = {**RSA.key.as_dict(private=False), "alg": algorithm}
    key = key_of_jwk(member)
    assert key is not None
    assert key.algorithms == {algorithm}


@pytest.mark.parametrize(
    "member",
    [
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "RSA", "use": "enc", **A2[1]},
        {**A2[1], "key_ops": ["encrypt"]},
        {**A2[1], "key_ops": 7},
        {**A2[1], "alg": "RSA-OAEP"},
        {**A2[1], "kid": 7},
        {**A3[1], "crv": "P-384"},
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        {"kty": ["RSA"]},
        {},
        7,
    ],
)
def test_what_is_no_key_for_signatures(member: Any) -> None:
    """A set may have others besides."""
    assert key_of_jwk(member) is None


@pytest.mark.parametrize("name", ["use", "key_ops", "alg", "kid"])
def test_null_counts_as_missing(name: str) -> None:
    """Some providers write every member, also those that a key doesn't have."""
    assert key_of_jwk({**A2[1], name: None}) is not None


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ({**A2[1], "n": "x" * 100}, "the RSA key None must have at least 2048 bits"),
        ({"kty": "RSA", "n": 7, "e": "AQAB"}, "at least 2048 bits"),
        ({**A3[1], "kid": "k", "y": "AA"}, "the key 'k' can't be read"),
        ({"kty": "EC", "crv": "P-256"}, "the key None can't be read"),
    ],
)
def test_what_is_a_broken_key(member: Any, words: str) -> None:
    """It is told from the others."""
    with pytest.raises(ValueError, match=words):
        key_of_jwk(member)


def test_ed25519_by_both_its_names() -> None:
    """RFC 9864 calls it by its curve."""
    provider = Provider("OKP")
    key = key_of_jwk(provider.key.as_dict(private=False))
    assert key is not None
    for name in ("EdDSA", "Ed25519"):
        made = made_by_hand({"alg": name}, {}, provider.key, "EdDSA")
        assert key.verifies(Token.read(made))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "joserfc", None)
    with pytest.raises(
        ValueError, match=r"^secret: tokens need the extra trionotify\[jwt\]: run `python"
    ):
        Issuer(ISSUER, audience=AUDIENCE, secret=b"x" * 32)


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    """It is refused with a reason that doesn't repeat it."""
    with pytest.raises(BadToken) as caught:
        Token.read(text)
    assert len(text) < 8 or text not in str(caught.value)


async def test_all_algorithms(tmp_path: Path, autojump_clock: Clock) -> None:
    """Those that the configuration names."""
    for kind, allowed, status in (
        ("RSA", ("RS256",), 101),
        ("EC", ("ES256",), 101),
        ("OKP", ("EdDSA",), 101),
        ("RSA", ("PS256", "ES256"), 401),
    ):
        provider = Provider(kind)
        issuer: Issuer = provider.trusted(tmp_path / kind, algorithms=allowed)
        async with open_room(authenticate=Tokens(issuer)) as room:
            assert (await room.connect("/", provider.bearer())).status == status
