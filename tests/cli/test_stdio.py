"""Standard streams that are closed, full, or without a reader: the commands as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from tests.cli.test_main import COMMAND, run, running
from tests.cli.test_pubsub import file, say, started, until
from tests.fleet.server import free_port
from trionotify.cli import stdio

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and /proc")
SHELL_COMMAND = f"{sys.executable} -m trionotify"


def shell(text: str, **options: str) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell, where `trionotify` is the command."""
    return subprocess.run(
        ["bash", "-c", text.replace("trionotify", SHELL_COMMAND)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **options},
    )


@contextmanager
def in_a_shell(redirections: str, port: int) -> Iterator[subprocess.Popen[str]]:
    """A server with its streams redirected, once it answers. A reader that they have is gone by then."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {redirections}; wait $!; exec {SHELL_COMMAND} --port {port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while process.poll() is None:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez") as answer:
                        assert answer.status == 200
                    break
                except OSError:
                    os.sched_yield()
            assert process.returncode is None, process.communicate()
            yield process
        finally:
            process.kill()


@on_linux
@pytest.mark.parametrize(
    ("redirections", "words"),
    [
        (">&-", ""),
        (">/dev/full", "WARNING stdout: No space left on device; listening on http://127.0.0.1:"),
        ("> >(true)", "WARNING stdout: Broken pipe; listening on http://127.0.0.1:"),
        ("2>&-", None),
        ("2>/dev/full", None),
        ("2> >(true)", None),
        ("<&- >&- 2>&-", None),
    ],
)
def test_a_server_needs_no_standard_stream(redirections: str, words: str | None) -> None:
    """It serves, and ends in good order, whatever becomes of what it says."""
    port = free_port()
    with in_a_shell(redirections, port) as process:
        url = f"http://127.0.0.1:{port}"
        assert run("publish", "--url", url, "x").returncode == 0
        numbers = {name.name: name.readlink() for name in Path(f"/proc/{process.pid}/fd").iterdir()}
        assert not [n for n in "012" if "socket:" in str(numbers[n]) or "eventpoll" in str(numbers[n])]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0
        assert "Traceback" not in err
        assert words is None or words in err


def test_the_server_goes_on_without_its_first_reader() -> None:
    """As in `python -m trionotify | head -1`."""
    with running("--port=0") as (process, url):
        file(process.stdout).close()
        assert run("publish", "--url", url, "x").returncode == 0
        process.terminate()
        process.wait(timeout=120)
        assert process.returncode == 0


@on_linux
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("explain --sql TRUE event.json >/dev/full", 1, "trionotify: stdout: No space left on device\n"),
        ("completion bash >/dev/full", 1, "trionotify: stdout: No space left on device\n"),
        ("--help >/dev/full", 1, "trionotify: stdout: No space left on device\n"),
        ("--version >/dev/full", 1, "trionotify: stdout: No space left on device\n"),
        ("store check --help >/dev/full", 1, "trionotify: stdout: No space left on device\n"),
        (
            *("top --once --interval 0.1 --url URL >/dev/full", 1),
            "trionotify: stdout: No space left on device\n",
        ),
        ("completion bash | head -1; exit ${PIPESTATUS[0]}", 0, ""),
        ("serve --help | head -1; exit ${PIPESTATUS[0]}", 0, ""),
        ("explain --sql TRUE event.json >&-", 0, ""),
        ("publish --url URL - <&-", 1, "trionotify: stdin: closed\n"),
        ("subscribe --url URL >&-", 1, "trionotify: stdout: closed\n"),
        ("subscribe --url URL --since start >/dev/full", 1, "trionotify: stdout: No space left"),
        ("publish --url URL x 2>/dev/full", 0, ""),
        ("publish --url URL x 2>&-", 0, ""),
        ("top --once --interval 0.1 --url URL | head -1; exit ${PIPESTATUS[0]}", 0, ""),
    ],
)
def test_commands_say_it_in_a_line(command: str, code: int, words: str, tmp_path: Path) -> None:
    """And the exit code tells whether it was done."""
    event = tmp_path / "event.json"
    event.write_text('{"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}')
    with running("--port=0") as (_, url):
        trio.run(lambda: say(url, "one"))
        done = shell("trionotify " + command.replace("URL", url).replace("event.json", str(event)))
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_subscribe_ends_with_its_reader() -> None:
    """At once, not only with the next notification, which may never come."""
    with running("--port=0") as (_, url), started("subscribe", "--url", url) as process:
        until(process.stderr, "connected")
        trio.run(lambda: say(url, "1"))
        assert file(process.stdout).readline() == "1\n"
        file(process.stdout).close()
        assert process.wait(timeout=120) == 0
        assert file(process.stderr).read() == ""


def test_publish_what_is_no_text() -> None:
    """Bytes come out as they went in, line by line; empty lines are lines; a NUL is a character."""
    lines = [b"gr\xfc\xdfe", b"", b"gr\xc3\xbc\xc3\x9fe", b"a\x00b", b"\xff\xfe", b"", b"last"]
    with running("--port=0") as (_, url):
        done = subprocess.run(
            [*COMMAND, "publish", "--url", url, "-"],
            input=b"\n".join(lines),
            capture_output=True,
            timeout=300,
            check=True,
        )
        assert done.stderr.splitlines()[-1] == b"trionotify: 7 acknowledged"
        with subprocess.Popen(
            [*COMMAND, "subscribe", "--url", url, "--since=start"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in lines] == [line + b"\n" for line in lines]
            process.kill()


@on_linux
def test_a_line_without_an_end() -> None:
    """It isn't collected for ever: what was whole is published, and the reason told."""
    with running("--port=0") as (_, url):
        done = shell(f"(echo one; cat /dev/zero) | trionotify publish --url {url} -")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "trionotify: 1 acknowledged",
        "trionotify: stdin: a line may have at most 67108864 bytes",
    ]


def test_input_that_never_ends() -> None:
    """At Ctrl-C it says how much was acknowledged, and how much it doesn't know of."""
    with (
        running("--port=0") as (_, url),
        subprocess.Popen(["yes"], stdout=subprocess.PIPE) as yes,
        subprocess.Popen(
            [*COMMAND, "publish", "--url", url, "-"],
            stdin=yes.stdout,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        ExitStack() as stack,
    ):
        stack.callback(yes.kill)
        stack.callback(process.kill)
        with started("subscribe", "--url", url) as reader:
            for _ in range(1000):
                assert file(reader.stdout).readline() == "y\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    count, _, _ = err.splitlines()[-1].removeprefix("trionotify: ").partition(" acknowledged")
    assert int(count) > 100
    assert "Traceback" not in err


@pytest.mark.skipif(os.name != "posix", reason="needs pipes that don't block")
async def test_streams_that_do_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program that shares them has made them so, as Node does."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    monkeypatch.setattr(stdio, "input_number", lambda: reading)
    written = ["x" * (1 << 20), "", "last"]

    async def write() -> None:
        for line in written:
            await stdio.write(writing, line.encode() + b"\n")
        os.close(writing)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        assert [line async for line in stdio.Lines()] == written
    os.close(reading)


def test_an_output_that_lacks_characters(tmp_path: Path) -> None:
    """They are written as escapes, because the rest is what counts."""
    event = tmp_path / "event.json"
    event.write_text('{"specversion": "1.0", "id": "1", "source": "/s", "type": "€"}', "utf-8")
    done = shell(f"trionotify explain --sql \"type = '€'\" {event}", PYTHONIOENCODING="latin-1:strict")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "yes sql type = '\\u20ac': it is True\n"
