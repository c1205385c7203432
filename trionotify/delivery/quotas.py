"""Quotas: limits on the connections of one client identity and of one address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trionotify.delivery.admission import RETRY_AFTER
from trionotify.errors import Refused
from trionotify.model.addresses import neighbourhood

if TYPE_CHECKING:
    from trionotify.delivery.clients import Client
    from trionotify.settings import Settings

__all__ = ["Quotas"]


class Quotas:
    """The counts of connections. The hub reports each one. Without a limit, nothing is counted."""

    def __init__(self, settings: Settings) -> None:
        self._per_id = settings.max_connections_per_id
        self._per_address = settings.max_connections_per_address
        self._counts: Counter[tuple[str, str]] = Counter()

    def check(self, client: Client) -> None:
        """Raise `Refused` (429) if this client or its address has as many connections as allowed."""
        for key, most in self._of(client):
            if self._counts[key] >= most:
                many = f"{most} connection{'s' if most > 1 else ''}"
                raise Refused(
                    429,
                    f"{key[0]}: {key[1]} already has {many}, the maximum; close one first",
                    logged=key[0],
                    headers=RETRY_AFTER,
                )

    def enter(self, client: Client) -> None:
        """Count one connection more."""
        for key, _ in self._of(client):
            self._counts[key] += 1

    def leave(self, client: Client) -> None:
        """Count one connection less."""
        for key, _ in self._of(client):
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]

    def _of(self, client: Client) -> Iterator[tuple[tuple[str, str], int]]:
        """The keys under which a client is counted, and the limit of each."""
        if self._per_id is not None:
            yield ("id", client.id), self._per_id
        if self._per_address is not None and (address := neighbourhood(client.remote)):
            yield ("address", address), self._per_address
