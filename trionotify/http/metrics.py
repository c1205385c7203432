"""Metrics of a hub, for Prometheus and other monitoring.

Nothing is collected in between. Each reading looks at the hub's counts. A reader makes rates of two of
them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import attrs
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from trionotify.delivery.compression import CompressedEncode
from trionotify.version import __version__

if TYPE_CHECKING:
    from trionotify.delivery.counters import Counts, Statistics
    from trionotify.delivery.hub import Hub

__all__ = ["CONTENT_TYPE", "figures", "render"]

#: The media type of `render`'s result.
CONTENT_TYPE: Final[str] = CONTENT_TYPE_PLAIN_0_0_4


def render(hub: Hub) -> bytes:
    """Return all metrics of a hub and its process, in Prometheus' text format 0.0.4. Doesn't block."""
    registry = CollectorRegistry()
    registry.register(_Collector(hub))
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return generate_latest(registry)


def figures(hub: Hub) -> dict[str, Any]:
    """Return all metrics for programs: numbers by name, and `at`, in seconds since 1970.

    Histograms are `{"bounds", "counts", "sum"}`, with one count more than there are bounds.
    """
    reading = _Reading.of(hub)
    held = reading.held
    return {
        "at": time.time(),
        "version": __version__,
        "head": held.head,
        "clients": [
            {**dict(zip(_KIND, kind, strict=True)), "count": count}
            for kind, count in _by_kind(reading).items()
        ],
        "behind": held.behind,
        "log": {"entries": held.log_entries, "bytes": held.log_bytes, "problem": hub.log.problem},
        **{figure.key: figure.plain(reading) for figure in _FIGURES if figure.key},
    }


@attrs.frozen
class _Reading:
    """The objects that one reading looks at."""

    hub: Hub
    held: Statistics
    counts: Counts

    @classmethod
    def of(cls, hub: Hub) -> _Reading:
        return cls(hub, hub.statistics(), hub.broadcast.counts)


def _reader(read: str | Callable[[_Reading], Any]) -> Callable[[_Reading], Any]:
    return attrgetter(read) if isinstance(read, str) else read


@attrs.frozen
class _Figure:
    """One metric: its names, its meaning, and the function that reads it."""

    family: Any
    #: The name in Prometheus, without the prefix.
    name: str
    about: str
    #: Returns a number, a histogram, or numbers by the values of the labels. Given as the path of an
    #: attribute, or as a function.
    read: Callable[[_Reading], Any] = attrs.field(converter=_reader)
    labels: tuple[str, ...] = ()
    #: The name for programs. Metrics without one are available to them elsewhere.
    key: str = attrs.field(default=attrs.Factory(lambda self: self.name, takes_self=True), kw_only=True)

    def metric(self, reading: _Reading) -> Metric:
        """Return the metric for Prometheus."""
        name, value = f"trionotify_{self.name}", self.read(reading)
        if self.family is HistogramMetricFamily:
            upto = [*map(str, value.bounds), "+Inf"]
            buckets = list(zip(upto, accumulate(value.counts), strict=True))
            return HistogramMetricFamily(name, self.about, buckets=buckets, sum_value=value.sum)
        family = self.family(name, self.about, labels=self.labels)
        for labels, number in value.items() if self.labels else (((), value),):
            family.add_metric(labels, number)
        metric: Metric = family
        return metric

    def plain(self, reading: _Reading) -> Any:
        """Return the value for programs."""
        value = self.read(reading)
        if self.family is HistogramMetricFamily:
            return {"bounds": list(value.bounds), "counts": list(value.counts), "sum": value.sum}
        if self.labels:
            return {" ".join(labels): number for labels, number in value.items()}
        return value


_KIND: Final = ("transport", "format", "state")


def _by_kind(reading: _Reading) -> Counter[tuple[str, str, str]]:
    return Counter(
        (
            connection.transport_name,
            connection.client.format,
            "live" if connection.position.live else "behind",
        )
        for connection in reading.hub.connections.values()
    )


def _largest_lag(reading: _Reading) -> int:
    hub = reading.hub
    standing = (hub.broadcast.standing(each.position) for each in hub.connections.values())
    return hub.log.head - min(standing, default=hub.log.head)


def _compressed_clients(reading: _Reading) -> int:
    positions = (connection.position for connection in reading.hub.connections.values())
    return sum(isinstance(position.encode, CompressedEncode) for position in positions)


def _nodes(reading: _Reading) -> int:
    return len(reading.hub.log.nodes)


def _is_renewed(reading: _Reading) -> bool:
    return reading.hub.log.renewed is not None


def _is_in_danger(reading: _Reading) -> bool:
    return reading.hub.log.danger is not None


def _checks(reading: _Reading) -> dict[tuple[str], bool]:
    return {(name,): found == "ok" for name, found in reading.hub.checks().items()}


def _by_code(counter: Mapping[Any, int]) -> dict[tuple[str], int]:
    return {(_code(code),): count for code, count in counter.items()}


def _code(code: int | None) -> str:
    return "lost" if code is None else str(int(code)) if code else "other"


_gauge: Final = partial(_Figure, GaugeMetricFamily)
_counter: Final = partial(_Figure, CounterMetricFamily)
_histogram: Final = partial(_Figure, HistogramMetricFamily)

_FIGURES: Final[tuple[_Figure, ...]] = (
    _gauge("clients", "Connected clients.", _by_kind, _KIND, key=""),
    _gauge("half_open", "Connections that do not have a client yet.", "hub.entrance.half_open"),
    _gauge(
        "lag_entries",
        "Notifications that the slowest client is behind.",
        _largest_lag,
        key="largest_lag",
    ),
    _gauge("log_entries", "Notifications in the log.", "held.log_entries", key=""),
    _gauge("log_bytes", "Size of the notifications in the log, in bytes.", "held.log_bytes", key=""),
    _gauge("log_head", "Offset of the newest notification.", "hub.log.head", key=""),
    _gauge(
        "damaged_entries",
        "Notifications in the log that can't be read any more.",
        "hub.log.damaged_entries",
    ),
    _gauge(
        "epoch_renewed",
        "1 if the log lost something before the server started, or on Redis since then.",
        _is_renewed,
    ),
    _gauge("log_in_danger", "1 if Redis may evict the log.", _is_in_danger),
    _gauge("nodes", "Servers that share the log.", _nodes),
    _gauge(
        "tail_age_seconds",
        "Seconds since this server last had all of the log.",
        "hub.log.tail_age",
        key="tail_age",
    ),
    _gauge(
        "waiting_notifications",
        "Notifications that wait for their broadcast.",
        "held.waiting",
        key="waiting",
    ),
    _gauge("ready", "1 if the check passes.", _checks, ("check",), key="checks"),
    _counter("published", "Notifications that were given a place in the log.", "counts.published"),
    _counter(
        "published_bytes", "Size of the published notifications, in bytes.", "counts.published_bytes"
    ),
    _counter(
        "repeated", "Notifications that repeated an earlier one and were recognized.", "counts.repeated"
    ),
    _counter(
        "deliveries",
        "Notifications handed to the kernel, once for each client.",
        "counts.delivered",
        key="delivered",
    ),
    _counter(
        "delivered_bytes", "Size of the frames handed to the kernel, in bytes.", "counts.delivered_bytes"
    ),
    _gauge("compressed_clients", "Connected clients that get compressed frames.", _compressed_clients),
    _counter(
        "compression_input_bytes",
        "Size of the frames that were compressed, in bytes, once for all clients.",
        "counts.compression.plain_bytes",
    ),
    _counter(
        "compression_output_bytes",
        "Size of the same frames after compression, in bytes.",
        "counts.compression.compressed_bytes",
    ),
    _counter("gaps", "Gaps that slow clients were told of.", "held.gaps"),
    _counter("thinned", "Notifications left out for clients with lag=latest.", "held.thinned"),
    _counter("slow_closed", "Connections closed because the client was too slow.", "held.slow_closed"),
    _counter("failed_commits", "Commits that failed.", "hub.log.failed_commits"),
    _counter(
        "connections",
        "Clients that have connected.",
        "counts.opened",
        ("transport", "format"),
        key="opened",
    ),
    _counter(
        "closed",
        "Closed connections, by close code.",
        lambda now: _by_code(now.counts.closed),
        ("code",),
    ),
    _counter(
        "answers",
        "HTTP responses, by status.",
        lambda now: _by_code(now.counts.answered),
        ("status",),
        key="answered",
    ),
    _counter(
        "refused",
        "Refusals about tokens, rights and rates, by reason.",
        lambda now: {(reason,): count for reason, count in now.counts.refused.items()},
        ("reason",),
    ),
    _histogram("batch_size", "Notifications in one broadcast.", "counts.batches", key="batches"),
    _histogram(
        "publish_to_write_seconds",
        "Seconds from the publish until all live clients' kernels have the notification.",
        "counts.latency",
        key="latency",
    ),
    _histogram(
        "commit_seconds",
        "Seconds that a commit of a durable log takes.",
        "hub.log.commits",
        key="commits",
    ),
)


class _Collector:
    """The collector, which takes the hub's figures at each reading."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("trionotify_build", "Version of trionotify.", {"version": __version__})
        reading = _Reading.of(self._hub)
        for figure in _FIGURES:
            yield figure.metric(reading)
