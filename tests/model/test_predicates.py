"""Predicates: what they decide, that they are values, and their JSON."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from functools import partial, reduce
from operator import and_, or_
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trionotify import (
    EVERYTHING,
    NOTHING,
    AllOf,
    AnyOf,
    Client,
    Exact,
    Not,
    Notification,
    Prefix,
    Sql,
    Suffix,
    from_json,
    to_json,
)
from trionotify.model.filters import check_filter
from trionotify.model.predicates import Predicate, is_value, key_of
from trionotify.settings import FilterLimits

EVENT = Notification("x", type="com.example.created", source="/a/b", subject="s", extensions={"n": 1})


@pytest.mark.parametrize(
    ("predicate", "holds"),
    [
        (Exact(type="com.example.created"), True),
        (Exact(type="com.example.created", subject="s"), True),
        (Exact(type="com.example.created", subject="t"), False),
        (Exact(type="COM.example.created"), False),
        (Exact(n="1"), True),
        (Exact(missing="x"), False),
        (Exact({"type": "com.example.created"}), True),
        (Prefix(type="com.", source="/a"), True),
        (Prefix(type="com.", source="/b"), False),
        (Prefix(missing="x"), False),
        (Suffix(type=".created"), True),
        (Suffix(type=".deleted"), False),
        (Suffix(missing="x"), False),
        (AllOf([Exact(subject="s"), Prefix(type="com.")]), True),
        (AllOf([Exact(subject="s"), Prefix(type="org.")]), False),
        (AnyOf([Exact(subject="t"), Prefix(type="com.")]), True),
        (AnyOf([Exact(subject="t"), Prefix(type="org.")]), False),
        (Not(Exact(subject="t")), True),
        (Not(Exact(missing="t")), True),
        (EVERYTHING, True),
        (NOTHING, False),
        (Exact(subject="s") & (lambda event: event.data == "x"), True),
        ((lambda event: event.data == "y") & Exact(subject="s"), False),
        (Exact(subject="t") | (lambda event: True), True),
        ((lambda event: False) | Exact(subject="s"), True),
        (~Exact(subject="s"), False),
    ],
)
def test_decisions(predicate: Any, holds: bool) -> None:
    """As the CloudEvents Subscriptions API defines its dialects."""
    assert predicate(EVENT) is holds


def test_they_look_at_clients_too() -> None:
    """Under the names of the client's query; `id` and `role` are always there."""
    client = Client("alice", {"team": "ops"})
    assert Exact(id="alice", team="ops", role="subscriber")(client)
    assert not Exact(team="dev")(client)


def test_they_are_values() -> None:
    """Equal when they say the same, whatever the order and the nesting; hashable; immutable."""
    assert Exact(type="a", subject="b") == Exact(subject="b", type="a")
    assert hash(AllOf([Exact(type="a")])) == hash(AllOf([Exact(type="a")]))
    assert Exact(type="a") != Prefix(type="a")
    a, b = Exact(type="a"), Prefix(subject="b")
    assert AnyOf([a, b]) != AllOf([a, b])
    assert AnyOf([a]) == AllOf([a]) == a
    assert AllOf([a, AllOf([b, a])]) == AllOf([b, a])
    assert Exact(type="a", subject="c") == AllOf([Exact(subject="c"), a])
    assert AnyOf([a, NOTHING]) == a == Not(Not(a))
    assert AllOf([a, NOTHING]) == NOTHING == Not(EVERYTHING) != AllOf([a, EVERYTHING])
    assert Sql("type = 'a'") == Sql("type = 'a'") != Sql("type='a'")
    assert hash(AllOf([a, b])) == hash(AllOf([b, a, b]))
    assert len({~Exact(type="a"), Not(Exact(type="a"))}) == 1
    with pytest.raises(AttributeError):
        Exact(type="a").attributes = ()  # type: ignore[misc] # a mistake on purpose


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (Exact, ValueError, "Exact: needs at least one attribute"),
        (
            lambda: Exact("x"),
            TypeError,
            r"^Exact: must be given attributes, such as Exact\(type='order\.paid'\), not 'x'$",
        ),
        (lambda: Prefix(7), TypeError, "^Prefix: must be given attributes, such as Prefix"),
        (lambda: Suffix(["type", "x"]), TypeError, "^Suffix: must be given attributes"),
        (lambda: Exact(type=""), ValueError, "type: must not be empty"),
        (lambda: Exact(type=5), TypeError, "type: must be str, not int"),
        (lambda: Exact(type="\ud800"), ValueError, r"type: must not contain the character '\\ud800'"),
        (lambda: Sql("'\ud800'"), ValueError, r"sql: must not contain the character '\\ud800'"),
        (
            lambda: Prefix({"": "x"}),
            ValueError,
            "attribute name '': must consist of printable characters",
        ),
        (
            lambda: Suffix({"a\n": "x"}),
            ValueError,
            r"attribute name 'a\\n': must consist of printable characters",
        ),
        (lambda: Exact({5: "x"}), TypeError, "name: must be str, not int"),
        (lambda: AllOf([]), ValueError, "at least one"),
        (lambda: AnyOf([]), ValueError, "at least one"),
        (
            lambda: AllOf(Exact(a="b")),
            TypeError,
            r"^predicates: must be in a list, such as \[Exact\(a='b'\)\]$",
        ),
        (lambda: AllOf(["type"]), TypeError, "'type' is not a predicate or a callable"),
        (lambda: Not("type"), TypeError, "'type' is not a predicate or a callable"),
        (lambda: Exact(type="a") & "b", TypeError, "unsupported operand"),
    ],
)
def test_bad_ones_are_refused(make: Any, error: type[Exception], words: str) -> None:
    """At construction, with the attribute's name."""
    with pytest.raises(error, match=words):
        make()


pairs = st.dictionaries(
    st.sampled_from(["type", "subject", "n1"]), st.text("ab", min_size=1), min_size=1
)
leaves = st.one_of(*(pairs.map(kind) for kind in (Exact, Prefix, Suffix)))
predicates = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(AllOf),
        st.lists(inner, min_size=1, max_size=3).map(AnyOf),
        inner.map(Not),
    ),
    max_leaves=8,
)


ONE_LIKE = "subject LIKE '%a_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{}%'"


@pytest.mark.parametrize(
    "value",
    [
        {"sql": " OR ".join(ONE_LIKE.format(number) for number in range(10))},
        [{"sql": ONE_LIKE.format(number)} for number in range(10)],
        {"any": [{"not": {"sql": ONE_LIKE.format(number)}} for number in range(10)]},
        {"sql": f"{'LOWER(' * 20}subject{')' * 20} = 'a'"},
        {"sql": f"UPPER(CONCAT({','.join(['subject'] * 16)})) = 'A'"},
        {"sql": f"1 IN ({','.join(['subject'] * 250)})"},
    ],
)
@pytest.mark.parametrize("audience", [False, True])
def test_cost_has_a_limit(value: Any, audience: bool) -> None:
    """From outside comes nothing that takes long to evaluate; an application's own may."""
    with pytest.raises(
        ValueError, match="max_filter_cost: filters may take at most 1500 microseconds to evaluate"
    ) as caught:
        from_json(value, audience=audience)
    assert len(str(caught.value)) < 300
    from_json(value, FilterLimits(max_filter_cost=1_000_000))
    if "sql" in value:
        Sql(value["sql"])


@pytest.mark.parametrize(
    "value",
    [
        {"sql": " OR ".join(f"subject LIKE '%_{number}'" for number in range(100))},
        {"sql": " OR ".join(f"subject LIKE 'order.{number}.%.done'" for number in range(100))},
        {"sql": f"subject IN ({','.join(repr(str(number)) for number in range(250))})"},
        {"sql": " OR ".join(f"type = '{number}'" for number in range(127))},
        {"any": [{"not": {"exact": {"type": str(number)}}} for number in range(127)]},
        {"any": [{"suffix": {f"attribute{number}": "x"}} for number in range(250)]},
        {"sql": f"subject LIKE '%{'_a' * 40}%'"},
        {"sql": f"subject LIKE '%{'_a' * 500}%'"},
        {"sql": "LOWER(subject) = 'a' OR UPPER(TRIM(type)) = 'B'"},
    ],
)
def test_what_people_write_is_within_the_cost(value: Any) -> None:
    """Hundreds of conditions, and any single pattern."""
    assert isinstance(from_json(value), Predicate)


def test_and_or_and_not_are_refused() -> None:
    """`a and b` would be `b` alone, so an audience would be wider than it looks."""
    for write in (
        lambda: Exact(team="a") and Exact(id="b"),
        lambda: Prefix(type="a") or NOTHING,
        lambda: not Sql("TRUE"),
        lambda: EVERYTHING and 1,
    ):
        with pytest.raises(TypeError, match=r"write &, \| and ~ for and, or and not"):
            write()


@given(predicates)
def test_json_there_and_back(predicate: Any) -> None:
    """The JSON of a predicate is read back as an equal value."""
    text = json.dumps(to_json(predicate))
    assert from_json(text) == from_json(json.loads(text)) == predicate
    assert predicate.to_json() == to_json(predicate)
    assert is_value(predicate)


def test_a_list_is_an_implicit_all() -> None:
    """An empty one wants everything."""
    one, two = {"exact": {"type": "a"}}, {"suffix": {"subject": "b"}}
    assert from_json([one]) == Exact(type="a")
    assert from_json([one, two]) == AllOf([Exact(type="a"), Suffix(subject="b")])
    assert from_json([]) is EVERYTHING
    assert to_json(EVERYTHING) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[", "not valid JSON: "),
        ("[" * 5_000, "nested too deep"),
        ("[" * 100_000, "max_filter_bytes: filters may have at most 8192"),
        ('"\\ud800"', "not valid JSON: "),
        ("[NaN]", "not valid JSON: "),
        ({"sql": "type ="}, "filter.sql: line 1, column 7"),
        ({"sql": 5}, r"filter\.sql: sql: must be str"),
        ({"x" * 5000: {}}, "filter.x{100}…: unknown dialect"),
        ({"exact": {"x" * 5000: "a"}}, "must have at most 64 characters, not 5000"),
        ({"sql": "x" * 9_000}, "max_filter_bytes: filters may have at most 8192"),
        ({"any": [{"exact": {"type": "a"}}] * 300}, "max_filters: at most 256"),
        ({"exact": {f"a{i}": "a" for i in range(300)}}, "max_filters: at most 256"),
        (
            [5],
            (
                r"filters\[0\]: must be an object with one key, the name of a dialect"
                r" \(exact, prefix, suffix, all, any, not, sql\)"
            ),
        ),
        ({"exact": {"type": "a"}, "prefix": {"type": "a"}}, "one key"),
        ({}, "one key"),
        ({"exact": {}}, r"filter\.exact: Exact: needs at least one attribute"),
        ({"exact": {"type": ""}}, "filter.exact: type: must not be empty"),
        (
            {"exact": {"": "a"}},
            r"filter\.exact: attribute name '': must consist of printable characters",
        ),
        (
            {"exact": {"Type": "a"}},
            (
                r"filter\.exact: attribute name 'Type': must consist of lower-case letters"
                r" a to z and digits"
            ),
        ),
        (
            {"not": {"suffix": {"user_id": "a"}}},
            (
                r"filter\.not\.suffix: attribute name 'user_id': must consist of lower-case"
                r" letters a to z and digits"
            ),
        ),
        (
            {"exact": {"data": "a"}},
            (
                r"filter\.exact: attribute name 'data': must be another one, because data"
                r" is not an attribute"
            ),
        ),
        ({"exact": {"type": 5}}, r"filter\.exact: type: must be str"),
        ({"exact": ["type"]}, r"filter\.exact: must be an object that maps attribute names to strings"),
        ({"all": []}, r"filter\.all: must be an array of at least one filter"),
        ({"any": {}}, r"filter\.any: must be an array of at least one filter"),
        (
            [{"any": [{"exact": {"type": "a"}}, {"like": {}}]}],
            r"filters\[0\].any\[1\].like: unknown dialect",
        ),
        (
            {"not": []},
            (
                r"filter\.not: must be an object with one key, the name of a dialect"
                r" \(exact, prefix, suffix, all, any, not, sql\)"
            ),
        ),
    ],
)
def test_bad_json_is_refused_where_it_is(value: Any, words: str) -> None:
    """As the specification demands; an unknown dialect above all."""
    with pytest.raises(ValueError, match=words) as caught:
        from_json(value)
    assert len(str(caught.value)) < 300


def test_a_filter_names_attributes_an_audience_parameters() -> None:
    """A name that no attribute can have is refused wherever a filter is registered."""
    for bad in (Exact(userId="a"), Exact(type="a") & ~Prefix({"user-id": "a"})):
        with pytest.raises(
            ValueError,
            match=r"attribute name 'user.*': must consist of lower-case letters a to z and digits",
        ):
            check_filter(bad)
        with pytest.raises(
            ValueError,
            match=r"attribute name 'user.*': must consist of lower-case letters a to z and digits",
        ):
            Client("a").subscribe(bad)
        assert from_json(to_json(bad), audience=True) == bad
    check_filter(Exact(type="a") | bool)


def test_what_has_no_json() -> None:
    """A callable says what to use instead."""
    with pytest.raises(TypeError, match="use Exact, Prefix"):
        to_json(Exact(type="a") & len)
    with pytest.raises(ValueError, match="NOTHING can't be a part of a JSON filter"):
        to_json(NOTHING)
    assert not is_value(~(Exact(type="a") | len))


class Odd:
    """A callable whose hash and equality can't be relied on."""

    def __init__(self) -> None:
        self.value = 1

    def __call__(self, subject: object) -> bool:
        return True

    def __hash__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        raise ValueError("don't ask")


def test_keys() -> None:
    """Built-in predicates count by value, whatever is inside; other callables by identity."""
    odd = Odd()
    before = key_of(AllOf([odd, Exact(type="t")]))
    odd.value = 2
    assert key_of(AllOf([odd, Exact(type="t")])) == before
    assert key_of(AllOf([Odd(), Exact(type="t")])) != before
    assert key_of(~Exact(type="t")) == key_of(Not(Exact(type="t")))
    assert key_of(odd.__call__) == key_of(odd.__call__)


def test_a_subclass_is_a_callable_like_any_other() -> None:
    """It may decide as it likes."""

    class Moody(Exact):
        pass

    assert not is_value(Moody(type="t"))
    assert not is_value(~Moody(type="t"))
    assert is_value(~Exact(type="t") & Prefix(type="t"))


def test_nesting_has_a_limit() -> None:
    """Evaluating and comparing go down the whole depth."""
    value: Any = {"exact": {"type": "t"}}
    for _ in range(31):
        value = {"not": value}
    from_json(value)
    with pytest.raises(
        ValueError, match="max_filter_depth: filters may be nested at most 32 levels deep"
    ):
        from_json({"not": value})
    with pytest.raises(
        ValueError, match="max_filter_bytes: filters may have at most 8192 bytes, not 100000"
    ):
        from_json("[" * 100_000)


def test_what_was_read_can_be_read_again() -> None:
    """Also at the limits: the outermost `all` is the list, and counts as that."""
    deepest: Any = {"exact": {"type": "t"}}
    for _ in range(31):
        deepest = {"not": deepest}
    for filters in ([deepest, deepest], [{"exact": {"type": str(number)}} for number in range(256)]):
        read = from_json(filters)
        assert from_json(to_json(read)) == from_json([to_json(read)]) == read
    with pytest.raises(
        ValueError, match="max_filter_depth: filters may be nested at most 32 levels deep"
    ):
        from_json([deepest, {"all": [deepest]}])


async def _waits(subject: object) -> bool:
    return False


def _yields(subject: object) -> Iterator[bool]:
    yield False


class _Waits:
    async def __call__(self, subject: object) -> bool:
        return False


class _WaitsToo(Predicate):
    async def __call__(self, subject: object) -> bool:  # type: ignore[override] # that is the mistake
        return False


@pytest.mark.parametrize(
    "function",
    [
        *(_waits, _yields, _Waits(), _Waits().__call__, _WaitsToo()),
        *(partial(_waits), partial(_Waits()), partial(_Waits().__call__), partial(partial(_waits))),
        *(AsyncMock(), AsyncMock(spec=_waits), MagicMock(spec=_waits), partial(AsyncMock())),
    ],
    ids=lambda function: type(function).__name__,
)
def test_what_would_always_be_true(function: Any) -> None:
    """Nothing awaits a result, so an async function would let everything pass."""
    words = "must be a plain function, but .* is async or has a yield"
    for make in (Not, check_filter, lambda part: Exact(a="b") & part, lambda part: AnyOf([part])):
        with pytest.raises(TypeError, match=f"predicate: {words}"):
            make(function)
    with pytest.raises(TypeError, match=f"audience: {words}"):
        Notification("x", audience=function)


@pytest.mark.parametrize("function", [partial(bool), bool, {}.get, Mock(), MagicMock(spec=_yields)])
def test_what_has_a_result(function: Any) -> None:
    """Any other callable is taken, also one that imitates a function."""
    check_filter(function)
    assert Notification("x", audience=function).audience is function


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_of_predicates(again: Callable[[Predicate], Predicate]) -> None:
    """They mean the same, also in JSON."""
    assert again(EVERYTHING) is EVERYTHING
    assert again(NOTHING) is NOTHING
    predicate = Exact(a="b") & ~Sql("EXISTS c") | Prefix(a="d")
    assert again(predicate) == predicate
    assert to_json(again(predicate)) == to_json(predicate)


def test_a_chain_of_operators_is_flat() -> None:
    """However long it is; also in JSON, where nesting is limited."""
    subjects = [Exact(subject=f"{number}") for number in range(3_000)]
    either, both = reduce(or_, subjects), reduce(and_, subjects)
    assert either == AnyOf(subjects)
    assert both == AllOf(subjects)
    assert to_json(either) == {"any": [{"exact": {"subject": f"{number}"}} for number in range(3_000)]}
    assert subjects[0] | (subjects[1] | subjects[2]) == AnyOf(subjects[:3])
    assert (len | either).parts == (len, *subjects)  # type: ignore[operator] # a callable of anything
    mixed = subjects[0] & subjects[1] | subjects[2] & subjects[3]
    assert [type(part) for part in mixed.parts] == [AllOf, AllOf]
    for predicate in (either, both):
        check_filter(predicate)
        assert predicate(Notification("x", subject="2999")) is (predicate is either)


@pytest.mark.parametrize(
    "wrap", [Not, lambda part: AllOf([part]), lambda part: AnyOf([Exact(a="b"), part])]
)
def test_how_deep_predicates_may_be(wrap: Callable[[Predicate], Predicate]) -> None:
    """Evaluating one must not exhaust the stack, wherever it is evaluated."""
    predicate: Predicate = Exact(a="b")
    for _ in range(127):
        predicate = wrap(predicate)
    check_filter(predicate)
    assert Notification("x", audience=predicate).audience is predicate
    for more in (1, 10_000):
        for _ in range(more):
            predicate = wrap(predicate)
        with pytest.raises(
            ValueError, match=r"^predicate: must be nested at most 128 levels deep; give"
        ):
            check_filter(predicate)
        with pytest.raises(ValueError, match=r"^audience: must be nested at most 128 levels deep; give"):
            Notification("x", audience=predicate)
