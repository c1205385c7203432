"""Requests of HTTP: whole ones and spoilt ones; queries, cursors, origins, proxies' fields."""

from __future__ import annotations

import json
from random import Random
from urllib.parse import quote

from tests.fuzz.filters import odd_filters, random_filters, random_sql
from tests.fuzz.inputs import Ask, Burst, Heard, Input, Scene, Talk
from tests.fuzz.mutation import (
    ODD_BYTES,
    ODD_TEXTS,
    chance,
    cut,
    odd_text,
    query_of,
    respelled,
    spoil,
    word,
)
from tests.kernel import upgrade
from tests.web import Answered

__all__ = ["ALLOWED", "cursor_input", "forwarded_input", "http_input", "origin_input", "query_input"]

# --- http: heads and bodies ---

_FILE = "/trionotify.js"
#: The client has the file already, whichever it is.
_ANY_FORM = "If-None-Match: *"
#: Requests without a body, and what is due.
_PLAIN: tuple[tuple[str, str, frozenset[int]], ...] = (
    ("GET", "/livez", frozenset({200})),
    ("HEAD", "/livez", frozenset({200})),
    ("GET", "/readyz?verbose", frozenset({200})),
    ("GET", "/clients?limit=1", frozenset({200})),
    ("HEAD", "/events?type=x", frozenset({200})),
    ("HEAD", _FILE, frozenset({200})),
    ("OPTIONS", "/events", frozenset({200, 204})),
    ("GET", "/nowhere", frozenset({404})),
    ("DELETE", "/events", frozenset({405})),
    ("GET", "/events?since=nonsense", frozenset({400})),
    ("GET", "/events?id=a&id=b", frozenset({400})),
)
_FIELDS = (
    *("Accept: text/html", "Accept: */*;q=0.1, application/x-ndjson;q=x", "Content-Type: text/plain"),
    *(
        "Last-Event-ID: ",
        "Authorization: Bearer x",
        "Cookie: a=b",
        "Cookie: c=d",
        "X-Forwarded-For: ::1",
    ),
    *("Expect: 100-continue", "Connection: close", "Connection: keep-alive", "Accept-Encoding: gzip"),
    *("Origin: http://localhost", "ce-id: %41", 'ce-type: "x"', "Range: bytes=0-", "TE: trailers"),
    *(_ANY_FORM, "Forwarded: for=1", "Upgrade: h2c", "X: " + "y" * 500, "Sec-Fetch-Mode: cors"),
)
#: Fields that a request may not have, or not twice, or not with this value.
_BAD_FIELDS = (
    *("Content-Length: 5", "Content-Length: -1", "Content-Length: 5, 5", "Content-Length: 1e3"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity"),
    *(
        "Host: other",
        "Host",
        ": x",
        "A B: c",
        "X:\x00",
        " folded",
        "Expect: 200-ok",
        "Upgrade: websocket",
    ),
    *(
        "Content-Encoding: gzip",
        "Origin: http://é",
        "Origin: \x1b[1m",
        "Content-Type: text/plain;charset=x",
    ),
    *("Access-Control-Request-Headers: ce-é", "X: " + "y" * 20_000, "ce-specversion: 0.3", "é: é"),
    *("Access-Control-Request-Method: PUT", "Content-Type: application/cloudevents+json", "X: \r"),
)
#: The parser's own: a version that isn't spoken, a transfer coding that isn't known.
_PARSERS = frozenset({501, 505})


def http_input(random: Random, scene: Scene) -> Input:
    """One connection's bytes: up to four requests, the last of them maybe spoilt."""
    if chance(random, 5):
        data = b"".join(random.choices(ODD_BYTES, k=random.randint(1, 30)))
        return Burst(cut(random, data), allowed=_PARSERS)
    legal = [_legal(random) for _ in range(random.choice((0, 1, 1, 2, 3)))]
    data = b"".join(request for request, _ in legal)
    if chance(random, 75):
        data += _spoilt(random)
    if chance(random, 2):
        data = b"\r\n" + data  # RFC 9112, section 2.2
    return Burst(cut(random, data), tuple(due for _, due in legal), _PARSERS)


def _legal(random: Random) -> tuple[bytes, frozenset[int]]:
    """A whole, legal request, and what is due."""
    fields = [
        field for field in random.sample(_FIELDS, random.choice((0, 0, 1, 3))) if field[:4] != "Conn"
    ]
    if chance(random, 60):
        method, target, due = random.choice(_PLAIN)
        fields = [field for field in fields if field[:4] not in ("Expe", "Acce", "Last")]
        if _ANY_FORM in fields and target == _FILE:
            due = frozenset({304})
        return _head(method, target, fields), due
    # A body: its type and the fields ce-… would say what it has to be.
    fields = [field for field in fields if field[:3] not in ("Con", "ce-")]
    body = random.choices(ODD_BYTES, k=random.randint(0, 9))
    target = f"/events?type={word(random)}"
    if chance(random, 50):
        length = sum(map(len, body))
        return _head("POST", target, [*fields, f"Content-Length: {length}"]) + b"".join(body), _POSTED
    extension = random.choice((b"", b"", b";x=y", b';x="y;z"'))
    chunks = [b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in body]
    chunked = [*fields, "Transfer-Encoding: chunked"]
    trailer = random.choice((b"", b"", b"X: y\r\n"))
    return _head("POST", target, chunked) + b"".join(chunks) + b"0\r\n" + trailer + b"\r\n", _POSTED


_POSTED = frozenset({200})


def _head(method: str, target: str, fields: list[str], version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: localhost", *fields, "", ""]
    return "\r\n".join(lines).encode()


def _spoilt(random: Random) -> bytes:
    request, _ = _legal(random)
    match random.randrange(6):
        case 0:
            fields = random.choices(_FIELDS + _BAD_FIELDS, k=random.choice((1, 2, 4, 120)))
            method = random.choice(
                ("GET", "HEAD", "POST", "OPTIONS", "PUT", "get", "G\x00", word(random))
            )
            target = random.choice(
                ("/", "*", "/events", "http://localhost/livez", "//", "/%", "", "a:b", "/é")
            )
            return _head(
                method, target, fields, random.choice(("1.1", "1.1", "1.0", "2.0", "0.9", "1.x", ""))
            )
        case 1:
            return upgrade(
                "/" + random.choice(("", "?id=x", "events")), *random.choices(_BAD_FIELDS, k=2)
            )
        case 2:
            return request.replace(b"\r\n", b"\n")
        case 3:
            return request[: random.randrange(len(request))]
        case 4:  # a head that folds, repeats its length, or has one field too many
            head = random.choice(("HEAD", "GET", "POST"))
            odd = random.choice(
                (["X: y", " z"], ["Content-Length: 0"] * 2, ["X: y"] * 101, ["X:y\nZ: z"])
            )
            return _head(head, "/livez", odd)
    return spoil(random, request)


# --- queries ---

_KEYS = (
    *(
        "id",
        "role",
        "type",
        "subject",
        "source",
        "datacontenttype",
        "to",
        "narrow",
        "echo",
        "since",
        "lag",
    ),
    *("format", "filters", "sql", "last_event_id", "exp", "sig", "team", "exact.type", "prefix.subject"),
    *(
        "suffix.source",
        "exact.",
        "other.type",
        "exact.a_b",
        "exact.exact.type",
        "limit",
        "after",
        "",
        ".",
    ),
)
_VALUES = {
    "role": ("subscriber", "publisher", "both", "admin"),
    "echo": ("0", "1", "2"),
    "lag": ("disconnect", "latest", "gap"),
    "format": ("raw", "cloudevents", "json"),
    "since": ("start", "10m", "1h30m", "2026-01-31T10:00:00Z", "e:1", "0"),
    "last_event_id": ("start", "e:1", ""),
    "datacontenttype": ("application/json", "text/plain", "application/x+json; charset=utf8", "x"),
}
_PATHS = (
    "/events",
    "/events",
    "/events",
    "/",
    "/clients",
    "/metrics",
    "/readyz",
    "/livez",
    "/events/",
    "/x",
)
_REFUSED = frozenset({400, 403, 404, 405, 406, 410, 415, 426, 429, 431})


def _value(random: Random, key: str) -> str:
    if key in _VALUES and chance(random, 70):
        return random.choice(_VALUES[key])
    if key in ("filters", "narrow"):
        return json.dumps(random_filters(random)) if chance(random, 60) else odd_filters(random)[:3000]
    if key == "sql":
        return random_sql(random) if chance(random, 80) else odd_text(random)
    return word(random) if chance(random, 60) else odd_text(random)


def _query(random: Random) -> str:
    """Keys and values, in any spelling; sometimes spoilt behind that."""
    count = random.choice((0, 1, 1, 2, 3, 5, 9, 300) if chance(random, 10) else (1, 2, 3))
    pairs = [(key, _value(random, key)) for key in random.choices(_KEYS, k=count)]
    if chance(random, 50):
        return query_of(pairs)
    text = "&".join(f"{respelled(random, name)}={respelled(random, value)}" for name, value in pairs)
    if chance(random, 40):
        text = spoil(random, text.encode()).decode("latin-1")
    return quote(text, safe="%&=+;.,:/?~!$'()*@-_[]{}|\\^`<>\"")


def query_input(random: Random, scene: Scene) -> Input:
    """A query, for a publisher, a stream, a WebSocket, or a list of clients."""
    path = random.choice(_PATHS)
    target = f"{path}?{_query(random)}" if path != "/events" else f"/events?{_query(random)}"
    target = target.replace(" ", "+")[:12_000]
    match random.randrange(8):
        case 0:
            return Burst(
                (upgrade(target).replace(b"Host: test", b"Host: localhost"),), (_REFUSED | {101},)
            )
        case 1 if path == "/events":
            return Burst((_head("GET", target, [random.choice(_STREAMS)]),), (_REFUSED | {200},))
        case 2 | 3 | 4:
            body = random.choice((b"", b"x", b"\xff", b"{}", b"{", b'"\xc3\xa9"'))
            return Ask(
                _head("POST", target, [f"Content-Length: {len(body)}"]) + body, "POST", _REFUSED | {200}
            )
        case 5 if path != "/events":
            return Ask(_head("GET", target, []), "GET", _REFUSED | {200})
    return Ask(_head("HEAD", target, [random.choice(_STREAMS)]), "HEAD", _REFUSED | {200})


_STREAMS = (
    "Accept: text/event-stream",
    "Accept: application/x-ndjson",
    "Accept: */*",
    "Accept: a/b, */*;q=0",
)


# --- cursors ---


def cursor_input(random: Random, scene: Scene) -> Input:
    """Where a stream starts: real cursors, others' cursors, moments, and what is none of these."""
    if chance(random, 15):
        return _resumed(random, scene)
    text = _position(random, scene)
    carrier = random.choice(("since", "last_event_id", "Last-Event-ID", "both"))
    fields = []
    pairs = [("format", random.choice(("raw", "cloudevents")))]
    if carrier in ("since", "both"):
        pairs.append(("since", text))
    if carrier == "last_event_id":
        pairs.append(("last_event_id", text))
    if carrier in ("Last-Event-ID", "both"):
        other = text if carrier != "both" else _position(random, scene)
        printable = "".join(character for character in other if " " <= character != "\x7f")
        fields.append(f"Last-Event-ID: {printable}")
    spelled = "&".join(f"{name}={respelled(random, value)}" for name, value in pairs)
    due = frozenset({200, 400, 410, 431})
    received = carrier == "Last-Event-ID"
    if carrier != "both" and (
        text == f"{scene.epoch}:{scene.head}" or (text, received) == ("start", False)
    ):
        due = frozenset({200})
    elif (text, received) == ("start", True):
        # What was received is a cursor; this one is none of the log's.
        due = frozenset({410 if pairs[0][1] == "raw" else 200})
    if chance(random, 10):
        return Burst((_head("GET", f"/events?{spelled}", fields),), (due,))
    return Ask(_head("HEAD", f"/events?{spelled}", fields), "HEAD", due)


def _position(random: Random, scene: Scene) -> str:  # noqa: PLR0911 - a table
    offset = random.choice((0, 1, scene.head - 1, scene.head, scene.head + 1, 1 << 31, 1 << 63, -1))
    match random.randrange(8):
        case 0 | 1:
            return f"{scene.epoch}:{offset}"
        case 2:
            epochs = ("", "e", scene.epoch[:-1], scene.epoch.upper(), word(random))
            return f"{random.choice(epochs)}:{offset}"
        case 3:
            number = random.choice((0, 1, 10, 999_999_999, 10**10, 0.5, "1.", "٣"))
            return f"{number}{random.choice('smhdwxS')}" * random.choice((1, 1, 2, 50))
        case 4:
            year, day = random.choice((1, 1969, 2026, 9999)), random.choice((0, 1, 31, 32))
            zone = random.choice(("Z", "z", "+00:00", "-23:59", " 01:00", "+24:00", "", "+1"))
            seconds = f"{random.choice((0, 59, 60)):02}.{'9' * random.choice((1, 6, 40))}"
            return f"{year:04}-01-{day:02}T23:59:{seconds}{zone}"
        case 5:
            return "start"
        case 6:
            base = f"{scene.epoch}:{offset}"
            return spoil(random, base.encode()).decode("latin-1")
    return odd_text(random)


def _resumed(random: Random, scene: Scene) -> Talk:
    """A cursor of the log: all that follows comes, densely, or nothing of it."""
    after = random.randrange(scene.head + 1)
    target = f"/?format=cloudevents&id=c&since={scene.epoch}:{after}"

    def check(heard: Heard) -> str | None:
        at = after
        for event in heard.events():
            offset = int(event["cursor"].rpartition(":")[2])
            if event["type"] == "trionotify.welcome":
                if event["data"]["recovered"] is False:
                    return None  # it is forgotten by now
                if offset != after:
                    return f"it resumed at {offset}, not at {after}"
            elif event["source"] != "/trionotify":
                if offset != at + 1:
                    return f"{offset} came behind {at}"
                at = offset
        return None

    return Talk(target, (), clean=False, check=check)


# --- origins ---

#: What the server of this kind is started with.
ALLOWED = ("https://app.example.org", "https://*.below.example", "http://one.test:8080")
_OWN = (
    "localhost",
    "localhost:8765",
    "127.0.0.1",
    "127.0.0.1:1",
    "[::1]",
    "[::1]:80",
    "box",
    "a.localhost",
)
_STRANGE_HOSTS = (
    *("attacker.example", "attacker.example:80", "[::1].evil.example", "127.0.0.1.evil.example"),
    *("localhost.evil.example", "app.example.org.evil.example", "evil.example:8765", "1.2.3.4.5", "x.y"),
)
_STRANGE = (
    *("https://evil.example", "http://app.example.org", "https://app.example.org.evil.example"),
    *("https://app.example.org:444", "https://evilbelow.example", "https://below.example", "null"),
    *("https://app.example.org@evil.example", "https://evil.example/https://app.example.org", "file://"),
    *(
        "http://one.test",
        "http://one.test:80800",
        "https://one.test:8080",
        "http://.",
        "x",
        "https://",
        "*",
    ),
)


def origin_input(random: Random, scene: Scene) -> Input:
    """A page of another site, or one that came by another name: who may, and who is told so."""
    host = random.choice(_OWN)
    # A host that isn't a name of this machine is refused with 403.
    strange_host = chance(random, 15)
    if strange_host:
        host = random.choice(_STRANGE_HOSTS)
    origin, allowed = _origin(random, host, spoilt=chance(random, 20))
    if origin == f"https://{host}":
        allowed = None  # the page is this server's own, whatever its host is called
    fields = [] if origin is None else [f"Origin: {origin}"]
    method = random.choice(("HEAD", "OPTIONS", "POST", "GET"))
    if method == "OPTIONS":
        fields.append(f"Access-Control-Request-Method: {random.choice(('POST', 'GET', 'PUT', 'x'))}")
        names = random.choice(
            ("content-type", "ce-id, ce-type", "traceparent", "ce-x\ty", "x" * 300, "é", ",")
        )
        fields.append(f"Access-Control-Request-Headers: {names}")
    if method == "POST":
        fields.append("Content-Length: 0")
    target = "/events" if method != "GET" else "/clients"
    data = _head(method, target, fields).replace(b"Host: localhost", f"Host: {host}".encode())
    if strange_host or not allowed:
        due = frozenset({403} if method != "OPTIONS" else {403, 200, 204})
    else:
        due = frozenset({200, 204})
    if allowed is None:
        due = frozenset({200, 204, 400, 403})
    if host.startswith("[::1]."):
        due = frozenset({400})  # no host at all

    def check(answer: Answered) -> str | None:
        told = answer.headers.get("access-control-allow-origin")
        if told is not None and allowed is False:
            return f"{origin!r} is told that it may: {told!r}"
        if told is not None and told not in (origin, "*"):
            return f"{told!r} is told to {origin!r}"
        return None

    return Ask(data, method, due, check)


def _origin(random: Random, host: str, spoilt: bool) -> tuple[str | None, bool | None]:
    """An origin, and whether it is allowed; None where that can't be said without the server's code."""
    match random.randrange(6):
        case 0:
            return None, True
        case 1:
            return f"http://{host}", True
        case 2:
            return random.choice(
                ("https://app.example.org", "https://a.below.example", "http://one.test:8080")
            ), True
        case 3:
            return random.choice(("HTTPS://APP.example.org", "https://app.example.org:443")), True
        case 4 if spoilt:
            text = spoil(random, random.choice(_STRANGE).encode()).decode("latin-1")
            return "".join(
                character for character in text if " " <= character != "\x7f"
            ).strip() or None, None
    return random.choice(_STRANGE), False


# --- proxies' fields ---


def forwarded_input(random: Random, scene: Scene) -> Input:
    """`X-Forwarded-For` from a proxy that is trusted: whatever it says, the request is answered."""
    parts = [
        random.choice(
            ("127.0.0.1", "::1", "10.0.0.1:80", "[2001:db8::1]:443", "unknown", "", "1.2.3", *ODD_TEXTS)
        )
        for _ in range(random.choice((1, 1, 2, 5, 200)))
    ]
    value = "".join(character for character in ", ".join(parts) if " " <= character != "\x7f").strip()
    field = f"X-Forwarded-For: {value}"[:3000].strip()
    method, target, due = random.choice(_PLAIN)
    return Ask(_head(method, target, [field]), method, due)
