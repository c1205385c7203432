"""The examples of embedding, each as the process that its user starts, watched with what users have."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import pytest
import trio
import trio_websocket

import trionotify
from tests.chromium import CHROMIUM, Page, open_browser
from tests.conftest import raw_client
from tests.fleet.server import free_port
from tests.kernel import masked
from tests.test_peers import EXAMPLES, NodeClient, need, node
from trionotify.connection.frames import message_frame

KEY = {"LOGIN_KEY": "the key of this test"}
SITE = "http://127.0.0.1:8000"


@attrs.define
class Example:
    """A running one."""

    process: trio.Process
    _errors: BinaryIO
    #: The last one of its first line.
    url: str = ""

    @property
    def stderr(self) -> str:
        """Everything that it has written there."""
        self._errors.seek(0)
        return self._errors.read().decode()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def at(self, target: str) -> str:
        """A WebSocket's URL."""
        return self.url.replace("http", "ws") + target

    async def ends(self, number: int, code: int = 0) -> None:
        """It ends at this signal, in good order, and has said nothing but where it was."""
        self.process.send_signal(number)
        assert await self.process.wait() == code
        assert self.process.stdout is not None
        assert await self.process.stdout.receive_some() == b""
        assert "Traceback" not in self.stderr


@asynccontextmanager
async def example(name: str, *arguments: object) -> AsyncIterator[Example]:
    """Start it, without patience for warnings; at the end, if it still runs, it ends at SIGTERM."""
    command = [sys.executable, "-W", "error", EXAMPLES / name, *map(str, arguments)]
    with tempfile.TemporaryFile() as errors, trio.fail_after(300):
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=errors, env=os.environ | KEY
        )
        running = Example(process, errors)
        try:
            line = await first_line(process)
            assert line, running.stderr
            running.url = line.split()[-1]
            yield running
            if process.returncode is None:
                await running.ends(signal.SIGTERM)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


async def first_line(process: trio.Process) -> str:
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        data = await process.stdout.receive_some(1)
        if not data:
            return ""
        line += data
    return line.decode()


class Curl:
    """`curl -N`: the events of a stream, as it prints them."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = ""

    async def block(self) -> dict[str, str]:
        """The next block's fields."""
        assert self._process.stdout is not None
        while "\n\n" not in self._rest:
            data = await self._process.stdout.receive_some()
            assert data, "curl ended"
            self._rest += data.decode()
        block, _, self._rest = self._rest.partition("\n\n")
        return dict(line.partition(": ")[::2] for line in block.splitlines())

    async def event(self) -> tuple[str, str]:
        """The next event's type and data."""
        while "data" not in (block := await self.block()):
            pass
        return block.get("event", "message"), block["data"]


@asynccontextmanager
async def curl(url: str, *options: str) -> AsyncIterator[Curl]:
    """One that is connected."""
    need(shutil.which("curl"), "no curl is installed")
    command = ["curl", "-sN", *options, url]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
        )
        watching = Curl(process)
        assert "retry" in await watching.block()
        yield watching
        nursery.cancel_scope.cancel()


# --- all of them ---


def test_the_page_names_every_example() -> None:
    """With a link, in the table of those that a README's reader can start."""
    page = (EXAMPLES / "README.md").read_text()
    for file in EXAMPLES.iterdir():
        assert file.name in ("README.md", "__pycache__") or f"[`{file.name}`]({file.name})" in page


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_each_says_what_it_shows(file: Path) -> None:
    """And how to start it, in the docstring that it opens with."""
    shown = ast.get_docstring(ast.parse(file.read_text())) or ""
    assert f"python {file.name}" in shown or f"pytest {file.name}" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("name", "target", "code"),
    [
        ("folder.py", "/", 1001),
        ("seats.py", "/", 1001),
        ("cookies.py", "/", 1001),
        ("attached.py", "/notifications", 1012),
        ("web_app.py", "/", 1001),
        ("progress.py", "/", 1001),
    ],
)
async def test_it_ends_at_a_signal(
    name: str, target: str, code: int, number: int, tmp_path: Path
) -> None:
    """At Ctrl-C and at SIGTERM: who watches hears a goodbye, and there is no traceback."""
    arguments = {
        "folder.py": [tmp_path, 0],
        "cookies.py": ["serve", 0, SITE],
        "web_app.py": [free_port(), 0],
        "progress.py": [tmp_path, 0],
    }
    cookie = await log_in("al")
    async with example(name, *arguments.get(name, [0])) as running:
        async with raw_client(running.port, target, f"Cookie: {cookie}") as client:
            running.process.send_signal(number)
            assert (await client.until(lambda peer: peer.close)).close == (code, "")
        assert await running.process.wait() == 0
        assert "Traceback" not in running.stderr


# --- a folder ---


async def test_a_folder_is_watched(tmp_path: Path) -> None:
    """curl sees what comes, changes and goes, and not what was there before."""
    notes = tmp_path / "folder" / "notes.txt"
    notes.parent.mkdir()
    (notes.parent / "old").touch()

    def write(text: str) -> None:
        """All at once."""
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(notes)

    async with example("folder.py", notes.parent, 0) as running:
        async with curl(f"{running.url}/events?prefix.type=file.") as everything:
            async with curl(f"{running.url}/events?exact.type=file.deleted") as deleted:
                write("one")
                assert await everything.event() == ("file.created", "notes.txt is new")
                write("one, two")
                assert await everything.event() == ("file.changed", "notes.txt has 8 bytes now")
                notes.unlink()
                gone = ("file.deleted", "notes.txt is gone")
                assert await everything.event() == await deleted.event() == gone


async def test_a_folder_that_goes_ends_the_application(tmp_path: Path) -> None:
    """The watching task raises, and the hub, which its nursery is in, says goodbye."""
    folder = tmp_path / "folder"
    folder.mkdir()
    async with example("folder.py", folder, 0) as running:
        async with raw_client(running.port) as client:
            folder.rmdir()
            assert (await client.until(lambda peer: peer.close)).close == (1001, "")
        assert await running.process.wait() == 1
        assert "FileNotFoundError" in running.stderr


# --- request and reply ---


async def ask(client: NodeClient, text: str) -> dict[str, Any]:
    """Say it, and hear the next message."""
    await client.say(text=text)
    return await hear(client)


async def hear(client: NodeClient) -> dict[str, Any]:
    heard: dict[str, Any] = json.loads((await client.hears())["text"])
    return heard


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[NodeClient]:
    async with node(url) as client:
        await client.hears()  # who it is, if that was said
        assert "open" in await client.hears()
        yield client


async def test_seats_are_reserved() -> None:
    """Replies go to who has asked; what has changed, to all; a seat goes to one of them."""
    async with example("seats.py", 0) as running, opened(running.at("/?id=bo")) as bo:
        async with opened(running.at("/?id=al")) as al:
            assert await ask(al, '{"id": 1, "do": "list"}') == {
                "id": 1,
                "result": ["A1", "A2", "A3", "B1", "B2", "B3"],
            }
            await al.say(text='{"id": 2, "do": "reserve", "seat": "B2"}')
            taken = {"seat": "B2", "is": "taken"}
            heard = [await hear(al), await hear(al)]
            assert sorted(heard, key=str) == sorted([taken, {"id": 2, "result": True}], key=str)
            assert await hear(bo) == taken
            assert await ask(bo, '{"id": "x", "do": "reserve", "seat": "B2"}') == {
                "id": "x",
                "error": "B2 is not free",
            }
            refused = await ask(bo, '{"id": 3, "do": "release", "seat": "B2"}')
            assert refused == {"id": 3, "error": "B2 is not yours"}
            assert "B2" not in (await ask(bo, '{"do": "list"}'))["result"]
            await al.say(close=1000)
            # al has left.
            assert await hear(bo) == {"seat": "B2", "is": "free"}
            assert "B2" in (await ask(bo, '{"do": "list"}'))["result"]


#: What can't be done: the request, and the reply's `id` and the beginning of its `error`.
IMPOSSIBLE = [
    ("{", None, "Input data was truncated"),
    ("[" * 10_000, None, "maximum recursion depth exceeded"),
    ("[1]", None, "Expected `object`, got `array`"),
    ('{"id": 1}', 1, "Object missing required field `do`"),
    ('{"id": 2, "do": "x"}', 2, "Invalid value 'x' - at `$.do`"),
    ('{"id": 3, "do": "reserve"}', 3, "Object missing required field `seat`"),
    ('{"id": 4, "do": "reserve", "seat": 1}', 4, "Expected `str`, got `int` - at `$.seat`"),
    ('{"id": 5, "do": "reserve", "seat": "Z9"}', 5, "Z9 is not free"),
]


async def test_what_cannot_be_done_is_answered() -> None:
    """With an error that names it; the connection stays."""
    async with example("seats.py", 0) as running, opened(running.at("/")) as client:
        for text, id, error in IMPOSSIBLE:
            answer = await ask(client, text)
            assert answer.keys() == {"id", "error"}
            assert answer["id"] == id
            assert answer["error"].startswith(error)
        assert "result" in await ask(client, '{"do": "list"}')


# --- cookies ---


async def log_in(user: str, seconds: int = 3600) -> str:
    """The cookie."""
    command = [sys.executable, EXAMPLES / "cookies.py", "login", user, str(seconds)]
    done = await trio.run_process(command, capture_stdout=True, env=os.environ | KEY)
    return done.stdout.decode().strip()


async def test_the_cookie_says_who_it_is() -> None:
    """Whatever the query says; and what is for one user reaches that user's tabs alone."""
    al, bo = await log_in("al"), await log_in("bo.bo@example.org")
    async with example("cookies.py", "serve", 0, SITE) as running:
        url = f"{running.url}/events?id=bo&role=both"
        async with curl(url, "-b", al) as first, curl(url, "-b", f"theme=dark; {al}") as second:
            async with curl(url, "-b", bo) as other:
                assert (await other.event())[1].startswith("bo.bo@example.org is here, from 127.0.0.1:")
                for _ in range(2):
                    assert (await first.event())[1].startswith("al is here")
                assert (await second.event())[1].startswith("al is here")


async def test_who_is_not_logged_in_is_refused() -> None:
    """Before anything else, with the reason: without a cookie, with another, or one that is over."""
    login = await log_in("al")
    first, over = "cookie: log in first", "cookie: your login is over: log in again"
    cookies = {
        "theme=dark": (401, first),
        "login=": (401, first),
        "login=al.99999999999.0123": (401, first),
        "login=ä": (401, first),
        "a[]=b, {}": (401, first),
        login.replace("al.", "al.9"): (401, first),
        login.replace("al.", "bo."): (401, first),
        await log_in("al", 0): (401, over),
        await log_in("mallory"): (403, "cookie: mallory may not watch"),
    }
    async with example("cookies.py", "serve", 0, SITE) as running:
        url = f"{running.url}/events"
        assert await refusal(url) == (401, first)
        found = {cookie: await refusal(url, "-H", f"Cookie: {cookie}") for cookie in cookies}
    assert found == cookies


async def refusal(url: str, *options: str) -> tuple[int, str]:
    """The answer that curl gets."""
    need(shutil.which("curl"), "no curl is installed")
    done = await trio.run_process(["curl", "-s", *options, url], capture_stdout=True)
    problem = json.loads(done.stdout)
    return problem["status"], problem["detail"]


async def test_nobody_publishes_with_a_cookie() -> None:
    """Neither over HTTP, nor in a session."""
    cookie = await log_in("al")
    async with example("cookies.py", "serve", 0, SITE) as running:
        url = f"{running.url}/events?role=publisher"
        assert (await refusal(url, "-b", cookie, "-d", "x"))[0] == 403
        async with raw_client(running.port, "/?role=both", f"Cookie: {cookie}") as client:
            await client.stream.send_all(masked(message_frame("x")))
            peer = await client.until(lambda peer: peer.close)
            assert peer.close == (1008, "this is for watching")


async def test_users_do_not_see_who_is_connected() -> None:
    """With a cookie or without: that is at the operators' port."""
    async with example("cookies.py", "serve", 0, SITE) as running:
        for path in ("/clients", "/metrics"):
            assert (await refusal(running.url + path, "-b", await log_in("al")))[0] == 404


async def test_the_end_of_the_login_is_the_end_of_the_connection() -> None:
    """With 4401."""
    async with example("cookies.py", "serve", 0, SITE) as running:
        cookie = await log_in("al", 3)
        async with raw_client(running.port, "/", f"Cookie: {cookie}") as client:
            peer = await client.until(lambda peer: peer.close)
            assert [message.partition(",")[0] for message in peer.messages] == ["al is here"]
            assert peer.close == (4401, "expired")


#: What a page of the application does; the promise of what it hears, or with which code it is closed.
WATCH = """new Promise((resolve) => {
    const socket = new WebSocket("URL");
    socket.onmessage = (event) => resolve(event.data.split(" ")[0]);
    socket.onclose = (event) => resolve(event.code);
})"""


async def serve_pages(*, task_status: trio.TaskStatus[str]) -> None:
    """A site whose pages are empty."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n"
            b"Connection: close\r\n\r\n<!doctype html>"
        )
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        task_status.started(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")


async def test_a_browser_sends_its_cookie(tmp_path: Path) -> None:
    """To the notifications' port as well, and only a page of the right site may use it."""
    need(CHROMIUM, "no Chromium is installed")
    cookie = await log_in("al")
    async with trio.open_nursery() as nursery:
        site, other = await nursery.start(serve_pages), await nursery.start(serve_pages)
        async with example("cookies.py", "serve", 0, site) as running, open_browser(tmp_path) as browser:
            watch = WATCH.replace("URL", running.at("/"))
            page = await browser.open(site)
            assert await page.run(watch) == 1006  # a refused handshake, as a page sees it
            await page.run(f"document.cookie = '{cookie}'")
            assert await page.run(watch) == "al"
            elsewhere = await browser.open(other)
            assert await elsewhere.run("document.cookie") == cookie  # it is the same host
            assert await elsewhere.run(watch) == 1006
        nursery.cancel_scope.cancel()


# --- attached ---


async def test_a_websocket_server_has_notifications_too() -> None:
    """Watchers see clients come and go at the other paths, which work as before."""
    async with example("attached.py", 0) as running:
        async with (
            opened(running.at("/notifications?exact.subject=/clock")) as clock,
            trionotify.connect(running.at("/notifications"), role="subscriber") as client,
        ):
            async with opened(running.at("/echo")) as echo:
                await echo.say(text="grüße")
                assert await echo.hears() == {"text": "grüße"}
            async with opened(running.at("/clock")) as watcher:
                assert len((await watcher.hears())["text"]) == len("12:34:56")
            said = [await anext(client) for _ in range(4)]
            assert {(n.type, n.subject) for n in said} == {
                (f"path.{what}", path) for what in ("opened", "closed") for path in ("/echo", "/clock")
            }
            assert await clock.hears() == {"text": "somebody came to /clock"}
            assert await clock.hears() == {"text": "somebody left /clock"}


async def test_what_an_attached_hub_refuses() -> None:
    """Is told with a Close; the server goes on."""
    async with example("attached.py", 0) as running:
        async with opened(running.at("/notifications?exakt.type=x")) as client:
            closed = await client.hears()
            assert closed["close"] == 1008
            assert closed["reason"].startswith("exakt.type: unknown key")
        async with node(running.at("/nowhere")) as lost:
            assert await lost.hears() == {"status": 404}
        async with opened(running.at("/echo")) as echo:
            await echo.say(text="still here")
            assert await echo.hears() == {"text": "still here"}


# --- a web application ---


async def test_a_handler_publishes() -> None:
    """An order over HTTP reaches all watchers, and the answer says how many these were."""
    web_port = free_port()
    async with example("web_app.py", web_port, 0) as running:
        async with curl(f"{running.url}/events?prefix.type=order.") as watcher:
            command = ["curl", "-s", "-d", "zwei Brötchen", f"http://127.0.0.1:{web_port}/orders"]
            done = await trio.run_process(command, capture_stdout=True)
            answer = json.loads(done.stdout)
            assert answer["told"] == 1
            block = await watcher.block()
            assert block == {"id": answer["order"], "event": "order.created", "data": "zwei Brötchen"}


async def test_its_page_shows_orders(tmp_path: Path) -> None:
    """Its own, those that others made, and those that were made before it was there."""
    need(CHROMIUM, "no Chromium is installed")
    web_port = free_port()
    site = f"http://127.0.0.1:{web_port}"
    async with example("web_app.py", web_port, 0), open_browser(tmp_path) as browser:
        first = await browser.open(site)
        shown = "[...document.querySelectorAll('li')].map((item) => item.textContent).join()"
        await first.run("document.querySelector('input').focus()")
        await first.write("a cake")
        await first.press("Enter")
        await first.run(f"{shown} === 'a cake'", wait=True)
        second = await browser.open(site)
        await second.run(f"{shown} === 'a cake'", wait=True)
        await second.run("fetch('/orders', {method: 'POST', body: 'bread'})")
        for page in (first, second):
            await page.run(f"{shown} === 'a cake,bread'", wait=True)
        assert not browser.complaints


async def test_a_request_that_is_on_its_way_is_answered_first() -> None:
    """After SIGTERM; and what it publishes reaches who watches before the goodbye."""
    web_port = free_port()
    async with example("web_app.py", web_port, 0) as running:
        async with (
            raw_client(running.port, "/?exact.type=order.created") as client,
            await trio.open_tcp_stream("127.0.0.1", web_port) as request,
        ):
            await request.send_all(b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nla")
            await ordered(web_port, "first")
            await client.until(lambda peer: peer.messages)
            running.process.send_signal(signal.SIGTERM)
            while await accepts(web_port):
                pass
            await request.send_all(b"st")
            assert (await request.receive_some()).startswith(b"HTTP/1.1 201")
            peer = await client.until(lambda peer: peer.close)
            assert (peer.messages, peer.close) == (["first", "last"], (1001, ""))
        assert await running.process.wait() == 0


async def test_a_web_application_that_is_cancelled_says_goodbye() -> None:
    """Both of its servers end at once; who watches hears 1001."""
    spec = importlib.util.spec_from_file_location("web_app", EXAMPLES / "web_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    web_port, port = free_port(), free_port()
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await module.main(web_port, port)

        nursery.start_soon(run)
        while not await accepts(web_port):
            pass
        async with raw_client(port) as client:
            scope.cancel()
            assert (await client.until(lambda peer: peer.close)).close == (1001, "")
    assert not await accepts(web_port)
    assert not await accepts(port)


async def ordered(port: int, text: str) -> None:
    need(shutil.which("curl"), "no curl is installed")
    command = ["curl", "-s", "-d", text, f"http://127.0.0.1:{port}/orders"]
    await trio.run_process(command, capture_stdout=True)


async def accepts(port: int) -> bool:
    """Whether a server listens there."""
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True


# --- a bell ---


async def post(url: str, body: str) -> int:
    """The status of the answer."""
    need(shutil.which("curl"), "no curl is installed")
    command = ["curl", "-s", "-o", os.devnull, "-w", "%{http_code}", "-d", body, url]
    return int((await trio.run_process(command, capture_stdout=True)).stdout)


BELL = """(() => {
    const [unread, items] = [document.querySelector("b"), [...document.querySelectorAll("li")]];
    return `${unread?.textContent}: ${items.map((item) => item.textContent)}`;
})()"""


async def rings(*pages: Page, shown: str) -> None:
    """Each page shows this, as soon as it has come: how many are unread, and the last ones."""
    for page in pages:
        await page.run(f"{BELL} === {shown!r}", wait=True)


async def test_a_bell(tmp_path: Path) -> None:
    """Tabs and devices of one user show the same, after a restart too; another user sees none of it."""
    need(CHROMIUM, "no Chromium is installed")
    ports = free_port(), free_port()
    for name in ("log", "laptop", "phone"):
        (tmp_path / name).mkdir()
    async with (
        open_browser(tmp_path / "laptop") as laptop,
        open_browser(tmp_path / "phone") as phone,
    ):
        async with example("bell.py", tmp_path / "log", *ports) as running:
            al = f"{running.url}/al"
            for text in ("one", "two"):
                assert await post(f"{al}/tell", text) == 204
            pages = [await browser.open(f"{al}/") for browser in (laptop, laptop, phone)]
            await rings(*pages, shown="2: two,one")
            await pages[0].run("document.querySelector('button').click()")
            await rings(*pages, shown="0: two,one")
            await post(f"{al}/tell", "three")
            await rings(*pages, shown="1: three,two,one")
            await rings(await laptop.open(f"{running.url}/bo/"), shown="0: ")
            assert not laptop.complaints
            await running.ends(signal.SIGTERM)
        async with example("bell.py", tmp_path / "log", *ports):
            await post(f"{al}/tell", "four")
            # Those that were open come back with new tickets; one that is opened begins with the mark.
            await rings(*pages, await phone.open(f"{al}/"), shown="2: four,three,two,one")
            await pages[2].run("document.querySelector('button').click()")
            await rings(*pages, shown="0: four,three,two,one")


async def test_a_mark_never_goes_back(tmp_path: Path) -> None:
    """Whatever a device sends that was asleep; and what is no cursor of this log is refused."""
    async with example("bell.py", tmp_path, free_port(), 0) as running:

        async def mark() -> str | None:
            done = await trio.run_process(["curl", "-s", f"{al}/bell"], capture_stdout=True)
            found: str | None = json.loads(done.stdout)["read"]
            return found

        al = f"{running.url}/al"
        epoch = await epoch_of(al)
        assert await mark() is None
        for place, kept in ((5, 5), (3, 5), (6, 6)):
            assert await post(f"{al}/read", f"{epoch}:{place}") == 204
            assert await mark() == f"{epoch}:{kept}"
        for bad in ("", "7", "other:7", f"{epoch}:x", f"{epoch}:-7", f"{epoch}:{'9' * 20}"):
            assert await post(f"{al}/read", bad) == 400
        assert await mark() == f"{epoch}:6"


async def epoch_of(user: str) -> str:
    """That of the log, as the user's ticket lets one see it."""
    command = ["curl", "-s", f"{user}/bell", f"{user}/ticket"]
    done = await trio.run_process(command, capture_stdout=True)
    about, ticket = done.stdout.decode().replace("}{", "}\n{").splitlines()
    async with trionotify.connect(json.loads(about)["url"], params=json.loads(ticket)) as client:
        return client.cursor.partition(":")[0]


def test_the_page_about_the_bell_shows_its_code() -> None:
    """Each block is a part of the example, as it stands there."""
    page = (EXAMPLES.parent / "howto" / "bell.md").read_text()
    code = "".join((EXAMPLES / f"bell.{kind}").read_text() for kind in ("py", "html"))
    blocks = re.findall(r"^```(?:js|py|text)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 3
    lines = [line.strip() for line in code.splitlines()]
    for block in blocks:
        assert "\n".join(map(str.strip, block.splitlines())) in "\n".join(lines), block


# --- progress ---


def watch(running: Example, job: str) -> Any:
    return curl(f"{running.url}/events?exact.subject={job}&since=start&lag=latest")


async def begin(running: Example, name: str) -> str:
    """The id of a job, whose client has left."""
    async with trio_websocket.open_websocket_url(running.at("/?role=publisher")) as websocket:
        await websocket.send_message(name)
        answer = json.loads(await websocket.get_message())
        return str(answer["job"])


async def said(watcher: Curl, state: str) -> dict[str, Any]:
    """The next event, which says this."""
    kind, data = await watcher.event()
    assert kind == f"job.{state}"
    about: dict[str, Any] = json.loads(data)
    assert about.pop("state") == state
    return about


async def test_progress_is_streamed(tmp_path: Path) -> None:
    """To all watchers. A late one gets the newest state, and nothing older."""
    os.mkfifo(tmp_path / "pipe")
    parts = [os.urandom(10_000) for _ in range(4)]
    async with example("progress.py", tmp_path, 0) as running:
        job = await begin(running, "pipe")
        pipe = await trio.to_thread.run_sync(partial(open, tmp_path / "pipe", "wb", buffering=0))
        with pipe:
            async with watch(running, job) as first:
                for number, part in enumerate(parts, 1):
                    pipe.write(part)
                    while (await said(first, "running"))["done"] < number * 10_000:
                        pass
                async with watch(running, job) as second:
                    assert await said(second, "running") == {"file": "pipe", "done": 40_000}
                    pipe.close()
                    digest = hashlib.sha256(b"".join(parts)).hexdigest()
                    last = {"file": "pipe", "done": 40_000, "sha256": digest}
                    assert await said(first, "done") == await said(second, "done") == last
        async with watch(running, job) as third:
            assert await said(third, "done") == last


@pytest.mark.parametrize(
    ("name", "error"),
    [("nothing", "FileNotFoundError"), ("..", "IsADirectoryError"), ("a\0", "ValueError")],
)
async def test_a_job_that_fails_says_so(name: str, error: str, tmp_path: Path) -> None:
    """And ends nothing but itself: the next ones are done."""
    (tmp_path / "empty").touch()
    async with example("progress.py", tmp_path, 0) as running:
        for _ in range(3):  # more than there are workers
            async with watch(running, await begin(running, name)) as watcher:
                while (heard := await watcher.event())[0] == "job.running":
                    pass
                assert heard[0] == "job.failed"
                assert json.loads(heard[1])["error"] == error
        async with watch(running, await begin(running, "empty")) as watcher:
            while (await watcher.event())[0] != "job.done":
                pass


async def test_what_is_no_job(tmp_path: Path) -> None:
    """Is answered so; and so are jobs above what may wait."""
    os.mkfifo(tmp_path / "pipe")
    async with example("progress.py", tmp_path, 0) as running:
        async with trio_websocket.open_websocket_url(running.at("/?role=publisher")) as websocket:
            await websocket.send_message("../secret")
            error = "the name of a file in the folder is needed"
            assert json.loads(await websocket.get_message()) == {"error": error}
            await websocket.send_message(str(tmp_path / "x/y"))
            assert json.loads(await websocket.get_message()) == {"error": error}
            answers = []
            while not answers or "job" in answers[-1]:
                await websocket.send_message("pipe")
                answers.append(json.loads(await websocket.get_message()))
            assert answers[-1] == {"error": "too many jobs wait: come again later"}
            assert 100 < len(answers) <= 103
        running.process.kill()  # its workers wait for who writes into the pipe
        await running.process.wait()


async def test_a_job_is_cancelled_with_the_server(tmp_path: Path) -> None:
    """In the midst of a file that would take minutes."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    async with example("progress.py", tmp_path, 0) as running:
        async with watch(running, await begin(running, "large")) as watcher:
            assert (await said(watcher, "running"))["file"] == "large"
            await running.ends(signal.SIGTERM)


# --- unit tests ---


@pytest.mark.parametrize("options", [[], ["-o", "trio_mode=true"]])
def test_the_example_of_unit_tests_passes(options: list[str], tmp_path: Path) -> None:
    """In a folder of its own, with and without pytest-trio's mode for all tests; and fast."""
    shutil.copy(EXAMPLES / "test_escalation.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        [*command, "--rootdir", tmp_path, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_the_example_of_unit_tests_can_fail(tmp_path: Path) -> None:
    """When what it tests is wrong."""
    text = (EXAMPLES / "test_escalation.py").read_text()
    broken = text.replace("with trio.move_on_after(PATIENCE)", "with trio.move_on_after(60)")
    assert broken != text
    (tmp_path / "test_escalation.py").write_text(broken)
    said = run_pytest(tmp_path)
    assert "2 failed" in said, said


def run_pytest(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "--rootdir", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    return done.stdout
