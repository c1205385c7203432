"""Issuers of tokens: the conditions for accepting a token, and the meaning of its claims.

The configuration alone decides what is accepted: the issuer, the audience, the keys and algorithms, and
the type of token (RFC 8725). Nothing in a token can change that. The claims `iss`, `aud` and `exp` are
required.
"""

from __future__ import annotations

import math
import os
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from trionotify.durations import Duration, seconds_of
from trionotify.errors import quoted
from trionotify.http.claims import Grant, claim_at, grants_of
from trionotify.http.jwks import FileKeys, Keys, RemoteKeys, SecretKeys
from trionotify.http.jws import ALGORITHMS, SYMMETRIC, BadToken, Token
from trionotify.model.keys import OURS, is_filter
from trionotify.model.text import LAST_SECOND, check_id, check_seconds

__all__ = ["Issuer"]

_ASYMMETRIC: Final = ("RS256", "PS256", "ES256", "EdDSA")
#: The other name of EdDSA. A token may have either.
_SAME: Final = {"EdDSA": "Ed25519"}
#: The greatest `leeway`, in seconds.
_MOST_LEEWAY: Final = 300.0


def _texts(value: str | Iterable[str]) -> tuple[str, ...]:
    """Return the texts. Something else than texts is refused later."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def _leeway(value: Duration) -> float:
    return seconds_of("leeway", value)


@attrs.frozen
class Issuer:
    """An issuer of tokens, and the conditions under which its tokens are accepted.

    - `issuer` must equal the claim `iss` exactly.
    - `audience` is one or several names. The claim `aud` must have one of them.
    - `jwks` is the `https` URL, or the file, of the issuer's public keys (RFC 7517).
    - `secret` is used instead of `jwks` for HS256. It takes the same values as that of `open_server`.
    - `algorithms` are the accepted signature algorithms.
    - `id` names the claim that becomes the client's `id`.
    - `params` maps names of parameters to names of claims. `org.team` means the member `team` of the
      claim `org`.
    - `typ` are the accepted types of tokens. Add `JWT` for a provider that doesn't mark its access
      tokens as `at+jwt` (RFC 9068).
    - `leeway` is the duration by which clocks may differ, in seconds or as text like `10s`.
    - `rights` are given to a token that grants no rights itself: `{"subscribe": [filters], "publish":
      [filters]}`.
    - `ssl_context` is used to fetch keys.

    Raises TypeError or ValueError that names the parameter at fault.
    """

    issuer: str = attrs.field()
    audience: tuple[str, ...] = attrs.field(converter=_texts, kw_only=True)
    jwks: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)
    secret: str | os.PathLike[str] | bytes | None = attrs.field(default=None, kw_only=True, repr=False)
    algorithms: tuple[str, ...] = attrs.field(converter=_texts, kw_only=True)
    id: str = attrs.field(default="sub", kw_only=True)
    params: Mapping[str, str] = attrs.field(factory=dict, kw_only=True)
    typ: tuple[str, ...] = attrs.field(default=("at+jwt",), converter=_texts, kw_only=True)
    leeway: float = attrs.field(default=30.0, converter=_leeway, kw_only=True)
    rights: Mapping[str, Any] | None = attrs.field(default=None, kw_only=True)
    ssl_context: ssl.SSLContext | None = attrs.field(default=None, kw_only=True, repr=False)
    keys: Keys = attrs.field(init=False, repr=False, eq=False)
    #: What tokens may have: the algorithms with both names of each, and the types as in `Token.type`.
    _accepted: frozenset[str] = attrs.field(init=False, repr=False, eq=False)
    _types: frozenset[str] = attrs.field(init=False, repr=False, eq=False)

    @algorithms.default
    def _algorithms(self) -> tuple[str, ...]:
        return _ASYMMETRIC if self.secret is None else (SYMMETRIC,)

    @issuer.validator
    @id.validator
    def _check_text(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, str) or not value:
            raise TypeError(f"{attribute.name}: must be a non-empty string, not {quoted(value)}")

    @audience.validator
    @typ.validator
    @algorithms.validator
    def _check_texts(self, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
        if not value or not all(isinstance(text, str) and text for text in value):
            raise ValueError(f"{attribute.name}: must be one or more strings, not {quoted(value)}")

    @ssl_context.validator
    def _check_context(self, _: object, value: object) -> None:
        if not isinstance(value, ssl.SSLContext | None):
            raise TypeError(f"ssl_context: must be an ssl.SSLContext, not {type(value).__name__}")

    @leeway.validator
    def _check_leeway(self, _: object, value: float) -> None:
        if not 0 <= value <= _MOST_LEEWAY:
            raise ValueError(f"leeway: must be from 0 to {_MOST_LEEWAY:g} seconds, not {value:g}")

    @params.validator
    def _check_params(self, _: object, value: object) -> None:
        for name, claim in value.items() if isinstance(value, Mapping) else [(value, None)]:
            if not isinstance(name, str) or not isinstance(claim, str):
                raise TypeError(
                    f"params: must map names of parameters to names of claims, not {quoted(name)}"
                )
            _check_param(name)

    def __attrs_post_init__(self) -> None:
        if (self.jwks is None) == (self.secret is None):
            raise ValueError("jwks and secret: must be given one of them")
        possible = ALGORITHMS - {SYMMETRIC} if self.secret is None else {SYMMETRIC}
        for name in self.algorithms:
            if name not in possible:
                # If a public key were used as a secret, anyone could sign.
                hint = "; HS256 needs secret, not jwks" if name == SYMMETRIC else ""
                known = ", ".join(sorted(possible))
                raise ValueError(
                    f"algorithms: must be among {known} with these keys, not {quoted(name)}{hint}"
                )
        if self.rights is not None:
            try:
                for name in grants_of({}, self.rights)[1]:
                    _check_param(name)
            except ValueError as error:
                raise ValueError(f"rights: {error}") from None
        object.__setattr__(self, "keys", self._source())
        accepted = {name for one in self.algorithms for name in (one, _SAME.get(one, one))}
        object.__setattr__(self, "_accepted", frozenset(accepted))
        types = [name.lower().removeprefix("application/") for name in self.typ]
        object.__setattr__(self, "_types", frozenset(types))

    def _source(self) -> Keys:
        if self.secret is not None:
            return SecretKeys(self.secret)
        if isinstance(self.jwks, str) and "://" in self.jwks:
            return RemoteKeys(self.jwks, self.ssl_context)
        if not isinstance(self.jwks, str | os.PathLike):
            raise TypeError(f"jwks: must be a URL or the path of a file, not {quoted(self.jwks)}")
        return FileKeys(self.jwks)

    async def grant(self, token: Token) -> Grant:
        """Return the grant of a token, after all checks. A checkpoint only if keys must be fetched.

        There is no checkpoint after the signature was verified.

        Raises `BadToken`, or `Refused` (503) if the keys can't be fetched at the moment.
        """
        if token.algorithm not in self._accepted:
            raise BadToken("algorithm", f"alg: {token.algorithm} is not accepted from this issuer")
        if token.type not in self._types:
            taken = " or ".join(self.typ)
            raise BadToken("type", f"typ: must be {taken}, not {quoted(token.type)}")
        # This comes before the signature, so that an expired token can't cause a fetch of keys.
        since, until = self._check_times(token.claims)
        given = token.claims.get("aud")
        audience = given if isinstance(given, list) else (given,)
        if not any(name in self.audience for name in audience):
            raise BadToken("audience", f"aud: must be {' or '.join(self.audience)}")
        await self.keys.verify(token)
        rights, params = grants_of(token.claims, self.rights, self.issuer)
        for name in params:
            try:
                _check_param(name)
            except ValueError as error:
                raise BadToken("claims", f"trionotify: {error}") from None
        params |= self._params(token.claims)
        return Grant(self.issuer, self._id(token.claims), params, rights, until, since)

    def _check_times(self, claims: Mapping[str, Any]) -> tuple[float, float]:
        """Return from when until when the token is valid, in seconds since 1970. Raises `BadToken`."""
        now = time.time()
        until, since = _moment(claims, "exp"), _moment(claims, "nbf")
        if until is None:
            raise BadToken("claims", "exp: missing; a token must have it")
        if now >= until + self.leeway:
            raise BadToken("expired", "exp: this token has expired; get a new one")
        since = 0.0 if since is None else max(0.0, since - self.leeway)
        if now < since:
            raise BadToken("not_yet", "nbf: this token is not valid yet; try again later")
        return since, min(until + self.leeway, LAST_SECOND)

    def _id(self, claims: Mapping[str, Any]) -> str:
        found = claim_at(claims, self.id)
        try:
            if not isinstance(found, str):
                raise ValueError(f"{self.id}: must be a string, because it is the client's id")
            check_id(self.id, found)
        except ValueError as error:
            raise BadToken("claims", str(error)) from None
        return found

    def _params(self, claims: Mapping[str, Any]) -> dict[str, str]:
        made = {}
        for name, path in self.params.items():
            found = claim_at(claims, path)
            if isinstance(found, bool):
                found = "true" if found else "false"
            if isinstance(found, int):
                found = str(found)
            if found is not None and not isinstance(found, str):
                raise BadToken("claims", f"{path}: must be a string, because it is the parameter {name}")
            if found is not None:
                made[name] = found
        return made


def _check_param(name: str) -> None:
    if name in OURS or is_filter(name) or "." in name:
        raise ValueError(f"params: {quoted(name)} has another meaning in a query; choose another name")


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    found = claims.get(name)
    if found is None:
        return None
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise BadToken("claims", f"{name}: must be a number")
    moment = float(found) if abs(found) < 1e300 else math.inf
    try:
        check_seconds(name, moment)
    except ValueError as error:
        raise BadToken("claims", str(error)) from None
    return moment
