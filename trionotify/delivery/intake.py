"""The intake: the only way from a publisher into the channel.

`hub.publish`, a client's messages and `POST /events` all use it, each in the publisher's own task.
`entry` turns a notification into an entry. It refuses one that the log will never accept, and gives one
that has the publisher's own `id` the key by which a repetition is recognized. `publish` takes the whole
list. It finds the clients that the audiences select, puts the list into the channel, and waits for the
receipts that the publisher wants.

The intake keeps no state. What it accepts is in the channel, whose bounds make publishers wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trionotify.delivery.entry import Entry, Pending, Sender, repetition_key

if TYPE_CHECKING:
    from trionotify.delivery.audience import Audiences
    from trionotify.delivery.log import Log
    from trionotify.delivery.publish_queue import Inbox
    from trionotify.model.notification import Data, Notification

__all__ = ["Intake"]


class Intake:
    """Created by the hub. Any task may publish."""

    def __init__(self, log: Log, inbox: Inbox, audiences: Audiences) -> None:
        #: Only a durable log refuses entries.
        self._refusal = log.refusal if log.durable else None
        self._inbox = inbox
        self._audiences = audiences

    def entry(
        self,
        notification: Notification,
        publisher: str | None,
        *,
        origin: int | None = None,
        pending: Pending | None = None,
        data: Data = None,
        made_at: float | None = None,
    ) -> Entry:
        """Make an entry for `notification`. With `pending`, `publish` waits for its receipt.

        With `made_at`, the entry is for other `data`: see `Entry`. A repetition is recognized among the
        entries of one `publisher`; with None, never. `origin` is the key of its connection, if any.
        Raises TypeError or `StoreError` if the log will never accept the entry. Doesn't block.
        """
        key = None if publisher is None else repetition_key(notification, publisher)
        data = notification.data if made_at is None else data
        entry = Entry(notification, origin, pending, key, data, made_at)
        if self._refusal is not None and (refusal := self._refusal(entry)):
            raise refusal
        return entry

    async def publish(
        self, entries: list[Entry], site: str, sender: Sender | None = None
    ) -> list[Pending | None]:
        """Put the entries into the channel together; return their receipts in the same order.

        Waits while the channel is full, and until each entry with a `pending` is broadcast or refused.
        It is a checkpoint only when it waits, or when it takes more than a turn to find the audiences'
        clients; publishers of one `site` do that one after the other. Cancelled before the entries are
        in the channel, it has published none of them; after that, all. Raises as `Inbox.put` does.
        """
        receipts = [entry.pending for entry in entries]
        if chosen := [entry for entry in entries if entry.template.audience is not None]:
            await self._audiences.judge(chosen, site)
        await self._inbox.put(entries, sender)
        for pending in receipts:
            if pending is not None and not pending.done.is_set():
                await pending.done.wait()
        return receipts

    def publish_nowait(self, entry: Entry) -> None:
        """Put one entry into the channel. Raises as `Inbox.put_nowait` does."""
        self._inbox.put_nowait([entry])
