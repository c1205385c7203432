"""The secret, and what is signed with it: who may connect, where the server was given one.

Whoever has the secret may do everything, and says so with `Authorization: Bearer SECRET`: backends,
operators, Prometheus. For everybody else a backend signs a query, and they connect with that: it makes
them the client that it names, with its role and its filters, until it expires.

`sig` is the HMAC-SHA-256 (RFC 2104), in hexadecimal digits, of all parameters but `sig` itself, those in
`UNSIGNED` and `role=subscriber`, which is the default: each percent-encoded (RFC 3986, with nothing
reserved left as it is) as `name=value`, sorted, and joined with `&`. `exp` is among them, the second
since 1970 at which it is over. How the query itself is spelled, and in which order, is of no account.

Who may do `both` may also do one of them: a query signed with that role is good for the others.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from trionotify.durations import seconds_of
from trionotify.errors import Refused, cut, quoted
from trionotify.model.keys import UNSIGNED
from trionotify.model.query import Query, parse_query
from trionotify.model.text import check_seconds, without_mark

if TYPE_CHECKING:
    from trionotify.http.messages import Request

__all__ = ["Secret", "sign"]

logger: logging.Logger = logging.getLogger("trionotify")


#: Shorter ones can be found by trying, even without asking the server, in characters.
_SHORT: Final = 16
#: What text is taken for the secret itself: what `openssl rand -hex` prints, and the like. No path has
#: only these letters, if it has a folder or an extension.
_MADE_BY_CHANCE: Final = re.compile(r"[A-Za-z0-9_=+-]+")
#: Digits of a time that is meant.
_DIGITS: Final = 15
#: Seconds, some thirty years. A larger number is a time and not a duration, or it is in milliseconds.
_LONGEST: Final = 1_000_000_000
#: How a text that is signed may spell a space; the first is ours. What writes queries as a form does has
#: the other. Neither can be taken for another query: in both, a plus itself is `%2B`.
_SPACES: Final = ("%20", "+")


class Secret:
    """The secret of a server: itself, or the path of a file with it (see `_source_of`).

    Each line is a secret. The first one signs, and all are good: so it can be changed while queries that
    were signed with the old one are about. Raises ValueError for a file that can't be read, is empty, or
    is no text; of a line that could be guessed it warns. No error tells what could be a secret.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, name: str = "secret") -> None:
        self._name = name
        self._source = _source_of(source, name)
        self._keys: tuple[bytes, ...] = ()
        self.reload()

    @classmethod
    def of_file(cls, path: str | os.PathLike[str], name: str = "secret") -> Secret:
        """The one in a file, whatever the path looks like."""
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"{name}: must be the path of a file, not {type(path).__name__}")
        return cls(Path(path), name)

    @property
    def bearer(self) -> tuple[str, str]:
        """The header field that says that one has it."""
        return "Authorization", f"Bearer {self.key.decode('latin-1')}"

    def reload(self) -> list[str]:
        """Read the file again. When that fails, what was read before stays; raises ValueError.

        Returns its path; nothing when there is none.
        """
        if isinstance(self._source, bytes):
            self._keys = _keys(self._source, self._name)
            return []
        self._keys = _keys(_read(self._source, self._name), f"{self._name}: {self._source}")
        return [str(self._source)]

    @property
    def key(self) -> bytes:
        """The one that signs."""
        return self._keys[0]

    def is_borne_by(self, request: Request) -> bool:
        """Whether the request has the secret."""
        scheme, _, token = (request.header("authorization") or "").partition(" ")
        given = token.strip().encode("latin-1", "replace")
        # All are looked at, whichever it is.
        found = [hmac.compare_digest(key, given) for key in self._keys]
        return scheme.lower() == "bearer" and any(found)

    def check_bearer(self, request: Request, what: str) -> None:
        """Return if the request has the secret; else raise `Refused` (401)."""
        if request.header("authorization") is None:
            raise Refused(
                401,
                f"authorization: {what} needs Authorization: Bearer SECRET, which is missing",
                logged="authorization: missing",
            )
        if not self.is_borne_by(request):
            raise Refused(
                401,
                f"authorization: {what} needs Authorization: Bearer SECRET; this isn't the server's",
                logged="authorization: not the secret",
            )

    def check(self, params: Mapping[str, str]) -> float:
        """Until when a signed query is good, in seconds since 1970; raises `Refused` (401)."""
        given = params.get("sig")
        if given is None:
            raise Refused(
                401, "sig: this server wants a signed query; its backend makes one: trionotify.sign"
            )
        # Who may do both may do one of them. And a backend may have signed more than it must.
        roles = {params.get("role", "subscriber"), "both"}
        meant = [*[_binding({**params, "role": role}) for role in roles], params]
        texts = {_signed(one, space) for one in meant for space in _SPACES}
        good = [
            hmac.compare_digest(_signature(key, text), given.encode())
            for key in self._keys
            for text in texts
        ]
        if not any(good):
            raise Refused(401, "sig: this is not the signature of this query")
        until = params.get("exp", "")
        if not (until.isascii() and until.isdigit() and len(until) < _DIGITS):
            raise Refused(401, "exp: a signed query says when it is over, in whole seconds since 1970")
        try:
            check_seconds("exp", int(until))
        except ValueError as error:
            raise Refused(401, str(error)) from None
        if time.time() >= int(until):
            raise Refused(401, "exp: the time of this query is over; get a new one")
        return float(until)


def sign(
    params: Mapping[str, str] | str,
    secret: str | bytes | os.PathLike[str],
    *,
    expires_in: float | str | timedelta = 3600.0,
) -> str:
    """Sign a query: return it with `exp`, so long from now, and `sig`.

    `params` are parameters, a query as text, or a whole URL, which is returned as such. `secret` is the
    secret itself, or a path of its file, as `open_server` takes it; of several lines, the first. Of one
    that could be guessed the first call warns. `expires_in` is in seconds, a duration like `15m`, or a
    timedelta. What is in `UNSIGNED` stays as it is. Raises TypeError that names the argument at fault,
    and ValueError that begins with the key at fault for what a server would refuse.
    """
    key = _signing_key(_secret_itself(secret))
    seconds = seconds_of("expires_in", expires_in)
    if not 0 < seconds <= _LONGEST:
        raise ValueError(
            f"expires_in must be greater than 0 and at most {_LONGEST} seconds, not {quoted(expires_in)}"
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
                raise ValueError(f"{name}: this is what signing adds")
        Query.of(given)
    except Refused as refused:
        raise ValueError(refused.detail) from None
    given["exp"] = str(int(time.time() + seconds))
    given["sig"] = _signature(key, _signed(_binding(given))).decode()
    return urlencode(given, quote_via=quote, safe="")


def _checked(params: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(params, Mapping):
        raise TypeError(
            f"params: must be a mapping, a query or a URL, not {type(params).__name__};"
            " write {'id': 'alice'} or 'id=alice'"
        )
    for name, value in params.items():
        if not isinstance(name, str):
            raise TypeError(f"params: names must be str, not {type(name).__name__}")
        if not isinstance(value, str):
            raise TypeError(
                f"params: {cut(name)} must be str, not {type(value).__name__}; write {str(value)!r:.80}"
            )
    return dict(params)


def _source_of(source: str | os.PathLike[str] | bytes, name: str) -> Path | bytes:
    """The secret itself, or the path of its file.

    Bytes are the secret itself, and a `Path` is a path. Text that names a file is its path. Other text
    is the secret itself, unless it may be a path that was misspelt: that would be easy to guess.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, os.PathLike):
        return Path(source)
    if not isinstance(source, str):
        raise TypeError(
            f"{name}: must be str, bytes or a path, not {type(source).__name__}; give the secret itself"
            " as bytes, or the path of its file as a pathlib.Path"
        )
    if os.path.exists(source):
        return Path(source)
    if len(source) < _SHORT or not _MADE_BY_CHANCE.fullmatch(source):
        raise ValueError(
            f"{name}: no file has this name; if it is the secret itself, give it as bytes, and if it is"
            " a path, correct it (secret_file=PATH names a file, too)"
        )
    return source.encode()


def _secret_itself(secret: str | bytes | os.PathLike[str]) -> bytes:
    """For signing, where text that names no file is the secret itself, whatever it looks like."""
    if isinstance(secret, str) and not os.path.exists(secret):
        return secret.encode()
    source = _source_of(secret, "secret")
    return source if isinstance(source, bytes) else _read(source, "secret")


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        # Whoever gives a secret where a path is wanted must not find it in the log.
        is_path = path.suffix or (path.name != str(path) and path.parent.is_dir())
        shown = path if is_path or len(path.name) < _SHORT else "the file"
        hint = "; name the file of the secret, or make one: openssl rand -hex 32 > FILE"
        missing = hint if isinstance(error, FileNotFoundError) else ""
        raise ValueError(f"{name}: {shown} can't be read: {error.strerror}{missing}") from None


def _binding(params: Mapping[str, str]) -> dict[str, str]:
    """Those parameters that no bearer may choose."""
    return {
        name: value
        for name, value in params.items()
        if name not in UNSIGNED and (name, value) != ("role", "subscriber")
    }


def _signed(params: Mapping[str, str], space: str = _SPACES[0]) -> str:
    """The text that is signed."""
    pairs = [
        f"{quote(name, safe='')}={quote(value, safe='')}".replace("%20", space)
        for name, value in params.items()
        if name != "sig"
    ]
    return "&".join(sorted(pairs))


def _signature(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest().encode()


@lru_cache
def _signing_key(secret: bytes) -> bytes:
    """The first line. Remembered: else each signature would warn of a secret that could be guessed."""
    return _keys(secret, "secret")[0]


def _keys(text: bytes, name: str) -> tuple[bytes, ...]:
    if text != without_mark(text):
        # Left out here, it would still be in what a backend reads from the same file.
        raise ValueError(f"{name} begins with a byte order mark: save it as UTF-8 without one")
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not keys:
        raise ValueError(f"{name} is empty: put a secret there, of `openssl rand -hex 32`")
    for key in keys:
        if not (key.isascii() and key.decode("ascii").isprintable()):
            raise ValueError(
                f"{name} is no text in ASCII: put a secret there, of `openssl rand -hex 32`"
            )
    if len(min(keys, key=len)) < _SHORT:
        logger.warning(
            "%s: a line has fewer than %d characters: whoever has one signed query can guess it by"
            " trying; take `openssl rand -hex 32`",
            name,
            _SHORT,
            extra={"event": "weak_secret", "reason": name},
        )
    return keys
