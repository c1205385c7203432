"""A client of a stream over HTTP, on a plain socket: Server-Sent Events, or lines of JSON."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import trio

from tests.eventstream import NDJSON, Dispatched, EventSource
from tests.fleet.line import Lost, Refused, connected

__all__ = ["StreamLine", "open_stream"]


class StreamLine:
    """A stream whose head was read. Made by `open_stream`."""

    def __init__(self, stream: trio.SocketStream, *, lines: bool) -> None:
        self.headers: dict[str, str] = {}
        self.stream = stream
        self._lines = lines
        self._source = EventSource()
        self._raw = b""
        self._text = b""
        self._over = False

    @property
    def cursor(self) -> str:
        """Where it is, by the last block of Server-Sent Events."""
        return self._source.last_event_id

    def drop(self, reset: bool) -> None:
        """Leave: with a reset, or in silence."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async def ask(self, target: str, *fields: str) -> None:
        """Raises `Refused`, or `Lost`."""
        fields = (*fields, NDJSON) if self._lines else fields
        lines = [f"GET {target} HTTP/1.1", "Host: localhost", *fields, "", ""]
        try:
            await self.stream.send_all("\r\n".join(lines).encode())
        except trio.BrokenResourceError:
            raise Lost from None
        while b"\r\n\r\n" not in self._raw:
            await self._receive()
        head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        status, *rest = head.decode().split("\r\n")
        self.headers = dict(line.split(": ", 1) for line in rest)
        if not status.startswith("HTTP/1.1 200 "):
            raise Refused(int(status.split(" ")[1]), self._raw)

    async def read(self) -> list[Dispatched]:
        """The result of one read, maybe nothing; a line of JSON is the `data` of an event.

        Raises `Lost` at the end: with the code 1012 where that came in good order.
        """
        if self._over:
            raise Lost(1012)
        await self._receive()
        body = self._unchunk()
        if not self._lines:
            self._source.feed(body)
            found, self._source.events = self._source.events, []
            return found
        *lines, self._text = (self._text + body).split(b"\n")
        return [Dispatched("message", line.decode(), "") for line in lines if line]

    def _unchunk(self) -> bytes:
        data, at, parts = self._raw, 0, []
        while (end := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:end], 16)
            if len(data) < end + 2 + size + 2:
                break
            parts.append(data[end + 2 : end + 2 + size])
            at = end + 2 + size + 2
            self._over |= not size
        self._raw = data[at:]
        return b"".join(parts)

    async def _receive(self) -> None:
        try:
            data = await self.stream.receive_some(1 << 16)
        except trio.BrokenResourceError:
            raise Lost from None
        if not data:
            raise Lost
        self._raw += data


@asynccontextmanager
async def open_stream(
    port: int, query: Mapping[str, str], *fields: str, lines: bool = False, buffer: int | None = None
) -> AsyncIterator[StreamLine]:
    """Ask for a stream. `buffer` bounds what the kernel takes on our behalf."""
    async with await connected(port, buffer) as stream:
        line = StreamLine(stream, lines=lines)
        await line.ask(f"/events?{urlencode(query)}", *fields)
        yield line
