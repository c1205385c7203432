"""Nodes as real processes on a real Redis: the short form of `python -m tests.fleet --store redis`, with
few deaths; and two at one port."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from tests.fleet.nodes import carry_out_nodes, judge_nodes
from tests.fleet.server import ServerProcess, server_process
from tests.redis_server import DEADLINE, SENTINEL, SERVER, needed, open_redis
from trionotify import Remote, connect


async def test_nodes_are_killed_and_redis_is_promoted(tmp_path: Path) -> None:
    """Each reader has everything in one order, or was told of a gap."""
    needed(SERVER)
    needed(SENTINEL)
    run = await carry_out_nodes(1, 3, tmp_path, ["node", "promote", "node"])
    assert judge_nodes(run)["gaps"] == 0


async def test_two_processes_at_one_port(tmp_path: Path) -> None:
    """The kernel deals connections out; when one process ends, its clients go on at the other one."""
    needed(SERVER)
    async with open_redis(tmp_path / "redis") as redis, AsyncExitStack() as stack:
        nodes: list[ServerProcess] = []
        for name in "ab":
            (place := tmp_path / name).mkdir()
            options = ("--store", redis.url, "--node-name", name, "--reuse-port")
            node = await stack.enter_async_context(server_process(place, *options, patience=200))
            node.port = nodes[0].port if nodes else node.port
            await node.start()
            nodes.append(node)
        published: list[str] = []
        cursor: str | None = None
        clients: list[Remote] = []

        async def publish(client: Remote) -> str | None:
            nonlocal cursor
            published.append(f"{len(published)}")
            receipt = await client.publish(published[-1], id=published[-1], confirm=True)
            cursor = receipt.cursor
            return receipt.node

        found = set()
        while found != {"a", "b"}:
            url, id = f"http://127.0.0.1:{node.port}", f"{len(clients)}"
            # One node may not have seen yet what the other one has acknowledged.
            at = connect(url, id=id, since=cursor, keep_trying=True)
            clients.append(await stack.enter_async_context(at))
            found.add(await publish(clients[-1]))
        nodes[0].signal(signal.SIGTERM)
        assert await nodes[0].ended() == 0
        assert {await publish(client) for client in clients} == {"b"}
        for number, client in enumerate(clients):
            expected = published[number:]
            with trio.fail_after(DEADLINE):
                assert [(await anext(client)).data for _ in expected] == expected
