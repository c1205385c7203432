"""Run it by hand, for as long as it should be."""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import trio

from tests.damage.damages import KINDS
from tests.damage.power import cut_power
from tests.damage.run import Outcome, damage
from tests.damage.shim import missing_compiler
from tests.damage.templates import VARIANTS, Template, make_template

#: Faults of one kind that are shown.
_SHOWN = 10
_COLUMNS = ("refused", "new epoch", "when read", "when written", "nothing lost", "a snapshot")


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice([*KINDS, "fsync"]))
@click.option("--runs", default=500, show_default=True, help="Runs of each kind.")
@click.option("--kills", default=200, show_default=True, help="How often the power is cut, for fsync.")
@click.option("--seed", type=int, help="What damages are made from; any by default.")
@click.option("--only", type=int, multiple=True, help="The number of a run: that one alone.")
@click.option("--keep", type=click.Path(path_type=Path), help="A directory where files of faults stay.")
def main(kinds: tuple[str, ...], seed: int | None, only: tuple[int, ...], **given: Any) -> None:
    """Damage the files of a log, and look whether a client gets anything wrong, or misses anything."""
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    print(f"seed {seed}", flush=True)
    failed = []
    files = [kind for kind in kinds or KINDS if kind in KINDS]
    if files:
        failed += _damage(files, seed, only or range(given["runs"]), given["keep"])
    if "fsync" in kinds or not kinds:
        failed += _fsync(seed, given["kills"])
    print(f"failed: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))


def _damage(kinds: list[str], seed: int, numbers: Sequence[int], keep: Path | None) -> list[str]:
    with tempfile.TemporaryDirectory() as directory:
        templates = _templates(Path(directory))
        outcomes = []
        for kind in kinds:
            begun = time.perf_counter()
            place = keep or Path(directory)
            outcomes.append(trio.run(damage, kind, seed, numbers, templates, place))
            _show(outcomes[-1], time.perf_counter() - begun)
    print(_table(outcomes))
    return [outcome.kind for outcome in outcomes if outcome.faults]


def _fsync(seed: int, kills: int) -> list[str]:
    if why := missing_compiler():
        print(f"fsync: skipped: {why}")
        return []
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        lives = trio.run(cut_power, seed, kills, Path(directory))
    for fault in lives.faults[:_SHOWN]:
        print(f"  python -m tests.damage fsync --seed {seed} --kills {kills}\n    {fault}")
    counts = "".join(f"; {name}: {count}" for name, count in sorted(lives.noticed.items()))
    print(
        f"fsync: {lives.kills} kills in {time.perf_counter() - begun:.0f} s; {lives.acknowledged}"
        f" acknowledged, {lives.refused} refused{counts}; {len(lives.faults)} faults"
    )
    return ["fsync"] if lives.faults else []


def _templates(directory: Path) -> list[Template]:
    made = []
    for name in VARIANTS:
        (directory / name).mkdir()
        made.append(make_template(name, directory / name))
        sizes = ", ".join(f"log.db{suffix} {len(data)}" for suffix, data in made[-1].files.items())
        print(f"{name}: offsets {made[-1].start + 1} to {made[-1].head}; {sizes}", flush=True)
    return made


def _show(outcome: Outcome, seconds: float) -> None:
    for fault in outcome.faults[:_SHOWN]:
        print(f"  {fault}")
    if len(outcome.faults) > _SHOWN:
        print(f"  {len(outcome.faults) - _SHOWN} more")
    notes = "".join(f"; {name}: {count}" for name, count in sorted(outcome.notes.items()))
    print(f"{outcome.kind}: {outcome.runs} runs in {seconds:.0f} s{notes}", flush=True)


def _table(outcomes: list[Outcome]) -> str:
    lines = [f"| {' | '.join(('damaged', 'runs', *_COLUMNS, 'faults'))} |", f"|{' --- |' * 9}"]
    for outcome in outcomes:
        cells = (outcome.kind, outcome.runs, *(outcome.noticed[name] for name in _COLUMNS))
        lines.append(f"| {' | '.join(map(str, (*cells, len(outcome.faults))))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
