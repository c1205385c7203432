"""The form in which Redis stores an entry.

It is the row that a file would have (`rows`), without the columns that change, as MessagePack. In front
of it are the process that published the entry, and a number. By the number, that process recognizes its
own entry when it reads it, without decoding it.
"""

from __future__ import annotations

from hashlib import blake2b, sha1
from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec

from trionotify.errors import StoreError
from trionotify.model.text import without_subclass
from trionotify.storage.rows import content_of, entry_of

if TYPE_CHECKING:
    from trionotify.delivery.entry import Entry

__all__ = ["Stored", "chained", "key_of", "payload_of"]

#: The bytes of the process, and those of both together.
_PROCESS: Final = 8
_HEAD: Final = 16
_encode: Final = msgspec.msgpack.Encoder(enc_hook=without_subclass).encode
_decode: Final = msgspec.msgpack.Decoder(list[Any]).decode


@attrs.define
class Stored:
    """One entry, as read from Redis."""

    offset: int
    chain: str
    payload: bytes

    def number(self, process: bytes) -> int | None:
        """Return its number if that `process` published it, else None."""
        ours = self.payload.startswith(process)
        return int.from_bytes(self.payload[_PROCESS:_HEAD]) if ours else None

    def restored(self, process: bytes) -> Entry:
        """Return the entry with its offset, and with its `origin` if it is from this `process`.

        Raises `StoreError` for an entry in a form that this version can't read.
        """
        try:
            row = _decode(memoryview(self.payload)[_HEAD:])
            entry = entry_of((self.offset, 0, 0, *row, 0.0, 0), ours=self.payload.startswith(process))
        except (ValueError, TypeError, AttributeError, msgspec.MsgspecError):
            why = f"the notification at offset {self.offset} can't be read; this version may be too old"
            raise StoreError(503, why) from None
        entry.key = None  # Redis recognizes repetitions
        return entry


def payload_of(entry: Entry, process: bytes, number: int) -> bytes:
    """Return the bytes to store for an entry. `process` has eight."""
    return process + number.to_bytes(_HEAD - _PROCESS) + _encode(content_of(entry))


def key_of(entry: Entry) -> bytes:
    """Return the key by which Redis recognizes a repetition; empty if there can be none."""
    return b"" if entry.key is None else blake2b(_encode(entry.key), digest_size=16).digest()


def chained(chain: str, payload: bytes) -> str:
    """Return the chain after an entry. The scripts compute the same."""
    return sha1(chain.encode() + payload, usedforsecurity=False).hexdigest()[:16]
