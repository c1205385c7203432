"""The keywords of `open_hub` and `open_server`, for editors and type checkers.

Each class describes the `**options` of a signature, as `Unpack[HubOptions]` (PEP 692). The classes do
nothing at run time. `Settings` and `open_hub` check the values, and a test compares their keywords with
these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from trionotify.connection.session import Handler, Session
    from trionotify.durations import Duration
    from trionotify.http.messages import Authenticate
    from trionotify.storage import Durability

__all__ = ["HubOptions", "SettingsOptions"]


class SettingsOptions(TypedDict, total=False):
    """The fields of `Settings`, as keywords of `open_hub` and `open_server`."""

    max_message_bytes: int
    max_connections: int
    max_connections_per_id: int | None
    max_connections_per_address: int | None
    publish_rate_per_id: float | None
    publish_rate_per_address: float | None
    connection_rate_per_address: float | None
    rate_burst: Duration
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
    compression: bool
    compression_threshold: int


class HubOptions(SettingsOptions, total=False):
    """The keywords of `open_hub`, which `open_server` passes on to it."""

    store: str
    durability: Durability | None
    node_name: str | None
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
