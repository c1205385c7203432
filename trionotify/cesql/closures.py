"""Compiling a tree to closures. Each node becomes a function of `get` and the list of errors, once.

The operators are in `operators`, the functions in `functions`. This module combines them. It also has a
fast path for the conditions of most filters, in which a text attribute equals, matches or is among
literals. It gives the same result as the general path in a third of the time.
"""

from __future__ import annotations

from trionotify.cesql import functions, operators
from trionotify.cesql.patterns import Matcher, matcher
from trionotify.cesql.tree import (
    Attribute,
    Binary,
    Call,
    Constant,
    Exists,
    In,
    Like,
    Logic,
    Node,
    Unary,
    literal_texts,
)
from trionotify.cesql.values import Error, Errors, Evaluator, Get, Value, as_value, cut

__all__ = ["compiled"]


def compiled(node: Node) -> Evaluator:  # noqa: PLR0911 - one return for each kind of node
    """Return the function that evaluates `node`."""
    parts = [compiled(operand) for operand in node.operands]
    match node:
        case Constant(value=value):
            return lambda get, errors: value
        case Attribute(name=name):
            return _attribute(name)
        case Exists(name=name):
            return lambda get, errors: get(name) is not None
        case Call(name=name):
            return _call(name, parts)
        case Unary(operator="NOT"):
            return operators.not_(*parts)
        case Unary():
            return operators.minus(*parts)
        case Logic(operator=connective):
            return operators.LOGIC[connective](parts)
        case Binary(operator=symbol):
            return _short_way(node, _compares(node), operators.binary(symbol, *parts))
        case Like(elements=elements, negated=negated):
            matches = matcher(elements)
            matches = _negated(matches) if negated else matches
            return _short_way(node, matches, operators.like(parts[0], matches))
        case In(negated=negated):
            return _short_way(node, _belongs(node), operators.in_(parts[0], parts[1:], negated))
    raise TypeError(f"no such node: {node!r}")  # pragma: no cover - these are all


def _short_way(node: Node, decide: Matcher | None, general: Evaluator) -> Evaluator:
    """Return `general` with a fast path: if the first operand is a text attribute, `decide`."""
    operand = node.operands[0]
    if decide is None or not isinstance(operand, Attribute):
        return general
    name = operand.name

    def evaluate(get: Get, errors: Errors) -> Value | None:
        found = get(name)
        return decide(found) if isinstance(found, str) else general(get, errors)

    return evaluate


def _compares(node: Binary) -> Matcher | None:
    match node:
        case Binary(operator="=", operands=(_, Constant(value=str(text)))):
            return text.__eq__
        case Binary(operator="!=" | "<>", operands=(_, Constant(value=str(text)))):
            return text.__ne__
    return None


def _belongs(node: In) -> Matcher | None:
    texts = literal_texts(node.operands[1:])
    if texts is None:
        return None
    belongs = frozenset(texts).__contains__
    return _negated(belongs) if node.negated else belongs


def _negated(matches: Matcher) -> Matcher:
    return lambda text: not matches(text)


def _attribute(name: str) -> Evaluator:
    missing = Error("missingAttribute", f"the event has no attribute {cut(name)}")

    def evaluate(get: Get, errors: Errors) -> Value | None:
        value = as_value(get(name))
        if value is None:
            errors.append(missing)
        return value

    return evaluate


def _call(name: str, arguments: list[Evaluator]) -> Evaluator:
    count = len(arguments)
    function = functions.find(name, count)
    if function is None:
        missing = functions.missing(name, count)

        def fail(get: Get, errors: Errors) -> bool:
            errors.append(missing)
            return False

        return fail
    casts, run, zero = function.casts(count), function.run, function.zero

    def evaluate(get: Get, errors: Errors) -> Value:
        values = [argument(get, errors) for argument in arguments]
        present = [value for value in values if value is not None]
        if len(present) < count:
            return zero
        return run(errors, *(cast(value, errors) for cast, value in zip(casts, present, strict=True)))

    return evaluate
