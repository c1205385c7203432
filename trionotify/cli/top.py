"""`trionotify top`: a server's figures, live in a terminal.

Two readings of `/metrics` make one picture (`Picture`, a pure function of both); rich draws it.
"""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import click
import trio

from trionotify.cli.client import URL, headers_of, run, secret_option
from trionotify.cli.config import Duration
from trionotify.cli.fetch import fetch
from trionotify.cli.stdio import stdout_failed
from trionotify.errors import Refused, TrionotifyError
from trionotify.model.jsontext import read_json

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Picture", "quantile", "top", "watch"]

Figures = Mapping[str, Any]

#: The number of readings that a line of bars shows.
_HISTORY: Final = 60
_BARS: Final = " ▁▂▃▄▅▆▇█"
_PATIENCE: Final = 5.0
#: Statuses from here on mean a temporary problem of a server or a proxy.
_PASSING: Final = 500
_MISSING: Final = "top: the library rich is not installed; run `python -m pip install rich`"


@click.command()
@click.option(
    "--url", default=URL, show_default=True, help="URL of the server, or unix:PATH for a Unix socket."
)
@secret_option
@click.option(
    "--interval",
    type=Duration(0.1),
    default=1.0,
    show_default=True,
    help="Time between two readings, in seconds or as a text like 2s.",
)
@click.option("--once", is_flag=True, help="Print the figures once, then exit.")
def top(url: str, secret: str | None, interval: float, once: bool) -> None:
    """Show a server's rates, latency, clients and log, live.

    It reads /metrics. If the server has an --admin-port, give the URL of that port.

    \b
    python -m trionotify top
    python -m trionotify top --once --url https://example.org --secret /etc/trionotify/secret
    """
    run(partial(watch, url, interval, once, headers_of(secret)))


@attrs.frozen
class Picture:
    """The changes between two readings, and the current values."""

    seconds: float
    published: float
    delivered: float
    bytes: float
    #: Quantiles of the time from publish to write, in seconds; None if nothing was published.
    p50: float | None
    p99: float | None
    now: Figures

    @classmethod
    def of(cls, before: Figures, now: Figures) -> Picture:
        """Compare two readings. Rates are per second; after a restart, since the server's start."""
        seconds: float = max(now["at"] - before["at"], 1e-9)

        def rate(name: str) -> float:
            then, after = float(before[name]), float(now[name])
            return (after - then if after >= then else after) / seconds

        return cls(
            seconds=seconds,
            published=rate("published"),
            delivered=rate("delivered"),
            bytes=rate("delivered_bytes"),
            p50=quantile(0.5, before["latency"], now["latency"]),
            p99=quantile(0.99, before["latency"], now["latency"]),
            now=now,
        )


def quantile(share: float, before: Mapping[str, Any], now: Mapping[str, Any]) -> float | None:
    """Return the upper bound of the bucket with this quantile of the new counts."""
    counts = [new - old for old, new in zip(before["counts"], now["counts"], strict=True)]
    if min(counts) < 0:  # the server was restarted
        counts = now["counts"]
    left = sum(counts) * share
    if left == 0:
        return None
    for bound, count in zip(now["bounds"], counts, strict=False):
        left -= count
        if left <= 0:
            return float(bound)
    return float(now["bounds"][-1])


async def watch(
    url: str, interval: float, once: bool, extra_headers: Iterable[tuple[str, str]] = ()
) -> int:
    """Show the figures of the server at `url`, until cancelled; with `once`, one picture.

    `extra_headers` go with each request. Returns the exit code.
    """
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.live import Live  # noqa: PLC0415 - as above
        from rich.text import Text  # noqa: PLC0415 - as above
    except ImportError:
        raise TrionotifyError(_MISSING) from None
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Some terminals have no bars, such as those in Latin-1. They show a question mark instead.
        sys.stdout.reconfigure(errors="replace")
    console = Console()
    history: deque[float] = deque(maxlen=_HISTORY)
    before = await _read(url, extra_headers)
    if once or not sys.stdout.isatty():
        await trio.sleep(interval)
        picture = Picture.of(before, await _read(url, extra_headers))
        try:
            console.print(render(url, picture, history))
        except OSError as error:
            raise stdout_failed(error) from None
        return 0
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            await trio.sleep(interval)
            try:
                now = await _read(url, extra_headers)
            except (OSError, Refused) as error:
                if isinstance(error, Refused) and error.status < _PASSING:
                    raise
                live.update(Text(f"{url}: {error}; trying again"), refresh=True)
                continue
            picture = Picture.of(before, now)
            history.append(picture.published)
            live.update(render(url, picture, history), refresh=True)
            before = now


async def _read(url: str, extra_headers: Iterable[tuple[str, str]]) -> Figures:
    try:
        with trio.fail_after(_PATIENCE):
            body = await fetch(url, "metrics", "application/json", extra_headers)
    except trio.TooSlowError:
        raise OSError("no answer") from None
    except Refused as refused:
        hint = (
            "; if the server has an --admin-port, give the URL of that port"
            if refused.status == 404
            else ""
        )
        raise Refused(refused.status, f"{refused.detail}{hint}") from None
    try:
        # The server's own `at` is a time of day, and its clock may be set between two readings.
        figures = {**read_json(body), "at": trio.current_time()}
        Picture.of(figures, figures)
    except (ValueError, TypeError, LookupError):
        raise TrionotifyError(f"{url}: no figures of trionotify; give the URL of its server") from None
    return figures


def render(url: str, picture: Picture, history: Iterable[float]) -> RenderableType:
    """Return the picture in the form that rich draws."""
    from rich.columns import Columns  # noqa: PLC0415 - an extra
    from rich.console import Group  # noqa: PLC0415 - an extra
    from rich.markup import escape  # noqa: PLC0415 - an extra

    now = picture.now
    ready = all(now["checks"].values())
    title = f"[bold]trionotify[/] {escape(url)}  {'[green]ready' if ready else '[red]not ready'}"
    by_kind = [
        (f"{kind['transport']} {kind['format']} {kind['state']}", kind["count"])
        for kind in now["clients"]
    ]
    panels = [
        _panel(
            "a second",
            ("published", picture.published),
            ("delivered", picture.delivered),
            ("bytes", picture.bytes),
        ),
        _panel("publish to write", ("p50", _seconds(picture.p50)), ("p99", _seconds(picture.p99))),
        _panel(f"{_number(sum(count for _, count in by_kind))} clients", *by_kind),
        _panel(
            "too slow",
            ("behind", now["behind"]),
            ("by, at most", now["largest_lag"]),
            ("gaps", now["gaps"]),
            ("closed", now["slow_closed"]),
            ("thinned", now["thinned"]),
        ),
        _panel(
            "log",
            ("entries", now["log"]["entries"]),
            ("bytes", now["log"]["bytes"]),
            ("head", now["head"]),
            ("waiting", now["waiting"]),
            ("repeated", now["repeated"]),
        ),
        _panel("closed, by code", *now["closed"].items()),
        _panel("HTTP responses", *now["answered"].items()),
    ]
    return Group(title, bars(list(history)), Columns(panels))


def bars(values: Sequence[float]) -> str:
    """Return a line of bars. The greatest value has the highest bar."""
    top = max(values, default=0) or 1
    return "".join([_BARS[round(value / top * (len(_BARS) - 1))] for value in values])


def _panel(title: str, *rows: tuple[str, float | str]) -> RenderableType:
    from rich.panel import Panel  # noqa: PLC0415 - an extra
    from rich.table import Table  # noqa: PLC0415 - an extra

    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True, min_width=6)
    for name, value in rows:
        table.add_row(name, value if isinstance(value, str) else _number(value))
    return Panel(table, title=title, title_align="left", expand=False)


def _number(value: float) -> str:
    for unit in ("", "k", "M", "G"):
        if value < 10_000 or unit == "G":
            return f"{value:,.0f}{unit}" if value >= 10 or value == int(value) else f"{value:.1f}{unit}"
        value /= 1000
    raise AssertionError  # the last unit takes all


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"≤ {value * 1000:g} ms"
