"""Connecting, being connected, and coming back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any
from urllib.request import urlopen

from benchmarks.cases.measures import KIB, US, Figures, Run, closing, settle
from benchmarks.cases.steady import steady
from benchmarks.load import (
    PATIENCE,
    WEBSOCKET,
    Handshakes,
    Readers,
    Stuck,
    client_frame,
    connect,
    connect_all,
    frame_size,
    send_all,
)
from benchmarks.provider import token
from benchmarks.servers import OURS_JWT, Server


def own_filter(number: int) -> str:
    """A client with an id and a filter of its own."""
    return f"/?id=u{number}&exact.type=t{number}"


def shared_filter(number: int) -> str:
    """A client with an id, and the filter that all have."""
    return f"/?id=u{number}&exact.type=t"


def connects(clients: int, times: int = 5) -> Run:
    """Clients connect and stay; when all are there, they leave."""
    return _connects(times, lambda server: [WEBSOCKET.format("/")] * clients)


def connects_with_tokens(clients: int, times: int = 5, *, again: bool = False) -> Run:
    """The same, each with an id: that of a token of its own, or where there are none, of the query.

    The tokens are new each time, or with `again` the same.
    """

    def requests(server: Server) -> list[str]:
        if server.kind.name != OURS_JWT:
            return [WEBSOCKET.format(f"/?id=u{number}") for number in range(clients)]
        head = WEBSOCKET.format("/").removesuffix("\r\n")
        return [f"{head}Authorization: Bearer {token(f'u{n}')}\r\n\r\n" for n in range(clients)]

    return _connects(times, cache(requests) if again else requests)


def _connects(times: int, requests_of: Callable[[Server], list[str]]) -> Run:
    def run(server: Server) -> Figures:
        requests = requests_of(server)
        clients = len(requests)
        with closing(connect_all(server.port, requests, "{}")):
            pass  # the first ones pay for what is made once
        connecting = leaving = clock = 0.0
        for _ in range(times):
            requests = requests_of(server)
            settle(server)
            before, start = server.cpu(), time.perf_counter()
            with closing(connect_all(server.port, requests, "{}")):
                clock += time.perf_counter() - start
                connecting += server.cpu() - before
                settle(server)
                before = server.cpu()
            settle(server)
            leaving += server.cpu() - before
        return {
            "CPU us/connect": connecting / clients / times * US,
            "CPU us/leave": leaving / clients / times * US,
            "connects/s": clients * times / clock,
        }

    return run


def idle(connections: int, target: Callable[[int], str], resting: float = 5.0) -> Run:
    """Connect, and say nothing more. A peer gets plain clients."""

    def run(server: Server) -> Figures:
        targets = [target(n) if server.kind.tree else "/" for n in range(connections)]
        with closing(connect_all(server.port, targets[:200])):
            pass  # the first ones pay for what is made once
        settle(server)
        memory, cpu, start = server.memory(), server.cpu(), time.perf_counter()
        with closing(connect_all(server.port, targets)):
            clock, connecting = time.perf_counter() - start, server.cpu() - cpu
            settle(server)
            memory, cpu = server.memory() - memory, server.cpu()
            time.sleep(resting)
            used = server.cpu() - cpu
        return {
            "KiB/connection": memory / connections * KIB,
            "CPU us/connect": connecting / connections * US,
            "connects/s": connections / clock,
            "idle CPU %": used / resting * 100,
        }

    return run


def storm(returning: int, staying: int, missed: int = 10) -> Run:
    """Clients come back at once with their cursors. Meanwhile others get messages at a steady rate."""
    size = 128

    def run(server: Server) -> Figures:
        targets = [f"/?id=u{number}&exact.type=missed" for number in range(returning)]
        with closing(connect_all(server.port, ["/?exact.type=steady"] * staying)) as others:
            with closing(connect_all(server.port, targets)):
                cursor = _ask(server, "/events?type=last", b"seen")["cursor"]
            publisher = connect(server.port, "/?role=publisher&type=missed")
            send_all(publisher, client_frame(b"." * size) * missed)
            # A server that is at its limit would refuse them while it hasn't noticed that they left.
            _wait_until_left(server, staying + 1)
            come_back = [f"{target}&since={cursor}" for target in targets]
            back, readers = Handshakes(server.port, come_back, at_a_time=1000), Readers([])
            due, clock = returning * missed * frame_size(size), 0.0

            def come() -> bool:
                nonlocal due, clock
                for client in back.step(0.0):
                    readers.add(client)
                due -= sum(got for _, got in readers.read_some(0.0))
                clock = time.perf_counter() - start
                return back.under_way or due > back.behind

            cpu, start = server.cpu(), time.perf_counter()
            with closing(back.clients), closing([publisher]):
                late = steady(server, others, 100, size, come, "/?role=publisher&type=steady")
                cpu = server.cpu() - cpu
        return {
            "seconds": clock,
            "CPU us/client": cpu / returning * US,
            **{f"others' {name}": late[name] for name in ("p50 ms", "p99 ms", "p99.9 ms")},
        }

    return run


def _wait_until_left(server: Server, clients: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while (there := _ask(server, "/clients?limit=1")["total"]) > clients:
        if time.monotonic() > deadline:
            raise Stuck(f"{there - clients} clients are still listed")
        time.sleep(0.1)


def _ask(server: Server, path: str, body: bytes | None = None) -> dict[str, Any]:
    with urlopen(f"http://127.0.0.1:{server.port}{path}", body, PATIENCE) as answer:
        found: dict[str, Any] = json.load(answer)
        return found
