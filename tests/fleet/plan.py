"""A plan: the events of one run, as far as they can be known beforehand. Made from a seed."""

from __future__ import annotations

import signal
from random import Random

import attrs

__all__ = ["Death", "Fault", "Plan", "model_plan", "storm_plan"]


@attrs.frozen
class Death:
    """One life of the server ends: `signal` is sent when `count` more of `what` were seen.

    `what` is one of the counts of a `Run`. `births` are the places at which lives that follow end before
    they have begun: `spawned`, `locked` (it has the file, and is about to read it), `listening`.
    `options` are those of the life after that. With `patience`, SIGKILL follows after so many turns.
    """

    what: str
    count: int
    births: tuple[str, ...]
    options: tuple[str, ...]
    signal: signal.Signals = signal.SIGKILL
    patience: int | None = None


@attrs.frozen
class Fault:
    """The disk is full when `count` more of `what` were seen, until there were so many refusals."""

    what: str
    count: int
    refusals: int


@attrs.frozen
class Plan:
    """The clients that take part, and the ways in which the server dies."""

    seed: int
    #: How many notifications the log keeps; None: all.
    max_entries: int | None
    subscribers: int
    raw_subscribers: int
    publishers: int
    raw_publishers: int
    #: Notifications that a publisher has on their way at a time, at most.
    window: int
    #: Characters of data that a notification may have.
    sizes: tuple[int, ...]
    #: How often in a hundred reads a client does something of its own will.
    whims: float
    births: tuple[str, ...]
    first: tuple[str, ...]
    deaths: tuple[Death, ...]
    faults: tuple[Fault, ...]

    @property
    def options(self) -> tuple[str, ...]:
        """Those of the server in all of its lives."""
        entries = 10_000_000 if self.max_entries is None else self.max_entries
        return (
            *("--max-log-entries", f"{entries}", "--max-log-bytes", f"{1 << 40}"),
            *("--max-log-age", "1e6", "--close-timeout", "0.5"),
            # A client that pauses until so much is acknowledged may pause for long.
            *("--ping-timeout", "600", "--stall-timeout", "600"),
        )


def model_plan(seed: int, kills: int = 4, share: float = 1.0) -> Plan:
    """A bit of everything. `share` says how long the lives are, compared with those of the long form."""
    random = Random(seed)
    keeps_all = random.random() < 0.7
    return Plan(
        seed=seed,
        max_entries=None if keeps_all else random.choice((100, 250)),
        subscribers=random.randint(5, 8),
        # What is not kept, and has no cursor or no acknowledgement, can't be judged.
        raw_subscribers=random.randint(1, 3) if keeps_all else 0,
        publishers=random.randint(2, 4),
        raw_publishers=random.randint(0, 2) if keeps_all else 0,
        window=random.choice((1, 4, 16, 64)),
        sizes=random.choice(_SIZES),
        whims=random.choice((0.5, 2.0, 5.0)),
        births=_births(random),
        first=_options(random),
        deaths=tuple(_death(random, share) for _ in range(kills)),
        faults=tuple(_fault(random, share) for _ in range(random.choice((0, 0, 1, 2)))),
    )


#: What is counted in a run, and up to which number. (5: so many come back, whatever they are like.)
_COUNTS = (("acks", 400), ("sent", 500), ("received", 2000), ("joined", 5))


def _moment(random: Random, share: float) -> tuple[str, int]:
    what, most = random.choice(_COUNTS)
    return what, random.randint(1, int(most * share))


def _death(random: Random, share: float) -> Death:
    return Death(
        *_moment(random, share),
        births=_births(random),
        options=_options(random),
        signal=random.choice((signal.SIGKILL,) * 3 + (signal.SIGTERM,)),
        patience=random.choice((None, 1, 10, 100, 1000)),
    )


def _births(random: Random) -> tuple[str, ...]:
    places = ("spawned", "locked", "locked", "listening")
    return tuple(random.choice(places) for _ in range(random.choice((0, 0, 0, 1, 2))))


def _fault(random: Random, share: float) -> Fault:
    return Fault(*_moment(random, share), refusals=random.choice((1, 3, 30)))


#: Of data, in characters: a page of the file holds many of the small ones, and one or none of the large.
_SIZES = (
    *((0, 0, 0, 20, 20, 300, 5000, 40_000),) * 4,
    *((0, 20, 60_000),) * 2,
    (0, 0, 20, 20, 20, 400_000),
)


def _options(random: Random) -> tuple[str, ...]:
    """The options that may differ in each life."""
    return (
        *("--durability", random.choice(("full", "normal"))),
        *("--max-tail-bytes", str(random.choice((500, random.randint(500, 200_000), 1 << 24)))),
        *("--max-waiting", str(random.choice((1, 10, 4096)))),
        *("--position-interval", random.choice(("0.05", "30"))),
    )


def storm_plan(seed: int, kills: int = 50, between: int = 2000) -> Plan:
    """SIGKILL under load: as many notifications as there can be, and about `between` for each life."""
    random = Random(seed)
    deaths = [
        Death(
            random.choice(("acks", "acks", "sent")),
            random.randint(between // 2, between * 3 // 2),
            births=(),
            options=("--durability", random.choice(("full", "normal"))),
        )
        for _ in range(kills)
    ]
    return Plan(
        seed=seed,
        max_entries=None,
        subscribers=5,
        raw_subscribers=1,
        publishers=4,
        raw_publishers=0,
        window=128,
        sizes=(0, 20, 100, 1000),
        whims=0.05,
        births=(),
        first=("--durability", "full"),
        deaths=tuple(deaths),
        faults=(),
    )
