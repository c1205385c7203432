"""Real proxies, each with the configuration that its page in docs/howto shows."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio
import trustme

from tests.fleet.server import free_port
from tests.test_peers import need

__all__ = ["CLIENT", "Proxy", "block", "open_caddy", "open_nginx"]

HOWTO = Path(__file__).parent.parent / "docs" / "howto"
#: Where clients come from: loopback, and yet another address than the proxy's.
CLIENT = "127.0.0.9"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: What else an nginx has, and what a site may well have set for all.
_NGINX = """
daemon off;
pid {directory}/nginx.pid;
{user}
error_log {directory}/main-error.log info;
worker_processes 1;
events {{ worker_connections 16384; }}
http {{
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    access_log {directory}/main.log;
    gzip on;
    gzip_types *;
    gzip_proxied any;
    gzip_min_length 0;
    include {directory}/trionotify.conf;
}}
"""
_CADDY = """
	admin off
	skip_install_trust
	auto_https disable_redirects
	log default {
"""


@attrs.frozen
class Proxy:
    """One that runs. `directory` has all that it writes."""

    port: int
    directory: Path
    authority: trustme.CA
    process: trio.Process

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """A context that trusts its certificate."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.directory / "ca.pem"

    def url(self, target: str = "/", scheme: str = "https") -> str:
        return f"{scheme}://localhost:{self.port}{target}"

    async def connect(self) -> trio.SSLStream[trio.SocketStream]:
        """A connection from `CLIENT`."""
        plain = await trio.open_tcp_stream("127.0.0.1", self.port, local_address=CLIENT)
        return trio.SSLStream(
            plain, self.ssl_context, server_hostname="localhost", https_compatible=True
        )

    def written(self) -> str:
        """All that stands in its logs."""
        return "".join(path.read_text() for path in self.directory.glob("*.log"))


def block(page: str, number: int = 0) -> str:
    """A configuration of a page."""
    language = {"nginx": "nginx", "caddy": "caddyfile"}[page]
    found = [
        text for kind, text in _BLOCK.findall((HOWTO / f"{page}.md").read_text()) if kind == language
    ]
    return found[number]


def changed(text: str, changes: dict[str, str]) -> str:
    """The text with other words, each of which is there."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def prepare(directory: Path) -> trustme.CA:
    """The certificate of `localhost`."""
    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    made.cert_chain_pems[0].write_to_path(directory / "fullchain.pem")
    made.private_key_pem.write_to_path(directory / "privkey.pem")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    return authority


@asynccontextmanager
async def open_nginx(
    directory: Path, upstream: str, changes: dict[str, str] | None = None
) -> AsyncIterator[Proxy]:
    """In front of `upstream`: `HOST:PORT`, or `unix:PATH`."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    need(program, "nginx is not installed")
    need(sys.platform == "linux", "clients need an address of their own")
    port = free_port()
    text = changed(
        block("nginx"),
        {
            **(changes or {}),
            "    server 127.0.0.1:8765;\n": f"    server {upstream};\n",
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "    listen [::]:443 ssl http2;\n": "",
            "/etc/letsencrypt/live/example.org": str(directory),
            "example.org": "localhost",
            "/var/log/nginx": str(directory),
        },
    )
    (directory / "trionotify.conf").write_text(text)
    user = "user root;" if os.getuid() == 0 else ""
    (directory / "nginx.conf").write_text(_NGINX.format(directory=directory, user=user))
    command = [str(program), "-c", str(directory / "nginx.conf")]
    # It ends its workers, and drops connections.
    async with _running(command, port, directory, signal.SIGTERM) as proxy:
        yield proxy


@asynccontextmanager
async def open_caddy(
    directory: Path, upstream: str, changes: dict[str, str] | None = None
) -> AsyncIterator[Proxy]:
    """In front of `upstream`: `HOST:PORT`, or `unix:PATH`."""
    need(shutil.which("caddy"), "Caddy is not installed")
    need(sys.platform == "linux", "clients need an address of their own")
    port = free_port()
    where = upstream.replace("unix:", "unix/", 1)
    files = f"{directory}/fullchain.pem {directory}/privkey.pem"
    text = changed(
        block("caddy"),
        {
            **(changes or {}),
            "127.0.0.1:8765": where,
            "example.org {": f"https://localhost:{port} {{\n\tbind 127.0.0.1\n\ttls {files}",
            "\tlog {": _CADDY.strip("\n") + f"\n\t\toutput file {directory}/caddy.log",
        },
    )
    (directory / "Caddyfile").write_text(text)
    command = ["caddy", "run", "--config", str(directory / "Caddyfile"), "--adapter", "caddyfile"]
    # It would wait for connections to end.
    async with _running(command, port, directory, signal.SIGKILL) as proxy:
        yield proxy


@asynccontextmanager
async def _running(
    command: list[str], port: int, directory: Path, ending: signal.Signals
) -> AsyncIterator[Proxy]:
    authority = prepare(directory)
    environment = {**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory)}

    async def end(process: trio.Process) -> None:
        process.send_signal(ending)

    async with trio.open_nursery() as nursery:
        with (directory / "stderr.log").open("wb") as stderr:
            run = partial(trio.run_process, command, stderr=stderr, stdout=subprocess.DEVNULL)
            run = partial(run, check=False, env=environment, deliver_cancel=end)
            process: trio.Process = await nursery.start(run)
        proxy = Proxy(port, directory, authority, process)
        with trio.fail_after(120):
            while True:
                assert process.returncode is None, proxy.written()
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await trio.lowlevel.checkpoint()
        yield proxy
        nursery.cancel_scope.cancel()
