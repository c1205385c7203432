"""The Python client with tokens: fetched for each connection, and renewed on a live one."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock as Clock

from tests.network import FakeServer, open_both, open_network, take
from tests.provider import Provider
from trionotify import Closed, Refused, Tokens, connect


class Given:
    """A function that gives tokens, good for a while, and counts."""

    def __init__(self, seconds: float = 100, **claims: Any) -> None:
        self.provider = Provider()
        self.seconds = seconds
        self.claims = claims
        self.count = 0
        self.failure: Exception | None = None

    async def __call__(self) -> str:
        self.count += 1
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        return self.provider.token(exp=time.time() + self.seconds - 30, **self.claims)


@pytest.fixture
def given() -> Given:
    return Given()


@pytest.fixture
def options(given: Given, tmp_path: Path) -> dict[str, Any]:
    tokens = Tokens(given.provider.trusted(tmp_path / "keys"))
    return {"authenticate": tokens, "ping_interval": 1e6, "max_log_age": 1e9}


async def test_both_parts(given: Given, options: dict[str, Any], autojump_clock: Clock) -> None:
    """On each connection the client is the one that the token names, and publishes under that name."""
    async with open_both(**options) as (hub, network):
        async with network.connect(token=given) as client:
            assert client.id == "alice"
            await client.publish("x")
            assert (await anext(client)).source == "/clients/alice"
            assert given.count == 2
            network.cut()
            await hub.publish("y", confirm=True)
            assert await take(client, 1) == ["y"]
            assert given.count >= 3


async def test_it_is_renewed_in_time(
    given: Given,
    options: dict[str, Any],
    autojump_clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On the live connection, again and again; with the rights of the newest."""
    caplog.set_level(logging.DEBUG)
    async with open_both(**options) as (hub, network):
        async with network.connect(token=given, role="subscriber", ping_interval=1e6) as client:
            given.claims = {"trionotify": {"subscribe": [{"exact": {"type": "a"}}]}}
            await trio.sleep(90)
            assert given.count == 2
            for type in ("b", "a"):
                await hub.publish(type, type=type, confirm=True)
            assert await take(client, 1) == ["a"]
            await trio.sleep(400)
            assert given.count > 4
        assert len(network.dialled_at) == 1
    assert "eyJ" not in caplog.text


async def test_a_renewal_that_fails(
    given: Given, options: dict[str, Any], autojump_clock: Clock
) -> None:
    """The connection ends when the token expires, and the next one asks for another."""
    async with open_both(**options) as (hub, network):
        async with network.connect(token=given, role="subscriber", ping_interval=1e6) as client:
            given.failure = OSError("the backend is away")
            await trio.sleep(110)
            given.failure = None
            await hub.publish("x", confirm=True)
            assert await take(client, 1) == ["x"]
        assert len(network.dialled_at) >= 2


async def test_a_function_that_keeps_its_token(
    given: Given, options: dict[str, Any], autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the token has expired. It is asked ever sooner, but not without a pause at the end."""
    begin = time.time()
    monkeypatch.setattr(time, "monotonic", autojump_clock.current_time)
    monkeypatch.setattr(time, "time", lambda: begin + autojump_clock.current_time())
    token = await given()
    asked: list[float] = []

    def kept() -> str:
        asked.append(trio.current_time())
        assert len(asked) < 50
        return token

    async with open_both(**options) as (_, network):
        with pytest.raises(Refused, match="401: token: exp: this token has expired"):
            async with network.connect(token=kept, role="subscriber", ping_interval=1e6) as client:
                await anext(client)
        assert asked[:4] == pytest.approx([0, 80, 96, 99.2])
        assert asked[4] >= 100


async def test_a_fresh_token_that_is_refused(
    given: Given, options: dict[str, Any], autojump_clock: Clock
) -> None:
    """That is the end; a text can't be fresher."""
    async with open_both(**options) as (hub, network):
        given.claims = {"aud": "another"}
        with pytest.raises(Refused, match="401: token: aud"):
            async with network.connect(token=given):
                raise AssertionError("it was entered")
        assert given.count == 2
        given.claims = {}
        fixed = await given()
        with pytest.raises(Closed, match="4401 expired"):
            async with network.connect(token=fixed, role="subscriber", ping_interval=1e6) as client:
                await anext(client)
        await hub.publish("x", confirm=True)


async def test_who_was_sent_away(given: Given, options: dict[str, Any], autojump_clock: Clock) -> None:
    """4403 is the end, whatever the token."""
    async with open_both(**options) as (hub, network):
        async with network.connect(token=given, role="subscriber") as client:
            await hub.disconnect(lambda client: client.id == "alice", "banned")
            with pytest.raises(Closed, match="4403 banned"):
                await anext(client)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"token": 7}, TypeError, "^token: must be str or a function, not int"),
        *(
            ({"token": text}, ValueError, "^token: must be printable ASCII without spaces around it")
            for text in ("", " ", "t0ken\n", " t0ken", "t0ken\r\nX: y", "tökén")
        ),
        (
            {"token": "x", "extra_headers": [("authorization", "y")]},
            ValueError,
            "^token: given twice, as token and in extra_headers",
        ),
    ],
)
async def test_mistakes(options: dict[str, Any], error: type[Exception], words: str) -> None:
    """They are told before anything is sent."""
    with pytest.raises(error, match=words):
        async with connect("http://127.0.0.1:1", **options):
            raise AssertionError("it was entered")


async def test_a_function_that_gives_no_token(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither another kind, nor one that can't be sent, nor in time."""
    caplog.set_level(logging.DEBUG)
    async with open_both() as (_, network):
        with pytest.raises(TypeError, match=r"^token: the function must return str, not NoneType"):
            async with network.connect(token=lambda: None):
                raise AssertionError("it was entered")
        with pytest.raises(ValueError, match=r"^token: must be printable ASCII without spaces around"):
            async with network.connect(token=lambda: "t0ken\n"):
                raise AssertionError("it was entered")
        assert "t0ken" not in caplog.text
        with pytest.raises(TimeoutError, match=r"^token: the function took longer than 10 seconds"):
            async with network.connect(token=trio.sleep_forever):
                raise AssertionError("it was entered")


@pytest.mark.parametrize("left", [10**400, -(10**400)])
async def test_a_server_that_names_an_absurd_time(left: int, autojump_clock: Clock) -> None:
    """The client stays connected, and tries to renew its token some time."""

    async def welcome(server: FakeServer) -> None:
        await server.welcome(expires_in=left)
        await server.listen()

    async with open_network() as network:
        network.fake(welcome)
        async with network.connect(role="subscriber", token=lambda: "t"):
            await trio.sleep(3600)
        assert len(network.made) == 1
