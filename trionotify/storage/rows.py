"""What is stored of an entry: a row of plain values, from which an equal entry is made again.

Nothing is checked when an entry is made of a row: it was checked when it was first made. Both
directions are on the path of every notification.
"""

from __future__ import annotations

import struct
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast
from zlib import crc32

import msgspec

from trionotify.cesql.cache import Cache
from trionotify.delivery.entry import Entry
from trionotify.model.costs import weight_of
from trionotify.model.filters import from_json
from trionotify.model.jsontext import MAX_DEPTH, check_json, read_json, write_json
from trionotify.model.notification import Notification
from trionotify.model.predicates import NOTHING, Wanted, is_value, to_json
from trionotify.settings import FilterLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "COLUMNS",
    "MOMENT",
    "NAMES",
    "SIZE",
    "TOTAL",
    "Row",
    "audience_text",
    "checksum",
    "entry_of",
    "insertion",
    "is_whole",
    "moved_checksum",
    "row_of",
]

#: One entry as the database has it: a value per column.
Row = tuple[Any, ...]

#: The columns, in this order: first what never changes, then `moment`, which may be moved, and `crc`.
COLUMNS: Final = (
    *("offset", "size", "total", "origin", "publisher", "id", "given", "source", "type"),
    *("time", "subject", "datacontenttype", "audience", "extensions", "data", "moment", "crc"),
)
#: The same in SQL.
NAMES: Final = ", ".join(COLUMNS)
#: Where in a row they are.
SIZE: Final = COLUMNS.index("size")
TOTAL: Final = COLUMNS.index("total")
MOMENT: Final = COLUMNS.index("moment")
_CRC: Final = COLUMNS.index("crc")

#: How deep an audience may be nested is bounded by the depth that JSON text may have, which is less.
_LIMITS: Final = FilterLimits(
    max_filter_bytes=sys.maxsize,
    max_filter_depth=MAX_DEPTH,
    max_filters=sys.maxsize,
    max_filter_cost=sys.maxsize,
)
#: What each predicate that holds others begins with: at most two levels of JSON; a condition has two.
_DEEPER: Final = ('{"all":', '{"any":', '{"not":')
_INSTEAD: Final = "use Exact, Prefix, Suffix, AllOf, AnyOf, Not and Sql instead"
#: What the form of the CloudEvents Subscriptions API can't say.
_NOBODY: Final = "false"

#: Bytes that the remembered audiences may weigh.
_MAX_REMEMBERED: Final = 4 << 20

_NO_EXTENSIONS: Final[Mapping[str, Any]] = MappingProxyType({})


def insertion(number: int) -> str:
    """The statement that stores so many rows."""
    values = f"({', '.join('?' * len(COLUMNS))})"
    return f"INSERT INTO entries ({NAMES}) VALUES {', '.join([values] * number)}"


def row_of(entry: Entry, offset: int, moment: float, total: int) -> Row:
    """What to store of an entry at `offset`; `total` counts the bytes of all up to and including it.

    Raises TypeError or ValueError for an audience that can't be stored.
    """
    data, type, source, subject, id, given, time, kind, audience, extensions = entry.notification.state()
    content: Row
    # The rest of a key is the notification's `source` and `id`: see `repetition_key`.
    publisher = None if entry.key is None else cast("tuple[str, str, str]", entry.key)[0]
    audience_json = None if audience is None else audience_text(audience)
    extensions_json = write_json(_plain(extensions)).decode() if extensions else None
    given = 1 if given else 0
    # To concatenate takes half as long as to unpack, and this is done for every notification.
    content = (offset, entry.size, total, entry.origin, publisher, id, given, source, type)
    content += (time, subject, kind, audience_json, extensions_json, data, moment)
    return content + (checksum(content),)  # noqa: RUF005 # the same


def entry_of(row: Row, ours: bool) -> Entry:
    """The entry that a row was made of, with its offset, and its `origin` if that is `ours`.

    Raises TypeError, ValueError or AttributeError for a row that isn't as it was written.
    """
    offset, _, _, origin, publisher, id, given, source, type, *rest = row
    time, subject, kind, audience, extensions, data, _, _ = rest
    if audience is not None:
        audience = _audience(audience)
    extensions = MappingProxyType(read_json(extensions)) if extensions else _NO_EXTENSIONS
    notification = Notification.restored(
        (data, type, source, subject, id, given, time, kind, audience, extensions)
    )
    key = None if publisher is None else (publisher, source, id)
    entry = Entry(notification, origin if ours else None, None, key)
    entry.offset = offset
    return entry


def checksum(content: Row) -> int:
    """The CRC-32 of a row: of all columns but the last, as MessagePack, of which `moment` is the end."""
    return crc32(_ENCODE(content))


def moved_checksum(check: int, before: float, after: float) -> int:
    """The checksum of the same row with another moment; that of a damaged row stays wrong.

    The CRCs of two texts of one length that differ in their end only differ as the CRCs of those ends
    do.
    """
    return check ^ crc32(_MOMENT(before)) ^ crc32(_MOMENT(after))


def is_whole(row: Row) -> bool:
    """Whether a row is as it was written."""
    try:
        return bool(checksum(row[:_CRC]) == row[_CRC])
    except (TypeError, ValueError, OverflowError):
        return False  # values of other types than were written


def _without_subclass(value: Any) -> str | int:
    return int(value) if isinstance(value, int) else str.__str__(value)


_ENCODE: Final = msgspec.msgpack.Encoder(enc_hook=_without_subclass).encode
#: As MessagePack has a float.
_MOMENT: Final = struct.Struct(">d").pack


def _plain(extensions: Mapping[str, Any]) -> dict[str, Any]:
    """Without subclasses of str and int, which are allowed, but which JSON doesn't take."""
    return {
        name: value if value.__class__ in _JSON else _without_subclass(value)
        for name, value in extensions.items()
    }


_JSON: Final = frozenset({str, int, bool})


def audience_text(audience: Wanted) -> str:
    """An audience as JSON; raises TypeError or ValueError that says what to use instead."""
    if audience is NOTHING:
        return _NOBODY
    try:
        if not is_value(audience):
            raise TypeError(f"audience {audience!r} can't be stored: {_INSTEAD}")
        text = write_json(to_json(audience)).decode()
        # It can be read again unless it is too deep. To read it here would take milliseconds.
        if 2 * sum(map(text.count, _DEEPER)) + 2 > MAX_DEPTH:
            check_json(text)
    except RecursionError:
        raise ValueError("audience can't be stored: it is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"audience can't be stored: {error}") from None
    return text


def _read_audience(text: str) -> Wanted:
    return NOTHING if text == _NOBODY else from_json(text, _LIMITS, audience=True)


#: Read once: many notifications have the same audience.
_audience: Final = Cache(
    _read_audience, lambda text, audience: len(text) + weight_of(audience), _MAX_REMEMBERED
)
