"""The messages in a browser: the sentences of the page at `/`, and those of `trionotify.js`.

They are read from the source, with `{}` where the text differs each time. tests/test_browser.py and
tests/browser provoke them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import trionotify
from tests.catalogue.sources import is_message

__all__ = ["in_scripts", "on_the_page"]

WEB: Final = Path(trionotify.__file__).parent / "web"
#: Attributes of elements that people see or hear.
SHOWN: Final = ("aria-label", "placeholder", "title")
#: Patterns of texts that have a space and are no sentences, and what those are.
NOT_MESSAGES: Final = {
    r"[\w-]*(?:[.#\[][\w-]*)+\s|\(\w+-\w+:|[^a-z]*$": "a selector, a media query, no words",
    r"[\w-]+: [\w-]+(; [\w-]+: [\w-]+)*;?$": "a style",
    r"(text|application)/": "a header's value",
    r"Bearer ": "a header's value",
    r"\n|  |\w+\n|(import|async|await|(\{\})?curl|const|for|-[HN]) |client\.|\{\w*\}$": "a program",
    r"\{\} \{\}$|hue-|tile panel|0 0 ": "names of classes, numbers",
}
_TOKEN: Final = re.compile(
    r"//[^\n]*|/\*.*?\*/|(?P<string>\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')|(?P<template>`)"
    r"|(?P<brace>[{}])|(?<=[(,=:&|!?;\n])\s*/(?![*/])(?:[^/\\\n\[]|\\.|\[(?:[^\]\\]|\\.)*\])+/",
    re.DOTALL,
)
_PIECE: Final = re.compile(r"(?:[^`\\$]|\\.|\$(?!\{))+|\$\{|`", re.DOTALL)


class _Texts(HTMLParser):
    """The texts of a page, in their order; code in one is a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "code":
            self.found.append("")
        shown = [value for name, value in attrs if name in SHOWN and value]
        if shown:
            self.found += [*shown, ""]

    def handle_endtag(self, tag: str) -> None:
        if tag != "code":
            self.found.append("")

    def handle_data(self, data: str) -> None:
        self.found[-1] += data


def on_the_page() -> Iterator[str]:
    """The page's texts, each once, and then those of its scripts."""
    texts = _Texts()
    texts.feed((WEB / "page.html").read_text())
    yield "page.html"
    for text in dict.fromkeys(" ".join(text.split()) for text in texts.found):
        if re.search("[A-Za-z]{2}", text):
            yield f"    {text}"
    yield from _of(WEB / "page.js", *sorted((WEB / "page").glob("*.js")))


def in_scripts() -> Iterator[str]:
    """The errors of the browser client."""
    yield from _of(WEB / "trionotify.js", *sorted((WEB / "trionotify").glob("*.js")))


def _of(*files: Path) -> Iterator[str]:
    for file in files:
        texts = [
            text for text in dict.fromkeys(literals(file.read_text())) if is_message(text, NOT_MESSAGES)
        ]
        if texts:
            yield file.relative_to(WEB).as_posix()
            yield from (f"    {text}" for text in texts)


def literals(source: str) -> list[str]:
    """The strings and templates of a script, also those in placeholders of templates."""
    found: list[str] = []
    _read(source, 0, found)
    return found


def _read(source: str, at: int, found: list[str]) -> int:
    """Read code up to the brace that ends it; return where that is."""
    depth = 0
    while token := _TOKEN.search(source, at):
        at = token.end()
        if string := token["string"]:
            found.append(re.sub(r"\\(.)", r"\1", string[1:-1]))
        elif token["template"]:
            at = _template(source, at, found)
        elif token["brace"]:
            depth += 1 if token["brace"] == "{" else -1
            if depth < 0:
                return at
    return len(source)


def _template(source: str, at: int, found: list[str]) -> int:
    text = ""
    inner: list[str] = []
    while piece := _PIECE.match(source, at):
        at = piece.end()
        if piece[0] == "`":
            break
        if piece[0] == "${":
            at = _read(source, at, inner)
            text += "{}"
        else:
            text += piece[0].replace("\\n", "\n").replace("\\u00a0", " ")
    found += [text, *inner]
    return at
