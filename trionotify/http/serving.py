"""A connection, from its first byte to its last: the work of one task.

    requests are answered, until one makes a client    `requests`
    the client's session                               here
    the goodbye, shielded, under a deadline            here

An error in a connection ends only that connection. An `except Exception` stands at each border
where the application's own code comes in: `authenticate`, the session, a predicate.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trionotify.connection.base import blame
from trionotify.connection.failures import log_failed
from trionotify.connection.transport import StreamTransport, Transport
from trionotify.errors import CloseCode
from trionotify.http.requests import Conversation
from trionotify.http.routes import ALL, Routes
from trionotify.model.addresses import name_of

if TYPE_CHECKING:
    from trionotify.connection.connection import ClientConnection
    from trionotify.delivery.admission import Listener
    from trionotify.http.web_hub import WebHub

__all__ = ["handle_stream", "serve_transport"]

logger: logging.Logger = logging.getLogger("trionotify")


async def serve_transport(
    hub: WebHub,
    transport: Transport,
    remote: str,
    opened: set[ClientConnection] | None = None,
    scope: trio.CancelScope | None = None,
    *,
    routes: Routes = ALL,
    local: bool = False,
    listener: Listener | None = None,
) -> None:
    """Serve one connection and close it. Raises no `Exception`, only `Cancelled`.

    A `local` connection was accepted only because it came from this machine. The `listener` has accepted
    it. While it is open, it is in `opened`, and the hub may cancel `scope`, which is around the call.
    Cancelled while the request is read, it just closes; later it says goodbye first.
    """
    opened = set() if opened is None else opened
    connection: ClientConnection | None = None
    try:
        connection = await Conversation(
            hub, transport, remote, routes, local, listener=listener
        ).client()
        if connection is not None:
            connection.scope = scope
            opened.add(connection)
            async with _Goodbye(hub, connection):
                try:
                    await hub.session(connection.client)
                    connection.client.accept()
                    code = CloseCode.NORMAL
                except Exception as error:
                    # The boundary: an exception of a session ends only its connection.
                    code = blame(connection.client, error)
                connection.close(code)
                await hub.door.turn(connection.site)
                await connection.wire.flush(hub.settings.close_timeout)
    except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
        logger.debug("%s left before it was connected", remote)
    except Exception:
        # The last resort: whatever is wrong with one connection, the others go on.
        log_failed(remote)
    finally:
        if connection is not None:
            opened.discard(connection)
        transport.reset()  # does nothing to one that was closed in good order
        if not transport.synchronous:  # the stream is still open
            # At once, even if a task waits for it, and whatever an application's own stream raises.
            with trio.move_on_after(0, shield=True), suppress(Exception):
                await transport.aclose()


async def handle_stream(hub: WebHub, stream: trio.abc.Stream) -> None:
    """Serve one connection on any stream: see `Hub.handle`."""
    with trio.CancelScope() as scope:
        await serve_transport(hub, StreamTransport(stream), _remote_of(stream), scope=scope)


def _remote_of(stream: trio.abc.Stream) -> str:
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if not isinstance(stream, trio.SocketStream):
        return ""
    with suppress(OSError):
        return name_of(stream.socket.getpeername())
    return ""


class _Goodbye:
    """Around a session: whether or not it is cancelled, its client is said goodbye to.

    This is a class, and the session runs in `serve_transport` itself, because almost all connections
    wait in it almost all the time. An async function in between adds a quarter of a KiB to each of them.
    """

    __slots__ = ("_connection", "_hub")

    def __init__(self, hub: WebHub, connection: ClientConnection) -> None:
        self._hub = hub
        self._connection = connection

    async def __aenter__(self) -> None:
        """Do nothing."""

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        connection, rest = self._connection, error
        code = CloseCode.NORMAL if error is None else CloseCode.GOING_AWAY
        if isinstance(error, BaseExceptionGroup):
            # A nursery of the session's that was cancelled may have collected errors on its way.
            errors, rest = error.split(Exception)
            if errors is not None:
                code = blame(connection.client, errors)
        if code == CloseCode.GOING_AWAY:
            connection.announce_end(len(self._hub.connections))
        connection.close(code)
        try:
            if not connection.wire.over:
                # One of the places for a shield, which has a deadline.
                with trio.move_on_after(self._hub.settings.close_timeout, shield=True):
                    await connection.aclose()
        finally:  # an application's own stream may raise anything
            connection.leave()
        if rest is not error and rest is not None:
            raise rest from None
        return rest is None
