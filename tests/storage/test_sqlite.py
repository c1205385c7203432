"""The durable log's file: appended entries are there, in order, bounded, once."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stores import EMPTY, add, crash, data, entries, entry, open_store
from trionotify.delivery.entry import Entry, repetition_key
from trionotify.errors import StoreError
from trionotify.model.notification import Notification
from trionotify.model.predicates import (
    EVERYTHING,
    NOTHING,
    AllOf,
    AnyOf,
    Exact,
    Not,
    Prefix,
    Sql,
    Suffix,
    Wanted,
)
from trionotify.storage import database, epochs, eviction, moments, rows, schema, sqlite
from trionotify.storage.sqlite import new_epoch

# --- offsets ---


def test_a_new_file_is_an_empty_log(tmp_path: Path) -> None:
    """Head and start are 0, and there is nothing to read."""
    store = open_store(tmp_path / "log.db")
    assert (store.head, store.start, store.path) == (0, 0, str(tmp_path / "log.db"))
    assert store.read(0, 10, 1000) == []
    assert store.offset_at(0) == 0
    assert len(store.epoch) == 12
    store.check()
    store.close()


def test_appending_gives_offsets(tmp_path: Path) -> None:
    """Contiguous ones, which go on when the file is opened again, in the same epoch."""
    store = open_store(tmp_path / "log.db")
    batch = [entry("a"), entry("b")]
    assert store.append(batch, 0, 0.0) == batch
    assert [one.offset for one in batch] == [1, 2]
    store.close()
    again = open_store(tmp_path / "log.db")
    assert (again.head, again.epoch) == (2, store.epoch)
    add(again, "c")
    assert [one.offset for one in entries(again)] == [1, 2, 3]
    assert data(again) == ["a", "b", "c"]
    again.close()


def test_offsets_go_on_behind_an_emptied_log(tmp_path: Path) -> None:
    """Nothing is kept, and still none is given twice."""
    store = open_store(tmp_path / "log.db", max_age=10.0)
    add(store, "a", "b", now=5.0)
    store.evict(2, now=16.0)
    assert (store.start, store.head) == (2, 2)
    store.close()
    again = open_store(tmp_path / "log.db", max_age=10.0)
    assert (again.start, again.head) == (2, 2)
    add(again, "c")
    assert [one.offset for one in entries(again)] == [3]
    # The clock was put back between two runs, and so was the log's.
    assert (again.offset_at(0.0), again.offset_at(5.0)) == (2, 3)
    again.close()


def test_a_repetition_gets_the_offset_of_the_first(tmp_path: Path) -> None:
    """In the same list, later, and after a restart; one from another publisher is not a repetition."""
    store = open_store(tmp_path / "log.db")
    batch = [entry(id="1"), entry(id="2"), entry(id="1"), entry(id="1", publisher="q"), entry()]
    assert store.append(batch, 0, 0.0) == [batch[0], batch[1], batch[3], batch[4]]
    assert [one.offset for one in batch] == [1, 2, 1, 3, 4]
    store.close()
    again = open_store(tmp_path / "log.db")
    batch = [entry(id="2"), entry(id="3")]
    assert again.append(batch, 0, 0.0) == [batch[1]]
    assert [one.offset for one in batch] == [2, 5]
    again.close()


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 63, 100])
def test_a_repetition_anywhere_in_a_long_list(count: int, tmp_path: Path) -> None:
    """However many are stored at once: what was stored before it was found counts as not stored."""
    for at in {0, count // 2, count - 1}:
        store = open_store(tmp_path / f"{at}.db")
        add(store, "first")
        store.append([entry("kept", id="again")], 0, 0.0)
        batch = [entry(str(number), id=str(number)) for number in range(count)]
        batch[at] = entry("repeated", id="again")
        assert store.append(batch, 0, 0.0) == batch[:at] + batch[at + 1 :]
        assert batch[at].offset == 2
        assert [one.offset for one in entries(store)] == list(range(1, count + 2))
        assert "repeated" not in data(store)
        store.close()


def test_what_was_evicted_is_no_repetition(tmp_path: Path) -> None:
    """The log doesn't remember it."""
    store = open_store(tmp_path / "log.db", max_entries=1)
    for expected in (1, 2, 3):
        one = entry(id="ab"[expected % 2])
        assert store.append([one], expected - 1, 0.0) == [one]
        assert one.offset == expected
    store.close()


# --- retention ---


def test_bounded_by_count(tmp_path: Path) -> None:
    """The oldest go first, in the same call."""
    store = open_store(tmp_path / "log.db", max_entries=3)
    add(store, *"abcde", upto=5)
    assert (store.start, store.head) == (2, 5)
    assert data(store) == ["c", "d", "e"]
    store.close()


def test_bounded_by_bytes(tmp_path: Path) -> None:
    """The entries' sizes count."""
    store = open_store(tmp_path / "log.db", max_bytes=2 * EMPTY + 100)
    add(store, *["x" * 50] * 3, upto=3)
    assert store.start == 1
    add(store, "x" * 60, upto=3)
    assert store.start == 3
    add(store, "x" * 40, upto=4)
    assert store.start == 3
    store.close()


def test_bounded_by_age(tmp_path: Path) -> None:
    """Older entries go without an append, and entries that are too old when the file is opened."""
    store = open_store(tmp_path / "log.db", max_age=10.0)
    add(store, "a", "b", now=0.0)
    add(store, "c", now=5.0)
    store.evict(3, now=10.0)
    assert store.start == 0
    store.evict(3, now=11.0)
    assert store.start == 2
    store.close()
    again = open_store(tmp_path / "log.db", max_age=10.0, now=16.0)
    assert (again.start, again.head) == (3, 3)
    again.close()


def test_nothing_is_evicted_before_it_was_broadcast(tmp_path: Path) -> None:
    """However full it is."""
    store = open_store(tmp_path / "log.db", max_entries=1, max_bytes=1, max_age=1.0)
    add(store, *"abcdefghij", upto=0)
    assert store.start == 0
    store.evict(4, now=1000.0)
    assert store.start == 4
    store.close()


def test_a_large_backlog_goes_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits were lowered: each call evicts a step, and as much as it appends; in the end they
    hold."""
    store = open_store(tmp_path / "log.db")
    add(store, *["x"] * 100)
    store.close()
    monkeypatch.setattr(eviction, "STEP", 10)
    again = open_store(tmp_path / "log.db", max_entries=5)
    assert again.start == 10
    again.evict(100, 0.0)
    assert again.start == 20
    add(again, *["y"] * 30, upto=100)
    assert again.start == 60
    monkeypatch.setattr(eviction, "STEP_BYTES", 10 * EMPTY - 1)
    again.evict(130, 0.0)
    assert again.start == 70
    monkeypatch.setattr(eviction, "STEP", 1000)
    again.evict(130, 0.0)
    assert again.start == 80
    monkeypatch.undo()
    again.evict(130, 0.0)
    assert (again.start, len(entries(again))) == (125, 5)
    again.close()


# --- clocks that were wrong ---


def moments_of(store: sqlite.SqliteStore) -> list[float]:
    """The moments of all entries that are kept."""
    found = store._database.connection.execute("SELECT moment FROM entries ORDER BY offset")
    return [moment for (moment,) in found]


def test_what_is_from_the_future_comes_down(tmp_path: Path) -> None:
    """It counts as appended when the file is opened, and ages like all others."""
    store = open_store(tmp_path / "log.db", max_age=10.0)
    add(store, "a", now=5.0)
    add(store, "b", "c", now=1e9)
    store.close()
    again = open_store(tmp_path / "log.db", max_age=10.0, now=6.0)
    assert moments_of(again) == [5.0, 6.0, 6.0]
    add(again, "d", now=8.0)
    assert moments_of(again) == [5.0, 6.0, 6.0, 8.0]
    assert [again.offset_at(moment) for moment in (5.5, 6.5, 9.0)] == [1, 3, 4]
    again.evict(4, now=16.5)
    assert (again.start, again.head) == (3, 4)
    again.close()


def test_a_log_that_was_emptied_in_the_future(tmp_path: Path) -> None:
    """The next entry doesn't have that moment."""
    store = open_store(tmp_path / "log.db", max_age=10.0)
    add(store, "a", now=1e9)
    store.evict(1, now=2e9)
    store.close()
    for number in range(2):
        again = open_store(tmp_path / "log.db", max_age=1e9, now=6.0 + 2 * number)
        add(again, "b", now=7.0 + 2 * number)
        assert moments_of(again) == [7.0, 9.0][: number + 1]
        again.close()


def test_millions_from_the_future_come_down_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call moves some, and in between the file can be opened again, and moments never decrease."""
    monkeypatch.setattr(moments, "STEP", 10)
    store = open_store(tmp_path / "log.db")
    add(store, *["x"] * 5, now=1.0)
    add(store, *["x"] * 100, now=1e9)
    store.close()
    for opened in range(2, 4):
        store = open_store(tmp_path / "log.db", now=float(opened))
        assert store.evict(0, now=4.0)
        add(store, "y", now=5.0)
        found = moments_of(store)
        assert found == sorted(found)
        assert found[-1] == 1e9
        crash(store)
    store = open_store(tmp_path / "log.db", now=4.0)
    while store.evict(0, now=4.0):
        found = moments_of(store)
        assert found == sorted(found)
    assert moments_of(store) == [1.0] * 5 + [2.0] * 30 + [3.0] * 30 + [4.0] * 42
    add(store, "z", now=5.0)
    assert moments_of(store)[-1] == 5.0
    store.close()


@pytest.mark.parametrize("step", [2, 1000])
def test_a_clock_that_is_followed_back(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries noted by it keep their age. Those that seem to be from the future don't stay there."""
    monkeypatch.setattr(moments, "STEP", step)
    store = open_store(tmp_path / "log.db", max_age=100.0)
    add(store, "a", now=100.0)
    add(store, "b", now=1095.0)  # by a clock that was wrong before, too
    store.close()
    monkeypatch.setattr(epochs, "boot_id", lambda: "another")
    store = open_store(tmp_path / "log.db", max_age=1100.0, now=1100.0)
    for now in (1101.0, 1110.0, 1120.0):
        add(store, "c", now=now)
    store.shift(-1000.0, 121.0)
    while store.evict(0, now=121.0):
        found = moments_of(store)
        assert found == sorted(found)
    assert moments_of(store) == [100.0, 101.0, 101.0, 110.0, 120.0]
    add(store, "d", now=122.0)
    assert moments_of(store)[-1] == 122.0
    store.shift(+500.0, 623.0)
    while store.evict(0, now=623.0):
        pass
    assert moments_of(store) == [100.0, 601.0, 601.0, 610.0, 620.0, 622.0]
    store.close()


@pytest.mark.parametrize("step", [2, 1000])
def test_a_clock_that_is_followed_ahead(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is evicted too early, what was brought down at the start included."""
    monkeypatch.setattr(moments, "STEP", step)
    store = open_store(tmp_path / "log.db", max_age=1e9)
    for now in (800.0, 950.0, 960.0):
        add(store, "a", now=now)
    store.close()
    store = open_store(tmp_path / "log.db", max_age=300.0, now=0.0)
    store.evict(3, now=0.0)
    assert moments_of(store) == [0.0] * 3
    for now in (10.0, 20.0, 30.0, 40.0):
        add(store, "b", now=now)
    store.shift(+1000.0, 1041.0)
    add(store, "c", now=1041.0, upto=8)
    while store.evict(8, now=1042.0):
        found = moments_of(store)
        assert found == sorted(found)
    assert moments_of(store) == [1000.0] * 3 + [1010.0, 1020.0, 1030.0, 1040.0, 1041.0]
    store.evict(8, now=1315.0)
    assert store.start == 4
    store.close()


@pytest.mark.parametrize("by", [+1000.0, -1000.0])
def test_moments_that_are_still_to_be_moved(
    by: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up and an eviction get the time as it will be."""
    monkeypatch.setattr(moments, "STEP", 2)
    store = open_store(tmp_path / "log.db", max_age=100.0, now=5000.0)
    for age in (95.0, 80.0, 60.0, 40.0, 20.0, 0.0):
        add(store, "a", now=6000.0 - age)
    now = 6000.0 + by
    store.shift(by, now)
    asked = [now - age for age in (95.0, 70.0, 50.0, 10.0)]
    assert [store.offset_at(moment) for moment in asked] == [0, 2, 3, 5]
    assert store.evict(6, now=now + 10.0)  # some are left to be moved
    assert store.start == 1
    assert [store.offset_at(moment) for moment in asked] == [1, 2, 3, 5]
    while store.evict(6, now=now + 10.0):
        pass
    assert moments_of(store) == [now - age for age in (80.0, 60.0, 40.0, 20.0, 0.0)]
    store.close()


def test_a_clock_that_is_followed_ahead_by_less(tmp_path: Path) -> None:
    """It was corrected backwards before: even so, moments never decrease, and the file is whole."""
    store = open_store(tmp_path / "log.db")
    add(store, "a", now=100.0)
    store.shift(+50.0, 148.5)
    add(store, "b", now=148.5)
    assert moments_of(store) == [150.0, 150.0]
    crash(store)
    open_store(tmp_path / "log.db", now=200.0).close()


def test_closed_while_the_clock_is_followed_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process doesn't take what was to be moved for older than it is."""
    monkeypatch.setattr(moments, "STEP", 2)
    store = open_store(tmp_path / "log.db")
    add(store, *"abcdefgh", now=10.0)
    store.shift(+1000.0, 1010.0)
    store.close()
    again = open_store(tmp_path / "log.db", max_age=100.0, now=1011.0)
    assert data(again) == [*"abcdefgh"]
    again.close()


@pytest.mark.parametrize(("first", "second"), [(+1000.0, +70.0), (+1000.0, -70.0), (-400.0, +70.0)])
def test_a_clock_that_is_followed_again(
    first: float, second: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While moments are still moved: each is moved by both."""
    monkeypatch.setattr(moments, "STEP", 2)
    store = open_store(tmp_path / "log.db", max_age=100.0, now=500.0)
    for now in (500.0, 510.0, 520.0, 530.0, 540.0):
        add(store, "a", now=now)
    store.shift(first, 540.0 + first)
    add(store, "b", now=540.0 + first)
    store.shift(second, 540.0 + first + second)
    add(store, "c", now=540.0 + first + second)
    while store.evict(7, now=540.0 + first + second):
        pass
    by = first + second
    assert moments_of(store) == [by + now for now in (500.0, 510.0, 520.0, 530.0, 540.0, 540.0, 540.0)]
    store.close()


# --- reading ---


def test_reading_is_bounded(tmp_path: Path) -> None:
    """By count, and by bytes, but never to nothing."""
    store = open_store(tmp_path / "log.db")
    add(store, *["x" * 8] * 10)

    def offsets(after: int, limit: int, size: int) -> list[int]:
        return [store.restore(row).offset for row in store.read(after, limit, size)]

    each, plenty = EMPTY + 8, 100 * EMPTY
    assert offsets(3, 2, plenty) == [4, 5]
    assert offsets(3, 100, 3 * each) == [4, 5, 6]
    assert offsets(3, 100, 3 * each - 1) == [4, 5]
    assert offsets(3, 100, 0) == [4]
    assert offsets(9, 100, plenty) == [10]
    assert offsets(10, 100, plenty) == offsets(11, 100, plenty) == []
    store.close()


def test_a_moment_has_an_offset(tmp_path: Path) -> None:
    """Behind it is all that was appended then or later."""
    store = open_store(tmp_path / "log.db", max_entries=4)
    for now in (10.0, 20.0, 20.0, 30.0, 40.0, 35.0):
        add(store, "x", now=now, upto=6)
    assert store.start == 2
    asked = [0.0, 20.0, 20.5, 30.0, 36.0, 40.0, 40.5]
    assert [store.offset_at(moment) for moment in asked] == [2, 2, 3, 3, 4, 4, 6]
    store.close()


def test_others_may_read_while_it_writes(tmp_path: Path) -> None:
    """A reader sees what was there when it began, a backup is a whole log, and none stops the
    writer."""
    store = open_store(tmp_path / "log.db")
    add(store, "a")
    reader = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    reader.execute("BEGIN")
    count = "SELECT count(*) FROM entries"
    assert reader.execute(count).fetchone() == (1,)
    add(store, "b")
    assert reader.execute(count).fetchone() == (1,)
    reader.execute("COMMIT")
    assert reader.execute(count).fetchone() == (2,)
    copy = sqlite3.connect(tmp_path / "copy.db")
    reader.backup(copy)
    copy.close()
    add(store, "c")
    store.close()
    reader.close()
    restored = open_store(tmp_path / "copy.db")
    assert data(restored) == ["a", "b"]
    restored.close()


def test_any_thread_may_drive_it(tmp_path: Path) -> None:
    """One at a time."""
    store = open_store(tmp_path / "log.db")
    found: list[Any] = []
    for work in (lambda: add(store, "a"), lambda: found.extend(data(store)), store.close):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == ["a"]


# --- what is stored of a notification ---

_text = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cn", "Co"]), min_size=1, max_size=20
)
_names = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=10).map("x".__add__)
_conditions = st.dictionaries(_names, st.text(st.characters(codec="utf-8"), min_size=1), min_size=1)
_audiences: st.SearchStrategy[Wanted] = st.recursive(
    st.one_of(
        *(_conditions.map(kind) for kind in (Exact, Prefix, Suffix)),
        st.sampled_from([Sql("team = 'ops' AND EXISTS id"), Sql("LEFT(id, 1) LIKE 'a%'")]),
    ),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=1, max_size=3).map(AllOf),
        st.lists(inner, min_size=1, max_size=3).map(AnyOf),
    ),
    max_leaves=5,
)
_moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
_times = st.one_of(
    _moments, _moments.map(datetime.isoformat), st.floats(0, 2e11, exclude_min=True), st.just(0.0)
)


@st.composite
def notifications(draw: Callable[..., Any]) -> Notification:
    """Any at all."""
    optional = {
        "id": _text,
        "subject": _text,
        "time": _times,
        "datacontenttype": st.sampled_from(["text/plain", "image/png", "a/b; c=d"]),
        "audience": st.one_of(_audiences, st.just(EVERYTHING), st.just(NOTHING)),
        "extensions": st.dictionaries(
            _names, st.one_of(_text, st.booleans(), st.integers(-(2**31), 2**31 - 1)), max_size=4
        ),
    }
    chosen = {name: draw(values) for name, values in optional.items() if draw(st.booleans())}
    content = draw(st.one_of(st.none(), st.text(st.characters(codec="utf-8")), st.binary()))
    return Notification(content, type=draw(_text), source=draw(_text), **chosen)


@given(st.lists(st.tuples(notifications(), st.none() | st.integers(0, 2**40)), max_size=8))
@settings(deadline=None)
def test_everything_is_restored(given: list[tuple[Notification, int | None]]) -> None:
    """Equal in every attribute and its type; the connection's key only by the process that stored
    it."""
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(directory + "/log.db", durability="normal")
        first = [
            Entry(notification, origin, None, repetition_key(notification, str(origin)))
            for notification, origin in given
        ]
        kept = store.append(first, 0, 0.0)
        found = entries(store)
        assert [one.origin for one in found] == [one.origin for one in kept]
        store.close()
        again = open_store(directory + "/log.db", durability="normal")
        later = entries(again)
        again.close()
    assert [one.origin for one in later] == [None] * len(kept)
    for restored in (found, later):
        assert len(restored) == len(kept)
        for one, original in zip(restored, kept, strict=True):
            assert (one.offset, one.size, one.key) == (original.offset, original.size, original.key)
            assert_same(one.notification, original.notification)


def assert_same(one: Notification, other: Notification) -> None:
    """Equal, and of the same types; hidden is only how an `id` was made up."""
    assert one == other
    assert hash(one) == hash(other)
    assert (one.given_id, one._datacontenttype) == (other.given_id, other._datacontenttype)
    assert [type(value) for value in one.extensions.values()] == [
        type(value) for value in other.extensions.values()
    ]
    assert type(one.data) is type(other.data)
    assert type(one.audience) is type(other.audience)


class Word(str):
    """A str that JSON doesn't know."""

    __slots__ = ()


class Blob(bytes):
    """Bytes that MessagePack doesn't know."""

    __slots__ = ()


def test_subclasses_of_plain_types_are_stored_as_these(tmp_path: Path) -> None:
    """They are equal, after all."""
    store = open_store(tmp_path / "log.db")
    original = Notification(
        Word("d"), type=Word("t"), subject=Word("s"), extensions={Word("a"): Word("b")}
    )
    store.append([Entry(original), Entry(Notification(Blob(b"d")))], 0, 0.0)
    found, blob = entries(store)
    assert found.notification == original
    assert type(found.notification.data) is type(found.notification.extensions["a"]) is str
    assert blob.notification.data == b"d"
    assert type(blob.notification.data) is bytes
    store.close()


def nested(depth: int) -> Wanted:
    """A condition inside so many negations."""
    predicate: Wanted = Exact(id="a")
    for _ in range(depth):
        predicate = Not(predicate)
    return predicate


class Odd(Exact):
    """A predicate with a meaning of its own, which the store can't know."""


@pytest.mark.parametrize(
    ("audience", "words"),
    [
        (lambda client: True, "audience: .* can't be stored; use Exact, "),
        (Odd(id="a"), "audience: .* can't be stored; use Exact, "),
        (
            AllOf([Exact(id="a"), NOTHING]),
            "audience: can't be stored: NOTHING can't be a part of a JSON filter; leave it out",
        ),
        (
            nested(127),
            "audience: can't be stored: not valid JSON: nested too deep; at most 128 levels are allowed",
        ),
    ],
)
def test_an_audience_that_cant_be_stored_is_refused(
    audience: Wanted, words: str, tmp_path: Path
) -> None:
    """By itself beforehand, and with its whole list if it wasn't checked."""
    store = open_store(tmp_path / "log.db")
    bad = Entry(Notification(audience=audience))
    refusal = store.refuses(bad)
    assert refusal is not None
    assert refusal.status == 422
    for _ in range(2):
        with pytest.raises(StoreError, match=words) as caught:
            store.append([entry("a"), bad], 0, 0.0)
        assert caught.value.detail == refusal.detail
    assert store.head == 0
    store.check()
    add(store, "b")
    assert data(store) == ["b"]
    store.close()


def test_an_audience_that_can_be_stored(tmp_path: Path) -> None:
    """As deep and as long as any client's."""
    store = open_store(tmp_path / "log.db")
    audiences = [
        nested(100),
        Exact(user_id="a"),
        Exact(id="x" * 100_000),
        AnyOf([Exact(id=str(n)) for n in range(1000)]),
    ]
    batch = [Entry(Notification(audience=audience)) for audience in audiences]
    assert [store.refuses(one) for one in batch] == [None] * 4
    store.append(batch, 0, 0.0)
    assert [one.notification.audience for one in entries(store)] == audiences
    store.close()


@pytest.mark.parametrize(
    "around", [Not, lambda part: AllOf([part]), lambda part: AnyOf([Exact(id='"[{'), part])]
)
def test_the_deepest_audience(around: Callable[[Wanted], Wanted], tmp_path: Path) -> None:
    """Whatever is taken can be read again, and is refused where it can't."""
    store = open_store(tmp_path / "log.db")
    audience: Wanted = Exact(id="a")
    while store.refuses(deepest := Entry(Notification(audience=audience))) is None:
        store.append([deepest], 0, 0.0)
        audience = around(audience)
    assert store.head > 60
    for offset, one in enumerate(entries(store), 1):
        assert one.offset == offset
    store.close()


def test_an_audience_is_not_read_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That would take a hundred times as long, for each event of a batch."""
    monkeypatch.delattr(rows, "from_json")
    store = open_store(tmp_path / "log.db")
    for audience in (nested(100), AnyOf([Exact(id=str(n)) for n in range(1000)])):
        one = Entry(Notification(audience=audience))
        assert store.refuses(one) is None
        store.append([one], 0, 0.0)
    store.close()


def test_what_is_larger_than_the_log_is_refused(tmp_path: Path) -> None:
    """Beforehand, with what is too large and which limit to raise."""
    store = open_store(tmp_path / "log.db", max_bytes=EMPTY + 98)
    assert store.refuses(entry("x" * 98)) is None
    refusal = store.refuses(entry("x" * 99))
    assert refusal is not None
    assert refusal.status == 507
    assert f"log.db: a notification of {EMPTY + 99} bytes is larger" in refusal.detail
    assert (
        "a notification of 869 bytes is larger than the whole log may be (868 bytes)" in refusal.detail
    )
    store.close()


def test_what_is_larger_than_a_row_may_be_is_refused(tmp_path: Path) -> None:
    """Whatever the log may hold; without being stored in part."""
    store = open_store(tmp_path / "log.db", max_bytes=1 << 60)
    connection = store._database.connection
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
    with pytest.raises(StoreError, match="can't store a notification of this size") as caught:
        store.append([entry("a"), entry("x" * 2000)], 0, 0.0)
    assert caught.value.status == 507
    assert store.head == 0
    store.close()


# --- the model ---


BYTES = 6 * EMPTY + 100


class Model:
    """A log that is a list of (offset, moment, entry)."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, float, Entry]] = []
        self.head = 0
        self.moment = 0.0

    @property
    def start(self) -> int:
        return self.kept[0][0] - 1 if self.kept else self.head

    def append(self, batch: list[Entry], now: float) -> tuple[list[Entry], list[int]]:
        """Which are new, and the offsets of all."""
        fresh, offsets = [], []
        for one in batch:
            first = [at for at, _, kept in self.kept if one.key is not None and kept.key == one.key]
            if not first:
                self.head += 1
                self.moment = max(self.moment, now)
                self.kept.append((self.head, self.moment, one))
                fresh.append(one)
            offsets.append(first[0] if first else self.head)
        return fresh, offsets

    def bring_down(self, now: float) -> None:
        """Nothing is from the future."""
        self.kept = [(offset, min(moment, now), one) for offset, moment, one in self.kept]
        self.moment = min(self.moment, now)

    def evict(self, upto: int, now: float) -> None:
        """At most 10 entries, the bytes of some 6, 15 seconds."""
        while self.kept and self.kept[0][0] <= upto and self.is_too_much(now):
            del self.kept[0]

    def is_too_much(self, now: float) -> bool:
        size = sum(one.size for _, _, one in self.kept)
        return len(self.kept) > 10 or size > BYTES or self.kept[0][1] < now - 15


_items = st.tuples(st.integers(0, 6), st.integers(0, 40))
_steps = st.one_of(
    st.lists(_items, max_size=6), st.lists(_items, max_size=6), st.sampled_from(["reopen", "crash"])
)


@given(st.lists(st.tuples(_steps, st.integers(0, 12), st.integers(-3, 9)), max_size=25))
@settings(deadline=None)
def test_it_does_what_a_list_does(steps: list[tuple[Any, int, int]]) -> None:
    """Whatever is appended, repeated, evicted and opened again, at whatever time of day."""
    model, now = Model(), 100.0
    with tempfile.TemporaryDirectory() as directory:

        def reopened() -> sqlite.SqliteStore:
            bounds = {"max_entries": 10, "max_bytes": BYTES, "max_age": 15.0}
            return open_store(directory + "/log.db", now=now, durability="normal", **bounds)

        store = reopened()
        epoch = store.epoch
        for step, behind, passed in steps:
            now += passed
            upto = max(0, model.head - behind)
            if isinstance(step, str):
                store.close() if step == "reopen" else crash(store)
                store = reopened()
                model.bring_down(now)
                upto = model.head
            else:
                # Of 7 names, 3 can be repeated. No items: evict.
                batch = [entry("x" * size, id=str(name) if name < 3 else None) for name, size in step]
                fresh, offsets = model.append(batch, now)
                assert store.append(batch, upto, now) == fresh
                assert [one.offset for one in batch] == offsets
            model.evict(upto, now)
            assert (store.start, store.head, store.epoch) == (model.start, model.head, epoch)
            assert_equal(store, model)
        store.close()


def assert_equal(store: sqlite.SqliteStore, model: Model) -> None:
    """Wherever one begins to read, and whenever."""
    for after in range(model.start, model.head + 2):
        found = [(one.offset, one.notification, one.key) for one in entries(store, after)]
        kept = [(at, one.notification, one.key) for at, _, one in model.kept if at > after]
        assert found == kept
    asked = {moment for _, moment, _ in model.kept} | {0.0, model.moment}
    for moment in asked | {moment + 0.5 for moment in asked}:
        older = [at for at, then, _ in model.kept if then < moment]
        assert store.offset_at(moment) == max(older, default=model.start)


# --- epochs ---


@pytest.mark.parametrize(
    ("durability", "end", "boots", "renewed"),
    [
        ("normal", crash, ("a", "b"), True),
        ("normal", crash, ("a", None), True),
        ("normal", crash, (None, None), True),
        ("normal", crash, ("a", "a"), False),
        ("normal", sqlite.SqliteStore.close, ("a", "b"), False),
        ("full", crash, ("a", "b"), False),
        ("full", crash, (None, None), False),
    ],
)
def test_the_epoch_after_a_loss_of_power(
    durability: str,
    end: Callable[[sqlite.SqliteStore], None],
    boots: tuple[str | None, str | None],
    renewed: bool,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new one only if offsets that were given out may be missing; what is there can be read
    anyway."""
    monkeypatch.setattr(epochs, "boot_id", lambda: boots[0])
    store = open_store(tmp_path / "log.db", durability=durability)
    add(store, "a", "b")
    end(store)
    monkeypatch.setattr(epochs, "boot_id", lambda: boots[1])
    # What counts is what was in force when it happened, not what is asked for now.
    again = open_store(tmp_path / "log.db", durability="full" if durability == "normal" else "normal")
    assert (again.epoch != store.epoch) is renewed
    assert data(again) == ["a", "b"]
    add(again, "c")
    assert again.head == 3
    again.close()
    last = open_store(tmp_path / "log.db")
    assert last.epoch == again.epoch
    last.close()


def test_a_boot_has_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same whenever it is asked for; None where the system has none."""
    assert epochs.boot_id() == epochs.boot_id()
    monkeypatch.setattr(epochs, "Path", lambda name: Path("/nowhere") / name.lstrip("/"))
    monkeypatch.setattr(epochs.sys, "platform", "linux")
    assert epochs.boot_id() is None


def test_an_operator_renews_the_epoch(tmp_path: Path) -> None:
    """The file's entries stay. A server that has the file is not disturbed."""
    store = open_store(tmp_path / "log.db", durability="normal")
    add(store, "a")
    with pytest.raises(StoreError, match=r"in use by a running server"):
        new_epoch(tmp_path / "log.db")
    add(store, "b")
    crash(store)
    epoch = new_epoch(tmp_path / "log.db")
    again = open_store(tmp_path / "log.db")
    assert again.epoch == epoch != store.epoch
    assert data(again) == ["a", "b"]
    again.close()


def test_only_of_a_log_can_the_epoch_be_renewed(tmp_path: Path) -> None:
    """No file is made for it."""
    with pytest.raises(StoreError, match="does not exist"):
        new_epoch(tmp_path / "nothing.db")
    assert os.listdir(tmp_path) == []


def test_there_are_two_durabilities(tmp_path: Path) -> None:
    """And nothing is done for a third."""
    with pytest.raises(ValueError, match="durability: must be 'full' or 'normal', not 'none'"):
        open_store(tmp_path / "log.db", durability="none")
    assert os.listdir(tmp_path) == []


def test_durability_is_what_sqlite_is_told(tmp_path: Path) -> None:
    """FULL or NORMAL, in WAL mode."""
    for durability, number in (("full", 2), ("normal", 1)):
        store = open_store(tmp_path / "log.db", durability=durability)
        connection = store._database.connection
        assert connection.execute("PRAGMA synchronous").fetchone() == (number,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        store.close()


def test_what_is_written_down_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First which process has the file, then what doesn't wait, and last that nothing is missing."""
    said: list[str] = []

    def open_and_listen(path: str) -> sqlite3.Connection:
        connection = schema.open_database(path)
        connection.set_trace_callback(said.append)
        return connection

    open_store(tmp_path / "log.db").close()
    monkeypatch.setattr(database, "open_database", open_and_listen)
    store = open_store(tmp_path / "log.db", durability="normal")
    assert store._database.connection.execute("PRAGMA synchronous").fetchone() == (1,)
    store.close()
    heard = ("PRAGMA sync", "PRAGMA wal", "UPDATE", "COMMIT")
    told = [text for text in said if text.startswith(heard)]
    assert [" ".join(text.split()[:4]) for text in told] == [
        *(
            "UPDATE log SET epoch",
            "COMMIT",
            "PRAGMA synchronous = normal",
            "COMMIT",
            "PRAGMA synchronous",
        ),
        *("PRAGMA synchronous = FULL", "UPDATE log SET clean", "COMMIT", "PRAGMA wal_checkpoint"),
    ]


# --- versions ---

VERSION = len(schema.MIGRATIONS)


def test_an_old_file_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, with what is in it; then no older program may have it."""
    store = open_store(tmp_path / "log.db")
    add(store, "a")
    store.close()

    def colour(db: sqlite3.Connection) -> None:
        db.execute("ALTER TABLE entries ADD COLUMN colour TEXT")

    def paint(db: sqlite3.Connection) -> None:
        db.execute("UPDATE entries SET colour = 'red'")

    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, colour, paint))
    newer = open_store(tmp_path / "log.db")
    connection = newer._database.connection
    assert connection.execute("SELECT colour, data FROM entries").fetchall() == [("red", "a")]
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION + 2,)
    assert (data(newer), newer.epoch) == (["a"], store.epoch)
    newer.close()
    monkeypatch.undo()
    with pytest.raises(StoreError, match="has version 4, but this trionotify reads at most 2"):
        open_store(tmp_path / "log.db")


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is a transaction: those before it stay, and the file is still good."""
    store = open_store(tmp_path / "log.db")
    add(store, "a")
    store.close()

    def nothing(db: sqlite3.Connection) -> None:
        pass

    def half(db: sqlite3.Connection) -> None:
        db.execute("DROP TABLE log")
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, nothing, half))
        with pytest.raises(RuntimeError):
            open_store(tmp_path / "log.db")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, nothing))
        again = open_store(tmp_path / "log.db")
        assert again._database.connection.execute("PRAGMA user_version").fetchone() == (VERSION + 1,)
        assert data(again) == ["a"]
        again.close()
