"""Where a stream starts."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import Room
from trionotify import Notification, connect, open_server
from trionotify.delivery.entry import Entry
from trionotify.delivery.memory_log import MemoryLog
from trionotify.durations import duration_of
from trionotify.model.cursor import START, Cursor, Moment, parse_since


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("start", START),
        ("ab:3", Cursor("ab", 3)),
        ("10:3", Cursor("10", 3)),
        ("1970-01-01T00:01:00Z", Moment(60.0)),
        ("1970-01-01t00:01:00.5z", Moment(60.5)),
        ("1970-01-01T01:01:00+01:00", Moment(60.0)),
        ("1970-01-01T01:01:00 01:00", Moment(60.0)),  # a + that was not escaped in a query
        ("1969-12-31T23:01:00-01:00", Moment(60.0)),
        ("0001-01-01T00:00:00Z", Moment(-62135596800.0)),
    ],
)
def test_cursors_and_times(text: str, since: object) -> None:
    """A time is never taken for a cursor, however many colons it has."""
    assert parse_since(text) == since


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2d", 172_800),
        ("1w", 604_800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """So long before now, whenever that is."""
    assert parse_since(text) == Moment(ago=seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("", "m", "10", "10 m", "10x", "-10m", "1e3s", "10M", "START", ":3", "²s"),
        *("2026-13-01T00:00:00Z", "2026-01-01", "9" * 5000 + "s", "a:" + "9" * 50),
    ],
)
def test_nonsense_is_named(text: str) -> None:
    """With what would do."""
    with pytest.raises(ValueError, match=r"^since"):
        parse_since(text)


async def test_a_moment_in_the_log(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offset behind which everything was published then or later, whatever was evicted."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    log = MemoryLog(max_entries=6, max_bytes=10_000, max_age=1e6)
    for second in range(10):
        log.append([Entry(Notification(str(second)))], trio.current_time())
        await trio.sleep(10)
    log.evict(10, trio.current_time())
    # On Trio's clock, a hundred seconds have passed; on the wall, none.
    found = [await log.offset_at(now - ago) for ago in (1000, 100, 55, 45, 15, 5, -5)]
    assert found == [4, 4, 5, 6, 9, 10, 10]


async def test_a_duration_is_the_logs_own(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens to the wall clock between the request and the look into the log."""
    log = MemoryLog(max_entries=10, max_bytes=10_000, max_age=1e6)
    for second in range(5):
        log.append([Entry(Notification(str(second)))], trio.current_time())
        await trio.sleep(10)
    since = parse_since("25s")
    assert isinstance(since, Moment)
    assert since.ago is not None
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert await log.offset_ago(since.ago) == 3


async def test_a_moment_is_compared_as_it_was(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notification of just that time counts, however long it takes until the log is looked into."""
    monkeypatch.setattr(time, "time", lambda: 1e9 + trio.current_time())
    log = MemoryLog(max_entries=10, max_bytes=10_000, max_age=1e6)
    for second in range(5):
        log.append([Entry(Notification(str(second)))], trio.current_time())
        await trio.sleep(10)

    async def others_run() -> None:
        autojump_clock.jump(5)

    monkeypatch.setattr(trio.lowlevel, "checkpoint", others_run)
    assert await log.offset_at(1e9 + 20) == 2
    assert await log.offset_ago(35) == 2


async def test_clients_start_there(room: Room, autojump_clock: trio.testing.MockClock) -> None:
    """Over the wire, as in the process."""
    for second in range(5):
        await room.hub.publish(str(second))
        await trio.sleep(10)
    assert (await room.connect("/?since=25s")).look().messages == ["3", "4"]
    assert (await room.connect("/?since=2000-01-01T00:00:00Z")).look().messages == list("01234")
    assert (await room.connect("/?since=2100-01-01T00:00:00%2B01:00")).look().messages == []
    async with room.hub.subscribe(since="15s") as notifications:
        assert (await anext(notifications)).data == "4"


@pytest.mark.parametrize(
    ("since", "meant"),
    [
        (datetime(1970, 1, 1, 0, 1, tzinfo=UTC), Moment(60.0)),
        (datetime(1970, 1, 1, 1, 1, 0, 500_000, timezone(timedelta(hours=1))), Moment(60.5)),
        (timedelta(minutes=10), Moment(ago=600.0)),
        (timedelta(0), Moment(ago=0.0)),
        (timedelta(microseconds=1), Moment(ago=0.000001)),
    ],
)
def test_times_of_python(since: Any, meant: Moment) -> None:
    """A datetime is that moment, a timedelta is how long ago."""
    assert parse_since(since) == meant


@pytest.mark.parametrize(
    ("since", "error"),
    [(datetime(2026, 1, 31), ValueError), (timedelta(-1), ValueError), (600, TypeError)],
)
async def test_what_is_no_time(since: Any, error: type[Exception]) -> None:
    """It says what to write: in the process, and for a client."""
    async with open_server(port=0) as server:
        with pytest.raises(error, match=r"^since: "):
            server.hub.subscribe(since=since)
        with pytest.raises(error, match=r"^since: "):
            async with connect(server.url, since=since):
                raise AssertionError("it was entered")


@pytest.mark.parametrize(
    "since", ["10m", timedelta(minutes=10), datetime(2026, 1, 31, tzinfo=UTC), "start"]
)
async def test_a_client_starts_where_a_subscription_does(since: Any) -> None:
    """Whatever says where that is."""
    async with open_server(port=0) as server:
        await server.hub.publish("1", confirm=True)
        async with (
            connect(server.url, since=since) as client,
            server.hub.subscribe(since=since) as subscription,
        ):
            assert (await anext(client)).data == (await anext(subscription)).data == "1"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 90.0),
        (0.5, 0.5),
        ("90", 90.0),
        ("0.5", 0.5),
        ("15m", 900.0),
        ("1h30m", 5400.0),
        (timedelta(minutes=15), 900.0),
        (math.inf, math.inf),
    ],
)
def test_seconds_of_a_duration(value: Any, seconds: float) -> None:
    """However it is written."""
    assert duration_of(value) == seconds


@pytest.mark.parametrize(
    ("value", "error"),
    [
        *[(text, ValueError) for text in ("", "m", "15 m", "15x", "soon")],
        (10**400, ValueError),
        *[(value, TypeError) for value in (None, True, [], b"15m")],
    ],
)
def test_what_is_no_duration(value: Any, error: type[Exception]) -> None:
    """It says what to write."""
    with pytest.raises(error, match=r"must be .*15m.*, not"):
        duration_of(value)
