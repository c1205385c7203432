"""The benchmarks' command line: `python -m benchmarks --help`."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import click

from benchmarks.cases.measures import Case
from benchmarks.catalogue import CASES
from benchmarks.embedded import WAITING, compare
from benchmarks.load import NotOffered, Stuck, raise_file_limit
from benchmarks.machine import LOAD_CORE, describe, pin
from benchmarks.report import Results, comparison, document, fill, plot, table
from benchmarks.revisions import unpacked
from benchmarks.servers import KINDS, PEERS, USUAL, Kind, running


class RunByDefault(click.Group):
    """A group in which the command `run` may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=RunByDefault)
def main() -> None:
    """Measure the server, and others beside it, in the same run.

    \b
    python -m benchmarks setup
    python -m benchmarks run --rounds 3 --json results.json
    python -m benchmarks report results.json --into docs/performance.md --plots docs/plots
    python -m benchmarks --compare HEAD~1 fanout-1
    """


@main.command()
def setup() -> None:
    """Install the peers: Python packages into this environment, Node's ws below benchmarks/peers."""
    subprocess.run([sys.executable, "-m", "pip", "install", "-e", ".[benchmarks]"], check=True)
    if shutil.which("npm"):
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--prefix", PEERS], check=True)
    else:
        click.echo("npm is not installed: the peer ws will be missing", err=True)


@main.command()
@click.argument("cases", nargs=-1, type=click.Choice(list(CASES)))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--only", multiple=True, type=click.Choice(list(KINDS)), help="Measure these servers only."
)
@click.option("--compare", "revision", metavar="REV", help="Measure this tree and that commit.")
@click.option("--python", metavar="PATH", help="Run that commit with another Python.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all figures there.")
def run(
    cases: tuple[str, ...],
    rounds: int,
    only: tuple[str, ...],
    revision: str | None,
    python: str | None,
    json_path: Path | None,
) -> None:
    """Measure CASES, or all; the servers take turns in each round.

    The subcommand may be left out: `python -m benchmarks --compare REV CASES`.
    """
    if python and not revision:
        raise click.UsageError("--python: needs --compare")
    pin(LOAD_CORE)
    raise_file_limit()
    gc.disable()
    versions = {}
    for kind in KINDS.values():
        found = kind.version()
        if found is not None:
            versions[kind.name] = found
        elif not revision:
            click.echo(f"{kind.name} is not installed: left out", err=True)
    results: Results = {}
    told = {name: found for name, found in versions.items() if name in USUAL and found}
    with unpacked(revision, python) if revision else nullcontext() as other:
        for case in (CASES[name] for name in cases or CASES):
            kinds = [KINDS[name] for name in case.kinds if name in versions]
            kinds = [kind for kind in kinds if not only or kind.name in only]
            if other:
                pairs = [(kind, other.of(kind)) for kind in kinds if kind.tree]
                kinds = [kind for pair in pairs for kind in pair]
            figures = results[case.name] = rounds_of(case, kinds, rounds)
            if other:
                for one, two in pairs:
                    if one.name in figures and two.name in figures:
                        click.echo(comparison(case.name, two.name, figures[one.name], figures[two.name]))
            elif figures:
                click.echo(table(case.name, figures))
            if json_path:
                written = json.dumps(document(describe(), told, results), indent=1)
                json_path.write_text(f"{written}\n")


def rounds_of(case: Case, kinds: list[Kind], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return each server's figures in each round. Every second round runs in the opposite order."""
    figures: dict[str, dict[str, list[float]]] = {kind.name: {} for kind in kinds}
    for turn in range(rounds):
        for kind in kinds if turn % 2 == 0 else reversed(kinds):
            if kind.name not in figures:
                continue
            click.echo(f"{case.name}, round {turn + 1}: {kind.name}", err=True)
            try:
                with running(kind) as server:
                    measured = case.run(server)
            except NotOffered as reason:
                click.echo(f"{case.name}: {kind.name} is left out: {reason}", err=True)
                del figures[kind.name]
                continue
            except (Stuck, OSError, RuntimeError) as error:
                click.echo(f"{case.name}: {kind.name} did not come through: {error}", err=True)
                del figures[kind.name]
                continue
            for figure, value in measured.items():
                figures[kind.name].setdefault(figure, []).append(value)
    return figures


@main.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
def embedded(rounds: int) -> None:
    """Publish to a log in a file, from tasks in this process, which wait for their commits."""
    one, many = WAITING
    for durability in ("normal", "full"):
        rates = compare(durability, rounds)
        click.echo(
            f"{durability}: {one} waits {rates[one]:,.0f}/s, {many} wait {rates[many]:,.0f}/s,"
            f" {rates[many] / rates[one]:.1f} times as many"
        )


@main.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Draw into this folder.")
@click.option(
    "--into",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put the tables into this page, between its marks, instead of those that are there.",
)
def report(path: Path, plots: Path | None, into: Path | None) -> None:
    """Show the tables of an earlier run."""
    found = json.loads(path.read_text())
    machine, versions = (
        ", ".join(f"{key} {value}".strip() for key, value in found[what].items())
        for what in ("machine", "versions")
    )
    tables = [table(name, servers) for name, servers in found["results"].items() if servers]
    tables.insert(0, f"Taken on: {machine}. Versions: {versions}.\n")
    if into:
        fill(into, "\n".join(tables))
    else:
        click.echo("\n".join(tables))
    if plots:
        plots.mkdir(parents=True, exist_ok=True)
        for drawn in plot(found["results"], plots):
            click.echo(drawn, err=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
