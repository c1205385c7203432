"""Standard input, output and error of a process. Each may be closed, full, or without a reader."""

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
    "stdout_failed",
    "unread",
    "write",
]


_READ_BYTES: Final = 1 << 16
#: The longest line. No server accepts a longer one, and it would fill the memory.
_MAX_LINE_BYTES: Final = 1 << 26
#: The errors of opening the controlling terminal if there is none.
_NO_TERMINAL: Final = (errno.ENXIO, errno.ENOENT, errno.ENODEV, errno.EIO, errno.EACCES, errno.EPERM)


class Failure(click.ClickException):
    """An error that is reported in one line. The exit code is 1."""

    def show(self, file: Any = None) -> None:
        say(f"trionotify: {self.message}")


class Mistake(Failure):
    """An error in the options, or in the variables and files for them. The exit code is 2."""

    exit_code = 2


def keep_numbers() -> None:
    """Open the null device as descriptor 0, 1 or 2 if it is closed.

    Otherwise a file or a client's socket would get the number, and the interpreter's output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def say(text: str) -> None:
    """Write a line to stderr. If that fails, ignore it."""
    with suppress(OSError):
        click.echo(text, err=True)


def show(text: str) -> None:
    """Write a line to stdout. Raises `Failure` if that fails, BrokenPipeError without a reader.

    Characters that its encoding lacks are written as escapes.
    """
    try:
        try:
            click.echo(text)
        except UnicodeEncodeError as error:
            click.echo(text.encode(error.encoding, "backslashreplace"))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise stdout_failed(error) from None


def stdout_failed(error: OSError) -> Failure:
    """Discard what stdout doesn't take; return the failure to report."""
    let_go_of_stdout()
    return Failure(f"stdout: {error.strerror}")


def let_go_of_stdout() -> None:
    """Discard unwritten text of stdout, which would cause an error at the end of the process."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def input_number() -> int:
    """Return the descriptor of stdin. Raises OSError if it is closed."""
    return _number(sys.stdin, "stdin")


def output_number() -> int:
    """Return the descriptor of stdout. Raises OSError if it is closed."""
    return _number(sys.stdout, "stdout")


def _number(stream: Any, name: str) -> int:
    if stream is None:
        raise OSError(f"{name}: closed")
    number: int = stream.fileno()
    return number


class Lines:
    """An async iterator over the lines of standard input, for one task.

    A line is text, or bytes if it isn't UTF-8. Raises OSError if reading fails or a line is too long.
    """

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        #: The beginning of the next line, in pieces.
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._over = False
        self._is_first = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        while not self._lines and not self._over:
            self._take(await _read(input_number()))
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
        """Add the bytes of a read to the lines; empty bytes end the input."""
        first, *lines = data.split(b"\n")
        self._rest.append(first)
        self._rest_bytes += len(first)
        if self._rest_bytes > _MAX_LINE_BYTES:
            raise OSError(f"stdin: a line may have at most {_MAX_LINE_BYTES} bytes")
        if lines or (not data and self._rest_bytes):
            self._lines.append(b"".join(self._rest))
            *whole, rest = lines or [b""]
            self._lines.extend(whole)
            self._rest, self._rest_bytes = [rest], len(rest)
        self._over = not data


async def _read(number: int) -> bytes:
    """Read some bytes from a descriptor."""
    while True:
        try:
            return await trio.to_thread.run_sync(os.read, number, _READ_BYTES, abandon_on_cancel=True)
        except BlockingIOError:  # a program that shares it has made it non-blocking
            await trio.lowlevel.wait_readable(number)


async def write(number: int, data: bytes) -> None:
    """Write all bytes to a descriptor, without buffering. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            done = await trio.to_thread.run_sync(os.write, number, rest, abandon_on_cancel=True)
        except BlockingIOError:  # as above
            await trio.lowlevel.wait_writable(number)
        else:
            rest = rest[done:]


class Terminal:
    """The terminal that the process was started from, if there was one. Made at the start.

    SIGHUP is sent when the terminal hangs up, or for another reason. This object tells which. If
    the process ignores the signal (`nohup`), it outlives its terminal.
    """

    def __init__(self, *, ignored: bool) -> None:
        self._ignored = ignored
        self._controls = _opens_terminal()
        self._streams = [number for number in range(3) if _is_terminal(number)]

    def is_gone(self) -> bool:
        """Return whether the process had a terminal and has lost it. Doesn't block."""
        if self._ignored:
            return False
        hung_up = any(not _is_terminal(number) for number in self._streams)
        return hung_up or (self._controls and not _opens_terminal())


def _opens_terminal() -> bool:
    """Return whether a terminal controls the process, which ends when it hangs up."""
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
    """Call `then` when a pipe or a socket no longer has a reader.

    A write would also fail then, but only when there is something to write.
    """
    mode = os.fstat(number).st_mode
    if hasattr(select, "poll") and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        poll = select.poll()
        poll.register(number, 0)  # errors only
        await trio.to_thread.run_sync(poll.poll, abandon_on_cancel=True)
        then()
