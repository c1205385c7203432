"""Real peers: the `websockets` library, Node's `ws`, and a browser that has nothing but `WebSocket`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import websockets
import websockets.asyncio.client
import websockets.exceptions
import websockets.typing
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from trionotify import Client, open_server

PEERS = Path(__file__).parent / "peers"
EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
#: A client of that library, with more patience than it has by itself.
peer = partial(
    websockets.asyncio.client.connect, open_timeout=None, ping_interval=None, close_timeout=300
)


def need(condition: object, what: str) -> None:
    """Skip, and say why; unless the environment says that nothing may be missing."""
    if not condition:
        assert not os.environ.get("TRIONOTIFY_ALL_PEERS"), what
        pytest.skip(reason=what)


def test_a_skip_says_why(tmp_path: Path) -> None:
    """Also one in an async test, where pytest-trio would forget the reason."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n@pytest.mark.trio\nasync def test_it():\n    pytest.skip('the reason')\n"
    )
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "tests.conftest", str(tmp_path)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=True)
    assert ": the reason\n" in done.stdout


async def echo(client: Client) -> None:
    async for message in client:
        await client.send(message)


def url(server: Any, target: str = "/") -> str:
    return server.url.replace("http", "ws", 1) + target


MESSAGES = ["", "text", "grüße 🎉", "x" * 70_000, b"", b"\x00\xff", b"y" * 70_000, "é" * 500_000]


async def test_websockets_echo() -> None:
    """Text and binary of all sizes, fragments, pings, and an orderly close."""

    async def client(address: str) -> None:
        async with peer(address, max_size=None) as websocket:
            for message in MESSAGES:
                await websocket.send(message)
                assert await websocket.recv() == message
            await websocket.send(iter(["frag", "mén", "ts"]))
            assert await websocket.recv() == "fragménts"
            latency = await (await websocket.ping(b"are you there"))
            assert latency >= 0
        assert websocket.close_code == 1000
        # By default it offers permessage-deflate.
        assert [extension.name for extension in websocket.protocol.extensions] == ["permessage-deflate"]

    async with open_server(port=0, session=echo) as server:
        await trio.to_thread.run_sync(asyncio.run, client(url(server)))


@pytest.mark.parametrize("window", [9, 10, 12, 15, None])
async def test_websockets_with_any_window(window: int | None) -> None:
    """Its compressed messages come back compressed, in the order in which they were sent."""
    lines = "\n".join(f'{{"line": {at}, "text": "grüße {at % 7}"}}' for at in range(20_000))
    texts = [lines[: 1 << power] for power in range(4, 19)] * 3

    async def client(address: str) -> None:
        deflate = ClientPerMessageDeflateFactory(
            server_max_window_bits=window, client_max_window_bits=window or True
        )
        async with peer(address, extensions=[deflate], compression=None, max_size=None) as websocket:
            assert websocket.protocol.extensions
            for text in texts:
                # Text in fragments, and bytes.
                await websocket.send(iter([text[:1000], text[1000:]]))
                await websocket.send(text.encode())
            for text in texts:
                assert await websocket.recv() == text
                assert await websocket.recv() == text.encode()

    async with open_server(port=0) as server:
        await trio.to_thread.run_sync(asyncio.run, client(url(server, "/?role=both")))
        assert server.hub.broadcast.counts.compression.plain_bytes > 0


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\x81\x81\0\0\0\0\xff", 1007),
        (b"\x83\x80abcd", 1002),
        (b"\x82\xff\0\0\0\0\x40\0\0\0abcd", 1009),
    ],
)
async def test_websockets_sees_the_close_code_of_a_fault(raw: bytes, code: int) -> None:
    """1002, 1007 and 1009, each with a reason; not 1006."""

    async def client(address: str) -> None:
        async with peer(address) as websocket:
            websocket.transport.write(raw)
            with pytest.raises(websockets.exceptions.ConnectionClosedError) as caught:
                await websocket.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == code
            assert caught.value.rcvd.reason

    async with open_server(port=0, session=echo) as server:
        await trio.to_thread.run_sync(asyncio.run, client(url(server)))


async def test_websockets_sees_why_it_was_refused() -> None:
    """The status and the problem document."""

    async def client(address: str) -> None:
        with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
            await peer(address)
        response = caught.value.response
        assert response.status_code == 400
        assert json.loads(response.body or b"")["detail"].startswith("exakt.type: unknown key")

    async with open_server(port=0) as server:
        await trio.to_thread.run_sync(asyncio.run, client(url(server, "/?exakt.type=a")))


async def test_websockets_speaks_events() -> None:
    """The subprotocol is agreed on; an event goes in, is acknowledged, and comes out."""

    async def client(address: str) -> None:
        async with peer(
            address, subprotocols=[websockets.typing.Subprotocol("cloudevents.json")]
        ) as websocket:
            assert websocket.subprotocol == "cloudevents.json"
            assert json.loads(await websocket.recv())["type"] == "trionotify.welcome"
            event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"é": 1}}
            await websocket.send(json.dumps(event))
            heard, ack = [json.loads(await websocket.recv()) for _ in range(2)]
            assert {name: heard[name] for name in event} == event
            assert ack["data"]["cursor"] == heard["cursor"]

    async with open_server(port=0) as server:
        await trio.to_thread.run_sync(asyncio.run, client(url(server, "/?role=both")))


class NodeClient:
    """A `ws` client in a process of its own."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._rest = b""

    async def say(self, **what: Any) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps(what).encode() + b"\n")

    async def hears(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while b"\n" not in self._rest:
            data = await self.process.stdout.receive_some()
            assert data, "node ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)  # type: ignore[no-any-return] # the script prints objects


@asynccontextmanager
async def node(*arguments: str) -> AsyncIterator[NodeClient]:
    need(shutil.which("node"), "Node.js is not installed")
    need((PEERS / "node_modules" / "ws").exists(), "run npm install --prefix tests/peers")
    command = ["node", str(PEERS / "client.js"), *arguments]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False
            )
        )
        with trio.fail_after(120):
            yield NodeClient(process)
        nursery.cancel_scope.cancel()


async def test_node_ws_echo() -> None:
    """Text, binary, pings and the close."""
    async with (
        open_server(port=0, session=echo) as server,
        node(url(server, "/?id=al"), "mqtt") as client,
    ):
        assert await client.hears() == {"id": "al"}
        # `ws` insists that an offered subprotocol is chosen; RFC 6455 doesn't, nor does a browser.
        assert "error" in await client.hears()
    async with open_server(port=0, session=echo) as server, node(url(server, "/?id=al")) as client:
        assert [await client.hears() for _ in range(2)] == [{"id": "al"}, {"open": ""}]
        for said, heard in (
            ({"text": "grüße"}, {"text": "grüße"}),
            ({"binary": "00ff"}, {"binary": "00ff"}),
            ({"ping": "hello"}, {"pong": "hello"}),
            ({"close": 4000}, {"close": 4000, "reason": ""}),
        ):
            await client.say(**said)
            assert await client.hears() == heard


async def test_node_ws_compresses() -> None:
    """It offers permessage-deflate by itself, and compresses from 1 KiB on."""
    async with (
        open_server(port=0) as server,
        node(url(server, "/?id=al&role=both")) as client,
    ):
        assert [await client.hears() for _ in range(2)] == [{"id": "al"}, {"open": ""}]
        text = "grüße " * 500
        for size in (10, 600, 3000):
            await client.say(text=text[:size])
            assert await client.hears() == {"text": text[:size]}
        await client.say(binary="00ff" * 50_000)
        assert await client.hears() == {"binary": "00ff" * 50_000}
        counts = server.hub.broadcast.counts.compression
        assert counts.compressed_bytes * 20 < counts.plain_bytes > 100_000


async def test_node_ws_publishes_and_subscribes() -> None:
    """A log, line by line, from one plain WebSocket to another that asked for a part of it."""
    async with (
        open_server(port=0) as server,
        node(url(server, "/?exact.type=line&prefix.subject=app/")) as reader,
        node(url(server, "/?role=publisher&type=line&subject=app/web&id=web")) as writer,
        node(url(server, "/?role=publisher&type=line&subject=db")) as other,
    ):
        for client in (reader, writer, other):
            assert (await client.hears()).keys() == {"id"}
            assert (await client.hears()) == {"open": ""}
        await other.say(text="not this")
        for i in range(100):
            await writer.say(text=f"line {i}")
        assert [await reader.hears() for _ in range(100)] == [{"text": f"line {i}"} for i in range(100)]
    assert server.hub.statistics().clients == 0


async def test_node_ws_speaks_events() -> None:
    """`ws` is content with the subprotocol that was agreed on."""
    async with (
        open_server(port=0) as server,
        node(url(server, "/?id=al&sql=type+LIKE+%27a%25%27"), "cloudevents.json") as client,
    ):
        assert await client.hears() == {"id": "al"}
        assert await client.hears() == {"open": "cloudevents.json"}
        welcome = json.loads((await client.hears())["text"])
        assert welcome["type"] == "trionotify.welcome"
        await server.hub.publish("no", type="b")
        await server.hub.publish("yes", type="ab")
        event = json.loads((await client.hears())["text"])
        assert (event["data"], event["cursor"]) == ("yes", f"{server.hub.log.epoch}:2")


@pytest.mark.parametrize(
    ("raw", "code"), [("8181000000 00ff".replace(" ", ""), 1007), ("838061626364", 1002)]
)
async def test_node_ws_sees_the_close_code_of_a_fault(raw: str, code: int) -> None:
    """As every conforming client does."""
    async with open_server(port=0, session=echo) as server, node(url(server)) as client:
        assert (await client.hears()).keys() == {"id"}
        assert await client.hears() == {"open": ""}
        await client.say(raw=raw)
        closed = await client.hears()
        assert closed["close"] == code
        assert closed["reason"]


async def test_node_ws_sees_the_goodbye() -> None:
    """1001 when the server is shutting down, and 404 where nothing is."""
    async with trio.open_nursery() as nursery:
        async with open_server(port=0) as server:
            client = await nursery.start(run_node, url(server))
            async with node(url(server, "/nowhere")) as lost:
                assert await lost.hears() == {"status": 404}
        assert await client.hears() == {"close": 1001, "reason": ""}
        nursery.cancel_scope.cancel()


async def run_node(address: str, task_status: Any) -> None:
    async with node(address) as client:
        assert (await client.hears()).keys() == {"id"}
        assert await client.hears() == {"open": ""}
        task_status.started(client)
        await trio.sleep_forever()


async def test_the_examples_feed_a_log_and_watch_it(tmp_path: Path) -> None:
    """Lines of a file go in; `websockets` and Node's `ws` print what their queries asked for."""
    need(shutil.which("node"), "Node.js is not installed")
    need((PEERS / "node_modules" / "ws").exists(), "run npm install --prefix tests/peers")
    (tmp_path / "node_modules").symlink_to(PEERS / "node_modules")
    shutil.copy(EXAMPLES / "watch.mjs", tmp_path)
    logs = {name: "".join(f"{name}: grüße {i}\n" for i in range(500)) for name in ("app", "web")}
    seen: dict[str, str] = {}

    async def run(*command: str | Path, stdin: str = "") -> str:
        done = await trio.run_process(
            [str(part) for part in command],
            stdin=stdin.encode(),
            capture_stdout=True,
            capture_stderr=True,
        )
        return done.stdout.decode()

    async def watch(name: str, *command: str | Path) -> None:
        seen[name] = await run(*command)

    async with open_server(port=0) as server, trio.open_nursery() as nursery:
        node, watch_py = ("node", tmp_path / "watch.mjs"), (sys.executable, EXAMPLES / "watch.py")
        nursery.start_soon(watch, "node", *node, url(server, "/?prefix.type=log."))
        nursery.start_soon(watch, "python", *watch_py, url(server, "/?exact.type=log.web"))
        while len(server.hub.clients) < 2:
            await trio.lowlevel.checkpoint()
        for name, log in logs.items():
            address = url(server, f"/?role=publisher&type=log.{name}")
            await run(sys.executable, EXAMPLES / "publish_lines.py", address, stdin=log)
        server.stop()
    assert seen == {"node": logs["app"] + logs["web"], "python": logs["web"]}


#: Makes the example's page tell what it shows. In front of the page's own script, it misses nothing.
TELL = """<script>
  const list = document.getElementById("list");
  const tell = () => list.lastChild && socket.send("it shows " + list.lastChild.textContent);
  new MutationObserver(tell).observe(list, { childList: true });
  tell();
</script>
"""


async def test_a_browser_with_nothing_but_websocket(tmp_path: Path) -> None:
    """The example's page subscribes, shows what its query asked for, and can publish."""
    browser = (
        shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    )
    need(browser, "no Chromium is installed")
    async with (
        open_server(port=0, allow_origin=["null"]) as server,
        server.hub.subscribe(lambda event: event.type == "answer") as answers,
        trio.open_nursery() as nursery,
    ):
        page = tmp_path / "page.html"
        text = (EXAMPLES / "page.html").read_text().replace("8765", str(server.port))
        page.write_text(text.replace("<script>", TELL + "<script>"))
        command = [
            *(str(browser), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--disable-quic", "--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}"),
            page.as_uri() + "?id=page&role=both&echo=0&type=answer&exact.type=question",
        ]
        nursery.start_soon(
            partial(
                trio.run_process,
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        )
        with trio.fail_after(120):
            while not server.hub.clients.by_id("page"):
                await trio.lowlevel.checkpoint()
            await server.hub.publish("nothing for you", type="other")
            await server.hub.publish("grüße 🎉", type="question")
            answer = await anext(answers)
        assert (answer.data, answer.source) == ("it shows grüße 🎉", "/clients/page")
        nursery.cancel_scope.cancel()
