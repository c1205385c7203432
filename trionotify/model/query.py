"""The query of a request's path: the client's identity and its wishes.

The query is the same on every transport. All of it becomes `client.params`. The server's own keys are
checked before anything else happens. So a typing error causes a 400 that names it, and never a client
that silently gets too much or too little.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qsl, quote

import attrs

from trionotify.errors import Refused
from trionotify.model.cloudevents import SUBPROTOCOL
from trionotify.model.cursor import Cursor, Moment, where_it_was
from trionotify.model.filters import DEFAULT_LIMITS, ON_ATTRIBUTES, SLOW, check_filter, from_json
from trionotify.model.keys import OF_TEMPLATE, OURS, check_keys, is_filter
from trionotify.model.notification import Notification, check_publishable
from trionotify.model.predicates import AllOf, Predicate
from trionotify.model.text import check_id
from trionotify.settings import FilterLimits

__all__ = [
    "ROLES",
    "Filters",
    "Query",
    "defaults",
    "given_attributes",
    "parse_query",
    "source_of",
    "template",
]

_FORMATS: Final = ("raw", "cloudevents")
_LAGS: Final = ("gap", "latest", "disconnect")


#: Programs send the same query with each request, and clients differ in their `id` only. So short ones
#: are read once. Both numbers limit memory, because a filter takes a hundred times the memory of its
#: text.
_SHORT: Final = 256
_KEPT: Final = 256
#: The most parameters of a query.
_MOST: Final = 256
#: Returns the same object for equal names, which thousands of clients have. (`sys.intern` would keep
#: every name of every request for ever in Python 3.12.)
_shared: Final = lru_cache(maxsize=256)(str)


def parse_query(text: str) -> Mapping[str, str]:
    """Parse a query string. Raises `Refused` (400) for a key given twice, or text that isn't UTF-8."""
    return _parsed(text) if len(text) <= _SHORT else _parse(text)


def _parse(text: str) -> Mapping[str, str]:
    if text.count("&") < _MOST and "%" not in text and "+" not in text:
        parts = [part.partition("=") for part in text.split("&") if part]
        pairs = [(key, value) for key, _, value in parts]
    else:
        try:
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST)
        except ValueError as error:  # UnicodeDecodeError included
            raise _bad(f"query: can't be read: {error}", "query") from None
    params = {_shared(key): value for key, value in pairs}
    if len(params) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _bad(f"{twice}: given twice; give it once", twice if twice in OURS else "a key")
    return MappingProxyType(params)


_parsed = lru_cache(_KEPT)(_parse)


ROLES: Final = ("subscriber", "publisher", "both")


@attrs.frozen
class Filters:
    """The filters in a query, parsed: see `Query`. Parsing long ones takes more than a turn."""

    filter: Predicate | None
    narrow: Predicate | None

    @classmethod
    def of(cls, params: Mapping[str, str], limits: FilterLimits) -> Filters:
        """Parse the filters of a query. Raises `Refused` (400) that begins with the key at fault."""
        narrow = _part("narrow", params["narrow"], limits) if "narrow" in params else None
        return cls(_filter(params, limits), narrow)

    @staticmethod
    def are_long(params: Mapping[str, str]) -> bool:
        """Return whether parsing them may take more than a turn."""
        return sum([len(params.get(key, "")) for key in ("sql", "filters", "narrow")]) > SLOW


@attrs.frozen
class Query:
    """A parsed and checked query.

    `filter` is None without any filter, `lag` if the format's default applies. `narrow` is an additional
    filter, which isn't signed with the rest. `offset` is the place of the moment in `since`, once the
    hub has looked it up.
    """

    id: str
    role: str
    filter: Predicate | None
    narrow: Predicate | None
    echo: bool
    format: str
    subprotocol: str | None
    lag: str | None
    since: Cursor | Moment | None
    offset: int | None = None

    @classmethod
    def of(
        cls,
        params: Mapping[str, str],
        id: str | None = None,
        *,
        subprotocol: str | None = None,
        format: str | None = None,
        last_event_id: str | None = None,
        limits: FilterLimits = DEFAULT_LIMITS,
        filters: Filters | None = None,
        allowed: frozenset[str] | None = None,
    ) -> Query:
        """Check the parameters. Raises `Refused` (400) that begins with the key at fault.

        The other arguments override them: `id` is the client's identity, a known `subprotocol` or
        `format` decides the format, and `last_event_id` is its position. `filters` are those in the
        parameters, if they were parsed already. `allowed` are the application's own keys, if no others
        are allowed.
        """
        given = tuple([item for item in params.items() if item[0] != "id"])
        size = len(last_event_id or "") + sum([len(key) + len(value) for key, value in given])
        read = _wishes_read if filters is None and size <= _SHORT else _wishes
        wishes = read(given, subprotocol, format, last_event_id, limits, filters, allowed)
        name = id if id is not None else params.get("id")
        if name is None:
            name = secrets.token_urlsafe(9)
        else:
            try:
                check_id("id", name)
            except ValueError as error:
                raise _bad(str(error), "id") from None
        return cls(name, *wishes)


def _wishes(  # noqa: PLR0917 - the key of a cache
    given: tuple[tuple[str, str], ...],
    subprotocol: str | None,
    format: str | None,
    last_event_id: str | None,
    limits: FilterLimits,
    filters: Filters | None,
    allowed: frozenset[str] | None,
) -> tuple[Any, ...]:
    """Return the fields of a `Query` after the `id`, which isn't among the `given` parameters."""
    params = dict(given)
    check_keys(params, allowed)
    if not OF_TEMPLATE.isdisjoint(params):
        template(params, "")
    asked = _choice(params, "format", _FORMATS, "raw")
    format = "cloudevents" if subprotocol == SUBPROTOCOL else format or asked
    filters = filters or Filters.of(params, limits)
    return (
        _choice(params, "role", ROLES, "subscriber"),
        filters.filter,
        filters.narrow,
        _choice(params, "echo", ("0", "1"), "1") == "1",
        format,
        subprotocol,
        _lag(params, format),
        _since(params, last_event_id),
    )


_wishes_read = lru_cache(_KEPT)(_wishes)


def _filter(params: Mapping[str, str], limits: FilterLimits) -> Predicate | None:
    """Return the conjunction of all filters in the query; None without any."""
    parts = [_part(key, value, limits) for key, value in params.items() if is_filter(key)]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else AllOf(parts)


def _part(key: str, value: str, limits: FilterLimits) -> Predicate:
    kind, dot, name = key.partition(".")
    try:
        if dot:
            found = ON_ATTRIBUTES[kind]({_shared(name): value})
            check_filter(found)
            return found
        return from_json({"sql": value} if key == "sql" else value, limits)
    except ValueError as error:
        # The key of the query and that of the filter it stands for are the same.
        raise _bad(f"{key}: {str(error).removeprefix('filter.sql: ')}", kind) from None


def defaults(params: Mapping[str, str], id: str) -> dict[str, Any]:
    """Return a publisher's default attributes, from its query."""
    return {"source": source_of(id), **given_attributes(params)}


def source_of(id: str) -> str:
    """Return the default `source` of a client's notifications."""
    return f"/clients/{quote(id, safe='')}"


def given_attributes(params: Mapping[str, str]) -> dict[str, Any]:
    """Return the attributes in the query, which an event gets if it doesn't have them itself."""
    return {key: params[key] for key in OF_TEMPLATE if key in params}


def template(params: Mapping[str, str], id: str) -> Notification:
    """Return a notification without data, with the attributes of a publisher's query.

    This checks them once. Raises `Refused` (400) that begins with the attribute at fault.
    """
    try:
        made = Notification.of(None, **defaults(params, id))
        check_publishable(made)
    except ValueError as error:
        raise _bad(str(error), "an attribute") from None
    return made


def _lag(params: Mapping[str, str], format: str) -> str | None:
    if "lag" not in params:
        return None
    lag = _choice(params, "lag", _LAGS, "")
    if lag == "gap" and format == "raw":
        raise _bad(
            "lag: must be latest or disconnect in the raw format, because it can't report a gap", "lag"
        )
    return lag


def _since(params: Mapping[str, str], last_event_id: str | None) -> Cursor | Moment | None:
    try:
        return where_it_was(params, last_event_id)
    except ValueError as error:
        key = "since" if "since" in params else "last_event_id"
        raise _bad(f"{key}{str(error).removeprefix('since')}", key) from None


def _choice(params: Mapping[str, str], key: str, options: tuple[str, ...], default: str) -> str:
    value = params.get(key, default)
    if value not in options:
        raise _bad(f"{key}: must be one of {', '.join(options)}, not {value!r}", key)
    return value


def _bad(detail: str, logged: str) -> Refused:
    """Return a 400. `logged` must not repeat an unknown key, which may be a token without its name."""
    return Refused(400, detail, logged=logged)
