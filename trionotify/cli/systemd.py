"""Socket activation, status messages and the watchdog of systemd.

See sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3). All of it uses environment variables, and
does nothing if another program started the process.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Final

import trio

from trionotify.server.listeners import is_listening

__all__ = ["feed_watchdog", "inherited_sockets", "notify", "notify_reloading", "watchdog_interval"]

logger: logging.Logger = logging.getLogger("trionotify")

#: The first inherited file descriptor.
_FIRST: Final = 3
#: The most digits of a number of microseconds, which has 64 bits.
_DIGITS: Final = 19


def inherited_sockets() -> list[socket.socket]:
    """Return the listening sockets that were passed to this process; an empty list without any.

    Call this once, before opening any files. Raises ValueError for invalid variables, and for anything
    that isn't such a socket.
    """
    owner, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if owner != str(os.getpid()) or not count:
        return []
    if not (count.isascii() and count.isdigit()):
        raise ValueError(f"LISTEN_FDS: must be a number, not {count!r}")
    sockets = []
    for number in range(_FIRST, _FIRST + int(count)):
        try:
            os.set_inheritable(number, False)
            sock = socket.socket(fileno=number)
        except OSError as error:
            raise ValueError(
                f"LISTEN_FDS: file descriptor {number} is not a socket: {error.strerror}"
            ) from None
        sockets.append(sock)
        if not is_listening(sock):
            raise ValueError(
                f"LISTEN_FDS: file descriptor {number} is not a listening TCP or Unix socket;"
                " write ListenStream= into the socket's unit, and leave out Accept="
            )
    return sockets


def notify(*lines: str, wait: bool = True) -> None:
    """Send these lines to the service manager, if there is one.

    Blocks while it has no room for them, unless `wait` is False.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]  # on Linux, a name without a file
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(wait)
            sock.sendto("\n".join(lines).encode(), path)
    except OSError as error:
        logger.warning(
            "NOTIFY_SOCKET: can't notify the service manager: %s",
            error,
            extra={"event": "untold", "reason": str(error)},
        )


def notify_reloading() -> None:
    """Tell the service manager that the server reloads, and since when."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval() -> float | None:
    """Return the seconds between two messages to the watchdog, half of the time that it waits for one.

    None if there is no watchdog, or if it watches another process. Raises ValueError for an invalid
    variable.
    """
    owner, given = os.environ.pop("WATCHDOG_PID", ""), os.environ.pop("WATCHDOG_USEC", "")
    if not given or owner not in ("", str(os.getpid())):
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= _DIGITS and int(given)):
        raise ValueError(f"WATCHDOG_USEC: must be a number of microseconds above 0, not {given!r}")
    return int(given) / 2_000_000


async def feed_watchdog(interval: float, over: Callable[[], bool]) -> None:
    """Tell the service manager again and again that the server is alive, until it is `over`.

    The messages come from a task, so they show that Trio's loop runs tasks, and nothing more. A server
    whose disk or Redis is away is alive, because a restart would not help it.
    """
    while not over():
        notify("WATCHDOG=1", wait=False)
        await trio.sleep(interval)
