"""Compressed messages from clients (RFC 7692, section 7.2.2): a parser that inflates. No I/O, no Trio.

Only a connection that has agreed to `permessage-deflate` has this parser. Its inflater is created at the
first compressed message and keeps its window from message to message, because some clients refer to
earlier messages although they are told not to (Safari).

A few bytes may inflate to a thousand times as many. So the parser stops at `max_message_bytes` while it
inflates, and what comes out of a message counts in the turn of a read.
"""

from __future__ import annotations

import zlib
from typing import Final

from trionotify.connection.frames import Broken, Event, FrameParser
from trionotify.errors import CloseCode

__all__ = ["InflatingParser"]

_RSV1: Final = 0x40
#: The end of a flushed block, which the sender leaves out.
_TAIL: Final = b"\x00\x00\xff\xff"
#: Inflating this many bytes takes as long as parsing a common frame.
_FRAME: Final = 1 << 12
#: The most final blocks in one message (section 7.2.3.4). Behind each, a new inflater begins.
_FINAL_BLOCKS: Final = 16


class InflatingParser(FrameParser):
    """Parses compressed and plain messages. No window of its client is larger than `window_bits`."""

    __slots__ = ("_compressed", "_inflater", "_rsv1", "_window_bits")

    def __init__(self, max_message_bytes: int, window_bits: int) -> None:
        super().__init__(max_message_bytes)
        self._window_bits = window_bits
        self._inflater: zlib._Decompress | None = None
        self._rsv1 = False  # of the header that was read last
        self._compressed = False  # whether the message in progress is

    def _read_header(self, data: bytes, at: int, first: int, second: int) -> tuple[int, int] | None:
        self._rsv1 = bool(first & _RSV1)
        if self._rsv1 and not 0 < first & 0x0F < 8:
            raise Broken("only the first frame of a message may have the bit RSV1")
        return super()._read_header(data, at, first & ~_RSV1, second)

    def _begin(self, opcode: int, size: int) -> None:
        super()._begin(opcode, size)
        if opcode:
            self._compressed = self._rsv1

    def _add(self, payload: bytes, complete: bool, events: list[Event]) -> None:
        self._work = 0
        if self._compressed and not self._discarding:
            payload = self._inflated(payload + _TAIL if complete else payload)
            self._work = len(payload) // _FRAME
        super()._add(payload, complete, events)

    def _inflated(self, payload: bytes) -> bytes:
        """Inflate the next part of the message in progress."""
        room = self._max_message_bytes - len(self._message or b"")
        found = b""
        for _ in range(_FINAL_BLOCKS):
            if self._inflater is None or self._inflater.eof:
                self._inflater = zlib.decompressobj(-self._window_bits)
            try:
                # One byte more than there is room for, because 0 would mean that there is no limit.
                found += self._inflater.decompress(payload, room - len(found) + 1)
            except zlib.error:
                break
            if len(found) > room:
                raise Broken(
                    f"a message may have at most {self._max_message_bytes} bytes inflated",
                    CloseCode.MESSAGE_TOO_BIG,
                )
            payload = self._inflater.unused_data
            if not payload:
                return found
        raise Broken("a compressed message is damaged", CloseCode.INVALID_DATA)
