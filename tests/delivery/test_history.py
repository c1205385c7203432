"""The history: it leaves out what a reader certainly doesn't want, and nothing else."""

from __future__ import annotations

from bisect import bisect_right
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trionotify import AllOf, AnyOf, Exact, Not, Notification, Prefix, Sql
from trionotify.delivery import history as history_module
from trionotify.delivery import turns
from trionotify.delivery.counters import Lag
from trionotify.delivery.entry import Entry
from trionotify.delivery.history import History, wants
from trionotify.delivery.latest import Latest
from trionotify.delivery.log import Evicted, NotLoaded
from trionotify.delivery.position import NO_OUTLET, Position
from trionotify.delivery.scan import read_on
from trionotify.model.predicates import EVERYTHING

IDS = ["al", "bo", "cy"]
PREDICATES = [
    EVERYTHING,
    Exact(type="a"),
    Exact(type="b", subject="x"),
    Exact(id="e3"),
    Exact(to="al"),
    Exact(datacontenttype="application/octet-stream"),
    AllOf([Prefix(type="a"), Exact(subject="y")]),
    AnyOf([Exact(type="a"), Exact(subject="x")]),
    AnyOf([Exact(type="a"), Prefix(subject="x")]),
    Not(Exact(type="a")),
    Sql("type = 'b'"),
    AnyOf([Exact({f"x{n}": "1"}) for n in range(9)]),
]


class FakeLog:
    """A log whose offsets may have holes, and that has only a part of its entries in memory."""

    def __init__(self, epoch: str = "e") -> None:
        self.epoch = epoch
        self.entries: list[Entry] = []
        self.start = 0
        self.loaded: float = float("inf")

    def add(self, step: int, to: str | None = None, **attributes: Any) -> Entry:
        offset = (self.entries[-1].offset if self.entries else 0) + step
        extensions = {} if to is None else {"to": to}
        # Half of them as a raw publisher's message, whose notification isn't made yet.
        made_at = None if offset % 2 else 1.0
        template = Notification("x", id=f"e{offset}", extensions=extensions, **attributes)
        entry = Entry(template, data="x" if offset % 2 else b"x", made_at=made_at)
        entry.offset = offset
        self.entries.append(entry)
        return entry

    def read(self, after: int, limit: int) -> list[Entry]:
        if after < self.start:
            raise Evicted
        at = bisect_right(self.entries, after, key=lambda entry: entry.offset)
        found = [entry for entry in self.entries[at : at + limit] if entry.offset <= self.loaded]
        if not found and at < len(self.entries):
            raise NotLoaded(after)
        return found


class Client:
    """As much of a client as the history looks at."""

    def __init__(self, id: str) -> None:
        self.id = id

    def get(self, name: str) -> str | None:
        return self.id if name == "id" else None


def reader(predicate: Any, id: str | None = "al") -> Position:
    client = None if id is None else Client(id)
    return Position(NO_OUTLET, predicate, lambda _: b"frame", len, client)


def filled(*entries: Any) -> FakeLog:
    log = FakeLog()
    for entry in entries:
        log.add(**entry)
    return log


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four offsets, of which few are kept, and even for readers of few entries."""
    monkeypatch.setattr(history_module, "BLOCK", 4)
    monkeypatch.setattr(history_module, "BLOCKS", 5)
    monkeypatch.setattr(history_module, "FEW", 0)


entries = st.lists(
    st.fixed_dictionaries(
        {"step": st.sampled_from([1, 1, 1, 2, 6]), "type": st.sampled_from("abc")},
        optional={"to": st.sampled_from(IDS), "subject": st.sampled_from("xyz")},
    ),
    min_size=1,
    max_size=5,
)
readings = st.lists(
    st.tuples(
        st.sampled_from(PREDICATES),
        st.sampled_from([*IDS, None]),
        st.integers(0, 12),
        st.integers(1, 20),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(entries, readings, st.sampled_from([0, 0, 3]), st.none() | st.integers(1, 40)),
        min_size=2,
    )
)
def test_nothing_that_is_wanted_is_left_out(rounds: list[Any]) -> None:
    """However the log changes in between, and in whatever order it is read."""
    history, log = History(), FakeLog()
    for added, read, dropped, loaded in rounds:
        for entry in added:
            log.add(**entry)
        log.start = min(log.start + dropped, log.entries[-1].offset)
        log.loaded = float("inf") if loaded is None else log.start + loaded
        for predicate, id, begun, limit in read:
            after = max(begun, log.start)
            taken = after + limit
            try:
                found = [entry for entry in log.read(after, 1000) if entry.offset <= taken]
            except NotLoaded:
                continue
            position = reader(predicate, id)
            narrowed = list(history.narrow(position, log, after, taken))  # type: ignore[arg-type] # as much of a log as it needs
            assert [each for each in narrowed if wants(position, each)] == [
                each for each in found if wants(position, each)
            ]
            assert [each for each in found if each in narrowed] == narrowed
            assert narrowed[-1:] == found[-1:]
        assert len(history._blocks) <= 5


def test_entries_are_filed_once_for_all_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a reader depends on what is filed under its value."""
    monkeypatch.setattr(history_module, "BLOCK", 512)
    log = filled(*[{"step": 1, "type": f"t{n % 100}"} for n in range(1000)])
    asked: list[str] = []
    get = Notification.get
    monkeypatch.setattr(Notification, "get", lambda self, name: asked.append(name) or get(self, name))
    history = History()
    for number in range(100):
        position = reader(Exact(type=f"t{number}"))
        found = list(history.narrow(position, log, 0, 1000))  # type: ignore[arg-type] # the same
        # The ends of the two blocks are among them, between which a reader gives way.
        assert {entry.offset for entry in found} == {*range(number + 1, 1000, 100), 512, 1000}
    assert len(asked) == 1000


def test_notifications_for_others_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without a filter only looks at those for itself and for all."""
    monkeypatch.setattr(history_module, "BLOCK", 512)
    log = filled(*[{"step": 1, "type": "t", "to": f"c{n % 9}" if n % 10 else None} for n in range(100)])
    log.add(1, type="t", to="c5")
    found = list(History().narrow(reader(EVERYTHING, "c5"), log, 0, 200))  # type: ignore[arg-type] # the same
    assert {entry.template.to for entry in found} == {None, "c5"}
    assert len(found) == sum(entry.template.to in {None, "c5"} for entry in log.entries)


def test_a_callable_sees_everything() -> None:
    """It may have effects, and a subscription inside the process gets what is for anyone."""
    log = filled(*[{"step": 1, "type": "t", "to": "bo"}] * 8)
    for position in (reader(lambda _: True), reader(EVERYTHING, None)):
        found = History().narrow(position, log, 0, 8)  # type: ignore[arg-type] # the same
        assert list(found) == log.entries


def test_another_epoch_is_another_history() -> None:
    """A log that begins again gives its offsets again."""
    history = History()
    for epoch, type in (("e", "a"), ("f", "b")):
        log = FakeLog(epoch)
        for _ in range(4):
            log.add(1, type=type)
            log.add(1, type="c")
        found = list(history.narrow(reader(Exact(type=type)), log, 0, 8))  # type: ignore[arg-type] # the same
        assert [entry.template.type for entry in found if wants(reader(Exact(type=type)), entry)] == (
            [type] * 4
        )


def test_nothing_of_an_entry_is_kept() -> None:
    """A block has hashes and offsets, because its log may drop the entries."""
    history, log = History(), filled(*[{"step": 1, "type": "a" * 4096, "to": "bo"}] * 4)
    for position in (reader(Exact(type="b")), reader(EVERYTHING)):
        list(history.narrow(position, log, 0, 4))  # type: ignore[arg-type] # the same
    blocks = history._blocks.values()
    assert len(blocks) == 2
    assert {type(key) for block in blocks for key in block.offsets} == {int}
    assert {type(one) for block in blocks for some in block.offsets.values() for one in some} == {int}


def test_a_reader_comes_to_the_end_of_what_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the log has behind it, because the reader becomes live there."""
    monkeypatch.setattr(turns, "SECONDS", inf)
    log = filled(*[{"step": 1, "type": "a"}] * 10)
    for predicate in (Exact(type="b"), Exact(type="a"), EVERYTHING):
        _, offset = read_on(reader(predicate), log, 6, History().narrow)  # type: ignore[arg-type] # the same
        assert offset == 6


def test_an_audience_that_changes_the_reader_s_filter() -> None:
    """What was left out, the old filter did not want; the new one begins behind this entry."""
    log = filled(*[{"step": 1, "type": "a"}, *[{"step": 1, "type": "b"}] * 40])
    position = reader(Exact(type="a"))

    def audience(_: object) -> bool:
        position.predicate = Exact(type="b")
        return True

    log.entries[0].template = Notification("x", type="a", audience=audience)
    for read in (read_on, Latest(Lag(), lambda _: True).read):
        position.predicate = Exact(type="a")
        _, offset = read(position, log, 41, History().narrow)  # type: ignore[arg-type] # the same
        assert offset <= 1
