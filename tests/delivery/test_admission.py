"""The entrance: who may come in, and what becomes of those who stand in it when it closes."""

from __future__ import annotations

import trio
import trio.testing

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel, Peer, upgrade
from tests.web import Web, get
from trionotify import Client, Request, open_hub
from trionotify.delivery.admission import Place, Stage, _Places
from trionotify.http.serving import serve_transport

Clock = trio.testing.MockClock


async def test_readiness_says_why(autojump_clock: Clock) -> None:
    """A hub is ready until it drains or is closed."""
    async with open_hub() as hub:
        assert hub.ready
        assert hub.checks() == {"accepting": "ok", "log": "ok"}
        await hub.drain()
        assert not hub.ready
        assert hub.checks() == {"accepting": "draining: not accepting new connections", "log": "ok"}
    assert not hub.ready
    assert hub.checks() == {"accepting": "the hub is closed", "log": "ok"}


def half_open(room: Room) -> Peer:
    """A connection that says nothing yet."""
    kernel = FakeKernel()
    room.nursery.start_soon(serve_transport, room.hub, kernel, "test:1")
    return Peer(kernel)


async def test_a_request_on_its_way_is_answered(room: Room, autojump_clock: Clock) -> None:
    """503 and when to come again, as soon as it is there; and who closes then holds up nothing."""
    peer = half_open(room)
    await room.quiet()
    begun = trio.current_time()
    room.nursery.start_soon(room.hub.drain)
    await trio.sleep(0.5)
    peer.kernel.feed(upgrade("/"))
    await room.quiet()
    assert peer.look().status == 503
    assert peer.header("Retry-After")
    peer.kernel.hang_up()
    await room.hub.drain()
    assert trio.current_time() == begun + 0.5


async def test_between_two_requests_it_is_over_at_once(room: Room, autojump_clock: Clock) -> None:
    """So that no refused client comes back on a connection that is still open."""
    web = Web(room)
    assert (await web.ask(get("/livez"))).status == 200
    begun = trio.current_time()
    await room.hub.drain()
    assert trio.current_time() == begun
    await room.quiet()
    assert web.kernel.closed
    assert not web.kernel.was_reset


async def test_who_says_nothing_is_not_waited_for(room: Room, autojump_clock: Clock) -> None:
    """It is answered after a second, has one more to close, and is dropped then."""
    peer = half_open(room)
    await room.quiet()
    begun = trio.current_time()
    await room.hub.drain()
    assert trio.current_time() == begun + 2
    assert peer.look().status == 503
    assert peer.kernel.closed


async def test_who_has_connected_but_was_not_looked_at_is_answered(
    room: Room, autojump_clock: Clock
) -> None:
    """Its task begins behind the drain."""
    peer = half_open(room)
    peer.kernel.feed(upgrade("/"))
    peer.kernel.hang_up()
    await room.hub.drain()
    await room.quiet()
    assert peer.look().status == 503


async def test_authenticate_may_take_too_long_for_a_drain(autojump_clock: Clock) -> None:
    """It is cancelled, and its client answered."""

    async def authenticate(request: Request) -> Client:
        await trio.sleep_forever()
        raise AssertionError

    async with open_room(authenticate=authenticate) as room:
        peer = await room.connect("/")
        peer.kernel.hang_up()
        begun = trio.current_time()
        await room.hub.drain()
        assert trio.current_time() == begun + 1
        assert peer.look().status == 503


async def test_cutting_off_drops_them(room: Room, autojump_clock: Clock) -> None:
    """After the deadline, requests aren't answered any more."""
    peer = half_open(room)
    await room.quiet()
    await room.hub.drain(0.5)
    await room.quiet()
    assert peer.kernel.was_reset
    assert not peer.kernel.taken


async def test_a_websocket_of_the_applications_is_refused(autojump_clock: Clock) -> None:
    """`hub.attach` closes it: come again."""
    closed = []

    class WebSocket:
        path = "/"
        handshake_headers = ()
        remote = "test"
        subprotocol = None

        async def get_message(self) -> str:
            raise AssertionError("it isn't read")

        async def aclose(self, code: int, reason: str) -> None:
            closed.append((code, reason))

    async with open_hub() as hub:
        await hub.drain()
        await hub.attach(WebSocket())
        assert closed == [(1013, "the server is shutting down")]
        assert not hub.connections


def places(*what: tuple[str, Stage]) -> tuple[_Places, list[Place]]:
    found, all_ = _Places(), []
    for address, stage in what:
        all_.append(Place(trio.CancelScope(), address, stage))
        found.add(all_[-1])
    return found, all_


async def test_who_makes_room(autojump_clock: Clock) -> None:
    """One of the address that has most: first without a request, then idle, and last a served one."""
    head, idle, served = Stage.HEAD, Stage.IDLE, Stage.SERVED
    found, all_ = places(
        ("a", head), ("b", served), ("b", idle), ("b", idle), ("b", head), ("c", served)
    )
    order = []
    while place := found.worst(*Stage):
        order.append(all_.index(place))
        found.remove(place)
        found.remove(place)
    assert order == [4, 2, 3, 0, 1, 5]
    assert found.worst(head) is None
    assert len(found) == 0


async def test_a_crowd_that_is_served_pushes_out_its_own(autojump_clock: Clock) -> None:
    """An address that has taken all places by requests without an end has no more right than others."""
    request = get("/events", "Content-Length: 100000", method="POST")
    async with open_room(max_half_open=20) as room:

        async def come(remote: str, data: bytes) -> FakeKernel:
            kernel = FakeKernel()
            kernel.feed(data)
            room.nursery.start_soon(serve_transport, room.hub, kernel, remote)
            await room.quiet()
            return kernel

        for _ in range(20):
            await come("198.51.100.1:1", request)
        modest = []
        for number in range(10):
            modest.append(await come(f"192.0.2.{number}:1", b"G"))  # the rest is on its way
            await come("198.51.100.1:1", request)
        assert not any(kernel.closed for kernel in modest)


async def test_who_waits_for_authenticate_is_spared(autojump_clock: Clock) -> None:
    """A whole request has come, so a crowd that says nothing pushes out its own, of the same address."""
    admitted = trio.Event()

    async def authenticate(request: Request) -> Client:
        await admitted.wait()
        return request.client()

    async with open_room(authenticate=authenticate, max_half_open=5) as room:
        kernel = FakeKernel()
        kernel.feed(upgrade("/"))
        room.nursery.start_soon(serve_transport, room.hub, kernel, "test:1")
        await room.quiet()
        crowd = [half_open(room) for _ in range(10)]
        await room.quiet()
        assert sum(peer.kernel.closed for peer in crowd) == 6
        admitted.set()
        await room.quiet()
        assert Peer(kernel).look().status == 101


async def test_a_crowd_pushes_out_its_own(autojump_clock: Clock) -> None:
    """Ten thousand connections of one address don't end a request that another one has begun."""
    async with open_room(max_half_open=10) as room:
        modest = [Web(room, remote=f"192.0.2.{number}:1") for number in range(3)]
        for web in modest:
            web.kernel.feed(get("/events?type=x", "Content-Length: 2", method="POST") + b"x")
        late = Web(room, remote="192.0.2.9:1")
        late.kernel.feed(b"GET /livez HT")
        await room.quiet()
        crowd = []
        for _ in range(100):
            crowd.append(FakeKernel())
            Web(room, crowd[-1], remote="198.51.100.1:1")
            await room.quiet()
        assert room.hub.entrance.half_open == 10
        assert sum(kernel.closed for kernel in crowd) == 94
        assert [kernel.closed for kernel in crowd[-6:]] == [False] * 6
        for web in modest:
            assert (await web.ask(b"y")).status == 200
        assert (await late.ask(b"TP/1.1\r\nHost: a\r\n\r\n")).status == 200


async def test_who_goes_when_descriptors_run_out(autojump_clock: Clock) -> None:
    """One that has had a second for its request; an idle one only if all others have sent theirs."""
    async with open_room() as room:
        entrance = room.hub.entrance
        idle, served, new = (Web(room) for _ in range(3))
        await idle.ask(get("/livez"))
        served.kernel.feed(get("/events?type=x", "Content-Length: 2", method="POST") + b"x")
        await room.quiet()
        assert not entrance.drop_unserved()
        await trio.sleep(0.5)
        assert not entrance.drop_unserved()
        await trio.sleep(0.6)
        assert entrance.drop_unserved()
        await room.quiet()
        assert [web.kernel.closed for web in (idle, served, new)] == [False, False, True]
        assert entrance.drop_unserved()
        await room.quiet()
        assert [web.kernel.closed for web in (idle, served)] == [True, False]
        assert not entrance.drop_unserved()
        assert (await served.ask(b"y")).status == 200
