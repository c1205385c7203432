"""Staying connected: when a client comes back, how soon, and when it doesn't."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import stop_the_time
from tests.network import FakeServer, open_both, open_network, query, quiet, take
from trionotify import (
    Client,
    CloseCode,
    Closed,
    Exact,
    Lagged,
    Refused,
    Remote,
    Request,
    connect,
    open_hub,
    open_server,
    sign,
)
from trionotify.client.backoff import LONGEST

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
    """Its `drain` is heard: no client comes back within half a second."""

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
            connection.close(None)
        await hub.publish("x")
        assert await take(client, 1) == ["x"]
        assert len(network.dialled_at) == 2


async def test_the_delays_grow_and_begin_again(autojump_clock: Clock) -> None:
    """Without a server, up to 30 seconds. After a useful connection, they start at the beginning."""
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


async def test_a_restart_on_the_same_port(closed_port: int) -> None:
    """The server is killed, and another one has another log; the client is told, and goes on."""

    async def serve(port: int, task_status: trio.TaskStatus[tuple[Any, trio.Event]]) -> None:
        stop = trio.Event()
        async with open_server(port=port) as server:
            task_status.started((server, stop))
            await stop.wait()
            server.hub.abort()

    async with trio.open_nursery() as nursery:
        first, stop = await nursery.start(serve, closed_port)
        async with connect(first.url) as client:
            await client.publish("1")
            assert await take(client, 1) == ["1"]
            stop.set()
            second, stop = await nursery.start(serve, closed_port)
            with pytest.raises(Lagged):
                await anext(client)
            await second.hub.publish("2")
            await client.publish("3")
            assert await take(client, 2) == ["2", "3"]
        stop.set()


@pytest.mark.parametrize(
    ("retry_after", "soonest", "latest"),
    [
        (lambda: formatdate(time.time() + 20, usegmt=True), 20, 21),
        (lambda: "9" * 30, LONGEST, LONGEST + 1),
        (lambda: formatdate(time.time() + 1e8, usegmt=True), LONGEST, LONGEST + 1),
    ],
)
async def test_retry_after_has_two_forms_and_a_bound(
    retry_after: Callable[[], str],
    soonest: float,
    latest: float,
    autojump_clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be a date, too. The longest delay is an hour."""
    refuse = False
    stop_the_time(monkeypatch)

    def authenticate(request: Request) -> Client:
        if refuse:
            raise Refused(503, "away", headers=[("Retry-After", retry_after())])
        return request.client()

    async with open_both(authenticate=authenticate) as (_, network), network.connect():
        refuse = True
        network.cut()
        await network.dials(3)
    _, second, third = network.dialled_at
    assert soonest <= third - second <= latest


@pytest.mark.parametrize("wait", ["1e300", "1" + "0" * 400, "99999999999"])
async def test_a_drain_that_asks_for_too_much(wait: str, autojump_clock: Clock) -> None:
    """It comes back after an hour, at the latest."""

    async def leave(server: FakeServer) -> None:
        await server.welcome()
        await server.websocket.send_message(
            '{"specversion": "1.0", "id": "1", "source": "/trionotify", "type": "trionotify.drain",'
            f' "data": {{"retry_after_ms": {wait}}}}}'
        )
        await server.websocket.aclose(1012)

    async with open_network() as network:
        network.fake(leave)
        async with network.connect():
            await network.dials(2)
    first, second = network.dialled_at
    assert LONGEST <= second - first <= LONGEST + 1


# --- tickets ---


class Tickets:
    """A server that wants the newest ticket, and a function that gets one, for `connect`."""

    def __init__(self) -> None:
        self.asked = 0
        self.good = 1

    def authenticate(self, request: Request) -> Client:
        if request.params.get("ticket") != str(self.good):
            raise Refused(401, "ticket: it is over")
        return request.client()

    def get(self) -> dict[str, str]:
        self.asked += 1
        return {"ticket": str(self.good)}

    async def fetch(self) -> dict[str, str]:
        await trio.sleep(1)
        return self.get()

    def as_query(self) -> str:
        return f"ticket={self.get()['ticket']}"


@pytest.mark.parametrize("way", ["get", "fetch", "as_query"])
async def test_params_are_asked_for_with_each_connection(way: str, autojump_clock: Clock) -> None:
    """By the subscriber and by the publisher; what was missed comes, once."""
    tickets = Tickets()
    async with open_both(authenticate=tickets.authenticate) as (hub, network):
        async with network.connect(id="al", params=getattr(tickets, way)) as client:
            for n in range(1, 4):
                await client.publish(f"{n}a")
                tickets.good += 1
                network.cut()
                await hub.publish(f"{n}b", confirm=True)
                assert await take(client, 2) == [f"{n}a", f"{n}b"]
            assert {made.id for made in hub.clients} == {"al"}
    assert tickets.asked == 7


@pytest.mark.parametrize("good_again", [True, False])
async def test_a_ticket_that_is_over(good_again: bool, autojump_clock: Clock) -> None:
    """The function is asked once more, and the stream goes on; a second refusal in a row is the end."""
    asked: list[str] = []
    over = False

    def authenticate(request: Request) -> Client:
        if over and request.params["ticket"] != "new":
            raise Refused(401, "ticket: it is over")
        return request.client()

    def params() -> dict[str, str]:
        # What was kept is given first, as a program may do that fetches a ticket for an hour.
        asked.append("new" if good_again and len(asked) > 1 else "kept")
        return {"ticket": asked[-1]}

    async with open_both(authenticate=authenticate) as (hub, network):
        async with network.connect(params=params) as client:
            await hub.publish("1", confirm=True)
            await quiet()
            over = True
            network.cut()
            await hub.publish("2", confirm=True)
            assert await take(client, 1) == ["1"]
            if good_again:
                assert await take(client, 1) == ["2"]
            else:
                for _ in range(2):
                    with pytest.raises(Refused, match="401: ticket: it is over"):
                        await anext(client)
            assert asked == ["kept", "kept", "new" if good_again else "kept"]


async def test_many_tickets_that_are_over(autojump_clock: Clock) -> None:
    """Each of them in its time, by 4401: the stream goes on every time, and nothing is missed."""
    asked = 0

    def params() -> dict[str, str]:
        nonlocal asked
        asked += 1
        return {"ticket": str(asked)}

    async with open_both() as (hub, network), network.connect(params=params) as client:
        for n in range(5):
            await hub.publish(f"{n}a", confirm=True)
            for made in hub.clients:
                made.close(CloseCode.UNAUTHORIZED, "the ticket is over")
            await hub.publish(f"{n}b", confirm=True)
            assert await take(client, 2) == [f"{n}a", f"{n}b"]
    assert asked == 6


async def test_a_first_ticket_that_is_refused(autojump_clock: Clock) -> None:
    """Another one is asked for, once; then the refusal is raised."""
    tickets = Tickets()
    tickets.good = 2
    async with open_both(authenticate=tickets.authenticate) as (_, network):
        given = iter("123")

        async with network.connect(params=lambda: {"ticket": next(given)}):
            assert next(given) == "3"
        with pytest.raises(Refused, match="401"):
            async with network.connect(params=lambda: {"ticket": "old"}):
                raise AssertionError("it was entered")
    assert len(network.dialled_at) == 4


async def test_params_fail(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Raised on entering. Later it is logged, and tried again; an error of ours ends the client."""
    errors: list[Exception | None] = [OSError("no ticket office")]

    def params() -> dict[str, str]:
        if errors and (error := errors.pop(0)) is not None:
            raise error
        return {}

    async with open_both() as (hub, network):
        with pytest.raises(OSError, match="no ticket office"):
            async with network.connect(params=params):
                raise AssertionError("it was entered")
        assert not network.dialled_at
        errors += [OSError("no"), None, KeyError("token"), OSError("no"), None, Refused(403, "go away")]
        async with network.connect(params=params, keep_trying=True) as client:
            network.cut()
            await hub.publish("1")
            assert await take(client, 1) == ["1"]
            assert "params: the function raised KeyError('token')" in caplog.text
            network.cut()
            with pytest.raises(Refused, match="go away"):
                await anext(client)


async def test_a_function_for_streams_that_fails(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """As one for params: at first entering raises it, later the client tries again."""
    async with open_both() as (hub, network):
        errors: list[Exception | None] = [KeyError("tunnel")]

        async def dial() -> trio.abc.Stream:
            if error := errors.pop(0):
                raise error
            return await network.dial()

        with pytest.raises(KeyError, match="tunnel"):
            async with connect("http://test", open_stream=dial):
                raise AssertionError("it was entered")
        errors += [None, ValueError("tunnel"), OSError("no"), None, Refused(403, "go away")]
        async with connect("http://test", open_stream=dial) as client:
            network.cut()
            await hub.publish("1")
            assert await take(client, 1) == ["1"]
            assert "open_stream: the function raised ValueError('tunnel')" in caplog.text
            network.cut()
            with pytest.raises(Refused, match="go away"):
                await anext(client)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: None, "open_stream: must be an async function; write async def open_stream()"),
        (
            trio.lowlevel.checkpoint,
            "open_stream: the function must return a trio.abc.Stream, not NoneType",
        ),
    ],
)
async def test_a_function_for_streams_that_gives_none(
    made: Any, words: str, autojump_clock: Clock
) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(words)}$"):
        async with connect("http://test", open_stream=made):
            raise AssertionError("it was entered")


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (None, TypeError, "params: the function must return a mapping or a query, not NoneType"),
        ({"level": 3}, TypeError, "params: level must be str, not int"),
        ("a=1&a=2", ValueError, "params: a: given twice; give it once"),
        ({"lag": "behind"}, ValueError, "lag: must be one of gap, latest, disconnect"),
        ({"sig": "x"}, ValueError, "id: a signed query must have one, so that the client can reconnect"),
    ],
)
async def test_params_that_are_none(
    given: Any, error: type[Exception], words: str, autojump_clock: Clock
) -> None:
    """It says what is wrong, on entering and later."""
    good = True
    async with open_both() as (_, network):
        with pytest.raises(error, match=words):
            async with network.connect(params=lambda: given):
                raise AssertionError("it was entered")
        async with network.connect(params=lambda: {} if good else given) as client:
            good = False
            network.cut()
            with pytest.raises(error, match=words):
                await anext(client)


async def test_params_have_a_deadline(autojump_clock: Clock) -> None:
    """That of a connection."""

    async def params() -> dict[str, str]:
        await trio.sleep_forever()
        raise AssertionError

    async with open_both() as (_, network):
        with pytest.raises(
            TimeoutError, match="params: the function took longer than connect_timeout, 7 seconds"
        ):
            async with network.connect(params=params, connect_timeout=7):
                raise AssertionError("it was entered")
    assert trio.current_time() == 7


SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("role", [None, "subscriber", "publisher", "both"])
async def test_signed_params(role: str | None, autojump_clock: Clock) -> None:
    """They go out as they are; filters narrow them, and what the role doesn't allow is refused here."""
    query = {"id": "al", "prefix.type": "a"} | ({} if role is None else {"role": role})

    def params() -> str:
        return sign(query, SECRET)

    async with open_both(secret=SECRET) as (hub, network):
        if role == "publisher":
            with pytest.raises(
                Refused,
                match=(
                    "403: role: the query from params is for a publisher, so this client"
                    " can't receive anything"
                ),
            ):
                async with network.connect(params=params):
                    raise AssertionError("it was entered")
            async with network.connect(params=params, role="publisher") as client:
                await client.publish("x")
                assert hub.log.head == 1
            return
        async with network.connect(params=params, filters=Exact(type="ab")) as client:
            assert client.id == "al"
            network.cut()
            for type in ("ab", "aa", "b"):
                await hub.publish(type, type=type, confirm=True)
            assert await take(client, 1) == ["ab"]
            await client.subscribe(Exact(type="aa"))
            network.cut()
            for type in ("ab", "aa", "b"):
                await hub.publish(type, type=type, confirm=True)
            if role == "both":
                await client.publish("mine", type="aa")
                assert await take(client, 2) == ["aa", "mine"]
                return
            dialled = len(network.dialled_at)
            with pytest.raises(
                Refused,
                match=(
                    "403: role: the query from params is for a subscriber, so this client can't publish"
                ),
            ):
                await client.publish("mine", type="aa")
            assert len(network.dialled_at) == dialled
            assert await take(client, 1) == ["aa"]


# --- what is refused ---


async def test_a_role_that_the_server_doesnt_give(autojump_clock: Clock) -> None:
    """The welcome says so: publishing raises it, nothing is sent, and the stream goes on."""

    def authenticate(request: Request) -> Client:
        return Client("al", request.params, "subscriber")

    async with open_both(authenticate=authenticate) as (hub, network):
        async with network.connect() as client:
            for _ in range(2):
                with pytest.raises(
                    Refused, match="403: role: the server does not let this client publish"
                ):
                    await client.publish("x")
            await hub.publish("y")
            assert await take(client, 1) == ["y"]
        with pytest.raises(Refused, match="403: role"):
            async with network.connect(role="publisher"):
                raise AssertionError("it was entered")
    assert hub.log.head == 1


async def test_a_client_that_may_only_publish(autojump_clock: Clock) -> None:
    """It can't iterate, and is told so when it connects."""

    def authenticate(request: Request) -> Client:
        return Client("al", request.params, "publisher")

    async with open_both(authenticate=authenticate) as (_, network):
        with pytest.raises(
            Refused, match=("403: role: the server lets this client publish, but not subscribe")
        ):
            async with network.connect():
                raise AssertionError("it was entered")


async def test_one_message_is_too_big(autojump_clock: Clock) -> None:
    """It alone is refused: what was published beside it is in the log once, and the stream goes on."""
    refused: list[tuple[int, int]] = []

    async def publish(client: Remote, n: int, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - it is not meant to be started
        try:
            await client.publish("x" * (10_000 if n in (3, 6) else n), task_status=task_status)
        except Closed as closed:
            refused.append((n, closed.code))

    async with open_both(max_message_bytes=5000) as (hub, network), network.connect() as client:
        async with trio.open_nursery() as nursery:
            for n in range(1, 10):
                await nursery.start(publish, client, n)
        assert sorted(refused) == [(n, CloseCode.MESSAGE_TOO_BIG) for n in (3, 6)]
        sizes = [len(data) for data in await take(client, 7)]
        assert sizes == [1, 2, 4, 5, 7, 8, 9]
        assert hub.log.head == 7
        # The same for filters.
        with pytest.raises(Closed):
            await client.subscribe([{"exact": {"type": "t" * 1000}} for _ in range(100)])
        await hub.publish("y")
        assert await take(client, 1) == ["y"]


async def test_the_log_is_short(caplog: pytest.LogCaptureFixture, closed_port: int) -> None:
    """While a server is away: the reason in each line, and neither the URL twice nor advice."""
    caplog.set_level(logging.INFO, "trionotify")
    url = f"http://127.0.0.1:{closed_port}"
    with pytest.raises(OSError, match=f"^{url}/events: Connection refused; is the server running"):
        async with connect(url):
            raise AssertionError("it was entered")
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:

            async def look() -> None:
                while "trying again" not in caplog.text:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

            nursery.start_soon(look)
            async with connect(url, keep_trying=True):
                raise AssertionError("it was entered")
    (line, *_) = [r.getMessage() for r in caplog.records if "trying again" in r.getMessage()]
    assert line.startswith(f"{url}/events as subscriber: Connection refused; trying again in ")
