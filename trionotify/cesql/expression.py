"""`Expression`, which ties the rest together: parsed once, compiled once, asked for every event."""

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
    """One of the parts that an expression ANDs, and what it gave on its own."""

    source: str
    value: Value
    errors: tuple[Error, ...]

    @property
    def held(self) -> bool:
        """Whether it did its share of letting the event pass."""
        return self.value is True and not self.errors


@attrs.frozen(repr=False)
class Expression:
    """A CESQL expression. Made by `parse`; a value: immutable, equal to those of the same text.

    Its methods take `get`, which is called with the lower-case name of an attribute and returns what
    that is, None if there is none. What `get` raises leaves them, and what `str` raises of an attribute
    that has no type of CloudEvents; nothing else does.
    """

    source: str
    _tree: Node = attrs.field(eq=False)
    _run: Evaluator = attrs.field(eq=False, init=False)

    @_run.default
    def _compiled(self) -> Evaluator:
        return compiled(self._tree)

    def evaluate(self, get: Get) -> Result:
        """The value and all errors."""
        return _result(self._run, get)

    def holds(self, get: Get) -> bool:
        """Whether the event passes, this being a filter: the value is True, and there is no error."""
        errors: Errors = []
        return self._run(get, errors) is True and not errors

    def explain(self, get: Get) -> tuple[Part, ...]:
        """What each of the parts gives that are ANDed at the top; `holds` is that each of them held.

        All are asked, also those behind one that is false, where `evaluate` stops.
        """
        parts = list(conditions.conjuncts_of(self._tree))
        found = []
        for part in parts:
            run = compiled(part)
            result = _result(as_condition(run) if len(parts) > 1 else run, get)
            found.append(Part(self.source[part.start : part.end], result.value, result.errors))
        return tuple(found)

    def conditions(self) -> list[Condition]:
        """What must hold, each of them, for this to hold: see `Condition`. Often none is known."""
        return conditions.conditions_of(self._tree)

    @property
    def is_one_condition(self) -> bool:
        """Whether `conditions` is one, and says all: where it holds, this does."""
        return conditions.is_one_condition(self._tree)

    def faults(self) -> tuple[Error, ...]:
        """What is known to fail before any event is seen: calls of functions that aren't there.

        They are no ParseError, as a part that is never reached does no harm (section 3.5). Whoever takes
        expressions from people should show them these.
        """
        return tuple(_faults(self._tree))

    def time(self, attribute: int) -> int:
        """Nanoseconds that `holds` takes at the worst, with attributes of so many characters."""
        return costs.time_of(self._tree, attribute)

    @property
    def weight(self) -> int:
        """Bytes of memory that it takes."""
        return costs.weight_of(self._tree) + 4 * len(self.source)

    def __repr__(self) -> str:
        return f"parse({self.source!r})"


def parse(expression: str) -> Expression:
    """The expression that the text is; raises ParseError if it is none. Remembers the last of them.

    The first call in a process takes some 40 ms, for the parser's tables; others 15 us for each word.
    """
    return _parsed(expression)


def _parse(text: str) -> Expression:
    return Expression(text, tree_of(text))


#: Bytes that the remembered expressions may weigh: some thousand short ones, or a few of the longest.
MAX_REMEMBERED: Final = 4 << 20

_parsed: Final = Cache(_parse, lambda _, expression: expression.weight, MAX_REMEMBERED)


def evaluate(expression: str, event: Mapping[str, object]) -> Result:
    """Parse and evaluate at once, for an `event` of names and values.

    A text that is no expression has the value False and one error, of kind parse.
    """
    try:
        return parse(expression).evaluate(event.get)
    except ParseError as error:
        return Result(False, (Error("parse", str(error)),))


def _result(run: Evaluator, get: Get) -> Result:
    errors: Errors = []
    value = run(get, errors)
    # A lone attribute that isn't there has no type that could be known: section 3.2 says Boolean.
    return Result(False if value is None else value, tuple(dict.fromkeys(errors)))


def _faults(node: Node) -> Iterator[Error]:
    if isinstance(node, Call) and functions.find(node.name, len(node.operands)) is None:
        yield functions.missing(node.name, len(node.operands))
    for operand in node.operands:
        yield from _faults(operand)
