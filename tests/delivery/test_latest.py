"""The notes of clients under `lag=latest`: the newest of each kind, and fewer if many clients wait."""

from __future__ import annotations

from random import Random

import pytest
from trio.testing import MockClock as Clock

from tests.conftest import Room
from trionotify.delivery import latest as latest_module
from trionotify.delivery.counters import Lag
from trionotify.delivery.entry import Entry
from trionotify.delivery.latest import Notes
from trionotify.delivery.rights import Rights
from trionotify.model.cursor import Cursor
from trionotify.model.notification import Notification
from trionotify.model.predicates import EVERYTHING, NOTHING, Exact, Wanted


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
    notes.forget(3)
    notes.forget(3)
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


@pytest.mark.parametrize("seed", range(30))
async def test_a_change_of_filter_hides_no_kind(
    room: Room, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Of what each filter selects, up to the cursor behind which the next one applies, the newest of
    each kind arrives, also if some of it was left out for one that only the earlier filter wants."""
    random = Random(seed)
    monkeypatch.setattr("trionotify.delivery.latest.CHUNK_SIZE", 80)
    monkeypatch.setattr(latest_module, "KINDS", 5)
    peer = await room.connect("/?lag=latest")
    (client,) = room.hub.clients
    published: list[tuple[str, str]] = []
    filters: list[tuple[int, Wanted]] = [(0, EVERYTHING)]
    peer.kernel.stall()
    for _ in range(200):
        step = random.randrange(8)
        if step < 5:
            kind, type = random.choice("klmn"), random.choice("ab")
            published.append((kind, type))
            room.hub.publish_nowait(f"{len(published)} ".ljust(30), subject=kind, type=type)
        elif step == 5:
            chosen = random.choice([Exact(type="a"), Exact(type="b"), EVERYTHING, NOTHING])
            client.unsubscribe()
            cursor = client.subscribe(chosen)
            assert cursor is not None
            filters.append((Cursor.parse(cursor).offset, chosen))
        else:
            peer.kernel.grant(random.randrange(40))
        await room.quiet()
    peer.kernel.grant(None)
    await room.quiet()
    got = [int(str(message).split()[0]) for message in peer.look().messages]
    assert got == sorted(set(got))
    newest = {}
    for offset, (kind, type) in enumerate(published, 1):
        wanted = [chosen for after, chosen in filters if after < offset][-1]
        if wanted(Notification(type=type)):
            newest[kind] = offset
        else:
            assert offset not in got
    assert set(newest.values()) <= set(got)


async def test_rights_apply_at_once(
    room: Room, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a client's earlier rights allowed, and wasn't sent yet, isn't sent."""
    monkeypatch.setattr("trionotify.delivery.latest.CHUNK_SIZE", 1)
    peer = await room.connect("/?lag=latest")
    (client,) = room.hub.clients
    peer.kernel.stall()
    for number, type in enumerate("aabab"):
        room.hub.publish_nowait(f"{number}", subject=f"{number}", type=type)
    await room.quiet()
    peer.kernel.grant(4)  # the first, and a byte of the second, so that the rest is chosen
    await room.quiet()
    client.renew(Rights(subscribe=Exact(type="a")), 9e9)
    peer.kernel.grant(None)
    await room.quiet()
    assert peer.look().messages == ["0", "1", "3"]
