"""The channel that feeds the broadcast: its bounds, and what cancellation leaves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio
import trio.testing

from trionotify import Disconnected, Notification
from trionotify.delivery.entry import Entry, Sender
from trionotify.delivery.publish_queue import Inbox


def entries(count: int, data: str = "") -> list[Entry]:
    return [Entry(Notification(data, type="t", source="s")) for _ in range(count)]


@pytest.mark.parametrize(
    ("inbox", "each"),
    [(Inbox(2, 10_000), ""), (Inbox(1000, 10_000), "x" * 5_000)],
    ids=["count", "bytes"],
)
async def test_publishers_are_held_back(inbox: Inbox, each: str) -> None:
    """By count and by bytes: who publishes faster than the broadcast takes has to wait."""
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(inbox.put, entries(1, each))
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            assert inbox.full
            assert len(await inbox.take_all()) == 2
    assert inbox.count == 0


async def test_what_is_published_together_stays_together() -> None:
    """One list may go over the bounds; it isn't split, and all that waits is taken at once."""
    inbox = Inbox(2, 1000)
    await inbox.put(entries(1))
    await inbox.put(entries(5))
    assert inbox.full
    assert len(await inbox.take_all()) == 6
    assert not inbox.full


async def test_a_cancelled_publisher_published_nothing() -> None:
    """While it waits for room."""
    inbox = Inbox(1, 1000)
    await inbox.put(entries(1))
    with trio.move_on_after(0) as scope:
        await inbox.put(entries(1))
    assert scope.cancelled_caught
    assert len(await inbox.take_all()) == 1


async def test_a_sender_whose_authorization_ends() -> None:
    """Its lists are left out when their turn comes, and nothing more of it gets in."""
    inbox = Inbox(1, 1000)
    good, bad = SimpleNamespace(revoked=False), SimpleNamespace(revoked=False)
    await inbox.put(entries(1), bad)
    ended: list[str] = []

    async def put(name: str, sender: Sender) -> None:
        try:
            await inbox.put(entries(1, name), sender)
        except Disconnected as error:
            ended.append(f"{name}: {error}")

    async with trio.open_nursery() as nursery:
        for name, sender in (("1", bad), ("2", good), ("3", bad), ("4", good)):
            nursery.start_soon(put, name, sender)
            await trio.testing.wait_all_tasks_blocked()
        bad.revoked = True
        taken = [entry.data for _ in range(3) for entry in await inbox.take_all()]
        assert taken == ["", "2", "4"]
    assert [text[:2] for text in sorted(ended)] == ["1:", "3:"]
    with pytest.raises(Disconnected, match="the client's authorization has ended"):
        await inbox.put(entries(1), bad)
    await inbox.put(entries(1), good)
    assert inbox.count == 1


async def test_waiting_until_all_is_dealt_with() -> None:
    """All that was in at the call: what comes later is not waited for."""
    inbox = Inbox(10, 1000)
    await inbox.settled()
    await inbox.put(entries(2))
    first = await inbox.take_all()
    await inbox.put(entries(1))
    done: list[str] = []

    async def wait(name: str) -> None:
        await inbox.settled()
        done.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "one")
        await trio.testing.wait_all_tasks_blocked()
        await inbox.put(entries(1))
        nursery.start_soon(wait, "two")
        inbox.settle(len(first))
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        second = await inbox.take_all()
        inbox.settle(1)
        await trio.testing.wait_all_tasks_blocked()
        assert done == ["one"]
        inbox.settle(len(second) - 1)
    assert done == ["one", "two"]


async def test_nobody_waits_for_what_nobody_deals_with() -> None:
    """When the broadcast is over."""
    inbox = Inbox(10, 1000)
    await inbox.put(entries(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.settled)
        await trio.testing.wait_all_tasks_blocked()
        assert len(inbox.close()) == 2


async def test_closing() -> None:
    """Publishers that wait learn of it; what is inside can be taken; then comes the end."""
    inbox = Inbox(1, 1000)
    await inbox.put(entries(1))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def publisher() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await inbox.put(entries(1))

        await trio.testing.wait_all_tasks_blocked()
        inbox.close_to_publishers()
        assert len(await inbox.take_all()) == 1
    with pytest.raises(trio.EndOfChannel):
        await inbox.take_all()
    assert inbox.close() == []


async def test_publishers_are_served_in_line() -> None:
    """The place goes to the one that waits longest: all that publish get the same share."""
    inbox = Inbox(1, 1 << 20)
    puts = [0] * 20

    async def publish(number: int) -> None:
        while True:
            await inbox.put(entries(1))
            puts[number] += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(publish, number)
        for _ in range(1000):
            inbox.settle(len(await inbox.take_all()))
        nursery.cancel_scope.cancel()
    assert max(puts) - min(puts) <= 1
    assert sum(puts) >= 1000


async def test_nobody_gets_in_front_of_the_line() -> None:
    """Also not in the moment when there is room again."""
    inbox = Inbox(1, 1 << 20)
    await inbox.put(entries(1, "first"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.put, entries(1, "second"))
        await trio.testing.wait_all_tasks_blocked()
        got = await inbox.take_all()
        nursery.start_soon(inbox.put, entries(1, "third"))
        while len(got) < 3:
            got += await inbox.take_all()
    assert [entry.notification.data for entry in got] == ["first", "second", "third"]


async def test_leaving_the_line() -> None:
    """A cancelled one leaves from the middle, the others keep their order; closing sends all away."""
    inbox = Inbox(1, 1 << 20)
    await inbox.put(entries(1, "0"))
    scopes = [trio.CancelScope() for _ in range(4)]
    closed: list[int] = []

    async def publish(number: int) -> None:
        with scopes[number]:
            try:
                await inbox.put(entries(1, str(number + 1)))
            except trio.ClosedResourceError:
                closed.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(publish, number)
            await trio.testing.wait_all_tasks_blocked()
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        got = await inbox.take_all()
        got += await inbox.take_all()
        assert [entry.notification.data for entry in got] == ["0", "1"]
        rest = inbox.close()
        assert [entry.notification.data for entry in rest] == ["3"]
    assert closed == [3]
    with pytest.raises(trio.ClosedResourceError):
        await inbox.put(entries(1))


async def test_without_waiting() -> None:
    """A notification without room is not put in. Those that wait in line always come first."""
    inbox = Inbox(1, 1 << 20)
    inbox.put_nowait(entries(1, "first"))
    with pytest.raises(trio.WouldBlock):
        inbox.put_nowait(entries(1, "no room"))
    assert [entry.notification.data for entry in await inbox.take_all()] == ["first"]
    inbox.put_nowait(entries(1, "second"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.put, entries(1, "third"))
        await trio.testing.wait_all_tasks_blocked()
        inbox._max_count = 2
        assert not inbox.full
        with pytest.raises(trio.WouldBlock):
            inbox.put_nowait(entries(1, "in front of the third"))
        got = await inbox.take_all()
        got += await inbox.take_all()
    assert [entry.notification.data for entry in got] == ["second", "third"]
    inbox.close()
    with pytest.raises(trio.ClosedResourceError):
        inbox.put_nowait(entries(1))
