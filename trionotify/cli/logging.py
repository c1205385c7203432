"""The server's own log on stderr, for people or for machines. For the command line alone.

Embedded, trionotify logs to the logger `trionotify` and configures nothing. Each record of it has a
message for people; those that a machine may want to count have their parts as `extra` as well, and the
name of what happened as `event`.

Writing to stderr blocks when whoever reads it doesn't (a pager, a collector that hangs), and the server
must not. So a thread writes, and takes what waits for it; what waits is bounded.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from trionotify.model.jsontext import write_json

__all__ = ["FORMATS", "LEVELS", "JsonFormatter", "configure"]

FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error")

_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

#: Bytes of lines that nobody has taken yet: those of some 10,000 clients that leave at once.
_MAX_WAITING: Final = 1 << 22
#: Seconds for the last lines, at the process's end.
_PATIENCE: Final = 1.0


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: when, what, and whatever it has as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
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
        text = write_json(line).decode()
        # A client's `id` may have what reorders a line on a terminal, or ends one to some readers.
        return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    """A character of a JSON text, escaped if it can't be seen: it stands in a string."""
    if character.isprintable():
        return character
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


class Writer(logging.Handler):
    """Writes lines to a file descriptor, in a thread of its own. Made by `configure`, for good."""

    def __init__(self, number: int, max_waiting: int = _MAX_WAITING) -> None:
        super().__init__()
        self._number = number
        self._max_waiting = max_waiting
        self._lines: deque[bytes] = deque()
        #: Bytes that wait, what the thread writes at the moment included; lines that found no room.
        self._waiting = 0
        self._dropped = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Let the record be written. Doesn't block."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # as `logging` has it: an argument's own `__str__` may raise anything
            self.handleError(record)
            return
        with self._changed:
            if self._waiting + len(line) > self._max_waiting:
                self._dropped += 1
                return
            self._lines.append(line)
            self._waiting += len(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all is written, but not for long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, _PATIENCE)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
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
            pass  # it is full, or nobody reads it any more: there is nobody to tell


def _missing(lines: int) -> logging.LogRecord:
    known: dict[str, Any] = {"name": "trionotify", "levelno": logging.WARNING, "levelname": "WARNING"}
    message = f"{lines} lines of this log are missing here: nobody took them"
    return logging.makeLogRecord({**known, "msg": message, "event": "dropped", "lines": lines})


def configure(format: str, level: str) -> Callable[[], None]:
    """Log to stderr, in one of the `FORMATS`, what is of one of the `LEVELS` or above.

    Returns what waits until it is written.
    """
    handler = Writer(2) if sys.stderr is not None else logging.NullHandler()
    if format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper())
    return handler.flush
