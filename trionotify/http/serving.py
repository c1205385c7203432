"""A connection, from its first byte to its last: the work of one task.

    requests are answered, until one makes a client    `requests`
    the client's session                               here
    the goodbye, shielded, under a deadline            here

What goes wrong in a connection ends that connection alone. An `except Exception` stands at each border
where the application's own code comes in: `authenticate`, the session, a predicate.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trionotify.connection.connection import blame
from trionotify.connection.transport import StreamTransport, Transport
from trionotify.errors import CloseCode
from trionotify.http.requests import Conversation
from trionotify.http.routes import ALL, Routes
from trionotify.model.addresses import name_of, site_of

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
    """Serve one connection and close it. Raises nothing but what isn't an Exception: `Cancelled`.

    One that is `local` was let in because it came from this machine, and for no other reason. The
    `listener` is who has let it in.
    While it is open, it is in `opened`, and the hub may cancel `scope`, which is around the call.
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
            await _run_session(hub, connection)
    except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
        logger.debug("%s left before it was connected", remote)
    except Exception:
        # The last resort: whatever is wrong with one connection, the others go on.
        logger.exception(
            "the connection of %s failed",
            remote,
            extra={"event": "connection_failed", "remote": remote},
        )
    finally:
        if connection is not None:
            opened.discard(connection)
        transport.reset()  # does nothing to one that was closed in good order
        with trio.move_on_after(0, shield=True):  # at once, whoever waits for what
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


async def _run_session(hub: WebHub, connection: ClientConnection) -> None:
    """Run the session on an open connection, and close it in good order."""
    client, wire = connection.client, connection.wire
    code = CloseCode.NORMAL
    try:
        code = await _outcome(hub, connection)
        wire.end(code)
        await hub.door.turn(site_of(client.remote))
        await wire.flush(hub.settings.close_timeout)
    except BaseExceptionGroup as group:
        # A nursery of the session's that was cancelled may have collected errors on its way.
        errors, rest = group.split(Exception)
        code = blame(client, errors) if errors else CloseCode.GOING_AWAY
        if rest:
            raise rest from None
    except BaseException:
        code = CloseCode.GOING_AWAY
        raise
    finally:
        # The goodbye, one of the places for a shield: it has a deadline.
        with trio.move_on_after(hub.settings.close_timeout, shield=True):
            if code == CloseCode.GOING_AWAY:
                connection.go_away(code, len(hub.connections))
            wire.end(code)
            await wire.aclose()
        connection.leave()


async def _outcome(hub: WebHub, connection: ClientConnection) -> CloseCode:
    """Run the session; return what to close with."""
    try:
        await hub.session(connection.client)
        connection.client.accept()
    except Exception as error:
        # The boundary: what a session raises ends its connection alone.
        return blame(connection.client, error)
    return CloseCode.NORMAL
