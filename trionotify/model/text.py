"""Text from outside: the byte order mark in front of it, what a name may have in it, and its memory.

Editors on Windows put a byte order mark in front of what they save as UTF-8. It is no part of the text
(RFC 8259, section 8.1: a reader of JSON may ignore it), so it is taken off where text is read from
somewhere else. There is no I/O, and no state.
"""

from __future__ import annotations

import codecs
import re
from typing import Final, overload

__all__ = [
    "FORBIDDEN",
    "MAX_ID",
    "check_id",
    "check_seconds",
    "decoded",
    "decoded_memory",
    "memory_of",
    "without_mark",
]

#: Characters of an `id`, and of a `to`.
MAX_ID: Final = 255
#: CloudEvents 1.0, section "Type System": control characters, lone surrogates and the Unicode
#: non-characters have no place in a String.
FORBIDDEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)
#: A time in seconds since 1970 comes to this in the year 5138, one in milliseconds came in 1973.
_TOO_LATE: Final = 1e11
_MARK: Final = "\ufeff"


def check_id(name: str, value: str) -> None:
    """Return if a client can be called `value`, and a notification be for it; else raise ValueError.

    These are people's names, so they may have joiners (U+200C, U+200D) and spaces of any kind.
    """
    if not value or len(value) > MAX_ID:
        raise ValueError(f"{name}: 1 to {MAX_ID} characters are needed, not {len(value)}")
    if not value.isprintable() and (bad := FORBIDDEN.search(value)):
        raise ValueError(f"{name}: the character {bad.group()!r} can't be in it")


def check_seconds(name: str, moment: float) -> None:
    """Return if this can be a time in seconds since 1970; else raise ValueError.

    Many a program counts in milliseconds: what it means to be over in an hour would never be.
    """
    if not moment < _TOO_LATE:
        raise ValueError(
            f"{name}: must be in seconds since 1970, not in milliseconds, but is {moment:g}"
        )


@overload
def without_mark(text: str) -> str: ...


@overload
def without_mark(text: bytes) -> bytes: ...


@overload
def without_mark(text: str | bytes) -> str | bytes: ...


def without_mark(text: str | bytes) -> str | bytes:
    """The text without a byte order mark in front of it."""
    return text.removeprefix(_MARK) if isinstance(text, str) else text.removeprefix(codecs.BOM_UTF8)


def decoded(data: bytes) -> str:
    """The text of a file in UTF-8, without its mark; raises ValueError for another encoding."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it begins with the byte order mark of UTF-16: save it as UTF-8")
    return without_mark(data).decode()


def decoded_memory(data: bytes) -> int:
    """The most bytes of memory that `data` can take as text, as soon as it is decoded.

    CPython gives each character of a text as much room as its widest one needs: one that is encoded in
    four bytes, such as an emoji, makes a text four times as large.
    """
    if data.isascii():
        return len(data)
    return len(data) * (4 if any(lead in data for lead in _WIDE) else 2)


#: The first byte of a character that is encoded in four bytes.
_WIDE: Final = [bytes([lead]) for lead in range(0xF0, 0xF5)]


def memory_of(text: str) -> int:
    """Bytes of memory that a text takes, beside the head of its object.

    Unless all are ASCII, each character takes what the widest does. And the UTF-8 comes on top: Python
    keeps it beside a text that msgspec or SQLite has once asked for it.
    """
    size = len(text)
    if text.isascii():
        return size
    units = len(text.encode("utf-16-le", "surrogatepass")) // 2
    widest = 2 if units == size else 4
    return widest * size + len(text.encode(errors="surrogatepass"))
