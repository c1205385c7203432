"""The outbox: the questions that a client asks its server, and their answers.

A task that asks waits here. The connection's writer takes the texts in order, and its reader delivers
the answers. These tasks don't know each other. When a connection is lost, no question is lost with it.
The writer of the next connection starts with the oldest unanswered question, in the order in which they
were asked.

Each question has an `id` of its own, because the server's answers name nothing else. The connection's
own texts go in front of all questions (`say_first`).
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
    """A text to send, or already sent, and the task that waits for its answer."""

    id: str
    text: str
    #: Set once it is answered, or no task waits for the answer any more.
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
        """Send `text` and return its answer. Always a checkpoint.

        Waits while there are too many questions, or one with this `id`; calls `placed()` as soon as this
        one has its place in the order. Raises the error that refuses it, or the one that `close` got. If
        cancelled, the question is forgotten, whether the server has received it or not.
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

    # Called by the connection's tasks.

    async def asked(self) -> None:
        """Wait until a question is unanswered."""
        while not self._asked:
            await self._more.park()

    async def take(self) -> str:
        """Wait for the next text to send, and return it. If cancelled, it takes none."""
        while True:
            while self._unsent:
                question = self._unsent.popleft()
                if not question.done.is_set():
                    return question.text
            await self._more.park()

    def rewind(self) -> None:
        """Send all unanswered questions again, on a new connection."""
        self._unsent = deque(self._asked.values())

    def say_first(self, text: str) -> None:
        """Send `text` first on this connection. It isn't a question, and isn't repeated."""
        self._unsent.appendleft(_Question("", text))

    def answer(self, id: object, answer: Answer) -> None:
        """Deliver the answer to the question `id`, if a task waits for it."""
        if question := self._strike(id):
            question.answer = answer

    def refuse(self, id: object, error: Exception) -> None:
        """Raise this error in the task that waits for the answer to `id`, if any."""
        if question := self._strike(id):
            question.error = error

    def refuse_longest(self, error: Exception) -> bool:
        """Fail the longest question with this error; return False if there is none."""
        longest = max(self._asked.values(), key=lambda question: len(question.text), default=None)
        if longest is not None:
            self.refuse(longest.id, error)
        return longest is not None

    def refuse_all(self, error: Exception) -> None:
        """Fail all questions with this error."""
        for id in tuple(self._asked):
            self.refuse(id, error)

    def close(self, error: Exception) -> None:
        """Fail all questions with this error, and every later one."""
        self._closed = error
        self.refuse_all(error)

    def _strike(self, id: object) -> _Question[Answer] | None:
        """Remove and return a question, or return None."""
        question = self._asked.pop(id, None) if isinstance(id, str) else None
        if question is not None:
            question.done.set()
        return question
