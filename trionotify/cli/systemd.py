"""What systemd hands to a service, and wants to hear from it: see sd_listen_fds(3) and sd_notify(3).

Both are a few environment variables, and mean nothing where something else started the process.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Final

__all__ = ["inherited_sockets", "notify", "notify_reloading"]

logger: logging.Logger = logging.getLogger("trionotify")

#: The first of the file descriptors that are passed on.
_FIRST: Final = 3


def inherited_sockets() -> list[socket.socket]:
    """The sockets that listen for us already; none where nobody opened any.

    To be called once, before anything else opens files. Raises ValueError for variables that make no
    sense.
    """
    owner, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if owner != str(os.getpid()) or not count:
        return []
    if not (count.isascii() and count.isdigit()):
        raise ValueError(f"LISTEN_FDS: a number is needed, not {count!r}")
    sockets = []
    for number in range(_FIRST, _FIRST + int(count)):
        try:
            os.set_inheritable(number, False)
            sockets.append(socket.socket(fileno=number))
        except OSError as error:
            raise ValueError(
                f"LISTEN_FDS: there is no socket at number {number}: {error.strerror}"
            ) from None
    return sockets


def notify(*lines: str) -> None:
    """Tell the service manager, if there is one that listens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]  # Linux: a name without a file
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(), path)
    except OSError as error:
        logger.warning(
            "NOTIFY_SOCKET: can't tell the service manager: %s",
            error,
            extra={"event": "untold", "reason": str(error)},
        )


def notify_reloading() -> None:
    """It has to know since when, too."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
