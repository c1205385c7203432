"""What a predicate costs: how long one evaluation may take, and what it weighs while it is kept.

Both are upper bounds. They are estimated for predicates that come from outside; an application's own
predicates may be as expensive as it likes.
"""

from __future__ import annotations

from typing import Final

from trionotify.attributes import MAX_ATTRIBUTE
from trionotify.predicates import AllOf, AnyOf, Not, OnAttributes, Sql, Wanted

__all__ = ["time_of", "weight_of"]

#: Nanoseconds of a call of a predicate; of a condition on one attribute, whose text may be rendered.
_CALL: Final = 200
_CONDITION: Final = 800
_RENDERED: Final = {"time": 5_000}

#: Bytes of a predicate, and of a condition on one attribute, beside its texts.
_PREDICATE: Final = 96
_PAIR: Final = 160


def time_of(predicate: Wanted) -> int:
    """Microseconds of one evaluation in the worst case: all of its parts, on the longest attributes.

    An application's callable counts as nothing.
    """
    return -(-_time_of(predicate) // 1_000)


def _time_of(predicate: Wanted) -> int:
    match predicate:
        case OnAttributes():
            times = [_RENDERED.get(name, _CONDITION) + len(text) for name, text in predicate.attributes]
            return _CALL + sum(times)
        case AllOf() | AnyOf():
            return _CALL + sum(map(_time_of, predicate.parts))
        case Not():
            return _CALL + _time_of(predicate.part)
        case Sql():
            return _CALL + predicate.expression.time(MAX_ATTRIBUTE)
    return 0


def weight_of(predicate: Wanted) -> int:
    """Bytes of memory that it takes; an application's callable counts as nothing."""
    weight, waiting = 0, [predicate]
    while waiting:  # an application's own may be nested deeper than Python's stack
        match waiting.pop():
            case OnAttributes(attributes=pairs):
                weight += _PREDICATE + sum([_PAIR + 4 * len(name + text) for name, text in pairs])
            case AllOf(parts=parts) | AnyOf(parts=parts):
                weight += _PREDICATE
                waiting += parts
            case Not(part=part):
                weight += _PREDICATE
                waiting.append(part)
            case Sql(expression=expression):
                weight += _PREDICATE + expression.weight
    return weight
