"""What systemd passes to the server, and what the server tells it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.cli.test_main import COMMAND, run, running
from tests.cli.test_pubsub import file
from trionotify.cli.systemd import feed_watchdog, watchdog_interval

Clock = trio.testing.MockClock


@contextmanager
def activated(
    listener: socket.socket, *arguments: str, pid: str = "", fds: str = "1"
) -> Iterator[subprocess.Popen[str]]:
    """A server that finds a socket at number 3, as systemd leaves it there."""
    script = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.closerange(4, 1024);"
        "os.environ['LISTEN_FDS'] = sys.argv[2];"
        "os.environ['LISTEN_PID'] = sys.argv[3] or str(os.getpid()); os.execv(sys.argv[4], sys.argv[4:])"
    )
    handed = (str(listener.fileno()), fds, pid)
    with subprocess.Popen(
        [sys.executable, "-c", script, *handed, *COMMAND, *arguments],
        pass_fds=[listener.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_socket_that_systemd_opened() -> None:
    """Is served, whatever the options say; who waits there when one server ends is the next one's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with activated(listener, "--port=1") as process:
            assert (
                file(process.stdout).readline() == f"trionotify: listening on http://127.0.0.1:{port}\n"
            )
            assert run("publish", "--url", f"http://127.0.0.1:{port}", "x").returncode == 0
            process.terminate()
            assert process.wait(timeout=120) == 0
        with socket.create_connection(("127.0.0.1", port)) as early:
            early.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            with activated(listener) as process:
                file(process.stdout).readline()
                assert early.recv(100).startswith(b"HTTP/1.1 200")


def test_a_unix_socket_that_systemd_opened(tmp_path: Path) -> None:
    """Stays where it is."""
    path = tmp_path / "hub.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with activated(listener) as process:
            assert file(process.stdout).readline() == f"trionotify: listening on unix:{path}\n"
            process.terminate()
            assert process.wait(timeout=120) == 0
        assert path.is_socket()


def test_sockets_that_are_not_for_us() -> None:
    """Those of another process are left alone; what isn't one, or anyone can reach, is refused."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with activated(listener, "--port=0", pid="1") as process:
            line = file(process.stdout).readline()
            assert line.startswith("trionotify: listening on http://127.0.0.1:")
            assert not line.endswith(f":{listener.getsockname()[1]}\n")
        for fds, words in [
            ("many", "must be a number, not 'many'"),
            ("²", "must be a number, not '²'"),
            ("1000", "file descriptor 4 is not a socket: Bad file descriptor"),
        ]:
            with activated(listener, fds=fds) as process:
                said = process.communicate(timeout=120)[1]
                assert said == f"trionotify: LISTEN_FDS: {words}\n"
        with activated(listener, "--port=0", fds="") as process:
            assert file(process.stdout).readline().startswith("trionotify: listening on ")
    with socket.create_server(("0.0.0.0", 0)) as listener:
        with activated(listener) as process:
            assert "sockets: everyone can reach 0.0.0.0" in process.communicate(timeout=120)[1]
            assert process.returncode == 1
        with activated(listener, "--insecure") as process:
            assert "http://0.0.0.0:" in file(process.stdout).readline()
    accepted, other = socket.socketpair()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, accepted, other:
        for wrong in (datagrams, accepted):
            with activated(wrong) as process:
                said = process.communicate(timeout=120)[1]
                assert said.startswith("trionotify: LISTEN_FDS: file descriptor 3 is not a listening")
                assert said.endswith(
                    "; write ListenStream= into the socket's unit, and leave out Accept=\n"
                )
                assert process.returncode == 1


def test_what_systemd_is_told(tmp_path: Path) -> None:
    """Ready, reloading, ready again, stopping: in this order, and each when it is true."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(120)
        with running("--port=0", NOTIFY_SOCKET=str(path)) as (process, url):
            assert manager.recv(1000) == b"READY=1"
            assert run("publish", "--url", url, "x").returncode == 0
            process.send_signal(signal.SIGHUP)
            assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(1000) == b"READY=1"
            process.terminate()
            assert manager.recv(1000) == b"STOPPING=1"
            assert process.wait(timeout=120) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has sockets without files")
def test_a_service_manager_without_a_file() -> None:
    """An abstract socket is found; one that has gone is only a warning."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0trionotify-{os.getpid()}")
        manager.settimeout(120)
        with running("--port=0", NOTIFY_SOCKET=f"@trionotify-{os.getpid()}") as (process, _):
            assert manager.recv(1000) == b"READY=1"
    with running("--port=0", NOTIFY_SOCKET="/nowhere/at/all") as (process, _):
        process.terminate()
        assert "NOTIFY_SOCKET: can't notify the service manager" in process.communicate(timeout=120)[1]
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("given", "owner", "seconds"),
    [
        ("30000000", "ours", 15.0),
        ("30000000", "", 15.0),
        ("1", "ours", 5e-7),
        ("30000000", "1", None),
        ("", "ours", None),
        ("nonsense", "1", None),
    ],
)
def test_how_often_the_watchdog_is_told(
    given: str, owner: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice within its time; never for another process. No child of this one is to try."""
    monkeypatch.setenv("WATCHDOG_USEC", given)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if owner == "ours" else owner)
    assert watchdog_interval() == seconds
    assert not {"WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "1s", "²", "9" * 20])
def test_a_watchdog_without_a_time(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable."""
    monkeypatch.setenv("WATCHDOG_USEC", given)
    with pytest.raises(ValueError, match=r"^WATCHDOG_USEC: must be a number of microseconds above 0"):
        watchdog_interval()


async def test_the_watchdog_hears_of_a_server_that_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """At once, then after each interval, and nothing once the broadcast is over."""
    over = False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def heard() -> int:
            found = 0
            while True:
                try:
                    assert manager.recv(1000) == b"WATCHDOG=1"
                except BlockingIOError:
                    return found
                found += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed_watchdog, 15.0, lambda: over)
            await trio.testing.wait_all_tasks_blocked()
            assert heard() == 1
            await trio.sleep(44)
            assert heard() == 2
            over = True
            await trio.sleep(100)
            assert heard() == 0


async def test_a_service_manager_that_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The watchdog's task doesn't wait for it, because everything else would wait as well."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed_watchdog, 1e-6, lambda: False)
                while "can't notify the service manager" not in caplog.text:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()


def test_a_server_with_a_watchdog(tmp_path: Path) -> None:
    """It is ready first, and its watchdog hears of it until it ends."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(120)
        # It doesn't know its number before.
        script = 'export WATCHDOG_PID=$$; exec "$@"'
        environment = {**os.environ, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "20000"}
        with subprocess.Popen(
            ["sh", "-c", script, "sh", *COMMAND, "--port=0"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                assert manager.recv(1000) == b"READY=1"
                for _ in range(3):
                    assert manager.recv(1000) == b"WATCHDOG=1"
                process.terminate()
                while (told := manager.recv(1000)) == b"WATCHDOG=1":
                    pass
                assert told == b"STOPPING=1"
                assert process.wait(timeout=120) == 0
            finally:
                process.kill()
    with running("--port=0", WATCHDOG_USEC="20000") as (process, _):  # there is no service manager
        process.terminate()
        assert process.wait(timeout=120) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WATCHDOG_USEC", "nonsense")
        done = run("--port=0")
    words = "trionotify: WATCHDOG_USEC: must be a number of microseconds above 0, not 'nonsense'\n"
    assert (done.returncode, done.stderr) == (1, words)
