"""The whole catalogue as text: each section in its order, with what was said in it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import trio
import trio.testing

from tests.catalogue import browser, clients, commands, hub, python, stores, wire
from tests.catalogue.files import prepare
from tests.catalogue.provoke import evaluated

__all__ = ["FILE", "REST", "catalogue", "not_provoked"]

#: Where the section starts whose messages were not provoked.
REST: Final = "\nNot provoked here\n="
#: That section: each message below the reason why, with the tests that do provoke it.
_ELSEWHERE: Final = Path(__file__).parent / "elsewhere.txt"
FILE: Final = Path(__file__).parent.parent / "messages.txt"
_HEAD: Final = """\
Every message of trionotify, provoked. Written by `python -m tests.catalogue`; do not edit.

Each entry is what provoked a message, and what was said: what was returned, raised or answered, and
the lines of the log. DIR, PORT, ID and the like stand for what differs from run to run.
"""


def catalogue(directory: Path) -> str:
    """All of it. Needs the main thread, and no Trio."""
    prepare(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # some mistakes leave a coroutine behind
        with ExitStack() as kept:
            provoked = "\n".join([_HEAD, *_sections(directory, kept)])
    rest = _section("Not provoked here", _ELSEWHERE.read_text().splitlines())
    page = _section("The page at /, read from its source", browser.on_the_page())
    client = _section("The browser client, read from its source", browser.in_scripts())
    return "\n".join([provoked, *rest, *page, *client, ""])


def _sections(directory: Path, kept: ExitStack) -> Iterator[str]:
    in_python = python.names(directory, kept)
    yield from _section("Commands: help", commands.helps())
    yield from _section("Commands: answers", commands.answers(directory))
    yield from _section("Commands: a server's log, from its start to its end", commands.life(directory))
    yield from _lines("Python: notifications and events", python.NOTIFICATIONS, in_python)
    yield from _lines("Python: predicates and filters", python.PREDICATES, in_python)
    yield from _lines("Python: CloudEvents SQL", python.LANGUAGE, in_python)
    yield from _lines(
        "Python: options, clients, errors", python.OPTIONS, in_python, directory, real=True
    )
    yield from _lines("Python: a hub", hub.HUB, hub.names())
    yield from _lines("HTTP: requests", wire.REQUESTS, wire.names())
    yield from _lines("WebSocket: handshakes", wire.HANDSHAKES, wire.names())
    yield from _lines("WebSocket: how connections end", wire.CLOSINGS, wire.names())
    yield from _lines("WebSocket: trionotify.error", wire.EVENTS, wire.names())
    yield from _lines("The server by itself", wire.LIFE, wire.names())
    of_files = stores.names(directory)
    yield from _lines("The log in a file", stores.FILES, of_files, directory, real=True)
    yield from _lines("The Python client: arguments", clients.ARGUMENTS, clients.names())
    yield from _lines("The Python client: conversations", clients.CONVERSATIONS, clients.names())


def not_provoked() -> set[str]:
    """The messages of the last section, as they stand in the source, `{}` for what differs."""
    return {line.strip() for line in _ELSEWHERE.read_text().splitlines() if line.startswith(" ")}


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"\n{title}\n{'=' * len(title)}\n"
    yield from lines


def _lines(
    title: str,
    lines: str,
    names: Mapping[str, Any],
    directory: Path | None = None,
    *,
    real: bool = False,
) -> Iterator[str]:
    """A section of lines of Python, by a virtual clock unless files or sockets are in it."""
    written = str(directory) if directory is not None else ""
    wanted = [line.replace("DIR", written) if written else line for line in lines.strip().splitlines()]
    clock = None if real else trio.testing.MockClock(autojump_threshold=0)
    yield from _section(title, trio.run(evaluated, wanted, names, written, clock=clock))
