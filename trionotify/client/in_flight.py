"""The outbox: what this client has said to the server, and what isn't answered yet.

Whoever asks waits here; a connection's writer takes the texts in order; its reader puts the answers in.
None of them knows of the others. A connection that is lost takes no question with it: the next one's
writer begins with the oldest that has no answer, in the order in which they were asked.

A question has an `id`, and there is at most one of an `id` at a time: the server's answers name nothing
else. What a connection has to say for itself goes in front of all questions (`say_first`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import attrs
import trio

__all__ = ["Outbox"]

Answer = TypeVar("Answer")


@attrs.define(eq=False)
class _Question(Generic[Answer]):
    """A text that was given out, or will be, and who waits for its answer."""

    id: str
    text: str
    #: It was answered, or nobody waits any more.
    done: trio.Event = attrs.Factory(trio.Event)
    answer: Answer | None = None
    error: Exception | None = None


class Outbox(Generic[Answer]):
    """Questions in order, at most `limit` of them. Any task may ask; one at a time takes and answers."""

    def __init__(self, limit: int) -> None:
        self._room = trio.Semaphore(limit)
        self._asked: dict[str, _Question[Answer]] = {}
        self._unsent: deque[_Question[Answer]] = deque()
        self._more = trio.lowlevel.ParkingLot()
        self._closed: Exception | None = None

    def __len__(self) -> int:
        return len(self._asked)

    async def ask(self, id: str, text: str, placed: Callable[[], None] = lambda: None) -> Answer:
        """Say `text`, and return the answer to it. Always a checkpoint.

        Waits while there are too many questions, or one with this `id`; calls `placed()` as soon as
        this one has its place in the order. Raises what it was refused with, or the outbox was closed
        with. Cancelled, the question is forgotten: it was heard, or it was not.
        """
        async with self._room:
            while twin := self._asked.get(id):
                await twin.done.wait()
            if self._closed is not None:
                raise self._closed
            question = _Question[Answer](id, text)
            self._asked[id] = question
            self._unsent.append(question)
            self._more.unpark_all()
            try:
                placed()
                await question.done.wait()
            finally:
                if self._asked.get(id) is question:
                    self._strike(id)
        if question.error is not None:
            raise question.error
        return cast("Answer", question.answer)

    # For the connection.

    async def asked(self) -> None:
        """Wait until there is a question that has no answer."""
        while not self._asked:
            await self._more.park()

    async def take(self) -> str:
        """The next text to send. Cancelled, it takes none."""
        while True:
            while self._unsent:
                question = self._unsent.popleft()
                if not question.done.is_set():
                    return question.text
            await self._more.park()

    def rewind(self) -> None:
        """There is a new connection: take all again that has no answer."""
        self._unsent = deque(self._asked.values())

    def say_first(self, text: str) -> None:
        """Let this connection say `text` before anything else. It is no question, and isn't repeated."""
        self._unsent.appendleft(_Question("", text))

    def answer(self, id: object, answer: Answer) -> None:
        """The answer to the question `id`, if anybody waits for it."""
        if question := self._strike(id):
            question.answer = answer

    def refuse(self, id: object, error: Exception) -> None:
        """The question `id`, if anybody waits for its answer, ends with this error."""
        if question := self._strike(id):
            question.error = error

    def refuse_longest(self, error: Exception) -> bool:
        """The longest question that is here ends with this error. Whether there was one."""
        longest = max(self._asked.values(), key=lambda question: len(question.text), default=None)
        if longest is not None:
            self.refuse(longest.id, error)
        return longest is not None

    def refuse_all(self, error: Exception) -> None:
        """No question that is here will be answered."""
        for id in tuple(self._asked):
            self.refuse(id, error)

    def close(self, error: Exception) -> None:
        """Nor any that is still to come."""
        self._closed = error
        self.refuse_all(error)

    def _strike(self, id: object) -> _Question[Answer] | None:
        """Take a question off the list, if it is there."""
        question = self._asked.pop(id, None) if isinstance(id, str) else None
        if question is not None:
            question.done.set()
        return question
