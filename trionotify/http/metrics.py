"""Metrics: what a hub has done and holds, for Prometheus and for whoever else wants to watch.

Nothing is collected in between: each reading looks at the hub's counts. A reader makes rates of two of
them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from trionotify.version import __version__

if TYPE_CHECKING:
    from trionotify.delivery.counters import Histogram
    from trionotify.delivery.hub import Hub

__all__ = ["CONTENT_TYPE", "figures", "render"]

#: Of what `render` returns.
CONTENT_TYPE: Final[str] = CONTENT_TYPE_PLAIN_0_0_4


def render(hub: Hub) -> bytes:
    """All metrics of a hub and of its process, in Prometheus' text format 0.0.4. Doesn't block."""
    registry = CollectorRegistry()
    registry.register(_Collector(hub))
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return generate_latest(registry)


def figures(hub: Hub) -> dict[str, Any]:
    """The same in a form for programs: numbers by name, and `at`, the time of day in seconds.

    Histograms are `{"bounds", "counts", "sum"}`, with one count more than there are bounds.
    """
    counts, held = hub.broadcast.counts, hub.statistics()
    return {
        "at": time.time(),
        "head": held.head,
        "clients": _clients(hub),
        "behind": held.behind,
        "largest_lag": _largest_lag(hub),
        "half_open": hub.entrance.half_open,
        "log": {"entries": held.log_entries, "bytes": held.log_bytes, "problem": hub.log.problem},
        "waiting": held.waiting,
        "published": counts.published,
        "published_bytes": counts.published_bytes,
        "repeated": counts.repeated,
        "delivered": counts.delivered,
        "delivered_bytes": counts.delivered_bytes,
        "gaps": held.gaps,
        "thinned": held.thinned,
        "slow_closed": held.slow_closed,
        "opened": {f"{transport} {format}": n for (transport, format), n in counts.opened.items()},
        "closed": {_code(code): n for code, n in counts.closed.items()},
        "answered": {str(status): n for status, n in counts.answered.items()},
        "failed_commits": hub.log.failed_commits,
        "damaged_entries": hub.log.damaged_entries,
        "epoch_renewed": hub.log.renewed is not None,
        "batches": _buckets(counts.batches),
        "latency": _buckets(counts.latency),
        "commits": _buckets(hub.log.commits),
        "checks": {name: found == "ok" for name, found in hub.checks().items()},
    }


class _Collector:
    """What is asked at each reading."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        counts, held = self._hub.broadcast.counts, self._hub.statistics()
        yield InfoMetricFamily("trionotify_build", "The version.", {"version": __version__})
        yield from self._clients()
        yield _gauge("half_open", "Without a client.", self._hub.entrance.half_open)
        yield _gauge("lag_entries", "How far the slowest client is behind.", _largest_lag(self._hub))
        yield _gauge("log_entries", "Notifications that the log keeps.", held.log_entries)
        yield _gauge("log_bytes", "The same, in bytes.", held.log_bytes)
        yield _gauge("log_head", "The newest offset.", self._hub.log.head)
        yield _gauge(
            "damaged_entries",
            "Notifications in the log that can't be read any more.",
            self._hub.log.damaged_entries,
        )
        yield _gauge(
            "epoch_renewed",
            "1 if something was lost before the start.",
            self._hub.log.renewed is not None,
        )
        yield _gauge("waiting_notifications", "Published and not broadcast yet.", held.waiting)
        ready = _labelled(GaugeMetricFamily, "ready", "1 where the check is passed.", ["check"])
        for name, found in self._hub.checks().items():
            ready.add_metric([name], found == "ok")
        yield ready
        yield _counter("published", "Notifications with a place in the log.", counts.published)
        yield _counter("published_bytes", "The same, in bytes.", counts.published_bytes)
        yield _counter("repeated", "Published again, and recognized.", counts.repeated)
        yield _counter("deliveries", "Notifications handed to a client's kernel.", counts.delivered)
        yield _counter("delivered_bytes", "The same, in bytes of frames.", counts.delivered_bytes)
        yield _counter("gaps", "Gaps that slow clients were told of.", held.gaps)
        yield _counter("thinned", "Spared to clients with lag=latest.", held.thinned)
        yield _counter("slow_closed", "Connections closed because they were too slow.", held.slow_closed)
        yield _counter("failed_commits", "Commits that failed.", self._hub.log.failed_commits)
        opened = _labelled(CounterMetricFamily, "connections", "Clients.", ["transport", "format"])
        for labels, count in counts.opened.items():
            opened.add_metric(labels, count)
        yield opened
        yield from _by_name("closed", "Connections by Close code.", "code", _named(counts.closed))
        yield from _by_name("answers", "Answers of HTTP.", "status", _named(counts.answered))
        yield _histogram("batch_size", "Notifications that were broadcast together.", counts.batches)
        yield _histogram(
            "publish_to_write_seconds",
            "From the channel until all live clients' kernels have it.",
            counts.latency,
        )
        yield _histogram("commit_seconds", "Commits of a log in a file.", self._hub.log.commits)

    def _clients(self) -> Iterator[Metric]:
        clients = _labelled(
            GaugeMetricFamily, "clients", "Who is connected.", ["transport", "format", "state"]
        )
        for labels, count in _by_kind(self._hub).items():
            clients.add_metric(labels, count)
        yield clients


def _by_kind(hub: Hub) -> Counter[tuple[str, str, str]]:
    return Counter(
        (
            connection.transport_name,
            connection.client.format,
            "live" if connection.position.live else "behind",
        )
        for connection in hub.connections.values()
    )


def _clients(hub: Hub) -> list[dict[str, Any]]:
    names = ("transport", "format", "state")
    return [{**dict(zip(names, kind, strict=True)), "count": n} for kind, n in _by_kind(hub).items()]


def _largest_lag(hub: Hub) -> int:
    standing = (hub.broadcast.standing(each.position) for each in hub.connections.values())
    return hub.log.head - min(standing, default=hub.log.head)


def _buckets(histogram: Histogram) -> dict[str, Any]:
    return {
        "bounds": list(histogram.bounds),
        "counts": list(histogram.counts),
        "sum": histogram.sum,
    }


def _code(code: int | None) -> str:
    return "lost" if code is None else str(int(code)) if code else "other"


def _named(counter: Counter[Any]) -> dict[str, int]:
    return {_code(name): count for name, count in counter.items()}


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"trionotify_{name}", about, value=value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"trionotify_{name}", about, value=value)


def _labelled(family: Any, name: str, about: str, labels: list[str]) -> Any:
    return family(f"trionotify_{name}", about, labels=labels)


def _by_name(name: str, about: str, label: str, values: dict[str, int]) -> Iterable[Metric]:
    family = _labelled(CounterMetricFamily, name, about, [label])
    for value, count in values.items():
        family.add_metric([value], count)
    yield family


def _histogram(name: str, about: str, histogram: Histogram) -> Metric:
    upto = [*map(str, histogram.bounds), "+Inf"]
    buckets = list(zip(upto, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(f"trionotify_{name}", about, buckets=buckets, sum_value=histogram.sum)
