"""The drain: its order, slots and deadline; who is waited for; and that nothing published is lost."""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Room, cancel_at_every_await, open_room
from tests.kernel import FakeKernel, Peer, masked, upgrade
from trionotify import Client, Hub, Notification, open_hub
from trionotify.connection.frames import close_frame, message_frame
from trionotify.delivery import broadcast as broadcast_module
from trionotify.delivery import shutdown as drain_module
from trionotify.delivery import turns as turns_module
from trionotify.delivery.entry import Entry, Sender
from trionotify.delivery.hub import _AT_THE_DOOR
from trionotify.http.serving import serve_transport

Clock = trio.testing.MockClock

CLOSES = (close_frame(1012), close_frame(1001))


class PoliteKernel(FakeKernel):
    """Its peer answers a Close, and it remembers when that came."""

    told_at: float | None = None

    def _take(self, data: bytes | memoryview) -> int:
        count = super()._take(data)
        if self.taken.endswith(CLOSES):
            self.told_at = trio.current_time()
            self.feed(masked(CLOSES[0]))
        return count


async def polite(room: Room, target: str = "/", **options: Any) -> Peer:
    return await room.connect(target, kernel=PoliteKernel(**options))


class FakeListener:
    """One that accepts nothing, and is over when it is refused."""

    def __init__(self, hub: Hub, steps: list[str]) -> None:
        self.hub = hub
        self.steps = steps
        self.refused = trio.Event()

    def stop_accepting(self) -> None:
        self.steps.append(f"refuse, ready: {self.hub.ready}")
        self.refused.set()

    def abort(self) -> None:
        self.steps.append("cut off")

    async def run(self) -> None:
        with self.hub.entrance.listening(self):
            await self.refused.wait()
            await trio.sleep(1)
            self.steps.append("over")


async def test_the_order(room: Room, autojump_clock: Clock) -> None:
    """Not ready; nothing is accepted; what was published goes out; the drain; the Close; the end."""
    steps: list[str] = []
    room.nursery.start_soon(FakeListener(room.hub, steps).run)
    raw, events = await polite(room), await polite(room, "/?format=cloudevents")
    for data in "ab":
        # Still in the channel when the drain begins.
        await room.hub.inbox.put([Entry(Notification(data))])
    await room.hub.drain()
    assert steps == ["refuse, ready: False", "over"]
    assert raw.look().messages == ["a", "b"]
    heard = [json.loads(message) for message in events.look().messages]
    assert [event["type"].removeprefix("trionotify.") for event in heard] == [
        *("welcome", "message", "message", "drain")
    ]
    assert heard[-1]["cursor"] == f"{room.hub.log.epoch}:2"
    assert raw.close == events.close == (1012, "")
    assert not room.hub.connections


async def test_a_few_clients_are_told_at_once(room: Room, autojump_clock: Clock) -> None:
    """And then it is over, without waiting for the deadline."""
    peers = [await polite(room) for _ in range(50)]
    begun = trio.current_time()
    await room.hub.drain()
    assert trio.current_time() == begun
    assert {peer.look().close for peer in peers} == {(1012, "")}


@pytest.mark.parametrize(
    ("deadline", "within"),
    [(None, 0.45), (0.6, 0.3)],
    ids=["at the rate", "in half of the deadline"],
)
async def test_many_clients_are_told_in_slots(
    deadline: float | None, within: float, room: Room, autojump_clock: Clock
) -> None:
    """At the rate at which they can come back, and faster only if there is not the time."""
    kernels = [PoliteKernel() for _ in range(500)]
    for kernel in kernels:
        await room.connect(kernel=kernel)
    begun = trio.current_time()
    await room.hub.drain(deadline)
    told = Counter(kernel.told_at for kernel in kernels)
    assert set(told.values()) == {50}
    assert len(told) == 10
    moments = sorted(moment - begun for moment in told if moment is not None)
    assert moments == pytest.approx([within * slot / 9 for slot in range(10)], rel=0.11)
    assert trio.current_time() <= begun + within


async def test_the_deadline_cuts_off_what_is_left(
    room: Room, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """One that doesn't answer and one that takes nothing delay no other, and the drain only so long."""
    caplog.set_level(logging.INFO, "trionotify")
    well, mute, stalled = await polite(room), await room.connect(), await room.connect()
    stalled.kernel.stall()
    await room.hub.publish("last", confirm=True)
    begun = trio.current_time()
    await room.hub.drain(2)
    assert trio.current_time() == begun + 2
    assert isinstance(well.kernel, PoliteKernel)
    assert well.kernel.told_at == begun
    assert (mute.look().messages, mute.close) == (["last"], (1012, ""))
    assert mute.kernel.was_reset
    assert stalled.kernel.was_reset
    await room.quiet()
    assert not room.hub.connections
    lines = [record.message for record in caplog.records if record.message.startswith("drain")]
    assert lines == [
        "draining within 2.0 seconds; clients: 3",
        "draining; clients left: 2 of 3",
        "drained in 2.0 seconds; closed in good order: 1, cut off: 2",
    ]


async def test_a_long_deadline_need_not_be_waited_for(
    room: Room, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that takes nothing has `close_timeout` to catch up, and as long for its Close."""
    caplog.set_level(logging.INFO, "trionotify")
    mute, stalled = await room.connect(), await room.connect()
    stalled.kernel.stall()
    for data in ("cut in the middle", "still in the log"):
        await room.hub.publish(data, confirm=True)
    begun = trio.current_time()
    await room.hub.drain(60)
    assert trio.current_time() - begun == pytest.approx(10, abs=0.1)
    assert mute.kernel.was_reset
    assert "closed in good order: 0, cut off: 2" in caplog.text


async def test_a_deadline_of_nothing_is_the_end(room: Room, autojump_clock: Clock) -> None:
    """No goodbye; and one that is none is refused before anything happens."""
    for nonsense in (-1, float("nan")):
        with pytest.raises(ValueError, match="deadline: must be 0 or more seconds"):
            await room.hub.drain(nonsense)
    with pytest.raises(ValueError, match="deadline: must be a duration in seconds"):
        await room.hub.drain("soon")
    assert room.hub.ready
    peer = await room.connect()
    await room.hub.drain("0s")
    await room.quiet()
    assert peer.kernel.was_reset
    assert peer.look().close is None


@pytest.mark.parametrize("synchronous", [True, False], ids=["a socket", "a stream"])
async def test_who_is_behind_gets_all_before_its_close(
    synchronous: bool, room: Room, autojump_clock: Clock
) -> None:
    """Those who are not are told first, and don't wait for it."""
    slow, others = await polite(room, synchronous=synchronous), [await polite(room) for _ in range(60)]
    slow.kernel.stall()
    published = [f"{number}" * 100 for number in range(40)]
    for data in published:
        await room.hub.publish(data, confirm=True)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.hub.drain)
        for _ in range(20):
            await trio.sleep(0.1)
            slow.kernel.grant(len("".join(published)) // 20 + 20)
        slow.kernel.credit = None
        slow.kernel.grant(None)
    assert slow.look().messages == published
    assert slow.close == (1012, "")
    assert isinstance(slow.kernel, PoliteKernel)
    assert slow.kernel.told_at is not None
    for other in others:
        assert isinstance(other.kernel, PoliteKernel)
        assert other.kernel.told_at is not None
        assert other.kernel.told_at < begun + 0.1 < slow.kernel.told_at


async def test_what_is_published_meanwhile_reaches_who_is_still_there(
    room: Room, autojump_clock: Clock
) -> None:
    """The hub stays: publishing goes on until its block is left."""
    first = await polite(room)
    for _ in range(98):
        await polite(room)
    last = await polite(room)
    async with room.hub.subscribe() as notifications, trio.open_nursery() as nursery:
        nursery.start_soon(room.hub.drain)
        await trio.testing.wait_all_tasks_blocked()
        await room.hub.publish("late")
        await trio.sleep(1)
        await room.hub.publish("later", confirm=True)
        assert [(await anext(notifications)).data for _ in range(2)] == ["late", "later"]
    assert first.look().messages == []
    assert last.look().messages == ["late"]


@pytest.fixture
def slots_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "_SLOT", 2)


@pytest.mark.usefixtures("slots_of_two")
async def test_cancelled_anywhere(autojump_clock: Clock) -> None:
    """No client is let in any more. One that was not told stays connected until the usual exit."""
    rooms: list[tuple[Room, list[Peer]]] = []
    done: list[int] = []

    async def operation(steps: int) -> None:
        room, _ = rooms[steps]
        await room.hub.inbox.put([Entry(Notification("before"))])
        await room.hub.drain()
        done.append(steps)

    async with AsyncExitStack() as stack:
        for _ in range(30):
            room = await stack.enter_async_context(open_room())
            rooms.append((room, [await polite(room) for _ in range(5)]))
        cancelled = await cancel_at_every_await(operation)
        assert cancelled >= 5
        assert done == [cancelled]
        told: set[int] = set()
        for room, peers in rooms[:cancelled]:
            assert not room.hub.ready
            assert (await room.connect()).status == 503
            await room.hub.publish("after", confirm=True)
            open_ = [peer for peer in peers if not peer.look().close]
            assert len(room.hub.clients) == len(open_)
            told.add(5 - len(open_))
            for peer in peers:
                due = ["before", "after"] if peer in open_ else ["before"]
                assert peer.messages == due
        # Tasks wake in random order, so where exactly it is cancelled differs.
        assert 0 in told
        assert told & {2, 4}
        room, peers = rooms[cancelled]
        assert {peer.look().close for peer in peers} == {(1012, "")}
    for _, peers in rooms[:cancelled]:
        assert {peer.look().close for peer in peers} <= {(1012, ""), (1001, "")}


@pytest.mark.usefixtures("slots_of_two")
async def test_two_wait_for_the_same_end(
    room: Room, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The second one says nothing of its own; both return when all are gone."""
    caplog.set_level(logging.INFO, "trionotify")
    peers = [await polite(room) for _ in range(7)]
    ended: list[float] = []

    async def drain() -> None:
        await room.hub.drain()
        ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        nursery.start_soon(drain)
    assert ended[0] == ended[1]
    assert {peer.look().close for peer in peers} == {(1012, "")}
    events = [getattr(record, "event", "") for record in caplog.records]
    assert (events.count("draining"), events.count("drained")) == (1, 1)
    await room.hub.drain()
    assert trio.current_time() == ended[0]


@pytest.mark.usefixtures("slots_of_two")
async def test_the_second_takes_over(room: Room, autojump_clock: Clock) -> None:
    """When the first is cancelled."""
    peers = [await polite(room) for _ in range(7)]
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        @nursery.start_soon
        async def one() -> None:
            with first:
                await room.hub.drain()

        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(room.hub.drain)
        await trio.testing.wait_all_tasks_blocked()
        assert sum(bool(peer.look().close) for peer in peers) == 2
        first.cancel()
    assert first.cancelled_caught
    assert {peer.look().close for peer in peers} == {(1012, "")}


async def test_the_earliest_deadline_holds(room: Room, autojump_clock: Clock) -> None:
    """For all who wait."""
    mute = await room.connect()
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.hub.drain, 4)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(room.hub.drain, 1)
    assert trio.current_time() == begun + 1
    assert mute.kernel.was_reset


async def test_sessions_handle_what_was_received(autojump_clock: Clock) -> None:
    """Their iteration ends; what they were at is done to its end."""
    handled: list[Any] = []

    async def handler(client: Client, message: str | bytes) -> None:
        await trio.sleep(1)
        assert client.hub is not None
        await client.hub.publish(f"handled {message!r}")
        handled.append(message)

    async with open_room(handler=handler) as room:
        peer = await polite(room)
        peer.say("1", "2", "3")
        await room.quiet()
        begun = trio.current_time()
        await room.hub.drain()
        assert handled == ["1", "2", "3"]
        assert trio.current_time() == begun + 3
        assert room.hub.log.head == 3
        assert peer.look().close == (1012, "")


async def test_sessions_in_tasks_of_others_are_cancelled_at_the_deadline(
    autojump_clock: Clock,
) -> None:
    """`hub.handle` returns then."""
    cancelled: list[str] = []

    async def session(client: Client) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(client.id)

    async with open_hub(session=session) as hub, trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(hub.handle, ours)
        await theirs.send_all(upgrade("/?id=al"))
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        await hub.drain(7)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == begun + 7
        assert cancelled == ["al"]
        assert not nursery.child_tasks


async def test_a_log_that_is_stuck_holds_up_only_half_of_the_time(autojump_clock: Clock) -> None:
    """The drain doesn't wait forever for notifications that can't be broadcast."""
    async with open_room() as room:
        peer = await polite(room)
        room.hub.inbox._accepted += 1  # the log has taken it, and doesn't come back
        begun = trio.current_time()
        await room.hub.drain(4)
        assert trio.current_time() == begun + 2
        assert peer.look().close == (1012, "")


async def test_a_log_in_a_file_is_waited_for(tmp_path: Path) -> None:
    """For the entries that its committer has taken, and for the others."""
    async with open_room(store=f"sqlite:{tmp_path / 'log.db'}") as room:
        peer = await polite(room)
        for number in range(100):
            await room.hub.inbox.put([Entry(Notification(f"{number}"))])
            if number % 7 == 0:
                await trio.lowlevel.checkpoint()
        await room.hub.drain(600)
        assert peer.look().messages == [f"{number}" for number in range(100)]
        assert peer.close == (1012, "")


async def test_leaving_is_a_quick_drain(autojump_clock: Clock) -> None:
    """The same with 1001: what was published reaches all, and `close_timeout` is the deadline."""
    async with trio.open_nursery() as nursery:
        async with open_hub() as hub:
            kernels = [FakeKernel(), FakeKernel(synchronous=False), FakeKernel()]
            for kernel in kernels:
                kernel.feed(upgrade("/"))
                nursery.start_soon(serve_transport, hub, kernel, "test")
            await trio.testing.wait_all_tasks_blocked()
            kernels[2].stall()
            for data in "abc":
                await hub.inbox.put([Entry(Notification(data))])
            begun = trio.current_time()
        assert trio.current_time() == begun + 5
        for kernel in kernels[:2]:
            peer = Peer(kernel).look()
            assert peer.messages == ["a", "b", "c"]
            assert peer.close == (1001, "")


# --- nothing that was published is lost ---

number = st.integers(0, 9)
client = st.tuples(
    st.sampled_from(["live", "stream", "trickle", "stalled"]),
    st.sampled_from([None, "a", "b"]),
    st.booleans(),
)
step = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from("ab"), st.integers(0, 300)),
    st.tuples(st.just("publish"), st.sampled_from("ab"), st.integers(0, 300)),
    st.tuples(st.just("say"), number),
    st.tuples(st.just("wait"), st.integers(1, 5)),
    st.tuples(st.just("sleep"), st.sampled_from([0.001, 0.05, 0.2])),
    st.tuples(st.just("leave"), number),
)


@pytest.mark.usefixtures("slots_of_two")
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    clients=st.lists(client, min_size=1, max_size=9),
    before=st.lists(step, max_size=25),
    after=st.lists(step, max_size=25),
    seconds=st.sampled_from([0.5, 5, 60]),
)
def test_all_that_was_accepted_arrives(
    clients: list[Any], before: list[Any], after: list[Any], seconds: float
) -> None:
    """A client that reads it gets everything accepted before the drain, in order, and no later gap."""
    with pytest.MonkeyPatch.context() as patch:
        # Everything happens in the middle of everything.
        patch.setattr(broadcast_module, "TURN", 1)
        patch.setattr(turns_module, "SECONDS", 0.0)
        trio.run(
            partial(run_program, clients, before, after, seconds),
            clock=trio.testing.MockClock(autojump_threshold=0),
        )


async def run_program(clients: list[Any], before: list[Any], after: list[Any], seconds: float) -> None:
    async with open_room() as room, trio.open_nursery() as nursery:
        program = Program(room)
        for kind, type, publishes in clients:
            await program.join(kind, type, publishes)
            if kind == "trickle":
                nursery.start_soon(trickle, program.peers[-1].kernel)
        for one in before:
            await program.do(*one)
        due = list(program.accepted)

        @nursery.start_soon
        async def go_on() -> None:
            for one in after:
                await program.do(*one)

        begun = trio.current_time()
        await room.hub.drain(seconds)
        assert trio.current_time() <= begun + seconds
        for at, (kind, type, _) in enumerate(clients):
            peer = program.peers[at].look()
            wanted = wanted_of(type, program.accepted)
            assert peer.messages == wanted[: len(peer.messages)]
            if kind in ("live", "stream") and at not in program.left:
                assert len(peer.messages) >= len(wanted_of(type, due))
                assert peer.close == (1012, "")
        nursery.cancel_scope.cancel()


def wanted_of(type: str | None, entries: list[Entry]) -> list[Any]:
    notifications = [entry.notification for entry in entries]
    return [found.data for found in notifications if type in (None, found.type)]


async def trickle(kernel: FakeKernel) -> None:
    while not kernel.closed:
        await trio.sleep(0.01)
        kernel.grant(5)


class Program:
    """Does what the steps say, and notes down what was accepted, in order."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.peers: list[Peer] = []
        self.publishers: set[int] = set()
        self.left: set[int] = set()
        self.accepted: list[Entry] = []
        self._said = 0
        put = room.hub.inbox.put

        async def spy(entries: list[Entry], sender: Sender | None = None) -> None:
            await put(entries, sender)
            self.accepted += entries

        room.hub.inbox.put = spy  # type: ignore[method-assign] # to see what is accepted, and when

    async def join(self, kind: str, type: str | None, publishes: bool) -> None:
        role = "both" if publishes else "subscriber"
        target = f"/?role={role}&type=a" + (f"&exact.type={type}" if type else "")
        peer = await polite(self.room, target, synchronous=kind != "stream")
        if kind in ("stalled", "trickle"):
            peer.kernel.stall(drain=3 if kind == "trickle" else 0)
        if publishes:
            self.publishers.add(len(self.peers))
        self.peers.append(peer)

    async def do(self, what: str, *arguments: Any) -> None:
        self._said += 1
        match what, *arguments:
            case "publish", type, size:
                await self.room.hub.publish(f"{self._said}" + "x" * size, type=type)
            case "wait", awaits:
                for _ in range(awaits):
                    await trio.lowlevel.checkpoint()
            case "sleep", seconds:
                await trio.sleep(seconds)
            case what, number:
                at = number % len(self.peers)
                if self.peers[at].kernel.closed:
                    return
                if what == "leave":
                    self.left.add(at)
                    self.peers[at].say_close()
                elif at in self.publishers:
                    self.peers[at].say(f"{self._said}")


async def test_a_slow_client_gets_what_has_begun(autojump_clock: Clock) -> None:
    """A frame that is half out goes on, and the Close behind it, as long as the client takes some."""
    async with open_room(close_timeout=2) as room:
        peer = await room.connect("/")
        peer.kernel.stall()
        await room.hub.publish("x" * 100_000, confirm=True)
        room.nursery.start_soon(room.hub.drain, 60)
        for _ in range(25):
            await trio.sleep(1)
            peer.kernel.grant(4_001)
        await room.quiet()
        assert peer.look().messages == ["x" * 100_000]
        assert peer.close == (1012, "")
        assert not peer.kernel.was_reset


async def test_a_client_that_takes_nothing_is_not_waited_for(autojump_clock: Clock) -> None:
    """A frame that has begun goes out within `close_timeout`, or the client is dropped."""
    async with open_room(close_timeout=2) as room:
        peer = await room.connect("/")
        peer.kernel.stall()
        await room.hub.publish("x" * 100_000, confirm=True)
        begun = trio.current_time()
        await room.hub.drain(60)
        assert trio.current_time() - begun == 2
        assert peer.kernel.was_reset


async def test_events_that_were_received_are_handled(autojump_clock: Clock) -> None:
    """However many turns it takes to understand them, and though the server says goodbye meanwhile."""
    handled: list[object] = []

    async def session(client: Client) -> None:
        while batch := await client.receive_batch():
            handled.extend(batch)
            await trio.sleep(0.1)

    event = {"specversion": "1.0", "source": "/s", "type": "t"}
    frames = [message_frame(json.dumps({**event, "id": str(n)})) for n in range(200)]
    async with open_room(session=session) as room:
        peer = await room.connect("/", "Sec-WebSocket-Protocol: cloudevents.json")
        peer.kernel.feed(b"".join(map(masked, frames)))
        await room.quiet()
        room.nursery.start_soon(room.hub.drain, 60)
        await trio.sleep(50)
        peer.kernel.hang_up()
        await room.quiet()
        assert len(handled) == 200


async def test_a_session_that_failed_says_so_though_the_server_stops(autojump_clock: Clock) -> None:
    """While its connection waits for its turn to leave."""

    async def session(client: Client) -> None:
        raise ValueError("a fault")

    async with open_room(session=session) as room:
        for _ in range(_AT_THE_DOOR):
            await room.hub.door.enter("others")
        kernel = FakeKernel()
        kernel.feed(upgrade("/"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_transport, room.hub, kernel, "test:1")
            await room.quiet()
            room.hub.door.leave()  # it comes in
            await room.hub.door.enter("others")
            await room.quiet()
            kernel.hang_up()
            nursery.cancel_scope.cancel()
        assert Peer(kernel).look().close == (1011, "")
        for _ in range(_AT_THE_DOOR):
            room.hub.door.leave()
