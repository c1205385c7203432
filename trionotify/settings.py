"""Every limit and timeout, in one record, checked before anything runs.

Sizes are bytes unless the name says otherwise. Times are seconds; they may be given in any way that
`duration_of` reads, such as `15m`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import attrs

from trionotify.durations import Duration, duration_of

__all__ = ["OTHER_FILES", "FilterLimits", "Settings", "duration", "file_limit", "raise_file_limit"]

#: The most open files that macOS lets a process have where it says "unlimited".
_MACOS_FILES = 10240
#: Descriptors for all but connections: listeners, the log, files that are read.
OTHER_FILES = 64
_KIB = 1024
_MIB = 1024 * _KIB


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, where there is such a thing.

    It is the process's: children inherit it, and `select` fails above 1024. So the command line does
    this, and an application may, but no hub does.
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
    """How many files the process may have open."""
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
        raise TypeError(f"{attribute.name} must be a number, not {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{attribute.name} must be greater than 0, not {value}")


def _whole(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{attribute.name} must be a whole number, not {value!r}")


def _read_duration(value: Duration) -> Any:
    """What can't be read is left to `_check_duration`, which knows the name."""
    try:
        return duration_of(value)
    except (TypeError, ValueError):
        return value


def _check_duration(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    try:
        seconds = duration_of(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{attribute.name} {error}") from None
    if not seconds > 0:
        raise ValueError(f"{attribute.name} must be greater than 0, not {value}")


def duration(**options: Any) -> Any:
    """A field of attrs that is given any `Duration` greater than 0, and holds seconds."""
    return attrs.field(converter=_read_duration, validator=_check_duration, **options)


def _limit(default: float, about: str) -> Any:
    if isinstance(default, float):
        return duration(default=default, metadata={"help": about})
    return attrs.field(default=default, validator=[_positive, _whole], metadata={"help": about})


def _share(of_files: Callable[[], int], about: str) -> Any:
    """A limit whose default is a share of the file limit."""
    return attrs.field(factory=of_files, validator=[_positive, _whole], metadata={"help": about})


def _no_limit(about: str) -> Any:
    checks = attrs.validators.optional((_positive, _whole))
    return attrs.field(
        default=None, validator=checks, metadata={"help": f"{about}  [default: no limit]"}
    )


@attrs.frozen
class FilterLimits:
    """How large the JSON of a filter may be: its bytes, its nesting, the filters in it altogether.

    Whoever evaluates a filter pays for it with every notification, and with some frames of the stack
    for each level. So its cost is limited, too: microseconds of one evaluation at the worst, estimated.
    """

    max_filter_bytes: int = 8 << 10
    max_filter_depth: int = 32
    max_filters: int = 256
    max_filter_cost: int = 1_500


@attrs.frozen(kw_only=True)
class Settings:
    """The limits of a hub. Each is a keyword of `open_hub` and `open_server`, and an option of `serve`.

    Raises TypeError or ValueError that names the setting when a value won't do.
    """

    max_message_bytes: int = _limit(
        _MIB, "bytes of the longest message, POST body or event of a batch that a client may send"
    )
    max_connections: int = _share(
        _default_connections,
        "clients that may be connected at a time; 503 above"
        "  [default: the file limit less 64 and the default of max_half_open]",
    )
    max_connections_per_id: int | None = _no_limit(
        "connections that one client, by its id, may have; 429 above"
    )
    max_connections_per_address: int | None = _no_limit(
        "connections that one address (of IPv6, one /64) may have; 429 above"
    )
    max_half_open: int = _share(
        _default_half_open,
        "connections that don't belong to a client yet; above, the address that has most of them loses"
        " one  [default: 1024, at most a quarter of the file limit]",
    )
    max_head_bytes: int = _limit(
        16 * _KIB, "bytes of the longest request head (request line and headers); 431 above"
    )
    max_body_bytes: int = _limit(16 * _MIB, "bytes of the longest batch of events; 413 above")
    max_arriving_bytes: int = _limit(
        256 * _MIB,
        "bytes of bodies and messages that are still arriving, on all connections together; 503 or"
        " 1013 above",
    )
    max_batch: int = _limit(1000, "events in a batch; 413 above")
    max_waiting: int = _limit(
        4096, "notifications that may wait for their broadcast; publishers are held back above"
    )
    max_waiting_bytes: int = _limit(
        16 * _MIB,
        "bytes of notifications that may wait for their broadcast; publishers are held back above",
    )
    max_log_entries: int = _limit(10_000, "notifications that the log keeps")
    max_log_bytes: int = _limit(
        64 * _MIB, "bytes of notifications that the log keeps, counted as they weigh in memory"
    )
    max_log_age: float = _limit(3600.0, "seconds for which the log keeps a notification")
    max_tail_bytes: int = _limit(
        16 * _MIB, "bytes of the newest notifications that a log in a file keeps in memory as well"
    )
    max_filter_bytes: int = _limit(8 * _KIB, "bytes of the longest filters of a client, as JSON or SQL")
    max_filter_depth: int = attrs.field(
        default=32,
        validator=[_positive, _whole, attrs.validators.le(100)],
        metadata={"help": "levels of filters inside each other, 100 at most", "most": 100},
    )
    max_filters: int = _limit(256, "filters that a client may give, those inside others included")
    head_timeout: float = _limit(10.0, "seconds for a request's head to arrive; 408 after that")
    request_timeout: float = _limit(
        30.0, "seconds for a request's body to arrive and for the request to be carried out"
    )
    keep_alive_timeout: float = _limit(60.0, "seconds that a connection waits for its next request")
    close_timeout: float = _limit(
        5.0, "seconds for a connection to close in good order before it is reset"
    )
    drain_timeout: float = _limit(
        30.0, "seconds for all clients to leave when the server drains; then they are cut off"
    )
    ping_interval: float = _limit(30.0, "seconds of silence after which a client is pinged")
    ping_timeout: float = _limit(30.0, "seconds that a pinged client has to answer before it is dropped")
    stall_timeout: float = _limit(
        60.0,
        "seconds without progress after which a connection is dropped: it takes none of the bytes that"
        " it is sent, or its message arrives too slowly",
    )
    position_interval: float = _limit(
        30.0, "seconds without an event after which a client is told its position in the log"
    )

    @property
    def shortest_interval(self) -> float:
        """How soon the sweep may have something to do."""
        return min(self.ping_interval, self.ping_timeout, self.stall_timeout, self.position_interval)

    @property
    def filter_limits(self) -> FilterLimits:
        """Those of them that are about filters."""
        return FilterLimits(self.max_filter_bytes, self.max_filter_depth, self.max_filters)
