"""How `open_hub`, `open_server` and `connect` are entered and left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import trionotify
from tests.conftest import raw_client
from tests.network import open_both
from trionotify import Client, connect, open_hub, open_server


def opened() -> list[Any]:
    return [
        pytest.param(lambda _: open_hub(), id="open_hub"),
        pytest.param(lambda _: open_server(port=0), id="open_server"),
        pytest.param(lambda port: connect(f"http://127.0.0.1:{port}"), id="connect"),
    ]


class OneOfMine(Exception):
    """An exception of a block's own."""


@pytest.mark.parametrize(
    "error", [OneOfMine("x"), SystemExit(3), KeyboardInterrupt(), StopAsyncIteration()]
)
@pytest.mark.parametrize("make", opened())
async def test_what_a_block_raises_leaves_it_bare(
    make: Callable[[int | None], Any], error: BaseException
) -> None:
    """The very same object, and what caused it."""
    error.__cause__ = cause = OSError("why")
    async with open_server(port=0) as server:
        with pytest.raises(type(error)) as caught:
            async with make(server.port):
                raise error
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is None


@pytest.mark.parametrize("make", opened())
async def test_a_group_of_the_blocks_own_stays_one(make: Callable[[int | None], Any]) -> None:
    """It is as the block's own nursery has raised it."""

    async def fail() -> None:
        raise OneOfMine("x")

    async with open_server(port=0) as server:
        with pytest.RaisesGroup(OneOfMine):
            async with make(server.port), trio.open_nursery() as nursery:
                nursery.start_soon(fail)


@pytest.mark.parametrize("make", opened())
async def test_a_block_that_is_cancelled_from_outside(make: Callable[[int | None], Any]) -> None:
    """The scope takes it, and what the block raises then is bare, too."""
    async with open_server(port=0) as server:
        with trio.CancelScope() as scope:
            async with make(server.port):
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(OneOfMine):
            await raise_when_cancelled(make(server.port))


async def raise_when_cancelled(opening: Any) -> None:
    with trio.CancelScope() as scope:
        async with opening:
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                raise OneOfMine("on the way out")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_what_ends_a_program_in_a_session_ends_the_block_bare(error: BaseException) -> None:
    """Trio raises KeyboardInterrupt in whichever task runs."""

    async def session(client: Client) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        async with open_server(port=0, session=session) as server, raw_client(server.port):
            await trio.sleep_forever()
    assert caught.value is error


@pytest.mark.parametrize("make", opened())
async def test_what_is_entered_twice_says_so(make: Callable[[int | None], Any]) -> None:
    async with open_server(port=0) as server:
        opening = make(server.port)
        async with opening:
            pass
        with pytest.raises(RuntimeError, match=r"\(\) was entered already; call it once for each"):
            async with opening:
                raise AssertionError("it was entered")


async def test_a_server_that_cannot_listen_raises_bare() -> None:
    """The documented OSError can be caught by `except OSError`."""
    async with open_server(port=0) as server:
        with pytest.raises(OSError, match="in use"):
            async with open_server(port=server.port):
                pass


async def test_several_exceptions_stay_in_their_group() -> None:
    """None is lost."""

    async def session(client: Client) -> None:
        raise SystemExit(3)

    with pytest.RaisesGroup(SystemExit, OneOfMine, flatten_subgroups=True):
        async with open_server(port=0, session=session, close_timeout=0.1) as server:
            try:
                async with raw_client(server.port):
                    await trio.sleep_forever()
            finally:
                raise OneOfMine("x")


@pytest.mark.parametrize("name", ["open_hub", "open_server", "connect"])
def test_what_was_not_entered_says_so(name: str) -> None:
    """Whatever is tried with it; and a type checker sees none of these."""
    it: Any = getattr(trionotify, name)("http://x") if name == "connect" else getattr(trionotify, name)()
    fix = rf"{name}\(\) must be entered first: async with {name}\(\.\.\.\) as it:"
    with pytest.raises(AttributeError, match=rf"^hub: {fix}"):
        it.hub  # noqa: B018 - that is the mistake
    with pytest.raises(TypeError, match=fix), it:
        pass
    with pytest.raises(TypeError, match=fix):
        it.__await__()
    with pytest.raises(TypeError, match=fix):
        aiter(it)
    assert repr(it) == f"<{name}(), to be entered with `async with`>"
    assert not hasattr(it, "publish")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_what_ends_a_program_inside_a_client_ends_the_block_bare(
    error: BaseException, autojump_clock: trio.testing.MockClock
) -> None:
    """In whichever of its tasks, however many nurseries are around that."""

    async def fail(_: int | None = None) -> bytes:
        raise error

    async with open_both() as (hub, network):
        with pytest.raises(type(error)) as caught:  # noqa: PT012 - the block must wait
            async with network.connect():
                network.made[0].receive_some = fail  # type: ignore[method-assign] # after this read
                await hub.publish("x")
                await trio.sleep_forever()
        assert caught.value is error


async def test_what_ends_a_program_inside_nurseries_of_a_session() -> None:
    """The groups are the session's, and the block has none of them."""

    async def fail() -> None:
        raise KeyboardInterrupt

    async def session(client: Client) -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(trio.sleep_forever)
            inner.start_soon(fail)

    with pytest.raises(KeyboardInterrupt):
        async with open_server(port=0, session=session) as server, raw_client(server.port):
            await trio.sleep_forever()
