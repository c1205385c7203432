"""Correct code, in which a type checker finds nothing. It is never run."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Unpack

import trio
import trio_websocket

import trionotify
from trionotify import (
    AcceptedWebSocket,
    Attributes,
    Authenticate,
    Client,
    Exact,
    Handler,
    Hub,
    HubOptions,
    Notification,
    Receipt,
    Refused,
    Request,
    Session,
    Settings,
    SettingsOptions,
)


async def session(client: Client) -> None:
    await client.hub.publish("came", type="presence", to=client.id)
    async for message in client:
        await client.send(message)


async def handler(client: Client, message: str | bytes) -> None:
    await client.send(message)


def authenticate(request: Request) -> Client:
    if request.header("authorization") is None:
        raise Refused(401, "no")
    return request.client("al")


async def authenticate_later(request: Request) -> Client:
    return authenticate(request)


names: tuple[Session, Handler, Authenticate, Authenticate] = (
    session,
    handler,
    authenticate,
    authenticate_later,
)


async def stub(request: trio_websocket.WebSocketRequest, hub: Hub) -> None:
    websocket: AcceptedWebSocket = await request.accept()
    await hub.attach(websocket, Client("al"))


async def my_server(port: int, **options: Unpack[HubOptions]) -> None:
    async with trionotify.open_server(port=port, insecure=True, **options) as server:
        await server.drain()


async def my_hub(**options: Unpack[SettingsOptions]) -> Settings:
    async with trionotify.open_hub(store="sqlite:x", durability="normal", **options) as hub:
        return hub.settings


async def tell(hub: Hub, text: str, **attributes: Unpack[Attributes]) -> Receipt:
    return await hub.publish(text, confirm=True, **attributes)


async def main() -> None:
    async with (
        trionotify.open_server(
            host=["127.0.0.1", "::1"],
            port=0,
            session=session,
            authenticate=authenticate_later,
            allow_origin="https://example.org",
            secret=b"0123456789abcdef",
            max_connections_per_id=None,
            max_log_age=86400,
            ping_interval=20.5,
        ) as server,
        trionotify.connect(server.url, role="both", lag="gap", params={"team": "ops"}) as client,
        trio.open_nursery() as nursery,
    ):
        hub = server.hub
        nursery.start_soon(trionotify.serve, hub)
        when = datetime.now(UTC)
        maybe: Receipt | None = await hub.publish(b"x", to="al", audience=Exact(team="ops"))
        sure: Receipt = await hub.publish(json={"a": [1, None]}, confirm=True)
        hub.publish_nowait("x", type="t", source="/s", subject=None, id="1", time=when)
        hub.publish_nowait("x", expirytime="2026-01-31T23:59:59Z", extensions={"n": 1, "b": True})
        hub.publish_nowait(Notification.of(json=[1], datacontenttype="application/ld+json"))
        acknowledged: Receipt = await client.publish(json=1, audience=lambda client: client.id == "al")
        print(maybe, sure, acknowledged, sure.cursor, hub.statistics().clients)


done: Awaitable[None] = main()
