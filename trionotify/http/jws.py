"""Parsing signed tokens: a JWT (RFC 7519) in the compact form of a JWS (RFC 7515).

Tokens are forged by means of text that two parsers read differently. So this parser is strict, by the
rules of RFC 8725: base64url has one spelling, no member appears twice, numbers are JSON's. Extensions
that must be understood (`crit`), encryption and nested tokens are refused. Keys never come from the
token: `jwk`, `jku`, `x5c` and `x5u` in its header are ignored, and `kid` only selects one of the
issuer's keys.

joserfc verifies the signatures. Nothing here does I/O, and no error repeats a part of the token that
could be replayed.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, Final

import attrs

from trionotify.errors import cut, quoted
from trionotify.model.jsontext import check_depth

__all__ = ["ALGORITHMS", "BadToken", "Key", "Token", "key_of_jwk", "key_of_secret"]

#: The accepted signatures, by key type and curve. (RFC 9864 names EdDSA by its curve.)
_OF_TYPE: Final[Mapping[tuple[str, str | None], tuple[str, ...]]] = {
    ("RSA", None): ("RS256", "PS256"),
    ("EC", "P-256"): ("ES256",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
}
SYMMETRIC: Final = "HS256"
ALGORITHMS: Final = frozenset({SYMMETRIC, *(name for names in _OF_TYPE.values() for name in names)})
#: Bits of the smallest RSA key (RFC 7518, section 3.3), and bytes of the shortest secret (section 3.2).
_RSA_BITS: Final = 2048
SECRET_BYTES: Final = 32
#: Characters of the longest token. It must fit among a request's headers.
_LONGEST: Final = 8192
#: From base64url to base64, whose own characters are invalid.
_TO_BASE64: Final = bytes.maketrans(b"-_+/=", b"+/!!!")
_MISSING: Final = "tokens need the extra trionotify[jwt]: run `python -m pip install 'trionotify[jwt]'`"


class BadToken(ValueError):
    """The token isn't accepted. `counted` is the reason in one word, for the metrics."""

    def __init__(self, counted: str, why: str) -> None:
        super().__init__(why)
        self.counted = counted


def _joserfc() -> Any:
    try:
        from joserfc import jwk, jws  # noqa: PLC0415 - an extra
    except ImportError:
        raise ValueError(_MISSING) from None
    return jwk, jws.JWSRegistry.algorithms


@attrs.frozen
class Key:
    """A key of an issuer, and the algorithms that it may be used with."""

    kid: str | None
    algorithms: frozenset[str]
    _verify: Mapping[str, Callable[[bytes, bytes], bool]] = attrs.field(repr=False)

    def verifies(self, token: Token) -> bool:
        """Return whether this key has signed the token."""
        verify = self._verify.get(token.algorithm)
        return verify is not None and verify(token.signed, token.signature)


def _key(kid: str | None, algorithms: Iterable[str], key: Any) -> Key:
    _, models = _joserfc()

    verify = {name: partial(models[name].verify, key=key) for name in algorithms}
    return Key(kid, frozenset(verify), verify)


def key_of_secret(secret: bytes) -> Key:
    """Return the key of a secret, which is for HS256 alone. Raises ValueError if it is too short."""
    if len(secret) < SECRET_BYTES:
        raise ValueError(
            f"must have at least {SECRET_BYTES} bytes for HS256, not {len(secret)}; use"
            " `openssl rand -hex 32`"
        )
    jwk, _ = _joserfc()
    return _key(None, [SYMMETRIC], jwk.OctKey.import_key(secret))


def key_of_jwk(member: object) -> Key | None:
    """Read a member of a JWK set (RFC 7517). Return None if it is not a key for these signatures.

    A symmetric key in such a set is ignored, because a published key can't be a secret. Raises
    ValueError for a key that is broken or too small.
    """
    if not isinstance(member, dict):
        return None
    kind, curve = member.get("kty"), member.get("crv")
    if not isinstance(kind, str) or not isinstance(curve, str | None):
        return None
    names = _OF_TYPE.get((kind, curve))
    if not names or member.get("use") not in (None, "sig"):
        return None
    operations = member.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    if (only := member.get("alg")) is not None:
        names = tuple(name for name in names if name == only)
    kid = member.get("kid")
    if not names or not isinstance(kid, str | None):
        return None
    jwk, _ = _joserfc()
    kinds = {"RSA": jwk.RSAKey, "EC": jwk.ECKey, "OKP": jwk.OKPKey}
    public = {name: member[name] for name in ("n", "e", "crv", "x", "y") if name in member}
    if kind == "RSA" and _bits(public.get("n")) < _RSA_BITS:
        raise ValueError(f"the RSA key {quoted(kid)} must have at least {_RSA_BITS} bits")
    try:
        return _key(kid, names, kinds[kind].import_key({"kty": kind, **public}))
    except Exception as error:  # joserfc and cryptography raise many kinds for an invalid key
        raise ValueError(f"the key {quoted(kid)} can't be read: {type(error).__name__}") from None


def _bits(modulus: object) -> int:
    try:
        return int.from_bytes(_decoded(str(modulus))).bit_length()
    except ValueError:
        return 0


@attrs.frozen
class Token:
    """A token that was parsed, but not verified."""

    algorithm: str
    kid: str | None
    #: The media type, in lower case and without `application/`.
    type: str
    claims: Mapping[str, Any]
    #: The signed bytes, and the signature.
    signed: bytes
    signature: bytes

    @classmethod
    def read(cls, text: str) -> Token:
        """Parse a token. Raises `BadToken`."""
        if len(text) > _LONGEST:
            raise BadToken("malformed", f"must have at most {_LONGEST} characters, not {len(text)}")
        signed, _, signature = text.rpartition(".")
        header, dot, payload = signed.partition(".")
        if not dot or "." in payload:
            hint = "; encrypted tokens are not accepted" if text.count(".") == 4 else ""
            raise BadToken("malformed", f"must be a signed token in compact form{hint}")
        try:
            signature_bytes = _decoded(signature)
            claims = _members(_decoded(payload), "claims")
            algorithm, kid, type = _header(header)
        except binascii.Error:
            raise BadToken("malformed", "its parts must be base64url without padding") from None
        return cls(algorithm, kid, type, claims, signed.encode(), signature_bytes)


# The tokens of an issuer differ in their claims, and hardly in their headers.
@lru_cache(maxsize=64)
def _header(text: str) -> tuple[str, str | None, str]:
    """Return the algorithm, the `kid` and the type in a token's header. Raises as `Token.read` does."""
    head = _members(_decoded(text), "header")
    algorithm, kid, type = (head.get(name) for name in ("alg", "kid", "typ"))
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise BadToken("algorithm", f"alg: {quoted(algorithm)} is not supported")
    if not isinstance(kid, str | None):
        raise BadToken("malformed", "kid: must be a string")
    if not isinstance(type, str | None):
        raise BadToken("malformed", "typ: must be a string")
    for name in ("crit", "b64", "enc", "zip"):
        if name in head:
            raise BadToken("malformed", f"{name}: not supported in a token's header")
    if str(head.get("cty", "")).lower().endswith("jwt"):
        raise BadToken("malformed", "cty: a token inside a token is not supported")
    return algorithm, kid, (type or "JWT").lower().removeprefix("application/")


def _decoded(text: str) -> bytes:
    """Decode base64url (RFC 4648, section 5) in its one spelling. Raises `binascii.Error`."""
    spelled = text.encode("ascii", "replace").translate(_TO_BASE64)
    if not spelled:
        raise binascii.Error("empty")
    spelled += b"=" * (-len(spelled) % 4)
    data = binascii.a2b_base64(spelled, strict_mode=True)
    last = data[len(data) // 3 * 3 :]
    if last and binascii.b2a_base64(last, newline=False) != spelled[-4:]:
        raise binascii.Error("bits are left over")
    return data


def _members(data: bytes, where: str) -> dict[str, Any]:
    try:
        check_depth(data)
        found = _JSON.decode(data.decode())
    except ValueError as error:
        # The parser's own message may repeat the text.
        why = str(error) if isinstance(error, _Twice) else "not valid JSON in UTF-8"
        raise BadToken("malformed", f"{where}: {why}") from None
    if not isinstance(found, dict):
        raise BadToken("malformed", f"{where}: must be a JSON object")
    return found


class _Twice(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(f"{cut(next(name for name in names if names.count(name) > 1))}: given twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(text)


_JSON: Final = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)
