"""The soak itself: who takes part, what happens when, and what was seen."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from signal import SIGTERM

import attrs
import trio

from tests.fleet.events import TEAMS, random_filters
from tests.fleet.line import open_line
from tests.fleet.plan import Plan
from tests.fleet.run import Run
from tests.fleet.server import ServerProcess, server_process
from tests.fleet.subscribers import Subscriber
from tests.fleet.verdict import judge
from tests.fuzz.lag import BOUND, Lag, measured_lag
from tests.fuzz.vitals import LogReader, Vitals
from tests.soak.attacks import WAYS
from tests.soak.clients import (
    LineSubscriber,
    PythonSubscriber,
    RawStreamSubscriber,
    StreamSubscriber,
    never_read,
)
from tests.soak.flat import growth
from tests.soak.publishers import Poster, SteadyPublisher

__all__ = ["Soak", "SoakPlan", "Verdict", "soak"]

#: Besides those of the fleet: signs of life often enough that a stream's end is seen.
OPTIONS = (
    *(
        "--log-format",
        "json",
        "--position-interval",
        "1",
        "--ping-interval",
        "2",
        "--ping-timeout",
        "240",
    ),
    # A client that pauses until so many are published may pause for a minute while publishers are slow.
    *("--drain-timeout", "20", "--stall-timeout", "240"),
)
#: Of the clients, so many of a hundred are of a kind; the others are raw WebSockets.
_SHARES: tuple[tuple[type[Subscriber], int], ...] = (
    (Subscriber, 40),
    (StreamSubscriber, 12),
    (RawStreamSubscriber, 12),
    (LineSubscriber, 12),
    (PythonSubscriber, 6),
)
#: Clients that never read.
_HOARDERS = 5
#: Seconds for the server to end behind SIGTERM, and for all that has no time of its own.
_ENDING = 120.0
_PATIENCE = 300.0


@attrs.frozen
class SoakPlan:
    """How long, with how many; `rest` and `attack` are seconds without an attack, and of each one.

    `rate` is how often in a second each of six publishers publishes. `say` is told how it goes.
    """

    seed: int
    seconds: float
    clients: int = 200
    store: str = "sqlite"
    #: Seconds for everyone to read to the end, when nothing new comes.
    settling: float = 120.0
    rest: float = 15.0
    attack: float = 5.0
    rate: float = 4.0
    sampling: float = 2.0
    say: Callable[[str], None] = lambda _: None


@attrs.define
class Verdict:
    """The outcome. `faults` is empty if all is well."""

    faults: list[str] = attrs.Factory(list)
    samples: list[Vitals] = attrs.Factory(list)
    lag: Lag | None = None
    #: What it was about: notifications, deliveries, connections.
    figures: str = ""


class Soak(Run):
    """A fleet's run, with more kinds of clients, at a steady rate, whose server lives."""

    def __init__(self, plan: SoakPlan, server: ServerProcess) -> None:
        counts = [(kind, max(1, plan.clients * share // 100)) for kind, share in _SHARES]
        raw = max(1, plan.clients - sum(count for _, count in counts))
        super().__init__(_fleet_plan(plan.seed, counts[0][1], raw), server)
        #: Nothing new is published, and no client leaves by itself.
        self.ending = trio.Event()
        #: An attack is under way: what the server holds now is of no account.
        self.attacked = False
        self.rate = plan.rate
        self._settling = plan.settling
        for kind, count in counts[1:]:
            for _ in range(count):
                self._add(kind)
        self.publishers = [
            *(SteadyPublisher(self, f"p{n}", Random(self.random.random())) for n in range(3)),
            *(Poster(self, f"w{n}", Random(self.random.random())) for n in range(3)),
        ]

    def _add(self, kind: type[Subscriber]) -> None:
        random = self.random
        id = f"s{len(self.ids)}"
        self.ids.append(id)
        given = (self, id, random.choice(TEAMS), Random(random.random()), random_filters(random))
        self.subscribers.append(kind(*given, self.final, random.choice((None, "start"))))

    async def live(self, seconds: float) -> None:
        """Everyone does what they do, for so long, and then reads what there is."""
        async with trio.open_nursery() as nursery:
            for subscriber in self.subscribers:
                nursery.start_soon(subscriber.live, nursery)
            for number in range(_HOARDERS):
                nursery.start_soon(never_read, self, number)
            async with trio.open_nursery() as publishing:
                for publisher in (*self.publishers, *self.raw_publishers):
                    publishing.start_soon(publisher.live)
                await trio.sleep(seconds)
                self.over = True
                for count in (self.acks, self.sent, self.received, self.joined, self.refused):
                    count.stop()
            self.ending.set()
            nursery.cancel_scope.deadline = trio.current_time() + self._settling
            await self._read_all()
            self.final.set()

    async def _read_all(self) -> None:
        """Those who see what is for all, or for a team; what is for one alone has its receipt."""
        async with open_line(self.server.port, {"format": "cloudevents"}) as line:
            self.head = (await line.events())[0]["data"]["head"]
        at_once = trio.Event()
        at_once.set()
        self.readers = [
            Subscriber(self, "nobody", team, self.random, None, at_once, "start") for team in TEAMS
        ]
        async with trio.open_nursery() as nursery:
            for reader in self.readers:
                nursery.start_soon(reader.live, nursery)

    @property
    def connections(self) -> int:
        return sum(len(subscriber.stays) for subscriber in self.subscribers)

    def not_settled(self) -> list[str]:
        """Clients that have not got all, at the end."""
        return [
            f"not settled: {type(subscriber).__name__} {subscriber.id} came to"
            f" {subscriber.stays[-1].upto if subscriber.stays else 0} of {self.head},"
            f" filters {subscriber.filters}, since {subscriber.since}"
            for subscriber in self.subscribers
            if not (subscriber.settled.is_set() and subscriber.has_all(subscriber.stays[-1]))
        ]


def _fleet_plan(seed: int, subscribers: int, raw_subscribers: int) -> Plan:
    """Nothing is forgotten, and no server is killed."""
    return Plan(
        seed=seed,
        max_entries=None,
        subscribers=subscribers,
        raw_subscribers=raw_subscribers,
        publishers=0,
        raw_publishers=1,
        window=4,
        sizes=(0, 0, 20, 300, 2000),
        whims=1.0,
        births=(),
        first=(),
        deaths=(),
        faults=(),
    )


async def soak(plan: SoakPlan, directory: Path, launcher: tuple[str, ...] = ()) -> Verdict:
    """Carry it out. What is wrong is in the verdict; an AssertionError is wrong as well."""
    store = f"sqlite:{directory}/log" if plan.store == "sqlite" else plan.store
    verdict = Verdict()
    options = (*_fleet_plan(0, 1, 1).options, *OPTIONS, "--store", store)
    patience = plan.seconds * 2 + _PATIENCE
    async with server_process(directory, *options, launcher=launcher, patience=patience) as server:
        await server.start()
        run = Soak(plan, server)
        log = LogReader(directory / "stderr")
        async with AsyncExitStack() as stack:
            verdict.lag = await stack.enter_async_context(measured_lag(server.port))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch, plan, run, log, verdict)
                nursery.start_soon(_attack, plan, run)
                await run.live(plan.seconds)
                nursery.cancel_scope.cancel()
        await _end(server, verdict)
        verdict.faults += [line for line, _ in log.faults()]
    _judge(run, verdict)
    return verdict


async def _watch(plan: SoakPlan, run: Soak, log: LogReader, verdict: Verdict) -> None:
    """Look at the server now and then, and say once a minute how it goes."""
    begun = said = time.monotonic()
    while not run.over:
        if not run.attacked:
            verdict.samples.append(Vitals.of(run.server.pid))
        verdict.faults += [line for line, _ in log.faults()]
        if time.monotonic() - said >= 60:
            said = time.monotonic()
            figures = f"{run.highest} notifications, {run.received.value} deliveries"
            plan.say(
                f"{(said - begun) / 60:.0f} min: {figures}, {run.connections} connections;"
                f" {Vitals.of(run.server.pid)}; {len(verdict.faults)} faults"
            )
        await trio.sleep(plan.sampling)


async def _attack(plan: SoakPlan, run: Soak) -> None:
    """One attack after the other, with some time between them."""
    random = Random(plan.seed)
    while not run.over:
        for way in random.sample(list(WAYS), len(WAYS)):
            await trio.sleep(plan.rest)
            command = [sys.executable, "-m", "tests.soak.attacks", str(run.server.port), way]
            # (What an attacker says is of no interest; it may be killed at any time.)
            run.attacked = True
            await trio.run_process([*command, str(plan.attack)], check=False, stderr=subprocess.DEVNULL)
            run.attacked = False


async def _end(server: ServerProcess, verdict: Verdict) -> None:
    server.signal(SIGTERM)
    code, begun = None, time.monotonic()
    with trio.move_on_after(_ENDING):
        code = await server.ended()
    if code != 0:
        after = time.monotonic() - begun
        verdict.faults.append(f"SIGTERM: the exit code was {code} after {after:.1f} s")


def _judge(run: Soak, verdict: Verdict) -> None:
    figures = f"{run.head} notifications, {run.received.value} deliveries"
    verdict.figures = f"{figures}, {run.connections} connections"
    try:
        judge(run)
    except AssertionError as error:
        verdict.faults.append(f"delivery: {error}")
    verdict.faults += run.not_settled()
    verdict.faults += [f"growth: {fault}" for fault in growth(verdict.samples)]
    assert verdict.lag is not None
    if verdict.lag.percentile(0.99) > BOUND:
        verdict.faults.append(f"lag: {verdict.lag}")
