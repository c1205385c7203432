"""`hub.attach`: a connection that an application accepted itself, with trio-websocket.

It has a position in the log like any other and counts as a client; only its bytes are trio-websocket's
business. Two tasks serve it in a nursery of the call: one runs the session, which reads with
`get_message`, the other reads the log and writes with `send_message`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio
import trio_websocket

from trionotify.entries import Entry
from trionotify.errors import CloseCode, Disconnected, Refused
from trionotify.http import Request
from trionotify.log import Evicted
from trionotify.query import Query, parse_query, template
from trionotify.reader import Reader

if TYPE_CHECKING:
    from trionotify.clients import Client
    from trionotify.hub import Hub
    from trionotify.predicates import Wanted

__all__ = ["serve_attached"]

logger = logging.getLogger("trionotify")


async def serve_attached(hub: Hub, websocket: Any, client: Client | None) -> None:
    """Serve `websocket`, a `trio_websocket.WebSocketConnection`, until it is over: see `Hub.attach`."""
    path, _, query_text = (websocket.path or "/").partition("?")
    headers = tuple((n.decode(), v.decode("latin-1")) for n, v in websocket.handshake_headers)
    request = Request("GET", path, parse_query(query_text), headers, str(websocket.remote))
    if client is None:
        client, query = await hub.admit(request)
    else:
        query = Query.of(request.params, client.id)
    if query.lag == "latest":
        raise Refused(400, "lag: latest needs a connection that the hub serves from its first byte")
    hub.check_room()
    offset, _ = hub.start(query)
    connection = _AttachedConnection(hub, websocket, client, query)
    client.connect(hub, connection)
    hub.connected(connection.key, connection, client)
    hub.broadcast.join(connection.reader.position, offset)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.write_notifications)
            await connection.converse()
            # The writer may be in the middle of a frame: let it finish, in a reasonable time.
            connection.end(CloseCode.NORMAL)
            nursery.cancel_scope.deadline = trio.current_time() + hub.settings.close_timeout
    finally:
        hub.broadcast.leave(connection.reader.position)
        hub.disconnected(connection.key)
        client.connect(hub, None)
    with trio.move_on_after(hub.settings.close_timeout) as scope:
        if connection.torn:
            scope.cancel()  # no Close frame into the middle of another one: just close the stream
        await websocket.aclose(connection.code, connection.reason)


class _AttachedConnection:
    """The client's link, and one of the hub's connections. Made and ended by `serve_attached`."""

    def __init__(self, hub: Hub, websocket: Any, client: Client, query: Query) -> None:
        self.hub = hub
        self.client = client
        self.key = hub.next_key()
        self.code: int = CloseCode.NORMAL
        self.reason = ""
        self.reader = Reader(hub.broadcast, client.predicate, client)
        self.position = self.reader.position
        self.position.deaf_to = None if query.echo else self.key
        #: A send was cut off, so half a frame may be out: the connection is dead.
        self.torn = False
        self._websocket = websocket
        self._over = False
        self._receiving: trio.CancelScope | None = None

    async def converse(self) -> None:
        """Run the session; what it raises ends this connection alone."""
        try:
            await self.hub.session(self.client)
        except Disconnected:
            pass
        except Exception:
            # The boundary: the application's session may raise anything.
            logger.exception("the session of client %.64r failed", self.client.id)
            self.end(CloseCode.INTERNAL_ERROR)

    async def write_notifications(self) -> None:
        """Send what the position wants, until the connection is over."""
        try:
            while not self._over:
                data = (await self.reader.next()).data
                with trio.fail_after(self.hub.settings.stall_timeout):
                    await self.send("" if data is None else data)
        except Evicted:
            self.end(CloseCode.TRY_AGAIN_LATER, "slow")
        except trio.TooSlowError:
            self.end(CloseCode.TRY_AGAIN_LATER, "stalled")
        except (Disconnected, trio.ClosedResourceError):
            self.end(CloseCode.NORMAL)
        except Exception:
            # The boundary: the client's own predicate may raise anything.
            logger.exception("a predicate of client %.64r failed", self.client.id)
            self.end(CloseCode.INTERNAL_ERROR, "a predicate of this client's failed")

    # As the link of the client's record.

    async def receive(self) -> list[str | bytes]:
        if self._over:
            return []
        try:
            with trio.CancelScope() as self._receiving:
                return [await self._websocket.get_message()]
        except trio_websocket.ConnectionClosed:
            self._over = True
        finally:
            self._receiving = None
        return []

    async def send(self, message: str | bytes) -> None:
        if self._over:
            raise Disconnected("the connection is closed")
        try:
            await self._websocket.send_message(message)
        except trio_websocket.ConnectionClosed:
            self._over = True
            raise Disconnected("the connection is closed") from None
        except trio.Cancelled:
            self.torn = True
            self.end(CloseCode.GOING_AWAY)
            raise

    async def publish(self, messages: tuple[str | bytes, ...]) -> None:
        own = template(self.client.params, self.client.id)
        await self.hub.inbox.put([Entry(own.another(message), self.key) for message in messages])

    def end(self, code: int | None, reason: str = "") -> None:
        if not self._over:
            self._over = True
            self.code, self.reason = code or CloseCode.NORMAL, reason
        self.hub.broadcast.leave(self.position)
        self.reader.wake()
        if self._receiving:
            self._receiving.cancel()

    def refilter(self, predicate: Wanted) -> str:
        broadcast = self.hub.broadcast
        return broadcast.cursor(broadcast.refilter(self.position, predicate))

    # As one of the hub's connections.

    def check(self, now: float) -> None:
        """Its pings are the application's business, or trio-websocket's."""

    def abort(self) -> None:
        self.end(CloseCode.GOING_AWAY)
