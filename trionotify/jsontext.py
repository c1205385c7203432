"""JSON, by msgspec: strict, and fast enough for what comes from a network.

Strict means RFC 8259 to the letter: no NaN, no trailing comma, no lone surrogate, escaped or not.

A text may be nested `MAX_DEPTH` levels deep. Every parser has such a limit, but mostly it is what is
left of the stack: then one program takes what another, or the same one elsewhere, fails at. This limit
is counted, without recursion, and is far below what any client's parser takes.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Set
from datetime import date, time
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, NoReturn, TypeVar

import attrs
import msgspec

from trionotify.text import without_mark

__all__ = [
    "LONG",
    "MAX_DEPTH",
    "TooMany",
    "Verbatim",
    "check_json",
    "json_text",
    "read_items",
    "read_json",
    "read_members",
    "write_json",
]

#: Levels of arrays and objects inside each other.
MAX_DEPTH: Final = 128

#: Bytes or characters that are read within a turn, whatever they are. Longer ones, from a network, are
#: read one at a time (`turns`): a megabyte of nothing but brackets takes a tenth of a second.
LONG: Final = 1 << 15

#: The text of a JSON value, which is written as it was read.
Verbatim = msgspec.Raw

_read: Any = msgspec.json.Decoder().decode
_read_members: Any = msgspec.json.Decoder(dict[str, Verbatim]).decode
_check: Any = msgspec.json.Decoder(Verbatim).decode
write_json: Callable[[object], bytes] = msgspec.json.Encoder().encode


def read_json(text: str | bytes | Verbatim) -> Any:
    """The value that a JSON text is; raises ValueError that says what is wrong with it, and where."""
    if isinstance(text, Verbatim):
        return _guarded(_read, text)  # a part of what was looked at already
    return _not_deep(_guarded(_read, text), text)


def read_members(text: str | bytes, max_depth: int = MAX_DEPTH + 1) -> dict[str, Verbatim]:
    """The members of a JSON object, each as its text; raises as `read_json` does.

    Each may be as deep as a text: of an event, it is the data that has the limit.
    """
    members: dict[str, Verbatim] = _guarded(_read_members, without_mark(text))
    return _not_deep(members, text, max_depth)


def check_json(text: str | bytes) -> None:
    """Return if this is a JSON text; raises as `read_json` does.

    It is passed on as it is: so there must be no byte order mark in it, at which most readers fail.
    """
    if text != without_mark(text):
        raise ValueError("not JSON that can be read: it begins with a byte order mark")
    _not_deep(_guarded(_check, text), text)


def json_text(value: object) -> str:
    """The JSON of an application's value, by Python's own `json`, which applications know.

    (msgspec would write NaN as `null`, and bytes as Base64.) Raises TypeError or ValueError that begins
    with `json`, and says what to do.
    """
    try:
        return json.dumps(
            value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_not_json
        )
    except RecursionError:
        raise ValueError(f"json: {_TOO_DEEP}") from None
    except TypeError as error:
        raise TypeError(f"json: {error}") from None
    except ValueError as error:
        reason = "NaN and Infinity can't be written as JSON: use None instead"
        if "Circular" in str(error):
            reason = "it contains itself: leave that part out"
        raise ValueError(f"json: {reason}") from None


def _not_json(value: object) -> NoReturn:
    if dataclasses.is_dataclass(value):
        way = "dataclasses.asdict(value)"
    elif attrs.has(type(value)):
        way = "attrs.asdict(value)"
    elif isinstance(value, Set):
        way = "list(value)"
    else:
        way = "value.isoformat()" if isinstance(value, date | time) else "str(value)"
    kind = type(value).__name__
    raise TypeError(
        f"a value of type {kind} can't be written as JSON: convert it, for example with {way}"
    )


class TooMany(ValueError):
    """An array has more items than there may be."""


def read_items(text: bytes, most: int) -> list[Verbatim]:
    """The items of a JSON array, each as its text; raises as `read_json` does. How deep they are isn't
    looked at.

    Raises `TooMany` at the first item beyond the `most` that there may be, and reads no further: eight
    million of them fit into a body, and would take half a gigabyte.
    """
    decoder = _items_decoder(most)

    def read(text: bytes) -> Any:
        try:
            return decoder.decode(text)
        except msgspec.ValidationError:
            if not _ARRAY.match(text):
                raise
            raise TooMany(f"at most {most} items are allowed") from None

    items = _guarded(read, without_mark(text))
    return [item for item in msgspec.structs.astuple(items) if item is not msgspec.UNSET]


@lru_cache(maxsize=8)
def _items_decoder(most: int) -> msgspec.json.Decoder[Any]:
    """A decoder that stops at the first item too many.

    It reads a record of so many optional fields that is written as an array. (A list that has a
    `max_length` is read to its end before that is checked.)
    """
    fields = [(f"item{number}", msgspec.UnsetType | Verbatim, msgspec.UNSET) for number in range(most)]
    return msgspec.json.Decoder(
        msgspec.defstruct("Items", fields, array_like=True, forbid_unknown_fields=True)
    )


def _guarded(read: Any, text: str | bytes | Verbatim) -> Any:
    try:
        return read(text)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not JSON that can be read: {error}") from None
    except RecursionError:
        raise ValueError(f"not JSON that can be read: {_TOO_DEEP}") from None
    except UnicodeError:
        raise ValueError("not JSON that can be read: it isn't UTF-8") from None


Value = TypeVar("Value")


def _not_deep(value: Value, text: str | bytes, most: int = MAX_DEPTH) -> Value:
    """Return `value`, which `text` is, if that isn't nested too deep; else raise ValueError."""
    if isinstance(text, str):
        brackets = text.count("[") + text.count("{")
    else:
        brackets = text.count(b"[") + text.count(b"{")
    if brackets > most and _depth(text.encode() if isinstance(text, str) else text) > most:
        raise ValueError(f"not JSON that can be read: {_TOO_DEEP}")
    return value


def _depth(text: bytes) -> int:
    """How many levels a JSON text has. The loops are in C: strings go, then all but the brackets."""
    brackets = _STRING.sub(b"", text).translate(_STEPS, _NO_BRACKETS)
    # Without those that hold no others, a text is one level lower. That is ten times as fast as
    # counting, as long as it leaves much less.
    levels = 0
    while len(brackets) > len(fewer := brackets.replace(_PAIR, b"")):
        gone = len(brackets) - len(fewer)
        levels, brackets = levels + 1, fewer
        if gone < len(fewer) >> 3:
            break
    return levels + max(accumulate(memoryview(brackets).cast("b")), default=0)


_TOO_DEEP: Final = f"nested too deep, at most {MAX_DEPTH} levels are allowed"
_ARRAY: Final = re.compile(rb"[ \t\r\n]*\[")
#: (The quantifiers are possessive: without a way back, there is nothing to remember for each character.)
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
#: One up, one down, as signed bytes.
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_PAIR: Final = b"\x01\xff"
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[{]}"))
