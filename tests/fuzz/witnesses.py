"""Witnesses: clients that mean well, and receive each marker once and in order, whatever others do.

A marker is a notification of a type that no input has; its data is its number. A publisher on a
connection of its own publishes one now and then, and remembers the cursor of its receipt.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

import msgspec
import trio

from tests.fleet.counts import Count
from tests.fleet.line import Lost, Refused, open_line
from tests.fuzz.answers import read_one
from tests.fuzz.streams import open_stream
from trionotify import sign

__all__ = ["Witnesses"]

#: Seconds for a marker to be answered.
_PATIENCE = 120.0


class _Event(msgspec.Struct):
    """The part of an event that is looked at."""

    source: str
    cursor: str


class Witnesses:
    """All of them, and the publisher. With a `secret` they are let in by it.

    `faults` are what they saw that shouldn't be. What can't be told by looking at one message is told by
    `judge`, at the end.
    """

    def __init__(self, port: int, marker: str, secret: str | None) -> None:
        self.faults: list[str] = []
        #: The cursors of the markers, by number.
        self.cursors: list[str] = []
        self._port = port
        self._marker = marker
        self._secret = secret
        self._fields = () if secret is None else (f"Authorization: Bearer {secret}",)
        self._seen: dict[str, list[tuple[str | None, str]]] = {"raw": [], "sse": [], "events": []}
        self._ended: dict[str, int | None] = {}
        self._sightings = Count()
        self._last_offset = 0

    async def watch(self, nursery: trio.Nursery) -> None:
        """Let them connect, and wait until they are."""
        for watch in (self._raw, self._sse, self._events, self._all):
            await nursery.start(watch)

    async def publish(self) -> None:
        """Publish a marker, on a connection of its own."""
        number = len(self.cursors)
        head = [f"POST /events?type={self._marker} HTTP/1.1", "Host: localhost", *self._fields]
        body = str(number).encode()
        data = "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body
        with trio.move_on_after(_PATIENCE) as scope:
            try:
                async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
                    await stream.send_all(data)
                    answer = b""
                    while (one := read_one(answer, "POST")) is None:
                        more = await stream.receive_some(1 << 16)
                        if not more:
                            self.faults.append(f"marker {number} had no receipt")
                            return
                        answer += more
            except (OSError, trio.BrokenResourceError) as error:
                self.faults.append(f"marker {number} couldn't be published: {error!r}")
                return
            if one[0].status == 200:
                self.cursors.append(one[0].json["cursor"])
            else:
                self.faults.append(f"marker {number} was refused: {one[0]}")
        if scope.cancelled_caught:
            self.faults.append(f"marker {number} had no receipt within {_PATIENCE:g} s")

    async def settle(self, seconds: float) -> None:
        """Wait until everyone has seen every marker, but not for longer: then `judge` says what."""
        with trio.move_on_after(seconds):
            while min(map(len, self._seen.values())) < len(self.cursors):
                await self._sightings.wait(1)

    def judge(self) -> list[str]:
        """The faults that they saw, and the events that they missed."""
        due = [(cursor, str(number)) for number, cursor in enumerate(self.cursors)]
        faults = list(self.faults)
        for name, seen in self._seen.items():
            expected = [(cursor if name != "raw" else None, number) for cursor, number in due]
            if seen != expected:
                at = next(
                    (n for n, pair in enumerate(zip(seen, expected, strict=False)) if len({*pair}) > 1),
                    "the end",
                )
                faults.append(f"{name}: {len(seen)} markers of {len(due)}; they differ at {at}")
        return faults

    def judge_ends(self) -> list[str]:
        """Whether the server said goodbye to each, as it should when it drains."""
        return [
            f"{name} ended with {code}, not 1012" for name, code in self._ended.items() if code != 1012
        ]

    def _query(self, **params: str) -> dict[str, str]:
        return params if self._secret is None else dict(parse_qsl(sign(params, self._secret)))

    def _see(self, name: str, cursor: str | None, number: str) -> None:
        self._seen[name].append((cursor, number))
        self._sightings.add()

    def _end(self, name: str, why: Lost | Refused) -> None:
        self._ended[name] = why.code if isinstance(why, Lost) else why.status

    async def _raw(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with open_line(self._port, self._query(**{"exact.type": self._marker})) as line:
                task_status.started()
                while True:
                    for message in await line.read():
                        self._see("raw", None, message.decode())
        except Lost as lost:
            self._end("raw", lost)

    async def _events(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        query = self._query(**{"exact.type": self._marker, "format": "cloudevents"})
        try:
            async with open_line(self._port, query) as line:
                task_status.started()
                while True:
                    for event in await line.events():
                        if event["type"] == self._marker:
                            self._see("events", event["cursor"], event["data"])
                        elif event["type"] not in (
                            "trionotify.welcome",
                            "trionotify.position",
                            "trionotify.drain",
                        ):
                            self.faults.append(f"events: {event} came")
        except Lost as lost:
            self._end("events", lost)

    async def _sse(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with open_stream(self._port, self._query(**{"exact.type": self._marker})) as line:
                task_status.started()
                while True:
                    for event in await line.read():
                        self._see("sse", event.last_event_id, event.data)
        except Lost as lost:
            self._end("sse", lost)

    async def _all(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One that wants everything: its lines are events, and their places go up."""
        try:
            async with open_stream(self._port, self._query(), lines=True) as line:
                task_status.started()
                while True:
                    for event in await line.read():
                        self._check(event.data)
        except Lost as lost:
            self._end("all", lost)

    def _check(self, text: str) -> None:
        try:
            # (Not the data: a number in it may be too large for this reader.)
            event = msgspec.json.decode(text, type=_Event)
            offset = int(event.cursor.rpartition(":")[2])
        except ValueError:
            self.faults.append(f"all: no event with a cursor came: {text[:300]!r}")
            return
        own = event.source == "/trionotify"
        if offset < self._last_offset or (offset == self._last_offset and not own):
            self.faults.append(f"all: {offset} came behind {self._last_offset}")
        self._last_offset = offset
