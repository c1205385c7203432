"""The parts that need no server: expressions and filters against the index and `explain`; URLs."""

from __future__ import annotations

import sys
from random import Random
from typing import Final

from tests.fuzz.filters import NAMES, TEXTS, random_filter, random_sql
from tests.fuzz.mutation import ODD_TEXTS, chance, odd_text, spoil
from tests.matching import match
from trionotify import Notification, Predicate, Sql, to_json
from trionotify.delivery.explain import explain
from trionotify.model.addresses import unix_path, unix_url
from trionotify.model.filters import from_json
from trionotify.model.index import PredicateIndex
from trionotify.settings import FilterLimits

__all__ = ["sql_input", "url_input"]

#: What a filter may cost is a server's to bound: an expression by itself may cost anything.
_LIMITS: Final = FilterLimits(max_filter_cost=sys.maxsize)


def sql_input(random: Random) -> None:
    """Some predicates and notifications; AssertionError where two ways to the answer differ.

    The index finds the clients that the predicates want, `explain` says the same, and so does what is
    read again from the predicate's JSON. Nothing raises, but ValueError for what is no expression.
    """
    tried = [_predicate(random) for _ in range(random.choice((2, 3)))]
    predicates = [predicate for predicate in tried if predicate is not None]
    notifications = [_notification(random) for _ in range(2)]
    index: PredicateIndex[int] = PredicateIndex()
    for member, predicate in enumerate(predicates):
        index.add(predicate, member)
    for notification in notifications:
        wanted = [member for member, predicate in enumerate(predicates) if predicate(notification)]
        found = sorted(match(index, notification))
        assert found == wanted, f"index: {found}, not {wanted}: {predicates} on {notification!r}"
        for member, predicate in enumerate(predicates):
            holds = explain(predicate, notification).holds
            assert holds == (member in wanted), f"explain: {holds}: {predicate} on {notification!r}"
    for member, predicate in enumerate(predicates):
        again = from_json(to_json(predicate), _LIMITS)
        assert again == predicate, f"to_json: {again}, not {predicate}"
        for notification in notifications:
            same = bool(again(notification)) == bool(predicate(notification))
            assert same, f"to_json: another answer: {predicate} on {notification!r}"
        index.remove(predicate, member)
    assert match(index, notifications[0]) == [], "the index isn't empty at the end"


def _predicate(random: Random) -> Predicate | None:
    if chance(random, 20):
        return from_json(random_filter(random), _LIMITS)
    text = random_sql(random)
    if chance(random, 20):
        text = spoil(random, text.encode()).decode(errors="replace")
        try:
            return Sql(text)
        except ValueError:
            return None
    return Sql(text)


def _notification(random: Random) -> Notification:
    """One with attributes of all types, for the texts that the filters ask for."""
    names = [name for name in NAMES if name not in ("datacontenttype", "time") and chance(random, 70)]
    values = {name: _value(random, name) for name in names}
    return Notification.of(random.choice((None, "x", b"x")), **values)


def _value(random: Random, name: str) -> object:
    texts = [text for text in TEXTS if text]
    if name in ("type", "subject", "source", "id", "to") or chance(random, 50):
        return random.choice(texts)
    return random.choice((0, 5, -5, 2**31 - 1, -(2**31), True, False))


def url_input(random: Random) -> None:
    """A path becomes a URL and the same path again; any other text is a path, none, or a ValueError."""
    path = random.choice(("/run/", "", "@", "./")) + odd_text(random).replace("\x00", "") + "x"
    url = unix_url(path)
    assert unix_path(url) == path, f"{path!r} became {url!r}, and that {unix_path(url)!r}"
    assert url.isascii(), url
    odd = (
        random.choice(("unix:", "UNIX:", "unix", "unix://"))
        + random.choice(ODD_TEXTS)
        + odd_text(random)
    )
    try:
        found = unix_path(spoil(random, odd.encode()).decode("latin-1") if chance(random, 50) else odd)
    except ValueError:
        return
    assert found is None or found, "a URL without a path was taken"
