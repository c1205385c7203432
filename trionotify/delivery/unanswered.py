"""The events that a session was given and has not answered."""

from __future__ import annotations

from collections import deque
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any, Final

from trionotify.model.replies import is_request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trionotify.model.notification import Notification
    from trionotify.model.replies import Message

__all__ = ["Unanswered"]

#: The most requests of one client that may wait for a reply.
_MAX_REQUESTS: Final = 1000
#: Returns the message of a pair of message and event.
_GIVEN: Final = itemgetter(0)


class Unanswered:
    """Events without an answer, each with the message that the session got. A client's record owns
    it."""

    __slots__ = ("_others", "_requests")

    def __init__(self) -> None:
        self._requests: deque[tuple[Message, Notification]] = deque()
        self._others: deque[tuple[Message, Notification]] = deque()

    def __contains__(self, message: object) -> bool:
        return any(given is message for line in self._lines() for given, _ in line)

    def add(self, given: Iterable[tuple[Message, Notification]]) -> list[Notification]:
        """Add these pairs; return the oldest requests, which have to go if there are too many."""
        for pair in given:
            (self._requests if is_request(pair[1]) else self._others).append(pair)
        too_many = len(self._requests) - _MAX_REQUESTS
        return [self._requests.popleft()[1] for _ in range(too_many)] if too_many > 0 else []

    def take(self, message: Message) -> Notification:
        """Remove and return the event of `message`. Raises ValueError if there is none."""
        for line in self._lines():
            for place, (given, event) in enumerate(line):
                if given is message:
                    del line[place]
                    return event
        raise ValueError("message: must be an unanswered message of this client")

    def take_all(self) -> list[Notification]:
        """Remove and return all events that aren't requests."""
        events = [event for _, event in self._others]
        self._others.clear()
        return events

    def forget(self, messages: tuple[Message, ...]) -> None:
        """Remove the events of these messages, which were answered in another way."""
        others = self._others
        if len(messages) == len(others) and all(map(is_, messages, map(_GIVEN, others))):
            others.clear()  # the usual case, all messages of one read
            return
        gone = {id(message) for message in messages}
        for line in self._lines():
            kept = [pair for pair in line if id(pair[0]) not in gone]
            line.clear()
            line.extend(kept)

    def _lines(self) -> tuple[deque[tuple[Any, Notification]], ...]:
        return self._requests, self._others
