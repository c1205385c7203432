"""Exhaustion: refusing connections while the machine has no descriptor for them.

The listening socket stays readable, so the listener would try to accept again and again, and each
connection would wait until its client gives up. So the listener keeps one descriptor in reserve. With
it, it can accept a connection, tell it to come back later, and close it. The log gets one line per
spell, not one per failure. A spell ends when nothing has failed for some time.
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

#: Seconds without a failure after which a spell is over.
_SPELL: Final = 30.0
#: Seconds to wait for the request of a connection before it is refused.
_PATIENCE: Final = 0.05
_BODY: Final = b"the server has no room for this connection; try again later\n"
_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 5\r\n"
    b"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
#: Bytes of the request to read before closing, because unread bytes would reset the connection.
_READ: Final = 1 << 16


class Exhaustion:
    """The reserve and the state of the current spell. Created by the acceptor, and closed with it."""

    def __init__(self) -> None:
        self._reserve: int | None = None
        self._failed_at: float | None = None
        self.over()

    def note(self, error: OSError) -> None:
        """Note that accepting failed. Logs the first failure of a spell."""
        now = trio.current_time()
        if self._failed_at is None or now - self._failed_at > _SPELL:
            logger.warning(
                "can't accept connections: %s; until that changes, half-open connections are closed"
                " or new ones refused",
                error.strerror,
                extra={"event": "accept_failed", "reason": error.strerror},
            )
        self._failed_at = now

    def over(self) -> None:
        """Note that accepting works. Opens a descriptor as the reserve, if there is none."""
        if self._reserve is None:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY)

    async def refuse(self, listener: socket.socket, *, tls: bool = False) -> bool:
        """Accept one connection with the reserve, answer 503 and close it; return False if that fails.

        It waits a moment for the request, because to a client that still writes, an answer and the end
        look like a lost connection. Over TLS there is no answer, because a plain one would tell the
        client that this server speaks no TLS. A checkpoint only if it accepted one.
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
                if not tls:
                    sock.send(_REFUSAL)
                sock.shutdown(socket.SHUT_WR)
                sock.recv(_READ)
        finally:
            sock.close()
            self.over()
        return True

    def close(self) -> None:
        """Release the reserve."""
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
