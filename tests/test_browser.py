"""The browser client, in Node and in a real Chromium."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import trio

import trionotify
from tests.chromium import CHROMIUM, Browser, Page, open_browser
from tests.fleet.server import ServerProcess, server_process
from tests.redis_nodes import until
from tests.screenshots import STATES, WIDTHS, open_stage
from tests.test_peers import need
from trionotify import Exact, Prefix, Server, connect, open_server

TESTS = Path(__file__).parent / "browser"


@pytest.mark.parametrize("name", ["node", "edge", "stream", "recover", "tabs", "token", "nodes", "page"])
def test_in_node(name: str) -> None:
    """Against real servers that are killed, cut off, and refused."""
    node = shutil.which("node")
    need(node, "no Node.js is installed")
    need(
        (TESTS.parent / "peers/node_modules/ws").exists(), "npm install --prefix tests/peers wasn't run"
    )
    command = [str(node), "--test", "--test-timeout=240000", str(TESTS / f"{name}.test.mjs")]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_types() -> None:
    """A program that uses all that is declared has the right types, and what is wrong in it is found."""
    tsc = TESTS.parent / "peers/node_modules/.bin/tsc"
    need(tsc.exists(), "npm install --prefix tests/peers wasn't run")
    options = ("--noEmit", "--strict", "--target", "es2022", "--module", "esnext")
    command = [tsc, *options, "--moduleResolution", "bundler", TESTS / "types.ts"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["trionotify.js", "page.js"])
def test_types_of_its_modules(name: str) -> None:
    """The types in their comments hold, and nothing is unused."""
    tsc = TESTS.parent / "peers/node_modules/.bin/tsc"
    need(tsc.exists(), "npm install --prefix tests/peers wasn't run")
    options = [
        "--noEmit",
        "--strict",
        "--allowJs",
        "--checkJs",
        "--noUnusedLocals",
        "--target",
        "es2022",
    ]
    options += [
        "--lib",
        "es2023,dom,dom.iterable",
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
    ]
    module = Path(trionotify.__file__).parent / "web" / name
    done = subprocess.run([tsc, *options, module], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_declared_is_there() -> None:
    """And what is there is declared."""
    node = shutil.which("node")
    need(node, "no Node.js is installed")
    web = Path(trionotify.__file__).parent / "web"
    classes = _CLASS.findall((web / "trionotify.d.ts").read_text())
    declared = {
        name: {method or "Symbol.asyncIterator" for method in re.findall(_METHOD, body, re.MULTILINE)}
        for name, body in classes
    }
    script = f"""
        import * as all from "{(web / "trionotify.js").as_uri()}";
        const names = (one) => Reflect.ownKeys(one.prototype).map((key) => key.description ?? key);
        const found = Object.entries(all).map(([name, one]) => [name, names(one)]);
        console.log(JSON.stringify(Object.fromEntries(found)));
    """
    command = [str(node), "--input-type=module", "--eval", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {name: set(methods) for name, methods in json.loads(done.stdout).items()}
    inherited = {"addEventListener", "removeEventListener"}
    assert {name: methods - inherited for name, methods in declared.items()} == found


_CLASS = re.compile(r"^export class (\w+).*?{\n(.*?)^}", re.DOTALL | re.MULTILINE)
#: A method, or an attribute that is read by one.
_METHOD = r"^  (?:get )?(?:(\w+)|\[Symbol.asyncIterator\])(?:<.*>)?\("


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    """A browser of its own."""
    need(CHROMIUM, "no Chromium is installed")
    with trio.fail_after(300):
        async with open_browser(tmp_path / "profile") as browser:
            yield browser


CONNECT = """(async () => {{
    const {{ Trionotify }} = await import("/trionotify.js");
    window.client = new Trionotify("/events?{query}", {{ firstDelay: 20, maxDelay: 200, {options} }});
    window.seen = []; window.gaps = []; window.states = [];
    client.addEventListener("notification", ({{ notification }}) => seen.push(notification.data));
    client.addEventListener("gap", ({{ from, to }}) => gaps.push([from, to]));
    client.addEventListener("reconnecting", () => states.push("reconnecting"));
    await new Promise((done) => client.addEventListener("open", done, {{ once: true }}));
}})()"""


async def connected(browser: Browser, url: str, query: str = "", options: str = "") -> Page:
    """A page of the server's own origin, with a client that is open."""
    page = await browser.open(f"{url}/livez")
    await page.run(CONNECT.format(query=query, options=options))
    return page


async def has(page: Page, count: int) -> list[str]:
    """The events received so far, as soon as there are enough."""
    await page.run(f"seen.length >= {count}", wait=True)
    seen: list[str] = await page.run("seen")
    return seen


@pytest.mark.parametrize("durable", [True, False])
async def test_a_server_that_is_killed(durable: bool, browser: Browser, tmp_path: Path) -> None:
    """Two pages with filters of their own, and a third that publishes, go on and report losses."""
    store = f"sqlite:{tmp_path}/log" if durable else "memory:"
    async with server_process(tmp_path, "--store", store, patience=100) as server:
        await server.start()
        url = f"http://127.0.0.1:{server.port}"
        one, other = [await connected(browser, url, f"exact.type={type}") for type in "ab"]
        writer = await connected(browser, url, "role=publisher")
        await say(writer, "a1", "b1", "a2")
        assert (await has(one, 2), await has(other, 1)) == (["a1", "a2"], ["b1"])
        await restart(server)
        if not durable:
            # A log in memory starts at the beginning, and so do they.
            for page in (one, other):
                await page.run("gaps.length", wait=True)
        await say(writer, "a3", "b2")
        assert (await has(one, 3), await has(other, 2)) == (["a1", "a2", "a3"], ["b1", "b2"])
        for page in (one, other):
            assert len(await page.run("gaps")) == (not durable)
            assert "reconnecting" in await page.run("states")


async def say(page: Page, *texts: str) -> None:
    """Publish each, of the type that it begins with, and wait for the acknowledgement."""
    for text in texts:
        await page.run(f"client.publish({text!r}, {{ type: {text[0]!r} }})")


async def restart(server: ServerProcess) -> None:
    server.signal()
    await server.ended()
    await server.start("--port", str(server.port))


async def test_a_network_that_goes_away(browser: Browser) -> None:
    """Nothing is lost, and nothing comes twice."""
    async with open_server(port=0) as server:
        page = await connected(browser, server.url)
        await server.hub.publish("before", confirm=True)
        await has(page, 1)
        await page.set_offline(True)
        for connection in tuple(server.hub.connections.values()):
            connection.abort()
        await server.hub.publish("meanwhile", confirm=True)
        await page.run("states.length > 0", wait=True)
        assert await page.run("seen") == ["before"]
        await page.set_offline(False)
        await server.hub.publish("after", confirm=True)
        assert await has(page, 3) == ["before", "meanwhile", "after"]
        assert await page.run("gaps") == []


async def test_tabs_that_share_a_connection(browser: Browser) -> None:
    """There is one for all; when the tab that has it is closed, another takes over without a loss."""
    async with open_server(port=0) as server:
        pages = [await connected(browser, server.url, options="share: true") for _ in range(3)]
        assert len(server.hub.clients) == 1
        await server.hub.publish("one", confirm=True)
        for page in pages:
            assert await has(page, 1) == ["one"]
        first, *others = pages
        await first.close()
        await server.hub.publish("two", confirm=True)
        for page in others:
            assert await has(page, 2) == ["one", "two"]
        await others[0].run("client.publish('three')")
        for page in others:
            assert await has(page, 3) == ["one", "two", "three"]
        await until(lambda: len(server.hub.clients) == 1)


@pytest.mark.parametrize("cut", [False, True])
async def test_a_page_that_is_put_to_sleep(cut: bool, browser: Browser) -> None:
    """Events come once when it wakes up, whether its connection has survived or not."""
    async with open_server(port=0) as server:
        page = await connected(browser, server.url)
        await page.ask("Page.setWebLifecycleState", state="frozen")
        await server.hub.publish("asleep", confirm=True)
        if cut:
            for connection in tuple(server.hub.connections.values()):
                connection.abort()
            await server.hub.publish("fast asleep", confirm=True)
        await page.ask("Page.setWebLifecycleState", state="active")
        await server.hub.publish("awake", confirm=True)
        expected = ["asleep", "fast asleep", "awake"] if cut else ["asleep", "awake"]
        assert await has(page, len(expected)) == expected
        assert await page.run("gaps") == []


SECRET = b"0123456789abcdef0123456789abcdef"

#: What a backend does, here in the page: a ticket for at most seven seconds.
TICKET = """async () => {
    const secret = "0123456789abcdef0123456789abcdef";
    window.asked = (window.asked ?? 0) + 1;
    const exp = Math.floor(Date.now() / 1000) + 7;
    const [text, how] = [new TextEncoder(), { name: "HMAC", hash: "SHA-256" }];
    const key = await crypto.subtle.importKey("raw", text.encode(secret), how, false, ["sign"]);
    const mac = await crypto.subtle.sign(how, key, text.encode(`exp=${exp}&id=al`));
    const sig = [...new Uint8Array(mac)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return { id: "al", exp, sig };
}"""


async def test_a_page_left_open_while_three_tickets_expire(browser: Browser) -> None:
    """It asks for the next one each time, and gets everything once."""
    async with open_server(port=0, secret=SECRET) as server:
        page = await connected(browser, server.url, options=f"params: {TICKET}")
        count = 0
        while await page.run("asked") < 4:
            await server.hub.publish(f"{count}", confirm=True)
            count += 1
            await trio.sleep(0.01)
        assert await has(page, count) == [f"{n}" for n in range(count)]
        await page.run("client.state === 'open'", wait=True)
        assert await page.run("gaps") == []


class KillingProxy:
    """A proxy that cuts each WebSocket after 200 ms, for as long as it is `strict`."""

    def __init__(self, port: int) -> None:
        self.strict = True
        self._port = port

    async def serve(self, client: trio.SocketStream) -> None:
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with client, await trio.open_tcp_stream("127.0.0.1", self._port) as server:
                head = await client.receive_some()
                await server.send_all(head)
                cut = self.strict and b"upgrade: websocket" in head.lower()
                with trio.move_on_after(0.2 if cut else math.inf):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pass, client, server, nursery.cancel_scope)
                        nursery.start_soon(self._pass, server, client, nursery.cancel_scope)

    @staticmethod
    async def _pass(one: trio.SocketStream, other: trio.SocketStream, end: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in one:
                await other.send_all(data)
        end.cancel()


async def test_a_proxy_that_kills_websockets(browser: Browser, nursery: trio.Nursery) -> None:
    """Server-Sent Events take over, a WebSocket comes back when it is let through: nothing is lost."""
    async with open_server(port=0) as server:
        proxy = KillingProxy(server.port)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, proxy.serve, [listener])
        port = listener.socket.getsockname()[1]
        page = await connected(browser, f"http://127.0.0.1:{port}", options="probeInterval: 500")
        count = 0
        for transport in ("sse", "websocket"):
            # There is little to deliver: a WebSocket that has delivered something was of use.
            await page.run(f"client.transport === '{transport}' && client.state === 'open'", wait=True)
            for _ in range(10):
                await server.hub.publish(f"{count}", confirm=True)
                count += 1
            proxy.strict = False
        assert await has(page, count) == [f"{n}" for n in range(count)]
        assert await page.run("gaps") == []


async def test_tabs_that_share_and_begin_elsewhere(browser: Browser) -> None:
    """Each has its own place: what one has missed comes to that one, and is told to no other."""
    async with open_server(port=0) as server:
        hub = server.hub
        first = await connected(browser, server.url, options="share: true")
        for text in ("one", "two", "three"):
            receipt = await hub.publish(text, confirm=True)
        assert receipt.cursor is not None
        epoch = receipt.cursor.rpartition(":")[0]
        pages = {first: ["one", "two", "three"]}
        for since, expected in (
            (f"{epoch}:1", ["two", "three"]),
            ("start", ["one", "two", "three"]),
            (receipt.cursor, []),
            (f"{epoch}:77", []),
            ("another:7", []),
        ):
            options = f"share: true, since: {since!r}"
            pages[await connected(browser, server.url, options=options)] = expected
        await until(lambda: len(hub.clients) == 1)
        for page, expected in pages.items():
            await has(page, len(expected))
        await hub.publish("four", confirm=True)
        lost = []
        for page, expected in pages.items():
            assert await has(page, len(expected) + 1) == [*expected, "four"]
            lost.append([gap[0] for gap in await page.run("gaps")])
        assert lost == [[], [], [], [], [f"{epoch}:77"], ["another:7"]]
        # When the tab that has the connection is closed, the next one goes on.
        await first.close()
        del pages[first]
        await hub.publish("five", confirm=True)
        for page, expected in pages.items():
            assert await has(page, len(expected) + 2) == [*expected, "four", "five"]


async def test_tabs_of_two_users(browser: Browser) -> None:
    """Each user's tabs share a connection, and receive nothing of the other user's."""
    secret = b"0123456789abcdef0123456789abcdef"

    def query(name: str, hours: int) -> str:
        return trionotify.sign({"id": name}, secret, expires_in=f"{hours}h")

    async with open_server(port=0, secret=secret) as server:
        users = {"alice": [1, 2], "bob": [1]}
        pages = {
            name: [
                *[await connected(browser, server.url, query(name, n), "share: true") for n in hours],
                # In an object for `params` it is the same.
                await connected(browser, server.url, "", f"share: true, {_params(query(name, 3))}"),
            ]
            for name, hours in users.items()
        }
        assert sorted(client.id for client in server.hub.clients) == ["alice", "bob"]
        alone = await connected(browser, server.url, "", _params(query("carol", 1)))
        assert await alone.run("client.id") == "carol"
        for name in users:
            await server.hub.publish(f"for {name}", to=name, confirm=True)
        for name, tabs in pages.items():
            for page in tabs:
                assert await has(page, 1) == [f"for {name}"]
                assert await page.run("client.id") == name


def _params(query: str) -> str:
    return f"params: {json.dumps(dict(parse_qsl(query)))}"


async def test_tabs_whose_filters_were_changed(browser: Browser) -> None:
    """The tab that takes over goes on with the filters that another one has chosen."""
    async with open_server(port=0) as server:
        options = "share: true, filters: { exact: { type: 'a' } }"
        first, *others = [await connected(browser, server.url, options=options) for _ in range(3)]
        await others[0].run("client.setFilters({ exact: { type: 'b' } })")
        await server.hub.publish("one", type="b", confirm=True)
        for page in others:
            await has(page, 1)
        await first.close()
        await server.hub.publish("not this", type="a", confirm=True)
        await server.hub.publish("two", type="b", confirm=True)
        for page in others:
            assert (await has(page, 2), await page.run("gaps")) == (["one", "two"], [])


async def test_tabs_of_a_client_that_is_revoked(browser: Browser) -> None:
    """None of them connects again, whichever of them hears of it first."""
    async with open_server(port=0) as server:
        pages = [await connected(browser, server.url, "id=alice", "share: true") for _ in range(3)]
        await server.hub.disconnect(Exact(id="alice"))
        for page in pages:
            await page.run("client.state === 'closed'", wait=True)
        await until(lambda: not server.hub.clients)


#: When this tab asks the others to begin elsewhere, it isn't heard before it has heard something itself.
HELD = """
    const post = BroadcastChannel.prototype.postMessage;
    BroadcastChannel.prototype.postMessage = function (said) {
        if (said.kind !== "behind") return post.call(this, said);
        window.held = true;
        this.addEventListener("message", () => post.call(this, said), { once: true });
    };
"""


async def test_a_tab_that_begins_elsewhere_while_the_stream_goes_on(browser: Browser) -> None:
    """Events from before the stream was moved for it don't say where it is."""
    async with open_server(port=0) as server, trio.open_nursery() as nursery:
        first = await connected(browser, server.url, options="share: true")
        for text in ("one", "two"):
            await server.hub.publish(text, confirm=True)
        await has(first, 2)
        late = await browser.open(f"{server.url}/livez", before=HELD)
        connect = CONNECT.format(query="", options="share: true, since: 'start'")
        nursery.start_soon(late.run, connect)
        await late.run("window.held", wait=True)
        await server.hub.publish("three", confirm=True)
        for page in (first, late):
            assert await has(page, 3) == ["one", "two", "three"]
        await until(lambda: len(server.hub.clients) == 1)


FORBIDDEN = {
    "locks": "navigator.locks.request = async () => { throw new DOMException(); };",
    "locks at once": "navigator.locks.request = () => { throw new DOMException(); };",
    "all locks": "Object.defineProperty(navigator, 'locks', { get() { throw new DOMException(); } });",
    "channels": "window.BroadcastChannel = class { constructor() { throw new DOMException(); } };",
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_what_is_there_and_forbidden(what: str, browser: Browser) -> None:
    """It is as if it weren't there: the tab has a connection of its own."""
    async with open_server(port=0) as server:
        page = await browser.open(f"{server.url}/livez", before=FORBIDDEN[what])
        await page.run(CONNECT.format(query="", options="share: true"))
        assert await page.run("client.shared") is False
        await page.run("client.publish('mine')")
        assert await has(page, 1) == ["mine"]


async def test_its_modules_as_they_are(browser: Browser) -> None:
    """The folder works without the file into which they are joined."""
    async with open_server(port=0) as server:
        page = await browser.open(f"{server.url}/livez")
        connect = CONNECT.replace("/trionotify.js", "/trionotify/client.js")
        await page.run(connect.format(query="", options=""))
        await server.hub.publish("one", confirm=True)
        assert await has(page, 1) == ["one"]
        names = await page.run("performance.getEntriesByType('resource').map(({ name }) => name)")
        assert f"{server.url}/trionotify/connection.js" in names
        assert f"{server.url}/trionotify.js" not in names


async def test_relative_urls(browser: Browser) -> None:
    """They are relative to what the document's others are: its base, in a frame made of text too."""
    async with open_server(port=0) as server:
        page = await browser.open(f"{server.url}/livez")
        await page.run("document.head.innerHTML = '<base href=\"/shop/\">'; true")
        assert await page.run(f"({ASKS})(window)") == f"{server.url}/shop/ours"
        await page.run("""new Promise((done) => {
            window.frame = document.createElement("iframe");
            frame.srcdoc = "<!doctype html>";
            frame.onload = () => done(true);
            document.body.append(frame);
        })""")
        assert await page.run(f"({ASKS})(frame.contentWindow)") == f"{server.url}/shop/ours"


#: Where a client in that window asks.
ASKS = """(window) => window.eval(`import("/trionotify.js").then(({ Trionotify }) =>
    new Promise((done) => {
    const fetch = ({ origin, pathname }) => (done(origin + pathname), new Promise(() => {}));
    new Trionotify("ours", { transport: "sse", fetch });
}))`)"""


#: One mishap each, before the page's script runs.
MISHAPS = {
    "the server is away": """
        window.realFetch = window.fetch;
        window.fetch = async () => {
            window.fetch = realFetch;
            throw new TypeError("Failed to fetch");
        };
    """,
    "no storage": """
        Object.defineProperty(window, "sessionStorage", { get() { throw new DOMException("no"); } });
    """,
}


@pytest.mark.parametrize("mishap", MISHAPS)
async def test_the_page_whose_start_fails(mishap: str, browser: Browser) -> None:
    """It says what is wrong, and starts when that is over."""
    before = MISHAPS[mishap]
    if mishap == "the server is away":
        # What the state has said, to look at when all is over.
        before += """
            window.said = [];
            new MutationObserver(() => said.push(document.querySelector("#state")?.textContent))
                .observe(document, { subtree: true, childList: true, characterData: true });
        """
    async with open_server(port=0) as server:
        page = await browser.open(f"{server.url}/", before=before)
        await page.run("document.querySelector('#state').dataset.state === 'open'", wait=True)
        if mishap == "the server is away":
            assert "not connected: the server does not answer; trying again" in await page.run("said")


#: Into a field, and send the form.
FILL = """(() => {{
    document.querySelector("{field}").value = "{text}";
    document.querySelector("#{form}").requestSubmit();
}})()"""
IS_OPEN = "document.querySelector('#state').dataset.state === 'open'"


@asynccontextmanager
async def the_page(browser: Browser, **options: Any) -> AsyncIterator[tuple[Server, Page]]:
    """A server, and its page once it is connected. No complaint of the browser is left at the end."""
    async with open_server(port=0, **options) as server:
        page = await browser.open(f"{server.url}/")
        await page.run(IS_OPEN, wait=True)
        yield server, page
        assert browser.complaints == []


ROWS = "[...document.querySelectorAll('#stream button')].map((row) => row.textContent)"
IS_SHOWN = "document.querySelector('{}').checkVisibility()"


async def test_the_page(browser: Browser) -> None:
    """It shows events as text, publishes, has figures with values, and asks no other host."""
    async with the_page(browser) as (server, page):
        assert await page.run(IS_SHOWN.format("#empty"))
        await server.hub.publish("hello", type="greeting", subject="<b>x</b>", confirm=True)
        (shown,) = await page.run(f"({ROWS}).length === 1 && {ROWS}", wait=True)
        for words in ("greeting", "hello", "<b>x</b>"):
            assert words in shown
        assert not await page.run(IS_SHOWN.format("#empty"))
        await page.run("document.querySelector('#tab-try').click()")
        await page.run(FILL.format(form="publish", field="[name=data]", text="from the page"))
        receipt = await page.run("document.querySelector('#receipt').textContent", wait=True)
        assert receipt.startswith("Published. Sent to 1 client.cursor ")
        await page.run("document.querySelector('#show').click()")
        await page.run("document.querySelector('#drawer').open", wait=True)
        assert await page.run("document.querySelector('#drawer-data').textContent") == "from the page"
        figure = "document.querySelector('#published-now').closest('figure')"
        await page.run(f"{figure}.lastChild.textContent === '2 in total'", wait=True)
        assert await page.run("document.querySelector('#version').textContent") == trionotify.__version__
        assert await page.run("document.querySelectorAll('#tiles figure').length") == 5
        urls = await page.run("performance.getEntriesByType('resource').map(({ name }) => name)")
        assert {urlsplit(url).netloc for url in urls} == {urlsplit(server.url).netloc}


async def test_the_page_opens_with_the_last_events(browser: Browser) -> None:
    """The last 50, newest first, and what comes then; all there are, where the log keeps fewer."""
    for kept, expected in (({}, 50), ({"max_log_entries": 20}, 20)):
        async with open_server(port=0, **kept) as server:
            for number in range(60):
                await server.hub.publish(f"{number}", confirm=True)
            page = await browser.open(f"{server.url}/")
            await page.run(f"{ROWS}.length === {expected}", wait=True)
            await server.hub.publish("60", confirm=True)
            await page.run(
                f"{ROWS}.length === {min(expected + 1, 50)} && /60$/.test({ROWS}[0])", wait=True
            )
            shown = await page.run(
                "[...document.querySelectorAll('#stream .data')].map((one) => one.textContent)"
            )
            assert shown == [f"{60 - number}" for number in range(len(shown))]
            await page.close()
    assert browser.complaints == []


async def test_the_page_with_filters(browser: Browser) -> None:
    """Chips add up, each can be taken away, and what was published before is filtered as well."""
    chips = "[...document.querySelectorAll('#chips span')].map((one) => one.textContent)"
    types = "[...document.querySelectorAll('#stream .type')].map((one) => one.textContent)"
    async with the_page(browser) as (server, page):
        for kind, subject in (("order.paid", "1"), ("disk.full", "1"), ("order.sent", "2")):
            await server.hub.publish("x", type=kind, subject=subject, confirm=True)
        await page.run(f"{ROWS}.length === 3", wait=True)
        await page.run(FILL.format(form="filter", field="#value", text="order."))
        await page.run(f"{types}.join() === 'order.sent,order.paid'", wait=True)
        await page.run(FILL.format(form="filter", field="#expression", text="subject = '2'"))
        await page.run(f"{types}.join() === 'order.sent'", wait=True)
        assert await page.run(chips) == ["type begins with order.", "SQL: subject = '2'"]
        await server.hub.publish("new", type="order.sent", subject="2", confirm=True)
        await server.hub.publish("other", type="order.sent", subject="3", confirm=True)
        await page.run(f"{types}.join() === 'order.sent,order.sent'", wait=True)
        await page.run("document.querySelector('#chips button').click()")
        await page.run(f"{chips}.length === 1", wait=True)
        await page.run("document.querySelector('#chips button').click()")
        await page.run(f"{ROWS}.length === 5", wait=True)
        # From an event, too.
        await page.run("document.querySelectorAll('#stream button')[4].click()")
        await page.run("document.querySelector('#drawer dd button').click()")
        await page.run(f"{chips}.length === 1 && {ROWS}.length === 5", wait=True)
        assert await page.run(chips) == ["source is /hub"]


async def test_the_page_with_filters_in_quick_succession(browser: Browser) -> None:
    """Each counts, also where the log doesn't go back as far as the page asks."""
    chips = "[...document.querySelectorAll('#chips span')].map((one) => one.textContent)"
    async with the_page(browser, max_log_entries=10) as (server, page):
        for n in range(20):
            await server.hub.publish(f"{n}", type="order.paid", confirm=True)
        texts = ("order.", "order.p", "o")
        fill = (FILL.format(form="filter", field="#value", text=text) for text in texts)
        await page.run(";".join(fill))
        await page.run(f"{chips}.length === 3", wait=True)
        await page.run("for (const one of document.querySelectorAll('#chips button')) one.click()")
        await page.run(f"{chips}.length === 0 && {ROWS}.length === 10", wait=True)
        assert await page.run("document.querySelector('#filter-error').textContent") == ""


async def test_the_page_with_long_data(browser: Browser) -> None:
    """An event with as many values as fit is shown as a whole."""
    numbers = list(range(140_000))
    async with the_page(browser) as (server, page):
        await server.hub.publish(json=numbers, type="long", confirm=True)
        await page.run(f"{ROWS}.length === 1", wait=True)
        await page.run("document.querySelector('#stream button').click()")
        assert await page.run("document.querySelector('#drawer').open")
        data = "document.querySelector('#drawer-data').textContent"
        assert await page.run(f"JSON.parse({data})") == numbers


async def test_the_page_with_a_wrong_filter(browser: Browser) -> None:
    """The place is marked and selected, and the stream goes on as it was."""
    async with the_page(browser) as (server, page):
        await page.run(FILL.format(form="filter", field="#expression", text="type LIKE order"))
        said = await page.run("document.querySelector('#filter-error').textContent", wait=True)
        assert said.startswith("Line 1, column 11: ")
        assert await page.run("document.querySelector('#filter-error mark').textContent") == "order"
        field = "document.querySelector('#expression')"
        assert await page.run(f"[{field}.selectionStart, document.activeElement.id]") == [
            10,
            "expression",
        ]
        assert await page.run(f"{field}.getAttribute('aria-invalid')") == "true"
        await server.hub.publish("still", confirm=True)
        await page.run(f"{ROWS}.length === 1", wait=True)


async def test_the_page_while_the_server_is_away(browser: Browser, tmp_path: Path) -> None:
    """It says since when and until when, dims its figures, and tries at once when it is told to."""
    async with server_process(tmp_path, "--store", f"sqlite:{tmp_path}/log", patience=100) as server:
        await server.start()
        page = await browser.open(f"http://127.0.0.1:{server.port}/")
        post = "fetch('/events?type=a', {{ method: 'POST', body: {!r} }}).then(({{ ok }}) => ok)"
        assert await page.run(post.format("before"))
        await page.run(f"{ROWS}.length === 1", wait=True)
        await page.run("document.querySelectorAll('.spark-line').length > 0", wait=True)
        server.signal()
        await server.ended()
        await page.run(IS_SHOWN.format("#outage"), wait=True)
        assert (await page.run("document.querySelector('#outage-text').textContent")).startswith(
            "No connection to the server since "
        )
        # The bound doubles with each attempt, so there is one to wait for in the end.
        await page.run(
            "/Next attempt in /.test(document.querySelector('#outage-next').textContent)", wait=True
        )
        value = "getComputedStyle(document.querySelector('.tile b')).color"
        dimmed = await page.run(value)
        await server.start("--port", str(server.port))
        await page.run("document.querySelector('#retry').click()")
        await page.run(f"{IS_OPEN} && !{IS_SHOWN.format('#outage')}", wait=True)
        assert await page.run(value) != dimmed
        assert await page.run(post.format("after"))
        await page.run(f"{ROWS}.length === 2", wait=True)
        assert await page.run("document.querySelectorAll('#stream .note').length") == 0


async def test_the_page_that_pauses(browser: Browser) -> None:
    """Events that come meanwhile are counted, and shown when it goes on."""
    label = "document.querySelector('#pause').textContent"
    async with the_page(browser) as (server, page):
        await server.hub.publish("1", confirm=True)
        await page.run(f"{ROWS}.length === 1", wait=True)
        await page.run("document.querySelector('#pause').click()")
        for text in "23":
            await server.hub.publish(text, confirm=True)
        await page.run(f"{label} === 'Resume (2 new)'", wait=True)
        assert len(await page.run(ROWS)) == 1
        await page.run("document.querySelector('#pause').click()")
        await page.run(f"{label} === 'Pause' && {ROWS}.length === 3", wait=True)
        await page.run("document.querySelector('#clear').click()")
        assert await page.run(IS_SHOWN.format("#empty"))


async def test_the_page_with_clients(browser: Browser) -> None:
    """Their filters are in words, and the viewer is marked, and first."""
    rows = (
        "[...document.querySelectorAll('#clients tr')].map((row) => row.innerText.replace(/\\s+/g, ' '))"
    )
    async with the_page(browser) as (server, page):
        wanted = Prefix(type="order.") & ~Exact(subject="1")
        async with connect(server.url, id="al", filters=wanted):
            await page.run("document.querySelector('#tab-clients').click()")
            me, other = await page.run(f"{rows}.length === 2 && {rows}", wait=True)
        assert re.fullmatch(r"page-\w+ you WebSocket everything .* 0", me)
        assert re.fullmatch(r"al WebSocket type begins with order. and not subject is 1 .* 0", other)


async def test_what_the_page_gives_to_copy(browser: Browser) -> None:
    """The commands and programs for one event publish it again, each as it was."""
    need(shutil.which("curl"), "no curl is installed")
    async with the_page(browser) as (server, page), server.hub.subscribe() as received:
        sent = {"text": 'it\'s "é"', "list": [1, None, True]}
        await server.hub.publish(json=sent, type="a.b", subject="s 1", source="/x", confirm=True)
        assert (await anext(received)).type == "a.b"
        await page.run(f"{ROWS}.length === 1", wait=True)
        await page.run("document.querySelector('#stream button').click()")
        code, buttons = "document.querySelector('#drawer-code pre').textContent", "#drawer-code button"
        for language, command in (("curl", ["sh", "-s"]), ("Python", [sys.executable, "-"])):
            choose = f"find((one) => one.textContent === {language!r}).click()"
            await page.run(f"[...document.querySelectorAll('{buttons}')].{choose}")
            program = (await page.run(code)).encode()
            await trio.run_process(command, stdin=program, capture_stdout=True)
            again = await anext(received)
            assert (again.type, again.subject, again.source) == ("a.b", "s 1", "/x")
            assert json.loads(again.data) == sent


#: How far a tab of the keyboard gets.
NAMED = """(() => {
    window.seen = (one) => one.checkVisibility() && one.tabIndex >= 0 && !one.disabled;
    window.named = ({ tagName, id, name, textContent }) =>
        `${tagName} ${id} ${name ?? ""} ${tagName === "BUTTON" ? textContent : ""}`;
})()"""
_CONTROLS = "a[href], button, input, select, textarea, [tabindex]"


async def test_the_page_by_keyboard(browser: Browser) -> None:
    """Tab reaches every control in the order of reading; events and publishing need no mouse."""
    async with the_page(browser) as (server, page):
        for text in "abc":
            await server.hub.publish(text, confirm=True)
        await page.run(f"{ROWS}.length === 3", wait=True)
        await page.run(NAMED)
        controls = await page.run(
            f"[...document.querySelectorAll('{_CONTROLS}')].filter(seen).map(named)"
        )
        reached = []
        for _ in controls:
            await page.press("Tab")
            reached.append(await page.run("named(document.activeElement)"))
        assert reached == controls
        assert await page.run("named(document.querySelector('a.skip'))") == reached[0]
        # The last one is the newest event: the others by arrows, one by Enter.
        await page.press("ArrowDown")
        await page.press("Enter")
        await page.run("document.querySelector('#drawer').open", wait=True)
        assert await page.run("document.querySelector('#drawer-data').textContent") == "b"
        await page.press("ArrowRight")
        assert await page.run("document.querySelector('#drawer-data').textContent") == "a"
        await page.press("Escape")
        await page.run("document.activeElement.matches('#stream button')", wait=True)
        # Tabs by arrows.
        await page.run("document.querySelector('#tab-stream').focus()")
        for name in ("Clients", "Try it"):
            await page.press("ArrowRight")
            assert await page.run("document.activeElement.textContent") == name
        await page.run("document.querySelector('[name=data]').focus()")
        await page.write("!")
        await page.run("document.querySelector('#publish .primary').focus()")
        await page.press("Enter")
        await page.run("/Published/.test(document.querySelector('#receipt').textContent)", wait=True)


#: What has the focus.
FOCUS = "document.activeElement.id || document.activeElement.tagName"


async def test_the_page_keeps_the_focus(browser: Browser) -> None:
    """Where a control is gone, the keyboard goes on with what is beside it, not from the top."""
    async with the_page(browser) as (server, page):
        # A row at the end makes room for one that comes.
        for number in range(60):
            await server.hub.publish(f"{number}", confirm=True)
        await page.run("/^59$/.test(document.querySelector('#stream .data').textContent)", wait=True)
        await page.run("[...document.querySelectorAll('#stream button')].at(-1).focus()")
        await server.hub.publish("next", confirm=True)
        await page.run("document.querySelector('#stream .data').textContent === 'next'", wait=True)
        last = "document.activeElement === [...document.querySelectorAll('#stream button')].at(-1)"
        assert await page.run(last)
        # There are no older ones any more.
        await page.run("document.querySelector('#older').focus()")
        await page.press("Enter")
        assert await page.run("document.querySelector('#older').hidden")
        assert (
            await page.run(
                "[...document.querySelectorAll('#stream button')].indexOf(document.activeElement)"
            )
            == 50
        )
        # There is no newer one.
        await page.run("document.querySelectorAll('#stream button')[1].click()")
        await page.run("document.querySelector('#newer').focus()")
        await page.press("Enter")
        assert await page.run("document.querySelector('#drawer-data').textContent") == "next"
        assert await page.run(FOCUS) == "newer"
        assert await page.run("document.activeElement.ariaDisabled") == "true"
        await page.press("Escape")
        # A filter that is taken away, with the keyboard.
        for text in ("m", "me"):
            await page.run(FILL.format(form="filter", field="#value", text=text))
        chips = "document.querySelectorAll('#chips button')"
        await page.run(f"{chips}.length === 2", wait=True)
        for left in (1, 0):
            await page.run(f"{chips}[0].focus()")
            await page.press("Enter")
            await page.run(f"{chips}.length === {left}", wait=True)
            on = "document.activeElement.parentElement.parentElement.id" if left else FOCUS
            assert await page.run(on) == ("chips" if left else "value")
        # From the form to the event and back.
        await page.run("document.querySelector('#tab-try').click()")
        await page.run("document.querySelector('#publish').requestSubmit()")
        await page.run(IS_SHOWN.format("#show"), wait=True)
        await page.run("document.querySelector('#show').focus()")
        await page.press("Enter")
        await page.run("document.querySelector('#drawer').open", wait=True)
        await page.press("Escape")
        await page.run(f"({FOCUS}) === 'tab-stream'", wait=True)


async def test_the_page_on_a_narrow_screen(browser: Browser) -> None:
    """At 320 pixels, which is also 1280 at four times the size, no control sticks out or is cut off."""
    async with open_stage(browser) as stage:
        server = await stage.start()
        page = await stage.open(390, "light")
        await page.resize(320, 640)
        await page.run(IS_OPEN, wait=True)
        long = "x" * 300
        for data in ("<b>x</b>", long):
            await server.hub.publish(data, type=f"type.{long}", subject=long, confirm=True)
        await page.run(f"{ROWS}.length === 2", wait=True)
        for tab in ("stream", "clients", "try"):
            await page.run("document.querySelector('#tab-nodes').hidden = false")
            await page.run(f"document.querySelector('#tab-{tab}').click()")
            assert await page.run(STICKS_OUT) == []
        await page.run("document.querySelector('#publish-code .copy').click()")
        await page.run("document.querySelector('#publish-code .copy').textContent !== 'Copy'", wait=True)
        assert await page.run(STICKS_OUT) == []
        await page.run("document.querySelector('#tab-stream').click()")
        await page.run(FILL.format(form="filter", field="#expression", text="type = 'a"))
        await page.run("document.querySelector('#filter-error').textContent", wait=True)
        assert await page.run(STICKS_OUT) == []
        await page.run("document.querySelector('#stream button').click()")
        assert await page.run(STICKS_OUT) == []
        await page.close()


#: Controls that aren't on the screen as a whole from left to right.
STICKS_OUT = """(() => {
    const controls = [...document.querySelectorAll("button, input, select, textarea, a")];
    const shown = controls.filter((one) => one.checkVisibility() && !one.matches(".skip"));
    return shown.filter((one) => {
        const { left, right } = one.getBoundingClientRect();
        return left < 0 || right > 320;
    }).map((one) => one.outerHTML).concat(document.documentElement.scrollWidth > 320 ? ["scrolls"] : []);
})()"""


async def test_the_page_as_it_is_read_aloud(browser: Browser) -> None:
    """All that can be used has a name, and what changes by itself is announced."""
    async with the_page(browser) as (server, page):
        await server.hub.publish("x", confirm=True)
        label = "document.querySelector('#clients-now').closest('figure').querySelector('svg').ariaLabel"
        await page.run(f"/last 1/.test({label})", wait=True)
        assert (await page.run(label)) == "Clients: last 1, between 1 and 1 in the last two minutes"
        await page.ask("Accessibility.enable")
        nodes = (await page.ask("Accessibility.getFullAXTree"))["nodes"]
        told = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]
        roles = [role for role, _ in told]
        assert not [role for role, name in told if role in _NAMED and not name.strip()]
        assert {"banner", "main", "log", "list", "tablist", "tabpanel", "form"} <= set(roles)
        assert (roles.count("tab"), roles.count("status")) == (3, 1)


#: What has to say what it is.
_NAMED = {
    "button",
    "textbox",
    "combobox",
    "link",
    "heading",
    "log",
    "region",
    "tab",
    "RootWebArea",
    "image",
}


#: These take a minute, and show nothing that others don't.
_SLOW = {"traffic", "back"}


@pytest.mark.parametrize("state", sorted(STATES.keys() - _SLOW))
async def test_no_violation(state: str, browser: Browser) -> None:
    """axe finds none, in each state, wide and narrow, light and dark."""
    axe = TESTS.parent / "peers/node_modules/axe-core/axe.min.js"
    need(axe.exists(), "npm install --prefix tests/peers wasn't run, so there is no axe-core")
    async with open_stage(browser) as stage:
        page = await STATES[state](stage, 1280, "light")
        await page.run(f"{axe.read_text()}; true")
        for width in WIDTHS:
            await page.resize(width, WIDTHS[width])
            for scheme in ("light", "dark"):
                await page.prefer(scheme)
                found = await page.run(AXE)
                assert found == [], (width, scheme)
    await page.close()


AXE = """axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) => violations.map(
    ({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html, failureSummary])]
))"""


async def test_a_page_whose_url_has_a_password(browser: Browser) -> None:
    """As in a link to a page behind a proxy. Neither the page nor a client with a relative URL minds."""
    async with open_server(port=0) as server:
        url = server.url.replace("//", "//user:password@")
        page = await browser.open(f"{url}/")
        await page.run(IS_OPEN, wait=True)
        await page.run(IS_SHOWN.format("#empty"), wait=True)
        await page.run("document.querySelector('#tab-try').click()")
        # It is in none of the programs that it shows.
        programs = await page.run("[...document.querySelectorAll('pre')].map((one) => one.textContent)")
        assert len(programs) > 2
        assert not [one for one in programs if "user" in one or "password" in one]
        page = await connected(browser, url, options="transport: 'sse'")
        await page.run("client.publish('posted')")
        assert await has(page, 1) == ["posted"]
        # A URL that was made from that of the page loses them; other ones are refused.
        made = "import('/trionotify.js').then(({ Trionotify }) => new Trionotify(URL))"
        own = made.replace("URL", "new URL('/events', document.baseURI)")
        assert await page.run(f"{own}.then((client) => client.state)") == "connecting"
        other = made.replace("URL", "location.origin.replace('//', '//al:secret@')")
        refused = await page.run(f"{other}.catch(String)")
        assert refused.startswith("TypeError: url: must not have a user or a password")


async def test_no_page(browser: Browser) -> None:
    """With `page=False` there is none, but a few words."""
    async with open_server(port=0, page=False) as server:
        page = await browser.open(f"{server.url}/")
        assert "This is trionotify" in await page.run("document.body.textContent")


async def test_the_browsers_own_event_source(browser: Browser, tmp_path: Path) -> None:
    """It resumes by itself, over a server that is killed."""
    async with server_process(tmp_path, "--store", f"sqlite:{tmp_path}/log", patience=100) as server:
        await server.start()
        page = await browser.open(f"http://127.0.0.1:{server.port}/livez")
        await page.run("""new Promise((done) => {
            window.seen = [];
            window.source = new EventSource("/events");
            source.onmessage = ({ data }) => seen.push(data);
            source.onopen = () => done(true);
        })""")
        post = "fetch('/events', {{ method: 'POST', body: {!r} }}).then((answer) => answer.ok)"
        assert await page.run(post.format("one"))
        await has(page, 1)
        await restart(server)
        assert await page.run(post.format("two"))
        assert await has(page, 2) == ["one", "two"]
