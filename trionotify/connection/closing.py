"""Closing in good order: send a Close frame, half-close, read the peer's Close frame, close.

The server closes first (RFC 6455, section 7.1.1), but only after the peer has sent all. If the server
closed with bytes unread, the kernel would reset the connection, and our Close frame would be lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from trionotify.connection.frames import Close, Fault
from trionotify.connection.incoming import Incoming
from trionotify.connection.transport import Transport, Woken
from trionotify.connection.wire import State, Wire
from trionotify.errors import Disconnected

__all__ = ["close_in_order"]


async def close_in_order(wire: Wire, incoming: Incoming, pass_on: Callable[[], Awaitable[None]]) -> None:
    """Send the Close frame that `wire.close` queued, and wait until the peer closes, too.

    The connection's task calls it once, inside a shield with a deadline. `pass_on` lets other tasks run
    while a peer sends much at its end. Always a checkpoint. Cancelled, it resets the connection.
    """
    try:
        if wire.owed:
            await wire.drained()
        await wire.transport.send_eof()
        await _hear_out(wire, incoming, pass_on)
        await wire.transport.aclose()
        wire.finish()
    except (Disconnected, trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        if wire.state is State.CLOSING:
            wire.abort()


async def _hear_out(wire: Wire, incoming: Incoming, pass_on: Callable[[], Awaitable[None]]) -> None:
    """Read and discard until the peer's Close frame or its end of file."""
    transport = wire.transport
    if isinstance(fault := incoming.last_event, Fault):
        # Behind a fault nothing can be understood, so only the peer's end of file can be awaited. A
        # peer that can't see our end of file waits for us. Then whatever it sends next is its answer.
        if fault.in_close:
            return
        if not transport.half_closes:
            await _read(transport)
            return
    if not (transport.half_closes or wire.framing.close(None, "")):
        return  # the peer sees neither a Close frame nor an end of file before we close
    while not isinstance(incoming.last_event, Close):
        data = incoming.take_early()  # a session may end before it has read anything
        if incoming.behind:
            await pass_on()
        elif not (data or (data := await _read(transport))):
            return
        incoming.feed(data)


async def _read(transport: Transport) -> bytes:
    while True:
        with suppress(Woken):  # meant for a reader that was cancelled before it could see it
            return await transport.receive_some()
