"""The interfaces as documents: they are valid, and say what a server does.

`docs/openapi.yaml` has the routes and the answers of HTTP. Each answer in it is provoked here, and looks
as it says; no route is missing. `docs/asyncapi.yaml` has the messages of a connection. A conversation
has all that the server can say, and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import attrs
import jsonschema
import pytest
import trio
import trio.testing
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.conftest import Room, open_room
from tests.eventstream import stream
from tests.kernel import masked, upgrade
from tests.provider import secret_issuer, secret_token
from tests.test_peers import need
from tests.web import Answered, Web, get, post
from trionotify import Client, Refused, StoreError, Tokens, sign
from trionotify.connection.frames import message_frame
from trionotify.http.routes import ALL
from trionotify.http.tickets import MemoryTickets
from trionotify.http.tokens import METADATA
from trionotify.storage.sqlite import SqliteStore
from trionotify.version import __version__

ROOT = Path(__file__).parent.parent
OPENAPI: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())
ASYNCAPI: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text())
SCHEMA = ROOT / "tests/peers/node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json"
METHODS = ("get", "post", "delete", "put", "patch")
SECRET = b"the secret of these tests"


def test_the_openapi_document_is_valid() -> None:
    """By the schema of OpenAPI 3.1, and what a schema can't say."""
    assert list(OpenAPIV31SpecValidator(OPENAPI).iter_errors()) == []  # type: ignore[arg-type] # any mapping will do


def test_the_asyncapi_document_is_valid() -> None:
    """By the schema of AsyncAPI 3.0."""
    need(SCHEMA.exists(), "the schema of AsyncAPI is not installed")
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
    assert [error.message for error in validator.iter_errors(ASYNCAPI)] == []


@pytest.mark.parametrize("document", [OPENAPI, ASYNCAPI], ids=["openapi", "asyncapi"])
def test_they_are_of_this_version(document: dict[str, Any]) -> None:
    """And each reference in them leads somewhere."""
    assert document["info"]["version"] == __version__
    found = list(references(document))
    assert found
    for reference in found:
        at: Any = document
        for name in reference.removeprefix("#/").split("/"):
            at = at[name]


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return here + [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []


# --- HTTP ---


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, item in OPENAPI["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def test_it_has_every_route() -> None:
    """But for the files of the page, and single modules. Those of the browser's client are there."""
    served = {
        (method.lower(), path)
        for path, methods in ALL.items()
        for method, handler in methods.items()
        if not hasattr(handler, "content_type") or path.startswith("/trionotify.")
    }
    assert set(operations()) == served


async def test_options_says_the_same(room: Room) -> None:
    """For each path."""
    for path, item in OPENAPI["paths"].items():
        answer = await Web(room).ask(get(path, method="OPTIONS"), "OPTIONS")
        allowed = set(answer.headers["allow"].lower().split(", "))
        assert allowed - {"head", "options"} == set(item) & set(METHODS)
        assert "options" in allowed


#: Sends a request to a server; returns the answer, of a WebSocket and a stream its head.
Ask = Callable[[Room], Awaitable[Answered]]


@attrs.frozen
class Case:
    """How to be answered so."""

    ask: Ask
    options: dict[str, Any] = attrs.Factory(dict)


def case(request: bytes, **options: Any) -> Case:
    """One whole answer to one request."""
    method = request.partition(b" ")[0].decode()
    return Case(lambda room: Web(room).ask(request, method), options)


def head_of(request: bytes, before: int = 0, **options: Any) -> Case:
    """The head of an answer behind which the connection goes on; so many others are there already."""

    async def ask(room: Room) -> Answered:
        for _ in range(before):
            await room.connect("/?id=a")
        web = Web(room)
        web.kernel.feed(request)
        await room.quiet()
        head, _, body = bytes(web.kernel.taken).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        parts = [line.partition(": ") for line in lines]
        headers = {name.lower(): value for name, _, value in parts}
        return Answered(int(first.split()[1]), headers, body)

    return Case(ask, options)


def twice(request: bytes, **options: Any) -> Case:
    """The second answer to the same request."""

    async def ask(room: Room) -> Answered:
        web = Web(room)
        method = request.partition(b" ")[0].decode()
        assert (await web.ask(request, method)).status == 200
        return await web.ask(request, method)

    return Case(ask, options)


def again(target: str) -> Case:
    """A file that the client has already."""

    async def ask(room: Room) -> Answered:
        web = Web(room)
        first = await web.ask(get(target))
        return await web.ask(get(target, f"If-None-Match: {first.headers['etag']}"))

    return Case(ask)


def late(request: bytes) -> Case:
    """A body that doesn't come; its answer does, in time."""

    async def ask(room: Room) -> Answered:
        web = Web(room)
        web.kernel.feed(request)
        await trio.sleep(31)
        await room.quiet()
        (answer,) = web.answers("POST")
        return answer

    return Case(ask)


def drained(request: bytes) -> Case:
    """Answered by a server that goes down."""

    async def ask(room: Room) -> Answered:
        web = Web(room)
        method = request.partition(b" ")[0].decode()
        assert (await web.ask(get("/livez"))).status == 200
        room.hub.stop_accepting("draining")
        return await web.ask(request, method)

    return Case(ask)


EVENT = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid"}
STRUCTURED = "Content-Type: application/cloudevents+json"
BATCH = "Content-Type: application/cloudevents-batch+json"
SSE = "Accept: text/event-stream"
EVENTS = "Sec-WebSocket-Protocol: cloudevents.json"
NDJSON = "Accept: application/x-ndjson"
EVIL = "Origin: https://attacker.example"


class Full(MemoryTickets):
    """It has no room for a ticket."""

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        raise Refused(503, "tickets: too many are unused", headers=(("Retry-After", "5"),))


TOKENS = Tokens(secret_issuer())
BEARER = f"Authorization: Bearer {secret_token()}"

#: By operation, status and media type.
CASES: dict[tuple[str, str, str, str], Case] = {
    ("get", "/", "101", ""): head_of(upgrade("/?id=alice")),
    ("get", "/", "200", "text/html"): case(get("/", "Accept: text/html")),
    ("get", "/", "200", "text/plain"): case(get("/", "Accept: */*")),
    ("get", "/", "426", "application/problem+json"): case(get("/", "Accept: image/png")),
    ("get", "/", "default", "application/problem+json"): case(get("/", EVIL)),
    ("get", "/events", "101", ""): head_of(
        upgrade("/events", "Sec-WebSocket-Protocol: cloudevents.json")
    ),
    ("get", "/events", "200", "text/event-stream"): head_of(
        get("/events?since=0:7&format=cloudevents", SSE)
    ),
    ("get", "/events", "200", "application/x-ndjson"): head_of(get("/events?id=alice", NDJSON)),
    ("get", "/events", "400", "application/problem+json"): case(get("/events?tpye=x", SSE)),
    ("get", "/events", "401", "application/problem+json"): case(get("/events", SSE), secret=SECRET),
    ("get", "/events", "403", "application/problem+json"): case(get("/events", SSE, EVIL)),
    ("get", "/events", "406", "application/problem+json"): case(get("/events", "Accept: text/html")),
    ("get", "/events", "410", "application/problem+json"): case(get("/events?since=0:7", SSE)),
    ("get", "/events", "429", "application/problem+json"): head_of(
        get("/events?id=a", SSE), 1, max_connections_per_id=1
    ),
    ("get", "/events", "503", "application/problem+json"): head_of(
        get("/events?id=b", SSE), 1, max_connections=1
    ),
    ("get", "/events", "default", "application/problem+json"): case(
        get("/events", SSE, f"X: {'x' * 20000}")
    ),
    ("post", "/events", "200", "application/json"): case(post("/events?type=a", "x")),
    ("post", "/events", "400", "application/problem+json"): case(post("/events?topic=x", "x")),
    ("post", "/events", "401", "application/problem+json"): case(post("/events", "x"), secret=SECRET),
    ("post", "/events", "403", "application/problem+json"): case(post("/events?role=subscriber", "x")),
    ("post", "/events", "408", "application/problem+json"): late(
        get("/events", "Content-Length: 9", method="POST")
    ),
    ("post", "/events", "411", "application/problem+json"): case(
        get("/events", method="POST", version="1.0")
    ),
    ("post", "/events", "413", "application/problem+json"): case(
        post("/events", "x" * 100), max_message_bytes=99
    ),
    ("post", "/events", "415", "application/problem+json"): case(
        post("/events", "x", "Content-Encoding: gzip")
    ),
    ("post", "/events", "422", "application/problem+json"): case(post("/events", "x"), store="sqlite:"),
    ("post", "/events", "429", "application/problem+json"): twice(
        post("/events?id=a", "x"), publish_rate_per_id=0.001, rate_burst=1
    ),
    ("post", "/events", "501", "application/problem+json"): case(
        post("/events", json.dumps({**EVENT, "request": True}), STRUCTURED)
    ),
    ("post", "/events", "503", "application/problem+json"): drained(post("/events", "x")),
    ("post", "/events", "507", "application/problem+json"): case(
        post("/events", "x" * 2000), store="sqlite:", max_log_bytes=1000
    ),
    ("post", "/events", "default", "application/problem+json"): case(
        post("/events", "x", f"X: {'x' * 20000}")
    ),
    ("get", "/nodes", "200", "application/json"): case(get("/nodes")),
    ("get", "/nodes", "401", "application/problem+json"): case(get("/nodes"), secret=SECRET),
    ("get", "/nodes", "403", "application/problem+json"): case(
        get("/nodes", BEARER), authenticate=TOKENS
    ),
    ("get", "/nodes", "default", "application/problem+json"): case(get("/nodes", EVIL)),
    ("get", "/clients", "200", "application/json"): head_of(get("/clients?limit=1"), 2),
    ("get", "/clients", "400", "application/problem+json"): case(get("/clients?limit=0")),
    ("get", "/clients", "401", "application/problem+json"): case(get("/clients"), secret=SECRET),
    ("get", "/clients", "403", "application/problem+json"): case(
        get("/clients", BEARER), authenticate=TOKENS
    ),
    ("get", "/clients", "default", "application/problem+json"): case(get("/clients", EVIL)),
    ("delete", "/clients", "200", "application/json"): case(
        get("/clients?exact.id=al", method="DELETE")
    ),
    ("delete", "/clients", "400", "application/problem+json"): case(get("/clients", method="DELETE")),
    ("delete", "/clients", "401", "application/problem+json"): case(
        get("/clients?exact.id=al", method="DELETE"), secret=SECRET
    ),
    ("delete", "/clients", "403", "application/problem+json"): case(
        get("/clients?exact.id=al", BEARER, method="DELETE"), authenticate=TOKENS
    ),
    ("delete", "/clients", "default", "application/problem+json"): case(
        get("/clients?exact.id=al", f"X: {'x' * 20000}", method="DELETE")
    ),
    ("post", "/tickets", "200", "application/json"): case(
        post("/tickets", "", BEARER), authenticate=TOKENS
    ),
    ("post", "/tickets", "400", "application/problem+json"): case(
        post("/tickets?ticket=x", "", BEARER), authenticate=TOKENS
    ),
    ("post", "/tickets", "401", "application/problem+json"): case(
        post("/tickets", ""), authenticate=TOKENS
    ),
    ("post", "/tickets", "404", "application/problem+json"): case(post("/tickets", "")),
    ("post", "/tickets", "503", "application/problem+json"): case(
        post("/tickets", "", BEARER), authenticate=Tokens(secret_issuer(), tickets=Full())
    ),
    ("post", "/tickets", "default", "application/problem+json"): case(post("/tickets", "", EVIL)),
    ("get", METADATA, "200", "application/json"): case(get(METADATA), authenticate=TOKENS),
    ("get", METADATA, "404", "application/problem+json"): case(get(METADATA)),
    ("get", METADATA, "default", "application/problem+json"): case(get(METADATA, EVIL)),
    ("get", "/livez", "200", "text/plain"): case(get("/livez")),
    ("get", "/livez", "default", "application/problem+json"): case(get("/livez", EVIL)),
    ("get", "/readyz", "200", "text/plain"): case(get("/readyz?verbose")),
    ("get", "/readyz", "503", "text/plain"): drained(get("/readyz")),
    ("get", "/readyz", "default", "application/problem+json"): case(get("/readyz", EVIL)),
    ("get", "/metrics", "200", "text/plain"): case(get("/metrics")),
    ("get", "/metrics", "200", "application/json"): case(get("/metrics", "Accept: application/json")),
    ("get", "/metrics", "401", "application/problem+json"): case(get("/metrics"), secret=SECRET),
    ("get", "/metrics", "403", "application/problem+json"): case(
        get("/metrics", BEARER), authenticate=TOKENS
    ),
    ("get", "/metrics", "default", "application/problem+json"): case(get("/metrics", EVIL)),
    ("get", "/trionotify.js", "200", "text/javascript"): case(get("/trionotify.js")),
    ("get", "/trionotify.js", "304", ""): again("/trionotify.js"),
    ("get", "/trionotify.js", "default", "application/problem+json"): case(get("/trionotify.js", EVIL)),
    ("get", "/trionotify.d.ts", "200", "text/plain"): case(get("/trionotify.d.ts")),
    ("get", "/trionotify.d.ts", "304", ""): again("/trionotify.d.ts"),
    ("get", "/trionotify.d.ts", "default", "application/problem+json"): case(
        get("/trionotify.d.ts", EVIL)
    ),
}


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """The value that a reference refers to."""
    at: Any = node
    while "$ref" in at:
        names = at["$ref"].removeprefix("#/").split("/")
        at = OPENAPI
        for name in names:
            at = at[name]
    return dict(at)


def test_every_answer_is_provoked() -> None:
    """Each status of each operation, in each of its media types."""
    documented = {
        (method, path, status, kind)
        for (method, path), operation in operations().items()
        for status, response in operation["responses"].items()
        for kind in resolved(response).get("content", {"": None})
    }
    assert set(CASES) == documented


@pytest.mark.parametrize("key", CASES, ids=" ".join)
async def test_an_answer_looks_as_documented(
    key: tuple[str, str, str, str],
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its status, its media type, its headers and its body."""
    method, path, status, kind = key
    found = CASES[key]
    options = dict(found.options)
    if "store" in options:
        options["store"] = f"sqlite:{tmp_path}/log.db"
    if status == "422":
        # All that HTTP lets through can be stored. What an application publishes needn't be so.
        refusal = StoreError(422, "log.db: it can't be stored", "it can't be stored")
        monkeypatch.setattr(SqliteStore, "refuses", lambda self, entry: refusal)
    async with open_room(**options) as room:
        answer = await found.ask(room)
    responses = operations()[method, path]["responses"]
    if status == "default":
        assert str(answer.status) not in responses or answer.status == 403
    else:
        assert str(answer.status) == status
    response = resolved(responses[status])
    for name, header in response.get("headers", {}).items():
        text = answer.headers.get(name.lower())
        assert text is not None or not resolved(header).get("required"), name
        if text is not None:
            check(text, resolved(header)["schema"])
    assert answer.headers.get("content-type", "").partition(";")[0] == kind
    if kind:
        body: Any = answer.body.decode()
        if kind.endswith("json") and kind != "application/x-ndjson":
            body = json.loads(body)
        check(body, response["content"][kind]["schema"])


def check(value: Any, schema: dict[str, Any]) -> None:
    """By a schema in the document, with what it refers to."""
    whole = {**schema, "components": OPENAPI["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


@pytest.mark.parametrize(
    ("fields", "body"),
    [((STRUCTURED,), EVENT), ((BATCH,), [EVENT, {**EVENT, "id": "2"}])],
    ids=["event", "batch"],
)
async def test_the_schemas_of_bodies_fit(
    fields: tuple[str, ...], body: Any, room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """Bodies that they allow are published, and a receipt comes for each."""
    operation = operations()["post", "/events"]
    kind = fields[0].partition(": ")[2]
    check(body, operation["requestBody"]["content"][kind]["schema"])
    answer = await Web(room).ask(post("/events", json.dumps(body), *fields), "POST")
    assert answer.status == 200
    check(answer.json, operation["responses"]["200"]["content"]["application/json"]["schema"])


#: A value for each parameter that has no default.
VALUES = {
    "exact.type": "a",
    "prefix.type": "a",
    "suffix.subject": "a",
    "sql": "type = 'a'",
    "filters": "[]",
    "narrow": "[]",
    "since": "start",
    "lag": "latest",
    "Last-Event-ID": "0:7",
    "id": "a",
    "type": "a",
    "subject": "a",
    "source": "a",
    "datacontenttype": "text/plain",
    "to": "a",
    "audience": '[{"exact":{"a":"b"}}]',
    "verbose": "",
}
PARAMETERS = [
    pytest.param(method, path, parameter, id=f"{method} {path} {parameter['name']}")
    for (method, path), operation in operations().items()
    for parameter in map(
        resolved, [*OPENAPI["paths"][path].get("parameters", []), *operation.get("parameters", [])]
    )
    if parameter["name"] not in ("exp", "sig")
]


@pytest.mark.parametrize(("method", "path", "parameter"), PARAMETERS)
async def test_a_parameter_is_known(
    method: str, path: str, parameter: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    """By the server, with a value as it should be; and the schema has nothing against that value."""
    name = parameter["name"]
    schema = resolved(parameter.get("schema", {}))
    value = VALUES.get(name, str(schema.get("default")))
    if "content" in parameter:
        check(json.loads(value), parameter["content"]["application/json"]["schema"])
    elif schema.get("type") != "integer":
        check(value, schema)
    query = {name: value} if parameter["in"] == "query" else {}
    fields = [f"{name}: {value}"] if parameter["in"] == "header" else []
    async with open_room() as room:
        if (method, path) == ("get", "/events"):
            target = f"{path}?{urlencode({'format': 'cloudevents', **query})}"
            assert (await stream(room, target, SSE, *fields)).status == 200
        else:
            target = f"{path}?{urlencode(query)}"
            request = post(target, "x") if method == "post" else get(target)
            assert (await Web(room).ask(request, method.upper())).status == 200


async def test_a_signed_query_is_accepted(autojump_clock: trio.testing.MockClock) -> None:
    """By which clients come, with the schemes that the document has."""
    schemes = OPENAPI["components"]["securitySchemes"]
    signed = dict(parse_qsl(sign({"id": "alice"}, SECRET, expires_in=900)))
    assert schemes["signature"]["name"] in signed
    for parameter in ("Exp", "Sig"):
        documented = OPENAPI["components"]["parameters"][parameter]
        value: Any = signed[documented["name"]]
        check(int(value) if parameter == "Exp" else value, documented["schema"])
    async with open_room(secret=SECRET) as room:
        peer = await stream(room, f"/events?{urlencode(signed)}", SSE)
        assert peer.status == 200
        assert schemes["secret"]["scheme"] == "bearer"
        answer = await Web(room).ask(get("/clients", f"Authorization: Bearer {SECRET.decode()}"))
        assert answer.status == 200


# --- messages ---

#: What a client says, by the message's name. What it says last is no event.
SAID = {
    "event": EVENT,
    "subscribe": {
        **EVENT,
        "id": "s1",
        "type": "trionotify.subscribe",
        "data": {"filters": [{"prefix": {"type": "order."}}]},
    },
    "authenticate": {
        **EVENT,
        "id": "t1",
        "type": "trionotify.authenticate",
        "data": {"token": "eyJ"},
    },
    "askPosition": {**EVENT, "id": "q1", "type": "trionotify.position"},
}


def fits(value: Any, message: str) -> bool:
    """Whether the payload of this message may be so."""
    schema = ASYNCAPI["components"]["messages"][message]["payload"]
    whole = {**schema, "components": ASYNCAPI["components"]}
    return bool(jsonschema.Draft7Validator(whole).is_valid(value))


def sent(action: str) -> set[str]:
    """The messages that the server sends, or receives."""
    return {
        reference["$ref"].rpartition("/")[2]
        for operation in ASYNCAPI["operations"].values()
        for reference in [
            *(operation["messages"] if operation["action"] == action else ()),
            *(operation.get("reply", {}).get("messages", ()) if action == "send" else ()),
        ]
    }


async def test_a_conversation_has_the_messages_that_are_documented(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """All of them, each as it should be, and no others."""

    async def session(client: Client) -> None:
        async for message in client:
            await client.reply(message, {"left": 3})

    heard: list[dict[str, Any]] = []
    async with open_room(max_log_entries=100, ping_interval=1e6) as room:
        peer = await room.connect("/?role=both&since=0:7", EVENTS)
        for message in (*SAID.values(), {"no": "event"}):
            peer.kernel.feed(masked(message_frame(json.dumps(message))))
            await room.quiet()
        await room.hub.publish("x", type="order.paid", extensions={"team": "ops"}, confirm=True)
        await room.hub.publish(b"x", type="order.paid", to=peer.header("Trionotify-Id"), confirm=True)
        await room.hub.publish("not wanted", confirm=True)
        await trio.sleep(75)
        peer.kernel.stall()
        for _ in range(200):
            await room.hub.publish(type="order.paid", confirm=True)
        peer.kernel.credit = None
        peer.kernel.grant(0)
        await room.quiet()
    # Leaving the block says goodbye.
    heard += map(json.loads, peer.look().messages)
    async with open_room(session=session) as room:
        peer = await room.connect("/?role=both&format=cloudevents")
        for message in (EVENT, {**EVENT, "id": "2", "request": True}):
            peer.kernel.feed(masked(message_frame(json.dumps(message))))
            await room.quiet()
        heard += map(json.loads, peer.look().messages)
    messages = ASYNCAPI["components"]["messages"]
    names = {
        message["name"]: name
        for name, message in messages.items()
        if name in sent("send") and "name" in message
    }
    found = set()
    for event in heard:
        name = names.get(event["type"], "notification")
        assert fits(event, name), json.dumps(event)
        found.add(name)

    assert found == sent("send") - {"raw"}


def test_examples_fit() -> None:
    """Those in the document, what the test above says, and the messages on the page."""
    for name, message in ASYNCAPI["components"]["messages"].items():
        for example in message.get("examples", ()):
            assert fits(example["payload"], name), name
    for name, said in SAID.items():
        assert fits(said, name), name
    assert set(SAID) == sent("receive") - {"raw"}
    page = (ROOT / "docs" / "wire.md").read_text()
    shown = [
        json.loads(block)
        for block in re.findall(r"^```json\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    ]
    assert len(shown) > 8
    for event in shown:
        fitting = [
            name for name in ASYNCAPI["components"]["messages"] if name != "raw" and fits(event, name)
        ]
        assert bool(fitting) == ("source" in event), event


@pytest.mark.parametrize(
    "change",
    [{"source": None}, {"specversion": "2.0"}, {"id": ""}, {"type": 7}, {"tags": ["a"]}, {"to": ""}],
    ids=str,
)
async def test_what_the_schema_refuses_the_server_refuses(
    change: dict[str, Any], room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    """An event that isn't one, over HTTP and by both documents."""
    event = {name: value for name, value in {**EVENT, **change}.items() if value is not None}
    assert not fits(event, "event")
    operation = operations()["post", "/events"]
    kind = STRUCTURED.partition(": ")[2]
    with pytest.raises(jsonschema.ValidationError):
        check(event, operation["requestBody"]["content"][kind]["schema"])
    answer = await Web(room).ask(post("/events", json.dumps(event), STRUCTURED), "POST")
    assert answer.status == 400
