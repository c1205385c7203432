"""Values, errors, and the casts between them (sections 3.1 to 3.3 and 3.7).

A value is a bool, an int of 32 bits or a str. Inside an evaluation there is a fourth thing, None: what
an attribute is that the event doesn't have. It never leaves the operator or function that meets it,
which answers with the zero value of its own type instead (section 3.2).

Casts never fail: they append to the list of errors and return the zero value of the type asked for.
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
#: Characters that a function may put together. Without it 64 nested calls could write a text for
#: which no machine has the memory: each one can double what the one inside it wrote.
MAX_TEXT: Final = 65_536


@attrs.frozen
class Error:
    """What went wrong: which `kind` of section 3.3, and a `message` for whoever wrote the text."""

    kind: Kind
    message: str


Errors = list[Error]
#: Looks an attribute up by its lower-case name; None where there is none.
Get = Callable[[str], object]
#: A compiled expression, or a part of one; appends to the errors.
Evaluator = Callable[[Get, Errors], Value | None]


@attrs.frozen
class Result:
    """What an evaluation gives: always a value, and the errors that came up on the way to it."""

    value: Value
    errors: tuple[Error, ...] = ()


def as_value(found: object) -> Value | None:
    """What CESQL sees of an attribute (section 3.2); None is none.

    Booleans and integers stay what they are, all else is text: bytes in Base64 and times in RFC 3339,
    as CloudEvents writes them, and what is no type of CloudEvents as `str` has it.
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
    """`value` as a String, which every value can be."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def to_boolean(value: Value, errors: Errors) -> bool:
    """`value` as a Boolean; of text, only true and false will do, in any case."""
    if isinstance(value, str):
        word = value.lower() if len(value) <= len("false") else ""
        if word not in {"true", "false"}:
            errors.append(Error("cast", f"{shown(value)} is neither true nor false"))
        return word == "true"
    return bool(value)


def to_integer(value: Value, errors: Errors) -> int:
    """`value` as an Integer; of text, only decimal digits will do, with or without a sign."""
    if isinstance(value, str):
        number = integer_in(value)
        if number is None:
            errors.append(Error("cast", f"{shown(value)} is not an integer of 32 bits"))
        return number or 0
    return int(value)


def to_type_of(example: Value, value: Value, errors: Errors) -> Value:
    """`value` as the type that `example` is of."""
    if isinstance(example, str):
        return to_text(value, errors)
    if isinstance(example, bool):
        return to_boolean(value, errors)
    return to_integer(value, errors)


# `int` alone is too kind (it reads underscores, spaces and the digits of all scripts), slow for long
# texts, and raises for very long ones. So it gets what is short and plain.
_INTEGER: Final = re.compile(r"([+-]?)(?=[0-9])0*+([0-9]{0,10})")


def integer_in(text: str) -> int | None:
    """The integer that `text` writes in decimal; None if it writes none, or one beyond 32 bits."""
    found = _INTEGER.fullmatch(text)
    if found is None:
        return None
    number = int(found[1] + (found[2] or "0"))
    return number if MIN_INTEGER <= number <= MAX_INTEGER else None


def shown(text: str) -> str:
    """`text` quoted for a message, cut when it is long."""
    return repr(str(text)) if len(text) <= 40 else f"{text[:37]!r}..."


def cut(name: str) -> str:
    """A name for a message, cut when it is long."""
    return name if len(name) <= 40 else f"{name[:37]}..."
