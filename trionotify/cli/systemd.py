"""Socket activation and status messages of systemd: see sd_listen_fds(3) and sd_notify(3).

Both use environment variables, and do nothing if another program started the process.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Final

__all__ = ["inherited_sockets", "notify", "notify_reloading"]

logger: logging.Logger = logging.getLogger("trionotify")

#: The first inherited file descriptor.
_FIRST: Final = 3


def inherited_sockets() -> list[socket.socket]:
    """Return the listening sockets that were passed to this process; an empty list without any.

    Call this once, before opening any files. Raises ValueError for invalid variables.
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
            sockets.append(socket.socket(fileno=number))
        except OSError as error:
            raise ValueError(
                f"LISTEN_FDS: file descriptor {number} is not a socket: {error.strerror}"
            ) from None
    return sockets


def notify(*lines: str) -> None:
    """Send these lines to the service manager, if there is one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]  # on Linux, a name without a file
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
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
