"""Where the server can't listen: the error names the option at fault, its source, and the fix."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import run
from trionotify import open_server
from trionotify.server import listeners
from trionotify.server.listeners import listen_tcp, listen_unix


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize("option", ["port", "admin_port"])
@pytest.mark.parametrize("source", ["line", "environment", "file"])
def test_a_port_in_use(
    option: str, source: str, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each port has its own option, and the line says where it came from."""
    flag, path = f"--{option.replace('_', '-')}", tmp_path / "trionotify.toml"
    arguments, named = [], option
    if source == "line":
        arguments = [f"{flag}={taken}"]
    elif source == "environment":
        named = f"TRIONOTIFY_{option.upper()}"
        monkeypatch.setenv(named, str(taken))
    else:
        path.write_text(f"{option} = {taken}\n")
        arguments, named = [f"--config={path}"], f"{path}: {option}"
    other = [] if option == "port" else ["--port=0"]
    done = run(*other, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"trionotify: {named}: 127.0.0.1:{taken}: {os.strerror(errno.EADDRINUSE)}; stop the program"
        f" that listens there, or choose another port with {flag}\n"
    )


class Refusing(socket.socket):
    """A socket that may not be bound."""

    number = errno.EACCES

    def bind(self, address: Any) -> None:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("number", "option", "words"),
    [
        (
            errno.EACCES,
            "admin_port",
            "admin_port: 127.0.0.1:80: .*; give the process CAP_NET_BIND_SERVICE, or choose a port above"
            " 1023 with --admin-port$",
        ),
        (errno.EACCES, "port", "port: 127.0.0.1:80: .* above 1023 with --port$"),
        (
            errno.EADDRNOTAVAIL,
            "admin_port",
            "host: 127.0.0.1:80: .*; choose an address of this machine with --host$",
        ),
        (errno.EINVAL, "port", "host: 127.0.0.1:80: .*; choose an address of this machine with --host$"),
        (errno.EMFILE, "port", r"port: 127.0.0.1:80: .*; raise the limit on open files \(ulimit -n\)$"),
    ],
)
async def test_a_port_that_is_refused(
    number: int, option: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a low port the fix is another one; for an address that the machine lacks, another address.

    Another place doesn't help a process that has no descriptors left.
    """
    monkeypatch.setattr(listeners.socket, "socket", Refusing)
    monkeypatch.setattr(Refusing, "number", number)
    with pytest.raises(OSError, match=words) as raised:
        await listen_tcp("127.0.0.1", 80, public=False, option=option)
    assert raised.value.errno == number


async def test_both_ports_are_the_same(closed_port: int) -> None:
    """The second one has no room, and its option is named. Two free ports may both be 0."""
    with pytest.raises(OSError, match=r"admin_port: .* choose another port with --admin-port$"):
        async with open_server(port=closed_port, admin_port=closed_port):
            raise AssertionError("it opened")
    async with open_server(port=0, admin_port=0) as server:
        assert server.port != server.admin_port


@pytest.mark.parametrize(
    ("name", "number", "fix"),
    [
        ("missing/hub.sock", errno.ENOENT, "create the directory, or choose another path"),
        ("file/hub.sock", errno.ENOTDIR, "choose another path"),
        ("datagrams.sock", errno.EPROTOTYPE, "choose another path"),
        ("taken.sock", errno.EADDRINUSE, "stop the server that listens there, or choose another path"),
    ],
)
def test_a_path_that_is_refused(name: str, number: int, fix: str, tmp_path: Path) -> None:
    """In the same form, and the files that are there stay."""
    (tmp_path / "file").write_text("precious")
    with (
        socket.socket(socket.AF_UNIX) as other,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as third,
    ):
        other.bind(str(tmp_path / "taken.sock"))
        other.listen()
        third.bind(str(tmp_path / "datagrams.sock"))
        before = sorted(tmp_path.iterdir())
        with pytest.raises(OSError, match="unix") as raised:
            listen_unix(str(tmp_path / name))
        assert raised.value.errno == number
        assert raised.value.strerror == f"unix: {tmp_path / name}: {os.strerror(number)}; {fix}"
        assert sorted(tmp_path.iterdir()) == before


async def test_a_socket_is_not_left_behind(taken: int, tmp_path: Path) -> None:
    """Where something else is wrong, its file goes again."""
    path = tmp_path / "hub.sock"
    with pytest.raises(OSError, match=r"^.*admin_port: "):
        async with open_server(unix=path, admin_port=taken):
            raise AssertionError("it opened")
    assert not path.exists()


@pytest.mark.parametrize("option", ["unix", "tls_cert", "tls_key"])
async def test_a_path_with_a_zero(option: str) -> None:
    """It is refused by name. At the beginning, it would mean a socket without a file."""
    with pytest.raises(ValueError, match=rf"^{option}: must not contain the character"):
        async with open_server(port=0, **{option: "\0name"}):
            raise AssertionError("it opened")


async def test_sockets_that_do_not_listen() -> None:
    """The keyword is named, and the sockets are closed."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as sock:
            with pytest.raises(ValueError, match=r"^sockets: .* is not listening; call its listen\(\)"):
                async with open_server(sockets=[sock]):
                    raise AssertionError("it opened")
            assert sock.fileno() == -1
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        with pytest.raises(ValueError, match=r"^sockets: everyone can reach 0\.0\.0\.0"):
            async with open_server(sockets=[everywhere]):
                raise AssertionError("it opened")
