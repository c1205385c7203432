"""The start of a stream: `since`, as a query or an application gives it.

| text | means |
| --- | --- |
| `EPOCH:OFFSET` | a cursor: behind what was received last; some logs add `:CHECK` |
| `2026-01-31T10:00:00Z` | a time (RFC 3339): what was published then or later |
| `10m`, `1h30m` | a duration, in `s`, `m`, `h`, `d`, `w`: what was published so recently |
| `start` | all that is kept |

A cursor is exact. A client can resume at it, or is told that it can't. The others ask for what there is.
A duration is kept as it is until the log searches for it, because only the log knows by which clock it
counts.

A client that comes back says where it was in one of four ways: `SPELLINGS` has those in a query, and
there is the header `Last-Event-ID`, which a browser's EventSource sends. What replaces an EventSource
(polyfills) can't send it, and says it in the query as `lastEventId`, behind the URL that it was given.
So these two are one thing. They take precedence over the others, and must be a cursor. Any other value
there comes from another server or an older version. So it can't be resumed, and is not a mistake in the
URL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Self, TypeAlias

import attrs

from trionotify.durations import parse_duration
from trionotify.errors import quoted
from trionotify.model.notification import moment_of

__all__ = [
    "SPELLINGS",
    "START",
    "Cursor",
    "Foreign",
    "Moment",
    "Since",
    "cursor_text",
    "parse_since",
    "said_since",
    "where_it_was",
    "written_since",
]

#: The start of a stream, as one of the texts above, a datetime, or a timedelta before now.
Since: TypeAlias = str | datetime | timedelta

#: The keys of a query that say where to start.
SPELLINGS: Final = ("since", "last_event_id", "lastEventId")
_AS_HEADER: Final = "lastEventId"
#: The most characters of an invalid text that an error repeats.
_SHOWN: Final = 80

_DATE: Final = re.compile(r"\d{4}-\d\d-", re.ASCII)
#: An `x` tells a check from an offset: epochs may have colons.
_CURSOR: Final = re.compile(r"(?s)(?P<epoch>.+):(?P<offset>[0-9]{1,19})(:(?P<check>x[0-9a-f]{1,16}))?")


@attrs.frozen
class Cursor:
    """A place in a log, behind the notification at `offset`. As text `epoch:offset`.

    A log that several servers share adds `:check`, a digest of everything up to there. It tells two
    histories apart that give the same offsets to different notifications.
    """

    epoch: str
    offset: int
    check: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the result of `str`. Raises ValueError for any other text."""
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise ValueError(f"cursor: must be EPOCH:OFFSET, not {text!r}")
        return cls(found["epoch"], int(found["offset"]), found["check"] or "")

    def __str__(self) -> str:
        return cursor_text(self.epoch, self.offset, self.check)


def cursor_text(epoch: str, offset: int, check: str | None) -> str:
    """Return a cursor as text. Each acknowledgement has one, and a `Cursor` first takes longer."""
    return f"{epoch}:{offset}:{check}" if check else f"{epoch}:{offset}"


@attrs.frozen
class Moment:
    """Everything that was published `at` this time of day, in seconds since 1970, or later.

    If `ago` is given, everything published within that number of seconds.
    """

    at: float = 0.0
    ago: float | None = None


@attrs.frozen
class Foreign(Cursor):
    """A value that a client got from another server.

    It counts as a cursor of another life of the log.
    """

    text: str = ""

    @classmethod
    def of(cls, text: str) -> Foreign:
        """Return a foreign cursor for any text."""
        return cls("", 0, text=text)

    def __str__(self) -> str:
        return repr(self.text[:_SHOWN])


#: Everything that the log still has.
START: Final = Moment(0.0)


def written_since(since: Since | None) -> str | None:
    """Return `since` in the form of a query. Raises TypeError or ValueError with the fix."""
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise ValueError("since: a datetime must have a time zone; use datetime.now(timezone.utc)")
        return since.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(since, timedelta):
        if since < timedelta(0):
            raise ValueError(
                f"since: a timedelta must not be negative, because it means how long ago, not {since}"
            )
        return f"{since.total_seconds():.6f}s"
    if since is not None and not isinstance(since, str):
        raise TypeError(
            "since: must be a cursor, a time, a duration like '10m', 'start', a datetime or a"
            f" timedelta, not {quoted(since)}"
        )
    return since


def parse_since(since: Since) -> Cursor | Moment:
    """Parse any of the four forms. Raises ValueError or TypeError with the fix."""
    text = written_since(since) or ""
    if text == "start":
        return START
    if _DATE.match(text):
        # A plus sign that was not escaped has become a space.
        return Moment(moment_of("since", text.replace(" ", "+")))
    if (ago := parse_duration(text)) is not None:
        return Moment(ago=ago)
    try:
        return Cursor.parse(text)
    except ValueError:
        raise ValueError(
            "since: must be a cursor (EPOCH:OFFSET), a time (2026-01-31T10:00:00Z), a duration"
            f" (10m) or 'start', not {text!r}"
        ) from None


def where_it_was(params: Mapping[str, str], last_event_id: str | None) -> Cursor | Moment | None:
    """Return the start in a query or a header `Last-Event-ID`, which may be empty; or None.

    Raises ValueError for a `since` or `last_event_id` in the query that can't be read.
    """
    if received := last_event_id or params.get(_AS_HEADER):
        try:
            return Cursor.parse(received)
        except ValueError:
            return Foreign.of(received)
    text = said_since(params)
    return None if text is None else parse_since(text)


def said_since(params: Mapping[str, str]) -> str | None:
    """Return the start in a query, from the key that takes precedence."""
    return params.get(_AS_HEADER) or params.get("since", params.get("last_event_id"))
