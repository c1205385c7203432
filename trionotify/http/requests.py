"""The HTTP requests of a connection, one after another, until one of them makes a client.

    read a request  ──▶  is it a WebSocket handshake, or does it want a stream?  ──▶  a client enters
          ▲                          │ no
          └─── the next ◀── answer ──┘        or the end

All of it runs in the connection's task. Until a client enters, the connection is *half-open*: limited
in number and time, and dropped first when the server stops. A request that fails ends at most this
connection.
"""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import attrs
import trio

from trionotify.connection.deflate import negotiate
from trionotify.connection.failures import log_refusal
from trionotify.connection.stream import STREAMS, StreamConnection
from trionotify.connection.transport import Transport, linger
from trionotify.connection.websocket import WebSocketConnection
from trionotify.delivery.admission import Place, Stage, unavailable
from trionotify.errors import Refused
from trionotify.http.access import admit, check_rate
from trionotify.http.connection import HttpConnection
from trionotify.http.handshake import check_upgrade, switching_protocols, wants_upgrade
from trionotify.http.messages import Answer, Request, problem, request_of
from trionotify.http.negotiation import preferred
from trionotify.http.routes import ADMIN, Routes, respond
from trionotify.http.stream_requests import stream_head, stream_request, takes_zipped_stream
from trionotify.model.addresses import neighbourhood, site_of
from trionotify.model.text import decoded_memory

if TYPE_CHECKING:
    from trionotify.connection.connection import ClientConnection
    from trionotify.delivery.admission import Listener
    from trionotify.http.web_hub import WebHub

__all__ = ["Conversation"]

logger: logging.Logger = logging.getLogger("trionotify")

#: The versions of HTTP that are served.
_VERSIONS: Final = ("1.0", "1.1")
_READS: Final = ("GET", "HEAD")

_TOO_MUCH: Final = unavailable(
    "too many bodies and messages are arriving at once; send it again, with the same id",
    logged="too much is arriving",
)


class Conversation:
    """Created by the connection's task, which alone uses it; ends when that task has a client."""

    def __init__(
        self,
        hub: WebHub,
        transport: Transport,
        remote: str,
        routes: Routes,
        local: bool = False,
        *,
        listener: Listener | None = None,
    ) -> None:
        self._hub = hub
        self._transport = transport
        self._listener = listener
        self._peer = self._remote = remote
        self._routes = routes
        #: Whether to serve clients without authentication, because only this machine can connect.
        self._local = local and not hub.proxies.trusts(remote)
        #: The address under which the half-open connection counts. A client behind a proxy counts under
        #: the proxy's, because its own isn't known yet.
        self._address = neighbourhood(remote)
        self._http = HttpConnection(
            transport,
            hub.settings.max_head_bytes,
            hub.settings.stall_timeout,
            partial(hub.crowd.turn, self._address or remote),
        )
        #: The number of bytes kept of the last request's body.
        self._held = 0
        #: The scope of the request being served, its place, and whether it had to give up its body.
        self._scope: trio.CancelScope
        self._place: Place
        self._given_up = False
        #: Additional headers for the answer to the last request.
        self._fields: tuple[tuple[str, str], ...] = ()

    async def client(self) -> ClientConnection | None:
        """Answer requests until one makes a client, and return it; None if none did.

        The client has entered the hub by then. Raises EOFError, `trio.BrokenResourceError` or
        `trio.ClosedResourceError` if the peer leaves.
        """
        again = True
        while again:
            # One scope for all requests, because a scope costs as much as reading a request. The next
            # request needs another one only if it came at the moment when this one was cancelled.
            with (
                trio.CancelScope() as self._scope,
                self._half_opened(self._scope, Stage.HEAD) as self._place,
            ):
                while again and not self._scope.cancel_called:
                    again, found = False, None
                    found = await self._next()
                    if not isinstance(found, Answer):
                        return found
                    again = await self._send(found) and await self._wait()
        if self._place.stage is Stage.IDLE:
            with trio.move_on_after(self._hub.settings.close_timeout):
                await self._transport.aclose()
            return None
        last = None
        # Behind an answer that was cut off, another one would be taken for that to the next request.
        if self._scope.cancelled_caught and (found or (last := self._cut_off()) is None):
            return None
        with trio.CancelScope() as scope, self._half_opened(scope, Stage.CLOSING):
            if last is not None:
                await self._send(last)
            await self._http.drain()
            await linger(self._transport, self._hub.settings.close_timeout)
            await self._transport.aclose()
        return None

    def _half_opened(self, scope: trio.CancelScope, stage: Stage) -> AbstractContextManager[Place]:
        return self._hub.entrance.half_opened(scope, self._address, stage, self._listener)

    async def _next(self) -> Answer | ClientConnection:
        """The answer to the next request, or its client."""
        settings, entrance = self._hub.settings, self._hub.entrance
        self._fields, self._given_up = (), False
        # A refusal is the last answer unless a request was understood and read to its end.
        close = True
        self._http.expect(settings.head_timeout)
        try:
            request = await self._read()
            upgrade = wants_upgrade(request)
            # A browser's WebSocket always has an Origin, so without one this isn't a web page.
            if self._local and not (upgrade and request.header("origin") is None):
                self._hub.origins.check_host(request)
            self._hub.origins.check(request)
            entrance.move(self._place, Stage.SERVED, settings.request_timeout)
            # What came along with its connection had its turn when that was accepted.
            if self._http.waited and request.path not in ADMIN:
                await self._hub.door.turn(self.site)
            kind = None if upgrade else self._wants_stream(request)
            close = bool(upgrade or kind)
            if upgrade:
                return await self._open_websocket(request)
            return await (self._open_stream(request, kind) if kind else self._respond(request))
        except trio.TooSlowError:
            return self._refusal(self._late(), close=True)
        except Refused as error:
            return self._refusal(error, close)
        finally:
            self._hold(-self._held)

    def _cut_off(self) -> Answer | None:
        """The answer to a request that was cancelled; None if there is to be none."""
        if trio.current_time() < self._scope.deadline and not self._given_up:
            return None  # it had to make room for newer ones, or the server stops
        try:
            self._hub.entrance.check_open()
        except Refused as error:
            return self._refusal(error, close=True)
        return self._refusal(_TOO_MUCH if self._given_up else self._overdue(), close=True)

    def _hold(self, change: int) -> None:
        if change:
            self._held += change
            self._hub.arriving.hold(self, change)

    async def _read_body(self, max_bytes: int) -> bytes:
        """See `HttpConnection.read_body`. Afterwards the request has `request_timeout` seconds again."""
        entrance, seconds = self._hub.entrance, self._hub.settings.request_timeout
        await self._http.invite_body(max_bytes)
        waits = not self._http.body_is_here
        if waits:
            # A body that has arrived must not expire while we work.
            entrance.move(self._place, Stage.SERVED, math.inf)
            self._http.expect(seconds)
        body = await self._http.read_body(max_bytes, self._hold)
        self._hold(decoded_memory(body))  # while it is parsed, the body exists twice
        if waits:
            entrance.move(self._place, Stage.SERVED, seconds)
        return body

    # --- as a `Holder` of the budget ---

    @property
    def site(self) -> str:
        return site_of(self._remote)

    def give_up_arriving(self) -> None:
        self._given_up = True
        self._scope.cancel()

    async def _respond(self, request: Request) -> Answer:
        try:
            return await respond(self._hub, self._routes, request, self._read_body)
        except OSError as error:
            # The machine has no descriptors or memory left.
            logger.warning(
                "%s: the request failed: %s",
                self._remote,
                error,
                extra={"event": "request_failed", "remote": self._remote, "reason": str(error)},
            )
            raise unavailable(
                "the server is out of resources; try again later", logged="out of resources"
            ) from None

    def _refusal(self, refused: Refused, close: bool) -> Answer:
        """The answer. It doesn't keep the exception, whose frames hold the request's body."""
        log_refusal(self._remote, refused)
        self._hub.broadcast.counts.refuse(refused)
        return problem(refused, close=close or refused.status == HTTPStatus.UPGRADE_REQUIRED)

    def _late(self) -> Refused:
        """The refusal of a request that didn't arrive in time."""
        settings = self._hub.settings
        if self._place.stage is Stage.SERVED:
            return Refused(
                408, f"the request's body did not arrive within {settings.request_timeout:g} seconds"
            )
        return Refused(408, f"the request did not arrive within {settings.head_timeout:g} seconds")

    def _overdue(self) -> Refused:
        """The refusal of a request that wasn't served in time."""
        if self._http.body_to_come:
            return self._late()
        seconds = f"{self._hub.settings.request_timeout:g} seconds"
        return unavailable(
            f"the request was not processed within {seconds}; try again", logged="not processed in time"
        )

    async def _read(self) -> Request:
        # A proxy sends the requests of several clients on one connection.
        self._remote = self._peer
        try:
            head = await self._http.read_head()
            hub = self._hub
            request = request_of(
                head,
                self._remote,
                hub.filter_limits,
                hub.subprotocols,
                hub.allow_params,
                secure=self._transport.encrypted,
            )
        except Refused:
            # A page can read the reason only with CORS headers, which don't need a complete head.
            origin, host = self._http.raw_field(b"origin"), self._http.raw_field(b"host")
            secure = self._transport.encrypted
            self._fields = self._hub.origins.fields_for(origin, host or "", secure)
            raise
        proxies = self._hub.proxies
        self._remote = proxies.client(self._peer, request.header("x-forwarded-for"))
        proto = request.header("x-forwarded-proto")
        secure = proxies.has_tls(self._peer, proto, request.secure)
        if (self._remote, secure) != (self._peer, request.secure):
            request = attrs.evolve(request, remote=self._remote, secure=secure)
        self._fields = self._hub.origins.fields(request)
        if request.http_version not in _VERSIONS:
            raise Refused(505, f"HTTP/{request.http_version} is not supported; use 1.1 or 1.0")
        return request

    def _wants_stream(self, request: Request) -> str | None:
        if request.path != "/events" or request.method not in _READS or self._routes is ADMIN:
            return None
        return preferred(request.header("accept"), STREAMS)

    async def _open_websocket(self, request: Request) -> ClientConnection:
        if self._routes is ADMIN:
            raise Refused(404, "clients connect at the server's other port", logged="the wrong port")
        check_upgrade(request)
        self._hub.entrance.check_room()
        check_rate(self._hub, request)
        client, query = await admit(self._hub, request)
        # No checkpoint from here, so that what the head promises still holds when the client joins.
        self._hub.entrance.check_room()
        offers = request.header("sec-websocket-extensions")
        deflate = negotiate(offers) if self._hub.settings.compression else None
        head, early = switching_protocols(request, deflate), self._http.early
        return WebSocketConnection.enter(
            self._hub,
            self._hub.format(query.format, deflate),
            self._transport,
            client,
            query,
            early,
            head,
            deflate=deflate,
            max_message_bytes=self._hub.longest_message(client),
        )

    async def _open_stream(self, request: Request, kind: str) -> Answer | ClientConnection:
        self._hub.entrance.check_room()
        check_rate(self._hub, request)
        client, query = await admit(self._hub, stream_request(request, kind))
        self._hub.entrance.check_room()
        chunked = request.http_version == "1.1"
        zipped = chunked and self._hub.settings.compression and takes_zipped_stream(request)
        if request.method == "HEAD":
            return stream_head(self._hub, query, kind, chunked=chunked, zipped=zipped)
        formats = self._hub.stream_formats(chunked=chunked, zipped=zipped)
        return StreamConnection.enter(
            self._hub,
            formats,
            self._transport,
            client,
            query,
            kind,
            self._fields,
            chunked=chunked,
            zipped=zipped,
        )

    async def _send(self, answer: Answer) -> bool:
        """Send an answer; return whether another request can follow.

        If the scope is spent, the rest that the kernel doesn't take at once must be drained in another.
        """
        self._hub.broadcast.counts.answered[answer.status] += 1
        # If it was cancelled after its answer was found, no other request can be read.
        if (cancelled := self._scope.cancel_called) or self._fields:
            headers = (*answer.headers, *self._fields)
            answer = attrs.evolve(answer, headers=headers, close=answer.close or cancelled)
        again = self._http.answer(answer)
        if self._http.unsent and not cancelled:
            self._hub.entrance.move(self._place, Stage.SERVED, math.inf)
            await self._http.drain()
        return again

    async def _wait(self) -> bool:
        """Wait for another request; return False if none comes in time.

        A peer that has closed its side may still read its answers, so this is no error.
        """
        entrance, place = self._hub.entrance, self._place
        # If nothing has arrived yet, the scope's deadline suffices, and a read needs none of its own.
        seconds, longest = self._hub.settings.keep_alive_timeout, math.inf
        if not self._http.early:
            seconds, longest = math.inf, seconds
        self._http.expect(seconds)
        entrance.move(place, Stage.IDLE, longest)
        with suppress(EOFError, trio.TooSlowError):
            await self._http.wait()
            entrance.move(place, Stage.HEAD, math.inf)
            return True
        return False
