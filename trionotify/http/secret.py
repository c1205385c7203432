"""The secret of a server, and the queries that are signed with it.

The secret allows everything. Backends, operators and Prometheus present it as `Authorization: Bearer
SECRET`. For all other clients a backend signs a query. A client that connects with it has the id, the
role and the filters that were signed, until the query expires.

`sig` is the HMAC-SHA-256 (RFC 2104), in hexadecimal digits, of the query's canonical form (`canonical`).
`exp` is in it, the second since 1970 at which the query is over. The spelling and the order of the query
don't matter, because the server parses it, and makes the canonical form of its meaning.

The role `both` includes the other roles, so a query signed with it is good for each of them.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from trionotify.durations import seconds_of
from trionotify.errors import Refused, cut, quoted
from trionotify.model.keys import UNSIGNED
from trionotify.model.query import Query, parse_query
from trionotify.model.text import check_seconds, check_unicode, without_mark

if TYPE_CHECKING:
    from trionotify.http.messages import Request

__all__ = ["Reread", "Secret", "bearer_of", "canonical", "sign"]

logger: logging.Logger = logging.getLogger("trionotify")


#: Characters. A shorter secret can be guessed, even offline.
_SHORT: Final = 16
#: Text that counts as the secret itself, such as the output of `openssl rand -hex`. No path has only
#: these letters, if it has a folder or an extension.
_MADE_BY_CHANCE: Final = re.compile(r"[A-Za-z0-9_=+-]+")
#: The most digits of a valid time.
_DIGITS: Final = 15
#: Seconds, some thirty years. A larger number is a time and not a duration, or it is in milliseconds.
_LONGEST: Final = 1_000_000_000


#: The path of a file that was read again, and the function that lets its new content count.
Reread = tuple[str, Callable[[], None]]


def rereading(owner: object, path: str | None, keys: object) -> list[Reread]:
    """Return the path, and a function that sets the keys of `owner`; an empty list without a path."""
    return [] if path is None else [(path, partial(setattr, owner, "_keys", keys))]


class Secret:
    """The secret of a server, given as itself or as the path of a file (see `_source_of`).

    Each line is a secret. The first one signs, and all are valid, so you can replace it while queries
    that were signed with the old one are in use. Raises ValueError for a file that can't be read, is
    empty, or isn't text, and warns of a line that could be guessed. No error repeats a text that could
    be a secret.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, name: str = "secret") -> None:
        self._name = name
        self._source = _source_of(source, name)
        self._keys: tuple[bytes, ...] = self.read()

    @classmethod
    def of_file(cls, path: str | os.PathLike[str], name: str = "secret") -> Secret:
        """Return the secret in a file, even if the path looks like a secret."""
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"{name}: must be the path of a file, not {type(path).__name__}")
        return cls(Path(path), name)

    @property
    def bearer(self) -> tuple[str, str]:
        """The `Authorization` header of a client that has the secret."""
        return "Authorization", f"Bearer {self.key.decode('latin-1')}"

    def read(self) -> tuple[bytes, ...]:
        """Return the secrets in the file as it is now. Raises ValueError."""
        if isinstance(self._source, bytes):
            return _keys(self._source, self._name)
        return _keys(_read(self._source, self._name), f"{self._name}: {self._source}")

    def reread(self) -> list[Reread]:
        """Read the file again, if there is one. Raises ValueError for an invalid one."""
        return rereading(self, self.path, self.read())

    @property
    def path(self) -> str | None:
        """The path of the file, if there is one."""
        return None if isinstance(self._source, bytes) else str(self._source)

    @property
    def key(self) -> bytes:
        """The secret that signs queries."""
        return self._keys[0]

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All valid secrets."""
        return self._keys

    def is_borne_by(self, request: Request) -> bool:
        """Return whether the request presents the secret."""
        given = bearer_of(request)
        if given is None:
            return False
        # All are compared, so that the time doesn't depend on which one it is.
        encoded = given.encode("latin-1", "replace")
        found = [hmac.compare_digest(key, encoded) for key in self._keys]
        return any(found)

    def check_bearer(self, request: Request, what: str) -> None:
        """Raise `Refused` (401) if the request doesn't present the secret."""
        if request.header("authorization") is None:
            raise Refused(
                401,
                f"Authorization: missing; {what} needs Authorization: Bearer SECRET",
                logged="Authorization: missing",
            )
        if not self.is_borne_by(request):
            raise Refused(
                401,
                f"Authorization: not this server's secret; {what} needs Authorization: Bearer SECRET",
                logged="Authorization: not the secret",
            )

    def check(self, params: Mapping[str, str]) -> float:
        """Return when a signed query expires, in seconds since 1970. Raises `Refused` (401)."""
        given = params.get("sig")
        if given is None:
            raise Refused(
                401,
                "sig: missing; this server needs a signed query, which its backend makes with"
                " trionotify.sign",
                logged="sig",
            )
        # The role `both` includes the others.
        texts = {canonical(params), canonical({**params, "role": "both"})}
        good = [
            hmac.compare_digest(_signature(key, text), given.encode())
            for key in self._keys
            for text in texts
        ]
        if not any(good):
            raise Refused(401, "sig: not the signature of this query; sign it again", logged="sig")
        until = params.get("exp", "")
        if not (until.isascii() and until.isdigit() and len(until) < _DIGITS):
            raise Refused(
                401,
                "exp: must be a whole number of seconds since 1970, when the signed query expires",
                logged="exp",
            )
        try:
            check_seconds("exp", int(until))
        except ValueError as error:
            raise Refused(401, str(error), logged="exp") from None
        if time.time() >= int(until):
            raise Refused(401, "exp: this query has expired; get a new one", logged="exp")
        return float(until)


def bearer_of(request: Request) -> str | None:
    """Return the token or secret in `Authorization: Bearer`, or None if there is none."""
    scheme, _, given = (request.header("authorization") or "").partition(" ")
    return given.strip(" ") if scheme.lower() == "bearer" else None


def sign(
    params: Mapping[str, str] | str,
    secret: str | bytes | os.PathLike[str],
    *,
    expires_in: float | str | timedelta = 3600.0,
) -> str:
    """Sign a query, and return it with `exp`, the time at which it expires, and `sig`, the signature.

    - `params` are parameters, a query as text, or a whole URL, which is returned as such. Keys that a
      client may choose, such as `since` and `lag`, are returned but not signed.
    - `secret` is the secret itself, or the path of its file, as in `open_server`. If the file has
      several lines, the first one signs. The first call with a secret that could be guessed logs a
      warning.
    - `expires_in` says when the query expires, from now: in seconds, as a duration like `15m`, or as a
      timedelta.

    Raises TypeError that names the argument at fault, and ValueError that begins with the key at fault
    if a server would refuse the query.
    """
    key = _signing_key(_secret_itself(secret))
    if isinstance(params, str):
        check_unicode("params", params)
    seconds = seconds_of("expires_in", expires_in)
    if not 0 < seconds <= _LONGEST:
        raise ValueError(
            f"expires_in: must be greater than 0 and at most {_LONGEST} seconds, not"
            f" {quoted(expires_in)}"
        )
    return _sign(params, key, seconds)


def _sign(params: Mapping[str, str] | str, key: bytes, seconds: float) -> str:
    if isinstance(params, str) and params[:5].lower() == "unix:":
        path, _, query = params.partition("?")
        return f"{path}?{_sign(query, key, seconds)}"
    if isinstance(params, str) and ("://" in params or params.startswith("/")):
        if "#" in params:
            raise ValueError("url: a '#' must be written as %23")
        url = urlsplit(params)
        return urlunsplit(url._replace(query=_sign(url.query, key, seconds)))
    try:
        given = dict(parse_query(params)) if isinstance(params, str) else _checked(params)
        for name in ("sig", "exp"):
            if name in given:
                raise ValueError(f"{name}: signing adds it; leave it out")
        Query.of(given)
    except Refused as refused:
        raise ValueError(refused.detail) from None
    given["exp"] = str(int(time.time() + seconds))
    given["sig"] = _signature(key, canonical(given)).decode()
    return urlencode(given, quote_via=quote, safe="")


def _checked(params: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(params, Mapping):
        raise TypeError(
            f"params: must be a mapping, a query or a URL, not {type(params).__name__}; write"
            " {'id': 'alice'} or 'id=alice'"
        )
    for name, value in params.items():
        if not isinstance(name, str):
            raise TypeError(f"params: names must be str, not {type(name).__name__}")
        if not isinstance(value, str):
            raise TypeError(
                f"params: {cut(name)} must be str, not {type(value).__name__}; write {str(value)!r:.80}"
            )
        check_unicode("params", name)
        check_unicode(cut(name), value)
    return dict(params)


def _source_of(source: str | os.PathLike[str] | bytes, name: str) -> Path | bytes:
    """The secret itself, or the path of its file.

    Bytes are the secret itself, and a `Path` is a path. Text that names a file is its path. Other text
    is the secret itself, unless it may be a misspelt path, which would be easy to guess.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, os.PathLike):
        return Path(source)
    if not isinstance(source, str):
        raise TypeError(
            f"{name}: must be str, bytes or a path, not {type(source).__name__}; give the secret"
            " itself as bytes, or the path of its file as a pathlib.Path"
        )
    if os.path.exists(source):
        return Path(source)
    if len(source) < _SHORT or not _MADE_BY_CHANCE.fullmatch(source):
        raise ValueError(
            f"{name}: no file has this name; give the secret itself as bytes, or correct the path"
            " (secret_file=PATH names a file, too)"
        )
    return source.encode()


def _secret_itself(secret: str | bytes | os.PathLike[str]) -> bytes:
    """Return the secret to sign with. Text that names no file is the secret itself."""
    if isinstance(secret, str) and not os.path.exists(secret):
        return secret.encode()
    source = _source_of(secret, "secret")
    return source if isinstance(source, bytes) else _read(source, "secret")


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        # A secret that was given in place of a path must not get into the log.
        is_path = path.suffix or (path.name != str(path) and path.parent.is_dir())
        shown = path if is_path or len(path.name) < _SHORT else "the file"
        hint = "; name the file of the secret, or create one: openssl rand -hex 32 > FILE"
        missing = hint if isinstance(error, FileNotFoundError) else ""
        raise ValueError(f"{name}: {shown} can't be read: {error.strerror}{missing}") from None


def canonical(params: Mapping[str, str]) -> str:
    """Return the canonical form of a query with these parameters, which is the signed text.

    Those in `UNSIGNED`, `sig` itself and `role=subscriber`, the default, are left out. Of the others,
    each is `name=value`, both percent-encoded in UTF-8 with nothing left as it is but letters, digits
    and `-._~` (RFC 3986, section 2.3). They are sorted as they stand there, and joined with `&`.
    """
    pairs = [
        f"{quote(name, safe='')}={quote(value, safe='')}"
        for name, value in params.items()
        if name not in UNSIGNED and name != "sig" and (name, value) != ("role", "subscriber")
    ]
    return "&".join(sorted(pairs))


def _signature(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest().encode()


@lru_cache
def _signing_key(secret: bytes) -> bytes:
    """Return the first line. It is cached, so that not every signature warns of a weak secret."""
    return _keys(secret, "secret")[0]


def _keys(text: bytes, name: str) -> tuple[bytes, ...]:
    if text != without_mark(text):
        # If it were removed here, a backend that reads the same file would still have it.
        raise ValueError(f"{name}: must not start with a byte order mark; save it as UTF-8 without one")
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not keys:
        raise ValueError(f"{name}: must not be empty; write the output of `openssl rand -hex 32` to it")
    for key in keys:
        if not (key.isascii() and key.decode("ascii").isprintable()):
            raise ValueError(
                f"{name}: must be ASCII text; write the output of `openssl rand -hex 32` to it"
            )
    if len(min(keys, key=len)) < _SHORT:
        logger.warning(
            "%s: a line has fewer than %d characters, so a client that has one signed query can"
            " guess it by trying; use `openssl rand -hex 32`",
            name,
            _SHORT,
            extra={"event": "weak_secret", "reason": name},
        )
    return keys
