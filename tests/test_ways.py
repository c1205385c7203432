"""The ways of a notification, as docs/how-it-works.md has them: a tracer follows them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
import trio.testing

import trionotify
from tests.conftest import Room
from tests.http.test_requests import post
from tests.kernel import FakeKernel, masked
from trionotify.connection.frames import message_frame
from trionotify.delivery.entry import Entry
from trionotify.delivery.position import Chunk
from trionotify.http.serving import serve_transport
from trionotify.model.notification import Notification

PACKAGE = Path(trionotify.__file__).parent
PAGE = (PACKAGE.parent / "docs" / "how-it-works.md").read_text()
DATA = "follow me"


def carries(value: Any, depth: int = 3) -> bool:
    """Whether the notification's data is in it."""
    if isinstance(value, Entry):
        value = value.notification
    if isinstance(value, Notification | Chunk):
        value = value.data
    if isinstance(value, str):
        return DATA in value
    if isinstance(value, bytes | bytearray | memoryview):
        return DATA.encode() in bytes(value)
    items = (*value, *value.values()) if isinstance(value, dict) else value
    return depth > 0 and isinstance(items, list | tuple) and any(carries(v, depth - 1) for v in items)


class Tracer:
    """Notes the functions of the package that are given the notification, or return it.

    In the order in which they were called first. What a notification or an entry says of itself is not
    a part of its way, and neither are functions without a name.
    """

    def __init__(self) -> None:
        self._called: dict[tuple[str, str], int] = {}
        self._carried: set[tuple[str, str]] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        path = Path(code.co_filename)
        if event not in {"call", "return"} or PACKAGE not in path.parents or "<" in code.co_name:
            return
        function = path.relative_to(PACKAGE).as_posix(), code.co_qualname
        self._called.setdefault(function, len(self._called))
        if event == "return":
            given = [argument]
        else:
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            given = [frame.f_locals[name] for name in names if name in frame.f_locals]
            if names[:1] == ("self",) and isinstance(given[0], Notification | Entry | Chunk):
                return
            given = [value for name, value in zip(names, given, strict=False) if name != "self"]
        if any(map(carries, given)):
            self._carried.add(function)

    @property
    def way(self) -> list[tuple[str, str]]:
        return sorted(self._carried, key=self._called.__getitem__)


@contextmanager
def following() -> Iterator[Tracer]:
    tracer = Tracer()
    before = sys.getprofile()
    sys.setprofile(tracer)
    try:
        yield tracer
    finally:
        sys.setprofile(before)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await trio.lowlevel.checkpoint()


async def of_a_frame(room: Room) -> list[tuple[str, str]]:
    """From one client's frame to another one's."""
    subscriber = await room.connect("/")
    publisher = await room.connect("/?role=publisher")
    frame = masked(message_frame(DATA))
    with following() as tracer:
        publisher.kernel.feed(frame)
        await until(lambda: DATA in subscriber.look().messages)
        await room.quiet()
    return tracer.way


async def of_a_post(room: Room) -> list[tuple[str, str]]:
    """From a request's body to a client's frame, and to the receipt."""
    subscriber = await room.connect("/")
    kernel = FakeKernel()
    kernel.feed(post("/events", DATA))
    with following() as tracer:
        room.nursery.start_soon(serve_transport, room.hub, kernel, "test:2")
        await until(lambda: b"cursor" in kernel.taken)
        await room.quiet()
    assert DATA in subscriber.look().messages
    return tracer.way


def drawn(title: str) -> list[tuple[str, str]]:
    """The functions of the table below this title, in order."""
    _, _, text = PAGE.partition(f"### {title}\n")
    rows = re.findall(r"^\| `(\S+\.py)` \| (.*?) \|", text.partition("\n#")[0], re.MULTILINE)
    return [(file, name) for file, names in rows for name in re.findall(r"`([\w.]+)`", names)]


@pytest.mark.parametrize(
    ("title", "follow"),
    [("The way of a frame", of_a_frame), ("The way of a POST", of_a_post)],
    ids=["frame", "post"],
)
async def test_the_way_is_as_it_is_drawn(
    room: Room, autojump_clock: trio.testing.MockClock, title: str, follow: Any
) -> None:
    """All functions that have the notification in hand, and in this order."""
    await follow(room)  # the first time, some things are made that stay
    way = await follow(room)
    assert drawn(title) == way
    said = re.search(rf"### {title}\n\n.*?(\d+) functions in (\d+) files", PAGE, re.DOTALL)
    assert said is not None
    assert (int(said[1]), int(said[2])) == (len(way), len({file for file, _ in way}))
