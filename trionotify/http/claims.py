"""Claims of a verified token, read into a `Grant`: the client's id, parameters and rights.

Rights come from the claim `trionotify`, an object, and from the members of `authorization_details` (RFC
9396) with that `type`. Each of these is one grant. Together they allow what any of them allows:

    {"subscribe": [filters], "publish": [filters], "params": {"team": "ops"}}

As everywhere, all filters of a list must match, and an empty list matches everything. A missing member
grants nothing. A token without any grant has the rights that its `scope` names. `trionotify:subscribe`
and `trionotify:publish` allow everything. A token without these scopes has the rights that its issuer's
configuration gives to every token. `trionotify:admin` counts in any case.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, Self

import attrs

from trionotify.delivery.rights import Rights
from trionotify.errors import quoted
from trionotify.http.jws import BadToken
from trionotify.model.filters import from_json
from trionotify.model.predicates import EVERYTHING, NOTHING, AnyOf, Wanted
from trionotify.model.text import LAST_SECOND, check_id

__all__ = ["SCOPES", "Grant", "claim_at", "grants_of", "rights_of"]

_NAME: Final = "trionotify"
SCOPES: Final = ("trionotify:subscribe", "trionotify:publish", "trionotify:admin")
_MEMBERS: Final = frozenset({"subscribe", "publish", "params"})
_LISTED: Final = ", ".join(sorted(_MEMBERS))
#: Members of rights in JSON.
_OF_RIGHTS: Final = frozenset({"subscribe", "publish", "admin", "issuer"})
#: Members of an `authorization_details` that RFC 9396 itself defines.
_OF_DETAILS: Final = frozenset({"type", "locations", "actions", "datatypes", "identifier", "privileges"})


@attrs.frozen
class Grant:
    """A token's result: the client's id, its parameters and rights, and when they are valid.

    `rights` are JSON, so that a ticket can be stored anywhere. Times are in seconds since 1970.
    """

    issuer: str
    id: str
    params: Mapping[str, str]
    rights: str
    expires_at: float
    not_before: float = 0.0

    @property
    def in_force(self) -> bool:
        """Whether it is valid at this moment, by the wall clock."""
        return self.not_before <= time.time() < self.expires_at

    @property
    def allowed(self) -> Rights:
        """The rights as a value. Equal rights are the same object."""
        return rights_of(self.rights)

    def to_json(self) -> bytes:
        """Return the grant as JSON, for a ticket."""
        # In ASCII, because a claim may have a lone surrogate, which UTF-8 can't encode.
        return json.dumps({**attrs.asdict(self), "params": dict(self.params)}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` has written. Raises ValueError for anything else.

        Another version may have members that limit the grant, so an unknown one is not ignored.
        """
        try:
            grant = cls(**json.loads(data))
            check_id("id", grant.id)
            rights_of(grant.rights)
            texts = (grant.issuer, *grant.params, *grant.params.values())
            times = (grant.not_before, grant.expires_at)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"not a grant of this version: {type(error).__name__}") from None
        if not (all(isinstance(each, str) for each in texts) and all(map(_is_moment, times))):
            raise ValueError("not a grant of this version: wrong types")
        return grant


def _is_moment(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= LAST_SECOND


def grants_of(
    claims: Mapping[str, Any], otherwise: Mapping[str, Any] | None, issuer: str = ""
) -> tuple[str, dict[str, str]]:
    """Return the rights in verified claims, as JSON, and the parameters that go with them.

    `otherwise` is the grant of a token without any. Raises `BadToken`.
    """
    scopes = _scopes(claims)
    admin = SCOPES[2] in scopes
    found = list(_found(claims))
    if not found:
        reads, writes = SCOPES[0] in scopes, SCOPES[1] in scopes
        if reads or writes or otherwise is None:
            return _rights_of_scopes(reads, writes, admin, issuer), {}
        found = [otherwise]
    params: dict[str, str] = {}
    for grant in found:
        _check(grant)
        for name, value in grant.get("params", {}).items():
            if params.setdefault(name, value) != value:
                raise BadToken("claims", f"{_NAME}: its grants have different values for {quoted(name)}")
    subscribe = [grant["subscribe"] for grant in found if "subscribe" in grant]
    publish = [grant["publish"] for grant in found if "publish" in grant]
    text = _text_of_rights(subscribe, publish, admin, issuer)
    try:
        rights_of(text)
    except ValueError as error:
        raise BadToken("claims", f"{_NAME}: {error}") from None
    return text, params


@lru_cache(maxsize=64)
def _rights_of_scopes(reads: bool, writes: bool, admin: bool, issuer: str) -> str:
    return _text_of_rights([[]] * reads, [[]] * writes, admin, issuer)


def _text_of_rights(subscribe: list[Any], publish: list[Any], admin: bool, issuer: str) -> str:
    rights = {"subscribe": subscribe, "publish": publish, "admin": admin, "issuer": issuer}
    return json.dumps(rights, sort_keys=True)


def _scopes(claims: Mapping[str, Any]) -> list[str]:
    """Scopes are one string (RFC 8693, section 4.2). Some providers write `scp`, or an array."""
    found = claims.get("scope", claims.get("scp", ""))
    return found.split() if isinstance(found, str) else found if isinstance(found, list) else []


def _found(claims: Mapping[str, Any]) -> Iterator[Any]:
    if _NAME in claims:
        yield claims[_NAME]
    details = claims.get("authorization_details", [])
    for one in details if isinstance(details, list) else []:
        if isinstance(one, dict) and one.get("type") == _NAME:
            yield {name: value for name, value in one.items() if name not in _OF_DETAILS}


def _check(grant: Any) -> None:
    if not isinstance(grant, dict) or not grant.keys() <= _MEMBERS:
        raise BadToken("claims", f"{_NAME}: must be an object with no other members than {_LISTED}")
    for name in ("subscribe", "publish"):
        if name in grant and not isinstance(grant[name], list):
            raise BadToken("claims", f"{_NAME}: {name} must be an array of filters")
    params = grant.get("params", {})
    if not isinstance(params, dict) or not all(isinstance(text, str) for text in params.values()):
        raise BadToken("claims", f"{_NAME}: params must be an object of strings")


@lru_cache(maxsize=4096)
def rights_of(text: str) -> Rights:
    """Return rights from their JSON, for equal text the same object.

    So clients with equal rights share one group. Raises ValueError for invalid filters.
    """
    found = json.loads(text)
    if found.keys() != _OF_RIGHTS or not isinstance(found["admin"], bool):
        raise ValueError("rights: must have the members " + ", ".join(sorted(_OF_RIGHTS)))
    return Rights(_any(found["subscribe"]), _any(found["publish"]), found["admin"], found["issuer"])


def _any(granted: list[Any]) -> Wanted:
    parts = [from_json(filters) for filters in granted]
    if EVERYTHING in parts:
        return EVERYTHING
    return NOTHING if not parts else parts[0] if len(parts) == 1 else AnyOf(parts)


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """Return the claim with this name, or else the one at this path of names with dots."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found
