"""Every limit and timeout, in one record, checked before anything runs.

Sizes are bytes unless the name says otherwise. Times are seconds; they may be given in any way that
`duration_of` reads, such as `15m`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import attrs

from trionotify.durations import Duration, duration_of, seconds_of

__all__ = ["OTHER_FILES", "FilterLimits", "Settings", "duration", "file_limit", "raise_file_limit"]

#: The most open files of a process on macOS, where the limit may read "unlimited".
_MACOS_FILES = 10240
#: Descriptors for other purposes than connections: listeners, the log, files that are read.
OTHER_FILES = 64
_KIB = 1024
_MIB = 1024 * _KIB


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, on systems that have these.

    The limit belongs to the process. Children inherit it, and `select` fails above 1024. So the command
    line does this, and an application may, but no hub does.
    """
    try:
        import resource  # noqa: PLC0415 - absent on Windows
    except ImportError:  # pragma: no cover - Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, _MACOS_FILES):
        if soft < limit or limit == resource.RLIM_INFINITY:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                break


def file_limit() -> int:
    """Return the number of files that the process may have open."""
    try:
        import resource  # noqa: PLC0415 - absent on Windows
    except ImportError:  # pragma: no cover - Windows
        return 512
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def _default_half_open() -> int:
    return max(min(1024, file_limit() // 4), 1)


def _default_connections() -> int:
    return max(file_limit() - _default_half_open() - OTHER_FILES, 1)


def _positive(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{attribute.name}: must be a number, not {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{attribute.name}: must be greater than 0, not {value}")


def _whole(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{attribute.name}: must be a whole number, not {value!r}")


def _flag(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name}: must be True or False, not {type(value).__name__}")


def _at_most_100(_: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if value > 100:
        raise ValueError(f"{attribute.name}: must be at most 100, not {value}")


def _read_duration(value: Duration) -> Any:
    """Convert a duration to seconds. An invalid value is left to `_check_duration`."""
    try:
        return duration_of(value)
    except (TypeError, ValueError):
        return value


def _check_duration(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not seconds_of(attribute.name, value) > 0:
        raise ValueError(f"{attribute.name}: must be greater than 0, not {value}")


def duration(**options: Any) -> Any:
    """Return an attrs field that takes any `Duration` greater than 0, and holds seconds."""
    return attrs.field(converter=_read_duration, validator=_check_duration, **options)


def _limit(default: float, about: str) -> Any:
    if isinstance(default, float):
        return duration(default=default, metadata={"help": about})
    return attrs.field(default=default, validator=[_positive, _whole], metadata={"help": about})


def _share(of_files: Callable[[], int], about: str) -> Any:
    """Return the field of a limit whose default is a share of the file limit."""
    return attrs.field(factory=of_files, validator=[_positive, _whole], metadata={"help": about})


def _no_limit(about: str) -> Any:
    checks = attrs.validators.optional((_positive, _whole))
    return attrs.field(
        default=None, validator=checks, metadata={"help": f"{about}  [default: no limit]"}
    )


def _rate(about: str) -> Any:
    return attrs.field(
        default=None,
        validator=attrs.validators.optional(_positive),
        metadata={"help": f"{about}  [default: no limit]", "fractions": True},
    )


@attrs.frozen(cache_hash=True)
class FilterLimits:
    """The limits of a filter's JSON: its bytes, its nesting, and the number of filters in it.

    A filter is evaluated for every notification, and takes some stack frames for each level. So its
    estimated cost is limited too, in microseconds of one evaluation in the worst case.
    """

    max_filter_bytes: int = 8 << 10
    max_filter_depth: int = 32
    max_filters: int = 256
    max_filter_cost: int = 1_500


@attrs.frozen(kw_only=True)
class Settings:
    """The limits of a hub. Each is a keyword of `open_hub` and `open_server`, and an option of `serve`.

    Raises TypeError or ValueError that names the setting with an invalid value.
    """

    max_message_bytes: int = _limit(
        _MIB,
        "The longest message, POST body, or event of a batch, in bytes. A longer one is refused"
        " with 1009 or 413.",
    )
    max_connections: int = _share(
        _default_connections,
        "The maximum number of clients at a time. Further ones are refused with 503."
        "  [default: the file limit less 64 and the default of max_half_open]",
    )
    max_connections_per_id: int | None = _no_limit(
        "The maximum number of connections that one client id may have. Further ones are refused with"
        " 429."
    )
    max_connections_per_address: int | None = _no_limit(
        "The maximum number of connections from one address (for IPv6, one /64 prefix). Further ones"
        " are refused with 429."
    )
    publish_rate_per_id: float | None = _rate(
        "The number of notifications a second that one client id may publish, on average. Further ones"
        " are refused with 429, and a raw client is not read meanwhile."
    )
    publish_rate_per_address: float | None = _rate(
        "The number of notifications a second that one address (for IPv6, one /64 prefix) may publish,"
        " on average. Further ones are refused with 429, and a raw client is not read meanwhile."
    )
    connection_rate_per_address: float | None = _rate(
        "The number of connections a second that one address (for IPv6, one /64 prefix) may open, on"
        " average. Further ones are refused with 429."
    )
    rate_burst: float = _limit(
        10.0, "The time, in seconds, by which a client or an address may be ahead of its rates."
    )
    max_half_open: int = _share(
        _default_half_open,
        "The maximum number of connections without a client. Above it, the address that has the most of"
        " them loses one.  [default: 1024, at most a quarter of the file limit]",
    )
    max_head_bytes: int = _limit(
        16 * _KIB, "The longest request line and headers, in bytes. Longer ones are refused with 431."
    )
    max_body_bytes: int = _limit(
        16 * _MIB, "The longest batch of events, in bytes. A longer one is refused with 413."
    )
    max_arriving_bytes: int = _limit(
        256 * _MIB,
        "The maximum total size, in bytes, of request bodies and messages that are still arriving, over"
        " all connections. Above it, one is refused with 503 or closed with 1013.",
    )
    max_batch: int = _limit(
        1000, "The maximum number of events in a batch. A larger batch is refused with 413."
    )
    max_waiting: int = _limit(
        4096,
        "The maximum number of notifications that may wait for their broadcast. Above it, publishers"
        " have to wait.",
    )
    max_waiting_bytes: int = _limit(
        16 * _MIB,
        "The maximum total size, in bytes, of the notifications that may wait for their broadcast. Above"
        " it, publishers have to wait.",
    )
    max_log_entries: int = _limit(10_000, "The maximum number of notifications that the log keeps.")
    max_log_bytes: int = _limit(64 * _MIB, "The maximum size of the log, in bytes of memory.")
    max_log_age: float = _limit(3600.0, "The time, in seconds, for which the log keeps a notification.")
    max_tail_bytes: int = _limit(
        16 * _MIB,
        "The maximum size, in bytes, of the newest notifications that a durable log also keeps in"
        " memory.",
    )
    max_filter_bytes: int = _limit(
        8 * _KIB, "The longest filters of one client, in bytes of JSON or SQL."
    )
    max_filter_depth: int = attrs.field(
        default=32,
        validator=[_positive, _whole, _at_most_100],
        metadata={"help": "The maximum nesting depth of filters, at most 100.", "most": 100},
    )
    max_filters: int = _limit(256, "The maximum number of filters of one client, including nested ones.")
    head_timeout: float = _limit(
        10.0,
        "The time, in seconds, for a request's headers to arrive. A later request is refused with 408.",
    )
    request_timeout: float = _limit(
        30.0,
        "The time, in seconds, for a request's body to arrive, and as long again to process the"
        " request.",
    )
    keep_alive_timeout: float = _limit(
        60.0, "The time, in seconds, that a connection waits for its next request."
    )
    close_timeout: float = _limit(
        5.0, "The time, in seconds, for a connection to close in good order. After that it is reset."
    )
    drain_timeout: float = _limit(
        30.0,
        "The time, in seconds, for all clients to leave when the server drains. After that they are"
        " disconnected.",
    )
    ping_interval: float = _limit(
        30.0, "The time, in seconds, without data from a client after which the server pings it."
    )
    ping_timeout: float = _limit(
        30.0, "The time, in seconds, that a client has to answer a ping. After that it is disconnected."
    )
    stall_timeout: float = _limit(
        60.0,
        "The time, in seconds, without progress after which a client is disconnected, because it accepts"
        " no pending data or its message arrives too slowly.",
    )
    position_interval: float = _limit(
        30.0,
        "The time, in seconds, without an event after which a client is told its position in the log.",
    )
    compression: bool = attrs.field(
        default=True,
        validator=_flag,
        metadata={
            "help": "Compress notifications for clients that offer it: WebSockets with"
            " permessage-deflate, and streams over HTTP with gzip."
        },
    )
    compression_threshold: int = _limit(
        512, "The shortest notification that is compressed, in bytes of its frame."
    )

    @property
    def shortest_interval(self) -> float:
        """The shortest timeout that the sweep must observe, in seconds."""
        return min(self.ping_interval, self.ping_timeout, self.stall_timeout, self.position_interval)

    @property
    def filter_limits(self) -> FilterLimits:
        """The limits on the size of filters."""
        return FilterLimits(self.max_filter_bytes, self.max_filter_depth, self.max_filters)
