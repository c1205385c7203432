"""A server that is broken on purpose, in one way: does the oracle see it?

`python -m tests.fuzz.broken WAY python -m trionotify serve …` runs that server in this process, when the
standard library was broken for it. So it depends on nothing inside the package.
"""

from __future__ import annotations

import atexit
import hmac
import logging
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable
from itertools import count
from typing import Any

__all__ = ["SOAKED", "WAYS"]

#: What one `send` is given, and how often there was one: what is sent instead.
Spoil = Callable[[bytes, int], bytes]

_kept: list[object] = []


def _spoil_sends(spoil: Spoil) -> None:
    send, number = socket.socket.send, count(1)

    def spoilt(self: socket.socket, data: Any, *flags: int) -> int:
        instead = spoil(bytes(data), next(number))
        if instead == data:
            return send(self, data, *flags)
        if instead:
            send(self, instead, *flags)
        return len(data)

    socket.socket.send = spoilt  # type: ignore[method-assign] # that is the point


def _of_stream(data: bytes) -> bool:
    """Whether it is a marker for the witness with a stream."""
    return b"event: marker-" in data


def _lose(data: bytes, number: int) -> bytes:
    return b"" if _of_stream(data) else data


def _double(data: bytes, number: int) -> bytes:
    return data * 2 if _of_stream(data) else data


def _lose_some(data: bytes, number: int) -> bytes:
    return b"" if b'"type":"ab"' in data and number % 3 == 0 else data


def _fail(data: bytes, number: int) -> bytes:
    # (As long as it was.)
    return data.replace(b"HTTP/1.1 400 ", b"HTTP/1.1 500 ")


def _say_nothing(data: bytes, number: int) -> bytes:
    return b"" if data.startswith(b"HTTP/1.1 404 ") else data


def _log(data: bytes, number: int) -> bytes:
    if number == 60:
        logging.getLogger("trionotify").error("something failed")
    return data


def _stall(data: bytes, number: int) -> bytes:
    if number % 50 == 0:
        time.sleep(0.4)
    return data


def _leak(data: bytes, number: int) -> bytes:
    if number % 50 == 0:
        _kept.append(b"x" * (64 << 20))
    return data


def _hold(data: bytes, number: int) -> bytes:
    if number % 10 == 0:
        _kept.append(socket.socket())
    return data


def _accept_all() -> None:
    hmac.compare_digest = lambda a, b: True


def _end_badly() -> None:
    atexit.register(os._exit, 3)


#: Each is found by the oracle of this name, with inputs of this kind.
WAYS: dict[str, tuple[str, str, Callable[[], None]]] = {
    "a witness misses something": ("witness", "http", lambda: _spoil_sends(_lose)),
    "a witness gets something twice": ("witness", "http", lambda: _spoil_sends(_double)),
    "it fails": ("answer", "queries", lambda: _spoil_sends(_fail)),
    "it says nothing": ("answer", "http", lambda: _spoil_sends(_say_nothing)),
    "it logs an error": ("log", "frames", lambda: _spoil_sends(_log)),
    "it stalls": ("lag", "forwarded", lambda: _spoil_sends(_stall)),
    "it leaks memory": ("memory", "forwarded", lambda: _spoil_sends(_leak)),
    "it leaks descriptors": ("descriptors", "forwarded", lambda: _spoil_sends(_hold)),
    "it accepts every signature": ("answer", "signatures", _accept_all),
    "it ends badly": ("SIGTERM", "forwarded", _end_badly),
}
#: These are for a soak, whose faults begin with the first word.
SOAKED: dict[str, tuple[str, Callable[[], None]]] = {
    "some miss something": ("delivery", lambda: _spoil_sends(_lose_some)),
    "it ends badly": ("SIGTERM", _end_badly),
}


if __name__ == "__main__":
    _, way, _, _, module, *arguments = sys.argv
    (WAYS.get(way) or SOAKED[way])[-1]()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
