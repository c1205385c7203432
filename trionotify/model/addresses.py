"""Addresses of Unix sockets and of peers, including peers behind a proxy.

A proxy adds the address of its own peer to the end of the field `X-Forwarded-For`, behind what it was
sent itself. So the header is read from its end, for as long as the proxies that wrote it are trusted.
The first address that isn't a trusted proxy's is the client's. Anyone can have invented the addresses
before it. The header `Forwarded` (RFC 7239) is never read, because a proxy that doesn't know it passes
on whatever the client wrote there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from trionotify.model.text import texts_of

__all__ = ["UNIX", "Proxies", "name_of", "neighbourhood", "site_of", "unix_path", "unix_url"]

Address = IPv4Address | IPv6Address

#: The peer of a Unix socket, which has no address.
UNIX: Final = "unix"
_SCHEME: Final = "unix:"
#: Characters that stay unescaped in the path of a Unix socket's URL, besides letters, digits and `_.-~`.
_PLAIN: Final = "/@:+=,"
#: The network that a provider gives to one subscriber (RFC 6177). All its addresses count as one.
_IPV6_SITE: Final = 64
#: The bits of an IPv6 address before an embedded IPv4 address (RFC 4291, section 2.5.5.2).
_MAPPED: Final = 96
#: The most characters of an address.
_LONGEST: Final = 64


def name_of(name: Any) -> str:
    """Return a socket's address as text, `unix` for the peer of a Unix socket."""
    if not isinstance(name, tuple):
        return UNIX
    host, port = name[:2]
    # A socket for both IPv6 and IPv4 writes an IPv4 address as an IPv6 one.
    if (rest := host.removeprefix("::ffff:")) != host and "." in rest:
        host = rest
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unix_url(path: str | bytes) -> str:
    """Return the URL of the Unix socket at `path`, percent-encoded, so that a `?` begins its query."""
    return _SCHEME + quote(os.fsencode(path), safe=_PLAIN)


def unix_path(url: str) -> str | None:
    """Return the path in the URL of a Unix socket; None for a URL with another scheme.

    The URL may have a query. Raises ValueError for a URL without a path.
    """
    if url[: len(_SCHEME)].lower() != _SCHEME:
        return None
    path = url[len(_SCHEME) :].partition("?")[0]
    if not path:
        raise ValueError("url: a unix URL must have a path")
    if "#" in path:
        raise ValueError("url: a '#' must be written as %23")
    try:
        return os.fsdecode(unquote_to_bytes(os.fsencode(path)))
    except UnicodeEncodeError as error:
        raise ValueError(f"url: {error.reason}") from None


class Proxies:
    """The trusted proxies: addresses, networks, and `unix` for all peers on a Unix socket.

    Raises ValueError for any other text, and TypeError for anything else.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._unix = False
        self._networks: list[IPv4Network | IPv6Network] = []
        for text in texts_of("trusted_proxy", trusted):
            if text == UNIX:
                self._unix = True
                continue
            try:
                self._networks.append(_unmapped(ip_network(text)))
            except ValueError as error:
                raise ValueError(
                    f"trusted_proxy: {error}; give an address, a network like 10.0.0.0/8, or unix"
                ) from None

    def client(self, peer: str, forwarded: str | None) -> str:
        """Return the client's address behind `peer`, according to trusted proxies' `X-Forwarded-For`."""
        if forwarded is None or not self.trusts(peer):
            return peer
        found = peer
        for item in reversed(forwarded.split(",")):
            address = _address(item.strip())
            if address is None:
                break  # not an address, because the proxy doesn't know it
            found = str(address)
            if not self.trusts(found):
                break
        return found

    def has_tls(self, peer: str, proto: str | None, encrypted: bool) -> bool:
        """Return whether the client uses TLS, as a trusted proxy says in `X-Forwarded-Proto`.

        Without that, return whether the connection of the `peer` is `encrypted`.
        """
        if proto is None or not self.trusts(peer):
            return encrypted
        return "https" in [item.strip().lower() for item in proto.split(",")]

    def trusts(self, peer: str) -> bool:
        """Return whether `peer` is a trusted proxy."""
        if peer == UNIX:
            return self._unix
        address = _address(peer) if self._networks else None
        return address is not None and any(address in network for network in self._networks)


@lru_cache(maxsize=256)  # a connection asks several times at its beginning
def neighbourhood(remote: str) -> str | None:
    """Return the network that counts as one address in quotas; None for a peer without an address.

    For IPv6 that is a whole /64.
    """
    return _neighbourhood(_host_of(remote))


@lru_cache(maxsize=1024)  # many connections share an address
def _neighbourhood(host: str) -> str | None:
    address = _parsed(host)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, _IPV6_SITE), strict=False))
    return None if address is None else str(address)


def site_of(remote: str) -> str:
    """Return the `neighbourhood` as a text, or `remote` itself without one."""
    return neighbourhood(remote) or remote


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Convert an IPv4 network that is written as an IPv6 network."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED))


def _address(text: str) -> Address | None:
    """Parse the address in `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
    return _parsed(_host_of(text))


def _host_of(text: str) -> str:
    """Return the host of an address, without its port and its zone.

    It is cut, because a peer may send a long text, and the results are cached.
    """
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return text.partition("%")[0][:_LONGEST]


@lru_cache(maxsize=1024)
def _parsed(host: str) -> Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
