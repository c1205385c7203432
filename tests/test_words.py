"""The words of the docs: plain technical English, as the house has agreed on it.

A few words and one turn of phrase are not used at all. Sentences that begin with "Who" or "Nobody" say
less clearly who acts than those that name the actor, so there are none.

`python -m tests.test_words [FILE ...]` prints the counts, of Python files those in their strings and
comments.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
#: Its strings, docstrings and comments.
PACKAGE = sorted((ROOT / "trionotify").rglob("*.py"))
#: The scripts of the page and of the browser client, and all messages.
BROWSER = [*sorted((ROOT / "trionotify" / "web").rglob("*.js")), ROOT / "tests" / "messages.txt"]
#: The same as of the package. (This file has the words themselves.)
TESTS = [
    file
    for folder in ("tests", "benchmarks")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if file != Path(__file__) and "node_modules" not in file.parts
]

_WORDS = r"(?!as |what |example|instance)(?:(?!that\b|which\b|who\b)[\w'-]+ ){1,4}"
_VERB = r"(?:is|are|was|were|has|have|had|can|can't|may|must|will|would|does|do|did|don't|doesn't)"
#: What isn't written, and what is written in its place.
NEVER = {
    r"\bdear(?:er|est)?\b": "expensive",
    r"\bmend(?:s|ed|ing)?\b": "replace, fix",
    r"\banew\b": "again",
    r"\bshall\b": "must, will",
    r"\bhead fields?\b": "header",
    rf"[,;:] for {_WORDS}{_VERB}\b": "because, so",
    r"[,;:] for (?:it|they|he|she|we|there|nobody|nothing)\b": "because, so",
}
#: Two sentences that a colon joins. (A label may be followed by a sentence: it has few words.)
SPLICED = r"(?:[^\s.;:!?|]+ ){4,}[^\s.;:!?|]+: (?:it|they|there|so|else|nobody|everybody)\b"
#: Sentences with a subject that names nobody. (Questions may ask who.)
RARE = r"(?:^|[.!?:] |\| |- )(?:Who|Whoever|Nobody|Everybody)\b(?![^.!?]*\?)"
#: A clause behind a colon: a sentence of its own, or "because".
COLON = r"[a-z)`]: (?:it|they|the|a|an|this|that|there|so|else|what|who|nobody|everybody) "


@cache
def prose(file: Path) -> list[str]:
    """The sentences of a file, without code; of a Python file, its strings and comments."""
    text = file.read_text()
    if file.suffix == ".py":
        return [_without_code(found) for found in _strings(text)]
    text = re.sub(r"^ *(```+|~~~+).*?^ *\1 *$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [_without_code(found) for found in re.split(r"\n\s*\n|\n(?=[-|#>]|\d+\. )", text)]


def _without_code(text: str) -> str:
    text = re.sub(r"`[^`]*`", "`x`", text)
    return " ".join(re.sub(r"\]\([^)]*\)", "]", text).split())


def _strings(source: str) -> list[str]:
    found = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    comments, last = [""], 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                comments.append("")
            comments[-1] += token.string.lstrip("#: ") + " "
            last = token.start[0]
    return found + comments


def occurrences(pattern: str, files: list[Path]) -> list[str]:
    """Each with its file and some words around it."""
    return [
        f"{file.name}: …{text[max(found.start() - 30, 0) : found.end() + 30]}…"
        for file in files
        for text in prose(file)
        for found in re.finditer(pattern, text, re.IGNORECASE if pattern != RARE else 0)
    ]


@pytest.mark.parametrize("pattern", NEVER, ids=NEVER.values())
def test_what_is_never_written(pattern: str) -> None:
    """Not in the docs, nor in the package with its scripts and messages, nor in the tests."""
    files = DOCS + PACKAGE + BROWSER + TESTS
    assert occurrences(pattern, files) == [], f"write: {NEVER[pattern]}"


def test_no_colon_joins_two_sentences() -> None:
    """Two sentences, or a "because", say how they belong together."""
    assert occurrences(SPLICED, DOCS + PACKAGE) == []


def test_sentences_name_who_acts() -> None:
    """All of them do."""
    assert occurrences(RARE, DOCS + PACKAGE + TESTS) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("It waits, for the kernel takes about as much.", False),
        ("It waits, for there is no room.", "because, so"),
        ("It falls behind, for the kernel has taken it.", "because, so"),
        ("Options, for instance `x`, for the clients that are behind.", False),
        ("It is `dear`.", False),
        ("Slow clients: they read from the log.", False),
        ("It reads the log at its own pace: it is never in the way.", "two sentences"),
        ("Accepting is dear.", "expensive"),
    ],
)
def test_the_check_finds_them(text: str, word: str | bool, tmp_path: Path) -> None:
    """And not what only looks like it."""
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{text}\n\n```py\n# dear, anew\n```\n")
    rules = {**NEVER, SPLICED: "two sentences"}
    found = [rules[pattern] for pattern in rules if occurrences(pattern, [page])]
    assert (found[0] if found else False) == word


def _counts(files: list[Path]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for pattern, word in [
        *NEVER.items(),
        (SPLICED, "two sentences"),
        (RARE, "who, nobody, …"),
        (COLON, "colons"),
    ]:
        counts[word] += len(occurrences(pattern, files))
    return counts


if __name__ == "__main__":
    for word, count in _counts([Path(name) for name in sys.argv[1:]] or DOCS).items():
        print(f"{count:4}  {word}")
