"""Exhaustion: what a listener does when the machine has no descriptor for one more connection.

The listening socket stays readable, so accepting would be tried again and again, and each connection
would wait until its client gives up. Therefore one descriptor is kept in reserve. With it a connection
can be accepted, told to come back later, and closed. The log gets one line for each spell, not one for
each failure.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from typing import Final

import trio

__all__ = ["Exhaustion"]

logger: logging.Logger = logging.getLogger("trionotify")

#: A spell is over when nothing has failed for this many seconds.
_SPELL: Final = 30.0
#: Seconds that a connection has for its request before it is refused.
_PATIENCE: Final = 0.05
_BODY: Final = b"the server has no room for this connection; try again later\n"
_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 5\r\n"
    b"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
#: Bytes of the request that are read before the connection is closed: unread ones would reset it.
_READ: Final = 1 << 16


class Exhaustion:
    """Made by a server, and closed with it."""

    def __init__(self) -> None:
        self._reserve: int | None = None
        self._failed_at: float | None = None
        self.over()

    def note(self, error: OSError) -> None:
        """Note that accepting failed, and log the first failure of a spell."""
        now = trio.current_time()
        if self._failed_at is None or now - self._failed_at > _SPELL:
            logger.warning(
                "can't accept: %s; until that is over, half-open connections are closed or new"
                " ones refused",
                error.strerror,
                extra={"event": "accept_failed", "reason": error.strerror},
            )
        self._failed_at = now

    def over(self) -> None:
        """Note that accepting works, and take a descriptor into reserve, if there is none."""
        if self._reserve is None:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY)

    async def refuse(self, listener: socket.socket) -> bool:
        """Accept one connection by the reserve, answer 503 and close it; False if that fails.

        Its request is waited for a moment, because to a client that still writes, an answer and the end
        look like a lost connection.
        """
        self.over()
        self.close()
        sock: socket.socket | None = None
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            sock.setblocking(False)
        if sock is None:
            self.over()
            return False
        try:
            with trio.move_on_after(_PATIENCE):
                await trio.lowlevel.wait_readable(sock)
            with contextlib.suppress(OSError):
                sock.send(_REFUSAL)  # to TLS it is nonsense, and its end is all that can be told
                sock.shutdown(socket.SHUT_WR)
                sock.recv(_READ)
        finally:
            sock.close()
            self.over()
        return True

    def close(self) -> None:
        """Give the reserve back."""
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
