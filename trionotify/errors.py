"""Close codes and exceptions.

`CloseCode` is the one place that says with which code a connection ends and whether the peer should
come back. The text of an exception names the thing at fault, and the fix.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from http import HTTPStatus
from typing import Any, Final

import trio

__all__ = [
    "CloseCode",
    "Closed",
    "Disconnected",
    "Lagged",
    "Refused",
    "StoreError",
    "TrionotifyError",
    "Unreadable",
    "check_close",
    "check_headers",
    "check_trio",
    "cut",
    "did_you_mean",
    "encodable",
    "hint_of",
    "is_token",
    "leaves",
    "may_be_sent",
    "problem_document",
    "quoted",
    "reason_of",
    "shortened",
]


#: The most characters of a value that a message repeats, enough to recognize it.
_SHOWN: Final = 100


def quoted(value: object) -> str:
    """Return the `repr` of `value` for a message, cut after 100 characters."""
    if isinstance(value, str | bytes | bytearray):
        value = value[: _SHOWN + 1]  # the `repr` of a megabyte takes a while
    try:
        text = repr(value)
    except Exception:  # an application's own; and an int may have too many digits
        text = f"<{type(value).__name__}>"
    return cut(text)


def hint_of(value: object, *, audience: bool = False) -> str:
    """Return the fix for a mapping or a list given as a predicate; an empty text for other values."""
    if isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values()):
        named = all(isinstance(name, str) and name.isidentifier() for name in value)
        given = ", ".join(f"{name}={text!r}" for name, text in value.items()) if named else repr(value)
        return f"; write {cut(f'Exact({given})')}"
    if isinstance(value, Mapping | list | str):
        return f"; write trionotify.from_json({quoted(value)}{', audience=True' * audience})"
    return ""


def cut(text: str) -> str:
    """Cut a long text to its first 100 characters and an ellipsis."""
    return text if len(text) <= _SHOWN + 2 else f"{text[:_SHOWN]}…"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown `name`, which suggests the nearest known one."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def leaves(error: BaseException) -> list[Any]:
    """Return the exceptions in a group of groups, or the exception itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in leaves(inner)]


def check_trio(name: str) -> None:
    """Raise RuntimeError, with the fix for the caller of `name`, if Trio doesn't run."""
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        raise RuntimeError(
            f"{name} needs Trio: run the program with trio.run(main), not with asyncio.run(main())"
        ) from None


def reason_of(status: int) -> str:
    """Return the reason phrase of a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"


def problem_document(status: int, detail: str) -> dict[str, object]:
    """Return an RFC 9457 problem document."""
    title = reason_of(status)
    return {"type": "about:blank", "title": title, "status": int(status), "detail": shortened(detail)}


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

        True if the cause is temporary, at the server or in the network. False if the client would
        get the same answer again.
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


#: The most characters of a problem's `detail`.
_DETAIL: Final = 500


def shortened(detail: str) -> str:
    """Cut a detail to `_DETAIL` characters that can be encoded. It may repeat a peer's text."""
    return encodable(detail if len(detail) <= _DETAIL else f"{detail[:_DETAIL]}…")


def encodable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 can't encode, by question marks."""
    return text.encode(errors="replace").decode()


def check_close(code: int, reason: str) -> None:
    """Raise an error with the reason if a Close frame must not have these (RFC 6455, section 7.4)."""
    if not isinstance(code, int) or not isinstance(reason, str):
        raise TypeError(f"code and reason: must be int and str, not {code!r} and {reason!r}")
    if not may_be_sent(code):
        raise ValueError(
            f"code: must be a code that a Close frame may have, such as 4000 to 4999, not {code}"
        )


def may_be_sent(code: int) -> bool:
    # 1014 and what lies between 1016 and 2999 is unassigned in RFC 6455 and reserved for it.
    return 1000 <= code <= 1003 or 1007 <= code <= 1013 or 3000 <= code <= 4999


class TrionotifyError(Exception):
    """The base of every exception that trionotify defines."""


# RFC 9110, section 5. A header that h11 would refuse to send must be refused here.
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE: Final = re.compile(r"([!-~]([ \t!-~]*[!-~])?)?")
_OURS: Final = frozenset({"connection", "content-length", "content-type", "transfer-encoding"})


def is_token(text: str) -> bool:
    """Return whether `text` can be the name of a header or a subprotocol (RFC 9110, section 5.6.2)."""
    return _FIELD_NAME.fullmatch(text) is not None


def check_headers(headers: object, reserved: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Return the headers.

    Raises TypeError if they aren't pairs of text, and ValueError for an invalid header, or one that is
    `reserved` (in lower case).
    """
    if isinstance(headers, Mapping) or not isinstance(headers, Iterable):
        hint = "; write list(headers.items())" if isinstance(headers, Mapping) else ""
        raise TypeError(f"headers: must be pairs of str, not {type(headers).__name__}{hint}")
    found = []
    for header in headers:
        match header:
            case (str(name), str(value)):
                found.append((name, value))
            case (name, value):  # without their text, which may be a secret
                kinds = f"({type(name).__name__}, {type(value).__name__})"
                raise TypeError(f"headers: must be pairs of str, not {kinds}")
            case _:
                raise TypeError(f"headers: must be pairs of str, not {type(header).__name__}")
        if not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
            raise ValueError(f"headers: {name!r}: {value!r} is not a valid header (RFC 9110)")
        if name.lower() in reserved:
            raise ValueError(f"headers: {name} is set by trionotify; leave it out")
    return tuple(found)


class Refused(TrionotifyError):
    """A request is refused before it becomes a connection, or an event that a client sent is refused.

    Raise it in `authenticate` to refuse a client. The server answers with `status` (300 to 599), further
    `headers`, and an RFC 9457 problem document that contains `detail`, so write `detail` for the person
    at the other end. `detail` may repeat text from the client, which must not be in a log. So the server
    logs `logged` instead, by default the status in words.

    Raises TypeError or ValueError that names the invalid argument.
    """

    #: The name under which metrics count it, if they do.
    counted: str | None = None

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        logged: str | None = None,
    ) -> None:
        if not isinstance(status, int) or not 300 <= status <= 599:
            raise ValueError(f"status: must be from 300 to 599, not {status!r}")
        if not isinstance(detail, str):
            raise TypeError(f"detail: must be str, not {type(detail).__name__}")
        headers = check_headers(headers, _OURS)
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.logged: str = reason_of(status) if logged is None else logged

    def __str__(self) -> str:
        return f"{self.status}: {self.detail}"


class Disconnected(TrionotifyError):
    """The client has left, or is leaving, so nothing can be sent to it any more.

    `client` is its record, or None if that isn't known.
    """

    client: Any = None


class Closed(TrionotifyError):
    """A client's connection has ended, and reconnecting would end in the same way.

    `code` is a close code (`CloseCode` has those of trionotify), and `reason` is its text. Both come
    from the server, or from this side if the peer doesn't speak the protocol (1002).
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"closed: {self.code} {self.reason}".rstrip()


class Lagged(TrionotifyError):
    """A subscription has missed notifications, because the log dropped them before they were read.

    `after` and `upto` are cursors. The notifications in (`after`, `upto`] are lost to this subscription.
    (If their epochs differ, the log is another one, and nothing is known of the rest of the first.)
    Reload the state that you built from notifications. Iterating again continues after `upto`.
    """

    def __init__(self, after: str, upto: str) -> None:
        super().__init__(after, upto)
        self.after = after
        self.upto = upto

    def __str__(self) -> str:
        if self.after.split(":")[0] != self.upto.split(":")[0]:
            return (
                f"the log has begun again at {self.upto}, so notifications after {self.after} may be"
                " lost; reload your state"
            )
        return (
            f"notifications after {self.after} up to {self.upto} are no longer in the log; read"
            " faster, reconnect sooner, or let the log keep more (max_log_entries, max_log_bytes,"
            " max_log_age)"
        )


class Unreadable(Lagged):
    """A message that the server sent can't be read, so it is lost to this subscription.

    Its cursor is in (`after`, `upto`]. If the message doesn't contain one, both are the cursor before
    it. `reason` names the fault. Iterating again continues after the message.
    """

    def __init__(self, after: str, upto: str, reason: str) -> None:
        super().__init__(after, upto)
        self.args: tuple[object, ...] = (after, upto, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"a message after {self.after}, up to {self.upto}, can't be read: {self.reason}"


_TOLD: Final = {
    503: "the log can't accept notifications at the moment; publish again later",
    507: "the server has no space left for the log; publish again later",
}


class StoreError(TrionotifyError):
    """A durable log can't be opened, read or written, or can't take a notification.

    `detail` names the file, the fault, and the fix. A remote publisher gets `status` and `told`, which
    doesn't name the server's files. The status is 507 if the disk or the quota is full, or if the
    notification is larger than the log may be; 422 if it can never be stored; and 503 for anything else.
    """

    def __init__(self, status: int, detail: str, told: str | None = None) -> None:
        super().__init__(status, detail, told)
        self.status = status
        self.detail = detail
        self.told: str = told or _TOLD[status]

    def __str__(self) -> str:
        return self.detail
