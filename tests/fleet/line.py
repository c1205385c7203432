"""A WebSocket client on a plain socket, that looks at every byte itself."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlencode

import msgspec
import trio

from tests.kernel import upgrade

__all__ = ["Frames", "Line", "Lost", "Refused", "connected", "open_line"]


class Lost(Exception):
    """The connection is over: with the server's Close frame, or without any (None)."""

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Refused(Exception):
    """The handshake was answered with a problem."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


def client_frame(text: bytes) -> bytes:
    """A text message. The key of the mask is zero, which is one like any other."""
    size = len(text)
    if size < 126:
        head = bytes([0x81, 0x80 | size])
    else:
        head = b"\x81\xfe" + size.to_bytes(2) if size < 1 << 16 else b"\x81\xff" + size.to_bytes(8)
    return head + bytes(4) + text


class Frames:
    """Cuts a server's bytes into frames: unmasked, never fragmented."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The opcode and the payload of each frame that is complete now."""
        data = self._rest + data
        at, found = 0, []
        while len(data) >= at + 2:
            begin, size = at + 2, data[at + 1]
            if size > 125:
                width = 2 if size == 126 else 8
                begin += width
                size = int.from_bytes(data[at + 2 : begin])
            if len(data) < begin + size:
                break
            assert data[at] & 0xF0 == 0x80, "no frame of this server's"
            found.append((data[at] & 0x0F, data[begin : begin + size]))
            at = begin + size
        self._rest = data[at:]
        return found


class Line:
    """A connection whose handshake is done. Made by `open_line`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.headers: dict[str, str] = {}
        #: Pongs that have come.
        self.pongs = 0
        self._stream = stream
        self._frames = Frames()
        self._early = b""
        self._lost: Lost | None = None
        self._sending = trio.Lock()

    async def shake_hands(self, target: str) -> None:
        """Raises `Refused`, or `Lost`."""
        await self._send(upgrade(target))
        head = b""
        while b"\r\n\r\n" not in head:
            head += await self._receive()
        head, _, self._early = head.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.headers = dict(line.split(": ", 1) for line in lines)
        if not status.startswith("HTTP/1.1 101 "):
            body = self._early
            with suppress(Lost):
                while True:
                    body += await self._receive()
            raise Refused(int(status.split(" ")[1]), body)

    async def send(self, *messages: bytes) -> None:
        """Send text messages in one go. Any task may call it. Raises `Lost`."""
        await self._send(b"".join(map(client_frame, messages)))

    async def ping(self) -> None:
        """Send a Ping."""
        await self._send(b"\x89\x80\x00\x00\x00\x00")

    async def close(self) -> None:
        """Send a Close frame, 1000."""
        await self._send(b"\x88\x82\x00\x00\x00\x00\x03\xe8")

    def drop(self, reset: bool) -> None:
        """Let nothing be sent or read any more, with a reset or in silence."""
        if reset:
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._lost = Lost()

    async def read(self) -> list[bytes]:
        """The messages of one read, maybe none; raises `Lost` when there will be no more."""
        if self._lost:
            raise self._lost
        data, self._early = self._early, b""
        messages = []
        for opcode, payload in self._frames.feed(data or await self._receive()):
            assert self._lost is None, "a frame behind the Close frame"
            match opcode:
                case 0x1 | 0x2:
                    messages.append(payload)
                case 0x8:
                    self._lost = Lost(int.from_bytes(payload[:2]), payload[2:].decode())
                case 0x9:
                    # (If it can't be sent, the Close frame may be right behind.)
                    with suppress(Lost):
                        await self._send(b"\x8a\x80\x00\x00\x00\x00")
                case 0xA:
                    self.pongs += 1
        return messages

    async def events(self) -> list[dict[str, Any]]:
        """The same of one that speaks CloudEvents."""
        return [msgspec.json.decode(message) for message in await self.read()]

    async def _receive(self) -> bytes:
        try:
            data = await self._stream.receive_some(1 << 16)
        except trio.BrokenResourceError:
            raise Lost from None
        if not data:
            raise Lost
        return bytes(data)

    async def _send(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self._stream.send_all(data)
        except trio.BrokenResourceError:
            raise Lost from None


async def connected(port: int, buffer: int | None = None) -> trio.SocketStream:
    """A connection. `buffer` bounds what the kernel takes on our behalf. Raises `Lost`."""
    sock = trio.socket.socket()
    try:
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await sock.connect(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise Lost from None
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


@asynccontextmanager
async def open_line(
    port: int, query: Mapping[str, str] | None = None, buffer: int | None = None
) -> AsyncIterator[Line]:
    """Connect. `buffer` is as in `connected`. Raises `Lost` or `Refused`."""
    async with await connected(port, buffer) as stream:
        line = Line(stream)
        await line.shake_hands(f"/?{urlencode(query or {})}")
        yield line
