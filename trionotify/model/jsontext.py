"""JSON, by msgspec: strict, and fast enough for what comes from a network.

Strict means RFC 8259 to the letter: no NaN, no trailing comma, no lone surrogate, escaped or not.

A text may be nested `MAX_DEPTH` levels deep. Every parser has such a limit, but mostly it is the
remaining stack. Then one program accepts what another program, or the same one in another place, fails
at. This limit is counted, without recursion, and is far below what any client's parser takes.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Container, Iterator, Mapping, Set
from datetime import date, time
from itertools import accumulate
from typing import Any, Final, NoReturn

import attrs
import msgspec

from trionotify.model.text import without_mark, without_subclass

__all__ = [
    "LONG",
    "MAX_DEPTH",
    "TooLong",
    "TooMany",
    "Verbatim",
    "check_depth",
    "check_json",
    "check_numbers",
    "cut_items",
    "json_text",
    "read_json",
    "read_members",
    "read_values",
    "write_json",
]

#: Levels of arrays and objects inside each other.
MAX_DEPTH: Final = 128

#: Any text of up to this many bytes or characters is parsed within a turn. Longer ones, from a network,
#: are parsed one at a time (`turns`), because a megabyte of nothing but brackets takes a tenth of a
#: second.
LONG: Final = 1 << 15

#: The beginning of msgspec's errors about syntax. Ours begin with as much.
_MALFORMED: Final = "JSON is malformed: "

#: The text of a JSON value, which is written unchanged.
Verbatim = msgspec.Raw

_read: Any = msgspec.json.Decoder().decode
_read_members: Any = msgspec.json.Decoder(dict[str, Verbatim]).decode
_read_items: Any = msgspec.json.Decoder(list[Verbatim]).decode
_check: Any = msgspec.json.Decoder(Verbatim).decode

write_json: Callable[[object], bytes] = msgspec.json.Encoder(enc_hook=without_subclass).encode


def read_json(text: str | bytes | Verbatim) -> Any:
    """Parse a JSON text. Raises ValueError that names the fault and where it is."""
    if isinstance(text, Verbatim):
        return _guarded(_read, text)  # a part of what was looked at already
    value = _guarded(_read, text)
    check_depth(text)
    return value


def read_members(text: str | bytes, max_depth: int = MAX_DEPTH + 1) -> dict[str, Verbatim]:
    """Parse a JSON object; return its members, each as its text. Raises as `read_json` does.

    Each may be as deep as a text, because the limit of an event applies to its data.
    """
    members: dict[str, Verbatim] = _guarded(_members_of, without_mark(text))
    check_depth(text, max_depth)
    return members


def _members_of(text: str | bytes) -> Any:
    try:
        return _read_members(text)
    except msgspec.ValidationError:
        raise ValueError("must be a JSON object") from None


def read_values(members: Mapping[str, Verbatim], but: Container[str]) -> dict[str, Any]:
    """Parse members from `read_members`, except those in `but`. Raises as it does."""

    def read(found: Mapping[str, Verbatim]) -> dict[str, Any]:
        return {name: _read(raw) for name, raw in found.items() if name not in but}

    return _guarded(read, members)  # type: ignore[no-any-return] # it is what `read` returns


def check_json(text: str | bytes) -> None:
    """Raise as `read_json` does if this isn't a JSON text.

    The text is passed on unchanged, so it must not have a byte order mark, at which most readers fail.
    """
    if text != without_mark(text):
        raise ValueError("not valid JSON: it starts with a byte order mark")
    _guarded(_check, text)
    check_depth(text)


def json_text(value: object, name: str = "json") -> str:
    """Return an application's value as JSON, by Python's own `json`, which applications know.

    (msgspec would write NaN as `null`, and bytes as Base64.) Raises TypeError or ValueError that begins
    with `name`, and names the fix.
    """
    try:
        return json.dumps(
            value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_not_json
        )
    except RecursionError:
        raise ValueError(f"{name}: {_TOO_DEEP}") from None
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    except ValueError as error:
        reason = "NaN and Infinity can't be written as JSON; use None"
        if "Circular" in str(error):
            reason = "a value that contains itself can't be written as JSON; leave that part out"
        raise ValueError(f"{name}: {reason}") from None


def check_numbers(value: object, name: str) -> None:
    """Raise ValueError that begins with `name` if `write_json` would write a number as `null`."""
    json_text(msgspec.to_builtins(value, str_keys=True, enc_hook=without_subclass), name)


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
        f"a value of type {kind} can't be written as JSON; convert it, for example with {way}"
    )


class TooMany(ValueError):
    """An array has too many items."""


class TooLong(ValueError):
    """The item with this number is too long."""

    def __init__(self, number: int) -> None:
        super().__init__(f"item {number} is too long")
        self.number = number


def cut_items(text: bytes, most: int, longest: int) -> Iterator[list[bytes]]:
    """Cut a JSON array into its items, each as its text; yield some at a time, or none.

    The caller may pass its turn on in between. Only the text around the items is checked, because they
    are parsed one by one later. Raises ValueError for an invalid array, `TooMany` at the first item
    beyond `most`, and `TooLong` at an item of more than `longest` bytes. It reads nothing after that.
    """
    text = without_mark(text)
    items = _all_items(text, most, longest) if len(text) <= LONG else None
    if items is None:
        yield from _cut(text, most, longest)
    else:
        yield items


def _all_items(text: bytes, most: int, longest: int) -> list[bytes] | None:
    """Return the items of an array that can be parsed within a turn; None if it is invalid.

    Cutting it piece by piece takes longer, but tells which item is at fault, and why.
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
    """The part of `cut_items` for one piece of the text. Yields the items that end in it."""
    opened = _ARRAY.match(text)
    if opened is None:
        raise ValueError("must be a JSON array")
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
            raise ValueError("not valid JSON: a bracket closes an object that isn't open")
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
        raise ValueError("not valid JSON: the array doesn't end, or something follows it")


def _marks(text: bytes, at: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the places of the commas and of the end of an array that begins before `at`.

    Also yields a None after each window.
    """
    depth, in_string = 0, False
    while at < len(text):
        if in_string:
            # (It is one byte more than a window, so there is always a whole escape in it.)
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
        raise ValueError(f"not valid JSON: {str(error).removeprefix(_MALFORMED)}") from None
    except RecursionError:
        raise ValueError(f"not valid JSON: {_TOO_DEEP}") from None
    except UnicodeError:
        raise ValueError("not valid JSON: not UTF-8") from None


def check_depth(text: str | bytes, most: int = MAX_DEPTH) -> None:
    """Raise ValueError if a JSON text is nested more than `most` levels deep."""
    if isinstance(text, str):
        brackets = text.count("[") + text.count("{")
    else:
        brackets = text.count(b"[") + text.count(b"{")
    if brackets > most and _depth(text.encode() if isinstance(text, str) else text) > most:
        raise ValueError(f"not valid JSON: {_TOO_DEEP}")


def _depth(text: bytes) -> int:
    """Return the levels of a JSON text. In C, it removes strings, then everything but brackets."""
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


_TOO_DEEP: Final = f"nested too deep; at most {MAX_DEPTH} levels are allowed"
_ARRAY: Final = re.compile(rb"[ \t\r\n]*\[")
#: (The quantifiers are possessive, so the engine remembers nothing for each character.)
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_INSIDE: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
#: Arrays and objects of one or two levels. Most items are one, and take one token.
_FLAT: Final = rb'[\[{](?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+[\]}]'
_LOW: Final = rb'[\[{](?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+"|' + _FLAT + rb")*+[\]}]"
#: The text between the items of an array. (The string of a quotation mark by itself continues.)
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|' + _LOW + rb'|["\[\]{},]', re.DOTALL)
_OPENING: Final = (b"[", b"{")
_CLOSING: Final = (b"]", b"}")
_SPACE: Final = b" \t\r\n"
#: The bytes of an array that are read within a turn.
_WINDOW: Final = 1 << 11
#: One up, one down, as signed bytes.
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_PAIR: Final = b"\x01\xff"
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[{]}"))
