"""Clients of all kinds, under attack: the short form of `python -m tests.soak`, and whether it sees."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import attrs
import pytest

from tests.fuzz.broken import SOAKED
from tests.fuzz.vitals import Vitals
from tests.soak.flat import DESCRIPTORS_SLACK, RSS_SLACK, THREADS_SLACK, growth
from tests.soak.run import SoakPlan, soak

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

#: A busy machine's figures of a few seconds are judged by the command only.
FIGURES = ("lag: ", "growth: ")
SHORT = SoakPlan(1, seconds=4, clients=30, rest=0.2, attack=0.2, rate=12, sampling=0.2, settling=120)


@linux_only
async def test_everyone_is_served_under_attack(tmp_path: Path) -> None:
    """Everything acknowledged reaches each recipient once, in order, and the run ends in time."""
    plan = attrs.evolve(SHORT, seed=secrets.randbelow(1_000_000))
    print(f"seed {plan.seed}")
    verdict = await soak(plan, tmp_path)
    faults = [fault for fault in verdict.faults if not fault.startswith(FIGURES)]
    assert not faults, "\n".join(faults)
    assert verdict.lag
    assert verdict.lag.waits


@linux_only
@pytest.mark.parametrize("way", SOAKED)
async def test_a_broken_server_is_found_out(way: str, tmp_path: Path) -> None:
    """By notifications that a client missed, and by an exit that wasn't in good order."""
    launcher = (sys.executable, "-m", "tests.fuzz.broken", way)
    plan = attrs.evolve(SHORT, seconds=6, clients=12, rest=60.0, settling=3.0)
    try:
        faults = (await soak(plan, tmp_path, launcher)).faults
    except* AssertionError as group:
        faults = [f"delivery: {error}" for error in group.exceptions]
    word, _ = SOAKED[way]
    assert any(fault.startswith(word) for fault in faults), faults


STEADY = [Vitals(50 << 20, 40, 3)] * 30


def test_what_stays_the_same() -> None:
    """A moment's peak is no growth, nor is what is within the slack."""
    assert growth(STEADY) == []
    assert growth([*STEADY, Vitals(500 << 20, 400, 9)]) == []
    assert growth(STEADY[:2]) == ["too few samples"]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"rss": (51 << 20) + RSS_SLACK}, "rss"),
        ({"descriptors": 41 + DESCRIPTORS_SLACK}, "descriptors"),
        ({"threads": 4 + THREADS_SLACK}, "threads"),
    ],
)
def test_what_grows(more: dict[str, int], word: str) -> None:
    """Each is named."""
    (fault,) = growth([*STEADY, *[attrs.evolve(STEADY[0], **more)] * 30])
    assert fault.startswith(f"{word} grew")
