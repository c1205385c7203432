"""The entrance: who may come in, and what becomes of those who stand in it when it closes."""

from __future__ import annotations

import trio
import trio.testing

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel, Peer, upgrade
from tests.web import Web, get
from trionotify import Client, Request, open_hub
from trionotify.serving import serve_transport

Clock = trio.testing.MockClock


async def test_readiness_says_why(autojump_clock: Clock) -> None:
    """A hub is ready until it drains or is closed."""
    async with open_hub() as hub:
        assert hub.ready
        assert hub.checks() == {"accepting": "ok", "log": "ok"}
        await hub.drain()
        assert not hub.ready
        assert hub.checks() == {"accepting": "draining: nobody is let in any more", "log": "ok"}
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
    """So that nobody who is sent away comes back on a connection that is still open."""
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
    """At the deadline nobody is answered any more."""
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

        async def aclose(self, code: int, reason: str) -> None:
            closed.append((code, reason))

    async with open_hub() as hub:
        await hub.drain()
        await hub.attach(WebSocket())
        assert closed == [(1013, "the server is going down")]
        assert not hub.connections
