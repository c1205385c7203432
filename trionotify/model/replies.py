"""Replies to the events that a client sends to its session.

A client that speaks CloudEvents is told of each event that it sends. The default session publishes it,
and the acknowledgement says where. A session replies to it, rejects it, or asks for the next one, which
acknowledges the one before. An event with the attribute `request` is different, because its sender waits
for a reply. It stays open until any task replies.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

import attrs

from trionotify.errors import Refused, quoted
from trionotify.model.jsontext import check_json, check_numbers, write_json
from trionotify.model.notification import Notification

__all__ = ["Message", "acknowledged", "as_request", "is_request", "reply_in", "reply_of"]

#: The messages of a session, and its answers.
Message = str | bytes | Notification
#: The extension attribute of an event whose sender waits for a reply.
REQUEST: Final = "request"


def is_request(event: Notification) -> bool:
    """Return whether its sender waits for a reply."""
    extensions = event.extensions
    return bool(extensions and extensions.get(REQUEST))


def as_request(event: Notification) -> Notification:
    """Return a copy of an event whose sender waits for a reply."""
    return attrs.evolve(event, extensions={**event.extensions, REQUEST: True})


def reply_in(answer: Mapping[str, Any]) -> object:
    """Return the reply in the data of a `trionotify.ack`. Raises `Refused` if there is none."""
    if "reply_base64" in answer:
        return base64.b64decode(str(answer["reply_base64"]))
    if "reply" not in answer:
        raise Refused(
            501, "request: acknowledged without a reply, because the server's session gives none"
        )
    return answer["reply"]


def acknowledged(event: Notification, reply: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return the data of `trionotify.ack` for an event that a session has handled."""
    return {"source": event.source, "id": event.id, **(reply or {})}


def reply_of(data: object) -> dict[str, object]:
    """Return a reply as a member of JSON.

    Raises TypeError for a value without a JSON form, and ValueError for NaN and Infinity.
    """
    if isinstance(data, bytes):
        return {"reply_base64": base64.b64encode(data).decode()}
    reply = {"reply": data}
    try:
        text = write_json(reply)
        check_json(text)  # no client reads one that is nested too deep
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"data: {quoted(data)} can't be written as JSON: {error}") from None
    if b"null" in text and not isinstance(data, str):
        check_numbers(data, "data")
    return reply
