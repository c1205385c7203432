"""Streams over HTTP in gzip (RFC 1952), whose events are compressed once for all clients. No I/O.

The body of a stream is one gzip member: a header, and segments behind it. A segment is a block of the
stream as raw deflate blocks (RFC 1951), which refer to nothing before them and end at a byte. So
segments can follow each other in any order, and the same segment goes to many clients. Short data, and
data for one client, is *stored*. It has a header of five bytes and isn't compressed. Each segment ends
with an empty block, because some inflaters (Go's) hand out nothing before that.

The member has no trailer, because its checksum would be different for every client. Clients read a
stream event by event, and those that were tried accept that end: see the docs.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from trionotify.connection.deflate import WINDOWS, deflated
from trionotify.connection.frames import Framing
from trionotify.connection.sse import LINES_UNCHUNKED, SSE, SSE_UNCHUNKED, chunk, unchunked

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HEADER", "LINES_ZIPPED", "SSE_ZIPPED", "stored_chunk", "zipper"]

#: A member's header, without a time or a name, from an unknown system, as the first chunk of a body.
HEADER: Final = chunk(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
#: The most bytes of a stored block, and a block without any.
_STORED: Final = 0xFFFF
_EMPTY: Final = b"\0\0\0\xff\xff"


def stored_chunk(block: str | bytes) -> bytes:
    """Return a block of a stream as one chunk of gzip, without compressing it."""
    data = unchunked(block)
    parts = [data[at : at + _STORED] for at in range(0, len(data), _STORED)]
    return chunk(b"".join([b"\0%b%b%b" % (*_lengths(len(part)), part) for part in parts]) + _EMPTY)


def _lengths(size: int) -> tuple[bytes, bytes]:
    return size.to_bytes(2, "little"), (size ^ _STORED).to_bytes(2, "little")


def zipper(threshold: int) -> Callable[[bytes], bytes | None]:
    """Return a function that compresses a block of at least `threshold` bytes to one chunk of gzip.

    The function returns None if the block is shorter, or doesn't get shorter.
    """
    return partial(_zipped_chunk, threshold=threshold)


def _zipped_chunk(block: bytes, threshold: int) -> bytes | None:
    if len(block) < threshold:
        return None
    found = deflated(block, WINDOWS[0])
    return chunk(found) if len(found) < len(block) else None


SSE_ZIPPED: Final = Framing(stored_chunk, SSE.close, stored_chunk(SSE_UNCHUNKED.ping))
LINES_ZIPPED: Final = Framing(stored_chunk, SSE.close, stored_chunk(LINES_UNCHUNKED.ping))
