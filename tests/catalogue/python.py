"""The messages to Python code: about notifications, predicates, options, subscriptions and clients."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import date, datetime, timedelta
from functools import partial, reduce
from pathlib import Path
from typing import Any, Final

import attrs
import trio

import trionotify
from trionotify import cesql
from trionotify.delivery.clients import Client
from trionotify.errors import check_trio
from trionotify.model.cloudevents import decode, decode_sent, encode
from trionotify.model.replies import reply_in, reply_of
from trionotify.settings import FilterLimits

__all__ = ["LANGUAGE", "NOTIFICATIONS", "OPTIONS", "PREDICATES", "names"]

NOTIFICATIONS: Final = r"""
Notification(5)
Notification(bytearray(b"x"))
Notification("\ud800")
Notification("{", datacontenttype="application/json")
Notification("\ufeff{}", datacontenttype="application/json")
Notification("x", type=5)
Notification("x", type="")
Notification("x", type="x" * 5000)
Notification("x", subject="a\nb")
Notification("x", time=5)
Notification("x", time=datetime(2026, 1, 1))
Notification("x", time="yesterday")
Notification("x", time="2026-02-30T00:00:00Z")
Notification("x", time="2026-01-31T23:58:60Z")
Notification("x", audience="ops")
Notification("x", extensions=5)
Notification("x", extensions={5: 1})
Notification("x", extensions={"x" * 65: 1})
Notification("x", extensions={"user_id": 1})
Notification("x", extensions={"data": 1})
Notification("x", extensions={"type": "x"})
Notification("x", extensions={"level": 1.5})
Notification("x", extensions={"level": 2**31})
Notification("x", extensions={"expirytime": "soon"})
Notification("x", extensions={"to": "x" * 256})
Notification.of("x", to=["a", "b"])
Notification.of("x", to=7)
Notification.of("x", extensions=5)
Notification.of("x", level=1, extensions={"level": 2})
Notification.of("x", json=1)
Notification.of(json=1, datacontenttype="text/plain")
Notification.of(json=float("nan"))
Notification.of(json=circular)
Notification.of(json=deep)
Notification.of(json=record)
Notification.of(json={1, 2})
Notification.of(json=date(2026, 1, 1))
Notification.of(json=b"x")
decode("[]")
decode('{"specversion":"0.3","id":"1","source":"s","type":"t"}')
decode('{"id":"1","source":"s","type":"t"}')
decode('{"specversion":"1.0","id":"1","source":"s","type":"t","data":"x","data_base64":""}')
decode('{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"?"}')
decode('{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"a/b","data":1}')
decode('{"specversion":"1.0","id":"1","source":"s","type":"t","audience":5}')
decode('{"specversion":"1.0","id":"1","source":"s","type":"t","audience":"5"}')
decode('{"specversion":"1.0","id":"1","source":"s","type":"t","audience":"[{}]"}')
decode('{"specversion":"1.0",' + ",".join(f'"a{n}":1' for n in range(200)) + "}")
decode_sent('{"specversion":"1.0","id":1}')
decode_sent('{"specversion":"1.0","id":"1","source":"s","type":"t","level":1.5}')
encode(Notification("x", audience=lambda client: True), None, audience=True)
"""

PREDICATES: Final = r"""
Exact()
not Exact(type="a")
Exact({5: "x"})
Exact({"": "x"})
Exact(type=5)
Exact(type="")
Exact("x")
AllOf(Exact(type="x"))
AllOf([])
AnyOf(["type"])
AnyOf([{"type": "x"}])
Sql(5)
Notification("x", audience=too_deep)
explain(Exact(type="x"), "x")
to_json(lambda notification: True)
to_json(AllOf([NOTHING, Exact(type="x")]))
from_json("[")
from_json("\ufeff[]")
from_json(b"\xff")
from_json("[" * 2000)
from_json("x" * 9000)
from_json(5)
from_json({"exakt": {}})
from_json({"nothing-like-it": {}})
from_json({"exact": "x"})
from_json({"exact": {"Type": "x"}})
from_json({"exact": {"data": "x"}})
from_json({"all": []})
from_json({"sql": "x = '" + "y" * 9000 + "'"})
from_json({"sql": "type ="})
from_json(nested)
from_json({"any": [{"exact": {"type": "x"}}] * 300})
from_json(expensive)
"""

LANGUAGE: Final = r"""
parse("")
parse("type =")
parse("type type")
parse("type = order.created")
parse("type == 'a'")
parse("type = 'a' && id = 'b'")
parse("type IS NOT NULL")
parse("number BETWEEN 1 AND 2")
parse("type ILIKE 'a%'")
parse("type = 'it''s'")
parse("type = 'a")
parse("type)")
parse("(type")
parse("type LIKE type")
parse("EXISTS 5")
parse("user_id = 'a'")
parse("number = 2147483648")
parse("TRUE AND TRUE OR TRUE")
parse("x" * 5000)
parse("1+" * 2000 + "1")
parse("1 " * 2000)
parse("(" * 100)
parse("-" * 100 + "1")
parse("type LIKE '" + "%a" * 600 + "'")
evaluate("NOSUCH()", {})
evaluate("LEFT('a')", {})
evaluate("CONCAT_WS()", {})
evaluate("LEFT('a', -1)", {})
evaluate("RIGHT('a', -1)", {})
evaluate("SUBSTRING('abc', 9)", {})
evaluate("SUBSTRING('abc', 1, -1)", {})
evaluate("ABS(-2147483648)", {})
evaluate("1 / 0", {})
evaluate("2147483647 + 1", {})
evaluate("INT('x')", {})
evaluate("BOOL('x')", {})
evaluate("missing = 1", {})
evaluate("CONCAT(" + ",".join(["text"] * 100) + ")", {"text": "x" * 4000})
"""

OPTIONS: Final = r"""
await enter(open_hub(handlr=None))
await enter(open_hub(port=1))
await enter(open_hub(log_format="text"))
await enter(open_hub(log_level="info"))
await enter(open_hub(config="x"))
await enter(open_hub(max_log_age=-1))
await enter(open_hub(max_log_age="soon"))
await enter(open_hub(max_log_age=None))
await enter(open_hub(max_log_entries=0))
await enter(open_hub(max_log_entries="5"))
await enter(open_hub(max_log_entries=1.5))
await enter(open_hub(max_filter_depth=101))
await enter(open_hub(session=5))
await enter(open_hub(session=lambda: None))
await enter(open_hub(session=synchronous))
await enter(open_hub(handler=5))
await enter(open_hub(authenticate=5))
await enter(open_hub(session=a_session, handler=a_handler))
await enter(open_hub(store="file:x"))
await enter(open_hub(store=5))
await enter(open_hub(store="sqlite:DIR/never.db", durability="half"))
await enter(open_hub(subprotocol="a b"))
await enter(open_hub(subprotocol=[5]))
await enter(open_hub(allow_params=[5]))
await enter(open_hub(allow_params="a.b"))
await enter(open_hub(allow_params="tpye"))
await enter(open_hub(trusted_proxy="everyone"))
await enter(open_hub(secret=5))
await enter(open_hub(secret="short"))
await enter(open_hub(secret="a" * 32, secret_file="DIR/secret"))
await enter(open_hub(secret_file=5))
await enter(open_hub(secret_file="DIR/missing.txt"))
await enter(open_hub(secret=b""))
await enter(open_hub(secret=b"\xff" * 20))
await enter(open_hub(secret=b"\xef\xbb\xbfabc"))
await enter(open_hub(secret=b"short"))
await enter(open_hub(allow_origin=[5]))
await enter(open_hub(allow_origin="a, b"))
await enter(open_hub(allow_origin="example.org"))
await enter(open_hub(allow_origin="1://example.org"))
await enter(open_hub(allow_origin="ws://example.org"))
await enter(open_hub(allow_origin="https://*"))
await enter(open_hub(allow_origin="https://example.org/app"))
await enter(open_hub(allow_origin="https://a.*.org"))
await enter(open_hub(allow_origin="https://example.org:0"))
await enter(open_hub(allow_origin="https://example.org:99999"))
await enter(open_hub(allow_origin="https://example.org:port"))
await enter(open_hub(allow_origin="https://user@example.org"))
await enter(open_hub(allow_origin="https://"))
await enter(open_hub(allow_origin="https://*.127.0.0.1"))
await enter(open_hub(allow_origin="https://[fe80::1%eth0]"))
await enter(open_hub(allow_origin="https://[:]"))
await enter(open_hub(allow_origin="https://127.1"))
await enter(open_hub(allow_origin="https://a%20b"))
await enter(open_hub(allow_origin="app://ü"))
await enter(open_hub(allow_origin="https://a..ü"))
await serve(5)
await enter(open_server(port="0"))
await enter(open_server(port=80.0))
await enter(open_server(port=70000))
await enter(open_server(port=0, insecure=1))
await enter(open_hub(compression="no"))
await enter(open_server(port=0, ssl_context=True))
await enter(open_server(port=0, ssl_context=ssl.create_default_context()))
await enter(open_server(port=0, tls_key="DIR/key.pem"))
await enter(open_server(port=0, tls_cert="DIR/missing.pem"))
await enter(open_server(port=0, tls_cert="DIR/empty.pem"))
await enter(open_server(port=0, tls_cert="DIR/cert.pem", tls_key="DIR/other.pem"))
await enter(open_server(port=0, tls_cert="DIR/cert.pem", tls_key="DIR/locked.pem"))
await enter(open_server(port=0, tls_cert="x", ssl_context=server_context()))
await enter(open_server(port=0, host=None))
await enter(open_server(port=0, host=[5]))
await enter(open_server(port=0, host=""))
await enter(open_server(port=0, host="no.such.host.invalid"))
await enter(open_server(port=0, host="0.0.0.0"))
await enter(open_server(port=taken_port()))
await enter(open_server(unix=""))
await enter(open_server(unix="DIR/file.txt"))
await enter(open_server(unix="DIR/missing/socket"))
await enter(open_server(unix="DIR/" + "x" * 200))
await enter(open_server(sockets=[5]))
await enter(open_server(sockets=[deaf_socket()]))
await enter(open_server(sockets=deaf_socket()))
open_server().hub
open_server().__enter__()
repr(open_server())
await in_a_thread(lambda: check_trio("open_hub()"))
Settings(ping_interval=timedelta(0))
Refused(99, "x")
Refused(400, 5)
Refused(400, "x", headers={"a": "b"})
Refused(400, "x", headers=[("a b", "c")])
Refused(400, "x", headers=[("Content-Length", "5")])
Closed(4403, "not any more")
Lagged("epoch:1", "epoch:5")
Lagged("epoch:1", "another:5")
Unreadable("epoch:1", "epoch:5", "not valid JSON")
reply_in({})
reply_of(object)
sign({"id": 7}, b"0123456789abcdef")
sign({7: "x"}, b"0123456789abcdef")
sign(7, b"0123456789abcdef")
sign("id=a", b"0123456789abcdef", expires_in=-1)
sign("id=a", b"0123456789abcdef", expires_in=b"")
sign("id=a&exp=1", b"0123456789abcdef")
sign("id=a&id=b", b"0123456789abcdef")
sign("https://example.org/events?id=a#top", b"0123456789abcdef")
Client("")
Client(5)
Client("a\0")
Client("a", {"b": 1})
Client("a", 5)
Client("a", role="admin")
expiring("soon")
Client("a").unsubscribe(Exact(type="x"))
Client("a").subscribe({"type": "x"})
Client("a").close(99)
Client("a").close("now")
Client("a").close(1000, "x" * 200)
await Client("a").send("x")
await Client("a").send(5)
await Client("a").publish("x")
Client("a").reject("x", "why", status=200)
Client("a").reject("x", 5)
"""


class _Circular(list[Any]):
    """A list that has itself in it."""

    def __init__(self) -> None:
        super().__init__([self])


@attrs.define
class _Record:
    x: int = 0


def _nested(depth: int) -> Any:
    found: Any = {"exact": {"type": "x"}}
    for _ in range(depth):
        found = {"not": found}
    return found


def _deep() -> Any:
    found: list[Any] = []
    for _ in range(20_000):
        found = [found]
    return found


async def _enter(opening: Any) -> None:
    async with opening:
        pass


def _taken_port(kept: ExitStack) -> int:
    sock = kept.enter_context(socket.create_server(("127.0.0.1", 0)))
    return int(sock.getsockname()[1])


def _synchronous(client: Client) -> None: ...


def _expiring(when: Any) -> None:
    Client("a").expires_at = when


async def _a_session(client: Client) -> None: ...


async def _a_handler(client: Client, message: object) -> None: ...


def names(directory: Path, kept: ExitStack) -> Mapping[str, Any]:
    """The names that the lines may use. The sockets that they open are closed with `kept`."""
    return {
        **{name: getattr(trionotify, name) for name in trionotify.__all__},
        "FilterLimits": FilterLimits,
        "a_handler": _a_handler,
        "a_session": _a_session,
        "check_trio": check_trio,
        "circular": _Circular(),
        "date": date,
        "datetime": datetime,
        "deaf_socket": lambda: kept.enter_context(socket.socket()),
        "decode": decode,
        "decode_sent": decode_sent,
        "deep": _deep(),
        "encode": encode,
        "enter": _enter,
        "evaluate": cesql.evaluate,
        "expensive": {"any": [{"sql": "subject LIKE '%a_b%c_d%'"}] * 200},
        "expiring": _expiring,
        "in_a_thread": trio.to_thread.run_sync,
        "nested": _nested(40),
        "parse": cesql.parse,
        "record": _Record(),
        "reply_in": reply_in,
        "reply_of": reply_of,
        "server_context": lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        "ssl": ssl,
        "synchronous": _synchronous,
        "taken_port": partial(_taken_port, kept),
        "timedelta": timedelta,
        "too_deep": reduce(lambda inner, _: trionotify.Not(inner), range(128), trionotify.EVERYTHING),
    }
