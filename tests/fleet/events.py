"""The events that the fleet publishes, the ones that it wants, and whether they are the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import attrs

__all__ = ["TEAMS", "TYPES", "Filters", "Said", "is_wanted", "random_filters", "random_said"]

TYPES = ("a", "ab", "b", "c")
SUBJECTS = (None, None, "x", "xy", "z")
TEAMS = ("red", "blue")

#: A JSON array of filters, of which all must hold; None: none was ever given.
Filters = list[dict[str, Any]] | None


@attrs.frozen
class Said:
    """A notification as its publisher made it. It begins with its `token`, which nothing else has."""

    token: str
    source: str
    #: None: the publisher speaks raw, and the server makes one.
    id: str | None
    type: str
    subject: str | None = None
    #: Its recipients: one client's `id`, one team.
    to: str | None = None
    team: str | None = None
    size: int = 0

    @property
    def data(self) -> str:
        return f"{self.token} {'.' * self.size}"

    @property
    def event(self) -> bytes:
        """As a CloudEvents publisher sends it."""
        attributes = {"subject": self.subject, "to": self.to}
        event = {name: value for name, value in attributes.items() if value is not None}
        if self.team is not None:
            event["audience"] = json.dumps([{"exact": {"team": self.team}}])
        event |= {"specversion": "1.0", "id": self.id, "source": self.source, "type": self.type}
        return json.dumps({**event, "datacontenttype": "text/plain", "data": self.data}).encode()

    @property
    def kind(self) -> tuple[str, str | None]:
        """The key under which a newer event replaces it, for clients that want only the latest."""
        return self.source, self.subject

    def is_for(self, id: str, team: str) -> bool:
        return self.to in (None, id) and self.team in (None, team)

    def check(self, heard: dict[str, Any]) -> None:
        """Check that the event is the one that was published."""
        due = {"source": self.source, "type": self.type, "data": self.data, "subject": self.subject}
        due["to"] = self.to
        found = {name: heard.get(name) for name in due}
        assert found == due, f"{found} came where {due} was said"
        assert self.id in (None, heard["id"])


def random_said(random: Random, token: str, ids: list[str], size: int, **fixed: Any) -> Said:
    """Any notification, mostly for everyone."""
    return Said(
        token=token,
        subject=random.choice(SUBJECTS),
        type=random.choice(TYPES),
        to=random.choice(ids) if random.random() < 0.1 else None,
        team=random.choice(TEAMS) if random.random() < 0.1 else None,
        size=size,
        **fixed,
    )


#: Expressions, and what they mean.
SQL: dict[str, Callable[[Said], bool]] = {
    "type = 'ab' OR type = 'c'": lambda said: said.type in ("ab", "c"),
    "type LIKE 'a%' AND EXISTS subject": lambda said: said.type[0] == "a" and said.subject is not None,
    "NOT (EXISTS subject) OR subject = 'xy'": lambda said: said.subject in (None, "xy"),
    "LENGTH(type) > 1": lambda said: len(said.type) > 1,
}


def random_filters(random: Random) -> Filters:
    """Any filters; often none."""
    if random.random() < 0.25:
        return None
    return [_random_filter(random, 2) for _ in range(random.choice((0, 1, 1, 1, 2)))]


def _random_filter(random: Random, depth: int) -> dict[str, Any]:
    match random.randrange(8 if depth else 5):
        case 0 | 1:
            return {"exact": {"type": random.choice(TYPES)}}
        case 2:
            return {"prefix": {random.choice(("type", "subject")): random.choice("ax")}}
        case 3:
            return {"suffix": {"subject": "y"}}
        case 4:
            return {"sql": random.choice(tuple(SQL))}
        case 5:
            return {"not": _random_filter(random, depth - 1)}
        case kind:
            parts = [_random_filter(random, depth - 1) for _ in range(random.choice((1, 2, 3)))]
            return {"all" if kind == 6 else "any": parts}


def is_wanted(filters: Filters, said: Said) -> bool:
    """Whether all of these filters hold."""
    return all(_holds(filter, said) for filter in filters or ())


def _holds(filter: dict[str, Any], said: Said) -> bool:
    ((kind, what),) = filter.items()
    match kind:
        case "sql":
            return SQL[what](said)
        case "not":
            return not _holds(what, said)
        case "all":
            return all(_holds(part, said) for part in what)
        case "any":
            return any(_holds(part, said) for part in what)
    ((name, text),) = what.items()
    value = getattr(said, name) or ""
    return {"exact": value == text, "prefix": value.startswith(text), "suffix": value.endswith(text)}[
        kind
    ]
