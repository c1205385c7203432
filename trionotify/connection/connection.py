"""Connections: what ties a client's record, its position and its Wire together, while it is connected.

What connections of all kinds have in common; `websocket` and `stream` add their own: how it begins,
what the client may say, and how it shows that it lives.

A connection has one task, which reads and runs the session (`serving`). While its client is behind, it
has another in the hub's nursery, `_catch_up`, which writes what the log has for it; they share the Wire,
which takes care that one of them writes at a time. What goes wrong in either is this connection's own.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import quote

import attrs
import trio

from trionotify.connection.dialogue import drain, understand, welcome
from trionotify.connection.failures import log_failing, log_leaving, log_unread
from trionotify.connection.wire import Wire
from trionotify.delivery.clients import Client
from trionotify.delivery.log import Damaged, Evicted, NotLoaded
from trionotify.delivery.position import Position, Sendable
from trionotify.errors import CloseCode, Disconnected, StoreError
from trionotify.model.addresses import site_of
from trionotify.model.query import Query

if TYPE_CHECKING:
    from trionotify.connection.formats import Format
    from trionotify.connection.transport import Transport
    from trionotify.delivery.hub import Hub
    from trionotify.model.predicates import Wanted
    from trionotify.model.replies import Message
    from trionotify.settings import FilterLimits

__all__ = ["ClientConnection", "blame"]

logger: logging.Logger = logging.getLogger("trionotify")

#: A message of which fewer bytes than this arrive within `stall_timeout` is not waited for.
_PROGRESS: Final = 1 << 10
#: What may stand in a head as it is.
_SAFE: Final = "!#$&'()*+,/:;=?@[]~"


def _is_its_own(client: Client) -> Callable[[Exception], bool]:
    """Whether an exception says that this client is gone, and not another one."""
    return lambda error: isinstance(error, Disconnected) and error.client in {None, client}


def blame(client: Client, error: Exception) -> CloseCode:
    """What to close with after the client's session raised `error`, which is logged if it is a fault."""
    others = error.split(_is_its_own(client))[1] if isinstance(error, ExceptionGroup) else error
    if others is None or _is_its_own(client)(others):
        return CloseCode.NORMAL  # it sent to its client when that was gone: how sessions often end
    log_failing(client, error, "session_failed", "the session of client %.64r failed")
    return CloseCode.INTERNAL_ERROR


@attrs.define(eq=False)
class ClientConnection:
    """One client's connection, in the middle of those who know a side of it each.

    The record sees it as its `Link`, the broadcast as the `Outlet` of the position, the hub as one of
    its connections, the Wire as its owner. Made by the connection's task, which alone enters, leaves and
    receives.
    """

    #: What it came by: `websocket`, `sse` or `ndjson`.
    transport_name: ClassVar[str]

    hub: Hub
    client: Client
    format: Format
    entered_at: float = attrs.field(factory=trio.current_time, init=False)
    key: int = attrs.field(init=False)
    wire: Wire = attrs.field(init=False)
    position: Position = attrs.field(init=False)
    #: The task that catches up is running.
    _catching_up: bool = attrs.field(default=False, init=False)
    #: Seconds that it took: who has had least goes first.
    _caught_up_for: float = attrs.field(default=0.0, init=False)
    #: Behind this offset it must be loaded what the next step reads.
    _to_load: int | None = attrs.field(default=None, init=False)
    #: Its lag policy: what happens when it falls off the log.
    _lag: str = attrs.field(default="", init=False)
    #: Messages that were not understood yet. They are events, and reading one may take a turn.
    _unread: deque[str | bytes] | None = attrs.field(default=None, init=False)
    #: Where it comes from, once somebody has asked.
    _site: str | None = attrs.field(default=None, init=False)
    #: Messages in a row that were no events.
    bad: int = attrs.field(default=0, init=False)
    #: Why the sweep has dropped it.
    _dropped: str = attrs.field(default="", init=False)
    #: Around all of it, when it runs in somebody else's task.
    scope: trio.CancelScope | None = attrs.field(default=None, init=False)
    # The sweep's memory: since when it is silent, was pinged, has taken nothing of what it is owed.
    _silent_since: float = attrs.field(factory=trio.current_time, init=False)
    _pinged_at: float | None = attrs.field(default=None, init=False)
    _stuck_since: float | None = attrs.field(default=None, init=False)
    # Of a message that is arriving: how much of it was here at the last progress, how many had come
    # before, and when that was.
    _arrived: tuple[int, int] = attrs.field(default=(0, 0), init=False)
    _arrived_at: float = attrs.field(default=0.0, init=False)
    # And the offset that the client knows of, and since when.
    _told: int = attrs.field(default=0, init=False)
    _told_at: float = attrs.field(default=0.0, init=False)

    @key.default
    def _next_key(self) -> int:
        return self.hub.next_key()

    def _enter(self, transport: Transport, wire: Wire, query: Query) -> tuple[str, str | bytes | None]:
        """Take a place in the log; return the fields that say so, and the welcome.

        Raises `Refused` (410). What is written to the Wire next goes out before anything of the log.
        """
        hub, client = self.hub, self.client
        hub.quotas.check(client)
        offset, recovered = hub.start(query)
        fields = f"Trionotify-Id: {quote(client.id, safe=_SAFE)}\r\n"
        fields += f"Trionotify-Cursor: {hub.broadcast.cursor(offset)}\r\n"
        if recovered is not None:
            fields += f"Trionotify-Recovered: {'true' if recovered else 'false'}\r\n"
        self._lag = query.lag or self.format.default_lag
        self._told, self._told_at, self._arrived_at = offset, self._silent_since, self._silent_since
        self.wire = wire
        self.position = Position(
            self,
            client.predicate,
            self.format.encode,
            transport.send,
            client,
            deaf_to=None if query.echo else self.key,
            latest_only=self._lag == "latest",
        )
        self.position.told = offset
        client.connect(hub, self)
        client.speak(query.format, query.subprotocol)
        hub.connected(self.key, self, client)
        return fields, welcome(self, offset, recovered)

    def leave(self) -> None:
        """Let go of everything."""
        self.hub.broadcast.leave(self.position)
        code = self.wire.ended.code if self.wire.ended and self.wire.closed else None
        self.hub.disconnected(self.key, code or CloseCode.NORMAL if self.wire.closed else None)
        self.client.connect(self.hub, None)
        ended = self.wire.ended
        code, reason = (None, self._dropped) if ended is None else (ended.code, ended.reason)
        log_leaving(self, self.wire.received, code, reason)
        # The cycle collector would find them, but only after a while: what they hold should go now.
        self.wire.forget_owner()
        self.position.forget_outlet()

    # As the link of the client's record.

    def receive(self) -> Awaitable[list[Message]]:
        """The messages for the session: see `Link.receive`."""
        if self.format.name != "raw":
            return self._events()
        return self.wire.receive()  # type: ignore[return-value] # a list of some messages is one of any

    async def _events(self) -> list[Message]:
        while True:
            if self._unread:
                await trio.lowlevel.checkpoint()
            else:
                self._unread = deque(await self.wire.receive())
                if not self._unread:
                    return []
            if found := await understand(self, self._unread):
                return found

    async def send(self, message: Message) -> None:
        await self.wire.send(self.format.message(message))

    def tell(self, kind: str, data: Mapping[str, object]) -> None:
        self.answer(self.format.say(kind, data, None))

    async def say(self, kind: str, data: Mapping[str, object]) -> None:
        if (text := self.format.say(kind, data, None)) is not None:
            await self.wire.send(text)

    async def publish(self, messages: tuple[Message, ...]) -> None:
        """Publish what the client sent, if it can send anything."""
        raise NotImplementedError

    def end(self, code: int | None, reason: str = "") -> None:
        if self._unread:
            self._unread.clear()
        self.wire.end(code, reason)

    def refilter(self, predicate: Wanted) -> str:
        broadcast = self.hub.broadcast
        return broadcast.cursor(broadcast.refilter(self.position, predicate))

    async def pass_on(self) -> None:
        """Let the others go on, because this client has sent much. A checkpoint."""
        await self.hub.crowd.turn(self.site)

    # As one who takes part in a conversation of events.

    @property
    def filter_limits(self) -> FilterLimits:
        return self.hub.filter_limits

    def here(self) -> str:
        return self.hub.broadcast.cursor(self.hub.broadcast.standing(self.position))

    def answer(self, *messages: str | None) -> None:
        frames = [self.wire.framing.message(message) for message in messages if message is not None]
        if frames:
            self.wire.reply(b"".join(frames))

    # As the owner of the Wire.

    def on_owing(self) -> None:
        """Bytes are owed: it goes on by itself, from where it stands.

        Behind the end what is owed is the Close frame, which the connection's own task sends.
        """
        self.hub.broadcast.fall_behind(self.position)
        if self.position.joined:
            self._start_catching_up()

    def on_end(self) -> None:
        """Nothing may be written any more. What was received is still the session's."""
        self.hub.broadcast.leave(self.position)

    def on_holding(self, change: int, /) -> None:
        """`change` bytes more of a message are here, or fewer: they count in the common budget."""
        self.hub.arriving.hold(self, change)

    # As one on which something is arriving.

    @property
    def site(self) -> str:
        if self._site is None:  # (an address is parsed: that takes as long as publishing a message)
            self._site = site_of(self.client.remote)
        return self._site

    def give_up_arriving(self) -> None:
        self.wire.end(CloseCode.TRY_AGAIN_LATER, "too much is arriving at once")

    # As the outlet of the position.

    @property
    def owed(self) -> object:
        return self.wire.owed

    @property
    def synchronous(self) -> bool:
        return self.wire.transport.synchronous

    def owe(self, rest: Sendable, /) -> None:
        self.wire.owe(rest)

    def wake(self) -> None:
        # Often one step does it, and no task is needed.
        if not self._catching_up and self._advance():
            self._start_catching_up()

    def put_off(self) -> None:
        self._start_catching_up()

    def fail(self, error: Exception) -> None:
        log_failing(self.client, error, "predicate_failed", "a predicate of client %.64r failed")
        self.wire.end(CloseCode.INTERNAL_ERROR, "a predicate of this client's failed")

    def abort(self) -> None:
        self.wire.abort()

    def give_up(self) -> None:
        self.hub.broadcast.lag.closed += 1
        self._dropped = "too many clients have stalled, and it was among the first"
        self.wire.abort()

    def _start_catching_up(self) -> None:
        if not self._catching_up:
            name = f"trionotify: catch-up of client {self.client.id!r:.64}"
            self._catching_up = self.hub.start_soon(self._catch_up, name)

    def _advance(self) -> bool:
        """Catch up by one step; whether there is more to do, once nothing is owed.

        The boundary again: whatever goes wrong here is this client's own.
        """
        try:
            return self.hub.broadcast.advance(self.position)
        except NotLoaded as absent:
            self._to_load = absent.after
            return True
        except (Evicted, Damaged) as lost:
            return self._skip(lost)
        except Exception as error:
            self.fail(error)
        return False

    def _skip(self, lost: Evicted | Damaged) -> bool:
        """It can't have what comes next: tell it of the gap, and go on; or else it must go.

        It goes on behind the damage. If it fell off the log, it goes on at the head, and with `latest`
        at the log's old end: there the newest of each kind is still to be had, of all that is kept.
        """
        broadcast, position = self.hub.broadcast, self.position
        latest = self._lag == "latest" and isinstance(lost, Evicted)
        offset = self.hub.log.start if latest else broadcast.taken
        if isinstance(lost, Damaged):
            offset = min(lost.upto, broadcast.taken)
        after, upto = broadcast.cursor(position.cursor), broadcast.cursor(offset)
        gap = self.format.say("gap", {"from": after, "to": upto}, upto)
        if self._lag == "disconnect" or (gap is None and not latest):
            broadcast.lag.closed += 1
            self.wire.end(CloseCode.TRY_AGAIN_LATER, lost.reason)
            return False
        broadcast.lag.gaps += 1
        position.cursor, position.latest = offset, None
        if gap is not None:
            self.answer(gap)
            position.told = offset
        return True

    async def _catch_up(self) -> None:
        """The helper task of one client, for as long as it is behind. Raises nothing but `Cancelled`."""
        more = True
        try:
            while more:
                if self._to_load is not None:
                    after, self._to_load = self._to_load, None
                    await self.hub.log.load(after)
                if self.wire.owed:
                    # Its network says when it is its turn.
                    await self.wire.drained()
                    more = self._advance()
                else:
                    async with self.hub.pace.one_of(self.site, self._caught_up_for):
                        begun = perf_counter()
                        more = self._advance()
                        self._caught_up_for += perf_counter() - begun
        except Disconnected:
            return
        except StoreError as error:
            log_unread(self.client, error)
            self.wire.end(CloseCode.TRY_AGAIN_LATER, "the log can't be read")
        finally:
            self._catching_up = False

    # As one of the hub's connections.

    def go_away(self, code: CloseCode, clients: int) -> None:
        if not (self.wire.ended or self.wire.broken):
            drain(self, clients)
        self.wire.end(code)

    def cut_off(self) -> None:
        self.wire.abort()
        if self.scope is not None:
            self.scope.cancel()

    def check(self, now: float) -> None:
        """Look after its life, and let it know how far the log has gone."""
        self._tell_position(now)
        if self.wire.owed:
            self._check_progress(now)
        else:
            self._stuck_since = None
            self._check_arrival(now)
            self._check_life(now)

    def _tell_position(self, now: float) -> None:
        """One whom nothing concerned for a while learns where to resume: behind what it needn't see."""
        position = self.position
        if position.told != self._told:
            self._told, self._told_at = position.told, now
        elif (
            now - self._told_at >= self.hub.settings.position_interval
            and position.live
            and self.hub.broadcast.fix(position) > self._told
        ):
            position.told = self._told = position.cursor
            self._told_at = now
            self.answer(self.format.say("position", {}, self.here()))

    def _check_arrival(self, now: float) -> None:
        """End a client whose message arrives byte by byte: it takes from the budget that all share."""
        wire, (held, received) = self.wire, self._arrived
        if (
            not wire.held
            or not wire.reading
            or wire.received != received
            or abs(wire.held - held) >= _PROGRESS
        ):
            self._arrived, self._arrived_at = (wire.held, wire.received), now
        elif now - self._arrived_at >= self.hub.settings.stall_timeout:
            self.wire.end(CloseCode.POLICY_VIOLATION, "a message arrived too slowly")

    def _check_progress(self, now: float) -> None:
        """One that is owed bytes lives as long as the kernel takes some of them now and then.

        An answer to a ping would come late, behind them.
        """
        self._silent_since, self._pinged_at = now, None
        if self.wire.moved or self._stuck_since is None:
            self.wire.moved, self._stuck_since = False, now
        elif now - self._stuck_since >= self.hub.settings.stall_timeout:
            self._drop("took nothing", now - self._stuck_since)

    def _check_life(self, now: float) -> None:
        """It owes nothing: see whether it is still there."""
        raise NotImplementedError

    def _drop(self, why: str, seconds: float) -> None:
        self._dropped = f"it {why} for {seconds:.0f} seconds"
        self.wire.abort()
