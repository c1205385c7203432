"""The messages: `messages.txt` has all of them, as they are said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.catalogue.collect import FILE, REST, catalogue, not_provoked
from tests.catalogue.sources import missing_from

HOW = "run `python -m tests.catalogue`, and read the diff of tests/messages.txt"


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own sentences are those of Linux")
def test_the_catalogue_is_what_is_said(tmp_path: Path) -> None:
    """Each message is provoked again, and compared with the file."""
    found = catalogue(tmp_path).splitlines()
    written = FILE.read_text().splitlines()
    assert [line for line in found if line not in set(written)] == [], HOW
    assert found == written, HOW


def test_the_catalogue_is_whole() -> None:
    """Every sentence in the source was provoked, or is in the list of those that were not."""
    provoked, _, rest = FILE.read_text().partition(REST)
    assert rest, HOW
    missing = {text for _, text in missing_from(provoked)}
    known = not_provoked()
    assert missing - known == set(), "provoke it in tests/catalogue, or say in elsewhere.txt why not"
    assert known - missing == set(), "it is provoked, or gone: take it out of elsewhere.txt"
