"""Publishers at a steady rate: over HTTP in its four ways, and events on a WebSocket."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING

import trio

from tests.fleet.events import Said, random_said
from tests.fleet.line import Line
from tests.fleet.publishers import Publisher
from tests.fuzz.answers import is_last, read_one

if TYPE_CHECKING:
    from tests.soak.run import Soak

__all__ = ["Poster", "SteadyPublisher"]


class SteadyPublisher(Publisher):
    """Events on a WebSocket: a few at a time, each acknowledged before the next ones."""

    run: Soak

    async def _publish(self, line: Line) -> None:
        at = answered = len(self.offsets)
        self._sent_before = len(self.said)
        while not self.run.over or answered < len(self.said):
            await trio.sleep(self.random.expovariate(self.run.rate / 2))
            burst = self._burst(at, self.random.choice((1, 1, 2, 4)))
            at += len(burst)
            await line.send(*[said.event for said in burst])
            while answered < at:
                for event in await line.events():
                    answered += self._hear(answered, event)
            if self.random.random() < 0.01:
                line.drop(reset=self.random.random() < 0.5)
                return


class Poster:
    """One that posts: a text, an event in fields, an event, or some events together."""

    def __init__(self, run: Soak, id: str, random: Random) -> None:
        self.run = run
        self.id = id
        self.random = random
        self.said: list[Said] = []
        self.offsets: list[int] = []
        #: Nothing is refused to it: see `tests.fleet.publishers`.
        self.refused: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"{self.id}: {len(self.offsets)} of {len(self.said)} have a receipt"

    async def live(self) -> None:
        """Post until the run is over, on one connection after the other."""
        while not self.run.over:
            stream = await trio.open_tcp_stream("127.0.0.1", self.run.server.port)
            async with stream:
                for _ in range(self.random.choice((1, 20, 200))):
                    await trio.sleep(self.random.expovariate(self.run.rate / 2))
                    if self.run.over or not await self._post(stream):
                        break

    async def _post(self, stream: trio.SocketStream) -> bool:
        """Returns whether the connection stays."""
        ways = (self._plain, self._binary, self._structured, self._batch)
        said, data = self.random.choice(ways)()
        await stream.send_all(data)
        answer = b""
        while (one := read_one(answer, "POST")) is None:
            more = await stream.receive_some(1 << 16)
            assert more, f"{self}: a request had no answer"
            answer += more
        found, _ = one
        assert found.status == 200, f"{self}: {found.status} {found.body!r} came for {said}"
        receipts = found.json if isinstance(found.json, list) else [found.json]
        assert len(receipts) == len(said)
        for one_said, receipt in zip(said, receipts, strict=True):
            offset = self.run.offset(receipt["cursor"])
            self.run.note(offset, one_said.token)
            self.offsets.append(offset)
            self.run.acks.add()
        return not is_last(found)

    def _new(self) -> Said:
        token = f"{self.id}-{len(self.said)}"
        size = self.random.choice(self.run.plan.sizes)
        said = random_said(self.random, token, self.run.ids, size, source=f"/{self.id}", id=token)
        self.said.append(said)
        self.run.published[token] = said
        return said

    def _plain(self) -> tuple[list[Said], bytes]:
        token = f"{self.id}-{len(self.said)}"
        said = Said(
            token, f"/clients/{self.id}", None, "ab", size=self.random.choice(self.run.plan.sizes)
        )
        self.said.append(said)
        self.run.published[token] = said
        body = said.data.encode()
        return [said], _request(body, f"/events?type=ab&id={self.id}", "Content-Type: text/plain")

    def _binary(self) -> tuple[list[Said], bytes]:
        said = self._new()
        event = json.loads(said.event)
        del event["datacontenttype"], event["data"]
        fields = [f"ce-{name}: {value}" for name, value in event.items()]
        body = said.data.encode()
        return [said], _request(body, "/events", "Content-Type: text/plain", *fields)

    def _structured(self) -> tuple[list[Said], bytes]:
        said = self._new()
        return [said], _request(said.event, "/events", "Content-Type: application/cloudevents+json")

    def _batch(self) -> tuple[list[Said], bytes]:
        said = [self._new() for _ in range(self.random.choice((1, 2, 5)))]
        body = b"[" + b",".join([one.event for one in said]) + b"]"
        kind = "Content-Type: application/cloudevents-batch+json"
        return said, _request(body, "/events", kind)


def _request(body: bytes, target: str, *fields: str) -> bytes:
    lines = [
        f"POST {target} HTTP/1.1",
        "Host: localhost",
        *fields,
        f"Content-Length: {len(body)}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body
