"""Tickets, which stand for a token in a URL, once.

A browser can't send a header with a WebSocket or an EventSource. A token must not be in a URL, because
proxies and browser histories keep URLs. So a page first asks for a ticket, with its token in a header,
and puts the ticket into the URL. A ticket is valid for one request, within 30 seconds.

A `TicketStore` keeps the grant of each ticket, under the ticket's hash. A server keeps its tickets in
memory. Servers that share a log keep them where the log is, so a ticket of one server is valid at each,
and still only once.

The room for tickets is limited. When it is full, the client that takes up most of it loses its oldest
ticket, so no client can keep the others out.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
from collections import Counter
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from trionotify.delivery.admission import RETRY_AFTER, unavailable
from trionotify.errors import Refused, StoreError
from trionotify.http.claims import Grant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trionotify.delivery.sharing import Shelf

__all__ = ["LIFETIME", "MemoryTickets", "SharedTickets", "TicketStore", "issue", "redeem"]

logger: logging.Logger = logging.getLogger("trionotify")

#: Seconds.
LIFETIME: Final = 30
#: Tickets in the memory of one server.
_MAX_TICKETS: Final = 10_000
#: Bytes of the tickets that one server issues within their lifetime, where it shares them.
_MAX_SHARED: Final = 16 << 20
#: The most tickets, and how many seconds apart, that a server without room asks about at once.
_ASKED: Final = 4096
_ASK_INTERVAL: Final = 1.0
_BYTES: Final = 24


class TicketStore(Protocol):
    """Keeps tickets. Both methods raise `Refused` (503) if the store can't be reached."""

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        """Keep `value` under `key` for this many seconds."""

    async def take(self, key: str) -> bytes | None:
        """Remove and return the value of `key`, or return None. Only the first caller gets it."""


@attrs.frozen
class _Kept:
    """What is kept of a ticket. It expires at `until`, on Trio's clock."""

    owner: tuple[str, str]
    until: float
    size: int
    value: bytes = b""


class _Room:
    """The room for tickets. All last equally long, so they expire in order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[str, _Kept] = {}
        #: The sizes of all tickets, and of those of each owner.
        self._sum = 0
        self._sums: Counter[tuple[str, str]] = Counter()

    def has_room(self, size: int) -> bool:
        """Return whether a ticket of this size needs no other one's room."""
        now = trio.current_time()
        while self._kept and (first := next(iter(self._kept.items())))[1].until <= now:
            self.leave(first[0])
        return self._sum + size <= self._most

    def oldest(self, count: int) -> list[str]:
        """Return the keys of at most `count` tickets, the oldest first."""
        return list(islice(self._kept, count))

    def enter(self, key: str, kept: _Kept) -> list[str]:
        """Keep a ticket; return the keys of those that had to make room. Raises `Refused` (503)."""
        gone: list[str] = []
        while not self.has_room(kept.size):
            gone.append(self._least_needed(kept))
            self.leave(gone[-1])
        self._kept[key] = kept
        self._sum += kept.size
        self._sums[kept.owner] += kept.size
        return gone

    def leave(self, key: str) -> _Kept | None:
        """Remove a ticket and return it, or return None if it isn't here."""
        if (kept := self._kept.pop(key, None)) is None:
            return None
        self._sum -= kept.size
        self._sums[kept.owner] -= kept.size
        if not self._sums[kept.owner]:
            del self._sums[kept.owner]
        return kept

    def _least_needed(self, new: _Kept) -> str:
        """Return the oldest ticket of the owner of most, once the `new` one counts, too."""
        sums = {**self._sums, new.owner: self._sums[new.owner] + new.size}
        most = max(sums.values())
        worst = new.owner if sums[new.owner] == most else max(sums, key=sums.__getitem__)
        for key, kept in self._kept.items():
            if kept.owner == worst:
                return key
        raise Refused(503, "tickets: too many are unused; try again later", headers=RETRY_AFTER)


class MemoryTickets:
    """The tickets of one server."""

    def __init__(self) -> None:
        self._room = _Room(_MAX_TICKETS)

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        self._room.enter(key, _Kept(_owner_of(value), trio.current_time() + seconds, 1, value))

    async def take(self, key: str) -> bytes | None:
        kept = self._room.leave(key)
        return kept.value if kept is not None and trio.current_time() < kept.until else None


class SharedTickets:
    """The tickets of all servers that share a log, on the log's `Shelf`.

    A server limits the room of those that it has issued. It isn't told which of them are used at other
    servers, so it asks when there seems to be no room left.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._room = _Room(_MAX_SHARED)
        self._asking = trio.Lock()
        #: When it asked last, on Trio's clock.
        self._asked_at = -math.inf

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        until, size = trio.current_time() + seconds, len(key) + len(value)
        if not self._room.has_room(size):
            await self._forget_used()
        gone = self._room.enter(key, _Kept(_owner_of(value), until, size))
        with _away():
            for other in gone:
                await self._shelf.take(other)
            await self._shelf.put(key, value, seconds)

    async def take(self, key: str) -> bytes | None:
        with _away():
            found = await self._shelf.take(key)
        self._room.leave(key)
        return found

    async def _forget_used(self) -> None:
        """Release the room of tickets that were used elsewhere."""
        async with self._asking:
            now = trio.current_time()
            if now - self._asked_at < _ASK_INTERVAL:
                return
            self._asked_at = now
            with _away():
                for key in await self._shelf.missing(self._room.oldest(_ASKED)):
                    self._room.leave(key)


def _owner_of(value: bytes) -> tuple[str, str]:
    grant = Grant.from_json(value)
    return grant.issuer, grant.id


@contextmanager
def _away() -> Iterator[None]:
    """Convert the log's error, which names the log's place, to `Refused` (503)."""
    try:
        yield
    except StoreError:
        detail = "tickets: the log that keeps them is not available; try again later"
        raise unavailable(detail, logged="tickets: the log is away") from None


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
    except ValueError as error:
        logger.warning(
            "a ticket can't be read, because another version of the server has issued it: %s",
            error,
            extra={"event": "ticket_unreadable", "reason": str(error)},
        )
        return None


def _key(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()
