"""Durations, as people write them: seconds like 90, texts like `15m` or `1h30m`, and timedeltas."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final, TypeAlias

from trionotify.errors import quoted

__all__ = ["Duration", "duration_of", "limit_of", "parse_duration", "seconds_of"]

#: A duration: seconds, a text like `15m` or `90`, or a timedelta.
Duration: TypeAlias = float | str | timedelta
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", re.ASCII)
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)


def parse_duration(text: str) -> float | None:
    """Parse a duration; return its seconds, or None if it is invalid."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def duration_of(value: object) -> float:
    """Return the seconds of a `Duration`.

    Raises TypeError or ValueError with a text that goes behind the name of the option.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(f"must be a number of seconds or a text like '15m', not {quoted(value)}")
    found = parse_duration(value) if isinstance(value, str) else None
    try:
        return float(value) if found is None else found
    except (ValueError, OverflowError):
        raise ValueError(
            f"must be a duration in seconds, like 90, or a text like 15m or 1h30m, not {quoted(value)}"
        ) from None


def seconds_of(name: str, value: object) -> float:
    """Return the seconds of a `Duration`. Raises TypeError or ValueError that begins with `name`."""
    try:
        return duration_of(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def limit_of(name: str, value: object) -> float:
    """Return the seconds of a `Duration` that may be 0. Raises as `seconds_of` does."""
    seconds = seconds_of(name, value)
    if not seconds >= 0:
        raise ValueError(f"{name}: must be 0 or more seconds, not {value}")
    return seconds
