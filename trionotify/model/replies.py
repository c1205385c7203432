"""Replies: what becomes of an event that a client sent to its session.

A client that speaks CloudEvents is told of each event that it sends. The default session publishes it,
and the acknowledgement says where. Another session deals with it: it replies, or rejects it, or asks for
the next one, which acknowledges the one before. An event with the attribute `request` is different,
because its sender waits for a reply: it stays open until there is one, whoever gives it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

import attrs

from trionotify.errors import Refused, quoted
from trionotify.model.jsontext import write_json
from trionotify.model.notification import Notification

__all__ = ["Message", "acknowledged", "as_request", "is_request", "reply_in", "reply_of"]

#: What a session gets and gives.
Message = str | bytes | Notification
#: The extension attribute of an event whose sender waits for a reply.
REQUEST: Final = "request"


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
