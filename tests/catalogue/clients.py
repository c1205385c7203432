"""The Python client's messages: about its arguments, a server that refuses, and one that is lost."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import trio

from tests.network import FakeServer, open_network
from trionotify import Exact, Refused, Sql, connect, open_hub, sign

__all__ = ["ARGUMENTS", "CONVERSATIONS", "names"]

ARGUMENTS: Final = r"""
await entered(5)
await entered("ftp://host")
await entered("unix:")
await entered("http://test?id=a&id=b")
await entered("http://test", id=5)
await entered("http://test", id="a", params={"id": "b"})
await entered("http://test", params={"level": 3})
await entered("http://test", params=5)
await entered("http://test", params="id=a&sig=x")
await entered("http://test", params={"exakt.type": "x"})
await entered("http://test", params={"echo": "0"})
await entered("http://test?sig=x&exp=1")
await entered("http://test", filters="type")
await entered("http://test", filters=5)
await entered("http://test", filters=lambda notification: True)
await entered("http://test", filters=[{"exakt": {}}])
await entered("http://test", filters=[], filter=[])
await entered("http://test", since=datetime(2026, 1, 1))
await entered("http://test", since=timedelta(-1))
await entered("http://test", since=5)
await entered("http://test", extra_headers=[("Host", "x")])
await entered("http://test", extra_headers=[("a b", "x")])
await entered("http://test", extra_headers={"X": "a"})
await entered("http://test", extra_headers=["X: a"])
await entered("http://test", open_stream=5)
await entered("http://test", open_stream=lambda: None)
await entered("http://test", open_stream=nothing)
await entered("https://test", ssl_context=True)
await entered("http://test", ssl_context=context)
await entered("http://test", max_buffered=0)
await entered("http://test", max_buffered=1.5)
await entered("http://test", connect_timeout="soon")
await entered("http://test", role="admin")
"""

CONVERSATIONS: Final = r"""
await met()
await met(params=lambda: 5)
await met(params=lambda: {"level": 3})
await met(params=lambda: "id=a&id=b")
await met(params=lambda: 1 / 0)
await met(params=forever)
await met(params=lambda: "role=subscriber", role="publisher")
await met(params=lambda: "role=publisher", role="subscriber")
await met(params=lambda: sign("id=a&narrow=[]", b"0" * 32), filters=[])
await met(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
await met(answer=b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
await met(answer=b"HTTP/1.1 308 Moved\r\nLocation: https://a/events\r\nContent-Length: 0\r\n\r\n")
await met(answer=b"220 mail.example ESMTP\r\n")
await met(answer=b"")
await met(script=greeting)
await met(script=silent)
await met(script=leaving)
await met(script=only_publishing, role="subscriber")
await met(script=only_subscribing, role="publisher", publish="x")
await heard(binary)
await heard(lost)
await heard(losing)
await used(role="subscriber", publish="x")
await used(role="publisher", publish=None)
await used(role="both", filters=5)
await used(role="both", filters=None)
await used(role="both", left=True)
await used(role="both", publish="x", extensions=99)
await used(role="both", ask=-1)
"""


async def _entered(url: Any, **options: Any) -> None:
    async with connect(url, **options):
        pass


async def _met(
    *,
    answer: bytes | None = None,
    script: Any = None,
    publish: str | None = None,
    **options: Any,
) -> None:
    """Connects to a server that gives this answer, or follows the script."""

    async def serve(stream: trio.abc.Stream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer or b"")

    async with open_hub() as hub, open_network(hub) as network:
        if answer is not None:
            network.serve = serve
        if script is not None:
            network.fake(script)
        async with network.connect(**options) as client:
            if publish is not None:
                await client.publish(publish)


async def _heard(script: Any) -> None:
    """Waits for the first notification, of a server that follows the script."""
    async with open_network() as network:
        network.fake(script)
        async with network.connect(role="subscriber") as client:
            with trio.move_on_after(100):
                await anext(client)


async def _used(
    *, publish: Any = ..., left: bool = False, extensions: int = 0, ask: Any = ..., **options: Any
) -> None:
    """Does with a good connection what can't be done."""
    filters = options.pop("filters", ...)
    async with open_hub() as hub, open_network(hub) as network:
        async with network.connect(**options) as client:
            if filters is not ...:
                await client.subscribe(filters)
            elif ask is not ...:
                await client.request("x", timeout=ask)
            elif publish is None:
                await anext(client)
            elif publish is not ...:
                await client.publish(publish, extensions={f"a{n}": 1 for n in range(extensions)})
        if left:
            await client.publish("x")


async def _greeting(server: FakeServer) -> None:
    await server.say("hello", {}, "e:0")
    await server.listen()


async def _silent(server: FakeServer) -> None:
    await server.listen()


async def _leaving(server: FakeServer) -> None:
    await server.websocket.aclose(4403, "not any more")


async def _only_publishing(server: FakeServer) -> None:
    await server.say("welcome", {"id": "a", "role": "publisher", "recovered": True}, "e:0")
    await server.listen()


async def _only_subscribing(server: FakeServer) -> None:
    await server.say("welcome", {"id": "a", "role": "subscriber", "recovered": True}, "e:0")
    await server.listen()


async def _welcome(server: FakeServer) -> None:
    await server.say("welcome", {"id": "a", "role": "both", "recovered": True}, "e:0")


async def _binary(server: FakeServer) -> None:
    await _welcome(server)
    await server.websocket.send_message(b"x")
    await server.listen()


async def _lost(server: FakeServer) -> None:
    await _welcome(server)
    await server.websocket._abort_web_socket()


async def _losing(server: FakeServer) -> None:
    await _welcome(server)
    await server.say("gap", {"from": "e:0", "to": "e:5"}, "e:5")
    await server.listen()


def names() -> Mapping[str, Any]:
    """The names that the lines may use."""
    return {
        "entered": _entered,
        "met": _met,
        "heard": _heard,
        "used": _used,
        "datetime": datetime,
        "timedelta": timedelta,
        "Exact": Exact,
        "Sql": Sql,
        "sign": sign,
        "greeting": _greeting,
        "silent": _silent,
        "leaving": _leaving,
        "binary": _binary,
        "only_publishing": _only_publishing,
        "only_subscribing": _only_subscribing,
        "lost": _lost,
        "losing": _losing,
        "forever": trio.sleep_forever,
        "nothing": trio.lowlevel.checkpoint,
        "Refused": Refused,
        "context": ssl.create_default_context(),
    }
