"""Log lines about exceptions of an application's code.

The text of an exception may contain a secret of a client's query, as in `KeyError: '5f0c…'`. So the log
shows the frames and the types of an exception, and none of its text. The record's `exc_info` still has
the exception itself, for handlers that want more.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from typing import Final

__all__ = ["log_fault"]

logger: logging.Logger = logging.getLogger("trionotify")

#: The most frames of a traceback, those nearest to the error.
_FRAMES: Final = 50


def log_fault(error: BaseException, message: str, *args: object, **extra: object) -> None:
    """Log `error` with the frames and the types of its traceback, without any text of it."""
    if not logger.isEnabledFor(logging.ERROR):
        return
    file, line, function, _ = logger.findCaller(stacklevel=2)
    info = (type(error), error, error.__traceback__)
    record = logger.makeRecord(
        logger.name, logging.ERROR, file, line, message, args, info, function, extra
    )
    # Formatters show this text instead of formatting `exc_info`.
    record.exc_text = "\n".join(_outline(error, set()))
    logger.handle(record)


def _outline(error: BaseException, seen: set[int]) -> Iterator[str]:
    """Yield the lines of a traceback: its causes, its frames, its type, and inner errors."""
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _outline(before, seen)
        yield "which led to:"
    yield "Traceback (most recent call last):"
    frames = list(traceback.walk_tb(error.__traceback__))[-_FRAMES:]
    for frame, line in frames:
        yield f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_qualname}'
    yield f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from (f"  | {line}" for line in _outline(inner, seen))
