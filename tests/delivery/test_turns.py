"""A turn for each: whatever one peer sends, others run between two pieces of work on it.

Time is none in these tests, so a turn is over as soon as it has begun, and every place that must give
way does. What is asserted is that a neighbour was served before all of it was done.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel, Peer, masked, upgrade
from tests.web import Web, get, post
from trionotify import Exact, Notification
from trionotify.connection.frames import message_frame
from trionotify.delivery import turns as turns_module
from trionotify.delivery.hub import _AT_THE_DOOR
from trionotify.delivery.turns import Turn
from trionotify.http.serving import serve_transport
from trionotify.model.query import Filters

Clock = trio.testing.MockClock

BATCH = "Content-Type: application/cloudevents-batch+json"
OFFER = "Sec-WebSocket-Protocol: cloudevents.json"


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "SECONDS", 0.0)


class Neighbour:
    """Counts how often it ran."""

    turns = 0

    async def run(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self.turns += 1


@asynccontextmanager
async def a_neighbour() -> AsyncIterator[Neighbour]:
    async with trio.open_nursery() as nursery:
        neighbour = Neighbour()
        nursery.start_soon(neighbour.run)
        yield neighbour
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    for _ in range(100_000):  # (time stands still while a task runs)
        if condition():
            return
        await trio.lowlevel.checkpoint()
    raise AssertionError("it has not happened")


def event(number: int, **members: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": str(number), "source": "/s", "type": "t", **members}


async def test_a_turn_ends_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is over when its time is, and begins again when it has been passed on."""
    now = 0.0
    monkeypatch.setattr(turns_module, "perf_counter", lambda: now)
    monkeypatch.setattr(turns_module, "SECONDS", 0.001)
    turn = Turn()
    assert not turn.over
    now = 0.002
    assert turn.over
    async with a_neighbour() as neighbour:
        for _ in range(3):
            await turn.pass_on()
        assert neighbour.turns
    assert not turn.over
    assert turn.passed == 3


async def test_pipelined_requests(room: Room, autojump_clock: Clock) -> None:
    """A request is a turn, however many came in one read."""
    greedy = Web(room)
    greedy.kernel.feed(get("/livez") * 500)
    modest = FakeKernel()
    modest.feed(get("/livez"))
    Web(room, modest)
    await until(lambda: modest.taken)
    assert greedy.kernel.taken.count(b"200 OK") < 10


async def test_a_crowd_that_comes_and_goes(room: Room, autojump_clock: Clock) -> None:
    """A few join or leave between two turns of the others, however many do so at the same moment."""
    kernels = [FakeKernel() for _ in range(100)]
    for kernel in kernels:
        room.nursery.start_soon(serve_transport, room.hub, kernel, "test:1")
    await room.quiet()
    sizes = [0]

    async def count() -> None:
        while True:
            sizes.append(len(room.hub.connections))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        for kernel in kernels:
            kernel.feed(upgrade("/"))
        await until(lambda: sizes[-1] == len(kernels))
        for kernel in kernels:
            kernel.hang_up()
        await until(lambda: not sizes[-1])
        nursery.cancel_scope.cancel()
    # (Trio runs the tasks of one round in any order, so those of two rounds may come together.)
    assert max(abs(one - other) for one, other in pairwise(sizes)) <= 2 * _AT_THE_DOOR


async def test_a_body_in_tiny_chunks(room: Room, autojump_clock: Clock) -> None:
    """Between its parts others run, so that its deadline can end it, too."""
    kernel = FakeKernel()
    kernel.feed(
        get("/events?type=x", "Transfer-Encoding: chunked", method="POST") + b"1\r\nx\r\n" * 1000
    )
    Web(room, kernel)
    async with a_neighbour() as neighbour:
        await until(lambda: neighbour.turns > 100)
        assert not kernel.taken
        kernel.feed(b"0\r\n\r\n")
        await until(lambda: kernel.taken)
        assert neighbour.turns > 1000
    assert kernel.taken.startswith(b"HTTP/1.1 200 ")


async def test_a_body_that_never_ends_meets_its_deadline(autojump_clock: Clock) -> None:
    """However fast it comes: a peer that always has the next chunk there is answered 408."""

    class Endless(FakeKernel):
        async def receive_some(self) -> bytes:
            await trio.sleep(0.01)
            return self.head() or b"1\r\nx\r\n" * 100

        def head(self) -> bytes:
            head, self.begun = not self.begun, True
            return get("/events", "Transfer-Encoding: chunked", method="POST") if head else b""

        begun = False

    async with open_room(request_timeout=2) as room:
        kernel = Endless()
        Web(room, kernel)
        await trio.sleep(5)
        assert kernel.taken.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("frame", [b"\x81\x01x", b"\x89\x01p", b"\x8a\x00", b"\x81\x00"])
async def test_tiny_frames(frame: bytes, room: Room, autojump_clock: Clock) -> None:
    """A read that holds ten thousand of them is many turns."""
    peer = await room.connect("/?role=publisher")
    async with a_neighbour() as neighbour:
        peer.kernel.feed(masked(frame) * 10_000)
        await until(lambda: neighbour.turns)
        before = neighbour.turns
        peer.kernel.feed(masked(b"\x88\x02\x03\xe8"))
        await until(lambda: peer.look().close)
        assert neighbour.turns - before > 35  # turns of 256 frames
    await room.hub.inbox.settled()


async def test_tiny_fragments(room: Room, autojump_clock: Clock) -> None:
    """Frames count, not what they make together: ten thousand may be one message."""
    peer = await room.connect("/?role=both")
    async with a_neighbour() as neighbour:
        before = neighbour.turns
        first, last = masked(b"\x01\x01a"), masked(b"\x80\x01z")
        peer.kernel.feed(first + masked(b"\x00\x01b") * 10_000 + last)
        await until(lambda: peer.look().messages)
        assert neighbour.turns - before > 35
    assert peer.messages == ["a" + "b" * 10_000 + "z"]


async def test_events_of_one_read(room: Room, autojump_clock: Clock) -> None:
    """Each may take long to understand, so others run between them; and they stay in order."""
    peer = await room.connect("/?role=both", OFFER)
    frames = [message_frame(json.dumps(event(number))) for number in range(100)]
    async with a_neighbour() as neighbour:
        before = neighbour.turns
        peer.kernel.feed(b"".join(map(masked, frames)))
        await until(lambda: len(peer.look().messages) == 201)
        assert neighbour.turns - before > 100
    got = [json.loads(text) for text in peer.messages]
    assert [one["id"] for one in got if one["type"] == "t"] == [str(number) for number in range(100)]


async def test_a_batch_is_understood_in_turns(room: Room, autojump_clock: Clock) -> None:
    """Event for event."""
    web = Web(room)
    async with a_neighbour() as neighbour:
        before = neighbour.turns
        web.kernel.feed(post("/events", json.dumps([event(number) for number in range(200)]), BATCH))
        await until(lambda: web.kernel.taken)
        assert neighbour.turns - before > 200
    assert web.kernel.taken.startswith(b"HTTP/1.1 200 ")


async def test_the_log_judges_a_batch_in_turns(
    room: Room, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log in a file writes each audience down to see whether it can keep it."""
    judged: list[int] = []
    events = [event(number) for number in range(100)]
    async with a_neighbour() as neighbour:
        monkeypatch.setattr(room.hub.intake, "_refusal", lambda _: judged.append(neighbour.turns))
        web = Web(room)
        web.kernel.feed(post("/events", json.dumps(events), BATCH))
        await until(lambda: web.kernel.taken)
    assert len(judged) == 100
    # As in a lane: between two of them the neighbour has run, before or behind.
    assert max(Counter(judged).values()) <= 2


async def test_filters_and_audiences_in_the_broadcast(room: Room, autojump_clock: Clock) -> None:
    """Between two evaluations others run; all that are met get it, in order, once."""
    peers = [await room.connect(f"/?id=c{number}&team={number % 2}") for number in range(20)]
    asked = []

    def slow(number: int) -> Callable[[Notification], bool]:
        def predicate(notification: Notification) -> bool:
            asked.append(number)
            return True

        return predicate

    for number, client in enumerate(room.hub.clients):
        client.subscribe(slow(number))
    async with a_neighbour() as neighbour:
        before = neighbour.turns
        for text in ("one", "two"):
            await room.hub.publish(text)
        await until(lambda: peers[-1].look().messages == ["one", "two"])
        assert neighbour.turns - before > len(asked) // 2
        before = neighbour.turns
        await room.hub.publish("three", audience=lambda client: client.get("team") == "1", confirm=True)
        assert neighbour.turns - before > 20
    for number, peer in enumerate(peers):
        assert peer.look().messages == ["one", "two", *(["three"] if number % 2 else [])]


async def test_a_batch_that_concerns_nobody(room: Room, autojump_clock: Clock) -> None:
    """To find that out takes time, too."""
    await room.connect("/?exact.type=other")
    async with a_neighbour() as neighbour:
        before = neighbour.turns
        web = Web(room)
        web.kernel.feed(post("/events", json.dumps([event(number) for number in range(200)]), BATCH))
        await until(lambda: web.kernel.taken)
        assert neighbour.turns - before > 400  # to understand them, and to match them


async def test_who_joins_in_the_middle_of_a_match_gets_what_comes_behind(
    room: Room, autojump_clock: Clock
) -> None:
    """Live from there on: neither what is being matched, nor a hole behind it."""
    joined: list[Peer] = []
    (await room.connect("/?id=first"),)
    (first,) = room.hub.clients

    def joins(notification: Notification) -> bool:
        if not joined:
            kernel = FakeKernel()
            kernel.feed(upgrade("/?id=late"))
            joined.append(Peer(kernel))
            Web(room, kernel)
        return True

    first.subscribe(joins)
    others = [await room.connect(f"/?exact.type=x{number}") for number in range(3)]
    for client in [client for client in room.hub.clients if client is not first]:
        client.subscribe(lambda notification: True)
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(room.hub.publish, str(number))
    await room.quiet()
    got = joined[0].look().messages
    assert got == sorted(got, key=[*others[0].look().messages].index)
    assert others[0].messages[-len(got) :] == got if got else True
    await room.hub.publish("behind")
    await room.quiet()
    assert joined[0].look().messages[-1] == "behind"


async def test_a_long_way_back(autojump_clock: Clock) -> None:
    """A client that catches up with a filter looks at one entry a turn, and gets all that it wants."""
    async with open_room() as room:
        for number in range(300):
            await room.hub.publish(str(number), type="t" if number % 100 == 0 else "u", confirm=True)
        async with a_neighbour() as neighbour:
            before = neighbour.turns
            kernel = FakeKernel()
            kernel.feed(upgrade("/?since=start&prefix.type=t"))
            Web(room, kernel)
            peer = Peer(kernel)
            await until(lambda: len(peer.look().messages) == 3)
            assert neighbour.turns - before > 150
        assert peer.messages == ["0", "100", "200"]


async def test_a_subscription_in_the_process(autojump_clock: Clock) -> None:
    """It looks for the next that it wants in turns, and can be cancelled meanwhile."""
    async with open_room() as room:
        for number in range(300):
            await room.hub.publish(str(number), type="u", confirm=True)
        start = f"{room.hub.log.epoch}:0"
        async with (
            room.hub.subscribe(Exact(type="t"), since=start) as notifications,
            a_neighbour() as one,
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(anext, notifications)
                await until(lambda: one.turns > 100)
                nursery.cancel_scope.cancel()
            assert notifications.cursor < f"{room.hub.log.epoch}:3"


async def test_the_roster(room: Room, autojump_clock: Clock) -> None:
    """A client's line is a turn."""
    for _ in range(50):
        await room.connect("/")
    web = Web(room)
    async with a_neighbour() as neighbour:
        before = neighbour.turns
        web.kernel.feed(get("/clients"))
        await until(lambda: web.kernel.taken)
        assert neighbour.turns - before > 50


async def test_long_filters_are_read_one_at_a_time(
    room: Room, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many connections bring some, between two of them all others have their turn."""
    sql = "%20OR%20".join(f"subject%20=%20'{number}'" for number in range(60))
    parsed: list[int] = []
    async with a_neighbour() as neighbour:

        def noting(params: Any, limits: Any) -> Filters:
            parsed.append(neighbour.turns)
            return parse(params, limits)

        parse = Filters.of
        monkeypatch.setattr(Filters, "of", noting)
        kernels = [FakeKernel() for _ in range(10)]
        for kernel in kernels:
            kernel.feed(upgrade(f"/?sql={sql}"))
            Web(room, kernel)
        await until(lambda: all(kernel.taken for kernel in kernels))
    assert len(parsed) == 10
    # Between two of them the neighbour has run, before or behind: so it sees at most two at once.
    assert max(Counter(parsed).values()) <= 2
    assert room.hub.slow_lane.free == 1
