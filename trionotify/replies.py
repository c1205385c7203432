"""Replies: what becomes of an event that a client sent to its session.

A client that speaks CloudEvents is told of each event that it sends. The default session publishes it,
and the acknowledgement says where. Another session deals with it: it replies, or rejects it, or asks for
the next one, which acknowledges the one before. An event with the attribute `request` is different,
because its sender waits for a reply: it stays open until there is one, whoever gives it.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterable, Mapping
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any, Final

import attrs

from trionotify.errors import Refused, quoted
from trionotify.jsontext import write_json

if TYPE_CHECKING:
    from trionotify.formats import Message
    from trionotify.notification import Notification

__all__ = ["Unanswered", "acknowledged", "as_request", "is_request", "reply_in", "reply_of"]

#: The extension attribute of an event whose sender waits for a reply.
REQUEST: Final = "request"
#: Of a message and its event, the message.
_GIVEN: Final = itemgetter(0)
#: Requests of one client that may wait for a reply.
_MAX_REQUESTS: Final = 1000


def is_request(event: Notification) -> bool:
    """Whether its sender waits for a reply."""
    extensions = event.extensions
    return bool(extensions and extensions.get(REQUEST))


def as_request(event: Notification) -> Notification:
    """The same event, but its sender waits for a reply."""
    return attrs.evolve(event, extensions={**event.extensions, REQUEST: True})


def reply_in(answer: Mapping[str, Any]) -> object:
    """The reply in the data of a `trionotify.ack`; raises `Refused` where there is none."""
    if "reply_base64" in answer:
        return base64.b64decode(str(answer["reply_base64"]))
    if "reply" not in answer:
        raise Refused(
            501, "the request was acknowledged without a reply: the server's session gives none"
        )
    return answer["reply"]


def acknowledged(event: Notification, reply: Mapping[str, object] | None = None) -> dict[str, object]:
    """The data of `trionotify.ack` for an event that a session has dealt with."""
    return {"source": event.source, "id": event.id, **(reply or {})}


def reply_of(data: object) -> dict[str, object]:
    """A reply as a member of JSON; raises TypeError for what JSON can't hold."""
    if isinstance(data, bytes):
        return {"reply_base64": base64.b64encode(data).decode()}
    reply = {"reply": data}
    try:
        write_json(reply)
    except (TypeError, ValueError) as error:
        raise TypeError(f"data: {quoted(data)} can't be written as JSON: {error}") from None
    return reply


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
