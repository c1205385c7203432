"""The benchmarks' command line: `python -m benchmarks --help`."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import click

from benchmarks.cases import CASES
from benchmarks.embedded import WAITING, compare
from benchmarks.load import Stuck, raise_file_limit
from benchmarks.machine import LOAD_CORE, describe, pin
from benchmarks.report import Results, document, plot, table
from benchmarks.servers import KINDS, PEERS, running


@click.group()
def main() -> None:
    """Measure the server, and others beside it, in the same run.

    \b
    python -m benchmarks setup
    python -m benchmarks run --rounds 3 --json results.json
    python -m benchmarks report results.json --plots docs/plots
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
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all figures there.")
def run(cases: tuple[str, ...], rounds: int, only: tuple[str, ...], json_path: Path | None) -> None:
    """Measure CASES, or all; the servers take turns in each round."""
    pin(LOAD_CORE)
    raise_file_limit()
    gc.disable()
    versions = {}
    for kind in KINDS.values():
        found = kind.version()
        if found is None:
            click.echo(f"{kind.name} is not installed: left out", err=True)
        else:
            versions[kind.name] = found
    names = [name for name in versions if not only or name in only]
    results: Results = {}
    for case in (CASES[name] for name in cases or CASES):
        figures = results.setdefault(case.name, {name: {} for name in names if name in case.kinds})
        for turn in range(rounds):
            for name, found in tuple(figures.items()):
                click.echo(f"{case.name}, round {turn + 1}: {name}", err=True)
                try:
                    with running(KINDS[name]) as server:
                        measured = case.run(server)
                except (Stuck, OSError, RuntimeError) as error:
                    click.echo(f"{case.name}: {name} did not come through: {error}", err=True)
                    del figures[name]
                    continue
                for figure, value in measured.items():
                    found.setdefault(figure, []).append(value)
        if figures:
            click.echo(table(case.name, figures))
        if json_path:
            json_path.write_text(json.dumps(document(describe(), versions, results), indent=1) + "\n")


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
def report(path: Path, plots: Path | None) -> None:
    """Show the tables of an earlier run."""
    found = json.loads(path.read_text())
    for what in ("machine", "versions"):
        click.echo(", ".join(f"{key} {value}".strip() for key, value in found[what].items()) + "\n")
    for name, servers in found["results"].items():
        if servers:
            click.echo(table(name, servers))
    if plots:
        plots.mkdir(parents=True, exist_ok=True)
        for drawn in plot(found["results"], plots):
            click.echo(drawn, err=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
