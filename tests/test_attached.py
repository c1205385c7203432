"""`hub.attach`: connections that an application accepted itself, with trio-websocket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio_websocket import WebSocketRequest, open_websocket, serve_websocket

from tests.conftest import raw_client
from trionotify import Client, Hub, Refused, open_hub


@asynccontextmanager
async def application(**options: Any) -> AsyncIterator[tuple[Hub, int]]:
    """An existing trio-websocket server whose handler hands over to a hub."""
    async with open_hub(**options) as hub, trio.open_nursery() as nursery:

        async def handler(request: WebSocketRequest) -> None:
            websocket = await request.accept()
            try:
                await hub.attach(websocket)
            except Refused as refused:
                await websocket.aclose(1008, refused.detail)

        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        yield hub, server.port
        nursery.cancel_scope.cancel()
    assert not hub.connections
    assert not hub.broadcast._groups


def connect(port: int, target: str) -> Any:
    return open_websocket("127.0.0.1", port, target, use_ssl=False)


async def test_it_is_a_client_like_any_other() -> None:
    """Filters, publishing, echo, audiences, resuming: by the query of its path."""
    async with application() as (hub, port):
        async with (
            connect(port, "/?id=al&exact.type=t") as reader,
            connect(port, "/?role=both&type=t&echo=0") as writer,
        ):
            while len(hub.clients) < 2:
                await trio.lowlevel.checkpoint()
            await writer.send_message("1")
            await writer.send_message(b"2")
            assert [await reader.get_message(), await reader.get_message()] == ["1", b"2"]
            await hub.publish("3", to="al", type="t")
            await hub.publish("4", type="u")
            await hub.publish("5", type="t")
            assert [await reader.get_message(), await reader.get_message()] == ["3", "5"]
            assert [await writer.get_message(), await writer.get_message()] == ["4", "5"]
            receipt = await hub.publish("6", type="t", confirm=True)
            assert receipt is not None
            assert (receipt.wanted, receipt.written, receipt.behind) == (2, 0, 2)
        async with connect(port, f"/?since={hub.log.epoch}:2&exact.type=t") as again:
            assert [await again.get_message() for _ in range(2)] == ["5", "6"]


async def test_a_session_and_an_own_record() -> None:
    """The hub's session runs on it; the application may bring the client."""

    async def session(client: Client) -> None:
        await client.send(f"hello {client.id}")
        async for message in client:
            await client.send(message)
            client.close(4000, "enough")

    async with application(session=session) as (_, port), raw_client(port, "/?id=al") as client:
        await client.stream.send_all(b"\x81\x81\0\0\0\0x")
        peer = await client.until(lambda peer: peer.close)
        assert peer.messages == ["hello al", "x"]
        assert peer.close == (4000, "enough")


async def test_refusals() -> None:
    """A bad query is `Refused`, before anything is sent."""
    async with application() as (_, port), raw_client(port, "/?exakt.type=a") as client:
        code, reason = (await client.until(lambda peer: peer.close)).close or (0, "")
        assert code == 1008
        assert reason.startswith("exakt.type: no such key")


async def test_a_session_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """1011 for that one."""

    async def session(client: Client) -> None:
        raise ValueError("oops")

    async with application(session=session) as (_, port), raw_client(port) as client:
        assert (await client.until(lambda peer: peer.close)).close == (1011, "")
        assert "ValueError: oops" in caplog.text


async def test_a_predicate_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """1011 as well."""
    async with application() as (hub, port), raw_client(port) as client:
        while not hub.clients:
            await trio.lowlevel.checkpoint()
        (record,) = hub.clients
        record.subscribe(lambda notification: 1 / 0)
        await hub.publish("x")
        closed = (await client.until(lambda peer: peer.close)).close
        assert closed == (1011, "a predicate of this client's failed")
        assert "ZeroDivisionError" in caplog.text
