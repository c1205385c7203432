"""Audiences: selecting the clients that a notification is for.

The publisher names an `id` (`to`), a condition on clients (`audience`), or both. The index of the
registry finds the clients to ask, by the value that an audience demands of a parameter. An audience
that demands no value (a callable, a prefix, a negation) is evaluated for every client.

Evaluating may take up to a millisecond per client and notification. A client's record never changes, so
the result doesn't depend on the time. The publisher's task evaluates before its list enters the channel
(`judge`). The broadcast only evaluates for clients that have connected since (`choose`).
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
from trionotify.model.predicates import Wanted, demanded, is_value

__all__ = ["Audiences", "is_meant"]

#: The most parameters of an audience that are looked up in indexes. The index of a parameter is built by
#: visiting every client, so an audience with more of them visits all clients once instead.
MAX_NAMES: Final = 4
#: The most clients noted for the notifications of one list before it enters the channel. Beyond
#: that the broadcast evaluates, because sending to so many takes longer anyway.
MAX_NOTED: Final = 1 << 15


def is_meant(client: Recipient | None, notification: Notification) -> bool:
    """Return whether the notification is for this client. If its audience raises, it isn't.

    None stands for a subscription inside the process, which gets every notification.
    """
    if client is None:
        return True
    if notification.to is not None and notification.to != client.id:
        return False
    try:
        return notification.audience is None or bool(notification.audience(client))
    except Exception:  # any callable may raise; the publisher was told at the broadcast
        return False


@attrs.define(eq=False)
class _Judged:
    """The clients that a notification is for, among those that have connected so far."""

    to: str | None
    audience: Wanted | None
    #: The number of clients that had ever connected when it was evaluated; -1 before the first time.
    entered: int = attrs.field(default=-1, init=False)
    meant: dict[Client, None] = attrs.field(factory=dict, init=False)
    #: Clients for which it wasn't evaluated, because that would take too long.
    late: dict[Client, None] = attrs.field(factory=dict, init=False)
    #: The first exception of the audience.
    error: Exception | None = attrs.field(default=None, init=False)
    #: Whether only predicates decide. Their results for a client never change, and they raise nothing.
    lasts: bool = attrs.field(init=False)
    #: The cost of evaluating the audience, if it may be high. None for an application's own callable.
    price: Price | None = attrs.field(init=False)

    @lasts.default
    def _decide(self) -> bool:
        return self.audience is None or is_value(self.audience)

    @price.default
    def _estimate(self) -> Price | None:
        return price_of(self.audience) if self.lasts and self.audience is not None else None

    def is_of(self, notification: Notification) -> bool:
        """Return whether the result also holds for this notification."""
        return self.lasts and self.audience is notification.audience and self.to == notification.to


class Audiences:
    """Finds the positions that a notification is for. Created by the broadcast's matcher.

    Publishers' tasks call `judge`. Only the broadcast's task calls `choose` and `forget`.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: Subscriptions inside the process, which every audience includes.
        self.everywhere: dict[Position, None] = {}
        #: The lane for publishers whose audiences take long. Their sites take turns.
        self._publishers = Lane()
        #: The last result of this list. The notifications of a batch often have the same audience.
        self._last: _Judged | None = None

    @staticmethod
    def is_for_all(notification: Notification) -> bool:
        """Return whether neither `to` nor an audience restricts it."""
        return notification.audience is None and "to" not in notification.extensions

    def deaf(self, origin: int | None) -> Position | None:
        """The position of the connection `origin`, if it doesn't want its own notifications."""
        client = None if origin is None else self._registry.by_key(origin)
        position = client.position if client else None
        return position if position and position.deaf_to is not None else None

    async def judge(self, entries: list[Entry], site: str) -> None:
        """Evaluate the audiences of these entries, and note the result in each.

        Each entry must have an audience. The publisher at this `site` takes turns with others. It is a
        checkpoint only if it takes more than a turn. Cancelled, it leaves some results noted, which
        does no harm.
        """
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
        """Return the positions an entry is for, those that must find out themselves, and the error.

        The second list has the clients for which the audience is expensive, because it searches the
        long texts of their queries. The error is the audience's first exception. A checkpoint whenever
        the turn is over.
        """
        judged, entry.judged = entry.judged or self._last, None
        if judged is None or not judged.is_of(entry.notification):
            judged = _Judged(entry.notification.to, entry.notification.audience)
        for _ in self._ask(judged, turn, allowance):
            await turn.pass_on()
        self._last = judged
        return [*self.everywhere, *_joined(judged.meant)], _joined(judged.late), judged.error

    def forget(self) -> None:
        """Discard the last result, because the list has been handed out."""
        self._last = None

    def _ask(self, judged: _Judged, turn: Turn, allowance: Allowance | None) -> Iterator[None]:
        """Evaluate for all clients that connected since the last time. Yields when the turn is over."""
        registry, audience, to = self._registry, judged.audience, judged.to
        before, judged.entered = judged.entered, registry.entered
        candidates: Iterable[Client]
        if before >= 0:
            # If some have left since, this includes a few earlier ones, which are found once more.
            candidates = registry.newest(registry.entered - before)
        elif to is not None:
            candidates = registry.by_id(to)
        else:
            assert audience is not None  # otherwise `is_for_all` is true
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
            except Exception as error:  # any callable may raise; the publisher is told
                judged.error = judged.error or error

    def _candidates(self, audience: Wanted) -> Iterable[Client]:
        """Return the clients for which `audience` may hold."""
        pairs = demanded(audience)
        if pairs is None:
            return self._registry
        if len({name for name, _ in pairs}) > MAX_NAMES:
            return [client for client in self._registry if _has_any(client, pairs)]
        found: dict[Client, None] = {}
        for name, value in pairs:
            found.update(dict.fromkeys(self._registry.by_param(name, value)))
        return found


def _joined(clients: Iterable[Client]) -> list[Position]:
    """Return the positions of those clients that have joined the broadcast."""
    positions = [client.position for client in clients]
    return [position for position in positions if position and position.joined]


def _longest(client: Client) -> int:
    """Return the length of the longest text in the client's query, in characters."""
    return max(len(client.id), len(client.role), *map(len, client.params.values()))


def _has_any(client: Client, demanded: Collection[tuple[str, str]]) -> bool:
    return (
        any(pair in demanded for pair in client.params.items())
        or ("id", client.id) in demanded
        or ("role", client.role) in demanded
    )
