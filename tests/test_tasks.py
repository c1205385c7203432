"""Where every task lives: the tables in docs/how-it-works.md have all of them, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio
import trio.testing
import trio_websocket

from tests.conftest import raw_client
from tests.connection.test_tls import client_context, server_context
from tests.provider import Provider
from trionotify import Issuer, Request, Tokens, connect, open_server, serve

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "how-it-works.md").read_text()
#: The names in the tables; words in capitals stand for anything.
NAMED = re.findall(r"^\| `(trionotify(?:\.connect)?: [^`]+)` \|", PAGE, re.MULTILINE)
#: Trio's own tasks below ours, which have no names of ours.
TRIOS = ("trio.", "trio._", "trio_websocket.")
#: Those that are there only for a moment, or in another process.
ELSEWHERE = {
    *("trionotify: signals", "trionotify: watchdog"),
    *("trionotify: link to the log", "trionotify: connection to Redis"),
    *("trionotify: tail of the log", "trionotify: heartbeat of the log"),
    "trionotify: primary of the log",
}


def below(task: trio.lowlevel.Task) -> Iterator[str]:
    """The names of all tasks in the nurseries of this one, and in theirs."""
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield child.name
            yield from below(child)


def row_of(name: str) -> str | None:
    """Which name in the tables this one is."""
    if name in NAMED:
        return name
    for row in NAMED:
        if re.fullmatch(re.sub(r"[A-Z]{2,}", ".+", re.escape(row)), name):
            return row
    return None


async def test_every_task_is_in_the_tables(tmp_path: Path) -> None:
    """With a log in a file, TLS, a client that is behind, one that was attached, and one that drains."""
    seen: set[str] = set()

    def look() -> set[str]:
        names = set(below(trio.lowlevel.current_task()))
        ours = {name for name in names if not name.startswith((*TRIOS, __name__))}
        assert {name for name in ours if row_of(name) is None} == set()
        seen.update(filter(None, map(row_of, ours)))
        return seen

    # No server has the keys.
    issuer = Issuer("https://id.example.org", audience="x", jwks="https://localhost:1/keys")
    provider = Provider(issuer="https://other.example.org")
    tokens = Tokens(issuer, provider.trusted(tmp_path / "keys"), otherwise=Request.client)
    options: dict[str, Any] = {"store": f"sqlite:{tmp_path}/log.db", "ping_interval": 3600}
    options |= {"head_timeout": 3600, "stall_timeout": 3600}
    options["authenticate"] = tokens
    with trio.fail_after(120):
        async with open_server(port=0, **options) as server, trio.open_nursery() as nursery:
            hub = server.hub

            async def accept(request: trio_websocket.WebSocketRequest) -> None:
                await hub.attach(await request.accept())

            def listen_with_tls(task_status: Any) -> Any:
                return serve(hub, port=0, ssl_context=server_context(), task_status=task_status)

            secure = await nursery.start(listen_with_tls, name="trionotify: server")
            application = await nursery.start(
                trio_websocket.serve_websocket, accept, "127.0.0.1", 0, None
            )
            async with (
                connect(server.url, role="both", token=provider.token) as client,
                connect(secure.url, role="subscriber", ssl_context=client_context()),
                raw_client(server.port, "/?id=slow"),
                await trio.open_tcp_stream("127.0.0.1", server.port or 0) as half_open,
                trio_websocket.open_websocket(
                    "127.0.0.1", application.port, "/", use_ssl=False
                ) as attached,
            ):
                await half_open.send_all(b"GET / HTTP/1.1\r\nHost: ")
                await client.publish("x")
                assert await attached.get_message() == "x"
                while "trionotify: catch-up of client ID" not in look():
                    await hub.publish("x" * 500_000)
                nursery.start_soon(hub.drain, 3600, name=__name__)
                while "trionotify: report of the drain" not in look():
                    await trio.lowlevel.checkpoint()
                hub.abort()
            nursery.cancel_scope.cancel()
    assert set(NAMED) - ELSEWHERE == seen


def test_the_tables_name_what_the_code_names() -> None:
    """Nothing is started without a name, and no row is about a name that there isn't."""
    source = "\n".join(path.read_text() for path in (ROOT / "trionotify").rglob("*.py"))
    given = set(re.findall(r'name ?= ?f?"(trionotify(?:\.connect)?: [^"]+)"', source))
    assert {re.sub(r"\{[^}]*\}", "X", name) for name in given} == {
        re.sub(r"[A-Z]{2,}", "X", name) for name in NAMED
    }
