"""The cost of a predicate: the time of one evaluation, and the memory while it is kept.

Both are upper bounds. They are estimated for predicates that come from outside; an application's own
predicates may be as expensive as it likes.

Most evaluations are cheap. They take about as long as a few deliveries. Costly ones draw on an
`Allowance`, so that those whose filters they are, and not all others, wait when there are many of them.
"""

from __future__ import annotations

from typing import Final

from trionotify.model.attributes import MAX_ATTRIBUTE
from trionotify.model.predicates import AllOf, AnyOf, Not, OnAttributes, Sql, Wanted

__all__ = ["Allowance", "Price", "price_of", "time_of", "weight_of"]

#: Microseconds up to which an evaluation is cheap, for each client that shares the filter.
CHEAP = 20
#: Microseconds for all costly evaluations of one list of entries.
ALLOWANCE = 5_000

#: Nanoseconds of a call of a predicate; of a condition on one attribute, whose text may be rendered.
_CALL: Final = 200
_CONDITION: Final = 800
_RENDERED: Final = {"time": 5_000}

#: Bytes of a predicate, and of a condition on one attribute, beside its texts.
_PREDICATE: Final = 96
_PAIR: Final = 160


class Price:
    """The cost of evaluating a predicate, in the worst case, on texts of this length."""

    __slots__ = ("_predicate", "_times")

    def __init__(self, predicate: Wanted) -> None:
        self._predicate = predicate
        #: Times by the number of bits of the length.
        self._times: dict[int, int] = {}

    def on(self, longest: int) -> int:
        """Return the price in microseconds. Similar lengths have the same price, which is cached."""
        bits = longest.bit_length()
        time = self._times.get(bits)
        if time is None:
            time = self._times[bits] = time_of(self._predicate, 1 << bits)
        return time


def price_of(predicate: Wanted) -> Price | None:
    """Return a predicate's price; None if it is always cheap, as is an application's callable."""
    return None if time_of(predicate) <= CHEAP else Price(predicate)


class Allowance:
    """The remaining time for costly evaluations, in estimated microseconds, not by the clock."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = ALLOWANCE

    def covers(self, time: int, readers: int = 1) -> bool:
        """Return whether this `time` may be spent now. If so, deduct it, unless it is cheap."""
        if time <= CHEAP * readers:
            return True
        if time > self._left:
            return False
        self._left -= time
        return True


def time_of(predicate: Wanted, longest: int = MAX_ATTRIBUTE) -> int:
    """Return the microseconds of one evaluation in the worst case, on texts of this length.

    An application's callable counts as 0.
    """
    return -(-_time_of(predicate, longest) // 1_000)


def _time_of(predicate: Wanted, longest: int) -> int:
    match predicate:
        case OnAttributes():
            times = [_RENDERED.get(name, _CONDITION) + len(text) for name, text in predicate.attributes]
            return _CALL + sum(times)
        case AllOf() | AnyOf():
            return _CALL + sum([_time_of(part, longest) for part in predicate.parts])
        case Not():
            return _CALL + _time_of(predicate.part, longest)
        case Sql():
            return _CALL + predicate.expression.time(longest)
    return 0


def weight_of(predicate: Wanted) -> int:
    """Return a predicate's size in memory, in bytes. An application's callable counts as 0."""
    weight, waiting = 0, [predicate]
    while waiting:
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
