"""The stored form of an entry, a row of plain values from which an equal entry is created again.

Nothing is checked when an entry is created from a row, because it was checked when it was first created.
Both directions are on the path of every notification.
"""

from __future__ import annotations

import struct
import sys
from types import MappingProxyType
from typing import Any, Final, cast
from zlib import crc32

import msgspec

from trionotify.cesql.cache import Cache
from trionotify.delivery.entry import Entry
from trionotify.model.costs import weight_of
from trionotify.model.filters import from_json
from trionotify.model.jsontext import MAX_DEPTH, check_json, read_json, write_json
from trionotify.model.notification import NO_EXTENSIONS, Notification
from trionotify.model.predicates import NOTHING, Wanted, is_value, to_json
from trionotify.model.text import without_subclass
from trionotify.settings import FilterLimits

__all__ = [
    "COLUMNS",
    "MOMENT",
    "NAMES",
    "SIZE",
    "TOTAL",
    "Row",
    "audience_text",
    "checksum",
    "content_of",
    "entry_of",
    "insertion",
    "is_whole",
    "moved_checksum",
    "row_of",
]

#: One entry as the database has it, with a value for each column.
Row = tuple[Any, ...]

#: The columns, in this order: first what never changes, then `moment`, which may be moved, and `crc`.
COLUMNS: Final = (
    *("offset", "size", "total", "origin", "publisher", "id", "given", "source", "type"),
    *("time", "subject", "datacontenttype", "audience", "extensions", "data", "moment", "crc"),
)
#: The columns in SQL.
NAMES: Final = ", ".join(COLUMNS)
#: The positions of columns in a row.
SIZE: Final = COLUMNS.index("size")
TOTAL: Final = COLUMNS.index("total")
MOMENT: Final = COLUMNS.index("moment")
_CRC: Final = COLUMNS.index("crc")

#: The nesting of an audience is limited by the maximum depth of JSON, which is lower.
_LIMITS: Final = FilterLimits(
    max_filter_bytes=sys.maxsize,
    max_filter_depth=MAX_DEPTH,
    max_filters=sys.maxsize,
    max_filter_cost=sys.maxsize,
)
#: The beginning of each predicate that has others. It has at most two levels of JSON, and so has a
#: condition.
_DEEPER: Final = ('{"all":', '{"any":', '{"not":')
_INSTEAD: Final = "use Exact, Prefix, Suffix, AllOf, AnyOf, Not and Sql"
#: Predicates that the form of the CloudEvents Subscriptions API can't express.
_NOBODY: Final = "false"

#: The most bytes of the cached audiences.
_MAX_REMEMBERED: Final = 4 << 20


def insertion(number: int) -> str:
    """Return the SQL statement that stores this number of rows."""
    values = f"({', '.join('?' * len(COLUMNS))})"
    return f"INSERT INTO entries ({NAMES}) VALUES {', '.join([values] * number)}"


def row_of(entry: Entry, offset: int, moment: float, total: int) -> Row:
    """Return the row of an entry at `offset`. `total` counts all bytes up to and including it.

    Raises TypeError or ValueError for an audience that can't be stored.
    """
    # Concatenating takes half as long as unpacking, and this runs for every notification.
    content = (offset, entry.size, total) + content_of(entry) + (moment,)  # noqa: RUF005 - see above
    return content + (checksum(content),)  # noqa: RUF005 - see above


def content_of(entry: Entry) -> Row:
    """Return what doesn't depend on an entry's place: the columns from `origin` to `data`.

    Raises TypeError or ValueError for an audience that can't be stored.
    """
    data, type, source, subject, id, given, time, kind, audience, extensions = entry.notification.state()
    # The rest of a key is the notification's `source` and `id`: see `repetition_key`.
    publisher = None if entry.key is None else cast("tuple[str, str, str]", entry.key)[0]
    audience_json = None if audience is None else audience_text(audience)
    extensions_json = write_json(dict(extensions)).decode() if extensions else None
    given = 1 if given else 0
    columns = (entry.origin, publisher, id, given, source, type, time, subject, kind)
    return columns + (audience_json, extensions_json, data)  # noqa: RUF005 - see above


def entry_of(row: Row, ours: bool) -> Entry:
    """Return the entry of a row, with its offset, and with its `origin` if the row is `ours`.

    Raises TypeError, ValueError or AttributeError for a row that isn't as it was written.
    """
    offset, _, _, origin, publisher, id, given, source, type, *rest = row
    time, subject, kind, audience, extensions, data, _, _ = rest
    if audience is not None:
        audience = _audience(audience)
    extensions = MappingProxyType(read_json(extensions)) if extensions else NO_EXTENSIONS
    notification = Notification.restored(
        (data, type, source, subject, id, given, time, kind, audience, extensions)
    )
    key = None if publisher is None else (publisher, source, id)
    entry = Entry(notification, origin if ours else None, None, key)
    entry.offset = offset
    return entry


def checksum(content: Row) -> int:
    """Return the CRC-32 of a row.

    It is that of all columns but the last, as MessagePack, of which `moment` is the end.
    """
    return crc32(_ENCODE(content))


def moved_checksum(check: int, before: float, after: float) -> int:
    """Return the checksum of a row whose moment changes. That of a damaged row stays wrong.

    If two texts of one length differ only at the end, their CRCs differ like the CRCs of these ends.
    """
    return check ^ crc32(_MOMENT(before)) ^ crc32(_MOMENT(after))


def is_whole(row: Row) -> bool:
    """Return whether a row's checksum is right."""
    try:
        return bool(checksum(row[:_CRC]) == row[_CRC])
    except (TypeError, ValueError, OverflowError):
        return False  # values of other types than were written


_ENCODE: Final = msgspec.msgpack.Encoder(enc_hook=without_subclass).encode
#: Packs a float as in MessagePack.
_MOMENT: Final = struct.Struct(">d").pack


def audience_text(audience: Wanted) -> str:
    """Return an audience as JSON. Raises TypeError or ValueError that says what to use instead."""
    if audience is NOTHING:
        return _NOBODY
    try:
        if not is_value(audience):
            raise TypeError(f"audience: {audience!r} can't be stored; {_INSTEAD}")
        text = write_json(to_json(audience)).decode()
        # It can be parsed again unless it is too deep. Parsing it here would take milliseconds.
        if 2 * sum(map(text.count, _DEEPER)) + 2 > MAX_DEPTH:
            check_json(text)
    except ValueError as error:
        raise ValueError(f"audience: can't be stored: {error}") from None
    return text


def _read_audience(text: str) -> Wanted:
    return NOTHING if text == _NOBODY else from_json(text, _LIMITS, audience=True)


#: Cached, because many notifications have the same audience.
_audience: Final = Cache(
    _read_audience, lambda text, audience: len(text) + weight_of(audience), _MAX_REMEMBERED
)
