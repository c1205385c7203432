"""One run: the plan is carried out, and everything that was seen is written down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from signal import SIGTERM

import trio

from tests.fleet.counts import Count
from tests.fleet.events import TEAMS, Said, random_filters
from tests.fleet.fates import begin, die, fill_disk
from tests.fleet.line import Line, Lost, Refused, open_line
from tests.fleet.plan import Plan
from tests.fleet.publishers import Publisher, RawPublisher
from tests.fleet.server import ServerProcess, server_process
from tests.fleet.subscribers import RawSubscriber, Subscriber

__all__ = ["Run", "carry_out"]

#: Seconds. Nothing takes so long: a run that hangs has found something.
PATIENCE = 300.0
#: Notifications that are acknowledged after the last restart.
_CODA = 40


#: What a publisher is told. (503: by the time that it was looked for, there was no reason any more.)
_REFUSALS = {
    (507, "the server has no space left for the log; publish again later"),
    (503, "the log can't accept notifications at the moment; publish again later"),
}


class Run:
    """Everything known in a run, by all and about all."""

    def __init__(self, plan: Plan, server: ServerProcess) -> None:
        self.plan = plan
        self.server = server
        #: How often the server was sent a signal.
        self.life = 0
        self.acks, self.sent, self.received, self.joined = Count(), Count(), Count(), Count()
        self.refused = Count()
        #: The server's disk is full.
        self.disk_is_full = False
        #: By token.
        self.published: dict[str, Said] = {}
        #: The log: the token at each offset, from all that have seen it.
        self.log: dict[int, str] = {}
        self.epoch: str | None = None
        #: The newest offset that was seen, and at the end the newest that there is.
        self.highest = self.head = 0
        self.gaps = 0
        #: No more kills, and nothing new.
        self.over = False
        #: The truth is known.
        self.final = trio.Event()
        random = Random(plan.seed)
        ids = [f"s{n}" for n in range(plan.subscribers)]
        raw_ids = [f"r{n}" for n in range(plan.raw_subscribers)]
        self.ids = ids + raw_ids
        self.subscribers = [
            kind(
                *(self, id, random.choice(TEAMS), Random(random.random())),
                None if id == "s0" else random_filters(random),
                *(self.final, random.choice((None, "start"))),
            )
            for kind, names in ((Subscriber, ids), (RawSubscriber, raw_ids))
            for id in names
        ]
        self.publishers = [
            Publisher(self, f"p{n}", Random(random.random())) for n in range(plan.publishers)
        ]
        self.raw_publishers = [
            RawPublisher(self, f"q{n}", Random(random.random())) for n in range(plan.raw_publishers)
        ]
        self.readers: list[Subscriber] = []
        self.random = random

    # --- what is seen ---

    def offset(self, cursor: str) -> int:
        """The offset of a cursor, whose epoch has to be the one."""
        epoch, _, digits = cursor.rpartition(":")
        self.epoch = self.epoch or epoch
        assert epoch == self.epoch, f"the epoch was {self.epoch}, and now it is {epoch}"
        self.highest = max(self.highest, int(digits))
        return int(digits)

    def note(self, offset: int, token: str) -> Said:
        """Someone has seen that this is there."""
        found = self.log.setdefault(offset, token)
        assert found == token, f"{found} and {token} are both at {offset}"
        return self.published[token]

    def between(self, after: int, upto: int) -> Iterator[tuple[int, Said]]:
        """The log's entries in (`after`, `upto`], as far as they are known."""
        for offset in range(after + 1, upto + 1):
            if offset in self.log:
                yield offset, self.published[self.log[offset]]

    async def converse(
        self,
        talk: Callable[[Line], Awaitable[None]],
        query: Mapping[str, str],
        buffer: int | None = None,
    ) -> None:
        """Connect, and let `talk` use the connection, until it returns or there is an excuse."""
        await self.server.up()
        life = self.life
        try:
            async with open_line(self.server.port, query, buffer) as line:
                await talk(line)
        except (Lost, Refused) as why:
            self.excuse(why, life)

    def excuse(self, why: Lost | Refused, life: int) -> None:
        """There is no connection because of a signal; or a raw publisher's is closed by a full disk."""
        if isinstance(why, Lost) and why.code == 1013:
            self.excuse_refusal(503 if "moment" in why.reason else 507, why.reason)
            return
        if isinstance(why, Lost):
            assert why.code in (None, 1012), why
        else:
            assert (why.status, b"shutting down" in why.body) == (503, True), why
        assert self.life > life, f"the server dropped a connection: {why}"

    def excuse_refusal(self, status: int, reason: str) -> None:
        """Something wasn't accepted: only when the disk is full, or was a moment ago."""
        assert (status, reason) in _REFUSALS, f"{status} {reason}"
        assert self.plan.faults

    def excuse_gap(self, after: int | None, head: int) -> None:
        """Something was lost to a client: only what isn't kept may be."""
        assert after is not None
        assert self.may_be_forgotten(after, head), f"({after}, {head}] was lost"
        self.gaps += 1

    def may_be_forgotten(self, offset: int, head: int) -> bool:
        """Whether the log needn't have what is at `offset` any more, when one has seen its `head`."""
        on_their_way = 2 * self.plan.publishers * self.plan.window
        kept = self.plan.max_entries
        return kept is not None and offset < head + on_their_way - kept

    # --- what happens ---

    async def carry_out(self) -> None:
        """Everything, up to a last look at the log."""
        async with trio.open_nursery() as nursery:
            await begin(self)
            for subscriber in self.subscribers:
                nursery.start_soon(subscriber.live, nursery)
            async with trio.open_nursery() as publishing:
                for publisher in (*self.publishers, *self.raw_publishers):
                    publishing.start_soon(publisher.live)
                for fault in self.plan.faults:
                    publishing.start_soon(fill_disk, self, fault)
                for death in self.plan.deaths:
                    await die(self, death)
                await self.acks.wait(_CODA)
                self.over = True
                for count in (self.acks, self.sent, self.received, self.joined, self.refused):
                    count.stop()
            await self._read_all()
            self.final.set()
        self.server.signal(SIGTERM)
        assert await self.server.ended() == 0

    async def _read_all(self) -> None:
        """Let new clients read the log from its start: two who see what is for all, or for a team, and
        one for each client who may have got something of its own."""
        async with open_line(self.server.port, {"format": "cloudevents"}) as line:
            welcome = (await line.events())[0]
            self.head = welcome["data"]["head"]
        at_once = trio.Event()
        at_once.set()
        read = partial(Subscriber, self, random=self.random, final=at_once, since="start")
        self.readers = [read(id="nobody", team=team, filters=None) for team in TEAMS]
        for id in self.ids:
            self.readers += [read(id=id, team=team, filters=[{"exact": {"to": id}}]) for team in TEAMS]
        async with trio.open_nursery() as nursery:
            for reader in self.readers:
                nursery.start_soon(reader.live, nursery)


async def carry_out(plan: Plan, directory: Path) -> Run:
    """Carry a plan out; return what was seen."""
    store = ("--store", f"sqlite:{directory}/log")
    async with server_process(directory, *store, *plan.options, patience=PATIENCE) as server:
        run = Run(plan, server)
        try:
            await run.carry_out()
        except trio.Cancelled:
            waiting = [who for who in run.subscribers + run.readers if not who.settled.is_set()]
            print("it hangs:", *run.publishers, *waiting, sep="\n")
            raise
        assert "Traceback" not in server.errors, server.errors
        errors = [line for line in server.errors.splitlines() if " ERROR " in line]
        # (stderr is a file as well, which the limit on the size of files may cut off in a line.)
        assert all("publishing is" in line for line in errors), server.errors
        assert bool(errors) <= bool(plan.faults)
    return run
