"""`Expression`: parsed once, compiled once, and evaluated for every event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from trionotify.cesql import conditions, costs, functions
from trionotify.cesql.cache import Cache
from trionotify.cesql.closures import compiled
from trionotify.cesql.conditions import Condition
from trionotify.cesql.grammar import tree_of
from trionotify.cesql.mistakes import ParseError
from trionotify.cesql.operators import as_condition
from trionotify.cesql.tree import Call, Node
from trionotify.cesql.values import Error, Errors, Evaluator, Get, Result, Value

__all__ = ["Expression", "Part", "evaluate", "parse"]


@attrs.frozen
class Part:
    """One of the parts that an expression ANDs, with its own result."""

    source: str
    value: Value
    errors: tuple[Error, ...]

    @property
    def held(self) -> bool:
        """Whether this part lets the event pass."""
        return self.value is True and not self.errors


@attrs.frozen(repr=False)
class Expression:
    """A CESQL expression, made by `parse`. It is immutable, and equal to others of the same text.

    Its methods take `get`, which is called with the lower-case name of an attribute and returns its
    value, or None. They only raise what `get` raises, and what `str` raises for an attribute whose type
    isn't one of CloudEvents.
    """

    source: str
    _tree: Node = attrs.field(eq=False)
    _run: Evaluator = attrs.field(eq=False, init=False)

    @_run.default
    def _compiled(self) -> Evaluator:
        return compiled(self._tree)

    def evaluate(self, get: Get) -> Result:
        """Return the value and all errors."""
        return _result(self._run, get)

    def holds(self, get: Get) -> bool:
        """Return whether the event passes this filter: the value is True, and there is no error."""
        errors: Errors = []
        return self._run(get, errors) is True and not errors

    def explain(self, get: Get) -> tuple[Part, ...]:
        """Return the result of each part that is ANDed at the top. `holds` means that each of them held.

        All parts are evaluated, also those behind a false one, where `evaluate` stops.
        """
        parts = list(conditions.conjuncts_of(self._tree))
        found = []
        for part in parts:
            run = compiled(part)
            result = _result(as_condition(run) if len(parts) > 1 else run, get)
            found.append(Part(self.source[part.start : part.end], result.value, result.errors))
        return tuple(found)

    def conditions(self) -> list[Condition]:
        """Conditions that must all hold for this to hold. Often none is known. See `Condition`."""
        return conditions.conditions_of(self._tree)

    @property
    def is_one_condition(self) -> bool:
        """Whether `conditions` is a single condition that is equivalent to the expression."""
        return conditions.is_one_condition(self._tree)

    def faults(self) -> tuple[Error, ...]:
        """The errors that are known without an event, which are calls of unknown functions.

        They don't raise ParseError, because a part that is never reached does no harm (section 3.5).
        If you take expressions from people, show them these.
        """
        return tuple(_faults(self._tree))

    def time(self, attribute: int) -> int:
        """Return the nanoseconds of `holds` in the worst case, with attributes of this length."""
        return costs.time_of(self._tree, attribute)

    @property
    def weight(self) -> int:
        """The bytes of memory that it takes."""
        return costs.weight_of(self._tree) + 4 * len(self.source)

    def __repr__(self) -> str:
        return f"parse({self.source!r})"


def parse(expression: str) -> Expression:
    """Parse an expression. Raises ParseError if it is invalid. The most recent ones are cached.

    The first call in a process takes some 40 ms, for the parser's tables; others 15 us for each word.
    """
    return _parsed(expression)


def _parse(text: str) -> Expression:
    return Expression(text, tree_of(text))


#: The most bytes of all cached expressions. This is enough for some thousand short ones, or a few
#: of the longest.
MAX_REMEMBERED: Final = 4 << 20

_parsed: Final = Cache(_parse, lambda _, expression: expression.weight, MAX_REMEMBERED)


def evaluate(expression: str, event: Mapping[str, object]) -> Result:
    """Parse an expression and evaluate it for an `event`, a mapping of names to values.

    An invalid text has the value False and one error, of kind parse.
    """
    try:
        return parse(expression).evaluate(event.get)
    except ParseError as error:
        return Result(False, (Error("parse", str(error)),))


def _result(run: Evaluator, get: Get) -> Result:
    errors: Errors = []
    value = run(get, errors)
    # The type of a lone missing attribute is unknown. Section 3.2 makes it a Boolean.
    return Result(False if value is None else value, tuple(dict.fromkeys(errors)))


def _faults(node: Node) -> Iterator[Error]:
    if isinstance(node, Call) and functions.find(node.name, len(node.operands)) is None:
        yield functions.missing(node.name, len(node.operands))
    for operand in node.operands:
        yield from _faults(operand)
