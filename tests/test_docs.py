"""README and docs: programs run and print what is shown, links lead somewhere, tables are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from tests.test_layout import ORDER
from trionotify import CloseCode
from trionotify.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()

_PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#:]*)(#[^)]*)?\)")

PROGRAMS = [
    pytest.param(*found.groups(), id=f"{page.name}-{number}")
    for page in PAGES
    for number, found in enumerate(_PROGRAM.finditer(page.read_text()), 1)
]


@pytest.mark.parametrize(("program", "shown"), PROGRAMS)
def test_programs_print_what_is_shown(program: str, shown: str) -> None:
    """Each is whole, and runs without a warning."""
    command = [sys.executable, "-W", "error", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_snippet_is_such_a_program(page: Path) -> None:
    """None escapes the test above."""
    text = page.read_text()
    assert text.count("```python\n") == len(_PROGRAM.findall(text))


def anchors(page: Path) -> set[str]:
    """Where links into a page can lead, spelled as GitHub does."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and a heading that it has."""
    for path, anchor in _LINK.findall(page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), path + anchor


def test_the_reference_has_every_option() -> None:
    """With its default."""
    for field in attrs.fields(Settings):
        default = "the file limit less 64" if field.name == "max_connections" else field.default
        assert f"| `--{field.name.replace('_', '-')}` | {default} |" in REFERENCE


def test_the_reference_has_every_close_code() -> None:
    """And whether to reconnect."""
    for code in CloseCode:
        row = re.search(rf"^\| {code:d} \| `{code.name}` \| .* \| (yes|no) \|$", REFERENCE, re.MULTILINE)
        assert row, code
        assert row[1] == ("yes" if code.reconnect else "no")


def test_how_it_works_has_every_module() -> None:
    """In the order in which to read them."""
    table = (ROOT / "docs" / "how-it-works.md").read_text().partition("Words:")[0]
    named = re.findall(
        r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line)
    )
    assert named == [name for name in ORDER if name != "__main__"]
