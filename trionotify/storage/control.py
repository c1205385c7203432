"""The control socket of a log's file, by which an operator asks the server for a copy.

While a server has the file, no other process should open it, because in versions of SQLite before
3.51.3, two connections that write and merge the write-ahead log at one moment can damage it. So the
server makes the copy, through its own connection. It is asked through a socket beside the file, which
only the server's own user can reach. A request is one line of JSON, and so is the answer:

    {"backup": "/backup/log.db"}
    {"head": 1042}                   or {"error": "..."}
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final

import trio

from trionotify.errors import StoreError
from trionotify.storage.faults import control_socket

__all__ = ["ask", "serve_control"]

logger: logging.Logger = logging.getLogger("trionotify")

#: The most bytes of a request or an answer, and the seconds in which a request must arrive.
_MAX_LINE: Final = 16 << 10
_TIMEOUT: Final = 10.0
#: The longest name of a Unix socket that every system supports, in bytes.
_MAX_NAME: Final = 100


async def serve_control(path: str, backup: Callable[[str], Awaitable[int]]) -> None:
    """Answer requests beside the log's file `path`, until cancelled. `backup` gives the copy's head.

    If the socket can't be created, logs the reason and returns.
    """
    try:
        with _listening(path) as listening:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
            await trio.serve_listeners(partial(_answer, backup), [listener])
    except* (OSError, AttributeError) as errors:
        logger.warning(
            "%s: can't create a socket there (%s), so this server can't make backups on request",
            control_socket(path),
            errors.exceptions[0],
            extra={"event": "no_control", "reason": str(errors.exceptions[0])},
        )
        await trio.lowlevel.checkpoint()


@contextlib.contextmanager
def _listening(path: str) -> Iterator[socket.socket]:
    name = control_socket(path)
    with _short(name) as address, contextlib.ExitStack() as undo:
        listening = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        # This server holds the log's lock, so the socket is one that a killed server has left behind.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        listening.bind(address)
        undo.callback(_unlink, name)
        os.chmod(name, 0o600)
        listening.listen(1)
        yield listening


def _unlink(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name)


@contextlib.contextmanager
def _short(name: str) -> Iterator[str]:
    """Yield the socket's name, if it is too long by way of a descriptor of its directory."""
    if len(os.fsencode(name)) <= _MAX_NAME or not os.path.isdir("/proc/self/fd"):
        yield name
        return
    directory = os.open(os.path.dirname(name), os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(name)}"
    finally:
        os.close(directory)


async def _answer(backup: Callable[[str], Awaitable[int]], stream: trio.SocketStream) -> None:
    async with stream:
        # An operator who has given up must not disturb the others.
        with contextlib.suppress(trio.BrokenResourceError):
            answer = await _done(stream, backup)
            await stream.send_all(_line_of(answer))


async def _done(stream: trio.abc.Stream, backup: Callable[[str], Awaitable[int]]) -> dict[str, Any]:
    line = b""
    with trio.move_on_after(_TIMEOUT):
        line = await _line(stream)
    try:
        destination = json.loads(line)["backup"]
        if not os.path.isabs(destination) or "\0" in destination:
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        return {"error": 'the request must be a line like {"backup": "/absolute/path"}'}
    try:
        return {"head": await backup(destination)}
    except StoreError as error:
        return {"error": error.detail}
    except Exception:
        # The boundary of the process: an error of the copy must not stop the server.
        logger.exception("a backup failed", extra={"event": "backup_failed"})
        return {"error": "the backup failed; see the server's log"}


def _line_of(value: dict[str, Any]) -> bytes:
    # Escaped, because a path may have characters that no JSON in UTF-8 can have.
    return json.dumps(value).encode() + b"\n"


async def _line(stream: trio.abc.Stream) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < _MAX_LINE:
        some = await stream.receive_some(_MAX_LINE)
        if not some:
            break
        line += some
    return line


def ask(path: str, destination: str) -> int:
    """Ask the server that has the log's file `path` for a copy; return the newest offset in it.

    Blocks until the copy is complete. Raises StoreError if the server couldn't make it, and OSError
    if no server can be reached.
    """
    with _short(control_socket(path)) as address, socket.socket(socket.AF_UNIX) as asking:
        asking.connect(address)
        asking.sendall(_line_of({"backup": destination}))
        with asking.makefile("rb") as answers:
            answer = answers.readline(_MAX_LINE)
    if not answer.endswith(b"\n"):
        raise StoreError(503, f"{path}: the server ended before the copy was complete; try again")
    said = json.loads(answer)
    if "error" in said:
        raise StoreError(503, said["error"])
    return int(said["head"])
