"""Arriving bodies and messages share a budget, and all of it is given back."""

from __future__ import annotations

import gc
import json
import tracemalloc
import weakref

import attrs
import pytest
import trio
import trio.testing

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel, masked
from tests.web import Web, get, post
from trionotify.delivery.budget import Budget
from trionotify.model.jsontext import LONG

Clock = trio.testing.MockClock

BATCH = "Content-Type: application/cloudevents-batch+json"
MIB = 1 << 20


@attrs.define(eq=False)
class Holder:
    """Gives up when it is told to."""

    site: str
    budget: Budget
    held: int = 0
    gave_up: int = 0

    def hold(self, change: int) -> None:
        self.held += change
        self.budget.hold(self, change)

    def give_up_arriving(self) -> None:
        self.gave_up += 1
        self.hold(-self.held)


def test_who_gives_up() -> None:
    """The largest holder of the address that holds most, and never a small one of another address."""
    budget = Budget(100)
    small, *crowd = [Holder(site, budget) for site in "abbbb"]
    small.hold(20)
    for number, each in enumerate(crowd):
        each.hold(10 + number)
    assert budget.held == 66
    crowd[0].hold(30)
    assert [each.gave_up for each in (small, *crowd)] == [0] * 5
    small.hold(5)
    assert [each.gave_up for each in (small, *crowd)] == [0, 1, 0, 0, 0]
    assert budget.held == 61
    small.hold(90)
    assert small.gave_up == 1
    for each in (small, *crowd):
        each.hold(-each.held)
    assert budget.held == 0


async def test_bodies_have_one_budget(autojump_clock: Clock) -> None:
    """The largest goes, and is told to send it again: holders that keep it don't lock others out."""
    async with open_room(max_arriving_bytes=2500) as room:
        first, second, third = (Web(room) for _ in range(3))
        first.kernel.feed(get("/events?type=x", "Content-Length: 2000", method="POST") + b"x" * 1999)
        await room.quiet()
        assert room.hub.arriving.held == 1999
        second.kernel.feed(get("/events?type=x", "Content-Length: 600", method="POST") + b"y" * 599)
        await room.quiet()
        (refused,) = first.answers()
        assert refused.status == 503
        assert refused.headers["retry-after"]
        assert room.hub.arriving.held == 599
        assert (await second.ask(b"y")).status == 200
        assert room.hub.arriving.held == 0
        assert (await third.ask(post("/events?type=x", "y" * 600))).status == 200


@pytest.mark.parametrize(("letter", "times"), [("x", 2), ("é", 3), ("€", 3), ("😀", 5)])
async def test_a_body_counts_as_the_text_that_is_made_of_it(
    letter: str, times: int, room: Room, autojump_clock: Clock
) -> None:
    """Until it is answered: a text of ASCII with one emoji takes four times its bytes, beside them."""
    body = letter + "x" * (2 * LONG)
    size = len(body.encode())
    web = Web(room)
    async with room.hub.slow_lane.one_of("elsewhere"):
        web.kernel.feed(post("/events?type=x", body))
        await room.quiet()
        assert room.hub.arriving.held == times * size
    await room.quiet()
    (answer,) = web.answers()
    assert answer.status == 200
    assert room.hub.arriving.held == 0


async def test_one_that_is_alone_may_have_more(autojump_clock: Clock) -> None:
    """A body that may be so long can be sent, however narrow the budget of all is."""
    async with open_room(max_arriving_bytes=1000) as room:
        assert (await Web(room).ask(post("/events?type=x", "😀" + "x" * 900))).status == 200


async def test_a_body_that_stops_is_given_back(autojump_clock: Clock) -> None:
    """However it ends: the peer leaves, its time is over, the connection is dropped."""
    async with open_room(request_timeout=5) as room:
        for _ in range(3):
            kernels = [FakeKernel() for _ in range(2)]
            for kernel in kernels:
                kernel.feed(get("/events", "Content-Length: 1000", method="POST") + b"x" * 999)
                Web(room, kernel)
            await room.quiet()
            assert room.hub.arriving.held == 2 * 999
            kernels[0].hang_up()
            await room.quiet()
            assert room.hub.arriving.held == 999
            await trio.sleep(6)
            assert kernels[1].taken.startswith(b"HTTP/1.1 408 ")
            assert room.hub.arriving.held == 0


async def test_messages_are_in_the_same_budget(autojump_clock: Clock) -> None:
    """The client with the largest is sent away, to come back later, and lets go of it at once."""
    async with open_room(max_arriving_bytes=1500) as room:
        peers = [await room.connect("/?role=publisher") for _ in range(2)]
        for peer, size in zip(peers, (1000, 999), strict=True):
            peer.kernel.feed(masked(b"\x01\x7e" + size.to_bytes(2) + b"x" * size))
            await room.quiet()
        assert peers[0].look().close == (1013, "too many bodies and messages are arriving at once")
        assert peers[1].look().close is None
        assert room.hub.arriving.held == 999
        # What comes of the message is not kept, and the answer to the Close is still seen.
        peers[0].kernel.feed(masked(b"\x00\x7e\x03\xe8" + b"x" * 1000))
        await room.quiet()
        assert room.hub.arriving.held == 999
        peers[0].say_close(1013)
        await room.quiet()
        peers[0].kernel.hang_up()
        peers[1].kernel.feed(masked(b"\x80\x01x"))
        await room.quiet()
        assert not peers[0].kernel.was_reset
        assert room.hub.arriving.held == 0


async def test_a_message_must_go_on(autojump_clock: Clock) -> None:
    """Byte by byte it would hold its share for ever, even if its sender answers Pings."""
    async with open_room(stall_timeout=10, ping_interval=5, ping_timeout=5) as room:
        drips, flows = [await room.connect("/?role=publisher") for _ in range(2)]
        for peer in (drips, flows):
            peer.kernel.feed(masked(b"\x01\x01x"))
        for _ in range(15):
            drips.kernel.feed(masked(b"\x00\x01x") + masked(b"\x8a\x00"))
            flows.kernel.feed(masked(b"\x00\x7e\x04\x00" + b"x" * 1024) + masked(b"\x8a\x00"))
            await trio.sleep(1)
        assert drips.look().close == (1008, "a message arrived too slowly")
        assert flows.look().close is None


async def test_a_message_has_its_time_from_the_beginning(room: Room, autojump_clock: Clock) -> None:
    """Also where the first look at a connection finds it in the middle of one."""
    autojump_clock.jump(10_000)
    peer = await room.connect("/?role=publisher")
    frame = masked(b"\x81\x05hello")
    peer.kernel.feed(frame[:1])
    await trio.sleep(30)
    assert peer.look().close is None
    peer.kernel.feed(frame[1:])
    await room.quiet()
    assert room.hub.log.head == 1


async def test_short_messages_are_progress(autojump_clock: Clock) -> None:
    """Also where every read ends in the middle of one, and what is here of it is always as long."""
    async with open_room(stall_timeout=10) as room:
        peer = await room.connect("/?role=publisher")
        stream = masked(b"\x81\x7e\x03\x20" + b"x" * 800) * 60
        for at in range(0, len(stream) - 400, 808):
            peer.kernel.feed(stream[at + 400 : at + 1208] if at else stream[:1208])
            await trio.sleep(1)
        assert peer.look().close is None
        assert room.hub.log.head > 50


async def test_one_who_may_not_publish_has_nothing_long_to_say(autojump_clock: Clock) -> None:
    """Its filters fit, a megabyte doesn't; an application's session hears whatever it likes."""
    heard: list[int] = []

    async def handler(client: object, message: str | bytes) -> None:
        heard.append(len(message))

    for options, close in (({}, 1009), ({"handler": handler}, None)):
        async with open_room(**options) as room:
            peer = await room.connect("/")
            peer.say("x" * 100_000)
            await room.quiet()
            peer.look()
            assert (peer.close[0] if peer.close else None) == close
    assert heard == [100_000]


async def test_a_refused_body_is_freed_with_its_answer(room: Room, autojump_clock: Clock) -> None:
    """Not when the cycle collector comes by: an exception has the frames that it went through."""
    web, size = Web(room), MIB >> 3
    await web.ask(post("/events", "[" * 10, BATCH))
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(8):
            answer = await web.ask(post("/events", "[" * size, BATCH))
            assert answer.status == 400
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert held < 4 * size


async def test_a_connection_that_is_over_is_freed(room: Room, autojump_clock: Clock) -> None:
    """With its buffers, and without the cycle collector."""
    for target, fields in (
        ("/?role=both", ()),
        ("/?role=both", ("Sec-WebSocket-Protocol: cloudevents.json",)),
    ):
        peer = await room.connect(target, *fields)
        peer.kernel.feed(masked(b"\x01\x7e\xff\xff" + b"x" * 60_000)[:50_000])
        await room.quiet()
        (connection,) = room.hub.connections.values()
        gone = [
            weakref.ref(connection),
            weakref.ref(connection.client),
            weakref.ref(connection.position),
        ]
        del connection
        gc.collect()
        gc.disable()
        try:
            peer.kernel.hang_up()
            await room.quiet()
            assert [ref() for ref in gone] == [None] * len(gone)
        finally:
            gc.enable()


@pytest.mark.parametrize("request_", [get("/livez", "Connection: close"), b"nonsense\r\n\r\n"])
async def test_a_conversation_that_is_over_is_freed(
    room: Room, autojump_clock: Clock, request_: bytes
) -> None:
    """So is a connection that never was a client's, with the transport that it had."""
    gc.collect()
    gc.disable()
    try:
        web = Web(room)
        gone = weakref.ref(web.kernel)
        web.kernel.feed(request_)
        web.kernel.hang_up()
        await room.quiet()
        assert web.kernel.closed
        del web
        await room.quiet()
        assert gone() is None
    finally:
        gc.enable()


async def test_a_batch_is_counted_while_it_is_read(autojump_clock: Clock) -> None:
    """Nothing behind the first event too many is looked at, not even whether it is JSON."""
    async with open_room(max_batch=3) as room:
        event = json.dumps({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"})
        for text, status in (
            (f"[{event},{event},{event}]", 200),
            (f"[{event},{event},{event},1,1 nonsense", 413),
        ):
            assert (await Web(room).ask(post("/events", text, BATCH))).status == status


async def test_audiences_of_a_batch_are_bounded_together(autojump_clock: Clock) -> None:
    """Different ones, that is: the same one is read once, however often it comes."""
    async with open_room(max_filter_bytes=400) as room:

        def batch(audiences: list[str]) -> str:
            events = [
                {"specversion": "1.0", "id": str(n), "source": "/s", "type": "t", "audience": text}
                for n, text in enumerate(audiences)
            ]
            return json.dumps(events)

        def audience(number: int) -> str:
            return json.dumps([{"exact": {"team": f"{number}" + "x" * 300}}])

        same = await Web(room).ask(post("/events", batch([audience(1)] * 200), BATCH))
        assert same.status == 200
        others = await Web(room).ask(post("/events", batch([audience(n) for n in range(200)]), BATCH))
        assert others.status == 413
        assert "audience" in others.json["detail"]


async def test_what_is_said_back_is_cut(room: Room, autojump_clock: Clock) -> None:
    """A problem doesn't repeat a megabyte of nonsense."""
    event = {"specversion": "x" * 100_000, "id": "1", "source": "/s", "type": "t"}
    answer = await Web(room).ask(
        post("/events", json.dumps(event), "Content-Type: application/cloudevents+json")
    )
    assert answer.status == 400
    assert len(answer.body) < 1000
    peer = await room.connect("/?role=both", "Sec-WebSocket-Protocol: cloudevents.json")
    peer.say(json.dumps(event))
    await room.quiet()
    assert len(peer.look().messages[-1]) < 1500
