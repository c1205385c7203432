"""TLS, written synchronously: every byte once and in order, and a good end, whatever the peers do.

The client here is the `ssl` module's own, over a socket that the test reads, or doesn't. So it sees what
many clients hide: whether `close_notify` came, and whether it came before the end of the connection.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trustme
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import cancel_at_every_await
from tests.kernel import upgrade
from tests.test_peers import need
from tests.web import get
from trionotify import open_server
from trionotify.connection.tls import TlsTransport
from trionotify.connection.transport import linger

PATIENCE = 120
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


@functools.cache
def server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("localhost", "127.0.0.1").configure_cert(context)
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


@functools.cache
def client_context(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    context.maximum_version = version
    return context


class Peer:
    """A client that reads when the test says, and as much as it says."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext | None = None, **options: Any
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = context or client_context()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname="localhost", **options
        )
        self.heard = bytearray()
        #: How it ended: `close_notify`, the connection's end, an alert or a reset, in that order.
        self.ends: list[str] = []

    async def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.flush()
                await self._take(1 << 16)
            else:
                return await self.flush()

    async def flush(self) -> None:
        data = self._outgoing.read()
        while data:
            await trio.lowlevel.wait_writable(self.sock)
            data = data[self.sock.send(data) :]

    async def say(self, data: bytes) -> None:
        """As one record, or as many as it needs."""
        self.tls.write(data)
        await self.flush()

    async def say_goodbye(self) -> None:
        """Send `close_notify`, and go on reading."""
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.flush()

    async def _take(self, most: int) -> None:
        await trio.lowlevel.wait_readable(self.sock)
        try:
            data = self.sock.recv(most)
        except ConnectionError:
            self.ends.append("reset")
            return
        if data:
            self._incoming.write(data)
        else:
            self.ends.append("end")
            self._incoming.write_eof()

    async def read(self, most: int = 1 << 16) -> None:
        """Wait for at most so many bytes of ciphertext, and understand them."""
        await self._take(most)
        if "close_notify" in self.ends:
            return
        try:
            while data := self.tls.read(1 << 16):
                self.heard += data
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError:
            pass  # as the empty one, after our own goodbye
        except ssl.SSLEOFError:
            return
        except ssl.SSLError as error:
            self.ends.append(error.reason)
            return
        self.ends.insert(0, "close_notify")

    async def until(self, condition: Callable[[Peer], object]) -> None:
        while not condition(self):
            assert not self.ends, (self.ends, bytes(self.heard[-300:]))
            await self.read()

    async def to_the_end(self) -> bytes:
        """All that comes, up to the end of the connection."""
        while not {"end", "reset"} & set(self.ends):
            await self.read()
        return bytes(self.heard)


class Stingy:
    """A socket that takes so many bytes of each send; 0 is that its buffer is full."""

    def __init__(self, sock: socket.socket, takes: Iterable[int]) -> None:
        self._sock = sock
        self._takes = iter(takes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: bytes) -> int:
        if not (most := next(self._takes)):
            raise BlockingIOError
        return self._sock.send(data[:most])


@asynccontextmanager
async def open_pair(
    takes: Iterable[int] = (),
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    *,
    buffers: int | None = None,
) -> AsyncIterator[tuple[TlsTransport, Peer]]:
    """A transport and its client, whose handshakes are done."""
    ours, theirs = socket.socketpair()
    with ours, theirs, trio.fail_after(PATIENCE):
        for sock in (ours, theirs):
            sock.setblocking(False)
            if buffers is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        slow: Any = Stingy(ours, itertools.chain(takes, itertools.repeat(1 << 20)))
        transport = TlsTransport(slow, server_context())
        peer = Peer(theirs, client_context(version))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def begin() -> None:
                await peer.shake_hands()
                await peer.say(b"hello")

            assert await transport.receive_some() == b"hello"
        yield transport, peer
        await transport.aclose()


async def write(transport: TlsTransport, data: bytes) -> None:
    """As the Wire does it: at once as much as goes, the rest when there is room."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[transport.send(rest) :]
        except BlockingIOError:
            await transport.wait_writable()


def fill(transport: TlsTransport, data: bytes = bytes(1 << 16)) -> tuple[int, bytes]:
    """Write until the kernel is full: how much it took, and what must go out next."""
    total = 0
    while True:
        try:
            sent = transport.send(data)
        except BlockingIOError:
            return total, data
        total += sent
        if sent < len(data):
            return total, data[sent:]


# --- every byte, once and in order ---

sizes = st.one_of(
    st.integers(1, 300),
    st.sampled_from([16383, 16384, 16385, 32767, 32768, 32769]),
    st.integers(1, 50_000),
)


@given(
    messages=st.lists(sizes, min_size=1, max_size=4),
    takes=st.lists(st.one_of(st.integers(0, 40), st.integers(0, 20_000)), max_size=60),
    reads=st.lists(st.integers(200, 5000), min_size=1, max_size=5),
    says=st.lists(st.integers(1, 20_000), max_size=4),
    version=st.sampled_from(VERSIONS),
    waits=st.booleans(),
)
@example([16384, 1, 16384], [0, 1, 0, 16383, 21, 0, 1], [1000], [], VERSIONS[1], False)
@settings(deadline=None, max_examples=40)
def test_the_peer_reads_what_was_sent(  # noqa: PLR0917 - hypothesis gives them
    messages: list[int],
    takes: list[int],
    reads: list[int],
    says: list[int],
    version: ssl.TLSVersion,
    waits: bool,
) -> None:
    """Whatever the sizes, however little the kernel takes, and whatever the peer says meanwhile."""
    sent = [os.urandom(size) for size in messages]
    said = [os.urandom(size) for size in says]

    async def main() -> None:
        async with open_pair([100_000] * 5 + takes, version, buffers=4096) as (transport, peer):
            received = bytearray()

            async def read_all() -> None:
                while data := await transport.receive_some():
                    received.extend(data)

            async def write_all() -> None:
                for data in sent:
                    if not waits:
                        await write(transport, data)
                        continue
                    rest = data
                    while rest:
                        rest = rest[await transport.send_some(rest) :]

            async def say_all() -> None:
                for data in said:
                    await peer.say(data)

            async with trio.open_nursery() as nursery:
                for each in (read_all, write_all, say_all):
                    nursery.start_soon(each)
                for most in itertools.cycle(reads):
                    if len(peer.heard) == sum(messages):
                        break
                    await peer.read(most)
                while len(received) < sum(says):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert bytes(received) == b"".join(said)
            async with trio.open_nursery() as nursery:
                # The peer may still have to read before there is room for the goodbye.
                nursery.start_soon(transport.send_eof)
                assert await peer.to_the_end() == b"".join(sent)
            assert peer.ends == ["close_notify", "end"]

    trio.run(main)


TAKES = [100_000] * 5 + [0, 1, 0, 0, 7, 3000, 0, 16_000, 0, 20_000, 1, 0, 0]


async def test_a_write_that_is_cancelled_leaves_nothing_torn() -> None:
    """Bytes that were not counted as sent go out again, and the peer reads them once."""
    data = os.urandom(60_000)

    async def operation(_: int) -> None:
        async with open_pair(TAKES, buffers=1 << 20) as (transport, peer):
            sent = 0
            try:
                while sent < len(data):
                    sent += await transport.send_some(data[sent:])
            finally:
                with trio.CancelScope(shield=True):
                    await write(transport, data[sent:])
                    await transport.send_eof()
                    assert await peer.to_the_end() == data
                    assert peer.ends == ["close_notify", "end"]

    assert await cancel_at_every_await(operation) > 10


async def test_a_wait_that_is_cancelled_leaves_nothing_torn() -> None:
    """The task that writes may change in the middle of a record."""
    data = os.urandom(60_000)

    async def operation(_: int) -> None:
        async with open_pair(TAKES, buffers=1 << 20) as (transport, peer):
            rest = memoryview(data)
            try:
                while rest:
                    await transport.wait_writable()
                    with suppress(BlockingIOError):
                        rest = rest[transport.send(rest) :]
            finally:
                with trio.CancelScope(shield=True):
                    await write(transport, bytes(rest))
                    await transport.send_eof()
                    assert await peer.to_the_end() == data

    assert await cancel_at_every_await(operation) > 10


async def test_a_read_that_is_cancelled_loses_nothing() -> None:
    """Neither what has arrived, nor what of it was decrypted."""
    said = os.urandom(150_000)

    async def operation(_: int) -> None:
        async with open_pair(buffers=1 << 20) as (transport, peer):
            with trio.CancelScope(shield=True):
                await peer.say(said)
            received = b""
            try:
                while len(received) < len(said):
                    received += await transport.receive_some()
            finally:
                with trio.CancelScope(shield=True):
                    while len(received) < len(said):
                        received += await transport.receive_some()
                    assert received == said

    assert await cancel_at_every_await(operation) > 5


async def test_an_end_that_is_cancelled_can_be_said_again() -> None:
    """`close_notify` comes once, behind all the rest."""

    async def operation(_: int) -> None:
        async with open_pair([100_000] * 5 + [0, 1, 0, 3, 0, 0]) as (transport, peer):
            try:
                await transport.send_eof()
            finally:
                with trio.CancelScope(shield=True):
                    await transport.send_eof()
                    assert await peer.to_the_end() == b""
                    assert peer.ends == ["close_notify", "end"]

    assert await cancel_at_every_await(operation) > 3


# --- both ways at once ---


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_slow_reader_is_still_read(version: ssl.TLSVersion) -> None:
    """Its data is received while one task waits for it to read, whichever task waits first."""
    async with open_pair(version=version, buffers=4096) as (transport, peer):
        _, rest = fill(transport)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, transport, rest)
            for _ in range(3):
                await trio.testing.wait_all_tasks_blocked()
                await peer.say(b"I'm here")
                assert await transport.receive_some() == b"I'm here"
            with trio.move_on_after(0.01):
                await transport.receive_some()
            await peer.until(lambda peer: peer.heard.endswith(rest))


async def test_a_peer_reads_on_behind_its_own_goodbye() -> None:
    """As with TCP: one that has said all may still have much to hear."""
    async with open_pair() as (transport, peer):
        await peer.say_goodbye()
        assert await transport.receive_some() == b""
        await write(transport, b"answer")
        await transport.send_eof()
        assert await peer.to_the_end() == b"answer"
        assert peer.ends == ["close_notify", "end"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_data_behind_our_goodbye(version: ssl.TLSVersion) -> None:
    """It is passed over, and the peer's end is seen."""
    async with open_pair(version=version) as (transport, peer):
        await peer.say(b"in flight")
        await transport.send_eof()
        await peer.say(b"late" * 10_000)
        await peer.to_the_end()
        assert peer.ends == ["close_notify", "end"]
        peer.sock.close()
        while await transport.receive_some():
            pass


async def test_a_ragged_end() -> None:
    """A connection that ends without `close_notify` has ended, and that is no error."""
    async with open_pair() as (transport, peer):
        await peer.say(b"bye")
        peer.sock.shutdown(socket.SHUT_WR)
        assert await transport.receive_some() == b"bye"
        assert await transport.receive_some() == b""


async def test_the_end_is_said_to_a_slow_reader() -> None:
    """`close_notify` waits for room as well: one that reads slowly gets it, however long that takes."""
    async with open_pair(buffers=4096) as (transport, peer):
        _, rest = fill(transport)
        assert rest  # the goodbye stands behind it
        slow = Acknowledging(transport)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(linger, slow, 0.01)
            while slow.patience_ran_out < 2:
                await trio.lowlevel.checkpoint()
            await peer.to_the_end()
            assert peer.ends == ["close_notify", "end"]
            peer.sock.close()


class Acknowledging:
    """As over TCP, where it is known that the peer makes progress."""

    half_closes = True
    encrypted = False

    def __init__(self, transport: TlsTransport) -> None:
        self.receive_some, self.send_eof = transport.receive_some, transport.send_eof
        self.patience_ran_out = 0

    @property
    def unacknowledged(self) -> int:
        self.patience_ran_out += 1
        return 1_000_000 - self.patience_ran_out


# --- handshakes, keys, records ---


@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.sampled_from(VERSIONS))
@settings(deadline=None, max_examples=20)
def test_a_handshake_in_pieces(pieces: list[int], version: ssl.TLSVersion) -> None:
    """However it is cut, either way."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, trio.fail_after(PATIENCE):
            ours.setblocking(False)
            stingy: Any = Stingy(ours, itertools.cycle([*pieces, 0]))
            transport = TlsTransport(stingy, server_context())
            slow: Any = Stingy(theirs, itertools.cycle(pieces))
            peer = Peer(slow, client_context(version))
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def talk() -> None:
                    await peer.shake_hands()
                    await peer.say(b"first")
                    # It must read: the server's tickets, a byte at a time, fill a kernel's buffer.
                    await peer.until(lambda peer: peer.heard == b"answer")

                assert await transport.receive_some() == b"first"
                await write(transport, b"answer")

    trio.run(main)


async def test_tiny_records_give_turns() -> None:
    """Thousands of them in one read are as many turns of the others."""
    async with open_pair(buffers=1 << 20) as (transport, peer):
        for _ in range(2000):
            peer.tls.write(b"x")
        await peer.flush()
        turns, received = 0, b""

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            while len(received) < 2000:
                received += await transport.receive_some()
            nursery.cancel_scope.cancel()
        assert turns >= 1000


async def test_questions_whose_answers_are_not_read() -> None:
    """A peer that makes TLS answer and never reads loses its connection before that takes memory."""

    class Asked:
        """A peer can ask for new keys again and again; here each read finds that it did."""

        def read(self, _: int) -> bytes:
            transport._outgoing.write(bytes(1000))
            raise ssl.SSLWantReadError

        def __getattr__(self, name: str) -> Any:
            return getattr(tls, name)

    async with open_pair(buffers=4096) as (transport, peer):
        tls = transport._tls
        asked: Any = Asked()
        transport._tls = asked

        async def ask() -> None:
            while True:
                await peer.say(b"again")
                with trio.move_on_after(0.001):
                    await transport.receive_some()

        with pytest.raises(trio.BrokenResourceError):
            await ask()
        assert len(transport._unsent) < 100_000
        transport._tls = tls


async def test_a_closed_connection_is_out_of_memory() -> None:
    """At once: what TLS has of it is too much to wait for the cycle collector."""
    gc.disable()
    try:
        async with open_pair() as (transport, peer):
            await transport.aclose()
            tls = weakref.ref(transport._tls)
        del transport, peer
        assert tls() is None
    finally:
        gc.enable()


@asynccontextmanager
async def s_client(port: int, *options: str) -> AsyncIterator[trio.Process]:
    """OpenSSL's own client, which takes commands."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options]
    pipe = subprocess.PIPE
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                functools.partial(
                    trio.run_process,
                    command,
                    stdin=pipe,
                    stdout=pipe,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
            )
            yield process
            nursery.cancel_scope.cancel()


async def test_new_keys() -> None:
    """A peer may change them, and ask for ours to change, whether we write or only read."""
    need(shutil.which("openssl"), "needs openssl")
    options: Any = {"head_timeout": 600, "keep_alive_timeout": 600, "page": False}
    async with open_server(port=0, ssl_context=server_context(), **options) as server:
        async with s_client(server.port or 0, "-tls1_3") as process:
            assert process.stdin
            assert process.stdout
            request = "GET /livez HTTP/1.1\nHost: localhost\n"
            shown = b""

            async def until(text: bytes, count: int = 1) -> None:
                nonlocal shown
                while shown.count(text) < count:
                    data = await process.stdout.receive_some()
                    assert data, shown
                    shown += data

            for number, command in enumerate(("K", "k", "K"), 1):
                await process.stdin.send_all(f"{command}\n".encode())
                await until(b"KEYUPDATE", number)
                await process.stdin.send_all((request + "\n").replace("\n", "\r\n").encode())
                await until(b"\nok\n", number)


# --- the server ---


@asynccontextmanager
async def tls_server(**options: Any) -> AsyncIterator[Any]:
    with trio.fail_after(PATIENCE):
        async with open_server(port=0, ssl_context=server_context(), page=False, **options) as server:
            yield server


@asynccontextmanager
async def tls_peer(
    server: Any, request: bytes = b"", *, buffers: int | None = None, **options: Any
) -> AsyncIterator[Peer]:
    """A client that has sent its request."""
    sock = socket.socket()
    with sock:
        if buffers is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        sock.connect(("127.0.0.1", server.port))
        peer = Peer(sock, **options)
        await peer.shake_hands()
        if request:
            await peer.say(request)
        yield peer


async def test_others_run_between_two_steps_of_handshakes() -> None:
    """However many hellos are there at once: with a long key, each costs milliseconds."""
    happened: list[str] = []
    over = trio.Event()

    class Noted(ssl.SSLObject):
        begun = False

        def do_handshake(self) -> None:
            if self.begun:  # the first time there is nothing to read yet
                happened.append("step")
                if happened.count("step") == len(hellos):
                    over.set()
            self.begun = True
            super().do_handshake()

    context = server_context.__wrapped__()  # one of its own
    context.sslobject_class = Noted
    hellos = [ssl.MemoryBIO() for _ in range(20)]
    for hello in hellos:
        with pytest.raises(ssl.SSLWantReadError):
            client_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    opened = open_server(port=0, ssl_context=context, head_timeout=600)
    async with opened as server, trio.open_nursery() as nursery:
        with ExitStack() as stack:
            for hello in hellos:
                sock = socket.create_connection(("127.0.0.1", server.port or 0))
                stack.enter_context(sock).sendall(hello.read())

            @nursery.start_soon
            async def tick() -> None:
                while True:
                    happened.append("turn")
                    await trio.lowlevel.checkpoint()

            with trio.fail_after(PATIENCE):
                await over.wait()
            nursery.cancel_scope.cancel()
    # (Trio runs the tasks of one round in any order: so two may come together, the last and the first.)
    assert max(len(list(group)) for name, group in itertools.groupby(happened) if name == "step") <= 2


STREAM = get("/events", "Accept: text/event-stream")
IN_GOOD_ORDER = ["close_notify", "end"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (get("/livez", "Connection: close"), b"HTTP/1.1 200 "),
        (b"GET /livez HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 "),
        (get("/nothing", "Connection: close"), b"HTTP/1.1 404 "),
        (get("/livez", "Connection: close", method="HEAD"), b"HTTP/1.1 200 "),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 "),
        (upgrade("/?role=king"), b"HTTP/1.1 400 "),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ", b"HTTP/1.1 408 "),
        (get("/livez"), b"HTTP/1.1 200 "),
    ],
    ids=["close", "1.0", "404", "HEAD", "400", "refused", "408", "idle"],
)
async def test_close_notify_stands_right_behind_an_answer(
    request_: bytes, answer: bytes, version: ssl.TLSVersion, mock_clock: trio.testing.MockClock
) -> None:
    """The last one on its connection: then the peer sees the end, and waits for nothing."""
    async with tls_server(close_timeout=300, head_timeout=0.5, keep_alive_timeout=0.5) as server:
        async with tls_peer(server, request_, context=client_context(version)) as peer:
            mock_clock.rate = 1  # it has stood still, so the request is in time
            assert (await peer.to_the_end()).startswith(answer)
            assert peer.ends == IN_GOOD_ORDER


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("request_", [upgrade("/?id=it"), STREAM.replace(b"/events", b"/events?id=it")])
async def test_close_notify_stands_right_behind_a_client(request_: bytes, answers: bool) -> None:
    """Behind its Close frame, or the end of its stream, whether or not it says its own goodbye."""
    async with tls_server(close_timeout=300 if answers else 0.5) as server:
        async with tls_peer(server, request_) as peer:
            await peer.until(lambda peer: b"\r\n\r\n" in peer.heard)
            (client,) = server.hub.clients
            client.close(4000, "bye")
            await peer.to_the_end()
            assert peer.ends == IN_GOOD_ORDER
            assert peer.heard.endswith((b"\x88\x05\x0f\xa0bye", b"\r\n0\r\n\r\n"))
            if answers:
                await peer.say_goodbye()
                peer.sock.close()
            while server.hub.connections:
                await trio.lowlevel.checkpoint()


async def test_a_peer_that_says_no_more_keeps_its_answer() -> None:
    """One that half-closes behind its request gets the answer and a good end, over TLS and without."""
    async with tls_server() as server:
        async with tls_peer(server, get("/livez")) as peer:
            await peer.say_goodbye()
            peer.sock.shutdown(socket.SHUT_WR)
            assert (await peer.to_the_end()).endswith(b"\r\n\r\nok\n")
            assert peer.ends == IN_GOOD_ORDER
    async with open_server(port=0) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port or 0) as stream:
            await stream.send_all(get("/livez"))
            await stream.send_eof()
            answer = b""
            async for data in stream:
                answer += data
            assert answer.endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize(
    "data",
    [get("/livez"), b"\x16\x03\x01", b"\0" * 40, os.urandom(100_000), b""],
    ids=["http", "a begun record", "zeros", "anything", "nothing"],
)
async def test_a_peer_that_speaks_no_tls_gets_an_end(data: bytes) -> None:
    """And so does one whose handshake never ends, after `head_timeout`."""
    async with tls_server(head_timeout=0.5) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            try:
                await stream.send_all(data)
                while found := await stream.receive_some():
                    assert not found.startswith(b"HTTP")
            except trio.BrokenResourceError:
                pass


async def test_a_handshake_that_drips_ends() -> None:
    """Its bytes don't put off the deadline."""
    async with tls_server(head_timeout=0.5) as server:
        outgoing = ssl.MemoryBIO()
        tls = client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            ended = False
            for at in range(len(hello) - 1):
                try:
                    await stream.send_all(hello[at : at + 1])
                    with trio.move_on_after(0.1):
                        ended = not await stream.receive_some()
                except trio.BrokenResourceError:
                    ended = True
                if ended:
                    break
            assert ended


async def test_a_session_is_resumed() -> None:
    """A ticket from one connection makes the next one's handshake short."""
    async with tls_server() as server:
        for version in VERSIONS:
            context = client_context(version)
            async with tls_peer(server, get("/livez"), context=context) as peer:
                await peer.until(lambda peer: peer.heard.endswith(b"ok\n"))
                ticket = peer.tls.session
            async with tls_peer(server, get("/livez"), context=context, session=ticket) as peer:
                assert peer.tls.session_reused
                await peer.until(lambda peer: peer.heard.endswith(b"ok\n"))


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_slow_reader_gets_a_large_message_whole(version: ssl.TLSVersion) -> None:
    """Nine megabytes, through a small window, with Pings of its own in between, which are answered."""
    async with tls_server() as server:
        peers = tls_peer(server, upgrade("/"), buffers=32768, context=client_context(version))
        async with peers as peer:
            await peer.until(lambda peer: b"\r\n\r\n" in peer.heard)
            del peer.heard[:]
            large = os.urandom(4_500_000).hex()
            await server.hub.publish(large)
            await server.hub.publish("next")
            for _ in range(3):
                await peer.say(b"\x89\x80abcd")
                await peer.read(1000)
            await peer.until(lambda peer: peer.heard.count(b"\x8a\x00") == 3)
            await peer.until(lambda peer: b"next" in peer.heard[-100:])
            assert large.encode() in peer.heard


async def test_a_client_that_takes_nothing_is_dropped() -> None:
    """After `stall_timeout`, though it goes on saying that it is there."""
    async with tls_server(stall_timeout=0.5) as server:
        async with tls_peer(server, upgrade("/"), buffers=4096) as peer:
            await peer.until(lambda peer: b"\r\n\r\n" in peer.heard)
            await server.hub.publish("x" * 9_000_000)
            try:
                while server.hub.connections:
                    await peer.say(b"\x8a\x80abcd")
            except OSError:
                pass
            while server.hub.connections:
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("size", [100, 30_000, 9_000_000], ids=["idle", "behind", "in a frame"])
@pytest.mark.parametrize("how", ["left", "cancelled", "drained"])
async def test_a_goodbye_in_the_middle_of_anything(how: str, size: int) -> None:
    """However the server ends, a client that reads gets whole frames, a Close, and `close_notify`."""
    peers: list[Peer] = []

    async def run_server(task_status: Any) -> None:
        async with tls_server(close_timeout=600) as server:
            task_status.started(server)
            await stop.wait()
            if how == "drained":
                await server.drain(600)

    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as outer:
            server = await outer.start(run_server)
            for _ in range(3):
                sock = socket.socket()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
                sock.connect(("127.0.0.1", server.port))
                peers.append(peer := Peer(sock))
                await peer.shake_hands()
                await peer.say(upgrade("/?format=raw"))
                await peer.until(lambda peer: b"\r\n\r\n" in peer.heard)
                del peer.heard[: peer.heard.index(b"\r\n\r\n") + 4]
            for _ in range(1 if size > 100_000 else 300):
                await server.hub.publish("x" * size)
            for peer in peers:
                nursery.start_soon(read_and_close, peer)
            stop.set()
            if how == "cancelled":
                outer.cancel_scope.cancel()
    for peer in peers:
        frames = list(frames_of(bytes(peer.heard)))
        code = 1012 if how == "drained" else 1001
        assert frames[-1][0] == 8
        assert int.from_bytes(frames[-1][1][:2]) == code
        assert {payload for _, payload in frames[:-1]} <= {b"x" * size}
        assert peer.ends == IN_GOOD_ORDER


async def read_and_close(peer: Peer) -> None:
    await peer.to_the_end()
    peer.sock.close()


def frames_of(data: bytes) -> Iterable[tuple[int, bytes]]:
    """Opcodes and payloads of a server's frames, which must be whole."""
    at = 0
    while at < len(data):
        size, start = data[at + 1], at + 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            size, start = int.from_bytes(data[start : start + wide]), start + wide
        assert start + size <= len(data)
        yield data[at] & 15, data[start : start + size]
        at = start + size


async def test_a_new_certificate_is_for_new_connections(tmp_path: Any) -> None:
    """Those that are open go on with theirs."""
    file = tmp_path / "both.pem"
    authority().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(file)
    with trio.fail_after(PATIENCE):
        async with open_server(port=0, tls_cert=file, page=False) as server:
            async with tls_peer(server, get("/livez")) as old:
                await old.until(lambda peer: peer.heard.endswith(b"ok\n"))
                authority().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(file)
                server.reload()
                async with tls_peer(server) as new:
                    certificates = [peer.tls.getpeercert(binary_form=True) for peer in (old, new)]
                    assert certificates[0] != certificates[1]
                del old.heard[:]
                await old.say(get("/livez"))
                await old.until(lambda peer: peer.heard.endswith(b"ok\n"))


async def test_a_context_for_clients_is_refused_at_the_start() -> None:
    """No connection could ever be made with it."""
    with pytest.raises(ValueError, match="a server's"):
        async with open_server(port=0, ssl_context=client_context()):
            pass
