"""The hub: the log, the broadcast, the registry of clients, and what an application calls.

What runs as long as `open_hub` is open, in one nursery:

    Broadcast.run     appends and hands out                              `broadcast`
    Log.run           commits, if the log is in a file                   `storage.durable`
    Hub._sweep        looks after silent and stalled connections         here
    Expiry.run        closes connections whose time is over              `expiry`
    a catch-up        one for each client that is behind, while it is    `connection`

Connections run in the nursery of whoever accepted them. A subscription has no task of its own: it is
read in the one that iterates over it.

How bytes become connections is not known here: `WebHub` says so, of which `open_hub` makes one.
"""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol, Unpack, overload

import attrs
import trio

from trionotify.delivery.admission import Connection, Entrance
from trionotify.delivery.broadcast import Broadcast
from trionotify.delivery.budget import Budget
from trionotify.delivery.clients import Client
from trionotify.delivery.counters import Statistics
from trionotify.delivery.entry import Entry, Pending, repetition_key
from trionotify.delivery.expiry import Expiry
from trionotify.delivery.explain import Explanation, explain_delivery
from trionotify.delivery.log import Log
from trionotify.delivery.publish_queue import Inbox
from trionotify.delivery.quotas import Quotas
from trionotify.delivery.registry import Registry
from trionotify.delivery.shutdown import Drain, say_goodbye
from trionotify.delivery.subscription import Subscription
from trionotify.delivery.turns import OPERATORS, Lane
from trionotify.errors import CloseCode, Refused
from trionotify.model.cursor import Cursor, Moment, Since, parse_since
from trionotify.model.filters import check_filter
from trionotify.model.notification import Data, Notification, publishable
from trionotify.model.predicates import EVERYTHING, Wanted, is_value
from trionotify.model.query import Query
from trionotify.model.receipt import Receipt
from trionotify.settings import FilterLimits

if TYPE_CHECKING:
    from trionotify.delivery.keywords import Attributes
    from trionotify.settings import Settings

__all__ = ["AcceptedWebSocket", "Hub"]

logger: logging.Logger = logging.getLogger("trionotify")

#: Steps of clients that catch up, of a turn each at most, between two turns of all other tasks; and of
#: those that have sent much, which mostly take a quarter of a turn.
_STEPS: Final = 2
_CROWD: Final = 8
#: How many requests are served between two turns of the other tasks. Each takes about 0.3 ms.
_AT_THE_DOOR: Final = 4
#: Connections that the sweep checks in one turn.
_CHECKS: Final = 256


class AcceptedWebSocket(Protocol):
    """What `hub.attach` needs of a connection: a `trio_websocket.WebSocketConnection` has it.

    A closed one raises `trio_websocket.ConnectionClosed` from the first two.
    """

    async def get_message(self) -> str | bytes:
        """Wait for the next message. For one task."""

    async def send_message(self, message: str | bytes) -> None:
        """Send a message, and wait until it is on its way."""

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        """Close it with this code and reason, and wait until it is closed."""

    @property
    def path(self) -> str | None:
        """What was requested, with the query."""

    @property
    def handshake_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """The request's headers, names in lower case."""

    @property
    def subprotocol(self) -> str | None:
        """What was agreed on, if anything."""

    @property
    def remote(self) -> object:
        """The peer: what has an `address` and a `port`, or else text."""


class Hub(ABC):
    """Made by `open_hub`. Any task may call it.

    `clients` is the registry of the connected; `log` the log; `settings` the limits in force.
    """

    def __init__(
        self,
        settings: Settings,
        log: Log,
    ) -> None:
        self.settings = settings
        self.filter_limits: FilterLimits = settings.filter_limits
        self.clients: Registry = Registry()
        self.log = log
        self.inbox: Inbox = Inbox(settings.max_waiting, settings.max_waiting_bytes)
        self.broadcast: Broadcast = Broadcast(log, self.clients, self.inbox, settings.max_log_bytes)
        #: Open connections, by the key that they have in the registry too.
        self.connections: dict[int, Connection] = {}
        #: Clients that catch up without waiting for their network make their steps in here: between two
        #: turns of the broadcast there are few of them, however many come back at once.
        self.pace: Lane = Lane(_STEPS)
        #: Where peers wait that have sent more than what is done in a turn.
        self.crowd: Lane = Lane(_CROWD)
        #: Work that takes longer than a turn and can't be divided: one piece at a time, see `turns`.
        self.slow_lane: Lane = Lane()
        #: Where requests, and clients that leave, wait for their turn: thousands may come at once.
        self.door: Lane = Lane(_AT_THE_DOOR)
        #: Bytes of bodies and messages that aren't complete yet.
        self.arriving: Budget = Budget(settings.max_arriving_bytes)
        #: Whether anybody is let in, and who is on the way.
        self.entrance: Entrance = Entrance(settings, self.connections)
        self.quotas: Quotas = Quotas(settings)
        self._expiry = Expiry(self.connections)
        self.next_key: Callable[[], int] = itertools.count(1).__next__
        self._nursery: trio.Nursery | None = None
        self._closed = trio.Event()
        self._drain = Drain(self)

    @overload
    async def publish(
        self,
        data: Data | Notification = None,
        *,
        confirm: Literal[True],
        **attributes: Unpack[Attributes],
    ) -> Receipt: ...

    @overload
    async def publish(
        self,
        data: Data | Notification = None,
        *,
        confirm: bool = False,
        **attributes: Unpack[Attributes],
    ) -> Receipt | None: ...

    async def publish(
        self,
        data: Data | Notification = None,
        *,
        confirm: bool = False,
        **attributes: Unpack[Attributes],
    ) -> Receipt | None:
        """Publish `data` with these attributes, or a `Notification` as it is.

        `to` restricts it to the clients with that `id`, `audience` to those that meet a condition: a
        predicate over the client's query, or any callable of the `Client`; with both, both must hold.
        `json`, in place of the data, is a value that is written as JSON, and sets `datacontenttype`.
        `extensions` are attributes of your own.
        Returns when it is in the channel, if the log is durable when it is committed and broadcast; with
        `confirm`, always then, and with the receipt.

        Always a checkpoint. Waits while the channel is full. Cancelled, it was published or it was
        not: without `confirm`, and with the log in memory, a call that raises `Cancelled` published
        nothing. Raises TypeError or ValueError that names a bad attribute, whatever an `audience` that
        is a callable raises (it is false for that client, and true or false for the others; a durable
        log can't keep one, and it is a TypeError), `StoreError` when the log doesn't take it, and
        `trio.ClosedResourceError` when the hub is closed.

        With an `id` that this process has published under the same `source` before, and that the log
        still has, it is a repetition: it isn't published again, and the receipt has the first cursor.
        """
        entry = self._entry(data, attributes)
        audience, durable = entry.notification.audience, self.log.durable
        judged = audience is not None and not is_value(audience)
        if confirm or judged or durable:
            entry.pending = Pending(counted=confirm)
        pending = entry.pending
        await trio.lowlevel.checkpoint_if_cancelled()
        await self.broadcast.put([entry], OPERATORS)
        if pending is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return None
        await pending.done.wait()
        if pending.error:
            raise pending.error
        if pending.place is None:
            raise trio.ClosedResourceError("the hub was closed before this was broadcast")
        return pending.receipt if confirm else None

    def publish_nowait(self, data: Data | Notification = None, **attributes: Unpack[Attributes]) -> None:
        """Publish as `publish` does, but without waiting: for functions that are not async.

        It is in the channel when this returns, and what happens there later isn't told to the caller:
        that a callable `audience` raises, or that a durable log doesn't take it, goes to the logger.
        Doesn't block. Raises `trio.WouldBlock` when the channel is full, also while publishers wait for
        their turn, who come first; otherwise as `publish` does. Call it in Trio's thread.
        """
        self.inbox.put_nowait([self._entry(data, attributes)])

    def _entry(self, data: Data | Notification, attributes: Attributes) -> Entry:
        """What is to be published; raises what `publish` raises before anything is in the channel."""
        notification = publishable(data, attributes)
        entry = Entry(notification, None, None, repetition_key(notification, ""))
        if refusal := self.log.refusal(entry):
            raise refusal
        return entry

    def subscribe(self, predicate: Wanted = EVERYTHING, *, since: Since | None = None) -> Subscription:
        """Receive, inside the process, the notifications that `predicate` wants.

        Use it as `async with hub.subscribe(Exact(type="t")) as notifications: async for ...`. It
        begins when entered, at the head of the log or at `since`: a cursor, `start`, a time (RFC 3339,
        or a `datetime` with a time zone) or a duration (`10m`, or a `timedelta`). Raises TypeError for a
        predicate that can't be called or another type of `since`, ValueError for a name in it that no
        attribute can have, for another `since`, or for a cursor that can't be resumed.
        """
        check_filter(predicate)
        start = None if since is None else parse_since(since)
        if isinstance(start, Cursor):
            offset = self.broadcast.resume(start)
            if offset is None:
                raise ValueError(f"nothing can be resumed at {start}: it is not in the log any more")
            return Subscription(self.broadcast, predicate, offset)
        return Subscription(self.broadcast, predicate, start)

    @abstractmethod
    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection on any Trio stream, from its first byte to its last, and close it.

        Returns when the connection is over, whoever ended it and why; raises nothing of it.
        Cancelled, it says goodbye with 1001 within `close_timeout`.
        """

    @abstractmethod
    async def attach(self, websocket: AcceptedWebSocket, client: Client | None = None) -> None:
        """Serve a connection that an application accepted with trio-websocket, until it is over.

        `websocket` is a `trio_websocket.WebSocketConnection`, read and written by the hub alone from
        here on. Without `client`, the query of its path says who it is; when that can't be, it is
        closed, with the reason, and this returns. (trio-websocket keeps no request's head: neither a
        secret nor a proxy's word in there is seen.) Cancelled, it leaves the WebSocket to the caller.
        """

    @property
    def ready(self) -> bool:
        """Whether clients should be sent here: every one of the `checks` is ok."""
        return all(found == "ok" for found in self.checks().values())

    def checks(self) -> dict[str, str]:
        """What readiness hangs on: the name of each check, and `ok` or what is wrong."""
        return {"accepting": self.entrance.closed or "ok", "log": self.log.problem or "ok"}

    async def drain(self, deadline: float | None = None) -> None:
        """Send all clients away in good order, so that they come back to a successor.

        At once the hub isn't ready any more, all its listeners stop accepting, and whoever asks to come
        in is refused with 503. What was published is broadcast. Then the clients are told, some
        thousand a second: with `trionotify.drain` where their format has that, and with a Close, 1012.
        What was received from them is handled to its end. `deadline` is in seconds, by default
        `drain_timeout`: what is left then is cut off. The hub itself stays: until its block is left,
        publishing and subscriptions inside the process go on.

        Returns when nobody is connected any more. Always a checkpoint. Called again meanwhile, it waits
        for the same end; the earliest deadline holds. A session that calls it isn't waited for, but its
        client is sent away with the others. Cancelled, nobody is let in again, and who has not been told
        stays connected. Raises ValueError for a deadline below 0.
        """
        seconds = self.settings.drain_timeout if deadline is None else deadline
        if not seconds >= 0:
            raise ValueError(f"deadline must be 0 or more seconds, not {deadline}")
        await self._drain.run(seconds)

    def explain(self, notification: Notification, client: Client) -> Explanation:
        """Whether `client` gets `notification`, and which of its filter and of the audience says no.

        Print it, or walk through its parts. (What the connection itself published under `echo=0`, and
        whether the client is behind, is not looked at.)
        """
        return explain_delivery(notification, client)

    def statistics(self) -> Statistics:
        """What the hub holds now."""
        return Statistics(
            clients=len(self.clients),
            behind=sum(not c.position.live for c in self.clients if c.position),
            log_entries=len(self.log),
            log_bytes=self.log.bytes,
            waiting=self.inbox.count,
            head=str(Cursor(self.log.epoch, self.log.head)),
            gaps=self.broadcast.lag.gaps,
            slow_closed=self.broadcast.lag.closed,
            thinned=self.broadcast.lag.thinned,
        )

    # --- for connections ---

    def start_soon(self, task: Callable[[], Awaitable[None]], name: str) -> bool:
        """Run a connection's helper task, which must raise nothing, in the hub's nursery.

        False when the hub is over, and nobody needs to catch up any more.
        """
        if self._nursery is None:
            return False
        self._nursery.start_soon(task, name=name)
        return True

    async def locate(self, query: Query) -> Query:
        """The same query, and where its moment is in the log."""
        if not isinstance(query.since, Moment):
            return query
        return attrs.evolve(query, offset=await self.broadcast.find(query.since))

    def start(self, query: Query) -> tuple[int, bool | None]:
        """The offset where a client starts, and whether it resumes there; None: it didn't ask to.

        The query has been located. Raises `Refused` (410) to one that can't be told in another way.
        """
        if query.offset is not None:
            # Some time has passed.
            return self.broadcast.within(query.offset), None
        if not isinstance(query.since, Cursor):
            return self.broadcast.taken, None
        offset = self.broadcast.resume(query.since)
        if offset is None and query.format != "raw":
            return self.broadcast.taken, False
        if offset is None:
            raise Refused(
                410,
                f"since: not everything after {query.since} is kept; reload your state and connect"
                " without it",
            )
        return offset, True

    def connected(self, key: int, connection: Connection, client: Client) -> None:
        """Enter a connection and its client."""
        self.connections[key] = connection
        self.clients.add(key, client)
        self.quotas.enter(client)
        if client.expires_at is not None:
            self._expiry.add(key, client.expires_at)
        self.broadcast.counts.opened[connection.transport_name, client.format] += 1

    @property
    def lost(self) -> int:
        """How many connections ended without a closing handshake."""
        return self.broadcast.counts.closed[None]

    def disconnected(self, key: int, code: int | None) -> None:
        """Forget them. `code` is the Close code, None for a connection that was lost."""
        if self.connections.pop(key, None):
            self.quotas.leave(self.clients.remove(key))
            self.broadcast.counts.close(code)
            self.entrance.left.unpark_all()

    # --- life ---

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the hub's own tasks until `close`. For `open_hub`."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._sweep, name="trionotify: sweep")
            nursery.start_soon(self._expiry.run, name="trionotify: expiry")
            await nursery.start(self.log.run, self.inbox, name="trionotify: commits")
            task_status.started()
            try:
                await self.broadcast.run()
                await self._closed.wait()
            finally:
                # Cancelled, it may be outlived by connections that say goodbye.
                self._nursery = None
            nursery.cancel_scope.cancel()

    async def close(self) -> None:
        """Say goodbye to everyone (1001), and wait until they and the listeners have left.

        Put a deadline around it.
        """
        self.entrance.close("the hub is closed")
        self.entrance.refuse()
        seconds = self.settings.close_timeout
        await say_goodbye(self, self.connections.values(), CloseCode.GOING_AWAY, seconds)
        while self.connections or self.entrance.has_listeners:
            await self.entrance.left.park()

    def cut_off(self) -> None:
        """Drop everyone at once, without a goodbye. Doesn't block."""
        for connection in tuple(self.connections.values()):
            connection.cut_off()

    def abort(self) -> None:
        """Cut everyone off, and let listeners and the hub's own tasks end. Doesn't block.

        What is in the channel is still broadcast to subscriptions inside the process.
        """
        self.cut_off()
        self.entrance.cut_off_listeners()
        self.inbox.close_to_publishers()
        self._closed.set()

    async def _sweep(self) -> None:
        """Look after connections and the log's age, a few times within the shortest timeout."""
        interval, skipped = self.settings.shortest_interval / 4, False
        while True:
            due = trio.current_time() + interval
            await trio.sleep_until(due)
            # Silence is judged after readers have run, as far as they have something to read already.
            await trio.lowlevel.checkpoint()
            now = trio.current_time()
            # When this process was stopped, or blocked, they may have a lot to read: they get one round.
            skipped = now - due > interval and not skipped
            if not skipped:
                await self._check_connections(now)
            self.log.evict(self.broadcast.done, now)

    async def _check_connections(self, now: float) -> None:
        """Check each, with a turn for others in between."""
        for number, (key, connection) in enumerate(tuple(self.connections.items()), 1):
            if self.connections.get(key) is connection:  # it may have left meanwhile
                connection.check(now)
            if number % _CHECKS == 0:
                await trio.lowlevel.checkpoint()
