"""What is wrong with a text that is no expression, in words for whoever wrote it.

lark names terminals and counts what the parser would have taken; here that becomes a sentence, and
where people go wrong the same way, a hint.
"""

from __future__ import annotations

import re
from typing import Final

from lark import Token
from lark.exceptions import UnexpectedToken

from trionotify.cesql.values import shown

__all__ = ["ParseError", "at", "explained"]


class ParseError(ValueError):
    """The text is no expression: `reason`, at `line` and `column`, which count from 1."""

    def __init__(self, reason: str, line: int = 1, column: int = 1) -> None:
        super().__init__(f"line {line}, column {column}: {reason}")
        self.reason = reason
        self.line = line
        self.column = column


def at(token: Token, reason: str) -> ParseError:
    """The error `reason`, which shows at `token`."""
    return ParseError(reason, token.line or 1, token.column or 1)


_VALUE: Final = frozenset(
    {"NUMBER", "STRING", "BOOLEAN", "NAME", "ATTRIBUTE", "FUNCTION", "MISNOMER"}
    | {"EXISTS", "NOT", "MINUS", "LPAR"}
)
_OPERATOR: Final = frozenset({"LOGIC", "COMPARISON", "PLUS", "MINUS", "TIMES", "NOT", "LIKE", "IN"})
_WORDS: Final = {
    "STRING": "a text in quotes",
    "NAME": "an attribute's name",
    "LIKE": "LIKE",
    "IN": "IN",
    "LPAR": "'('",
    "COMMA": "','",
    "RPAR": "')'",
    "$END": "the end of the text",
}


def explained(error: UnexpectedToken, text: str) -> ParseError:
    """What a parser that stopped at a token of `text` has to say."""
    token = error.token
    if token.type == "$END":
        # lark places the end at the last token, or nowhere if there is none.
        lines = text.split("\n")
        line, column, found = len(lines), len(lines[-1]) + 1, "the text ends"
    else:
        line, column, found = token.line, token.column, f"there is {shown(token)}"
    reason = _hint(token, text, error.accepts)
    if reason is None:
        reason = f"{_expected(error.accepts)} is expected here, but {found}{_quotes(token, text)}"
    return ParseError(reason, line, column)


def _expected(accepted: set[str]) -> str:
    words = []
    if accepted >= _VALUE:
        accepted, words = accepted - _VALUE, ["a value"]
    elif accepted >= _OPERATOR:
        # What may be a function's name could go on with '(', too; nobody means that here.
        accepted, words = accepted - _OPERATOR - {"LPAR"}, ["an operator"]
    words += [word for name, word in _WORDS.items() if name in accepted]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


#: What is compared with something that looks like a text without its quotes.
_BARE: Final = re.compile(r"(?:[=>]|\blike\b)\s*([a-z][\w./:%@-]*)", re.IGNORECASE | re.ASCII)


def _quotes(token: Token, text: str) -> str:
    """How to write the text at `token`, if that is what it is."""
    start = token.start_pos or 0
    for found in _BARE.finditer(text):
        if found.start(1) <= start < found.end(1):
            return f"; a text needs quotes: {shown(found[1])}"
    return ""


def _hint(token: Token, text: str, accepted: set[str]) -> str | None:
    """What to say instead where people go wrong the same way."""
    start = token.start_pos or 0
    if token.type == "STRING" and start and text[start - 1] == token[0]:
        return f"a {token[0]} inside a text is written \\{token[0]}"
    if token.type == "JUNK" and token in {"'", '"'}:
        return f"the text that begins here lacks the {token} at its end"
    if token.type == "RPAR" and "$END" in accepted:
        return "this ')' closes nothing"
    return None
