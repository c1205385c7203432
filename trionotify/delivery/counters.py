"""Counts: what a hub has done so far, in plain numbers that only go up.

They are counted where it happens, once for a batch or for a turn of the broadcast, never for each
delivery. Whoever shows them (`metrics`) reads them when it is asked to.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final

import attrs

from trionotify.errors import CloseCode

if TYPE_CHECKING:
    from trionotify.delivery.entry import Entry

__all__ = ["SECONDS", "Counts", "Histogram", "Lag", "Statistics"]

#: Upper bounds, in seconds, and in notifications.
SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_CODES: Final = frozenset(CloseCode)
SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)


@attrs.define
class Histogram:
    """How many values there were up to each of the `bounds`, and behind the last; and their sum."""

    bounds: tuple[float, ...]
    counts: list[int] = attrs.field(init=False)
    sum: float = attrs.field(default=0.0, init=False)

    @counts.default
    def _none(self) -> list[int]:
        return [0] * (len(self.bounds) + 1)

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


@attrs.define
class Lag:
    """What became of clients that were too slow, by their policies, and what is noted for them."""

    #: Gaps that were told.
    gaps: int = 0
    #: Notifications left out because a newer one of their kind came.
    thinned: int = 0
    #: Connections closed for it.
    closed: int = 0
    #: Notifications that `latest` has noted at the moment, for all clients together.
    noted: int = 0


@attrs.define
class Counts:
    """Made by the broadcast. Any part of the hub adds to it; nobody takes away."""

    #: Notifications that got a place in the log, and their bytes.
    published: int = 0
    published_bytes: int = 0
    #: Those among what was published that the log had already.
    repeated: int = 0
    #: Notifications handed to the kernel for a client, and the bytes of their frames. One that was cut
    #: counts when its first bytes went out.
    delivered: int = 0
    delivered_bytes: int = 0
    #: Of the notifications that one turn of the broadcast took.
    batches: Histogram = attrs.Factory(lambda: Histogram(SIZES))
    #: Seconds from the channel until all live clients' kernels have it.
    latency: Histogram = attrs.Factory(lambda: Histogram(SECONDS))
    lag: Lag = attrs.Factory(Lag)
    #: Clients by (transport, format), and closed connections by Close code; None: lost without one,
    #: 0: with one that we don't know, for peers may make up thousands.
    opened: Counter[tuple[str, str]] = attrs.Factory(Counter)
    closed: Counter[int | None] = attrs.Factory(Counter)
    #: Answers of HTTP by status, the 101 of a WebSocket and the 200 of a stream not among them.
    answered: Counter[int] = attrs.Factory(Counter)

    def hand_out(self, entries: list[Entry], fresh: list[Entry], now: float) -> None:
        """Count a list that has been handed out, and what of it was no repetition."""
        self.published += len(fresh)
        self.published_bytes += sum([entry.size for entry in fresh])
        self.repeated += len(entries) - len(fresh)
        self.batches.add(len(entries))
        for put_at, times in Counter([entry.put_at for entry in entries]).items():
            self.latency.add(now - put_at, times)

    def close(self, code: int | None) -> None:
        """Count a connection that has ended."""
        self.closed[code if code is None or code in _CODES else 0] += 1


@attrs.frozen
class Statistics:
    """What a hub holds at one moment."""

    clients: int
    behind: int
    log_entries: int
    log_bytes: int
    waiting: int
    head: str
    #: How often clients were too slow for the log: told of a gap, closed, and notifications that a
    #: client under `lag=latest` was spared.
    gaps: int
    slow_closed: int
    thinned: int
