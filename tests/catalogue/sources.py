"""The messages in the package's source, as patterns: every text literal that reads like a sentence.

A placeholder, of an f-string or of a log call, stands for anything. Docstrings are left out, and what
`NOT_MESSAGES` says is no message.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import trionotify

__all__ = ["is_message", "missing_from"]

PACKAGE: Final = Path(trionotify.__file__).parent

#: Patterns of texts that have a space and are no sentences, and what those are.
NOT_MESSAGES: Final = {
    r"\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|PRAGMA|BEGIN)\b": "SQL",
    r"(journal_mode|synchronous|\w+) = \S+$": "a PRAGMA of SQLite",
    r"(?s).*redis\.(call|acl_check_cmd)\(|#!lua|if epoch ": "a script for Redis",
    r"READONLY ": "an error of Redis",
    r"\n\?start:": "the grammar of CloudEvents SQL",
    r"(dict|tuple|list|Literal)\[": "a type",
    r"trionotify(\.connect)?: (?!the log was|%)[a-z.]+( [A-Za-z:]+)*.?$": "the name of a task",
    r"default-src ": "a header's value",
    r"[\w/]+; charset=utf-8$": "a header's value",
    r"(no-store|Upgrade), ": "a header's value",
    r"(GET, HEAD, POST|Retry-After, Trionotify.*)$": "a header's value",
    r"\(GET\|": "the pattern of a request",
    r"HTTP/1\.1 ": "the bytes of an answer",
    r"[\w-]+: .?(\S*|chunked|close)\r\n": "the bytes of an answer",
    r"(data|id|event|retry): .?\n": "the bytes of a stream",
    r"id: .?\n\n": "the bytes of a stream",
    r".?id: .?\n\n$": "the bytes of a stream",
    r"Bearer ": "a header's value",
    r"\^?\(?(import|export)\b": "a line of JavaScript",
    r"MONOTONIC_USEC=": "what systemd reads",
    r"[^a-z]*$": "no words",
}
#: A placeholder.
_ANYTHING: Final = "\0"
_OF_LOGGING: Final = re.compile(r"%[+-]?[\d.]*[sdrf]")


def missing_from(catalogue: str) -> Iterator[tuple[str, str]]:
    """Each literal that no part of the catalogue shows, with its module."""
    whole, lines = " ".join(catalogue.split()), catalogue.splitlines()
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        for text in _literals(file):
            if not _is_shown(text, whole, lines):
                yield module, text.replace(_ANYTHING, "{}").strip()


def _literals(file: Path) -> Iterator[str]:
    tree = ast.parse(file.read_text())
    skipped = set(_parts_of_others(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(_piece(value) for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            text = _OF_LOGGING.sub(_ANYTHING, node.value)
        else:
            continue
        if is_message(text, NOT_MESSAGES):
            yield text


def _parts_of_others(tree: ast.AST) -> Iterator[int]:
    """The literals that are docstrings, or parts of an f-string."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            yield id(body[0].value)
        if isinstance(node, ast.JoinedStr):
            for value in node.values:
                inner = value.format_spec if isinstance(value, ast.FormattedValue) else value
                yield from (id(one) for one in ast.walk(inner)) if inner is not None else ()


def _piece(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else _ANYTHING


def is_message(text: str, others: Iterable[str]) -> bool:
    """Whether a literal reads like a sentence, and matches no pattern of `others`."""
    words = " " in text.strip() and re.search(r"[a-z]{3}", text) is not None
    return words and not any(re.match(pattern, text) for pattern in others)


def _is_shown(text: str, whole: str, lines: list[str]) -> bool:
    """Whether the catalogue has it: help is wrapped, all else stands on a line."""
    words = " ".join(text.split())
    if _ANYTHING not in words:
        return words in whole
    pattern = re.compile(".*".join(map(re.escape, words.split(_ANYTHING))))
    return any(pattern.search(line) for line in lines)
