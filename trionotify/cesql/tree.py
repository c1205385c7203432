"""The nodes of a parsed expression. Immutable, made by `grammar`, and without behaviour.

All nodes have their operands, in the order of the text, their place in the text, and their depth. The
depth is bounded, so code that walks the tree may use recursion.

A chain of AND, of OR or of XOR is one node with many operands, because filters that programs write have
hundreds of them. Chains of other operators lean to the left, as section 3.6 has it, and do get deep.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

from trionotify.cesql.patterns import Element
from trionotify.cesql.values import Value

__all__ = [
    "MAX_DEPTH",
    "Attribute",
    "Binary",
    "Call",
    "Connective",
    "Constant",
    "Exists",
    "In",
    "Like",
    "Logic",
    "Node",
    "Unary",
    "literal_texts",
]

#: Levels of nesting, of parentheses as well as of operators and functions. Parsing, compiling and
#: evaluating take a few frames of the stack for each.
MAX_DEPTH: Final = 64

Connective = Literal["AND", "OR", "XOR"]


@attrs.frozen(kw_only=True)
class Node:
    """The fields of all nodes; `start` and `end` are characters of the text, parentheses included."""

    operands: tuple[Node, ...] = ()
    start: int
    end: int
    depth: int = attrs.field(init=False)

    @depth.default
    def _depth(self) -> int:
        return 1 + max((operand.depth for operand in self.operands), default=0)


@attrs.frozen(kw_only=True)
class Constant(Node):
    """A literal, which is a number, a text, true or false."""

    value: Value


@attrs.frozen(kw_only=True)
class Attribute(Node):
    """An attribute of the event; `name` is lower-case."""

    name: str


@attrs.frozen(kw_only=True)
class Exists(Node):
    """EXISTS name; `name` is lower-case."""

    name: str


@attrs.frozen(kw_only=True)
class Call(Node):
    """A call of a function; `name` is in upper case, and may be unknown."""

    name: str


@attrs.frozen(kw_only=True)
class Unary(Node):
    """NOT or minus, and its operand."""

    operator: Literal["NOT", "-"]


@attrs.frozen(kw_only=True)
class Binary(Node):
    """Arithmetic or a comparison, and its two operands."""

    operator: str


@attrs.frozen(kw_only=True)
class Logic(Node):
    """AND, OR or XOR of two or more operands."""

    operator: Connective


@attrs.frozen(kw_only=True)
class Like(Node):
    """[NOT] LIKE: one operand, and the elements of the pattern."""

    elements: tuple[Element, ...]
    negated: bool


@attrs.frozen(kw_only=True)
class In(Node):
    """[NOT] IN. The first operand is searched for among the others."""

    negated: bool


def literal_texts(nodes: tuple[Node, ...]) -> tuple[str, ...] | None:
    """Return the texts of `nodes` if all of them are literal texts; otherwise None."""
    texts = [node.value for node in nodes if isinstance(node, Constant) and isinstance(node.value, str)]
    return tuple(texts) if len(texts) == len(nodes) else None
