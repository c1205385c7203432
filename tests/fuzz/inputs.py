"""The three ways of sending an input, and what each has to say about what came back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs

from tests.fuzz.answers import Malformed, fault_of, is_last, read_all
from tests.web import Answered

__all__ = ["Ask", "Burst", "Heard", "Input", "Scene", "Talk", "anything", "client_frame"]

#: Close codes that never come: of 1011 the server is at fault, and the others may not be sent at all. No
#: input sends one, so none is an echo. (1005: the client's Close frame had no code either.)
BAD_CODES = frozenset({1004, 1006, 1011, 1012, 1015})


@attrs.frozen
class Scene:
    """The facts that inputs may use: the server's log at the start, its secret, the time of day."""

    epoch: str = "e"
    head: int = 0
    secret: str = ""
    now: int = 0
    #: The type of the witnesses' markers, which no input may have.
    marker: str = "marker"


def anything(_: Any) -> str | None:
    """Nothing to say: what holds for every answer is enough."""
    return None


@attrs.frozen
class Ask:
    """One whole, legal request of HTTP/1.1, which is answered once, on a connection that may be kept.

    `check` says what is wrong with the answer, or None.
    """

    data: bytes
    method: str = "GET"
    statuses: frozenset[int] | None = None
    check: Callable[[Answered], str | None] = anything

    def fault(self, answer: Answered) -> str | None:
        if fault := fault_of(answer):
            return fault
        if self.statuses is not None and answer.status not in self.statuses:
            due = sorted(self.statuses)
            return f"{answer.status} came, one of {due} was due: {answer.body[:300]!r}"
        return self.check(answer)


@attrs.frozen
class Burst:
    """All bytes of one connection, which is ended behind them; then what comes is read to its end.

    `statuses` are what the first requests in it must be answered with, which are whole and legal; what
    follows may be anything. `allowed` are answers of 5xx that are right here.
    """

    pieces: tuple[bytes, ...]
    statuses: tuple[frozenset[int], ...] = ()
    allowed: frozenset[int] = frozenset()

    def fault(self, data: bytes) -> str | None:
        try:
            answers = list(read_all(data))
        except Malformed as error:
            return f"what came is no answer: {error}"
        for answer in answers:
            if fault := fault_of(answer, self.allowed):
                return fault
        for due, answer in zip(self.statuses, answers, strict=False):
            if answer.status not in due:
                return f"{answer.status} came, one of {sorted(due)} was due: {answer.body[:300]!r}"
        if len(answers) < len(self.statuses) and not any(map(is_last, answers)):
            return f"{len(self.statuses)} legal requests, {len(answers)} answers: {data[-300:]!r}"
        return None


@attrs.frozen
class Heard:
    """The answers to a `Talk`: messages (as text or bytes), and the Close code, if that ended it.

    `lost`: the connection ended without a Close frame.
    """

    messages: tuple[str | bytes, ...]
    code: int | None = None
    reason: str = ""
    lost: bool = False

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(message) for message in self.messages]

    def own(self, *kinds: str) -> list[dict[str, Any]]:
        """Those that the server said itself, of these kinds."""
        types = {f"trionotify.{kind}" for kind in kinds}
        return [event for event in self.events() if event["type"] in types]


@attrs.frozen
class Talk:
    """Frames on a WebSocket.

    One that is `clean` leaves the connection as it was: the next one with the same `target` may be sent
    on it, and the server may not end it. Behind another one the client ends it.
    """

    target: str
    pieces: tuple[bytes, ...]
    clean: bool = True
    check: Callable[[Heard], str | None] = anything

    @property
    def speaks_events(self) -> bool:
        return "format=cloudevents" in self.target

    def fault(self, heard: Heard) -> str | None:
        if heard.code is not None and (heard.code in BAD_CODES or not 1000 <= heard.code < 5000):
            return f"the server closed with {heard.code} {heard.reason!r}"
        if self.clean and (heard.code is not None or heard.lost):
            return f"the server ended the connection: {heard.code} {heard.reason!r}"
        for message in heard.messages if self.speaks_events else ():
            if not isinstance(message, str) or not _is_event(message):
                return f"what came is no event: {message[:300]!r}"
        return self.check(heard)


Input = Ask | Burst | Talk


def _is_event(message: str) -> bool:
    try:
        event = json.loads(message)
    except ValueError:
        return False
    return event.get("specversion") == "1.0" and all(
        event.get(name) for name in ("id", "source", "type")
    )


def client_frame(payload: bytes, opcode: int = 0x1, *, fin: bool = True, key: bytes = bytes(4)) -> bytes:
    """A client's frame, masked with `key`, its length in the shortest form."""
    first, size = opcode | 0x80 * fin, len(payload)
    if size < 126:
        head = bytes([first, 0x80 | size])
    else:
        wide = size >= 1 << 16
        head = bytes([first, 0x80 | (127 if wide else 126)]) + size.to_bytes(8 if wide else 2)
    if any(key):
        repeated = int.from_bytes((key * (size // 4 + 1))[:size])
        payload = (int.from_bytes(payload) ^ repeated).to_bytes(size)
    return head + key + payload
