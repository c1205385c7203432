"""Text from outside: its byte order mark, the characters of names, and its memory.

Editors on Windows put a byte order mark in front of text that they save as UTF-8. It isn't a part of the
text (RFC 8259, section 8.1: a reader of JSON may ignore it), so it is removed from text that comes from
outside. There is no I/O, and no state.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, overload

__all__ = [
    "FORBIDDEN",
    "LAST_SECOND",
    "MAX_ID",
    "check_id",
    "check_seconds",
    "check_unicode",
    "decoded",
    "decoded_memory",
    "memory_of",
    "texts_of",
    "without_mark",
    "without_subclass",
]

#: The most characters of an `id`, and of a `to`.
MAX_ID: Final = 255
#: CloudEvents 1.0, section "Type System": control characters, lone surrogates and the Unicode
#: non-characters have no place in a String.
FORBIDDEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)
#: A time in seconds since 1970 reaches this in the year 5138, a time in milliseconds in 1973.
LAST_SECOND: Final = 1e11 - 1
_MARK: Final = "\ufeff"


def check_id(name: str, value: str) -> None:
    """Raise ValueError if `value` can't be the `id` of a client.

    An `id` may be a person's name, so it may have joiners (U+200C, U+200D) and spaces of any kind.
    """
    if not value or len(value) > MAX_ID:
        raise ValueError(f"{name}: must have 1 to {MAX_ID} characters, not {len(value)}")
    if not value.isprintable() and (bad := FORBIDDEN.search(value)):
        raise ValueError(f"{name}: must not contain the character {bad.group()!r}")


def check_seconds(name: str, moment: float) -> None:
    """Raise ValueError if this can't be a time in seconds since 1970.

    Some programs count in milliseconds by mistake. Then a time one hour ahead would never come.
    """
    if not moment <= LAST_SECOND:
        raise ValueError(
            f"{name}: must be in seconds since 1970, not in milliseconds, so {moment:g} is too large"
        )


def check_unicode(name: str, text: str) -> None:
    """Raise ValueError if `text` has a lone surrogate, which UTF-8 can't encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: must not contain the character {text[error.start]!r}") from None


def texts_of(name: str, value: object) -> tuple[str, ...]:
    """Return the texts of an option that takes one or several; raises TypeError for anything else."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable):
        raise TypeError(f"{name}: must be one text or several, not {type(value).__name__}")
    texts = tuple(value)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name}: must be str, not {type(text).__name__}")
    return texts


@overload
def without_mark(text: str) -> str: ...


@overload
def without_mark(text: bytes) -> bytes: ...


@overload
def without_mark(text: str | bytes) -> str | bytes: ...


def without_mark(text: str | bytes) -> str | bytes:
    """Remove a byte order mark from the start of the text."""
    return text.removeprefix(_MARK) if isinstance(text, str) else text.removeprefix(codecs.BOM_UTF8)


def without_subclass(value: object) -> object:
    """Return text, bytes or a number of a subclass as Python's own type.

    msgspec writes no other. Raises TypeError for anything else.
    """
    for kind, convert in _CONVERT.items():
        if isinstance(value, kind):
            return convert(value)
    raise TypeError(f"JSON has no values of type {type(value).__name__}")


#: (Not the types themselves, which would ask the subclass.)
_CONVERT: Final[dict[type, Callable[[Any], object]]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: bytes(memoryview(value)),
}


def decoded(data: bytes) -> str:
    """Decode a file in UTF-8, without its byte order mark. Raises ValueError for another encoding."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("starts with the byte order mark of UTF-16; save it as UTF-8")
    try:
        return without_mark(data).decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8; save the file as UTF-8") from None


def decoded_memory(data: bytes) -> int:
    """Return the most bytes of memory that `data` takes once it is decoded.

    CPython gives each character of a text as much memory as its widest one needs. A character of four
    bytes, such as an emoji, makes the whole text four times as large.
    """
    if data.isascii():
        return len(data)
    return len(data) * (4 if any(lead in data for lead in _WIDE) else 2)


#: The first byte of a character that is encoded in four bytes.
_WIDE: Final = [bytes([lead]) for lead in range(0xF0, 0xF5)]


def memory_of(text: str) -> int:
    """Return the bytes of memory that a text takes, besides the header of its object.

    Unless all characters are ASCII, each takes as much as the widest. The UTF-8 comes in addition,
    because Python keeps it with the text after msgspec or SQLite has asked for it.
    """
    size = len(text)
    if text.isascii():
        return size
    units = len(text.encode("utf-16-le", "surrogatepass")) // 2
    widest = 2 if units == size else 4
    return widest * size + len(text.encode(errors="surrogatepass"))
