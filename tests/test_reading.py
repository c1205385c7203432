"""The course in docs/reading.md, and docs/patterns.md: the names exist, and the exercises work."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs
import pytest

from tests.test_layout import CORE, ROOMS, modules, room_of

ROOT = Path(__file__).parent.parent
COURSE = (ROOT / "docs" / "reading.md").read_text()
CHAPTERS = re.split(r"^(?=## \d)", COURSE, flags=re.MULTILINE)[1:]
_PATTERNS = (ROOT / "docs" / "patterns.md").read_text()
ROWS = re.findall(r"^\| (?!-|pattern)(.*) \| (.*) \|$", _PATTERNS, re.MULTILINE)

_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_LINK = re.compile(r"\[`[\w/]+\.py`\]\(([\w./]+\.py)\)")
_NAME = re.compile(r"`([\w.]+)`")


@cache
def defined(file: Path) -> dict[str, range]:
    """The names that a file defines, a method as `Class.method`, with their lines."""
    return dict(_defined(ast.parse(file.read_text()), ""))


def _defined(node: ast.AST, prefix: str) -> Iterator[tuple[str, range]]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + inner.name, range(inner.lineno, (inner.end_lineno or 0) + 1)
            if isinstance(inner, ast.ClassDef):
                yield from _defined(inner, f"{prefix}{inner.name}.")


def named(text: str, base: Path) -> Iterator[tuple[Path, str]]:
    """The names that stand behind a link to a file."""
    _, *pieces = _LINK.split(text)
    for link, names in zip(pieces[::2], pieces[1::2], strict=True):
        for name in _NAME.findall(names):
            yield (base / link).resolve(), name


def looked_at(text: str) -> set[tuple[Path, str]]:
    """The files that chapters name to read first, up to the colon with the reason."""
    items = re.findall(r"^- (\[`.*?\.py\).*?): ", text, re.MULTILINE)
    return {found for item in items for found in named(item, ROOT / "docs")}


def lines_of(text: str) -> int:
    """How many lines that is."""
    return len({(file, line) for file, name in looked_at(text) for line in defined(file)[name]})


def modules_of(chapter: str) -> list[str]:
    """The modules that the chapter's second line names."""
    (line,) = re.findall(r"^Modules: (.*)$", chapter, re.MULTILINE)
    return _NAME.findall(line)


def test_the_chapters_have_every_module() -> None:
    """Each module once; the two rooms that are libraries by themselves as one."""
    libraries = {"cesql", "storage"}
    names = {room_of(name) if room_of(name) in libraries else name for name in modules()}
    assert sorted(name for chapter in CHAPTERS for name in modules_of(chapter)) == sorted(
        names - (ROOMS.keys() - libraries)
    )


def test_it_begins_with_the_core() -> None:
    """The first chapters, which are named as an afternoon's, each begin with some of it."""
    found = [name for chapter in CHAPTERS for name in modules_of(chapter) if name in CORE]
    assert found == CORE
    first = next(at for at, chapter in enumerate(CHAPTERS) if not set(CORE) & {*modules_of(chapter)})
    assert not set(CORE) & {name for chapter in CHAPTERS[first:] for name in modules_of(chapter)}
    for chapter in CHAPTERS[:first]:
        assert modules_of(chapter)[0] in CORE


#: Modules with next to nothing in them.
SLIGHT = {
    *("model.jsontext", "model.keywords", "model.receipt", "model.cursor", "model.replies"),
    *(
        "delivery.counters",
        "delivery.accepted",
        "delivery.quotas",
        "delivery.keywords",
        "durations",
        "version",
    ),
    *("http.stream_requests", "durations", "version", "__main__"),
}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.partition(".")[0][3:])
def test_a_chapter_looks_at_each_of_its_modules(chapter: str) -> None:
    """But for those that have next to nothing in them."""
    seen = {link.partition("trionotify/")[2] for link in _LINK.findall(chapter)}
    for module in modules_of(chapter):
        if module in SLIGHT:
            continue
        assert any(re.match(rf"{module.replace('.', '/')}(\.py|/)", path) for path in seen), module


def test_what_the_course_names_is_there() -> None:
    """Functions and classes in the file that the line links to; and tests."""
    found = looked_at(COURSE)
    assert len(found) > 100
    for file, name in found:
        assert name in defined(file), (file.name, name)
    tests = _TEST.findall(COURSE)
    assert len(tests) > 30
    for path, name in tests:
        assert name in defined(ROOT / path), (path, name)


def test_it_is_as_long_as_it_says() -> None:
    """The first reading, the afternoon's and the package have these lengths, within a tenth."""
    said = re.search(
        r"some ([\d,]+) lines, of the package's ([\d,]+)\."
        r".*?chapters ([\d, and]+) name some ([\d,]+) lines",
        " ".join(COURSE.split()),
    )
    assert said is not None
    first, package, chapters, afternoon = said.groups()
    some = "".join([CHAPTERS[int(number) - 1] for number in re.findall(r"\d+", chapters)])
    all_lines = [line for file in modules().values() for line in file.read_text().splitlines()]
    assert int(first.replace(",", "")) == pytest.approx(lines_of(COURSE), rel=0.1)
    assert int(afternoon.replace(",", "")) == pytest.approx(lines_of(some), rel=0.1)
    assert int(package.replace(",", "")) == pytest.approx(len(all_lines), rel=0.1)


def test_what_the_patterns_name_is_there() -> None:
    """A row has a file, and what to look at in it."""
    assert len(ROWS) > 30
    for _, where in ROWS:
        found = list(named(where, ROOT / "docs"))
        links = {(ROOT / "docs" / link).resolve() for link in _LINK.findall(where)}
        assert {file for file, _ in found} == links, where
        for file, name in found:
            assert name in defined(file), (file.name, name)


@attrs.frozen
class Exercise:
    """A change, and the tests that notice it, or don't."""

    file: str
    before: str
    after: str
    fail: list[str]
    passing: list[str]

    @classmethod
    def of(cls, chapter: str) -> Exercise:
        _, _, text = chapter.partition("**Exercise.**")
        ((file, change),) = re.findall(
            r"^```diff\n--- (\S+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
        )
        lines = change.splitlines(keepends=True)
        return cls(
            file,
            "".join([line[1:] for line in lines if line[0] == "-"]),
            "".join([line[1:] for line in lines if line[0] == "+"]),
            re.findall(r"^Fails: `(\S+)`", text, re.MULTILINE),
            re.findall(r"^Passes: `(\S+)`", text, re.MULTILINE),
        )


def test_the_exercises_apply() -> None:
    """Each change has one place in its file: said at once, and not after minutes."""
    for chapter in CHAPTERS:
        exercise = Exercise.of(chapter)
        assert (ROOT / exercise.file).read_text().count(exercise.before) == 1, exercise


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.partition(".")[0][3:])
def test_the_exercise(chapter: str, tmp_path: Path) -> None:
    """On a copy: its change applies, and the tests that it names fail, or pass, as it says."""
    exercise = Exercise.of(chapter)
    assert exercise.fail
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("trionotify", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "peers", "node_modules")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    file = tmp_path / exercise.file
    source = file.read_text()
    assert source.count(exercise.before) == 1
    file.write_text(source.replace(exercise.before, exercise.after))
    assert pytest_says(tmp_path, exercise.fail) == pytest.ExitCode.TESTS_FAILED
    if exercise.passing:
        assert pytest_says(tmp_path, exercise.passing) == pytest.ExitCode.OK


def pytest_says(directory: Path, tests: list[str]) -> int:
    """Their exit code; their files are in a directory of their own, so they clean up no other ones."""
    # In /tmp, because the path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="trionotify-") as temporary:
        options = ("-x", "-q", "-p", "no:cacheprovider", f"--basetemp={temporary}/t")
        command = [sys.executable, "-m", "pytest", *options, *tests]
        return subprocess.run(
            command, cwd=directory, capture_output=True, timeout=600, check=False
        ).returncode
