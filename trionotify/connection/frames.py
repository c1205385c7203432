"""WebSocket frames (RFC 6455): bytes to messages, messages to bytes. No I/O, no Trio.

Out, a frame is one `bytes` object, because the same frame goes to many clients.

In, `FrameParser.feed` takes whatever one read of the socket gave and returns everything that it
completes, in order: messages as plain `str` and `bytes`, control frames as `Ping`, `Pong` and `Close`,
and as the very last item perhaps a `Fault`, after which the parser is deaf. What came before a fault is
returned before it: the peer's broken frame doesn't undo its good ones. One read may hold ten thousand
tiny frames, so `feed` can be told to stop after some, and is called again for the others.

The parser never waits for a whole message. A payload is unmasked and, being text, decoded as it
arrives, so that bad UTF-8 ends the connection at the bad byte and not a gigabyte later; and a length is
judged against the limit when its header is read, before a byte of payload is stored.

Not here: compression (RFC 7692), and the client's side of the protocol.
"""

from __future__ import annotations

import codecs
import struct
import sys
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from trionotify.errors import CloseCode, may_be_sent

__all__ = [
    "WEBSOCKET",
    "Close",
    "Event",
    "Fault",
    "FrameParser",
    "Framing",
    "Nothing",
    "Parser",
    "Ping",
    "Pong",
    "close_frame",
    "cut_reason",
    "message_frame",
    "ping_frame",
    "pong_frame",
    "text_frame",
]

_TEXT: Final = 0x1
_BINARY: Final = 0x2
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA
_FIN: Final = 0x80
_MASKED: Final = 0x80
_WHOLE: Final = (_FIN | _TEXT, _FIN | _BINARY)
_LONGEST_CONTROL: Final = 125
#: What a frame takes that isn't the everyday one, in everyday frames, besides itself.
_LONG_WAY: Final = 3
_int: Final = int.from_bytes
# The heads of an unmasked frame, by the length of its payload.
_SHORT: Final = struct.Struct("!BB").pack
_MEDIUM: Final = struct.Struct("!BBH").pack
_LONG: Final = struct.Struct("!BBQ").pack


def message_frame(data: str | bytes | None) -> bytes:
    """The one unfragmented frame of a message: text for str, binary for bytes, empty text for None."""
    if isinstance(data, bytes):
        return _frame(_BINARY, data)
    return _frame(_TEXT, data.encode() if data else b"")


def text_frame(payload: bytes) -> bytes:
    """The frame of a text message that is UTF-8 already."""
    return _frame(_TEXT, payload)


def ping_frame(payload: bytes = b"") -> bytes:
    """A Ping frame; `payload` is at most 125 bytes."""
    return _frame(_PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """The Pong that answers a Ping of `payload`."""
    return _frame(_PONG, payload)


def close_frame(code: int | None, reason: str = "") -> bytes:
    """A Close frame; None means one without a code. A `reason` over 123 bytes of UTF-8 is cut."""
    if code is None:
        return _frame(_CLOSE, b"")
    return _frame(_CLOSE, code.to_bytes(2) + cut_reason(reason))


def cut_reason(reason: str) -> bytes:
    """As much of a Close reason as a Close frame has room for: 123 bytes of UTF-8."""
    text = reason.encode()[: _LONGEST_CONTROL - 2]
    # Cutting may have split a character: a Close reason must be UTF-8 too (section 5.5.1).
    return text.decode(errors="ignore").encode()


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return _SHORT(_FIN | opcode, size) + payload
    if size < 1 << 16:
        return _MEDIUM(_FIN | opcode, 126, size) + payload
    return _LONG(_FIN | opcode, 127, size) + payload


@attrs.frozen
class Framing:
    """What goes out on a connection: a message, the last word, and a sign of life."""

    message: Callable[[str | bytes], bytes]
    close: Callable[[int | None, str], bytes]
    ping: bytes


WEBSOCKET: Final = Framing(message_frame, close_frame, ping_frame())


class Parser(Protocol):
    """What comes in on a connection."""

    @property
    def behind(self) -> bool:
        """Whether bytes are left that it has not parsed, because `feed` was told to stop before them."""

    @property
    def held(self) -> int:
        """The number of bytes that it keeps of what isn't complete yet."""

    def discard(self) -> None:
        """Keep nothing of messages any more: they are of no use."""

    def feed(self, data: bytes, most: int = ..., /) -> list[Event]:
        """What these bytes complete, in order. After some `most` frames it stops, and is `behind`."""


class Nothing:
    """The parser where nothing more can be said: on a stream, or when the connection is over."""

    behind = False
    held = 0

    def discard(self) -> None:
        """Nothing is kept."""

    def feed(self, data: bytes, most: int = 0, /) -> list[Event]:
        """Ignore the bytes."""
        return []


@attrs.frozen
class Ping:
    """The peer asks for a Pong with the same payload."""

    payload: bytes


@attrs.frozen
class Pong:
    """The peer answered a Ping, or says unasked that it lives."""

    payload: bytes


@attrs.frozen
class Close:
    """The peer closes; `code` is None when its frame had none. Nothing is parsed behind it."""

    code: int | None
    reason: str = ""


@attrs.frozen
class Fault:
    """The peer broke the protocol: close with `code` and `reason`. Nothing is parsed behind it.

    `in_close`: it did so in its Close frame, and has nothing more to say.
    """

    code: CloseCode
    reason: str
    in_close: bool = False


Event = str | bytes | Ping | Pong | Close | Fault


class _Broken(Exception):
    """Carries the fault out of the nested steps of one `feed`."""

    def __init__(
        self, reason: str, code: CloseCode = CloseCode.PROTOCOL_ERROR, in_close: bool = False
    ) -> None:
        super().__init__(reason)
        self.fault = Fault(code, reason, in_close)


class FrameParser:
    """What a server makes of one client's bytes. Made by the `Wire`, fed by the task that reads.

    Between two calls it holds at most one incomplete header or control frame, the bytes of an incomplete
    message that have arrived, however small the fragments (never more than `max_message_bytes`), and
    while it is `behind`, the rest of what it was fed.
    """

    __slots__ = (
        "_buffer",
        "_decoder",
        "_discarding",
        "_final",
        "_left",
        "_mask",
        "_max_message_bytes",
        "_message",
        "_over",
        "_size",
        "behind",
    )

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._buffer = b""  # bytes that don't make a header, or a control frame, yet
        self._over = False
        # The message in progress, None when there is none; text is checked as it arrives, and
        # decoded at the end: many small strings weigh many times what their bytes do.
        self._message: bytearray | None = None
        self._decoder: codecs.IncrementalDecoder | None = None  # None: binary
        self._size = 0  # bytes, as its headers have announced so far
        # The data frame whose payload is still arriving, if any.
        self._left = 0
        self._mask = b""
        self._final = False
        self._discarding = False
        #: Bytes are left that were not parsed yet.
        self.behind: bool = False

    def discard(self) -> None:
        """Keep nothing of messages any more. Frames are still understood: a Close may come."""
        self._discarding, self._decoder = True, None
        if self._message is not None:
            self._message = bytearray()

    @property
    def held(self) -> int:
        """Bytes of the message in progress, and bytes that were not parsed yet."""
        return len(self._buffer) + (0 if self._message is None else len(self._message))

    def feed(self, data: bytes, most: int = sys.maxsize, /) -> list[Event]:
        """Take the bytes of one read; return what they complete, in order.

        After `most` everyday frames, or fewer others, which take longer, it stops and is `behind`. Call
        it again then, with b"" or with further bytes.
        """
        events: list[Event] = []
        if self._over:
            return events
        try:
            self._parse(self._buffer + data if self._buffer else data, events, most)
        except _Broken as broken:
            self._over = True
            events.append(broken.fault)
        except UnicodeDecodeError:
            self._over = True
            events.append(Fault(CloseCode.INVALID_DATA, "a text message is not UTF-8"))
        if self._over:
            self._buffer, self._message, self._decoder, self.behind = b"", None, None, False
        return events

    def _parse(self, data: bytes, events: list[Event], most: int) -> None:
        at = self._continue_payload(data, 0, events) if self._left else 0
        end = len(data)
        everyday, longest = () if self._discarding else _WHOLE, self._max_message_bytes
        self.behind = False
        while end - at >= 2:
            if most <= 0:
                self.behind = True
                break
            most -= 1
            first, second = data[at], data[at + 1]
            # The everyday frame, a whole message below 64 KiB that is all here, goes the short way.
            # Whatever is odd about it goes the long way, which knows what to say.
            if first in everyday and second >= _MASKED and self._message is None:
                size, start = second & 0x7F, at + 6
                if size == 126 and start + 2 <= end:
                    size, start = data[at + 2] << 8 | data[at + 3], at + 8
                    if size < 126:
                        size = longest + 1
                if size != 127 and start + size <= end and size <= longest:
                    at = start + size
                    payload = _unmasked(data[start:at], data[start - 4 : start])
                    events.append(payload.decode() if first == 0x81 else payload)
                    continue
            most -= _LONG_WAY
            header = self._read_header(data, at, first, second)
            if header is None:
                break
            start, size = header
            mask = data[start - 4 : start]
            opcode = first & 0x0F
            if opcode >= _CLOSE:
                if start + size > end:
                    break
                at = start + size
                self._control(opcode, _unmasked(data[start:at], mask), events)
                if self._over:
                    break
                continue
            self._begin(opcode, size)
            self._final, self._left, self._mask = bool(first & _FIN), size, mask
            at = self._continue_payload(data, start, events)
        self._buffer = data[at:]

    def _read_header(self, data: bytes, at: int, first: int, second: int) -> tuple[int, int] | None:
        """Check the header at `at`: (where its payload starts, the payload's size), None if cut off.

        What is wrong with the first two bytes is told at once, whether or not the rest is here.
        """
        if first & 0x70:
            raise _Broken("a reserved bit is set, and no extension was agreed on")
        opcode = first & 0x0F
        if opcode >= _CLOSE:
            if opcode > _PONG:
                raise _Broken(f"there is no opcode {opcode:#x}")
            if not first & _FIN:
                raise _Broken("a control frame must not be fragmented")
            if second & 0x7F > _LONGEST_CONTROL:
                raise _Broken("a control frame is longer than 125 bytes", in_close=opcode == _CLOSE)
        elif opcode > _BINARY:
            raise _Broken(f"there is no opcode {opcode:#x}")
        if not second & _MASKED:
            raise _Broken("a client's frame must be masked")
        size = second & 0x7F
        start = at + 6
        if size >= 126:
            wide = 2 if size == 126 else 8
            start += wide
            if len(data) < at + 2 + wide:
                return None
            size = int.from_bytes(data[at + 2 : at + 2 + wide])
            if size < (126 if wide == 2 else 1 << 16):
                raise _Broken("a payload's length takes more bytes than it needs")
            if size >> 63:
                raise _Broken("a payload's length has its highest bit set")
        return None if len(data) < start else (start, size)

    def _begin(self, opcode: int, size: int) -> None:
        """A data frame of `size` bytes starts a message or continues the one in progress."""
        if opcode:
            if self._message is not None:
                raise _Broken("a new message begins inside a fragmented one")
            self._message, self._size = bytearray(), 0
            self._decoder = _new_decoder() if opcode == _TEXT and not self._discarding else None
        elif self._message is None:
            raise _Broken("a continuation frame continues nothing")
        self._size += size
        if self._size > self._max_message_bytes:
            raise _Broken(
                f"a message may have at most {self._max_message_bytes} bytes",
                CloseCode.MESSAGE_TOO_BIG,
            )

    def _continue_payload(self, data: bytes, at: int, events: list[Event]) -> int:
        """Take what is here of the current data frame's payload; return where it ends in `data`."""
        part = data[at : at + self._left]
        size = len(part)
        if self._left > size and size % 4:
            turn = size % 4
            part_mask, self._mask = self._mask, self._mask[turn:] + self._mask[:turn]
        else:
            part_mask = self._mask
        self._left -= size
        payload = _unmasked(part, part_mask)
        complete = self._final and not self._left
        message, decoder = self._message, self._decoder
        assert message is not None  # a payload belongs to a message in progress
        if decoder is not None:
            decoder.decode(payload, complete)
        if not self._discarding:
            message += payload
        if complete:
            if not self._discarding:
                events.append(bytes(message) if decoder is None else message.decode())
            self._message = self._decoder = None
        return at + size

    def _control(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        if opcode == _PING:
            events.append(Ping(payload))
        elif opcode == _PONG:
            events.append(Pong(payload))
        else:
            events.append(_read_close(payload))
            self._over = True


_new_decoder: Final = codecs.getincrementaldecoder("utf-8")


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    """`payload` with `mask` taken off: one exclusive-or of two long integers, in C."""
    size = len(payload)
    long_mask = (mask * (size // 4 + 1))[:size]
    return (_int(payload, "little") ^ _int(long_mask, "little")).to_bytes(size, "little")


def _read_close(payload: bytes) -> Close:
    """Section 7.4: which codes may be sent. Those that are only for local use may not."""
    if not payload:
        return Close(None)
    if len(payload) == 1:
        raise _Broken("a Close frame has half a code", in_close=True)
    code = int.from_bytes(payload[:2])
    # IANA has given 1014 since the RFC: it is understood, but many peers don't, so it isn't said.
    if not (may_be_sent(code) or code == 1014):
        raise _Broken(f"a Close frame must not bear the code {code}", in_close=True)
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        reason = "a Close frame's reason is not UTF-8"
        raise _Broken(reason, CloseCode.INVALID_DATA, in_close=True) from None
