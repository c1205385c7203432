"""The query: what it means, and that nothing in it is silently misunderstood."""

from __future__ import annotations

import re
from collections.abc import Callable

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
    """What it sends bears these attributes; `source` is its identity, percent-encoded."""
    params = parse_query("type=t&subject=s&to=bob&datacontenttype=text/csv")
    made = template(params, "al/ice").another("data")
    assert (made.type, made.subject, made.to) == ("t", "s", "bob")
    assert (made.source, made.datacontenttype) == ("/clients/al%2Fice", "text/csv")
    assert template({"source": "/sensors"}, "al").another("x").source == "/sensors"


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
        ("id=a&id=b", "id: given twice"),
        ("team=a&x=1&team=b", "team: given twice"),
        ("exakt.type=a", "exakt.type: no such key"),
        ("a.b=c", "a.b: no such key"),
        ("exact.=a", "exact.: '' can't name an attribute"),
        ("exact.type=", "exact.type: type must not be empty"),
        ("exact.data=x", "exact.data: 'data' is not an attribute"),
        ("exact.a.b=x", "exact.a.b: 'a.b' can't name"),
        ("filters=[", "filters: not JSON that can be read"),
        ("filters=[{}]", "filters: "),
        ("role=admin", "role: one of subscriber, publisher, both"),
        ("echo=yes", "echo: one of 0, 1"),
        ("lag=gap", "lag: the raw format can't tell of a gap"),
        ("lag=never", "lag: one of gap, latest, disconnect"),
        ("since=yesterday", "since: a cursor"),
        ("since=", "since: a cursor"),
        ("id=", "id: 1 to 255"),
        ("id=a%00b", "id: the character"),
        ("id=" + "x" * 300, "id: 1 to 255"),
        ("type=", "type must not be empty"),
        ("subject=a%0Ab", "subject must not contain"),
        ("sql=type+%3D", "sql: filter.sql: line 1, column 7"),
        ("format=xml", "format: one of raw, cloudevents"),
        ("type=trionotify.gap", "type: what begins with trionotify. is the server's own"),
        ("datacontenttype=", "datacontenttype must not be empty"),
        ("a=%ff", "the query can't be read"),
    ],
)
def test_bad_queries_are_400_and_name_the_key(text: str, words: str) -> None:
    """Nobody gets too much or too little for a typing error."""
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
    assert caught.value.detail.startswith("other.x: no such key")
