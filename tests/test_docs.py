"""README and docs: programs run and print what is shown, links lead somewhere, tables are complete."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import parse_qsl

import click
import pytest
import trio
import trio.testing

import trionotify
from tests.cli.test_main import run, running
from tests.cli.test_pubsub import started, until
from tests.conftest import open_room
from tests.eventstream import NDJSON, stream
from tests.fleet.line import open_line
from tests.fleet.server import free_port
from tests.kernel import masked
from tests.test_layout import ROOMS, modules, room_of
from tests.test_peers import need
from trionotify import CloseCode, Server, open_server, sign
from trionotify.cli.publish import publish
from trionotify.cli.serve import serve
from trionotify.cli.subscribe import subscribe
from trionotify.connection.frames import message_frame
from trionotify.http.secret import Secret

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()

_PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
_ALL = re.DOTALL | re.MULTILINE
_JSON = re.compile(r"^```json\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"^```.*?^```$", _ALL)
_LINK = re.compile(r"\]\(([^)#:]*)(#[^)]*)?\)")

PROGRAMS = [
    pytest.param(*found.groups(), id=f"{page.name}-{number}")
    for page in PAGES
    for number, found in enumerate(_PROGRAM.finditer(page.read_text()), 1)
]


@pytest.mark.parametrize(("program", "shown"), PROGRAMS)
def test_programs_print_what_is_shown(program: str, shown: str) -> None:
    """Each is whole, and runs without a warning."""
    command = [sys.executable, "-W", "error", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_snippet_is_such_a_program(page: Path) -> None:
    """None escapes the test above."""
    text = page.read_text()
    assert text.count("```python\n") == len(_PROGRAM.findall(text))


_EPOCH = re.compile(r"\b[0-9a-f]{12}(?=:\d+$|$)")


def normal(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what is different each time."""
    if event["source"] == "/trionotify":
        event["id"] = "ID"
    if "time" in event:
        event["time"] = "TIME"
    if "retry_after_ms" in event["data"]:
        event["data"]["retry_after_ms"] = 0
    text = json.dumps(event, sort_keys=True)
    return cast("dict[str, Any]", json.loads(text, object_hook=_without_epoch))


def _without_epoch(found: dict[str, Any]) -> dict[str, Any]:
    return {k: _EPOCH.sub("EPOCH", v) if isinstance(v, str) else v for k, v in found.items()}


async def test_every_event_is_what_is_shown(autojump_clock: trio.testing.MockClock) -> None:
    """The page's messages, sent to a server, are answered by the page's events and no others."""
    blocks = _JSON.findall((ROOT / "docs" / "wire.md").read_text())
    shown = [json.loads(block) for block in blocks]
    published, bad, subscribe = (
        block for block, event in zip(blocks, shown, strict=True) if event.keys() <= _SENT
    )
    async with open_room(max_log_entries=100, ping_interval=1e6) as room:
        for _ in range(41):
            await room.hub.publish(confirm=True, type="news")
        peer = await room.connect(
            f"/?id=alice&role=both&exact.type=order.paid&since={room.hub.log.epoch}:39",
            "Sec-WebSocket-Protocol: cloudevents.json",
        )
        for message in (published, bad, subscribe):
            peer.kernel.feed(masked(message_frame(message)))
            await room.quiet()
        await room.hub.publish(type="news", confirm=True)
        await trio.sleep(60)
        peer.kernel.stall()
        for _ in range(200):
            await room.hub.publish(type="order.paid", confirm=True)
        peer.kernel.credit = None
        peer.kernel.grant(0)
        await room.quiet()
    heard = [json.loads(message) for message in peer.look().messages]
    heard = [event for event in heard if event["source"] != "/hub"]
    expected = [event for event in shown if not event.keys() <= _SENT]
    found = [json.dumps(normal(event), sort_keys=True) for event in heard]
    assert sorted(found) == sorted(json.dumps(normal(event), sort_keys=True) for event in expected)


#: The members of what the page's client sends.
_SENT = {"specversion", "id", "source", "type", "subject", "data"}


def anchors(page: Path) -> set[str]:
    """Where links into a page can lead, spelled as GitHub does."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and a heading that it has."""
    for path, anchor in _LINK.findall(_CODE.sub("", page.read_text())):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), path + anchor


@pytest.mark.parametrize("command", [serve, publish, subscribe], ids=lambda command: command.name)
def test_the_configuration_has_every_option(command: click.Command) -> None:
    """It has the words and the default that `--help` has, and may say more."""
    page = CONFIGURATION.partition("\n## publish and subscribe\n")[command is not serve and 2]
    rows = re.findall(r"^\| `(--[\w-]+)`.*? \| ([^|]*?) ?\| ([^|]+) \|$", page, re.MULTILINE)
    table = {name: (plain(default), plain(about)) for name, default, about in rows}
    for option in command.params:
        if isinstance(option, click.Option):
            about, _, default = plain(option.help or "").partition("  [default: ")
            said = table[option.opts[0]]
            assert said[1].startswith(about), option
            assert said[0] == (default.removesuffix("]") or _default(option)), option


def _default(option: click.Option) -> str:
    """The default that click shows by itself."""
    if not option.show_default:
        return ""
    value = option.default[0] if isinstance(option.default, list) else option.default
    return option.opts[0] if value is True else str(value)


def plain(cell: str) -> str:
    """Text of a table without links and marks of code."""
    return re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", cell).replace("`", "")


def test_the_reference_has_every_close_code() -> None:
    """And whether to reconnect."""
    for code in CloseCode:
        row = re.search(rf"^\| {code:d} \| `{code.name}` \| .* \| (yes|no) \|$", REFERENCE, re.MULTILINE)
        assert row, code
        assert row[1] == ("yes" if code.reconnect else "no")


def test_the_api_page_has_every_public_name() -> None:
    """And none besides."""
    page = (ROOT / "docs" / "api.md").read_text()
    named = re.findall(r"^\.\. auto\w+:: (\w+)", page, re.MULTILINE)
    assert sorted(named) == sorted([*trionotify.__all__, "evaluate", "parse"])


def test_how_it_works_has_every_module() -> None:
    """In its room; of those that are libraries by themselves, the room."""
    table = (ROOT / "docs" / "how-it-works.md").read_text().partition("| room |")[2].partition("\n\n")[0]
    named, room = set(), ""
    for line in table.splitlines()[2:]:
        _, place, names, *_ = (cell.strip() for cell in line.split("|"))
        room = place.strip("`") if place else room
        prefix = "" if room == "ground floor" else f"{room}."
        named |= {prefix + name for name in re.findall(r"`(\w+)`", names)} or {room}
    libraries = {"cesql", "storage"}
    found = {room_of(name) if room_of(name) in libraries else name for name in modules()}
    assert named == found - (ROOMS.keys() - libraries) - {"__main__"}


#: What differs each time: the log's epoch, ids, times, the moment to come back.
_VARIES = {
    r"\b[0-9a-f]{12}(?=:\d)|(?<=\"epoch\":\")[0-9a-f]{12}": "EPOCH",
    r"\"id\":\"[0-9a-f]{12}-\d+\"": '"id":"ID"',
    r"\"time\":\"[^\"]*\"": '"time":"TIME"',
    r"(?<=\nDate: ).*": "DATE",
    r"(?<=retry: )\d+|(?<=_after_ms\":)\d+": "LATER",
}


def without_what_varies(text: str) -> str:
    for pattern, word in _VARIES.items():
        text = re.sub(pattern, word, text)
    return text


async def test_every_stream_is_what_is_shown(autojump_clock: trio.testing.MockClock) -> None:
    """The page's head and its three bodies, to the byte."""
    head, *bodies = re.findall(r"^```text\n(.*?)^```$", (ROOT / "docs" / "streams.md").read_text(), _ALL)
    async with open_room() as room:
        for _ in range(41):
            await room.hub.publish(type="news", confirm=True)
        target = "/events?id=alice&prefix.type=disk."
        peers = [
            await stream(room, target),
            await stream(room, target + "&format=cloudevents"),
            await stream(room, target, NDJSON),
        ]
        for data, kind in (("/var is full\non db1", "full"), (b"\0\xff", "image")):
            await room.hub.publish(data, type=f"disk.{kind}", source="/db1", confirm=True)
        await room.hub.publish("not for alice", type="news", confirm=True)
        await trio.sleep(75)
        room.nursery.start_soon(room.hub.drain)
        await room.quiet()
    found = bytes(peers[0].kernel.taken).partition(b"\r\n\r\n")[0].decode().replace("\r\n", "\n") + "\n"
    assert without_what_varies(found) == without_what_varies(head)
    for peer, body in zip(peers, bodies, strict=True):
        assert without_what_varies(peer.look().body.decode()) == without_what_varies(body)


_HTTP = (ROOT / "docs" / "http.md").read_text()
_CURLS = re.findall(
    r"^```console\n\$ (curl (?!-N).*POST|curl -[dH] .*)\n(.*\n)```$", _HTTP, re.MULTILINE
)


async def test_curl_is_answered_as_is_shown() -> None:
    """All four ways to publish, one after the other, to one client; and what is refused."""
    need(shutil.which("curl"), "no curl is installed")
    assert len(_CURLS) == 6
    async with open_server(port=0) as server, server.hub.subscribe(), open_line(server.port, {}):
        for command, shown in _CURLS:
            words = shlex.split(_at(server, command))
            run = await trio.run_process(words, capture_stdout=True, capture_stderr=True)
            assert without_what_varies(run.stdout.decode()) == without_what_varies(shown)


@pytest.mark.parametrize(
    ("language", "command"),
    [
        ("py", (sys.executable, "-c")),
        ("js", ("node", "--input-type=module", "--eval")),
        ("php", ("php", "-r")),
    ],
)
async def test_programs_of_other_languages_publish(language: str, command: tuple[str, ...]) -> None:
    """And print the cursor of what came of it."""
    need(shutil.which(command[0]), f"no {command[0]} is installed")
    program, *_ = re.findall(rf"^```{language}\n(?:<\?php\n)?(.*?)^```$", _HTTP, _ALL)
    async with open_server(port=0) as server, server.hub.subscribe() as notifications:
        run = await trio.run_process([*command, _at(server, program)], capture_stdout=True)
        notification = await anext(aiter(notifications))
        assert (notification.type, json.loads(notification.data)) == ("order.paid", {"amount": 12})
        assert run.stdout.decode().strip() == f"{server.hub.log.epoch}:1"


_SECURITY = (ROOT / "docs" / "security.md").read_text()
_LANGUAGES = {
    "py": (sys.executable, "-W", "error", "-c"),
    "mjs": ("node", "--input-type=module", "--eval"),
    "php": ("php", "-r"),
}
_SIGNING = [
    pytest.param(_LANGUAGES[language], program, id=f"{language}-{number}")
    for number, (language, program) in enumerate(
        re.findall(r"^```(py|mjs|php)\n(?:<\?php\n)?(.*?)^```$", _SECURITY, _ALL), 1
    )
]


def test_there_are_programs_that_sign() -> None:
    """Python with trionotify and without it, Node, PHP."""
    assert [param.id for param in _SIGNING] == ["py-1", "py-2", "mjs-3", "php-4"]
    assert "trionotify" not in str(_SIGNING[1].values[1])


@pytest.mark.parametrize(("command", "program"), _SIGNING)
def test_programs_of_other_languages_sign(
    command: tuple[str, ...], program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They print the same as `trionotify.sign`, and a server accepts it."""
    need(shutil.which(command[0]), f"no {command[0]} is installed")
    secret = "the secret of this test"
    environment = {**os.environ, "SECRET": secret}
    run = subprocess.run(
        [*command, program], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    params = dict(parse_qsl(run.stdout.strip(), strict_parsing=True))
    left = Secret(secret.encode()).check(params) - time.time()
    assert 700 < left <= 900
    monkeypatch.setattr(time, "time", lambda: float(params["exp"]) - 900)
    ours = sign({"id": "alice", "exact.team": "o'ps (1)"}, secret, expires_in=900)
    assert params == dict(parse_qsl(ours))


_CONSOLE = re.compile(r"^```console\n(.*?)^```$", _ALL)
_README = (ROOT / "README.md").read_text()
_OPERATING = (ROOT / "docs" / "operating.md").read_text()


class Terminal:
    """A shell in which the commands of a transcript are typed, one after the other.

    Each is done when as many lines have come as are shown.
    """

    def __init__(self, block: str, directory: Path, port: int) -> None:
        self.shown = block
        self.seen = ""
        self._port = str(port)
        #: What follows each prompt.
        self._steps = block.split("$ ")[1:]
        self._bash = subprocess.Popen(
            ["bash"],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # In place of the defaults.
            env={
                **os.environ,
                "TRIONOTIFY_PORT": self._port,
                "TRIONOTIFY_URL": f"http://127.0.0.1:{port}",
            },
        )
        #: Lines that don't come would be waited for without an end.
        self._patience = threading.Timer(300, os.killpg, (self._bash.pid, signal.SIGKILL))
        self._patience.start()

    def type(self) -> None:
        """The next command. What it says is to be read."""
        command = self._steps[0].partition("\n")[0]
        self.seen += f"$ {command}\n"
        real = command.replace(".venv/bin/python -m", f"{shlex.quote(sys.executable)} -m")
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{real.replace('curl ', 'curl -s ').replace('8765', self._port)}\n")
        self._bash.stdin.flush()

    def read(self, lines: int | None = None) -> None:
        """So many lines of what the command says, or all that are shown."""
        assert self._bash.stdout is not None
        for _ in range(self._steps[0].count("\n") - 1 if lines is None else lines):
            line = self._bash.stdout.readline()
            while "refused; trying again" in line:  # it was faster than the server, however often
                line = self._bash.stdout.readline()
            assert line, f"{self.seen}\nand no more came"
            self.seen += line.replace(self._port, "8765")
        if lines is None:
            del self._steps[0]

    def type_all(self) -> None:
        """All that are left."""
        while self._steps:
            self.type()
            self.read()

    def close(self) -> None:
        """End the shell and all that runs in it."""
        self._patience.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.communicate()


def _without_luck(text: str) -> str:
    """Nor what depends on how soon alice is back."""
    text = re.sub(r"trying again in \d+\.\d s", "trying again in SOME s", without_what_varies(text))
    return re.sub(r'(EPOCH:5","wanted":)\d,"written":\d,"behind":\d', r"\1SOME", text)


def test_the_readme_starts_with_what_starts_the_server() -> None:
    """Nothing stands in front of the two commands that a new user could type instead.

    The one block before them shows what it is like.
    """
    (shown, _), *blocks = re.findall(r"^```(\w+)\n(.*?)^```$", _README, _ALL)
    assert shown == "text"
    assert [language for language, _ in blocks[:3]] == ["sh", "sh", "console"]
    for (_, command), end in zip(
        blocks, ["-m trionotify\n", "-m pytest -n auto --dist worksteal\n"], strict=False
    ):
        assert command.startswith("python3 -m venv .venv && ")
        assert command.endswith(end)
        assert command.count("\n") == 1
    # All that follows runs in what they have set up.
    later = "".join(block for _, block in blocks[2:])
    assert set(re.findall(r"(\S*python3?) (?:-m|docs)", later)) == {".venv/bin/python", "python3"}
    assert later.count("python3") == 1


async def test_the_readme_begins_with_what_happens() -> None:
    """A stream, and what is published to it."""
    need(shutil.which("curl"), "no curl is installed")
    (block,) = re.findall(r"^```text\n(.*?)^```\n\n\|", _README, _ALL)
    first, second = re.findall(r"^\$ (curl \S+ .*'.*')  +#.*\n((?:(?!\$).*\n)*)", block, re.MULTILINE)
    async with open_server(port=0) as server, trio.open_nursery() as nursery:
        words = shlex.split(_at(server, first[0]))
        start = partial(trio.run_process, words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        stream = await nursery.start(partial(start, check=False))
        seen = b""
        while b"\n\n" not in seen:
            seen += await stream.stdout.receive_some()
        done = await trio.run_process([*shlex.split(_at(server, second[0])), "-s"], capture_stdout=True)
        while seen.count(b"\n\n") < 2:
            seen += await stream.stdout.receive_some()
        nursery.cancel_scope.cancel()
    assert without_what_varies(seen.decode()) == without_what_varies(first[1])
    assert without_what_varies(done.stdout.decode()) == without_what_varies(second[1])


def test_the_readme_shows_what_happens(tmp_path: Path) -> None:
    """Its two terminals: filters by query, one client alone, and a restart that loses nothing."""
    need(shutil.which("curl"), "no curl is installed")
    port = free_port()
    first, second, rest = _CONSOLE.findall(_README)
    ours, hers = [Terminal(block, tmp_path, port) for block in (first + rest, second)]
    try:
        # Typed from the top: none of it needs what comes later.
        ours.type()
        ours.read()
        hers.type()
        hers.read(1)
        ours.type_all()
        hers.read(hers.shown.count("\n") - 2)
    finally:
        hers.close()
        ours.close()
    for terminal in (hers, ours):
        assert _without_luck(terminal.seen) == _without_luck(terminal.shown)
    assert "INFO drained in" in (tmp_path / "server.log").read_text()


# --- the log ---


def _log_of_a_life(format: str) -> list[str]:
    """The log of a server that does everything that the page describes."""
    with running("--port=0", "--log-format", format) as (process, url):
        run("publish", "--url", f"{url}/?id=shop", "--type=order.paid", "one")
        lines = until_seen(process.stderr, "client 'shop'")
        stream = urllib.request.Request(
            f"{url}/events?id=al&since=yesterday", headers={"Accept": "text/event-stream"}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(stream)
        caught.value.close()
        with started("subscribe", "--url", f"{url}/?id=alice", "--since=start") as alice:
            until(alice.stdout, "one")
            process.send_signal(signal.SIGHUP)
            lines += until_seen(process.stderr, "SIGHUP")
            process.send_signal(signal.SIGTERM)
            return lines + process.communicate(timeout=120)[1].splitlines()


def until_seen(stream: IO[str] | None, words: str) -> list[str]:
    """The lines up to one that has these words in it."""
    assert stream is not None
    lines: list[str] = []
    while not lines or words not in lines[-1]:
        lines.append(stream.readline().rstrip("\n"))
        assert lines[-1], lines
    return lines


def _shape(text: str) -> str:
    """A line of the log without its time, ports and durations."""
    text = re.sub(r"^[-\d]+ [:,\d]+|\d{4}-\d\d-\d\dT[:.\d]+Z", "TIME", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", text)
    return re.sub(r"\d+\.\d s(?=,)|(?<=drained in )\d+\.\d|\"seconds\":[\d.]+", "SECONDS", text)


def test_the_log_is_what_is_shown(tmp_path: Path) -> None:
    """For people, for machines, and counted by jq."""
    page = _OPERATING.partition("## Logs")[2]
    text, counted = _CONSOLE.findall(page)
    (shown,) = _JSON.findall(page)
    assert [_shape(line) for line in _log_of_a_life("text")] == [
        _shape(line) for line in text.splitlines() if not line.startswith("$")
    ]
    lines = _log_of_a_life("json")
    assert _shape(shown.strip()) in [_shape(line) for line in lines]
    fields = _fields()
    for event in map(json.loads, lines):
        assert set(event) - {"time", "level", "logger", "message", "event"} == fields[event["event"]]
    need(shutil.which("jq"), "no jq is installed")
    (tmp_path / "server.log").write_text("\n".join(lines))
    commands = counted.split("$ ")[1:]
    assert len(commands) == 2
    for command, answer in (step.split("\n", 1) for step in commands):
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout == answer


def _fields() -> dict[str, set[str]]:
    """The fields of each event in the page's table."""
    row = r"^\| (`[^|]*) \| (?:info|warning|error) \| .* \| (.*)\|$"
    return {
        event: set(re.findall(r"`(\w+)`", fields))
        for events, fields in re.findall(row, _OPERATING, re.MULTILINE)
        for event in re.findall(r"`(\w+)`", events)
    }


def test_every_event_of_the_log_is_in_the_table() -> None:
    """And none besides."""
    sources = "".join(path.read_text() for path in (ROOT / "trionotify").rglob("*.py"))
    named = re.findall(r'"event": "(\w+)"|\bevent="(\w+)"|error, "(\w+_failed)"', sources)
    assert set(_fields()) == {name for names in named for name in names if name}


def _at(server: Server, text: str) -> str:
    return text.replace("127.0.0.1:8765", f"127.0.0.1:{server.port}")
