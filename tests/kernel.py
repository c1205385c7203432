"""A kernel made of Python: a transport that takes as many bytes as the test says, and a peer for it."""

from __future__ import annotations

import base64
import os

import trio
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, Opcode

from trionotify.connection.transport import Woken

KEY = base64.b64encode(b"0123456789abcdef").decode()


def upgrade(target: str, *headers: str) -> bytes:
    """The bytes of a good opening handshake."""
    lines = [
        f"GET {target} HTTP/1.1",
        "Host: test",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def masked(frame: bytes | bytearray) -> bytes:
    """A server's frame as a client would send it: masked."""
    size = 2 + {126: 2, 127: 8}.get(frame[1] & 0x7F, 0)
    mask = os.urandom(4)
    payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(frame[size:]))
    return bytes([frame[0], frame[1] | 0x80]) + bytes(frame[2:size]) + mask + payload


#: What a client offers that wants compressed frames.
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


class FakeKernel:
    """A transport whose peer is the test.

    `credit` is how many bytes it takes before it refuses; None takes all. `drain` is how many the
    network carries away each time that it was full. What was taken is in `taken`.
    """

    half_closes = True
    encrypted = False
    unacknowledged = None

    def __init__(self, credit: int | None = None, *, synchronous: bool = True) -> None:
        self.credit = credit
        self.drain = 0
        self.synchronous = synchronous
        self.taken = bytearray()
        self.closed = False
        self.was_reset = False
        self.eof_sent = False
        self._incoming, self._to_receive = trio.open_memory_channel[bytes](100)
        self._reading = trio.CancelScope()
        self._woken = False
        self._changed = trio.Event()
        self._writers = 0

    # What the test does.

    def feed(self, data: bytes) -> None:
        self._incoming.send_nowait(data)

    def hang_up(self) -> None:
        self._incoming.close()

    def grant(self, credit: int | None) -> None:
        self.credit = None if credit is None or self.credit is None else self.credit + credit
        self._change()

    def stall(self, drain: int = 0) -> None:
        self.credit = 0
        self.drain = drain

    # What the Wire does.

    def expect_acknowledgements(self, seconds: float) -> None:
        """There is no network that could lose any."""

    def send(self, data: bytes | memoryview) -> int:
        if self.closed:
            raise OSError("closed")
        if not self.synchronous:
            raise BlockingIOError
        return self._take(data)

    def _take(self, data: bytes | memoryview) -> int:
        count = len(data) if self.credit is None else min(len(data), self.credit)
        if self.credit is not None:
            self.credit += self.drain * (count < len(data)) - count
        if not count:
            raise BlockingIOError
        self.taken += data[:count]
        return count

    async def send_some(self, data: bytes | memoryview) -> int:
        assert self._writers == 0, "two tasks write at once"
        self._writers += 1
        sent = 0
        try:
            while True:
                await trio.lowlevel.checkpoint()
                if self.closed:
                    raise trio.BrokenResourceError
                if self.credit != 0:
                    taken = self._take(data)
                    if self.synchronous or taken == len(data):
                        return sent + taken
                    sent, data = sent + taken, data[taken:]
                    continue
                await self._changed.wait()
        finally:
            self._writers -= 1

    async def wait_writable(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            if self.closed:
                raise trio.BrokenResourceError
            if self.credit != 0:
                return
            await self._changed.wait()

    def receive_nowait(self) -> bytes:
        raise BlockingIOError

    async def receive_some(self) -> bytes:
        try:
            while not self.closed:
                with trio.move_on_after(3600) as self._reading:
                    return await self._to_receive.receive()
                if self._woken:
                    self._woken = False
                    raise Woken
        except (trio.EndOfChannel, trio.ClosedResourceError):
            if not self.closed:
                return b""
        raise trio.BrokenResourceError

    def wake_reader(self) -> None:
        self._woken = True
        self._reading.cancel()

    async def send_eof(self) -> None:
        self.eof_sent = True
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        if not self.closed:
            self.was_reset = True
            self._close()

    async def aclose(self) -> None:
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        self.closed = True
        self._to_receive.close()
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Peer:
    """A client's view of the bytes that a `FakeKernel` took, by wsproto and not by our code."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.head: str | None = None
        self.messages: list[str | bytes] = []
        self.pongs: list[bytes] = []
        self.pings = 0
        self.close: tuple[int, str] | None = None
        self._extensions: list[PerMessageDeflate] = []
        self._frames = FrameProtocol(client=True, extensions=[])
        self._seen = 0
        self._parts: list[str | bytes] = []

    def look(self) -> Peer:
        """Read what has come since the last look."""
        data = bytes(self.kernel.taken)
        if self.head is None:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return self
            self.head, self._seen = data[:end].decode(), end + 4
            if answer := self.header("Sec-WebSocket-Extensions"):
                deflate = PerMessageDeflate(client_max_window_bits=15)
                deflate.finalize(answer)
                self._extensions.append(deflate)
                self._frames = FrameProtocol(client=True, extensions=self._extensions)
        if self.status != 101:
            return self
        self._frames.receive_bytes(data[self._seen :])
        self._seen = len(data)
        for frame in self._frames.received_frames():
            assert self.close is None, "a frame behind the Close frame"
            match frame.opcode:
                case Opcode.TEXT | Opcode.BINARY:
                    self._parts.append(frame.payload)
                    if frame.message_finished:
                        self.messages.append(type(frame.payload)().join(self._parts))
                        self._parts = []
                case Opcode.CLOSE:
                    self.close = (int(frame.payload[0]), frame.payload[1])
                case Opcode.PONG:
                    self.pongs.append(bytes(frame.payload))
                case Opcode.PING:
                    self.pings += 1
        return self

    @property
    def status(self) -> int | None:
        return int(self.head.split(" ")[1]) if self.head else None

    def header(self, name: str) -> str | None:
        assert self.head is not None
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    def say(self, *messages: str | bytes) -> None:
        frames = FrameProtocol(client=True, extensions=self._extensions)
        self.kernel.feed(b"".join(bytes(frames.send_data(message)) for message in messages))

    def say_close(self, code: int | None = 1000, reason: str = "") -> None:
        frames = FrameProtocol(client=True, extensions=[])
        self.kernel.feed(bytes(frames.close(code, reason)))

    def say_ping(self, payload: bytes = b"") -> None:
        frames = FrameProtocol(client=True, extensions=[])
        self.kernel.feed(bytes(frames.ping(payload)))
