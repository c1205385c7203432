"""A rolling restart: nodes that share a log are replaced one after the other, behind nginx.

    python -m tests.rolling --clients 2000 --nodes 3

Every node is told to end (SIGTERM) and is started again, as a new version would be. Meanwhile one
publisher goes on. Each client must get everything once and in order: `Member.hear` looks at that, and
whether each return says `recovered`.
"""

from __future__ import annotations

import re
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import attrs
import click
import trio

from benchmarks.load import raise_file_limit
from tests.fleet.crowd import Crowd, all_of_them
from tests.fleet.server import ServerProcess, free_port, server_process
from tests.proxies import open_nginx
from tests.redis_server import open_redis
from trionotify import Refused, connect

__all__ = ["Rolled", "roll"]

GUIDE = Path(__file__).parent.parent / "docs" / "howto" / "many-nodes.md"
#: Seconds in which all has to be over; and between two notifications.
_PATIENCE, _PACE = 500.0, 0.05
#: Notifications that are acknowledged before the first restart, between two, and after the last.
_BETWEEN = 10
#: What a proxy may answer while a node goes: come again.
_AGAIN = (b"HTTP/1.1 502 ", b"HTTP/1.1 503 ")


@attrs.frozen
class Rolled:
    """The result: everything that was acknowledged came to each client once."""

    clients: int
    published: int
    #: Publishes that were repeated, because their outcome wasn't known.
    repeated: int
    #: Connections that were asked for, the first ones included.
    requests: int
    #: Seconds in total; and the seconds of each node until it had ended, and until it listened again.
    seconds: float
    restarts: list[tuple[float, float]]


@attrs.define(eq=False)
class _Publishing:
    """One publisher, which repeats what wasn't acknowledged with the same `id`."""

    urls: Sequence[str]
    count: int = 0
    repeated: int = 0
    #: The offset of the last one, when there will be no more.
    end: int | None = None
    over: bool = False

    async def run(self) -> None:
        async with connect(self.urls, id="p", role="publisher", keep_trying=True) as client:
            while not self.over:
                text = f"{self.count + 1}"
                try:
                    receipt = await client.publish(text, id=text, source="rolling", confirm=True)
                except Refused as refused:
                    if refused.status != 503:
                        raise
                    self.repeated += 1
                else:
                    offset = int((receipt.cursor or "").split(":")[1])
                    assert offset == self.count + 1, f"{text} is at {offset}"
                    self.count = offset
                await trio.sleep(_PACE)
        self.end = self.count

    async def more(self) -> None:
        """Wait until some more are acknowledged."""
        wanted = self.count + _BETWEEN
        while self.count < wanted:  # noqa: ASYNC110 - the time is the publisher's
            await trio.sleep(_PACE)


async def roll(directory: Path, clients: int, nodes: int) -> Rolled:
    """Do it once. Raises AssertionError."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_redis(directory / "redis"))
        servers = [
            await stack.enter_async_context(_node(directory, number, redis.url))
            for number in range(nodes)
        ]
        for server in servers:
            await server.start()
        plain = free_port()
        guide = re.findall(r"server 10\.0\.0\.\d:8765(.*);\n", GUIDE.read_text())
        upstream = ";\n    server ".join(f"127.0.0.1:{server.port}{guide[0]}" for server in servers)
        change = {"server {\n": f"server {{\n    listen 127.0.0.1:{plain};\n"}
        await stack.enter_async_context(open_nginx(directory, upstream, change))
        crowd = Crowd(plain, clients, *_AGAIN)
        await all_of_them(crowd.connect)
        begun = time.perf_counter()
        publishing = _Publishing([f"http://127.0.0.1:{server.port}" for server in servers])
        with trio.fail_after(_PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publishing.run)
                nursery.start_soon(trio.to_thread.run_sync, crowd.stay, lambda: publishing.end)
                restarts = []
                for server in servers:
                    await publishing.more()
                    told = time.perf_counter()
                    server.signal(signal.SIGTERM)
                    assert await server.ended() == 0, server.errors
                    ended = time.perf_counter() - told
                    await server.start()
                    restarts.append((round(ended, 1), round(time.perf_counter() - told, 1)))
                await publishing.more()
                publishing.over = True
        seconds = round(time.perf_counter() - begun, 1)
        crowd.leave(clients)
        for server in servers:
            assert "Traceback" not in server.errors, server.errors
    return Rolled(clients, publishing.count, publishing.repeated, crowd.requests, seconds, restarts)


def _node(directory: Path, number: int, store: str) -> AbstractAsyncContextManager[ServerProcess]:
    place = directory / f"node {number}"
    place.mkdir()
    options = ("--store", store, "--node-name", f"n{number}", "--trusted-proxy", "127.0.0.1")
    return server_process(place, *options, patience=_PATIENCE)


@click.command()
@click.option("--clients", default=2000, help="Clients behind nginx.")
@click.option("--nodes", default=3, help="Servers that share the log.")
@click.option("--runs", default=1, help="How often.")
def main(clients: int, nodes: int, runs: int) -> None:
    """Restart all nodes, one after the other, and look whether anything is lost or doubled."""
    raise_file_limit()
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as directory:
            print(trio.run(roll, Path(directory), clients, nodes), flush=True)


if __name__ == "__main__":
    main()
