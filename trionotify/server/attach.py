"""`hub.attach`: a connection that an application accepted itself, with trio-websocket.

It has a position in the log like any other, and counts as a client. Only its bytes are handled by
trio-websocket. Two tasks serve it in a nursery inside the call. One runs the session, which reads with
`get_message`. The other reads the log and writes with `send_message`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio
import trio_websocket

from trionotify.connection.base import Connection, blame
from trionotify.connection.dialogue import publish, understand
from trionotify.connection.failures import log_leaving, log_refusal, log_unread
from trionotify.connection.frames import cut_reason
from trionotify.delivery.log import Damaged, Evicted
from trionotify.delivery.subscription import Reader
from trionotify.errors import CloseCode, Disconnected, Refused, StoreError
from trionotify.http.access import admit, check_rate
from trionotify.http.messages import Request
from trionotify.model.addresses import name_of
from trionotify.model.query import Query, parse_query
from trionotify.scopes import open_nursery

if TYPE_CHECKING:
    from trionotify.connection.session import Session
    from trionotify.delivery.accepted import AcceptedWebSocket
    from trionotify.delivery.clients import Client
    from trionotify.http.web_hub import WebHub
    from trionotify.model.replies import Message

__all__ = ["serve_attached"]

_SUBPROTOCOLS = "sec-websocket-protocol"
#: The Close codes for refusals, because the handshake is over. Any other status becomes 1008.
_CODES: Final[Mapping[int, CloseCode]] = {
    401: CloseCode.UNAUTHORIZED,
    403: CloseCode.FORBIDDEN,
    429: CloseCode.TOO_MANY_REQUESTS,
    500: CloseCode.INTERNAL_ERROR,
    503: CloseCode.TRY_AGAIN_LATER,
}


async def serve_attached(hub: WebHub, websocket: AcceptedWebSocket, client: Client | None) -> None:
    """Serve `websocket` until it is over: see `Hub.attach`."""
    path, _, query_text = (websocket.path or "/").partition("?")
    remote = (client.remote if client else "") or _name_of(websocket.remote)
    try:
        request = _request(hub, websocket, path, query_text, remote)
        hub.entrance.check_room()
        check_rate(hub, request)
        client, query = await admit(hub, request, client)
        if query.lag == "latest":
            raise Refused(
                400,
                "lag: latest needs a connection that the hub serves from its first byte",
                logged="lag",
            )
        # No checkpoint from here until the client has entered.
        hub.entrance.check_room()
        hub.quotas.check(client)
        offset, recovered = hub.start(query)
    except Refused as refused:
        log_refusal(remote, refused)
        hub.broadcast.counts.refuse(refused)
        code = _CODES.get(refused.status, CloseCode.POLICY_VIOLATION)
        with trio.move_on_after(hub.settings.close_timeout):
            await websocket.aclose(code, cut_reason(refused.detail).decode())
        return
    connection = _AttachedConnection(hub, client, hub.formats[query.format], websocket, query)
    connection.connect(query, connection.reader.position)
    connection.answer(connection.welcome(offset, recovered))
    hub.broadcast.join(connection.position, offset)
    try:
        async with open_nursery() as nursery:
            name = f"trionotify: notifications of client {client.id!r:.64}"
            nursery.start_soon(connection.write_notifications, name=name)
            connection.scope = nursery.cancel_scope
            await connection.run_session(hub.session)
            # The writer may be in the middle of a frame. Let it finish, within a deadline.
            connection.close(CloseCode.NORMAL)
            nursery.cancel_scope.deadline = trio.current_time() + hub.settings.close_timeout
        with trio.move_on_after(hub.settings.close_timeout) as connection.scope:
            if connection.torn:
                # A Close frame must not go into the middle of another frame. Just close the stream.
                connection.scope.cancel()
            await websocket.aclose(connection.code, connection.reason)
            connection.closed = True
    finally:
        connection.disconnect(connection.code if connection.closed else None)
        log_leaving(connection, connection.received, connection.code, connection.reason)


def _request(
    hub: WebHub, websocket: AcceptedWebSocket, path: str, query_text: str, remote: str
) -> Request:
    """Return the request that led to the WebSocket. Raises `Refused`."""
    headers = [(n.decode(), v.decode("latin-1")) for n, v in websocket.handshake_headers]
    # Keep only the agreed subprotocol, not the offered ones.
    headers = [(name, value) for name, value in headers if name != _SUBPROTOCOLS]
    if websocket.subprotocol:
        headers.append((_SUBPROTOCOLS, websocket.subprotocol))
    return Request(
        "GET",
        path,
        parse_query(query_text),
        tuple(headers),
        remote,
        limits=hub.filter_limits,
        # The application has agreed on it, so any name is accepted.
        subprotocols=(websocket.subprotocol,) if websocket.subprotocol else (),
        allowed=hub.allow_params,
    )


def _name_of(remote: Any) -> str:
    """Return the peer's address as text, also for a peer without a socket, whose `remote` is text."""
    return name_of((str(remote.address), remote.port)) if hasattr(remote, "port") else str(remote)


@attrs.define(eq=False)
class _AttachedConnection(Connection):
    """Created and ended by `serve_attached`. Its position is that of a `Reader`, which is only woken."""

    transport_name = "websocket"
    publish = publish

    _websocket: AcceptedWebSocket
    _query: Query
    received: int = attrs.field(default=0, init=False)
    code: int = attrs.field(default=CloseCode.NORMAL, init=False)
    reason: str = attrs.field(default="", init=False)
    reader: Reader = attrs.field(init=False)
    #: Whether a send was cut off, so that half a frame may be out and the connection is dead.
    torn: bool = attrs.field(default=False, init=False)
    #: Whether it was closed in good order.
    closed: bool = attrs.field(default=False, init=False)
    _over: bool = attrs.field(default=False, init=False)
    #: A message that was received but not understood yet.
    _unread: deque[str | bytes] = attrs.field(factory=deque, init=False)
    _receiving: trio.CancelScope | None = attrs.field(default=None, init=False)
    # What the writer sends next, its wait, which a new answer cancels, and the task that waits until
    # all answers are out.
    _answers: deque[str] = attrs.field(factory=deque, init=False)
    _waiting: trio.CancelScope | None = attrs.field(default=None, init=False)
    _answered: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)

    def __attrs_post_init__(self) -> None:
        self.reader = Reader(self.hub.broadcast, self.client.predicate, self.client)
        self.reader.position.deaf_to = None if self._query.echo else self.key

    async def run_session(self, session: Session) -> None:
        """Run the session. Its exceptions end only this connection."""
        try:
            await session(self.client)
            self.client.accept()
        except Exception as error:
            # The boundary, because the application's session may raise anything.
            self.close(blame(self.client, error))
        except BaseExceptionGroup as group:
            # If a nursery of the session was cancelled, it may have collected errors.
            errors, rest = group.split(Exception)
            if errors:
                self.close(blame(self.client, errors))
            if rest:
                raise rest from None

    async def write_notifications(self) -> None:
        """Send answers, and notifications that the position wants, until the connection is over."""
        try:
            # Answers that were queued before the end go out before the Close frame.
            while self._answers or not self._over:
                message = await self._next()
                if message is not None:
                    with trio.fail_after(self.hub.settings.stall_timeout):
                        await self._write(message)
        except trio.TooSlowError:
            if self.code == CloseCode.GOING_AWAY:  # by the write that was cut off, and not before
                self.code, self.reason = CloseCode.TRY_AGAIN_LATER, "stalled"
        except (Disconnected, trio.ClosedResourceError):
            self.close(CloseCode.NORMAL)
        except StoreError as error:
            log_unread(self.client, error)
            self.close(CloseCode.TRY_AGAIN_LATER, "the log can't be read")
        except Exception as error:
            # The boundary, because the client's own predicate may raise anything.
            self.fail(error)

    async def _next(self) -> str | bytes | None:
        """Return the next message to send, or None if the caller should check the state again."""
        if self._answers:
            answer = self._answers.popleft()
            self._answered.unpark_all()
            return answer
        try:
            with trio.CancelScope() as self._waiting:
                notification = await self.reader.next()
                self.position.sent += 1
                return self.format.message(notification, self.here())
        except (Evicted, Damaged) as lost:
            after, upto = self.reader.skip(lost)
            lag = self.hub.broadcast.lag
            if self.lag != "disconnect" and self.tell_gap(after, upto):
                lag.gaps += 1
            else:
                lag.closed += 1
                self.close(CloseCode.TRY_AGAIN_LATER, lost.reason)
        except Exception as error:
            if error is not self.reader.fault:
                raise
            self.fail(error)  # the predicate may raise the same errors as the connection
        finally:
            self._waiting = None
        return None

    # --- as the `Link` of the client's record ---

    async def receive(self) -> list[Message]:
        messages: list[Message] = []
        while not messages and not self._over:
            if self._answers:
                # A peer that asks but doesn't read the answers is not read either.
                await self._answered.park()
                continue
            try:
                with trio.CancelScope() as self._receiving:
                    if not self._unread:
                        self._unread.append(await self._websocket.get_message())
                        self.received += 1
                    messages = await self._understand()
            except trio_websocket.ConnectionClosed:
                self._over = True
            finally:
                self._receiving = None
        return messages

    async def _understand(self) -> list[Message]:
        if self.format.name == "raw":
            return [self._unread.popleft()]
        found: list[Message] = []
        await understand(self, self._unread, found)
        return found

    async def send(self, message: Message) -> None:
        if self._over:
            raise Disconnected("the connection is closed")
        await self._write(self.format.message(message))

    async def say(self, kind: str, data: Mapping[str, object]) -> None:
        if self._over:
            raise Disconnected("the connection is closed")
        if (text := self.format.say(kind, data, None)) is not None:
            await self._write(text)

    async def _write(self, message: str | bytes) -> None:
        try:
            await self._websocket.send_message(message)
        except trio_websocket.ConnectionClosed:
            self._over = True
            raise Disconnected("the connection is closed") from None
        except trio.Cancelled:
            self.abort()  # half a frame may be out
            raise

    def discard(self) -> None:
        self._unread.clear()

    def close(self, code: int | None, reason: str = "") -> None:
        if not self._over:
            self._over = True
            self.code, self.reason = code or CloseCode.NORMAL, reason
        self.hub.broadcast.leave(self.position)
        self.reader.wake()
        self._answered.unpark_all()
        if self._receiving:
            self._receiving.cancel()

    def answer(self, *messages: str | None) -> None:
        self._answers += [message for message in messages if message is not None]
        if self._answers and self._waiting is not None:
            self._waiting.cancel()

    def abort(self, reason: str = "") -> None:
        self.torn = True
        self.close(CloseCode.GOING_AWAY, reason)

    # --- as one of the hub's connections ---

    def announce_end(self, clients: int) -> None:
        if not self._over:
            super().announce_end(clients)

    def check(self, now: float) -> None:
        """Do nothing, because the application or trio-websocket pings the peer."""
