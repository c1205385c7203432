"""The server over real sockets: completeness, TLS, Unix sockets, bad peers, stopping."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from trio_websocket import open_websocket, open_websocket_url

from tests.conftest import raw_client
from tests.kernel import FakeKernel, Peer, upgrade
from tests.provider import secret_issuer
from trionotify import Client, Exact, Request, Tokens, open_hub, open_server, serve
from trionotify.server import listeners as listening

#: For tests in which no timeout of the server may pass, however slow the machine is.
PATIENT: Any = dict.fromkeys(("head_timeout", "ping_interval", "stall_timeout", "close_timeout"), 600)


def url(server: Any, target: str = "/") -> str:
    return server.url.replace("http", "ws", 1) + target


async def test_a_thousand_subscribers_and_ten_thousand_publishes() -> None:
    """Each subscriber's sequence is complete and in order."""
    subscribers, publishes, kinds = 1000, 10_000, 10
    async with open_server(port=0, **PATIENT) as server, trio.open_nursery() as nursery:
        numbers = [server.port, subscribers, publishes, kinds]
        command = [sys.executable, "-m", "tests.swarm", *map(str, numbers)]
        swarm = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE))
        output = b""
        while not output.endswith(b"ready\n"):
            output += await swarm.stdout.receive_some()
        for i in range(publishes):
            await server.hub.publish(f"{i}", type=f"t{i % kinds}")
        async for chunk in swarm.stdout:
            output += chunk
        assert output == b"ready\ncomplete\n"


def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's context and a server's."""
    authority = trustme.CA()
    theirs, ours = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(theirs)
    authority.issue_cert("127.0.0.1").configure_cert(ours)
    return theirs, ours


@asynccontextmanager
async def tls_client(server: Any, context: ssl.SSLContext) -> AsyncIterator[trio.SSLStream[Any]]:
    """A connection whose handshakes are done, and that reads nothing by itself."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    client = trio.SSLStream(stream, context, server_hostname="127.0.0.1")
    try:
        await client.send_all(upgrade("/"))
        assert (await client.receive_some()).startswith(b"HTTP/1.1 101")
        yield client
    finally:
        await trio.aclose_forcefully(client)


async def test_over_tls() -> None:
    """The same, through a stream of its own; the URL says so."""
    theirs, ours = tls()
    async with open_server(port=0, ssl_context=ours) as server:
        assert server.url.startswith("https://127.0.0.1:")
        async with open_websocket_url(url(server, "/?role=both"), ssl_context=theirs) as websocket:
            for message in ("a", b"b", "c" * 300_000):
                await websocket.send_message(message)
            assert [len(await websocket.get_message()) for _ in range(3)] == [1, 1, 300_000]
        # A client that doesn't speak TLS does no harm.
        async with await trio.open_tcp_stream("127.0.0.1", server.port or 0) as stream:
            await stream.send_all(upgrade("/"))
            assert not (await stream.receive_some()).startswith(b"HTTP")
        async with open_websocket_url(url(server), ssl_context=theirs):
            pass


async def test_a_tls_client_that_takes_nothing_is_dropped() -> None:
    """Its task doesn't stay in the write for ever."""
    theirs, ours = tls()
    async with open_server(port=0, ssl_context=ours, stall_timeout=0.2) as server:
        async with tls_client(server, theirs):
            await server.hub.publish("x" * 9_000_000)
            with trio.fail_after(120):
                while server.hub.connections:
                    await trio.lowlevel.checkpoint()


async def test_a_tls_client_is_closed_soon_after_a_fault() -> None:
    """It can't see that we have closed, so it waits for us: its answer to our Close is enough."""
    theirs, ours = tls()
    async with open_server(port=0, ssl_context=ours, close_timeout=600) as server:
        for fault, answer in ((b"\xc1\x80abcd", b"\x88\x80abcd"), (b"\x88\x81abcdx", b"")):
            async with tls_client(server, theirs) as client:
                await client.send_all(fault)
                assert (await client.receive_some()).startswith(b"\x88")
                if answer:
                    await client.send_all(answer)
                with trio.fail_after(120):
                    assert await client.receive_some() == b""


async def test_a_cancelled_server_says_goodbye_over_tls() -> None:
    """Though the hub's own tasks are gone by then."""
    theirs, ours = tls()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            async with open_server(port=0, ssl_context=ours, **PATIENT) as server:
                async with tls_client(server, theirs) as client:

                    @nursery.start_soon
                    async def cancel() -> None:
                        scope.cancel()

                    with trio.CancelScope(shield=True):
                        assert await client.receive_some() == b"\x88\x02\x03\xe9"
                        await client.send_all(b"\x88\x80abcd")
                        assert await client.receive_some() == b""
    assert scope.cancelled_caught


async def test_a_refused_peer_that_lingers_does_not_hold_up_the_stop() -> None:
    """It has its answer."""
    async with open_server(port=0, close_timeout=600) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port or 0)
        await stream.send_all(b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 404")
        server.stop()
        with trio.fail_after(120):
            assert await stream.receive_some() == b""
    await stream.aclose()


async def test_a_unix_socket_that_another_server_took_over_stays(tmp_path: Path) -> None:
    """The old one may end later."""
    path = tmp_path / "hub.sock"
    async with open_hub() as hub, trio.open_nursery() as nursery:
        old = await nursery.start(partial(serve, hub, unix=path))
        path.unlink()
        async with open_server(unix=path):
            old.stop()
            while nursery.child_tasks:
                await trio.lowlevel.checkpoint()
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(upgrade("/"))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")


async def test_on_a_unix_socket(tmp_path: Path) -> None:
    """At a path; a file left over is replaced, one in use is not, and it is gone at the end."""
    path = tmp_path / "hub.sock"
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(str(path))
    async with open_server(unix=path) as server:
        assert (server.url, server.port) == (f"unix:{path}", None)
        stream = await trio.open_unix_socket(path)
        async with stream:
            await stream.send_all(upgrade("/?role=both") + b"\x81\x82\0\0\0\0hi")
            data = b""
            while not data.endswith(b"\x81\x02hi"):
                data += await stream.receive_some()
        with pytest.raises(OSError, match="already in use"):
            async with open_server(unix=path):
                raise AssertionError("it opened")
    assert not path.exists()


async def test_a_port_in_use() -> None:
    """An OSError that says so, and nothing is left open."""
    async with open_server(port=0) as server:
        with pytest.raises(OSError, match="in use"):
            async with open_server(port=server.port):
                raise AssertionError("it opened")


async def test_only_loopback_unless_said_otherwise() -> None:
    """Without `authenticate`, listening for everyone takes `insecure`."""
    with pytest.raises(
        ValueError, match=r"host: everyone can reach 0\.0\.0\.0, so a secret is needed \(--secret FILE\)"
    ):
        async with open_server(host="0.0.0.0", port=0):
            raise AssertionError("it opened")
    async with open_server(host="0.0.0.0", port=0, insecure=True) as server:
        assert server.url == f"http://0.0.0.0:{server.port}"


async def test_localhost_may_have_several_addresses() -> None:
    """All of them get the same port."""
    async with open_server(host="localhost", port=0) as server:
        async with open_websocket("127.0.0.1", server.port or 0, "/", use_ssl=False):
            assert len(server.hub.clients) == 1


def need_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")


async def reached(port: int | None, *hosts: str) -> list[str]:
    """The ones of these hosts that have a listener."""
    found = []
    for host in hosts:
        with suppress(OSError):
            async with await trio.open_tcp_stream(host, port or 0):
                found.append(host)
    return found


async def test_several_hosts_have_one_port() -> None:
    """The server's URL is that of the first; IPv6 may be in brackets, as in a URL."""
    need_ipv6()
    async with open_server(host=["127.0.0.1", "[::1]", "::1"], port=0, admin_port=0) as server:
        assert server.urls == (f"http://127.0.0.1:{server.port}", f"http://[::1]:{server.port}")
        assert server.url == server.urls[0]
        for port in (server.port, server.admin_port):
            assert await reached(port, "127.0.0.1", "::1") == ["127.0.0.1", "::1"]


@pytest.mark.parametrize(
    ("host", "error", "words"),
    [
        ([], ValueError, "host: must be a name or an address, not empty"),
        (["127.0.0.1", ""], ValueError, "host: must be a name or an address, not empty"),
        ([b"::1"], TypeError, "host: must be str, not bytes"),
        (None, TypeError, "host: must be one text or several, not NoneType"),
        (
            ["127.0.0.1", "0.0.0.0"],
            ValueError,
            r"host: everyone can reach 0\.0\.0\.0, so a secret is needed \(--secret FILE\)",
        ),
        (
            ["127.0.0.1", "::"],
            ValueError,
            r"host: everyone can reach ::, so a secret is needed \(--secret FILE\)",
        ),
    ],
)
async def test_what_is_no_host(host: Any, error: type[Exception], words: str) -> None:
    """It is refused before anything listens."""
    with pytest.raises(error, match=words):
        async with open_server(host=host, port=0):
            raise AssertionError("it opened")


@pytest.mark.parametrize(
    ("host", "sockets", "hosts"),
    [
        ("::", 1, ["127.0.0.1", "::1"]),
        (["::", "0.0.0.0"], 2, ["127.0.0.1", "::1"]),
        (["::", "::1"], 1, ["127.0.0.1", "::1"]),
        (["0.0.0.0", "127.0.0.1"], 1, ["127.0.0.1"]),
        (["::1", "0.0.0.0"], 2, ["127.0.0.1", "::1"]),
        (["::", "127.0.0.1"], 2, ["127.0.0.1", "::1"]),
        ("0.0.0.0", 1, ["127.0.0.1"]),
    ],
)
async def test_every_address(host: str | list[str], sockets: int, hosts: list[str]) -> None:
    """`::` is every address, of IPv4 too, unless that has a socket of its own."""
    need_ipv6()
    async with open_server(host=host, port=0, insecure=True) as server:
        assert len(server._acceptor._sockets) == sockets
        assert await reached(server.port, "127.0.0.1", "::1") == hosts


async def test_a_client_of_ipv4_at_a_socket_for_both() -> None:
    """Its address is shown as one of IPv4."""
    need_ipv6()
    async with open_server(host="::", port=0, insecure=True) as server:
        async with open_websocket("127.0.0.1", server.port or 0, "/", use_ssl=False):
            (client,) = server.hub.clients
            assert client.remote.startswith("127.0.0.1:")


@pytest.mark.parametrize("lacks", ["sockets for both", "IPv6"])
async def test_a_system_that_lacks_something(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`::` gets a socket for IPv4 besides, or in its place."""
    if lacks == "IPv6":
        made = listening._bound

        def bound(family: int, *rest: Any) -> Any:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            return made(family, *rest)

        monkeypatch.setattr(listening, "_bound", bound)
    else:
        need_ipv6()
        monkeypatch.setattr(listening, "_may_be_both", lambda _: False)
    async with open_server(host="::", port=0, insecure=True) as server:
        found = await reached(server.port, "127.0.0.1", "::1")
        assert found == (["127.0.0.1"] if lacks == "IPv6" else ["127.0.0.1", "::1"])


async def test_a_free_port_must_be_free_at_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """With port 0 it tries again."""
    need_ipv6()
    made, taken = listening._bound, [OSError(errno.EADDRINUSE, "in use")] * 2

    def bound(family: int, *rest: Any) -> Any:
        if family == socket.AF_INET6 and taken:
            raise taken.pop()
        return made(family, *rest)

    monkeypatch.setattr(listening, "_bound", bound)
    async with open_server(host=["127.0.0.1", "::1"], port=0) as server:
        assert await reached(server.port, "127.0.0.1", "::1") == ["127.0.0.1", "::1"]
    assert not taken


async def test_a_hub_may_have_several_listeners(tmp_path: Path) -> None:
    """Stopping one leaves the clients of the other alone."""
    async with open_hub(**PATIENT) as hub, trio.open_nursery() as nursery:
        one = await nursery.start(partial(serve, hub, port=0))
        two = await nursery.start(partial(serve, hub, port=0))
        async with open_websocket_url(url(two)) as stays:
            async with raw_client(one.port) as goes:
                one.stop()
                assert (await goes.until(lambda peer: peer.close)).close == (1001, "")
            await hub.publish("x")
            assert await stays.get_message() == "x"
        two.stop()


async def test_a_crowd_with_its_requests_gives_others_their_turns() -> None:
    """Connections that bring their request along are accepted a few at a time."""
    crowd = 60
    seen, sock = [0], socket.create_server(("127.0.0.1", 0), backlog=crowd)
    clients = [socket.create_connection(sock.getsockname()) for _ in range(crowd)]
    try:
        for client in clients:
            client.sendall(upgrade("/"))
        with trio.fail_after(120):
            async with open_server(sockets=[sock]) as server:
                while seen[-1] < crowd:
                    await trio.lowlevel.checkpoint()
                    seen.append(len(server.hub.clients))
    finally:
        for client in clients:
            client.close()
    # Two turns, because the order of the tasks in one is random.
    assert max(after - before for before, after in pairwise(seen)) <= 2 * 4


async def test_bad_peers_end_alone() -> None:
    """Garbage, resets, a gibibyte announced: each ends its own connection, the rest go on."""
    async with open_server(port=0) as server, open_websocket_url(url(server)) as witness:
        for data in (
            b"\x00" * 100,
            upgrade("/") + b"\xff" * 50,
            upgrade("/") + b"\x82\xff\0\0\0\0\x40\0\0\0abcd",
            upgrade("/?role=publisher") + b"\x81\xfe",
        ):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port or 0)
            await stream.send_all(data)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
        await server.hub.publish("fine")
        assert await witness.get_message() == "fine"


async def test_stopping_is_orderly() -> None:
    """Sessions finish what they do; clients hear 1001; new ones are not let in; nothing is left."""
    finished = []

    async def handler(client: Client, message: str | bytes) -> None:
        # The server stops while this message is being handled.
        started.set()
        await going.wait()
        finished.append(message)

    started, going = trio.Event(), trio.Event()
    with trio.fail_after(120):
        async with (
            trio.open_nursery() as nursery,
            open_server(port=0, handler=handler, **PATIENT) as server,
        ):
            port = server.port or 0

            @nursery.start_soon
            async def client() -> None:
                async with raw_client(port) as websocket:
                    await websocket.stream.send_all(b"\x81\x84\0\0\0\0work")
                    assert (await websocket.until(lambda peer: peer.close)).close == (1001, "")
                    with pytest.raises(OSError, match="connect"):
                        await trio.open_tcp_stream("127.0.0.1", port)
                    going.set()

            # A connected client that says nothing doesn't delay it.
            silent = await trio.open_tcp_stream("127.0.0.1", port)
            await started.wait()
    assert finished == ["work"]
    assert not server.hub.connections
    await silent.aclose()


async def test_draining_hundreds_of_clients() -> None:
    """Each gets everything published before, and 1012. New clients are refused."""
    count = 300
    heard: list[tuple[list[str | bytes], tuple[int, str] | None]] = []

    async def client(port: int, ready: trio.MemorySendChannel[None]) -> None:
        async with raw_client(port) as one:
            ready.send_nowait(None)
            peer = await one.until(lambda peer: peer.close)
            heard.append((peer.messages, peer.close))
            await one.stream.send_all(b"\x88\x80abcd")
            assert await one.stream.receive_some() == b""

    async with open_server(port=0, **PATIENT) as server, trio.open_nursery() as nursery:
        ready, connected = trio.open_memory_channel[None](count)
        for _ in range(count):
            nursery.start_soon(client, server.port or 0, ready)
        for _ in range(count):
            await connected.receive()
        for number in range(20):
            await server.hub.publish(f"{number}")
        await server.drain(600)
        assert not server.hub.connections
        assert server.hub.lost == 0
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", server.port or 0)
    assert heard == [([f"{number}" for number in range(20)], (1012, ""))] * count


async def test_who_has_connected_when_a_drain_begins_is_answered() -> None:
    """503, though it wasn't accepted yet."""
    async with open_server(port=0) as server, trio.open_nursery() as nursery:
        # The server waits for connections. The kernel completes these by itself meanwhile.
        await trio.testing.wait_all_tasks_blocked()
        socks = [socket.create_connection(("127.0.0.1", server.port or 0)) for _ in range(30)]
        for sock in socks:
            sock.sendall(upgrade("/"))
        nursery.start_soon(server.drain)
        for sock in socks:
            sock.setblocking(False)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
                answer = b""
                while data := await stream.receive_some():
                    answer += data
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"Retry-After: " in answer


async def test_serve_ends_with_a_drain(tmp_path: Path) -> None:
    """Every listener of the hub does; and so does one that comes too late."""
    async with open_hub(**PATIENT) as hub, trio.open_nursery() as nursery:
        one = await nursery.start(partial(serve, hub, port=0))
        await nursery.start(partial(serve, hub, unix=tmp_path / "hub.sock"))
        async with raw_client(one.port) as client:
            async with trio.open_nursery() as clients:
                clients.start_soon(one.drain)
                assert (await client.until(lambda peer: peer.close)).close == (1012, "")
                await client.stream.send_all(b"\x88\x80abcd")
        assert not nursery.child_tasks
        await nursery.start(partial(serve, hub, port=0))
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_sessions_of_a_server_are_cancelled_at_the_deadline(
    mock_clock: trio.testing.MockClock,
) -> None:
    """And `drain` doesn't wait for what they do then."""
    cancelled = trio.Event()

    async def session(client: Client) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with open_server(port=0, session=session) as server, raw_client(server.port) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain, 0.1)
            assert (await client.until(lambda peer: peer.close)).close == (1012, "")
            mock_clock.jump(0.1)
        await cancelled.wait()


async def test_a_drain_without_time_counts_what_it_cuts_off(caplog: pytest.LogCaptureFixture) -> None:
    """The figures are right although the deadline has passed before the work begins."""
    caplog.set_level("INFO")
    async with open_server(port=0) as server, raw_client(server.port):
        await server.drain(0)
    assert "draining within 0.0 seconds; clients: 1" in caplog.text
    assert "drained in 0.0 seconds; closed in good order: 0, cut off: 1" in caplog.text


async def test_leaving_after_a_cancelled_drain() -> None:
    """Clients that were not told by then hear 1001."""
    async with trio.open_nursery() as nursery:
        async with open_server(port=0, **PATIENT) as server:
            client = await nursery.start(_hear_the_close, server.port)
            with trio.CancelScope() as scope:
                scope.cancel()
                await server.drain()
            assert scope.cancelled_caught
            await server.hub.publish("still there")
            assert (await client.until(lambda peer: peer.messages)).messages == ["still there"]


async def _hear_the_close(port: int, task_status: trio.TaskStatus[Any]) -> None:
    async with raw_client(port) as client:
        task_status.started(client)
        while not client.peer.messages:  # it is read by the test until then
            await trio.lowlevel.checkpoint()
        assert (await client.until(lambda peer: peer.close)).close == (1001, "")


async def test_a_cancelled_server_says_goodbye() -> None:
    """1001 for all who read, though the session is cancelled at once."""
    with trio.CancelScope() as scope:
        async with open_server(port=0, close_timeout=0.2) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port or 0)
            await stream.send_all(upgrade("/"))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
            scope.cancel()
            await trio.sleep_forever()
    async with stream:
        assert await stream.receive_some() == b"\x88\x02\x03\xe9"


async def test_an_idle_connection_is_one_task() -> None:
    """And it is gone with the connection."""
    async with open_server(port=0) as server:
        before = trio.lowlevel.current_statistics().tasks_living
        streams = [await trio.open_tcp_stream("127.0.0.1", server.port or 0) for _ in range(20)]
        for stream in streams:
            await stream.send_all(upgrade("/"))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
        assert trio.lowlevel.current_statistics().tasks_living - before == 20
        for stream in streams:
            await stream.aclose()
        while len(server.hub.clients):
            await trio.lowlevel.checkpoint()


async def test_when_files_run_out_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """EMFILE: connected clients aren't touched, new ones get a 503, and the log has one line."""
    import resource  # noqa: PLC0415 - absent on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with open_server(port=0) as server, open_websocket_url(url(server)) as witness:
        ours = [socket.socket() for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
        fillers = []
        try:
            while True:
                fillers.append(os.dup(0))
        except OSError:
            pass
        try:
            sock = ours.pop()
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.connect(("127.0.0.1", server.port))
            refused = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            with trio.fail_after(120):
                assert (await refused.receive_some()).startswith(b"HTTP/1.1 503 ")
                assert not await refused.receive_some()
            await server.hub.publish("fine")
            assert await witness.get_message() == "fine"
        finally:
            for filler in fillers:
                os.close(filler)
            for extra in ours:
                extra.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await refused.aclose()
        assert caplog.text.count("can't accept") == 1
        async with await trio.open_tcp_stream("127.0.0.1", server.port or 0) as stream:
            await stream.send_all(upgrade("/"))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")


async def test_a_slow_client_holds_up_nobody() -> None:
    """It reads nothing while the others get all; what it holds is bounded; then it gets all, too."""
    count, size = 400, 4096
    async with (
        open_server(port=0, **PATIENT) as server,
        await trio.open_tcp_stream("127.0.0.1", server.port or 0) as slow,
    ):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # else it may grow to take all
        await slow.send_all(upgrade("/?exact.type=t"))
        async with open_websocket_url(url(server, "/?exact.type=t"), max_message_size=1 << 20) as fast:
            for i in range(count):
                await server.hub.publish(f"{i:04}" + "x" * size, type="t")
                assert (await fast.get_message())[:4] == f"{i:04}"
        position = next(iter(server.hub.clients)).position
        assert position is not None
        assert not position.live
        assert sum(map(len, position.outlet.owed)) <= size + 8  # type: ignore[call-overload] # `owed` is a list, behind a protocol that says less
        kernel = FakeKernel()
        peer = Peer(kernel)
        while len(peer.messages) < count:
            kernel.taken += await slow.receive_some()
            peer.look()
        assert [message[:4] for message in peer.messages] == [f"{i:04}" for i in range(count)]


async def test_hub_handle_on_any_listener() -> None:
    """`trio.serve_tcp(hub.handle, …)` is a server too."""
    async with open_hub() as hub, trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, hub.handle, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with open_websocket("127.0.0.1", port, "/?exact.type=t", use_ssl=False) as websocket:
            await hub.publish("x", type="t")
            assert await websocket.get_message() == "x"
            (client,) = hub.clients
            assert client.remote.startswith("127.0.0.1:")
        nursery.cancel_scope.cancel()


async def test_the_readme_example_of_embedding() -> None:
    """As the design has it: publish with an audience, subscribe inside the process."""
    async with open_server(port=0) as server:
        async with open_websocket_url(url(server, "/?team=ops")) as ops:
            await server.hub.publish(
                "disk is full",
                type="disk.full",
                audience=lambda client: client.params.get("team") == "ops",
            )
            assert await ops.get_message() == "disk is full"
        async with server.hub.subscribe(Exact(type="order.created")) as notifications:
            await server.hub.publish("42", type="order.created")
            async for notification in notifications:
                assert notification.data == "42"
                break


async def hang(client: Client) -> None:
    await trio.sleep_forever()


async def test_a_listener_ends_with_its_hub(mock_clock: trio.testing.MockClock) -> None:
    """Though another nursery runs it; its clients are told, and a session that hangs is cancelled."""
    async with trio.open_nursery() as nursery:
        async with open_hub(session=hang) as hub:
            server = await nursery.start(partial(serve, hub, port=0))
            peer = await trio.open_tcp_stream("127.0.0.1", server.port)
            await peer.send_all(upgrade("/"))
            assert (await peer.receive_some()).startswith(b"HTTP/1.1 101")

            @nursery.start_soon
            async def hear() -> None:
                async with peer:
                    assert await peer.receive_some() == b"\x88\x02\x03\xe9"
                    mock_clock.jump(hub.settings.close_timeout)

        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", server.port)
        # On a hub that is over it ends at once.
        await serve(hub, port=0)


async def test_a_closed_hub_refuses_with_503() -> None:
    """Clients that come later, on a stream that the application has accepted."""
    async with trio.open_nursery() as nursery:
        async with open_hub() as hub:
            pass
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(hub.handle, ours)
        await theirs.send_all(upgrade("/"))
        assert (await theirs.receive_some()).startswith(b"HTTP/1.1 503 ")
        await theirs.aclose()
    assert not hub.connections


@pytest.mark.parametrize(
    ("options", "public", "admin"),
    [
        ({}, 403, 403),
        ({"authenticate": Request.client}, 200, 403),
        ({"authenticate": Request.client, "insecure": True}, 200, 200),
        ({"authenticate": Request.client, "host": "0.0.0.0"}, 200, 200),
        ({"authenticate": Tokens(secret_issuer())}, 200, 401),
        ({"secret": b"0123456789abcdef0123456789abcdef"}, 200, 401),
    ],
)
async def test_a_page_whose_name_leads_here(options: Any, public: int, admin: int) -> None:
    """It isn't answered at a port where everyone on this machine would be an operator."""
    async with open_server(port=0, admin_port=0, **options) as server:
        for port, path, name, status in (
            (server.port, "/trionotify.js", "evil.example", public),
            (server.admin_port, "/clients", "evil.example", admin),
            (server.admin_port, "/clients", "localhost", 200 if admin == 403 else admin),
        ):
            async with await trio.open_tcp_stream("127.0.0.1", port or 0) as stream:
                fields = f"Host: {name}:{port}\r\nOrigin: http://{name}:{port}\r\nConnection: close"
                await stream.send_all(f"GET {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
                with trio.fail_after(120):
                    answer = b"".join([data async for data in stream])
            assert int(answer[9:12]) == status


async def test_stopping_one_server_leaves_the_others_requests_alone() -> None:
    """A request that still waits for `authenticate` is answered, and one that is arriving, too."""
    asked, go_on = trio.Event(), trio.Event()

    async def authenticate(request: Request) -> Client:
        asked.set()
        await go_on.wait()
        return request.client()

    async with open_hub(authenticate=authenticate, **PATIENT) as hub, trio.open_nursery() as nursery:
        one = await nursery.start(partial(serve, hub, port=0))
        other = await nursery.start(partial(serve, hub, port=0))
        async with (
            await trio.open_tcp_stream("127.0.0.1", one.port) as dropped,
            await trio.open_tcp_stream("127.0.0.1", other.port) as waiting,
            await trio.open_tcp_stream("127.0.0.1", other.port) as arriving,
        ):
            await dropped.send_all(b"GET /livez HTTP/1.1\r\n")
            await arriving.send_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
            await waiting.send_all(upgrade("/"))
            await asked.wait()
            while hub.entrance.half_open < 3:
                await trio.lowlevel.checkpoint()
            one.stop()
            with suppress(trio.BrokenResourceError):
                assert await dropped.receive_some() == b""
            go_on.set()
            await arriving.send_all(b"\r\n")
            assert (await arriving.receive_some()).startswith(b"HTTP/1.1 200 ")
            assert (await waiting.receive_some()).startswith(b"HTTP/1.1 101 ")
        other.stop()


@pytest.mark.parametrize(
    "options",
    [{"tls_key": "key.pem"}, {"port": "x"}, {"prot": 0}, {"max_log_age": -1}, {"secret": b""}],
)
async def test_sockets_are_closed_whatever_is_wrong(options: dict[str, Any]) -> None:
    """They are the server's from the call on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with pytest.raises((TypeError, ValueError)):
            async with open_server(sockets=iter([sock]), **options):
                raise AssertionError("it opened")
        assert sock.fileno() == -1


async def test_streams_of_another_nursery_hear_the_goodbye(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """All of them, whichever task the hub's end wakes first."""
    for _ in range(20):
        async with trio.open_nursery() as nursery:
            async with open_hub() as hub:
                ours, theirs = trio.testing.memory_stream_pair()
                nursery.start_soon(hub.handle, ours)
                await theirs.send_all(upgrade("/"))
                assert (await theirs.receive_some()).startswith(b"HTTP/1.1 101")

                @nursery.start_soon
                async def peer(stream: Any = theirs) -> None:
                    assert await stream.receive_some() == b"\x88\x02\x03\xe9"
                    await stream.send_all(b"\x88\x80abcd")
