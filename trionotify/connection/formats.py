"""The two formats that a connection can speak, and what is said and understood in each.

| | raw | cloudevents |
| --- | --- | --- |
| a message is | a notification's data, verbatim | one event in JSON |
| the server's own events | none: the head of the 101 and the Close code must do | `trionotify.*` |
| who falls off the log | is closed with 1013, unless `lag` says otherwise | is told of the gap |

Siblings of one shape: `encode` makes the frame of a log entry (once for all who get it), `message` what
goes to one client alone, `say` an event of the server's own. One of each serves a hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from trionotify.connection.frames import message_frame, text_frame
from trionotify.delivery.entry import Entry
from trionotify.errors import is_token
from trionotify.model.cloudevents import SUBPROTOCOL, encode, encode_own
from trionotify.model.cursor import Cursor
from trionotify.model.notification import Notification
from trionotify.model.replies import Message

__all__ = ["CloudEventsFormat", "Format", "RawFormat", "chosen", "served"]


def served(names: Iterable[str]) -> tuple[str, ...]:
    """The subprotocols that an operator has served as raw; raises TypeError or ValueError."""
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"subprotocol must be str, not {type(name).__name__}")
        if not is_token(name):
            raise ValueError(
                f"subprotocol: {name!r} can't be one: use letters, digits and any of !#$%&'*+-.^_`|~"
            )
    return names


def chosen(offered: Iterable[str], names: Iterable[str]) -> str | None:
    """Which of a client's subprotocols it gets: that of events, or else its first one among `names`."""
    offered = tuple(offered)
    if SUBPROTOCOL in offered:
        return SUBPROTOCOL
    return next((name for name in offered if name in names), None)


class Format(Protocol):
    """What a connection speaks."""

    name: str
    #: What happens to a client that falls off the log, where its query doesn't say.
    default_lag: str
    #: The frame of a log entry. One object for all its life: groups of clients are formed by it.
    encode: Callable[[Entry], bytes]

    def message(self, message: Message, cursor: str | None = None) -> str | bytes:
        """A message as it goes out, with its place in the log if it has one."""

    def say(self, kind: str, data: Mapping[str, object], cursor: str | None) -> str | None:
        """The server's own event `trionotify.KIND`, None where it can't be said."""


class RawFormat:
    """Data, and nothing but data."""

    name = "raw"
    default_lag = "disconnect"

    def __init__(self) -> None:
        self.encode: Callable[[Entry], bytes] = _raw_frame

    def message(self, message: Message, cursor: str | None = None) -> str | bytes:
        """The data; of a notification without any, the empty text."""
        data = message.data if isinstance(message, Notification) else message
        return "" if data is None else data

    def say(self, kind: str, data: Mapping[str, object], cursor: str | None) -> str | None:
        """Nothing can be said."""
        return None


def _raw_frame(entry: Entry) -> bytes:
    return message_frame(entry.notification.data)


class CloudEventsFormat:
    """Events in JSON, each with its cursor in the log that has this epoch."""

    name = "cloudevents"
    default_lag = "gap"

    def __init__(self, epoch: str) -> None:
        def frame(entry: Entry) -> bytes:
            return text_frame(encode(entry.notification, str(Cursor(epoch, entry.offset))))

        self.encode: Callable[[Entry], bytes] = frame

    def message(self, message: Message, cursor: str | None = None) -> str | bytes:
        """The event; what is no notification yet becomes one."""
        if not isinstance(message, Notification):
            message = Notification(message)
        return encode(message, cursor).decode()

    def say(self, kind: str, data: Mapping[str, object], cursor: str | None) -> str | None:
        """The event of that type."""
        return encode_own(kind, data, cursor).decode()
