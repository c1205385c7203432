"""What can go wrong, by name: close codes and exceptions.

`CloseCode` is the one place that says with which code a connection ends and whether the peer should
come back. Exceptions carry the sentence that a person needs: the thing at fault, and the fix.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CloseCode", "Disconnected", "Lagged", "Refused", "TrionotifyError"]


class CloseCode(IntEnum):
    """Why a WebSocket connection ended (RFC 6455, section 7.4.1, the IANA registry, and our 44xx)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    TOO_MANY_REQUESTS = 4429

    @property
    def reconnect(self) -> bool:
        """Whether a client that sees this code should connect again and resume at its cursor.

        True where the cause lies with the server or the network and passes by itself; false where
        the same client would meet the same answer again.
        """
        return self in _PASSING


_PASSING = frozenset(
    {
        CloseCode.GOING_AWAY,
        CloseCode.SERVICE_RESTART,
        CloseCode.TRY_AGAIN_LATER,
        CloseCode.TOO_MANY_REQUESTS,
    }
)


class TrionotifyError(Exception):
    """The base of every exception that trionotify defines."""


class Refused(TrionotifyError):
    """A request is refused before it becomes a connection.

    Raise it in `authenticate`. It is answered with `status` and an RFC 9457 problem document that
    bears `detail`, so write `detail` for the person who reads it at the other end.
    """

    def __init__(self, status: int, detail: str, *, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers

    def __str__(self) -> str:
        return f"{self.status}: {self.detail}"


class Disconnected(TrionotifyError):
    """The client is gone, or going: nothing can be sent to it any more."""


class Lagged(TrionotifyError):
    """A subscription inside the process fell off the old end of the log.

    `after` and `upto` are cursors: what lies in (`after`, `upto`] is lost to this subscription.
    Iterating on continues behind `upto`; reload whatever state was built from notifications first.
    """

    def __init__(self, after: str, upto: str) -> None:
        super().__init__(after, upto)
        self.after = after
        self.upto = upto

    def __str__(self) -> str:
        return (
            f"notifications after {self.after} up to {self.upto} left the log before they were"
            " read: iterate faster, or let the log keep more (max_log_entries, max_log_bytes,"
            " max_log_age)"
        )
