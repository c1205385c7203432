"""`permessage-deflate` (RFC 7692): the negotiation, and the compression of frames. No I/O.

Every answer has `server_no_context_takeover`, so a message is compressed by itself and the same frame
goes to all clients. It also has `client_no_context_takeover`, so a client needs no memory either.

The server compresses in windows of 4 KiB, which in JSON find almost as much as larger ones. For a client
that can't keep so much, it makes frames with a window of 512 bytes: the two classes of `WINDOWS`. An
offer that asks for a smaller window, or breaks the rules of section 7.1, is declined. The client's next
offer may do. If none does, the connection is not compressed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import attrs

from trionotify.connection.frames import compressed_frame

__all__ = ["WINDOWS", "Deflate", "deflated", "deflater", "negotiate"]

_NAME: Final = "permessage-deflate"
#: The binary logarithms of the windows in which messages are compressed, the largest first.
WINDOWS: Final = (12, 9)
#: The largest window of a client that lets the server choose, and of all others.
_CLIENT_WINDOW: Final = 12
_LARGEST: Final = 15
#: zlib's deflater has no smaller window than 9. Some clients that say 8 use 9.
_SMALLEST_INFLATER: Final = 9
#: The level: higher ones take twice the time and save a few percent.
_LEVEL: Final = 1
#: The most offers that are considered.
_OFFERS: Final = 16


@attrs.frozen
class Deflate:
    """The extension as agreed on with one client."""

    #: The value of the header `Sec-WebSocket-Extensions` in the answer.
    answer: str
    #: The server's window, one of `WINDOWS`.
    window_bits: int
    #: The largest window that the client may use.
    client_window_bits: int


def negotiate(offers: str | None) -> Deflate | None:
    """Choose from a client's header `Sec-WebSocket-Extensions`; return None to decline all offers."""
    for offer in offers.split(",", _OFFERS)[:_OFFERS] if offers else ():
        name, *parts = [part.strip() for part in offer.split(";")]
        if name == _NAME:
            pairs = list(_parameters(parts))
            parameters = dict(pairs)
            if len(parameters) == len(pairs) and (agreed := _agree(parameters)):
                return agreed
    return None


def _parameters(parts: list[str]) -> Iterator[tuple[str, str | None]]:
    for part in parts:
        name, equals, value = part.partition("=")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        yield name.strip(), value if equals else None


def _agree(parameters: dict[str, str | None]) -> Deflate | None:
    """Return the agreement on one offer; None to decline it."""
    answer = [_NAME]
    for name in ("server_no_context_takeover", "client_no_context_takeover"):
        if parameters.pop(name, None) is not None:
            return None  # these have no value
        answer.append(name)
    window, client_window = WINDOWS[0], _LARGEST
    if "server_max_window_bits" in parameters:
        asked = _bits(parameters.pop("server_max_window_bits"))
        window = next((bits for bits in WINDOWS if bits <= asked), 0)
        if not window:
            return None
        answer.append(f"server_max_window_bits={window}")
    if "client_max_window_bits" in parameters:
        value = parameters.pop("client_max_window_bits")
        asked = _LARGEST if value is None else _bits(value)
        if not asked:
            return None
        client_window = min(asked, _CLIENT_WINDOW)
        answer.append(f"client_max_window_bits={client_window}")
    if parameters:
        return None  # unknown ones
    return Deflate("; ".join(answer), window, max(client_window, _SMALLEST_INFLATER))


def _bits(value: str | None) -> int:
    """Parse a window's size: 8 to 15 without leading zeros; return 0 for anything else."""
    return int(value) if value in {"8", "9", *map(str, range(10, 16))} else 0


def deflated(data: bytes | memoryview, window_bits: int) -> bytes:
    """Compress to raw deflate blocks (RFC 1951) that refer to nothing before them and end at a byte."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -window_bits)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def deflater(window_bits: int, threshold: int) -> Callable[[bytes], bytes | None]:
    """Return a function that compresses a frame whose payload has at least `threshold` bytes.

    The function returns None if the payload is shorter, or doesn't get shorter.
    """
    return partial(_deflated_frame, window_bits=window_bits, threshold=threshold)


def _deflated_frame(frame: bytes, window_bits: int, threshold: int) -> bytes | None:
    payload = memoryview(frame)[{126: 4, 127: 10}.get(frame[1], 2) :]
    if len(payload) < threshold:
        return None
    found = deflated(payload, window_bits)[:-4]  # section 7.2.1: without the end of the flush
    return compressed_frame(frame, found) if len(found) < len(payload) else None
