"""Rights, which a client's token grants, whatever the client asks for.

`Rights` is a value, and clients with equal rights share one. So those with equal filters share a group.
`http.claims` reads rights from the claims of a token. A client without a token has no rights record.

A right to publish may have conditions on `to`, the recipient. An event without `to` has no such
attribute, so `not` of a condition on it would hold, and an audience could select the very client that
the right excludes. Therefore a condition on `to` is neither true nor false for an event that has an
audience and no `to`. Such an event is allowed only if the rest of the right decides that. If an event
has both, the audience only takes away recipients.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from trionotify.errors import Refused
from trionotify.model.notification import ExtensionValue, Notification
from trionotify.model.predicates import EVERYTHING, NOTHING, AllOf, AnyOf, Not, OnAttributes, Wanted

__all__ = ["Rights"]

_TO: Final = "to"


@attrs.frozen
class Rights:
    """`subscribe` and `publish` are predicates over notifications. `admin` opens the operators' pages.

    `issuer` is the issuer of the token that granted them.
    """

    subscribe: Wanted = NOTHING
    publish: Wanted = NOTHING
    admin: bool = False
    issuer: str = ""

    def restrict(self, wanted: Wanted) -> Wanted:
        """Return the part of `wanted` that the rights allow."""
        if self.subscribe is EVERYTHING or wanted is NOTHING:
            return wanted
        return self.subscribe if wanted is EVERYTHING else AllOf([self.subscribe, wanted])

    def check_publish(self, notification: Notification) -> None:
        """Raise `Refused` (403) if `notification` may not be published."""
        allowed: bool | None
        if notification.audience is None or notification.to is not None:
            allowed = bool(self.publish(notification))
        else:
            allowed = _holds(self.publish, _Unaddressed(notification))
        if not allowed:
            hint = "; that depends on to, so give the event a to beside its audience"
            refused = Refused(
                403,
                f"token: grants no right to publish this (type={notification.type:.100},"
                f" source={notification.source:.100}){hint if allowed is None else ''}",
                logged="token: no right to publish this",
            )
            refused.counted = "right"
            raise refused


@attrs.define
class _Unaddressed:
    """A notification whose recipient is unknown, as the subject of a condition."""

    _notification: Notification
    #: Whether the condition has asked for the recipient.
    asked: bool = False

    def get(self, name: str) -> str | None:
        self.asked |= name == _TO
        return self._notification.get(name)

    def value(self, name: str) -> ExtensionValue | None:
        self.asked |= name == _TO
        return self._notification.value(name)


def _holds(predicate: Wanted, subject: _Unaddressed) -> bool | None:
    """Return whether the predicate holds, or None if that depends on the recipient (Kleene's logic)."""
    match predicate:
        case AllOf() | AnyOf():
            return _joined((_holds(part, subject) for part in predicate.parts), type(predicate) is AnyOf)
        case Not():
            found = _holds(predicate.part, subject)
            return None if found is None else not found
        case OnAttributes(attributes=(_, _, *_) as pairs):
            kind = type(predicate)
            return _joined((_holds(kind({name: text}), subject) for name, text in pairs), False)
    subject.asked = False
    holds = bool(predicate(subject))
    return None if subject.asked else holds


def _joined(parts: Iterable[bool | None], deciding: bool) -> bool | None:
    """Return `deciding` if any part is that, else None if any part is unknown."""
    found = set(parts)
    if deciding in found:
        return deciding
    return None if None in found else not deciding
