"""Run it by hand."""

from __future__ import annotations

import secrets
import sys
import tempfile
from functools import partial
from pathlib import Path

import click
import trio

from benchmarks.load import raise_file_limit
from tests.soak.run import SoakPlan, soak

#: Faults that are shown.
_SHOWN = 20
#: Of the server's log, so many lines are shown when the soak itself fails.
_LINES = 60


@click.command()
@click.option("--minutes", default=30.0, show_default=True, help="How long clients come and go.")
@click.option("--clients", default=200, show_default=True, help="Clients that listen.")
@click.option("--seed", type=int, help="What chance decides; any by default.")
@click.option("--store", type=click.Choice(["sqlite", "memory:"]), default="sqlite", show_default=True)
def main(minutes: float, clients: int, seed: int | None, store: str) -> None:
    """Let a server serve clients of all kinds under attack, and look whether it stays as it was."""
    raise_file_limit()
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    say = partial(print, flush=True)
    say(f"seed {seed}")
    plan = SoakPlan(seed, minutes * 60, clients, store, say=say)
    with tempfile.TemporaryDirectory() as directory:
        try:
            verdict = trio.run(soak, plan, Path(directory))
        except BaseException:
            # What became of a client is in there: a line for each that has left.
            said = (Path(directory) / "stderr").read_text().splitlines()
            say("\n".join(said[-_LINES:]))
            raise
    say(f"{verdict.figures}; {verdict.samples[0]} -> {verdict.samples[-1]}; {verdict.lag}")
    for fault in verdict.faults[:_SHOWN]:
        say(f"  {fault}")
    say(f"{len(verdict.faults)} FAULTS" if verdict.faults else "fine")
    sys.exit(bool(verdict.faults))


if __name__ == "__main__":
    main()
