"""The server as a process: signals in each of its phases. (`test_main` and `test_serve` have more.)"""

from __future__ import annotations

import logging
import signal
from typing import Any

import pytest
import trio

from trionotify.cli.process import serve_until_signal
from trionotify.cli.stdio import Terminal


class Waiting(trio.abc.HostnameResolver):
    """Finds nothing, for ever: the server stays on its way."""

    def __init__(self) -> None:
        self.asked = trio.Event()

    async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        self.asked.set()
        await trio.sleep_forever()

    async def getnameinfo(self, sockaddr: Any, flags: Any) -> Any:
        raise NotImplementedError


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_it_starts(
    number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    """It gives up, with exit code 0, because nothing was lost. The next signal has its usual effect."""
    caplog.set_level(logging.INFO)
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    waiting, listening, codes = Waiting(), trio.Event(), []
    trio.socket.set_custom_hostname_resolver(waiting)

    async def serve() -> None:
        options = {"host": "here", "port": 0, "store": "memory:"}
        codes.append(await serve_until_signal(options, listening, Terminal(ignored=True)))

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await waiting.asked.wait()
            signal.raise_signal(signal.SIGHUP)  # the files that it would read again are still to be read
            await trio.testing.wait_all_tasks_blocked()
            signal.raise_signal(number)
    assert (codes, listening.is_set()) == ([0], False)
    (record,) = [each for each in caplog.records if each.__dict__.get("event") == "stopping"]
    assert record.getMessage() == (
        f"{number.name} while the server starts; a second signal ends it at once"
    )
    after = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    assert after == before
