"""Rates: limits on the publishing of one client, and on publishing and connecting of one address.

The generic cell rate algorithm (ITU-T I.371, annex A) keeps one number for each client and each address:
the time at which everything it has done so far would be due at its rate. A client may be ahead of that
time by `rate_burst` seconds. Above the rate, a request is refused with 429, an event is refused with an
`error`, and a raw client is not read until its time has come. Nothing is dropped silently. A batch is
accepted if one event would be, and then counts as many.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from trionotify.errors import Refused
from trionotify.model.addresses import site_of

if TYPE_CHECKING:
    from trionotify.delivery.clients import Client
    from trionotify.settings import Settings

__all__ = ["Rate", "Rates"]

#: Above this number of entries, those that have caught up are deleted.
_KEPT: Final = 1000
#: Seconds by which rounding may make something seem too early.
_ROUNDING: Final = 1e-6


class Rate:
    """One rate for many keys: `per_second` on average, at most `burst` seconds ahead.

    If `per_second` is None, there is no limit.
    """

    def __init__(self, per_second: float | None, burst: float) -> None:
        self._interval = None if per_second is None else 1 / per_second
        #: The first of a burst is due at once, so it isn't ahead.
        self._burst = 0.0 if per_second is None else max(0.0, burst - 1 / per_second)
        #: When everything done so far would be due, on Trio's clock.
        self._due: dict[str, float] = {}
        self._most = _KEPT

    def wait(self, key: str) -> float:
        """Return the seconds until this key may act again. 0 means at once."""
        if self._interval is None:
            return 0.0
        left = self._due.get(key, 0.0) - self._burst - trio.current_time()
        return left if left > _ROUNDING else 0.0

    def take(self, key: str, count: int = 1) -> None:
        """Count that this key has acted `count` times. Doesn't block."""
        if self._interval is None:
            return
        now = trio.current_time()
        self._due[key] = max(now, self._due.get(key, 0.0)) + count * self._interval
        if len(self._due) > self._most:
            self._due = {key: due for key, due in self._due.items() if due > now}
            self._most = max(_KEPT, 2 * len(self._due))


class Rates:
    """The rates of one hub, which creates it. Clients with the server's secret have no limits."""

    def __init__(self, settings: Settings) -> None:
        burst = settings.rate_burst
        #: Whether there is any limit on publishing.
        self.of_publishing: bool = (
            settings.publish_rate_per_id is not None or settings.publish_rate_per_address is not None
        )
        #: Whether there is one on connections.
        self.of_connecting: bool = settings.connection_rate_per_address is not None
        self._publishes_of_id = Rate(settings.publish_rate_per_id, burst)
        self._publishes_of_address = Rate(settings.publish_rate_per_address, burst)
        self._connections = Rate(settings.connection_rate_per_address, burst)

    def wait(self, client: Client) -> float:
        """Return the seconds until `client` may publish again."""
        if client.exempt:
            return 0.0
        address = self._publishes_of_address.wait(site_of(client.remote))
        return max(self._publishes_of_id.wait(client.id), address)

    def take(self, client: Client, count: int) -> None:
        """Count that `client` publishes `count` notifications. Doesn't block."""
        if not client.exempt:
            self._publishes_of_id.take(client.id, count)
            self._publishes_of_address.take(site_of(client.remote), count)

    def check_publish(self, client: Client, count: int = 1) -> None:
        """Count `count` notifications, or raise `Refused` (429) if it is too early."""
        if seconds := self.wait(client):
            raise _too_many("publish", "publishing", seconds)
        self.take(client, count)

    def check_connection(self, remote: str) -> None:
        """Count a connection from this address, or raise `Refused` (429)."""
        if not self.of_connecting:
            return
        site = site_of(remote)
        if seconds := self._connections.wait(site):
            raise _too_many("connection", "connecting", seconds)
        self._connections.take(site)


def _too_many(what: str, doing: str, seconds: float) -> Refused:
    left = math.ceil(seconds)
    refused = Refused(
        429, f"rate: {doing} too often; wait {left} s", headers=(("Retry-After", str(left)),)
    )
    refused.counted = f"rate_{what}"
    return refused
