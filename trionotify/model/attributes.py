"""Attributes: the rules for their names and values.

CloudEvents 1.0, sections "Attribute Naming Convention" and "Type System"; and limits of length. Every
filter reads attributes, for every notification, so they must be short. Long values belong in the data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from trionotify.errors import cut, quoted
from trionotify.model.jsontext import check_json, json_text
from trionotify.model.media import read_media
from trionotify.model.text import FORBIDDEN, check_id

__all__ = [
    "ATTRIBUTES",
    "MAX_ATTRIBUTE",
    "MAX_NAME",
    "ExtensionValue",
    "check_attribute_name",
    "check_data",
    "check_json_data",
    "check_text",
    "checked_extensions",
    "checked_time",
    "data_of_json",
    "joined_extensions",
    "moment_of",
]

ExtensionValue = str | int | bool

#: The context attributes that have a field or a property of their own.
ATTRIBUTES: Final = frozenset(
    {"id", "source", "specversion", "type", "subject", "time", "datacontenttype", "to"}
)
_RESERVED: Final = ATTRIBUTES - {"to"} | {"data", "audience"}

#: The most characters of an attribute's text.
MAX_ATTRIBUTE: Final = 4_096
#: The most characters of an extension's name.
MAX_NAME: Final = 64

_NAME: Final = re.compile(r"[a-z0-9]+", re.ASCII)
_RFC_3339: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)
#: The place of the seconds in it.
_SECOND: Final = slice(17, 19)
_DAY: Final = 86_400


def check_attribute_name(name: object) -> str:
    """Return `name` if it is a valid attribute name; raise TypeError or ValueError if not.

    CloudEvents 1.0, "Attribute Naming Convention": lower-case ASCII letters and digits.
    """
    if not isinstance(name, str):
        raise TypeError(f"attribute name: must be str, not {type(name).__name__}")
    if len(name) > MAX_NAME:
        raise ValueError(
            f"attribute name {quoted(name)}: must have at most {MAX_NAME} characters, not {len(name)}"
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"attribute name {quoted(name)}: must consist of lower-case letters a to z and digits"
        )
    if name == "data":
        raise ValueError("attribute name 'data': must be another one, because data is not an attribute")
    return name


def check_text(name: str, value: object) -> None:
    """Raise TypeError or ValueError, beginning with `name`, if `value` can't be an attribute's text."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: must be str, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name}: must not be empty")
    if len(value) > MAX_ATTRIBUTE:
        raise ValueError(f"{name}: must have at most {MAX_ATTRIBUTE} characters, not {len(value)}")
    # str.isprintable runs in C and is true of nearly all text; a space is printable, a newline not.
    if not value.isprintable() and (bad := FORBIDDEN.search(value)):
        raise ValueError(f"{name}: must not contain the character {bad.group()!r}")


def checked_time(value: object) -> str:
    """Check the text of a `time`, and return it. Raises TypeError or ValueError."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("time: must have a time zone; use datetime.now(timezone.utc)")
        return value.isoformat().replace("+00:00", "Z")
    if not isinstance(value, str):
        raise TypeError(f"time: must be RFC 3339 text or a datetime, not {quoted(value)}")
    check_text("time", value)
    moment_of("time", value)
    return value


def moment_of(name: str, value: object) -> float:
    """Parse an RFC 3339 time; return it in seconds since 1970.

    Raises ValueError that begins with `name`.
    """
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError(
            f"{name}: must be an RFC 3339 time like '2026-01-31T23:59:59Z', not {quoted(value)}"
        )
    leap = value[_SECOND] == "60"
    try:
        # Seconds since 1970 have no leap second, so it counts as the second after it.
        text = f"{value[: _SECOND.start]}59{value[_SECOND.stop :]}" if leap else value
        moment = datetime.fromisoformat(text.upper()).timestamp() + leap
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {quoted(value)} is not a valid time: {cut(str(error))}") from None
    if leap and moment // 1 % _DAY:
        raise ValueError(f"{name}: {quoted(value)} is not a valid time: a leap second ends a UTC day")
    return moment


def checked_extensions(values: object) -> Mapping[str, ExtensionValue]:
    """Return an immutable copy of `values`. Raises TypeError or ValueError that begins with a name."""
    if not isinstance(values, Mapping):
        raise TypeError(
            f"extensions: must be a mapping like {{'tenant': 'acme'}}, not {type(values).__name__}"
        )
    for name, value in values.items():
        check_attribute_name(name)
        if name in _RESERVED:
            raise ValueError(
                f"{name}: must not be among the extensions, because it is an attribute of its own"
            )
        if name == "to":
            _check_to(value)
        elif isinstance(value, str):
            check_text(name, value)
        elif not isinstance(value, int):
            raise TypeError(f"{name}: must be str, int or bool, not {type(value).__name__}")
        elif not -(2**31) <= value < 2**31:
            raise ValueError(f"{name}: must fit 32 bits (CloudEvents Integer), not {quoted(value)}")
        if name == "expirytime":
            moment_of(name, value)
    return MappingProxyType(dict(values))


def check_data(data: object) -> None:
    """Raise TypeError or ValueError if this can't be data."""
    if isinstance(data, str):
        try:
            data.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"data: can't be encoded as UTF-8: {error}") from None
    elif not isinstance(data, bytes | None):
        hint = "" if isinstance(data, bytearray | memoryview) else "; to publish it as JSON, use json="
        raise TypeError(f"data: must be str, bytes or None, not {type(data).__name__}{hint}")


def check_json_data(data: object, kind: str) -> None:
    """Raise ValueError for text of a JSON type that isn't JSON. Bytes are not checked."""
    if isinstance(data, str) and read_media(kind).is_json:
        try:
            check_json(data)
        except ValueError as error:
            raise ValueError(f"data: {error} (datacontenttype is {quoted(kind)})") from None


def data_of_json(data: object, given: dict[str, Any]) -> str:
    """Remove `json` from the attributes, and return it as data."""
    if data is not None:
        raise TypeError("json: must not be combined with data; give one of them")
    kind = given.setdefault("datacontenttype", "application/json")
    if isinstance(kind, str) and not read_media(kind).is_json:
        raise ValueError(
            f"datacontenttype: must be a JSON media type with json=, not {quoted(kind)}; leave it"
            " out, or give one like 'application/ld+json'"
        )
    return json_text(given.pop("json"))


def joined_extensions(extensions: object, keywords: dict[str, Any]) -> dict[str, Any]:
    """Merge both kinds of extensions. Raises TypeError for a name that is in both."""
    if not isinstance(extensions, Mapping):
        raise TypeError(
            f"extensions: must be a mapping like {{'tenant': 'acme'}}, not {type(extensions).__name__}"
        )
    for name in keywords.keys() & extensions.keys():
        raise TypeError(f"{name}: given twice, as a keyword and in extensions; give it once")
    return {**extensions, **keywords}


def _check_to(to: object) -> None:
    """Raise TypeError or ValueError, with the fix, if `to` isn't the id of one client."""
    if not isinstance(to, str):
        raise TypeError(f"to: must be str, the id of one client, not {type(to).__name__}{_fix_of(to)}")
    check_id("to", to)


def _fix_of(to: object) -> str:
    """Return the fix for a `to` that isn't one client's id."""
    if isinstance(to, int | UUID) and not isinstance(to, bool):
        return f"; write {str(to)!r}"
    if isinstance(to, list | tuple | set | frozenset):
        several = ", ".join(f"Exact(id={str(id)!r})" for id in islice(to, 3))
        several += ", …" * (len(to) > 3)
        return cut(f"; for several clients write audience=AnyOf([{several}])")
    return ""
