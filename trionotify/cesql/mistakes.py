"""Error messages for invalid expressions, in words for their author.

lark reports terminals that the parser would have accepted. This module makes a sentence of them, with a
hint for common mistakes.
"""

from __future__ import annotations

import re
from typing import Final

from lark import Token
from lark.exceptions import UnexpectedToken

from trionotify.cesql.values import shown

__all__ = ["ParseError", "at", "explained"]


class ParseError(ValueError):
    """An invalid expression. `reason` is about the place at `line` and `column`, counted from 1."""

    def __init__(self, reason: str, line: int = 1, column: int = 1) -> None:
        super().__init__(f"line {line}, column {column}: {reason}")
        self.reason = reason
        self.line = line
        self.column = column


def at(token: Token, reason: str) -> ParseError:
    """Return the error `reason` at the place of `token`."""
    return ParseError(reason, token.line or 1, token.column or 1)


_VALUE: Final = frozenset(
    {"NUMBER", "STRING", "BOOLEAN", "NAME", "ATTRIBUTE", "FUNCTION", "MISNOMER"}
    | {"EXISTS", "NOT", "MINUS", "LPAR"}
)
_OPERATOR: Final = frozenset({"LOGIC", "COMPARISON", "PLUS", "MINUS", "TIMES", "NOT", "LIKE", "IN"})
_WORDS: Final = {
    "STRING": "a string in quotes",
    "NAME": "an attribute name",
    "LIKE": "LIKE",
    "IN": "IN",
    "LPAR": "'('",
    "COMMA": "','",
    "RPAR": "')'",
    "$END": "the end of the expression",
}


def explained(error: UnexpectedToken, text: str) -> ParseError:
    """Return the error for a parser that stopped at a token of `text`."""
    token = error.token
    if token.type == "$END":
        # lark places the end at the last token, or nowhere if there is none.
        lines = text.split("\n")
        line, column, found = len(lines), len(lines[-1]) + 1, "the expression ends"
    else:
        line, column, found = token.line, token.column, f"found {shown(token)}"
    reason = _hint(token, text, error.accepts)
    if reason is None:
        reason = f"expected {_expected(error.accepts)}, but {found}{_quotes(token, text)}"
    return ParseError(reason, line, column)


def _expected(accepted: set[str]) -> str:
    words = []
    if accepted >= _VALUE:
        accepted, words = accepted - _VALUE, ["a value"]
    elif accepted >= _OPERATOR:
        # A name could also be followed by '(' as a function, but that is never meant here.
        accepted, words = accepted - _OPERATOR - {"LPAR"}, ["an operator"]
    words += [word for name, word in _WORDS.items() if name in accepted]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


#: A comparison with a word that is probably a text without quotes.
_BARE: Final = re.compile(r"(?:[=>]|\blike\b)\s*([a-z][\w./:%@-]*)", re.IGNORECASE | re.ASCII)


def _quotes(token: Token, text: str) -> str:
    """Return how to quote the text at `token`, if it is probably one."""
    start = token.start_pos or 0
    for found in _BARE.finditer(text):
        if found.start(1) <= start < found.end(1):
            return f"; put quotes around a string: {shown(found[1])}"
    return ""


#: What other languages write, and what SQL for events writes instead.
_INSTEAD: Final = {
    "&": "AND",
    "|": "OR",
    "!": "NOT",
    "ILIKE": "LIKE, with LOWER() around the attribute",
    "IS": "EXISTS name, or NOT EXISTS name",
    "BETWEEN": "name >= 1 AND name <= 9",
}


def _hint(token: Token, text: str, accepted: set[str]) -> str | None:
    """Return the hint for a common mistake, or None."""
    start = token.start_pos or 0
    if token == "=" and text[start - 1 : start] == "=":
        return "write = to compare, not =="
    if (instead := _INSTEAD.get(token.upper())) is not None:
        return f"there is no {shown(token)}; write {instead}"
    if token.type == "STRING" and start and text[start - 1] == token[0]:
        return f"write a {token[0]} inside a string as \\{token[0]}"
    if token.type == "JUNK" and token in {"'", '"'}:
        return f"the string that starts here has no closing {token}"
    if token.type == "RPAR" and "$END" in accepted:
        return "this ')' has no opening '('"
    return None
