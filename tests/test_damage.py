"""Damage to a log's files reaches no client: the short form of `python -m tests.damage`.

And whether its oracles see what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.damage.damages import KINDS
from tests.damage.power import cut_power
from tests.damage.run import damage
from tests.damage.shim import missing_compiler
from tests.damage.templates import Template, make_template
from trionotify.storage import reading, recovery

SEED = 1


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> list[Template]:
    """One log that was killed, with all three files full, and one that was stopped."""
    return [
        make_template(name, tmp_path_factory.mktemp(name), count=100) for name in ("merged", "stopped")
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_damage_of_all_sorts(kind: str, templates: list[Template], tmp_path: Path) -> None:
    """Nothing wrong is delivered, nothing is missing without a word, no offset is given twice."""
    outcome = await damage(kind, SEED, range(12), templates, tmp_path)
    assert not outcome.faults, "\n".join(map(str, outcome.faults))
    assert outcome.noticed.total() > outcome.noticed["nothing lost"]


@pytest.mark.skipif(missing_compiler() is not None, reason=f"{missing_compiler()}")
async def test_the_power_is_cut(tmp_path: Path) -> None:
    """Acknowledged events are there, and refused ones are not, however the disk behaves."""
    lives = await cut_power(SEED, 3, tmp_path)
    assert not lives.faults, "\n".join(lives.faults)
    assert lives.acknowledged > 0


# --- the oracles are sharp ---


def _believe_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "is_whole", lambda row: True)


def _trust_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "missing", lambda *_, **__: None)


@pytest.mark.parametrize(
    "way",
    [(_believe_all, "database", "instead of"), (_trust_the_file, "wal", "in the same epoch")],
)
async def test_a_store_that_notices_nothing_is_found_out(
    way: tuple[Callable[[Any], None], str, str],
    templates: list[Template],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without checksums, and without the note of the head."""
    spoil, kind, words = way
    spoil(monkeypatch)
    outcome = await damage(kind, SEED, range(12), templates, tmp_path)
    assert any(words in fault.detail for fault in outcome.faults), outcome


async def test_what_was_published_is_compared(templates: list[Template], tmp_path: Path) -> None:
    """One notification that isn't what the readers expect is a fault."""
    template = templates[-1]
    wrong = attrs.evolve(template, truth={**template.truth, template.head: ("wrong",)})
    outcome = await damage("lock", SEED, range(1), [wrong], tmp_path)
    assert "instead of ('wrong',)" in outcome.faults[0].detail
