"""Necessary conditions of an expression, which an index can look up.

They come from the parts that are ANDed at the top, each of which must hold. Only comparisons of an
attribute with literal texts give a condition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

import attrs

from trionotify.cesql.patterns import Element, Wildcard
from trionotify.cesql.tree import Attribute, Binary, Constant, In, Like, Logic, Node, literal_texts

_INTEGER: Final = re.compile(r"[+-]?[0-9]+")

#: Attributes whose value is always text.
_TEXTS: Final = frozenset({"id", "source", "subject", "type"})

__all__ = ["Condition", "conditions_of", "conjuncts_of", "is_one_condition"]


@attrs.frozen
class Condition:
    """The condition that the attribute `name` exists and equals, begins or ends with one of `texts`.

    If one of its conditions doesn't hold, an expression doesn't hold either. An integer counts as its
    decimal digits, and a boolean as `true` or `false`.
    """

    kind: Literal["exact", "prefix", "suffix"]
    name: str
    texts: tuple[str, ...]


def conjuncts_of(node: Node) -> Iterator[Node]:
    """Yield the parts that are ANDed at the top, in the order of the text, or `node` itself."""
    if isinstance(node, Logic) and node.operator == "AND":
        for operand in node.operands:
            yield from conjuncts_of(operand)
    else:
        yield node


def conditions_of(node: Node) -> list[Condition]:
    """Return the conditions that must all hold for `node` to hold."""
    return [condition for part in conjuncts_of(node) for condition in _of_conjunct(part)]


def is_one_condition(node: Node) -> bool:
    """Return whether `node` is equivalent to a single condition of `conditions_of`."""
    if isinstance(node, Like) and (len(node.elements) > 2 or Wildcard.ONE in node.elements):
        return False  # the pattern says more than how a text begins or ends
    if isinstance(node, In) and len(node.operands) > 2 and not _is_of_text(node.operands[0]):
        return False  # one option that can't be cast to what the attribute is would be an error of all
    return len(_of_conjunct(node)) == 1


def _of_conjunct(node: Node) -> list[Condition]:
    match node:
        case Binary(operator="=", operands=(Attribute(name=name), Constant(value=str(text)))):
            return [Condition("exact", name, (text,))]
        case Binary(operator="=", operands=(Constant(value=str(text)), Attribute(name=name))):
            return [Condition("exact", name, (text,))] if _is_canonical(text) else []
        case In(operands=(Attribute(name=name), *_), negated=False):
            texts = literal_texts(node.operands[1:])
            if texts is not None and all(map(_is_canonical, texts)):
                return [Condition("exact", name, tuple(dict.fromkeys(texts)))]
        case Like(operands=(Attribute(name=name),), negated=False, elements=elements):
            return _of_pattern(name, elements)
    return []


def _is_of_text(operand: Node) -> bool:
    return isinstance(operand, Attribute) and operand.name in _TEXTS


def _is_canonical(text: str) -> bool:
    """Return whether no other value is cast to this text. (`05` is the number 5, whose text is `5`.)"""
    if text.lower() in ("true", "false"):
        return text.islower()
    return not _INTEGER.fullmatch(text) or str(int(text)) == text


def _of_pattern(name: str, elements: tuple[Element, ...]) -> list[Condition]:
    match elements:
        case ():
            return [Condition("exact", name, ("",))]
        case (str(text),):
            return [Condition("exact", name, (text,))]
    found = []
    if isinstance(elements[0], str):
        found.append(Condition("prefix", name, (elements[0],)))
    if isinstance(elements[-1], str):
        found.append(Condition("suffix", name, (elements[-1],)))
    return found
