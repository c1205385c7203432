"""A notification: data and its attributes, named as in CloudEvents 1.0.

The record is immutable and checked when it is created, so it need not be checked again. Creating one is
on the path of every published message. So costly values that are seldom needed (the text of the `id`
and of the `time`) are rendered on demand, and the checks look at types first, and at characters only if
there are any.
"""

from __future__ import annotations

import itertools
import secrets
import time as clock
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

import attrs

from trionotify.model.attributes import (
    ATTRIBUTES,
    MAX_ATTRIBUTE,
    ExtensionValue,
    check_attribute_name,
    check_data,
    check_json_data,
    check_text,
    checked_extensions,
    checked_time,
    data_of_json,
    joined_extensions,
    moment_of,
)
from trionotify.model.filters import check_audience
from trionotify.model.text import memory_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trionotify.model.keywords import Attributes

__all__ = [
    "ATTRIBUTES",
    "MAX_ATTRIBUTE",
    "NO_EXTENSIONS",
    "RESERVED_TYPE",
    "Data",
    "ExtensionValue",
    "Notification",
    "State",
    "check_attribute_name",
    "check_publishable",
    "moment_of",
    "new_id",
    "publishable",
]

Data = str | bytes | None

#: The result of `Notification.state`: data, type, source and subject; the id, and whether it was given;
#: the time as it was given, or in seconds; the datacontenttype, if it was given; the audience; the
#: extensions.
State = tuple[Any, ...]

#: Bytes of memory that an entry of the log takes besides its texts, measured with tracemalloc. They are
#: the entry, the notification, its key, and the headers of its `str` objects.
_OVERHEAD: Final = 768
#: Bytes of memory for each extension, besides its texts.
_EXTENSION_OVERHEAD: Final = 160

#: The attributes that the constructor takes by these names.
_CORE: Final = frozenset({"id", "source", "type", "subject", "time", "datacontenttype", "audience"})

#: Types that begin with this are the server's own, and can't be published.
RESERVED_TYPE: Final = "trionotify."

# An id is unique because each process draws its own prefix and the counter never repeats. This takes
# 0.05 us, and a UUID takes 2.
_PREFIX: Final = secrets.token_hex(6)
# It starts above the numbers that applications use, so an `id` given as int is noticed as a mistake.
_FIRST: Final = 1 << 62
_LAST: Final = 1 << 63  # a UUID's number is above it
_count: Final = itertools.count(_FIRST).__next__


class _MadeElsewhere(bytes):
    """An id that another process has generated. A publisher's own is text."""

    __slots__ = ()


NO_EXTENSIONS: Final[Mapping[str, ExtensionValue]] = MappingProxyType({})
_END_OF_TIME: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_set: Final = object.__setattr__
_bind: Final = object.__setattr__.__get__  # how attrs does it, too: bound once, called for each field


@attrs.frozen(eq=False, repr=False)
class Notification:
    """One notification, immutable.

    `data` is text, bytes, or None, and is sent unchanged. `type` says what happened, `source` where,
    and `subject` to what. `id` and `source` together identify the notification. If no `id` is given,
    one is generated. `time` (RFC 3339) is by default the time of construction.
    `extensions` are further attributes, name to str, int or bool.

    `audience` is the publisher's condition on clients, a predicate over the client's record or any
    callable of the `Client`. The extension attribute `to` is the `id` of the recipients.

    Raises TypeError or ValueError, beginning with the attribute's name, for an invalid value.
    """

    data: Data = None
    type: str = attrs.field(default="message", kw_only=True)
    source: str = attrs.field(default="/hub", kw_only=True)
    subject: str | None = attrs.field(default=None, kw_only=True)
    #: Text if the publisher gave it, an int if this process generated it.
    _id: int | str | _MadeElsewhere = attrs.field(factory=_count, kw_only=True)
    _time: float | str | datetime = attrs.field(factory=clock.time, kw_only=True)
    _datacontenttype: str | None = attrs.field(default=None, kw_only=True)
    audience: Callable[[Any], object] | None = attrs.field(default=None, kw_only=True)
    extensions: Mapping[str, ExtensionValue] = attrs.field(default=NO_EXTENSIONS, kw_only=True)
    #: The cached part of `weight` that isn't the data's.
    _bare_weight: int | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        # `x.__class__ is str` comes first. It is the usual case, and takes half as long as isinstance.
        data, subject = self.data, self.subject
        if data.__class__ is not bytes and not (data.__class__ is str and data.isascii()):
            check_data(data)
        # All three texts are checked together first. Each one is checked only if that finds something.
        try:
            text = self.type + self.source
            if subject is not None:
                text += subject
            fine = (
                len(text) <= MAX_ATTRIBUTE
                and self.type
                and self.source
                and subject != ""
                and text.isprintable()
            )
        except (TypeError, AttributeError):
            fine = False
        if not fine:
            check_text("type", self.type)
            check_text("source", self.source)
            if subject is not None:
                check_text("subject", subject)
        id = self._id
        if not (id.__class__ is int and _FIRST <= id < _LAST) and id.__class__ is not _MadeElsewhere:
            check_text("id", id)
        if not (self._time.__class__ is float and 0.0 <= self._time < _END_OF_TIME):
            _set(self, "_time", checked_time(self._time))
        if self._datacontenttype is not None:
            check_text("datacontenttype", self._datacontenttype)
            check_json_data(self.data, self._datacontenttype)
        if self.audience is not None:
            check_audience(self.audience)
        if self.extensions is not NO_EXTENSIONS:
            _set(self, "extensions", checked_extensions(self.extensions))

    @classmethod
    def of(cls, data: Data = None, **attributes: Unpack[Attributes]) -> Notification:
        """Create a notification from `data`, or from `json`, and attributes.

        `json` is a value that becomes the data, written as JSON; `datacontenttype` is then
        `application/json`, or another type of JSON's that you give. `extensions` are attributes of your
        own. (An extension may be a keyword, too, but a type checker takes it for a typo.) An attribute
        that is None counts as not given. Raises as the constructor does, and TypeError for `json`
        together with data, for a value that has no JSON, and for an extension that is given twice.
        """
        given: Any = attributes
        if _CORE.issuperset(given) and None not in given.values():
            return cls(data, **given)  # the everyday case, at half the price
        given = {name: value for name, value in given.items() if value is not None or name == "json"}
        if "json" in given:
            data = data_of_json(data, given)
        extensions = given.pop("extensions", None)
        core: dict[str, Any] = {name: given.pop(name) for name in _CORE if name in given}
        if extensions is not None:
            given = joined_extensions(extensions, given)
        if given:
            core["extensions"] = given
        return cls(data, **core)

    def of_json(self, kind: str) -> Self:
        """Set the media type of data that was parsed as a part of a JSON text to `kind`.

        Only its creator may call this, at once. The data isn't parsed again, which would take long for a
        long text. Raises as the constructor does.
        """
        check_text("datacontenttype", kind)
        _set(self, "_datacontenttype", kind)
        return self

    def check_data(self, data: Data) -> None:
        """Raise as the constructor does if there can't be `another` with this `data`."""
        if data.__class__ is not bytes and not (data.__class__ is str and data.isascii()):
            check_data(data)
        if self._datacontenttype is not None:
            check_json_data(data, self._datacontenttype)

    def another(self, data: Data, time: float) -> Notification:
        """Return a notification with the same attributes, another `id`, and this `data` and `time`.

        Nothing is checked, so it takes half as long as creating one. See `check_data`.
        """
        made = object.__new__(Notification)
        set_field = _bind(made)
        set_field("data", data)
        set_field("type", self.type)
        set_field("source", self.source)
        set_field("subject", self.subject)
        set_field("_id", _count())
        set_field("_time", time)
        set_field("_datacontenttype", self._datacontenttype)
        set_field("audience", self.audience)
        set_field("extensions", self.extensions)
        set_field("_bare_weight", self._bare_weight or self._weigh())
        return made

    def state(self) -> State:
        """Return its content as values that a file can store, except the audience. See `restored`."""
        id = self._id
        return (
            self.data,
            self.type,
            self.source,
            self.subject,
            id if id.__class__ is str else _text_of(id),
            isinstance(id, str),
            self._time,
            self._datacontenttype,
            self.audience,
            self.extensions,
        )

    @classmethod
    def restored(cls, state: State) -> Notification:
        """Return a notification from the `state` of an equal one, perhaps of another process.

        Nothing is checked again, so it takes half as long as creating a notification.
        """
        made = object.__new__(cls)
        set_field = _bind(made)
        data, type, source, subject, id, given, time, datacontenttype, audience, extensions = state
        set_field("data", data)
        set_field("type", type)
        set_field("source", source)
        set_field("subject", subject)
        set_field("_id", id if given else _MadeElsewhere(id.encode()))
        set_field("_time", time)
        set_field("_datacontenttype", datacontenttype)
        set_field("audience", audience)
        set_field("extensions", extensions)
        set_field("_bare_weight", None)
        return made

    def __reduce__(self) -> tuple[Callable[..., Notification], tuple[State]]:
        """Copy and pickle it as its content, so that it keeps its generated `id` in another process."""
        *content, extensions = self.state()
        return type(self)._unpickled, ((*content, dict(extensions)),)

    @classmethod
    def _unpickled(cls, state: State) -> Notification:
        *content, extensions = state
        return cls.restored((*content, MappingProxyType(extensions) if extensions else NO_EXTENSIONS))

    @property
    def id(self) -> str:
        """The id, which is unique among the notifications of one `source`."""
        return _text_of(self._id)

    @property
    def given_id(self) -> str | None:
        """The `id` if the publisher gave it, else None. The same id again is a repetition."""
        return self._id if isinstance(self._id, str) else None

    @property
    def expired(self) -> bool:
        """Whether the time in the extension attribute `expirytime` has passed, so that it isn't sent."""
        moment = self.extensions.get("expirytime")
        return moment is not None and moment_of("expirytime", moment) < clock.time()

    @property
    def time(self) -> str:
        """The time of creation as RFC 3339 text, in UTC unless the publisher gave another one."""
        if isinstance(self._time, float):
            return datetime.fromtimestamp(self._time, UTC).isoformat().replace("+00:00", "Z")
        return str(self._time)

    @property
    def datacontenttype(self) -> str | None:
        """The media type of `data`; None if there is no data and none was given."""
        if self._datacontenttype is not None or self.data is None:
            return self._datacontenttype
        return "text/plain" if isinstance(self.data, str) else "application/octet-stream"

    @property
    def to(self) -> str | None:
        """The `id` of the clients that it is for, or None if it is for all."""
        value = self.extensions.get("to")
        return None if value is None else str(value)

    @property
    def specversion(self) -> str:
        """The version of CloudEvents that the attributes follow."""
        return "1.0"

    @property
    def size(self) -> int:
        """The size of `data` and the given attributes, in bytes of UTF-8."""
        data, size = self.data, _bytes_of(self._texts())
        if data is None:
            return size
        return size + (len(data) if isinstance(data, bytes) else _bytes_of(data))

    def weight(self, data: Data) -> int:
        """Return the bytes of memory that it takes with this `data` in the log, without its audience.

        It is an upper bound, not a measurement, so it is the same on every machine.
        """
        weight = self._bare_weight or self._weigh()
        if data is None:
            return weight
        return weight + (len(data) if data.isascii() or isinstance(data, bytes) else memory_of(data))

    def _weigh(self) -> int:
        """Compute and cache the weight without the data. See `another`."""
        weight = _OVERHEAD + memory_of(self._texts())
        if self.extensions is not NO_EXTENSIONS:
            weight += _EXTENSION_OVERHEAD * len(self.extensions)
        _set(self, "_bare_weight", weight)
        return weight

    def _texts(self) -> str:
        """Return all given attributes, joined. Generated ones are short."""
        id = self._id if self._id.__class__ is str else ""
        time = self._time if self._time.__class__ is str else ""
        text = f"{self.type}{self.source}{self.subject or ''}{id}{time}{self._datacontenttype or ''}"
        if self.extensions is not NO_EXTENSIONS:
            for name, value in self.extensions.items():
                text += f"{name}{value}"
        return text

    def get(self, name: str) -> str | None:
        """Return the attribute `name` as text, or None if it is missing. Predicates use this.

        Booleans read `true` and `false`, integers in decimal (CloudEvents 1.0, "Type System").
        """
        if name in ATTRIBUTES:
            value = getattr(self, name)
            return value if value is None else str.__str__(value)
        extension = self.extensions.get(name)
        if extension is None or extension.__class__ is str:
            return extension
        if isinstance(extension, bool):
            return "true" if extension else "false"
        # Not `str`, which gives the name of a member of an Enum.
        return str.__str__(extension) if isinstance(extension, str) else int.__repr__(extension)

    def names(self) -> Iterator[str]:
        """Yield the names of all attributes that it may have. For any other, `get` returns None."""
        yield from ATTRIBUTES
        for name in self.extensions:
            if name != "to":
                yield name

    def value(self, name: str) -> ExtensionValue | None:
        """Return the attribute `name` with its CloudEvents type, or None. SQL uses this."""
        return self.get(name) if name in ATTRIBUTES else self.extensions.get(name)

    def __eq__(self, other: object) -> bool:
        """Return whether data and all attributes are equal, `id` and `time` included."""
        if not isinstance(other, Notification):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.source, self.id))

    def __repr__(self) -> str:
        optional: dict[str, Any] = {"subject": self.subject, **self.extensions}
        if self.audience is not None:
            optional["audience"] = self.audience
        rest = "".join(f", {name}={value!r}" for name, value in optional.items() if value is not None)
        return (
            f"Notification({self.data!r}, type={self.type!r}, source={self.source!r},"
            f" id={self.id!r}{rest})"
        )

    def _key(self) -> tuple[object, ...]:
        return (
            *(self.data, self.type, self.source, self.subject, self.id, self.time),
            *(self.datacontenttype, self.audience, self.extensions),
        )


def publishable(data: Data | Notification, attributes: Attributes) -> Notification:
    """Return a notification of `data` with these attributes, or a `Notification` as it is.

    Raises TypeError or ValueError that names the attribute at fault.
    """
    if not isinstance(data, Notification):
        data = Notification.of(data, **attributes)
    elif "json" in attributes or any(value is not None for value in attributes.values()):
        raise TypeError("a Notification is published as it is; set its attributes on the Notification")
    check_publishable(data)
    return data


def check_publishable(notification: Notification) -> None:
    """Raise ValueError if its type is reserved for the server."""
    if notification.type.startswith(RESERVED_TYPE):
        raise ValueError(f"type: types that start with {RESERVED_TYPE} are reserved; choose another one")


def new_id() -> str:
    """Return a unique `id`."""
    return _text_of(_count())


def _text_of(id: int | str | _MadeElsewhere) -> str:
    if isinstance(id, int):
        return f"{_PREFIX}-{id - _FIRST}"
    return id if isinstance(id, str) else id.decode()


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
