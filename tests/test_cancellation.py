"""Every public coroutine, cancelled at each of its await points: the hub is whole afterwards.

Whole means: nobody is left registered who is gone, no task is left, nothing waits, no frame is torn, and
everyone else still gets everything.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket

from tests.conftest import Room, assert_whole, cancel_at_every_await, open_room
from tests.eventstream import StreamPeer
from tests.kernel import FakeKernel, Peer, upgrade
from tests.web import get
from trionotify import Client, Exact, Hub, open_hub, open_server, serve
from trionotify.http.serving import serve_transport

Clock = trio.testing.MockClock


async def check(room: Room, witness: Peer) -> None:
    """The hub still works, and the witness has missed nothing."""
    await room.quiet()
    await room.hub.publish("still alive", confirm=True)
    await room.quiet()
    log = [entry.notification.data for entry in room.hub.log.read(0, 1000)]
    assert witness.look().messages == log
    assert log[-1] == "still alive"


@pytest.mark.parametrize("confirm", [False, True])
async def test_publish(confirm: bool, autojump_clock: Clock) -> None:
    """It was published or it was not; without `confirm`, `Cancelled` means that it was not."""
    returned: list[str] = []

    async def operation(steps: int) -> None:
        await hub.publish(f"{steps}", confirm=confirm)
        returned.append(f"{steps}")

    async with open_room() as room:
        hub = room.hub
        witness = await room.connect("/")
        assert await cancel_at_every_await(operation) >= 1
        await check(room, witness)
        published = [str(entry.notification.data) for entry in hub.log.read(0, 100)][:-1]
        if confirm:
            assert set(returned) <= set(published)
        else:
            assert returned == published


async def test_publish_into_a_full_channel(autojump_clock: Clock) -> None:
    """While it waits for room, too; and those behind it get their turn."""
    returned: list[str] = []

    async with open_room(max_waiting=1) as room:
        witness = await room.connect("/")

        async def operation(steps: int) -> None:
            # With the channel full when it starts, and emptied some steps later.
            room.hub.inbox._send.send_nowait([])
            room.hub.inbox.count = 1
            await room.hub.publish(f"{steps}")
            returned.append(f"{steps}")

        assert await cancel_at_every_await(operation) >= 2
        await check(room, witness)
        assert returned == [str(entry.notification.data) for entry in room.hub.log.read(0, 100)][:-1]


async def test_a_subscription(autojump_clock: Clock) -> None:
    """It loses nothing if it is cancelled while it waits or reads, and it can go on."""
    async with open_room() as room:
        witness = await room.connect("/")
        received: list[Any] = []
        async with room.hub.subscribe(Exact(type="t")) as notifications:

            async def operation(steps: int) -> None:
                await room.hub.publish(f"{steps}", type="t")
                received.append((await anext(notifications)).data)

            assert await cancel_at_every_await(operation) >= 3
            with trio.move_on_after(1):
                async for notification in notifications:
                    received.append(notification.data)
        await check(room, witness)
        assert received == [entry.notification.data for entry in room.hub.log.read(0, 100)][:-1]


async def test_entering_and_leaving_a_subscription(autojump_clock: Clock) -> None:
    """No position is left behind."""
    async with open_room() as room:

        async def operation(steps: int) -> None:
            async with room.hub.subscribe() as notifications:
                await room.hub.publish("x", confirm=True)
                await anext(notifications)

        assert await cancel_at_every_await(operation) >= 3
        assert not room.hub.broadcast.matcher._groups


@pytest.mark.parametrize("method", ["send", "receive_batch", "__anext__", "publish"])
async def test_what_a_session_awaits(method: str, autojump_clock: Clock) -> None:
    """`client.send` and friends, on a client that stalls: no frame is torn, no message is lost."""

    async def session(client: Client) -> None:
        async def operation(steps: int) -> None:
            if method in ("send", "publish"):
                await getattr(client, method)(f"answer {steps} " + "x" * 50)
            else:
                peer.say(f"question {steps}")
                got = await getattr(client, method)()
                questions.extend([got] if isinstance(got, str) else got)

        kernel.stall()
        kernel.grant(30)
        room.nursery.start_soon(trickle)
        steps.append(await cancel_at_every_await(operation))
        with trio.move_on_after(1):
            async for message in client:
                questions.append(message)

    async def trickle() -> None:
        for _ in range(200):
            await trio.sleep(0.001)
            kernel.grant(7)
        kernel.grant(100_000)

    questions: list[Any] = []
    steps: list[int] = []
    kernel = FakeKernel()
    async with open_room(session=session) as room:
        kernel.feed(upgrade("/?role=both"))
        peer = Peer(kernel)
        room.nursery.start_soon(serve_transport, room.hub, kernel, "test")
        await trio.sleep(5)
        peer.look()
        assert steps[0] >= (0 if method == "publish" else 1)
        assert peer.close == (1000, "")
        for message in peer.messages:
            assert message.endswith("x" * 50)
        if method == "send":
            assert peer.messages[-1].startswith(f"answer {steps[0]} ")
        if method in ("receive_batch", "__anext__"):
            assert questions == [f"question {n}" for n in range(steps[0] + 1)]
        peer.say_close()


async def test_handle(autojump_clock: Clock) -> None:
    """A connection on any stream, cancelled from its first byte to its last."""
    async with open_room(close_timeout=1) as room:
        witness = await room.connect("/")

        async def operation(steps: int) -> None:
            ours, theirs = trio.testing.memory_stream_pair()
            await theirs.send_all(upgrade("/?role=both") + b"\x81\x82\0\0\0\0hi\x88\x80abcd")
            await theirs.send_eof()
            try:
                await room.hub.handle(ours)
            finally:
                assert len(room.hub.clients) == 1
                with trio.CancelScope(shield=True):
                    head, _, frames = (await read_all(theirs)).partition(b"\r\n\r\n")
                check_frames(head, frames)

        assert await cancel_at_every_await(operation) >= 5
        await check(room, witness)


async def read_all(stream: Any) -> bytes:
    data = b""
    try:
        while chunk := await stream.receive_some():
            data += chunk
    except trio.BrokenResourceError:
        pass
    return data


def check_frames(head: bytes, frames: bytes) -> None:
    """Whole frames only, and nothing behind a Close."""
    kernel = FakeKernel()
    if head:
        kernel.taken += head + b"\r\n\r\n" + frames
        peer = Peer(kernel).look()
        assert peer._frames._frame_decoder.header is None
        assert len(peer._frames._frame_decoder.buffer) == 0


async def test_handshake_and_session_on_a_kernel(autojump_clock: Clock) -> None:
    """The same on a socket's transport, with a kernel that takes little by little."""
    async with open_room(close_timeout=1) as room:
        witness = await room.connect("/")

        async def operation(steps: int) -> None:
            kernel = FakeKernel(credit=150 + steps)
            kernel.feed(upgrade("/?role=both") + b"\x81\x82\0\0\0\0hi")
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def client() -> None:
                    with trio.CancelScope(shield=True):
                        for _ in range(100):
                            await trio.lowlevel.checkpoint()
                            kernel.grant(20)
                        if not kernel.closed:
                            kernel.feed(b"\x88\x80abcd")

                await serve_transport(room.hub, kernel, "test")
            assert len(room.hub.clients) == 1
            peer = Peer(kernel).look()
            assert peer.messages in ([], ["hi"])

        assert await cancel_at_every_await(operation) >= 5
        await check(room, witness)


@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson"])
async def test_a_stream_on_a_kernel(kind: str, autojump_clock: Clock) -> None:
    """The data was the log's beginning. The stream ended, or the connection was reset."""
    async with open_room(close_timeout=1) as room:
        witness = await room.connect("/")
        for data in "abc":
            await room.hub.publish(data)

        async def operation(steps: int) -> None:
            kernel = FakeKernel(credit=300 + steps)
            kernel.feed(get("/events?since=start&format=cloudevents", f"Accept: {kind}"))
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def client() -> None:
                    with trio.CancelScope(shield=True):
                        for _ in range(100):
                            await trio.lowlevel.checkpoint()
                            kernel.grant(20)
                        if not kernel.closed:
                            kernel.hang_up()

                await serve_transport(room.hub, kernel, "test")
            assert len(room.hub.clients) == 1
            peer = StreamPeer(kernel).look()
            events = [json.loads(message) for message in peer.messages]
            heard = [event["data"] for event in events if event["type"] == "message"]
            assert heard == list("abc")[: len(heard)]
            assert peer.ended or kernel.was_reset or peer.status is None

        assert await cancel_at_every_await(operation) >= 4
        await check(room, witness)


async def test_attach(autojump_clock: Clock) -> None:
    """A connection that trio-websocket accepted: the hub lets go of it, whenever."""
    async with open_room() as room:
        witness = await room.connect("/")

        async def operation(steps: int) -> None:
            ours, theirs = trio.testing.memory_stream_pair()
            with trio.CancelScope(shield=True) as shield:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client, theirs, nursery)
                    request = await trio_websocket.wrap_server_stream(nursery, ours)
                    websocket = await request.accept()
                    shield.shield = False
                    try:
                        await room.hub.attach(websocket)
                    finally:
                        assert len(room.hub.clients) == 1
                        nursery.cancel_scope.cancel()

        async def client(stream: Any, nursery: trio.Nursery) -> None:
            websocket = await trio_websocket.wrap_client_stream(nursery, stream, "test", "/?role=both")
            await websocket.send_message("hi")
            await websocket.get_message()
            await websocket.aclose()

        assert await cancel_at_every_await(operation) >= 5
        await check(room, witness)


async def test_open_hub(autojump_clock: Clock) -> None:
    """Whenever it is cancelled, nothing is left of it."""

    async def operation(steps: int) -> None:
        hubs: list[Hub] = []
        try:
            async with open_hub() as hub:
                hubs.append(hub)
                await hub.publish("x", confirm=True)
        finally:
            for hub in hubs:
                assert_whole(hub)

    assert await cancel_at_every_await(operation) >= 3


async def test_open_server_and_serve() -> None:
    """Over a real socket: it is closed, whenever the server is cancelled."""

    async def with_open_server(steps: int) -> None:
        async with open_server(port=0, close_timeout=0.2) as server:
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(upgrade("/"))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")

    async def with_serve(steps: int) -> None:
        async with open_hub(close_timeout=0.2) as hub, trio.open_nursery() as nursery:
            server = await nursery.start(lambda task_status: serve(hub, port=0, task_status=task_status))
            server.stop()

    before = trio.lowlevel.current_statistics().tasks_living
    assert await cancel_at_every_await(with_open_server) >= 3
    assert await cancel_at_every_await(with_serve) >= 1
    assert trio.lowlevel.current_statistics().tasks_living == before
