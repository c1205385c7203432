"""LIKE (section 3.4.3), in time linear in the text, however hostile the pattern.

`%` stands for any characters or none, `_` for one, and a backslash makes either mean itself. A
backslash before anything else means itself.

A regular expression for the whole pattern won't do, because `%a%a%a%a%b` backtracks for minutes. Between
two `%` is a *piece*, which is of fixed length. So the first and the last one can only be at the ends of
the text. Those between are searched for one by one, each at its first occurrence. If the pattern matches
at all, it matches in this way. A short literal is found by `str.find`; a longer one, and a piece with a
`_` between literals, by a regular expression for this piece alone, which has nothing to backtrack to.
But that may try a whole piece at each place of a text. So with a piece that is long the pattern becomes
an automaton, whose state is one integer.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Final

import attrs

__all__ = [
    "MAX_PATTERN",
    "Element",
    "Matcher",
    "Piece",
    "Wildcard",
    "elements_of",
    "matcher",
    "pieces_of",
]

#: The most characters of a pattern. The automaton takes at most the square of it in bits.
MAX_PATTERN: Final = 1_024

#: The most characters of a piece that a regular expression searches for. `re` keeps hundreds of
#: expressions, and so strangers' patterns, but none longer than this.
MAX_REGULAR: Final = 96
#: From so many characters on, a literal is found by a regular expression, too: `str.find` may compare
#: all of it at every place of a text, `re` doesn't.
MANY: Final = 8

Matcher = Callable[[str], bool]
#: Returns the first match in a text between two places, or -1.
Finder = Callable[[str, int, int], int]


class Wildcard(enum.Enum):
    """The parts of a pattern that are not literal."""

    ONE = "_"
    MANY = "%"


Element = str | Wildcard
_PIECE: Final = re.compile(r"%+|_|(?:\\[%_]|[^%_])+", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\([%_])")


def elements_of(pattern: str) -> list[Element]:
    """Split `pattern` into wildcards and literals. No literal is empty, and no two are adjacent."""
    return [_element(piece) for piece in _PIECE.findall(pattern)]


def _element(piece: str) -> Element:
    if piece == "_":
        return Wildcard.ONE
    if piece[0] == "%":
        return Wildcard.MANY  # several in a row say no more than one
    return _ESCAPED.sub(r"\1", piece)


def matcher(elements: Sequence[Element]) -> Matcher:
    """Return a function that decides whether a whole text matches."""
    match elements:
        case []:
            return "".__eq__
        case [str(text)]:
            return text.__eq__
        case [str(head), Wildcard.MANY]:
            return methodcaller("startswith", head)
        case [Wildcard.MANY, str(tail)]:
            return methodcaller("endswith", tail)
    pieces = pieces_of(elements)
    if any(piece.is_long for piece in pieces[1:-1]):
        return _automaton(elements)
    return _in_pieces(pieces)


@attrs.frozen
class Piece:
    """A pattern's part between two `%`: `length` characters, and where the literals are among them."""

    length: int = 0
    literals: tuple[tuple[int, str], ...] = ()

    @property
    def is_long(self) -> bool:
        """Whether finding it requires an automaton."""
        return len(self.literals) > 1 and self.length > MAX_REGULAR

    def is_at(self, text: str, at: int) -> bool:
        """Return whether it is at this place of a text, which must be long enough."""
        for offset, literal in self.literals:
            if not text.startswith(literal, at + offset):
                return False
        return True

    def finder(self) -> Finder:
        """Return a function that finds it between two places of a text, or returns -1."""
        length = self.length
        if len(self.literals) > 1:
            return _search(re.compile(self._regular(), re.DOTALL))
        if not self.literals:
            return lambda text, at, end: at if at + length <= end else -1
        ((offset, literal),) = self.literals
        behind = length - offset
        search = _literal(literal)

        def find(text: str, at: int, end: int) -> int:
            if at + length > end:
                return -1
            found = search(text, at + offset, end - behind + len(literal))
            return found - offset if found >= 0 else -1

        return find

    def _regular(self) -> str:
        written, at = "", 0
        for offset, literal in self.literals:
            written += _gap(offset - at) + re.escape(literal)
            at = offset + len(literal)
        return written + _gap(self.length - at)


def _gap(size: int) -> str:
    return (
        "." * size if size < 4 else f".{{{size}}}"
    )  # a repetition is faster than many, slower than few


def _literal(literal: str) -> Finder:
    if MANY <= len(literal) <= MAX_REGULAR:
        return _search(re.compile(re.escape(literal)))
    return lambda text, at, end: text.find(literal, at, end)


def _search(pattern: re.Pattern[str]) -> Finder:
    def find(text: str, at: int, end: int) -> int:
        found = pattern.search(text, at, end)
        return found.start() if found else -1

    return find


def pieces_of(elements: Sequence[Element]) -> list[Piece]:
    """Return the parts before, between and behind the `%`. A part may be empty."""
    pieces: list[Piece] = []
    length = 0
    literals: list[tuple[int, str]] = []
    for element in elements:
        if element is Wildcard.MANY:
            pieces.append(Piece(length, tuple(literals)))
            length, literals = 0, []
        elif element is Wildcard.ONE:
            length += 1
        else:
            literals.append((length, element))
            length += len(element)
    return [*pieces, Piece(length, tuple(literals))]


def _in_pieces(pieces: Sequence[Piece]) -> Matcher:
    head, tail, least = pieces[0], pieces[-1], sum(piece.length for piece in pieces)
    if len(pieces) == 1:
        return lambda text: len(text) == least and head.is_at(text, 0)
    middle = [(piece.finder(), piece.length) for piece in pieces[1:-1]]

    def matches(text: str) -> bool:
        at, end = head.length, len(text) - tail.length
        if len(text) < least or not head.is_at(text, 0) or not tail.is_at(text, end):
            return False
        for find, length in middle:
            found = find(text, at, end)
            if found < 0:
                return False
            at = found + length
        return True

    return matches


def _automaton(elements: Sequence[Element]) -> Matcher:
    """Return an automaton for any pattern. Bit n is set if the text so far matches the first n places.

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
