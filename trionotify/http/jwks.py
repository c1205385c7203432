"""The keys of an issuer, from a file, a secret or a URL, and how they are kept fresh.

A key set behind a URL has one task, `RemoteKeys.run`, in the hub's nursery. Only that task fetches, so
there is one fetch at a time, however many requests wait for it. The set's cache headers say, within
bounds, when it is fetched again. A token that names an unknown key causes a fetch at once, because this
is how a provider's new key shows. But this happens at most every 30 seconds, because anyone can name a
key. A token that names no key causes a fetch if no known key has signed it, because this is how a new
key shows at a provider that doesn't name its keys.

    a token names an unknown key, or names none and has an unknown signature
    ├── a fetch is under way                           wait, and look again: accept, or refuse with 503
    ├── the last fetch began 30 s ago or earlier       fetch, and look again: accept, or refuse with 401
    ├── the key was found missing since that fetch     refuse with 401
    └── none of these                                  refuse with 503 (try again later)

So no token is refused with 401 because of an outdated set. If the provider can't be reached, the old
keys stay in use for two days after they were fetched, and the readiness check reports it.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

import trio

from trionotify.errors import Refused, quoted
from trionotify.http.fetching import check_https, fetch
from trionotify.http.jws import BadToken, Key, Token, key_of_jwk, key_of_secret
from trionotify.http.secret import Reread, Secret, rereading
from trionotify.model.jsontext import read_json

__all__ = ["FileKeys", "Keys", "RemoteKeys", "SecretKeys", "parse_key_set"]

logger: logging.Logger = logging.getLogger("trionotify")

#: The most bytes and keys that a set may have.
_MAX_BYTES: Final = 1 << 18
_MAX_KEYS: Final = 100
_ACCEPT: Final = "application/jwk-set+json, application/json"
#: Seconds for one fetch, and between two fetches that unknown keys or failures cause. Without any keys
#: the next attempt comes sooner.
_TIMEOUT: Final = 10.0
_INTERVAL: Final = 30.0
_SOON: Final = 5.0
#: Seconds for which a set is fresh: the bounds, and the default without a header.
_FRESH: Final = (300.0, 86_400.0)
_FRESH_BY_DEFAULT: Final = 3600.0
#: Seconds for which keys are used after the last fetch that succeeded.
_KEPT: Final = 2 * 86_400.0
#: The most keys that are remembered as missing.
_MAX_ABSENT: Final = 1000
_SECONDS: Final = re.compile(r"(?:^|[\s,])max-age=\"?(\d{1,9})\"?(?:$|[\s,])", re.IGNORECASE)
_NOT_KEPT: Final = re.compile(r"(?:^|[\s,])no-(?:store|cache)(?:$|[\s,=])", re.IGNORECASE)


class Keys(Protocol):
    """A source of an issuer's keys."""

    @property
    def problem(self) -> str | None:
        """The fault of the keys, or None."""

    @property
    def usable(self) -> bool:
        """Whether there are keys to verify with."""

    @property
    def current(self) -> object:
        """The keys that `verify` uses now: another object after each change."""

    async def verify(self, token: Token) -> None:
        """Return if one of these keys has signed the token.

        Raises `BadToken`, or `Refused` (503) if the keys can't be fetched at the moment.
        """

    def reread(self) -> list[Reread]:
        """Read the file again, if there is one. Raises ValueError for an invalid one."""


def parse_key_set(data: bytes) -> tuple[Key, ...]:
    """Return the keys of a JWK set (RFC 7517) that can verify. Raises ValueError if there is none."""
    read = read_json(data)
    members = read.get("keys") if isinstance(read, dict) else None
    if not isinstance(members, list) or len(members) > _MAX_KEYS:
        raise ValueError(f'must be a JSON object with "keys", an array of at most {_MAX_KEYS} keys')
    keys: list[Key] = []
    why = "has no key for RS256, PS256, ES256 or EdDSA"
    for member in members:
        try:
            if key := key_of_jwk(member):
                keys.append(key)
        except ValueError as error:  # the others may be good
            why = str(error)
    if not keys:
        raise ValueError(why)
    return tuple(keys)


def _candidates(keys: Iterable[Key], token: Token) -> list[Key]:
    """Return the keys that may have signed the token. Without a `kid`, only one may fit."""
    fitting = [key for key in keys if token.kid in (None, key.kid) and token.algorithm in key.algorithms]
    if token.kid is None and len(fitting) > 1:
        raise BadToken("key", "kid: missing, but the issuer has several keys")
    return fitting


def _unsigned(keys: Iterable[Key], token: Token) -> BadToken | None:
    """Return the fault of a token that none of these keys has signed, or None."""
    for key in keys:
        if key.verifies(token):
            return None
    return BadToken("signature", "not signed with a key of its issuer")


def _fault(keys: Iterable[Key], token: Token) -> BadToken | None:
    """Return what is wrong with the token, as far as these keys show, or None. Raises `BadToken`."""
    if not (candidates := _candidates(keys, token)):
        return BadToken("key", f"kid: the issuer has no key {quoted(token.kid)} for {token.algorithm}")
    return _unsigned(candidates, token)


def _may_be_new(token: Token, fault: BadToken) -> bool:
    """Whether a key that isn't here may have signed the token.

    A `kid` names a key. Without one, a provider's new key shows only in signatures that no key made.
    """
    return fault.counted == "key" or token.kid is None


class FileKeys:
    """A JWK set in a file. Raises ValueError if it can't be read or has no key."""

    problem = None
    usable = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._keys = self._read()

    @property
    def current(self) -> object:
        return self._keys

    async def verify(self, token: Token) -> None:
        if fault := _fault(self._keys, token):
            raise fault

    def reread(self) -> list[Reread]:
        return rereading(self, str(self._path), self._read())

    def _read(self) -> tuple[Key, ...]:
        try:
            return parse_key_set(self._path.read_bytes())
        except OSError as error:
            raise ValueError(f"jwks: {self._path} can't be read: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"jwks: {self._path}: {error}") from None


class SecretKeys:
    """One or several secrets of HS256, each on a line of its own (see `Secret`)."""

    problem = None
    usable = True

    def __init__(self, source: str | os.PathLike[str] | bytes) -> None:
        self._secret = Secret(source)
        self._keys = self._read()

    def _read(self) -> list[Key]:
        try:
            return [key_of_secret(line) for line in self._secret.read()]
        except ValueError as error:
            raise ValueError(f"secret: {error}") from None

    @property
    def current(self) -> object:
        return self._keys

    async def verify(self, token: Token) -> None:
        keys = [key for key in self._keys if token.algorithm in key.algorithms]
        if fault := _unsigned(keys, token):
            raise fault

    def reread(self) -> list[Reread]:
        return rereading(self, self._secret.path, self._read())


class RemoteKeys:
    """A JWK set behind an `https` URL. Raises ValueError for another URL."""

    def __init__(self, url: str, ssl_context: ssl.SSLContext | None = None) -> None:
        try:
            check_https(url)
        except ValueError as error:
            raise ValueError(f"jwks: {error}") from None
        self.url = url
        self.problem: str | None = f"{url} has not been fetched yet"
        self._ssl_context = ssl_context
        self._keys: tuple[Key, ...] = ()
        #: Keys that were found missing since the last fetch.
        self._absent: set[tuple[str | bytes, str]] = set()
        #: When the last fetch began, and the last that succeeded ended, on Trio's clock.
        self._tried_at = self._fetched_at = float("-inf")
        self._wanted = trio.Event()
        #: Set when the current fetch, or else the next one, is over.
        self._flight = trio.Event()
        self._flying = False
        #: The number of hubs that run it, and the turn of the one that fetches.
        self._runs = 0
        self._turn = trio.Lock()

    @property
    def usable(self) -> bool:
        return bool(self.current)

    @property
    def current(self) -> tuple[Key, ...]:
        return self._keys if trio.current_time() - self._fetched_at < _KEPT else ()

    def reread(self) -> list[Reread]:
        return []

    async def verify(self, token: Token) -> None:
        fault = _fault(self.current, token)
        if fault and _may_be_new(token, fault):
            # Without a `kid`, each token may have a key of its own.
            name = sha256(token.signed + token.signature).digest() if token.kid is None else token.kid
            wanted = (name, token.algorithm)
            # The key may be newer than what a fetch that has begun already finds.
            late = self._flying
            await self._look_for(wanted)
            fault = _fault(self.current, token)
            if fault and _may_be_new(token, fault):
                if late:
                    raise self._away()
                if len(self._absent) < _MAX_ABSENT:
                    self._absent.add(wanted)
        if fault:
            raise fault

    async def _look_for(self, wanted: tuple[str | bytes, str]) -> None:
        """Have the set fetched if it may have this key by now.

        Raises `Refused` (503) if it can't be fetched at the moment.
        """
        if not self._runs:
            raise RuntimeError("keys are not being fetched; pass these Tokens to a hub as authenticate")
        if not self._flying:
            if trio.current_time() - self._tried_at < _INTERVAL:
                if wanted in self._absent:
                    return
                raise self._away()
            self._wanted.set()
        before = self._fetched_at
        await self._flight.wait()
        if self._fetched_at == before:
            raise self._away()

    def _away(self) -> Refused:
        left = max(1, round(self._tried_at + _INTERVAL - trio.current_time()))
        why = "can't be fetched at the moment"
        if self.problem is None:
            why = f"were fetched less than {_INTERVAL:g} seconds ago"
        return Refused(
            503,
            f"token: its key is unknown, and keys {why}; try again later",
            headers=(("Retry-After", str(left)),),
        )

    async def run(self) -> None:
        """Fetch whenever it is due, until cancelled. If several hubs run it, one of them fetches."""
        self._runs += 1
        try:
            async with self._turn:
                await self._keep_fresh()
        finally:
            self._runs -= 1

    async def _keep_fresh(self) -> None:
        while True:
            # No checkpoint between the end of the wait and this.
            self._flying, self._wanted = True, trio.Event()
            self._tried_at = trio.current_time()
            fresh = await self._fetch()
            self._flying = False
            self._flight.set()
            self._flight = trio.Event()
            with trio.move_on_after(fresh):
                await self._wanted.wait()

    async def _fetch(self) -> float:
        """Fetch once. Return the seconds until the next fetch."""
        try:
            found = await fetch(
                self.url,
                accept=_ACCEPT,
                max_bytes=_MAX_BYTES,
                timeout=_TIMEOUT,
                ssl_context=self._ssl_context,
            )
            keys = parse_key_set(found.body)
        except (OSError, ValueError) as error:
            self._fail(error)
            return _INTERVAL if self.usable else _SOON
        fresh = _fresh(found.headers)
        level = logging.DEBUG if self.problem is None else logging.INFO
        logger.log(
            level,
            "%s: fetched %d keys, fresh for %d s",
            self.url,
            len(keys),
            fresh,
            extra={"event": "keys_fetched", "url": self.url, "keys": len(keys), "seconds": fresh},
        )
        self._keys, self._fetched_at, self.problem = keys, trio.current_time(), None
        self._absent.clear()
        return fresh

    def _fail(self, error: Exception) -> None:
        why = "; ".join(_reasons(error))
        kept = "the old keys remain in use" if self.usable else "no token can be verified"
        self.problem = f"{self.url} can't be fetched: {why}; {kept}"
        logger.warning(
            "%s", self.problem, extra={"event": "keys_unavailable", "url": self.url, "reason": why}
        )


def _reasons(error: BaseException) -> Iterator[str]:
    """Yield an error's reasons. For a host with several addresses, only its cause has them."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _reasons(inner)
    elif isinstance(error, OSError) and error.__cause__ is not None:
        yield from _reasons(error.__cause__)
    else:
        yield str(error) or type(error).__name__


def _fresh(headers: object) -> float:
    """Return the seconds for which a set is fresh (RFC 9111, sections 4.2 and 5.2.2), within bounds."""
    found = headers.get("cache-control", "") if isinstance(headers, dict) else ""
    least, most = _FRESH
    if _NOT_KEPT.search(found):
        return least
    if not (match := _SECONDS.search(found)):
        return _FRESH_BY_DEFAULT
    age = headers.get("age", "0") if isinstance(headers, dict) else "0"
    seconds = float(match[1]) - (float(age) if age.isascii() and age.isdigit() else 0.0)
    return min(max(seconds, least), most)
