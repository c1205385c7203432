"""Whatever a server is sent, it serves everyone else: the short form of `python -m tests.fuzz`.

And whether its oracles see what is wrong.
"""

from __future__ import annotations

import gc
import secrets
import sys
from pathlib import Path

import attrs
import pytest

from tests.fuzz.answers import Malformed, fault_of, read_all
from tests.fuzz.broken import WAYS
from tests.fuzz.inputs import Ask, Burst, Heard, Scene, Talk
from tests.fuzz.kinds import KINDS, LOCAL, random_of
from tests.fuzz.lag import measured_lag
from tests.fuzz.run import Outcome, Plan, fuzz, fuzz_locally
from tests.fuzz.signatures import is_signed
from tests.fuzz.vitals import LogReader
from tests.web import Answered
from trionotify import open_server

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

#: The same in each run, and one that is new in each.
SEEDS = (1, secrets.randbelow(1_000_000))
INPUTS = 150


def plans(*names: str) -> list[Plan]:
    return [Plan(name, seed, range(INPUTS)) for seed in SEEDS for name in names]


def assert_fine(outcomes: list[Outcome]) -> None:
    print(f"seeds {SEEDS}")
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    assert not faults, "\n".join(map(str, faults[:20]))


SHARED = [name for name, kind in KINDS.items() if kind.shares_with(KINDS["http"])]


@linux_only
@pytest.mark.parametrize(
    "names", [SHARED, *([name] for name in KINDS if name not in SHARED)], ids=lambda names: names[0]
)
async def test_a_server_serves_everyone_else(names: list[str], tmp_path: Path) -> None:
    """Witnesses hear all, in order; the log has no error; all is answered; memory returns; it ends."""
    assert_fine(await fuzz(tmp_path, *plans(*names)))


@pytest.mark.parametrize("name", LOCAL)
def test_without_a_server(name: str) -> None:
    """The index, `explain` and the JSON of a filter say what the filter says; URLs are read back."""
    assert_fine([fuzz_locally(plan) for plan in plans(name)])


@pytest.mark.parametrize("name", KINDS)
def test_an_input_can_be_made_again(name: str) -> None:
    """From its seed, its kind and its number alone."""

    def bytes_of(number: int) -> object:
        one = KINDS[name].make(random_of(1, name, number), Scene(secret="s" * 20))
        return one.data if isinstance(one, Ask) else one.pieces

    assert [bytes_of(number) for number in (3, 5)] == [bytes_of(number) for number in (3, 5)]
    assert bytes_of(3) != bytes_of(5)


# --- the oracles are sharp ---


@linux_only
@pytest.mark.parametrize("way", WAYS)
async def test_a_broken_server_is_found_out(way: str, tmp_path: Path) -> None:
    """By the oracle whose business it is."""
    oracle, name, _ = WAYS[way]
    launcher = (sys.executable, "-m", "tests.fuzz.broken", way)
    plan = Plan(name, 1, range(100), with_lag=oracle == "lag", settling=0.0)
    (outcome,) = await fuzz(tmp_path, plan, launcher=launcher)
    assert oracle in {fault.oracle for fault in outcome.faults}, outcome


PROBLEM = b'{"title":"Bad","status":%d,"detail":"why"}'


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, PROBLEM % 400, None),
        (503, PROBLEM % 503, None),
        (507, PROBLEM % 507, None),
        (500, PROBLEM % 500, "answered with 500"),
        (502, PROBLEM % 502, "answered with 502"),
        (503, b'{"title":"Bad","status":503,"detail":""}', "without a problem document"),
        (400, PROBLEM % 404, "without a problem document"),
        (400, b"oh", "without a problem document"),
    ],
)
def test_what_an_answer_may_be(status: int, body: bytes, words: str | None) -> None:
    """A refusal says why, and the server itself never fails."""
    fault = fault_of(Answered(status, {"content-type": "application/problem+json"}, body))
    assert fault is None if words is None else words in (fault or "")


def test_bytes_that_are_no_answer() -> None:
    """They are noticed, as is an answer that was cut off, or that is missing."""
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    assert [answer.status for answer in read_all(good * 2)] == [200, 200]
    for bad in (
        good + b"junk",
        good.replace(b": 1", b": 2"),
        b"HTTP/1.1 200 OK\r\nX: \x1b\r\n\r\n",
        b"HTTP/1.1 200\n\n",
    ):
        with pytest.raises(Malformed):
            list(read_all(bad))
    due = frozenset({200})
    assert Burst((), (due, due)).fault(good * 2) is None
    assert "2 legal requests, 1 answers" in (Burst((), (due, due)).fault(good) or "")
    assert "one of [404] was due" in (Burst((), (frozenset({404}),)).fault(good) or "")


def test_what_a_websocket_may_hear() -> None:
    """Close codes for what the client did, and for nothing else; events where it speaks events."""
    talk, dirty = Talk("/", ()), Talk("/", (), clean=False)
    assert talk.fault(Heard(())) is None
    assert dirty.fault(Heard((), 1002)) is None
    assert dirty.fault(Heard((), lost=True)) is None
    for heard in (Heard((), 1002), Heard((), lost=True), Heard((), 1011), Heard((), 0)):
        assert talk.fault(heard)
    assert dirty.fault(Heard((), 1011))
    assert Talk("/?format=cloudevents", ()).fault(Heard(("{}",)))


def test_what_a_log_may_have(tmp_path: Path) -> None:
    """Whole lines, each a record in JSON; no error, no traceback, no secret, no signature."""
    path = tmp_path / "log"
    good = '{"level":"info","message":"m","remote":"127.0.0.1:42"}\n'
    path.write_text(good + good[:-9])
    reader = LogReader(path, "the secret")
    assert reader.faults() == []
    lines = (
        '{"level":"error","message":"m","remote":"127.0.0.1:42"}',
        '{"level":"info","message":"Traceback"}',
        "Traceback",
        '{"level":"info","message":"the secret"}',
        f'{{"level":"info","message":"{"a0" * 32}"}}',
    )
    path.write_text("".join(f"{line}\n" for line in (good + good.rstrip(), *lines)))
    found = reader.faults()
    assert [port for _, port in found] == [42, None, None, None, None]


def test_who_is_let_in_by_a_signature() -> None:
    """The oracle is of its own: it agrees with `sign`, and refuses what was changed."""
    from trionotify import sign  # noqa: PLC0415 - the only place that trusts it

    scene = Scene(secret="0123456789abcdef", now=0)
    query = sign({"id": "a b", "exact.team": "ops"}, scene.secret)
    assert is_signed(query, scene)
    assert is_signed(f"{query}&since=start".replace("%20", "+"), scene)
    changed = (
        f"{query}&role=both",
        query.replace("ops", "dev"),
        query[:-1],
        query.replace("sig", "sic"),
    )
    for bad in (*changed, f"{query}&id=x", ""):
        assert not is_signed(bad, scene)
    assert not is_signed(query, attrs.evolve(scene, now=1 << 40))
    both = sign({"role": "both"}, scene.secret)
    assert is_signed(both.replace("both", "publisher"), scene)


@linux_only
async def test_the_program_that_measures_does_not_outlive_a_failure() -> None:
    """It has ended when the block is left, so Python has no unfinished program to warn of."""
    async with open_server(port=0) as server:
        with pytest.RaisesGroup(AssertionError):
            async with measured_lag(server.port or 0):
                raise AssertionError("as it happens")
    gc.collect()
