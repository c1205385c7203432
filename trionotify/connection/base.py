"""The common base of all connections, no matter which code reads and writes their bytes.

A connection belongs to one task, which runs the client's session. Three other objects use it: the
client's record (as its `Link`), the broadcast (as the `Outlet` of its position), and the hub (as one of
its connections). `ClientConnection` has its own Wire. `hub.attach` serves a WebSocket that the
application has accepted.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final

import attrs
import trio

from trionotify.connection.failures import log_failing
from trionotify.errors import CloseCode, Disconnected
from trionotify.model.addresses import site_of
from trionotify.model.query import template

if TYPE_CHECKING:
    from trionotify.connection.formats import Format
    from trionotify.delivery.clients import Client
    from trionotify.delivery.hub import Hub
    from trionotify.delivery.position import Position
    from trionotify.model.notification import Notification
    from trionotify.model.predicates import Wanted
    from trionotify.model.query import Query

__all__ = ["Connection", "blame"]

#: Milliseconds until a client of a server that goes down may expect a successor. By then the server's
#: half-open connections are gone, too. A browser that reused one of them would get a 503, after which
#: an EventSource doesn't reconnect.
_SOONEST: Final = 1_500
#: Clients come back spread over as many milliseconds as there are clients, because a server accepts a
#: thousand per second. These are the least and the most milliseconds.
_SPREAD: Final = (1_000, 60_000)


def blame(client: Client, error: Exception) -> CloseCode:
    """Return the Close code after a session raised `error`. Logs the error if it is a fault."""

    def is_its_own(error: Exception) -> bool:
        """Return whether the error says that this very client is gone."""
        return isinstance(error, Disconnected) and error.client in {None, client}

    others = error.split(is_its_own)[1] if isinstance(error, ExceptionGroup) else error
    if others is None or is_its_own(others):
        return CloseCode.NORMAL  # the session sent to a client that was gone, as many sessions end
    log_failing(client, error, "session_failed", "the session of client %.64r failed")
    return CloseCode.INTERNAL_ERROR


@attrs.define(eq=False)
class Connection(ABC):
    """Created by the connection's task once it knows the client; ends with that task."""

    #: The client's transport: `websocket`, `sse` or `ndjson`.
    transport_name: ClassVar[str]

    hub: Hub
    client: Client
    format: Format
    #: The time when the client was identified, on Trio's clock.
    entered_at: float = attrs.field(factory=trio.current_time, init=False)
    #: Its key in the hub's registry.
    key: int = attrs.field(init=False)
    #: The client's position in the log.
    position: Position = attrs.field(init=False)
    #: The policy if the log drops entries before the client has read them: `disconnect`, `gap` or
    #: `latest`.
    lag: str = attrs.field(default="", init=False)
    #: The number of messages in a row that were not events.
    bad: int = attrs.field(default=0, init=False)
    #: Whether the client's authorization has ended, so that nothing more of it may be published.
    revoked: bool = attrs.field(default=False, init=False)
    #: Around the whole connection if it runs in an application's task.
    scope: trio.CancelScope | None = attrs.field(default=None, init=False)
    #: The cached value of `site`.
    _site: str | None = attrs.field(default=None, init=False)
    #: The cached value of `template`.
    _template: Notification | None = attrs.field(default=None, init=False)

    @key.default
    def _next_key(self) -> int:
        return self.hub.next_key()

    @abstractmethod
    def answer(self, *messages: str | None) -> None:
        """Send the client these messages, in order. None stands for one its format can't express."""

    @abstractmethod
    def close(self, code: int | None, reason: str = "") -> None:
        """Queue a Close frame, behind which nothing is sent. Doesn't block."""

    @abstractmethod
    def discard(self) -> None:
        """Drop messages that were received and not understood yet. Doesn't block."""

    def revoke(self, code: int, reason: str) -> None:
        """Close the connection because the client's authorization has ended. Doesn't block.

        Only what is in the channel already is still published.
        """
        self.revoked = True
        self.client.received = None
        self.discard()
        self.close(code, reason)

    @abstractmethod
    def abort(self, reason: str = "") -> None:
        """Drop the connection at once. The reason goes to the log. Doesn't block."""

    # --- its place in the hub ---

    def connect(self, query: Query, position: Position) -> None:
        """Tie the client's record and its position to this connection, and all of them to the hub."""
        self.position = position
        self.lag = query.lag or self.format.default_lag
        self.client.connect(self.hub, self)  # type: ignore[arg-type] # a `Link`, as each kind is
        self.client.speak(query.format, query.subprotocol)
        self.hub.connected(self.key, self, self.client)  # type: ignore[arg-type] # and one of the hub's

    def disconnect(self, code: int | None) -> None:
        """Leave the hub and the record. `code` is None for a connection that was lost."""
        self.hub.broadcast.leave(self.position)
        self.hub.disconnected(self.key, code)
        self.client.connect(self.hub, None)

    @property
    def site(self) -> str:
        """The network of the client's address. Clients of one site take turns with each other."""
        if self._site is None:  # lazy, because parsing an address takes as long as publishing a message
            self._site = site_of(self.client.remote)
        return self._site

    async def pass_on(self) -> None:
        """Let other tasks run, because this client has sent much. A checkpoint."""
        await self.hub.crowd.turn(self.site)

    # --- the dialogue of events ---

    @property
    def template(self) -> Notification:
        """A notification with the attributes of the query, for the text and bytes that it publishes."""
        if self._template is None:
            self._template = template(self.client.params, self.client.id)
        return self._template

    def here(self) -> str:
        """The client's cursor, between the notifications sent and those to come."""
        return self.hub.broadcast.cursor(self.hub.broadcast.standing(self.position))

    def tell(self, kind: str, data: Mapping[str, object]) -> None:
        """Send the client the server's own event `kind`, if it speaks CloudEvents. Doesn't block."""
        self.answer(self.format.say(kind, data, None))

    def refilter(self, predicate: Wanted) -> str:
        """Replace the client's filter from its present position on; return the cursor there."""
        broadcast = self.hub.broadcast
        return broadcast.cursor(broadcast.refilter(self.position, predicate))

    def welcome(self, offset: int, recovered: bool | None) -> str | None:
        """Return the first message to a client whose stream starts behind `offset`."""
        log, client = self.hub.log, self.client
        data: dict[str, object] = {"epoch": log.epoch, "head": log.head}
        data |= {"id": client.id, "role": client.role}
        if client.expires_at is not None:
            # As the remaining seconds, because the client's clock may be wrong.
            data["expires_in"] = max(0, int(client.expires_at - time.time()))
        if recovered is not None:
            data["recovered"] = recovered
        return self.format.say("welcome", data, self.hub.broadcast.cursor(offset))

    def announce_end(self, clients: int) -> None:
        """Tell one of `clients` clients that the server goes down, and when to reconnect."""
        least, most = _SPREAD
        retry_after = _SOONEST + secrets.randbelow(min(max(clients, least), most))
        self.answer(self.format.say("drain", {"retry_after_ms": retry_after}, self.here()))

    def tell_gap(self, after: int, upto: int) -> bool:
        """Tell the client that it won't get the entries in (`after`, `upto`].

        Returns False if its format can't express that.
        """
        broadcast = self.hub.broadcast
        end = broadcast.cursor(upto)
        gap = self.format.say("gap", {"from": broadcast.cursor(after), "to": end}, end)
        if gap is None:
            return False
        self.answer(gap)
        return True

    def fail(self, error: Exception) -> None:
        """Close the connection, because the client's own predicate raised `error`."""
        log_failing(self.client, error, "predicate_failed", "a predicate of client %.64r failed")
        self.close(CloseCode.INTERNAL_ERROR, "a predicate of this client failed")
