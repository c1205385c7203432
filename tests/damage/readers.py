"""Clients inside the process: the events after a cursor, and the losses that they are told."""

from __future__ import annotations

import attrs
import trio

from tests.damage.events import Content, content
from trionotify import Hub, Lagged

__all__ = ["Heard", "offset_in", "read_on"]

#: Seconds for a reader to come to the head.
_PATIENCE = 120.0


@attrs.define
class Heard:
    """Everything received after `begin`, in order: offsets with contents, and lost stretches."""

    begin: int
    found: list[tuple[int, Content]] = attrs.Factory(list)
    #: Each (after, upto].
    lost: list[tuple[int, int]] = attrs.Factory(list)
    #: What was wrong with the order.
    faults: list[str] = attrs.Factory(list)
    end: int = 0

    @property
    def lost_offsets(self) -> set[int]:
        """Each of those that are lost."""
        return {offset for after, upto in self.lost for offset in range(after + 1, upto + 1)}


async def read_on(hub: Hub, since: str) -> Heard | None:
    """Read up to the log's head; None if nothing can be resumed there."""
    try:
        subscription = hub.subscribe(since=since)
    except ValueError:
        return None
    async with subscription:
        heard = Heard(offset_in(hub, subscription.cursor))
        at = heard.begin
        with trio.fail_after(_PATIENCE):
            while at < hub.log.head:
                try:
                    notification = await anext(subscription)
                except Lagged as lagged:
                    after, upto = offset_in(hub, lagged.after), offset_in(hub, lagged.upto)
                    heard.lost.append((after, upto))
                    if not (after == at < upto):
                        heard.faults.append(f"a gap ({after}, {upto}] behind {at}")
                else:
                    upto = offset_in(hub, subscription.cursor)
                    heard.found.append((upto, content(notification)))
                    if upto <= at:
                        heard.faults.append(f"{upto} came behind {at}")
                at = upto
    heard.end = at
    return heard


def offset_in(hub: Hub, cursor: str) -> int:
    """Where a cursor of this epoch is."""
    epoch, _, offset = cursor.rpartition(":")
    assert epoch == hub.log.epoch, f"{cursor} in the epoch {hub.log.epoch}"
    return int(offset)
