"""Where a stream starts: `since`, as a query or an application says it.

| text | means |
| --- | --- |
| `EPOCH:OFFSET` | a cursor: behind what was received last |
| `2026-01-31T10:00:00Z` | a time (RFC 3339): what was published then or later |
| `10m`, `1h30m` | a duration, in `s`, `m`, `h`, `d`, `w`: what was published so recently |
| `start` | all that is kept |

A cursor is exact: it can be resumed, or it can't, and that is told. The others ask for what there is. A
duration stays one until the log looks for it: by which clock it counts is the log's to know.

A client that comes back says where it was in one of four ways: `SPELLINGS` has those in a query, and
there is the header `Last-Event-ID`, which a browser's EventSource sends. What replaces an EventSource
(polyfills) can't send it, and says it in the query as `lastEventId`, behind the URL that it was given.
So these two are one thing. They win over the others, and hold a cursor: what is none there is another
server's, or an older one's, so it can't be resumed, and is not a mistake in the URL.
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
    "parse_since",
    "said_since",
    "where_it_was",
    "written_since",
]

#: Where a stream starts: one of the texts above, a datetime, or how long ago.
Since: TypeAlias = str | datetime | timedelta

#: The keys of a query that say where to start.
SPELLINGS: Final = ("since", "last_event_id", "lastEventId")
_AS_HEADER: Final = "lastEventId"
#: Characters of an unreadable text that a reason repeats.
_SHOWN: Final = 80

_DATE: Final = re.compile(r"\d{4}-\d\d-", re.ASCII)


@attrs.frozen
class Cursor:
    """A place in a log, behind the notification at `offset`. As text `epoch:offset`."""

    epoch: str
    offset: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote; raises ValueError for anything else."""
        epoch, colon, digits = text.rpartition(":")
        if not (colon and epoch and digits.isascii() and digits.isdigit() and len(digits) < 20):
            raise ValueError(f"{text!r} is no cursor: one reads EPOCH:OFFSET")
        return cls(epoch, int(digits))

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"


@attrs.frozen
class Moment:
    """What was published `at` this time of day, in seconds since 1970, or later.

    Or, if `ago` is given, within the last so many seconds.
    """

    at: float = 0.0
    ago: float | None = None


@attrs.frozen
class Foreign(Cursor):
    """What a client was given by another server: a cursor of another life of the log."""

    text: str

    @classmethod
    def of(cls, text: str) -> Foreign:
        """Made of any text."""
        return cls("", 0, text)

    def __str__(self) -> str:
        return repr(self.text[:_SHOWN])


#: Before anything was published.
START: Final = Moment(0.0)


def written_since(since: Since | None) -> str | None:
    """`since` as a query has it. Raises TypeError or ValueError that says what is needed."""
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise ValueError("since: a datetime needs a time zone, as in datetime.now(timezone.utc)")
        return since.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(since, timedelta):
        if since < timedelta(0):
            raise ValueError(f"since: a timedelta says how long ago, so it can't be negative: {since}")
        return f"{since.total_seconds():.6f}s"
    if since is not None and not isinstance(since, str):
        raise TypeError(
            "since: must be a cursor, a time, a duration (10m) or 'start' as text, a datetime or a"
            f" timedelta, not {quoted(since)}"
        )
    return since


def parse_since(since: Since) -> Cursor | Moment:
    """Read any of the four; raises ValueError or TypeError that says what is needed."""
    text = written_since(since) or ""
    if text == "start":
        return START
    if _DATE.match(text):
        # A plus sign that nobody escaped is a space by now.
        return Moment(moment_of("since", text.replace(" ", "+")))
    if (ago := parse_duration(text)) is not None:
        return Moment(ago=ago)
    try:
        return Cursor.parse(text)
    except ValueError:
        raise ValueError(
            "since: a cursor (EPOCH:OFFSET), a time (2026-01-31T10:00:00Z), a duration (10m) or 'start'"
            f" is needed, not {text!r}"
        ) from None


def where_it_was(params: Mapping[str, str], last_event_id: str | None) -> Cursor | Moment | None:
    """Where a client starts, by its query and its header `Last-Event-ID`, which may be empty; or None.

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
    """What a query says of where to start, in the spelling that counts."""
    return params.get(_AS_HEADER) or params.get("since", params.get("last_event_id"))
