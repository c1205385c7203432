"""Listening sockets: made for a host and a port, for a path, or inherited. Errors name the place.

Where there is no secret and no `authenticate`, nobody listens beyond this machine unless that was
meant.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Iterable
from typing import Any, Final

import trio

from trionotify.addresses import name_of

__all__ = ["BACKLOG", "adopt", "listen_tcp", "listen_unix"]

logger = logging.getLogger("trionotify")

#: How many connections the kernel keeps until they are accepted.
BACKLOG: Final = 4096
_UNIX: Final = getattr(socket, "AF_UNIX", None)
#: A name has addresses that the machine hasn't: as `localhost`, where IPv6 is off.
_LACKING: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_IN_USE: Final = "stop what listens there already, or choose another place"


async def listen_tcp(host: str, port: int, public: bool) -> list[socket.socket]:
    """Sockets that listen at every address of `host` that this machine has, all at one port.

    Raises OSError when that can't be, ValueError when anyone could reach it and it isn't `public`.
    """
    if not host:
        raise ValueError("host: a name or an address is needed")
    try:
        found = await trio.socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise OSError(f"host: {host} can't be found: {error.strerror}") from None
    sockets: list[socket.socket] = []
    lacking: list[OSError] = []
    try:
        for family, _, _, _, name in dict.fromkeys(found):
            address = str(name[0])
            _check_reach(address, public)
            # With port 0, the first socket's choice is everyone's.
            chosen = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_bound(family, (address, chosen, *name[2:])))
            except OSError as error:
                explained = _explained(error, name_of((address, chosen)))
                if error.errno not in _LACKING:
                    raise explained from None
                lacking.append(explained)
        if not sockets:
            raise lacking[0]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    for absent in lacking:
        logger.warning(
            "host: not at %s: %s",
            absent.filename,
            absent.strerror,
            extra={"event": "not_at", "address": absent.filename, "reason": absent.strerror},
        )
    return sockets


def _bound(family: int, name: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
        sock.bind(name)
        _listen(sock)
    except BaseException:
        sock.close()
        raise
    return sock


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


def adopt(sockets: Iterable[socket.socket], public: bool) -> list[socket.socket]:
    """Sockets that listen already, as they are; they are closed when this raises ValueError."""
    adopted = list(sockets)
    try:
        for sock in adopted:
            if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
                socket.SOL_SOCKET, socket.SO_ACCEPTCONN
            ):
                raise ValueError(f"sockets: {sock!r} doesn't listen for streams")
            if sock.family != _UNIX:
                _check_reach(str(sock.getsockname()[0]), public)
            sock.setblocking(False)
    except BaseException:
        for sock in adopted:
            sock.close()
        raise
    return adopted


def _in_use() -> OSError:
    return OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _check_reach(address: str, public: bool) -> None:
    if not (public or ipaddress.ip_address(address.partition("%")[0]).is_loopback):
        raise ValueError(
            f"host: {address} can be reached by anyone; give a secret, listen on 127.0.0.1, or say"
            " insecure"
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
