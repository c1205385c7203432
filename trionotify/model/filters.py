"""Filters in JSON from untrusted clients: parsed within limits, with their names checked.

The form is that of the CloudEvents Subscriptions API (section 3.2.4, "filters"). A publisher's audience
has the same one, but names parameters of a query, and not attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from trionotify.errors import cut, did_you_mean, hint_of
from trionotify.model.attributes import check_attribute_name
from trionotify.model.costs import time_of
from trionotify.model.jsontext import read_json
from trionotify.model.predicates import (
    EVERYTHING,
    LEAVES,
    AllOf,
    AnyOf,
    Exact,
    Not,
    OnAttributes,
    Predicate,
    Prefix,
    Sql,
    Suffix,
    Wanted,
    check_callable,
    check_plain,
)
from trionotify.settings import FilterLimits

__all__ = [
    "AUDIENCE",
    "DEFAULT_LIMITS",
    "ON_ATTRIBUTES",
    "SLOW",
    "check_audience",
    "check_filter",
    "from_json",
]

#: Examples of filters for messages, of an audience and of a subscriber.
AUDIENCE: Final = '[{"exact":{"team":"ops"}}]'
_FILTERS: Final = '[{"exact":{"type":"order.paid"}}]'

#: The dialects that are conditions on attributes, by their names.
ON_ATTRIBUTES: Final[dict[str, type[Exact] | type[Prefix] | type[Suffix]]] = {
    "exact": Exact,
    "prefix": Prefix,
    "suffix": Suffix,
}
_OF_PARTS: Final[dict[str, type[AllOf | AnyOf]]] = {"all": AllOf, "any": AnyOf}
_NAMES: Final = (*ON_ATTRIBUTES, *_OF_PARTS, "not", "sql")
_DIALECTS: Final = ", ".join(_NAMES)

#: Filters of up to this many characters are parsed within a turn. Longer ones are parsed one at a time
#: (`turns`).
SLOW: Final = 160


DEFAULT_LIMITS: Final = FilterLimits()
#: The most levels of an application's predicate. JSON may have nearly as many (`max_filter_depth`).
MAX_DEPTH: Final = 128


def check_filter(predicate: Wanted) -> None:
    """Raise TypeError for an invalid predicate.

    Raise ValueError for one that is nested too deep, and for a name that no attribute can have, so that
    it would never hold. An audience may have such a name, because an application chooses the keys of a
    query as it likes.
    """
    check_callable(predicate)
    _check_depth("predicate", predicate)
    _check_names(predicate)


def _check_names(predicate: Wanted) -> None:
    match predicate:
        case OnAttributes():
            for name, _ in predicate.attributes:
                check_attribute_name(name)
    for part in _parts_of(predicate):
        _check_names(part)


def check_audience(audience: object) -> None:
    """Raise TypeError if `audience` can't be one, and ValueError if it is nested too deep."""
    if not callable(audience):
        raise TypeError(
            "audience: must be a predicate or a callable of the Client, not"
            f" {type(audience).__name__}{hint_of(audience, audience=True)}"
        )
    check_plain(audience, "audience")
    _check_depth("audience", audience)


def _check_depth(name: str, predicate: Wanted) -> None:
    """Raise ValueError if evaluating this predicate could exhaust the stack."""
    level, depth = [predicate], 1
    while level := [each for each in level if type(each) not in LEAVES]:
        level = [part for each in level for part in _parts_of(each)]
        depth += bool(level)
        if depth > MAX_DEPTH:
            raise ValueError(
                f"{name}: must be nested at most {MAX_DEPTH} levels deep; give AllOf or AnyOf all parts"
                " in one list"
            )


def _parts_of(predicate: Wanted) -> tuple[Wanted, ...]:
    match predicate:
        case AllOf() | AnyOf():
            return predicate.parts
        case Not():
            return (predicate.part,)
    return ()


def from_json(
    value: object, limits: FilterLimits = DEFAULT_LIMITS, *, audience: bool = False
) -> Predicate:
    """Read a predicate from the JSON of the CloudEvents Subscriptions API.

    `value` is one filter (a mapping with the name of its dialect as the only key), or a list of filters,
    which must all hold. An empty list wants everything. `value` may also be such JSON as text. The names
    in it are those of attributes, or with `audience`, of a query's parameters. (SQL reads names in lower
    case, and accepts letters and digits only.)

    A list counts as the `all` that it means. As the outermost filter, neither counts towards `limits` as
    a level or a filter. Raises ValueError that names the fault and its place, or the exceeded limit.
    """
    if isinstance(value, str | bytes):
        size = len(value.encode(errors="replace") if isinstance(value, str) else value)
        if size > limits.max_filter_bytes:
            raise ValueError(
                f"max_filter_bytes: filters may have at most {limits.max_filter_bytes} bytes, not {size}"
            )
        try:
            value = read_json(value)
        except ValueError as error:
            example = AUDIENCE if audience else _FILTERS
            raise ValueError(f"{error}; write, for example, {example}") from None
    made = _Reader(limits, audience).read(value)
    if (cost := time_of(made)) > limits.max_filter_cost:
        raise ValueError(
            f"max_filter_cost: filters may take at most {limits.max_filter_cost} microseconds to"
            f" evaluate, not {cost}; use fewer or shorter LIKE patterns, or fewer functions"
        )
    return made


class _Reader:
    """Parses one JSON value, and counts the filters in it."""

    def __init__(self, limits: FilterLimits, audience: bool) -> None:
        self._limits = limits
        self._audience = audience
        self._count = 0

    def read(self, value: object) -> Predicate:
        if not isinstance(value, list):
            return self._outermost(value, "filter")
        if not value:
            return EVERYTHING
        if len(value) == 1:
            return self._outermost(value[0], "filters[0]")
        return AllOf(self._filters(value, "filters", 1))

    def _outermost(self, value: object, where: str) -> Predicate:
        match value:
            case {"all": [_, *_] as parts, **others} if not others:
                return AllOf(self._filters(parts, f"{where}.all", 1))
        return self._filter(value, where, 1)

    def _filters(self, values: list[object], where: str, depth: int) -> list[Predicate]:
        return [self._filter(item, f"{where}[{at}]", depth) for at, item in enumerate(values)]

    def _filter(self, value: object, where: str, depth: int) -> Predicate:
        limits = self._limits
        if depth > limits.max_filter_depth:
            raise ValueError(
                f"max_filter_depth: filters may be nested at most {limits.max_filter_depth} levels deep"
            )
        self._add(1)
        if not isinstance(value, Mapping) or len(value) != 1:
            raise ValueError(
                f"{where}: must be an object with one key, the name of a dialect ({_DIALECTS})"
            )
        ((dialect, content),) = value.items()
        where = f"{where}.{cut(str(dialect))}"
        if make := ON_ATTRIBUTES.get(dialect):
            if not isinstance(content, Mapping):
                raise ValueError(f"{where}: must be an object that maps attribute names to strings")
            self._add(len(content) - 1)  # each attribute is a condition like any other
            return self._made(make, content, where)
        if combine := _OF_PARTS.get(dialect):
            if not isinstance(content, list) or not content:
                raise ValueError(f"{where}: must be an array of at least one filter")
            return combine(self._filters(content, where, depth + 1))
        if dialect == "not":
            return Not(self._filter(content, where, depth + 1))
        if dialect == "sql":
            if (
                isinstance(content, str)
                and len(content.encode(errors="replace")) > limits.max_filter_bytes
            ):
                raise ValueError(
                    f"max_filter_bytes: filters may have at most {limits.max_filter_bytes} bytes"
                )
            return self._made(Sql, content, where)
        meant = did_you_mean(cut(str(dialect)), _NAMES) or f"; the dialects are {_DIALECTS}"
        raise ValueError(f"{where}: unknown dialect{meant}")

    def _add(self, count: int) -> None:
        self._count += count
        if self._count > self._limits.max_filters:
            raise ValueError(
                f"max_filters: at most {self._limits.max_filters} filters are allowed, including nested"
                " ones"
            )

    def _made(self, make: Callable[[Any], Predicate], content: object, where: str) -> Predicate:
        try:
            made = make(content)
            if not self._audience:
                check_filter(made)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None
        return made
