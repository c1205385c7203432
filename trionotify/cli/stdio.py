"""Standard input, output and error of a process: each may be closed, full, or read by nobody."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Self

import click
import trio

from trionotify.model.text import without_mark

__all__ = [
    "Failure",
    "Lines",
    "Mistake",
    "Terminal",
    "input_number",
    "keep_numbers",
    "let_go_of_stdout",
    "output_number",
    "say",
    "show",
    "unread",
]


_READ_BYTES: Final = 1 << 16
#: A line that is longer is none: no server takes it, and it would have to be kept.
_MAX_LINE_BYTES: Final = 1 << 26
#: The errors of opening the controlling terminal where there is none.
_NO_TERMINAL: Final = (errno.ENXIO, errno.ENOENT, errno.ENODEV, errno.EIO, errno.EACCES, errno.EPERM)


class Failure(click.ClickException):
    """What is told in one line, and ends the process with 1."""

    def show(self, file: Any = None) -> None:
        say(f"trionotify: {self.message}")


class Mistake(Failure):
    """One in the options, or in what stands for them: it ends the process with 2."""

    exit_code = 2


def keep_numbers() -> None:
    """Put something at 0, 1 and 2 where that is closed.

    Or else a file or a client's socket gets the number, and whatever the interpreter has to say there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def say(text: str) -> None:
    """A line on stderr. That nobody can read it is no reason to fail."""
    with suppress(OSError):
        click.echo(text, err=True)


def show(text: str) -> None:
    """A line on stdout; raises `Failure` when it can't be written, BrokenPipeError when nobody reads."""
    try:
        click.echo(text)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        let_go_of_stdout()
        raise Failure(f"stdout: {error.strerror}") from None


def let_go_of_stdout() -> None:
    """What couldn't be written would be tried again at the process's end, and be an error then."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def input_number() -> int:
    """The number of stdin; raises OSError when it is closed."""
    return _number(sys.stdin, "stdin")


def output_number() -> int:
    """The number of stdout; raises OSError when it is closed."""
    return _number(sys.stdout, "stdout")


def _number(stream: Any, name: str) -> int:
    if stream is None:
        raise OSError(f"{name} is closed")
    number: int = stream.fileno()
    return number


class Lines:
    """Standard input, line by line, each as soon as it is there. For one task.

    Text, or what isn't UTF-8 as bytes. Raises OSError for what can't be read, or is no line.
    """

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        #: The beginning of the next one, in pieces.
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._over = False
        self._is_first = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        while not self._lines and not self._over:
            self._take(
                await trio.to_thread.run_sync(
                    os.read, input_number(), _READ_BYTES, abandon_on_cancel=True
                )
            )
        if not self._lines:
            raise StopAsyncIteration
        line = self._lines.popleft().removesuffix(b"\r")
        is_first, self._is_first = self._is_first, False
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return line
        return without_mark(text) if is_first else text

    def _take(self, data: bytes) -> None:
        """Some more; nothing, at the end."""
        first, *lines = data.split(b"\n")
        self._rest.append(first)
        self._rest_bytes += len(first)
        if self._rest_bytes > _MAX_LINE_BYTES:
            raise OSError(f"stdin: a line is longer than {_MAX_LINE_BYTES} bytes")
        if lines or (not data and self._rest_bytes):
            self._lines.append(b"".join(self._rest))
            *whole, rest = lines or [b""]
            self._lines.extend(whole)
            self._rest, self._rest_bytes = [rest], len(rest)
        self._over = not data


class Terminal:
    """The terminal that the process was started from, if there was one. Made at the start.

    SIGHUP says that it hung up, or was sent for another reason: this tells which. A
    process for which it is `ignored` (`nohup`) is to outlive its terminal.
    """

    def __init__(self, *, ignored: bool) -> None:
        self._ignored = ignored
        self._controls = _opens_terminal()
        self._streams = [number for number in range(3) if _is_terminal(number)]

    def is_gone(self) -> bool:
        """Whether there was one, and there is none any more. Doesn't block."""
        if self._ignored:
            return False
        hung_up = any(not _is_terminal(number) for number in self._streams)
        return hung_up or (self._controls and not _opens_terminal())


def _opens_terminal() -> bool:
    """Whether a terminal controls the process. One that hangs up no longer controls any process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError as error:
        return error.errno not in _NO_TERMINAL
    except AttributeError:  # Windows
        return False
    return True


def _is_terminal(number: int) -> bool:
    try:
        return os.isatty(number)
    except OSError:
        return False


async def unread(number: int, then: Callable[[], None]) -> None:
    """Call `then` once nobody can read any more what is written to a pipe, or a socket.

    Writing to it would tell, but only when there is something to write.
    """
    mode = os.fstat(number).st_mode
    if hasattr(select, "poll") and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        poll = select.poll()
        poll.register(number, 0)  # errors only
        await trio.to_thread.run_sync(poll.poll, abandon_on_cancel=True)
        then()
