"""Run it by hand: each kind with a server of its own, one after the other."""

from __future__ import annotations

import secrets
import sys
import tempfile
from functools import partial
from pathlib import Path

import click
import trio

from tests.fuzz.inputs import Scene
from tests.fuzz.kinds import KINDS, LOCAL, random_of
from tests.fuzz.run import Outcome, Plan, fuzz, fuzz_locally

#: Faults of one oracle that are shown.
_SHOWN = 5


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice([*KINDS, *LOCAL]))
@click.option("--inputs", default=100_000, show_default=True, help="Inputs of each kind.")
@click.option("--seed", type=int, help="What inputs are made from; any by default.")
@click.option("--only", type=int, multiple=True, help="The number of an input: send that alone.")
@click.option("--store", type=click.Choice(["memory:", "sqlite"]), default="memory:", show_default=True)
def main(
    kinds: tuple[str, ...], inputs: int, seed: int | None, only: tuple[int, ...], store: str
) -> None:
    """Send a server input that no client should send, and check that it still serves all others."""
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    say = partial(print, flush=True)
    say(f"seed {seed}")
    failed = []
    for kind in kinds or (*KINDS, *LOCAL):
        numbers = only or range(inputs)
        for number in only if kind in KINDS else ():
            say(KINDS[kind].make(random_of(seed, kind, number), Scene()))
        outcome = _run(Plan(kind, seed, numbers, store, with_lag=not only, say=say))
        say(outcome)
        _show(outcome)
        failed += [kind] * bool(outcome.faults)
    say(f"failed: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))


def _run(plan: Plan) -> Outcome:
    if plan.name in LOCAL:
        return fuzz_locally(plan)
    with tempfile.TemporaryDirectory() as directory:
        (outcome,) = trio.run(fuzz, Path(directory), plan)
        return outcome


def _show(outcome: Outcome) -> None:
    """The first ones of each oracle, and how many more there are."""
    for oracle in dict.fromkeys(fault.oracle for fault in outcome.faults):
        faults = [fault for fault in outcome.faults if fault.oracle == oracle]
        for fault in faults[:_SHOWN]:
            print(f"  {fault}")
        if len(faults) > _SHOWN:
            print(f"  {oracle}: {len(faults) - _SHOWN} more")


if __name__ == "__main__":
    main()
