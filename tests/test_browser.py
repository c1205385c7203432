"""The browser client, in Node and in a real Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

import trionotify
from tests.chromium import CHROMIUM, Browser, Page, open_browser
from tests.fleet.server import ServerProcess, server_process
from tests.test_peers import need
from trionotify import open_server

TESTS = Path(__file__).parent / "browser"


@pytest.mark.parametrize("name", ["node", "stream", "recover"])
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
    with trio.fail_after(120):
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
    """What has come, once it is so much."""
    await page.run(f"seen.length >= {count}", wait=True)
    seen: list[str] = await page.run("seen")
    return seen


@pytest.mark.parametrize("durable", [True, False])
async def test_a_server_that_is_killed(durable: bool, browser: Browser, tmp_path: Path) -> None:
    """Two pages with filters of their own, a third that publishes: they go on, and say what is lost."""
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
            # A log in memory begins anew, and so do they.
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
            connection.cut_off()
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
        assert len(server.hub.clients) == 1


async def test_a_page_that_is_put_to_sleep(browser: Browser) -> None:
    """What came meanwhile comes when it wakes up, once."""
    async with open_server(port=0) as server:
        page = await connected(browser, server.url)
        await page.ask("Page.setWebLifecycleState", state="frozen")
        await server.hub.publish("asleep", confirm=True)
        await page.ask("Page.setWebLifecycleState", state="active")
        await server.hub.publish("awake", confirm=True)
        assert await has(page, 2) == ["asleep", "awake"]


async def test_the_page(browser: Browser) -> None:
    """It shows what comes, says what is wrong with a filter, publishes, and asks nobody else."""
    async with open_server(port=0) as server:
        page = await browser.open(f"{server.url}/")
        await page.run("document.querySelector('#state').dataset.state === 'open'", wait=True)
        await server.hub.publish("hello", type="greeting", subject="<b>x</b>", confirm=True)
        await page.run("document.querySelectorAll('#stream li').length === 1", wait=True)
        shown = await page.run("document.querySelector('#stream li').textContent")
        for words in ("greeting", "hello", "<b>x</b>", "/hub"):
            assert words in shown
        await page.run(FILL.format(form="filter", field="#expression", text="type LIKE"))
        wrong = await page.run("document.querySelector('#filter-error').textContent", wait=True)
        assert "line 1, column 10" in wrong
        await page.run(FILL.format(form="filter", field="#expression", text="type = 'a'"))
        await page.run("document.querySelector('#stream li .note') !== null", wait=True)
        assert [client.predicates for client in server.hub.clients] != [()]
        await page.run(FILL.format(form="publish", field="[name=data]", text="from the page"))
        await page.run("/wanted by 0/.test(document.querySelector('#receipt').textContent)", wait=True)
        await page.run("document.querySelector('#published-now').textContent === '2'", wait=True)
        await page.run("document.querySelectorAll('canvas').length === 3", wait=True)
        urls = await page.run("performance.getEntriesByType('resource').map(({ name }) => name)")
        hosts = {urlsplit(url).netloc for url in urls}
        assert hosts == {urlsplit(server.url).netloc}
        assert browser.complaints == []


#: Into a field, and send the form.
FILL = """(() => {{
    document.querySelector("{field}").value = "{text}";
    document.querySelector("#{form}").requestSubmit();
}})()"""


async def test_the_page_by_keyboard(browser: Browser) -> None:
    """Tab reaches every control in the order of reading; filter, pause and publish need no mouse."""
    async with open_server(port=0) as server:
        page = await browser.open(f"{server.url}/")
        await page.run("document.querySelector('#state').dataset.state === 'open'", wait=True)
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
        await page.run("document.querySelector('#expression').focus()")
        await page.write("type = 'a'")
        await page.press("Enter")
        await page.run("document.querySelector('#stream li .note') !== null", wait=True)
        await page.run("document.querySelector('#pause').focus()")
        await page.press(" ")
        assert await page.run("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
        await page.run("document.querySelector('#publish button').focus()")
        await page.press("Enter")
        await page.run("/wanted by/.test(document.querySelector('#receipt').textContent)", wait=True)


#: How to tell one control from another, and whether it is there for anyone.
NAMED = """(() => {
    window.seen = (one) => one.checkVisibility();
    window.named = ({ tagName, id, name, textContent }) =>
        `${tagName} ${id} ${name ?? ""} ${tagName === "BUTTON" ? textContent : ""}`;
})()"""
_CONTROLS = "a[href], button, input, select, textarea, [tabindex]"


async def test_the_page_as_it_is_read_aloud(browser: Browser) -> None:
    """All that can be used has a name, and what changes by itself is announced."""
    async with open_server(port=0) as server:
        page = await browser.open(f"{server.url}/")
        await page.run("document.querySelector('#state').dataset.state === 'open'", wait=True)
        await page.run("/published [0-9]/.test(document.querySelector('#rates').ariaLabel)", wait=True)
        await page.ask("Accessibility.enable")
        nodes = (await page.ask("Accessibility.getFullAXTree"))["nodes"]
        told = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]
        assert ("image", "clients: clients 1, behind 0") in told
        roles = [role for role, _ in told]
        assert not [role for role, name in told if role in _NAMED and not name.strip()]
        assert {"banner", "main", "complementary", "log", "table", "alert"} <= set(roles)
        assert roles.count("heading") >= 4
        assert roles.count("status") == 2


#: What has to say what it is.
_NAMED = {"button", "textbox", "combobox", "link", "heading", "log", "region", "RootWebArea", "image"}


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
