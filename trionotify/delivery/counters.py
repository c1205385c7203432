"""Counters of a hub's work: plain numbers that only increase.

They are counted once per batch or per turn of the broadcast, not once per delivery. `http.metrics`
reads them when a request asks for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final

import attrs

from trionotify.errors import CloseCode

if TYPE_CHECKING:
    from trionotify.delivery.entry import Entry
    from trionotify.errors import Refused

__all__ = ["SECONDS", "Compression", "Counts", "Histogram", "Lag", "Statistics"]

#: Upper bounds of the buckets, in seconds and in notifications.
SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_CODES: Final = frozenset(CloseCode)
SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)


@attrs.define
class Histogram:
    """The counts of values up to each of the `bounds` and above the last one, and their sum."""

    bounds: tuple[float, ...]
    counts: list[int] = attrs.field(init=False)
    sum: float = attrs.field(default=0.0, init=False)

    @counts.default
    def _none(self) -> list[int]:
        return [0] * (len(self.bounds) + 1)

    def add(self, value: float, times: int = 1) -> None:
        """Count a value `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


@attrs.define
class Lag:
    """Counts of clients that were too slow, and of the notes kept for them."""

    #: Gaps of which clients were told.
    gaps: int = 0
    #: Notifications left out because a newer one of the same kind came.
    thinned: int = 0
    #: Connections that were closed because they were too slow.
    closed: int = 0
    #: Notifications that `latest` notes at the moment, for all clients together. It may decrease.
    noted: int = 0


@attrs.define
class Compression:
    """The bytes of frames that were compressed, before and after, once per notification and format."""

    plain_bytes: int = 0
    compressed_bytes: int = 0


@attrs.define
class Counts:
    """The counters of a hub. Created by the broadcast; any part of the hub may add to them."""

    #: Notifications that got a place in the log, and their bytes.
    published: int = 0
    published_bytes: int = 0
    #: Published notifications that the log had already.
    repeated: int = 0
    #: Notifications handed to the kernel, once per client, and the bytes of their frames. A frame that
    #: was cut counts once its first bytes have gone out.
    delivered: int = 0
    delivered_bytes: int = 0
    #: The number of notifications in each turn of the broadcast.
    batches: Histogram = attrs.Factory(lambda: Histogram(SIZES))
    #: Seconds from entering the channel until the kernels of all live clients have the notification.
    latency: Histogram = attrs.Factory(lambda: Histogram(SECONDS))
    lag: Lag = attrs.Factory(Lag)
    compression: Compression = attrs.Factory(Compression)
    #: Clients by (transport, format), and closed connections by Close code. None means lost without
    #: one. 0 means an unknown one, because peers may make up thousands of them.
    opened: Counter[tuple[str, str]] = attrs.Factory(Counter)
    closed: Counter[int | None] = attrs.Factory(Counter)
    #: HTTP responses by status, without the 101 of a WebSocket and the 200 of a stream.
    answered: Counter[int] = attrs.Factory(Counter)

    #: Refusals that are about tokens, rights and rates, by reason.
    refused: Counter[str] = attrs.Factory(Counter)

    def refuse(self, refused: Refused) -> None:
        """Count a refusal, if it is one of these."""
        if refused.counted is not None:
            self.refused[refused.counted] += 1

    def hand_out(self, entries: list[Entry], fresh: list[Entry], now: float) -> None:
        """Count a list of entries that was handed out. `fresh` has those that are not repetitions."""
        self.published += len(fresh)
        self.published_bytes += sum([entry.size for entry in fresh])
        # In a shared log, `fresh` also has the entries of other servers.
        self.repeated += max(0, len(entries) - len(fresh))
        self.batches.add(max(len(entries), len(fresh)))
        for put_at, times in Counter([entry.put_at for entry in entries]).items():
            self.latency.add(now - put_at, times)

    def close(self, code: int | None) -> None:
        """Count a connection that has ended. `code` is None if it was lost."""
        self.closed[code if code is None or code in _CODES else 0] += 1


@attrs.frozen
class Statistics:
    """The figures of a hub at one moment."""

    clients: int
    behind: int
    log_entries: int
    log_bytes: int
    waiting: int
    head: str
    #: Counts of clients that were too slow for the log: told of a gap, closed, or spared a notification
    #: under `lag=latest`.
    gaps: int
    slow_closed: int
    thinned: int
