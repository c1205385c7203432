"""The verdict: was everything acknowledged delivered to all its recipients, once, in order?"""

from __future__ import annotations

from itertools import pairwise

from tests.fleet.events import is_wanted
from tests.fleet.publishers import Publisher, RawPublisher
from tests.fleet.run import Run
from tests.fleet.subscribers import RawSubscriber, Stay, Subscriber

__all__ = ["judge"]


def judge(run: Run) -> None:
    """Raises AssertionError."""
    offsets = _places(run)
    for publisher in run.publishers:
        _judge_publisher(run, publisher, offsets)
    for raw_publisher in run.raw_publishers:
        _judge_raw_publisher(raw_publisher, offsets)
    for subscriber in run.subscribers + run.readers:
        for stay in subscriber.stays:
            if stay.start is not None:
                _judge_stay(run, subscriber, stay)
        assert subscriber.stays[-1].upto >= run.head or isinstance(subscriber, RawSubscriber)


def _places(run: Run) -> dict[str, int]:
    """Where each token is: once, and without a hole in the log."""
    assert run.highest == run.head == max(run.log)
    offsets: dict[str, int] = {}
    for offset, token in sorted(run.log.items()):
        if token in offsets:
            # Published again, when the log had forgotten the first one?
            first = offsets[token]
            assert run.may_be_forgotten(first, offset), f"{token} is at {first} and at {offset}"
        offsets[token] = offset
    if run.plan.max_entries is None:
        assert sorted(run.log) == list(range(1, run.head + 1)), "the log has holes"
    return offsets


def _judge_publisher(run: Run, publisher: Publisher, offsets: dict[str, int]) -> None:
    """All is acknowledged, in order, and is where the acknowledgement says."""
    assert len(publisher.offsets) == len(publisher.said)
    for offset, next_ in pairwise(publisher.offsets):
        refused = run.log[offset].partition(" ")[0] in publisher.refused
        in_order = offset < next_ or refused or run.may_be_forgotten(next_, offset)
        assert in_order, f"{publisher}: {offset} comes before {next_}"
    for token, highest in publisher.refused.items():
        assert offsets[token] > highest, f"{token} was refused, and is at {offsets[token]}"
    assert publisher.offsets == [offsets[said.token] for said in publisher.said]
    if run.plan.max_entries is None:
        read = {token for reader in run.readers for stay in reader.stays for _, token in stay.got}
        for said in publisher.said:
            readable = any(said.is_for(reader.id, reader.team) for reader in run.readers)
            assert said.token in read or not readable, f"{said} was acknowledged and is not in the log"


def _judge_raw_publisher(publisher: RawPublisher, offsets: dict[str, int]) -> None:
    """The log has the first messages of each connection, in order."""
    for tokens, done in publisher.stays:
        found = [offsets[token] for token in tokens if token in offsets]
        assert found == sorted(found), f"{publisher.id}: not in order"
        assert [token in offsets for token in tokens] == [n < len(found) for n in range(len(tokens))]
        assert not done or len(found) == len(tokens), f"{publisher.id}: something was left out"


def _judge_stay(run: Run, subscriber: Subscriber, stay: Stay) -> None:
    """It brought the filtered log from where it started, and started where it was asked to."""
    if stay.recovered:
        assert stay.start == stay.asked, f"{subscriber}: it resumed elsewhere"
    if isinstance(subscriber, RawSubscriber):
        due = stay.is_due(run, subscriber.id, subscriber.team, run.head)
        got = [token for _, token in stay.got]
        assert got == [token for _, token in due][: len(got)], f"{subscriber}: {stay}"
    else:
        due = stay.is_due(run, subscriber.id, subscriber.team, stay.upto)
        missing, extra = set(due) - set(stay.got), set(stay.got) - set(due)
        if subscriber.latest:
            missing = {one for one in missing if not _is_outdated(run, subscriber, stay, *one)}
            due = [one for one in due if one in stay.got]
        assert not missing, f"{subscriber}: {missing} are missing"
        assert stay.got == due, f"{subscriber}: {extra} are too many"


def _is_outdated(run: Run, subscriber: Subscriber, stay: Stay, offset: int, token: str) -> bool:
    """Whether there is a newer one of its kind that the client wanted, when this one was left out.

    It may be yet to come, to the next connection; or never, if the client wants something else by then.
    """
    kind, filters = run.published[token].kind, stay.filters_at(offset)
    return any(
        said.kind == kind and said.is_for(subscriber.id, subscriber.team) and is_wanted(filters, said)
        for _, said in run.between(offset, run.head)
    )
