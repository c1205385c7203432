"""The keywords of `publish`, and values of a query, for editors and type checkers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from trionotify.model.attributes import ExtensionValue

__all__ = ["Attributes", "CoreAttributes", "Lag", "Role"]

#: The lag policy, for a client that is too slow for the log.
Lag = Literal["disconnect", "latest", "gap"]
#: The role of a client.
Role = Literal["subscriber", "publisher", "both"]


class CoreAttributes(TypedDict, total=False):
    """The keywords of `publish` and `Notification.of` besides the data. None stands for "not given".

    `extensions` are attributes of the application's own. An attribute that isn't listed here is one,
    too, when it is given as a keyword. Type checkers take it for a typo.
    """

    type: str | None
    source: str | None
    subject: str | None
    id: str | None
    time: str | datetime | None
    datacontenttype: str | None
    #: An extension that the server knows, a time (RFC 3339) after which the notification isn't sent any
    #: more.
    expirytime: str | None
    #: The `id` of the recipients. Other clients don't get the notification.
    to: str | None
    #: A value that is written as JSON, instead of the data. None is `null`.
    json: object
    extensions: Mapping[str, ExtensionValue] | None


class Attributes(CoreAttributes, total=False):
    """The keywords of `publish`, including the audience."""

    #: A predicate over the client's query, or any callable of a client.
    audience: Callable[[Any], object] | None
