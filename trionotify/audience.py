"""Audiences: which clients a notification is for.

The publisher names an `id` (`to`), a condition on clients (`audience`), or both. The clients to ask are
found by hash, by what an audience demands of a parameter; only an audience that demands nothing in
particular (a callable, a prefix, a negation) is put to every client.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from trionotify.clients import Client, Registry
from trionotify.notification import Notification
from trionotify.positions import Position
from trionotify.predicates import AllOf, AnyOf, Exact, Wanted
from trionotify.turns import Turn

__all__ = ["Audiences", "is_meant"]

#: Parameters for which an audience may have indexes made. For each, every client is looked at; so for
#: more of them all clients are looked at once.
MAX_NAMES: Final = 4


def is_meant(client: Client | None, notification: Notification) -> bool:
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


class Audiences:
    """Finds the positions that a notification is for. Made by the broadcast."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: Subscriptions inside the process: every audience is open to them.
        self.everywhere: dict[Position, None] = {}

    @staticmethod
    def is_for_all(notification: Notification) -> bool:
        """Whether neither `to` nor an audience restricts it."""
        return notification.audience is None and "to" not in notification.extensions

    def deaf(self, origin: int | None) -> Position | None:
        """The position of the connection `origin`, if that doesn't want to hear itself."""
        client = None if origin is None else self._registry.by_key(origin)
        position = client.position if client else None
        return position if position and position.deaf_to is not None else None

    async def choose(
        self, notification: Notification, turn: Turn
    ) -> tuple[list[Position], Exception | None]:
        """The positions that it is for, and what the audience raised first, if it did.

        A checkpoint whenever the turn is over.
        """
        audience = notification.audience
        chosen = list(self.everywhere)
        error: Exception | None = None
        if notification.to is not None:
            candidates: Iterable[Client] = self._registry.by_id(notification.to)
        else:
            assert audience is not None  # else it were for all
            candidates = self._candidates(audience)
        for client in candidates:
            if turn.over:
                await turn.pass_on()
            try:
                if audience is not None and not audience(client):
                    continue
            except Exception as raised:  # any callable: false for this client, and told
                error = error or raised
                continue
            if client.position and client.position.joined:
                chosen.append(client.position)
        return chosen, error

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
