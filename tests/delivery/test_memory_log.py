"""The log: bounds, offsets, reading after a cursor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trionotify import Notification
from trionotify.delivery.entry import Entry
from trionotify.delivery.log import Evicted
from trionotify.delivery.memory_log import MemoryLog
from trionotify.model.cursor import Cursor

#: What an entry weighs in which nothing is said.
EMPTY = Entry(Notification("", type="t", source="s")).size


def make(entries: int = 100, size: int = 100_000, age: float = 100.0) -> MemoryLog:
    return MemoryLog(max_entries=entries, max_bytes=size, max_age=age)


def fill(log: MemoryLog, count: int, now: float = 0.0, data: str = "") -> None:
    log.append([Entry(Notification(data, type="t", source="s")) for _ in range(count)], now)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=30))
def test_reading_gives_what_is_kept(steps: list[tuple[int, bool]]) -> None:
    """Whatever was appended and evicted: from `start` on everything is there, in order."""
    log = make(entries=10)
    for count, broadcast in steps:
        fill(log, count)
        log.evict(log.head if broadcast else 0, 0.0)
        for after in range(log.start, log.head + 1):
            assert [entry.offset for entry in log.read(after, 7)] == list(
                range(after + 1, min(after + 8, log.head + 1))
            )
        if log.start:
            with pytest.raises(Evicted):
                log.read(log.start - 1, 1)
        assert log.bytes == sum(entry.size for entry in log.read(log.start, 10_000))


def test_bounded_by_count() -> None:
    """The oldest go first."""
    log = make(entries=3)
    fill(log, 5)
    log.evict(5, 0.0)
    assert (log.start, log.head, len(log)) == (2, 5, 3)


def test_bounded_by_bytes() -> None:
    """The entries' sizes count. A single one over the limit goes too, after its broadcast."""
    log = make(size=2 * EMPTY + 100)
    fill(log, 3, data="x" * 50)
    log.evict(3, 0.0)
    assert len(log) == 2
    assert log.bytes == 2 * EMPTY + 100
    fill(log, 1, data="x" * (2 * EMPTY + 200))
    log.evict(4, 0.0)
    assert (len(log), log.bytes) == (0, 0)


def test_bounded_by_age() -> None:
    """Entries older than `max_age` go, without anything being appended."""
    log = make(age=10)
    fill(log, 2, now=0)
    fill(log, 1, now=5)
    log.evict(3, now=11)
    assert log.start == 2


def test_nothing_is_evicted_before_it_was_broadcast() -> None:
    """However full it is."""
    log = make(entries=1, size=1, age=1)
    fill(log, 10)
    log.evict(4, now=1000)
    assert log.start == 4


def test_frames_are_kept_on_young_entries_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the log weighs what its bound says, and not twice as much."""
    monkeypatch.setattr("trionotify.delivery.memory_log.FRAMES_KEPT", 4 << 20)
    log = make(entries=20, size=100 << 20)
    encoded: list[int] = []

    def encode(entry: Entry) -> bytes:
        encoded.append(entry.offset)
        return b""

    for _ in range(30):
        fill(log, 1, data="x" * (1 << 20))
        log.evict(log.head, 0.0)
    for _ in range(2):
        for entry in log.read(log.start, 100):
            entry.frame(encode)
    assert encoded == [*range(11, 31), *range(11, 28)]
    fill(log, 1, data="x" * (30 << 20))
    log.evict(log.head, 0.0)
    assert log.read(log.head - 1, 1)[0].frame(encode) == b""
    assert encoded[-1] == 31


def test_a_cursor_is_read_as_it_is_written() -> None:
    """epoch:offset, and nothing else."""
    cursor = Cursor("abc", 12)
    assert str(cursor) == "abc:12"
    assert Cursor.parse("abc:12") == cursor


@pytest.mark.parametrize("text", ["", "abc", ":1", "a:", "a:-1", "a:1.0", "a:\u0661", "a:" + "9" * 20])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    """The error shows the text."""
    with pytest.raises(ValueError, match="cursor: must be EPOCH:OFFSET"):
        Cursor.parse(text)


def test_every_log_has_its_own_epoch() -> None:
    """A cursor of one is void in another."""
    assert make().epoch != make().epoch
