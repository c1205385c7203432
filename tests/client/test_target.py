"""Where a client connects and what its query says: checked before anything is sent."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest

from trionotify import EVERYTHING, NOTHING, AllOf, Exact, Prefix, connect
from trionotify.client.target import Target, filters_of, without

LIMITS = {"max_buffered": 1, "max_unacknowledged": 1}
TIMES = {"connect_timeout": 1, "close_timeout": 1, "ping_interval": 1, "ping_timeout": 1}


def target(url: str, **options: Any) -> Target:
    given: dict[str, Any] = {
        "params": None,
        "filters": None,
        "sql": None,
        "said": {},
        "extra_headers": (),
    }
    return Target.of(
        url, **given | {"ssl_context": None, "open_stream": None} | LIMITS | TIMES | options
    )


@pytest.mark.parametrize(
    ("url", "shown", "authority"),
    [
        ("http://host:8765", "http://host:8765/events", "host:8765"),
        ("ws://host/", "http://host/events", "host"),
        ("http://host:80/", "http://host/events", "host"),
        ("wss://host", "https://host/events", "host"),
        ("https://host:443/hub?x=1", "https://host/hub", "host"),
        ("http://[::1]:8765/?id=al", "http://[::1]:8765/events", "[::1]:8765"),
        ("http://host/gr%C3%BC%C3%9Fe/ä", "http://host/gr%C3%BC%C3%9Fe/%C3%A4", "host"),
        ("unix:/run/hub.sock", "unix:/run/hub.sock", "localhost"),
        ("UNIX:/run/hub.sock", "unix:/run/hub.sock", "localhost"),
        ("unix:hub 1%3F.sock?id=al", "unix:hub%201%3F.sock", "localhost"),
        ("unix:///[run/a@b:c", "unix:///%5Brun/a@b:c", "localhost"),
    ],
)
def test_urls(url: str, shown: str, authority: str) -> None:
    """HTTP's schemes and WebSocket's, with a path where there is none; sockets; without the query."""
    made = target(url)
    assert (str(made), made.authority) == (shown, authority)


def test_the_query_is_kept() -> None:
    """The URL's query, `params` and the arguments become one query."""
    made = target(
        "http://host/?team=a%26b&exact.type=x",
        params={"floor": "3 é"},
        said={"id": "al", "since": "start", "lag": None},
        filters=Prefix(subject="s"),
    )
    path, _, query = made.resource(made.params).partition("?")
    assert path == "/events"
    assert parse_qs(query) == {
        "team": ["a&b"],
        "exact.type": ["x"],
        "floor": ["3 é"],
        "id": ["al"],
        "since": ["start"],
        "filters": ['[{"prefix":{"subject":"s"}}]'],
    }


def test_the_query_behind_a_socket_is_kept() -> None:
    """The path in the URL is the socket's: what is asked for there is `/events`."""
    made = target("unix:/run/hub.sock?team=a%3Fb&id=al")
    assert made.params == {"team": "a?b", "id": "al"}
    assert made.resource(made.params) == "/events?id=al&team=a%3Fb"


def test_a_role_may_be_narrowed() -> None:
    """The URL of a client that does both serves one that does only one of them."""
    assert target("http://host/?role=both", said={"role": "subscriber"}).role == "subscriber"


def test_an_id_is_made_up_once() -> None:
    """It stays the same for all connections of one client, and is another one for each client."""
    first, second = target("http://host"), target("http://host")
    assert len(first.params["id"]) == 12
    assert first.params["id"] != second.params["id"]


@pytest.mark.parametrize(
    ("wanted", "filters"),
    [
        (Exact(type="t"), [{"exact": {"type": "t"}}]),
        (EVERYTHING, []),
        ([], []),
        ([{"sql": "TRUE"}, {"not": {"exact": {"type": "t"}}}], ...),
        ({"sql": "TRUE"}, [{"sql": "TRUE"}]),
    ],
)
def test_filters(wanted: Any, filters: Any) -> None:
    """Predicates as JSON; JSON as it is; one filter is a list of one."""
    assert filters_of(wanted) == (wanted if filters is ... else filters)


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        (lambda n: True, TypeError, "filters: .* use Exact, .*a callable can't be sent to a server"),
        (AllOf([Exact(type="t"), len]), TypeError, "filters: .*a callable can't be sent to a server"),
        ("order.", TypeError, "filters: must be a predicate or a JSON array of filters, not 'order.'"),
        (NOTHING, ValueError, "filters: NOTHING can't be a part of a JSON filter"),
        ([{"exakt": {}}], ValueError, r"filters: filters\[0\].exakt: unknown dialect"),
    ],
)
def test_what_is_no_filter(wanted: Any, error: type[Exception], words: str) -> None:
    """It says why, and what to use instead."""
    with pytest.raises(error, match=words):
        filters_of(wanted)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"url": 5}, TypeError, "url: must be str"),
        ({"url": b"http://x"}, TypeError, "url: must be str, not bytes"),
        (
            {"url": "ftp://host"},
            ValueError,
            "url: must start with http, https, ws, wss or unix, not 'ftp'",
        ),
        ({"url": "host:8765"}, ValueError, "url: must start with http, https, ws, wss or unix"),
        ({"url": "http://"}, ValueError, "url: must have a host"),
        ({"url": "http://host:99999"}, ValueError, "url: .*[Pp]ort"),
        (
            {"url": "http://al:secret@host"},
            *(ValueError, "url: must not have credentials; send them in the header Authorization"),
        ),
        (
            {"url": "http://host/?role=publisher", "role": "subscriber"},
            *(ValueError, "role: given twice; give it once"),
        ),
        ({"url": "http://host/#top"}, ValueError, "url: a '#'"),
        ({"url": "http://host/?a=1&a=2"}, ValueError, "url: a: given twice; give it once"),
        (
            {"url": " unix://localhost/a"},
            ValueError,
            ("url: must start with http, https, ws, wss or unix"),
        ),
        ({"url": "unix:/\ud800"}, ValueError, "url: surrogates not allowed"),
        ({"url": "http://host/\ud800"}, ValueError, r"url: must not contain the character '\\ud800'"),
        ({"url": "http://\ud800/"}, ValueError, r"url: must not contain the character '\\ud800'"),
        ({"url": "unix:/a?b=\ud800"}, ValueError, r"url: must not contain the character '\\ud800'"),
        ({"url": "unix:"}, ValueError, "url: a unix URL must have a path"),
        ({"url": "unix:/a#b"}, ValueError, "url: a '#'"),
        ({"url": "unix:/a?a=1&a=2"}, ValueError, "url: a: given twice; give it once"),
        ({"url": "unix:/a?id=al", "id": "al"}, ValueError, "id: given twice; give it once"),
        ({"id": ""}, ValueError, "id: must have 1 to 255 characters"),
        ({"id": 5}, TypeError, "id: must be str, not 5"),
        ({"id": "al", "url": "http://host/?id=al"}, ValueError, "id: given twice; give it once"),
        ({"id": "al", "params": {"id": "al"}}, ValueError, "id: given twice; give it once"),
        ({"params": "id=al&sig=x"}, TypeError, "params: must be a mapping or a function, not a query;"),
        ({"filter": [], "params": {"filters": "[]"}}, ValueError, "filters: given twice; give it once"),
        ({"since": "yesterday"}, ValueError, "since: .*'yesterday'"),
        ({"role": "boss"}, ValueError, "role: must be one of subscriber, publisher, both"),
        ({"lag": "behind"}, ValueError, "lag: must be one of gap, latest, disconnect"),
        ({"params": {"exakt.type": "x"}}, ValueError, "exakt.type: unknown key"),
        ({"params": {"level": 3}}, TypeError, "level: must be str, not 3"),
        ({"params": {"a": "\ud800"}}, ValueError, r"a: must not contain the character '\\ud800'"),
        ({"params": {"\ud800": "a"}}, ValueError, r"params: must not contain the character '\\ud800'"),
        ({"sql": "type = '\ud800'"}, ValueError, r"sql: must not contain the character '\\ud800'"),
        ({"sql": 5}, TypeError, "sql: must be str, not int"),
        (
            {"filters": [{"exact": {"type": "\ud800"}}]},
            *(ValueError, r"filters: .*type: must not contain the character '\\ud800'"),
        ),
        ({"params": {"sql": "type ="}}, ValueError, "sql: "),
        (
            {"params": {"type": "trionotify.x"}},
            ValueError,
            (r"type: types that start with trionotify\. are reserved"),
        ),
        (
            {"params": {"echo": "0"}},
            ValueError,
            ("echo: must not be 0, because this client publishes over a connection of its own"),
        ),
        ({"filter": lambda n: True}, TypeError, "a callable can't be sent"),
        (
            {"extra_headers": [("Host", "x")]},
            ValueError,
            "extra_headers: Host is set by trionotify; leave it out",
        ),
        (
            {"extra_headers": [("X", "a\nb")]},
            ValueError,
            (
                r"extra_headers: 'X': 'a\\nb' is not a valid header \(RFC"
                r" 9110\)"
            ),
        ),
        (
            {"extra_headers": {"X": "a"}},
            TypeError,
            "extra_headers: must be pairs of str, not dict; write",
        ),
        (
            {"extra_headers": [["X", 5]]},
            TypeError,
            r"extra_headers: must be pairs of str, not \(str, int\)",
        ),
        ({"extra_headers": ["X: a"]}, TypeError, "extra_headers: must be pairs of str, not str"),
        ({"extra_headers": 5}, TypeError, "extra_headers: must be pairs of str, not int"),
        ({"open_stream": 5}, TypeError, "open_stream: must be a function, not int"),
        (
            {"url": "https://host", "ssl_context": True},
            TypeError,
            "ssl_context: must be an ssl.SSLContext, not bool",
        ),
        (
            {"ssl_context": ssl.create_default_context()},
            ValueError,
            "ssl_context: must be left out, because a http: URL has no TLS",
        ),
        (
            {"url": "unix:/a", "ssl_context": ssl.create_default_context()},
            *(ValueError, "ssl_context: must be left out, because a unix: URL has no TLS"),
        ),
        ({"ping_interval": 0}, ValueError, "ping_interval: must be greater than 0"),
        (
            {"ping_timeout": "x"},
            ValueError,
            (
                "ping_timeout: must be a duration in seconds, like 90, or a text like 15m or"
                " 1h30m, not 'x'"
            ),
        ),
        (
            {"ping_timeout": []},
            TypeError,
            ("ping_timeout: must be a number of seconds or a text like '15m'"),
        ),
        ({"sql": "type ="}, ValueError, "sql: "),
        ({"sql": "TRUE", "url": "http://host/?sql=TRUE"}, ValueError, "sql: given twice; give it once"),
        (
            {"filter": [], "filters": []},
            ValueError,
            "filters: given twice; filter is its old name",
        ),
        ({"since": 600}, TypeError, "since: must be a cursor, a time, a duration .*, not 600"),
        ({"since": datetime(2026, 1, 31)}, ValueError, "since: a datetime must have a time zone"),
        (
            {"since": timedelta(-1)},
            ValueError,
            ("since: a timedelta must not be negative, because it means how long ago"),
        ),
        (
            {"connect_timeout": True},
            TypeError,
            ("connect_timeout: must be a number of seconds or a text like '15m'"),
        ),
        ({"close_timeout": -1}, ValueError, "close_timeout: must be greater than 0"),
        ({"max_buffered": 0}, ValueError, "max_buffered: must be at least 1"),
        ({"max_unacknowledged": "9"}, TypeError, "max_unacknowledged: must be a whole number"),
    ],
)
async def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    """Each is named, and nothing is connected."""

    async def open_stream() -> Any:
        raise AssertionError("it was connected")

    with pytest.raises(error, match=words):
        async with connect(**{"url": "http://host", "open_stream": open_stream} | arguments):
            pass


def test_what_is_wanted_in_a_signed_query() -> None:
    """It can only narrow what was signed, wherever the signature stands."""
    wanted = {"filters": [{"exact": {"type": "x"}}], "sql": "TRUE"}
    narrow = '[{"exact":{"type":"x"}},{"sql":"TRUE"}]'
    signed = {"id": "al", "exact.type": "x", "sig": "0"}
    for made in (
        target(f"http://host/?{urlencode(signed)}", **wanted),
        target("http://host", params=signed, **wanted),
    ):
        assert made.params == {**signed, "narrow": narrow}
        assert made.role == "subscriber"


def test_without() -> None:
    """Names, and with a dot at the end whatever begins so."""
    params = {"exact.type": "1", "exactly": "2", "sql": "3", "id": "4"}
    assert without(params, "exact.", "sql") == {"exactly": "2", "id": "4"}
    assert without(params) == params
