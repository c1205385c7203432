"""The query of a request's path: who the client is, and what it wants.

The query is the same on every transport. All of it becomes `client.params`; the keys that mean something
here are checked before anything else happens, so that a typing error is a 400 that names it and
never a client that silently gets too much or too little.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
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


def parse_query(text: str) -> dict[str, str]:
    """The parameters of a query string; raises `Refused` (400) for one given twice, or not UTF-8."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=256)
    except ValueError as error:  # UnicodeDecodeError included
        raise _bad(f"the query can't be read: {error}") from None
    params = dict(pairs)
    if len(params) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _bad(f"{twice}: given twice; once is allowed", twice if twice in OURS else "a key")
    return params


ROLES: Final = ("subscriber", "publisher", "both")


@attrs.frozen
class Filters:
    """The filters in a query, parsed: see `Query`. Parsing long ones takes more than a turn."""

    filter: Predicate | None
    narrow: Predicate | None

    @classmethod
    def of(cls, params: Mapping[str, str], limits: FilterLimits) -> Filters:
        """Parse them; raises `Refused` (400) that begins with the key at fault."""
        narrow = _part("narrow", params["narrow"], limits) if "narrow" in params else None
        return cls(_filter(params, limits), narrow)

    @staticmethod
    def are_long(params: Mapping[str, str]) -> bool:
        """Whether parsing them may take more than a turn."""
        return sum([len(params.get(key, "")) for key in ("sql", "filters", "narrow")]) > SLOW


@attrs.frozen
class Query:
    """What a query says, checked.

    `filter` is None when it names none, `lag` when the format's default holds. `narrow` is a filter
    besides, which isn't signed with the rest. `offset` is where the moment in `since` is, once the hub
    has looked it up.
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
        """Read the parameters; raises `Refused` (400) that begins with the key at fault.

        What is given besides them counts whatever they say: `id` is who the client is, a `subprotocol`
        that is ours or `format` what it speaks, `last_event_id` where it is. `filters` are those in the
        parameters, where they have been parsed already. `allowed` are the application's own keys, if no
        others may be there.
        """
        check_keys(params, allowed)
        if not OF_TEMPLATE.isdisjoint(params):
            template(params, "")
        name = id if id is not None else params.get("id")
        if name is None:
            name = secrets.token_urlsafe(9)
        else:
            try:
                check_id("id", name)
            except ValueError as error:
                raise _bad(str(error)) from None
        asked = _choice(params, "format", _FORMATS, "raw")
        format = "cloudevents" if subprotocol == SUBPROTOCOL else format or asked
        filters = filters or Filters.of(params, limits)
        return cls(
            id=name,
            role=_choice(params, "role", ROLES, "subscriber"),
            filter=filters.filter,
            narrow=filters.narrow,
            echo=_choice(params, "echo", ("0", "1"), "1") == "1",
            format=format,
            subprotocol=subprotocol,
            lag=_lag(params, format),
            since=_since(params, last_event_id),
        )


def _filter(params: Mapping[str, str], limits: FilterLimits) -> Predicate | None:
    """Everything the query asks for, of which all must hold."""
    parts = [_part(key, value, limits) for key, value in params.items() if is_filter(key)]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else AllOf(parts)


def _part(key: str, value: str, limits: FilterLimits) -> Predicate:
    kind, dot, name = key.partition(".")
    try:
        if dot:
            found = ON_ATTRIBUTES[kind]({name: value})
            check_filter(found)
            return found
        return from_json({"sql": value} if key == "sql" else value, limits)
    except ValueError as error:
        raise _bad(f"{key}: {error}", kind) from None


def defaults(params: Mapping[str, str], id: str) -> dict[str, Any]:
    """The attributes that a publisher's query gives to what it publishes, where that doesn't say."""
    return {"source": source_of(id), **given_attributes(params)}


def source_of(id: str) -> str:
    """The `source` of what a client publishes, where nothing says another one."""
    return f"/clients/{quote(id, safe='')}"


def given_attributes(params: Mapping[str, str]) -> dict[str, Any]:
    """Those of them that the query names: what an event gets where it doesn't say itself."""
    return {key: params[key] for key in OF_TEMPLATE if key in params}


def template(params: Mapping[str, str], id: str) -> Notification:
    """The notification that has the attributes that a publisher's query gives, and no data.

    They are checked here, once. Raises `Refused` (400) that begins with the attribute at fault.
    """
    try:
        made = Notification.of(None, **defaults(params, id))
        check_publishable(made)
    except ValueError as error:
        raise _bad(str(error)) from None
    return made


def _lag(params: Mapping[str, str], format: str) -> str | None:
    if "lag" not in params:
        return None
    lag = _choice(params, "lag", _LAGS, "")
    if lag == "gap" and format == "raw":
        raise _bad("lag: the raw format can't tell of a gap; use latest or disconnect")
    return lag


def _since(params: Mapping[str, str], last_event_id: str | None) -> Cursor | Moment | None:
    try:
        return where_it_was(params, last_event_id)
    except ValueError as error:
        raise _bad(str(error)) from None


def _choice(params: Mapping[str, str], key: str, options: tuple[str, ...], default: str) -> str:
    value = params.get(key, default)
    if value not in options:
        raise _bad(f"{key}: one of {', '.join(options)} is needed, not {value!r}")
    return value


def _bad(detail: str, logged: str | None = None) -> Refused:
    """`logged` is for where the key that is at fault may be anything, too: a token without its name."""
    return Refused(400, detail, logged=logged)
