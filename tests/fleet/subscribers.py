"""Subscribers: they come back whenever they are lost, and write down what each connection brought.

One that speaks CloudEvents resumes behind the cursor that it has seen last (or, another kind of client,
behind the last notification that it has dealt with). A raw one is given a cursor with each connection,
and none with its messages.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from contextlib import suppress
from itertools import pairwise
from operator import itemgetter
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import trio

from tests.fleet.events import Filters, is_wanted, random_filters
from tests.fleet.line import Line, Lost

if TYPE_CHECKING:
    from tests.fleet.run import Run

__all__ = ["RawSubscriber", "Stay", "Subscriber"]


class Left(Exception):
    """It goes, of its own will."""


@attrs.define
class Stay:
    """Everything that one connection received."""

    #: (offset, filters): behind the offset these are in force.
    filters: list[tuple[int, Filters]]
    #: Where it starts; None: that was never said.
    start: int | None = None
    #: Where it should go on, and whether that was possible.
    asked: int | None = None
    recovered: bool | None = None
    #: What came: its place in the log, if that was said, and its token.
    got: list[tuple[int | None, str]] = attrs.Factory(list)
    #: Up to here everything has come.
    upto: int = 0
    gaps: list[tuple[int, int]] = attrs.Factory(list)

    def is_due(self, run: Run, id: str, team: str, upto: int) -> list[tuple[int, str]]:
        """The entries that it should have received up to that offset, if they were this client's."""
        assert self.start is not None
        assert all(before[0] <= behind[0] for before, behind in pairwise(self.filters)), (
            "cursors go back"
        )
        return [
            (offset, said.token)
            for offset, said in run.between(self.start, upto)
            if said.is_for(id, team)
            and is_wanted(self.filters_at(offset), said)
            and not any(after < offset <= last for after, last in self.gaps)
        ]

    def filters_at(self, offset: int) -> Filters:
        """Those that were in force there."""
        return self.filters[bisect_left(self.filters, offset, key=itemgetter(0)) - 1][1]


class Subscriber:
    """One that speaks CloudEvents.

    `since` is where its first stream starts. Once `final` is set, it stays until it has seen everything.
    """

    def __init__(  # noqa: PLR0917 - one for each trait
        self,
        run: Run,
        id: str,
        team: str,
        random: Random,
        filters: Filters,
        final: trio.Event,
        since: str | None = None,
    ) -> None:
        self.run = run
        self.id = id
        self.team = team
        self.random = random
        self.filters = filters
        self.final = final
        self.since = since
        self.stays: list[Stay] = []
        self.settled = trio.Event()
        self._line: Line | None = None
        self._answered = False
        #: While it is behind, the newest of each kind will do.
        self.latest = since != "start" and random.random() < 0.2
        #: What it resumes behind: the last cursor, or that of the last notification.
        self._keeps_last = random.random() < 0.5
        # (Large frames through a small buffer would take minutes.)
        small = max(run.plan.sizes) < 100_000
        self._buffer = random.choice((None, None, 2048)) if small else None

    def __repr__(self) -> str:
        return f"{self.id} ({self.team}) filters={self.filters} since={self.since} {self.stays[-1:]}"

    async def live(self, nursery: trio.Nursery) -> None:
        """Connect, again and again, until it has settled."""
        nursery.start_soon(self._await_final)
        while not self.settled.is_set():
            with suppress(Left):
                await self.run.converse(self._stay, self.query(), self._buffer)
            self._line = None

    async def _await_final(self) -> None:
        await self.final.wait()
        if self._line is not None:
            with suppress(Lost):
                await self.ask(self._line)

    async def _stay(self, line: Line) -> None:
        stay = Stay([(0, self.filters)])
        self._line = line
        self.joined(line, stay)
        self.stays.append(stay)
        self.run.joined.add()
        self._answered = False
        if self.final.is_set():
            await self.ask(line)
        while True:
            pongs = line.pongs
            messages = await line.read()
            for message in messages:
                self.hear(message, stay)
            self._answered |= line.pongs > pongs
            if not self.final.is_set():
                if messages:
                    await self.whim(line)
            elif self._answered:
                if self.has_all(stay):
                    self.settled.set()
                    return
                self._answered = False
                await self.ask(line)

    async def whim(self, line: Line) -> None:
        """Sometimes it leaves, or reads nothing for a while, or wants something else."""
        roll = self.random.random() * 100 / (self.run.plan.whims or 1e-9)
        if roll < 0.4:
            line.drop(reset=self.random.random() < 0.5)
            raise Left
        if roll < 0.7:
            await self.run.acks.wait(self.random.randint(20, 250))
        elif roll < 1.0:
            await self.change_filters(line)

    # What a raw one does in another way.

    def query(self) -> dict[str, str]:
        """The query with which it connects."""
        query = {"format": "cloudevents", "id": self.id, "team": self.team}
        if self.filters is not None:
            query["filters"] = json.dumps(self.filters)
        if self.since is not None:
            query["since"] = self.since
        if self.latest:
            query["lag"] = "latest"
        return query

    def joined(self, line: Line, stay: Stay) -> None:
        """The handshake is done: the rest stands in the welcome."""
        if self.since is not None and ":" in self.since:
            stay.asked = self.run.offset(self.since)

    async def change_filters(self, line: Line) -> None:
        # One of them wants something for ever: if no client got anything, nothing would go on.
        if self.id != "s0":
            await self.subscribe(line, random_filters(self.random) or [])

    async def ask(self, line: Line) -> None:
        """Ask for a sign that says how far it is."""
        await self.subscribe(line, self.filters or [])

    async def subscribe(self, line: Line, filters: Filters) -> None:
        event = {"specversion": "1.0", "id": "ask", "source": "/s", "type": "trionotify.subscribe"}
        await line.send(json.dumps({**event, "data": {"filters": filters}}).encode())

    def has_all(self, stay: Stay) -> bool:
        return stay.upto >= self.run.head

    def hear(self, message: bytes, stay: Stay) -> None:
        event = msgspec.json.decode(message)
        kind = event["type"]
        if "cursor" in event:
            offset = self.run.offset(event["cursor"])
            assert offset >= stay.upto, f"{self}: the cursor {offset} came behind {stay.upto}"
            stay.upto = offset
        if event["source"] != "/trionotify":
            token = event["data"].partition(" ")[0]
            self.run.note(offset, token).check(event)
            stay.got.append((offset, token))
            self.run.received.add()
            self.since = event["cursor"]
            return
        self._hear_server(kind.removeprefix("trionotify."), event["data"], stay)
        if self._keeps_last or kind == "trionotify.gap" or (self.since or "start") == "start":
            self.since = event.get("cursor", self.since)

    def _hear_server(self, kind: str, data: dict[str, Any], stay: Stay) -> None:
        match kind:
            case "welcome":
                stay.start, stay.recovered = stay.upto, data.get("recovered")
                assert (stay.recovered is None) == (stay.asked is None)
                if stay.recovered is False:
                    self.run.excuse_gap(stay.asked, data["head"])
                    self.since = None  # it goes on where the welcome says
            case "ack":
                stay.filters.append((stay.upto, data["filters"]))
                self.filters = data["filters"]
                self._answered = True
            case "gap":
                gap = (self.run.offset(data["from"]), self.run.offset(data["to"]))
                if self.latest:
                    # It goes on at the log's old end: all that is in between must have been forgotten.
                    self.run.excuse_gap(gap[1], self.run.highest)
                else:
                    self.run.excuse_gap(*gap)
                stay.gaps.append(gap)
            case "drain" | "position":
                pass
            case _:
                raise AssertionError(f"{self}: trionotify.{kind}: {data}")


class RawSubscriber(Subscriber):
    """One that is sent nothing but data."""

    def query(self) -> dict[str, str]:
        return {name: text for name, text in super().query().items() if name not in ("format", "lag")}

    def joined(self, line: Line, stay: Stay) -> None:
        super().joined(line, stay)
        cursor = line.headers["Trionotify-Cursor"]
        stay.start = self.run.offset(cursor)
        stay.recovered = {"true": True, "false": False, None: None}[
            line.headers.get("Trionotify-Recovered")
        ]
        # Next time, all of this once more; or only what is new then.
        self.since = cursor if self.random.random() < 0.5 else None

    def hear(self, message: bytes, stay: Stay) -> None:
        token, _, rest = message.decode().partition(" ")
        assert len(rest) == self.run.published[token].size
        stay.got.append((None, token))
        self.run.received.add()

    async def change_filters(self, line: Line) -> None:
        """It would have to connect again, so nothing is sent."""

    async def ask(self, line: Line) -> None:
        await line.ping()

    def has_all(self, stay: Stay) -> bool:
        return len(stay.got) >= len(stay.is_due(self.run, self.id, self.team, self.run.head))
