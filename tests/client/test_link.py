"""One connection: peers of all kinds, dead ones, and the goodbye."""

from __future__ import annotations

import logging
import math
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket
import trustme

from tests.network import FakeServer, ignore, open_both, open_network, query, quiet, run_fake, take
from trionotify import CloseCode, Closed, Lagged, Refused, Unreadable, connect, open_server

Clock = trio.testing.MockClock


async def answer(stream: Any, text: bytes) -> None:
    await stream.receive_some()
    await stream.send_all(text)
    await stream.aclose()


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (b"", OSError, "the connection ended before the handshake did"),
        (b"HTTP/1.1 101 Sw", OSError, "the connection ended before the handshake did"),
        (
            b"SSH-2.0-OpenSSH\r\n\r\n",
            Closed,
            "closed: 1002 http://test/events is not a WebSocket server: illegal status line",
        ),
        (
            b"HTTP/1.1 101 Sw\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: x\r\n\r\n",
            Closed,
            "is not a WebSocket server: Bad accept token",
        ),
        (
            b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            Closed,
            "is not a WebSocket server: illegal chunk header",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            *(Closed, "the server answered a WebSocket handshake with 200"),
        ),
        (
            b"HTTP/1.1 204 No\r\n\r\n",
            Closed,
            "the server answered a WebSocket handshake with 204",
        ),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", Refused, "302: the server answered 302$"),
        (
            b"HTTP/1.1 308 No\r\nLocation: https://a/events\r\nContent-Length: 0\r\n\r\n",
            Refused,
            (
                "308: the server answered 308 and redirects to 'https://a/events'; give the URL of the"
                " server itself$"
            ),
        ),
        (b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\n{}", Refused, "404: the server answered 404"),
        (b'HTTP/1.1 403 No\r\nContent-Length: 14\r\n\r\n{"detail":"x"}', Refused, "403: x"),
    ],
)
async def test_peers_that_are_no_servers_of_ours(
    text: bytes, error: type[Exception], words: str, autojump_clock: Clock
) -> None:
    """A clear error at once, whatever they say."""
    async with open_network() as network:
        network.serve = partial(answer, text=text)
        with pytest.raises(error, match=words):
            async with network.connect():
                raise AssertionError("it was entered")
        assert trio.current_time() < 1
        assert len(network.dialled_at) == 1


async def test_a_connection_that_breaks_at_once(autojump_clock: Clock) -> None:
    """Before the request is out: an error at once."""
    async with open_network() as network:
        network.serve = ignore

        async def dial() -> trio.abc.Stream:
            stream = await network.dial()
            network.cut()
            return stream

        with pytest.raises(OSError, match="the connection ended before the handshake did"):
            async with connect("http://test", open_stream=dial):
                raise AssertionError("it was entered")
        assert trio.current_time() == 0


async def test_other_websocket_servers(autojump_clock: Clock) -> None:
    """Those that say something else than welcome first, or nothing, or leave."""

    async def greet(server: FakeServer) -> None:
        await server.say("hello", {}, "e:0")
        await server.listen()

    async def say_nothing(server: FakeServer) -> None:
        await server.listen()

    async def leave(server: FakeServer) -> None:
        await server.websocket.aclose(1011, "ill")

    async with open_network() as network:
        for script, error, words in [
            (
                greet,
                Closed,
                "is not a trionotify server, because it does not speak cloudevents.json",
            ),
            (say_nothing, TimeoutError, "no answer within 10 seconds"),
            (leave, Closed, "1011 ill"),
        ]:
            network.fake(script)
            with pytest.raises(error, match=words):
                async with network.connect():
                    raise AssertionError("it was entered")


async def test_a_server_without_the_subprotocol() -> None:
    """It is told apart by that."""
    async with trio.open_nursery() as nursery:

        async def serve(request: Any) -> None:
            websocket = await request.accept()
            await websocket.aclose()

        listening = await nursery.start(trio_websocket.serve_websocket, serve, "127.0.0.1", 0, None)
        with pytest.raises(
            Closed,
            match=(
                r"closed: 1002 http://.*/events is not a trionotify server, because it"
                r" does not speak cloudevents\.json"
            ),
        ) as caught:
            async with connect(f"http://127.0.0.1:{listening.port}"):
                raise AssertionError("it was entered")
        assert caught.value.code == CloseCode.PROTOCOL_ERROR
        nursery.cancel_scope.cancel()


async def test_a_server_at_a_unix_socket(tmp_path: Path) -> None:
    """Its own URL leads to it, with a query, and whatever is in the path."""
    async with open_server(unix=tmp_path / "50%3F? 1.sock") as server:
        async with connect(f"{server.url}?id=al%3F&exact.type=x") as client:
            await client.publish("no", type="y")
            await client.publish("yes", type="x")
            assert (await anext(client)).data == "yes"
            assert {made.id for made in server.hub.clients} == {"al?"}


async def test_a_unix_socket_of_nobody(tmp_path: Path) -> None:
    """Where no file is, or one without a listener: the error names it, and what to do."""
    left_over = tmp_path / "old.sock"
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(str(left_over))
    (tmp_path / "file").touch()
    for name, why in [
        ("no.sock", "No such file or directory; start a server there, with --unix, or give another"),
        ("old.sock", "Connection refused; start a server there, with --unix, or give another path"),
        ("file", "Connection refused; start"),
        ("file/x", "Not a directory$"),
        ("x" * 200, "AF_UNIX path too long$"),
    ]:
        with pytest.raises(OSError, match=f"^unix:{tmp_path}/{name}: {why}"):
            async with connect(f"unix:{tmp_path}/{name}"):
                raise AssertionError("it was entered")


async def test_a_system_without_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, as Trio does, and the socket's name."""

    async def refuse(path: str) -> trio.abc.Stream:
        raise RuntimeError("Unix sockets are not supported on this platform")

    monkeypatch.setattr(trio, "open_unix_socket", refuse)
    with pytest.raises(OSError, match=r"^unix:/a: Unix sockets are not supported on this platform$"):
        async with connect("unix:/a"):
            raise AssertionError("it was entered")


async def test_a_server_that_says_nothing(autojump_clock: Clock) -> None:
    """It has `connect_timeout` seconds."""
    async with open_network() as network:
        network.serve = ignore
        with pytest.raises(TimeoutError, match="no answer within 3 seconds"):
            async with network.connect(connect_timeout=3):
                raise AssertionError("it was entered")
        assert trio.current_time() == 3


DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    ("message", "upto"),
    [
        (b"\x00", "e:1"),
        ("hello", "e:1"),
        ('{"specversion": "1.0"}', "e:1"),
        ("[]", "e:1"),
        ('{"id": 5, "source": "s", "type": "t", "cursor": "e:7"}', "e:7"),
        ('{"id": "5", "source": "s", "type": "t", "a": {"cursor": "e:7"}}', "e:7"),
        (f'{{"id": "5", "source": "s", "type": "t", "cursor" : "e:7", "data": {DEEP}}}', "e:7"),
        (f'{{"id": "5", "source": "s", "type": "t", "data": {DEEP}}}', "e:1"),
        # What isn't the cursor of a place behind this one in this log is none.
        ('{"cursor": "e:0"}', "e:1"),
        ('{"cursor": "f:7"}', "e:1"),
        ('{"cursor": "7"}', "e:1"),
        (r'{"subject": "\"cursor\": \"e:9\""}', "e:1"),
    ],
)
async def test_a_message_that_cant_be_read(
    message: str | bytes, upto: str, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs that message alone: the application is told in its place, and the rest comes."""

    async def script(server: FakeServer) -> None:
        await server.welcome()
        await server.say("a.b", "before", "e:1", datacontenttype="text/plain")
        await server.websocket.send_message(message)
        await server.say("a.b", "behind", "e:8", datacontenttype="text/plain")
        await server.listen()

    async with open_network() as network:
        network.fake(script)
        async with network.connect() as client:
            assert await take(client, 1) == ["before"]
            with pytest.raises(Unreadable, match="can't be read: ") as caught:
                await anext(client)
            assert isinstance(caught.value, Lagged)
            assert (caught.value.after, caught.value.upto) == ("e:1", upto)
            assert caught.value.reason in str(caught.value)
            assert client.cursor == upto
            assert await take(client, 1) == ["behind"]
            assert client.cursor == "e:8"
        assert len(network.dialled_at) == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.event == "unreadable"  # type: ignore[attr-defined] # extra


async def test_what_was_unreadable_doesnt_come_again(autojump_clock: Clock) -> None:
    """The next connection begins behind it."""
    asked: list[str | None] = []

    async def script(server: FakeServer) -> None:
        asked.append(query(server).get("since"))
        await server.welcome("e:0" if len(asked) == 1 else "e:7", recovered=len(asked) > 1 or None)
        if len(asked) == 1:
            await server.websocket.send_message('{"cursor": "e:7"}')
            await quiet()
            network.cut()
        await server.listen()

    async with open_network() as network:
        network.fake(script)
        async with network.connect() as client:
            with pytest.raises(Unreadable):
                await anext(client)
            await network.dials(2)
            await quiet()
        assert asked == [None, "e:7"]


async def test_an_acknowledgement_that_cant_be_read(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A publisher goes on."""

    async def script(server: FakeServer) -> None:
        await server.welcome()
        event = await server.hear()
        await server.websocket.send_message(b"\x00")
        await server.websocket.send_message("what?")
        await server.acknowledge(event)
        await server.listen()

    async with open_network() as network:
        network.fake(script)
        async with network.connect(role="publisher") as client:
            assert (await client.publish("x")).cursor == "e:1"
        assert len(network.dialled_at) == 1
    assert sum(getattr(record, "event", "") == "unreadable" for record in caplog.records) == 2


@pytest.mark.parametrize("role", ["subscriber", "publisher"])
async def test_a_dead_peer(role: str, autojump_clock: Clock) -> None:
    """A server that doesn't answer a ping is left, without waiting for its goodbye."""
    async with open_both() as (hub, network):
        times = {"ping_interval": 5, "ping_timeout": 3, "close_timeout": 1000}
        async with network.connect(role=role, **times) as client:
            await trio.sleep(100)  # it answers
            assert len(network.dialled_at) == 1
            network.made[0].die()
            died_at = trio.current_time()
            if role == "subscriber":
                await hub.publish("x")
                assert await take(client, 1) == ["x"]
            else:
                await client.publish("x")
    assert len(network.dialled_at) == 2
    assert network.dialled_at[1] - died_at <= 5 + 3 + 0.5


async def test_a_client_that_was_stopped(autojump_clock: Clock) -> None:
    """It reads what has come meanwhile before it takes the server for dead; so it does each time."""
    async with open_both(ping_interval=1e6) as (hub, network):
        async with network.connect(ping_interval=5, ping_timeout=3) as client:
            for stopped in (8.5, 100.0, 4.0, 8.5):
                await trio.sleep(7)
                autojump_clock.jump(stopped)
            await trio.sleep(7)
            await hub.publish("x")
            assert await take(client, 1) == ["x"]
        assert len(network.dialled_at) == 1


async def test_a_busy_consumer_is_no_dead_peer(autojump_clock: Clock) -> None:
    """While the client itself doesn't read, the server's silence doesn't count."""
    async with open_both() as (hub, network):
        async with network.connect(max_buffered=1, ping_interval=5, ping_timeout=3) as client:
            for n in range(10):
                await hub.publish(f"{n}", confirm=True)
            await trio.sleep(25)  # the server would have something to say about more
            assert await take(client, 10) == [f"{n}" for n in range(10)]
            await trio.sleep(25)
        assert len(network.dialled_at) == 1


async def test_no_pings(autojump_clock: Clock) -> None:
    """With an interval of `math.inf`, a server is neither pinged nor dropped."""
    async with open_both(ping_interval=1e6) as (hub, network):
        async with network.connect(ping_interval=math.inf) as client:
            await quiet()
            received = network.made[0].received
            await trio.sleep(36_000)
            assert network.made[0].received == received
            await hub.publish("x")
            assert await take(client, 1) == ["x"]


async def test_what_the_servers_events_lack(autojump_clock: Clock) -> None:
    """A client copes with anything that a server says in its own events."""

    async def script(server: FakeServer) -> None:
        await server.welcome()
        for data in (None, 5, [], {}, "text", {"id": ["x"], "filters": 5, "retry_after_ms": "soon"}):
            for kind in ("welcome", "ack", "error", "drain", "gap", "position", "nonsense"):
                await server.say(kind, data)
        await server.say("nonsense", "no json", datacontenttype="text/plain")
        if query(server)["role"] == "publisher":
            event = await server.hear()
            await server.say("ack", {"id": event["id"]})
        else:
            await server.say("a.b", "x", "e:1", datacontenttype="text/plain")
        await server.listen()

    async with open_network() as network:
        network.fake(script)
        async with network.connect() as client:
            receipt = await client.publish("x")
            assert (receipt.wanted, receipt.written, receipt.behind) == (0, 0, 0)
            for _ in range(6):
                with pytest.raises(Lagged):
                    await anext(client)
            assert await take(client, 1) == ["x"]


@pytest.mark.parametrize("how", ["left", "raised", "cancelled"])
async def test_goodbye(how: str, autojump_clock: Clock) -> None:
    """However the block ends, the server hears 1000 on both connections, at once."""
    closed: list[Any] = []

    async def script(server: FakeServer) -> None:
        await server.welcome()
        if query(server)["role"] == "publisher":
            await server.acknowledge(await server.hear())
        await server.listen()
        closed.append(server.websocket.closed.code if server.websocket.closed else None)

    async with open_network() as network:
        network.fake(script)
        with trio.CancelScope() as scope:
            try:
                async with network.connect() as client:
                    await client.publish("x")
                    if how == "raised":
                        raise KeyError
                    if how == "cancelled":
                        scope.cancel()
                        await trio.sleep_forever()
            except KeyError:
                assert how == "raised"
        assert scope.cancelled_caught == (how == "cancelled")
        await quiet()
        assert closed == [1000, 1000]
        assert trio.current_time() == 0


async def test_goodbye_to_one_who_doesnt_answer(autojump_clock: Clock) -> None:
    """It takes `close_timeout` seconds, and no more."""
    async with open_both() as (_, network):
        async with network.connect(close_timeout=3):
            network.made[0].die()
        assert trio.current_time() == 3


async def test_leaving_while_it_is_not_connected(autojump_clock: Clock) -> None:
    """At once, whatever it is waiting for: the next attempt, a connection, a handshake."""
    async with open_both() as (hub, network):
        for serve in (None, ignore):
            network.serve = hub.handle
            async with network.connect():
                network.serve = serve
                network.cut()
                await trio.sleep(5)
                begun = trio.current_time()
            assert trio.current_time() == begun


async def test_tls() -> None:
    """`https` with a context that trusts the server; without it, an OSError that says why."""
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with open_server(port=0, ssl_context=server_context) as server:
        assert server.url.startswith("https:")
        async with connect(server.url, ssl_context=context) as client:
            await client.publish("x")
            assert await take(client, 1) == ["x"]
        with pytest.raises(OSError, match=r"TLS failed: .*CERTIFICATE_VERIFY_FAILED"):
            async with connect(server.url):
                raise AssertionError("it was entered")


class Pinging(trio.abc.Stream):
    """A server's stream that puts a ping in front of each Close frame."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(b"\x89\x00" + data if data[0] == 0x88 else data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_ping_during_the_goodbye(cancelled: bool, autojump_clock: Clock) -> None:
    """It is legal, and it ends the goodbye without being reported."""

    async def script(server: FakeServer) -> None:
        await server.welcome()
        await server.listen()

    async def serve(stream: trio.abc.Stream) -> None:
        await run_fake(Pinging(stream), script)

    async with open_network() as network:
        network.serve = serve
        with trio.CancelScope() as scope:
            async with network.connect():
                if cancelled:
                    scope.cancel()
                    await trio.sleep_forever()
        assert scope.cancelled_caught == cancelled
        assert trio.current_time() == 0


async def test_no_goodbye_behind_half_a_message(autojump_clock: Clock) -> None:
    """A message that is cut short when the client leaves is not completed by its Close frame."""
    heard: list[int] = []
    codes: list[int] = []
    go_on = trio.Event()

    async def script(server: FakeServer) -> None:
        await server.welcome()
        await go_on.wait()
        while True:
            try:
                heard.append(len(await server.websocket.get_message()))
            except trio_websocket.ConnectionClosed as closed:
                codes.append(closed.reason.code if closed.reason else 0)
                return

    async with open_network(pair=trio.testing.lockstep_stream_pair) as network:
        network.fake(script)
        async with trio.open_nursery() as nursery:
            async with network.connect(role="publisher") as client:
                for _ in range(5):
                    await nursery.start(partial(client.publish, "x" * 100_000))
                await quiet()  # the server takes no more, and one is half out
                nursery.cancel_scope.cancel()
        assert trio.current_time() == 0
        go_on.set()
        await quiet()
    assert codes == [1006]
    assert 1 <= len(heard) < 5
    assert min(heard) > 100_000
