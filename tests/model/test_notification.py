"""Notifications: immutable, checked, and rendered on demand."""

from __future__ import annotations

import enum
import json
import tracemalloc
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import msgspec
import pytest

from trionotify import Exact, Notification
from trionotify.delivery.entry import Entry, repetition_key
from trionotify.model import media
from trionotify.model.attributes import moment_of
from trionotify.model.cloudevents import encode
from trionotify.model.media import read_media


@pytest.mark.parametrize(
    "time", ["1998-12-31T23:59:60Z", "1998-12-31t15:59:60-08:00", "1998-12-31T23:59:60.0+00:00"]
)
def test_a_leap_second(time: str) -> None:
    """RFC 3339, section 5.7: it is kept as it is, and is the moment behind it."""
    assert Notification(time=time).time == time
    assert moment_of("time", time) == datetime(1999, 1, 1, tzinfo=UTC).timestamp()


def test_defaults() -> None:
    """As CloudEvents names them; made up where they must be unique."""
    one, two = Notification("text"), Notification(b"bytes")
    assert (one.type, one.source, one.subject, one.specversion) == ("message", "/hub", None, "1.0")
    assert one.id != two.id
    assert (one.datacontenttype, two.datacontenttype) == ("text/plain", "application/octet-stream")
    assert Notification().datacontenttype is None
    assert datetime.fromisoformat(one.time).tzinfo is UTC


def test_it_is_immutable() -> None:
    """Neither fields nor extensions can be changed."""
    notification = Notification("x", extensions={"severity": "high"})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        notification.type = "other"  # type: ignore[misc] # a mistake on purpose
    with pytest.raises(TypeError):
        notification.extensions["severity"] = "low"  # type: ignore[index] # a mistake on purpose


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            {"data": 5},
            TypeError,
            r"data: must be str, bytes or None, not int; to publish it as JSON, use json=",
        ),
        (
            {"data": "\ud800"},
            ValueError,
            (
                r"data: can't be encoded as UTF-8: 'utf-8' codec can't encode character"
                r" '\\ud800' in position 0: surrogates not allowed"
            ),
        ),
        ({"type": ""}, ValueError, "type: must not be empty"),
        ({"type": None}, TypeError, "type: must be str, not NoneType"),
        ({"source": ""}, ValueError, "source: must not be empty"),
        ({"source": b"x"}, TypeError, "source: must be str, not bytes"),
        ({"subject": ""}, ValueError, "subject: must not be empty"),
        ({"subject": "a\nb"}, ValueError, r"subject: must not contain the character '\\n'"),
        ({"type": "\ud800"}, ValueError, r"type: must not contain the character '\\ud800'"),
        ({"id": ""}, ValueError, "id: must not be empty"),
        ({"id": 1.5}, TypeError, "id: must be str"),
        ({"id": 5}, TypeError, "id: must be str"),
        ({"id": UUID(int=1 << 122).int}, TypeError, "id: must be str"),
        (
            {"time": "yesterday"},
            ValueError,
            "time: must be an RFC 3339 time like '2026-01-31T23:59:59Z'",
        ),
        (
            {"time": "2026-02-30T00:00:00Z"},
            ValueError,
            "time: '2026-02-30T00:00:00Z' is not a valid time: day is out of range for month",
        ),
        (
            {"time": "2026-01-31T23:58:60Z"},
            ValueError,
            "time: '2026-01-31T23:58:60Z' is not a valid time: a leap second ends a UTC day",
        ),
        (
            {"time": "2026-01-31T23:59:60+01:00"},
            ValueError,
            r"time: '2026-01-31T23:59:60\+01:00' is not a valid time: a leap second ends a UTC day",
        ),
        (
            {"time": "2026-01-31T23:59:61Z"},
            ValueError,
            r"time: '2026-01-31T23:59:61Z' is not a valid time: second must be in 0\.\.59",
        ),
        ({"time": datetime(2026, 1, 1)}, ValueError, "time: must have a time zone"),
        ({"time": float("nan")}, TypeError, "time: must be RFC 3339 text or a datetime, not nan"),
        ({"time": 5}, TypeError, "time: must be RFC 3339 text or a datetime"),
        (
            {"datacontenttype": ""},
            ValueError,
            "datacontenttype: must not be empty",
        ),
        ({"audience": "ops"}, TypeError, "audience: must be a predicate or a callable of the Client"),
        (
            {"extensions": {"Severity": "x"}},
            ValueError,
            "attribute name 'Severity': must consist of lower-case letters a to z and digits",
        ),
        ({"extensions": {"severity": 1.5}}, TypeError, "severity: must be str, int or bool"),
        (
            {"extensions": {"severity": 1 << 31}},
            ValueError,
            r"severity: must fit 32 bits \(CloudEvents Integer\)",
        ),
        (
            {"extensions": {"type": "x"}},
            ValueError,
            "type: must not be among the extensions, because it is an attribute of its own",
        ),
        ({"extensions": ["x"]}, TypeError, "extensions: must be a mapping"),
        (
            {"data": "\ufeff{}", "datacontenttype": "application/json"},
            *(ValueError, "data: not valid JSON: it starts with a byte order mark"),
        ),
        ({"extensions": {"to": ""}}, ValueError, "to: must have 1 to 255 characters, not 0"),
        (
            {"extensions": {"to": 7}},
            TypeError,
            "to: must be str, the id of one client, not int; write '7'",
        ),
        ({"extensions": {"to": True}}, TypeError, "to: must be str, the id of one client, not bool$"),
        ({"extensions": {"to": "x" * 256}}, ValueError, "to: must have 1 to 255 characters, not 256"),
        ({"extensions": {"to": "a\x85b"}}, ValueError, r"to: must not contain the character '\\x85'"),
    ],
)
def test_bad_values_are_refused_by_name(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    """The error begins with the attribute at fault."""
    with pytest.raises(error, match=words):
        Notification(**arguments)


def test_unusual_characters_that_are_allowed() -> None:
    """A no-break space and emoji are text, whatever str.isprintable says."""
    assert Notification(subject="a\u00a0b 🎉").subject == "a\u00a0b 🎉"


def test_attributes_as_text() -> None:
    """`get` is what predicates see: CloudEvents' canonical strings, None where there is nothing."""
    notification = Notification("x", type="t", extensions={"a": True, "b": -3, "c": "d", "to": "al"})
    names = ["type", "subject", "a", "b", "c", "to", "specversion", "data", "nope"]
    assert [notification.get(name) for name in names] == [
        *("t", None, "true", "-3", "d", "al", "1.0", None, None)
    ]
    assert notification.get("id") == notification.id
    assert notification.get("time") == notification.time


def test_of_sorts_attributes_into_fields_and_extensions() -> None:
    """None counts as not given."""
    notification = Notification.of("x", to="al", type="t", subject=None, severity="high")
    assert (notification.type, notification.to) == ("t", "al")
    assert notification.extensions == {"to": "al", "severity": "high"}


def test_time_may_be_given() -> None:
    """As text, which is kept, or as a datetime."""
    assert Notification(time="2026-01-02t03:04:05+01:00").time == "2026-01-02t03:04:05+01:00"
    assert Notification(time=datetime(2026, 1, 2, tzinfo=UTC)).time == "2026-01-02T00:00:00Z"


def test_equality_is_by_value() -> None:
    """Id and time included."""
    values: dict[str, Any] = {"id": "1", "time": "2026-01-02T03:04:05Z"}
    assert Notification("x", **values) == Notification("x", **values)
    assert hash(Notification("x", **values)) == hash(Notification("x", **values))
    assert Notification("x", **values) != Notification("y", **values)
    assert Notification("x") != Notification("x")
    assert Notification("x") != "x"


def test_another_of_the_same_kind() -> None:
    """All attributes but `id` and `time`; its data is checked before, as any."""
    first = Notification(
        "x", type="t", source="s", subject="u", datacontenttype="a/b", extensions={"n": 1}
    )
    second = first.another("y", 1.0)
    assert (second.data, second.time) == ("y", "1970-01-01T00:00:01Z")
    assert second.id != first.id
    for name in ("type", "source", "subject", "datacontenttype", "n"):
        assert second.get(name) == first.get(name)
    with pytest.raises(
        ValueError,
        match=(
            r"data: can't be encoded as UTF-8: 'utf-8' codec can't encode character"
            r" '\\ud800' in position 0: surrogates not allowed"
        ),
    ):
        first.check_data("\ud800")
    with pytest.raises(TypeError, match="data: must be str, bytes or None"):
        first.check_data(5)  # type: ignore[arg-type] # that is the point


def test_it_is_restored_from_its_state() -> None:
    """Equal, whether its `id` was given or made up, which is then known to be another process's."""
    values: dict[str, Any] = {"type": "t", "subject": "u", "extensions": {"n": 1, "yes": True}}
    for original in (
        Notification(b"x"),
        Notification("x", id="1", time="2026-01-02T03:04:05Z", **values),
    ):
        restored = Notification.restored(original.state())
        assert restored == original
        assert (restored.id, restored.time, restored.given_id) == (
            *(original.id, original.time, original.given_id),
        )
        assert Notification.restored(restored.state()) == original


def test_size_counts_what_was_said() -> None:
    """Data and all attributes that were given, in bytes of UTF-8."""
    assert Notification("é", type="t", source="s", subject="u", extensions={"ab": "cd"}).size == 9
    assert Notification(b"\xff" * 5, type="t", source="s").size == 7
    everything = Notification(
        id="é", time="2026-01-02T03:04:05Z", datacontenttype="a/b", type="t", source="s"
    )
    assert everything.size == 2 + 20 + 3 + 2


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"data": "x" * 5000},
        {"data": b"\xff" * 5000},
        *({"data": letter * 5000} for letter in ("é", "ж", "漢", "🎺", "x🎺", "xxxxxxxé")),
        {"id": "i" * 4000},
        {"source": "é" * 4000, "type": "🎺" * 4000, "subject": "s" * 4000},
        {"time": f"2026-01-02T03:04:05.{'0' * 4000}Z"},
        {"datacontenttype": f"text/{'x' * 4000}"},
        {"extensions": {"a": "x" * 4000}},
        {"extensions": {f"name{number}": f"value{number}" for number in range(60)}},
        {"extensions": {f"name{number}": 100_000 + number for number in range(60)}},
    ],
    ids=repr,
)
def test_weight_bounds_what_is_held(given: dict[str, Any]) -> None:
    """An entry takes no more memory than it weighs, and not much less."""
    entries = [_kept(json.dumps(number), given) for number in range(2)]  # what is made once is made
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        entries += [_kept(json.dumps(number), given) for number in range(100)]
        held = (tracemalloc.get_traced_memory()[0] - before) / 100
    finally:
        tracemalloc.stop()
    # (A text takes 8 bytes less from Python 3.12 on.)
    assert held <= entries[0].size <= 2 * held + 1536


def _kept(number: str, given: dict[str, Any]) -> Entry:
    """An entry whose texts are its own, as they are when they come from outside."""
    fields = {"id": number, "source": f"/{number}", "type": f"t{number}", **given}
    own = {name: _copied(value) for name, value in fields.items()}
    notification = Notification(**own)
    for text in (notification.data, *(notification.get(name) for name in ("source", "type"))):
        if isinstance(text, str):
            msgspec.json.encode(text)  # leaves its UTF-8 beside it
    return Entry(notification, None, None, repetition_key(notification, "somebody"))


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {_copied(name): _copied(one) for name, one in value.items()}
    return value[:1] + value[1:] if isinstance(value, str | bytes) else value


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("given", "words"),
    [
        *(
            ({name: LONG}, f"{name}: must have at most 4096 characters, not 5000")
            for name in ("id", "source", "type", "subject", "datacontenttype")
        ),
        ({"source": "s" * 4097, "type": "t"}, "source: must have at most 4096 characters, not 4097"),
        (
            {"time": f"2026-01-02T03:04:05.{'0' * 5000}Z"},
            "time: must have at most 4096 characters, not 5021",
        ),
        ({"extensions": {"severity": LONG}}, "severity: must have at most 4096 characters, not 5000"),
        ({"extensions": {LONG: "x"}}, "must have at most 64 characters, not 5000"),
        ({"time": LONG[:4000]}, "time: must be an RFC 3339 time like '2026-01-31T23:59:59Z'"),
        ({"extensions": {"n": 10**5000}}, r"n: must fit 32 bits \(CloudEvents Integer\)"),
    ],
)
def test_attributes_have_a_length(given: dict[str, Any], words: str) -> None:
    """The error names the attribute, the limit and the length, and doesn't repeat what is long."""
    with pytest.raises(ValueError, match=words) as caught:
        Notification(**given)
    assert len(str(caught.value)) < 250


def test_the_longest_attributes() -> None:
    """Each may have so many characters, whatever the others have."""
    longest = "é" * 4096
    made = Notification(
        id=longest, source=longest, type=longest, subject=longest, extensions={"a" * 64: longest}
    )
    assert made.get("a" * 64) == made.subject == longest


def test_a_long_media_type_is_not_remembered() -> None:
    """Strangers say them."""
    before = media._read.cache_info().currsize
    assert read_media(f"application/{'x' * 200}+json").is_json
    assert not read_media(f"text/{'x' * 200}").is_json
    assert media._read.cache_info().currsize == before


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("application/json", True),
        ("Application/JSON ; x=y", True),
        ("application/a+json;charset=utf-8", True),
        ("json", True),
        ("text/plain; x=application/json", False),
        ("application/json-seq", False),
        ("", False),
    ],
)
def test_a_media_type_of_json(kind: str, expected: bool) -> None:
    """Its subtype says so, whatever its parameters."""
    assert read_media(kind).is_json == expected


def test_a_media_type_of_quotes_that_are_not_closed() -> None:
    """It is read in linear time. Otherwise this one would take hours."""
    assert read_media('a/b; charset="Latin-1').charset == "latin-1"
    text = "a/b" + ';x="\\"' * 200_000
    assert read_media(text).essence == "a/b"


def test_repr_shows_what_was_said() -> None:
    """And nothing that was not."""
    shown = repr(Notification("x", id="1", subject="s", extensions={"to": "al"}))
    assert shown == "Notification('x', type='message', source='/hub', id='1', subject='s', to='al')"


def test_json_in_place_of_data() -> None:
    """Any value that JSON has, None too; another type of JSON's may be named."""
    made = Notification.of(json={"ä": [1, None, True], 2: "\n"}, to="al")
    assert made.data == '{"ä":[1,null,true],"2":"\\n"}'
    assert (made.datacontenttype, made.to) == ("application/json", "al")
    assert Notification.of(json=None).data == "null"
    assert Notification.of(json=1, datacontenttype=None).datacontenttype == "application/json"
    linked = Notification.of(json={}, datacontenttype="application/ld+json")
    assert linked.datacontenttype == "application/ld+json"


@attrs.define
class Point:
    x: int = 1


@dataclass
class Order:
    amount: int = 1


_CIRCLE: list[Any] = []
_CIRCLE.append(_CIRCLE)
_DEEP: list[Any] = []
for _ in range(200):
    _DEEP = [_DEEP]
_DEEPER: list[Any] = []
for _ in range(100_000):
    _DEEPER = [_DEEPER]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            datetime(2026, 1, 2),
            TypeError,
            "json: a value of type datetime can't be written as JSON",
        ),
        ({"ids": {1, 2}}, TypeError, r"json: a value of type set .*list\(value\)"),
        (Point(), TypeError, r"json: .* Point .*attrs\.asdict\(value\)"),
        ([Order()], TypeError, r"json: .* Order .*dataclasses\.asdict\(value\)"),
        (Decimal(1), TypeError, r"json: .* Decimal .*str\(value\)"),
        (b"x", TypeError, "json: a value of type bytes can't"),
        ({(1, 2): 3}, TypeError, "json: keys must be str, .*not tuple"),
        (float("nan"), ValueError, "json: NaN and Infinity can't be written as JSON"),
        (_CIRCLE, ValueError, "json: a value that contains itself can't be written as JSON"),
        (_DEEP, ValueError, "nested too deep"),
        (_DEEPER, ValueError, "json: nested too deep"),
        (
            "\ud800",
            ValueError,
            (
                r"data: can't be encoded as UTF-8: 'utf-8' codec can't encode character"
                r" '\\ud800' in position 1: surrogates not allowed"
            ),
        ),
    ],
    ids=lambda value: None if isinstance(value, list) else str(value)[:20],
)
def test_what_has_no_json(value: Any, error: type[Exception], message: str) -> None:
    """It is named, and so is what to do."""
    with pytest.raises(error, match=message):
        Notification.of(json=value)


@pytest.mark.parametrize(
    ("data", "attributes", "error", "message"),
    [
        ("x", {"json": 1}, TypeError, "json: must not be combined with data"),
        ("", {"json": None}, TypeError, "json: must not be combined with data"),
        (
            None,
            {"json": 1, "datacontenttype": "text/plain"},
            ValueError,
            "datacontenttype: must be a JSON media type with json=, not 'text/plain'",
        ),
        ({"a": 1}, {}, TypeError, "not dict; to publish it as JSON, use json="),
        ("x", {"extensions": "acme"}, TypeError, "extensions: must be a mapping"),
        (
            "x",
            {"extensions": {"a": 1}, "a": 2},
            TypeError,
            "a: given twice, as a keyword and in extensions",
        ),
        (
            "x",
            {"extensions": {"to": "al"}, "to": "bo"},
            TypeError,
            "to: given twice, as a keyword and in extensions",
        ),
        (
            "x",
            {"extensions": {"type": "t"}},
            ValueError,
            "type: must not be among the extensions, because it is an attribute of its own",
        ),
        ("x", {"extensions": {"a": None}}, TypeError, "a: must be str, int or bool"),
    ],
)
def test_attributes_that_exclude_each_other(
    data: Any, attributes: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The error names the one at fault."""
    with pytest.raises(error, match=message):
        Notification.of(data, **attributes)


def test_extensions_apart_from_the_attributes() -> None:
    """In a mapping, as a type checker wants them, or among the keywords."""
    apart = Notification.of("x", type="t", to="al", extensions={"tenant": "acme", "json": 1})
    assert apart.extensions == {"to": "al", "tenant": "acme", "json": 1}
    both: dict[str, Any] = {"level": 3, "extensions": {"tenant": "acme"}}
    assert Notification.of("x", **both).extensions == {"level": 3, "tenant": "acme"}
    assert Notification.of("x", extensions={}).extensions == {}


def test_members_of_an_enum_read_as_their_values() -> None:
    """A filter sees what is sent."""

    class Kind(str, enum.Enum):  # noqa: UP042 - applications have these, and `str` gives the name
        PAID = "order.paid"

    class Level(int, enum.Enum):
        HIGH = 3

    made = Notification(
        "x", type=Kind.PAID, subject=Kind.PAID, extensions={"k": Kind.PAID, "n": Level.HIGH}
    )
    assert [made.get(name) for name in ("type", "subject", "k", "n")] == [*["order.paid"] * 3, "3"]
    sent = json.loads(encode(made, None))
    assert [sent[name] for name in ("type", "subject", "k", "n")] == [*["order.paid"] * 3, 3]


def test_subclasses_of_plain_types_are_sent_as_these() -> None:
    """Such as a template engine's text."""

    class Markup(str):
        __slots__ = ()

    class Level(int):
        pass

    made = Notification(
        Markup("d"),
        type=Markup("t"),
        extensions={"k": Markup("v"), "n": Level(3)},
        audience=Exact(id=Markup("a")),
    )
    sent = json.loads(encode(made, None, audience=True))
    assert [sent[name] for name in ("data", "type", "k", "n")] == ["d", "t", "v", 3]
    assert json.loads(sent["audience"]) == [{"exact": {"id": "a"}}]
