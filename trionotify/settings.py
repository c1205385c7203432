"""Every limit and timeout, in one record, checked before anything runs.

Sizes are bytes unless the name says otherwise, times are seconds.
"""

from __future__ import annotations

import contextlib
import difflib
from typing import Any

import attrs

from trionotify.filters import FilterLimits

__all__ = ["Settings", "raise_file_limit"]

#: The most open files that macOS lets a process have where it says "unlimited".
_MACOS_FILES = 10240
#: Descriptors for all but connections: listeners, the log, files that are read.
_OTHER_FILES = 64
_KIB = 1024
_MIB = 1024 * _KIB


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, where there is such a thing; return it."""
    try:
        import resource  # noqa: PLC0415 - absent on Windows
    except ImportError:  # pragma: no cover - Windows
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, _MACOS_FILES):
        if soft < limit or limit == resource.RLIM_INFINITY:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                soft = limit
                break
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def _default_half_open() -> int:
    return max(min(1024, raise_file_limit() // 4), 1)


def _default_connections() -> int:
    return max(raise_file_limit() - _default_half_open() - _OTHER_FILES, 1)


def _positive(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be a number, not {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{attribute.name} must be greater than 0, not {value}")


def _whole(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{attribute.name} must be a whole number, not {value!r}")


def _limit(default: float, about: str) -> Any:
    checks = [_positive, _whole] if isinstance(default, int) else [_positive]
    return attrs.field(default=default, validator=checks, metadata={"help": about})


def _no_limit(about: str) -> Any:
    checks = attrs.validators.optional((_positive, _whole))
    return attrs.field(
        default=None, validator=checks, metadata={"help": f"{about}  [default: no limit]"}
    )


@attrs.frozen(kw_only=True)
class Settings:
    """The limits of a hub. Each is a keyword of `open_hub` and `open_server`, and an option of `serve`.

    Raises TypeError or ValueError that names the setting when a value won't do.
    """

    max_message_bytes: int = _limit(_MIB, "the longest message, event or body that a client may send")
    max_connections: int = attrs.field(
        factory=_default_connections,
        validator=[_positive, _whole],
        metadata={"help": "connections at a time; 503 above  [default: what the file limit leaves]"},
    )
    max_connections_per_id: int | None = _no_limit("those of one client, by its id; 429 above")
    max_connections_per_address: int | None = _no_limit("those of one address; 429 above")
    max_half_open: int = attrs.field(
        factory=_default_half_open,
        validator=[_positive, _whole],
        metadata={
            "help": "connections that are no client's; above, one is dropped"
            "  [default: 1024, a quarter of the file limit at most]"
        },
    )
    max_head_bytes: int = _limit(16 * _KIB, "the longest head of a request")
    max_body_bytes: int = _limit(16 * _MIB, "the longest batch of events, as the body of a request")
    max_arriving_bytes: int = _limit(
        256 * _MIB, "all bodies and messages that are still arriving, together; 503 or 1013 above"
    )
    max_batch: int = _limit(1000, "the events of a request that publishes several")
    max_waiting: int = _limit(4096, "published notifications that wait for their broadcast")
    max_waiting_bytes: int = _limit(16 * _MIB, "the same, in bytes")
    max_log_entries: int = _limit(10_000, "notifications that the log keeps")
    max_log_bytes: int = _limit(64 * _MIB, "the same, in bytes")
    max_log_age: float = _limit(3600.0, "the same, in seconds")
    max_tail_bytes: int = _limit(
        16 * _MIB, "of a log in a file, how many bytes of its newest are in memory too"
    )
    max_filter_bytes: int = _limit(8 * _KIB, "the longest filters of a client, as JSON or SQL")
    max_filter_depth: int = attrs.field(
        default=32,
        validator=[_positive, _whole, attrs.validators.le(100)],
        metadata={"help": "how deep a filter may be nested, 100 at most", "most": 100},
    )
    max_filters: int = _limit(256, "the filters of a client, those inside others included")
    head_timeout: float = _limit(10.0, "seconds for a request's head to arrive")
    request_timeout: float = _limit(
        30.0, "seconds for a request's body to arrive, and for what it asks to be done"
    )
    keep_alive_timeout: float = _limit(60.0, "seconds until the next request on a connection")
    close_timeout: float = _limit(5.0, "seconds for a connection to close in good order")
    drain_timeout: float = _limit(30.0, "seconds for all clients to leave when the server drains")
    ping_interval: float = _limit(30.0, "seconds of silence before a client is pinged")
    ping_timeout: float = _limit(30.0, "seconds a pinged client has to be heard from")
    stall_timeout: float = _limit(60.0, "seconds a client may take nothing that it is owed")
    position_interval: float = _limit(
        30.0, "seconds without an event until a client is told where it is"
    )

    @property
    def shortest_interval(self) -> float:
        """How soon the sweep may have something to do."""
        return min(self.ping_interval, self.ping_timeout, self.stall_timeout, self.position_interval)

    @property
    def filter_limits(self) -> FilterLimits:
        """Those of them that are about filters."""
        return FilterLimits(self.max_filter_bytes, self.max_filter_depth, self.max_filters)

    @classmethod
    def of(cls, options: dict[str, Any]) -> Settings:
        """Make settings of keyword options; TypeError names an unknown one and the nearest known."""
        known = [field.name for field in attrs.fields(cls)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"there is no option {name!r}{hint}")
        return cls(**options)
