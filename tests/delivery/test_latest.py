"""The notes of clients under `lag=latest`: the newest of each kind, and fewer if many clients wait."""

from __future__ import annotations

import pytest
from trio.testing import MockClock as Clock

from tests.conftest import Room
from trionotify.delivery import latest as latest_module
from trionotify.delivery.counters import Lag
from trionotify.delivery.entry import Entry
from trionotify.delivery.latest import Notes
from trionotify.model.notification import Notification


def entry(subject: str, offset: int) -> Entry:
    made = Entry(Notification("x", subject=subject))
    made.offset = offset
    return made


def test_the_newest_of_each_kind() -> None:
    """In the order of the log; what is replaced counts as left out."""
    lag = Lag()
    notes = Notes(lag)
    for offset, subject in enumerate("abcab", 1):
        notes.add(entry(subject, offset))
    assert list(notes) == [3, 4, 5]
    assert (lag.noted, lag.thinned) == (3, 2)
    assert notes.take(entry("c", 3))
    assert not notes.take(entry("c", 3))
    assert (list(notes), lag.noted, lag.thinned) == ([4, 5], 2, 2)


def test_all_of_them_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the common limit each client may have few; who is let go of, counts no more."""
    monkeypatch.setattr(latest_module, "NOTED", 10)
    monkeypatch.setattr(latest_module, "FEW", 2)
    lag = Lag()
    first, second = Notes(lag), Notes(lag)
    for offset in range(1, 10):
        first.add(entry(f"{offset}", offset))
    second.add(entry("1", 1))
    assert lag.noted == 10
    assert first.full
    assert not second.full
    second.add(entry("2", 2))
    assert second.full
    del first
    assert lag.noted == 2
    assert not second.full


async def test_nothing_is_lost_for_it(
    room: Room, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many that are behind get the newest of each kind, as before, and maybe some older ones."""
    monkeypatch.setattr(latest_module, "NOTED", 20)
    monkeypatch.setattr(latest_module, "FEW", 3)
    peers = [await room.connect("/?lag=latest") for _ in range(10)]
    for peer in peers:
        peer.kernel.stall()
    for number in range(100):
        await room.hub.publish(f"{number % 7}:{number}", subject=f"{number % 7}")
    await room.quiet()
    for peer in peers:
        peer.kernel.grant(None)
    await room.quiet()
    for peer in peers:
        numbers = [int(message.partition(":")[2]) for message in map(str, peer.look().messages)]
        assert numbers == sorted(set(numbers))
        assert set(range(93, 100)) <= set(numbers)
    assert room.hub.broadcast.lag.noted == 0
