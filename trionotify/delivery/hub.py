"""The hub: the log, the broadcast, the registry of clients, and the API of an application.

These tasks run in one nursery while `open_hub` is open:

    Broadcast.run     appends to the log and hands out                   `broadcast`
    Log.run           commits, if the log is in a file                   `storage.durable`
    Hub._sweep        checks for silent and stalled connections          here
    Expiry.run        closes connections whose time is over              `expiry`
    a catch-up        one per client, while that client is behind        `connection`

A connection runs in the nursery of the task that accepted it. A subscription has no task. The task that
iterates over it reads it. `WebHub`, the subclass that `open_hub` creates, makes connections of bytes.
"""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Literal, Unpack, overload

import attrs
import trio

from trionotify.delivery.admission import Connection, Entrance
from trionotify.delivery.broadcast import Broadcast
from trionotify.delivery.budget import Budget
from trionotify.delivery.clients import Client
from trionotify.delivery.counters import Statistics
from trionotify.delivery.entry import Pending
from trionotify.delivery.expiry import Expiry, close_some
from trionotify.delivery.explain import Explanation, explain_delivery
from trionotify.delivery.intake import Intake
from trionotify.delivery.log import Log
from trionotify.delivery.publish_queue import Inbox
from trionotify.delivery.quotas import Quotas
from trionotify.delivery.rates import Rates
from trionotify.delivery.registry import Registry
from trionotify.delivery.shutdown import Drain, abort_all, say_goodbye
from trionotify.delivery.subscription import Subscription, not_resumable
from trionotify.delivery.turns import OPERATORS, Lane
from trionotify.durations import Duration, limit_of
from trionotify.errors import CloseCode, Refused
from trionotify.model.cursor import Cursor, Moment, Since, parse_since
from trionotify.model.filters import check_filter
from trionotify.model.notification import Data, Notification, publishable
from trionotify.model.predicates import EVERYTHING, Wanted, is_value
from trionotify.model.query import Query
from trionotify.model.receipt import Receipt
from trionotify.scopes import Alive, check_thread
from trionotify.settings import FilterLimits

if TYPE_CHECKING:
    from trionotify.delivery.accepted import AcceptedWebSocket
    from trionotify.delivery.keywords import Attributes
    from trionotify.settings import Settings

__all__ = ["Hub"]

logger: logging.Logger = logging.getLogger("trionotify")

#: Clients that catch up, and peers that have sent much, served between two turns of other tasks.
_STEPS: Final = 2
_CROWD: Final = 8
#: Requests served between two turns of the other tasks.
_AT_THE_DOOR: Final = 4
#: Connections that the sweep checks in one turn.
_CHECKS: Final = 256


class Hub(Alive, ABC):
    """A hub, as `open_hub` yields it. Any task may call it until the block is left.

    `clients` is the registry of connected clients, `log` the log, and `settings` the limits.
    """

    def __init__(self, settings: Settings, log: Log) -> None:
        self.settings = settings
        self.filter_limits: FilterLimits = settings.filter_limits
        self.clients: Registry = Registry()
        self.log = log
        log.count_clients = self.clients.__len__
        self.inbox: Inbox = Inbox(settings.max_waiting, settings.max_waiting_bytes)
        self.broadcast: Broadcast = Broadcast(log, self.clients, self.inbox, settings.max_log_bytes)
        self.intake: Intake = Intake(log, self.inbox, self.broadcast.matcher.audiences)
        #: Open connections, by their key in the registry.
        self.connections: dict[int, Connection] = {}
        #: The lane for clients that catch up without waiting for their network, of which many may come.
        self.pace: Lane = Lane(_STEPS)
        self.crowd: Lane = Lane(_CROWD)  # for peers that have sent more than one turn can handle
        self.slow_lane: Lane = Lane()  # for work that takes longer than a turn and can't be divided
        self.door: Lane = Lane(_AT_THE_DOOR)  # for requests and clients that leave, many at once
        self.arriving: Budget = Budget(settings.max_arriving_bytes)
        #: Decides whether new connections get in, and knows those that are on the way in.
        self.entrance: Entrance = Entrance(settings, self.connections)
        self.quotas: Quotas = Quotas(settings)
        self.rates: Rates = Rates(settings)
        self.expiry: Expiry = Expiry(self.connections)
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

        `to` restricts it to the clients with that `id`. `audience` restricts it to clients that meet a
        condition, a predicate over the client's query or any callable of the `Client`. With both, both
        must hold. `json` takes the place of `data`. It is a value that is written as JSON, with a
        suitable `datacontenttype`. `extensions` are attributes of your own. If this process has
        published the same `id` with the same `source`, and the log still has it, the call is a
        repetition. It publishes nothing, and the receipt has the first cursor.

        With `confirm`, returns the receipt after the broadcast. Without it, returns None once the
        notification is in the channel, or after the broadcast with a durable log or callable `audience`.

        Always a checkpoint. Waits while the channel is full. A call that is cancelled while it waits for
        the channel has published nothing. A call that is cancelled later may have published.

        Raises TypeError or ValueError that names an invalid attribute, `StoreError` if the log doesn't
        accept the notification, and `trio.ClosedResourceError` if the hub is closed. A durable log can't
        keep a callable `audience` (TypeError). If such a callable raises for a client, `publish` raises
        that, and the client doesn't get the notification.
        """
        notification = publishable(data, attributes)
        audience = notification.audience
        may_fail = self.log.durable or (audience is not None and not is_value(audience))
        pending = Pending(counted=confirm) if confirm or may_fail else None
        entry = self.intake.entry(notification, "", pending=pending)
        await trio.lowlevel.checkpoint_if_cancelled()
        await self.intake.publish([entry], OPERATORS)
        if pending is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return None
        receipt = pending.result()
        return receipt if confirm else None

    def publish_nowait(self, data: Data | Notification = None, **attributes: Unpack[Attributes]) -> None:
        """Publish like `publish`, but without waiting. Use it in functions that are not async.

        When it returns, the notification is in the channel. If a callable `audience` or a durable log
        fails later, the hub logs that. Doesn't block. Raises `trio.WouldBlock` while the channel is full
        or others wait in line, RuntimeError outside of Trio's thread, and else what `publish` raises.
        """
        check_thread("publish_nowait")
        self.intake.publish_nowait(self.intake.entry(publishable(data, attributes), ""))

    def subscribe(self, predicate: Wanted = EVERYTHING, *, since: Since | None = None) -> Subscription:
        """Receive, inside the process, the notifications that `predicate` selects.

        Use it as `async with hub.subscribe(Exact(type="t")) as notifications: async for ...`. It starts
        when you enter the block, at the head of the log or at `since`. `since` is a cursor, `start`, a
        time (RFC 3339, or a `datetime` with a time zone) or a duration (`10m`, or a `timedelta`).

        Raises TypeError for a predicate that isn't callable or another type of `since`, and ValueError
        for an invalid attribute name in the predicate, or a `since` that is invalid or can't be resumed.
        """
        check_filter(predicate)
        start = None if since is None else parse_since(since)
        # One that is shared is asked when the subscription begins.
        if self.log.node is None and isinstance(start, Cursor) and self.broadcast.resume(start) is None:
            raise not_resumable(start)
        return Subscription(self.broadcast, predicate, start)

    @abstractmethod
    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection on any Trio stream, from its first byte to its last, and close it.

        Returns when the connection is over, for whatever reason, and raises none of its errors.
        Cancelled, it sends a Close frame (1001) within `close_timeout`.
        """

    @abstractmethod
    async def attach(self, websocket: AcceptedWebSocket, client: Client | None = None) -> None:
        """Serve a connection that an application accepted with trio-websocket, until it is over.

        `websocket` is a `trio_websocket.WebSocketConnection`, or any `AcceptedWebSocket`. From now on,
        only the hub reads and writes it. Without `client`, the query of its path makes one. If the
        query is invalid, the hub closes the WebSocket with the reason, and `attach` returns.
        trio-websocket doesn't keep the headers, so the hub doesn't see a secret or a proxy's address in
        them. Cancelled, it leaves the WebSocket to the caller.
        """

    @property
    def ready(self) -> bool:
        """Whether clients may be sent here, which is when all `checks` are ok."""
        return all(found == "ok" for found in self.checks().values())

    def checks(self) -> dict[str, str]:
        """Return the conditions of readiness: the name of each check, and `ok` or the problem."""
        return {"accepting": self.entrance.closed or "ok", "log": self.log.problem or "ok"}

    async def drain(self, deadline: Duration | None = None) -> None:
        """Close all clients in good order, so that they reconnect to a successor.

        Immediately, the hub is no longer ready, all its listeners stop accepting, and new requests get a
        503. The hub broadcasts all published notifications. Then it sends the clients away, about a
        thousand a second, with `trionotify.drain` if their format has it and with a Close frame (1012).
        Sessions handle everything that they have received. After `deadline` seconds (by default
        `drain_timeout`), the hub cuts off the rest. Publishing and subscriptions inside the process
        continue until the hub's block is left.

        Returns when the last client has left. Always a checkpoint. Several calls wait for the same end,
        and the earliest deadline applies. If a session calls it, the drain doesn't wait for that
        session, but closes its client, too. Cancelled, the hub stays closed to new connections, and
        clients not sent away yet stay connected. Raises TypeError or ValueError for a bad `deadline`.
        """
        check_thread("drain", run="run")
        seconds = self.settings.drain_timeout if deadline is None else limit_of("deadline", deadline)
        await self._drain.run(seconds)

    async def disconnect(self, predicate: Wanted, reason: str = "disconnected") -> int:
        """Close the connections of the clients that `predicate` accepts, with 4403; return their number.

        Always a checkpoint. A cancelled call may have closed some. Raises what `predicate` raises.
        """
        return await close_some(self.connections, predicate, reason)

    def explain(self, notification: Notification, client: Client) -> Explanation:
        """Explain whether `client` gets `notification`, and which filter or audience says no.

        Print the result, or walk through its parts. It doesn't consider whether the connection itself
        published the notification under `echo=0`, or whether the client is behind.
        """
        return explain_delivery(notification, client)

    def statistics(self) -> Statistics:
        """The figures of this moment, as a frozen record. Doesn't block."""
        return Statistics(
            clients=len(self.clients),
            behind=sum(not c.position.live for c in self.clients if c.position),
            log_entries=len(self.log),
            log_bytes=self.log.bytes,
            waiting=self.inbox.count,
            head=self.broadcast.cursor(self.log.head),
            gaps=self.broadcast.lag.gaps,
            slow_closed=self.broadcast.lag.closed,
            thinned=self.broadcast.lag.thinned,
        )

    # --- for connections ---

    def start_soon(self, task: Callable[[], Awaitable[None]], name: str) -> bool:
        """Run a connection's helper task in the hub's nursery. The task must raise nothing.

        Returns False if the hub is over, when no client needs to catch up any more.
        """
        if self._nursery is not None:
            self._nursery.start_soon(task, name=name)
        return self._nursery is not None

    async def renew(self, key: int, client: Client, token: str) -> None:
        """Extend a client's stay with another token, whose rights it gets. Raises `Refused`."""
        raise Refused(400, "trionotify.authenticate: this server accepts no tokens")

    async def locate(self, query: Query) -> Query:
        """Return the query with the offset of its moment, if it names one. May be a checkpoint.

        Raises `StoreError` if the log can't be read.
        """
        if isinstance(query.since, Cursor):
            await self.log.look_up(query.since)
        if not isinstance(query.since, Moment):
            return query
        return attrs.evolve(query, offset=await self.broadcast.find(query.since))

    def start(self, query: Query) -> tuple[int, bool | None]:
        """Return a client's start offset, and whether it resumes there (None if it didn't ask to).

        `locate` must have seen the query. Raises `Refused` (410) for a cursor that can't be resumed if
        the client's format can't report that.
        """
        if query.offset is not None:
            # Time has passed since, so the entry may have been evicted.
            return self.broadcast.within(query.offset), None
        if not isinstance(query.since, Cursor):
            return self.broadcast.taken, None
        offset = self.broadcast.resume(query.since)
        if offset is None and query.format != "raw":
            return self.broadcast.taken, False
        if offset is None:
            raise Refused(
                410,
                f"since: not everything after {query.since} is still in the log; reload your state"
                " and connect without since",
                logged="since",
            )
        return offset, True

    def connected(self, key: int, connection: Connection, client: Client) -> None:
        """Enter a connection and its client. Doesn't block."""
        self.connections[key] = connection
        self.clients.add(key, client)
        self.quotas.enter(client)
        if client.expires_at is not None:
            self.expiry.add(key, client.expires_at)
        self.broadcast.counts.opened[connection.transport_name, client.format] += 1

    @property
    def lost(self) -> int:
        """The number of connections that ended without a closing handshake."""
        return self.broadcast.counts.closed[None]

    def disconnected(self, key: int, code: int | None) -> None:
        """Remove a connection and its client. `code` is the Close code, or None if it was lost."""
        if self.connections.pop(key, None):
            self.quotas.leave(self.clients.remove(key))
            self.broadcast.counts.close(code)
            self.entrance.left.unpark_all()

    # --- life ---

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the hub's own tasks until `abort`. Only `open_hub` calls this."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._sweep, name="trionotify: sweep")
            nursery.start_soon(self.expiry.run, name="trionotify: expiry")
            await nursery.start(self.log.run, self.inbox, name="trionotify: commits")
            task_status.started()
            try:
                await self.broadcast.run()
                await self._closed.wait()
            finally:
                # If this was cancelled, connections that are closing may outlive the nursery.
                self._nursery = None
            nursery.cancel_scope.cancel()

    def stop_accepting(self, reason: str) -> None:
        """Accept no new connections: requests get a 503, listeners stop. Doesn't block."""
        self.entrance.stop_accepting(reason)

    async def close(self) -> None:
        """Send all clients a Close frame (1001), and wait until they and the listeners have left.

        It has no timeout of its own: put a deadline around it.
        """
        self.stop_accepting("the hub is closed")
        seconds = self.settings.close_timeout
        await say_goodbye(self, self.connections.values(), CloseCode.GOING_AWAY, seconds)
        while self.connections or self.entrance.has_listeners:
            await self.entrance.left.park()

    def abort(self) -> None:
        """Drop all connections, and end listeners and the hub's own tasks. Doesn't block.

        Subscriptions inside the process still get the notifications in the channel.
        """
        abort_all(self.connections.values())
        self.entrance.abort_listeners()
        self.inbox.close_to_publishers()
        self._closed.set()

    async def _sweep(self) -> None:
        """Check connections and the log's age, four times within the shortest timeout."""
        interval, skipped = self.settings.shortest_interval / 4, False
        while True:
            due = trio.current_time() + interval
            await trio.sleep_until(due)
            # First let readers run that have something to read, so that they don't count as silent.
            await trio.lowlevel.checkpoint()
            now = trio.current_time()
            # After this process was stopped or blocked, they may have much to read: skip one round.
            skipped = now - due > interval and not skipped
            if not skipped:
                await self._check_connections(now)
            self.log.evict(self.broadcast.done, now)

    async def _check_connections(self, now: float) -> None:
        """Check each connection, with a checkpoint after every `_CHECKS`."""
        for number, (key, connection) in enumerate(tuple(self.connections.items()), 1):
            if self.connections.get(key) is connection:  # unless it has left meanwhile
                connection.check(now)
            if number % _CHECKS == 0:
                await trio.lowlevel.checkpoint()
