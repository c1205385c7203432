"""Nothing that was acknowledged is lost, whenever the server is killed: with real processes.

The short form of what `python -m tests.fleet` does for as long as one likes, and whether its judge sees
what is wrong.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from tests.fleet.crowd import come_back
from tests.fleet.events import Said
from tests.fleet.line import Lost
from tests.fleet.plan import model_plan, storm_plan
from tests.fleet.run import Run, carry_out
from tests.fleet.server import ServerProcess
from tests.fleet.subscribers import Stay
from tests.fleet.verdict import judge

posix_only = pytest.mark.skipif(os.name != "posix", reason="the signals of POSIX")


@posix_only
@pytest.mark.parametrize("seed", range(10))
async def test_the_model_with_restarts(seed: int, tmp_path: Path) -> None:
    """Whatever clients do, and whenever the server dies: each gets the log, filtered, in order, once."""
    judge(await carry_out(model_plan(seed, kills=2, share=0.4), tmp_path))


@posix_only
async def test_killed_under_load(tmp_path: Path) -> None:
    """All that was acknowledged is there, once, in order, and everyone gets it."""
    judge(await carry_out(storm_plan(1, kills=5, between=600), tmp_path))


@posix_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_crowd_comes_back(number: signal.Signals, tmp_path: Path) -> None:
    """500 clients, each with its cursor, get each notification once; none needs a second request."""
    found = await come_back(tmp_path, 500, number)
    assert found.requests == 500


# --- the verdict is sharp ---


def a_run(directory: Path, max_entries: int | None = None) -> Run:
    """The record of a run of six notifications, without any server."""
    plan = attrs.evolve(
        *(model_plan(1),),
        max_entries=max_entries,
        subscribers=1,
        raw_subscribers=1,
        publishers=1,
        raw_publishers=1,
        window=1,
    )
    run = Run(plan, ServerProcess(directory / "stderr", plan.options))
    (publisher,), (raw_publisher,), (subscriber, raw) = (
        run.publishers,
        run.raw_publishers,
        run.subscribers,
    )
    for offset in range(1, 7):
        token = f"n{offset}"
        run.published[token] = Said(token, "/p0", str(offset), "ab" if offset % 2 else "b")
        run.log[offset] = token
    run.highest = run.head = 6
    publisher.said = [run.published[f"n{offset}"] for offset in (1, 2, 4, 6)]
    publisher.offsets = [1, 2, 4, 6]
    raw_publisher.stays = [(["n3", "lost"], False), (["n5"], True)]
    odd, even = [{"exact": {"type": "ab"}}], [{"exact": {"type": "b"}}]
    subscriber.stays = [
        Stay([(0, odd), (3, even)], start=0, got=[(1, "n1"), (3, "n3"), (4, "n4")], upto=4),
        Stay([(0, None)], start=4, asked=4, recovered=True, got=[(5, "n5"), (6, "n6")], upto=6),
    ]
    raw.stays = [Stay([(0, odd)], start=0, got=[(None, "n1"), (None, "n3")])]
    return run


def test_the_verdict_on_a_run_as_it_should_be(tmp_path: Path) -> None:
    """Nothing is said against it."""
    judge(a_run(tmp_path))
    judge(a_run(tmp_path, max_entries=3))


def got(run: Run, stay: int = 0) -> list[tuple[int | None, str]]:
    return run.subscribers[0].stays[stay].got


FAULTS: dict[str, Callable[[Run], object]] = {
    "something is missing": lambda run: got(run).pop(1),
    "the last is missing": lambda run: got(run, 1).pop(),
    "something came twice": lambda run: got(run).append(got(run)[-1]),
    "something came that it didn't want": lambda run: got(run).insert(1, (2, "n2")),
    "something came late": lambda run: got(run).reverse(),
    "it resumed too late": lambda run: setattr(run.subscribers[0].stays[1], "start", 5),
    "it never came to the end": lambda run: setattr(run.subscribers[0].stays[1], "upto", 5),
    "a raw one misses something": lambda run: run.subscribers[1].stays[0].got.pop(0),
    "a raw one got something twice": lambda run: run.subscribers[1].stays[0].got.append((None, "n3")),
    "acknowledged, and not in the log": lambda run: run.log.pop(6),
    "acknowledged elsewhere": lambda run: run.publishers[0].offsets.__setitem__(2, 5),
    "not acknowledged": lambda run: run.publishers[0].offsets.pop(),
    "the publisher's order": lambda run: run.publishers[0].said.reverse(),
    "twice in the log": lambda run: run.log.update({6: "n1"}),
    "a hole in the log": lambda run: run.log.pop(5),
    "the end of the log is missing": lambda run: setattr(run, "head", 5),
    "a raw publisher's first is missing": lambda run: run.raw_publishers[0].stays[0][0].insert(0, "x"),
    "a raw publisher's last is missing": lambda run: run.raw_publishers[0].stays[1][0].append("x"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_verdict_is_sharp(fault: str, tmp_path: Path) -> None:
    """Whatever is wrong, it is found."""
    run = a_run(tmp_path)
    FAULTS[fault](run)
    with pytest.raises(AssertionError):
        judge(run)


def test_a_notification_that_is_not_where_it_was(tmp_path: Path) -> None:
    """Two who have seen something else in one place, or another epoch, end the run."""
    run = a_run(tmp_path)
    assert run.offset("epoch:6") == 6
    with pytest.raises(AssertionError, match="n6 and n1 are both at 6"):
        run.note(6, "n1")
    with pytest.raises(AssertionError, match="the epoch was epoch, and now it is other"):
        run.offset("other:6")


def test_what_may_be_lost(tmp_path: Path) -> None:
    """Only what a small log may have forgotten; never where everything is kept."""
    with pytest.raises(AssertionError, match="was lost"):
        a_run(tmp_path).excuse_gap(0, 1000)
    run = a_run(tmp_path, max_entries=100)
    run.excuse_gap(0, 1000)
    with pytest.raises(AssertionError, match="was lost"):
        run.excuse_gap(990, 1000)


def test_a_connection_that_is_lost_without_a_reason(tmp_path: Path) -> None:
    """A server that lives doesn't drop anyone."""
    run = a_run(tmp_path)
    run.life = 3
    run.excuse(Lost(), 2)
    run.excuse(Lost(1012), 2)
    for lost in (Lost(), Lost(1012), Lost(1011, "failed"), Lost(1013, "slow")):
        with pytest.raises(AssertionError):
            run.excuse(lost, 3)
