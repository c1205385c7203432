"""Turns: whose it is next, and that no place is lost."""

from __future__ import annotations

from itertools import groupby, pairwise

import trio
from trio.testing import MockClock as Clock
from trio.testing import wait_all_tasks_blocked

from tests.conftest import Room, cancel_at_every_await
from tests.kernel import masked
from tests.web import Web, post
from trionotify.delivery.hub import _CROWD
from trionotify.delivery.turns import OPERATORS, Lane


async def test_those_who_wait_for_the_lane_are_served_by_address(autojump_clock: Clock) -> None:
    """However many of one address are there first, another waits for one of them only."""
    lane = Lane()
    served: list[str] = []

    async def work(address: str, name: str) -> None:
        async with lane.one_of(address):
            served.append(name)

    async with trio.open_nursery() as nursery:
        async with lane.one_of("many"):
            for number in range(5):
                nursery.start_soon(work, "many", f"many {number}")
                await wait_all_tasks_blocked()
            for name in ("few 0", "few 1"):
                nursery.start_soon(work, "few", name)
                await wait_all_tasks_blocked()
            nursery.start_soon(work, "one", "one 0")
            await wait_all_tasks_blocked()
    assert served == ["many 0", "few 0", "one 0", "many 1", "few 1", "many 2", "many 3", "many 4"]
    assert lane.free == 1


async def test_others_run_between_two_pieces(autojump_clock: Clock) -> None:
    """Also where no task waits yet when the first one comes."""
    lane = Lane()
    happened: list[str] = []

    async def work() -> None:
        async with lane.one_of("here"):
            happened.append("piece")

    async def other() -> None:
        for _ in range(20):
            happened.append("turn")
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(5):
            nursery.start_soon(work)
    # (Trio runs the tasks of one round in any order: so two may come together, the last and the first.)
    longest = max(len(list(group)) for name, group in groupby(happened) if name == "piece")
    assert happened.count("piece") == 5
    assert longest <= 2


async def test_a_cancelled_wait_leaves_no_place_taken() -> None:
    """At whichever await it is cancelled, in the line or before it."""

    async def operation(_: int) -> None:
        lane = Lane()
        try:
            async with trio.open_nursery() as nursery:
                async with lane.one_of("a"):
                    nursery.start_soon(lane_user, lane, "a")
                    nursery.start_soon(lane_user, lane, "b")
                    await trio.testing.wait_all_tasks_blocked()
                await lane_user(lane, "b")
        finally:
            assert lane.free == 1
            assert not lane._lines

    async def lane_user(lane: Lane, address: str) -> None:
        async with lane.one_of(address):
            await trio.lowlevel.checkpoint()

    assert await cancel_at_every_await(operation, of_all_tasks=True) > 5


async def test_an_event_in_fields_waits_for_nobody(room: Room, autojump_clock: Clock) -> None:
    """In binary mode there is nothing to parse that takes long, unless the audience is."""
    fields = ("ce-specversion: 1.0", "ce-id: 1", "ce-source: /s", "ce-type: t")
    short, long = Web(room), Web(room)
    audience = '[{"any":[' + ",".join(f'{{"exact":{{"team":"t{at}"}}}}' for at in range(40)) + "]}]"
    async with room.hub.slow_lane.one_of("another"):
        short.kernel.feed(post("/events", "hello", *fields))
        long.kernel.feed(
            post("/events", "hello", *fields[:1], "ce-id: 2", *fields[2:], f"ce-audience: {audience}")
        )
        await room.quiet()
        assert [answer.status for answer in short.answers("POST")] == [200]
        assert not long.kernel.taken
    await room.quiet()
    assert [answer.status for answer in long.answers("POST")] == [200]


async def test_a_turn_sees_a_deadline_that_came_on_the_way(autojump_clock: Clock) -> None:
    """Or a loop that does nothing else but wait for its turn would never hear of it."""
    lane = Lane()
    with trio.CancelScope() as scope:
        scope.deadline = trio.current_time()  # (it is noticed at the end of this round)
        await lane.turn("here")
        raise AssertionError("the deadline was missed")
    assert scope.cancelled_caught
    assert lane.free == 1


async def test_who_has_had_least_goes_first(autojump_clock: Clock) -> None:
    """Among those of one address; and operators go before everybody."""
    lane = Lane()
    served: list[str] = []

    async def work(address: str, had: float, name: str) -> None:
        async with lane.one_of(address, had):
            served.append(name)

    async with trio.open_nursery() as nursery:
        async with lane.one_of("many"):
            for had in (3, 1, 2):
                nursery.start_soon(work, "many", had, f"had {had}")
                await wait_all_tasks_blocked()
            nursery.start_soon(work, "new", 9, "new")
            await wait_all_tasks_blocked()
            nursery.start_soon(work, OPERATORS, 0, "operator")
            await wait_all_tasks_blocked()
    assert served == ["operator", "had 1", "new", "had 2", "had 3"]


async def test_a_crowd_costs_a_round_no_more_than_a_few_turns(room: Room, autojump_clock: Clock) -> None:
    """However many connections have sent more than is done in a turn."""
    peers = [await room.connect("/") for _ in range(50)]
    before = sum(len(peer.kernel.taken) for peer in peers)
    pongs = [0]
    done = trio.Event()

    async def count() -> None:
        while pongs[-1] < len(peers) * 3000:
            pongs.append((sum(len(peer.kernel.taken) for peer in peers) - before) // 2)
            await trio.lowlevel.checkpoint()
        done.set()

    async with trio.open_nursery() as nursery:
        for peer in peers:
            peer.kernel.feed(masked(b"\x89\x00") * 3000)
        nursery.start_soon(count)
        await done.wait()
    steps = [after - before for before, after in pairwise(pongs)]
    # What is here at first is a turn of 64 for each. Behind that a few go on in a round, and those of
    # two rounds may come together.
    assert sum(step > 3 * _CROWD * 64 for step in steps) <= 3
