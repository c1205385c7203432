"""One run: a server, its witnesses, and inputs; and what must hold meanwhile and at the end."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from signal import SIGTERM

import attrs
import trio

from tests.fleet.server import ServerProcess, server_process
from tests.fuzz.inputs import Input, Scene
from tests.fuzz.kinds import KINDS, LOCAL, Kind, random_of
from tests.fuzz.lag import BOUND, Lag, measured_lag
from tests.fuzz.sender import Sender
from tests.fuzz.vitals import LogReader, Vitals
from tests.fuzz.witnesses import Witnesses

__all__ = ["RSS_SLACK", "Fault", "Outcome", "Plan", "fuzz", "fuzz_locally"]

#: The server's limits: small, so that inputs reach them.
OPTIONS = (
    *("--max-log-entries", "2000", "--max-log-bytes", str(8 << 20), "--max-tail-bytes", str(4 << 20)),
    *("--max-message-bytes", str(64 << 10), "--max-body-bytes", str(1 << 20), "--max-batch", "50"),
    *("--close-timeout", "2", "--drain-timeout", "10", "--log-format", "json"),
)
#: Bytes that the process may have more when all is over: the log's 8 MiB with all that belongs to an
#: entry, what is cached for good, and the allocator's loss.
RSS_SLACK = 64 << 20
#: Descriptors that may be open still.
DESCRIPTORS_SLACK = 4
#: Markers that are there before the first input; and inputs from one marker to the next.
_FIRST_MARKERS, _BETWEEN = 20, 250
#: Seconds for the server to end.
_ENDING = 60.0
#: Connections at a time.
_WORKERS = 8


@attrs.frozen
class Fault:
    """A fault. `number` is the input's, or None if no single input is to blame."""

    kind: str
    seed: int
    number: int | None
    oracle: str
    detail: str

    def __str__(self) -> str:
        only = "" if self.number is None else f" --only {self.number}"
        command = f"python -m tests.fuzz {self.kind} --seed {self.seed}{only}"
        return f"{self.oracle}: {command}\n    {self.detail}"


@attrs.define
class Outcome:
    """The outcome of a run. `faults` is empty if all is well."""

    kind: str
    inputs: int = 0
    seconds: float = 0.0
    faults: list[Fault] = attrs.Factory(list)
    markers: int = 0
    before: Vitals | None = None
    after: Vitals | None = None
    lag: Lag | None = None

    def __str__(self) -> str:
        rate = self.inputs / self.seconds if self.seconds else 0
        parts = [f"{self.kind}: {self.inputs} inputs, {rate:.0f} a second", f"{self.markers} markers"]
        if self.before is not None:
            parts.append(f"{self.before} -> {self.after}")
        if self.lag is not None:
            parts.append(str(self.lag))
        return f"{'; '.join(parts)}: {f'{len(self.faults)} FAULTS' if self.faults else 'fine'}"


@attrs.frozen
class Plan:
    """Which inputs: those with these `numbers`, of one kind. `say` is told how far it is."""

    name: str
    seed: int
    numbers: Sequence[int]
    store: str = "memory:"
    #: Measure how long others wait, and judge it.
    with_lag: bool = False
    #: Seconds for the witnesses to hear all, and for memory and descriptors to return.
    settling: float = 120.0
    say: Callable[[str], None] = lambda _: None


def fuzz_locally(plan: Plan) -> Outcome:
    """A kind that needs no server."""
    outcome, begun = Outcome(plan.name), time.perf_counter()
    for number in plan.numbers:
        try:
            LOCAL[plan.name](random_of(plan.seed, plan.name, number))
        except Exception as error:  # nothing may be raised at all
            outcome.faults.append(Fault(plan.name, plan.seed, number, type(error).__name__, str(error)))
        outcome.inputs += 1
        if outcome.inputs % 10_000 == 0:
            plan.say(f"{plan.name}: {outcome.inputs}")
    outcome.seconds = time.perf_counter() - begun
    return outcome


async def fuzz(directory: Path, *plans: Plan, launcher: Sequence[str] = ()) -> list[Outcome]:
    """Kinds that can share a server, one after the other; AssertionError where that hangs."""
    kind = KINDS[plans[0].name]
    assert all(KINDS[plan.name].shares_with(kind) for plan in plans)
    options = [*OPTIONS, *kind.options]
    secret = secrets.token_hex(20) if kind.has_secret else None
    if secret is not None:
        (directory / "secret").write_text(secret)
        options += ["--secret", str(directory / "secret")]
    store = plans[0].store
    options += ["--store", f"sqlite:{directory}/log" if store == "sqlite" else store]
    patience = 120.0 + sum(len(plan.numbers) for plan in plans) / 100
    async with server_process(directory, *options, launcher=launcher, patience=patience) as server:
        await server.start()
        run = _Run(server, secret, LogReader(directory / "stderr", secret))
        async with trio.open_nursery() as nursery:
            await run.begin(nursery)
            outcomes = [await run.carry_out(plan) for plan in plans]
            await run.end(outcomes[-1])
        return outcomes


class _Run:
    """A server, while it lives."""

    def __init__(self, server: ServerProcess, secret: str | None, log: LogReader) -> None:
        self._server = server
        self._secret = secret
        self._log = log
        self._marker = f"marker-{secrets.token_hex(8)}"
        self._witnesses = Witnesses(server.port, self._marker, secret)
        self._seed = 0

    async def begin(self, nursery: trio.Nursery) -> None:
        await self._witnesses.watch(nursery)
        for _ in range(_FIRST_MARKERS):
            await self._witnesses.publish()
        assert not self._witnesses.faults, self._witnesses.faults

    async def carry_out(self, plan: Plan) -> Outcome:
        """Send all inputs of a plan, and wait until everything is as it was."""
        outcome = Outcome(plan.name, before=Vitals.of(self._server.pid))
        self._seed = plan.seed
        epoch, _, head = self._witnesses.cursors[-1].rpartition(":")
        scene = Scene(epoch, int(head), self._secret or "", int(time.time()), self._marker)
        async with AsyncExitStack() as stack:
            if plan.with_lag:
                outcome.lag = await stack.enter_async_context(measured_lag(self._server.port))
            await self._send(plan, KINDS[plan.name], scene, outcome)
            await self._witnesses.settle(plan.settling)
        for fault in self._witnesses.judge():
            self._note(outcome, "witness", fault)
        self._witnesses.faults.clear()
        outcome.markers = len(self._witnesses.cursors)
        if outcome.lag is not None and outcome.lag.percentile(0.99) > BOUND:
            self._note(outcome, "lag", str(outcome.lag))
        await self._settle(outcome, plan.settling)
        return outcome

    async def _send(self, plan: Plan, kind: Kind, scene: Scene, outcome: Outcome) -> None:
        def source() -> Iterator[tuple[int, Input]]:
            for number in plan.numbers:
                yield number, kind.make(random_of(plan.seed, plan.name, number), scene)

        def note(number: int, fault: str) -> None:
            self._note(outcome, "answer", fault, number)

        sender = Sender(self._server.port, source(), note)
        begun = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(_WORKERS):
                nursery.start_soon(sender.work)
            nursery.start_soon(self._look_around, plan, sender, outcome)
        outcome.inputs, outcome.seconds = sender.done, time.perf_counter() - begun
        self._read_log(outcome, sender)

    async def _look_around(self, plan: Plan, sender: Sender, outcome: Outcome) -> None:
        """A marker for every so many inputs, and a look at the log."""
        steps = deque(range(0, len(plan.numbers), _BETWEEN))
        while steps:
            if sender.done >= steps[0]:
                at = steps.popleft()
                await self._witnesses.publish()
                self._read_log(outcome, sender)
                if at % 10_000 == 0:
                    plan.say(
                        f"{plan.name}: {at}, {len(outcome.faults)} faults, {Vitals.of(self._server.pid)}"
                    )
            else:
                await sender.progress.wait()
        await self._witnesses.publish()

    def _read_log(self, outcome: Outcome, sender: Sender | None = None) -> None:
        for line, port in self._log.faults():
            numbers = sender.sent_by.get(port) if sender is not None and port is not None else None
            newest = numbers[-1] if numbers else None
            self._note(
                outcome, "log", line if numbers is None else f"one of {[*numbers]}: {line}", newest
            )

    def _note(self, outcome: Outcome, oracle: str, detail: str, number: int | None = None) -> None:
        outcome.faults.append(Fault(outcome.kind, self._seed, number, oracle, detail))

    async def _settle(self, outcome: Outcome, seconds: float) -> None:
        """Wait for memory and descriptors to be what they were, nearly."""
        before = outcome.before
        assert before is not None
        with trio.move_on_after(seconds):
            while True:
                now = outcome.after = Vitals.of(self._server.pid)
                if (
                    now.rss <= before.rss + RSS_SLACK
                    and now.descriptors <= before.descriptors + DESCRIPTORS_SLACK
                ):
                    break
                await trio.sleep(0.1)
        assert outcome.after is not None
        if outcome.after.rss > before.rss + RSS_SLACK:
            self._note(outcome, "memory", f"{before}; then {outcome.after}")
        if outcome.after.descriptors > before.descriptors + DESCRIPTORS_SLACK:
            self._note(outcome, "descriptors", f"{before}; then {outcome.after}")
        self._read_log(outcome)

    async def end(self, outcome: Outcome) -> None:
        """SIGTERM: everyone hears of it, and it ends with 0 in time."""
        self._server.signal(SIGTERM)
        code = None
        with trio.move_on_after(_ENDING):
            code = await self._server.ended()
        if code is None:
            self._note(outcome, "SIGTERM", f"it lives on after {_ENDING:g} s")
            self._server.signal()
        elif code:
            self._note(outcome, "SIGTERM", f"it ended with {code}")
        for fault in self._witnesses.judge_ends():
            self._note(outcome, "SIGTERM", fault)
        self._read_log(outcome)
