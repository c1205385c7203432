"""Compression, as real clients see it: each event is readable as soon as it has come.

The server publishes the next event when the client has said that it has the last one.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.chromium import CHROMIUM, open_browser
from tests.test_peers import need
from trionotify import Server, open_server

#: Short, long, of more than one stored block, and of more than what a turn compresses.
TEXTS = ["a", "b" * 5000, "short again", "".join(map(str, range(30_000))), "ü" * 3000, "end"]

#: Clients that print one line for each line of the stream that has data: how long it is.
CURL = ("curl", "-sSN", "--compressed", "-H", "Accept: {kind}", "{url}")
NODE = """
const answer = await fetch(process.argv[1], { headers: { accept: process.argv[2] } });
console.log(answer.headers.get("content-encoding"));
const decoder = new TextDecoder();
let rest = "";
for await (const chunk of answer.body) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\\n");
    rest = lines.pop();
    for (const line of lines) console.log(line);
}
"""
REQUESTS = """
import requests, sys
answer = requests.get(sys.argv[1], headers={"Accept": sys.argv[2]}, stream=True)
print(answer.headers["Content-Encoding"], flush=True)
for line in answer.iter_lines(chunk_size=None):
    print(line.decode(), flush=True)
"""
URLLIB3 = """
import sys, urllib3
headers = {"Accept": sys.argv[2], "Accept-Encoding": "gzip, deflate"}
answer = urllib3.request("GET", sys.argv[1], headers=headers, preload_content=False)
print(answer.headers["Content-Encoding"], flush=True)
rest = b""
for data in answer.stream(decode_content=True):
    *lines, rest = (rest + data).split(b"\\n")
    for line in lines:
        print(line.decode(), flush=True)
"""
HTTPX = """
import httpx, sys
with httpx.stream("GET", sys.argv[1], headers={"Accept": sys.argv[2]}, timeout=None) as answer:
    print(answer.headers["Content-Encoding"], flush=True)
    for line in answer.iter_lines():
        print(line, flush=True)
"""
AIOHTTP = """
import aiohttp, asyncio, sys
async def main():
    async with aiohttp.ClientSession(read_bufsize=1 << 20) as session:
        async with session.get(sys.argv[1], headers={"Accept": sys.argv[2]}) as answer:
            print(answer.headers["Content-Encoding"], flush=True)
            async for line in answer.content:
                print(line.decode().rstrip("\\n"), flush=True)
asyncio.run(main())
"""
PYTHON = {"requests": REQUESTS, "urllib3": URLLIB3, "httpx": HTTPX, "aiohttp": AIOHTTP}


def command_of(client: str, url: str, kind: str) -> list[str]:
    if client == "curl":
        need(shutil.which("curl"), "no curl is installed")
        return [part.format(kind=kind, url=url) for part in CURL]
    if client == "node":
        need(shutil.which("node"), "Node.js is not installed")
        return ["node", "--input-type=module", "-e", NODE, "--", url, kind]
    need(importlib.util.find_spec(client), f"{client} is not installed")
    return [sys.executable, "-c", PYTHON[client], url, kind]


class Lines:
    """The output of a program, line by line."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._rest = b""

    async def next(self) -> str:
        while b"\n" not in self._rest:
            data = await self._stream.receive_some()
            assert data, "the program has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    async def rest(self) -> None:
        while await self._stream.receive_some():
            pass


@asynccontextmanager
async def lines_of(command: list[str]) -> AsyncIterator[Lines]:
    """A program that is running; it must end by itself, and well."""
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        with trio.fail_after(120):
            lines = Lines(process.stdout)
            yield lines
            await lines.rest()
            assert await process.wait() == 0
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.stdout.aclose()
            await process.wait()


async def clients(server: Server, count: int) -> None:
    while len(server.hub.clients) < count:  # noqa: ASYNC110 - it has no event for that
        await trio.sleep(0.01)


@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson"])
@pytest.mark.parametrize("client", ["curl", "node", *PYTHON])
async def test_streams_in_gzip(client: str, kind: str) -> None:
    """Each event comes at once, and the end of the stream is no error."""
    async with (
        open_server(port=0) as server,
        lines_of(command_of(client, f"{server.url}/events", kind)) as lines,
    ):
        if client != "curl":
            assert await lines.next() == "gzip"
        await clients(server, 1)
        for text in TEXTS:
            await server.hub.publish(text)
            while True:
                line = await lines.next()
                if kind == "text/event-stream" and line.startswith("data: "):
                    assert line == f"data: {text}"
                    break
                if line.startswith("{") and json.loads(line)["type"] == "message":
                    assert json.loads(line)["data"] == text
                    break
        await server.drain()


CHROMIUM_READS = """(async () => {
    window.seen = { socket: [], source: [] };
    window.socket = new WebSocket("/events");
    socket.onmessage = ({ data }) => seen.socket.push(data);
    window.source = new EventSource("/events");
    source.onmessage = ({ data }) => seen.source.push(data);
    await new Promise((done) => { socket.onopen = done; });
    await new Promise((done) => { if (source.readyState === 1) done(); source.onopen = done; });
    return socket.extensions;
})()"""


async def test_chromium(tmp_path: Path) -> None:
    """Its WebSocket agrees to compression, its EventSource to gzip, and both read every event."""
    need(CHROMIUM, "no Chromium is installed")
    with trio.fail_after(120):
        async with open_server(port=0) as server, open_browser(tmp_path / "profile") as browser:
            page = await browser.open(f"{server.url}/livez")
            assert (await page.run(CHROMIUM_READS)).startswith("permessage-deflate")
            await clients(server, 2)
            for count, text in enumerate(TEXTS, 1):
                await server.hub.publish(text)
                for name in ("socket", "source"):
                    found = await page.run(f"seen.{name}.length === {count} && seen.{name}", wait=True)
                    assert found == TEXTS[:count]
            counts = server.hub.broadcast.counts.compression
            assert 0 < counts.compressed_bytes < counts.plain_bytes
            encodings = {type(each.position.encode) for each in server.hub.connections.values()}
            assert [kind.__name__ for kind in encodings] == ["CompressedEncode"]
            # What it sends is compressed, and may come in fragments.
            await page.run("window.writer = new WebSocket('/events?role=publisher')")
            await page.run("writer.readyState === 1", wait=True)
            await page.run("writer.send('x'.repeat(200000))")
            await page.run("seen.socket.at(-1).length === 200000", wait=True)
            await page.run("writer.close()")
