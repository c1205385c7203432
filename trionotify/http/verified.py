"""Tokens that were verified lately, so that one that comes again isn't verified again.

A client that reconnects has the same token as before, and a backend that publishes sends it with each
request. Verifying a signature takes longer than the rest of such a request. So the result is kept for
as long as it would be the same: while the issuer has the same set of keys, and only between the token's
times. Of the token itself, only a digest is kept.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from trionotify.http.claims import Grant
    from trionotify.http.jwks import Keys

__all__ = ["VerifiedTokens", "digest_of"]

#: The most tokens that are remembered, at about a KiB each.
_MOST: Final = 8192


@attrs.frozen
class _Verified:
    grant: Grant
    #: The source of keys, and its set at that time.
    source: Keys
    keys: object

    @property
    def holds(self) -> bool:
        return self.keys is self.source.current and self.grant.in_force


class VerifiedTokens:
    """The grants of tokens that were accepted lately. The one that was used longest ago goes first."""

    def __init__(self) -> None:
        self._found: dict[bytes, _Verified] = {}

    def get(self, digest: bytes) -> Grant | None:
        """Return the grant of the token with this digest, if it is known and would be accepted now."""
        found = self._found.pop(digest, None)
        if found is None or not found.holds:
            return None
        self._found[digest] = found
        return found.grant

    def add(self, digest: bytes, grant: Grant, keys: Keys) -> None:
        """Remember a token that the present set of these `keys` has verified."""
        if len(self._found) >= _MOST:
            del self._found[next(iter(self._found))]
        self._found[digest] = _Verified(grant, keys, keys.current)


def digest_of(text: str) -> bytes:
    """Return the digest of a token, which no other text has."""
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
