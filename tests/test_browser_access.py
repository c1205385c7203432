"""The browser client with tokens and several servers, and the page's ways in, in a real Chromium."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import FAR_AWAY, Browser, Page
from tests.fleet.server import server_process
from tests.provider import AUDIENCE, ISSUER, SECRET, secret_issuer, secret_token
from tests.redis_nodes import until
from tests.redis_server import open_redis
from tests.test_browser import CONNECT, FILL, IS_OPEN, IS_SHOWN, ROWS, browser, has
from trionotify import CloseCode, Server, Tokens, open_server

__all__ = ["browser"]

#: What a backend does, here in the page: a token for so many seconds.
TOKEN = """async () => {{
    window.asked = (window.asked ?? 0) + 1;
    const encoded = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)))
        .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
    const [text, how] = [new TextEncoder(), {{ name: "HMAC", hash: "SHA-256" }}];
    const exp = Math.floor(Date.now() / 1000) + {seconds};
    const scope = "trionotify:subscribe trionotify:publish";
    const claims = {{ iss: "{issuer}", aud: "{audience}", sub: "alice", exp, scope }};
    const parts = [{{ alg: "HS256", typ: "at+jwt" }}, claims];
    const signed = parts.map((part) => encoded(text.encode(JSON.stringify(part)))).join(".");
    const key = await crypto.subtle.importKey("raw", text.encode("{secret}"), how, false, ["sign"]);
    return `${{signed}}.${{encoded(await crypto.subtle.sign(how, key, text.encode(signed)))}}`;
}}"""


def a_token(seconds: int = 600) -> str:
    """The option that has the function."""
    return "token: " + TOKEN.format(
        seconds=seconds, issuer=ISSUER, audience=AUDIENCE, secret=SECRET.decode()
    )


async def connected(browser: Browser, url: str, options: str, to: object = "/events") -> Page:
    """A page of that server, with a client that is open."""
    page = await browser.open(f"{url}/livez")
    connect = CONNECT.replace('"/events?{query}"', json.dumps(to))
    await page.run(connect.format(options=options))
    return page


async def test_a_token_that_expires_while_the_page_sleeps(browser: Browser) -> None:
    """When it wakes up it gets a fresh one, and what came meanwhile, once."""
    async with open_server(port=0, authenticate=Tokens(secret_issuer(leeway=0))) as server:
        page = await connected(browser, server.url, a_token(8))
        assert await page.run("client.id") == "alice"
        await page.run("client.publish('before')")
        await has(page, 1)
        await page.ask("Page.setWebLifecycleState", state="frozen")
        await until(lambda: not server.hub.clients)
        await server.hub.publish("asleep", confirm=True)
        await page.ask("Page.setWebLifecycleState", state="active")
        assert await has(page, 2) == ["before", "asleep"]
        await page.run("client.publish('awake')")
        assert await has(page, 3) == ["before", "asleep", "awake"]
        assert (await page.run("gaps"), await page.run("asked > 1")) == ([], True)


async def test_tabs_that_share_a_connection_with_a_token(browser: Browser) -> None:
    """The tab that has the connection gets the token. When it is closed, the next one gets its own."""
    async with open_server(port=0, authenticate=Tokens(secret_issuer())) as server:
        options = f"share: true, {a_token()}"
        first, second = [await connected(browser, server.url, options) for _ in range(2)]
        assert len(server.hub.clients) == 1
        # One that doesn't have it publishes as the same client.
        await second.run("client.publish('one')")
        for page in (first, second):
            assert (await has(page, 1), await page.run("client.id")) == (["one"], "alice")
        assert [await page.run("window.asked ?? 0") for page in (first, second)] == [1, 0]
        await first.close()
        await second.run("client.publish('two')")
        assert await has(second, 2) == ["one", "two"]
        assert (await second.run("asked"), await second.run("gaps")) == (1, [])


async def test_tabs_whose_fresh_token_is_refused(browser: Browser) -> None:
    """That is the end of all that share the connection, and each says why."""
    async with open_server(port=0, authenticate=Tokens(secret_issuer())) as server:
        good = a_token().removeprefix("token: ")
        options = f"share: true, token: async () => localStorage.getItem('bad') ?? ({good})()"
        pages = [await connected(browser, server.url, options) for _ in range(2)]
        await pages[0].run("localStorage.setItem('bad', 'x.y.z')")
        for client in server.hub.clients:
            client.close(CloseCode.UNAUTHORIZED, "expired")
        for page in pages:
            await page.run("client.state === 'closed'", wait=True)
            assert await page.run("client.publish('x').catch(({ status }) => status)") == 401
        await pages[0].run("localStorage.clear()")


async def test_a_token_for_another_site(browser: Browser) -> None:
    """A page of an allowed origin gets its tickets, over both transports."""
    async with open_server(port=0) as site:
        tokens = Tokens(secret_issuer())
        async with open_server(port=0, authenticate=tokens, allow_origin=site.url) as server:
            for transport in ("websocket", "sse"):
                options = f"transport: {transport!r}, {a_token()}"
                page = await connected(browser, site.url, options, f"{server.url}/events")
                await page.run("client.publish('hello')")
                assert await has(page, 1) == ["hello"]


async def test_a_token_in_a_cookie(browser: Browser) -> None:
    """It says who the client is, and who looks at the page."""
    async with open_server(port=0, authenticate=Tokens(secret_issuer(), cookie="token")) as server:
        page = await browser.open(f"{server.url}/livez")
        await page.run(f"document.cookie = 'token={secret_token(exp=time.time() + 600)}'")
        page = await connected(browser, server.url, "id: null")
        await page.run("client.publish('hello')")
        assert (await has(page, 1), await page.run("client.id")) == (["hello"], "alice")
        page = await browser.open(f"{server.url}/")
        await page.run(f"{IS_OPEN} && {DATA}.join() === 'hello'", wait=True)
        assert [client.id for client in server.hub.clients] == ["alice", "alice"]


@pytest.mark.parametrize("transport", ["auto", "sse"])
async def test_two_nodes_of_which_one_ends(transport: str, browser: Browser, tmp_path: Path) -> None:
    """The tabs' one connection moves on to the other node: nothing is lost, and nothing comes twice."""
    async with open_redis(tmp_path) as redis, open_server(port=0) as site:
        options: dict[str, Any] = {"port": 0, "store": redis.url, "allow_origin": site.url}
        async with open_server(**options, node_name="last") as last:
            async with open_server(**options, node_name="first") as first:
                urls = [f"{node.url}/events" for node in (first, last)]
                said = f"share: true, transport: {transport!r}"
                pages = [await connected(browser, site.url, said, urls) for _ in range(2)]
                assert clients(first, last) == [1, 0]
                receipt = await pages[1].run("client.publish('one')")
                assert (receipt["node"], receipt["durability"]) == ("first", "primary")
                await pages[1].run(f"client.cursor === {receipt['cursor']!r}", wait=True)
                first.hub.abort()
            await last.hub.publish("two", confirm=True)
            for page in pages:
                assert await has(page, 2) == ["one", "two"]
            late = await connected(browser, site.url, f"{said}, since: 'start'", urls)
            receipt = await pages[1].run("client.publish('three')")
            assert receipt["node"] == "last"
            for page in (*pages, late):
                assert await has(page, 3) == ["one", "two", "three"]
                assert await page.run("gaps") == []
            await until(lambda: clients(last) == [1])


async def test_a_node_that_is_killed(browser: Browser, tmp_path: Path) -> None:
    """The client gets its next ticket at the other node; all that is published is in the log once."""
    (tmp_path / "secret").write_bytes(SECRET)
    issuer = {"issuer": ISSUER, "audience": AUDIENCE, "secret": str(tmp_path / "secret")}
    lines = [f"{name} = {json.dumps(text)}" for name, text in issuer.items()]
    (tmp_path / "config").write_text("\n".join(["[[issuer]]", *lines]))
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_redis(tmp_path / "redis"))
        site = await stack.enter_async_context(open_server(port=0))
        options = [
            "--store",
            redis.url,
            "--config",
            str(tmp_path / "config"),
            "--allow-origin",
            site.url,
        ]
        nodes = []
        for name in "ab":
            (tmp_path / name).mkdir()
            node = server_process(tmp_path / name, *options, "--node-name", name, patience=100)
            nodes.append(await stack.enter_async_context(node))
            await nodes[-1].start()
        urls = [f"http://127.0.0.1:{node.port}/events" for node in nodes]
        page = await connected(browser, site.url, a_token(), urls)
        await page.run("""
            window.all = (async () => {
                const receipts = [];
                for (let n = 0; n < 300; n += 1) {
                    const waits = () => seen.length < n - 50 || (n === 200 && !window.isKilled);
                    while (waits()) await new Promise((done) => setTimeout(done));
                    receipts.push(client.publish(`${n}`));
                }
                return [...new Set((await Promise.all(receipts)).map(({ node }) => node))].sort();
            })();
            true
        """)
        await has(page, 60)
        nodes[0].signal()
        await nodes[0].ended()
        await page.run("window.isKilled = true")
        assert await page.run("all") == ["a", "b"]
        assert await has(page, 300) == [f"{n}" for n in range(300)]
        assert await page.run("gaps") == []


def clients(*servers: Server) -> list[int]:
    return [len(server.hub.clients) for server in servers]


# The page.

#: What the state, an element, or the first rows say.
STATE = "document.querySelector('#state').textContent"
TEXT = "document.querySelector('{}').textContent"
DATA = "[...document.querySelectorAll('#stream .data')].map((one) => one.textContent)"


async def unlock(page: Page, text: str) -> None:
    await page.run(IS_SHOWN.format("#unlock"), wait=True)
    await page.run(FILL.format(form="unlock", field="#secret", text=text))


@pytest.mark.parametrize("host", ["127.0.0.1", FAR_AWAY])
async def test_the_page_with_a_secret(host: str, browser: Browser) -> None:
    """Where the browser signs nothing it works by Server-Sent Events, and says why."""
    async with open_server(port=0, secret=SECRET) as server:
        page = await browser.open(f"http://{host}:{server.port}/")
        await unlock(page, "something else")
        await page.run(TEXT.format("#locked-error"), wait=True)
        assert await page.run(TEXT.format("#secret-label")) == (
            "Enter the server's secret to open the dashboard."
        )
        is_plain = host == FAR_AWAY
        assert await page.run(IS_SHOWN.format("#insecure")) is is_plain
        await unlock(page, SECRET.decode())
        await page.run(IS_OPEN, wait=True)
        await page.run("document.querySelector('#tab-try').click()")
        await page.run(FILL.format(form="publish", field="[name=data]", text="from here"))
        await page.run(f"{DATA}.join() === 'from here'", wait=True)
        await page.run(IS_SHOWN.format("#tiles"), wait=True)
        said = [await page.run(STATE), await page.run(TEXT.format("#hindrance"))]
        (client,) = server.hub.clients
        assert client.id.startswith("page-")
        if is_plain:
            assert said[0] == "connected by Server-Sent Events"
            assert said[1].startswith(
                "This page came over plain HTTP, so the browser doesn't let it sign"
            )
        else:
            assert said == ["connected by WebSocket", ""]


async def test_the_page_with_a_secret_that_no_header_can_have(browser: Browser) -> None:
    """The page says so, and takes the next one."""
    async with open_server(port=0, secret=SECRET) as server:
        page = await browser.open(f"{server.url}/")
        await unlock(page, "пароль")
        error = await page.run(TEXT.format("#locked-error"), wait=True)
        assert error == "The server doesn't accept it: secrets and tokens consist of ASCII characters."
        await unlock(page, SECRET.decode())
        await page.run(IS_OPEN, wait=True)


async def test_the_page_that_is_unlocked_while_the_server_is_away(browser: Browser) -> None:
    """What was typed last counts when the server is back."""
    before = """
        window.realFetch = window.fetch;
        window.fetch = async (...given) => {
            if (window.isAway) throw new TypeError("Failed to fetch");
            return realFetch(...given);
        };
    """
    async with open_server(port=0, secret=SECRET) as server:
        page = await browser.open(f"{server.url}/", before=before)
        await page.run(IS_SHOWN.format("#unlock"), wait=True)
        await page.run("window.isAway = true")
        await unlock(page, "something else")
        await page.run(f"{STATE}.startsWith('not connected: ')", wait=True)
        await unlock(page, SECRET.decode())
        await page.run("window.isAway = false; true")
        await page.run(IS_OPEN, wait=True)
        assert not [one for one in browser.complaints if "form" in str(one)]


@pytest.mark.parametrize("host", ["127.0.0.1", FAR_AWAY])
async def test_the_page_with_a_token(host: str, browser: Browser) -> None:
    """It says why a token is refused, and is the client that a good one names until it is ended."""
    scope = "trionotify:subscribe trionotify:publish trionotify:admin"
    async with open_server(port=0, authenticate=Tokens(secret_issuer())) as server:
        page = await browser.open(f"http://{host}:{server.port}/")
        await unlock(page, secret_token(exp=time.time() - 600))
        error = await page.run(TEXT.format("#locked-error"), wait=True)
        assert error.startswith("The server doesn't accept it: exp: "), error
        assert await page.run(IS_SHOWN.format("#token-hint"))
        await unlock(page, "Bearer " + secret_token(exp=time.time() + 600, scope=scope))
        await page.run(IS_OPEN, wait=True)
        assert await page.run(STATE) == "connected by WebSocket"
        assert await page.run(TEXT.format("#hindrance")) == ""
        await page.run("document.querySelector('#tab-clients').click()")
        row = "document.querySelector('#clients tr')?.innerText"
        assert (await page.run(row, wait=True)).split()[:2] == ["alice", "you"]
        await page.run("document.querySelector('#tab-try').click()")
        assert "$TOKEN" in await page.run(TEXT.format("#publish-code pre"))
        for client in server.hub.clients:
            client.close(CloseCode.UNAUTHORIZED, "expired")
        await page.run(f"{STATE} === 'closed'", wait=True)
        assert await page.run(TEXT.format("#outage-text")) == "The connection is closed: expired."
        await page.run("document.querySelector('#retry').click()")
        await page.run("document.querySelector('#state')?.dataset.state === 'open'", wait=True)


async def test_the_page_with_a_token_that_grants_less(browser: Browser) -> None:
    """It shows the stream, says what is missing for the rest, and doesn't ask again and again."""
    async with open_server(port=0, authenticate=Tokens(secret_issuer())) as server:
        page = await browser.open(f"{server.url}/")
        token = secret_token(exp=time.time() + 600, scope="trionotify:publish")
        await unlock(page, token)
        error = await page.run(TEXT.format("#locked-error"), wait=True)
        assert error.startswith("The server doesn't accept it: ")
        assert "no right to subscribe" in error
        await unlock(page, secret_token(exp=time.time() + 600, scope="trionotify:subscribe"))
        await page.run(IS_OPEN, wait=True)
        await server.hub.publish("hello", confirm=True)
        await page.run(f"{DATA}.join() === 'hello'", wait=True)
        await page.run("document.querySelector('#tab-clients').click()")
        note = await page.run(TEXT.format("#clients-note"), wait=True)
        assert note.endswith("It needs the scope trionotify:admin.")
        await page.run("document.querySelector('#tab-try').click()")
        await page.run(FILL.format(form="publish", field="[name=data]", text="x"))
        assert "only subscribe" in await page.run(TEXT.format("#receipt"), wait=True)


async def test_the_page_with_several_nodes(browser: Browser, tmp_path: Path) -> None:
    """Their tab is there while there is more than one; the last events come whatever the cursors."""
    async with open_redis(tmp_path) as redis:
        async with open_server(port=0, store=redis.url, node_name="here") as server:
            for text in "abc":
                await server.hub.publish(text, confirm=True)
            page = await browser.open(f"{server.url}/")
            await page.run(f"{ROWS}.length === 3", wait=True)
            await page.run(IS_SHOWN.format("#tiles"), wait=True)
            assert not await page.run(IS_SHOWN.format("#tab-nodes"))
            async with open_server(port=0, store=redis.url, node_name="there") as other:
                await page.run(IS_SHOWN.format("#tab-nodes"), wait=True)
                await page.run("document.querySelector('#tab-nodes').click()")
                rows = "[...document.querySelectorAll('#nodes tr')].map((row) => row.innerText)"
                shown = [
                    row.split() for row in await page.run(f"{rows}.length === 2 && {rows}", wait=True)
                ]
                assert [row[0] for row in shown] == ["here", "there"]
                assert {tuple(row[4:6]) for row in shown} == {("s", "ago")}
                await other.hub.publish("d", confirm=True)
            await page.run(f"!{IS_SHOWN.format('#tab-nodes')} && {DATA}.join() === 'd,c,b,a'", wait=True)
            assert await page.run(IS_SHOWN.format("#view-stream"))
            assert browser.complaints == []
