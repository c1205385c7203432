"""The built-in functions (section 3.5), and those for casts, which section 3.7 mentions.

A function is a row of `_FUNCTIONS`: its name, the casts of its arguments, the cast of further arguments
if there may be any, its zero value, and its implementation. That gets the list of errors and then the
cast arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from trionotify.cesql.values import (
    MAX_INTEGER,
    MAX_TEXT,
    MIN_INTEGER,
    Error,
    Errors,
    Value,
    cut,
    to_boolean,
    to_integer,
    to_text,
)

__all__ = ["Function", "find", "missing"]

Cast = Callable[[Value, Errors], Value]


@attrs.frozen
class Function:
    """A function with one name and a number of arguments, or a minimum of them."""

    name: str
    parameters: tuple[Cast, ...]
    zero: Value
    run: Callable[..., Value]
    others: Cast | None = None

    def takes(self, count: int) -> bool:
        """Return whether it can be called with `count` arguments."""
        fixed = len(self.parameters)
        return count == fixed or (count > fixed and self.others is not None)

    def casts(self, count: int) -> list[Cast]:
        """Return the cast for each of `count` arguments."""
        fixed = self.parameters
        return [*fixed, *([self.others] * (count - len(fixed)) if self.others else [])]


def find(name: str, count: int) -> Function | None:
    """Return the function `name`, in upper case, that takes `count` arguments, or None."""
    return next((one for one in _FUNCTIONS if one.name == name and one.takes(count)), None)


def missing(name: str, count: int) -> Error:
    """Return the error for a call of a function that `find` doesn't find."""
    arities = [
        f"{len(one.parameters)}{' or more' if one.others else ''}"
        for one in _FUNCTIONS
        if one.name == name
    ]
    if not arities:
        return Error("missingFunction", f"there is no function {cut(name)}")
    return Error("missingFunction", f"{name} takes {' or '.join(arities)} arguments, not {count}")


# Section 3.5.1 keeps control characters, but `str.strip` alone would remove four of them.
_WHITE_SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def _bad_argument(message: str) -> Error:
    return Error("functionEvaluation", message)


def _fits(errors: Errors, size: int) -> bool:
    if size <= MAX_TEXT:
        return True
    errors.append(_bad_argument(f"a string may have at most {MAX_TEXT} characters, not {size}"))
    return False


def _concat_ws(errors: Errors, delimiter: str, *texts: str) -> str:
    size = sum(map(len, texts)) + len(delimiter) * max(0, len(texts) - 1)
    # The size is known before anything is joined.
    return delimiter.join(texts) if _fits(errors, size) else ""


def _lower(errors: Errors, text: str) -> str:
    lower = text.lower()  # of one character may come two, in upper case three
    return lower if _fits(errors, len(lower)) else ""


def _upper(errors: Errors, text: str) -> str:
    upper = text.upper()
    return upper if _fits(errors, len(upper)) else ""


def _left(errors: Errors, text: str, count: int) -> str:
    if count < 0:
        errors.append(_bad_argument(f"LEFT: must take 0 or more characters, not {count}"))
        return text
    return text[:count]


def _right(errors: Errors, text: str, count: int) -> str:
    if count < 0:
        errors.append(_bad_argument(f"RIGHT: must take 0 or more characters, not {count}"))
        return text
    return text[max(0, len(text) - count) :]


def _substring(errors: Errors, text: str, position: int, count: int = MAX_INTEGER) -> str:
    if abs(position) > len(text):
        errors.append(
            _bad_argument(
                f"SUBSTRING: position {position} is outside of a string of {len(text)} characters"
            )
        )
        return ""
    if count < 0:
        errors.append(_bad_argument(f"SUBSTRING: must take 0 or more characters, not {count}"))
        return ""
    if position == 0:
        return ""
    start = position - 1 if position > 0 else len(text) + position
    return text[start : start + count]


def _abs(errors: Errors, number: int) -> int:
    if number == MIN_INTEGER:
        errors.append(Error("math", f"ABS: {-number} does not fit a 32-bit integer"))
        return MAX_INTEGER
    return abs(number)


def _same(errors: Errors, value: Value) -> Value:
    return value  # the cast of the argument did it all


_FUNCTIONS: Final = (
    Function("LENGTH", (to_text,), 0, lambda _, text: len(text)),
    Function("CONCAT", (), "", lambda errors, *texts: _concat_ws(errors, "", *texts), others=to_text),
    Function("CONCAT_WS", (to_text,), "", _concat_ws, others=to_text),
    Function("LOWER", (to_text,), "", _lower),
    Function("UPPER", (to_text,), "", _upper),
    Function("TRIM", (to_text,), "", lambda _, text: text.strip(_WHITE_SPACE)),
    Function("LEFT", (to_text, to_integer), "", _left),
    Function("RIGHT", (to_text, to_integer), "", _right),
    Function("SUBSTRING", (to_text, to_integer), "", _substring),
    Function("SUBSTRING", (to_text, to_integer, to_integer), "", _substring),
    Function("ABS", (to_integer,), 0, _abs),
    Function("INT", (to_integer,), 0, _same),
    Function("BOOL", (to_boolean,), False, _same),
    Function("STRING", (to_text,), "", _same),
)
