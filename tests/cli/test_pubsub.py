"""`publish` and `subscribe` as processes, in front of a server that is a process, too."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
import trio

from tests.cli.test_main import COMMAND, run, running
from tests.fleet.server import free_port
from tests.network import FakeServer, run_fake
from tests.test_peers import need
from trionotify import Client, CloseCode, Exact, Refused, Request, connect, open_server


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on. It is killed after a while, so no test waits for its words for ever."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(300, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def file(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def until(stream: IO[str] | None, words: str) -> str:
    """Read lines up to one that has these words in it, and return it."""
    for line in file(stream):
        if words in line:
            return line
    raise AssertionError(f"{words!r} never came")


def feed(process: subprocess.Popen[str], *lines: str) -> None:
    file(process.stdin).write("".join(f"{line}\n" for line in lines))
    file(process.stdin).flush()


async def say(url: str, *texts: str, **attributes: Any) -> None:
    async with connect(url, role="publisher") as client:
        for text in texts:
            await client.publish(text, **attributes)


# --- subscribe ---


def test_subscribe() -> None:
    """It prints the data of what it asked for, a line for each, at once."""
    with running("--port=0") as (_, url):
        for type in ("a", "b", "a"):
            trio.run(lambda type=type: say(url, f"grüße {type}", type=type))
        options = ["--url", url, "--id", "al", "--sql", "type = 'a'", "--since", "start"]
        with started("subscribe", *options) as process:
            assert [file(process.stdout).readline() for _ in range(2)] == ["grüße a\n"] * 2
            trio.run(lambda: say(url, "one more", type="a"))
            assert file(process.stdout).readline() == "one more\n"


def test_subscribe_in_json() -> None:
    """With all attributes, and the cursor to resume behind."""
    with running("--port=0") as (_, url):
        trio.run(lambda: say(url, '{"n": 1.50}', type="t", datacontenttype="application/json", id="1"))
        with started("subscribe", "--url", url, "--since", "start", "--json") as process:
            line = file(process.stdout).readline()
        assert '"data":{"n": 1.50}' in line
        event = json.loads(line)
        assert (event["id"], event["type"], event["cursor"].rpartition(":")[2]) == ("1", "t", "1")
        cursor = event["cursor"]
        trio.run(lambda: say(url, "second"))
        with started("subscribe", "--url", url, "--since", cursor) as process:
            assert file(process.stdout).readline() == "second\n"


def test_subscribe_over_a_restart() -> None:
    """It says what it does on stderr, goes on printing, and is told what it can't have any more."""
    with running("--port", str(free_port())) as (server, url):
        with started("subscribe", "--url", url) as process:
            assert until(process.stderr, "connected") == (
                f"trionotify: connected to {url}/events as subscriber\n"
            )
            trio.run(lambda: say(url, "before"))
            assert file(process.stdout).readline() == "before\n"
            server.kill()
            assert "trying again in" in until(process.stderr, "the connection was lost")
            with running("--port", url.rpartition(":")[2]):
                until(process.stderr, "connected")
                until(process.stderr, "the log has begun again")
                trio.run(lambda: say(url, "after"))
                assert file(process.stdout).readline() == "after\n"
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=120) == 130
                assert "Traceback" not in file(process.stderr).read()


def test_subscribe_to_a_server_that_goes_down() -> None:
    """In good order: it says so, and that it will come back."""
    with running("--port=0") as (server, url), started("subscribe", "--url", url) as process:
        until(process.stderr, "connected")
        server.terminate()
        assert "trying again in" in until(process.stderr, "closed: 1012")
        process.terminate()
        assert process.wait(timeout=120) == 128 + signal.SIGTERM


def test_subscribe_into_a_closed_pipe() -> None:
    """Like `head`: it ends quietly."""
    with running("--port=0") as (_, url), started("subscribe", "--url", url) as process:
        until(process.stderr, "connected")
        trio.run(lambda: say(url, "1"))
        assert file(process.stdout).readline() == "1\n"
        file(process.stdout).close()
        trio.run(lambda: say(url, "2"))
        assert process.wait(timeout=120) == 0
        assert file(process.stderr).read() == ""


@pytest.mark.parametrize(("code", "exit_code"), [(1000, 0), (4403, 1)])
async def test_subscribe_is_told_not_to_come_back(code: int, exit_code: int) -> None:
    """It ends with the reason; the exit code is 0 if the session just ended."""

    async def session(client: Client) -> None:
        client.close(code, "that is why")

    async with open_server(port=0, session=session, close_timeout=600) as server:
        done = await trio.to_thread.run_sync(run, "subscribe", "--url", server.url)
        assert done.returncode == exit_code
        assert done.stderr.splitlines()[-1] == f"trionotify: closed: {code} that is why"


async def test_subscribe_goes_on_behind_what_cant_be_read() -> None:
    """It costs that message, and a line on stderr."""

    async def script(server: FakeServer) -> None:
        await server.welcome()
        await server.say("a.b", "before", "e:1", datacontenttype="text/plain")
        await server.websocket.send_message("[" * 100_000)
        await server.say("a.b", "behind", "e:3", datacontenttype="text/plain")
        await server.websocket.aclose(1000)

    async with trio.open_nursery() as nursery:
        serve = partial(run_fake, script=script)
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        command = [*COMMAND, "subscribe", "--url", url]
        with trio.fail_after(120):
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
        nursery.cancel_scope.cancel()
    assert done.stdout == b"before\nbehind\n"
    lines = [line for line in done.stderr.decode().splitlines() if "can't be read" in line]
    assert len(lines) == 1
    assert lines[0].startswith("trionotify: subscriber: skipped a message that can't be read: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sql", "type ="], "line 1, column 7"),
        (["--filters", "["], "--filters: not valid JSON"),
        (["--filter", "["], "--filters: not valid JSON"),
        (["--since", "yesterday"], "since: "),
        (["--id", ""], "id: must have 1 to 255 characters"),
        (["--url", "ftp://x"], "url: must start with http, https, ws, wss or unix"),
    ],
)
def test_subscribe_says_what_is_wrong(options: list[str], words: str) -> None:
    """Before it connects."""
    done = run("subscribe", "--url", "http://127.0.0.1:1", *options)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["subscribe"], ["publish", "x"]])
async def test_refused(command: list[str]) -> None:
    """In the server's words."""

    def authenticate(request: Request) -> Client:
        raise Refused(403, "team: not yours")

    async with open_server(port=0, authenticate=authenticate) as server:
        done = await trio.to_thread.run_sync(run, *command, "--url", server.url)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == "trionotify: 403: team: not yours"
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("command", "lines"), [(["subscribe"], 1), (["publish", "x"], 2)])
def test_nobody_listens(command: list[str], lines: int) -> None:
    """The first connection is not tried again, because the address may be wrong."""
    done = run(*command, "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "http://127.0.0.1:1/events: Connection refused; is the server running?" in done.stderr
    assert len(done.stderr.splitlines()) == lines


def test_a_server_at_a_unix_socket(tmp_path: Path) -> None:
    """`--url` takes the address on its first line. Without the socket, the error says what to do."""
    with running("--unix", str(tmp_path / "hub.sock")) as (_, url):
        with started("subscribe", "--url", f"{url}?exact.type=a") as process:
            assert until(process.stderr, "connected") == (
                f"trionotify: connected to {url} as subscriber\n"
            )
            assert run("publish", "--url", url, "no").returncode == 0
            assert run("publish", "--url", url, "--type", "a", "grüße").returncode == 0
            assert file(process.stdout).readline() == "grüße\n"
        done = run("top", "--once", "--url", url)
        assert (done.returncode, "published" in done.stdout) == (0, True)
    (tmp_path / "hub.sock").unlink(missing_ok=True)
    for command in (["subscribe"], ["publish", "x"], ["top", "--once"]):
        done = run(*command, "--url", url)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            f"trionotify: {url}: No such file or directory; start a server there, with --unix, or give"
            " another path"
        )


# --- publish ---


async def test_publish_a_text() -> None:
    """With its attributes; it says that it was acknowledged."""
    async with open_server(port=0) as server, server.hub.subscribe() as seen:
        options = ["--url", server.url, "--id", "al", "--type", "t", "--subject", "s", "--to", "bo"]
        done = await trio.to_thread.run_sync(run, "publish", *options, "grüße")
        assert done.returncode == 0
        assert done.stderr.splitlines()[-1] == "trionotify: 1 acknowledged"
        heard = await anext(seen)
        assert (heard.data, heard.type, heard.subject, heard.to) == ("grüße", "t", "s", "bo")
        assert heard.source == "/clients/al"


async def test_publish_with_any_attribute() -> None:
    """By options of their own, or by `--attribute`; `--audience` says who gets it."""
    async with open_server(port=0) as server, server.hub.subscribe() as seen:
        options = ["--datacontenttype=application/json", "--source=/me", "--attribute=note=a=b"]
        options += ["--attribute=expirytime=2999-01-01T00:00:00Z", '--audience={"exact":{"team":"x"}}']
        done = await trio.to_thread.run_sync(
            lambda: run("publish", "--url", server.url, *options, '{"a": 1}')
        )
        assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "trionotify: 1 acknowledged")
        heard = await anext(seen)
        assert (heard.data, heard.source) == ('{"a": 1}', "/me")
        assert heard.datacontenttype == "application/json"
        assert heard.extensions == {"note": "a=b", "expirytime": "2999-01-01T00:00:00Z"}
        assert heard.audience == Exact(team="x")


async def test_publish_a_file() -> None:
    """Line by line, in order, the last one also without an end; several at a time."""
    lines = [f"grüße {n}" for n in range(1000)]
    async with open_server(port=0) as server, server.hub.subscribe() as seen:
        # The byte order mark that an editor has put there is no part of it.
        text = "\ufeff" + "\r\n".join(lines[:500]) + "\n" + "\n".join(lines[500:])
        done = await trio.to_thread.run_sync(
            lambda: run("publish", "--url", server.url, "-", stdin=text)
        )
        assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "trionotify: 1000 acknowledged")
        assert [(await anext(seen)).data for _ in lines] == lines


def test_publish_over_a_restart() -> None:
    """Each line as soon as it is there, or when a server listens again."""
    own_port = ("--port", str(free_port()))
    with running(*own_port) as (server, url), started("publish", "--url", url) as process:
        with started("subscribe", "--url", url, "--since", "start") as first:
            feed(process, "1")
            assert file(first.stdout).readline() == "1\n"
            feed(process, "2")
            assert file(first.stdout).readline() == "2\n"
        server.kill()
        until(process.stderr, "trying again in")
        feed(process, "3", "4")
        with running(*own_port):
            with started("subscribe", "--url", url, "--since", "start") as second:
                feed(process, "5")
                lines = [*iter(file(second.stdout).readline, "5\n")]
                # The second line comes again if the server was killed before it was acknowledged.
                assert lines in (["3\n", "4\n"], ["2\n", "3\n", "4\n"])
            file(process.stdin).close()
            assert process.wait(timeout=120) == 0
            assert file(process.stderr).read().splitlines()[-1] == "trionotify: 5 acknowledged"


def test_publish_is_interrupted() -> None:
    """While it waits for a line. It says how many were acknowledged, and the exit code is 130."""
    with running("--port=0") as (_, url), started("publish", "--url", url) as process:
        with started("subscribe", "--url", url, "--since", "start") as subscriber:
            feed(process, "1")
            assert file(subscriber.stdout).readline() == "1\n"
            feed(process, "2")
            assert file(subscriber.stdout).readline() == "2\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
        said = file(process.stderr).read()
        last = said.splitlines()[-1]
        assert re.fullmatch(
            r"trionotify: (2 acknowledged|1 acknowledged, 1 not|0 acknowledged, 2 not)", last
        )
        assert "Traceback" not in said
        assert "Fatal" not in said


async def test_publish_what_is_not_taken() -> None:
    """It says which reason there is, and how many were; the exit code is 1."""
    async with open_server(port=0, max_message_bytes=1000, close_timeout=600) as server:
        text = "1\n2\n" + "x" * 1000 + "\n"
        done = await trio.to_thread.run_sync(lambda: run("publish", "--url", server.url, stdin=text))
        assert done.returncode == 1
        assert f"closed: {CloseCode.MESSAGE_TOO_BIG:d}" in done.stderr.splitlines()[-1]
        options = ["--url", f"{server.url}/?datacontenttype=application/json"]
        done = await trio.to_thread.run_sync(
            lambda: run("publish", *options, stdin='{"n": 1}\nno\n{"n": 3}\n')
        )
        assert done.returncode == 1
        count, reason = done.stderr.splitlines()[-2:]
        assert count == "trionotify: 1 acknowledged"
        assert reason.startswith("trionotify: data: not valid JSON")


def test_nothing_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    """With a durable log: `publish` and `subscribe` over three kills, each line once and in order."""
    store = ["--store", f"sqlite:{tmp_path / 'log.db'}", "--durability", "normal"]
    lines = [f"line {n}" for n in range(400)]
    got: list[str] = []
    port = str(free_port())
    with ExitStack() as clients:
        for life in range(4):
            with running("--port", port, *store) as (_, url):
                if life == 0:
                    subscriber = clients.enter_context(started("subscribe", "--url", url))
                    until(subscriber.stderr, "connected")
                    publisher = clients.enter_context(started("publish", "--url", url))
                feed(publisher, *lines[life * 100 : life * 100 + 100])
                if life == 3:
                    file(publisher.stdin).close()
                while len(got) < (400 if life == 3 else life * 100 + 50):
                    got.append(file(subscriber.stdout).readline().rstrip("\n"))
                if life == 3:
                    assert publisher.wait(timeout=120) == 0
            # Killed, in the midst of it.
        subscriber.send_signal(signal.SIGINT)
        assert subscriber.wait(timeout=120) == 130
        assert file(subscriber.stdout).read() == ""
        assert until(publisher.stderr, "acknowledged") == "trionotify: 400 acknowledged\n"
    assert got == lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_log_is_followed_over_restarts(number: signal.Signals, tmp_path: Path) -> None:
    """`tail -F` of a log that is written all the while, and rotated: each line comes, and once."""
    need(shutil.which("tail"), "no tail is installed")
    store = ["--store", f"sqlite:{tmp_path / 'log.db'}"]
    log = tmp_path / "app.log"
    written: list[str] = []
    got: list[str] = []
    stop = threading.Event()

    def write(upto: int, pause: float = 0.002) -> None:
        with log.open("a", buffering=1) as file:
            while len(written) < upto and not stop.wait(pause):
                written.append(f"{len(written)} grüße")
                file.write(f"{written[-1]}\n")

    def hear(upto: int) -> None:
        while len(got) < upto:
            line = file(subscriber.stdout).readline()
            assert line, "it ended"
            got.append(line.rstrip("\n"))

    log.touch()
    with ExitStack() as stack:
        port = str(free_port())
        server, url = stack.enter_context(running("--port", port, *store))
        subscriber = stack.enter_context(started("subscribe", "--url", url))
        until(subscriber.stderr, "connected")
        tail = stack.enter_context(
            subprocess.Popen(["tail", "-n", "+1", "-F", str(log)], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(tail.kill)
        publisher = stack.enter_context(
            subprocess.Popen(
                [*COMMAND, "publish", "--type=log.app", "--url", url, "-"],
                stdin=tail.stdout,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(publisher.kill)
        for life in range(1, 4):
            writer = threading.Thread(target=write, args=(life * 600,))
            writer.start()
            stack.callback(stop.set)
            # In the midst of it:
            hear(life * 600 - 500)
            server.send_signal(number)
            assert server.wait(timeout=120) == (0 if number == signal.SIGTERM else -number)
            server, _ = stack.enter_context(running("--port", port, *store))
            writer.join()
            hear(life * 600)
            log.rename(tmp_path / f"app.log.{life}")
            log.touch()
        tail.terminate()
        assert publisher.wait(timeout=120) == 0
        assert until(publisher.stderr, " acknowledged") == "trionotify: 1800 acknowledged\n"
        subscriber.send_signal(signal.SIGINT)
        assert subscriber.wait(timeout=120) == 130
        assert file(subscriber.stdout).read() == ""
    assert got == written
    logs = [*(tmp_path / f"app.log.{life}" for life in (1, 2, 3)), log]
    assert got == [line for path in logs for line in path.read_text().splitlines()]
