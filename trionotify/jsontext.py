"""JSON, by msgspec: strict, and fast enough for what comes from a network.

Strict means RFC 8259 to the letter: no NaN, no trailing comma, no lone surrogate, escaped or not.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trionotify.text import without_mark

__all__ = ["Verbatim", "check_json", "read_items", "read_json", "read_members", "write_json"]

#: The text of a JSON value, which is written as it was read.
Verbatim = msgspec.Raw

_read: Any = msgspec.json.Decoder().decode
_read_members: Any = msgspec.json.Decoder(dict[str, Verbatim]).decode
_read_items: Any = msgspec.json.Decoder(list[Verbatim]).decode
_check: Any = msgspec.json.Decoder(Verbatim).decode
write_json = msgspec.json.Encoder().encode


def read_json(text: str | bytes) -> Any:
    """The value that a JSON text is; raises ValueError that says what is wrong with it, and where."""
    return _guarded(_read, text)


def read_members(text: str | bytes) -> dict[str, Verbatim]:
    """The members of a JSON object, each as its text; raises as `read_json` does."""
    members: dict[str, Verbatim] = _guarded(_read_members, without_mark(text))
    return members


def read_items(text: str | bytes) -> list[Verbatim]:
    """The items of a JSON array, each as its text; raises as `read_json` does."""
    items: list[Verbatim] = _guarded(_read_items, without_mark(text))
    return items


def check_json(text: str | bytes) -> None:
    """Return if this is a JSON text; raises as `read_json` does.

    It is passed on as it is: so there must be no byte order mark in it, at which most readers fail.
    """
    if text != without_mark(text):
        raise ValueError("not JSON that can be read: it begins with a byte order mark")
    _guarded(_check, text)


def _guarded(read: Any, text: str | bytes) -> Any:
    try:
        return read(text)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not JSON that can be read: {error}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deep") from None
    except UnicodeError:
        raise ValueError("not JSON that can be read: it isn't UTF-8") from None
