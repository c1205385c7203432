"""Listening sockets: made for a host and a port, for a path, or inherited. Errors name the place.

Where there is no secret and no `authenticate`, nobody listens beyond this machine unless that was
meant.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import itertools
import logging
import os
import socket
import stat
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

import trio

from trionotify.model.addresses import name_of, unix_url

__all__ = ["BACKLOG", "adopt", "listen_tcp", "listen_unix", "place_of", "take_over"]

logger: logging.Logger = logging.getLogger("trionotify")

#: How many connections the kernel keeps until they are accepted.
BACKLOG: Final = 4096
_UNIX: Final = getattr(socket, "AF_UNIX", None)
#: A name has addresses that the machine hasn't: as `localhost`, where IPv6 is off.
_LACKING: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
#: By family, the address that stands for all of this machine.
_WILDCARDS: Final[Mapping[int, str]] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
#: With port 0, how often to look for a port that is free at all addresses.
_ATTEMPTS: Final = 10
#: A family, and what `bind` takes.
_Address = tuple[int, tuple[Any, ...]]
_IN_USE: Final = "stop what listens there already, or choose another place with --port, --host or --unix"


async def listen_tcp(hosts: str | Iterable[str], port: int, public: bool) -> list[socket.socket]:
    """Sockets that listen at every address of these hosts that this machine has, all at one port.

    `::` is every address of IPv4, too, unless one of IPv4 is among them. Raises OSError when that can't
    be, TypeError or ValueError for something that is no host, or for one that other machines can reach
    when it isn't `public`.
    """
    names = await _addresses(hosts, port)
    for _, name in names:
        _check_reach(str(name[0]), public)
    for attempt in itertools.count(1):
        lacking: list[OSError] = []
        try:
            sockets = _listen_at(names, port, lacking)
        except OSError as error:
            # Of a free port at one address another may be taken: with port 0, any other will do.
            if port or error.errno != errno.EADDRINUSE or attempt == _ATTEMPTS:
                raise
        else:
            break
    for absent in lacking:
        logger.warning(
            "host: not listening at %s: %s",
            absent.filename,
            absent.strerror,
            extra={"event": "not_at", "address": absent.filename, "reason": absent.strerror},
        )
    return sockets


async def _addresses(hosts: str | Iterable[str], port: int) -> list[_Address]:
    """The addresses of all hosts, each once, and none that another one includes."""
    found: list[_Address] = []
    for host in (hosts,) if isinstance(hosts, str) else tuple(hosts) or ("",):
        if not isinstance(host, str):
            raise TypeError(f"host must be str, not {type(host).__name__}")
        if not host:
            raise ValueError("host: a name or an address is needed")
        # An address of IPv6 may be in brackets, as in a URL.
        name = host[1:-1] if host.startswith("[") and host.endswith("]") and ":" in host else host
        try:
            infos = await trio.socket.getaddrinfo(
                name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (socket.gaierror, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise OSError(f"host: {host} can't be found: {why}") from None
        found += [(family, name) for family, _, _, _, name in infos]
    everywhere = {family for family, name in found if name[0] == _WILDCARDS.get(family)}
    return [
        (family, name)
        for family, name in dict.fromkeys(found)
        if family not in everywhere or name[0] == _WILDCARDS[family]
    ]


def _listen_at(names: Iterable[_Address], port: int, lacking: list[OSError]) -> list[socket.socket]:
    """Listen at all of them; what this machine lacks comes into `lacking`."""
    waiting = deque(names)
    only_ipv6 = any(family == socket.AF_INET for family, _ in waiting)
    sockets: list[socket.socket] = []
    try:
        while waiting:
            family, name = waiting.popleft()
            both = not only_ipv6 and name[0] == _WILDCARDS[socket.AF_INET6]
            # With port 0, the first socket's choice is everyone's.
            chosen = sockets[0].getsockname()[1] if sockets else port
            try:
                sock, is_both = _bound(family, (name[0], chosen, *name[2:]), both)
                sockets.append(sock)
            except OSError as error:
                explained = _explained(error, name_of((name[0], chosen)))
                if error.errno not in _LACKING:
                    raise explained from None
                lacking.append(explained)
                is_both = False
            if both and not is_both:
                # There is no IPv6 here, or a socket can't be for both: so IPv4 has its own.
                waiting.append((socket.AF_INET, (_WILDCARDS[socket.AF_INET], port)))
        if not sockets:
            raise lacking[0]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bound(family: int, name: tuple[Any, ...], both: bool) -> tuple[socket.socket, bool]:
    """A socket that listens there, and whether it is for IPv4 as well, as it should be for `both`."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if family == socket.AF_INET6:
            both = both and _may_be_both(sock)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        sock.bind(name)
        _listen(sock)
    except BaseException:
        sock.close()
        raise
    return sock, both


def _may_be_both(sock: socket.socket) -> bool:
    try:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
    except OSError:  # OpenBSD
        return False
    return True


def listen_unix(path: str) -> socket.socket:
    """A socket that listens at `path`. A file left over by a server that is gone is replaced.

    Raises OSError when that can't be, or a server listens there.
    """
    if _UNIX is None:
        raise ValueError("unix: this system has no Unix sockets; use host and port")
    sock = socket.socket(_UNIX, socket.SOCK_STREAM)
    # Where a server hangs, connecting would wait for it.
    sock.setblocking(False)
    try:
        if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
            try:
                sock.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except BlockingIOError:
                raise _in_use() from None
            else:
                raise _in_use()
        elif os.path.lexists(path):
            raise OSError(f"unix: {path} is a file, and no socket: choose another path")
        sock.bind(path)
        _listen(sock)
    except OSError as error:
        sock.close()
        raise _explained(error, path) from None
    return sock


def take_over(sockets: Iterable[socket.socket], undo: contextlib.ExitStack) -> list[socket.socket]:
    """Sockets that `undo` closes; raises TypeError for something else."""
    taken = []
    for sock in sockets:
        if not isinstance(sock, socket.socket):
            raise TypeError(f"sockets: must be listening sockets of `socket`, not {type(sock).__name__}")
        taken.append(sock)
        undo.callback(sock.close)
    return taken


def adopt(sockets: Iterable[socket.socket], public: bool) -> None:
    """Make sockets that listen already ready to be served; raises ValueError for one that won't do."""
    for sock in sockets:
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            raise ValueError(f"sockets: {sock!r} doesn't listen for streams; call its listen() first")
        if sock.family != _UNIX:
            _check_reach(str(sock.getsockname()[0]), public)
        sock.setblocking(False)


def place_of(sock: socket.socket, tls: bool) -> tuple[str, int | None]:
    """The URL of a server that listens there, and the port; a Unix socket has none."""
    name = sock.getsockname()
    if sock.family == _UNIX:
        return unix_url(name), None
    return f"{'https' if tls else 'http'}://{name_of(name)}", name[1]


def _in_use() -> OSError:
    return OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _check_reach(address: str, public: bool) -> None:
    if not (public or ipaddress.ip_address(address.partition("%")[0]).is_loopback):
        raise ValueError(
            f"host: {address} can be reached by anyone; give a secret (--secret FILE), listen on"
            " 127.0.0.1, or let everyone in (--insecure)"
        )


def _listen(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.listen(BACKLOG)


def _explained(error: OSError, place: str) -> OSError:
    if error.errno is None:
        text = str(error)
        return error if place in text else OSError(f"unix: {place}: {text}")
    hint = f"; {_IN_USE}" if error.errno == errno.EADDRINUSE else ""
    return OSError(error.errno, f"{error.strerror}{hint}", place)
