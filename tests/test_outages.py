"""Faults in the server's machine, as connected clients see them. With real processes.

The rule is always the same: what can't be kept is refused, with the reason; nobody is disconnected for
it; what was accepted stays; and when the fault goes away, everything goes on without a restart.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

import trionotify
from tests.fleet.events import Said
from tests.fleet.line import Line, Lost, Refused, open_line
from tests.fleet.server import ServerProcess, free_port, server_process
from trionotify.storage import schema

EVENTS = {"format": "cloudevents"}

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX only")


class Publisher:
    """Publishes one event after the other, and keeps count of what became of them."""

    def __init__(self, line: Line, first: int) -> None:
        self.accepted: list[str] = []
        self.refused: list[Said] = []
        self._line = line
        self._next = first

    async def publish(self, said: Said | None = None) -> dict[str, Any] | None:
        """Publish a new one, or this one; return the problem, or None when it was acknowledged."""
        if said is None:
            said = Said(f"n{self._next}", "/p", str(self._next), "a", size=1000)
            self._next += 1
        await self._line.send(said.event)
        answer = await next_event(self._line)
        assert answer["data"]["id"] == said.id
        if answer["type"] == "trionotify.error":
            self.refused.append(said)
            return answer["data"]
        assert answer["type"] == "trionotify.ack"
        self.accepted.append(said.token)
        return None

    async def until_refused(self) -> dict[str, Any]:
        """Publish until one is refused; return the problem."""
        for _ in range(5000):
            if problem := await self.publish():
                return problem
        raise AssertionError("everything was accepted")

    async def again(self) -> None:
        """Publish what was refused."""
        refused, self.refused = self.refused, []
        for said in refused:
            assert await self.publish(said) is None


@asynccontextmanager
async def publishing(
    server: ServerProcess | trionotify.Server, first: int = 1
) -> AsyncIterator[Publisher]:
    async with open_line(server.port, {**EVENTS, "role": "publisher", "id": "p"}) as line:
        await next_event(line)
        yield Publisher(line, first)


async def next_event(line: Line) -> dict[str, Any]:
    """The next one, which comes alone; a position may come at any time."""
    events: list[dict[str, Any]] = []
    while not events:
        events = [e for e in await line.events() if e["type"] != "trionotify.position"]
    (event,) = events
    return event


async def heard(line: Line, count: int) -> list[str]:
    """The messages received, as long as there aren't so many, and until a Ping is answered."""
    tokens: list[str] = []
    await line.ping()
    while not line.pongs or len(tokens) < count:
        for event in await line.events():
            if not event["type"].startswith("trionotify."):
                tokens.append(event["data"].partition(" ")[0])
    line.pongs = 0
    return tokens


async def hears(line: Line, tokens: list[str]) -> None:
    """These come, in order, once, and nothing else."""
    assert await heard(line, len(tokens)) == tokens


async def reads_all(server: ServerProcess | trionotify.Server, tokens: list[str]) -> None:
    """A new client is given all of it."""
    async with open_line(server.port, {**EVENTS, "since": "start"}) as line:
        await hears(line, tokens)


async def is_closed(line: Line) -> tuple[int | None, str]:
    """The server closes this connection."""
    try:
        while True:
            await line.read()
    except Lost as lost:
        return lost.code, lost.reason


async def raw_publisher_is_told(server: ServerProcess, reason: str) -> None:
    """It can't be answered, so it is closed."""
    async with open_line(server.port, {"role": "publisher"}) as line:
        await line.send(b"raw")
        assert await is_closed(line) == (1013, reason)


# --- a disk that fills ---


class Tmpfs:
    """A small file system, which only the server sees."""

    def __init__(self, directory: Path, options: str = "size=8m") -> None:
        self.path = directory / "disk"
        self.path.mkdir()
        mount = f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$@"'
        self.launcher = ("unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(self.path))
        if shutil.which("unshare") is None:
            pytest.skip("there is no unshare here")
        tried = subprocess.run([*self.launcher, "true"], capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"a tmpfs can't be mounted here: {tried.stderr.strip()}")

    def fill(self, server: ServerProcess) -> None:
        with self._filler(server).open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self, server: ServerProcess) -> None:
        self._filler(server).unlink()

    def _filler(self, server: ServerProcess) -> Path:
        return Path(f"/proc/{server.pid}/root{self.path}/filler")


class Limit:
    """A limit on the size of the server's files, which is set and raised from outside."""

    launcher = ()

    def __init__(self, directory: Path) -> None:
        if sys.platform != "linux":
            pytest.skip("only Linux lets others change the limits of a process")
        self.path = directory

    def fill(self, server: ServerProcess) -> None:
        self._limit(server, 4096)

    def free(self, server: ServerProcess) -> None:
        self._limit(server, -1)

    def _limit(self, server: ServerProcess, size: int) -> None:
        import resource  # noqa: PLC0415 - there is none on Windows

        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, -1))


@linux_only
@pytest.mark.parametrize("kind", [Tmpfs, Limit])
@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_a_disk_that_fills(
    durability: str, kind: Callable[[Path], Tmpfs | Limit], tmp_path: Path
) -> None:
    """Publishers are refused with 507, subscribers stay, what was accepted is there, and it recovers."""
    disk = kind(tmp_path)
    options = ("--store", f"sqlite:{disk.path}/log", "--durability", durability)
    async with server_process(tmp_path, *options, launcher=disk.launcher) as server:
        await server.start()
        async with publishing(server) as publisher, open_line(server.port, EVENTS) as subscriber:
            for _ in range(20):
                assert await publisher.publish() is None
            disk.fill(server)
            problem = await publisher.until_refused()
            told = "the server has no space left for the log; publish again later"
            assert problem == {
                "type": "about:blank",
                "title": "Insufficient Storage",
                "status": 507,
                "detail": told,
                "id": publisher.refused[0].id,
            }
            await raw_publisher_is_told(server, told)
            assert (await publisher.until_refused())["status"] == 507
            await hears(subscriber, publisher.accepted)
            seen = len(publisher.accepted)
            await reads_all(server, publisher.accepted)
            disk.free(server)
            await publisher.again()
            await hears(subscriber, publisher.accepted[seen:])
            server.signal(signal.SIGTERM)
            assert (await next_event(subscriber))["type"] == "trionotify.drain"
        assert await server.ended() == 0
        refusals = [line for line in server.errors.splitlines() if "publishing is refused" in line]
        assert all(f"{disk.path}/log" in line for line in refusals)
        assert len(refusals) == server.errors.count("the log accepts notifications again") > 0
        assert "Traceback" not in server.errors


FILLS = """
import resource, sys, trio, trionotify

async def main(store):
    async with trionotify.open_server(port=0, store=store) as server:
        async with server.hub.subscribe() as notifications:
            await server.hub.publish("1")
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
            try:
                await server.hub.publish("x" * 100_000)
            except trionotify.StoreError as error:
                print(error.status, error)
            print(server.hub.ready, server.hub.checks()["log"])
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            await server.hub.publish("2")
            print(server.hub.ready, server.hub.checks()["log"])
            print(*[(await anext(notifications)).data for _ in range(2)])

trio.run(main, sys.argv[1])
"""


@posix_only
def test_a_disk_that_fills_in_process(tmp_path: Path) -> None:
    """`publish` raises StoreError with 507, and readiness says why, until there is room again."""
    command = [sys.executable, "-c", FILLS, f"sqlite:{tmp_path}/log"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    why = f"{tmp_path}/log: File too large (EFBIG); raise the limit on the size of files (ulimit -f)"
    assert done.stdout.splitlines() == [f"507 {why}", f"False {why}", "True ok", "1 2"]


# --- a file that goes away ---


@posix_only
@pytest.mark.parametrize("name", ["log", "log-wal"])
async def test_a_file_that_is_removed_and_put_back(name: str, tmp_path: Path) -> None:
    """503 as long as it is away; nothing is lost by that."""
    async with server_process(tmp_path, "--store", f"sqlite:{tmp_path}/log") as server:
        await server.start()
        async with publishing(server) as publisher, open_line(server.port, EVENTS) as subscriber:
            assert await publisher.publish() is None
            (tmp_path / name).rename(tmp_path / "away")
            problem = await publisher.publish()
            told = "the log can't accept notifications at the moment; publish again later"
            assert problem is not None
            assert (problem["status"], problem["detail"]) == (503, told)
            await raw_publisher_is_told(server, told)
            (tmp_path / name).write_text("somebody else's")
            assert await publisher.publish() is not None
            (tmp_path / "away").rename(tmp_path / name)
            await publisher.again()
            await hears(subscriber, publisher.accepted)
        await server.logs(f"{tmp_path}/{name}: was removed or replaced")
        server.signal()
        await server.ended()
        await server.start()
        await reads_all(server, publisher.accepted)


# --- a bad start ---


def start(store: str, *, launcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Start a server that won't live."""
    server = [sys.executable, "-m", "trionotify", "serve", "--port", str(free_port())]
    return subprocess.run(
        [*launcher, *server, "--store", store], capture_output=True, text=True, timeout=300, check=False
    )


def is_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line that says it, on stderr, and the exit code 1."""
    (line,) = done.stderr.splitlines()
    assert line.startswith("trionotify: ")
    assert all(word in line for word in words), line
    assert done.stdout == ""
    assert done.returncode == 1


def without_rights() -> tuple[str, ...]:
    """A launcher that takes root's right to write whatever it likes away. Others don't have it."""
    if os.name != "posix":
        pytest.skip("POSIX only")
    if os.geteuid():
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everything here: there is no setpriv")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def test_a_file_that_may_not_be_written(tmp_path: Path) -> None:
    """It is said, in one line, with what to do, and the file stays as it is."""
    file = tmp_path / "log"
    file.touch(0o444)
    done = start(f"sqlite:{file}", launcher=without_rights())
    is_refused(done, f"{file}: Permission denied (EACCES); let the server's user write the file")
    assert file.stat().st_size == 0


@linux_only
def test_a_file_system_that_may_not_be_written(tmp_path: Path) -> None:
    """It is said, in one line."""
    disk = Tmpfs(tmp_path, "ro")
    done = start(f"sqlite:{disk.path}/log", launcher=disk.launcher)
    is_refused(done, "Read-only file system (EROFS); make the file system writable")


async def test_a_second_server(tmp_path: Path) -> None:
    """It is told who has the file, and the first one goes on."""
    async with server_process(tmp_path, "--store", f"sqlite:{tmp_path}/log") as server:
        await server.start()
        async with publishing(server) as publisher:
            assert await publisher.publish() is None
            done = await trio.to_thread.run_sync(start, f"sqlite:{tmp_path}/log")
            is_refused(done, f"{tmp_path}/log: in use by a running server (process {server.pid})")
            assert await publisher.publish() is None
        await reads_all(server, ["n1", "n2"])


# --- a damaged file ---


@asynccontextmanager
async def whole_file(directory: Path) -> AsyncIterator[tuple[ServerProcess, Path]]:
    """A server that has ended in order, and its file: 200 notifications."""
    options = ("--store", f"sqlite:{directory}/log", "--max-tail-bytes", "20000")
    async with server_process(directory, *options) as server:
        await server.start()
        async with publishing(server) as publisher:
            for _ in range(200):
                assert await publisher.publish() is None
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
        yield server, directory / "log"


async def test_a_file_that_is_damaged_at_its_beginning(tmp_path: Path) -> None:
    """The server doesn't start on it, says what to do, and leaves it as it is."""
    async with whole_file(tmp_path) as (_, file):
        damaged = random.Random(1).randbytes(4096) + file.read_bytes()[4096:]
        file.write_bytes(damaged)
        done = await trio.to_thread.run_sync(start, f"sqlite:{file}")
        is_refused(done, f"{file}: not an SQLite database; name another path")
        assert file.read_bytes() == damaged


async def test_a_file_that_is_damaged_in_its_middle(tmp_path: Path) -> None:
    """Its readers are told of the gap and read on; a raw client is closed with 1013."""
    async with whole_file(tmp_path) as (server, file):
        content = bytearray(file.read_bytes())
        page = content.index(b"n60 ..") // 4096 * 4096
        content[page : page + 4096] = random.Random(1).randbytes(4096)
        file.write_bytes(content)
        await server.start()
        async with publishing(server, 201) as publisher, open_line(server.port, EVENTS) as subscriber:
            async with open_line(server.port, {"since": "start"}) as reader:
                assert await is_closed(reader) == (1013, "damaged")
            assert await publisher.publish() is None
            await hears(subscriber, ["n201"])
            tokens: list[str] = []
            async with open_line(server.port, {**EVENTS, "since": "start"}) as reader:
                while "n201" not in tokens:
                    tokens += await heard(reader, 1)
        lost = [n for n in range(1, 202) if f"n{n}" not in tokens]
        assert tokens == [f"n{n}" for n in range(1, 202) if n not in lost]
        assert 60 in lost
        assert lost == list(range(lost[0], lost[-1] + 1))
        await server.logs(f"{file}: damaged; ")
        assert "Traceback" not in server.errors


# --- more than it can take ---


async def test_more_publishers_than_may_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be committed, the others are held back; then everything is taken, once."""
    monkeypatch.setattr(schema, "_BUSY_TIMEOUT", 120.0)
    store, sent = f"sqlite:{tmp_path}/log", 0

    async def publish(first: int) -> None:
        nonlocal sent
        async with publishing(server, first) as publisher:
            sent += 1
            assert await publisher.publish() is None

    async with trionotify.open_server(port=0, store=store, max_waiting=10) as server:
        async with open_line(server.port, EVENTS) as subscriber:
            with closing(sqlite3.connect(tmp_path / "log", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                async with trio.open_nursery() as nursery:
                    for n in range(40):
                        nursery.start_soon(publish, n)
                    while sent < 40:
                        await heard(subscriber, 0)
                    for _ in range(20):  # by then the server could have read everything
                        await heard(subscriber, 0)
                    assert server.hub.statistics().waiting == 10
                    other.execute("ROLLBACK")
            tokens = await heard(subscriber, 40)
        assert sorted(tokens) == sorted(f"n{n}" for n in range(40))
        await reads_all(server, tokens)


def few_files(count: int) -> tuple[str, ...]:
    """Let a server have so many, and say everything on stdout."""
    return ("sh", "-c", f'ulimit -n {count} && exec "$@" 2>&1', "sh")


@posix_only
async def test_more_clients_than_files(tmp_path: Path) -> None:
    """They are told to come back, and are let in when others leave; who is connected doesn't notice."""
    options = ("--store", f"sqlite:{tmp_path}/log", "--max-connections", "1000")
    async with server_process(tmp_path, *options, launcher=few_files(40)) as server:
        await server.start()
        connected, refused, leave = [], [], trio.Event()

        async def connect() -> None:
            while True:
                try:
                    async with open_line(server.port, EVENTS) as line:
                        connected.append(line)
                        await leave.wait()
                        return
                except (Refused, Lost) as error:
                    refused.append(error)
                    await leave.wait()

        async with publishing(server) as publisher, open_line(server.port, EVENTS) as subscriber:
            async with trio.open_nursery() as nursery:
                for count in range(50):  # each is served, or not, before the next one comes
                    nursery.start_soon(connect)
                    while len(connected) + len(refused) == count:
                        await trio.lowlevel.checkpoint()
                await server.says(b"can't accept connections: Too many open files")
                assert len(connected) < 40
                assert any(isinstance(error, Refused) and error.status == 503 for error in refused), (
                    len(connected),
                    refused,
                    server.errors,
                )
                for _ in range(300):
                    assert await publisher.publish() is None
                await hears(subscriber, publisher.accepted)
                leave.set()
            assert len(connected) == 50
            await reads_all(server, publisher.accepted)


@posix_only
async def test_no_more_clients_than_there_are_files_for(tmp_path: Path) -> None:
    """By default, a client above the limit is refused, and may come when another has left."""
    options = ("--store", f"sqlite:{tmp_path}/log")
    async with server_process(tmp_path, *options, launcher=few_files(88)) as server:
        await server.start()
        async with publishing(server) as publisher:
            async with open_line(server.port, EVENTS) as subscriber:
                with pytest.raises(Refused, match=r"503, b'.*the server is full"):
                    async with open_line(server.port, EVENTS):
                        raise AssertionError("it must be refused")
                assert await publisher.publish() is None
                await hears(subscriber, ["n1"])
            done = False
            while not done:  # until the server has seen that it left
                with suppress(Refused):
                    await reads_all(server, ["n1"])
                    done = True


FOLLOWER = """
import sys
import trio
import trionotify

url, secret = sys.argv[1:]


def params():
    print("ticket", flush=True)
    return trionotify.sign({"id": "al"}, secret, expires_in=8)


async def main():
    async with trionotify.connect(url, params=params, ping_interval=1, ping_timeout=1) as client:
        print("connected", flush=True)
        async for notification in client:
            print(notification.data, flush=True)


trio.run(main)
"""


@posix_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_client_that_is_stopped_for_long(number: signal.Signals, tmp_path: Path) -> None:
    """Beyond its ping timeout, the end of its ticket, and a restart: all comes once, in order."""
    secret = "0123456789abcdef0123456789abcdef"
    (tmp_path / "secret").write_text(secret)
    options = ("--store", f"sqlite:{tmp_path}/log", "--secret", str(tmp_path / "secret"))
    options = (*options, "--max-log-entries", "1000000")
    async with server_process(tmp_path, *options, patience=180) as server:
        await server.start()
        url = f"http://127.0.0.1:{server.port}"
        bearer = [("Authorization", f"Bearer {secret}")]
        follower = await trio.lowlevel.open_process(
            [sys.executable, "-c", FOLLOWER, url, secret], stdout=subprocess.PIPE
        )
        assert follower.stdout is not None
        said = b""
        published: list[str] = []
        try:
            async with trionotify.connect(url, role="publisher", extra_headers=bearer) as publisher:

                async def publish() -> int:
                    published.append(f"n{len(published)}")
                    return (await publisher.publish(published[-1])).wanted

                while b"connected\n" not in said:
                    said += await follower.stdout.receive_some()
                while await publish() == 0:  # a slow server loses it for a moment
                    pass
                follower.send_signal(signal.SIGSTOP)
                while await publish():  # until the server has closed its connection, by 4401
                    pass
                server.signal(number)
                await server.ended()
                await server.start()
                assert await publish() == 0
                follower.send_signal(signal.SIGCONT)
                while await publish() == 0:  # until it is back
                    pass
                while f"\n{published[-1]}\n".encode() not in said:
                    more = await follower.stdout.receive_some()
                    assert more, said[-1000:]
                    said += more
        finally:
            follower.kill()
            with trio.CancelScope(shield=True):
                await follower.wait()
                await follower.stdout.aclose()
        lines = said.decode().split()
        assert [line for line in lines if line.startswith("n")] == published
        assert lines.count("ticket") >= 2
