"""Publishers: they repeat unacknowledged events, with the same `source` and `id`.

A raw one doesn't know what became of what it said, and says it once.
"""

from __future__ import annotations

import secrets
from random import Random
from typing import TYPE_CHECKING, Any

from tests.fleet.events import Said, random_said
from tests.fleet.line import Line, Lost

if TYPE_CHECKING:
    from tests.fleet.run import Run

__all__ = ["Publisher", "RawPublisher"]


class Publisher:
    """Publishes until the run is over, and then until everything is acknowledged."""

    def __init__(self, run: Run, id: str, random: Random) -> None:
        self.run = run
        self.id = id
        self.random = random
        self.said: list[Said] = []
        #: Where in the log they are, as it was acknowledged: the first ones, without a hole.
        self.offsets: list[int] = []
        #: Which were refused, and behind which offset they can only be therefore.
        self.refused: dict[str, int] = {}
        #: So many were said before, and may be in the log even if they are refused this time.
        self._sent_before = 0

    def __repr__(self) -> str:
        return f"{self.id}: {len(self.offsets)} of {len(self.said)} are acknowledged"

    async def live(self) -> None:
        """Connect, again and again."""
        while not (self.run.over and len(self.offsets) == len(self.said)):
            query = {"format": "cloudevents", "role": "publisher", "id": self.id}
            await self.run.converse(self._publish, query)
            if self.run.plan.faults:
                # What was not answered may have been refused all the same.
                for said in self.said[len(self.offsets) :]:
                    self.refused.setdefault(said.token, 0)

    async def _publish(self, line: Line) -> None:
        # Where nothing is forgotten, what was acknowledged can be said again, too.
        again = 0 if self.run.plan.max_entries else self.random.choice((0, 0, 5))
        at = answered = max(0, len(self.offsets) - again)
        self._sent_before = len(self.said)
        while True:
            most = self.random.choice((1, 4, self.run.plan.window))
            burst = self._burst(at, min(most, answered + self.run.plan.window - at))
            if burst:
                at += len(burst)
                await line.send(*[said.event for said in burst])
                self.run.sent.add(len(burst))
            elif answered == at:
                return
            for event in await line.events():
                answered += self._hear(answered, event)
            if answered == at:
                # Something of it may have been refused, and what came behind it accepted.
                at = answered = len(self.offsets)
                self._sent_before = len(self.said)
            if self.random.random() * 200 < self.run.plan.whims:
                line.drop(reset=self.random.random() < 0.5)
                return

    def _hear(self, at: int, event: dict[str, Any]) -> bool:
        """Whether this is the answer to what was said as number `at`."""
        match event["type"]:
            case "trionotify.ack":
                self._acknowledged(at, event["data"])
            case "trionotify.error":
                self._refused(at, event["data"])
            case kind:
                assert kind in ("trionotify.welcome", "trionotify.position", "trionotify.drain"), event
                return False
        return True

    def _burst(self, at: int, count: int) -> list[Said]:
        """The events to publish next: earlier ones again, or new ones."""
        while not self.run.over and len(self.said) < at + count:
            said = random_said(
                self.random,
                f"{self.id}-{len(self.said)}",
                self.run.ids,
                self.random.choice(self.run.plan.sizes),
                source=f"/{self.id}",
                id=str(len(self.said)),
            )
            self.run.published[said.token] = said
            self.said.append(said)
        return self.said[at : at + count]

    def _acknowledged(self, at: int, data: dict[str, Any]) -> None:
        said = self.said[at]
        assert (data["source"], data["id"]) == (said.source, said.id), f"{self}: {data} came for {said}"
        offset = self.run.offset(data["cursor"])
        self.run.note(offset, said.token)
        if at < len(self.offsets):
            assert self.offsets[at] == offset, f"{self}: {said} is at {self.offsets[at]} and at {offset}"
        elif at == len(self.offsets):
            self.offsets.append(offset)
        self.run.acks.add()

    def _refused(self, at: int, problem: dict[str, Any]) -> None:
        said = self.said[at]
        assert problem["id"] == said.id, f"{self}: {problem} came for {said}"
        self.run.excuse_refusal(problem["status"], problem["detail"])
        if at >= len(self.offsets):
            self.refused.setdefault(said.token, 0 if at < self._sent_before else self.run.highest)
        self.run.refused.add()


class RawPublisher:
    """Sends data, and hears nothing of it."""

    def __init__(self, run: Run, id: str, random: Random) -> None:
        self.run = run
        self.id = id
        self.random = random
        #: The tokens that each connection has sent, and whether all of them were dealt with.
        self.stays: list[tuple[list[str], bool]] = []

    async def live(self) -> None:
        """Connect, again and again, the last time to say goodbye."""
        done = False
        while not done:
            self.stays.append(([], False))
            await self.run.converse(self._publish, {"role": "publisher", "id": self.id, "type": "ab"})
            _, done = self.stays[-1]

    async def _publish(self, line: Line) -> None:
        tokens, _ = self.stays[-1]
        try:
            await self._speak(line, tokens)
        except Lost as lost:
            if lost.code == 1000:
                self.stays[-1] = (tokens, True)
            # A full disk ends it with a Close frame, which it may not have lived to read.
            elif not (lost.code is None and self.run.plan.faults):
                raise

    async def _speak(self, line: Line, tokens: list[str]) -> None:
        connection = secrets.token_hex(4)
        while not self.run.over:
            burst = []
            for _ in range(self.random.choice((1, 5, 20))):
                token = f"{self.id}-{connection}-{len(tokens)}"
                said = Said(
                    token, f"/clients/{self.id}", None, "ab", size=self.random.choice((0, 10, 900))
                )
                self.run.published[token] = said
                tokens.append(token)
                burst.append(said.data.encode())
            await line.send(*burst)
            self.run.sent.add(len(burst))
            await self.run.acks.wait(self.random.randint(1, 40))
        await line.close()
        while True:
            await line.read()
