"""Values, errors, and the casts between them (sections 3.1 to 3.3 and 3.7).

A value is a bool, an int of 32 bits or a str. Inside an evaluation there is a fourth value, None, for an
attribute that the event doesn't have. The operator or function that meets it never passes it on, but
returns the zero value of its own type instead (section 3.2).

Casts never fail. They append to the list of errors and return the zero value of the requested type.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal

import attrs

__all__ = [
    "MAX_INTEGER",
    "MAX_TEXT",
    "MIN_INTEGER",
    "Error",
    "Errors",
    "Evaluator",
    "Get",
    "Kind",
    "Result",
    "Value",
    "as_value",
    "cut",
    "integer_in",
    "shown",
    "to_boolean",
    "to_integer",
    "to_text",
    "to_type_of",
]

Value = bool | int | str
Kind = Literal[
    "parse", "math", "cast", "missingFunction", "functionEvaluation", "missingAttribute", "generic"
]

MIN_INTEGER: Final = -(2**31)
MAX_INTEGER: Final = 2**31 - 1
#: The most characters of a text that a function builds. Without this limit, 64 nested calls could build
#: a text that fits into no memory, because each call can double the text of the call inside it.
MAX_TEXT: Final = 65_536


@attrs.frozen
class Error:
    """An error of a `kind` of section 3.3, with a `message` for the author of the expression."""

    kind: Kind
    message: str


Errors = list[Error]
#: Looks up an attribute by its lower-case name. Returns None if it is missing.
Get = Callable[[str], object]
#: A compiled expression, or a part of one. Appends to the errors.
Evaluator = Callable[[Get, Errors], Value | None]


@attrs.frozen
class Result:
    """The result of an evaluation: a value, and the errors that occurred."""

    value: Value
    errors: tuple[Error, ...] = ()


def as_value(found: object) -> Value | None:
    """Convert an attribute to a CESQL value (section 3.2). None stays None.

    Booleans and integers stay unchanged. Everything else becomes text: bytes in Base64 and times in
    RFC 3339, as in CloudEvents, and other types by `str`.
    """
    if found is None or isinstance(found, str | bool):
        return found
    if isinstance(found, int) and MIN_INTEGER <= found <= MAX_INTEGER:
        return found
    if isinstance(found, bytes):
        return base64.b64encode(found).decode()
    if isinstance(found, datetime):
        return found.isoformat().replace("+00:00", "Z")
    return str(found)


def to_text(value: Value, errors: Errors) -> str:
    """Cast `value` to a String, which never fails."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    # Not `str`, which gives the name of a member of an Enum.
    return int.__repr__(value)


def to_boolean(value: Value, errors: Errors) -> bool:
    """Cast `value` to a Boolean. Text must be `true` or `false`, in upper or lower case."""
    if isinstance(value, str):
        word = value.lower() if len(value) <= len("false") else ""
        if word not in {"true", "false"}:
            errors.append(Error("cast", f"{shown(value)} is neither true nor false"))
        return word == "true"
    return bool(value)


def to_integer(value: Value, errors: Errors) -> int:
    """Cast `value` to an Integer. Text must be decimal digits, with or without a sign."""
    if isinstance(value, str):
        number = integer_in(value)
        if number is None:
            errors.append(Error("cast", f"{shown(value)} is not a 32-bit integer"))
        return number or 0
    return int(value)


def to_type_of(example: Value, value: Value, errors: Errors) -> Value:
    """Cast `value` to the type of `example`."""
    if isinstance(example, str):
        return to_text(value, errors)
    if isinstance(example, bool):
        return to_boolean(value, errors)
    return to_integer(value, errors)


# `int` alone is too lenient (it accepts underscores, spaces and the digits of all scripts), slow for
# long texts, and raises for very long ones. So it is only called for short and plain digits.
_INTEGER: Final = re.compile(r"([+-]?)(?=[0-9])0*+([0-9]{0,10})")


def integer_in(text: str) -> int | None:
    """Parse a decimal integer; return None if `text` isn't one, or if it exceeds 32 bits."""
    found = _INTEGER.fullmatch(text)
    if found is None:
        return None
    number = int(found[1] + (found[2] or "0"))
    return number if MIN_INTEGER <= number <= MAX_INTEGER else None


def shown(text: str) -> str:
    """Return `text` in quotes for a message, cut if it is long."""
    return repr(str(text)) if len(text) <= 40 else f"{text[:37]!r}..."


def cut(name: str) -> str:
    """Return a name for a message, cut if it is long."""
    return name if len(name) <= 40 else f"{name[:37]}..."
