"""Mistakes that people make, and what they are told: the thing at fault, and what to do about it.

One row for each mistake, with the whole answer. Where it is made is one of `over_http`, `in_the_log`,
`on_the_command_line`, `in_python`, `in_javascript` and the like; each returns what a person reads then.
In an answer, `TMP` is the directory of the test, and `PORT` a port. A mistake that is not noticed fails
the test. Two rows are mistakes no longer: publishing to a server with a handler, and publishing nothing.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import trionotify
from tests.cli.test_main import COMMAND, run
from tests.conftest import open_room
from tests.test_peers import need
from tests.web import Web, get, post
from trionotify import connect, open_hub, open_server, sign
from trionotify.cli.top import watch

#: What a person reads; it is given a directory for files.
Told = Callable[[Path], Awaitable[str]]

SECRET = "0123456789abcdef0123456789abcdef"
SUBSCRIBER = sign("id=al", SECRET)
MODULE = Path(trionotify.__file__).parent / "web" / "trionotify.js"


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
    """The lines that the server's log has for the same."""

    async def told(directory: Path) -> str:
        lines: list[str] = []

        def emit(record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

        handler = logging.Handler()
        handler.emit = emit  # type: ignore[method-assign] # shorter than a class
        logger = logging.getLogger("trionotify")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            await over_http(method, target, *fields, **options)(directory)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        return "\n".join(lines)

    return told


def on_the_command_line(*arguments: str, files: dict[str, str] | None = None) -> Told:
    """The line on stderr. `TMP` is a directory, `PORT` a port that is in use."""

    async def told(directory: Path) -> str:
        for name, text in (files or {}).items():
            (directory / name).write_text(text)
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            port = str(taken.getsockname()[1])
            words = [a.replace("TMP", str(directory)).replace("PORT", port) for a in arguments]
            done = await trio.to_thread.run_sync(lambda: run(*words))
        assert done.returncode in (1, 2)
        (line,) = done.stderr.splitlines()
        return line.replace(port, "PORT")

    return told


def in_python(make: Callable[[], Awaitable[object]]) -> Told:
    """The exception that this raises."""

    async def told(_: Path) -> str:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - all of what it says is compared
            await make()
        return str(caught.value)

    return told


def in_a_block(make: Callable[[], Any]) -> Told:
    """The exception that entering this raises."""

    async def enter() -> None:
        async with make():
            raise AssertionError("it was entered")

    return in_python(enter)


def publishing(data: object = "x", **attributes: Any) -> Told:
    """The exception that a hub raises when this is published."""

    async def publish() -> None:
        async with open_hub() as hub:
            await hub.publish(data, **attributes)  # type: ignore[arg-type] # the mistake is the point

    return in_python(publish)


def in_javascript(program: str) -> Told:
    """The error that this throws. There is no `WebSocket`, but one in the program that never opens."""

    async def told(_: Path) -> str:
        need(shutil.which("node"), "no Node.js is installed")
        script = f"""
            import {{ Trionotify }} from {json.dumps(MODULE.as_uri())};
            const WebSocket = class extends EventTarget {{ close() {{}} }};
            delete globalThis.WebSocket;
            try {{ {program} }} catch (error) {{ console.log(String(error)); process.exit(); }}
        """
        command = ["node", "--input-type=module", "--eval", script]
        done = await trio.run_process(command, capture_stdout=True)
        return done.stdout.decode().removesuffix("\n")

    return told


async def plain(client: object, message: object) -> None: ...


def not_async(client: object, message: object) -> None: ...


async def one_argument(message: object) -> None: ...


async def _iterate_over_what_was_not_entered() -> None:
    async with open_hub() as hub:
        _ = [each async for each in hub.subscribe()]


async def _forget_the_block() -> None:
    server: Any = open_server(port=0)
    server.hub  # noqa: B018 - that is the mistake


async def _await_the_block() -> None:
    opening: Any = open_server(port=0)
    await opening


async def _forget_async() -> None:
    opening: Any = open_server(port=0)
    with opening:
        pass


async def _forget_await(_: Path) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")  # whatever else is collected
        warnings.simplefilter("always", RuntimeWarning)
        async with open_hub() as hub:
            hub.publish("x")  # type: ignore[unused-coroutine] # the mistake is the point
            gc.collect()
    return "\n".join(str(one.message) for one in caught)


async def _publish_to_a_handler(_: Path) -> str:
    async with open_server(port=0, handler=plain) as server, connect(server.url) as client:
        with trio.fail_after(120):
            return f"acknowledged: {await client.publish('x')}"


async def _publish_nothing(_: Path) -> str:
    async with open_hub() as hub, hub.subscribe() as notifications:
        await hub.publish(None)
        return f"published: {(await anext(notifications)).data!r}"


async def _subscribe_since(since: object) -> None:
    async with open_hub() as hub:
        hub.subscribe(since=since)  # type: ignore[arg-type] # the mistake is the point


async def _top_without_rich() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "rich.console", None)
        await watch("http://127.0.0.1:1", 1.0, True)


def with_port(told: Callable[[int], Told]) -> Told:
    """At a port without a listener."""

    async def telling(directory: Path) -> str:
        with closing(socket.socket()) as silent:
            silent.bind(("127.0.0.1", 0))
            port = silent.getsockname()[1]
            return (await told(port)(directory)).replace(str(port), "PORT")

    return telling


async def _tls_to_a_server_without(directory: Path) -> str:
    async with open_server(port=0) as server:
        url = server.url.replace("http:", "https:")
        return (await in_a_block(lambda: connect(url))(directory)).replace(str(server.port), "PORT")


def without_trio(block: str) -> Told:
    """The last line of what a program says that is run with asyncio."""

    async def told(_: Path) -> str:
        program = f"""
import asyncio, trionotify
async def main():
    async with trionotify.{block}:
        pass
asyncio.run(main())
"""
        done = await trio.run_process([sys.executable, "-c", program], capture_stderr=True, check=False)
        return done.stderr.decode().splitlines()[-1]

    return told


@attrs.frozen
class Row:
    """A mistake: its number, where it is made, and the whole answer."""

    number: str
    told: Told
    answer: str


def row(number: str, told: Told, answer: str) -> Row:
    return Row(number, told, answer)


#: It goes on trying, and tells why.
_PARAMS_THAT_FAIL = """
    const params = async () => { throw new Error("no ticket today"); };
    const client = new Trionotify("http://x", { WebSocket, params });
    const { error } = await new Promise((told) => client.addEventListener("reconnecting", told));
    throw error;
"""
_JSON = "Content-Type: application/json"
_SERVE = ("serve", "--port=0")

MISTAKES = [
    # A typing error would have sent a private notification to everyone.
    row(
        "M1",
        over_http("POST", "/events?audience=ops", body="x"),
        ('audience: must be a JSON array of filters, for example [{"exact":{"team":"ops"}}]'),
    ),
    row(
        "M1",
        over_http("POST", "/events?audiance=[]", body="x"),
        "audiance: unknown key; did you mean 'audience'?",
    ),
    row("M1", over_http("POST", "/events?To=alice", body="x"), "To: unknown key; did you mean 'to'?"),
    row(
        "M1",
        over_http("POST", "/events?recipient=al", body="x"),
        "recipient: unknown key; did you mean 'to'?",
    ),
    row(
        "M1",
        over_http("POST", "/events?user=al", body="x"),
        (
            "user: unknown key; to choose who receives it, write to=ID or"
            ' audience=[{"exact":{"KEY":"VALUE"}}], a condition on the keys of clients\''
            " queries"
        ),
    ),
    row(
        "M1",
        over_http("POST", "/events?exact.team=a", body="x"),
        (
            "exact.team: filters are for clients that subscribe; to choose who receives it, write"
            ' to=ID or audience=[{"exact":{"KEY":"VALUE"}}], a condition on the keys of'
            " clients' queries"
        ),
    ),
    row(
        "M1",
        over_http("POST", "/events", _JSON, body='{"to": "al"}'),
        (
            "published to everyone, because the member 'to' in the body is only data; to address"
            " it, put to=ID into the URL's query, or send a CloudEvent (Content-Type:"
            " application/cloudevents+json) with the attribute to"
        ),
    ),
    # Or would have subscribed to everything.
    row("M2", over_http("GET", "/events?filter=[]"), "filter: unknown key; did you mean 'filters'?"),
    row(
        "M2", over_http("GET", "/events?exact=x"), "exact: unknown key; did you mean 'exact.ATTR=VALUE'?"
    ),
    row("M2", over_http("GET", "/events?tpye=x"), "tpye: unknown key; did you mean 'type'?"),
    row(
        "M2",
        over_http("GET", "/events?lastEventID=x"),
        "lastEventID: unknown key; did you mean 'last_event_id'?",
    ),
    row(
        "M2",
        over_http("GET", "/events?topic=x", allow_params="room"),
        "topic: unknown key; remove it, or add it to the server's allow_params",
    ),
    row(
        "M2",
        over_http("GET", "/events?audience=[]"),
        (
            "audience: allowed only in the query of a POST; on a connection, give each event the"
            " attribute audience (format=cloudevents)"
        ),
    ),
    row(
        "M2",
        in_a_block(lambda: open_hub(allow_params=["room", "filter"])),
        "allow_params: 'filter' is too similar to 'filters'; choose another name",
    ),
    # In Python: subscriptions, sessions, blocks.
    row(
        "M3",
        in_python(_iterate_over_what_was_not_entered),
        (
            "hub.subscribe() must be entered first: async with hub.subscribe(...) as "
            "notifications: async for notification in notifications:"
        ),
    ),
    row(
        "M4",
        _publish_to_a_handler,
        "acknowledged: Receipt(cursor=None, wanted=0, written=0, behind=0, node=None, durability=None)",
    ),
    row(
        "M5",
        in_a_block(lambda: open_server(port=0, handler=not_async)),
        ("handler: must be an async function without a yield; write async def handler(client, message)"),
    ),
    row(
        "M6",
        in_a_block(lambda: open_server(port=0, handler=one_argument)),
        (
            "handler: must accept client and message: too many positional arguments; write async"
            " def handler(client, message)"
        ),
    ),
    row(
        "M7",
        over_http("GET", "/events", authenticate=lambda _: None),
        "the server failed; see its log",
    ),
    row(
        "M7",
        in_the_log("GET", "/events", authenticate=lambda _: None),
        (
            "web:1: the request failed: authenticate: must return a Client, not NoneType; return"
            " request.client('the id'), or raise Refused(401, 'why')\nweb:1 refused: 500 'the"
            " server failed'"
        ),
    ),
    row(
        "M7",
        in_the_log("GET", "/events", authenticate=lambda _: "al"),
        (
            "web:1: the request failed: authenticate: must return a Client, not str; return"
            " request.client('the id'), or raise Refused(401, 'why')\nweb:1 refused: 500 'the"
            " server failed'"
        ),
    ),
    row(
        "M8",
        in_python(_forget_the_block),
        "hub: open_server() must be entered first: async with open_server(...) as it:",
    ),
    row(
        "M9",
        in_python(_await_the_block),
        "open_server() must be entered first: async with open_server(...) as it:",
    ),
    row(
        "M9",
        in_python(_forget_async),
        "open_server() must be entered first: async with open_server(...) as it:",
    ),
    row("M10", _forget_await, "coroutine 'Hub.publish' was never awaited"),
    # Options, and what is published.
    row("M11", in_a_block(lambda: open_server(prot=0)), "prot: unknown option; did you mean 'port'?"),
    row(
        "M12",
        in_a_block(lambda: open_server(log_level="debug")),
        (
            "log_level: an option of the command line only; set the level of"
            " logging.getLogger('trionotify')"
        ),
    ),
    row(
        "M13",
        in_a_block(lambda: open_server(port="0")),
        "port: must be a whole number, not str; write 0",
    ),
    row(
        "M14",
        publishing({"a": 1}),
        "data: must be str, bytes or None, not dict; to publish it as JSON, use json=",
    ),
    row(
        "M14",
        publishing(7),
        "data: must be str, bytes or None, not int; to publish it as JSON, use json=",
    ),
    row("M15", _publish_nothing, "published: None"),
    row(
        "M16",
        publishing(user_id="7"),
        "attribute name 'user_id': must consist of lower-case letters a to z and digits",
    ),
    row(
        "M17",
        publishing(to=["al", "bo"]),
        (
            "to: must be str, the id of one client, not list; for several clients write "
            "audience=AnyOf([Exact(id='al'), Exact(id='bo')])"
        ),
    ),
    row("M17", publishing(to=7), "to: must be str, the id of one client, not int; write '7'"),
    row(
        "M18",
        publishing(audience={"team": "ops"}),
        ("audience: must be a predicate or a callable of the Client, not dict; write Exact(team='ops')"),
    ),
    row(
        "M19",
        in_python(partial(trio.to_thread.run_sync, sign, {"id": 7}, SECRET)),
        "params: id must be str, not int; write '7'",
    ),
    # Where there is no server, and the command line.
    row(
        "M20",
        with_port(lambda port: in_a_block(lambda: connect(f"http://127.0.0.1:{port}"))),
        (
            "http://127.0.0.1:PORT/events: Connection refused; is the server running? Start "
            "it with --port PORT, or give another URL"
        ),
    ),
    row(
        "M20",
        with_port(lambda port: on_the_command_line("subscribe", f"--url=http://127.0.0.1:{port}")),
        (
            "trionotify: http://127.0.0.1:PORT/events: Connection refused; is the server "
            "running? Start it with --port PORT, or give another URL"
        ),
    ),
    row(
        "M21",
        on_the_command_line("--port=PORT"),
        (
            "trionotify: port: 127.0.0.1:PORT: Address already in use; stop the program that listens"
            " there, or choose another port with --port"
        ),
    ),
    row(
        "M22",
        on_the_command_line("--prot", "0"),
        (
            "trionotify: No such option '--prot'. (Did you mean one of: '--host', '--port', "
            "'--subprotocol'?) See 'python -m trionotify serve --help'."
        ),
    ),
    row(
        "M23",
        on_the_command_line("subscribe", "--sql", "type = order.paid"),
        (
            "trionotify: --sql: line 1, column 13: expected an operator or the end of the"
            " expression, but found '.'; put quotes around a string: 'order.paid'"
        ),
    ),
    row(
        "M23",
        on_the_command_line("subscribe", "--sql", "type LIKE order.%"),
        (
            "trionotify: --sql: line 1, column 11: expected a string in quotes, but found 'order';"
            " put quotes around a string: 'order.%'"
        ),
    ),
    row(
        "M23",
        over_http("GET", "/events?sql=type+%3D+a.b"),
        (
            "sql: line 1, column 9: expected an operator or the end of the expression,"
            " but found '.'; put quotes around a string: 'a.b'"
        ),
    ),
    row(
        "M24",
        on_the_command_line("subscribe", "--filters", "["),
        (
            "trionotify: --filters: not valid JSON: Input data was truncated; write, for example,"
            ' [{"exact":{"type":"order.paid"}}]'
        ),
    ),
    row(
        "M24",
        on_the_command_line("subscribe", "--filter", '[{"exakt": {}}]'),
        "trionotify: --filters: filters[0].exakt: unknown dialect; did you mean 'exact'?",
    ),
    row(
        "M25",
        over_http("GET", "/clients", secret=SECRET.encode()),
        "Authorization: missing; /clients needs Authorization: Bearer SECRET",
    ),
    row(
        "M25",
        over_http("GET", "/clients", "Authorization: Bearer x", secret=SECRET.encode()),
        ("Authorization: not this server's secret; /clients needs Authorization: Bearer SECRET"),
    ),
    row(
        "M26",
        on_the_command_line(*_SERVE, "--host", "0.0.0.0"),
        (
            "trionotify: host: everyone can reach 0.0.0.0, so a secret is needed (--secret FILE);"
            " or listen on 127.0.0.1, or accept every client (--insecure)"
        ),
    ),
    row(
        "M27",
        _tls_to_a_server_without,
        (
            "https://127.0.0.1:PORT/events: the server does not speak TLS; use"
            " http://127.0.0.1:PORT, or start it with --tls-cert"
        ),
    ),
    row(
        "M28",
        in_a_block(lambda: connect("localhost:8765")),
        (
            "url: must start with http, https, ws, wss or unix, not 'localhost'; did you mean"
            " http://localhost:8765?"
        ),
    ),
    row(
        "M29",
        in_a_block(lambda: connect("http://localhost:abc")),
        "url: must have a port from 0 to 65535, not 'abc'",
    ),
    row(
        "M30",
        on_the_command_line(*_SERVE, "--secret", "TMP/nowhere"),
        (
            "trionotify: secret: TMP/nowhere can't be read: No such file or directory; name the"
            " file of the secret, or create one: openssl rand -hex 32 > FILE"
        ),
    ),
    row(
        "M30",
        on_the_command_line(*_SERVE, "--store", "sqlite:TMP/no/x.db"),
        (
            "trionotify: TMP/no/x.db: No such file or directory (ENOENT); create the directory, or"
            " name another path"
        ),
    ),
    row(
        "M31",
        on_the_command_line("--config=TMP/c", files={"c": "prot = 1"}),
        "trionotify: TMP/c: unknown option 'prot'; did you mean 'port'?",
    ),
    row(
        "M31",
        on_the_command_line("--config=TMP/c", files={"c": "[server]\nport = 1"}),
        "trionotify: TMP/c: unknown option 'server'; write the options without [server]",
    ),
    row(
        "M32",
        on_the_command_line("--unix=TMP/x", "--port=1"),
        "trionotify: --unix: must not be combined with --port; leave out one of them",
    ),
    row(
        "M32",
        on_the_command_line("--config=TMP/c", files={"c": "unix = 'x'\nhost = 'localhost'"}),
        "trionotify: --unix: must not be combined with --host; leave out one of them",
    ),
    row(
        "M33",
        in_python(_top_without_rich),
        ("top: the library rich is not installed; run `python -m pip install rich`"),
    ),
    row(
        "M34",
        in_python(partial(_subscribe_since, datetime(2026, 1, 31))),
        "since: a datetime must have a time zone; use datetime.now(timezone.utc)",
    ),
    row(
        "M34",
        in_python(partial(_subscribe_since, 600)),
        (
            "since: must be a cursor, a time, a duration like '10m', 'start', a datetime or a"
            " timedelta, not 600"
        ),
    ),
    row(
        "M34",
        in_a_block(lambda: connect("http://127.0.0.1:1", since=600)),
        (
            "since: must be a cursor, a time, a duration like '10m', 'start', a datetime or a"
            " timedelta, not 600"
        ),
    ),
    # In JavaScript.
    row(
        "M35",
        in_javascript('new Trionotify("http://x", { WebSocket, filter: [] })'),
        "TypeError: filter: unknown option; did you mean filters?",
    ),
    row(
        "M36",
        in_javascript('new Trionotify("http://x")'),
        (
            "TypeError: WebSocket: missing here; write { WebSocket: ws.WebSocket } "
            'with the package ws, or { transport: "sse" }'
        ),
    ),
    row(
        "M37",
        in_javascript('new Trionotify("/events", { WebSocket })'),
        (
            'TypeError: url: "/events" is not a complete URL, and there is no page that it could '
            'be relative to; write, for example, "https://example.org/events"'
        ),
    ),
    row(
        "M37",
        in_javascript("new Trionotify(undefined, { WebSocket })"),
        'TypeError: url: missing; write, for example, "https://example.org/events"',
    ),
    row("M38", in_javascript(_PARAMS_THAT_FAIL), "Error: params: no ticket today"),
    # With the wrong event loop.
    row(
        "M39",
        without_trio("open_server(port=0)"),
        (
            "RuntimeError: trionotify.open_server needs Trio: run the program with "
            "trio.run(main), not with asyncio.run(main())"
        ),
    ),
    row(
        "M39",
        without_trio("connect('http://127.0.0.1:1')"),
        (
            "RuntimeError: trionotify.connect needs Trio: run the program with "
            "trio.run(main), not with asyncio.run(main())"
        ),
    ),
    # What the operator sees, who can't see what a browser hides.
    row(
        "F5",
        in_the_log("GET", "/events", "Origin: http://localhost:3000"),
        ("web:1 refused: 403 'Origin: start the server with --allow-origin http://localhost:3000'"),
    ),
    row(
        "F20",
        in_the_log("GET", "/clients", secret=SECRET.encode()),
        "web:1 refused: 401 'Authorization: missing'",
    ),
    row(
        "F20",
        in_the_log("GET", "/clients", "Authorization: Bearer x", secret=SECRET.encode()),
        "web:1 refused: 401 'Authorization: not the secret'",
    ),
    row(
        "F20",
        over_http("POST", "/", body="x"),
        "POST is not allowed at /; to publish, POST to /events",
    ),
    row(
        "F20",
        over_http("POST", "/publish", body="x"),
        "there is nothing at '/publish'; to publish, POST to /events",
    ),
    row(
        "F21",
        over_http("POST", f"/events?{SUBSCRIBER}", body="x", secret=SECRET.encode()),
        ("role: a subscriber may not publish; let the backend sign role=publisher or role=both"),
    ),
    row(
        "F21",
        over_http("POST", "/events?role=subscriber", body="x"),
        "role: a subscriber may not publish; write role=publisher, or no role",
    ),
    row(
        "F19",
        on_the_command_line("publish", "--attribute=a", "x"),
        "trionotify: --attribute: must be NAME=VALUE, not 'a'",
    ),
    row(
        "F19",
        on_the_command_line("publish", "--attribute=to=al", "x"),
        "trionotify: --attribute: to has an option of its own; use --to",
    ),
    row(
        "F19",
        on_the_command_line("publish", "--attribute=id=7"),
        (
            "trionotify: --attribute: must not set id, because each line needs its own; leave it out,"
            " or give TEXT"
        ),
    ),
    row(
        "F19",
        on_the_command_line("publish", "--attribute=user_id=7", "x"),
        (
            "trionotify: --attribute: attribute name 'user_id': must consist of"
            " lower-case letters a to z and digits"
        ),
    ),
    row(
        "F19",
        on_the_command_line("publish", "--audience=ops", "x"),
        (
            "trionotify: --audience: not valid JSON: invalid character (byte 0);"
            ' write, for example, [{"exact":{"team":"ops"}}]'
        ),
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.number)
async def test_a_mistake_is_answered(mistake: Row, tmp_path: Path) -> None:
    """With the thing at fault, and with what to do."""
    told = await mistake.told(tmp_path)
    assert told.replace(str(tmp_path), "TMP") == mistake.answer


def test_the_table_is_whole() -> None:
    """Each of the first mistakes that were collected has a row, in their order."""
    numbers = [int(mistake.number[1:]) for mistake in MISTAKES if mistake.number.startswith("M")]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 40))


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
            assert line == "trionotify: publishing each line that you type; press Ctrl-D to end\n"
            process.kill()
    finally:
        os.close(master)
        os.close(slave)
