"""Evaluates lines of Python, and writes down what each of them raises, returns and logs.

A section is a title, the names that its lines may use, and the lines. A line is an expression, which may
have an `await`. What differs from run to run is replaced: paths, ports, ids, moments.
"""

from __future__ import annotations

import ast
import inspect
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["evaluated", "records", "settled"]

_INDENT: Final = "    "
_LEFT: Final = "log INFO left"
#: What differs from run to run, and what stands for it.
_VARIABLE: Final = (
    (re.compile(r"0x[0-9a-f]{6,}"), "0xADDRESS"),
    (re.compile(r"(?<=127\.0\.0\.1:)\d{4,5}\b(?!-)"), "PORT"),
    (re.compile(r"(?<=::1\]:)\d{4,5}\b"), "PORT"),
    (re.compile(r"'(catalogue )?[\w-]{12}'(?= from)"), "'ID'"),
    (re.compile(r"\bprocess \d+"), "process PID"),
    (re.compile(r"\bfd=\d+"), "fd=N"),
    (re.compile(r"SQLite \d+\.\d+\.\d+(?= can)"), "SQLite VERSION"),
    (re.compile(r"after \d+\.\d s\b"), "after SECONDS s"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "EPOCH"),
    (re.compile(r"jumped by \S+ s\b"), "jumped by SECONDS s"),
    (re.compile(r"again in \d+\.\d s\b"), "again in SECONDS s"),
    # This is said where no name server answers.
    (re.compile(r"Temporary failure in name resolution"), "Name or service not known"),
)


def settled(text: str, directory: str = "") -> str:
    """The text without what differs from run to run."""
    if directory:
        text = text.replace(directory, "DIR")
    for pattern, stand_in in _VARIABLE:
        text = pattern.sub(stand_in, text)
    return text


@contextmanager
def records(level: int = logging.INFO) -> Iterator[list[logging.LogRecord]]:
    """The log records that come meanwhile."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler(level)
    handler.emit = found.append  # type: ignore[method-assign] # shorter than a class
    logger = logging.getLogger("trionotify")
    before, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagates


def logged(found: Iterable[logging.LogRecord]) -> Iterator[str]:
    """A line for each record: its level, its event, what it says."""
    for record in found:
        error = record.exc_info[1] if record.exc_info else None
        why = "" if error is None else f" ({type(error).__name__})"
        yield f"log {record.levelname} {getattr(record, 'event', '-')}: {record.getMessage()}{why}"


async def evaluated(lines: Iterable[str], names: Mapping[str, Any], directory: str = "") -> list[str]:
    """The entries of these lines: each line, and below it what became of it."""
    found: list[str] = []
    for line in lines:
        with records() as said:
            try:
                value = eval(_compiled(line), dict(names))
                if inspect.isawaitable(value):
                    value = await value
                outcome = [] if value is None else str(value).splitlines()
            except BaseExceptionGroup as group:
                outcome = [_shown(leaf) for leaf in _leaves(group)]
            except Exception as error:
                outcome = [_shown(error)]
        # Clients that are cut off together leave in any order.
        outcome += sorted(logged(said), key=lambda text: text if text.startswith(_LEFT) else "")
        outcome = outcome or ["(nothing)"]
        shown = [f"{_INDENT}{settled(text, directory)}".rstrip() for text in outcome]
        found += [settled(line, directory), *dict.fromkeys(shown)]
    return found


def _compiled(line: str) -> Any:
    return compile(line, "<catalogue>", "eval", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for inner in error.exceptions:
        yield from _leaves(inner)
