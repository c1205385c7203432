"""The cost of an expression: the time of an evaluation, and the memory while it is kept.

Both are upper bounds, estimated from the tree alone. Strangers choose the filter and the events that it
is evaluated for. So the time is that of the worst case, in which every attribute has its maximum length,
every part is evaluated, and a pattern nearly matches everywhere. The figures below were measured on one
machine, in nanoseconds.
"""

from __future__ import annotations

from typing import Final

from trionotify.cesql.patterns import MANY, MAX_REGULAR, Element, Piece, pieces_of
from trionotify.cesql.tree import Attribute, Binary, Call, Constant, In, Like, Logic, Node, literal_texts
from trionotify.cesql.values import MAX_TEXT

__all__ = ["time_of", "weight_of"]

#: Evaluating a node, besides its operands; a literal.
_NODE: Final = 400
_CONSTANT: Final = 100
#: Finding an attribute; and one that is rendered each time.
_ATTRIBUTE: Final = 800
_RENDERED: Final = {"id": 1_500, "time": 5_000}
#: A cast, including its error.
_CAST: Final = 3_000
#: Changing the case of a character; testing it for white space. (Copying or comparing one: 1.)
_CHANGE: Final = 40
_TRIM: Final = 60
#: A literal of a pattern that can be at one place only.
_AT: Final = 300
#: For each character of the text and of a piece: `str.find`, and a regular expression.
_FIND: Final = 1.0
_REGULAR: Final = 3.5
#: For each character of the text: a regular expression that is one literal; an automaton.
_LITERAL: Final = 8
_AUTOMATON: Final = 350

#: The factor by which a text may grow when its case is changed.
_LONGER: Final = 3

#: Bytes of a node, including its closures; of a character in it; of a place of an automaton.
_NODE_WEIGHT: Final = 640
_CHARACTER_WEIGHT: Final = 8
_PLACE_WEIGHT: Final = 224


def time_of(tree: Node, attribute: int) -> int:
    """Return the nanoseconds of an evaluation in the worst case, with attributes of this length."""
    return round(_timed(tree, attribute)[0])


def weight_of(tree: Node) -> int:
    """Return the bytes of memory that an expression takes, besides its text."""
    weight = _NODE_WEIGHT + sum(map(weight_of, tree.operands))
    if isinstance(tree, Constant) and isinstance(tree.value, str):
        weight += 4 * len(tree.value)
    if isinstance(tree, Like):
        pieces = pieces_of(tree.elements)
        each = _PLACE_WEIGHT if any(piece.is_long for piece in pieces) else _CHARACTER_WEIGHT
        weight += _NODE_WEIGHT * len(pieces) + sum(each * piece.length for piece in pieces)
    return weight


def _timed(node: Node, attribute: int) -> tuple[float, int]:
    """Return the nanoseconds of a node, and the maximum length of its resulting text."""
    match node:
        case Constant(value=value):
            return _CONSTANT, len(value) if isinstance(value, str) else 0
        case Attribute(name=name):
            return _RENDERED.get(name, _ATTRIBUTE), attribute
    parts = [_timed(operand, attribute) for operand in node.operands]
    lengths = [length for _, length in parts]
    more, length = _called(node.name, lengths) if isinstance(node, Call) else (_own(node, lengths), 0)
    return _NODE + sum(time for time, _ in parts) + more, length


def _own(node: Node, lengths: list[int]) -> float:
    """Return the time of an operator without its operands, whose texts have these `lengths`."""
    match node:
        case Like(elements=elements):
            return _matched(elements, lengths[0])
        case Logic():
            return _CAST * sum(not _is_boolean(part) for part in node.operands)
        case Binary(operator="=" | "!=" | "<>", operands=(_, Constant(value=str()))):
            return min(lengths)
        case In() if literal_texts(node.operands[1:]) is not None:
            return lengths[0]
    return sum(_CAST + length for length in lengths)


def _is_boolean(node: Node) -> bool:
    return not isinstance(node, Attribute | Constant | Call) and not (
        isinstance(node, Binary) and node.operator in {"+", "-", "*", "/", "%"}
    )


def _called(name: str, lengths: list[int]) -> tuple[float, int]:
    """Return the time of a function without its arguments, and the maximum length of its text."""
    time, length = _CAST * len(lengths), sum(lengths)
    match name:
        case "LOWER" | "UPPER":
            return time + _CHANGE * length, min(_LONGER * length, MAX_TEXT)
        case "TRIM":
            return time + _TRIM * length, length
        case "CONCAT_WS" if lengths:
            length += lengths[0] * len(lengths)
    length = min(length, MAX_TEXT)
    return time + length, length


def _matched(elements: tuple[Element, ...], text: int) -> float:
    """Return the time of LIKE on a text of this length."""
    pieces = pieces_of(elements)
    time = _AT * sum(1 + len(piece.literals) for piece in (pieces[0], pieces[-1]))
    time += pieces[0].length + pieces[-1].length
    middle = pieces[1:-1]
    if any(piece.is_long for piece in middle):
        return time + _AUTOMATON * text
    # Each search begins after the previous piece, so all of them together read the text once.
    return time + _NODE * len(middle) + text * max(map(_sought, middle), default=0)


def _sought(piece: Piece) -> float:
    """Return the time of finding a piece, for each character of a text."""
    size = sum(len(literal) for _, literal in piece.literals)
    if len(piece.literals) > 1:
        return _REGULAR * (size + len(piece.literals))
    return _LITERAL if MANY <= size <= MAX_REGULAR else min(_FIND * size, _AUTOMATON)
