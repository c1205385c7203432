"""The outbox: questions in order, answers by `id`, and a new connection that takes the rest again."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.conftest import cancel_at_every_await
from trionotify.client.in_flight import Outbox

Clock = trio.testing.MockClock


async def ask(outbox: Outbox[str], id: str, answers: dict[str, str]) -> None:
    answers[id] = await outbox.ask(id, f"text {id}")


async def asked(nursery: trio.Nursery, outbox: Outbox[str], *ids: str) -> dict[str, str]:
    answers: dict[str, str] = {}
    for id in ids:
        nursery.start_soon(ask, outbox, id, answers)
        await trio.testing.wait_all_tasks_blocked()
    return answers


async def test_texts_in_order_and_answers_by_id(nursery: trio.Nursery) -> None:
    """Each task gets the answer to its own question."""
    outbox = Outbox[str](10)
    answers = await asked(nursery, outbox, "a", "b", "c")
    assert [await outbox.take() for _ in range(3)] == ["text a", "text b", "text c"]
    for id in ("b", "c", "a"):
        outbox.answer(id, id.upper())
    await trio.testing.wait_all_tasks_blocked()
    assert answers == {"a": "A", "b": "B", "c": "C"}
    assert len(outbox) == 0


async def test_taking_waits_for_a_question(nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """And so does `asked`."""
    outbox = Outbox[str](10)
    for wait in (outbox.take, outbox.asked):
        with trio.move_on_after(1) as scope:
            await wait()
        assert scope.cancelled_caught
    await asked(nursery, outbox, "a")
    await outbox.asked()
    assert await outbox.take() == "text a"
    nursery.cancel_scope.cancel()


async def test_a_new_connection_takes_the_unanswered_again(nursery: trio.Nursery) -> None:
    """In the order in which they were asked, those that were sent and those that weren't."""
    outbox = Outbox[str](10)
    await asked(nursery, outbox, "a", "b", "c")
    assert [await outbox.take() for _ in range(2)] == ["text a", "text b"]
    outbox.answer("a", "A")
    outbox.rewind()
    await asked(nursery, outbox, "d")
    assert [await outbox.take() for _ in range(3)] == ["text b", "text c", "text d"]
    nursery.cancel_scope.cancel()


async def test_what_nobody_asks_any_more_is_not_taken(nursery: trio.Nursery) -> None:
    """A question that was cancelled before it was sent is not sent."""
    outbox = Outbox[str](10)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            await asked(inner, outbox, "a")
            scope.cancel()
    await asked(nursery, outbox, "b")
    assert await outbox.take() == "text b"
    nursery.cancel_scope.cancel()


async def test_the_limit(nursery: trio.Nursery) -> None:
    """A task that asks too much waits until something is answered, and its text isn't sent before."""
    outbox = Outbox[str](2)
    answers = await asked(nursery, outbox, "a", "b", "c")
    assert len(outbox) == 2
    outbox.answer("b", "B")
    await trio.testing.wait_all_tasks_blocked()
    assert answers == {"b": "B"}
    outbox.rewind()
    assert [await outbox.take() for _ in range(2)] == ["text a", "text c"]
    nursery.cancel_scope.cancel()


async def test_one_question_of_an_id_at_a_time(nursery: trio.Nursery) -> None:
    """The second waits until the first has its answer: answers name nothing but the id."""
    outbox = Outbox[str](10)
    first = await asked(nursery, outbox, "a")
    second = await asked(nursery, outbox, "a")
    assert len(outbox) == 1
    outbox.answer("a", "1")
    await trio.testing.wait_all_tasks_blocked()
    assert (first, second) == ({"a": "1"}, {})
    outbox.answer("a", "2")
    await trio.testing.wait_all_tasks_blocked()
    assert second == {"a": "2"}


async def test_refusals(nursery: trio.Nursery) -> None:
    """One question is refused by its id, all of them together, and those to come when it is closed."""
    outbox = Outbox[str](10)
    caught: list[tuple[str, str]] = []

    async def fail(id: str) -> None:
        with pytest.raises(ValueError, match="no") as error:
            await outbox.ask(id, "text")
        caught.append((id, str(error.value)))

    for id in ("a", "b", "c"):
        nursery.start_soon(fail, id)
    await trio.testing.wait_all_tasks_blocked()
    outbox.refuse("b", ValueError("no b"))
    await trio.testing.wait_all_tasks_blocked()
    assert caught == [("b", "no b")]
    outbox.refuse_all(ValueError("no more"))
    await trio.testing.wait_all_tasks_blocked()
    outbox.close(ValueError("not any more"))
    await fail("d")
    assert sorted(caught) == [("a", "no more"), ("b", "no b"), ("c", "no more"), ("d", "not any more")]


@pytest.mark.parametrize("id", ["z", None, 5, ["a"], {}])
async def test_answers_that_nobody_waits_for(id: object, nursery: trio.Nursery) -> None:
    """They are ignored, whatever a server calls an id."""
    outbox = Outbox[str](10)
    await asked(nursery, outbox, "a")
    outbox.answer(id, "Z")
    outbox.refuse(id, ValueError("Z"))
    assert len(outbox) == 1
    nursery.cancel_scope.cancel()


async def test_asking_is_cancelled(autojump_clock: Clock) -> None:
    """The question is forgotten, its room is free, and a late answer is ignored."""
    outbox = Outbox[str](1)
    answers: list[str] = []

    async def operation(steps: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            answers.append(await outbox.ask("a", "text"))

    async def answer() -> None:
        await outbox.take()
        await trio.lowlevel.checkpoint()
        outbox.answer("a", "A")

    assert await cancel_at_every_await(operation) >= 2
    assert answers == ["A"]
    assert len(outbox) == 0
    outbox.answer("a", "late")
