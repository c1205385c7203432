"""An identity provider, as far as a benchmark needs one: a key, and tokens that it has signed."""

from __future__ import annotations

import functools
import json
import time
from uuid import uuid4

from joserfc import jwk, jwt

ISSUER, AUDIENCE = "https://id.example.org", "benchmark"


@functools.cache
def _key() -> jwk.RSAKey:
    return jwk.RSAKey.generate_key(2048, {"kid": "benchmark"})


def public_keys() -> str:
    """The key set that it publishes."""
    return json.dumps({"keys": [_key().as_dict(private=False)]})


def token(subject: str) -> str:
    """An access token for an hour, signed with RS256."""
    header = {"alg": "RS256", "typ": "at+jwt", "kid": _key().kid}
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "exp": int(time.time()) + 3600,
        "jti": str(uuid4()),
        "scope": "trionotify:subscribe",
    }
    return jwt.encode(header, claims, _key())
