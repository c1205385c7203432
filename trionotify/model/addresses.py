"""Addresses: of Unix sockets, and who is at the other end, also where a proxy stands in between.

A proxy adds the address of its own peer to the end of the field `X-Forwarded-For`, behind what it was
sent itself. So the field is read from its end, for as long as the proxies that wrote it are trusted:
the first address that isn't a trusted proxy's is the client's, and what stands before it anybody can
have made up. The field `Forwarded` (RFC 7239) is never read: a proxy that doesn't know it passes on
whatever the client wrote there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

__all__ = ["Proxies", "name_of", "neighbourhood", "site_of", "unix_path", "unix_url"]

Address = IPv4Address | IPv6Address

#: The peer of a Unix socket, which has no address.
UNIX: Final = "unix"
_SCHEME: Final = "unix:"
#: What stays as it is in the path of a Unix socket's URL, besides letters, digits and `_.-~`.
_PLAIN: Final = "/@:+=,"
#: What one subscriber of a provider is given (RFC 6177): all of these addresses are as good as one.
_IPV6_SITE: Final = 64
#: Behind so many bits of an IPv6 address one of IPv4 may stand (RFC 4291, section 2.5.5.2).
_MAPPED: Final = 96


def name_of(name: Any) -> str:
    """A socket's name as a person writes it; a Unix socket's peer has none."""
    if not isinstance(name, tuple):
        return UNIX
    host, port = name[:2]
    # A socket for both IPv6 and IPv4 writes an IPv4 address as an IPv6 one.
    if (rest := host.removeprefix("::ffff:")) != host and "." in rest:
        host = rest
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unix_url(path: str | bytes) -> str:
    """The URL of the Unix socket at `path`: percent-encoded, so that a `?` can begin its query."""
    return _SCHEME + quote(os.fsencode(path), safe=_PLAIN)


def unix_path(url: str) -> str | None:
    """The path in the URL of a Unix socket, which may have a query; None for one of another scheme.

    Raises ValueError for one without a path.
    """
    if url[: len(_SCHEME)].lower() != _SCHEME:
        return None
    path = url[len(_SCHEME) :].partition("?")[0]
    if not path:
        raise ValueError("url: there is no path in it")
    if "#" in path:
        raise ValueError("url: a '#' must be written as %23")
    try:
        return os.fsdecode(unquote_to_bytes(os.fsencode(path)))
    except UnicodeEncodeError as error:
        raise ValueError(f"url: {error.reason}") from None


class Proxies:
    """Those that are trusted: addresses, networks, and `unix` for whoever comes by a Unix socket.

    Raises ValueError for what is neither.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        if isinstance(trusted, str):
            trusted = (trusted,)
        self._unix = False
        self._networks: list[IPv4Network | IPv6Network] = []
        for text in trusted:
            if text == UNIX:
                self._unix = True
                continue
            try:
                self._networks.append(_unmapped(ip_network(text)))
            except ValueError as error:
                raise ValueError(
                    f"trusted_proxy: {error}; an address is needed, a network like 10.0.0.0/8, or unix"
                ) from None

    def client(self, peer: str, forwarded: str | None) -> str:
        """Who is behind `peer`, as far as trusted proxies say so in `X-Forwarded-For`."""
        if forwarded is None or not self.trusts(peer):
            return peer
        found = peer
        for item in reversed(forwarded.split(",")):
            address = _address(item.strip())
            if address is None:
                break  # nobody's address: what wrote it knows no more
            found = str(address)
            if not self.trusts(found):
                break
        return found

    def trusts(self, peer: str) -> bool:
        """Whether it is a proxy that says who is behind it."""
        if peer == UNIX:
            return self._unix
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)


@lru_cache(maxsize=256)  # a connection asks several times at its beginning
def neighbourhood(remote: str) -> str | None:
    """What counts as one address when connections are counted; None where there is none.

    Of IPv6 that is a whole /64.
    """
    address = _address(remote)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, _IPV6_SITE), strict=False))
    return None if address is None else str(address)


def site_of(remote: str) -> str:
    """The same as a text that is never missing."""
    return neighbourhood(remote) or remote


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """An IPv4 network that is written as an IPv6 one, as what it is."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED))


def _address(text: str) -> Address | None:
    """The address in `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
