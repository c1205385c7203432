"""Notifications as events in JSON, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trionotify import AllOf, Exact, Notification
from trionotify.model.cloudevents import NotAnEvent, decode, decode_sent, encode, encode_own
from trionotify.model.jsontext import _depth

EVENT: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def decoded(**members: Any) -> Notification:
    return decode(json.dumps({**EVENT, **members}))


def encoded(notification: Notification, cursor: str | None = None) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(encode(notification, cursor))
    return event


def test_attributes_come_through() -> None:
    """Those of the specification, and extensions with their types."""
    event = decoded(
        subject="s",
        time="2026-01-02T03:04:05+01:00",
        dataschema="https://example.com/x",
        traceparent="00-x",
        sequence=5,
        urgent=True,
        to="alice",
        cursor="e:1",
    )
    assert (event.id, event.source, event.type, event.subject) == ("1", "/s", "t", "s")
    assert event.time == "2026-01-02T03:04:05+01:00"
    assert event.to == "alice"
    assert event.extensions == {
        "dataschema": "https://example.com/x",
        "traceparent": "00-x",
        "sequence": 5,
        "urgent": True,
        "to": "alice",
    }
    assert event.data is None
    assert encoded(event, "e:7") == {
        **EVENT,
        **event.extensions,
        "subject": "s",
        "time": "2026-01-02T03:04:05+01:00",
        "cursor": "e:7",
    }


def test_null_is_no_attribute() -> None:
    """As the format has it."""
    event = decoded(subject=None, x=None)
    assert event.subject is None
    assert not event.extensions


@pytest.mark.parametrize(
    ("members", "data", "kind"),
    [
        ({}, None, None),
        ({"data": "text", "datacontenttype": "text/plain"}, "text", "text/plain"),
        ({"data": "<x/>", "datacontenttype": "text/xml"}, "<x/>", "text/xml"),
        ({"data": {"a": [1, 2]}}, '{"a": [1, 2]}', "application/json"),
        ({"data": "text"}, '"text"', "application/json"),
        ({"data": None}, "null", "application/json"),
        ({"data": 5, "datacontenttype": "application/x+json"}, "5", "application/x+json"),
        ({"data": 5, "datacontenttype": "Application/JSON; x=y"}, "5", "Application/JSON; x=y"),
        ({"data": None, "datacontenttype": "text/plain"}, None, "text/plain"),
        ({"data_base64": "AP8="}, b"\x00\xff", "application/octet-stream"),
        ({"data_base64": "AP8=", "datacontenttype": "image/png"}, b"\x00\xff", "image/png"),
    ],
)
def test_data_by_content_type(
    members: dict[str, Any], data: str | bytes | None, kind: str | None
) -> None:
    """JSON is the text that was written, other text is a string, bytes are base64; and back."""
    event = decoded(**members)
    assert event.data == data
    assert event.datacontenttype == kind
    again = encoded(event)
    if data is not None:
        assert {name: again[name] for name in ("data", "data_base64") if name in again} == {
            name: value for name, value in members.items() if name != "datacontenttype"
        }
    assert again.get("datacontenttype") == kind


def test_json_stays_as_it_was_written() -> None:
    """Numbers of any size and the order of members included."""
    text = '{"b": 1.00, "a":  12345678901234567890123}'
    event = decode(f'{{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{text}}}')
    assert event.data == text
    assert text.encode() in encode(event, None)


def test_what_a_raw_publisher_said_is_an_event() -> None:
    """With a unique `id`, a `time`, and a content type that says what it is."""
    event = encoded(Notification("hello", source="/clients/al"), "e:1")
    assert event["id"]
    assert event["time"].endswith("Z")
    assert (event["data"], event["datacontenttype"]) == ("hello", "text/plain")
    assert encoded(Notification(b"\xff"))["data_base64"] == "/w=="


def test_an_audience_is_a_condition_and_stays_here() -> None:
    """A JSON array of filters as a string; receivers see `to`, not `audience`."""
    filters = [{"exact": {"team": "ops"}}, {"exact": {"role": "both"}}]
    event = decoded(audience=json.dumps(filters), to="alice")
    assert event.audience == AllOf([Exact(team="ops"), Exact(role="both")])
    assert "audience" not in encoded(event)
    assert encoded(event)["to"] == "alice"


@pytest.mark.parametrize(
    ("text", "words", "id"),
    [
        ("", "not valid JSON: ", None),
        ("[]", "must be a JSON object", None),
        ("5", "must be a JSON object", None),
        ('{"id":"1","x":NaN}', "not valid JSON: ", None),
        ('{"id":"1","x":1e400}', "not valid JSON: Number out of range", None),
        ('{"id":"1","x":"\\ud800"}', "not valid JSON: ", None),
        ("{" * 100_000, "not valid JSON: ", None),
        ('{"data":' + "[" * 100_000, "nested too deep", None),
        ('{"data":' + '{"a":' * 100_000, "nested too deep", None),
        ("\ud800", "UTF-8", None),
        ({f"a{n}": 1 for n in range(100)}, "at most 100 members, not 104", None),
        ({"id": None}, "id: missing", None),
        ({"source": None}, "source: missing", "1"),
        ({"type": None}, "type: missing", "1"),
        ({"specversion": None}, "specversion: missing", "1"),
        ({"specversion": "0.3"}, "specversion: must be '1.0'", "1"),
        ({"id": 5}, "id: must be str", None),
        ({"id": ""}, "id: must not be empty", ""),
        ({"type": ["t"]}, "type: must be str", "1"),
        ({"time": "yesterday"}, "time: must be ", "1"),
        ({"time": 5}, "time: must be ", "1"),
        (
            {"expirytime": "soon"},
            "expirytime: must be an RFC 3339 time like '2026-01-31T23:59:59Z'",
            "1",
        ),
        ({"expirytime": 5}, "expirytime: must be an RFC 3339 time like '2026-01-31T23:59:59Z'", "1"),
        ({"subject": ""}, "subject: must not be empty", "1"),
        (
            {"Big": "x"},
            "attribute name 'Big': must consist of lower-case letters a to z and digits",
            "1",
        ),
        (
            {"snake_case": "x"},
            "attribute name 'snake_case': must consist of lower-case letters a to z and digits",
            "1",
        ),
        ({"x": 1.5}, "x: must be str, int or bool, not float", "1"),
        ({"x": {}}, "x: must be str, int or bool", "1"),
        ({"x": 2**31}, "x: must fit 32 bits (CloudEvents Integer)", "1"),
        ({"x": 10**400}, "x: must fit 32 bits (CloudEvents Integer)", "1"),
        ({"x": "\n"}, "x: must not contain the character '\\n'", "1"),
        ({"data": "x", "data_base64": "eA=="}, "data and data_base64", "1"),
        ({"data_base64": "?"}, "data_base64: must be a base64 string", "1"),
        ({"data_base64": 5}, "data_base64: must be a base64 string", "1"),
        ({"data": 5, "datacontenttype": "text/plain"}, "data: must be a string", "1"),
        ({"data": "x", "datacontenttype": 5}, "datacontenttype: must be str", "1"),
        ({"audience": [{"exact": {"id": "a"}}]}, "audience: must be a string", "1"),
        (
            {"audience": '{"exact":{"id":"a"}}'},
            'audience: must be a JSON array of filters, for example [{"exact":{"team":"ops"}}]',
            "1",
        ),
        ({"to": 7}, "to: must be str, the id of one client, not int; write '7'", "1"),
        ({"to": False}, "to: must be str, the id of one client, not bool", "1"),
        ({"audience": "["}, "audience: not valid JSON: Input data was truncated", "1"),
        ({"audience": '[{"exakt":{}}]'}, "audience: filters[0].exakt: unknown dialect", "1"),
        ({"audience": "[" * 20_000}, "audience: max_filter_bytes", "1"),
        ({"time": "9999-12-31T23:59:59-23:59", "expirytime": "0001-01-01T00:00:00+23:59"}, "", "1"),
    ],
)
def test_what_is_no_event_is_refused(text: str | dict[str, Any], words: str, id: str | None) -> None:
    """With the thing at fault, and the `id` if it can be read."""
    if isinstance(text, dict):
        text = json.dumps(
            {name: value for name, value in {**EVENT, **text}.items() if value is not None}
        )
    if not words:
        assert decode(text).expired
        return
    with pytest.raises(NotAnEvent) as caught:
        decode(text)
    assert words in str(caught.value)
    assert caught.value.id == id


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
members = st.dictionaries(
    st.sampled_from([*EVENT, "data", "data_base64", "subject", "time", "to", "audience", "x", "A"]),
    json_values,
)


@given(st.one_of(st.text(), st.binary(), members.map(lambda found: json.dumps({**EVENT, **found}))))
def test_any_text_is_an_event_or_refused(text: str | bytes) -> None:
    """Nothing else is raised; and an event that was taken can be written and read again."""
    try:
        event = decode(text)
    except NotAnEvent:
        return
    again = decode(encode(event, "e:1"))
    assert again == Notification.of(
        event.data,
        id=event.id,
        source=event.source,
        type=event.type,
        subject=event.subject,
        time=event.time,
        datacontenttype=event.datacontenttype,
        **event.extensions,
    )


def test_the_servers_own_events() -> None:
    """Each has an `id` of its own, and its `data` is JSON."""
    one, two = (json.loads(encode_own("gap", {"from": "e:1"}, "e:9")) for _ in range(2))
    assert one.pop("id") != two.pop("id")
    assert one == {
        "specversion": "1.0",
        "source": "/trionotify",
        "type": "trionotify.gap",
        "datacontenttype": "application/json",
        "cursor": "e:9",
        "data": {"from": "e:1"},
    }


def test_an_audience_goes_to_the_server() -> None:
    """Where it is asked for: as a string that holds a JSON array, which `decode` reads back."""
    for audience in (Exact(team="ops"), AllOf([Exact(team="ops"), Exact(floor="3")])):
        made = Notification("x", audience=audience)
        assert "audience" not in json.loads(encode(made, None))
        text = encode(made, None, audience=True)
        assert isinstance(json.loads(text)["audience"], str)
        assert decode(text) == made
    with pytest.raises(TypeError, match=r"audience: .* can't be written as JSON"):
        encode(Notification("x", audience=lambda client: True), None, audience=True)


def test_what_a_server_has_sent() -> None:
    """With its cursor, if it has one; the members that a server adds are not too many."""
    extensions = {f"x{n}": "y" for n in range(94)}
    made = Notification("x", subject="s", id="1", source="/s", extensions=extensions)
    text = encode(made, "e:5")
    with pytest.raises(NotAnEvent, match="at most 100 members, not 103"):
        decode(text)
    assert decode_sent(text) == (made, "e:5")
    assert decode_sent(encode(made, None)) == (made, None)
    assert decode_sent(encode_own("ack", {}, None))[1] is None


def test_what_a_server_sent_isnt_judged_again() -> None:
    """A server may know better, or other limits: what makes an event is enough."""
    members = {
        "id": "i" * 5000,
        "source": "/\u0007",
        "type": "t",
        "time": "noon",
        "n": 1 << 40,
        "Ä": "x",
    }
    more = members | {f"a{number}": "" for number in range(200)}
    deep = "[" * 500 + "]" * 500
    text = f'{json.dumps(more)[:-1]},"data":{deep}}}'
    made, cursor = decode_sent(text)
    assert (made.id, made.source, made.time, cursor) == ("i" * 5000, "/\u0007", "noon", None)
    assert made.data == deep
    assert (made.extensions["n"], made.extensions["Ä"], made.datacontenttype) == (
        1 << 40,
        "x",
        "application/json",
    )
    assert decode_sent(encode(made, "e:1")) == (made, "e:1")


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "[]", "{}", '{"id":"1","source":"s"}', '{"id":1,"source":"s","type":"t"}'),
        '{"id":"1","source":"s","type":"t","subject":5}',
        '{"id":"1","source":"s","type":"t","a":1.5}',
        '{"id":"1","source":"s","type":"t","data_base64":"%"}',
        '{"id":"1","source":"s","type":"t","datacontenttype":"text/plain","data":{}}',
    ],
)
def test_what_a_server_sent_and_cant_be_taken_apart(text: str) -> None:
    """Then it is no event."""
    with pytest.raises(NotAnEvent):
        decode_sent(text)


@given(st.recursive(st.sampled_from([0, "[{", "\\"]), lambda inner: st.lists(inner, max_size=4)))
def test_the_depth_of_a_text_is_that_of_its_value(value: Any) -> None:
    """However its arrays lie in each other and beside each other."""

    def levels(value: Any) -> int:
        return 1 + max(map(levels, value), default=0) if isinstance(value, list) else 0

    for wrapped in (value, [value] * 30, [[value], [[value]], value]):
        assert _depth(json.dumps(wrapped).encode()) == levels(wrapped)
