"""The server as a process of its own: started, killed, and started again at the same port."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

__all__ = ["ServerProcess", "free_port", "server_process"]


def free_port() -> int:
    """A port that is free, and stays so.

    It is below the ports of outgoing connections. One of those could take it while no server listens,
    and a client that connects could even meet itself. Tests that run side by side have ranges of their
    own.
    """
    first = 10_000 + 1_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 20)
    while True:
        port = random.randrange(first, first + 1_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class ServerProcess:
    """`python -m trionotify serve` with some options, in one life after the other.

    `launcher` are words to put in front of the command. `errors` is the file that stderr goes to.
    """

    def __init__(self, errors: Path, options: Sequence[str], launcher: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.options = list(options)
        self.launcher = list(launcher)
        #: Set while it listens. A task that waits for it may have to wait again, see `up`.
        self.listening = trio.Event()
        self._errors = errors
        self._process: trio.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def errors(self) -> str:
        """Everything that it has written to stderr, in all of its lives."""
        return self._errors.read_text() if self._errors.exists() else ""

    async def spawn(self, *more: str) -> None:
        """Begin a life, with more options."""
        server = [sys.executable, "-m", "trionotify", "serve", "--port", str(self.port)]
        with self._errors.open("ab") as errors:
            self._process = await trio.lowlevel.open_process(
                [*self.launcher, *server, *self.options, *more], stdout=subprocess.PIPE, stderr=errors
            )

    async def first_line(self) -> str:
        """Wait until it listens, or has ended."""
        line = await self.says(b"\n")
        if line.startswith("trionotify: listening on "):
            self.listening.set()
        return line

    async def says(self, words: bytes) -> str:
        """Read stdout on until these words have come, or the end; return what came."""
        assert self._process is not None
        assert self._process.stdout is not None
        said = b""
        while words not in said and (data := await self._process.stdout.receive_some()):
            said += data
        return said.decode()

    async def start(self, *more: str) -> None:
        """Begin a life, and wait until it listens."""
        await self.spawn(*more)
        assert await self.first_line(), f"the server didn't start:\n{self.errors}"

    def signal(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal. Doesn't block."""
        assert self._process is not None
        if self.listening.is_set():
            self.listening = trio.Event()
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end of this life; return its exit code."""
        process = self._process
        assert process is not None
        code = await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()
        return code

    async def logs(self, words: str) -> None:
        """Wait until these words are in its log, which a thread of its own writes a little later."""
        while words not in self.errors:  # noqa: ASYNC110 - a file doesn't say that it has grown
            await trio.sleep(0.01)

    async def up(self) -> None:
        """Wait until it listens."""
        while not self.listening.is_set():
            await self.listening.wait()
        assert self._process is not None
        assert self._process.poll() is None, f"the server ended by itself:\n{self.errors}"


@asynccontextmanager
async def server_process(
    directory: Path, *options: str, launcher: Sequence[str] = (), patience: float = 300.0
) -> AsyncIterator[ServerProcess]:
    """A server that hasn't begun to live, and is dead at the end.

    What isn't over after `patience` seconds hangs: then AssertionError is raised, with what the server
    has said.
    """
    server = ServerProcess(directory / "stderr", options, launcher)
    try:
        with trio.fail_after(patience):
            yield server
    except trio.TooSlowError:
        raise AssertionError(f"it hangs; the server has said:\n{server.errors}") from None
    finally:
        if server._process is not None and server._process.poll() is None:
            server._process.kill()
            with trio.CancelScope(shield=True):
                await server._process.wait()
