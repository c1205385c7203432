"""Tickets, which stand for a token in a URL, once.

A browser can't send a header with a WebSocket or an EventSource. A token must not be in a URL, because
proxies and browser histories keep URLs. So a page first asks for a ticket, with its token in a header,
and puts the ticket into the URL. A ticket is valid for one request, within 30 seconds.

A `TicketStore` keeps the grant of each ticket, under the ticket's hash. A server keeps its tickets in
memory. Servers that share a log keep them where the log is, so a ticket of one server is valid at each,
and still only once.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import trio

from trionotify.errors import Refused, StoreError
from trionotify.http.claims import Grant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trionotify.delivery.sharing import Shelf

__all__ = ["LIFETIME", "MemoryTickets", "SharedTickets", "TicketStore", "issue", "redeem"]

#: Seconds.
LIFETIME: Final = 30
_MAX_TICKETS: Final = 10_000
#: Bytes of the tickets that one server issues within their lifetime, where it shares them.
_MAX_SHARED: Final = 16 << 20
_BYTES: Final = 24
_RETRY: Final = (("Retry-After", "5"),)


class TicketStore(Protocol):
    """Keeps tickets. Both methods raise `Refused` (503) if the store can't be reached."""

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        """Keep `value` under `key` for this many seconds."""

    async def take(self, key: str) -> bytes | None:
        """Remove and return the value of `key`, or return None. Only the first caller gets it."""


class MemoryTickets:
    """The tickets of one server. All last equally long, so they expire in order."""

    def __init__(self) -> None:
        #: When a ticket expires, on Trio's clock, and its value.
        self._kept: dict[str, tuple[float, bytes]] = {}

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        now = trio.current_time()
        while self._kept and (oldest := next(iter(self._kept.items())))[1][0] <= now:
            del self._kept[oldest[0]]
        if len(self._kept) >= _MAX_TICKETS:
            raise _too_many()
        self._kept[key] = now + seconds, value

    async def take(self, key: str) -> bytes | None:
        until, value = self._kept.pop(key, (0.0, b""))
        return value if trio.current_time() < until else None


class SharedTickets:
    """The tickets of all servers that share a log, on the log's `Shelf`.

    A server doesn't see which of its tickets are used at others, so it counts all that aren't over.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        #: The expiry of each issued ticket, on Trio's clock, and its size; and the sum of the sizes.
        self._issued: deque[tuple[float, int]] = deque()
        self._bytes = 0

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        now = trio.current_time()
        while self._issued and self._issued[0][0] <= now:
            self._bytes -= self._issued.popleft()[1]
        size = len(key) + len(value)
        if self._bytes + size > _MAX_SHARED:
            raise _too_many()
        self._issued.append((now + seconds, size))
        self._bytes += size
        with _away():
            await self._shelf.put(key, value, seconds)

    async def take(self, key: str) -> bytes | None:
        with _away():
            return await self._shelf.take(key)


@contextmanager
def _away() -> Iterator[None]:
    """Convert the log's error, which names the log's place, to `Refused` (503)."""
    try:
        yield
    except StoreError:
        detail = "tickets: the log that keeps them is not available; try again later"
        raise Refused(503, detail, headers=_RETRY, logged="tickets: the log is away") from None


def _too_many() -> Refused:
    return Refused(503, "tickets: too many are unused; try again later", headers=_RETRY)


async def issue(store: TicketStore, grant: Grant) -> str:
    """Return a new ticket for this grant."""
    ticket = secrets.token_urlsafe(_BYTES)
    await store.put(_key(ticket), grant.to_json(), LIFETIME)
    return ticket


async def redeem(store: TicketStore, ticket: str) -> Grant | None:
    """Return the grant of a ticket and use it up, or return None if it isn't valid."""
    found = await store.take(_key(ticket))
    try:
        return None if found is None else Grant.from_json(found)
    except (TypeError, ValueError):  # a server of another version has issued it
        return None


def _key(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()
