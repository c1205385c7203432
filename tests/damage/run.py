"""One run: files are damaged, the log is opened, goes on, is read, closed, and opened once more."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import attrs
import trio

from tests.damage.damages import KINDS, random_damages
from tests.damage.events import content, random_notification
from tests.damage.readers import offset_in, read_on
from tests.damage.templates import Template
from tests.damage.verdict import Verdict
from tests.damage.wire import listen
from trionotify import Hub, StoreError, open_hub

__all__ = ["Fault", "Outcome", "damage", "random_of"]

#: The hub's: most is read from the file.
_OPTIONS: dict[str, Any] = {"max_tail_bytes": 2000, "close_timeout": 5.0}
#: How many of the runs are read over the network, too.
_ON_THE_WIRE = 0.2
#: Seconds for one run.
_PATIENCE = 600.0


@attrs.frozen
class Fault:
    """A fault that was found in a run."""

    kind: str
    seed: int
    number: int
    detail: str

    def __str__(self) -> str:
        command = f"python -m tests.damage {self.kind} --seed {self.seed} --only {self.number}"
        return f"{command}\n    {self.detail}"


@attrs.define
class Outcome:
    """The outcome of the runs of one kind. `faults` is empty if all is well."""

    kind: str
    runs: int = 0
    #: How it was noticed, or that it wasn't: see `Verdict.noticed`.
    noticed: Counter[str] = attrs.Factory(Counter)
    faults: list[Fault] = attrs.Factory(list)
    #: What else is worth counting.
    notes: Counter[str] = attrs.Factory(Counter)


def random_of(seed: int, kind: str, number: int) -> Random:
    """The source of a run's random choices."""
    return Random(f"{seed}/{kind}/{number}")


async def damage(
    kind: str, seed: int, numbers: Sequence[int], templates: list[Template], directory: Path
) -> Outcome:
    """All runs of one kind, each with files of its own in this directory."""
    outcome = Outcome(kind)
    for number in numbers:
        random = random_of(seed, kind, number)
        files = random.choice(KINDS[kind])
        template = random.choice([one for one in templates if set(files) <= set(one.files)])
        spoilt, done = random_damages(random, files, template)
        path = directory / f"{kind}-{number}" / "log.db"
        path.parent.mkdir()
        attrs.evolve(template, files=spoilt).write(path)
        verdict = Verdict(template, done, str(path))
        with _silence():
            await _carry_out(verdict, random)
        outcome.runs += 1
        outcome.noticed[verdict.noticed] += 1
        outcome.notes.update(verdict.notes)
        what = f"{template.name}: {'; '.join(map(str, done))}"
        outcome.faults += [Fault(kind, seed, number, f"{what}: {fault}") for fault in verdict.faults]
        if not verdict.faults:
            for file in path.parent.iterdir():
                file.unlink()
            path.parent.rmdir()
    return outcome


async def _carry_out(verdict: Verdict, random: Random) -> None:
    """Whatever is raised is a fault."""
    try:
        with trio.fail_after(_PATIENCE):
            await _live(verdict, random)
    except Exception as error:
        verdict.faults.append(f"{type(error).__name__} was raised: {_leaf(error)}")


def _leaf(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def _live(verdict: Verdict, random: Random) -> None:
    template = verdict.template
    try:
        async with open_hub(store=f"sqlite:{verdict.path}", **_OPTIONS) as hub:
            verdict.opened(hub)
            if verdict.cant_be_told:
                return
            await _publish(hub, verdict, random)
            await _read(hub, verdict, random)
    except* StoreError as group:
        verdict.refused(group)
    if verdict.epoch is None or verdict.faults:
        return
    try:
        async with open_hub(store=f"sqlite:{verdict.path}", **_OPTIONS) as hub:
            verdict.opened_again(hub)
            for since in (f"{verdict.epoch}:{min(template.head, hub.log.head)}", "start"):
                verdict.judge(since, await read_on(hub, since))
    except* StoreError as group:
        verdict.refused_again(group)


async def _publish(hub: Hub, verdict: Verdict, random: Random) -> None:
    """As much again, in a few commits."""

    async def publish(number: int) -> None:
        made = random_notification(random, number, "new")
        try:
            receipt = await hub.publish(made, confirm=True)
        except StoreError as error:
            verdict.refused_to_publish(content(made), error)
        else:
            assert receipt.cursor is not None
            verdict.published(offset_in(hub, receipt.cursor), content(made))

    left = list(range(1, verdict.template.head - verdict.template.start + 1))
    while left:
        some, left = left[:60], left[60:]
        async with trio.open_nursery() as nursery:
            for number in some:
                nursery.start_soon(publish, number)


async def _read(hub: Hub, verdict: Verdict, random: Random) -> None:
    """As one that had seen all, one that was somewhere, one that wants all; in any order."""
    template = verdict.template
    somewhere = random.randint(template.start, template.head)
    readers = [f"{template.epoch}:{template.head}", f"{template.epoch}:{somewhere}", "start"]
    random.shuffle(readers)
    if random.random() < _ON_THE_WIRE:
        # First: damage that no reader has found yet is told in another way than damage that is known.
        verdict.judge_told(readers[0], await listen(hub, readers[0]), hub.log.head)
    for since in readers:
        verdict.judge(since, await read_on(hub, since))
    verdict.look_at(hub)


@contextmanager
def _silence() -> Iterator[None]:
    """The log lines of so much damage are of no use."""
    logger = logging.getLogger("trionotify")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
