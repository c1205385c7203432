"""The opening handshake, which trio-websocket performs through its public API.

It runs on a small stream that gives it the request, which was checked already, and collects what it
answers. Then it is told that the stream is at its end, and lets go. The frames are the Wire's, for the
reasons in docs/how-it-works.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio_websocket

if TYPE_CHECKING:
    from trionotify.http import Request

__all__ = ["shake_hands"]


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


async def shake_hands(request: Request) -> bytes:
    """Let trio-websocket answer the handshake; return its 101."""
    # Only what it has to know: the rest of the head was judged before, and can't confuse it.
    script = _Script(
        b"GET / HTTP/1.1\r\nHost: trionotify\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: " + (request.header("sec-websocket-key") or "").encode() + b"\r\n\r\n"
    )
    async with trio.open_nursery() as nursery:
        proposal = await trio_websocket.wrap_server_stream(nursery, script)
        await proposal.accept()
        script.finish()
    return script.answer
