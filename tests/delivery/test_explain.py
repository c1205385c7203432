"""Explanations agree with decisions, and name what was at fault."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given

from tests.model.test_index import events, predicates
from trionotify import (
    EVERYTHING,
    AllOf,
    AnyOf,
    Client,
    Exact,
    Explanation,
    Not,
    Notification,
    Prefix,
    Sql,
    open_hub,
)
from trionotify.delivery.explain import explain


@given(predicates, events)
def test_it_comes_to_what_was_decided(predicate: Any, event: Notification) -> None:
    """Whatever the predicate is built of."""
    assert bool(explain(predicate, event)) == bool(predicate(event))


def test_each_condition_says_what_it_found() -> None:
    """As a tree, a line for each."""
    event = Notification(type="order.created", subject="s", extensions={"n": 5})
    predicate = AllOf(
        [
            Prefix(type="order."),
            Not(Exact(subject="s", missing="x")),
            Sql("n > 3 AND subject = 't' AND x = 1"),
            Sql("n > 'a'"),
            EVERYTHING,
        ]
    )
    assert str(explain(predicate, event)).splitlines() == [
        "no  all of",
        "    yes type begins with 'order.': it is 'order.created'",
        "    yes not",
        "        no  all of",
        "            no  missing equals 'x': there is no missing",
        "            yes subject equals 's': it is 's'",
        "    no  sql, all of",
        "        yes n > 3: it is True",
        "        no  subject = 't': it is False",
        "        no  x = 1: the event has no attribute x",
        "    no  sql n > 'a': 'a' is not a 32-bit integer",
        "    yes everything",
    ]


def test_a_predicate_comes_first() -> None:
    """What is no predicate is refused."""
    with pytest.raises(TypeError, match="predicate"):
        explain(Notification(), Exact(type="a"))  # type: ignore[arg-type] # that is the mistake


def test_a_callable_that_raises_says_no() -> None:
    """And what it raised."""
    shown = explain(lambda event: 1 / 0, Notification())
    assert not shown
    assert "ZeroDivisionError" in shown.why


async def test_the_hub_explains_a_delivery(autojump_clock: Any) -> None:
    """The client's own filter, `to`, and the audience: all of them count."""
    async with open_hub() as hub:
        client = Client("al", {"team": "ops"})
        client.subscribe(Exact(type="t"))
        event = Notification.of("x", type="t", to="bo", audience=Exact(team="dev"))
        shown = hub.explain(event, client)
        assert isinstance(shown, Explanation)
        assert str(shown).splitlines() == [
            "no  client 'al' gets 't'",
            "    yes its filter",
            "        yes type equals 't': it is 't'",
            "    no  it is for 'bo': the client is 'al'",
            "    no  its audience",
            "        no  team equals 'dev': it is 'ops'",
        ]
        assert hub.explain(Notification(type="t"), client)


def test_long_values_are_cut() -> None:
    """An explanation is for people."""
    event = Notification(subject="s" * 4000)
    for predicate in (Exact(subject="x"), Sql("subject = 'x' AND LENGTH(subject)")):
        assert len(str(explain(predicate, event))) < 400


async def test_what_has_no_explanation(autojump_clock: trio.testing.MockClock) -> None:
    """The error names the argument that is of another type."""
    client, notification = Client("al"), Notification("x")
    async with open_hub() as hub:
        with pytest.raises(TypeError, match=r"^notification: must be a Notification, not str$"):
            hub.explain("x", client)  # type: ignore[arg-type] # that is the mistake
        with pytest.raises(TypeError, match=r"^client: must be a Client, not str$"):
            hub.explain(notification, "al")  # type: ignore[arg-type] # that is the mistake
    with pytest.raises(TypeError, match=r"^subject: must be a Notification or a Client, not str$"):
        explain(Exact(type="t"), "x")  # type: ignore[arg-type] # that is the mistake


def fails(subject: object) -> bool:
    raise LookupError("of the application")


def holds(subject: object) -> bool:
    return True


@pytest.mark.parametrize(
    "predicate",
    [
        Not(fails),
        Not(AllOf([fails, holds])),
        Not(AnyOf([fails, holds])),
        AnyOf([Not(fails), holds]),
        AnyOf([Exact(type="other"), Not(fails)]),
        AllOf([holds, Not(fails)]),
        Not(AllOf([holds, Not(Not(fails))])),
    ],
)
def test_a_callable_that_raises_inside(predicate: Any) -> None:
    """The predicate raises, so it doesn't hold, and each part around the callable says why."""
    event = Notification(type="t")
    with pytest.raises(LookupError):
        predicate(event)
    shown = explain(predicate, event)
    assert not shown
    assert shown.why == "a part of it raised an error, so it doesn't hold"
    assert "it raised LookupError('of the application')" in str(shown)


@pytest.mark.parametrize(
    "predicate",
    [
        AnyOf([holds, fails]),
        AnyOf([Exact(type="t"), Not(fails)]),
        AllOf([Exact(type="other"), fails]),
        Not(AllOf([Not(holds), fails])),
    ],
)
def test_a_callable_that_raises_too_late(predicate: Any) -> None:
    """It isn't called, because a part before it has decided."""
    event = Notification(type="t")
    shown = explain(predicate, event)
    assert bool(shown) is predicate(event)
    assert not shown.why
    assert "it raised LookupError('of the application')" in str(shown)


async def test_an_audience_that_raises_is_for_nobody(autojump_clock: Any) -> None:
    """Also if it is a part of another one."""
    async with open_hub() as hub:
        client = Client("al", {"team": "ops"})
        event = Notification.of("x", type="t", audience=~Exact(team="dev") & Not(fails))
        assert not hub.explain(event, client)


def test_a_subclass_decides_for_itself() -> None:
    """It is a callable like any other, and may differ from the class that it comes from."""

    class Either(AllOf):
        def __call__(self, subject: Any) -> bool:
            return any(part(subject) for part in self.parts)

    class Contains(Exact):
        def __call__(self, subject: Any) -> bool:
            return all(value in (subject.get(name) or "") for name, value in self.attributes)

    predicate = Either([Contains(type="rd"), Exact(type="other")])
    event = Notification(type="order")
    assert predicate(event)
    assert explain(predicate, event)
    assert explain(Contains(type="rd"), event)


def test_a_callable_without_words() -> None:
    """Its `repr` may raise, too."""

    class Wordless:
        def __call__(self, subject: Any) -> bool:
            return True

        def __repr__(self) -> str:
            raise RuntimeError

    assert str(explain(Wordless(), Notification())) == "yes the callable <Wordless>"
