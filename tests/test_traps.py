"""Mistakes that an application makes in Python: each is told at once, or does no harm."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
import trio
import trio.testing

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel
from trionotify import Client, Disconnected, Exact, Notification, open_hub, open_server
from trionotify.delivery.turns import Turn

Clock = trio.testing.MockClock


# --- subscriptions ---


async def test_two_tasks_on_one_subscription(autojump_clock: Clock) -> None:
    """The second one is told; the first one is not harmed."""
    async with open_hub() as hub, hub.subscribe() as notifications, trio.open_nursery() as nursery:
        found: list[str] = []

        @nursery.start_soon
        async def first() -> None:
            found.append(str((await anext(notifications)).data))

        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="another task is waiting"):
            await anext(notifications)
        await hub.publish("x")
    assert found == ["x"]


async def test_two_tasks_enter_one_subscription(autojump_clock: Clock) -> None:
    """One of them is refused, even if neither had entered it when the other began to."""
    async with open_hub() as hub, trio.open_nursery() as nursery:
        subscription = hub.subscribe()
        refused: list[RuntimeError] = []

        async def read() -> None:
            try:
                async with subscription as notifications:
                    assert (await anext(notifications)).data == "x"
            except RuntimeError as error:
                refused.append(error)

        nursery.start_soon(read)
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await hub.publish("x")
    assert len(refused) == 1


async def test_a_subscription_entered_again_begins_anew(autojump_clock: Clock) -> None:
    """Nothing is left of what it had looked up before; while it is in use, it can't be entered."""
    async with open_hub() as hub:
        subscription = hub.subscribe()
        async with subscription as notifications:
            with pytest.raises(RuntimeError, match=r"in use; call hub\.subscribe\(\) once for each"):
                await subscription.__aenter__()
            for text in ("1", "2", "3"):
                await hub.publish(text, confirm=True)
            assert (await anext(notifications)).data == "1"
        with pytest.raises(StopAsyncIteration):
            await anext(notifications)
        async with subscription as notifications:
            await hub.publish("4")
            assert (await anext(notifications)).data == "4"


async def test_a_predicate_that_raises_is_met_once(autojump_clock: Clock) -> None:
    """Iterating on continues behind the notification that it can't judge."""

    def judge(notification: Notification) -> bool:
        if notification.data == "2":
            raise ZeroDivisionError
        return True

    async with open_hub() as hub, hub.subscribe(judge) as notifications:
        for text in ("1", "2", "3"):
            await hub.publish(text)
        assert (await anext(notifications)).data == "1"
        with pytest.raises(ZeroDivisionError):
            await anext(notifications)
        assert (await anext(notifications)).data == "3"


async def test_the_end_of_the_hub_is_the_end_of_a_subscription_that_is_behind(tmp_path: Path) -> None:
    """Even where the log would have to be read from its file, which is closed by then."""
    options: dict[str, Any] = {"store": f"sqlite:{tmp_path / 'log'}", "max_tail_bytes": 1}
    async with open_hub(**options) as hub:
        notifications = await hub.subscribe(since="start").__aenter__()
        for number in range(300):
            await hub.publish(f"{number}")
        assert (await anext(notifications)).data == "0"
    found = [each.data async for each in notifications]
    assert len(found) < 299
    assert found == [f"{number}" for number in range(1, len(found) + 1)]


# --- predicates that do something ---


class Doing:
    """A predicate that does something to the hub whenever it is asked."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def __call__(self, _: object) -> bool:
        self._act()
        return True


def _replace(room: Room, me: Client, other: Client) -> None:
    me.unsubscribe()
    me.subscribe(Doing(partial(_replace, room, me, other)))


def _kick(room: Room, me: Client, other: Client) -> None:
    other.close(4000, "kicked")


def _leave(room: Room, me: Client, other: Client) -> None:
    me.close(4000, "done")


def _only_once(room: Room, me: Client, other: Client) -> None:
    me.unsubscribe()


def _grow(room: Room, me: Client, other: Client) -> None:
    me.subscribe(Doing(lambda: None))
    other.subscribe(Exact(type=f"t{len(other.predicates)}"))


def _empty(room: Room, me: Client, other: Client) -> None:
    for client in room.hub.clients:
        if client.id != "bystander":
            client.unsubscribe()


def _abort(room: Room, me: Client, other: Client) -> None:
    room.hub.connections[next(iter(room.hub.connections))].abort()


_ACTS = [_replace, _kick, _leave, _only_once, _grow, _empty, _abort]


@pytest.mark.parametrize("act", _ACTS)
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("lag", ["gap", "latest"])
async def test_a_predicate_may_do_anything(
    act: Callable[[Room, Client, Client], None], behind: bool, lag: str, autojump_clock: Clock
) -> None:
    """The hub goes on, a bystander gets everything, and nothing comes behind a Close."""
    async with open_room() as room:
        target = f"format=cloudevents&lag={lag}"
        kernels = [FakeKernel(), FakeKernel()]
        peers = [
            await room.connect(f"/?id={name}&{target}", kernel=kernel)
            for name, kernel in zip(("other", "me"), kernels, strict=True)
        ]
        bystander = await room.connect("/?id=bystander")
        other, me = (room.hub.clients.by_id(name)[0] for name in ("other", "me"))
        me.subscribe(Doing(partial(act, room, me, other)))
        other.subscribe(Doing(partial(act, room, other, me)))
        if behind:
            for kernel in kernels:
                kernel.stall()
        for number in range(5):
            await room.hub.publish(f"{number}")
        await room.quiet()
        for kernel in kernels:
            kernel.grant(None)
        await room.quiet()
        for number in range(5, 8):
            await room.hub.publish(f"{number}", confirm=True)
        await room.quiet()
        assert bystander.look().messages == [f"{number}" for number in range(8)]
        for peer in peers:
            peer.look()  # raises for whatever comes behind a Close


async def test_a_predicate_may_replace_itself_at_each_step(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `latest`, which looks at everything before it sends anything, and can't in one turn."""
    monkeypatch.setattr(Turn, "over", True)
    async with open_room() as room:
        peer = await room.connect("/?id=me&lag=latest", kernel=(kernel := FakeKernel()))
        (me,) = room.hub.clients
        me.subscribe(Doing(partial(_replace, room, me, me)))
        kernel.stall()
        for number in range(5):
            await room.hub.publish(f"{number}", subject=f"{number % 2}")
        await room.quiet()
        kernel.grant(None)
        with trio.fail_after(5):
            await room.quiet()
        assert peer.look().messages[-2:] == ["3", "4"]


@pytest.mark.parametrize("act", _ACTS)
async def test_an_audience_may_do_anything(
    act: Callable[[Room, Client, Client], None], autojump_clock: Clock
) -> None:
    """It is asked about each client while the notification is handed out."""
    async with open_room() as room:
        for name in ("other", "me"):
            await room.connect(f"/?id={name}")
        bystander = await room.connect("/?id=bystander")
        other, me = (room.hub.clients.by_id(name)[0] for name in ("other", "me"))
        done: list[Client] = []

        def audience(client: Client) -> bool:
            if client.id == "me" and not done:
                done.append(client)
                act(room, me, other)
            return True

        async with room.hub.subscribe() as notifications:
            await room.hub.publish("1", audience=audience, confirm=True)
            await room.hub.publish("2", confirm=True)
            assert [(await anext(notifications)).data for _ in range(2)] == ["1", "2"]
        await room.quiet()
        assert bystander.look().messages == ["1", "2"]


async def test_a_subscriptions_predicate_may_replace_itself_at_each_look(autojump_clock: Clock) -> None:
    """It is read on by what it is then: neither for ever, nor twice."""
    async with open_hub() as hub, hub.subscribe() as notifications:
        position = notifications._reader.position

        def replace() -> None:
            hub.broadcast.refilter(position, Doing(replace))

        replace()
        for number in range(5):
            await hub.publish(f"{number}")
        with trio.fail_after(5):
            found = [(await anext(notifications)).data for _ in range(5)]
        assert found == ["0", "1", "2", "3", "4"]


# --- sessions ---


async def test_two_tasks_that_receive_from_one_client(autojump_clock: Clock) -> None:
    """The second one is told, and closing the client still wakes the first one."""
    told: list[str] = []

    async def first(client: Client) -> None:
        told.extend([str(message) async for message in client])
        told.append("the end")

    async def session(client: Client) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first, client)
            await trio.testing.wait_all_tasks_blocked()
            for receive in (client.receive_batch, client.__anext__):
                with pytest.raises(trio.BusyResourceError, match="another task is receiving"):
                    await receive()
            client.close(4000)

    async with open_room(session=session) as room:
        peer = await room.connect()
        await room.quiet()
        assert peer.look().close == (4000, "")
    assert told == ["the end"]


async def test_sending_to_another_client_that_has_left(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It doesn't end the session that sends, because its own client isn't at fault."""
    caplog.set_level(logging.INFO, logger="trionotify")
    records: list[Client] = []

    async def session(client: Client) -> None:
        records.append(client)
        async for message in client:
            for each in records:
                await each.send(message)
            records[0].close()

    async with open_room(session=session) as room:
        gone, here = await room.connect("/?id=gone"), await room.connect("/?id=here")
        gone.kernel.hang_up()
        await room.quiet()
        here.say("1")
        here.say("2")
        await room.quiet()
        assert here.look().messages == ["1", "2"]
        assert here.close is None
        # Elsewhere it is told.
        with pytest.raises(Disconnected) as caught:
            await records[0].send("x")
        assert caught.value.client is records[0]
    dropped = [record for record in caplog.records if record.__dict__.get("event") == "not_sent"]
    assert [(record.__dict__["id"], record.__dict__["by"]) for record in dropped] == [
        ("gone", "here")
    ] * 2


async def test_what_another_client_that_has_left_ends_is_logged(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A session that publishes for another client has a fault, and isn't one that ends as usual."""
    records: list[Client] = []

    async def session(client: Client) -> None:
        records.append(client)
        async for message in client:
            await records[0].publish(message)

    async with open_room(session=session) as room:
        gone, here = await room.connect("/?id=gone"), await room.connect("/?id=here")
        gone.kernel.hang_up()
        await room.quiet()
        here.say("1")
        await room.quiet()
        assert here.look().close == (1011, "")
    assert "the session of client 'here' failed" in caplog.text


async def test_a_session_that_drains(autojump_clock: Clock) -> None:
    """It doesn't wait for itself, nor two of them for each other; all are sent away with 1012."""
    seconds: list[float] = []

    async def session(client: Client) -> None:
        async for _ in client:
            begun = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.hub.drain)
            seconds.append(trio.current_time() - begun)

    async with open_room(session=session) as room:
        peers = [await room.connect() for _ in range(3)]
        for peer in peers[:2]:
            peer.say("drain")
        await room.quiet()
        for peer in peers:
            assert peer.look().close == (1012, "")
            peer.say_close()
        await room.hub.drain()
    assert len(seconds) == 2
    assert max(seconds) < 5


async def test_who_drains_outside_of_sessions_waits_for_those_that_drain(autojump_clock: Clock) -> None:
    """No client is connected any more when it returns, though a session waits for the same end."""

    async def session(client: Client) -> None:
        async for _ in client:
            await client.hub.drain()
            await trio.sleep(3)

    async with open_room(session=session) as room:
        peer = await room.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.hub.drain)
            peer.say("drain")
            await room.quiet()
            assert peer.look().close == (1012, "")
            peer.say_close()
            begun = trio.current_time()
        assert trio.current_time() - begun == pytest.approx(3)
        assert not room.hub.connections


# --- keywords ---


async def plain_async(*_: object) -> None:
    """Any number of arguments, and nothing to await."""


def plain(client: object, message: object) -> None: ...


async def one_argument(client: object) -> None: ...


async def generator(client: object) -> Any:
    yield client


class Plain:
    def __call__(self, client: object, message: object) -> None: ...

    async def method(self, client: object, message: object) -> None: ...


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"handlr": plain_async}, TypeError, "handlr: unknown option; did you mean 'handler'?"),
        ({"log_format": "json"}, TypeError, "log_format: an option of the command line only"),
        (
            {"config": "x.toml"},
            TypeError,
            "config: an option of the command line only; read the file with tomllib",
        ),
        ({"port": "http"}, TypeError, "port: must be a whole number, not str"),
        ({"port": True}, TypeError, "port: must be a whole number, not bool"),
        ({"port": 65536}, ValueError, "port: must be from 0 to 65535, not 65536"),
        ({"admin_port": -1}, ValueError, "admin_port: must be from 0 to 65535, not -1"),
        ({"insecure": "no"}, TypeError, "insecure: must be True or False, not str"),
        ({"page": 0}, TypeError, "page: must be True or False, not int"),
        (
            {"store": Path("log.db")},
            TypeError,
            "store: must be 'memory:', 'sqlite:PATH' or",
        ),
        ({"unix": 7}, TypeError, "unix: must be a path, not int"),
        ({"unix": ""}, ValueError, "unix: must not be empty"),
        ({"allow_origin": None}, TypeError, "allow_origin: must be one text or several, not NoneType"),
        ({"allow_params": 7}, TypeError, "allow_params: must be one text or several, not int"),
        ({"subprotocol": None}, TypeError, "subprotocol: must be one text or several, not NoneType"),
        ({"trusted_proxy": 7}, TypeError, "trusted_proxy: must be one text or several, not int"),
        ({"trusted_proxy": [7]}, TypeError, "trusted_proxy: must be str, not int"),
        ({"tls_cert": b"x"}, TypeError, "tls_cert: must be a path, not bytes"),
        (
            {"ssl_context": True},
            TypeError,
            "ssl_context: must be an ssl.SSLContext, not bool",
        ),
        ({"sockets": [7]}, TypeError, "sockets: must be listening sockets of `socket`, not int"),
        ({"sockets": 7}, TypeError, "sockets: must be a list of listening sockets, not int"),
        ({"max_log_age": "soon"}, ValueError, "max_log_age: must be a duration in seconds, like 90"),
        ({"max_log_age": "0s"}, ValueError, "max_log_age: must be greater than 0, not 0"),
        (
            {"handler": "x"},
            TypeError,
            "handler: must be a function, not str; write async",
        ),
        (
            {"handler": partial(plain, 7)},
            TypeError,
            "handler: must accept client and",
        ),
        ({"handler": Plain}, TypeError, "handler: must accept client and"),
        ({"handler": Plain()}, TypeError, "handler: must be an async function without a yield"),
        ({"session": plain}, TypeError, "session: must accept client"),
        ({"session": generator}, TypeError, "session: must be an async function without a yield"),
        (
            {"session": Plain().method},
            TypeError,
            "session: must accept client",
        ),
        (
            {"authenticate": lambda: None},
            TypeError,
            "authenticate: must accept request",
        ),
    ],
)
async def test_a_wrong_option_is_refused_at_once(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """It is named, with what is wrong and what to write."""
    with pytest.raises(error) as caught:
        async with open_server(**{"port": 0, **options}):
            raise AssertionError("it opened")
    assert str(caught.value).startswith(words)


async def test_an_option_of_the_listener_given_to_a_hub() -> None:
    """A hub doesn't listen."""
    with pytest.raises(TypeError, match=r"^port: an option of serve and open_server"):
        async with open_hub(port=0):
            raise AssertionError("it opened")


@pytest.mark.parametrize(
    "options",
    [
        {"handler": plain_async},
        {"handler": partial(plain_async, 7)},
        {"handler": lambda client, message: plain_async(client)},
        {"handler": wraps(plain_async)(lambda *given: plain_async())},
        {"handler": Plain().method},
        {"session": AsyncMock()},
        {"session": one_argument},
        {"max_log_age": "1h30m"},
        {"max_log_age": timedelta(hours=1.5)},
        {"max_log_age": "5400", "unix": None},
    ],
)
async def test_what_is_right_is_not_refused(options: dict[str, Any]) -> None:
    """A function that wasn't made by `def` may return an awaitable."""
    async with open_server(**{"port": 0, **options}) as server:
        if "max_log_age" in options:
            assert server.hub.settings.max_log_age == 5400


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"to": {"id": "al"}}, "to: must be str, the id of one client, not dict"),
        (
            {"audience": {"user-id": "7"}},
            (
                "audience: must be a predicate or a callable of the Client, not dict; write"
                " Exact({'user-id': '7'})"
            ),
        ),
        (
            {"audience": [{"exact": {"team": "ops"}}]},
            (
                "audience: must be a predicate or a callable of the Client, not list; write"
                " trionotify.from_json([{'exact': {'team': 'ops'}}], audience=True)"
            ),
        ),
    ],
)
async def test_for_whom_it_is_not(attributes: dict[str, Any], words: str, autojump_clock: Clock) -> None:
    """The error says what to write; nothing is published."""
    async with open_hub() as hub:
        with pytest.raises(TypeError, match=f"^{re.escape(words)}"):
            await hub.publish("x", **attributes)
        assert hub.log.head == 0


async def test_a_filter_that_is_a_mapping(autojump_clock: Clock) -> None:
    """The same for what is wanted."""
    async with open_hub() as hub:
        for wanted, words in [
            ({"type": "t"}, r"; write Exact\(type='t'\)$"),
            ([{"prefix": {"type": "t"}}], r"; write trionotify\.from_json\(\[\{'prefix': "),
        ]:
            with pytest.raises(TypeError, match=words):
                hub.subscribe(wanted)  # type: ignore[arg-type] # that is what is tried


@pytest.mark.parametrize("found", [None, "al", {"id": "al"}])
async def test_what_authenticate_must_return(
    found: Any, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says it, whether it was awaited or not."""

    async def later(_: object) -> Any:
        return found

    for authenticate in (later, lambda _: found):
        caplog.clear()
        async with open_room(authenticate=authenticate) as room:
            assert (await room.connect()).status == 500
        words = f"authenticate: must return a Client, not {type(found).__name__}; return request.client("
        assert words in caplog.text


def test_limits_of_the_process_stay_as_they_are() -> None:
    """Children inherit them, and `select` fails with more files; the limits of a hub follow them."""
    program = """
import resource, trio, trionotify
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
async def main():
    async with trionotify.open_server(port=0) as server:
        settings = server.hub.settings
        print(settings.max_half_open, settings.max_connections)
trio.run(main)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "128 320\n512\n"
