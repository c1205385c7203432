"""The URL of a log on Redis, as the option `store` takes it.

| URL | meaning |
| --- | --- |
| `redis://[USER:PASSWORD@]HOST[:PORT][/DB]` | one server |
| `rediss://…` | one server over TLS; its certificate must be valid for the host |
| `unix://[USER:PASSWORD@]/PATH` | a server's socket on this machine |
| `redis+sentinel://[…@]HOST[:PORT],HOST[:PORT]/SERVICE` | the primary that Sentinels name |

The query may have these keys:

| key | meaning |
| --- | --- |
| `hub` | the name of the log (default `trionotify`) |
| `db` | the number of the database |
| `replicas` | how many replicas must confirm an entry with durability `replicated` (default 1) |
| `password_file` | a file with the password |
| `sentinel_password_file` | a file with the Sentinels' own password |

Users and passwords are percent-encoded, and never shown.
"""

from __future__ import annotations

import os
import re
from typing import Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

__all__ = ["SCHEMES", "RedisAddress"]

SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel")
_NEEDED: Final = "redis://HOST:PORT, rediss://…, unix:///PATH or redis+sentinel://HOST:PORT,…/SERVICE"
_KEYS: Final = ("hub", "db", "replicas", "password_file", "sentinel_password_file")
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_HUB: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@attrs.frozen
class RedisAddress:
    """A parsed URL. As text, it has no users and passwords."""

    scheme: str
    #: Hosts and ports of one server, or of all Sentinels.
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    hub: str = "trionotify"
    replicas: int = 1
    username: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)
    sentinel_password: str | None = attrs.field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse a URL. Raises ValueError that says what is wrong with the URL, without repeating it."""
        try:
            split = urlsplit(url)
        except ValueError:
            raise ValueError(f"store: must be {_NEEDED}") from None
        scheme = split.scheme
        if scheme not in SCHEMES:
            raise ValueError(f"store: must be {_NEEDED}")
        if split.fragment:
            raise ValueError("store: a '#' must be written as %23")
        query = dict(parse_qsl(split.query, keep_blank_values=True))
        unknown = query.keys() - set(_KEYS)
        if (scheme != "unix" and "@" in split.path) or (unknown and "@" in split.query):
            # The host comes after it, so what looks like a path or a key is a part of a password.
            raise ValueError(
                "store: in a user or a password, '/' must be written as %2F, and '?' as %3F"
            )
        if unknown:
            raise ValueError(
                f"store: unknown key {min(unknown)!r} in the URL; the keys are {', '.join(_KEYS)}"
            )
        userinfo, _, places = split.netloc.rpartition("@")
        user, _, password = userinfo.partition(":")
        path = unquote(split.path)
        found = cls(
            scheme,
            db=_number("db", query.get("db", "0")),
            hub=query.get("hub", "trionotify"),
            replicas=_number("replicas", query.get("replicas", "1")),
            username=unquote(user) or None,
            password=unquote(password) or _password("password_file", query),
            sentinel_password=_password("sentinel_password_file", query),
        )
        if found.replicas == 0:
            raise ValueError("store: replicas: must be 1 or more")
        if not _HUB.fullmatch(found.hub):
            raise ValueError("store: hub: must be 1 to 64 of the letters, digits and . _ -")
        if scheme == "unix":
            if not path.startswith("/") or places:
                raise ValueError("store: unix: must have an absolute path, as in unix:///run/redis.sock")
            return attrs.evolve(found, path=path)
        if scheme == "redis+sentinel":
            service, _, db = path.removeprefix("/").partition("/")
            if not service:
                raise ValueError(
                    "store: must name the service after the Sentinels, as in HOST,HOST/SERVICE"
                )
            hosts = tuple(_host(place, _SENTINEL_PORT) for place in places.split(","))
            return attrs.evolve(
                found, hosts=hosts, service=service, db=_number("db", db or str(found.db))
            )
        db = path.removeprefix("/") or str(found.db)
        return attrs.evolve(found, hosts=(_host(places, _PORT),), db=_number("db", db))

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        return f"{self.scheme}://{hosts}" + (f"/{self.service}" if self.service else "")

    def without_secrets(self, text: str) -> str:
        """Remove the users and passwords that a server's message may have repeated."""
        for password in filter(None, (self.password, self.sentinel_password)):
            text = text.replace(password, "…")
        if self.username:
            text = re.sub(rf"(?<!\w){re.escape(self.username)}(?!\w)", "…", text)
        return text

    def key(self, name: str) -> bytes:
        """Return the key with that name. The braces keep a hub's keys on one node of a cluster."""
        return f"trionotify:{{{self.hub}}}:{name}".encode()


def _host(place: str, default: int) -> tuple[str, int]:
    try:
        split = urlsplit(f"//{place}")
        host, port = split.hostname, split.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        raise ValueError(f"store: must have HOST or HOST:PORT; write {_NEEDED}")
    return host, port or default


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"store: {name}: must be a whole number")
    return int(text)


def _password(name: str, query: dict[str, str]) -> str | None:
    path = query.get(name)
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not UTF-8"
        raise ValueError(f"store: {name}: {path} can't be read: {reason}") from None
