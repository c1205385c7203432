"""Sends inputs to a server, over many connections, and has each judge what came back."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

import trio

from tests.fleet.line import Frames
from tests.fuzz.answers import Malformed, is_last, read_one
from tests.fuzz.inputs import Ask, Burst, Heard, Input, Talk, client_frame
from tests.kernel import upgrade

__all__ = ["Sender"]

#: Inputs that a worker takes at a time, and sends in one go where their kind allows that.
_SLICE = 24
#: Seconds in which a slice must be done.
_PATIENCE = 60.0

Numbered = tuple[int, Input]


class Sender:
    """Its workers share one source. `note` is told the number of an input and what is wrong with it.

    `sent_by` says which inputs went out from which of our ports, the newest last: so a line of the
    server's log leads to them.
    """

    def __init__(self, port: int, source: Iterator[Numbered], note: Callable[[int, str], None]) -> None:
        self.done = 0
        #: Set, and replaced by a new one, whenever `done` has changed.
        self.progress = trio.Event()
        self.sent_by: dict[int, deque[int]] = {}
        self._port = port
        self._source = source
        self._note = note

    async def work(self) -> None:
        """Send until the source has no more."""
        worker = _Worker(self)
        try:
            while slice := self._slice():
                with trio.move_on_after(_PATIENCE) as scope:
                    await worker.send(slice)
                if scope.cancelled_caught:
                    self._note(worker.at, f"no answer came in {_PATIENCE:g} s")
                    worker.drop()
                self.done += len(slice)
                self.progress.set()
                self.progress = trio.Event()
        finally:
            worker.drop()

    def _slice(self) -> list[Numbered]:
        return [one for _, one in zip(range(_SLICE), self._source, strict=False)]

    def judge(self, number: int, fault: str | None) -> None:
        if fault is not None:
            self._note(number, fault)

    async def connect(self, numbers: list[int]) -> trio.SocketStream:
        sock = trio.socket.socket()
        try:
            await sock.connect(("127.0.0.1", self._port))
        except BaseException:
            sock.close()
            raise
        self.name(sock, numbers)
        return trio.SocketStream(sock)

    def name(self, sock: trio.socket.SocketType, numbers: list[int]) -> None:
        """Remember what goes out on it."""
        port = sock.getsockname()[1]
        self.sent_by.setdefault(port, deque(maxlen=2 * _SLICE)).extend(numbers)


class _Worker:
    """One of them, with a kept connection for HTTP."""

    def __init__(self, sender: Sender) -> None:
        #: The input that is waited for.
        self.at = 0
        self._sender = sender
        self._kept: trio.SocketStream | None = None

    def drop(self) -> None:
        if self._kept is not None:
            self._kept.socket.close()
            self._kept = None

    async def send(self, slice: list[Numbered]) -> None:
        asks: deque[tuple[int, Ask]] = deque()
        talks: dict[str, deque[tuple[int, Talk]]] = {}
        for number, one in slice:
            match one:
                case Ask():
                    asks.append((number, one))
                case Talk():
                    talks.setdefault(one.target, deque()).append((number, one))
                case Burst():
                    await self._burst(number, one)
        while asks:
            await self._ask(asks)
        for target, those in talks.items():
            while those:
                await self._talk(target, those)

    # --- all bytes of a connection ---

    async def _burst(self, number: int, burst: Burst) -> None:
        self.at = number
        stream = await self._sender.connect([number])
        data = bytearray()
        try:
            with suppress(trio.BrokenResourceError):
                await _send(stream, burst.pieces)
                await stream.send_eof()
            with suppress(trio.BrokenResourceError):
                while more := await stream.receive_some(1 << 16):
                    data += more
        finally:
            stream.socket.close()
        self._sender.judge(number, burst.fault(bytes(data)))

    # --- requests on a kept connection ---

    async def _ask(self, asks: deque[tuple[int, Ask]]) -> None:
        """Send all, and take those from `asks` that were answered, up to the end of the connection."""
        numbers = [number for number, _ in asks]
        if self._kept is None:
            self._kept = await self._sender.connect(numbers)
        else:
            self._sender.name(self._kept.socket, numbers)
        stream = self._kept
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send, stream, (b"".join([ask.data for _, ask in asks]),))
            over = await self._read_answers(stream, asks)
            nursery.cancel_scope.cancel()
        if over:
            self.drop()

    async def _read_answers(self, stream: trio.SocketStream, asks: deque[tuple[int, Ask]]) -> bool:
        """Returns whether the connection is over."""
        data = b""
        while asks:
            number, ask = asks[0]
            self.at = number
            try:
                while (one := read_one(data, ask.method)) is None or one[0].status == 100:
                    if one is not None:
                        data = data[one[1] :]
                        continue
                    more = await stream.receive_some(1 << 16)
                    if not more:
                        raise Malformed(f"a legal request had no answer; the connection ended: {data!r}")
                    data += more
            except (Malformed, trio.BrokenResourceError) as error:
                reset = isinstance(error, trio.BrokenResourceError)
                asks.popleft()
                self._sender.judge(
                    number, "a legal request had no answer, but a reset" if reset else str(error)
                )
                return True
            asks.popleft()
            answer, end = one
            data = data[end:]
            self._sender.judge(number, ask.fault(answer))
            if is_last(answer):
                return True
        if data:
            self._sender.judge(self.at, f"something came behind the last answer: {data[:300]!r}")
        return bool(data)

    # --- frames ---

    async def _talk(self, target: str, talks: deque[tuple[int, Talk]]) -> None:
        """One connection, for as many of them as it can have."""
        now = []
        while talks:
            now.append(talks.popleft())
            if not now[-1][1].clean:
                break
        self.at = now[0][0]
        stream = await self._sender.connect([number for number, _ in now])
        try:
            heard = _Listener(stream, target)
            if fault := await heard.shake_hands():
                self._sender.judge(self.at, fault)
                return
            for at, (number, talk) in enumerate(now):
                # One at a time: what is published is answered later than what isn't.
                self.at = number
                await self._speak(stream, talk, heard.barrier(number))
                found = await heard.until(number)
                self._sender.judge(number, talk.fault(found))
                if found.code is not None or found.lost:
                    talks.extendleft(reversed(now[at + 1 :]))
                    break
        finally:
            stream.socket.close()

    @staticmethod
    async def _speak(stream: trio.SocketStream, talk: Talk, barrier: bytes) -> None:
        await _send(stream, (*talk.pieces[:-1], b"".join((*talk.pieces[-1:], barrier))))
        if not talk.clean:
            with suppress(trio.BrokenResourceError):
                await stream.send_eof()


class _Listener:
    """The messages of a WebSocket's server, up to the answer to a barrier, or to the end."""

    def __init__(self, stream: trio.SocketStream, target: str) -> None:
        self._stream = stream
        self._events = "format=cloudevents" in target
        self._publishes = "role=" in target
        self._target = target
        self._frames = Frames()
        self._waiting: deque[tuple[int, bytes]] = deque()

    async def shake_hands(self) -> str | None:
        with suppress(trio.BrokenResourceError):
            await self._stream.send_all(upgrade(self._target))
            head = b""
            while b"\r\n\r\n" not in head:
                data = await self._stream.receive_some(1 << 16)
                if not data:
                    break
                head += data
            head, _, rest = head.partition(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 101 "):
                self._waiting.extend(self._frames.feed(rest))
                return None
            return f"the handshake was answered with {head[:300]!r} {rest[:300]!r}"
        return "the handshake was answered with a reset"

    def barrier(self, number: int) -> bytes:
        """A frame that has one answer, behind those to all others."""
        if not self._events:
            return client_frame(b"barrier %d" % number, 0x9)
        # What is published is answered when it is broadcast, and so behind what is answered at once.
        kind = "barrier" if self._publishes else "trionotify.position"
        event = {"specversion": "1.0", "id": f"barrier {number}", "source": "/barrier", "type": kind}
        return client_frame(json.dumps(event).encode())

    async def until(self, number: int) -> Heard:
        """Everything up to the answer to this barrier, or to the end of the connection."""
        messages: list[str | bytes] = []
        while True:
            while self._waiting:
                opcode, payload = self._waiting.popleft()
                match opcode:
                    case 0x1 if b'"barrier %d"' % number in payload:
                        return Heard(tuple(messages))
                    case 0x1:
                        messages.append(payload.decode())
                    case 0x2:
                        messages.append(payload)
                    case 0x8:
                        code = int.from_bytes(payload[:2]) if payload else 1005
                        return Heard(tuple(messages), code, payload[2:].decode())
                    case 0xA if payload == b"barrier %d" % number:
                        return Heard(tuple(messages))
            try:
                data = await self._stream.receive_some(1 << 16)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                return Heard(tuple(messages), lost=True)
            try:
                self._waiting.extend(self._frames.feed(bytes(data)))
            except AssertionError:
                return Heard(tuple(messages), 0, f"no frame of a server's came: {bytes(data)[:200]!r}")


async def _send(stream: trio.SocketStream, pieces: tuple[bytes, ...]) -> None:
    """Send each, in a packet of its own if it can be. That the connection is over shows in reading."""
    with suppress(trio.BrokenResourceError):
        for piece in pieces:
            await stream.send_all(piece)
