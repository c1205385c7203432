"""A client's connection to a server, from the first byte to the goodbye, on trio-websocket.

    open_link                a nursery
    ├── _Host.run            shielded, with a nursery for trio-websocket's reader
    └── the block

trio-websocket's reader is shielded because it alone can see the answer to our Close frame: cancelled
along with the rest, it would leave the goodbye waiting for its deadline. The end of the block cancels
it.

Three things trio-websocket leaves to its users. It waits for ever when the stream ends before the
handshake has (`_Watched`). It raises what its parser does when the peer speaks no HTTP, or pings while
we say goodbye (`_Host`). A send that is cancelled may leave half a frame, and then there is no goodbye
(`_unfit`).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio
import trio_websocket

from trionotify.errors import CloseCode, Closed
from trionotify.model.cloudevents import SUBPROTOCOL, NotAnEvent, decode_sent
from trionotify.model.jsontext import read_json
from trionotify.model.notification import RESERVED_TYPE, Notification

if TYPE_CHECKING:
    from trionotify.client.target import Target

__all__ = ["Event", "Link", "Unread", "open_link"]

#: The server decides what is too large. If this side did, it would receive the same message for ever.
_ANY_SIZE: Final = 1 << 62
_RECEIVE_BYTES: Final = 1 << 16
#: Seconds to read what has arrived already, before a silent server is taken for dead.
_GRACE: Final = 0.25
#: The cursor in an event that can't be read: servers have it in front of the data. (In a string the
#: quotation marks would be escaped.)
_CURSOR: Final = re.compile(r'(?<!\\)"cursor"\s*:\s*"([^"\\]{1,100})"')


@attrs.frozen
class Event:
    """An event from the server, which is a notification or one of the server's own, with its cursor."""

    notification: Notification
    cursor: str | None

    @property
    def kind(self) -> str | None:
        """The type of a server event without its prefix `trionotify.`; None for a notification."""
        type = self.notification.type
        return type.removeprefix(RESERVED_TYPE) if type.startswith(RESERVED_TYPE) else None

    @property
    def data(self) -> dict[str, Any]:
        """The data of a server event. A member may be missing, or have any type."""
        text = self.notification.data
        try:
            found = read_json(text) if isinstance(text, str) else None
        except ValueError:  # an application's session may say what it likes
            found = None
        return found if isinstance(found, dict) else {}


@attrs.frozen
class Unread:
    """An unreadable message: the reason, and the cursor in it, if a part of it looks like one."""

    why: str
    cursor: str | None


class Link:
    """An open connection, made by `open_link`. Each method may be called by one task at a time."""

    def __init__(self, websocket: trio_websocket.WebSocketConnection, target: Target) -> None:
        #: The server's first event.
        self.welcome: Event
        self._websocket = websocket
        self._target = target
        #: No goodbye is possible, because half a frame may be sent or the server is gone.
        self._unfit = False
        #: When the server was last heard, on Trio's clock, and the scope of the wait for a message.
        self._heard_at = trio.current_time()
        self._wait = trio.CancelScope()

    async def receive(self) -> Event | Unread:
        """Return the next message. Always a checkpoint; if cancelled, no message is lost.

        Raises `trio_websocket.ConnectionClosed`, and TimeoutError if the server doesn't answer pings.
        """
        # Before this call nothing was read, so the server could not be heard.
        self._heard_at = trio.current_time()
        deadline = self._heard_at + self._target.ping_interval + self._target.ping_timeout
        while trio.current_time() < deadline:
            with trio.CancelScope(deadline=deadline) as self._wait:
                return _read(await self._websocket.get_message())
            # This process may have been stopped, so it first reads what has arrived meanwhile.
            with trio.move_on_after(_GRACE):
                return _read(await self._websocket.get_message())
            deadline = self._wait.deadline  # a pong was among it, or the ping has only gone out now
        self._unfit = True
        raise TimeoutError("the server does not answer")

    async def send(self, text: str) -> None:
        """Send one message, and wait until the kernel has it.

        Raises `trio_websocket.ConnectionClosed`. When this is cancelled, half of the frame may have been
        sent, so there is no goodbye.
        """
        self._unfit = True
        await self._websocket.send_message(text)
        self._unfit = False

    async def keep_alive(self) -> None:
        """Ping the server whenever nothing has arrived for `ping_interval` seconds.

        If no pong or message comes in time, `receive` raises. Returns when the connection is closed.
        """
        interval, timeout = self._target.ping_interval, self._target.ping_timeout
        with suppress(trio_websocket.ConnectionClosed):
            while True:
                await trio.sleep_until(self._heard_at + interval)
                now = trio.current_time()
                if now >= self._heard_at + interval:
                    # This may be late. The server still has all of its time to answer.
                    self._wait.deadline = max(self._wait.deadline, now + timeout)
                    await self._websocket.ping()
                    self._heard_at = trio.current_time()
                    self._wait.deadline = self._heard_at + interval + timeout

    async def say_goodbye(self) -> None:
        """Close with 1000 if possible. Put a deadline around it."""
        if not self._unfit:
            await self._websocket.aclose()


@asynccontextmanager
async def open_link(
    target: Target, params: Mapping[str, str], token: str | None = None
) -> AsyncIterator[Link]:
    """Connect, with `token` if given, and wait for the welcome; close when the block is left.

    Every exception may be in a group: OSError if there is no connection within `connect_timeout`,
    `trio_websocket.ConnectionRejected`, `trio_websocket.ConnectionClosed`, `Closed` when the peer is no
    server of ours, and what trio-websocket's parser says of one that speaks something else altogether.
    """
    async with trio.open_nursery() as nursery:
        host = _Host()
        await nursery.start(host.run, name="trionotify.connect: connection")
        # This must not come before `start` has returned, because it couldn't be cancelled then.
        host.nursery.cancel_scope.shield = True
        stream: trio.abc.Stream | None = None
        link: Link | None = None
        try:
            with trio.move_on_after(target.connect_timeout) as scope:
                stream = _Watched(await target.open())
                websocket = await _shake_hands(host.nursery, stream, target, params, token)
                link = Link(websocket, target)
                await _be_welcomed(link, websocket.subprotocol, target)
            if scope.cancelled_caught:
                raise TimeoutError(f"no answer within {target.connect_timeout:g} seconds")
            assert link is not None  # else one of the lines above has raised
            yield link
        finally:
            try:
                # The goodbye is one of the places for a shield, which has a deadline.
                with trio.move_on_after(target.close_timeout, shield=True) as host.goodbye:
                    if link is not None:
                        await link.say_goodbye()
            finally:
                host.nursery.cancel_scope.cancel()
                if stream is not None:
                    with trio.move_on_after(0, shield=True):  # at once, even if a task waits for it
                        await stream.aclose()


class _Host:
    """The nursery of trio-websocket's reader, which the client's other scopes don't cancel."""

    def __init__(self) -> None:
        self.nursery: trio.Nursery
        #: The scope of the goodbye, while there is one.
        self.goodbye: trio.CancelScope | None = None

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Keep the nursery open until it is cancelled."""
        try:
            async with trio.open_nursery() as self.nursery:
                task_status.started()
                await trio.sleep_forever()
        except* Exception:
            if self.goodbye is None:
                raise
            # A ping that arrives now raises in the reader, so the goodbye is over.
            self.goodbye.cancel()


async def _shake_hands(
    nursery: trio.Nursery,
    stream: _Watched,
    target: Target,
    params: Mapping[str, str],
    token: str | None,
) -> trio_websocket.WebSocketConnection:
    bearer = [] if token is None else [(b"Authorization", b"Bearer " + token.encode())]
    with stream.waiting:
        return await trio_websocket.wrap_client_stream(
            nursery,
            stream,  # type: ignore[arg-type] # its annotation says sockets, it takes any stream
            target.authority,
            target.resource(params),
            subprotocols=[SUBPROTOCOL],
            extra_headers=[*target.headers, *bearer],
            max_message_size=_ANY_SIZE,
            receive_buffer_size=_RECEIVE_BYTES,
        )
    raise ConnectionError("the connection ended before the handshake did")


async def _be_welcomed(link: Link, subprotocol: str | None, target: Target) -> None:
    if subprotocol == SUBPROTOCOL:
        first = await link.receive()
        if isinstance(first, Event) and first.kind == "welcome" and first.cursor is not None:
            link.welcome = first
            return
    raise Closed(
        CloseCode.PROTOCOL_ERROR,
        f"{target} is not a trionotify server, because it does not speak {SUBPROTOCOL}",
    )


def _read(message: str | bytes) -> Event | Unread:
    """Parse a server's message. An unreadable one is no error, because it would come again."""
    if isinstance(message, bytes):
        return Unread("binary messages are not events", None)
    try:
        return Event(*decode_sent(message))
    except NotAnEvent as error:
        found = _CURSOR.search(message)
        return Unread(str(error), found and found[1])


class _Watched(trio.abc.Stream):
    """A stream that cancels the scope `waiting` when it ends, whichever task reads it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.waiting = trio.CancelScope()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.waiting.cancel()
            raise
        if not data:
            self.waiting.cancel()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.waiting.cancel()
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
