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
from collections.abc import Callable, Container, Iterator, Mapping, Set
from datetime import date, time
from itertools import accumulate
from typing import Any, Final, NoReturn, TypeVar

import attrs
import msgspec

from trionotify.model.text import without_mark

__all__ = [
    "LONG",
    "MAX_DEPTH",
    "TooLong",
    "TooMany",
    "Verbatim",
    "check_json",
    "cut_items",
    "json_text",
    "read_json",
    "read_members",
    "read_values",
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
_read_items: Any = msgspec.json.Decoder(list[Verbatim]).decode
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


def read_values(members: Mapping[str, Verbatim], but: Container[str]) -> dict[str, Any]:
    """The values of the members that `read_members` has found, `but` for some; raises as it does."""

    def read(found: Mapping[str, Verbatim]) -> dict[str, Any]:
        return {name: _read(raw) for name, raw in found.items() if name not in but}

    return _guarded(read, members)  # type: ignore[no-any-return] # it is what `read` returns


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


class TooLong(ValueError):
    """The item with this number is longer than it may be."""

    def __init__(self, number: int) -> None:
        super().__init__(f"the item number {number} is too long")
        self.number = number


def cut_items(text: bytes, most: int, longest: int) -> Iterator[list[bytes]]:
    """Cut a JSON array into its items, each as its text; yields some at a time, or none.

    In between others may have a turn. Only what stands around the items is checked: they are to be read
    one by one. Raises ValueError for what is no array, `TooMany` at the first item beyond `most`, and
    `TooLong` for one of more than `longest` bytes. Nothing behind that is looked at.
    """
    text = without_mark(text)
    items = _all_items(text, most, longest) if len(text) <= LONG else None
    if items is None:
        yield from _cut(text, most, longest)
    else:
        yield items


def _all_items(text: bytes, most: int, longest: int) -> list[bytes] | None:
    """The items of an array that can be read within a turn; None if anything is wrong with it.

    To cut it piece by piece takes longer, but tells what is wrong, and with which item.
    """
    try:
        items = _read_items(text)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if len(items) > most:
        return None
    found = [bytes(item) for item in items]
    return found if max(map(len, found), default=0) <= longest else None


def _cut(text: bytes, most: int, longest: int) -> Iterator[list[bytes]]:
    """See `cut_items`: the items that end within a piece of the text, for one piece after the other."""
    opened = _ARRAY.match(text)
    if opened is None:
        raise ValueError("not JSON that can be read: it isn't an array")
    begun, number, closed = opened.end(), 0, False
    found: list[bytes] = []
    for at, mark in _marks(text, begun):
        if mark is None:
            if at - begun <= _WINDOW and not text[begun:at].strip(_SPACE):
                begun = at
            elif at - begun > longest + _WINDOW:
                raise TooLong(number + 1)
            yield found
            found = []
            continue
        if mark == b"}":
            raise ValueError("not JSON that can be read: it closes an object that isn't open")
        item, closed = text[begun:at].strip(_SPACE), mark == b"]"
        begun = at + 1
        if item or number or not closed:  # else the array is empty
            number += 1
            if number > most:
                raise TooMany(f"at most {most} items are allowed")
            if len(item) > longest:
                raise TooLong(number)
            found.append(item)
        if closed:
            break
    yield found
    if not closed or text[begun:].strip(_SPACE):
        raise ValueError("not JSON that can be read: the array has no end, or something behind it")


def _marks(text: bytes, at: int) -> Iterator[tuple[int, bytes | None]]:
    """Where the commas and the end of an array are that begins in front of `at`.

    And None behind each window.
    """
    depth, in_string = 0, False
    while at < len(text):
        if in_string:
            # (One byte more than a window: so there is always a whole escape in it.)
            at = _INSIDE.match(text, at, at + _WINDOW + 1).end()  # type: ignore[union-attr] # or it is empty
            if text[at : at + 1] == b'"':
                in_string = False
                at += 1
            elif at + 1 >= len(text):
                return
            yield at, None
            continue
        ahead = min(at + _WINDOW, len(text))
        for token in _TOKEN.finditer(text, at, ahead):
            mark = token[0]
            if mark == b'"':  # its end isn't within this window
                in_string, ahead = True, token.start() + 1
                break
            if mark in _OPENING:
                depth += 1
            elif depth and mark in _CLOSING:
                depth -= 1
            elif not depth and len(mark) == 1:
                yield token.start(), mark
        at = ahead
        yield at, None


def _guarded(read: Any, text: object) -> Any:
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
_INSIDE: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
#: Arrays and objects that hold no others, or none but such. Most items are that, and are one token.
_FLAT: Final = rb'[\[{](?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+[\]}]'
_LOW: Final = rb'[\[{](?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+"|' + _FLAT + rb")*+[\]}]"
#: What stands between the items of an array. (A quotation mark by itself: its string goes on.)
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|' + _LOW + rb'|["\[\]{},]', re.DOTALL)
_OPENING: Final = (b"[", b"{")
_CLOSING: Final = (b"]", b"}")
_SPACE: Final = b" \t\r\n"
#: Bytes of an array that are looked at within a turn.
_WINDOW: Final = 1 << 11
#: One up, one down, as signed bytes.
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_PAIR: Final = b"\x01\xff"
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[{]}"))
