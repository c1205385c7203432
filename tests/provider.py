"""A small identity provider: it makes tokens, rotates its keys, and has them behind https."""

from __future__ import annotations

import base64
import functools
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio
from joserfc import jwk, jws

from tests.connection.test_tls import client_context, server_context
from trionotify import Issuer

__all__ = ["AUDIENCE", "ISSUER", "SECRET", "Provider", "base64url", "made_by_hand", "secret_issuer"]

ISSUER = "https://id.example.org"
AUDIENCE = "notifications"
SECRET = b"a secret of HS256 with 32 bytes or more"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def made_by_hand(header: Any, payload: Any, key: Any, algorithm: str) -> str:
    """A token with whatever header and payload, given as JSON or as bytes."""
    parts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in (header, payload)]
    signed = ".".join(map(base64url, parts))
    signature = jws.JWSRegistry.algorithms[algorithm].sign(signed.encode(), key)
    return f"{signed}.{base64url(signature)}"


@functools.cache
def made_key(kind: str, number: int) -> Any:
    """Making an RSA key takes a while, so tests share some."""
    kid = {"kid": f"{kind}-{number}"}
    if kind == "EC":
        return jwk.ECKey.generate_key("P-256", kid)
    if kind == "OKP":
        return jwk.OKPKey.generate_key("Ed25519", kid)
    return jwk.RSAKey.generate_key(2048, kid)


ALGORITHM = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


class Provider:
    """Signs with its newest key, and publishes those in `published`."""

    def __init__(self, kind: str = "EC", issuer: str = ISSUER) -> None:
        self.issuer = issuer
        self.kind = kind
        self.key = made_key(kind, 0)
        self.published = [self.key]
        self.fetches = 0
        #: What it answers with, besides the keys.
        self.status = 200
        self.headers: dict[str, str] = {"Cache-Control": "max-age=600"}
        self.port = 0
        #: Where there is one, it waits for it before it answers.
        self.gate: trio.Event | None = None
        self._number = 0

    def rotate(self, *, keep: bool = True) -> None:
        """Sign with another key from now on, and publish it."""
        self._number += 1
        self.key = made_key(self.kind, self._number)
        self.published = [*(self.published if keep else []), self.key]

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Those of a good token, with these; what is None is left out."""
        given = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "alice",
            "exp": int(time.time()) + 600,
            "scope": "trionotify:subscribe trionotify:publish",
            **claims,
        }
        return {name: value for name, value in given.items() if value is not None}

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token with these claims."""
        algorithm = ALGORITHM[self.kind]
        head = {"alg": algorithm, "typ": "at+jwt", "kid": self.key.kid, **(header or {})}
        return made_by_hand(head, self.claims(**claims), self.key, algorithm)

    def bearer(self, **claims: Any) -> str:
        """The header field that has one."""
        return f"Authorization: Bearer {self.token(**claims)}"

    @property
    def key_set(self) -> bytes:
        return json.dumps({"keys": [key.as_dict(private=False) for key in self.published]}).encode()

    def trusted(self, path: Path, **options: Any) -> Issuer:
        """This one as an issuer, its keys in a file there."""
        path.write_bytes(self.key_set)
        return Issuer(self.issuer, **{"audience": AUDIENCE, "jwks": path, **options})

    def trusted_online(self, **options: Any) -> Issuer:
        """This one as an issuer, its keys fetched."""
        given = {"audience": AUDIENCE, "jwks": self.url, "ssl_context": client_context(), **options}
        return Issuer(self.issuer, **given)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/keys"

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer requests for the keys, until cancelled."""
        listeners = await trio.open_ssl_over_tcp_listeners(
            self.port, server_context(), host="127.0.0.1", https_compatible=True
        )
        self.port = listeners[0].transport_listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._answer, listeners)

    async def _answer(self, stream: trio.abc.Stream) -> None:
        head = b""
        # A client that gives up before it has read everything resets the connection.
        with suppress(trio.BrokenResourceError):
            async with stream:
                while b"\r\n\r\n" not in head:
                    data = await stream.receive_some()
                    if not data:
                        return
                    head += data
                self.fetches += 1
                if self.gate is not None:
                    await self.gate.wait()
                body = self.key_set
                lines = [f"HTTP/1.1 {self.status} x", f"Content-Length: {len(body)}"]
                lines += [f"{name}: {value}" for name, value in self.headers.items()]
                await stream.send_all("\r\n".join([*lines, "", ""]).encode() + body)


def secret_token(**claims: Any) -> str:
    """A token of that issuer, by default one that never expires."""
    head, key = {"alg": "HS256", "typ": "at+jwt"}, jwk.OctKey.import_key(SECRET)
    return made_by_hand(head, Provider().claims(**{"exp": 99_999_999_999, **claims}), key, "HS256")


def secret_issuer(**options: Any) -> Issuer:
    """An issuer with a secret."""
    return Issuer(ISSUER, **{"audience": AUDIENCE, "secret": SECRET, **options})
