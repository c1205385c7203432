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
So these two are one thing. They win over the others, and what can't be read there is another server's,
or an older one's: a cursor that can't be resumed, and not a mistake in the URL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import attrs

from trionotify.errors import quoted
from trionotify.log import Cursor
from trionotify.notification import moment_of

__all__ = [
    "SPELLINGS",
    "START",
    "Foreign",
    "Moment",
    "parse_duration",
    "parse_since",
    "said_since",
    "seconds_of",
    "where_it_was",
]

#: The keys of a query that say where to start.
SPELLINGS: Final = ("since", "last_event_id", "lastEventId")
_AS_HEADER: Final = "lastEventId"
#: Characters of an unreadable text that a reason repeats.
_SHOWN: Final = 80

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", re.ASCII)
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d\d-", re.ASCII)


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


def parse_duration(text: str) -> float | None:
    """The seconds of a duration; None for what is none."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def seconds_of(name: str, value: object) -> float:
    """How many seconds a number, a timedelta, or a text like `15m` or `90` are.

    Raises TypeError or ValueError that begins with `name`.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            seconds = parse_duration(value)
        if seconds is not None:
            return seconds
        raise ValueError(f"{name}: must be seconds or a duration like 15m, not {quoted(value)}")
    raise TypeError(
        f"{name}: must be seconds, a duration like '15m' or a timedelta, not {type(value).__name__}"
    )


def parse_since(text: str) -> Cursor | Moment:
    """Read any of the four; raises ValueError that says what is needed."""
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
    text = last_event_id or said_since(params)
    if text is None:
        return None
    try:
        return parse_since(text)
    except ValueError:
        if last_event_id or params.get(_AS_HEADER):
            return Foreign.of(text)
        raise


def said_since(params: Mapping[str, str]) -> str | None:
    """What a query says of where to start, in the spelling that counts."""
    return params.get(_AS_HEADER) or params.get("since", params.get("last_event_id"))
