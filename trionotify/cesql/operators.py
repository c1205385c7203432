"""The operators (sections 3.4 and 3.7), as functions from compiled operands to a compiled expression.

An operand that is None is a missing attribute, whose error is already in the list.
The operator that meets it has the zero value of its own type, whatever its other operands are (section
3.2). The surrounding expression continues with the zero. In `missing * 5 = 0` the product is 0, and the
comparison is true. For a missing attribute, NOT LIKE, NOT IN and != are all false. So they are operators
of their own, and not a NOT of another operator.

All operands are evaluated from left to right. But AND and OR stop once the result is certain.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Final

from trionotify.cesql.patterns import Matcher
from trionotify.cesql.values import (
    MAX_INTEGER,
    MIN_INTEGER,
    Error,
    Errors,
    Evaluator,
    Get,
    to_boolean,
    to_integer,
    to_text,
    to_type_of,
)

__all__ = ["LOGIC", "as_condition", "binary", "in_", "like", "minus", "not_"]


def as_condition(evaluate: Evaluator) -> Evaluator:
    """Convert an operand to a Boolean, as AND does. A missing attribute is false."""

    def condition(get: Get, errors: Errors) -> bool:
        value = evaluate(get, errors)
        return value is not None and to_boolean(value, errors)

    return condition


def not_(operand: Evaluator) -> Evaluator:
    """NOT."""

    def evaluate(get: Get, errors: Errors) -> bool:
        value = operand(get, errors)
        return value is not None and not to_boolean(value, errors)

    return evaluate


def minus(operand: Evaluator) -> Evaluator:
    """The unary minus."""

    def evaluate(get: Get, errors: Errors) -> int:
        value = operand(get, errors)
        return 0 if value is None else _bounded(-to_integer(value, errors), errors)

    return evaluate


def and_(parts: list[Evaluator]) -> Evaluator:
    """A chain of AND, evaluated up to the first false operand."""

    def evaluate(get: Get, errors: Errors) -> bool:
        for part in parts:
            value = part(get, errors)
            if value is not True and (value is None or not to_boolean(value, errors)):
                return False
        return True

    return evaluate


def or_(parts: list[Evaluator]) -> Evaluator:
    """A chain of OR, evaluated up to the first true operand."""
    first, *others = parts

    def evaluate(get: Get, errors: Errors) -> bool:
        value = first(get, errors)
        for part in others:
            if value is not None and to_boolean(value, errors):
                return True
            right = part(get, errors)
            # Only the OR that meets the missing attribute is false. In a chain, another may follow.
            value = value is not None and right is not None and to_boolean(right, errors)
        return value is True

    return evaluate


def xor_(parts: list[Evaluator]) -> Evaluator:
    """A chain of XOR, from left to right."""
    first, *others = parts

    def evaluate(get: Get, errors: Errors) -> bool:
        value = first(get, errors)
        for part in others:
            right = part(get, errors)
            if value is None or right is None:
                value = False
            else:
                value = to_boolean(value, errors) is not to_boolean(right, errors)
        return value is True

    return evaluate


LOGIC: Final = {"AND": and_, "OR": or_, "XOR": xor_}


def like(operand: Evaluator, matches: Matcher) -> Evaluator:
    """[NOT] LIKE. `matches` includes the NOT."""

    def evaluate(get: Get, errors: Errors) -> bool:
        value = operand(get, errors)
        return value is not None and matches(to_text(value, errors))

    return evaluate


def in_(operand: Evaluator, options: list[Evaluator], negated: bool) -> Evaluator:
    """[NOT] IN."""

    def evaluate(get: Get, errors: Errors) -> bool:
        value = operand(get, errors)
        others = [option(get, errors) for option in options]
        if value is None or None in others:
            return False
        # The type of the first operand decides (section 3.7), not that of each option.
        same = [to_type_of(value, other, errors) == value for other in others if other is not None]
        return (True in same) is not negated

    return evaluate


def binary(symbol: str, left: Evaluator, right: Evaluator) -> Evaluator:
    """Arithmetic or a comparison."""

    if symbol in _ARITHMETIC:
        return _arithmetic(_ARITHMETIC[symbol], left, right)
    if symbol in _ORDER:
        return _order(_ORDER[symbol], left, right)
    return _equality(symbol == "=", left, right)


def _equality(equal: bool, left: Evaluator, right: Evaluator) -> Evaluator:
    def evaluate(get: Get, errors: Errors) -> bool:
        x, y = left(get, errors), right(get, errors)
        if x is None or y is None:
            return False
        # For these ambiguous operators, the type of the right operand decides (section 3.7).
        return (to_type_of(y, x, errors) == y) is equal

    return evaluate


_ORDER: Final = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def _order(compare: Callable[[int, int], bool], left: Evaluator, right: Evaluator) -> Evaluator:
    def evaluate(get: Get, errors: Errors) -> bool:
        x, y = left(get, errors), right(get, errors)
        if x is None or y is None:
            return False
        return compare(to_integer(x, errors), to_integer(y, errors))

    return evaluate


def _quotient(x: int, y: int) -> int:
    # Python's // rounds down, CESQL towards 0. A float holds all of 32 bits, and their quotients are
    # never so near to the next integer that it would round up to that.
    return int(x / y)


_ARITHMETIC: Final[dict[str, Callable[[int, int], int]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _quotient,
    "%": lambda x, y: x - y * _quotient(x, y),
}
_BY_ZERO: Final = Error("math", "division by 0")


def _arithmetic(compute: Callable[[int, int], int], left: Evaluator, right: Evaluator) -> Evaluator:
    def evaluate(get: Get, errors: Errors) -> int:
        x, y = left(get, errors), right(get, errors)
        if x is None or y is None:
            return 0
        try:
            return _bounded(compute(to_integer(x, errors), to_integer(y, errors)), errors)
        except ZeroDivisionError:
            errors.append(_BY_ZERO)
            return 0

    return evaluate


def _bounded(number: int, errors: Errors) -> int:
    """Return `number`, or 0 with an error if it exceeds 32 bits.

    The specification mentions this only for ABS, where it is a MathError. Wrapping around, as a
    processor does, would let events pass because of a wrong sum.
    """
    if MIN_INTEGER <= number <= MAX_INTEGER:
        return number
    errors.append(Error("math", f"{number} does not fit a 32-bit integer"))
    return 0
