"""Audiences: which clients a notification is for.

The publisher names an `id` (`to`), a condition on clients (`audience`), or both. The clients to ask are
found by hash, by what an audience demands of a parameter; only an audience that demands nothing in
particular (a callable, a prefix, a negation) is put to every client.

That may take long: a millisecond for each client and each notification of a list. What a client's record
says never changes, so it doesn't matter when it is done. It is done in the publisher's task, before its
list is in the channel (`judge`). The broadcast asks about those who have entered since (`choose`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

import attrs

from trionotify.delivery.clients import Client
from trionotify.delivery.entry import Entry
from trionotify.delivery.position import Position, Recipient
from trionotify.delivery.registry import Registry
from trionotify.delivery.turns import Lane, Turn
from trionotify.model.costs import Allowance, Price, price_of
from trionotify.model.notification import Notification
from trionotify.model.predicates import AllOf, AnyOf, Exact, Wanted, is_value

__all__ = ["Audiences", "is_meant"]

#: Parameters for which an audience may have indexes made. For each, every client is looked at; so for
#: more of them all clients are looked at once.
MAX_NAMES: Final = 4
#: Clients that are noted for the notifications of one list, before it is in the channel. What means more
#: is judged at the broadcast, where to send to them takes longer.
MAX_NOTED: Final = 1 << 15


def is_meant(client: Recipient | None, notification: Notification) -> bool:
    """Whether the notification is for this client. An audience that raises says no.

    None stands for a subscription inside the process, which is the server's own and sees everything.
    """
    if client is None:
        return True
    if notification.to is not None and notification.to != client.id:
        return False
    try:
        return notification.audience is None or bool(notification.audience(client))
    except Exception:  # any callable; its publisher was told when it was broadcast
        return False


@attrs.define(eq=False)
class _Judged:
    """Whom a notification is for, of the clients that have entered so far."""

    to: str | None
    audience: Wanted | None
    #: How many had ever entered when it was asked about; -1: it wasn't yet.
    entered: int = attrs.field(default=-1, init=False)
    meant: dict[Client, None] = attrs.field(factory=dict, init=False)
    #: Those about whom it wasn't asked, because that takes too long.
    late: dict[Client, None] = attrs.field(factory=dict, init=False)
    #: What the audience raised first.
    error: Exception | None = attrs.field(default=None, init=False)
    #: Nothing but predicates decides: what they say of a client lasts. (And they raise nothing.)
    lasts: bool = attrs.field(init=False)
    #: What it takes to ask the audience, if that may be costly; the application's own are always asked.
    price: Price | None = attrs.field(init=False)

    @lasts.default
    def _decide(self) -> bool:
        return self.audience is None or is_value(self.audience)

    @price.default
    def _estimate(self) -> Price | None:
        return price_of(self.audience) if self.lasts and self.audience is not None else None

    def is_of(self, notification: Notification) -> bool:
        """Whether it holds for this notification, too."""
        return self.lasts and self.audience is notification.audience and self.to == notification.to


class Audiences:
    """Finds the positions that a notification is for. Made by the broadcast."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: Subscriptions inside the process: every audience is open to them.
        self.everywhere: dict[Position, None] = {}
        #: Publishers whose audiences take long to judge: one turn of each site after the other.
        self._publishers = Lane()
        #: The last one of what is being handed out. The events of a batch often have the same audience.
        self._last: _Judged | None = None

    @staticmethod
    def is_for_all(notification: Notification) -> bool:
        """Whether neither `to` nor an audience restricts it."""
        return notification.audience is None and "to" not in notification.extensions

    def deaf(self, origin: int | None) -> Position | None:
        """The position of the connection `origin`, if that doesn't want to hear itself."""
        client = None if origin is None else self._registry.by_key(origin)
        position = client.position if client else None
        return position if position and position.deaf_to is not None else None

    async def judge(self, entries: list[Entry], site: str) -> None:
        """Find out beforehand whom these are for, and note it in each. A checkpoint when it takes long.

        For a publisher at this `site`, in turns with others that do the same.
        """
        entries = [entry for entry in entries if entry.notification.audience is not None]
        if not entries:
            return
        turn, judged, noted = Turn(), None, 0
        for entry in entries:
            if judged is None or not judged.is_of(entry.notification):
                judged = _Judged(entry.notification.to, entry.notification.audience)
                if not judged.lasts:
                    continue
                for _ in self._ask(judged, turn, None):
                    await self._publishers.turn(site)
                    await turn.pass_on()
                noted += len(judged.meant)
                if noted > MAX_NOTED:
                    return
            entry.judged = judged

    async def choose(
        self, entry: Entry, turn: Turn, allowance: Allowance
    ) -> tuple[list[Position], list[Position], Exception | None]:
        """The positions that it is for, those that must find out themselves, and what it raised first.

        The second are those for whom the audience is costly: their queries have long texts, and it looks
        far into them. A checkpoint whenever the turn is over.
        """
        judged, entry.judged = entry.judged or self._last, None
        if judged is None or not judged.is_of(entry.notification):
            judged = _Judged(entry.notification.to, entry.notification.audience)
        for _ in self._ask(judged, turn, allowance):
            await turn.pass_on()
        self._last = judged
        return [*self.everywhere, *_joined(judged.meant)], _joined(judged.late), judged.error

    def forget(self) -> None:
        """Remember nothing of what was chosen: the list has been handed out."""
        self._last = None

    def _ask(self, judged: _Judged, turn: Turn, allowance: Allowance | None) -> Iterator[None]:
        """Ask about all that have entered since the last time. Yields whenever the turn is over."""
        registry, audience, to = self._registry, judged.audience, judged.to
        before, judged.entered = judged.entered, registry.entered
        candidates: Iterable[Client]
        if before >= 0:
            # Or earlier, if some have left since: then it is found once more.
            candidates = registry.newest(registry.entered - before)
        elif to is not None:
            candidates = registry.by_id(to)
        else:
            assert audience is not None  # else it were for all
            candidates = self._candidates(audience)
        for client in candidates:
            if turn.over:
                yield
            if to is not None and to != client.id:
                continue
            if judged.price and allowance and not allowance.covers(judged.price.on(_longest(client))):
                judged.late[client] = None
                continue
            try:
                if audience is None or audience(client):
                    judged.meant[client] = None
            except Exception as error:  # any callable: false for this client, and told
                judged.error = judged.error or error

    def _candidates(self, audience: Wanted) -> Iterable[Client]:
        """The clients for which `audience` could hold."""
        demanded = _demanded(audience)
        if demanded is None:
            return self._registry
        if len({name for name, _ in demanded}) > MAX_NAMES:
            return [client for client in self._registry if _has_any(client, demanded)]
        found: dict[Client, None] = {}
        for name, value in demanded:
            found.update(dict.fromkeys(self._registry.by_param(name, value)))
        return found


def _joined(clients: Iterable[Client]) -> list[Position]:
    """The positions of those who read."""
    positions = [client.position for client in clients]
    return [position for position in positions if position and position.joined]


def _longest(client: Client) -> int:
    """Characters of the longest text that an audience finds in its query."""
    return max(len(client.id), len(client.role), *map(len, client.params.values()))


def _has_any(client: Client, demanded: Collection[tuple[str, str]]) -> bool:
    return (
        any(pair in demanded for pair in client.params.items())
        or ("id", client.id) in demanded
        or ("role", client.role) in demanded
    )


def _demanded(audience: Wanted) -> dict[tuple[str, str], None] | None:
    """Parameters with their values, of which a client must have one; None if that isn't known."""
    match audience:
        case Exact(attributes=(condition, *_)) if type(audience) is Exact:
            return {condition: None}
        case AllOf(parts=parts) if type(audience) is AllOf:
            for part in parts:
                if (found := _demanded(part)) is not None:
                    return found
        case AnyOf(parts=parts) if type(audience) is AnyOf:
            together: dict[tuple[str, str], None] = {}
            for part in parts:
                found = _demanded(part)
                if found is None:
                    return None
                together.update(found)
            return together
    return None
