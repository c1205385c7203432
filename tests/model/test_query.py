"""The query: its meaning, and that nothing in it is silently misunderstood."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from urllib.parse import parse_qsl

import pytest

from trionotify import AllOf, Client, Exact, Notification, Prefix, Refused, Sql, Suffix
from trionotify.model.cursor import START, Cursor, Moment
from trionotify.model.filters import DEFAULT_LIMITS
from trionotify.model.query import Filters, Query, parse_query, template


def query(text: str) -> Query:
    return Query.of(parse_query(text))


def test_defaults() -> None:
    """A subscriber to everything, with an id of its own."""
    one, two = query(""), query("")
    assert one.id != two.id
    assert (one.role, one.filter, one.echo, one.format, one.lag, one.since) == (
        *("subscriber", None, True, "raw"),
        *(None, None),
    )


def test_filters_of_all_kinds_must_all_hold() -> None:
    """`exact.*`, `prefix.*`, `suffix.*` and `filters` together."""
    assert query("exact.type=a").filter == Exact(type="a")
    text = 'exact.type=a&prefix.subject=b%2Fc&suffix.source=d&filters=[{"exact":{"n":"1"}}]'
    assert query(text + "&sql=n+%3D+1").filter == AllOf(
        [Exact(type="a"), Prefix(subject="b/c"), Suffix(source="d"), Exact(n="1"), Sql("n = 1")]
    )


def test_a_publishers_defaults() -> None:
    """Its notifications have these attributes. `source` is its identity, percent-encoded."""
    params = parse_query("type=t&subject=s&to=bob&datacontenttype=text/csv")
    made = template(params, "al/ice").another("data", 0.0)
    assert (made.type, made.subject, made.to) == ("t", "s", "bob")
    assert (made.source, made.datacontenttype) == ("/clients/al%2Fice", "text/csv")
    assert template({"source": "/sensors"}, "al").another("x", 0.0).source == "/sensors"


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("since=start", START),
        ("since=1970-01-01T00:01:00Z", Moment(60.0)),
        ("since=ab:3", Cursor("ab", 3)),
        ("last_event_id=ab:3", Cursor("ab", 3)),
        ("", None),
    ],
)
def test_since(text: str, since: object) -> None:
    """A cursor, a moment, or the oldest that is kept."""
    assert query(text).since == since


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id=a&id=b", "id: given twice; give it once"),
        ("team=a&x=1&team=b", "team: given twice; give it once"),
        ("exakt.type=a", "exakt.type: unknown key"),
        ("a.b=c", "a.b: unknown key"),
        ("exact.=a", "exact.: attribute name '': must consist of printable characters"),
        ("exact.type=", "exact.type: type: must not be empty"),
        (
            "exact.data=x",
            "exact.data: attribute name 'data': must be another one, because data is not an attribute",
        ),
        (
            "exact.a.b=x",
            "exact.a.b: attribute name 'a.b': must consist of lower-case letters a to z and digits",
        ),
        ("filters=[", "filters: not valid JSON: Input data was truncated"),
        ("filters=[{}]", "filters: "),
        ("role=admin", "role: must be one of subscriber, publisher, both"),
        ("echo=yes", "echo: must be one of 0, 1"),
        (
            "lag=gap",
            "lag: must be latest or disconnect in the raw format, because it can't report a gap",
        ),
        ("lag=never", "lag: must be one of gap, latest, disconnect"),
        (
            "since=yesterday",
            (
                "since: must be a cursor (EPOCH:OFFSET), a time (2026-01-31T10:00:00Z), a"
                " duration (10m) or 'start'"
            ),
        ),
        (
            "since=",
            (
                "since: must be a cursor (EPOCH:OFFSET), a time (2026-01-31T10:00:00Z), a"
                " duration (10m) or 'start'"
            ),
        ),
        ("id=", "id: must have 1 to 255 characters"),
        ("id=a%00b", "id: must not contain the character '\\x00'"),
        ("id=" + "x" * 300, "id: must have 1 to 255 characters"),
        ("type=", "type: must not be empty"),
        ("subject=a%0Ab", "subject: must not contain the character '\\n'"),
        ("sql=type+%3D", "sql: line 1, column 7"),
        ("format=xml", "format: must be one of raw, cloudevents"),
        ("type=trionotify.gap", "type: types that start with trionotify. are reserved"),
        (
            "datacontenttype=",
            "datacontenttype: must not be empty",
        ),
        ("a=%ff", "query: can't be read"),
    ],
)
def test_bad_queries_are_400_and_name_the_key(text: str, words: str) -> None:
    """A typing error doesn't give a client too much or too little."""
    with pytest.raises(Refused) as caught:
        query(text)
    assert caught.value.status == 400
    assert words in caught.value.detail


@pytest.mark.parametrize(
    "name",
    [
        *("د\u200cد", "👨\u200d👩\u200d👧", "José\u00a0Luis", "山田\u3000太郎", "a b", "x" * 255),
        *("", "x" * 256, "a\nb", "a\x00", "a\x7f", "a\x9fb", "\ufdd0", "\U0001ffff", "\ud800"),
    ],
)
def test_what_an_id_may_be_to_may_be(name: str) -> None:
    """And the other way round: in a query, of a record, and of a notification."""

    def works(make: Callable[[], object]) -> bool:
        try:
            return bool(make())
        except (Refused, ValueError):
            return False

    found = [
        works(lambda: Query.of({"id": name})),
        works(lambda: Query.of({"to": name})),
        works(lambda: Client(name)),
        works(lambda: Notification.of("x", to=name)),
    ]
    assert (
        found
        == [0 < len(name) < 256 and not re.search("[\n\0\x7f\x9f\ufdd0\U0001ffff\ud800]", name)] * 4
    )


def test_unknown_plain_keys_are_kept() -> None:
    """They are for the application, and for audiences."""
    assert parse_query("team=ops&x=") == {"team": "ops", "x": ""}


def test_long_filters_are_read_beside_a_wrong_key() -> None:
    """They are parsed before the rest of the query is, which says then what is wrong."""
    params = {"other.x": "1", "sql": "TRUE"}
    assert Filters.of(params, DEFAULT_LIMITS).filter == Sql("TRUE")
    with pytest.raises(Refused) as caught:
        Query.of(params)
    assert caught.value.detail.startswith("other.x: unknown key")


def test_short_queries_are_read_once() -> None:
    """Clients that differ in their `id` share their filter; those without one are still not the same."""
    first, second = query("id=a&exact.type=t"), query("id=b&exact.type=t")
    assert (first.id, second.id) == ("a", "b")
    assert first.filter is not None
    assert first.filter is second.filter
    assert query("exact.type=t").id != query("exact.type=t").id


def test_a_long_query_is_not_kept() -> None:
    """Strangers can't make the server keep more than a bounded amount."""
    text = f"exact.type={'t' * 300}"
    assert query(text).filter == query(text).filter
    assert query(text).filter is not query(text).filter


@pytest.mark.parametrize(
    "text",
    ["", "a", "a=", "=", "=b", "&a=b&&c", "a=b=c", "a;b=c", "a=b%20c&d=+", "a=%00&b=\xe9", "a=b&%61=c"],
)
def test_a_query_is_read_as_the_standard_library_reads_it(text: str) -> None:
    """Also one that needs no decoding, which is cut at its separators."""
    pairs = parse_qsl(text, keep_blank_values=True)
    if len(dict(pairs)) < len(pairs):
        with pytest.raises(Refused, match="given twice"):
            parse_query(text)
    else:
        assert parse_query(text) == dict(pairs)


def test_a_query_has_at_most_so_many_parameters() -> None:
    """Whether or not they need decoding."""
    for last in ("x=y", "x=%79"):
        assert len(parse_query("&".join([*[f"a{number}" for number in range(255)], last]))) == 256
        with pytest.raises(Refused, match="Max number of fields exceeded"):
            parse_query("&".join([*[f"a{number}" for number in range(256)], last]))


def test_names_that_come_once_are_not_kept() -> None:
    """Equal names are one object, and those of a stranger's requests don't stay in memory."""
    one, two = (next(iter(parse_query(f"team={at}"))) for at in range(2))
    assert one is two
    tracemalloc.start()
    try:
        for at in range(20_000):
            Query.of(parse_query(f"key{at}=v&exact.name{at}=v"))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1 << 20
