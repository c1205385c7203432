"""Text to tree.

lark makes the tables of an LALR parser from the grammar, at the first use. That parser keeps a stack of
its own, and builds each node when its operands are complete, so no text can exhaust Python's stack.
Between its lexer and it stands `_Tokens`, for what a table can't say: which sign belongs to a number,
how deep parentheses go, and how many words there may be.

From the tightest to the loosest, operators bind as in section 3.6: NOT and minus; LIKE and IN; `*`, `/`
and `%`; `+` and `-`; the comparisons; AND, OR and XOR. So `NOT a = b` is `(NOT a) = b`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, Literal, cast

import attrs
from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedToken
from lark.lark import PostLex

from trionotify.cesql.mistakes import ParseError, at, explained
from trionotify.cesql.patterns import MAX_PATTERN, elements_of
from trionotify.cesql.tree import (
    MAX_DEPTH,
    Attribute,
    Binary,
    Call,
    Connective,
    Constant,
    Exists,
    In,
    Like,
    Logic,
    Node,
    Unary,
)
from trionotify.cesql.values import integer_in, shown

__all__ = ["MAX_LENGTH", "MAX_WORDS", "tree_of"]

#: The most characters of an expression.
MAX_LENGTH: Final = 4_096
#: The most names, texts, numbers, operators, parentheses and commas. Parsing takes 15 µs for each.
MAX_WORDS: Final = 512

# A character that fits no other terminal is JUNK, which the grammar never accepts. So all syntax errors
# come from the parser, with the terminals that it expected.
_GRAMMAR: Final = r"""
?start: expression

?expression: comparison
    | comparison (LOGIC comparison)+                                     -> logic
?comparison: sum
    | comparison COMPARISON sum                                          -> binary
?sum: product
    | sum (PLUS | MINUS) product                                         -> binary
?product: test
    | product TIMES test                                                 -> binary
?test: unary
    | test NOT? LIKE STRING                                              -> like
    | test NOT? IN LPAR expression (COMMA expression)* RPAR              -> within
?unary: atom
    | (NOT | MINUS) unary                                                -> unary
?atom: NUMBER                                                            -> number
    | STRING                                                             -> string
    | BOOLEAN                                                            -> boolean
    | name                                                               -> attribute
    | EXISTS name                                                        -> exists
    | (NAME | FUNCTION) LPAR (expression (COMMA expression)*)? RPAR      -> call
    | LPAR expression RPAR                                               -> group
?name: NAME
    | ATTRIBUTE
    | (FUNCTION | MISNOMER)                                              -> misnamed

LOGIC.2: /(and|or|xor)\b/i
NOT.2: /not\b/i
LIKE.2: /like\b/i
IN.2: /in\b/i
EXISTS.2: /exists\b/i
BOOLEAN.2: /(true|false)\b/i
NUMBER.2: /[+-]?[0-9]+\b/
NAME.1: /[a-z]+\b/i
ATTRIBUTE: /[a-z0-9]+\b/i
FUNCTION: /[a-z][a-z_]*\b/i
MISNOMER.-1: /[a-z0-9_]+/i
STRING: /'[^'\\]*(\\.[^'\\]*)*'|"[^"\\]*(\\.[^"\\]*)*"/s
COMPARISON: /<=|>=|<>|!=|=|<|>/
TIMES: /[*\/%]/
PLUS: "+"
MINUS: "-"
LPAR: "("
RPAR: ")"
COMMA: ","
JUNK.-2: /./s
SPACE: /[ \t\r\n]+/
%ignore SPACE
"""


def tree_of(text: str) -> Node:
    """Parse an expression to a tree. Raises ParseError if it is invalid."""
    if len(text) > MAX_LENGTH:
        raise ParseError(f"an expression may have at most {MAX_LENGTH} characters, not {len(text)}")
    try:
        # With a transformer inside, `parse` returns the transformer's result for `start`.
        return cast("Node", _parser().parse(text))
    except UnexpectedToken as error:
        raise explained(error, text) from None


@cache
def _parser() -> Lark:
    return Lark(
        _GRAMMAR,
        parser="lalr",
        lexer="basic",  # a keyword is one wherever it stands
        postlex=_Tokens(),
        transformer=_Builder(),
        # Without it, what Unicode calls the lower case of "k" and "s" would do in keywords and names.
        g_regex_flags=re.ASCII,
    )


#: The terminals that end an operand.
_ENDS: Final = frozenset({"NUMBER", "STRING", "BOOLEAN", "NAME", "ATTRIBUTE", "RPAR"})


class _Tokens(PostLex):
    """A filter between the lexer and the parser. It keeps no state between texts."""

    always_accept = ("JUNK",)  # lark drops terminals that no rule has

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        before, depth = "", 0
        for count, token in enumerate(stream, 1):
            if count > MAX_WORDS:
                raise at(token, f"an expression may have at most {MAX_WORDS} words")
            if token.type == "LPAR":
                depth += 1
                if depth > MAX_DEPTH:
                    raise at(token, f"parentheses may be nested at most {MAX_DEPTH} levels deep")
            elif token.type == "RPAR":
                depth -= 1
            if token.type == "NUMBER" and token[0] in "+-" and before in _ENDS:
                yield from _split_sign(token)  # `4 -1` is a subtraction
            else:
                yield token
            before = token.type


def _split_sign(token: Token) -> tuple[Token, Token]:
    start, line, column = token.start_pos or 0, token.line or 1, token.column or 1
    name = "PLUS" if token[0] == "+" else "MINUS"
    return (
        Token(name, token[0], start, line, column, line, column + 1, start + 1),
        Token("NUMBER", token[1:], start + 1, line, column + 1, line, token.end_column, token.end_pos),
    )


@v_args(inline=True)
class _Builder(Transformer[Token, Node]):
    """Creates the nodes. lark calls each method with the matches of its rule, from the inside out."""

    def number(self, token: Token) -> Node:
        value = integer_in(token)
        if value is None:
            raise at(token, f"{shown(token)} does not fit a 32-bit integer")
        return Constant(value=value, **_span(token, token))

    def string(self, token: Token) -> Node:
        return Constant(value=_unquoted(token), **_span(token, token))

    def boolean(self, token: Token) -> Node:
        return Constant(value=token.lower() == "true", **_span(token, token))

    def attribute(self, name: Token) -> Node:
        return Attribute(name=name.lower(), **_span(name, name))

    def misnamed(self, token: Token) -> Token:
        raise at(token, f"{shown(token)} is not a valid attribute name; use letters and digits")

    def exists(self, exists: Token, name: Token) -> Node:
        return Exists(name=name.lower(), **_span(exists, name))

    def group(self, left: Token, inner: Node, right: Token) -> Node:
        return attrs.evolve(inner, **_span(left, right))

    def call(self, name: Token, *rest: Token | Node) -> Node:
        return _checked(Call(name=name.upper(), operands=_nodes(rest), **_span(name, rest[-1])), name)

    def unary(self, operator: Token, operand: Node) -> Node:
        span = _span(operator, operand)
        symbol = cast('Literal["NOT", "-"]', operator.upper())
        return _checked(Unary(operator=symbol, operands=(operand,), **span), operator)

    def binary(self, left: Node, operator: Token, right: Node) -> Node:
        span = _span(left, right)
        return _checked(Binary(operator=str(operator), operands=(left, right), **span), operator)

    def like(self, operand: Node, *words: Token) -> Node:
        pattern = _unquoted(words[-1])
        if len(pattern) > MAX_PATTERN:
            raise at(words[-1], f"a pattern may have at most {MAX_PATTERN} characters")
        node = Like(
            operands=(operand,),
            elements=tuple(elements_of(pattern)),
            negated=words[0].type == "NOT",
            **_span(operand, words[-1]),
        )
        return _checked(node, words[0])

    def within(self, operand: Node, word: Token, *rest: Token | Node) -> Node:
        operands = (operand, *_nodes(rest))
        node = In(operands=operands, negated=word.type == "NOT", **_span(operand, rest[-1]))
        return _checked(node, word)

    def logic(self, *parts: Node | Token) -> Node:
        words = [part for part in parts if isinstance(part, Token)]
        operator = cast("Connective", words[0].upper())
        for word in words:
            if word.upper() != operator:
                mix = f"{operator} and {word.upper()}"
                raise at(word, f"{mix} can't be mixed without parentheses; add parentheses")
        span = _span(parts[0], parts[-1])
        return _checked(Logic(operator=operator, operands=_nodes(parts), **span), words[0])


def _nodes(parts: tuple[Token | Node, ...]) -> tuple[Node, ...]:
    return tuple(part for part in parts if isinstance(part, Node))


def _span(first: Token | Node, last: Token | Node) -> dict[str, Any]:
    return {
        "start": first.start if isinstance(first, Node) else first.start_pos,
        "end": last.end if isinstance(last, Node) else last.end_pos,
    }


def _checked(node: Node, token: Token) -> Node:
    if node.depth > MAX_DEPTH:
        raise at(token, f"operators and functions may be nested at most {MAX_DEPTH} levels deep")
    return node


def _unquoted(token: Token) -> str:
    # Only the literal's own quote is escaped (section 2.2). Other backslashes stay: patterns need them.
    return token[1:-1].replace(f"\\{token[0]}", token[0])
