"""Listening sockets for a host and a port, for a path, or inherited. Errors name the address.

Without a secret and without `authenticate`, a server listens only on loopback, unless `insecure` says
otherwise. This module runs no tasks. Its caller owns the sockets.
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
from trionotify.model.text import texts_of

__all__ = [
    "BACKLOG",
    "adopt",
    "forget_unix",
    "is_listening",
    "is_loopback",
    "listen_tcp",
    "listen_unix",
    "place_of",
    "take_over",
]

logger: logging.Logger = logging.getLogger("trionotify")

#: The most connections that the kernel keeps until they are accepted.
BACKLOG: Final = 4096
_UNIX: Final = getattr(socket, "AF_UNIX", None)
#: The machine lacks an address of the name, such as that of `localhost` in IPv6 if IPv6 is off.
_LACKING: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)
#: By family, the address that stands for all addresses.
_WILDCARDS: Final[Mapping[int, str]] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
#: With port 0, the number of attempts to find a port that is free at all addresses.
_ATTEMPTS: Final = 10
#: A family, and the argument of `bind`.
_Address = tuple[int, tuple[Any, ...]]
#: What to do about errors of `bind` for a port, in front of the option's name.
_PORT_HINTS: Final = {
    errno.EADDRINUSE: "stop the program that listens there, or choose another port with",
    errno.EACCES: "give the process CAP_NET_BIND_SERVICE, or choose a port above 1023 with",
}
#: The same for the path of a Unix socket.
_PATH_HINTS: Final = {
    errno.EADDRINUSE: "stop the server that listens there, or choose another path",
    errno.EACCES: "choose a path where the server's user may write",
    errno.ENOENT: "create the directory, or choose another path",
}


async def listen_tcp(
    hosts: str | Iterable[str],
    port: int,
    public: bool,
    *,
    reuse_port: bool = False,
    option: str = "port",
) -> list[socket.socket]:
    """Listen at every address of these hosts that this machine has, all at the same port.

    `::` includes all IPv4 addresses, unless an IPv4 address is given, too. Port 0 means any free port.
    With `reuse_port`, other processes that say so, too, may listen at the same port. `option` is the
    name of the option with the port, for errors. A checkpoint.
    Raises OSError if it can't listen there. Raises TypeError or ValueError for an invalid host, or for
    one that other machines can reach if it isn't `public`.
    """
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError(
            "reuse_port: this system has no such option; give each process a port of its own"
        )
    names = await _addresses(hosts, port)
    for _, name in names:
        _check_reach(str(name[0]), public)
    for attempt in itertools.count(1):
        lacking: list[tuple[str, OSError]] = []
        try:
            sockets = _listen_at(names, port, lacking, reuse_port, option)
        except OSError as error:
            # A free port at one address may be in use at another. With port 0, try another one.
            if port or error.errno != errno.EADDRINUSE or attempt == _ATTEMPTS:
                raise
        else:
            break
    for place, absent in lacking:
        logger.warning(
            "host: not listening at %s: %s",
            place,
            absent.strerror,
            extra={"event": "not_at", "address": place, "reason": absent.strerror},
        )
    return sockets


async def _addresses(hosts: str | Iterable[str], port: int) -> list[_Address]:
    """Return the addresses of all hosts, each once, without those that a wildcard includes."""
    found: list[_Address] = []
    for host in texts_of("host", hosts) or ("",):
        if not host:
            raise ValueError("host: must be a name or an address, not empty")
        # An IPv6 address may be in brackets, as in a URL.
        name = host[1:-1] if host.startswith("[") and host.endswith("]") and ":" in host else host
        try:
            infos = await trio.socket.getaddrinfo(
                name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (socket.gaierror, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise OSError(
                f"host: {host} was not found: {why}; give an address of this machine, or a name of one"
            ) from None
        found += [(family, name) for family, _, _, _, name in infos]
    everywhere = {family for family, name in found if name[0] == _WILDCARDS.get(family)}
    return [
        (family, name)
        for family, name in dict.fromkeys(found)
        if family not in everywhere or name[0] == _WILDCARDS[family]
    ]


def _listen_at(
    names: Iterable[_Address],
    port: int,
    lacking: list[tuple[str, OSError]],
    reuse_port: bool,
    option: str,
) -> list[socket.socket]:
    """Listen at all of them. Addresses that this machine lacks go into `lacking`, with their errors."""
    waiting = deque(names)
    only_ipv6 = any(family == socket.AF_INET for family, _ in waiting)
    sockets: list[socket.socket] = []
    try:
        while waiting:
            family, name = waiting.popleft()
            both = not only_ipv6 and name[0] == _WILDCARDS[socket.AF_INET6]
            # With port 0, the first socket chooses the port for all.
            chosen = sockets[0].getsockname()[1] if sockets else port
            try:
                sock, is_both = _bound(family, (name[0], chosen, *name[2:]), both, reuse_port)
                sockets.append(sock)
            except OSError as error:
                place = name_of((name[0], chosen))
                if error.errno not in _LACKING:
                    raise _port_error(error, place, option) from None
                lacking.append((place, error))
                is_both = False
            if both and not is_both:
                # There is no IPv6, or a socket can't serve both. So IPv4 gets a socket of its own.
                waiting.append((socket.AF_INET, (_WILDCARDS[socket.AF_INET], port)))
        if not sockets:
            place, absent = lacking[0]
            raise _port_error(absent, place, option)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bound(
    family: int, name: tuple[Any, ...], both: bool, reuse_port: bool
) -> tuple[socket.socket, bool]:
    """Return a listening socket, and whether it serves IPv4 as well, as asked for by `both`."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
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
    """Listen at `path`. Replaces the file of a server that is gone.

    Raises OSError if it can't listen there or if a server listens there already. Doesn't block.
    """
    if _UNIX is None:
        raise ValueError("unix: this system has no Unix sockets; use host and port")
    sock = socket.socket(_UNIX, socket.SOCK_STREAM)
    # Connecting to a server that hangs would wait.
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
            kind = "directory" if os.path.isdir(path) else "file"
            raise OSError(f"unix: {path} is a {kind}, not a socket; choose another path")
        sock.bind(path)
        _listen(sock)
    except OSError as error:
        sock.close()
        raise _path_error(error, path) from None
    return sock


def forget_unix(path: str | os.PathLike[str], file: os.stat_result) -> None:
    """Remove the file of a socket of ours, unless another server has replaced it meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path), file):
            os.unlink(path)


def take_over(sockets: Iterable[socket.socket], undo: contextlib.ExitStack) -> list[socket.socket]:
    """Check that these are sockets, and let `undo` close them. Raises TypeError for anything else."""
    if not isinstance(sockets, Iterable):
        hint = "; write [sock]" if isinstance(sockets, socket.socket) else ""
        raise TypeError(
            f"sockets: must be a list of listening sockets, not {type(sockets).__name__}{hint}"
        )
    taken = []
    for sock in sockets:
        if not isinstance(sock, socket.socket):
            raise TypeError(f"sockets: must be listening sockets of `socket`, not {type(sock).__name__}")
        taken.append(sock)
        undo.callback(sock.close)
    return taken


def adopt(sockets: Iterable[socket.socket], public: bool) -> None:
    """Prepare sockets that listen already. Raises ValueError for one that can't be served."""
    for sock in sockets:
        if not is_listening(sock):
            raise ValueError(f"sockets: {sock!r} is not listening; call its listen() first")
        if sock.family != _UNIX:
            _check_reach(str(sock.getsockname()[0]), public, "sockets")
        sock.setblocking(False)


def is_listening(sock: socket.socket) -> bool:
    """Return whether a socket accepts connections of TCP, or of a Unix socket of the same kind."""
    if sock.type != socket.SOCK_STREAM or sock.family not in (*_WILDCARDS, _UNIX):
        return False
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def place_of(sock: socket.socket, tls: bool) -> tuple[str, int | None]:
    """Return the URL of a server at this socket, and its port; the port is None for a Unix socket."""
    name = sock.getsockname()
    if sock.family == _UNIX:
        return unix_url(name), None
    return f"{'https' if tls else 'http'}://{name_of(name)}", name[1]


def _in_use() -> OSError:
    return OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def is_loopback(sock: socket.socket) -> bool:
    """Return whether a socket is one of TCP on loopback, so that only this machine can reach it."""
    return sock.family != _UNIX and _is_loopback(str(sock.getsockname()[0]))


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _check_reach(address: str, public: bool, option: str = "host") -> None:
    if not (public or _is_loopback(address)):
        raise ValueError(
            f"{option}: everyone can reach {address}, so a secret is needed (--secret FILE); or listen"
            " on 127.0.0.1, or accept every client (--insecure)"
        )


def _listen(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.listen(BACKLOG)


def _port_error(error: OSError, place: str, option: str) -> OSError:
    """Return the error of a host and a port with the option at fault in front, and the fix behind."""
    if error.errno in _NO_DESCRIPTORS:
        fix = "raise the limit on open files (ulimit -n)"
        return OSError(error.errno, f"{option}: {place}: {error.strerror}; {fix}")
    hint = _PORT_HINTS.get(error.errno or 0)
    if hint is None:
        option, hint = "host", "choose an address of this machine with"
    fix = f"{hint} --{option.replace('_', '-')}"
    return OSError(error.errno, f"{option}: {place}: {error.strerror}; {fix}")


def _path_error(error: OSError, path: str) -> OSError:
    """Return the error of a Unix socket, in the same form."""
    if error.errno is None:  # of this module, or of Python for a path that is too long
        text = str(error)
        return error if path in text else OSError(f"unix: {path}: {text}; choose a shorter path")
    hint = _PATH_HINTS.get(error.errno, "choose another path")
    return OSError(error.errno, f"unix: {path}: {error.strerror}; {hint}")
