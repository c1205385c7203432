"""`serve` as a service: TLS, what is read again, systemd, what a careful operator would want."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives import serialization

import trionotify
from tests.cli.test_main import run, running
from tests.cli.test_pubsub import until
from tests.conftest import raw_client
from trionotify.cli.serve import serve
from trionotify.server.certificates import Certificate
from trionotify.server.listeners import listen_unix


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def issue(
    authority: trustme.CA, directory: Path, kind: trustme.KeyType = trustme.KeyType.ECDSA
) -> tuple[Path, Path]:
    """The files of a new certificate and its key."""
    made = authority.issue_cert("localhost", key_type=kind)
    cert, key = directory / "cert.pem", directory / "key.pem"
    made.cert_chain_pems[0].write_to_path(cert)
    made.private_key_pem.write_to_path(key)
    return cert, key


def shown(port: int, authority: trustme.CA) -> bytes | None:
    """The certificate that a server shows, if we trust it."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with socket.create_connection(("127.0.0.1", port)) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            assert secure.version() in ("TLSv1.2", "TLSv1.3")
            return secure.getpeercert(binary_form=True)


def test_the_certificate_is_read_again(authority: trustme.CA, tmp_path: Path) -> None:
    """At SIGHUP; what won't do leaves the old one in force; connections stay."""
    cert, key = issue(authority, tmp_path)
    arguments = ("--port=0", "--tls-cert", str(cert), "--tls-key", str(key))
    with running(*arguments) as (process, url):
        assert url.startswith("https://127.0.0.1:")
        port = int(url.rpartition(":")[2])
        first = shown(port, authority)
        issue(authority, tmp_path)
        assert shown(port, authority) == first
        process.send_signal(signal.SIGHUP)
        until(process.stderr, "read these files again")
        second = shown(port, authority)
        assert second not in (first, None)
        key.write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        assert "the files read before remain in use" in until(process.stderr, "SIGHUP: tls_cert")
        assert shown(port, authority) == second
        process.terminate()
        assert process.wait(timeout=120) == 0


@pytest.mark.parametrize("at_fault", ["cert", "key", "pair", "pem", "passphrase"])
def test_what_is_no_certificate(at_fault: str, authority: trustme.CA, tmp_path: Path) -> None:
    """The error names the file."""
    cert, key = issue(authority, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    words = {
        "cert": f"^tls_cert: {cert} can't be read: No such file",
        "key": f"^tls_key: {key} can't be read: No such file",
        "pair": f"^tls_key: {key} is not the key of the certificate in {cert}",
        "pem": f"^tls_cert: {cert} and {key} are not a certificate and its key in PEM",
        "passphrase": f"^tls_key: {key} must not have a passphrase",
    }[at_fault]
    if at_fault == "pair":
        issue(authority, other)[1].rename(key)
    elif at_fault == "pem":
        cert.write_text("nonsense")
    elif at_fault == "passphrase":
        found = serialization.load_pem_private_key(key.read_bytes(), None)
        how = serialization.BestAvailableEncryption(b"secret")
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        key.write_bytes(found.private_bytes(pem, pkcs8, how))
    else:
        {"cert": cert, "key": key}[at_fault].unlink()
    with pytest.raises(ValueError, match=words):
        Certificate(cert, key)


@pytest.mark.parametrize("kind", trustme.KeyType)
def test_a_key_of_another_certificate(
    kind: trustme.KeyType, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, whatever its kind. A file that goes while it is read is no traceback either."""
    cert, key = issue(authority, tmp_path)
    other = tmp_path / "other.pem"
    authority.issue_cert("localhost", key_type=kind).private_key_pem.write_to_path(other)
    with pytest.raises(
        ValueError, match=rf"^tls_key: {other} is not the key of the certificate in {cert}"
    ):
        Certificate(cert, other)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", fail)
    with pytest.raises(ValueError, match=rf"^tls_cert: {cert} and {key} can't be read: Too many open"):
        Certificate(cert, key)


async def test_tls_of_an_embedded_server(authority: trustme.CA, tmp_path: Path) -> None:
    """Its clients need to trust it; half of the options is a mistake."""
    cert, key = issue(authority, tmp_path)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with trionotify.open_server(port=0, tls_cert=cert, tls_key=key) as server:
        url = f"https://localhost:{server.port}"
        async with trionotify.connect(url, ssl_context=context) as client:
            assert (await client.publish("x")).wanted == 1
            issue(authority, tmp_path)
            server.reload()
            async with trionotify.connect(url, ssl_context=context) as second:
                await second.publish("y")
    for options, words in [
        ({"tls_key": key}, "tls_key: needs tls_cert"),
        (
            {"tls_cert": cert, "tls_key": key, "ssl_context": context},
            "tls_cert: must not be combined with ssl_context; give one of them",
        ),
    ]:
        with pytest.raises(TypeError, match=words):
            async with trionotify.open_server(port=0, **options):
                raise AssertionError("it listens")


def test_a_certificate_of_another_kind(authority: trustme.CA, tmp_path: Path) -> None:
    """It takes the old one's place. No client sees both, whatever kind it prefers."""
    cert, key = issue(authority, tmp_path, trustme.KeyType.ECDSA)
    with running("--port=0", "--tls-cert", str(cert), "--tls-key", str(key)) as (process, url):
        port = int(url.rpartition(":")[2])
        first = shown(port, authority)
        issue(authority, tmp_path, trustme.KeyType.RSA)
        process.send_signal(signal.SIGHUP)
        until(process.stderr, "read these files again")
        assert shown(port, authority) not in (first, None)


async def test_all_is_read_again_or_nothing(authority: trustme.CA, tmp_path: Path) -> None:
    """A secret that can't be read leaves the certificate as it was, and the other way round."""
    cert, key = issue(authority, tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("the first secret of all\n")
    options = {"tls_cert": cert, "tls_key": key, "secret": secret}

    def look(port: int) -> bytes | None:
        return shown(port, authority)

    async with trionotify.open_server(port=0, **options) as server:
        assert server.hub.secret is not None
        assert server.port is not None
        first = await trio.to_thread.run_sync(look, server.port)
        issue(authority, tmp_path)
        secret.unlink()
        with pytest.raises(ValueError, match=r"^secret: "):
            server.reload()
        assert await trio.to_thread.run_sync(look, server.port) == first
        secret.write_text("the second secret of all\n")
        key.write_text("nonsense")
        with pytest.raises(ValueError, match=r"^tls_cert: "):
            server.reload()
        assert server.hub.secret.key == b"the first secret of all"


@pytest.mark.parametrize("drops", [[], [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"]])
async def test_a_tls_handshake_that_never_ends(
    drops: list[bytes], authority: trustme.CA, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """Has the time of a head, and counts as half-open meanwhile."""
    cert, key = issue(authority, tmp_path)
    options = {"tls_cert": cert, "tls_key": key, "head_timeout": 0.2, "close_timeout": 0.2}
    async with trionotify.open_server(port=0, **options) as server:
        assert server.port is not None
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            for data in drops:
                await stream.send_all(data)
            while not server.hub.entrance.half_open:
                await trio.lowlevel.checkpoint()
            mock_clock.rate = 1  # it has stood still, so the connection was still there
            with trio.fail_after(120), suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        while server.hub.entrance.half_open:
            await trio.lowlevel.checkpoint()


def test_the_secret_is_read_again(tmp_path: Path) -> None:
    """At SIGHUP: then the old one is good only if it is still there."""
    path = tmp_path / "secret"
    path.write_text("the first secret of all\n")
    publish = ("publish", "--secret", str(tmp_path / "mine"), "x", "--url")
    (tmp_path / "mine").write_text("the second secret of all\n")
    with running("--port=0", "--secret", str(path)) as (process, url):
        assert run(*publish, url).returncode == 1
        path.write_text("the second secret of all\nthe first secret of all\n")
        process.send_signal(signal.SIGHUP)
        until(process.stderr, "read these files again")
        assert run(*publish, url).returncode == 0
        path.unlink()
        process.send_signal(signal.SIGHUP)
        until(process.stderr, "can't be read: No such file")
        assert run(*publish, url).returncode == 0


def test_a_missing_secret() -> None:
    """One line."""
    done = run("--port=0", "--secret", "nowhere")
    words = "trionotify: secret: nowhere can't be read: No such file or directory; name the file of"
    assert done.stderr.startswith(words)
    assert done.returncode == 1


def test_a_socket_file_that_was_left_over(tmp_path: Path) -> None:
    """It is replaced; one of a server that runs, and any other file, are not."""
    path = tmp_path / "hub.sock"
    with running("--unix", str(path)) as (process, _):
        process.kill()
        process.wait()
        assert path.is_socket()
    with running("--unix", str(path)) as (process, _):
        done = run("--unix", str(path))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"trionotify: unix: {path}: Address already in use; stop the")
        assert path.is_socket()
    path.unlink(missing_ok=True)
    path.write_text("precious")
    with pytest.raises(OSError, match="is a file, not a socket; choose another path"):
        listen_unix(str(path))
    with pytest.raises(OSError, match="is a directory, not a socket; choose another path"):
        listen_unix(str(tmp_path))
    assert path.read_text() == "precious"


def test_a_socket_of_a_server_that_hangs(tmp_path: Path) -> None:
    """A server that hangs on its socket doesn't delay the next one."""
    path = str(tmp_path / "hub.sock")
    with socket.socket(socket.AF_UNIX) as hanging, ExitStack() as waiting:
        hanging.bind(path)
        hanging.listen(0)
        with suppress(BlockingIOError):  # until no more clients can wait there
            while True:
                early = waiting.enter_context(socket.socket(socket.AF_UNIX))
                early.setblocking(False)
                early.connect(path)
        done = run("--unix", path)
        assert done.stderr.startswith(f"trionotify: unix: {path}: Address already in use")


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    """The error says which."""
    path = tmp_path / ("x" * 200)
    with pytest.raises(OSError, match=rf"^unix: {path}: AF_UNIX path too long"):
        listen_unix(str(path))


class Resolver(trio.abc.HostnameResolver):
    """Knows one name."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in self._addresses
        ]

    async def getnameinfo(self, sockaddr: Any, flags: Any) -> Any:
        raise NotImplementedError


async def test_an_address_that_this_machine_lacks(caplog: pytest.LogCaptureFixture) -> None:
    """Is only a warning where the name has others: as `localhost` has where IPv6 is off."""
    trio.socket.set_custom_hostname_resolver(Resolver("2001:db8::1", "127.0.0.1"))
    async with trionotify.open_server(host="here", port=0, insecure=True) as server:
        assert server.url.startswith("http://127.0.0.1:")
    (record,) = [
        record for record in caplog.records if "host: not listening at [2001:db8::1]" in record.message
    ]
    assert record.__dict__["event"] == "not_at"
    assert record.__dict__["address"] == "[2001:db8::1]:0"
    trio.socket.set_custom_hostname_resolver(Resolver("2001:db8::1"))
    with pytest.raises(OSError, match=r"Cannot assign requested address"):
        async with trionotify.open_server(host="here", port=0, insecure=True):
            raise AssertionError("it listens")


def test_a_name_that_nobody_has() -> None:
    """One line."""
    done = run("--port=0", "--host=nowhere.invalid")
    assert done.stderr.startswith("trionotify: host: nowhere.invalid was not found: ")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


#: Runs the server in a session of its own, on the terminal that is named.
_ON_A_TERMINAL = """
import os, signal, sys
os.setsid()
terminal = os.open(sys.argv[1], os.O_RDWR)
if sys.argv[2] == "streams":
    os.dup2(terminal, 0), os.dup2(terminal, 2)
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[2] == "nohup" else signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "trionotify", "--port=0"])
"""


@pytest.mark.parametrize("how", ["streams", "controls", "nohup"])
async def test_a_terminal_that_hangs_up(how: str) -> None:
    """It ends the server in good order, whether or not it writes there; but not with `nohup`."""
    master, slave = os.openpty()
    command = [sys.executable, "-c", _ON_A_TERMINAL, os.ttyname(slave), how]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload] # noqa: ASYNC220 - it is there at once
        try:
            url = process.stdout.readline().split()[-1]
            os.close(slave)
            process.send_signal(signal.SIGHUP)  # its terminal is still there: it reads files again
            async with raw_client(int(url.rpartition(":")[2])) as client:
                os.close(master)
                if how == "nohup":
                    process.send_signal(signal.SIGHUP)
                    process.terminate()
                assert (await client.until(lambda peer: peer.close)).close == (1012, "")
            assert process.wait(timeout=120) == 0
        finally:
            process.kill()


def test_signals_that_mean_nothing() -> None:
    """They don't end the server."""
    with running("--port=0") as (process, _):
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            process.send_signal(number)
        until(process.stderr, "SIGHUP: there are no files")
        process.terminate()
        assert process.wait(timeout=120) == 0


async def test_a_hangup_while_it_drains() -> None:
    """Is nothing: it goes on to its end, and ends as if there had been none, however late it comes."""
    with running("--port=0", "--drain-timeout=600") as (process, url):
        async with trionotify.connect(url, role="subscriber"):
            process.terminate()
            await trio.to_thread.run_sync(until, process.stderr, "draining within")
            process.send_signal(signal.SIGHUP)
        with trio.fail_after(120):
            while process.poll() is None:
                process.send_signal(signal.SIGHUP)
                await trio.lowlevel.checkpoint()
        assert process.returncode == 0, process.stderr and process.stderr.read()


def test_its_help_is_short() -> None:
    """At most 25 options, in groups. The others can be given as well, and the docs have them."""
    shown = subprocess.run(
        [sys.executable, "-m", "trionotify", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    ).stdout
    options = re.findall(r"^  (--[a-z-]+)", shown, re.MULTILINE)
    assert len(options) == len(set(options)) <= 25
    assert re.findall(r"^([A-Z].*):$", shown, re.MULTILINE) == [
        "Where it listens",
        "Access",
        "The log of notifications",
        "Limits",
        "Logging and more",
    ]
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for option in serve.params:
        assert any(f"`{name}`" in page for name in option.opts), option.name
        assert option.hidden == (option.opts[0] not in options)  # type: ignore[attr-defined] # they are options


def test_what_its_help_leaves_out_can_be_given() -> None:
    """And what is wrong with it is told like anything else."""
    with running("--port=0", "--ping-interval=5") as (process, _):
        process.terminate()
    done = run("serve", "--ping-interval=no")
    assert done.returncode == 2
    assert "--ping-interval" in done.stderr
