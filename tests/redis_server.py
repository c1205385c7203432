"""Real Redis servers for tests, each with a directory and a port of its own; and Sentinels."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.fleet.server import free_port

#: Seconds to wait for what must happen.
DEADLINE = 120.0
#: Milliseconds until a Sentinel takes a server for dead: first, and when one is.
PATIENT, IMPATIENT = 3_600_000, 500
#: What runs: set these to paths to try Valkey, or another version.
SERVER = os.environ.get("TRIONOTIFY_REDIS_SERVER", "redis-server")
SENTINEL = os.environ.get("TRIONOTIFY_REDIS_SENTINEL", "redis-sentinel")


def needed(program: str) -> str:
    """Where a program is; skips the test where it is missing."""
    path = shutil.which(program)
    if path is None:
        assert not os.environ.get("TRIONOTIFY_ALL_PEERS"), program
        pytest.skip(f"{program} is not installed")
    return path


@attrs.define(eq=False)
class RedisServer:
    """A redis-server. Its data outlives it, as far as its options have it kept."""

    directory: Path
    options: tuple[str, ...] = ()
    port: int = attrs.field(factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def _run(self) -> None:
        program = needed(SERVER)
        self.directory.mkdir(exist_ok=True, parents=True)
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, *arguments, "--save", "", *self.options], stdout=log, stderr=log
            )

    async def start(self) -> None:
        """Run it, and wait until it answers."""
        self._run()
        assert self.process is not None
        with trio.fail_after(DEADLINE):
            while True:
                assert self.process.poll() is None, (self.directory / "log").read_text()
                with contextlib.suppress(OSError, ReplyError):
                    if await self.command("PING") == "PONG":
                        return
                await trio.sleep(0.01)

    async def stop(self, how: int = signal.SIGKILL) -> None:
        """End it, by default at once."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            await trio.to_thread.run_sync(self.process.wait)
            self.process = None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def command(self, *words: str) -> Any:
        """The answer to a command. Raises `ReplyError`, or OSError if the connection breaks.

        A Sentinel ends the connections of a server that it gives another role.
        """
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            text = b"".join(b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words)
            try:
                await stream.send_all(b"*%d\r\n%b" % (len(words), text))
                return await _Replies(stream).next()
            except trio.BrokenResourceError as error:
                raise ConnectionError(str(error)) from error


class ReplyError(Exception):
    """Redis said no."""


class _Replies:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._bytes = bytearray()

    async def next(self) -> Any:
        line = await self._line()
        kind, rest = line[:1], line[1:]
        if kind == "-":
            raise ReplyError(rest)
        if kind == "+":
            return rest
        if kind == ":":
            return int(rest)
        if kind == "*":
            return [await self.next() for _ in range(int(rest))]
        assert kind == "$", line
        if rest == "-1":
            return None
        while len(self._bytes) < int(rest) + 2:
            await self._more()
        text = bytes(self._bytes[: int(rest)]).decode(errors="replace")
        del self._bytes[: int(rest) + 2]
        return text

    async def _line(self) -> str:
        while b"\r\n" not in self._bytes:
            await self._more()
        line, _, rest = bytes(self._bytes).partition(b"\r\n")
        self._bytes = bytearray(rest)
        return line.decode()

    async def _more(self) -> None:
        data = await self._stream.receive_some()
        if not data:
            raise OSError("redis-server has closed the connection")
        self._bytes += data


@contextlib.asynccontextmanager
async def open_redis(directory: Path, *options: str) -> AsyncIterator[RedisServer]:
    """A server that runs as long as the block, unless it is stopped in it."""
    server = RedisServer(directory, options)
    try:
        await server.start()
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await server.stop()


class Sentinel(RedisServer):
    """A redis-sentinel that decides alone. It takes no busy server for dead; see `wait_only`."""

    def configure(self, primary: RedisServer) -> None:
        """Let it watch this one, as `main`."""
        self.directory.mkdir(exist_ok=True, parents=True)
        (self.directory / "sentinel.conf").write_text(
            f"""
port {self.port}
bind 127.0.0.1
dir {self.directory}
sentinel monitor main 127.0.0.1 {primary.port} 1
sentinel down-after-milliseconds main {PATIENT}
sentinel failover-timeout main 2000
"""
        )

    def _run(self) -> None:
        program = needed(SENTINEL)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, str(self.directory / "sentinel.conf")], stdout=log, stderr=log
            )

    async def wait_only(self, milliseconds: int) -> None:
        """Take a server for dead that hasn't answered for so long."""
        await self.command("SENTINEL", "SET", "main", "down-after-milliseconds", f"{milliseconds}")

    async def knows_replica(self) -> None:
        """Wait until it has found a replica that it can promote."""
        with trio.fail_after(DEADLINE):
            while True:
                for replica in await self.command("SENTINEL", "REPLICAS", "main"):
                    facts = dict(zip(replica[::2], replica[1::2], strict=True))
                    if facts["flags"] == "slave" and facts["master-link-status"] == "ok":
                        return
                await trio.sleep(0.02)


@contextlib.asynccontextmanager
async def open_sentinel(directory: Path, primary: RedisServer) -> AsyncIterator[Sentinel]:
    """One that watches the primary as long as the block."""
    sentinel = Sentinel(directory)
    sentinel.configure(primary)
    try:
        await sentinel.start()
        yield sentinel
    finally:
        with trio.CancelScope(shield=True):
            await sentinel.stop()
