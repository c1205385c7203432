"""Mistakes, each in a line that says so: a type checker finds these, and nothing else."""

from __future__ import annotations

import trionotify
from trionotify import Client, Exact, Hub, Notification, Receipt, Remote, Request, Settings


def plain_handler(client: Client, message: str | bytes) -> None: ...


async def short_handler(message: str | bytes) -> None: ...


def plain_session(client: Client) -> None: ...


async def long_session(client: Client, message: str) -> None: ...


def nameless(request: Request) -> None: ...


def text_only(request: Request) -> str:
    return "al"


async def session(client: Client) -> None:
    await client.send({"a": 1})  # mistake: text, bytes, or a Notification
    await client.hub.publish("x", typ="t")  # mistake: a typo, by way of the client
    client.close("1000")  # mistake: the code is a number


async def options() -> None:
    trionotify.open_server(prot=0)  # mistake: a typo
    trionotify.open_server(port="0")  # mistake: a number
    trionotify.open_server(allow_origins="*")  # mistake: a typo
    trionotify.open_server(max_batch="many")  # mistake: a number
    trionotify.open_server(max_conections=5)  # mistake: a typo
    trionotify.open_server(durability="ful")  # mistake: full or normal
    trionotify.open_server(handler=plain_handler)  # mistake: not async
    trionotify.open_server(handler=short_handler)  # mistake: the client comes first
    trionotify.open_server(session=plain_session)  # mistake: not async
    trionotify.open_server(session=long_session)  # mistake: a handler
    trionotify.open_server(authenticate=nameless)  # mistake: returns no client
    trionotify.open_server(authenticate=text_only)  # mistake: returns no client
    trionotify.open_hub(port=0)  # mistake: a hub doesn't listen
    Settings(max_batches=1)  # mistake: a typo
    with trionotify.open_server() as server:  # mistake: async with
        print(server)
    print(trionotify.open_server().hub)  # mistake: not entered


async def hub(hub: Hub) -> None:
    hub.publish("x")  # mistake: not awaited
    await hub.publish({"a": 1})  # mistake: json={"a": 1}
    await hub.publish("x", typ="t")  # mistake: a typo
    await hub.publish("x", user_id="7")  # mistake: no such attribute
    await hub.publish("x", tenant="acme")  # mistake: extensions={"tenant": "acme"}
    await hub.publish("x", extensions={"tenant": None})  # mistake: text, a number, or a boolean
    await hub.publish("x", to=["al", "bo"])  # mistake: one id
    await hub.publish("x", to=7)  # mistake: text
    await hub.publish("x", audience={"team": "ops"})  # mistake: Exact(team="ops")
    await hub.publish("x", audience=lambda client: client.team)  # mistake: client.params["team"]
    await hub.publish("x", time=1.5)  # mistake: text or a datetime
    receipt: Receipt = await hub.publish("x")  # mistake: only with confirm=True
    hub.publish_nowait("x", confirm=True)  # mistake: it doesn't wait
    await hub.attach("/events")  # mistake: no connection
    hub.explain("x", Client("al"))  # mistake: a Notification
    hub.subscribe("type = 't'")  # mistake: Sql("type = 't'")
    trionotify.serve(hub, prt=1)  # mistake: a typo
    Notification.of("x", sujbect="s")  # mistake: a typo
    Notification("x", extension={"a": 1})  # mistake: a typo
    Exact(type=1)  # mistake: text
    print(receipt)


async def client(client: Remote) -> None:
    await client.publish("x", sujbect="s")  # mistake: a typo
    await client.publish("x", confirm=True)  # mistake: it always does
    trionotify.connect("http://localhost", rol="both")  # mistake: a typo
    trionotify.connect("http://localhost", role="reader")  # mistake: no such role
    trionotify.connect("http://localhost", lag="newest")  # mistake: latest
