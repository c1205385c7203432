"""The messages to clients over HTTP and WebSocket: answers, Close frames, error events."""

from __future__ import annotations

import hashlib
import hmac
import json
import zlib
from collections.abc import Mapping
from typing import Any, Final

import trio

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel, upgrade
from tests.web import Web, get, post
from trionotify import Client, Refused, sign
from trionotify.http.routes import ADMIN, ALL, Routes

__all__ = ["CLOSINGS", "EVENTS", "HANDSHAKES", "LIFE", "REQUESTS", "names"]

KEY: Final = b"0123456789abcdef0123456789abcdef"

REQUESTS: Final = r"""
await asked("GET", "/nowhere")
await asked("POST", "/nowhere")
await asked("PUT", "/events")
await asked("GET", "*")
await asked("GET", "http:///livez")
await asked("GET", "http://user@test/livez")
await asked("GET", "/events")
await asked("GET", "/", "Accept: image/png")
await asked("GET", "/events", "Accept: image/png")
await asked("GET", "/livez", version="2.0")
await asked("GET", "/livez", "X: " + "y" * 20_000)
await asked("GET", "/livez", *["X: y"] * 200)
await asked("GET", "/livez", " folded")
await asked("GET", "/livez", "Content-Length: 1", "Transfer-Encoding: chunked")
await raw(b"GET /livez HTTP/1.1\nHost: test\n\n")
await raw(b"nonsense\r\n\r\n")
await raw(b"GET livez HTTP/1.1\r\nHost: test\r\n\r\n")
await raw(b"POST /events HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n")
await raw(b"POST /events HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n", wait=31)
await raw(b"GET /livez HTTP/1.1\r\n", wait=11)
await asked("GET", "/clients?limit=0")
await asked("GET", "/clients?after=x")
await asked("GET", "/readyz")
await asked("GET", "/readyz?verbose")
await asked("GET", "/events?filter=[]", "Accept: text/event-stream")
await asked("GET", "/events?room.a=1", "Accept: text/event-stream")
await asked("GET", "/events?user=1", "Accept: text/event-stream", allow_params="room")
await asked("GET", "/events?id=a&id=b", "Accept: text/event-stream")
await asked("GET", "/events?id=%ff", "Accept: text/event-stream")
await asked("GET", "/events?role=admin", "Accept: text/event-stream")
await asked("GET", "/events?sql=type=", "Accept: text/event-stream")
await asked("GET", "/events?since=yesterday", "Accept: text/event-stream")
await asked("GET", "/events?since=nope:1", "Accept: text/event-stream")
await asked("GET", "/events?lag=gap", "Accept: text/event-stream")
await asked("GET", "/events?format=raw", "Accept: application/x-ndjson")
await asked("GET", "/events?audience=[]", "Accept: text/event-stream")
await asked("GET", "/events", "Accept: text/event-stream", "Origin: https://a.example")
await asked("GET", "/events", "Accept: text/event-stream", "Origin: nowhere")
await asked("GET", "/events", "Host: a.example", "Accept: text/event-stream", local=True)
await asked("GET", "/events", "Accept: text/event-stream", secret=KEY)
await asked("GET", "/events?sig=x", "Accept: text/event-stream", secret=KEY)
await asked("GET", "/events?" + signed(exp="soon"), "Accept: text/event-stream", secret=KEY)
await asked("GET", "/events?" + signed(exp="1"), "Accept: text/event-stream", secret=KEY)
await asked("GET", "/events?" + signed(exp="1795000000000"), "Accept: text/event-stream", secret=KEY)
await asked("GET", "/metrics", secret=KEY)
await asked("GET", "/metrics", "Authorization: Bearer x", secret=KEY)
await asked("GET", "/events", "Authorization: Bearer x", secret=KEY)
await asked("GET", "/events?id=a", "Accept: text/event-stream", authenticate=lambda request: None)
await asked("GET", "/events?id=a", "Accept: text/event-stream", authenticate=lambda request: 1 / 0)
await asked("GET", "/events?id=a", "Accept: text/event-stream", authenticate=refusing)
await asked("POST", "/events?recipient=al", body="x")
await asked("POST", "/events?topic=al", body="x")
await asked("POST", "/events?exact.team=ops", body="x")
await asked("POST", "/events?role=subscriber", body="x")
await asked("POST", "/events?" + sign("id=a&role=subscriber", KEY), body="x", secret=KEY)
await asked("POST", "/events", body="x", secret=KEY)
await asked("POST", "/events?type=trionotify.x", body="x")
await asked("POST", "/events?audience=5", body="x")
await asked("POST", "/events", body='{"to":"al"}')
await asked("POST", "/events", body="x" * 200, max_message_bytes=100)
await asked("POST", "/events", "Content-Encoding: gzip", body="x")
await asked("POST", "/events", "Content-Type: text/plain; charset=latin-1", body="x")
await asked("POST", "/events", "Content-Type: text/plain", body=b"\xff")
await asked("POST", "/events", "Content-Type: application/json", body="{")
await asked("POST", "/events", "Content-Type: application/cloudevents+xml", body="x")
await asked("POST", "/events", STRUCTURED, body="{}")
await asked("POST", "/events", STRUCTURED, body=event(request=True))
await asked("POST", "/events", BATCH, body="{}")
await asked("POST", "/events", BATCH, body=b"\xff")
await asked("POST", "/events", BATCH, body="[1}")
await asked("POST", "/events", BATCH, body="[1")
await asked("POST", "/events", BATCH, body="[" + event() + "," + event(id="") + "]")
await asked("POST", "/events", BATCH, body=events(3), max_batch=2)
await asked("POST", "/events", BATCH, body=events(3), max_body_bytes=150)
await asked("POST", "/events?subject=" + "s" * 150, BATCH, body=events(3), max_body_bytes=400)
await asked("POST", "/events", BATCH, body="[" + event(data="x" * 200) + "]", max_message_bytes=150)
await asked("POST", "/events", "ce-type: t", body="x")
await asked("POST", "/events", "ce-specversion: 0.3", body="x")
await asked("POST", "/events", "ce-id: %ff", body="x")
await asked("POST", "/events?type=t&source=s&subject=u&to=a", *many("ce-a"), body="x")
await asked("POST", "/events", "ce-id: 1", "ce-id: 2", body="x")
await asked("POST", "/events", "ce-datacontenttype: a/b", body="x")
await raw(b"POST /events HTTP/1.0\r\nHost: test\r\n\r\n")
"""

HANDSHAKES: Final = r"""
await shaken("/elsewhere")
await shaken("/events", drop="Connection")
await shaken("/events", "Content-Length: 5")
await shaken("/events", drop="Sec-WebSocket-Version")
await shaken("/events", drop="Sec-WebSocket-Key")
await shaken("/events", "Sec-WebSocket-Protocol: chat", "Origin: http://test")
await shaken("/events", max_connections=1, clients=1)
await shaken("/events?id=a", max_connections_per_id=1, clients=1)
await shaken("/events?id=b", max_connections_per_address=1, clients=1)
await shaken("/events", draining=True)
await shaken("/events", routes=ADMIN)
await shaken("/events?id=a", clients=1, authenticate=the_same)
"""

CLOSINGS: Final = r"""
await closed(frame(0x81, b"\xff"))
await closed(frame(0xC1, b"x"))
await closed(frame(0xC1, b"\xff\xff"), "Sec-WebSocket-Extensions: permessage-deflate")
await closed(frame(0x41, b"") + frame(0xC0, b""), "Sec-WebSocket-Extensions: permessage-deflate")
await closed(deflated(b"x" * 200), "Sec-WebSocket-Extensions: permessage-deflate", max_message_bytes=100)
await closed(frame(0x83, b""))
await closed(frame(0x8B, b""))
await closed(frame(0x09, b""))
await closed(frame(0x89, b"x" * 126))
await closed(b"\x81\x01x")
await closed(b"\x81\xfe\x00\x01\0\0\0\0x")
await closed(b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff")
await closed(frame(0x01, b"x") + frame(0x01, b"x"))
await closed(frame(0x80, b"x"))
await closed(frame(0x81, b"x" * 200), max_message_bytes=100)
await closed(frame(0x88, b"x"))
await closed(frame(0x88, b"\x03\xed"))
await closed(frame(0x88, b"\x03\xe8\xff"))
await closed(frame(0x81, b"x"))
await closed(frame(0x81, b"x"), session=failing, role="both")
await closed(b"", predicate=lambda notification: 1 / 0)
await closed(b"", wait=61)
await closed(b"\x81\x85", wait=121)
await closed(b"", stalled=True, wait=121)
"""

EVENTS: Final = r"""
await told(b"x")
await told("x")
await told(*["x"] * 20)
await told(event(type="trionotify.subscribe", data={}))
await told(event(type="trionotify.subscribe", data={"filters": ["x" * 9000]}))
await told(event(type="trionotify.subscribe", data={"filters": [{}]}))
await told(event(type="trionotify.subscribe", data={"filters": [], "since": "soon"}))
await told(event(type="trionotify.x"))
await told(event(id=""))
await told(event(request=True))
await told(event(), role="subscriber")
await told(event(), session=rejecting)
await told(event(), session=rejecting_twice)
await told(event(request=True), session=replying_badly)
await told(event(), session=receiving_twice)
await told(event(), session=reconnecting)
await told(*[event(id=str(n), request=True) for n in range(2000)], session=lingering)
"""

#: What a server does by itself.
LIFE: Final = r"""
await drained()
await readiness()
await asked("GET", "/readyz", draining=True)
await metrics()
await left(gone=True)
await left()
await audience_fails()
"""


def event(**members: Any) -> str:
    given = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", **members}
    if not isinstance(given.get("data", ""), str):
        given["datacontenttype"] = "application/json"
    return json.dumps(given)


def events(number: int) -> str:
    return "[" + ",".join(event(id=str(n)) for n in range(number)) + "]"


def _deflated(data: bytes) -> bytes:
    """A text message in one compressed frame."""
    deflater = zlib.compressobj(wbits=-9)
    return frame(0xC1, deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH)[:-4])


def frame(first: int, payload: bytes) -> bytes:
    """A masked frame; the mask is nothing."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([first]) + length + bytes(4) + payload


async def _asked(
    method: str,
    target: str,
    *fields: str,
    body: str | bytes | None = None,
    version: str = "1.1",
    local: bool = False,
    draining: bool = False,
    **options: Any,
) -> str:
    """The answer to one request: the status, and what its document says."""
    async with open_room(**options) as room:
        if body is None:
            request = get(target, *fields, method=method, version=version)
        else:
            request = post(target, body, *fields)
        if any(field.startswith("Host:") for field in fields):
            request = request.replace(b"Host: test\r\n", b"")
        if draining:
            await room.connect("/events", kernel=FakeKernel(credit=200))
            room.nursery.start_soon(room.hub.drain)
            await room.quiet()
        return await _answered(room, request, local=local)


async def _raw(request: bytes, wait: float = 0.0, **options: Any) -> str:
    async with open_room(**options) as room:
        return await _answered(room, request, wait)


async def _answered(room: Room, request: bytes, wait: float = 0.0, **given: Any) -> str:
    web = Web(room, **given)
    web.kernel.feed(request)
    await room.quiet()
    await trio.sleep(wait)
    await room.quiet()
    head, _, body = bytes(web.kernel.taken).partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].removeprefix(b"HTTP/1.1 ").decode()
    text = body.decode(errors="replace").strip()
    try:
        found = json.loads(text)
    except ValueError:
        return f"{status}: {text}" if b"text/plain" in head else status
    return f"{status}: {found.get('detail') or found.get('warning')}"


async def _shaken(
    target: str,
    *fields: str,
    drop: str = "",
    clients: int = 0,
    draining: bool = False,
    routes: Routes = ALL,
    **options: Any,
) -> str:
    """The answer to a WebSocket handshake, without the header `drop`."""
    async with open_room(**options) as room:
        for _ in range(clients):
            await room.connect("/events?id=a")
        if draining:
            await room.connect("/events", kernel=FakeKernel(credit=200))
            room.nursery.start_soon(room.hub.drain)
            await room.quiet()
        lines = upgrade(target, *fields).decode().split("\r\n")
        kept = [line for line in lines if not drop or not line.startswith(f"{drop}:")]
        return await _answered(room, "\r\n".join(kept).encode(), remote="test:2", routes=routes)


async def _closed(
    sent: bytes,
    *fields: str,
    role: str = "subscriber",
    predicate: Any = None,
    stalled: bool = False,
    wait: float = 0.0,
    **options: Any,
) -> str:
    """How the connection ends that says this, and a second later."""
    async with open_room(**options) as room:
        peer = await room.connect(f"/events?id=a&role={role}", *fields)
        if predicate is not None:
            next(iter(room.hub.clients)).subscribe(predicate)
            await room.hub.publish("x", id="1")
        if stalled:
            peer.kernel.stall()
            await room.hub.publish("x" * 1000, id="1")
        if sent:
            peer.kernel.feed(sent)
        await room.quiet()
        await trio.sleep(wait)
        await room.quiet()
        close = peer.look().close
        return "no Close frame" if close is None else f"close {close[0]} {close[1]}"


async def _told(*messages: str | bytes, role: str = "both", **options: Any) -> str:
    """The messages that a client gets as an answer to these."""
    async with open_room(**options) as room:
        peer = await room.connect(f"/events?id=a&format=cloudevents&echo=0&role={role}")
        before = len(peer.messages)
        peer.say(*messages)
        await room.quiet()
        heard = [json.loads(text) for text in peer.look().messages[before:]]
        lines = [
            f"{one['type']} {one['data'].get('status')}: {one['data'].get('detail')}"
            for one in heard
            if one["type"] == "trionotify.error"
        ]
        if peer.close is not None:
            lines.append(f"close {peer.close[0]} {peer.close[1]}")
        return "\n".join(lines[-2:])


async def _drained() -> None:
    async with open_room() as room:
        await room.connect("/events?id=a", kernel=FakeKernel(credit=150))
        await room.hub.drain(1.0)


async def _readiness() -> str:
    """The checks of a server that drains, one by one."""
    async with open_room() as room:
        await room.connect("/events?id=a", kernel=FakeKernel(credit=150))
        room.nursery.start_soon(room.hub.drain)
        await room.quiet()
        return "\n".join(f"{name}: {text}" for name, text in room.hub.checks().items())


async def _left(*, gone: bool = False) -> None:
    async with open_room() as room:
        peer = await room.connect("/events?id=a")
        if gone:
            peer.kernel.hang_up()
        else:
            peer.say_close(1000, "bye")
        await room.quiet()


async def _audience_fails() -> None:
    """Its publisher was cancelled before it was asked."""
    async with open_room() as room:
        await room.connect("/events?id=a")
        room.hub.publish_nowait("x", audience=lambda client: 1 / 0)
        await room.quiet()


async def _failing(client: Client) -> None:
    async for _ in client:
        raise KeyError("x")


async def _rejecting(client: Client) -> None:
    async for message in client:
        client.reject(message, "no such room", 404)


async def _rejecting_twice(client: Client) -> None:
    async for message in client:
        client.reject(message, "no such room", 404)
        client.reject(message, "no such room", 404)


async def _replying_badly(client: Client) -> None:
    async for message in client:
        await client.reply(message, {1, 2})


async def _receiving_twice(client: Client) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_batch)
        nursery.start_soon(client.receive_batch)


async def _reconnecting(client: Client) -> None:
    client.connect(client.hub, None)


def _the_same(request: Any) -> Client:
    """The same client for each request."""
    return _CLIENTS.setdefault("a", Client("a"))


_CLIENTS: dict[str, Client] = {}


async def _metrics() -> str:
    """The metrics with their descriptions."""
    async with open_room() as room:
        answer = await Web(room).ask(get("/metrics"))
        return "\n".join(line for line in answer.body.decode().splitlines() if line.startswith("# HELP"))


async def _lingering(client: Client) -> None:
    async for _ in client:
        pass


def _refusing(request: Any) -> Client:
    raise Refused(403, "token: unknown")


def _signed(**params: str) -> str:
    """A query with these parameters and a good signature, whatever they are."""
    text = "&".join(f"{name}={value}" for name, value in sorted({"id": "a", **params}.items()))
    return f"{text}&sig={hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()}"


def names() -> Mapping[str, Any]:
    """The names that the lines may use."""
    return {
        "ADMIN": ADMIN,
        "BATCH": "Content-Type: application/cloudevents-batch+json",
        "KEY": KEY,
        "STRUCTURED": "Content-Type: application/cloudevents+json",
        "asked": _asked,
        "audience_fails": _audience_fails,
        "closed": _closed,
        "deflated": _deflated,
        "drained": _drained,
        "event": event,
        "events": events,
        "failing": _failing,
        "frame": frame,
        "left": _left,
        "lingering": _lingering,
        "many": lambda name: [f"{name}{number}: 1" for number in range(96)],
        "metrics": _metrics,
        "raw": _raw,
        "readiness": _readiness,
        "receiving_twice": _receiving_twice,
        "reconnecting": _reconnecting,
        "refusing": _refusing,
        "rejecting": _rejecting,
        "rejecting_twice": _rejecting_twice,
        "replying_badly": _replying_badly,
        "shaken": _shaken,
        "sign": sign,
        "signed": _signed,
        "the_same": _the_same,
        "told": _told,
    }
