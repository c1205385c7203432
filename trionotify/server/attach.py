"""`hub.attach`: a connection that an application accepted itself, with trio-websocket.

It has a position in the log like any other and counts as a client; only its bytes are trio-websocket's
business. Two tasks serve it in a nursery of the call: one runs the session, which reads with
`get_message`, the other reads the log and writes with `send_message`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import parse_qsl

import trio
import trio_websocket

from trionotify.connection.connection import blame
from trionotify.connection.dialogue import drain, publish, understand, welcome
from trionotify.connection.failures import log_failing, log_leaving, log_refusal, log_unread
from trionotify.connection.frames import cut_reason
from trionotify.delivery.log import Damaged, Evicted
from trionotify.delivery.subscription import Reader
from trionotify.errors import CloseCode, Disconnected, Refused, StoreError
from trionotify.http.access import admit
from trionotify.http.messages import Request
from trionotify.model.addresses import name_of, site_of
from trionotify.model.query import Query, parse_query, template

if TYPE_CHECKING:
    from trionotify.delivery.clients import Client
    from trionotify.delivery.hub import AcceptedWebSocket
    from trionotify.http.web_hub import WebHub
    from trionotify.model.predicates import Wanted
    from trionotify.model.replies import Message

__all__ = ["serve_attached"]

_SUBPROTOCOLS = "sec-websocket-protocol"
#: What a refusal is called where the handshake is over; any other is 1008.
_CODES: Final[Mapping[int, CloseCode]] = {
    401: CloseCode.UNAUTHORIZED,
    403: CloseCode.FORBIDDEN,
    429: CloseCode.TOO_MANY_REQUESTS,
    500: CloseCode.INTERNAL_ERROR,
    503: CloseCode.TRY_AGAIN_LATER,
}


async def serve_attached(hub: WebHub, websocket: AcceptedWebSocket, client: Client | None) -> None:
    """Serve `websocket`, a `trio_websocket.WebSocketConnection`, until it is over: see `Hub.attach`."""
    path, _, query_text = (websocket.path or "/").partition("?")
    remote = _name_of(websocket.remote)
    try:
        request = _request(hub, websocket, path, query_text, remote)
        client, query = await admit(hub, request, client)
        if query.lag == "latest":
            raise Refused(400, "lag: latest needs a connection that the hub serves from its first byte")
        # No checkpoint from here until it has entered.
        hub.entrance.check_room()
        hub.quotas.check(client)
        offset, recovered = hub.start(query)
    except Refused as refused:
        log_refusal(remote, refused, dict(parse_qsl(query_text)))
        code = _CODES.get(refused.status, CloseCode.POLICY_VIOLATION)
        with trio.move_on_after(hub.settings.close_timeout):
            await websocket.aclose(code, cut_reason(refused.detail).decode())
        return
    connection = _AttachedConnection(hub, websocket, client, query)
    client.connect(hub, connection)
    client.speak(query.format, query.subprotocol)
    connection.answer(welcome(connection, offset, recovered))
    hub.connected(connection.key, connection, client)
    hub.broadcast.join(connection.reader.position, offset)
    try:
        async with trio.open_nursery() as nursery:
            name = f"trionotify: notifications of client {client.id!r:.64}"
            nursery.start_soon(connection.write_notifications, name=name)
            connection.scope = nursery.cancel_scope
            await connection.run_session()
            # The writer may be in the middle of a frame: let it finish, in a reasonable time.
            connection.end(CloseCode.NORMAL)
            nursery.cancel_scope.deadline = trio.current_time() + hub.settings.close_timeout
        with trio.move_on_after(hub.settings.close_timeout) as connection.scope:
            if connection.torn:
                # No Close frame into the middle of another one: just close the stream.
                connection.scope.cancel()
            await websocket.aclose(connection.code, connection.reason)
            connection.closed = True
    finally:
        hub.broadcast.leave(connection.reader.position)
        hub.disconnected(connection.key, connection.code if connection.closed else None)
        client.connect(hub, None)
        log_leaving(connection, connection.received, connection.code, connection.reason)


def _request(
    hub: WebHub, websocket: AcceptedWebSocket, path: str, query_text: str, remote: str
) -> Request:
    """What it was asked for with; raises `Refused`."""
    headers = [(n.decode(), v.decode("latin-1")) for n, v in websocket.handshake_headers]
    # What was offered is of no interest any more, but what was agreed on.
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
        # The application has agreed on it, whatever it is.
        subprotocols=(websocket.subprotocol,) if websocket.subprotocol else (),
        allowed=hub.allow_params,
    )


def _name_of(remote: Any) -> str:
    """A peer's address as everywhere else; trio-websocket has a string for what is no socket."""
    return name_of((str(remote.address), remote.port)) if hasattr(remote, "port") else str(remote)


class _AttachedConnection:
    """The client's link, and one of the hub's connections. Made and ended by `serve_attached`."""

    transport_name: ClassVar[str] = "websocket"

    def __init__(self, hub: WebHub, websocket: AcceptedWebSocket, client: Client, query: Query) -> None:
        self.hub = hub
        self.client = client
        self.entered_at = trio.current_time()
        self.format = hub.formats[query.format]
        self.filter_limits = hub.filter_limits
        self.bad = 0
        self.key = hub.next_key()
        self.received = 0
        self.code: int = CloseCode.NORMAL
        self.reason = ""
        self.reader = Reader(hub.broadcast, client.predicate, client)
        self.position = self.reader.position
        self.position.deaf_to = None if query.echo else self.key
        #: A send was cut off, so half a frame may be out: the connection is dead.
        self.torn = False
        #: It was closed in good order.
        self.closed = False
        #: Around what `serve_attached` does at the moment.
        self.scope: trio.CancelScope | None = None
        self._lag = query.lag or self.format.default_lag
        self._websocket = websocket
        self._over = False
        #: A message that came and was not understood yet.
        self._unread: deque[str | bytes] = deque()
        self._receiving: trio.CancelScope | None = None
        # What the writer is to send next, the wait that this interrupts, and who waits until it is out.
        self._answers: deque[str] = deque()
        self._waiting: trio.CancelScope | None = None
        self._answered = trio.lowlevel.ParkingLot()

    async def run_session(self) -> None:
        """Run the session; what it raises ends this connection alone."""
        try:
            await self.hub.session(self.client)
            self.client.accept()
        except Exception as error:
            # The boundary: the application's session may raise anything.
            self.end(blame(self.client, error))
        except BaseExceptionGroup as group:
            # A nursery of the session's that was cancelled may have collected errors on its way.
            errors, rest = group.split(Exception)
            if errors:
                self.end(blame(self.client, errors))
            if rest:
                raise rest from None

    async def write_notifications(self) -> None:
        """Send answers, and what the position wants, each in its turn, until the connection is over."""
        try:
            # What was answered before the end goes out before the Close.
            while self._answers or not self._over:
                message = await self._next()
                if message is not None:
                    with trio.fail_after(self.hub.settings.stall_timeout):
                        await self._write(message)
        except trio.TooSlowError:
            self.end(CloseCode.TRY_AGAIN_LATER, "stalled")
        except (Disconnected, trio.ClosedResourceError):
            self.end(CloseCode.NORMAL)
        except StoreError as error:
            log_unread(self.client, error)
            self.end(CloseCode.TRY_AGAIN_LATER, "the log can't be read")
        except Exception as error:
            # The boundary: the client's own predicate may raise anything.
            log_failing(self.client, error, "predicate_failed", "a predicate of client %.64r failed")
            self.end(CloseCode.INTERNAL_ERROR, "a predicate of this client's failed")

    async def _next(self) -> str | bytes | None:
        """The next message to send; None when it is better to look again."""
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
            gap = self.format.say("gap", {"from": after, "to": upto}, upto)
            lag = self.hub.broadcast.lag
            if gap is None or self._lag == "disconnect":
                lag.closed += 1
                self.end(CloseCode.TRY_AGAIN_LATER, lost.reason)
                return None
            lag.gaps += 1
            return gap
        finally:
            self._waiting = None
        return None

    # As the link of the client's record.

    async def receive(self) -> list[Message]:
        messages: list[Message] = []
        while not messages and not self._over:
            if self._answers:
                # Whoever asks and doesn't read the answers is not read either.
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
        return await understand(self, self._unread)

    async def send(self, message: Message) -> None:
        if self._over:
            raise Disconnected("the connection is closed")
        await self._write(self.format.message(message))

    def tell(self, kind: str, data: Mapping[str, object]) -> None:
        self.answer(self.format.say(kind, data, None))

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
            self.torn = True
            self.end(CloseCode.GOING_AWAY)
            raise

    async def publish(self, messages: tuple[Message, ...]) -> None:
        await publish(self, template(self.client.params, self.client.id), messages)

    def end(self, code: int | None, reason: str = "") -> None:
        if not self._over:
            self._over = True
            self.code, self.reason = code or CloseCode.NORMAL, reason
        self.hub.broadcast.leave(self.position)
        self.reader.wake()
        self._answered.unpark_all()
        if self._receiving:
            self._receiving.cancel()

    def refilter(self, predicate: Wanted) -> str:
        broadcast = self.hub.broadcast
        return broadcast.cursor(broadcast.refilter(self.position, predicate))

    # As one who takes part in a conversation of events.

    @property
    def site(self) -> str:
        return site_of(self.client.remote)

    async def pass_on(self) -> None:
        await self.hub.crowd.turn(self.site)

    def here(self) -> str:
        broadcast = self.hub.broadcast
        return broadcast.cursor(broadcast.standing(self.position))

    def answer(self, *messages: str | None) -> None:
        self._answers += [message for message in messages if message is not None]
        if self._answers and self._waiting is not None:
            self._waiting.cancel()

    # As one of the hub's connections.

    def go_away(self, code: CloseCode, clients: int) -> None:
        if not self._over:
            drain(self, clients)
        self.end(code)

    def check(self, now: float) -> None:
        """Its pings are the application's business, or trio-websocket's."""

    def cut_off(self) -> None:
        self.torn = True
        self.end(CloseCode.GOING_AWAY)
        if self.scope is not None:
            self.scope.cancel()
