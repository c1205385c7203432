"""The keywords of `open_hub`, `open_server` and `publish`, for editors and type checkers.

Each class here is what `**options` or `**attributes` stands for in a signature, as
`Unpack[HubOptions]` (PEP 692). None of them does anything at run time. `Settings`, `open_hub` and
`Notification` check the values, and a test compares their keywords with these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from trionotify.attributes import ExtensionValue
    from trionotify.clients import Client
    from trionotify.logs.sqlite import Durability
    from trionotify.sessions import Authenticate, Handler, Session
    from trionotify.since import Duration

__all__ = ["Attributes", "HubOptions", "Lag", "Role", "SettingsOptions"]

#: What happens to a client that is too slow for the log.
Lag = Literal["disconnect", "latest", "gap"]
#: What a client may do.
Role = Literal["subscriber", "publisher", "both"]


class SettingsOptions(TypedDict, total=False):
    """The fields of `Settings`."""

    max_message_bytes: int
    max_connections: int
    max_connections_per_id: int | None
    max_connections_per_address: int | None
    max_half_open: int
    max_head_bytes: int
    max_body_bytes: int
    max_arriving_bytes: int
    max_batch: int
    max_waiting: int
    max_waiting_bytes: int
    max_log_entries: int
    max_log_bytes: int
    max_log_age: Duration
    max_tail_bytes: int
    max_filter_bytes: int
    max_filter_depth: int
    max_filters: int
    head_timeout: Duration
    request_timeout: Duration
    keep_alive_timeout: Duration
    close_timeout: Duration
    drain_timeout: Duration
    ping_interval: Duration
    ping_timeout: Duration
    stall_timeout: Duration
    position_interval: Duration


class HubOptions(SettingsOptions, total=False):
    """The keywords of `open_hub`, which `open_server` passes on to it."""

    store: str
    durability: Durability
    session: Session | None
    handler: Handler | None
    authenticate: Authenticate | None
    allow_origin: Iterable[str]
    allow_params: str | Iterable[str] | None
    page: bool
    secret: str | os.PathLike[str] | bytes | None
    secret_file: str | os.PathLike[str] | None
    trusted_proxy: Iterable[str]
    subprotocol: Iterable[str]


class Attributes(TypedDict, total=False):
    """What `publish` and `Notification.of` take beside the data. None stands for "not given".

    `extensions` are attributes of the application's own. An attribute that isn't listed here is one,
    too, when it is given as a keyword. Type checkers take it for a typo.
    """

    type: str | None
    source: str | None
    subject: str | None
    id: str | None
    time: str | datetime | None
    datacontenttype: str | None
    #: An extension that the server knows: a moment (RFC 3339) after which it isn't sent any more.
    expirytime: str | None
    #: The `id` of the only clients that it is for.
    to: str | None
    #: A predicate over the client's query, or any callable of the `Client`.
    audience: Callable[[Client], object] | None
    #: In place of the data: a value that is written as JSON. None is `null`.
    json: object
    extensions: Mapping[str, ExtensionValue] | None
