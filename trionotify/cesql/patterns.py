"""What LIKE matches (section 3.4.3), in time linear in the text however hostile the pattern.

`%` stands for any characters or none, `_` for one, and a backslash makes either mean itself. A
backslash before anything else means itself.

Regular expressions are no way to do this: `%a%a%a%a%b` backtracks for minutes. What people write is
answered by `str` methods. A pattern with `%` alone is taken piece by piece, each where it is found
first: if the pattern matches at all, it matches that way. A pattern with `_` becomes an automaton whose
state is one integer.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Final

__all__ = ["MAX_PATTERN", "Element", "Matcher", "Wildcard", "elements_of", "matcher"]

#: Characters of a pattern. It bounds the automaton: the square of it in bits, at the worst.
MAX_PATTERN: Final = 1_024

Matcher = Callable[[str], bool]


class Wildcard(enum.Enum):
    """What is not literal in a pattern."""

    ONE = "_"
    MANY = "%"


Element = str | Wildcard
_PIECE: Final = re.compile(r"%+|_|(?:\\[%_]|[^%_])+", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\([%_])")


def elements_of(pattern: str) -> list[Element]:
    """Take `pattern` apart: the literal texts, none empty and no two in a row, and the wildcards."""
    return [_element(piece) for piece in _PIECE.findall(pattern)]


def _element(piece: str) -> Element:
    if piece == "_":
        return Wildcard.ONE
    if piece[0] == "%":
        return Wildcard.MANY  # several in a row say no more than one
    return _ESCAPED.sub(r"\1", piece)


def matcher(elements: Sequence[Element]) -> Matcher:
    """A function that says whether a whole text matches."""
    match elements:
        case []:
            return "".__eq__
        case [str(text)]:
            return text.__eq__
        case [str(head), Wildcard.MANY]:
            return methodcaller("startswith", head)
        case [Wildcard.MANY, str(tail)]:
            return methodcaller("endswith", tail)
    if Wildcard.ONE in elements:
        return _automaton(elements)
    return _in_pieces(elements)


def _in_pieces(elements: Sequence[Element]) -> Matcher:
    """For patterns with `%` and without `_`."""
    first, last = elements[0], elements[-1]
    head = first if isinstance(first, str) else ""
    tail = last if isinstance(last, str) else ""
    middle = [piece for piece in elements[1:-1] if isinstance(piece, str)]

    def matches(text: str) -> bool:
        at, end = len(head), len(text) - len(tail)
        if at > end or not text.startswith(head) or not text.endswith(tail):
            return False
        for piece in middle:
            found = text.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True

    return matches


def _automaton(elements: Sequence[Element]) -> Matcher:
    """For any pattern. Bit n of the state: what was read so far matches the first n places.

    A place is a literal character or a `_`. Reading a character moves the bits of the places that
    accept it one up; where a `%` stands before a place, its bit stays as well.
    """
    accepts: dict[str, int] = {}  # character -> the places that want just it
    all_accept = stay = 0
    place = 1
    for element in elements:
        if element is Wildcard.MANY:
            stay |= place
        elif element is Wildcard.ONE:
            all_accept |= place
            place <<= 1
        else:
            for character in element:
                accepts[character] = accepts.get(character, 0) | place
                place <<= 1

    def matches(text: str) -> bool:
        state = 1
        for character in text:
            moving = state & (accepts.get(character, 0) | all_accept)
            state = moving << 1 | state & stay
            if not state:
                return False
        return bool(state & place)

    return matches
