"""`python -m trionotify`, as a process: its first line, its signals, its exit code, its errors."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl

import click
import pytest
from trio_websocket import open_websocket_url

from tests.conftest import raw_client
from tests.server.test_server import need_ipv6
from trionotify.cli.main import main
from trionotify.http.secret import Secret

COMMAND = [sys.executable, "-m", "trionotify"]


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server, and where its first line says that it listens."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("trionotify: listening on "), process.stderr and process.stderr.read()
            yield process, line.removeprefix("trionotify: listening on ").strip()
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("arguments", [["serve", "--port", "0"], ["--port=0"]])
async def test_it_serves_until_a_signal(number: signal.Signals, arguments: list[str]) -> None:
    """Clients hear 1012; the exit code is 0; stderr has the log, without queries or tracebacks."""
    with running(*arguments) as (process, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        async with raw_client(int(url.rpartition(":")[2]), "/?id=al&token=secret") as client:
            async with open_websocket_url(url.replace("http", "ws") + "/?role=publisher") as publisher:
                await publisher.send_message("hello")
            assert (await client.until(lambda peer: peer.messages)).messages == ["hello"]
            process.send_signal(number)
            assert (await client.until(lambda peer: peer.close)).close == (1012, "")
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0
        assert out == ""
        assert "client 'al' from 127.0.0.1:" in err
        assert "secret" not in err
        assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_ends_it_at_once(number: signal.Signals) -> None:
    """Without waiting for a client that doesn't close; the exit code says which signal it was."""
    with running("--port=0", "--close-timeout=600", "--drain-timeout=600") as (process, url):
        async with raw_client(int(url.rpartition(":")[2])) as client:
            process.send_signal(signal.SIGTERM)
            await client.until(lambda peer: peer.close)
            process.send_signal(number)
            _, err = process.communicate(timeout=120)
            assert process.returncode == 128 + number
            assert "SIGTERM; a second signal ends the server at once" in err
            assert "Traceback" not in err


async def test_the_deadline_of_a_drain_is_no_failure() -> None:
    """A client that doesn't close is cut off; the exit code is 0, and stderr has the figures."""
    with running("--port=0", "--close-timeout=600", "--drain-timeout=5") as (process, url):
        async with raw_client(int(url.rpartition(":")[2])) as client:
            process.terminate()
            await client.until(lambda peer: peer.close)
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0
            assert "draining within 5.0 seconds; clients: 1" in err
            assert "closed in good order: 0, cut off: 1" in err


def test_unix_socket(tmp_path: Path) -> None:
    """The first line names the path; the file is gone afterwards."""
    path = tmp_path / "hub.sock"
    with running("serve", "--unix", str(path)) as (process, url):
        assert url == f"unix:{path}"
        assert path.is_socket()
        process.terminate()
        assert process.wait(timeout=120) == 0
    assert not path.exists()


def test_environment() -> None:
    """Every option also as TRIONOTIFY_OPTION."""
    # Where several may be given, spaces are between them.
    hosts = {"TRIONOTIFY_HOST": "localhost 127.0.0.1", "TRIONOTIFY_SUBPROTOCOL": "json mqtt"}
    with running(TRIONOTIFY_PORT="0", TRIONOTIFY_MAX_CONNECTIONS="5", **hosts) as (process, url):
        assert not url.endswith(":8765")
        process.terminate()
        assert process.wait(timeout=120) == 0


def test_it_says_all_addresses() -> None:
    """A line for each, in the order in which they were given."""
    need_ipv6()
    with running("--port=0", "--host=127.0.0.1", "--host=[::1]") as (process, url):
        assert process.stdout is not None
        port = url.rpartition(":")[2]
        assert url == f"http://127.0.0.1:{port}"
        assert process.stdout.readline() == f"trionotify: listening on http://[::1]:{port}\n"


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--port", "99999"], "trionotify: --port: 99999 is not in the range 0<=x<=65535.", 2),
        (["--prot", "0"], "trionotify: No such option '--prot'", 2),
        (["swerve"], "trionotify: No such command 'swerve'", 2),
        (
            ["publish", "two", "words"],
            "extra argument (words). See 'python -m trionotify publish --help'.",
            2,
        ),
        (["completion"], "Choose from: bash, zsh, fish. See 'python -m trionotify completion", 2),
        (["--secret="], "trionotify: --secret: must not be empty", 2),
        (["subscribe", "--secret="], "trionotify: --secret: must not be empty", 2),
        (["sign", "--secret=", "id=a"], "trionotify: --secret: must not be empty", 2),
        (["--config="], "trionotify: --config: must not be empty", 2),
        (
            ["publish", "--url=localhost", "x"],
            "trionotify: url: must start with http, https, ws, wss or unix, not 'localhost'",
            2,
        ),
        (["explain", "nowhere.json"], "nowhere.json': No such file or directory", 2),
        (["store", "new-epoch", "sqlite:/nowhere/log.db"], "trionotify: /nowhere/log.db", 1),
        (["store", "check", "redis://u:geheim@h"], "trionotify: store: must be sqlite:PATH, because", 2),
        (
            ["--port=0", "--host=0.0.0.0"],
            "trionotify: host: everyone can reach 0.0.0.0, so a secret is needed (--secret FILE)",
            1,
        ),
        (["--port=0", "--ping-interval=0"], "--ping-interval: must be greater than 0, not 0", 2),
        (["--port=0", "--ping-interval=nan"], "--ping-interval: must be greater than 0, not nan", 2),
        (
            ["--port=0", "--max-log-age=1x"],
            (
                "trionotify: --max-log-age: must be a duration in seconds, like 90, or a"
                " text like 15m or 1h30m"
            ),
            2,
        ),
        (["top", "--interval=0.01s"], "--interval: must be at least 0.1, not 0.01s", 2),
        (["--port=0", "--max-filter-depth=101"], "--max-filter-depth: 101 is not in the range", 2),
        (["--port=0", "--max-batch=few"], "--max-batch: 'few' is not a valid integer.", 2),
        (["--unix=/nowhere/at/all.sock"], "trionotify: unix: /nowhere/at/all.sock: No such file", 1),
        (
            [f"--unix=/tmp/{'x' * 200}"],
            f"trionotify: unix: /tmp/{'x' * 200}: AF_UNIX path too long; choose a shorter path",
            1,
        ),
        (["--port=0", "--host="], "trionotify: host: must be a name or an address, not empty", 1),
        (["--port=0", "--store=sqlite:/nowhere/log.db"], "trionotify: /nowhere/log.db", 1),
        (
            ["--port=0", "--store=sqllite:x"],
            "trionotify: store: must be 'memory:', 'sqlite:PATH' or 'redis://HOST'",
            1,
        ),
        (["--port=0", "--secret=/dev/null"], "trionotify: secret: /dev/null: must not be empty", 1),
        (
            ["--port=0", "--secret=0123456789abcdef0123456789abcdef"],
            "trionotify: secret: the file can't be read: No such file or directory",
            1,
        ),
        (["--port=0", "--secret=/"], "trionotify: secret: / can't be read: Is a directory", 1),
    ],
)
def test_errors_are_one_clear_line(arguments: list[str], words: str, code: int) -> None:
    """Naming the option; no traceback; nothing on stdout."""
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code
    assert done.stdout == ""
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("variable", ["PORT", "MAX_LOG_AGE", "INSECURE", "DURABILITY", "SECRET"])
def test_a_wrong_variable_is_named(variable: str) -> None:
    """And not an option that wasn't given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"TRIONOTIFY_{variable}", "nonsense")
        done = run("serve", *(["--port=0"] if variable != "PORT" else []))
    assert done.stderr.startswith(f"trionotify: TRIONOTIFY_{variable}: ")
    assert (done.returncode, len(done.stderr.splitlines())) == (1 if variable == "SECRET" else 2, 1)


def test_a_misspelt_variable() -> None:
    """Is told, with the nearest that there is; those that Kubernetes makes for a service aren't."""
    kubernetes = {"TRIONOTIFY_SERVICE_HOST": "10.0.0.1", "TRIONOTIFY_PORT_8765_TCP": "tcp://10.0.0.1:1"}
    wrong = {"TRIONOTIFY_PROT": "1", "TRIONOTIFY_NO_PAGE": "1", "TRIONOTIFY_NO_COMPRESSION": "yes"}
    with running("--port=0", TRIONOTIFY_URL="x", **wrong, **kubernetes) as (process, _):
        process.terminate()
        lines = process.communicate(timeout=120)[1].splitlines()
    told = [line.partition("WARNING ")[2] for line in lines if "WARNING" in line]
    assert told == [
        "TRIONOTIFY_NO_COMPRESSION: unknown option; set TRIONOTIFY_COMPRESSION=false",
        "TRIONOTIFY_NO_PAGE: unknown option; set TRIONOTIFY_PAGE=false",
        "TRIONOTIFY_PROT: unknown option; did you mean TRIONOTIFY_PORT?",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIONOTIFY_PORT", "tcp://10.0.0.1:8765")
        assert (
            "trionotify: TRIONOTIFY_PORT: 'tcp://10.0.0.1:8765' is not a valid integer."
            " Kubernetes sets it for a service of this name"
        ) in run("serve").stderr


def test_a_port_in_use() -> None:
    """It says so."""
    with running("--port=0") as (_, url):
        port = url.rpartition(":")[2]
        done = subprocess.run(
            [*COMMAND, "--port", port], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 1
        assert "in use" in done.stderr
        assert len(done.stderr.splitlines()) == 1


EVENT = '{"specversion": "1.0", "id": "1", "source": "/s", "type": "order.paid"}'


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("options", "event", "code", "words"),
    [
        (["--sql", "type LIKE 'order.%'"], EVENT, 0, "yes sql type LIKE 'order.%': it is True\n"),
        (
            ["--filters", '[{"exact": {"type": "x"}}]', "--sql", "TRUE"],
            *(EVENT, 1),
            "no  all of\n    no  type equals 'x': it is 'order.paid'\n    yes sql TRUE: it is True\n",
        ),
        ([], EVENT, 0, "yes everything\n"),
        (["--filter", "\ufeff[]"], f"\ufeff{EVENT}", 0, "yes everything\n"),
        (["--sql", "type ="], EVENT, 2, "line 1, column 7"),
        (["--filters", "["], EVENT, 2, "trionotify: --filters: "),
        (["--filter", "["], EVENT, 2, "trionotify: --filters: not valid JSON: Input data was truncated"),
        (["--filter", "[]"], "{}", 2, "trionotify: <stdin>: specversion: missing"),
    ],
)
def test_explain(options: list[str], event: str, code: int, words: str) -> None:
    """Whether and why on stdout, and in the exit code; mistakes on stderr."""
    done = run("explain", *options, "-", stdin=event)
    assert done.returncode == code
    if code < 2:
        assert done.stdout == words
    else:
        assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["FILTERS", "FILTER"])
def test_a_name_and_the_old_one(name: str) -> None:
    """As an option, and as a variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"TRIONOTIFY_{name}", '{"exact": {"type": "x"}}')
        assert run("explain", "-", stdin=EVENT).returncode == 1
    option = f"--{name.lower()}"
    assert run("explain", option, '{"exact": {"type": "order.paid"}}', "-", stdin=EVENT).returncode == 0


def test_every_help_has_an_example() -> None:
    """An example of this command, on a line of its own."""

    def look(command: click.Command, name: str) -> None:
        context = click.Context(command, info_name=name)
        examples = [line.strip() for line in command.get_help(context).splitlines()]
        words = name.split(" ", 3)[-1] if command.name != "completion" else "completion"
        found = [line for line in examples if "trionotify" in line and not line.startswith("Usage")]
        assert any(words in line for line in found), name
        if isinstance(command, click.Group):
            for inner in command.commands.values():
                look(inner, f"{name} {inner.name}")

    look(main, "python -m trionotify")


def test_help_and_version() -> None:
    """They exit with 0."""
    for arguments, words in [
        (["--version"], "0.1.0"),
        (["--help"], "serve"),
        (["serve", "--help"], "--unix"),
    ]:
        done = subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, timeout=300, check=True
        )
        assert words in done.stdout


def test_sign(tmp_path: Path) -> None:
    """A query, or a whole URL; mistakes are one line, and 2."""
    path = tmp_path / "secret"
    path.write_text("a secret of some length\n")
    secret = ("--secret", str(path))
    done = run("sign", *secret, "id=alice", "exact.team=o ps")
    params = dict(parse_qsl(done.stdout.strip(), strict_parsing=True))
    assert (params["id"], params["exact.team"]) == ("alice", "o ps")
    left = Secret(path).check(params) - time.time()
    assert 3500 < left <= 3600
    done = run("sign", *secret, "--expires=12h", "wss://example.org/events?id=alice")
    assert done.stdout.startswith("wss://example.org/events?id=alice&exp=")
    for arguments, words in [
        ((*secret, "role=admin"), "trionotify: role: must be one of subscriber, publisher, both"),
        ((*secret, "alice"), "trionotify: alice: must be KEY=VALUE, such as id=alice, or a URL"),
        (
            (*secret, "--expires=soon", "id=a"),
            "trionotify: --expires: must be a duration in seconds, like 90",
        ),
        (("--secret", "nowhere", "id=a"), "trionotify: secret: nowhere can't be read: No such file"),
    ]:
        done = run("sign", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(words)


def test_a_secret_on_the_command_line(tmp_path: Path) -> None:
    """With it you may publish, subscribe and monitor. Signed URLs allow what they were signed for."""
    path = tmp_path / "secret"
    path.write_text("a secret of some length\n")
    with running("--port=0", "--secret", str(path)) as (_, url):
        secret = ("--url", url, "--secret", str(path))
        assert run("publish", *secret, "one").returncode == 0
        assert run("top", "--once", "--interval=0.1", *secret).returncode == 0
        for role in ("publisher", "both"):
            signed = run("sign", "--secret", str(path), f"{url}/?id=al&role={role}").stdout.strip()
            assert run("publish", "--url", signed, role).returncode == 0
        done = run(
            "publish", "--url", run("sign", "--secret", str(path), f"{url}/?id=al").stdout.strip(), "x"
        )
        assert (done.returncode, "401: sig: not the signature" in done.stderr) == (1, True)
        for command in ("publish", "subscribe", "top"):
            done = run(command, "--url", url)
            assert (done.returncode, "trionotify: 401: " in done.stderr) == (1, True)
            done = run(command, "--url", url, "--secret", "nowhere")
            assert done.stderr.startswith(
                "trionotify: secret: nowhere can't be read: No such file or directory; name the file"
            )
        with subprocess.Popen(
            [*COMMAND, "subscribe", *secret, "--since=start"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(3)] == ["one\n", "publisher\n", "both\n"]
            process.kill()


def test_completion(tmp_path: Path) -> None:
    """Bash completes commands and options with what it is given."""
    script = run("completion", "bash").stdout
    assert "_trionotify_completion" in script
    assert "_TRIONOTIFY_COMPLETE" in run("completion", "zsh").stdout
    assert "_TRIONOTIFY_COMPLETE" in run("completion", "fish").stdout
    command = tmp_path / "trionotify"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m trionotify "$@"\n')
    command.chmod(0o755)
    ask = "COMP_WORDS=(trionotify {}); COMP_CWORD={}; _trionotify_completion trionotify"
    for words, at, found in [("p", 1, "publish"), ("serve --max-log-b", 2, "--max-log-bytes")]:
        text = f'{script}\n{ask.format(words, at)}; echo "${{COMPREPLY[@]}}"'
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        command = ["bash", "-c", text]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=True
        )
        assert done.stdout.split() == [found]
