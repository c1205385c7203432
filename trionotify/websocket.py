"""A WebSocket client's connection, from its first byte to its last: the work of one task.

    half-open:  head read (h11), checked, authenticated       `serve_transport`
    handshake:  trio-websocket's, on a stream of our own      `_shake_hands`
    open:       the session; the Wire has the frames          `_converse`
    closing:    shielded, under a deadline                    `Wire.aclose`

trio-websocket performs the opening handshake through its public API, on a small stream that gives it the
request, which was checked already, and collects what it answers. Then it is told that the stream is at
its end, and lets go. The frames are the Wire's, for the reasons in docs/how-it-works.md.

What goes wrong in a connection ends that connection alone. An `except Exception` stands at each border
where the application's own code comes in: `authenticate`, the session, a predicate.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

import attrs
import trio
import trio_websocket

from trionotify.clients import Client
from trionotify.errors import CloseCode, Disconnected, Refused
from trionotify.frames import FrameParser
from trionotify.http import Request, check_upgrade, problem, read_request
from trionotify.inbox import Publication
from trionotify.log import Evicted
from trionotify.notification import Notification
from trionotify.positions import RAW, Position
from trionotify.query import Query, notification_maker
from trionotify.transport import Transport, linger
from trionotify.wire import Wire

if TYPE_CHECKING:
    from trionotify.hub import Hub
    from trionotify.predicates import Wanted

__all__ = ["WebSocketConnection", "serve_transport"]

logger = logging.getLogger("trionotify")


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
    finally:
        if connection is not None:
            opened.discard(connection)
        transport.reset()  # does nothing to one that was closed in good order
        with trio.CancelScope(shield=True):
            # Closing forcefully never waits: the shield needs no deadline.
            await transport.aclose()


# --- half-open ---


async def _open(hub: Hub, transport: Transport, remote: str) -> WebSocketConnection | None:
    """Read the request and shake hands; None when it was refused, and answered, or dropped."""
    method = "GET"
    with trio.move_on_after(hub.settings.head_timeout) as scope, hub.half_opened(scope):
        try:
            request, early = await read_request(transport, hub.settings.max_head_bytes, remote)
            method = request.method
            check_upgrade(request)
            return await _accept(hub, transport, request, early)
        except Refused as refused:
            answer = refused
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            raise
        except Exception:
            # The application's `authenticate` may raise anything; that ends this connection alone.
            logger.exception("%s: the request failed", remote)
            answer = Refused(500, "the server failed; its log says how")
    if scope.cancelled_caught:
        if trio.current_time() < scope.deadline:
            return None  # it had to make room for newer ones
        answer = Refused(408, f"no whole request came in {hub.settings.head_timeout:g} seconds")
    logger.info("%s refused: %s", remote, answer)
    with trio.move_on_after(hub.settings.close_timeout):
        data = memoryview(problem(answer, method))
        while data:
            data = data[await transport.send_some(data) :]
        await linger(transport)
        await transport.aclose()
    return None


async def _accept(hub: Hub, transport: Transport, request: Request, early: bytes) -> WebSocketConnection:
    """Make the client, shake hands, and open its connection."""
    hub.check_room()
    client = await hub.admit(request)
    query = Query.of(request.params, client.id)
    offset, resumed = hub.start(query)
    headers = [
        (b"Trionotify-Id", quote(client.id, safe="!#$&'()*+,/:;=?@[]~ ").encode()),
        (b"Trionotify-Cursor", hub.broadcast.cursor(offset).encode()),
    ]
    if resumed:
        headers.append((b"Trionotify-Recovered", b"true"))
    response = await _shake_hands(request, headers)
    hub.check_room()
    connection = WebSocketConnection(hub, client)
    connection.enter(transport, query, early, response, offset)
    return connection


# --- handshake ---


class _Script(trio.abc.Stream):
    """A stream that plays the request to trio-websocket, and keeps what it answers."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._over = trio.Event()
        self.answer = b""

    def finish(self) -> None:
        """From now on, the end of the file."""
        self._over.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._request:
            await trio.lowlevel.checkpoint()
            request, self._request = self._request, b""
            return request
        await self._over.wait()
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.answer += data
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.finish()
        await trio.lowlevel.checkpoint()


async def _shake_hands(request: Request, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Let trio-websocket answer the handshake; return its 101, with our headers in it."""
    # Only what it has to know: the rest of the head was judged before, and can't confuse it.
    script = _Script(
        b"GET / HTTP/1.1\r\nHost: trionotify\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: " + (request.header("sec-websocket-key") or "").encode() + b"\r\n\r\n"
    )
    async with trio.open_nursery() as nursery:
        proposal = await trio_websocket.wrap_server_stream(nursery, script)
        await proposal.accept(extra_headers=headers)
        script.finish()
    return script.answer


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
    #: Makes its notifications, once it has published any.
    _make: partial[Notification] | None = attrs.field(default=None, init=False)
    #: The task that catches up is running.
    _catching_up: bool = attrs.field(default=False, init=False)
    # The sweep's memory: since when it is silent, was pinged, has taken nothing of what it is owed.
    _silent_since: float = attrs.field(factory=trio.current_time, init=False)
    _pinged_at: float | None = attrs.field(default=None, init=False)
    _stuck_since: float | None = attrs.field(default=None, init=False)

    def enter(
        self, transport: Transport, query: Query, early: bytes, response: bytes, offset: int
    ) -> None:
        """Send the 101, and take a place in the log behind `offset`."""
        hub, client = self.hub, self.client
        self.key = hub.next_key()
        self.wire = Wire(transport, FrameParser(hub.settings.max_message_bytes), self, early)
        deaf_to = None if query.echo else self.key
        latest_only = query.lag == "latest"
        self.position = Position(
            self, client.predicate, RAW, transport.send, client, deaf_to, latest_only
        )
        client.connect(hub, self)
        hub.connected(self.key, self, client)
        # Had the kernel no room even for this, what is owed would go out before anything else.
        with suppress(Disconnected):
            self.wire.write(response)
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
        if self._make is None:
            self._make = notification_maker(self.client.params, self.client.id)
        make, key = self._make, self.key
        await self.hub.inbox.put([Publication(make(message), key) for message in messages])

    def end(self, code: int | None, reason: str = "") -> None:
        self.wire.end(code, reason)

    def refilter(self, predicate: Wanted) -> str:
        broadcast = self.hub.broadcast
        return broadcast.cursor(broadcast.refilter(self.position, predicate))

    # As the owner of the Wire.

    def on_owing(self) -> None:
        """Bytes are owed: whoever is live goes on by itself, from where it stands."""
        self.hub.broadcast.fall_behind(self.position)

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
        if not self._catching_up:
            self._catching_up = True
            self.hub.start_soon(self._catch_up)

    def fail(self, error: Exception) -> None:
        logger.error("serving client %.64r failed: its predicate raised", self.client.id, exc_info=error)
        self.wire.end(CloseCode.INTERNAL_ERROR, "a predicate of this client's failed")

    def abort(self) -> None:
        self.wire.abort()

    async def _catch_up(self) -> None:
        """The helper task of one client, for as long as it is behind."""
        failure: Exception | None = None
        try:
            await self.hub.broadcast.catch_up(self.position, self.wire)
        except Disconnected:
            return
        except Exception as error:
            # The boundary again: this task runs in the hub's nursery, and must not end that.
            failure = error
        finally:
            self._catching_up = False
        if isinstance(failure, Evicted):
            self.wire.end(CloseCode.TRY_AGAIN_LATER, "slow")
        elif failure is not None:
            self.fail(failure)

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
