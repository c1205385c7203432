"""CloudEvents: structured, binary, in batches, over HTTP and over WebSockets; legal ones and others."""

from __future__ import annotations

import base64
import json
from random import Random
from typing import Any
from urllib.parse import quote

from tests.fuzz.filters import odd_filters, random_filters
from tests.fuzz.inputs import Ask, Heard, Input, Scene, Talk, client_frame
from tests.fuzz.mutation import ODD_TEXTS, chance, odd_text, spoil, word
from tests.web import Answered

__all__ = ["batch_input", "event_input"]

_GOOD_TEXTS = (
    "a",
    "order.paid",
    "/shop",
    "é",
    "日本",
    "💥",
    "a b",
    "%41",
    "'\"\\",
    "x" * 300,
    "[]",
    "null",
)
_GOOD_DATA: tuple[Any, ...] = (
    *(None, 0, -1.5, 1e300, True, "", "text", "é\n\r\n", [], {}, {"a": [1, None]}, [[[]]], "x" * 2000),
    *("\x00\u2028", {"": {"é": "😀"}}),
)
_PUBLISHED = frozenset({200})
_EITHER = frozenset({200, 400, 413, 415})


def random_event(random: Random) -> dict[str, Any]:
    """A legal event."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"{random.choice(_GOOD_TEXTS)}{random.getrandbits(64):x}",
        "source": random.choice(_GOOD_TEXTS),
        "type": random.choice(_GOOD_TEXTS),
    }
    if chance(random, 50):
        event["subject"] = random.choice(_GOOD_TEXTS)
    if chance(random, 20):
        event["time"] = random.choice(("2026-01-31T23:59:59Z", "1985-04-12t23:20:50.52+01:00"))
    for _ in range(random.choice((0, 0, 1, 3))):
        event["x" + word(random)] = random.choice(
            (*_GOOD_TEXTS, 5, -(2**31), 2**31 - 1, True, False, None)
        )
    if chance(random, 10):
        event["to"] = random.choice(_GOOD_TEXTS)[:255]
    if chance(random, 10):
        event["audience"] = json.dumps(random_filters(random))
    if chance(random, 10):
        event["cursor"] = odd_text(random)
    match random.randrange(4):
        case 0:
            event["data"] = random.choice(_GOOD_DATA)
        case 1:
            event["data_base64"] = base64.b64encode(random.randbytes(random.randrange(40))).decode()
        case 2:
            event |= {"datacontenttype": "text/plain", "data": random.choice(_GOOD_TEXTS)}
    return event


def _odd_event(random: Random) -> dict[str, Any]:
    """Nearly one."""
    event = random_event(random)
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice(
            (*event, "data", "data_base64", "datacontenttype", "time", "to", "audience")
        )
        match random.randrange(6):
            case 0:
                event.pop(name, None)
            case 1:
                event[name] = odd_text(random)
            case 2:
                event[name] = random.choice((None, 5, 2**31, 2**63, 1.5, [], {}, [1], True, "", "1.1"))
            case 3:
                event[random.choice((*ODD_TEXTS, "Ab", "a_b", "datax", "expirytime"))] = odd_text(random)
            case 4:
                event["audience"] = odd_filters(random)
            case 5:
                event["type"] = "trionotify." + random.choice(
                    ("welcome", "x", "", "subscribe", "position")
                )
    return event


def _json(random: Random, event: object) -> bytes:
    return json.dumps(event, ensure_ascii=random.random() < 0.5).encode(errors="surrogatepass")


def _legal(random: Random) -> tuple[bytes, str]:
    event = random_event(random)
    return _json(random, event), event["id"]


def _odd(random: Random) -> bytes:
    match random.randrange(6):
        case 0 | 1 | 2:
            return _json(random, _odd_event(random))
        case 3:
            depth = random.choice((50, 100, 127, 128, 129, 900, 1100, 5000))
            return (
                b'{"specversion":"1.0","id":"1","source":"/d","type":"d","data":'
                + b"[" * depth
                + b"]" * depth
                + b"}"
            )
        case 4:
            return random.choice(
                (b"", b"[]", b"null", b"5", b'"x"', b"{}", b"[" * 3000, b'{"a":1,"a":2}')
            )
    return spoil(random, _legal(random)[0])


def _request(
    content_type: str | None, body: bytes, fields: list[str] | None = None, query: str = ""
) -> bytes:
    lines = [f"POST /events{query} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join([*lines, *(fields or ()), "", ""]).encode() + body


def event_input(random: Random, scene: Scene) -> Input:
    """One event, in one of four ways."""
    match random.randrange(4):
        case 0:
            return _binary(random)
        case 1:
            return _structured(random)
    return _said(random)


def _structured(random: Random) -> Ask:
    kind = "application/cloudevents+json" + random.choice(("", "", "; charset=utf-8"))
    if chance(random, 50):
        return Ask(_request(kind, _legal(random)[0]), "POST", _PUBLISHED)
    return Ask(_request(kind, _odd(random)), "POST", _EITHER)


def _binary(random: Random) -> Ask:
    legal = chance(random, 50)
    event = random_event(random) if legal else _odd_event(random)
    fields = []
    for name, value in event.items():
        if name in ("data", "data_base64", "datacontenttype") or (value is None and legal):
            continue
        text = ("true" if value else "false") if isinstance(value, bool) else str(value)
        encoded = quote(text.encode(errors="replace"), safe=" !#$&'()*+,/:;=?@[]")
        field = name if legal else "".join(c for c in name if c.isascii() and c.isalnum())
        fields.append(f"ce-{field or 'x'}: {encoded}"[:3000])
    if not legal and chance(random, 30):
        fields = [spoil(random, field.encode()).decode("latin-1") for field in fields]
        fields = [
            "".join(c for c in field if c.isprintable() and c.isascii()).strip() for field in fields
        ]
        fields = [f for f in fields if f.partition(":")[0].replace("-", "").isalnum() and ":" in f]
        fields = [field for field in fields if field[:3].lower() == "ce-"]
    kind = random.choice((None, "text/plain", "application/octet-stream", "application/json"))
    body = random.choice((b"", b"x", b"{}", b'"\xc3\xa9"'))
    if kind == "application/json" and legal:
        body = b"{}"
    statuses = _PUBLISHED if legal and "cursor" not in event else _EITHER | {431}
    return Ask(_request(kind, body, fields), "POST", statuses)


def _said(random: Random) -> Talk:
    """On a WebSocket: each message has one answer."""
    legal = chance(random, 50)
    text, id = _legal(random) if legal else (_odd(random), "")
    binary = not legal and chance(random, 5)
    try:
        text.decode()
    except UnicodeDecodeError:
        text = text.decode(errors="replace").encode()

    def check(heard: Heard) -> str | None:
        answers = heard.own("ack", "error", "position")
        if len(answers) != 1:
            return f"{len(answers)} answers came to one message"
        (answer,) = answers
        if legal and (answer["type"] != "trionotify.ack" or answer["data"]["id"] != id):
            return f"a legal event was answered with {answer}"
        if answer["type"] == "trionotify.error" and not answer["data"]["detail"]:
            return "an error without its detail"
        return None

    return Talk(
        "/?format=cloudevents&role=publisher&id=p",
        (client_frame(text, 0x2 if binary else 0x1),),
        check=check,
    )


def batch_input(random: Random, scene: Scene) -> Input:
    """Arrays of events: all are published, or none."""
    count = random.choice((0, 1, 2, 3, 10, 50))
    legal = chance(random, 50)
    items = [_legal(random)[0] for _ in range(count)]
    for _ in range(0 if legal else random.choice((1, 1, 2))):
        items.insert(random.randrange(len(items) + 1), _odd(random))
    body = b"[" + random.choice((b",", b" , \n")).join(items) + b"]"
    if not legal and chance(random, 30):
        body = spoil(random, body)
    if not legal and chance(random, 5):
        body = b"[" + b",".join(items * 60) + b"]"

    def check(answer: Answered) -> str | None:
        if answer.status != 200:
            return None
        receipts = json.loads(answer.body)
        if legal and len(receipts) != count:
            return f"{len(receipts)} receipts came for {count} events"
        offsets = [int(receipt["cursor"].rpartition(":")[2]) for receipt in receipts]
        return (
            None if offsets == sorted(offsets) or not legal else f"receipts are out of order: {offsets}"
        )

    query = random.choice(("", "", "?type=x&subject=y"))
    data = _request("application/cloudevents-batch+json", body, query=query)
    return Ask(data, "POST", _PUBLISHED if legal else _EITHER, check)
