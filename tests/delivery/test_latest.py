"""The notes of clients under `lag=latest`: the newest of each kind, and fewer if many clients wait."""

from __future__ import annotations

from random import Random

import pytest
from trio.testing import MockClock as Clock

from tests.conftest import Room, open_room
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
    """Each filter applies up to the cursor behind which the next one does. Of the newest that they
    select of each kind arrives that, or one that the earlier filter had chosen instead."""
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
    last, _ = filters[-1]
    for kind in "klmn":
        of_kind = [offset for offset, (name, _) in enumerate(published, 1) if name == kind]
        wanted = [offset for offset in of_kind if selects(filters, offset, published[offset - 1][1])]
        if wanted and wanted[-1] > last:
            assert wanted[-1] in got
        elif wanted:
            assert max(set(of_kind) & set(got)) >= wanted[-1]


def selects(filters: list[tuple[int, Wanted]], offset: int, type: str) -> bool:
    """Whether the filter that applies at this offset selects this type."""
    return bool([chosen for after, chosen in filters if after < offset][-1](Notification(type=type)))


async def test_what_was_chosen_survives_a_gap(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the log evicts some of what an earlier filter has chosen, the rest still comes."""
    monkeypatch.setattr("trionotify.delivery.latest.CHUNK_SIZE", 1)
    async with open_room(max_log_entries=6) as room:
        peer = await room.connect("/?lag=latest&exact.type=a")
        (client,) = room.hub.clients
        peer.kernel.stall()
        publish(room, "1a 2a 3a 4b 5a 6b")
        await room.quiet()
        peer.kernel.grant(5)  # the first whole, and a byte of the second
        await room.quiet()
        client.unsubscribe()
        client.subscribe(Exact(type="b"))
        publish(room, "7c 8c 9b")
        await room.quiet()
        peer.kernel.grant(None)
        await room.quiet()
        assert room.hub.log.start == 3
        assert peer.look().messages == ["1a", "2a", "4b", "5a", "6b", "9b"]


async def test_what_expires_meanwhile_is_not_sent(
    room: Room, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it was chosen before."""
    monkeypatch.setattr("trionotify.delivery.latest.CHUNK_SIZE", 1)
    peer = await room.connect("/?lag=latest")
    peer.kernel.stall()
    publish(room, "1a 2a 3a 4a", expirytime="2100-01-01T00:00:00Z")
    await room.quiet()
    peer.kernel.grant(5)
    await room.quiet()
    monkeypatch.setattr("trionotify.model.notification.clock.time", lambda: 5e9)
    publish(room, "5a")
    peer.kernel.grant(None)
    await room.quiet()
    assert peer.look().messages == ["1a", "2a", "5a"]


def publish(room: Room, words: str, **attributes: str) -> None:
    """Publish each word as the newest of its own kind. Its last letter is its type."""
    for word in words.split():
        room.hub.publish_nowait(word, subject=word, type=word[-1], **attributes)


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
