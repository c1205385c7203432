"""Clients that the fleet has not: streams, the Python client, and one that never reads."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import trio

from tests.eventstream import Dispatched
from tests.fleet.line import Lost, Refused, open_line
from tests.fleet.subscribers import Left, RawSubscriber, Stay, Subscriber
from tests.fuzz.streams import StreamLine, open_stream
from trionotify import Notification, connect

if TYPE_CHECKING:
    from tests.soak.run import Soak

__all__ = ["LineSubscriber", "PythonSubscriber", "RawStreamSubscriber", "StreamSubscriber", "never_read"]

#: Seconds without anything new, at the end, until the Python client is taken to have all.
_SILENCE = 100.0


class StreamSubscriber(Subscriber):
    """Events in blocks. Its filters are those of its query, for good."""

    lines = False

    async def live(self, nursery: trio.Nursery) -> None:
        """Connect, again and again, until it has settled."""
        while not self.settled.is_set():
            life, query, fields = self.run.life, self.query(), []
            # What a browser does, and what a page does.
            if ":" in query.get("since", "") and self.random.random() < 0.5:
                fields.append(f"Last-Event-ID: {query.pop('since')}")
            port, buffer = self.run.server.port, self._buffer
            try:
                async with open_stream(port, query, *fields, lines=self.lines, buffer=buffer) as line:
                    await self._follow(line)
            except Left:
                pass
            except (Lost, Refused) as why:
                self.run.excuse(why, life)

    async def _follow(self, line: StreamLine) -> None:
        stay = Stay([(0, self.filters)])
        self.begin(line, stay)
        self.stays.append(stay)
        self.run.joined.add()
        # (The server says often enough where it is, or that it lives.)
        while not (self.final.is_set() and self.has_all(stay)):
            for event in await line.read():
                self.hear(self.message_of(event), stay)
            self.keep_up(line, stay)
            if not self.final.is_set():
                await self._leave_sometimes(line)
        self.settled.set()

    async def _leave_sometimes(self, line: StreamLine) -> None:
        roll = self.random.random() * 100 / self.run.plan.whims
        if roll < 0.4:
            line.drop(reset=self.random.random() < 0.5)
            raise Left
        if roll < 0.7:
            await self.run.acks.wait(self.random.randint(20, 250))

    def begin(self, line: StreamLine, stay: Stay) -> None:
        self.joined_behind_head(line, stay)

    def joined_behind_head(self, line: StreamLine, stay: Stay) -> None:
        if self.since is not None and ":" in self.since:
            stay.asked = self.run.offset(self.since)

    def message_of(self, event: Dispatched) -> bytes:
        return event.data.encode()

    def keep_up(self, line: StreamLine, stay: Stay) -> None:
        """Where it is stands in the events."""


class LineSubscriber(StreamSubscriber):
    """Events on lines."""

    lines = True


class RawStreamSubscriber(StreamSubscriber):
    """Data alone, in blocks that say where they are."""

    def query(self) -> dict[str, str]:
        self.latest = False
        return {name: text for name, text in super().query().items() if name not in ("format", "lag")}

    def begin(self, line: StreamLine, stay: Stay) -> None:
        self.joined_behind_head(line, stay)
        stay.start = stay.upto = self.run.offset(line.headers["Trionotify-Cursor"])
        recovered = line.headers.get("Trionotify-Recovered")
        stay.recovered = None if recovered is None else recovered == "true"

    def message_of(self, event: Dispatched) -> bytes:
        return f"{event.last_event_id}\n{event.data}".encode()

    def hear(self, message: bytes, stay: Stay) -> None:
        cursor, _, text = message.decode().partition("\n")
        offset, token = self.run.offset(cursor), text.partition(" ")[0]
        assert offset > stay.upto, f"{self}: {offset} came behind {stay.upto}"
        self.run.note(offset, token)
        stay.got.append((offset, token))
        stay.upto, self.since = offset, cursor
        self.run.received.add()

    def keep_up(self, line: StreamLine, stay: Stay) -> None:
        if line.cursor:
            stay.upto = max(stay.upto, self.run.offset(line.cursor))


class PythonSubscriber(RawSubscriber):
    """The package's own client, which stays connected. It says nothing of cursors: order will do."""

    async def live(self, nursery: trio.Nursery) -> None:
        """Read, until all has come that is due, or nothing comes any more."""
        query = urlencode({"id": self.id, "team": self.team, "since": "start"})
        url = f"http://127.0.0.1:{self.run.server.port}/events?{query}"
        stay = Stay([(0, self.filters)], start=0)
        self.stays.append(stay)
        async with connect(url, filter=self.filters or None, role="subscriber") as client:
            nursery.start_soon(self._settle_in_silence, stay)
            while not (self.final.is_set() and self.has_all(stay)):
                with trio.move_on_after(1.0):
                    item = await anext(client)
                    assert isinstance(item, Notification), f"{self}: {item} came"
                    stay.got.append((None, str(item.data).partition(" ")[0]))
                    self.run.received.add()
                if self.settled.is_set():
                    break
        self.settled.set()

    async def _settle_in_silence(self, stay: Stay) -> None:
        await self.final.wait()
        count = -1
        while count < len(stay.got) and not self.settled.is_set():
            count = len(stay.got)
            with trio.move_on_after(_SILENCE):
                await self.settled.wait()
        self.settled.set()


async def never_read(run: Soak, number: int) -> None:
    """Connect, and take nothing; when the server has had enough, come back."""
    query = {"format": "cloudevents", "id": f"h{number}"}
    while not run.ending.is_set():
        with suppress(Lost, Refused):
            async with open_line(run.server.port, query, 2048) as line:
                with trio.move_on_after(90):
                    await run.ending.wait()
                line.drop(reset=True)
