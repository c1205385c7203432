"""WebSocket frames (RFC 6455): bytes to messages, messages to bytes. No I/O, no Trio.

An outgoing frame is one `bytes` object, because the same frame goes to many clients.

`FrameParser.feed` takes the bytes of one read and returns everything that they complete, in order.
Messages are plain `str` and `bytes`. Control frames are `Ping`, `Pong` and `Close`. The last item may
be a `Fault`, after which the parser ignores everything. What came before a fault is returned before it,
so a broken frame doesn't undo the good ones. One read may hold ten thousand tiny frames. So you can
tell `feed` to stop after some, and call it again for the others.

The parser never waits for a whole message. It unmasks a payload and decodes text as it arrives, so bad
UTF-8 ends the connection at the bad byte and not a gigabyte later. It compares a length with the limit
when it reads the frame's header, before it stores any payload.

It leaves out compression (RFC 7692, see `deflate` and `inflate`) and the client's side of the protocol.
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
    "Broken",
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
    "compressed_frame",
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
_RSV1: Final = 0x40
_MASKED: Final = 0x80
_WHOLE: Final = (_FIN | _TEXT, _FIN | _BINARY)
_LONGEST_CONTROL: Final = 125
#: The additional cost of an uncommon frame, in common frames.
_LONG_WAY: Final = 3
_int: Final = int.from_bytes
# These pack the header of an unmasked frame, by the length of its payload.
_SHORT: Final = struct.Struct("!BB").pack
_MEDIUM: Final = struct.Struct("!BBH").pack
_LONG: Final = struct.Struct("!BBQ").pack


def message_frame(data: str | bytes | None) -> bytes:
    """Return a message as one frame: text for str, binary for bytes, empty text for None."""
    if isinstance(data, bytes):
        return _frame(_BINARY, data)
    return _frame(_TEXT, data.encode() if data else b"")


def text_frame(payload: bytes) -> bytes:
    """Return the frame of a text message whose payload is UTF-8 already."""
    return _frame(_TEXT, payload)


def compressed_frame(frame: bytes, payload: bytes) -> bytes:
    """Return `frame` with its payload replaced by the compressed one (RFC 7692, section 6)."""
    return _frame(frame[0] & 0x0F | _RSV1, payload)


def ping_frame(payload: bytes = b"") -> bytes:
    """Return a Ping frame. `payload` has at most 125 bytes."""
    return _frame(_PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """Return the Pong frame that answers a Ping with this `payload`."""
    return _frame(_PONG, payload)


def close_frame(code: int | None, reason: str = "") -> bytes:
    """Return a Close frame, without a code if that is None. A long `reason` is cut to 123 bytes."""
    if code is None:
        return _frame(_CLOSE, b"")
    return _frame(_CLOSE, code.to_bytes(2) + cut_reason(reason))


def cut_reason(reason: str) -> bytes:
    """Cut a Close reason to the 123 bytes of UTF-8 that fit into a Close frame."""
    text = reason.encode(errors="replace")[: _LONGEST_CONTROL - 2]
    # Cutting may have split a character, but a Close reason must be UTF-8, too (section 5.5.1).
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
    """The functions by which a connection writes a message and its end, and its ping."""

    message: Callable[[str | bytes], bytes]
    close: Callable[[int | None, str], bytes]
    ping: bytes


WEBSOCKET: Final = Framing(message_frame, close_frame, ping_frame())


class Parser(Protocol):
    """The interface of a parser, which turns bytes into messages and control frames."""

    @property
    def behind(self) -> bool:
        """Whether bytes are left unparsed, because `feed` was told to stop before them."""

    @property
    def held(self) -> int:
        """The bytes kept of incomplete messages and frames."""

    def discard(self) -> None:
        """Keep no messages from now on."""

    def feed(self, data: bytes, most: int = ..., /) -> list[Event]:
        """Return what these bytes complete, in order. After `most` frames it stops and is `behind`."""


class Nothing:
    """A parser that ignores everything, for a stream or a connection that is over."""

    behind = False
    held = 0

    def discard(self) -> None:
        """Do nothing."""

    def feed(self, data: bytes, most: int = 0, /) -> list[Event]:
        """Ignore the bytes."""
        return []


@attrs.frozen
class Ping:
    """The peer asks for a Pong with the same payload."""

    payload: bytes


@attrs.frozen
class Pong:
    """The peer answered a Ping, or sent an unsolicited Pong."""

    payload: bytes


@attrs.frozen
class Close:
    """The peer closes. `code` is None if its frame had none. Nothing is parsed behind it."""

    code: int | None
    reason: str = ""


@attrs.frozen
class Fault:
    """The peer violated the protocol. Close with `code` and `reason`. Nothing is parsed behind it.

    `in_close`: the violation was in its Close frame, so the peer won't send anything else.
    """

    code: CloseCode
    reason: str
    in_close: bool = False


Event = str | bytes | Ping | Pong | Close | Fault


class Broken(Exception):
    """Carries the fault out of the nested steps of one `feed`."""

    def __init__(
        self, reason: str, code: CloseCode = CloseCode.PROTOCOL_ERROR, in_close: bool = False
    ) -> None:
        super().__init__(reason)
        self.fault: Fault = Fault(code, reason, in_close)


class FrameParser:
    """Parses one client's bytes. Created with its connection, fed by the task that reads.

    Between two calls it holds at most one incomplete header or control frame, the bytes of an
    incomplete message that have arrived, however small its fragments (never more than
    `max_message_bytes`), and while it is `behind`, the rest of what it was fed.
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
        "_work",
        "behind",
    )

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._buffer = b""  # bytes that aren't a complete header or control frame yet
        self._over = False
        # The message in progress, or None. Text is checked as it arrives but decoded only at the end,
        # because many small strings take many times the memory of their bytes.
        self._message: bytearray | None = None
        self._decoder: codecs.IncrementalDecoder | None = None  # None: binary
        self._size = 0  # in bytes, as announced by its headers so far
        # The data frame whose payload is still arriving, if any.
        self._left = 0
        self._mask = b""
        self._final = False
        self._discarding = False
        self._work = 0  # for the frame before, in addition, in common frames
        #: Whether bytes are left unparsed.
        self.behind: bool = False

    def discard(self) -> None:
        """Keep no messages from now on. Frames are still parsed, because a Close may come."""
        self._discarding, self._decoder = True, None
        if self._message is not None:
            self._message = bytearray()

    @property
    def held(self) -> int:
        """The bytes kept: those of the message in progress, and unparsed ones."""
        return len(self._buffer) + (0 if self._message is None else len(self._message))

    def feed(self, data: bytes, most: int = sys.maxsize, /) -> list[Event]:
        """Take the bytes of one read; return what they complete, in order.

        After `most` common frames, or fewer uncommon ones, which take longer, it stops and is `behind`.
        Then call it again with b"" or with further bytes.
        """
        events: list[Event] = []
        if self._over:
            return events
        try:
            self._parse(self._buffer + data if self._buffer else data, events, most)
        except Broken as broken:
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
            # The common frame, a whole message below 64 KiB that is all here, takes the short path.
            # Any other frame takes the long path, which reports what is wrong with it.
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
            most -= _LONG_WAY + self._work
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
        """Check the header at `at`; return where its payload starts and its size, or None if cut off.

        A violation in the first two bytes is reported at once, whether or not the rest is here.
        """
        if first & 0x70:
            raise Broken("a reserved bit is set, but no negotiated extension uses it")
        opcode = first & 0x0F
        if opcode >= _CLOSE:
            if opcode > _PONG:
                raise Broken(f"unknown opcode {opcode:#x}")
            if not first & _FIN:
                raise Broken("a control frame must not be fragmented")
            if second & 0x7F > _LONGEST_CONTROL:
                raise Broken("a control frame must have at most 125 bytes", in_close=opcode == _CLOSE)
        elif opcode > _BINARY:
            raise Broken(f"unknown opcode {opcode:#x}")
        if not second & _MASKED:
            raise Broken("a client's frame must be masked")
        size = second & 0x7F
        start = at + 6
        if size >= 126:
            wide = 2 if size == 126 else 8
            start += wide
            if len(data) < at + 2 + wide:
                return None
            size = int.from_bytes(data[at + 2 : at + 2 + wide])
            if size < (126 if wide == 2 else 1 << 16):
                raise Broken("a payload length must use as few bytes as possible")
            if size >> 63:
                raise Broken("the highest bit of a payload length must be 0")
        return None if len(data) < start else (start, size)

    def _begin(self, opcode: int, size: int) -> None:
        """Start a message, or continue the one in progress, with a data frame of `size` bytes."""
        if opcode:
            if self._message is not None:
                raise Broken("a new message must not start inside a fragmented one")
            self._message, self._size = bytearray(), 0
            self._decoder = _new_decoder() if opcode == _TEXT and not self._discarding else None
        elif self._message is None:
            raise Broken("a continuation frame has no message to continue")
        self._size += size
        if self._size > self._max_message_bytes:
            raise Broken(
                f"a message may have at most {self._max_message_bytes} bytes",
                CloseCode.MESSAGE_TOO_BIG,
            )

    def _continue_payload(self, data: bytes, at: int, events: list[Event]) -> int:
        """Take the available payload of the current data frame; return where it ends in `data`."""
        part = data[at : at + self._left]
        size = len(part)
        if self._left > size and size % 4:
            turn = size % 4
            part_mask, self._mask = self._mask, self._mask[turn:] + self._mask[:turn]
        else:
            part_mask = self._mask
        self._left -= size
        payload = _unmasked(part, part_mask)
        self._add(payload, self._final and not self._left, events)
        return at + size

    def _add(self, payload: bytes, complete: bool, events: list[Event]) -> None:
        """Add a part of its payload to the message in progress, whose last part is `complete`."""
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
    """Unmask `payload` with one exclusive-or of two long integers, in C."""
    size = len(payload)
    long_mask = (mask * (size // 4 + 1))[:size]
    return (_int(payload, "little") ^ _int(long_mask, "little")).to_bytes(size, "little")


def _read_close(payload: bytes) -> Close:
    """Check a Close frame (section 7.4). Codes that are only for local use must not be sent."""
    if not payload:
        return Close(None)
    if len(payload) == 1:
        raise Broken("a Close frame has an incomplete code", in_close=True)
    code = int.from_bytes(payload[:2])
    # IANA assigned 1014 after the RFC. It is accepted, but not sent, because many peers don't know it.
    if not (may_be_sent(code) or code == 1014):
        raise Broken(f"a Close frame must not have the code {code}", in_close=True)
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        reason = "a Close frame's reason is not UTF-8"
        raise Broken(reason, CloseCode.INVALID_DATA, in_close=True) from None
