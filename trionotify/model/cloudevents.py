"""CloudEvents in JSON: conversion from and to notifications, and the server's own events.

The format is the CloudEvents JSON event format 1.0.2, in structured mode, so one event is one JSON
object. If the `datacontenttype` is JSON, the data's text stays as the publisher wrote it, in both
directions. Other text is a JSON string, and bytes are base64 in `data_base64`. This module adds the
extension attribute `cursor` to an event, which always means "resume after here".
"""

from __future__ import annotations

import base64
import binascii
import sys
import time as clock
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import attrs

from trionotify.model.filters import AUDIENCE, DEFAULT_LIMITS, SLOW, from_json
from trionotify.model.jsontext import Verbatim, read_json, read_members, read_values, write_json
from trionotify.model.media import read_media
from trionotify.model.notification import (
    NO_EXTENSIONS,
    RESERVED_TYPE,
    Data,
    Notification,
    new_id,
)
from trionotify.model.predicates import to_json
from trionotify.settings import FilterLimits

__all__ = [
    "AUTHENTICATE",
    "MAX_MEMBERS",
    "POSITION",
    "SUBPROTOCOL",
    "SUBSCRIBE",
    "AudienceReader",
    "Draft",
    "NotAnEvent",
    "TooMuch",
    "audience_of",
    "decode",
    "decode_sent",
    "encode",
    "encode_own",
    "read_event",
]

#: The types of events that a client sends to the server itself: new filters; a question for its
#: position.
SUBSCRIBE: Final = RESERVED_TYPE + "subscribe"
AUTHENTICATE: Final = RESERVED_TYPE + "authenticate"
POSITION: Final = RESERVED_TYPE + "position"

#: The most members of an event. Thousands of attributes are an attack.
MAX_MEMBERS: Final = 100

#: The `source` of the server's own events.
_SOURCE: Final = "/trionotify"
#: The most different audiences of maximum length in a batch.
_MAX_AUDIENCES: Final = 32
_REQUIRED: Final = ("specversion", "id", "source", "type")
_DATA: Final = ("data", "data_base64")
_FIELDS: Final = ("id", "source", "type", "subject", "time", "datacontenttype")


#: The CloudEvents WebSocket binding's name for events in JSON.
SUBPROTOCOL: Final = "cloudevents.json"


class NotAnEvent(ValueError):
    """A message isn't a valid event; `id` is its `id`, if that can be read."""

    def __init__(self, detail: str, id: str | None = None) -> None:
        super().__init__(detail)
        self.id = id


class TooMuch(NotAnEvent):
    """An event is valid, but exceeds a limit together with those before it."""


def decode(text: str | bytes) -> Notification:
    """Parse an event in JSON. Raises NotAnEvent that names the fault.

    The attribute `audience`, a JSON array of filters as a string, becomes the notification's audience;
    `cursor` is the server's to say, and is dropped.
    """
    return read_event(text).notification(partial(audience_of, limits=DEFAULT_LIMITS), {})


def read_event(text: str | bytes) -> Draft:
    """Parse the members of an event in JSON. Raises NotAnEvent if it isn't an object."""
    try:
        members = read_members(text)
        if len(members) > MAX_MEMBERS:
            raise ValueError(f"an event may have at most {MAX_MEMBERS} members, not {len(members)}")
        attributes = read_values(members, but=_DATA)
    except ValueError as error:
        raise NotAnEvent(str(error)) from None
    return Draft(attributes, members)


@attrs.define(eq=False)
class Draft:
    """An event whose JSON was parsed, but whose attributes were not checked.

    Parsing JSON is cheap. Decoding an audience may be slow, because its filters are parsed. Nothing
    changes a draft. (It isn't frozen, because creating a frozen object takes twice as long, and this is
    on the path of every event.)
    """

    attributes: Mapping[str, Any]
    #: All members, as the texts that were sent.
    members: Mapping[str, Verbatim]

    @property
    def slow(self) -> bool:
        """Whether it may take more than a turn, to parse its filters or to verify a token."""
        attributes = self.attributes
        if "audience" in attributes:
            audience = attributes["audience"]
            return isinstance(audience, str) and len(audience) > SLOW
        type = attributes.get("type")
        if type == SUBSCRIBE and "data" in self.members:
            return len(bytes(self.members["data"])) > SLOW
        return bool(type == AUTHENTICATE)

    def notification(
        self, read_audience: Callable[[object], Any], defaults: Mapping[str, Any]
    ) -> Notification:
        """Return the notification, with its audience parsed by `read_audience`. Raises NotAnEvent.

        `defaults` are the values of attributes that it doesn't have, with `audience` as a predicate.
        """
        try:
            return self._notification(read_audience, defaults)
        except TooMuch:
            raise
        except (TypeError, ValueError) as error:
            id = self.attributes.get("id")
            raise NotAnEvent(str(error), id if isinstance(id, str) else None) from None

    def _notification(
        self, read_audience: Callable[[object], Any], defaults: Mapping[str, Any]
    ) -> Notification:
        said = self.attributes
        if None in said.values():
            # A null attribute counts as missing (section 2.2 of the format).
            said = {name: value for name, value in said.items() if value is not None}
        given = {**defaults, **said}
        for name in _REQUIRED:
            if name not in given:
                raise ValueError(f"{name}: missing; an event needs {', '.join(_REQUIRED)}")
        if (version := given.pop("specversion")) != "1.0":
            raise ValueError(f"specversion: must be '1.0', not {version!r:.40}")
        given.pop("cursor", None)
        audience = given.pop("audience", None)
        if audience is not None and "audience" in said:
            audience = read_audience(audience)
        take = given.pop
        data, kind, is_json = _typed(self.members, take("datacontenttype", None))
        made = Notification(
            data,
            id=take("id"),
            source=take("source"),
            type=take("type"),
            subject=take("subject", None),
            time=take("time") if "time" in given else clock.time(),
            datacontenttype=None if is_json else kind,
            audience=audience,
            extensions=given or NO_EXTENSIONS,
        )
        return made.of_json(kind) if is_json else made


class AudienceReader:
    """Parses the audiences of events in one batch, equal ones once, within a limit on their total size.

    The events of a batch often have one audience. If each event has a different audience of the maximum
    size, parsing takes a minute. So there is a limit on their total size, too.
    """

    def __init__(self, limits: FilterLimits) -> None:
        self._limits = limits
        self._read: dict[str, Any] = {}
        self._left = _MAX_AUDIENCES * limits.max_filter_bytes

    def knows(self, draft: Draft) -> bool:
        """Return whether the draft's audience was parsed before."""
        audience = draft.attributes.get("audience")
        return isinstance(audience, str) and audience in self._read

    def read(self, value: object) -> Any:
        """The audience that the attribute of that name says; raises TypeError or ValueError."""
        if isinstance(value, str) and value in self._read:
            return self._read[value]
        audience = audience_of(value, self._limits)
        assert isinstance(value, str)  # else it were refused
        self._left -= len(value)
        if self._left < 0:
            most = _MAX_AUDIENCES * self._limits.max_filter_bytes
            raise TooMuch(
                f"audience: the audiences of one batch may have at most {most} characters in total"
            )
        self._read[value] = audience
        return audience


def decode_sent(text: str | bytes) -> tuple[Notification, str | None]:
    """Parse an event that a server has sent; return its notification and its `cursor`.

    The server has checked it. Here the event is only parsed, and its data is passed on unchanged. This
    side's checks must not keep an application from a notification that the server has accepted.
    """
    try:
        members = read_members(text, sys.maxsize)
        attributes = read_values(members, but=_DATA)
        cursor = attributes.pop("cursor", None)
        return _sent(attributes, members), cursor if isinstance(cursor, str) else None
    except (TypeError, ValueError) as error:
        raise NotAnEvent(str(error)) from None


def _sent(attributes: dict[str, Any], members: Mapping[str, Verbatim]) -> Notification:
    given = {name: value for name, value in attributes.items() if value is not None}
    for name in ("specversion", "audience"):
        given.pop(name, None)
    fields = {name: given.pop(name, None) for name in _FIELDS}
    id, source, type, subject, time, kind = fields.values()
    for name, value in fields.items():
        if not isinstance(value, str) and (value is not None or name in _REQUIRED):
            raise TypeError(f"{name}: must be a string")
    for name, value in given.items():
        if not isinstance(value, str | int):
            raise TypeError(f"{name}: must be a string, an integer or a boolean")
    data, kind, _ = _typed(members, kind)
    extensions = MappingProxyType(given)
    time = clock.time() if time is None else time
    return Notification.restored(
        (data, type, source, subject, id, True, time, kind, None, extensions),
    )


def audience_of(value: object, limits: FilterLimits) -> Any:
    """The audience that the attribute of that name says; raises TypeError or ValueError."""
    if not isinstance(value, str):
        raise TypeError("audience: must be a string that contains a JSON array of filters")
    if not value.lstrip().startswith("["):
        raise ValueError(f"audience: must be a JSON array of filters, for example {AUDIENCE}")
    try:
        return from_json(value, limits, audience=True)
    except ValueError as error:
        raise ValueError(f"audience: {error}") from None


def _audience_text(audience: Callable[[Any], object]) -> str:
    try:
        filters = to_json(audience)
    except (TypeError, ValueError) as error:
        raise type(error)(f"audience: {error}") from None
    return write_json(filters if isinstance(filters, list) else [filters]).decode()


def _typed(members: Mapping[str, Verbatim], kind: Any) -> tuple[Data, Any, bool]:
    """Return the data, its media type (`kind`, if given), and whether it was parsed as JSON."""
    if "data_base64" in members:
        if "data" in members:
            raise ValueError("data and data_base64: an event may have only one of them")
        data = _unbase64(read_json(members["data_base64"]))
        return data, "application/octet-stream" if kind is None else kind, False
    if "data" not in members:
        return None, kind, False
    text = members["data"]
    if kind is None:
        # Data without a media type is JSON (section 3.1 of the format).
        return str(text, "utf-8"), "application/json", True
    if not isinstance(kind, str) or read_media(kind).is_json:
        return str(text, "utf-8"), kind, True
    value = read_json(text)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"data: must be a string, because {kind} is not JSON")
    return value, kind, False


def _unbase64(value: object) -> bytes:
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise ValueError("data_base64: must be a base64 string")


def encode(notification: Notification, cursor: str | None, *, audience: bool = False) -> bytes:
    """Return a notification as an event in JSON, with its `cursor` in the log.

    The audience stays at the server. It is in the event only if `audience` is true, on the way to the
    server. Then an audience without a JSON form raises TypeError or ValueError.
    """
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": notification.id,
        "source": notification.source,
        "type": notification.type,
        "time": notification.time,
    }
    if notification.subject is not None:
        event["subject"] = notification.subject
    kind = notification.datacontenttype
    if kind is not None:
        event["datacontenttype"] = kind
    event.update(notification.extensions)
    if cursor is not None:
        event["cursor"] = cursor
    if audience and notification.audience is not None:
        event["audience"] = _audience_text(notification.audience)
    data = notification.data
    if isinstance(data, bytes):
        event["data_base64"] = base64.b64encode(data).decode()
    elif data is not None:
        event["data"] = Verbatim(data.encode()) if kind and read_media(kind).is_json else data
    return write_json(event)


def encode_own(kind: str, data: Mapping[str, object], cursor: str | None) -> bytes:
    """Return a server event in JSON. `kind` is its type without the prefix `trionotify.`."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": new_id(),
        "source": _SOURCE,
        "type": RESERVED_TYPE + kind,
        "datacontenttype": "application/json",
    }
    if cursor is not None:
        event["cursor"] = cursor
    event["data"] = data
    return write_json(event)
