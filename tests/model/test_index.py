"""The index finds what evaluating every predicate would find."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.matching import match
from trionotify import EVERYTHING, NOTHING, AllOf, AnyOf, Exact, Not, Notification, Prefix, Sql, Suffix
from trionotify.cesql import MAX_PATTERN
from trionotify.model.index import MAX_ANCHOR, PredicateIndex

words = st.text("ab", min_size=1, max_size=3)
pairs = st.dictionaries(st.sampled_from(["type", "subject", "n1"]), words, min_size=1)
leaves = st.one_of(
    *(pairs.map(kind) for kind in (Exact, Prefix, Suffix)),
    st.sampled_from([EVERYTHING, NOTHING, lambda event: event.type == "a"]),
    st.sampled_from(
        [
            Sql(text)
            for text in (
                *("type = 'a'", "'ab' = subject", "type LIKE 'a%'", "subject LIKE '%b'"),
                *("type LIKE 'a%b'", "type LIKE 'a_'", "type IN ('a', 'b')", "n1 IN ('5', '05')"),
                *("'05' = n1", "n1 = 5", "type = 'a' AND subject LIKE 'b%'", "NOT (type = 'a')"),
                *("type = 'a' OR EXISTS n1", "LENGTH(type) = 1 AND type LIKE '%a%'", "n1"),
            )
        ]
    ),
)
predicates = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(AllOf),
        st.lists(inner, min_size=1, max_size=3).map(AnyOf),
        inner.map(Not),
    ),
    max_leaves=6,
)
events = st.builds(
    lambda type, subject, n1: Notification.of(None, type=type, subject=subject, n1=n1),
    words,
    st.none() | words,
    st.none() | words | st.sampled_from([5, True, "true", "05"]),
)


@given(st.lists(predicates, max_size=12), st.lists(st.integers(0, 11)), st.lists(events, max_size=4))
def test_same_as_evaluating_everything(
    registered: list[Any], removed: list[int], seen: list[Notification]
) -> None:
    """Whatever was added and removed, in whatever order, each member once."""
    index: PredicateIndex[int] = PredicateIndex()
    for member, predicate in enumerate(registered):
        index.add(predicate, member)
    left = dict(enumerate(registered))
    for member in removed:
        if member in left:
            index.remove(left.pop(member), member)
    for event in seen:
        expected = [member for member, predicate in left.items() if predicate(event)]
        assert sorted(match(index, event)) == expected
    for member, predicate in left.items():
        index.remove(predicate, member)
    assert not index._filed
    assert not index._unanchored
    assert not any(index._shelves.values())


class Counted:
    """A subject that counts how often it was asked."""

    def __init__(self, **attributes: str) -> None:
        self.attributes = attributes
        self.asked = 0

    def get(self, name: str) -> str | None:
        self.asked += 1
        return self.attributes.get(name)


@pytest.mark.parametrize(
    "make",
    [
        lambda i: Exact(id=f"{i}"),
        lambda i: Exact(type="t", id=f"{i}"),
        lambda i: AllOf([Exact(type="t"), Prefix(id=f"{i:05}")]),
        lambda i: AnyOf([Exact(id=f"{i}"), Exact(id=f"x{i}")]),
        lambda i: Suffix(id=f"-{i:05}"),
        lambda i: AllOf([lambda event: True, Exact(id=f"{i}")]),
        lambda i: Sql(f"type = 't' AND id = '{i}'"),
        lambda i: Sql(f"id LIKE '{i:05}%'"),
        lambda i: AnyOf([Sql(f"id IN ('{i}', 'x{i}')"), Exact(id=f"y{i}")]),
    ],
)
def test_cost_follows_what_matches(make: Any) -> None:
    """Among a thousand predicates, a handful of questions finds the few that hold."""
    index: PredicateIndex[int] = PredicateIndex()
    for i in range(1000):
        index.add(make(i), i)
    subject = Counted(type="t", id="nothing like it")
    assert match(index, subject) == []
    assert subject.asked < 10


def test_one_that_raises_holds_for_nobody_and_is_named() -> None:
    """The others are matched all the same."""
    index: PredicateIndex[str] = PredicateIndex()
    index.add(lambda event: 1 / 0, "broken")
    index.add(EVERYTHING, "fine")
    errors: dict[str, Exception] = {}
    assert match(index, Notification(), errors) == ["fine"]
    assert isinstance(errors["broken"], ZeroDivisionError)


def test_a_subclass_of_a_predicate_is_always_asked() -> None:
    """Its meaning can't be told from its attributes."""

    class Anything(Exact):
        def __call__(self, subject: object) -> bool:
            return True

    index: PredicateIndex[str] = PredicateIndex()
    index.add(Anything(type="t"), "a")
    assert match(index, Notification(type="u")) == ["a"]
    (filed,) = index._filed.values()
    index.remove(filed.predicate, "a")
    assert match(index, Notification(type="u")) == []


def test_names_that_no_notification_has_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them filters look at: a notification is asked for its own alone."""
    index: PredicateIndex[int] = PredicateIndex()
    for i in range(1000):
        for kind in (Exact, Prefix, Suffix):
            index.add(kind({f"name{i}": "v"}), i)
    index.add(Suffix(subject="b"), -1)
    asked: list[str] = []
    get = Notification.get

    def counted(self: Notification, name: str) -> str | None:
        asked.append(name)
        return get(self, name)

    monkeypatch.setattr(Notification, "get", counted)
    event = Notification(subject="ab", extensions={"to": "al", "name7": "v"})
    assert sorted(match(index, event)) == [-1, 7, 7, 7]
    assert len(asked) < 10


def test_names_are_all_that_can_be_there() -> None:
    """Each once."""
    event = Notification("x", subject="s", extensions={"to": "al", "n1": 5})
    names = list(event.names())
    assert len(names) == len(set(names))
    assert {name for name in names if event.get(name) is not None} == {
        *("id", "source", "specversion", "type", "subject", "time", "datacontenttype", "to", "n1")
    }


@pytest.mark.parametrize("other", [Exact(subject="s"), lambda event: True])
def test_a_predicate_may_change_what_is_registered(other: Any) -> None:
    """While it is evaluated: it takes itself off, or another one, or registers more."""
    index: PredicateIndex[str] = PredicateIndex()

    def once(event: Notification) -> bool:
        index.remove(once, "once")
        index.add(Exact(source="/hub"), "new")
        index.add(lambda event: True, "newer")
        return True

    def kick(event: Notification) -> bool:
        index.remove(other, "other")
        return True

    index.add(once, "once")
    index.add(kick, "kick")
    index.add(other, "other")
    assert match(index, Notification(subject="s")) == ["kick"]


def test_candidates_are_a_snapshot() -> None:
    """A group that is removed before its turn has no members any more."""
    index: PredicateIndex[str] = PredicateIndex()
    maybe = Sql("subject LIKE 's%s'")
    index.add(Exact(subject="ss"), "exact")
    index.add(maybe, "maybe")
    index.add(maybe, "too")
    index.add(Exact(subject="no"), "no")
    event = Notification(subject="ss")
    found = index.candidates(event)
    assert [(filed.certain, list(index.holding(filed, event, {}))) for filed in found] == [
        (True, ["exact"]),
        (False, ["maybe", "too"]),
    ]
    index.remove(maybe, "maybe")
    index.remove(Exact(subject="ss"), "exact")
    assert [list(index.holding(filed, event, {})) for filed in found] == [[], ["too"]]


@pytest.mark.parametrize("size", [MAX_ANCHOR - 1, MAX_ANCHOR, MAX_ANCHOR + 1, 4000])
def test_long_prefixes_and_suffixes(size: int) -> None:
    """They are filed by a part of them, and then asked."""
    index: PredicateIndex[str] = PredicateIndex()
    text = "a" * (size - 1)
    index.add(Prefix(subject=text + "b"), "Prefix")
    index.add(Suffix(subject="b" + text), "Suffix")
    if size <= MAX_PATTERN // 2:
        index.add(Sql(f"subject LIKE '{text}b%'"), "Prefix")
        index.add(Sql(f"subject LIKE '%b{text}'"), "Suffix")
    assert set(match(index, Notification(subject=text + "b"))) == {"Prefix"}
    assert set(match(index, Notification(subject="b" + text))) == {"Suffix"}
    assert match(index, Notification(subject=text + "c")) == []
    assert match(index, Notification(subject="c" + text)) == []
    assert max(index._shelves[Prefix]["subject"].lengths) <= MAX_ANCHOR
