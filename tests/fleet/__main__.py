"""Run it by hand, for as long as it should be."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import click
import trio

from benchmarks.load import raise_file_limit
from tests.fleet.crowd import come_back
from tests.fleet.nodes import carry_out_nodes, judge_nodes
from tests.fleet.plan import Plan, model_plan, storm_plan
from tests.fleet.run import carry_out
from tests.fleet.verdict import judge


@click.command()
@click.option("--runs", default=0, help="Runs of the model with restarts.")
@click.option("--kills", default=0, help="Kills in one run under load.")
@click.option("--crowd", default=0, help="Clients of a server that is restarted.")
@click.option("--seed", default=1, help="Of the first run; each has the next one.")
@click.option(
    "--store", type=click.Choice(["sqlite", "redis"]), default="sqlite", help="The log's kind."
)
@click.option("--nodes", default=3, help="Servers that share a log on Redis.")
def main(runs: int, kills: int, crowd: int, seed: int, store: str, nodes: int) -> None:  # noqa: PLR0917 - options
    """Kill a server again and again, and look whether anything is lost."""
    if store == "redis":
        failed = [seed + n for n in range(runs) if not _nodes_succeed(seed + n, nodes)]
        print(f"{runs} runs; failed: {failed or 'none'}")
        sys.exit(bool(failed))
    if crowd:
        _restart(crowd)
    plans = [model_plan(seed + n) for n in range(runs)]
    if kills:
        plans.append(storm_plan(seed, kills))
    failed = [plan.seed for plan in plans if not _succeeds(plan)]
    print(f"{len(plans)} runs; failed: {failed or 'none'}")
    sys.exit(bool(failed))


def _nodes_succeed(seed: int, nodes: int) -> bool:
    begun = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as directory:
            run = trio.run(carry_out_nodes, seed, nodes, Path(directory))
            figures = judge_nodes(run)
    except (AssertionError, ExceptionGroup) as error:
        # Each proxy and server has a nursery, so what happened is deep inside.
        told = traceback.TracebackException.from_exception(error, max_group_depth=100)
        print(f"seed {seed} failed", *told.format(), sep="\n", flush=True)
        return False
    print(f"seed {seed}: {run.deaths}, {figures}, {time.perf_counter() - begun:.1f} s", flush=True)
    return True


def _restart(clients: int) -> None:
    """Once in good order, and once not; whatever goes wrong ends it with a traceback."""
    raise_file_limit()
    for number in (signal.SIGTERM, signal.SIGKILL):
        with tempfile.TemporaryDirectory() as directory:
            print(f"{number.name}: {trio.run(come_back, Path(directory), clients, number)}", flush=True)


def _succeeds(plan: Plan) -> bool:
    begun = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as directory:
            run = trio.run(carry_out, plan, Path(directory))
            judge(run)
    except (AssertionError, ExceptionGroup):
        print(f"seed {plan.seed} failed: {plan}", flush=True)
        traceback.print_exc()
        return False
    stays = sum(len(subscriber.stays) for subscriber in run.subscribers)
    print(
        f"seed {plan.seed}: {run.head} notifications, {run.received.value} deliveries, {run.life} kills,"
        f" {stays} connections, {run.gaps} gaps, {time.perf_counter() - begun:.1f} s",
        flush=True,
    )
    return True


if __name__ == "__main__":
    main()
