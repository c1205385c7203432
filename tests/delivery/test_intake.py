"""The one way into the channel: its refusals, how it recognizes a repetition, and its waits."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from trionotify.delivery.audience import Audiences
from trionotify.delivery.entry import Entry, Pending
from trionotify.delivery.intake import Intake
from trionotify.delivery.memory_log import MemoryLog
from trionotify.delivery.publish_queue import Inbox
from trionotify.delivery.registry import Registry
from trionotify.errors import StoreError
from trionotify.model.notification import Notification


class PickyLog(MemoryLog):
    """A log that will never take text with "no" in it, as a durable one may."""

    durable = True

    def refusal(self, entry: Entry) -> Any:
        return StoreError(507, "too long") if "no" in str(entry.notification.data) else None


def make(max_count: int = 100) -> tuple[Intake, Inbox]:
    log = PickyLog(max_entries=100, max_bytes=1 << 20, max_age=60.0)
    inbox = Inbox(max_count, 1 << 20)
    return Intake(log, inbox, Audiences(Registry())), inbox


def test_what_the_log_will_never_take_does_not_become_an_entry() -> None:
    intake, inbox = make()
    with pytest.raises(StoreError):
        intake.entry(Notification("no"), "a")
    assert inbox.count == 0


def test_a_repetition_is_recognized_within_one_publisher() -> None:
    """By `source` and `id`; never where the `id` was made up, or the publisher has no identity."""
    intake, _ = make()
    event = Notification("x", id="1", source="/s")
    assert intake.entry(event, "a").key == intake.entry(event, "a").key is not None
    assert intake.entry(event, "a").key != intake.entry(event, "b").key
    assert intake.entry(event, None).key is None
    assert intake.entry(Notification("x"), "a").key is None


@pytest.mark.parametrize("data", ["x", b"x", "", None])
def test_the_notification_of_a_message_is_made_once(data: str | bytes | None) -> None:
    """It has the attributes of the template, the message's time, and an `id` of its own."""
    intake, _ = make()
    template = Notification(type="t", source="/s", extensions={"n": 1})
    first, second = (intake.entry(template, None, data=data, made_at=1.0) for _ in range(2))
    made = first.notification
    assert (made.data, made.type, made.source, made.get("n")) == (data, "t", "/s", "1")
    assert made.time == "1970-01-01T00:00:01Z"
    assert len({template.id, made.id, second.notification.id}) == 3
    assert first.notification is made
    assert first.size == Entry(made).size


async def test_it_waits_for_the_receipts_that_were_asked_for() -> None:
    """For each one; an entry without one is waited for no longer than the channel is full."""
    intake, inbox = make()
    pending = [Pending(), None, Pending()]
    entries = [intake.entry(Notification("x"), "a", pending=each) for each in pending]
    results: list[Pending | None] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def publish() -> None:
            results.extend(await intake.publish(entries, "here"))

        await trio.testing.wait_all_tasks_blocked()
        assert inbox.count == 3
        for each in (pending[0], pending[2]):
            assert results == []
            assert each is not None
            each.cursor = "epoch:1"
            each.done.set()
            await trio.testing.wait_all_tasks_blocked()
    assert results == pending
    assert results[0] is not None
    assert results[0].result().cursor == "epoch:1"


async def test_a_receipt_raises_what_went_wrong() -> None:
    pending = Pending()
    with pytest.raises(trio.ClosedResourceError):
        pending.result()
    pending.refuse(StoreError(507, "full"))
    with pytest.raises(StoreError, match="full"):
        pending.result()


async def test_cancelled_in_front_of_a_full_channel_nothing_is_published() -> None:
    intake, inbox = make(max_count=1)
    await intake.publish([intake.entry(Notification("first"), "a")], "here")
    with pytest.raises(trio.WouldBlock):
        intake.publish_nowait(intake.entry(Notification("second"), "a"))
    with trio.move_on_after(0) as scope:
        await intake.publish([intake.entry(Notification("third"), "a")], "here")
    assert scope.cancelled_caught
    assert [entry.notification.data for entry in await inbox.take_all()] == ["first"]
