"""Explanations of why a client gets a notification or doesn't, condition by condition.

The predicates and the broadcast decide as fast as they can. This module evaluates the same conditions
slowly and for people. It asks every part, even if an earlier part has decided already.
"""

from __future__ import annotations

import attrs

from trionotify.delivery.clients import Client
from trionotify.errors import quoted
from trionotify.model.filters import check_filter
from trionotify.model.notification import Notification
from trionotify.model.predicates import (
    EVERYTHING,
    NOTHING,
    AllOf,
    AnyOf,
    Exact,
    Not,
    Prefix,
    Sql,
    Subject,
    Suffix,
    Wanted,
)

__all__ = ["Explanation", "explain", "explain_delivery"]


@attrs.frozen
class Explanation:
    """The result of a condition, the condition in words, the reason, and its parts' explanations.

    It is truthy if the condition holds. Its text is a tree with a line for each condition.
    """

    holds: bool
    condition: str
    why: str = ""
    parts: tuple[Explanation, ...] = ()

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        return "\n".join(self._lines(""))

    def _lines(self, indent: str) -> list[str]:
        mark = "yes" if self.holds else "no "
        line = f"{indent}{mark} {self.condition}" + (f": {self.why}" if self.why else "")
        return [line, *(line for part in self.parts for line in part._lines(indent + "    "))]


def explain(predicate: Wanted, subject: Subject) -> Explanation:  # noqa: PLR0911 - a table
    """Explain `predicate` on `subject`. A callable that raises counts as False, and `why` says so.

    Raises TypeError for a subject that is neither a notification nor a client.
    """
    if callable(predicate) and not hasattr(subject, "get"):
        kind = type(subject).__name__
        raise TypeError(f"subject: must be a Notification or a Client, not {kind}")
    match predicate:
        case Exact() | Prefix() | Suffix():
            parts = [_condition(predicate, name, text, subject) for name, text in predicate.attributes]
            return parts[0] if len(parts) == 1 else _together("all of", all(parts), parts)
        case AllOf() | AnyOf():
            parts = [explain(part, subject) for part in predicate.parts]
            if isinstance(predicate, AllOf):
                return _together("all of", all(parts), parts)
            return _together("any of", any(parts), parts)
        case Not():
            part = explain(predicate.part, subject)
            return Explanation(not part, "not", parts=(part,))
        case Sql():
            return _sql(predicate, subject)
    if predicate is EVERYTHING or predicate is NOTHING:
        return Explanation(
            predicate is EVERYTHING, "everything" if predicate is EVERYTHING else "nothing"
        )
    check_filter(predicate)
    try:
        return Explanation(bool(predicate(subject)), f"the callable {predicate!r}")
    except Exception as error:  # an application's own callable may raise anything
        return Explanation(False, f"the callable {predicate!r}", f"it raised {error!r}")


def _condition(
    predicate: Exact | Prefix | Suffix, name: str, text: str, subject: Subject
) -> Explanation:
    kind = type(predicate)
    found = subject.get(name)
    words = {Exact: "equals", Prefix: "begins with", Suffix: "ends with"}[kind]
    why = f"there is no {name}" if found is None else f"it is {quoted(found)}"
    return Explanation(kind({name: text})(subject), f"{name} {words} {text!r}", why)


def _sql(predicate: Sql, subject: Subject) -> Explanation:
    parts = [
        Explanation(
            part.held,
            part.source,
            "; ".join(error.message for error in part.errors) or f"it is {quoted(part.value)}",
        )
        for part in predicate.expression.explain(getattr(subject, "value", subject.get))
    ]
    if len(parts) == 1:
        return attrs.evolve(parts[0], condition=f"sql {predicate.source}")
    return _together("sql, all of", predicate(subject), parts)


def _together(condition: str, holds: bool, parts: list[Explanation]) -> Explanation:
    return Explanation(holds, condition, parts=tuple(parts))


def explain_delivery(notification: Notification, client: Client) -> Explanation:
    """Explain whether `client` gets `notification`: its right, its filter, the publisher's demands.

    Raises TypeError for another type of either.
    """
    if not isinstance(notification, Notification):
        raise TypeError(f"notification: must be a Notification, not {type(notification).__name__}")
    if not isinstance(client, Client):
        raise TypeError(f"client: must be a Client, not {type(client).__name__}")
    parts = [_named("its filter", explain(client.asked, notification))]
    if client.rights is not None:
        parts.insert(0, _named("its right", explain(client.rights.subscribe, notification)))
    if notification.to is not None:
        meant = notification.to == client.id
        parts.append(
            Explanation(meant, f"it is for {notification.to!r}", f"the client is {client.id!r}")
        )
    if notification.audience is not None:
        parts.append(_named("its audience", explain(notification.audience, client)))
    return _together(f"client {client.id!r} gets {notification.type!r}", all(parts), parts)


def _named(name: str, part: Explanation) -> Explanation:
    return Explanation(part.holds, name, parts=(part,))
