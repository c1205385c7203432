"""What an application may do with the objects that it gets: copy the values, and leave the others alone.

A value is copied and pickled, also for another process. What running tasks use is neither, and it must
not be used in another thread than theirs.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.conftest import Room, open_room
from tests.connection.test_dialogue import event, join, own, say
from tests.network import open_both
from trionotify import (
    Client,
    Closed,
    Exact,
    Lagged,
    Notification,
    Receipt,
    Refused,
    Request,
    Settings,
    Sql,
    StoreError,
    Unreadable,
    explain,
    from_json,
    open_hub,
    open_server,
)
from trionotify.model.query import parse_query

Clock = trio.testing.MockClock
Again = Callable[[Any], Any]

WAYS = [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]


@pytest.mark.parametrize("again", WAYS)
@pytest.mark.parametrize(
    "notification",
    [
        Notification("x"),
        Notification(b"\x00", type="t", source="/s", subject="u", id="1", time="2026-01-31T10:00:00Z"),
        Notification(
            "[1]", datacontenttype="application/json", extensions={"to": "al", "n": 1, "b": True}
        ),
        Notification(audience=Exact(team="ops") & ~Sql("EXISTS c")),
    ],
)
def test_copies_of_notifications(notification: Notification, again: Again) -> None:
    """They are equal, as immutable, and still know whether their publisher gave the id."""
    other = again(notification)
    assert other == notification
    assert hash(other) == hash(notification)
    assert other.given_id == notification.given_id
    assert other.weight(other.data) == notification.weight(notification.data)
    assert again(again(notification)) == notification
    with pytest.raises(TypeError):
        other.extensions["a"] = "b"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        other.type = "u"
    assert attrs.evolve(other, type="u").id == notification.id


def test_a_notification_that_goes_to_another_process() -> None:
    """It keeps the id that this process has generated, and its own ones are others."""
    notification = Notification("x", extensions={"to": "al"})
    program = """
import pickle, sys, trionotify
it = pickle.load(sys.stdin.buffer)
other = trionotify.Notification("y")
assert other.id != it.id and it.given_id is None and it.to == "al"
sys.stdout.buffer.write(pickle.dumps(it))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(notification),
        capture_output=True,
        check=True,
    )
    assert pickle.loads(done.stdout) == notification


def test_an_id_that_another_process_has_generated_is_no_bytes() -> None:
    """Bytes are still refused."""
    for id in (b"1", bytearray(b"1")):
        with pytest.raises(TypeError, match=r"^id: must be str, not byte"):
            Notification("x", id=id)  # type: ignore[arg-type] # that is what is tried


@pytest.mark.parametrize("again", WAYS)
@pytest.mark.parametrize(
    "value",
    [
        Receipt("e:1", 2, 1, 1, "a", "primary"),
        Settings(max_log_age="1h"),
        explain(Exact(type="t") & Sql("EXISTS c"), Notification("x")),
        from_json([{"any": [{"prefix": {"type": "a"}}, {"sql": "a = 'b'"}]}]),
        Request("GET", "/", parse_query("id=al"), (("cookie", "a=b"), ("cookie", "c=d")), "10.0.0.1:1"),
    ],
)
def test_copies_of_other_values(value: Any, again: Again) -> None:
    """All that is frozen."""
    assert again(value) == value
    assert repr(again(value)) == repr(value)


async def test_copies_of_what_a_hub_returns(autojump_clock: Clock) -> None:
    """A request as `authenticate` gets it, and figures."""
    requests: list[Request] = []

    def authenticate(request: Request) -> Client:
        requests.append(request)
        return request.client()

    async with open_room(authenticate=authenticate) as room:
        await room.connect("/?id=al&exact.type=t", "Cookie: a=b", "Cookie: c=d")
        figures = room.hub.statistics()
        (request,) = requests
        for again in WAYS:
            assert again(figures) == figures
            other = again(request)
            assert other == request
            assert other.header("cookie") == "a=b; c=d"
            assert other.client().id == "al"
            with pytest.raises(TypeError):
                other.params["id"] = "bo"


@pytest.mark.parametrize("again", WAYS)
@pytest.mark.parametrize(
    "error",
    [
        Refused(401, "why", headers=[("Retry-After", "1")], logged="short"),
        Closed(1008, "why"),
        Lagged("e:1", "e:2"),
        Unreadable("e:1", "e:2", "why"),
        StoreError(507, "why"),
    ],
)
def test_copies_of_exceptions(error: Exception, again: Again) -> None:
    """With all that they say."""
    other = again(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)


async def test_what_tasks_use_is_not_copied(autojump_clock: Clock) -> None:
    """A copy of a client's record would be a second one of the same connection."""
    async with open_server(port=0) as server, open_both() as (hub, network):
        async with network.connect() as remote:
            (client,) = hub.clients
            for it in (server, hub, client, remote, hub.subscribe()):
                for again in WAYS:
                    with pytest.raises(TypeError, match=f"^{type(it).__name__}: must not be copied or"):
                        again(it)


# --- threads ---


@contextmanager
def told(name: str, owner: str, run: str = "run_sync") -> Iterator[None]:
    fix = rf"trio\.from_thread\.{run}\({owner}\.{name}, \.\.\.\)"
    with pytest.raises(RuntimeError, match=rf"^{name}: must be called in Trio's thread; .* {fix}$"):
        yield


def step(operation: Callable[[], Any]) -> None:
    """The first step of a coroutine, as another event loop would make it."""
    operation().send(None)


async def test_what_is_called_in_another_thread() -> None:
    """It is refused before anything changes, and the error says how to do it."""

    async def session(client: Client) -> None:
        async for message in client:
            with told("reject", "client"):
                await trio.to_thread.run_sync(client.reject, message, "no")
            client.reject(message, "no")

    async with open_room(session=session) as room:
        peer = await join(room)
        hub = room.hub
        (client,) = hub.clients
        filter = Exact(type="t")
        calls = [
            ("publish_nowait", "hub", "run_sync", partial(hub.publish_nowait, "x")),
            ("subscribe", "client", "run_sync", partial(client.subscribe, filter)),
            ("unsubscribe", "client", "run_sync", client.unsubscribe),
            ("close", "client", "run_sync", client.close),
            ("drain", "hub", "run", partial(step, hub.drain)),
            ("disconnect", "hub", "run", partial(step, partial(hub.disconnect, filter))),
        ]
        for name, owner, run, call in calls:
            with told(name, owner, run):
                await trio.to_thread.run_sync(call)
        assert client.predicates == ()
        assert hub.ready
        assert hub.log.head == 0
        say(peer, event("1"))
        while not own(peer, "error"):
            await trio.lowlevel.checkpoint()
        assert peer.close is None

        def in_a_thread() -> None:
            for *_, call in calls[1:4]:
                trio.from_thread.run_sync(call)

        await trio.to_thread.run_sync(in_a_thread)
        await room.quiet()
        assert peer.look().close == (1000, "")


async def test_a_server_that_is_stopped_in_another_thread() -> None:
    """It goes on, and stops when it is told in its own."""
    async with open_server(port=0) as server:
        with told("stop", "server"):
            await trio.to_thread.run_sync(server.stop)
        await (await trio.open_tcp_stream("127.0.0.1", server.port or 0)).aclose()
        await trio.to_thread.run_sync(trio.from_thread.run_sync, server.stop)
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream("127.0.0.1", server.port or 0)


async def test_a_client_may_be_made_in_a_thread(autojump_clock: Clock) -> None:
    """An `authenticate` that blocks runs in one, and limits the client there."""

    def look_up(request: Request) -> Client:
        client = request.client("al")
        client.subscribe(Exact(type="t"))
        client.subscribe(Exact(type="u"))
        client.unsubscribe(Exact(type="u"))
        return client

    async def authenticate(request: Request) -> Client:
        return await trio.to_thread.run_sync(look_up, request)

    async with open_hub(authenticate=authenticate) as hub, trio.open_nursery() as nursery:
        room = Room(hub, nursery)
        peer = await room.connect()
        while not hub.clients:
            await trio.lowlevel.checkpoint()
        await hub.publish("1", type="u")
        await hub.publish("2", type="t")
        await room.quiet()
        assert peer.look().messages == ["2"]
        nursery.cancel_scope.cancel()
