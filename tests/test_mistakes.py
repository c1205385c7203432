"""Mistakes that people make, and what they are told: the thing at fault, and what to do about it.

One row for each mistake. Where it is made is one of `over_http`, `in_the_log`, `on_the_command_line` and
`in_python`; each returns what a person reads then. A mistake that was not noticed fails the test.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.conftest import open_room
from tests.test_cli import COMMAND, run
from tests.web import Web, get, post
from trionotify import TrionotifyError, open_hub, sign
from trionotify.stdio import Mistake as CommandMistake
from trionotify.top import watch

#: What a person reads; it is given a directory for files.
Told = Callable[[Path], Awaitable[str]]

SECRET = "0123456789abcdef0123456789abcdef"
SUBSCRIBER = sign("id=al", SECRET)


def over_http(method: str, target: str, *fields: str, body: str = "", **options: Any) -> Told:
    """The reason of the refusal, or the warning in the receipt."""

    async def told(_: Path) -> str:
        async with open_room(**options) as room:
            request = post(target, body, *fields) if method == "POST" else get(target, *fields)
            answer = await Web(room).ask(request, method)
            assert len(room.hub.clients) == 0
            if answer.status == 200:
                return str(answer.json["warning"])
            assert room.hub.log.head == 0
            return str(answer.json["detail"])

    return told


def in_the_log(method: str, target: str, *fields: str, **options: Any) -> Told:
    """The line that the server's log has for the same."""

    async def told(directory: Path) -> str:
        lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign] # shorter than a class
        logger = logging.getLogger("trionotify")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            await over_http(method, target, *fields, **options)(directory)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        return "\n".join(line for line in lines if "refused" in line)

    return told


def on_the_command_line(*arguments: str, files: dict[str, str] | None = None) -> Told:
    """What stands on stderr, in one line. `{tmp}` is a directory, `{port}` a port that is in use."""

    async def told(directory: Path) -> str:
        for name, text in (files or {}).items():
            (directory / name).write_text(text)
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            port = str(taken.getsockname()[1])
            words = [a.replace("{tmp}", str(directory)).replace("{port}", port) for a in arguments]
            done = await trio.to_thread.run_sync(lambda: run(*words))
        assert done.returncode in (1, 2)
        assert len(done.stderr.splitlines()) == 1
        return done.stderr

    return told


def in_python(make: Callable[[], Awaitable[object]]) -> Told:
    """What is raised."""

    async def told(_: Path) -> str:
        with pytest.raises((TypeError, ValueError, TrionotifyError, CommandMistake)) as caught:
            await make()
        return str(caught.value)

    return told


async def _top_without_rich() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "rich.console", None)
        await watch("http://127.0.0.1:1", 1.0, True)


async def _allow_a_misspelt_key() -> None:
    async with open_hub(allow_params=["room", "filter"]):
        pass


@attrs.frozen
class Row:
    """A mistake: its number, where it is made, and words of the answer."""

    number: str
    told: Told
    words: tuple[str, ...]


def row(number: str, told: Told, *words: str) -> Row:
    return Row(number, told, words)


_JSON = "Content-Type: application/json"
_SERVE = ("serve", "--port=0")

MISTAKES = [
    # A typing error would have sent a private notification to everyone.
    row("M1", over_http("POST", "/events?audience=ops", body="x"), "audience: a JSON array of filters"),
    row("M1", over_http("POST", "/events?audiance=[]", body="x"), "audiance: ", "'audience'?"),
    row("M1", over_http("POST", "/events?To=alice", body="x"), "To: ", "did you mean 'to'?"),
    row("M1", over_http("POST", "/events?recipient=al", body="x"), "recipient: ", "did you mean 'to'?"),
    row("M1", over_http("POST", "/events?user=al", body="x"), "user: ", "write to=ID or audience="),
    row("M1", over_http("POST", "/events?exact.team=a", body="x"), "exact.team: ", "or audience=[{"),
    row("M1", over_http("POST", "/events", _JSON, body='{"to": "al"}'), "'to'", "put to=ID into"),
    # Or would have subscribed to everything.
    row("M2", over_http("GET", "/events?filter=[]"), "filter: ", "did you mean 'filters'?"),
    row("M2", over_http("GET", "/events?exact=x"), "exact: ", "did you mean 'exact.ATTR=VALUE'?"),
    row("M2", over_http("GET", "/events?tpye=x"), "tpye: ", "did you mean 'type'?"),
    row("M2", over_http("GET", "/events?lastEventID=x"), "lastEventID: ", "mean 'last_event_id'?"),
    row("M2", over_http("GET", "/events?topic=x", allow_params="room"), "topic: ", "allow_params"),
    row("M2", over_http("GET", "/events?audience=[]"), "audience: only a POST", "attribute audience"),
    row("M2", in_python(_allow_a_misspelt_key), "'filter' is too much like 'filters'", "another name"),
    # The command line.
    row("M21", on_the_command_line("--port={port}"), "Address already in use", "--port"),
    row("M22", on_the_command_line("--prot", "0"), "No such option '--prot'", "'--port'"),
    row(
        "M23",
        on_the_command_line("subscribe", "--sql", "type = order.paid"),
        *("--sql: line 1, column 13", "a text needs quotes: 'order.paid'"),
    ),
    row(
        "M23",
        on_the_command_line("subscribe", "--sql", "type LIKE order.%"),
        *("a text in quotes is expected", "a text needs quotes: 'order.%'"),
    ),
    row("M23", over_http("GET", "/events?sql=type+%3D+a.b"), "sql: ", "a text needs quotes: 'a.b'"),
    row("M24", on_the_command_line("subscribe", "--filters", "["), "--filters: not JSON"),
    row(
        "M24",
        on_the_command_line("subscribe", "--filter", '[{"exakt": {}}]'),
        *("filters[0].exakt: no such dialect", "exact, prefix, suffix, all, any, not, sql"),
    ),
    row("M25", over_http("GET", "/clients", secret=SECRET.encode()), "Bearer SECRET, which is missing"),
    row(
        "M25",
        over_http("GET", "/clients", "Authorization: Bearer x", secret=SECRET.encode()),
        "Bearer SECRET; this isn't the server's",
    ),
    row(
        "M26",
        on_the_command_line(*_SERVE, "--host", "0.0.0.0"),
        *("0.0.0.0 can be reached", "--secret FILE", "127.0.0.1", "--insecure"),
    ),
    row(
        "M30",
        on_the_command_line(*_SERVE, "--secret", "{tmp}/nowhere"),
        *("secret: ", "/nowhere can't be read: No such file"),
    ),
    row(
        "M30",
        on_the_command_line(*_SERVE, "--store", "sqlite:{tmp}/no/x.db"),
        *("/no/x.db: No such file", "create the directory"),
    ),
    row(
        "M31",
        on_the_command_line("--config={tmp}/c", files={"c": "prot = 1"}),
        *("/c: there is no option 'prot'", "did you mean 'port'?"),
    ),
    row(
        "M31",
        on_the_command_line("--config={tmp}/c", files={"c": "[server]\nport = 1"}),
        *("/c: there is no option 'server'", "write the options without [server]"),
    ),
    row(
        "M32",
        on_the_command_line("--unix={tmp}/x", "--port=1"),
        *("--unix: a Unix socket has no port", "leave out --unix or --port"),
    ),
    row(
        "M32",
        on_the_command_line("--config={tmp}/c", files={"c": "unix = 'x'\nhost = 'localhost'"}),
        *("--unix: a Unix socket has no host", "leave out --unix or --host"),
    ),
    row("M33", in_python(_top_without_rich), "rich, which isn't installed", "pip install rich"),
    # What the operator sees, who can't see what a browser hides.
    row(
        "F5",
        in_the_log("GET", "/events", "Origin: http://localhost:3000"),
        *("refused: 403", "--allow-origin http://localhost:3000"),
    ),
    row("F20", in_the_log("GET", "/clients", secret=SECRET.encode()), "401", "authorization: missing"),
    row(
        "F20",
        in_the_log("GET", "/clients", "Authorization: Bearer x", secret=SECRET.encode()),
        *("401", "authorization: not the secret"),
    ),
    row("F20", over_http("POST", "/", body="x"), "POST is not allowed at /", "a POST to /events"),
    row("F20", over_http("POST", "/publish", body="x"), "'/publish'", "publish with a POST to /events"),
    row(
        "F21",
        over_http("POST", f"/events?{SUBSCRIBER}", body="x", secret=SECRET.encode()),
        *("role: a subscriber may not publish", "let the backend sign role=publisher"),
    ),
    row(
        "F21",
        over_http("POST", "/events?role=subscriber", body="x"),
        *("role: a subscriber may not publish", "write role=publisher, or no role"),
    ),
    row("F19", on_the_command_line("publish", "--attribute=a", "x"), "NAME=VALUE is needed, not 'a'"),
    row("F19", on_the_command_line("publish", "--attribute=to=al", "x"), "to", "write --to"),
    row("F19", on_the_command_line("publish", "--attribute=id=7"), "id: each line needs its own"),
    row("F19", on_the_command_line("publish", "--attribute=user_id=7", "x"), "'user_id' can't name an"),
    row("F19", on_the_command_line("publish", "--audience=ops", "x"), "--audience: not JSON"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.number)
async def test_a_mistake_is_answered(mistake: Row, tmp_path: Path) -> None:
    """With the thing at fault, and with what to do."""
    told = await mistake.told(tmp_path)
    for words in mistake.words:
        assert words in told


def test_a_terminal_is_told_what_is_read() -> None:
    """`publish` without a text waits for lines: it says so, before anything else."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
    master, slave = pty.openpty()
    try:
        with subprocess.Popen(
            [*COMMAND, "publish", "--url=http://127.0.0.1:1"],
            stdin=slave,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line == "trionotify: publishing each line that you type; Ctrl-D ends it\n"
            process.kill()
    finally:
        os.close(master)
        os.close(slave)
