"""The server's own log on stderr, for people or for machines. Only the command line uses it.

Embedded, trionotify logs to the logger `trionotify` and configures nothing. Each record of it has a
message for people; those that a machine may want to count have their parts as `extra` as well, and the
name of what happened as `event`.

Writing to stderr blocks while its reader doesn't read (a pager, a collector that hangs), and the server
must not block. So a thread writes. The lines that wait for it are limited.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from trionotify.model.jsontext import write_json

__all__ = ["FORMATS", "LEVELS", "JsonFormatter", "configure"]

FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error")

_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

#: The errors of writing a value that JSON doesn't have.
_NOT_JSON: Final = (TypeError, ValueError, RecursionError)
#: Bytes of unwritten lines. 10,000 clients that leave at once need about as many.
_MAX_WAITING: Final = 1 << 22
#: Seconds in which lines gather. Waking the thread for each of them would take as long as making it.
_GATHERING: Final = 0.01
#: Seconds to write the last lines at the end of the process.
_PATIENCE: Final = 1.0


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON with its time, message, level and `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            line["exception"] = record.exc_text or self.formatException(record.exc_info)
        try:
            text = write_json(line).decode()
        except _NOT_JSON:
            text = write_json({name: _plain(value) for name, value in line.items()}).decode()
        # A client's `id` may have characters that reorder a line on a terminal, or end it for some
        # readers.
        return text if text.isprintable() else "".join(map(_visible, text))


def _plain(value: object) -> object:
    """Return the value, or its text if JSON has no such value: a path that isn't Unicode, an object."""
    try:
        write_json(value)
    except _NOT_JSON:
        text = value if isinstance(value, str) else repr(value)
        return text.encode(errors="backslashreplace").decode()
    return value


def _visible(character: str) -> str:
    """Return a character of a JSON string, escaped if it is invisible."""
    if character.isprintable():
        return character
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


class TextFormatter(logging.Formatter):
    """Formats a record as a line for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - overrides
        """Return the local time. Thousands of clients may leave in the same second."""
        return f"{_local_time(int(record.created))},{int(record.msecs):03}"


@lru_cache(maxsize=1)
def _local_time(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


class Writer(logging.Handler):
    """Writes lines to a file descriptor in its own thread. Made by `configure`, never ended."""

    def __init__(self, number: int, max_waiting: int = _MAX_WAITING) -> None:
        super().__init__()
        self._number = number
        self._max_waiting = max_waiting
        self._lines: deque[bytes] = deque()
        #: The bytes that wait, including those being written, and the number of dropped lines.
        self._waiting = 0
        self._dropped = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record for the thread, or drop it if there is no room. Doesn't block."""
        try:
            text = self.format(record)
        except Exception as error:  # an argument's own `__str__` may raise anything
            # `Handler.handleError` would write lines of a traceback in between, and wait for stderr.
            text = self.format(_unwritable(record, error))
        line = f"{text}\n".encode(errors="backslashreplace")
        with self._changed:
            if self._waiting + len(line) > self._max_waiting:
                self._dropped += 1
                return
            self._lines.append(line)
            self._waiting += len(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is written, at most `_PATIENCE` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, _PATIENCE)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
            time.sleep(_GATHERING)
            with self._changed:
                data = b"".join(self._lines)
                self._lines.clear()
            self._write(data)
            with self._changed:
                self._waiting -= len(data)
                dropped, self._dropped = self._dropped, 0
                self._changed.notify_all()
            if dropped:
                self.emit(_missing(dropped))

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._number, rest) :]
        except OSError:
            pass  # stderr is full or has no reader, so this can't be reported either


def _missing(lines: int) -> logging.LogRecord:
    message = f"{lines} lines of this log are missing here, because stderr was not read"
    return _warning(message, event="dropped", lines=lines)


def _unwritable(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """The record of one that can't be formatted, which a library may log by mistake."""
    place = f"{record.pathname}:{record.lineno}"
    return _warning(f"{place}: a message of {record.name} can't be formatted: {type(error).__name__}")


def _warning(message: str, **known: Any) -> logging.LogRecord:
    ours = {"name": "trionotify", "levelno": logging.WARNING, "levelname": "WARNING"}
    return logging.makeLogRecord({**ours, "msg": message, **known})


def configure(format: str, level: str) -> Callable[[], None]:
    """Log records of this level or above to stderr, in one of the `FORMATS`.

    Returns a function that waits until all lines are written.
    """
    handler = Writer(2) if sys.stderr is not None else logging.NullHandler()
    if format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter())
    # Neither format shows these, and each takes time for every record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(handlers=[handler], level=level.upper())
    logging.captureWarnings(capture=True)
    return handler.flush
