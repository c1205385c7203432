"""The two formats of a WebSocket connection: raw data, and CloudEvents in JSON.

| | raw | cloudevents |
| --- | --- | --- |
| a message is | a notification's data, verbatim | one event in JSON |
| the server's events | none: the headers of the 101 and the Close code instead | `trionotify.*` |
| if entries are lost | closes with 1013, unless `lag` is set | reports the gap |

Both have the same methods. `encode` makes the frame of a log entry, once for all clients that get it.
`message` makes what goes to one client alone, and `say` makes an event of the server itself. A hub has
one object of each format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from typing import Protocol

from trionotify.connection.frames import message_frame, text_frame
from trionotify.delivery.compression import CompressedEncode
from trionotify.delivery.counters import Compression
from trionotify.delivery.entry import Entry
from trionotify.errors import is_token
from trionotify.model.cloudevents import SUBPROTOCOL, encode, encode_own
from trionotify.model.notification import Notification
from trionotify.model.replies import Message
from trionotify.model.text import texts_of

__all__ = ["CloudEventsFormat", "Format", "RawFormat", "chosen", "compressed", "served"]


def served(names: Iterable[str]) -> tuple[str, ...]:
    """Check the subprotocols that an operator lists, served as raw; raises TypeError or ValueError."""
    names = texts_of("subprotocol", names)
    for name in names:
        if not is_token(name):
            raise ValueError(
                f"subprotocol: must consist of letters, digits and !#$%&'*+-.^_`|~, not {name!r}"
            )
    return names


def chosen(offered: Iterable[str], names: Iterable[str]) -> str | None:
    """Choose the subprotocol for a client: CloudEvents if offered, else the first offered in `names`."""
    offered = tuple(offered)
    if SUBPROTOCOL in offered:
        return SUBPROTOCOL
    return next((name for name in offered if name in names), None)


class Format(Protocol):
    """The format of a connection. The hub creates one object of each, which all connections share."""

    name: str
    #: The lag policy of a client whose query doesn't name one.
    default_lag: str
    #: Makes the frame of a log entry. It stays the same object, because groups compare by it.
    encode: Callable[[Entry], bytes]

    def message(self, message: Message, cursor: str | None = None) -> str | bytes:
        """A message for one client, with its cursor if it has one."""

    def say(self, kind: str, data: Mapping[str, object], cursor: str | None) -> str | None:
        """The server's own event `trionotify.KIND`, or None if the format can't express it."""


def compressed(
    format: Format,
    compress: Callable[[bytes], bytes | None],
    store: Callable[[bytes], bytes],
    counts: Compression,
) -> Format:
    """Return a copy of a format that makes compressed frames. See `CompressedEncode`."""
    twin = copy(format)
    twin.encode = CompressedEncode(format.encode, compress, store, counts)
    return twin


class RawFormat:
    """The data of notifications, and nothing else."""

    name = "raw"
    default_lag = "disconnect"

    def __init__(self) -> None:
        self.encode: Callable[[Entry], bytes] = _raw_frame

    def message(self, message: Message, cursor: str | None = None) -> str | bytes:
        """The data, or empty text for a notification without data."""
        data = message.data if isinstance(message, Notification) else message
        return "" if data is None else data

    def say(self, kind: str, data: Mapping[str, object], cursor: str | None) -> str | None:
        """None, because the format has no events of the server."""
        return None


def _raw_frame(entry: Entry) -> bytes:
    return message_frame(entry.data)


class CloudEventsFormat:
    """Events in JSON. Each has its cursor in the log."""

    name = "cloudevents"
    default_lag = "gap"

    def __init__(self, cursor: Callable[[int], str]) -> None:
        def frame(entry: Entry) -> bytes:
            return text_frame(encode(entry.notification, cursor(entry.offset)))

        self.encode: Callable[[Entry], bytes] = frame

    def message(self, message: Message, cursor: str | None = None) -> str | bytes:
        """The event. Text or bytes become a notification first."""
        if not isinstance(message, Notification):
            message = Notification(message)
        return encode(message, cursor).decode()

    def say(self, kind: str, data: Mapping[str, object], cursor: str | None) -> str | None:
        """The event `trionotify.KIND`."""
        return encode_own(kind, data, cursor).decode()
