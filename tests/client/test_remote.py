"""The Python client as a whole: its uses, its roles, and how it is left."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import cancel_at_every_await
from tests.network import open_both, quiet
from tests.redis_server import DEADLINE, open_redis
from trionotify import Client, Notification, Prefix, Refused, Remote, Request, connect, open_server

ROOT = Path(__file__).parents[2]

Clock = trio.testing.MockClock


async def test_it_receives_what_its_filter_wants(autojump_clock: Clock) -> None:
    """As notifications with all their attributes; the cursor is behind what was handed out."""
    async with open_both() as (hub, network):
        async with network.connect(id="al", filter=Prefix(type="order.")) as client:
            assert client.id == "al"
            sent = Notification.of(
                '{"n": 1.50}',
                type="order.paid",
                source="/shop",
                subject="17",
                datacontenttype="application/json",
                to="al",
                level=3,
                urgent=True,
            )
            await hub.publish("no", type="other")
            receipt = await hub.publish(sent, confirm=True)
            await hub.publish(b"\x00", type="order.sent")
            start = client.cursor
            assert await anext(client) == sent
            assert start != client.cursor == receipt.cursor
            assert (await anext(client)).data == b"\x00"


async def test_several_servers(tmp_path: Path, closed_port: int) -> None:
    """Whichever is there; when that one goes away, the next one, behind the same cursor."""
    async with open_redis(tmp_path) as redis, open_server(port=0, store=redis.url) as last:
        async with open_server(port=0, store=redis.url, node_name="first") as first:
            nobody = f"http://127.0.0.1:{closed_port}"
            async with connect([nobody, first.url, last.url], id="al") as client:
                assert len(first.hub.clients) == 1
                receipt = await client.publish("a", confirm=True)
                assert receipt is not None
                assert (receipt.node, receipt.durability) == ("first", "primary")
                assert (await anext(client)).data == "a"
                await last.hub.publish("b")
                first.hub.abort()
                await last.hub.publish("c")
                with trio.fail_after(DEADLINE):
                    assert [(await anext(client)).data for _ in range(2)] == ["b", "c"]
                    await client.publish("d")
                assert (await anext(client)).data == "d"


async def test_no_server_is_there(closed_port: int) -> None:
    """Each is tried before that is raised."""
    urls = [f"http://127.0.0.1:{closed_port}/{name}" for name in "ab"]
    with pytest.raises(OSError, match=urls[1]):
        async with connect(urls):
            raise AssertionError("there is nobody")


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_server_that_refuses(status: int) -> None:
    """It may have another version or other settings: the next is tried. A refusal by all is raised."""

    def authenticate(request: Request) -> Client:
        raise Refused(status, "not here")

    async with open_server(port=0, authenticate=authenticate) as strict, open_server(port=0) as server:
        for urls in ([strict.url, server.url], [server.url, strict.url]):
            async with connect(urls, id="al") as client:
                for connection in tuple(server.hub.connections.values()):
                    connection.abort()
                with trio.fail_after(DEADLINE):
                    await client.publish("x")
                    assert (await anext(client)).data == "x"
        for keep_trying in (False, True):
            with pytest.raises(Refused, match="not here") as caught:
                async with connect([strict.url, strict.url], keep_trying=keep_trying):
                    raise AssertionError("it was entered")
            assert caught.value.status == status


@pytest.mark.parametrize(
    ("urls", "reason"),
    [([], "not none"), (["http://a?x=1", "http://b?x=2"], "the query of the first")],
)
async def test_several_urls_that_do_not_fit(urls: list[str], reason: str) -> None:
    """They are one server to a client."""
    with pytest.raises(ValueError, match=f"^url: .*{reason}"):
        async with connect(urls):
            raise AssertionError("there is nobody")


async def test_roles(autojump_clock: Clock) -> None:
    """A subscriber has one connection, so has a publisher; both have the second once they publish."""
    async with open_both() as (hub, network):
        async with network.connect(role="subscriber") as client:
            with pytest.raises(RuntimeError, match="role: a subscriber can't publish"):
                await client.publish("x")
            assert [client.role for client in hub.clients] == ["subscriber"]
        async with network.connect("http://test/?role=publisher&exact.type=x&since=start") as client:
            await client.publish("x")
            assert client.id
            for use in (client.__anext__, partial(client.subscribe, [])):
                with pytest.raises(RuntimeError, match="role: a publisher receives nothing"):
                    await use()
            with pytest.raises(RuntimeError, match="role: a publisher receives nothing"):
                _ = client.cursor
            (made,) = hub.clients
            assert made.params == {"role": "publisher", "id": client.id}
        async with network.connect(id="al") as client:
            assert len(hub.clients) == 1
            await client.publish("x")
            assert sorted(c.role for c in hub.clients.by_id("al")) == ["publisher", "subscriber"]
        await quiet()
        assert len(hub.clients) == 0


async def test_authenticate_says_who_it_is(autojump_clock: Clock) -> None:
    """The headers go along, and the id is the server's to say."""

    def authenticate(request: Request) -> Client:
        assert request.header("authorization") == "Bearer s3cret"
        return request.client("someone")

    async with open_both(authenticate=authenticate) as (_, network):
        async with network.connect(extra_headers=[("Authorization", "Bearer s3cret")]) as client:
            assert client.id == "someone"
            await client.publish("x")
            assert (await anext(client)).source == "/clients/someone"


async def test_what_the_block_raises_comes_out_bare(autojump_clock: Clock) -> None:
    """In no group, and the same exception."""
    raised = ValueError("mine")
    async with open_both() as (_, network):
        with pytest.raises(ValueError, match="mine") as caught:
            async with network.connect():
                raise raised
        assert caught.value is raised


async def test_after_the_block(autojump_clock: Clock) -> None:
    """Iterations end, and so do all waits for an answer."""
    ended: list[str] = []

    async def iterate(client: Remote) -> None:
        async for _ in client:
            raise AssertionError("nothing was published")
        ended.append("iterate")

    async def ask(name: str, question: Any) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await question()
        ended.append(name)

    async with open_both() as (_, network), trio.open_nursery() as nursery:
        async with network.connect() as client:
            network.serve = None
            network.cut()
            nursery.start_soon(iterate, client)
            nursery.start_soon(ask, "publish", partial(client.publish, "x"))
            nursery.start_soon(ask, "subscribe", partial(client.subscribe, []))
            await quiet()
        await quiet()
        assert sorted(ended) == ["iterate", "publish", "subscribe"]
        await iterate(client)
        await ask("publish", partial(client.publish, "x"))
        await ask("subscribe", partial(client.subscribe, []))
        assert len(ended) == 6


async def test_connecting_is_cancelled(autojump_clock: Clock) -> None:
    """At every await, entering and leaving: nothing is left over."""
    async with open_both() as (hub, network):

        async def operation(steps: int) -> None:
            async with network.connect(id="al") as client:
                await client.publish(f"{steps}")
                assert (await anext(client)).data

        assert await cancel_at_every_await(operation, of_all_tasks=True) >= 50
        await quiet()
        assert len(hub.clients) == 0
        assert trio.current_time() == 0


async def test_the_example_follows_over_restarts(tmp_path: Path) -> None:
    """It prints everything once, though it is stopped in between, and the server goes on without it."""
    command = [sys.executable, str(ROOT / "docs" / "examples" / "follow.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    file = tmp_path / "cursor"

    async def lines(url: str, count: int) -> list[bytes]:
        process = await trio.lowlevel.open_process(
            [*command, url, str(file)], stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        data = b""
        try:
            while data.count(b"\n") < count:
                data += (more := await process.stdout.receive_some())
                assert more, "it ended"
            while not file.exists() or file.read_text() != server.hub.statistics().head:
                await trio.lowlevel.checkpoint()
        finally:
            process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()
                await process.stdout.aclose()
        return data.splitlines()

    async with open_server(port=0) as server:
        for batch in (["1", "2"], ["3"], ["4", "5"]):
            for text in batch:
                await server.hub.publish(text, confirm=True)
            assert await lines(server.url, len(batch)) == [text.encode() for text in batch]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("connect('http://127.0.0.1:1')", "trionotify.connect"),
        ("open_server(port=0)", "trionotify.open_server"),
        ("open_hub()", "trionotify.open_hub"),
    ],
)
def test_without_trio(call: str, name: str) -> None:
    """It says how to run the program, and no more than that."""
    program = f"""
import asyncio, trionotify

async def main():
    async with trionotify.{call}:
        print("entered")

asyncio.run(main())
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        f"RuntimeError: {name} needs Trio: run the program with trio.run(main), not with"
        " asyncio.run(main())"
    )
    assert done.stderr.count("Traceback") == 1
