"""Running out of descriptors: the log lines, and the answers to new clients."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import pytest
import trio
import trio.testing

from tests.connection.test_tls import PATIENCE, Peer
from trionotify.server.exhaustion import Exhaustion

Clock = trio.testing.MockClock
FULL = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_a_spell_is_logged_once(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """However often accepting fails; after half a minute without, the next one is news."""
    exhaustion = Exhaustion()
    try:
        for _ in range(3):
            for _ in range(100):
                exhaustion.note(FULL)
                await trio.sleep(0.1)
            await trio.sleep(20)
        assert [record.event for record in caplog.records] == ["accept_failed"]  # type: ignore[attr-defined] # ours
        await trio.sleep(31)
        exhaustion.note(FULL)
        assert len(caplog.records) == 2
    finally:
        exhaustion.close()


async def test_two_listeners_share_one_reserve() -> None:
    """No descriptor is lost when one accepts a connection while the other still refuses one."""
    exhaustion = Exhaustion()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with socket.create_connection(listener.getsockname()):
                await trio.lowlevel.wait_readable(listener)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(exhaustion.refuse, listener)
                    await trio.testing.wait_all_tasks_blocked()
                    exhaustion.over()
        assert len(os.listdir("/proc/self/fd")) == before
    exhaustion.close()


async def test_a_connection_is_refused_by_the_reserve() -> None:
    """With an answer that HTTP understands, and the reserve is there again for the next one."""
    exhaustion = Exhaustion()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        assert not await exhaustion.refuse(listener)
        for _ in range(3):
            async with await trio.open_tcp_stream(*listener.getsockname()[:2]) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                with trio.fail_after(120):
                    await trio.lowlevel.wait_readable(listener)
                    assert await exhaustion.refuse(listener)
                    answer = b""
                    while data := await stream.receive_some():
                        answer += data
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"Retry-After: 5\r\n" in answer
    exhaustion.close()
    exhaustion.close()


async def test_a_refusal_over_tls_is_only_an_end() -> None:
    """A plain answer would mean that the server speaks no TLS, and its users would look there."""
    exhaustion = Exhaustion()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with socket.create_connection(listener.getsockname()) as sock:
            peer = Peer(sock)
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def refuse() -> None:
                        await trio.lowlevel.wait_readable(listener)
                        assert await exhaustion.refuse(listener, tls=True)

                    with pytest.raises(ssl.SSLEOFError):
                        await peer.shake_hands()
            assert peer.ends == ["end"]
    exhaustion.close()
