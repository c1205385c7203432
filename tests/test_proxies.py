"""Behind real proxies: what they pass on, which addresses clients have, and outages of the server."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import websockets.exceptions
import websockets.sync.client

from tests.chromium import CHROMIUM, open_browser
from tests.fleet.server import free_port
from tests.proxies import CLIENT, Proxy, block, open_caddy, open_nginx
from tests.test_peers import need, node
from trionotify import Server, open_server
from trionotify.settings import Settings

OTHER = "127.0.0.10"
FORGED = "6.6.6.6"
Open = Callable[..., AbstractAsyncContextManager[Proxy]]

both = pytest.mark.parametrize("open_proxy", [open_nginx, open_caddy], ids=["nginx", "caddy"])


@asynccontextmanager
async def front(
    open_proxy: Open, directory: Path, **options: Any
) -> AsyncIterator[tuple[Server, Proxy]]:
    """A server, and the proxy in front of it, which it trusts."""
    async with open_server(port=0, trusted_proxy=["127.0.0.1"], **options) as server:
        async with open_proxy(directory, f"127.0.0.1:{server.port}") as proxy:
            with trio.fail_after(120):
                yield server, proxy


@attrs.frozen
class Got:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(
    proxy: Proxy | Server,
    target: str,
    body: str | None = None,
    *,
    source: str = CLIENT,
    **headers: str,
) -> Got:
    """One request by Python's own client, from an address of its own."""

    def work() -> Got:
        if isinstance(proxy, Proxy):
            line: http.client.HTTPConnection = http.client.HTTPSConnection(
                "localhost", proxy.port, context=proxy.ssl_context, source_address=(source, 0)
            )
        else:
            line = http.client.HTTPConnection("127.0.0.1", proxy.port, source_address=(source, 0))
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        line.request("GET" if body is None else "POST", target, body, fields)
        answer = line.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        got = Got(answer.status, found, answer.read())
        line.close()
        return got

    return await trio.to_thread.run_sync(work)


class Stream:
    """`GET` of a stream, from `CLIENT`, byte by byte."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.read = b""

    async def until(self, words: str) -> str:
        """Read on until these words have come; return all that came before."""
        while words.encode() not in self.read:
            await self.more()
        return self.read.decode(errors="replace")  # gzip has other bytes between stored blocks

    async def more(self) -> None:
        """Read what comes next; raises AssertionError where nothing will."""
        data = await self._stream.receive_some()
        assert data, self.read
        self.read += data


@asynccontextmanager
async def streaming(proxy: Proxy, target: str, *fields: str) -> AsyncIterator[Stream]:
    async with await proxy.connect() as stream:
        lines = (f"GET {target} HTTP/1.1", f"Host: localhost:{proxy.port}", *fields, "", "")
        await stream.send_all("\r\n".join(lines).encode())
        yield Stream(stream)


# --- what passes ---


@both
async def test_a_websocket(open_proxy: Open, tmp_path: Path) -> None:
    """Goes both ways, and hears how it ends; the head of its 101 is whole."""

    def talk(proxy: Proxy, epoch: str) -> int | None:
        url = proxy.url("/events?id=al&role=both", "wss")
        with websockets.sync.client.connect(url, ssl=proxy.ssl_context, open_timeout=None) as websocket:
            assert websocket.response is not None
            assert websocket.response.headers["Trionotify-Cursor"] == f"{epoch}:0"
            for message in ("grüße", b"\0\xff", "x" * 300_000):
                websocket.send(message)
                assert websocket.recv() == message
            trio.from_thread.run(leave.send, None)
            with pytest.raises(websockets.exceptions.ConnectionClosed) as caught:
                websocket.recv()
            return caught.value.rcvd and caught.value.rcvd.code

    leave, left = trio.open_memory_channel[None](0)
    async with front(open_proxy, tmp_path) as (server, proxy), trio.open_nursery() as nursery:

        async def drain() -> None:
            await left.receive()
            await server.drain()

        nursery.start_soon(drain)
        assert await trio.to_thread.run_sync(talk, proxy, server.hub.log.epoch) == 1012


@both
async def test_node(open_proxy: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `ws` connects as it does without a proxy."""
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(tmp_path / "ca.pem"))
    async with front(open_proxy, tmp_path) as (_, proxy):
        async with node(proxy.url("/?id=al&role=both", "wss")) as client:
            assert [await client.hears() for _ in range(2)] == [{"id": "al"}, {"open": ""}]
            await client.say(text="grüße")
            assert await client.hears() == {"text": "grüße"}


@both
@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson"])
async def test_a_stream_comes_at_once(open_proxy: Open, kind: str, tmp_path: Path) -> None:
    """One event after the other, in the server's gzip, whose short events are stored as they are."""
    async with front(open_proxy, tmp_path) as (server, proxy):
        fields = (f"Accept: {kind}", "Accept-Encoding: gzip, br")
        async with streaming(proxy, "/events?id=al&since=start", *fields) as stream:
            head = (await stream.until("\r\n\r\n")).lower()
            assert head.startswith("http/1.1 200")
            assert f"content-type: {kind}" in head
            assert head.count("content-encoding: gzip") == 1
            assert "trionotify-id: al" in head
            for number in range(5):
                await server.hub.publish(f"event {number}!", confirm=True)
                await stream.until(f"event {number}!")


@both
async def test_a_stream_over_http_2(open_proxy: Open, tmp_path: Path) -> None:
    """A stream comes at once, also through a proxy to a browser."""
    need(shutil.which("curl"), "no curl is installed")
    async with front(open_proxy, tmp_path) as (server, proxy), trio.open_nursery() as nursery:
        command = ["curl", "-sN", "-i", "--http2", "--cacert", str(proxy.ca), proxy.url("/events")]
        run = partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
        process = await nursery.start(run)
        stream = Stream(trio.StapledStream(trio.testing.MemorySendStream(), process.stdout))
        assert (await stream.until("id: ")).startswith("HTTP/2 200")
        for number in range(3):
            await server.hub.publish(f"event {number}!", confirm=True)
            await stream.until(f"event {number}!")
        nursery.cancel_scope.cancel()


async def test_an_nginx_that_speaks_http_1_0(tmp_path: Path) -> None:
    """As it does to servers by default: streams come at once, and publishing works."""
    old = partial(open_nginx, changes={"    proxy_http_version 1.1;\n": "    proxy_http_version 1.0;\n"})
    async with front(old, tmp_path) as (server, proxy):
        async with streaming(proxy, "/events") as stream:
            assert (await stream.until("\r\n\r\n")).startswith("HTTP/1.1 200")
            for number in range(3):
                got = await ask(proxy, "/events", f"event {number}!")
                assert (got.status, json.loads(got.body)["wanted"]) == (200, 1)
                await stream.until(f"event {number}!")
            await server.drain()
            await stream.until("\r\n0\r\n\r\n")


@both
async def test_publishing(open_proxy: Open, tmp_path: Path) -> None:
    """By POST, with a receipt; one request after the other over the connections that are kept."""
    async with front(open_proxy, tmp_path) as (server, proxy):
        async with server.hub.subscribe() as notifications:
            for number in range(1, 4):
                got = await ask(proxy, "/events?type=t", f"event {number}", Content_Type="text/plain")
                assert (got.status, json.loads(got.body)["cursor"]) == (
                    200,
                    f"{server.hub.log.epoch}:{number}",
                )
                assert (await anext(notifications)).data == f"event {number}"


@both
async def test_a_refusal_is_what_the_server_says(open_proxy: Open, tmp_path: Path) -> None:
    """Status, type, and problem document: with a proxy and without, it is the same."""
    secret = b"the secret of this test"
    options: dict[str, Any] = {"secret": secret, "max_log_entries": 1, "close_timeout": 120}
    async with front(open_proxy, tmp_path, **options) as (server, proxy):
        bearer = f"Bearer {secret.decode()}"
        for target, body, status, headers in [
            ("/events", None, 401, {}),
            ("/events?since=000000000000:1", None, 410, {"Authorization": bearer}),
            ("/events?exakt.type=x", None, 400, {"Authorization": bearer}),
            ("/events", "x" * 2_000_000, 413, {"Authorization": bearer}),
            ("/nowhere", None, 404, {}),
            ("/", None, 426, {"Accept": "application/json"}),
            ("/clients", None, 401, {}),
        ]:
            found = [await ask(each, target, body, **headers) for each in (server, proxy)]
            assert [got.status for got in found] == [status, status]
            assert found[0].body == found[1].body
            for name in ("content-type", "cache-control", "www-authenticate"):
                assert found[0].headers.get(name) == found[1].headers.get(name)
            assert json.loads(found[1].body)["status"] == status


@both
async def test_pages_of_its_own_host(open_proxy: Open, tmp_path: Path) -> None:
    """May use the server, because the server is told which host they asked for. Others may not."""
    async with front(open_proxy, tmp_path) as (_, proxy):
        for origin, status in [(proxy.url("").rstrip("/"), 200), ("https://example.com", 403)]:
            assert (await ask(proxy, "/events", "x", Origin=origin)).status == status


# --- who is who ---


async def remotes(proxy: Proxy) -> list[str]:
    """The addresses of who is connected."""
    clients = json.loads((await ask(proxy, "/clients")).body)["clients"]
    return [client["remote"] for client in clients]


_LIES = (
    (),
    (f"X-Forwarded-For: {FORGED}",),
    (f"X-Forwarded-For: {FORGED}", "x-forwarded-for: 127.0.0.1"),
    (f"X-Forwarded-For: {FORGED}, 127.0.0.1,",),
    (f"Forwarded: for={FORGED}", f"X-Real-IP: {FORGED}", f"X_Forwarded_For: {FORGED}"),
)


@both
@pytest.mark.parametrize("lies", _LIES)
@pytest.mark.parametrize("over", ["tcp", "unix"])
async def test_the_address(open_proxy: Open, over: str, lies: tuple[str, ...], tmp_path: Path) -> None:
    """Is the client's, whatever address it claims."""
    path = tmp_path / "http.sock"
    options: dict[str, Any] = {
        "tcp": {"port": 0, "trusted_proxy": ["127.0.0.1"]},
        "unix": {"unix": path, "trusted_proxy": ["unix"]},
    }[over]
    async with open_server(**options) as server:
        upstream = f"unix:{path}" if over == "unix" else f"127.0.0.1:{server.port}"
        async with open_proxy(tmp_path, upstream) as proxy:
            with trio.fail_after(120):
                async with streaming(proxy, "/events", *lies) as stream:
                    await stream.until("id: ")
                    assert await remotes(proxy) == [CLIENT]


async def test_who_is_no_proxy_is_not_believed() -> None:
    """Nor is one that is trusted elsewhere."""
    need(sys.platform == "linux", "clients need an address of their own")
    async with open_server(port=0, trusted_proxy=["127.0.0.1"]) as server:
        assert server.port is not None
        for source, remote in ((CLIENT, CLIENT), ("127.0.0.1", FORGED)):
            plain = await trio.open_tcp_stream("127.0.0.1", server.port, local_address=source)
            async with plain:
                fields = f"Host: x\r\nX-Forwarded-For: {FORGED}\r\n\r\n"
                await plain.send_all(f"GET /events HTTP/1.1\r\n{fields}".encode())
                await Stream(plain).until("id: ")
                (client,) = server.hub.clients
                assert client.remote.partition(":")[0] == remote
            while server.hub.clients:
                await trio.lowlevel.checkpoint()


@both
async def test_limits_count_the_clients_address(open_proxy: Open, tmp_path: Path) -> None:
    """And not the proxy's; lies don't help."""
    async with front(open_proxy, tmp_path, max_connections_per_address=1) as (_, proxy):
        async with streaming(proxy, "/events") as stream:
            await stream.until("id: ")
            for headers in ({}, {"X_Forwarded_For": FORGED}):
                got = await ask(proxy, "/events", **headers)
                assert got.status == 429
                detail = json.loads(got.body)["detail"]
                assert detail.startswith(f"address: {CLIENT} already has 1 connection, the maximum;")
                assert got.headers["retry-after"] == "5"
            assert (await ask(proxy, "/events?since=000000000000:1", source=OTHER)).status == 410


@both
async def test_the_address_of_each_request(
    open_proxy: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where clients share the proxy's connection to the server."""
    caplog.set_level("INFO", "trionotify")
    async with front(open_proxy, tmp_path) as (_, proxy):
        for source in (CLIENT, OTHER, CLIENT):
            assert (await ask(proxy, "/nowhere", source=source)).status == 404
    found = re.findall(r"(\S+) refused: 404", caplog.text)
    assert found == [CLIENT, OTHER, CLIENT]


# --- what is written down ---


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where nothing listens as long as the test runs."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@both
async def test_no_query_is_written_down(open_proxy: Open, silent: str, tmp_path: Path) -> None:
    """In none of the proxy's logs: not of successes, nor of failures, nor while no server listens."""
    query = "id=al&sig=swordfish"
    secret = b"the secret of this test"
    async with front(open_proxy, tmp_path, secret=secret) as (_, proxy):
        bearer = f"Bearer {secret.decode()}"
        referer = proxy.url(f"/?{query}")
        assert (await ask(proxy, f"/events?{query}", Referer=referer)).status == 401
        got = await ask(proxy, f"/events?role=both&{query}", "x", Authorization=bearer, Referer=referer)
        assert got.status == 200
        (tmp_path / "away").mkdir()
        impatient = {"lb_try_duration 40s": "lb_try_duration 10ms"}
        changes = impatient if open_proxy is open_caddy else None
        async with open_proxy(tmp_path / "away", silent, changes) as away:
            assert (await ask(away, f"/events?{query}", "x", Referer=referer)).status == 502
            assert (await ask(away, f"/?{query}", Referer=referer)).status == 502
            async with streaming(away, f"/events?{query}", "Connection: close") as stream:
                with suppress(AssertionError):  # it is closed, or 502
                    await stream.until("nothing of this kind")
        written = proxy.written() + away.written()
    assert len(re.findall("POST", written)) >= 2
    assert "swordfish" not in written
    assert secret.decode() not in written


@both
async def test_who_leaves_is_gone(open_proxy: Open, tmp_path: Path) -> None:
    """At once, for the server, too: the proxy doesn't keep the stream of a client that has left."""
    async with front(open_proxy, tmp_path) as (server, proxy):
        async with streaming(proxy, "/events") as stream:
            await stream.until("id: ")
        while server.hub.clients:
            await trio.lowlevel.checkpoint()


# --- what else the pages promise ---


#: The pages' own lines for a path below which the server is.
BELOW = {
    open_nginx: {"    location / {": block("nginx", 2) + "\n    location / {"},
    open_caddy: {"\treverse_proxy 127": block("caddy", 1) + "\treverse_proxy 127"},
}


@both
async def test_below_a_path(open_proxy: Open, tmp_path: Path) -> None:
    """Everything is there as well, the page and what it loads included."""
    async with open_server(port=0) as server:
        where = f"127.0.0.1:{server.port}"
        async with open_proxy(tmp_path, where, BELOW[open_proxy]) as proxy:
            with trio.fail_after(120):
                page = await ask(proxy, "/notify/", Accept="text/html")
                assert page.status == 200
                loaded = re.findall(r'(?:src|href)="([^"#:]+)"', page.body.decode())
                assert loaded == ["page.css", "page.js"]
                for name in (*loaded, "trionotify.js", "livez", "clients", "metrics"):
                    assert (await ask(proxy, f"/notify/{name}")).status == 200, name
                async with streaming(proxy, "/notify/events") as stream:
                    await stream.until("id: ")
                    assert (await ask(proxy, "/notify/events", "event!")).status == 200
                    await stream.until("event!")


@both
async def test_a_restart(open_proxy: Open, tmp_path: Path) -> None:
    """A stream that ends in good order ends so for the client; who comes early finds the next server.

    nginx drops the client, so that it tries again. Caddy lets it wait.
    """
    port = free_port()
    async with open_proxy(tmp_path, f"127.0.0.1:{port}") as proxy:
        with trio.fail_after(120):
            async with open_server(port=port) as server, streaming(proxy, "/events") as stream:
                await stream.until("id: ")
                await server.drain()
                assert (await stream.until("\r\n0\r\n\r\n")).count("retry: ") == 2
            if open_proxy is open_nginx:
                async with streaming(proxy, "/events") as early:
                    with pytest.raises(AssertionError):
                        await early.until("HTTP")
                    assert early.read == b""
                assert (await ask(proxy, "/events", "x")).status == 502
            async with streaming(proxy, "/events") as stream:
                if open_proxy is open_nginx:
                    with pytest.raises(AssertionError):
                        await stream.until("HTTP")
                async with open_server(port=port) as server:
                    if open_proxy is open_caddy:
                        await stream.until("id: ")
                    assert (await ask(proxy, "/events", "x")).status == 200


CONNECTED = "document.querySelector('#state').dataset.state === 'open'"


async def test_an_event_source_behind_nginx(tmp_path: Path) -> None:
    """In a browser: it survives a restart of the server, and so does the page."""
    need(CHROMIUM, "no Chromium is installed")
    port = free_port()
    async with open_nginx(tmp_path, f"127.0.0.1:{port}", BELOW[open_nginx]) as proxy:
        async with open_browser(tmp_path / "profile") as browser:
            with trio.fail_after(300):
                await browser.ask("Security.setIgnoreCertificateErrors", ignore=True)
                async with open_server(port=port):
                    page = await browser.open(proxy.url("/notify/"))
                    await page.run(CONNECTED, wait=True)
                    await page.run(
                        "window.lost = 0; window.source = new EventSource('events?format=cloudevents');"
                        "source.onerror = () => { lost += 1; }"
                    )
                    await page.run("source.readyState === EventSource.OPEN", wait=True)
                await page.run("lost > 1", wait=True)
                assert await page.run("source.readyState !== EventSource.CLOSED")
                async with open_server(port=port):
                    await page.run("source.readyState === EventSource.OPEN", wait=True)
                    await page.run(CONNECTED, wait=True)


async def test_nginx_waits_for_signs_of_life(tmp_path: Path) -> None:
    """It ends what is silent for `proxy_read_timeout`; what the server says in between keeps it open."""
    shown = re.search(r"proxy_read_timeout (\d+)s;", block("nginx"))
    assert shown
    seconds = int(shown[1])
    assert seconds > 2 * Settings().ping_interval
    # Ten seconds, with signs of life so often that a machine may stand still for a while.
    changes = {f"proxy_read_timeout {seconds}s": "proxy_read_timeout 10s"}
    fast = {"ping_interval": 0.3}
    for options, lives in (({}, False), (fast, True)):
        async with open_server(port=0, **options) as server:
            async with open_nginx(tmp_path, f"127.0.0.1:{server.port}", changes) as proxy:
                with trio.fail_after(120):
                    async with streaming(proxy, "/events") as stream:
                        begun = trio.current_time()
                        if lives:
                            while trio.current_time() < begun + 12:
                                signs = stream.read.count(b"\n:\n")
                                while stream.read.count(b"\n:\n") == signs:
                                    await stream.more()
                        else:
                            with pytest.raises(AssertionError):
                                await stream.until("nothing of this kind")


async def test_nginx_is_reloaded(tmp_path: Path) -> None:
    """And who is connected stays so."""
    async with front(open_nginx, tmp_path) as (server, proxy):
        async with streaming(proxy, "/events") as stream:
            await stream.until("id: ")
            proxy.process.send_signal(signal.SIGHUP)
            while (
                "reconfiguring" not in proxy.written()
                or "gracefully shutting down" not in proxy.written()
            ):
                await trio.lowlevel.checkpoint()
            await server.hub.publish("event!")
            await stream.until("event!")
