"""What a session was given and has not answered yet."""

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

#: Requests of one client that may wait for a reply.
_MAX_REQUESTS: Final = 1000
#: Of a message and its event, the message.
_GIVEN: Final = itemgetter(0)


class Unanswered:
    """Events that a session was given and has not answered, each with the message that it got for it."""

    __slots__ = ("_others", "_requests")

    def __init__(self) -> None:
        self._requests: deque[tuple[Message, Notification]] = deque()
        self._others: deque[tuple[Message, Notification]] = deque()

    def __contains__(self, message: object) -> bool:
        return any(given is message for line in self._lines() for given, _ in line)

    def add(self, given: Iterable[tuple[Message, Notification]]) -> list[Notification]:
        """Note these down; returns the requests that have to go for them, if there are too many."""
        for pair in given:
            (self._requests if is_request(pair[1]) else self._others).append(pair)
        too_many = len(self._requests) - _MAX_REQUESTS
        return [self._requests.popleft()[1] for _ in range(too_many)] if too_many > 0 else []

    def take(self, message: Message) -> Notification:
        """The event for which the session was given `message`; raises ValueError if there is none."""
        for line in self._lines():
            for place, (given, event) in enumerate(line):
                if given is message:
                    del line[place]
                    return event
        raise ValueError("message: it isn't one of this client's, or it was answered already")

    def take_all(self) -> list[Notification]:
        """All but the requests."""
        events = [event for _, event in self._others]
        self._others.clear()
        return events

    def forget(self, messages: tuple[Message, ...]) -> None:
        """These were answered in another way."""
        others = self._others
        if len(messages) == len(others) and all(map(is_, messages, map(_GIVEN, others))):
            others.clear()  # the everyday case: all of one read
            return
        gone = {id(message) for message in messages}
        for line in self._lines():
            kept = [pair for pair in line if id(pair[0]) not in gone]
            line.clear()
            line.extend(kept)

    def _lines(self) -> tuple[deque[tuple[Any, Notification]], ...]:
        return self._requests, self._others
