"""Requests and replies: every event that a session is given is answered, once."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import Room, open_room
from tests.connection.test_dialogue import event, join, own, say
from tests.fleet.server import free_port
from tests.network import open_both
from tests.test_peers import need
from tests.web import Web, post
from trionotify import EVERYTHING, Client, Exact, Notification, Refused, connect
from trionotify.delivery.unanswered import _MAX_REQUESTS

Clock = trio.testing.MockClock


def answers(peer: Any) -> list[tuple[str, Any]]:
    """The ids of the events that were acknowledged, each with the reply, or with what was refused."""
    found = []
    for got in [*own(peer, "ack"), *own(peer, "error")]:
        data = got["data"]
        found.append((data["id"], data.get("reply", data.get("status"))))
    return found


# --- in the session ---


async def test_what_a_handler_returns_is_the_reply(autojump_clock: Clock) -> None:
    """Text, bytes or a value. It may also answer an event that is no request, and None is a reply."""

    async def handler(client: Client, message: str | bytes) -> object:
        return {"text": "ok", "bytes": b"\x00", "value": {"a": [1]}, "nothing": None}[str(message)]

    async with open_room(handler=handler) as room:
        peer = await join(room)
        for number, word in enumerate(("text", "bytes", "value", "nothing")):
            say(peer, event(str(number), data=word, datacontenttype="text/plain", request=True))
        say(peer, event("4", data="text", datacontenttype="text/plain"))
        await room.quiet()
        acks = [got["data"] for got in own(peer, "ack")]
        assert [ack["id"] for ack in acks] == ["0", "1", "2", "3", "4"]
        assert acks[0] == {"source": "/s", "id": "0", "reply": "ok"}
        assert acks[1]["reply_base64"] == "AA=="
        assert (acks[2]["reply"], acks[3]["reply"], acks[4]["reply"]) == ({"a": [1]}, None, "ok")
        raw = await room.connect("/")
        raw.say("text", "value", "nothing", "bytes")
        await room.quiet()
        assert raw.look().messages == ["ok", '{"a":[1]}', b"\x00"]


async def test_events_that_are_dealt_with_are_acknowledged(autojump_clock: Clock) -> None:
    """When the session asks for the next, or returns; a request waits for its reply."""
    go_on = trio.Event()

    async def session(client: Client) -> None:
        async for message in client:
            if message == "last":
                await go_on.wait()
                return

    async with open_room(session=session) as room:
        peer = await join(room)
        texts = {"datacontenttype": "text/plain"}
        say(peer, event("1"), event("2", request=True), event("3", data="last", **texts))
        await room.quiet()
        assert answers(peer) == [("1", None)]
        go_on.set()
        await room.quiet()
        assert answers(peer) == [("1", None), ("3", None)]
        assert peer.look().close == (1000, "")


async def test_replies_may_come_in_any_order_and_from_any_task(autojump_clock: Clock) -> None:
    """While the session goes on."""
    async with trio.open_nursery() as nursery:

        async def answer(client: Client, message: str | bytes, after: float) -> None:
            await trio.sleep(after)
            await client.reply(message, after)

        async def session(client: Client) -> None:
            delays = iter((3, 1, 2))
            async for message in client:
                nursery.start_soon(answer, client, message, next(delays))

        async with open_room(session=session) as room:
            peer = await join(room)
            texts = {"datacontenttype": "text/plain", "request": True}
            say(peer, *[event(id, data=f"text {id}", **texts) for id in "abc"])
            await trio.sleep(5)
            assert sorted(answers(peer)) == [("a", 3), ("b", 1), ("c", 2)]


async def test_a_session_rejects(autojump_clock: Clock) -> None:
    """With a status and a reason. A publisher that was answered once isn't answered again."""
    errors: list[str] = []

    async def session(client: Client) -> None:
        while batch := await client.receive_batch():
            for message in batch:
                client.reject(message, "no such room", 404)
                for again in (
                    partial(client.reject, message, "twice"),
                    partial(client.reject, "other", ""),
                ):
                    with pytest.raises(
                        ValueError, match="message: must be an unanswered message of this client"
                    ):
                        again()
                with pytest.raises(ValueError, match="status: must be an HTTP status from 400 to 599"):
                    client.reject(message, "", 200)
                for mistake in (("", "404"), (5, 404)):
                    with pytest.raises(TypeError, match="reason and status: must be str and int"):
                        client.reject(message, *mistake)  # type: ignore[arg-type] # on purpose
                errors.append(str(message))

    async with open_room(session=session) as room:
        peer = await join(room)
        say(peer, event("1", request=True), event("2"))
        await room.quiet()
        assert answers(peer) == [("1", 404), ("2", 404)]
        assert own(peer, "error")[0]["data"]["detail"] == "no such room"
    assert len(errors) == 2


async def test_a_reason_that_utf_8_cannot_encode(autojump_clock: Clock) -> None:
    """It may come from a peer's JSON. The client is told all the same, and no error is in between."""

    async def session(client: Client) -> None:
        while batch := await client.receive_batch():
            client.reject(batch[0], "no \ud800", 404)

    async with open_room(session=session) as room:
        peer = await join(room)
        say(peer, event("1", request=True))
        await room.quiet()
        assert own(peer, "error")[0]["data"]["detail"] == "no ?"
        with pytest.raises(TypeError, match="reason: must be str, not int"):
            await room.hub.disconnect(Exact(role="both"), 5)  # type: ignore[arg-type] # on purpose
        assert await room.hub.disconnect(EVERYTHING, "not \ud800") == 1
        await room.quiet()
        assert peer.look().close == (4403, "not ?")


async def test_what_a_session_publishes_is_acknowledged_once(autojump_clock: Clock) -> None:
    """By its place in the log."""

    async def session(client: Client) -> None:
        while batch := await client.receive_batch():
            await client.publish(*batch)

    async with open_room(session=session) as room:
        peer = await join(room, "/?exact.type=none")
        say(peer, event("1"), event("2"))
        await room.quiet()
        acks = [got["data"] for got in own(peer, "ack")]
        assert [(ack["id"], ack["cursor"]) for ack in acks] == [
            ("1", f"{room.hub.log.epoch}:1"),
            ("2", f"{room.hub.log.epoch}:2"),
        ]


async def test_data_of_a_subclass(autojump_clock: Clock) -> None:
    """Text and numbers of an application's own types are sent as what they are."""

    class Markup(str):
        __slots__ = ()

    class Level(float):
        pass

    async def handler(client: Client, message: object) -> object:
        return [Markup("text"), Level(2.5)] if message == "both" else Markup("text")

    async with open_both(handler=handler) as (_, network):
        async with network.connect(role="publisher") as client:
            assert await client.request("one") == "text"
            assert await client.request("both") == ["text", 2.5]


@dataclasses.dataclass
class Point:
    """JSON of msgspec has dataclasses, too."""

    x: float


#: A value without a form in JSON, one that contains itself, and one that no client would read.
UNWRITABLE: list[Any] = [object(), [], reduce(lambda inner, _: [inner], range(128), 1)]
UNWRITABLE[1].append(UNWRITABLE[1])


async def test_data_that_json_cannot_hold(autojump_clock: Clock) -> None:
    """It is refused before anything is sent, and the request still waits."""

    async def session(client: Client) -> None:
        async for message in client:
            for value in UNWRITABLE:
                with pytest.raises(TypeError, match=r"^data: .* can't be written as JSON"):
                    await client.reply(message, value)
            for number in (math.nan, math.inf, [-math.inf], {"a": [None, Point(math.nan)]}):
                with pytest.raises(ValueError, match=r"^data: NaN and Infinity can't be written"):
                    await client.reply(message, number)
            await client.reply(message, "then this")

    async with open_room(session=session) as room:
        peer = await join(room)
        say(peer, event("1", request=True))
        await room.quiet()
        assert answers(peer) == [("1", "then this")]


async def test_requests_that_wait_are_bounded(autojump_clock: Clock) -> None:
    """The oldest is refused, so that it can be sent again."""

    async def session(client: Client) -> None:
        while await client.receive_batch():
            pass

    async with open_room(session=session) as room:
        peer = await join(room)
        say(peer, *[event(str(number), request=True) for number in range(_MAX_REQUESTS + 2)])
        await room.quiet()
        await trio.sleep(1)
        assert answers(peer) == [("0", 503), ("1", 503)]


# --- without one ---


async def test_a_server_that_only_publishes_refuses_requests(room: Room, autojump_clock: Clock) -> None:
    """It publishes none, so the client learns at once that there will be no reply."""
    peer = await join(room, "/?role=both")
    say(peer, event("1", request=True), event("2"))
    await room.quiet()
    assert ("1", 501) in answers(peer)
    assert room.hub.log.head == 1
    body = json.dumps(event("3", request=True))
    answer = await Web(room).ask(post("/events", body, "Content-Type: application/cloudevents+json"))
    assert answer.status == 501
    assert room.hub.log.head == 1


# --- from the client ---


async def test_a_client_asks(autojump_clock: Clock) -> None:
    """Several at a time, each gets its own reply; what is rejected is raised."""

    async def handler(client: Client, message: str | bytes) -> object:
        if message == "bad":
            client.reject(message, "no such thing", 404)
            return None
        return b"\x01" if message == "bytes" else {"you said": message}

    async with open_both(handler=handler) as (_, network), network.connect(id="al") as client:
        assert await client.request("hello") == {"you said": "hello"}
        assert await client.request(json={"a": 1}) == {"you said": '{"a":1}'}
        assert await client.request("bytes", type="order") == b"\x01"
        assert await client.request(Notification("given")) == {"you said": "given"}
        with pytest.raises(Refused) as caught:
            await client.request("bad")
        assert (caught.value.status, caught.value.detail) == (404, "no such thing")
        assert (await client.publish("no request")).cursor is None
        replies: list[Any] = []

        async def ask(number: int) -> None:
            replies.append((number, await client.request(str(number))))

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(ask, number)
        assert sorted(replies) == [(number, {"you said": str(number)}) for number in range(50)]


async def test_a_request_outlives_its_connection(autojump_clock: Clock) -> None:
    """The session gets it again, with the same id; and after its time it is given up."""
    heard: list[str] = []
    asked = trio.Event()

    async def session(client: Client) -> None:
        while batch := await client.receive_batch():
            for message in batch:
                assert isinstance(message, Notification)
                heard.append(message.id)
                asked.set()
                if len(heard) == 2:
                    await client.reply(message, "at last")

    async with open_both(session=session) as (_, network), network.connect(id="al") as client:

        async def cut() -> None:
            await asked.wait()
            network.cut()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            assert await client.request("x") == "at last"
        assert heard[0] == heard[1]
        with pytest.raises(trio.TooSlowError):
            await client.request("y", timeout="3s")
        for nonsense in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout: must be 0 or more seconds"):
                await client.request("y", timeout=nonsense)


async def test_nobody_replies(autojump_clock: Clock) -> None:
    """A server without a session says so, and an acknowledgement is no reply."""
    async with open_both() as (_, network), network.connect() as client:
        with pytest.raises(Refused, match="needs a server with a session or a handler"):
            await client.request("x")


# --- through restarts ---

PEERS = Path(__file__).parents[1] / "peers"
PATIENCE = 300


@pytest.mark.skipif(os.name != "posix", reason="the signals of POSIX")
async def test_each_request_is_answered_through_restarts() -> None:
    """By clients of both kinds, while the server is stopped once and killed once: none hangs."""
    node = shutil.which("node")
    need(node, "no Node.js is installed")
    need((PEERS / "node_modules" / "ws").exists(), "npm install --prefix tests/peers wasn't run")
    port, clients, requests = free_port(), 10, 50
    url = f"http://127.0.0.1:{port}"
    texts = [f"{number} {at}" for number in range(clients) for at in range(requests)]
    replies: dict[str, Any] = {}
    some, more = trio.Event(), trio.Event()

    async def ask(number: int) -> None:
        async with connect(url, role="publisher", id=f"py{number}", keep_trying=True) as client:
            for at in range(requests):
                text = f"{number} {at}"
                replies[text] = await client.request(text, timeout=PATIENCE)
                for share, reached in ((0.3, some), (0.6, more)):
                    if len(replies) >= share * len(texts):
                        reached.set()

    async def ask_all() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(ask, number)

    async def serve(
        number: signal.Signals, until: Callable[[], Awaitable[object]], nursery: trio.Nursery
    ) -> None:
        command = [sys.executable, str(PEERS / "replying.py"), str(port)]
        start = partial(trio.run_process, command, check=False, stdout=subprocess.PIPE)
        server = await nursery.start(start)
        assert (await server.stdout.receive_some()).startswith(b"listening")
        await until()
        server.send_signal(number)
        await server.wait()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            command = [str(node), str(PEERS / "asking.mjs"), url, str(clients), str(requests)]
            asking = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE))
            nursery.start_soon(ask_all)
            output = b""

            async def the_end() -> None:
                nonlocal output
                async for chunk in asking.stdout:
                    output += chunk
                while len(replies) < len(texts):
                    await trio.testing.wait_all_tasks_blocked(0.01)

            await serve(signal.SIGTERM, some.wait, nursery)
            await serve(signal.SIGKILL, more.wait, nursery)
            await serve(signal.SIGKILL, the_end, nursery)
    assert replies == {text: {"reply": text} for text in texts}
    assert json.loads(output) == {"right": len(texts), "wrong": 0, "raised": 0}
