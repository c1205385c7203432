"""Where a server is: URLs as both clients and `top` read them, and why there is no stream to one."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

import trionotify
from trionotify import connect, open_server
from trionotify.cli.fetch import fetch
from trionotify.client.endpoint import Endpoint

MODULE = Path(trionotify.__file__).parent / "web" / "trionotify.js"

#: A URL; what is asked for at the server; and where its figures are.
PATHS = [
    ("https://host", "/events", "/metrics"),
    ("https://host/", "/events", "/metrics"),
    ("https://host/events", "/events", "/metrics"),
    ("https://host/base/", "/base/events", "/base/metrics"),
    ("https://host/base/events", "/base/events", "/base/metrics"),
    ("https://host/a/b/?x=1", "/a/b/events", "/a/b/metrics"),
    ("https://host/hub", "/hub", "/metrics"),
    ("https://host?x=1", "/events", "/metrics"),
    ("ws://host/gr%C3%BC%C3%9Fe/", "/gr%C3%BC%C3%9Fe/events", "/gr%C3%BC%C3%9Fe/metrics"),
    ("https://host/ä b/", "/%C3%A4%20b/events", "/%C3%A4%20b/metrics"),
    ("https://host/a%2Fb/", "/a%2Fb/events", "/a%2Fb/metrics"),
]


@pytest.mark.parametrize(("url", "events", "metrics"), PATHS)
def test_paths(url: str, events: str, metrics: str) -> None:
    """A path that ends in a slash is that of the server, any other one that of its events."""
    endpoint = Endpoint.of(url)
    assert (endpoint.path, endpoint.beside("metrics")) == (events, metrics)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node")
def test_paths_in_the_other_client() -> None:
    """It asks for the same."""
    script = f"""
        import {{ Trionotify }} from {json.dumps(MODULE.as_uri())};
        const asked = [];
        class WebSocket extends EventTarget {{
            constructor(url) {{ super(); asked.push(new URL(url).pathname); }}
            close() {{}}
        }}
        for (const url of {json.dumps([url for url, _, _ in PATHS])}) {{
            const client = new Trionotify(url, {{ WebSocket, fetch: () => new Promise(() => {{}}) }});
            await new Promise(setImmediate);
            client.close();
        }}
        console.log(JSON.stringify(asked));
    """
    command = ["node", "--input-type=module", "--eval", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(done.stdout) == [events for _, events, _ in PATHS]


#: URLs with a fragment, which a server never sees.
FRAGMENTS = ["https://host/#", "https://host/events?exact.subject=#17", "ws://host/events#top"]


@pytest.mark.parametrize("url", FRAGMENTS)
def test_no_url_has_a_fragment(url: str) -> None:
    """A `#` in a value would cut off the rest of the query; written as it should be, it is kept."""
    with pytest.raises(ValueError, match=r"^url: a '#' must be written as %23$"):
        Endpoint.of(url)
    escaped = Endpoint.of(url.replace("#", "%23"))
    assert "%23" in escaped.path + escaped.query


@pytest.mark.skipif(shutil.which("node") is None, reason="Node")
def test_no_url_has_a_fragment_in_the_other_client() -> None:
    """It says the same."""
    script = f"""
        import {{ Trionotify }} from {json.dumps(MODULE.as_uri())};
        const told = (url) => {{
            try {{
                return new Trionotify(url, {{ transport: "sse" }}).state;
            }} catch (error) {{
                return String(error);
            }}
        }};
        const urls = {json.dumps(FRAGMENTS)};
        console.log(JSON.stringify([...urls, ...urls.map((url) => new URL(url))].map(told)));
    """
    command = ["node", "--input-type=module", "--eval", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    told = ["TypeError: url: a '#' must be written as %23"]
    assert json.loads(done.stdout) == told * 2 * len(FRAGMENTS)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost", "not 'localhost'; did you mean http://localhost?"),
        ("127.0.0.1:8765/events?id=al", "did you mean http://127.0.0.1:8765/events?id=al?"),
        ("[::1]:8765", "did you mean http://[::1]:8765?"),
        ("example.org/hub/", "did you mean http://example.org/hub/?"),
        ("ftp://host", "url: must start with http, https, ws, wss or unix, not 'ftp'$"),
        ("host name", "url: must start with http, https, ws, wss or unix, not 'host name'$"),
        ("", "url: must start with http, https, ws, wss or unix, not ''$"),
        ("http://host:abc", "url: must have a port from 0 to 65535, not 'abc'"),
        ("http://host:70000/x", "url: must have a port from 0 to 65535, not '70000'"),
        ("http://[::1]:-1", "url: must have a port from 0 to 65535, not '-1'"),
        ("http:///events", "url: must have a host; write http://HOST:PORT"),
        ("http://[::1", "url: "),
    ],
)
def test_what_is_no_url(url: str, words: str) -> None:
    """It says what to write."""
    pattern = words if words.endswith("$") else re.escape(words)
    with pytest.raises(ValueError, match=pattern):
        Endpoint.of(url)


async def both(url: str) -> list[str]:
    """Why neither client gets a stream."""
    said = []
    with pytest.raises(OSError, match="http") as caught:
        async with connect(url):
            raise AssertionError("it was entered")
    said.append(str(caught.value))
    with pytest.raises(OSError, match="http") as caught:
        await fetch(url, "metrics", "*/*")
    return [*said, str(caught.value)]


async def test_nobody_listens(closed_port: int) -> None:
    """The URL, and what to do."""
    assert await both(f"ws://127.0.0.1:{closed_port}") == 2 * [
        f"http://127.0.0.1:{closed_port}/events: Connection refused; is the server running? Start it"
        f" with --port {closed_port}, or give another URL"
    ]


class Nowhere(trio.abc.HostnameResolver):
    """Knows no host, and asks no name server, which could take its time or be away."""

    async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


async def test_a_host_that_there_is_not() -> None:
    """Its name, too."""
    trio.socket.set_custom_hostname_resolver(Nowhere())
    for said in await both("http://nowhere.invalid"):
        assert said.startswith(
            "http://nowhere.invalid/events: the host nowhere.invalid was not found (Name or"
            " service not known)"
        )
        assert said.endswith("); check the URL")


async def test_tls_to_a_server_that_has_none() -> None:
    """It says so, and what to write."""
    async with open_server(port=0) as server:
        plain = server.url
        for said in await both(plain.replace("http:", "https:")):
            assert said.startswith(plain.replace("http:", "https:"))
            assert said.endswith(
                f"/events: the server does not speak TLS; use {plain}, or start it with --tls-cert"
            )


async def test_a_certificate_that_nobody_trusts() -> None:
    """OpenSSL's own words."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with open_server(port=0, ssl_context=context) as server:
        for said in await both(server.url):
            assert "TLS failed: " in said
            assert "certificate verify failed" in said


async def test_figures_below_the_path_of_a_proxy() -> None:
    """`top` asks for them where the events are, with the port in `Host`."""
    heads: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        heads.append(bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        assert await fetch(f"ws://127.0.0.1:{port}/hub/?id=al", "metrics", "*/*") == b"{}"
        nursery.cancel_scope.cancel()
    assert heads[0].startswith(b"GET /hub/metrics HTTP/1.1\r\n")
    assert b"127.0.0.1:%d\r\n" % port in heads[0]
