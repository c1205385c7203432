"""A connection that isn't open yet: its request is read, judged, and answered.

The opening handshake is trio-websocket's, through its public API. It runs on a small stream that gives
it the request, which was checked already, and collects what it answers. Then it is told that the stream
is at its end, and lets go. The frames are the Wire's, for the reasons in docs/how-it-works.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import trio
import trio_websocket

from trionotify.errors import Refused, StoreError
from trionotify.http import Request, check_upgrade, problem, read_head, request_of
from trionotify.transport import Transport, linger

if TYPE_CHECKING:
    from trionotify.clients import Client
    from trionotify.hub import Hub
    from trionotify.query import Query

__all__ = ["open_connection"]

logger = logging.getLogger("trionotify")

Entered = TypeVar("Entered")


async def open_connection(
    hub: Hub,
    transport: Transport,
    remote: str,
    enter: Callable[[Client, Query, bytes, bytes], Entered],
) -> Entered | None:
    """Read the request, shake hands and enter; None when it was refused, and answered, or dropped.

    `enter` gets the client, its query, what it sent behind its request, and the 101 that it is to write;
    it doesn't wait, and may raise `Refused`.
    """
    method = "GET"
    try:
        with trio.move_on_after(hub.settings.head_timeout) as scope, hub.entrance.half_opened(scope):
            head, early = await read_head(transport, hub.settings.max_head_bytes)
            method = head.method.decode()
            request = request_of(head, remote, hub.filter_limits)
            check_upgrade(request)
            hub.entrance.check_room()
            client, query = await _admit(hub, request)
            response = await _shake_hands(request)
            # From here on nothing waits: what is promised in the head holds when the client joins.
            hub.entrance.check_room()
            return enter(client, query, early, response)
        if trio.current_time() < scope.deadline:
            return None  # it had to make room for newer ones, or the server stops
        hub.entrance.check_open()
        answer = Refused(408, f"no whole request came in {hub.settings.head_timeout:g} seconds")
    except Refused as refused:
        answer = refused
    # What stands behind the first colon may have been in the query.
    logger.info("%s refused: %d %.80r", remote, answer.status, answer.detail.partition(":")[0])
    with trio.move_on_after(hub.settings.close_timeout) as scope, hub.entrance.half_opened(scope):
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
    except StoreError as error:
        logger.error("%s: the request failed: %s", request.remote, error)
        raise Refused(503, "the log can't be read at the moment; try again later") from None
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
        # No checkpoint but where there is something to wait for: it would be half of what this costs.
        if self._request:
            request, self._request = self._request, b""
            return request
        await self._over.wait()
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.answer += data

    async def wait_send_all_might_not_block(self) -> None:
        """It never blocks."""

    async def aclose(self) -> None:
        self.finish()


async def _shake_hands(request: Request) -> bytes:
    """Let trio-websocket answer the handshake; return its 101."""
    # Only what it has to know: the rest of the head was judged before, and can't confuse it.
    subprotocol = request.subprotocol
    script = _Script(
        b"GET / HTTP/1.1\r\nHost: trionotify\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        + (f"Sec-WebSocket-Protocol: {subprotocol}\r\n".encode() if subprotocol else b"")
        + b"Sec-WebSocket-Key: "
        + (request.header("sec-websocket-key") or "").encode()
        + b"\r\n\r\n"
    )
    async with trio.open_nursery() as nursery:
        proposal = await trio_websocket.wrap_server_stream(nursery, script)
        await proposal.accept(subprotocol=subprotocol)
        script.finish()
    return script.answer
