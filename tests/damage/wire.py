"""Clients over the network: a WebSocket with events, a raw one, an event stream; all by our own reading.

Each says behind which cursor it goes on. What it hears of damage depends on what it speaks: `gap` and
`"recovered": false`, or 410 and 1013, or 410 and an end.
"""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import Any
from urllib.parse import urlencode

import attrs
import trio

from tests.damage.events import Content
from tests.eventstream import EventSource
from tests.fleet.line import Lost, Refused, connected, open_line
from tests.web import get
from trionotify import Hub

__all__ = ["Told", "listen"]

#: Seconds for a client to come to the head.
_PATIENCE = 120.0
#: It gets what is for the red team, too.
_WHO = {"team": "red"}


@attrs.define
class Told:
    """Everything that a client was told. `recovered` is None if it asked for no cursor."""

    recovered: bool | None = None
    #: The contents, by offset; where offsets aren't said, in order from 0.
    found: dict[int, Content] = attrs.Factory(dict)
    lost: set[int] = attrs.Factory(set)
    #: Where it began, and what ended it before the head.
    begin: int = 0
    ended: str = ""


async def listen(hub: Hub, since: str) -> dict[str, Told]:
    """The messages that each of them gets after `since`, by its name."""
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, hub.handle, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        told = {}
        with trio.fail_after(_PATIENCE):
            for name, client in (("events", _events), ("raw", _raw), ("stream", _stream)):
                told[name] = await client(port, since, hub.log.head)
        nursery.cancel_scope.cancel()
    return told


async def _events(port: int, since: str, head: int) -> Told:
    told, at = Told(), -1
    async with open_line(port, {**_WHO, "format": "cloudevents", "since": since}) as line:
        while at < head:
            for event in await line.events():
                before, at = at, int(event["cursor"].rpartition(":")[2])
                match event["type"]:
                    case "trionotify.welcome":
                        told.recovered, told.begin = event["data"].get("recovered"), at
                    case "trionotify.gap":
                        told.lost |= set(range(before + 1, at + 1))
                    case _:
                        told.found[at] = _content(event)
    return told


async def _raw(port: int, since: str, head: int) -> Told:
    """It gets data alone, so it can only count."""
    told = Told()
    try:
        async with open_line(port, {**_WHO, "since": since}) as line:
            begin = int(line.headers["Trionotify-Cursor"].rpartition(":")[2])
            told.recovered, told.begin = _yes(line.headers.get("Trionotify-Recovered")), begin
            while len(told.found) < head - begin:
                for message in await line.read():
                    told.found[begin + 1 + len(told.found)] = (message,)
    except Refused as refused:
        told.recovered, told.ended = False, str(refused.status)
    except Lost as lost:
        told.ended = f"{lost.code} {lost.reason}"
    return told


async def _stream(port: int, since: str, head: int) -> Told:
    told, source = Told(), EventSource()
    target = f"/events?{urlencode({**_WHO, 'since': since})}"
    async with await connected(port) as stream:
        await stream.send_all(get(target, "Accept: text/event-stream", version="1.0"))
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some(1 << 16)
        top, _, body = data.partition(b"\r\n\r\n")
        status, *lines = top.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if " 200 " not in status:
            return Told(recovered=False, ended=status.split(" ")[1])
        told.recovered = _yes(headers.get("trionotify-recovered"))
        at = told.begin = int(headers["trionotify-cursor"].rpartition(":")[2])
        while at < head:
            source.feed(body)
            for event in source.events:
                at = int(event.last_event_id.rpartition(":")[2])
                told.found[at] = (event.data,)
            source.events.clear()
            if at < head and not (body := bytes(await stream.receive_some(1 << 16))):
                told.ended = "the end"
                break
    return told


def _yes(text: str | None) -> bool | None:
    return None if text is None else text == "true"


def _content(event: dict[str, Any]) -> Content:
    """As far as `events.content` begins."""
    data = event.get("data")
    if "data_base64" in event:
        data = base64.b64decode(event["data_base64"])
    elif data is not None and not isinstance(data, str):
        data = json.dumps(data)
    return data, event["id"], event["source"], event["type"], event.get("subject"), event["time"]
