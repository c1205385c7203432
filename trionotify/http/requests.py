"""A conversation in HTTP: a connection's requests, one after another, until one becomes a client.

    read a request  ──▶  is it a WebSocket handshake, or does it want a stream?  ──▶  a client enters
          ▲                          │ no
          └──── next one ◀── answer ─┘        or the end

While it lasts the connection is *half-open*: bounded in number, in time, and the first to go when the
server stops. What goes wrong with a request ends the conversation at most, and nobody else's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import attrs
import trio

from trionotify.connection.failures import log_refusal
from trionotify.connection.stream import STREAMS, StreamConnection
from trionotify.connection.transport import Transport, linger
from trionotify.connection.websocket import WebSocketConnection
from trionotify.delivery.admission import RETRY_AFTER, Place, Stage
from trionotify.errors import Refused
from trionotify.http.access import admit
from trionotify.http.connection import HttpConnection
from trionotify.http.handshake import check_upgrade, switching_protocols, wants_upgrade
from trionotify.http.messages import Answer, Request, preferred, problem, request_of
from trionotify.http.routes import ADMIN, Routes, respond
from trionotify.http.stream_requests import stream_head, stream_request
from trionotify.model.addresses import neighbourhood, site_of
from trionotify.model.text import decoded_memory

if TYPE_CHECKING:
    from trionotify.connection.connection import ClientConnection
    from trionotify.delivery.admission import Listener
    from trionotify.http.web_hub import WebHub

__all__ = ["Conversation"]

logger: logging.Logger = logging.getLogger("trionotify")

#: Of HTTP.
_VERSIONS: Final = ("1.0", "1.1")
_READS: Final = ("GET", "HEAD")
#: Characters of a reason, in the log.
_REASON: Final = 80

_TOO_MUCH: Final = Refused(
    503, "too much is arriving at once; send it again, with the same id", headers=RETRY_AFTER
)


class Conversation:
    """Made by the connection's task, which alone uses it."""

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
        #: Who reaches the server may use it, for that is this machine alone.
        self._local = local and not hub.proxies.trusts(remote)
        #: By which half-open connections are counted: a proxy's, because the client's isn't known yet.
        self._address = neighbourhood(remote)
        self._http = HttpConnection(
            transport,
            hub.settings.max_head_bytes,
            hub.settings.stall_timeout,
            partial(hub.crowd.turn, self._address or remote),
        )
        #: Bytes of the last request's body that are kept.
        self._held = 0
        #: Around the request that is being served, its place, and whether it had to give up its body.
        self._scope = trio.CancelScope()
        self._place: Place
        self._given_up = False
        #: What the answer to the last request has to say besides.
        self._fields: tuple[tuple[str, str], ...] = ()
        #: The last request's query, of which nothing may come into the log.
        self._params: Mapping[str, str] = {}

    async def client(self) -> ClientConnection | None:
        """Answer requests until one makes a client, which has entered then; None when none did.

        Raises EOFError, `trio.BrokenResourceError` and `trio.ClosedResourceError` when the peer leaves.
        """
        while True:
            found = await self._next()
            if not isinstance(found, Answer):
                return found
            if not await self._send(found):
                break
            if not await self._wait():
                with trio.move_on_after(self._hub.settings.close_timeout):
                    await self._transport.aclose()
                return None
        with trio.CancelScope() as scope, self._half_opened(scope, Stage.CLOSING):
            await linger(self._transport, self._hub.settings.close_timeout)
            await self._transport.aclose()
        return None

    def _half_opened(self, scope: trio.CancelScope, stage: Stage) -> AbstractContextManager[Place]:
        return self._hub.entrance.half_opened(scope, self._address, stage, self._listener)

    async def _next(self) -> Answer | ClientConnection | None:
        """What the next request leads to; None when there is to be no answer."""
        settings, entrance = self._hub.settings, self._hub.entrance
        self._fields, self._params, self._given_up = (), {}, False
        # A refusal is the last answer, unless a request was understood and read to its end.
        close = True
        self._http.expect(settings.head_timeout)
        try:
            with (
                trio.CancelScope() as self._scope,
                self._half_opened(self._scope, Stage.HEAD) as self._place,
            ):
                request = await self._read()
                upgrade = wants_upgrade(request)
                # (A browser's WebSocket has an Origin: without one it is nobody's page.)
                if self._local and not (upgrade and request.header("origin") is None):
                    self._hub.origins.check_host(request)
                self._hub.origins.check(request)
                entrance.serve(self._place, settings.request_timeout)
                if request.path not in ADMIN:
                    await self._hub.door.turn(self.site)
                kind = None if upgrade else self._wants_stream(request)
                close = bool(upgrade or kind)
                if upgrade:
                    return await self._open_websocket(request)
                return await (self._open_stream(request, kind) if kind else self._respond(request))
            if trio.current_time() < self._scope.deadline and not self._given_up:
                return None  # it had to make room for newer ones, or the server stops
            entrance.check_open()
            return self._refusal(_TOO_MUCH if self._given_up else self._overdue(), close=True)
        except trio.TooSlowError:
            return self._refusal(self._late(), close=True)
        except Refused as error:
            return self._refusal(error, close)
        finally:
            self._hold(-self._held)

    def _hold(self, change: int) -> None:
        if change:
            self._held += change
            self._hub.arriving.hold(self, change)

    async def _read_body(self, max_bytes: int) -> bytes:
        """See `HttpConnection.read_body`. The request has as long again once that is done."""
        entrance, seconds = self._hub.entrance, self._hub.settings.request_timeout
        await self._http.invite_body(max_bytes)
        entrance.serve(self._place, math.inf)  # a body that is here must not be late because we are
        self._http.expect(seconds)
        body = await self._http.read_body(max_bytes, self._hold)
        self._hold(decoded_memory(body))  # while it is understood, it is there twice
        entrance.serve(self._place, seconds)
        return body

    # As one on which something is arriving.

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
            # The machine is out of descriptors or memory.
            logger.warning(
                "%s: a request failed: %s",
                self._remote,
                error,
                extra={"event": "request_failed", "remote": self._remote, "reason": str(error)},
            )
            raise Refused(
                503, "the server is out of resources; try again later", headers=RETRY_AFTER
            ) from None

    def _refusal(self, refused: Refused, close: bool) -> Answer:
        """The answer. It doesn't keep the exception, whose frames hold the request's body."""
        log_refusal(self._remote, refused, self._params)
        return problem(refused, close=close or refused.status == HTTPStatus.UPGRADE_REQUIRED)

    def _late(self) -> Refused:
        """The peer has not sent all in time."""
        settings = self._hub.settings
        if self._place.stage is Stage.SERVED:
            return Refused(408, f"the body didn't come in {settings.request_timeout:g} seconds")
        return Refused(408, f"no whole request came in {settings.head_timeout:g} seconds")

    def _overdue(self) -> Refused:
        """It was not done in time."""
        if self._http.body_to_come:
            return self._late()
        seconds = f"{self._hub.settings.request_timeout:g} seconds"
        return Refused(503, f"it could not be done in {seconds}; try again", headers=RETRY_AFTER)

    async def _read(self) -> Request:
        try:
            head = await self._http.read_head()
            hub = self._hub
            request = request_of(
                head, self._remote, hub.filter_limits, hub.subprotocols, hub.allow_params
            )
        except Refused:
            # A page can read the reason only with CORS fields, and for these the head need not be whole.
            origin, host = self._http.raw_field(b"origin"), self._http.raw_field(b"host")
            self._fields = self._hub.origins.fields_for(origin, host or "")
            raise
        self._params, self._fields = request.params, self._hub.origins.fields(request)
        if request.http_version not in _VERSIONS:
            raise Refused(505, f"HTTP/{request.http_version} isn't spoken here: 1.1 and 1.0 are")
        self._remote = self._hub.proxies.client(self._peer, request.header("x-forwarded-for"))
        if self._remote != self._peer:
            request = attrs.evolve(request, remote=self._remote)
        return request

    def _wants_stream(self, request: Request) -> str | None:
        if request.path != "/events" or request.method not in _READS or self._routes is ADMIN:
            return None
        return preferred(request.header("accept"), STREAMS)

    async def _open_websocket(self, request: Request) -> ClientConnection:
        if self._routes is ADMIN:
            raise Refused(404, "clients connect at the server's other port")
        check_upgrade(request)
        self._hub.entrance.check_room()
        client, query = await admit(self._hub, request)
        # From here on nothing waits: what is promised in the head holds when the client joins.
        self._hub.entrance.check_room()
        head, early = switching_protocols(request), self._http.early
        return WebSocketConnection.enter(
            self._hub,
            self._hub.formats[query.format],
            self._transport,
            client,
            query,
            early,
            head,
            max_message_bytes=self._hub.longest_message(client),
        )

    async def _open_stream(self, request: Request, kind: str) -> Answer | ClientConnection:
        self._hub.entrance.check_room()
        client, query = await admit(self._hub, stream_request(request, kind))
        self._hub.entrance.check_room()
        chunked = request.http_version == "1.1"
        if request.method == "HEAD":
            return stream_head(self._hub, query, kind, chunked=chunked)
        formats = self._hub.stream_formats(chunked=chunked)
        return StreamConnection.enter(
            self._hub, formats, self._transport, client, query, kind, self._fields, chunked=chunked
        )

    async def _send(self, answer: Answer) -> bool:
        """Whether another request can follow."""
        self._hub.broadcast.counts.answered[answer.status] += 1
        answer = attrs.evolve(answer, headers=(*answer.headers, *self._fields))
        with trio.CancelScope() as scope, self._half_opened(scope, Stage.SERVED):
            return await self._http.answer(answer)
        self._transport.reset()  # it had to make room
        raise EOFError

    async def _wait(self) -> bool:
        """Wait for another request; False when there is none, or not in time.

        A peer that says no more may still be reading its answers: so that is no error.
        """
        self._http.expect(self._hub.settings.keep_alive_timeout)
        with (
            suppress(EOFError, trio.TooSlowError),
            trio.CancelScope() as scope,
            self._half_opened(scope, Stage.IDLE),
        ):
            await self._http.wait()
            return True
        return False
