"""An application's unit tests: a hub, clients and hours of time, without a network and without waiting.

    pip install pytest pytest-trio
    python -m pytest test_escalation.py

The code under test is `escalate`. It tells the people on duty of an alarm, one after the other, until
one answers. Pytest-trio's fixture `autojump_clock` lets the time jump to the next deadline whenever
all tasks wait, so fifteen minutes pass in no time. A test sees what is published by a subscription, as
the application itself would. Where queries, sessions or audiences matter, it uses a client, with
`trionotify.connect` over a stream in memory.
"""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

import trionotify
from trionotify import Exact, Hub

PATIENCE = 15 * 60


async def escalate(hub: Hub, alarm: str, on_duty: Sequence[str]) -> str | None:
    """Tell one after the other, `PATIENCE` seconds apart, until one answers; return who that is."""
    async with hub.subscribe(Exact(type="alarm.answered", subject=alarm)) as answers:
        for name in on_duty:
            await hub.publish(alarm, type="alarm", subject=alarm, to=name)
            with trio.move_on_after(PATIENCE):
                answer = await anext(answers)
                return answer.source.removeprefix("/clients/")
    await hub.publish(f"nobody answers {alarm}", type="alarm.lost", subject=alarm)
    return None


@pytest.mark.trio
async def test_nobody_answers(autojump_clock: trio.testing.MockClock) -> None:
    """Each person is told, and in the end the alarm is reported as lost."""
    start = trio.current_time()
    async with trionotify.open_hub() as hub, hub.subscribe() as published:
        assert await escalate(hub, "fire", ["al", "bo"]) is None
        seen = [await anext(published) for _ in range(3)]
    assert [(n.type, n.to) for n in seen] == [("alarm", "al"), ("alarm", "bo"), ("alarm.lost", None)]
    assert trio.current_time() - start == pytest.approx(2 * PATIENCE)


@pytest.mark.trio
async def test_the_second_one_answers(autojump_clock: trio.testing.MockClock) -> None:
    """An answer ends it, a quarter of an hour after the first person was told."""
    async with trionotify.open_hub() as hub, trio.open_nursery() as nursery:

        async def open_stream() -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(hub.handle, ours)
            return theirs

        async def answer(name: str, *, task_status: trio.TaskStatus[None]) -> None:
            async with trionotify.connect("ws://test", id=name, open_stream=open_stream) as client:
                task_status.started()
                alarm = await anext(client)
                assert trio.current_time() - start == pytest.approx(PATIENCE)
                await trio.sleep(60)
                await client.publish(type="alarm.answered", subject=alarm.subject)

        await nursery.start(answer, "bo")
        start = trio.current_time()
        assert await escalate(hub, "fire", ["al", "bo", "cy"]) == "bo"
        assert trio.current_time() - start == pytest.approx(PATIENCE + 60)
