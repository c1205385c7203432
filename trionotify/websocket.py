"""A WebSocket client's connection, from its first byte to its last: the work of one task.

    half-open:  head read (h11), checked, authenticated       `serve_transport`
    handshake:  trio-websocket's, on a stream of our own      `handshake`
    open:       the session; the Wire has the frames          `_converse`
    closing:    shielded, under a deadline                    `Wire.aclose`

What goes wrong in a connection ends that connection alone. An `except Exception` stands at each border
where the application's own code comes in: `authenticate`, the session, a predicate.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import attrs
import trio

from trionotify.clients import Client
from trionotify.entries import Entry
from trionotify.errors import CloseCode, Disconnected, Refused
from trionotify.frames import FrameParser
from trionotify.handshake import shake_hands
from trionotify.http import Request, check_upgrade, problem, read_head, request_of
from trionotify.log import Evicted
from trionotify.notification import Notification
from trionotify.positions import RAW, Position
from trionotify.query import Query, template
from trionotify.transport import Transport, linger
from trionotify.wire import Wire

if TYPE_CHECKING:
    from trionotify.hub import Hub
    from trionotify.predicates import Wanted

__all__ = ["WebSocketConnection", "serve_transport"]

logger = logging.getLogger("trionotify")

#: What may stand in a head as it is.
_SAFE: Final = "!#$&'()*+,/:;=?@[]~"


async def serve_transport(
    hub: Hub, transport: Transport, remote: str, opened: set[WebSocketConnection] | None = None
) -> None:
    """Serve one connection and close it. Raises nothing but what isn't an Exception: `Cancelled`.

    While it is open, it is in `opened`. Cancelled while the request is read, it just closes; later it
    says goodbye first.
    """
    opened = set() if opened is None else opened
    connection: WebSocketConnection | None = None
    try:
        connection = await _open(hub, transport, remote)
        if connection is not None:
            opened.add(connection)
            await _converse(connection)
    except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
        logger.debug("%s left before it was connected", remote)
    except Exception:
        # The last resort: whatever is wrong with one connection, the others go on.
        logger.exception("the connection of %s failed", remote)
    finally:
        if connection is not None:
            opened.discard(connection)
        transport.reset()  # does nothing to one that was closed in good order
        with trio.move_on_after(0, shield=True):  # at once, whoever waits for what
            await transport.aclose()


# --- half-open ---


async def _open(hub: Hub, transport: Transport, remote: str) -> WebSocketConnection | None:
    """Read the request and shake hands; None when it was refused, and answered, or dropped."""
    method = "GET"
    try:
        with trio.move_on_after(hub.settings.head_timeout) as scope, hub.half_opened(scope):
            head, early = await read_head(transport, hub.settings.max_head_bytes)
            method = head.method.decode()
            request = request_of(head, remote)
            check_upgrade(request)
            hub.check_room()
            client, query = await _admit(hub, request)
            response = await shake_hands(request)
            # From here on nothing waits: what is promised in the head holds when the client joins.
            hub.check_room()
            connection = WebSocketConnection(hub, client)
            connection.enter(transport, query, early, response)
            return connection
        if trio.current_time() < scope.deadline:
            return None  # it had to make room for newer ones, or the server stops
        answer = Refused(408, f"no whole request came in {hub.settings.head_timeout:g} seconds")
    except Refused as refused:
        answer = refused
    # What stands behind the first colon may have been in the query.
    logger.info("%s refused: %d %.80r", remote, answer.status, answer.detail.partition(":")[0])
    with trio.move_on_after(hub.settings.close_timeout) as scope, hub.half_opened(scope):
        data = memoryview(problem(answer, method))
        while data:
            data = data[await transport.send_some(data) :]
        await linger(transport)
        await transport.aclose()
    return None


async def _admit(hub: Hub, request: Request) -> tuple[Client, Query]:
    """Ask `authenticate`, which may raise anything: that ends this connection alone."""
    try:
        return await hub.admit(request)
    except Refused:
        raise
    except Exception as error:
        # Out of a nursery of the application's it comes in a group.
        if isinstance(error, ExceptionGroup) and (group := error.subgroup(Refused)):
            raise group.exceptions[0] from None
        logger.exception("%s: the request failed", request.remote)
        raise Refused(500, "the server failed; its log says how") from None
    except BaseExceptionGroup as group:
        errors, rest = group.split(Exception)
        logger.error("%s: the request failed", request.remote, exc_info=errors)
        assert rest is not None  # else it were an ExceptionGroup
        raise rest from None


# --- open ---


async def _converse(connection: WebSocketConnection) -> None:
    """Run the session on an open connection, and close it in good order."""
    hub, client, wire = connection.hub, connection.client, connection.wire
    code = CloseCode.NORMAL
    try:
        await hub.session(client)
    except Exception as error:
        # The boundary: what a session raises ends its connection alone.
        code = connection.blame(error)
    except BaseExceptionGroup as group:
        # A nursery of the session's that was cancelled may have collected errors on its way.
        errors, rest = group.split(Exception)
        code = connection.blame(errors) if errors else CloseCode.GOING_AWAY
        if rest:
            raise rest from None
    except BaseException:
        code = CloseCode.GOING_AWAY
        raise
    finally:
        # The goodbye, one of the places for a shield: it has a deadline.
        with trio.move_on_after(hub.settings.close_timeout, shield=True):
            wire.end(code)
            await wire.aclose()
        connection.leave()


@attrs.define(eq=False)
class WebSocketConnection:
    """What ties a client's record, its position and its Wire together, for as long as it is open.

    The record sees it as its `Link`, the broadcast as the `Outlet` of the position, the hub as one of
    its connections, the Wire as its owner. Made by the connection's task, which alone enters, leaves and
    receives.
    """

    hub: Hub
    client: Client
    wire: Wire = attrs.field(init=False)
    key: int = attrs.field(init=False)
    position: Position = attrs.field(init=False)
    #: What its notifications are like, once it has published any.
    _template: Notification | None = attrs.field(default=None, init=False)
    #: The task that catches up is running.
    _catching_up: bool = attrs.field(default=False, init=False)
    # The sweep's memory: since when it is silent, was pinged, has taken nothing of what it is owed.
    _silent_since: float = attrs.field(factory=trio.current_time, init=False)
    _pinged_at: float | None = attrs.field(default=None, init=False)
    _stuck_since: float | None = attrs.field(default=None, init=False)

    def enter(self, transport: Transport, query: Query, early: bytes, response: bytes) -> None:
        """Take a place in the log, and say so in the head of the 101. Raises `Refused` (410)."""
        hub, client = self.hub, self.client
        offset, resumed = hub.start(query)
        fields = f"Trionotify-Id: {quote(client.id, safe=_SAFE)}\r\n"
        fields += f"Trionotify-Cursor: {hub.broadcast.cursor(offset)}\r\n"
        if resumed:
            fields += "Trionotify-Recovered: true\r\n"
        self.key = hub.next_key()
        self.wire = Wire(transport, FrameParser(hub.settings.max_message_bytes), self, early)
        self.position = Position(
            self,
            client.predicate,
            RAW,
            transport.send,
            client,
            deaf_to=None if query.echo else self.key,
            latest_only=query.lag == "latest",
        )
        client.connect(hub, self)
        hub.connected(self.key, self, client)
        # Had the kernel no room even for this, what is owed would go out before anything else.
        with suppress(Disconnected):
            self.wire.write(response[:-2] + fields.encode() + b"\r\n")
            hub.broadcast.join(self.position, offset)

    def leave(self) -> None:
        """Let go of everything."""
        self.hub.broadcast.leave(self.position)
        self.hub.disconnected(self.key)
        self.client.connect(self.hub, None)
        ended = self.wire.ended
        logger.info(
            "client %.64r from %s left after %.1f s: %s",
            self.client.id,
            self.client.remote or "a stream",
            time.time() - self.client.connected_at,
            f"{ended.code} {ended.reason}".rstrip() if ended else "the connection was lost",
        )

    def blame(self, error: Exception) -> CloseCode:
        """What to close with after the session raised `error`, which is logged if it is a fault."""
        if isinstance(error, Disconnected):
            return CloseCode.NORMAL  # it sent to a client that was gone: how sessions often end
        if isinstance(error, ExceptionGroup) and error.split(Disconnected)[1] is None:
            return CloseCode.NORMAL
        logger.error("the session of client %.64r failed", self.client.id, exc_info=error)
        return CloseCode.INTERNAL_ERROR

    # As the link of the client's record.

    def receive(self) -> Awaitable[list[str | bytes]]:
        return self.wire.receive()

    async def send(self, message: str | bytes) -> None:
        await self.wire.send(message)

    async def publish(self, messages: tuple[str | bytes, ...]) -> None:
        if self._template is None:
            self._template = template(self.client.params, self.client.id)
        another, key = self._template.another, self.key
        await self.hub.inbox.put([Entry(another(message), key) for message in messages])

    def end(self, code: int | None, reason: str = "") -> None:
        self.wire.end(code, reason)

    def refilter(self, predicate: Wanted) -> str:
        broadcast = self.hub.broadcast
        return broadcast.cursor(broadcast.refilter(self.position, predicate))

    # As the owner of the Wire.

    def on_owing(self) -> None:
        """Bytes are owed: it goes on by itself, from where it stands.

        Behind the end what is owed is the Close frame, which the connection's own task sends.
        """
        self.hub.broadcast.fall_behind(self.position)
        if self.position.joined:
            self._start_catching_up()

    def on_end(self) -> None:
        """Nothing may be written any more."""
        self.hub.broadcast.leave(self.position)

    # As the outlet of the position.

    @property
    def owed(self) -> object:
        return self.wire.owed

    def owe(self, rest: memoryview, /) -> None:
        self.wire.owe(rest)

    def wake(self) -> None:
        # Often one step does it, and no task is needed.
        if not self._catching_up and self._advance():
            self._start_catching_up()

    def fail(self, error: Exception) -> None:
        logger.error("serving client %.64r failed: its predicate raised", self.client.id, exc_info=error)
        self.wire.end(CloseCode.INTERNAL_ERROR, "a predicate of this client's failed")

    def abort(self) -> None:
        self.wire.abort()

    def _start_catching_up(self) -> None:
        if not self._catching_up:
            self._catching_up = self.hub.start_soon(self._catch_up)

    def _advance(self) -> bool:
        """Catch up by one step; whether there is more to do, once nothing is owed.

        The boundary again: whatever goes wrong here is this client's own.
        """
        try:
            return self.hub.broadcast.advance(self.position, self.wire)
        except Evicted:
            self.wire.end(CloseCode.TRY_AGAIN_LATER, "slow")
        except Exception as error:
            self.fail(error)
        return False

    async def _catch_up(self) -> None:
        """The helper task of one client, for as long as it is behind. Raises nothing but `Cancelled`."""
        try:
            await self.wire.drained()
            while self._advance():
                await self.wire.drained()
        except Disconnected:
            return
        finally:
            self._catching_up = False

    # As one of the hub's connections.

    def check(self, now: float) -> None:
        """Silent: ping it. Pinged and still silent, or owing and stuck: it is dead, drop it.

        One that is owed bytes answers a ping late, behind them: only the kernel's taking some counts.
        While its session is busy and nobody reads it, silence doesn't count.
        """
        wire, settings = self.wire, self.hub.settings
        if wire.owed:
            self._silent_since, self._pinged_at = now, None
            if wire.moved or self._stuck_since is None:
                wire.moved, self._stuck_since = False, now
            elif now - self._stuck_since >= settings.stall_timeout:
                self._drop("took nothing", now - self._stuck_since)
            return
        self._stuck_since = None
        if wire.heard or not wire.reading:
            wire.heard = False
            self._silent_since, self._pinged_at = now, None
        elif self._pinged_at is not None:
            if now - self._pinged_at >= settings.ping_timeout:
                self._drop("was silent", now - self._silent_since)
        elif now - self._silent_since >= settings.ping_interval:
            wire.ping()
            self._pinged_at = now

    def _drop(self, why: str, seconds: float) -> None:
        logger.info("client %.64r %s for %.0f seconds: dropped", self.client.id, why, seconds)
        self.wire.abort()
