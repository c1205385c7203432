"""Blocks and lines, read back by h11 and by a parser that goes by the HTML standard."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.eventstream import Dispatched, EventSource
from trionotify import Notification
from trionotify.connection.frames import Nothing
from trionotify.connection.sse import (
    LINES,
    LINES_UNCHUNKED,
    SSE,
    SSE_UNCHUNKED,
    EventsFormat,
    RawEventsFormat,
    stream_formats,
    unchunked,
)
from trionotify.delivery.entry import Entry

EPOCH = "0123456789ab"


def cursor(offset: int) -> str:
    return f"{EPOCH}:{offset}"


#: All text that a notification can hold, with what could end a line in the foreground.
texts = st.text(
    st.one_of(st.sampled_from("\r\n\0 :ad\x85\u2028\u2029"), st.characters(blacklist_categories=["Cs"]))
)


def in_chunks(data: bytes) -> bytes:
    """The contents of chunks, read by h11."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="GET", target="/", headers=[("Host", "test")]))
    http.send(h11.EndOfMessage())
    http.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    assert isinstance(http.next_event(), h11.Response)
    body = b""
    while isinstance(event := http.next_event(), h11.Data):
        body += event.data
    assert event is h11.NEED_DATA or isinstance(event, h11.EndOfMessage)
    assert not http.trailing_data[0]
    return body


def entry(notification: Notification, offset: int = 7) -> Entry:
    made = Entry(notification)
    made.offset = offset
    return made


def source_of(data: bytes) -> EventSource:
    source = EventSource()
    source.feed(in_chunks(data))
    return source


@given(texts)
def test_text_comes_back_with_its_lines(text: str) -> None:
    """Each of CR, LF and CR LF has become LF: more an event stream can't tell."""
    block = RawEventsFormat(cursor).encode(entry(Notification(text)))
    (event,) = source_of(block).events
    assert event == Dispatched("message", re.sub("\r\n|\r", "\n", text), f"{EPOCH}:7")


@given(st.binary())
def test_bytes_come_as_base64(data: bytes) -> None:
    """On one line."""
    (event,) = source_of(RawEventsFormat(cursor).encode(entry(Notification(data)))).events
    assert base64.b64decode(event.data, validate=True) == data
    assert "\n" not in event.data


def test_the_smallest_blocks() -> None:
    """To the byte: the id, a type only if it isn't the usual one, and data even if there is none."""
    encode = RawEventsFormat(cursor).encode
    cases = {
        "id: 0123456789ab:7\ndata: hi\n\n": Notification("hi"),
        "id: 0123456789ab:7\nevent: disk full: é\ndata: a\ndata: \ndata: b\n\n": Notification(
            "a\r\n\rb", type="disk full: é"
        ),
        "id: 0123456789ab:7\ndata: \n\n": Notification(None),
        "id: 0123456789ab:7\nevent: x\ndata: AP8=\n\n": Notification(b"\0\xff", type="x"),
    }
    for block, notification in cases.items():
        assert in_chunks(encode(entry(notification))).decode() == block


@given(texts)
@pytest.mark.parametrize(
    "format", [EventsFormat(cursor, blocks=True), EventsFormat(cursor, blocks=False)]
)
def test_an_event_is_on_one_line(format: EventsFormat, text: str) -> None:
    """Whatever the reader takes for the end of one; and the data is there to the last character."""
    spread = json.dumps({"text": text}, indent=1, ensure_ascii=False).replace("\n", "\r\n")
    for notification, data in (
        (Notification(text), text),
        (Notification(spread, datacontenttype="application/json"), {"text": text}),
    ):
        body = in_chunks(format.encode(entry(notification))).decode()
        lines = body.splitlines()
        if not format._blocks:
            assert body == lines[0] + "\n"
            found = lines[0]
        else:
            assert body == "\n".join([*lines, ""])
            source = source_of(format.encode(entry(notification)))
            (found,) = [event.data for event in source.events]
            assert source.last_event_id == f"{EPOCH}:7"
        event = json.loads(found)
        assert (event["data"], event["cursor"]) == (data, f"{EPOCH}:7")


@given(st.lists(texts, min_size=1, max_size=5), st.integers(0, 2**32))
def test_blocks_joined_and_cut_anywhere(many: list[str], at: int) -> None:
    """The same bytes, in whatever pieces, are the same events."""
    encode = RawEventsFormat(cursor).encode
    data = b"".join(encode(entry(Notification(text), i)) for i, text in enumerate(many, 1))
    whole, pieces, body = source_of(data), EventSource(), in_chunks(data)
    at %= len(body) + 1
    pieces.feed(body[:at])
    pieces.feed(body[at:])
    assert len(whole.events) == len(many)
    assert pieces.events == whole.events


def test_what_raw_can_say() -> None:
    """Where the stream is, without an event, and when to come back; of the rest, nothing."""
    format = RawEventsFormat(cursor)
    says: dict[str, Any] = {
        "welcome": {"id": "al"},
        "position": {},
        "drain": {"retry_after_ms": 1234},
    }
    for kind, data in says.items():
        source = EventSource()
        block = format.say(kind, data, f"{EPOCH}:9")
        assert block is not None
        source.feed(block.encode())
        assert (source.events, source.last_event_id) == ([], f"{EPOCH}:9")
        if kind == "welcome":
            assert source.retry is not None
            assert 1000 <= source.retry < 3000
        else:
            assert source.retry == data.get("retry_after_ms")
    assert format.say("gap", {}, None) is format.say("error", {}, None) is None


def test_what_the_server_says_in_events() -> None:
    """One event; in a block with its cursor as the id, and `retry` where a browser needs it."""
    blocks, lines = (EventsFormat(cursor, blocks=value) for value in (True, False))
    for kind, retries in (("welcome", True), ("position", False), ("gap", False), ("drain", True)):
        source, data = EventSource(), {"retry_after_ms": 1234}
        source.feed(blocks.say(kind, data, f"{EPOCH}:9").encode())  # type: ignore[union-attr] # these can be said
        (event,) = source.events
        assert (event.type, event.last_event_id) == ("message", f"{EPOCH}:9")
        assert (source.retry is not None) == retries
        line = lines.say(kind, data, f"{EPOCH}:9")
        assert line is not None
        assert line.count("\n") == 1
        for text in (event.data, line):
            assert json.loads(text)["type"] == f"trionotify.{kind}"
            assert json.loads(text)["data"] == data


def test_what_a_session_sends() -> None:
    """Text, bytes, or a notification: a block without an id, because it has no place in the log."""
    raw, events = RawEventsFormat(cursor), EventsFormat(cursor, blocks=True)
    lines = EventsFormat(cursor, blocks=False)
    for message in ("a\nb", b"\0", Notification("a", type="t"), Notification(None)):
        for format in (raw, events):
            (event,) = source_of(SSE.message(format.message(message))).events
            assert event.last_event_id == ""
        assert json.loads(in_chunks(LINES.message(lines.message(message))))["specversion"] == "1.0"
    (event,) = source_of(SSE.message(raw.message(Notification("a", type="t")))).events
    assert event == Dispatched("t", "a", "")


def test_signs_of_life_say_nothing() -> None:
    """A comment, and an empty line."""
    source = source_of(SSE.ping)
    assert (source.events, source.comments) == ([], 1)
    assert in_chunks(LINES.ping) == b"\n"


def cursor_of(offset: int) -> str:
    return f"{EPOCH}:{offset}"


def test_the_last_chunk_ends_the_body() -> None:
    """With the code and the reason untold."""
    assert SSE.close(1013, "slow") == LINES.close(None, "") == b"0\r\n\r\n"
    assert in_chunks(SSE.ping + SSE.close(1000, "")) == b":\n\n"


def test_without_chunks() -> None:
    """For HTTP/1.0: the same text, as it is; and there is no last word."""
    note = entry(Notification("a"))
    chunked, bare = stream_formats(cursor_of), stream_formats(cursor_of, unchunked)
    assert bare.keys() == chunked.keys()
    for key, format in chunked.items():
        assert bare[key].encode(note) == in_chunks(format.encode(note))
        assert bare[key].encode is not format.encode
    for framing, whole in ((SSE, SSE_UNCHUNKED), (LINES, LINES_UNCHUNKED)):
        assert whole.message("ä\n") == in_chunks(framing.message("ä\n")) == "ä\n".encode()
        assert whole.ping == in_chunks(framing.ping)
        assert whole.close(1013, "slow") == b""


def test_what_a_client_says_is_nothing() -> None:
    """However much it is."""
    assert Nothing().feed(b"GET / HTTP/1.1\r\n\r\n" * 1000) == []


def test_the_formats_of_the_streams() -> None:
    """NDJSON is of events only; one object each, by which clients are grouped."""
    formats = stream_formats(cursor_of)
    assert {key: format.name for key, format in formats.items()} == {
        ("sse", "raw"): "raw",
        ("sse", "cloudevents"): "cloudevents",
        ("ndjson", "cloudevents"): "cloudevents",
    }
    assert len({format.encode for format in formats.values()}) == 3
