"""Staying connected: when a client comes back, how soon, and when it doesn't."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import trio
import trio.testing

from tests.network import FakeServer, open_both, open_network, query, quiet, take
from trionotify import (
    Client,
    CloseCode,
    Closed,
    Lagged,
    Refused,
    Remote,
    Request,
    connect,
    open_hub,
    open_server,
)

Clock = trio.testing.MockClock


async def test_a_refusal_is_raised(autojump_clock: Clock) -> None:
    """Bare, with the status and the problem document's detail."""

    def authenticate(request: Request) -> Client:
        raise Refused(401, "token: unknown")

    async with open_both(authenticate=authenticate) as (_, network):
        for role in ("both", "publisher"):
            with pytest.raises(Refused) as caught:
                async with network.connect(role=role, keep_trying=True):
                    raise AssertionError("it was entered")
            assert (caught.value.status, caught.value.detail) == (401, "token: unknown")
    assert len(network.dialled_at) == 2


async def test_nobody_listens(autojump_clock: Clock) -> None:
    """OSError at once; or with `keep_trying`, it waits for a server to come."""
    async with open_network() as network:
        with pytest.raises(ConnectionRefusedError, match="nobody listens"):
            async with network.connect():
                raise AssertionError("it was entered")
        assert len(network.dialled_at) == 1
        async with open_hub() as hub, trio.open_nursery() as nursery:

            async def come() -> None:
                await trio.sleep(100)
                network.serve = hub.handle

            nursery.start_soon(come)
            async with network.connect(keep_trying=True) as client:
                assert 100 < trio.current_time() <= 131
                await client.publish("x")


async def test_it_comes_back(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Behind what it has received; with a line in the log each time, and no query in it."""
    caplog.set_level(logging.INFO, "trionotify")
    async with open_both() as (hub, network):
        async with network.connect("http://test/?token=s3cret", id="al") as client:
            for n in range(5):
                await hub.publish(f"{n}a", confirm=True)
                network.cut()
                await hub.publish(f"{n}b", confirm=True)
                assert await take(client, 2) == [f"{n}a", f"{n}b"]
    said = [r.getMessage() for r in caplog.records if "http://test" in r.getMessage()]
    assert said[0] == "connected to http://test/events as subscriber"
    assert said[1].startswith(
        "http://test/events as subscriber: the connection was lost; trying again in 0."
    )
    assert len(said) == 11
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("seed", range(5))
async def test_exactly_once_whatever_is_cut(seed: int, autojump_clock: Clock) -> None:
    """Hundreds in and out, while connections are cut at random: each once, all in order."""
    chance = random.Random(seed)
    count = 300
    got: dict[str, list[str]] = {"al": [], "bo": []}

    async with open_both() as (hub, network):

        async def publish(client: Remote, name: str) -> None:
            for n in range(count):
                await client.publish(f"{name}{n}")
                await trio.sleep(chance.random() / 10)

        async def read(client: Remote, name: str) -> None:
            while len(got[name]) < 2 * count:
                got[name].append(str((await anext(client)).data))
                if chance.random() < 0.05:
                    await trio.sleep(chance.random())

        async def cut() -> None:
            while True:
                await trio.sleep(chance.random())
                chance.choice(network.made).cut()
                chance.choice(network.made).deaf = True
                chance.choice(network.made[-3:]).cut()

        async with (
            network.connect(id="al", max_buffered=5, ping_interval=1, ping_timeout=1) as al,
            network.connect(id="bo", max_buffered=500, ping_interval=1, ping_timeout=1) as bo,
            trio.open_nursery() as cutting,
        ):
            cutting.start_soon(cut)
            async with trio.open_nursery() as nursery:
                for name, client in (("al", al), ("bo", bo)):
                    nursery.start_soon(publish, client, name)
                    nursery.start_soon(read, client, name)
            cutting.cancel_scope.cancel()
        log = [str(entry.notification.data) for entry in hub.log.read(0, 10_000)]
        assert len(network.made) > 20
    assert got["al"] == got["bo"] == log
    for name in got:
        assert [text for text in log if text.startswith(name)] == [f"{name}{n}" for n in range(count)]


async def test_drain_says_when_to_come_back(autojump_clock: Clock) -> None:
    """Not before that, and not long after."""

    async def leave(server: FakeServer) -> None:
        await server.welcome()
        await server.say("drain", {"retry_after_ms": 7000}, "e:0")
        await server.websocket.aclose(1001)

    async def stay(server: FakeServer) -> None:
        await server.welcome(recovered=True)
        await server.say("a.b", "x", "e:1", datacontenttype="text/plain")
        await server.listen()

    async with open_network() as network:
        network.fake(leave, stay)
        async with network.connect() as client:
            assert await take(client, 1) == ["x"]
    first, second = network.dialled_at
    assert 7 <= second - first <= 7.5


async def test_a_server_that_goes_down_in_good_order(autojump_clock: Clock) -> None:
    """Its `drain` is heard: nobody comes back within half a second."""

    async def serve(stop: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        async with open_hub() as hub:
            network.serve = hub.handle
            task_status.started()
            await stop.wait()

    async with open_network() as network, open_hub() as second, trio.open_nursery() as nursery:
        stop = trio.Event()
        await nursery.start(serve, stop)
        async with network.connect() as client:
            network.serve = second.handle
            stop.set()
            with pytest.raises(Lagged):
                await anext(client)
            assert 0.5 <= network.dialled_at[-1] <= 6


@pytest.mark.parametrize(("status", "soonest"), [(503, 20), (429, 20), (408, 20), (500, 20), (502, 20)])
async def test_refusals_that_pass(status: int, soonest: float, autojump_clock: Clock) -> None:
    """It comes back, not before what `Retry-After` says."""
    refuse = False

    def authenticate(request: Request) -> Client:
        if refuse:
            raise Refused(status, "token: s3cret", headers=[("Retry-After", "20")])
        return request.client()

    async with open_both(authenticate=authenticate) as (hub, network):
        async with network.connect() as client:
            refuse = True
            network.cut()
            await network.dials(3)
            await quiet()
            refuse = False
            await hub.publish("x")
            assert await take(client, 1) == ["x"]
    _, second, third, fourth = network.dialled_at
    assert soonest <= third - second <= soonest + 1
    assert soonest <= fourth - third <= soonest + 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 301])
async def test_refusals_that_dont_pass(status: int, autojump_clock: Clock) -> None:
    """Iterating raises them, behind what was received, each time."""
    refuse = False

    def authenticate(request: Request) -> Client:
        if refuse:
            raise Refused(status, "token: no")
        return request.client()

    async with open_both(authenticate=authenticate) as (hub, network):
        async with network.connect() as client:
            await hub.publish("x", confirm=True)
            await quiet()
            refuse = True
            network.cut()
            assert await take(client, 1) == ["x"]
            for _ in range(2):
                with pytest.raises(Refused) as caught:
                    await anext(client)
                assert caught.value.status == status
            with pytest.raises(Refused):
                await client.subscribe([])
            assert len(network.dialled_at) == 2


@pytest.mark.parametrize("code", [*map(int, CloseCode), 3000, 4000, 4999])
async def test_close_codes(code: int, autojump_clock: Clock) -> None:
    """Whether to come back is as `CloseCode` says; it doesn't with an application's own."""

    async def leave(server: FakeServer) -> None:
        await server.welcome()
        await server.say("a.b", "1", "e:1", datacontenttype="text/plain")
        await server.websocket.aclose(code, "that is why")

    async def stay(server: FakeServer) -> None:
        assert query(server)["since"] == "e:1"
        await server.welcome("e:1", recovered=True)
        await server.say("a.b", "2", "e:2", datacontenttype="text/plain")
        await server.listen()

    again = code in set(CloseCode) and CloseCode(code).reconnect
    async with open_network() as network:
        network.fake(leave, stay)
        async with network.connect() as client:
            assert await take(client, 1) == ["1"]
            if again:
                assert await take(client, 1) == ["2"]
                return
            for _ in range(2):
                with pytest.raises(Closed) as caught:
                    await anext(client)
                assert (caught.value.code, caught.value.reason) == (code, "that is why")
        assert len(network.dialled_at) == 1


async def test_a_close_without_a_code(autojump_clock: Clock) -> None:
    """It says nothing, so it comes back."""
    async with open_both() as (hub, network), network.connect() as client:
        for connection in hub.connections.values():
            connection.wire.end(None)  # type: ignore[attr-defined] # a WebSocketConnection
        await hub.publish("x")
        assert await take(client, 1) == ["x"]
        assert len(network.dialled_at) == 2


async def test_the_delays_grow_and_begin_again(autojump_clock: Clock) -> None:
    """While nobody listens, up to 30 seconds; after a connection that was of use, anew."""
    async with open_both() as (hub, network):
        async with network.connect() as client:
            for _ in range(2):
                begun, before = trio.current_time(), len(network.dialled_at)
                network.serve = None
                network.cut()
                await trio.sleep(600)
                tried = [at - begun for at in network.dialled_at[before:]]
                delays = [b - a for a, b in zip([0.0, *tried], tried, strict=False)]
                bounds = [0.5, 1, 2, 4, 8, 16] + [30] * len(delays)
                assert len(delays) >= 20
                assert all(delay <= bound for delay, bound in zip(delays, bounds, strict=False))
                assert max(delays) > 16
                network.serve = hub.handle
                await hub.publish("x")
                assert await take(client, 1) == ["x"]


async def test_a_server_that_drops_everyone_at_once(autojump_clock: Clock) -> None:
    """One that says welcome and no more is no success: the delays go on growing."""

    async def script(server: FakeServer) -> None:
        await server.welcome()
        await server.say("drain", {"retry_after_ms": 0})
        await server.websocket.aclose(1012)

    async with open_network() as network:
        network.fake(script)
        async with network.connect():
            await trio.sleep(600)
    assert 20 <= len(network.dialled_at) <= 100


async def test_a_connection_that_has_lasted(autojump_clock: Clock) -> None:
    """It was a good one, though nothing came of it: the delays begin again."""

    async def script(server: FakeServer) -> None:
        await server.welcome()
        await trio.sleep(10)
        await server.websocket.aclose(1012)

    async with open_network() as network:
        network.fake(script)
        async with network.connect():
            await trio.sleep(600)
    assert len(network.dialled_at) >= 55


async def test_a_restart_on_the_same_port() -> None:
    """The server is killed, and another one has another log; the client is told, and goes on."""

    async def serve(port: int, task_status: trio.TaskStatus[tuple[Any, trio.Event]]) -> None:
        stop = trio.Event()
        async with open_server(port=port) as server:
            task_status.started((server, stop))
            await stop.wait()
            server.hub.abort()

    async with trio.open_nursery() as nursery:
        first, stop = await nursery.start(serve, 0)
        async with connect(first.url) as client:
            await client.publish("1")
            assert await take(client, 1) == ["1"]
            stop.set()
            second, stop = await nursery.start(serve, first.port)
            with pytest.raises(Lagged):
                await anext(client)
            await second.hub.publish("2")
            await client.publish("3")
            assert await take(client, 2) == ["2", "3"]
        stop.set()
