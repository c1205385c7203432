"""Explanations of why a client gets a notification or doesn't, condition by condition.

The predicates and the broadcast decide as fast as they can. This module evaluates the same conditions
slowly and for people. It asks every part, even if an earlier part has decided already.
"""

from __future__ import annotations

from typing import Final

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

#: The predicates that are explained by their parts. An application's subclass may decide otherwise.
_BUILT_IN: Final = frozenset({Exact, Prefix, Suffix, AllOf, AnyOf, Not, Sql, type(EVERYTHING)})
_PART_RAISED: Final = "a part of it raised an error, so it doesn't hold"


@attrs.frozen
class Explanation:
    """The result of a condition, the condition in words, the reason, and its parts' explanations.

    It is truthy if the condition holds. Its text is a tree with a line for each condition.
    """

    holds: bool
    condition: str
    why: str = ""
    parts: tuple[Explanation, ...] = ()
    #: Whether a callable raised. Then nothing around it holds, unless an earlier part has decided.
    _raised: bool = attrs.field(default=False, repr=False)

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        return "\n".join(self._lines(""))

    def _lines(self, indent: str) -> list[str]:
        mark = "yes" if self.holds else "no "
        line = f"{indent}{mark} {self.condition}" + (f": {self.why}" if self.why else "")
        return [line, *(line for part in self.parts for line in part._lines(indent + "    "))]


def explain(predicate: Wanted, subject: Subject) -> Explanation:  # noqa: PLR0911 - a table
    """Explain `predicate` on `subject`.

    If a callable raises, it doesn't hold, and `why` says so. Neither does a predicate that it is a part
    of, unless a part before it has decided. Raises TypeError for a subject that is neither a
    notification nor a client.
    """
    if callable(predicate) and not hasattr(subject, "get"):
        kind = type(subject).__name__
        raise TypeError(f"subject: must be a Notification or a Client, not {kind}")
    if type(predicate) not in _BUILT_IN:
        return _callable(predicate, subject)
    match predicate:
        case Exact() | Prefix() | Suffix():
            parts = [_condition(predicate, name, text, subject) for name, text in predicate.attributes]
            return parts[0] if len(parts) == 1 else _together("all of", all(parts), parts)
        case AllOf():
            return _in_turn("all of", [explain(part, subject) for part in predicate.parts], False)
        case AnyOf():
            return _in_turn("any of", [explain(part, subject) for part in predicate.parts], True)
        case Not():
            part = explain(predicate.part, subject)
            return _decided("not", not part, [part], part._raised)
        case Sql():
            return _sql(predicate, subject)
    return Explanation(predicate is not NOTHING, "nothing" if predicate is NOTHING else "everything")


def _callable(predicate: Wanted, subject: Subject) -> Explanation:
    check_filter(predicate)
    shown = f"the callable {quoted(predicate)}"
    try:
        return Explanation(bool(predicate(subject)), shown)
    except Exception as error:  # an application's own callable may raise anything
        return Explanation(False, shown, f"it raised {quoted(error)}", raised=True)


def _in_turn(condition: str, parts: list[Explanation], decisive: bool) -> Explanation:
    """Explain parts of which the first with the `decisive` result decides, or the first that raises."""
    for part in parts:
        if part._raised or part.holds is decisive:
            return _decided(condition, decisive, parts, part._raised)
    return _decided(condition, not decisive, parts, False)


def _decided(condition: str, holds: bool, parts: list[Explanation], raised: bool) -> Explanation:
    why = _PART_RAISED if raised else ""
    return Explanation(holds and not raised, condition, why, tuple(parts), raised)


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
