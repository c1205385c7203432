"""Authorities: a host and a port, as `Host`, a request's target and an origin name them.

By the grammar of RFC 3986, section 3.2: a name, an address of IPv4, or one of IPv6 in brackets, and
maybe a port. Comparisons use the normal form: lower case, percent-decoded, addresses of IPv6 as
short as they can be. There is no I/O, and no state but a cache.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import unquote

import attrs

__all__ = ["Authority", "parse_authority"]

#: A host, and a port if there is one. An address of IPv6 may name its zone (RFC 6874), as Python's does.
_AUTHORITY: Final = re.compile(
    r"(?P<host>\[[0-9a-f:.]+(?P<zone>%[\w.~%-]+)?\]|[\w.~%!$&'()*+,;=-]*)(:(?P<port>\d*))?",
    re.ASCII | re.IGNORECASE,
)
#: Characters that a name can't have, not even percent-encoded (URL Standard, "forbidden domain code
#: point").
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f-\uffff\U00010000-\U0010ffff#/:<>?@\[\\\]^|%]")
_HIGHEST_PORT: Final = 65_535


@attrs.frozen
class Authority:
    """A host in its normal form, an address of IPv6 in brackets, and a port if one is named."""

    host: str
    port: int | None = None

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The host as an IP address; None if it is a name."""
        return _address(self.host)


@lru_cache(maxsize=64)
def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        if host.startswith("["):
            return IPv6Address(host[1:-1].partition("%")[0])
        return IPv4Address(host)
    except ValueError:
        return None


@lru_cache(maxsize=64)  # clients know a server by few names
def parse_authority(text: str) -> Authority:
    """Parse `HOST` or `HOST:PORT`; the host may be empty. Raises ValueError with the reason."""
    if "@" in text:
        raise ValueError("must not have a user in front of an @; leave it out")
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise ValueError("must be HOST or HOST:PORT")
    host, port = found["host"].lower(), found["port"]
    if host.startswith("["):
        try:
            address = IPv6Address(host[1:-1].partition("%")[0])
        except ValueError as error:
            raise ValueError(f"must be a valid IPv6 address: {error}") from None
        host = f"[{address}{found['zone'] or ''}]"
    elif "%" in host:
        host = _decoded(host)
    if port and (len(port) > 6 or int(port) > _HIGHEST_PORT):
        raise ValueError(f"must have a port of at most {_HIGHEST_PORT}")
    return Authority(host, int(port) if port else None)


def _decoded(host: str) -> str:
    try:
        decoded = unquote(host, errors="strict").lower()
    except UnicodeDecodeError:
        decoded = "%"
    if _FORBIDDEN.search(decoded):
        raise ValueError("must be a host name, but has characters that no host name has")
    return decoded
