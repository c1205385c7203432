"""Rights, which a client's token grants, whatever the client asks for.

`Rights` is a value, and clients with equal rights share one. So those with equal filters share a group.
`http.claims` reads rights from the claims of a token. A client without a token has no rights record.
"""

from __future__ import annotations

import attrs

from trionotify.errors import Refused
from trionotify.model.notification import Notification
from trionotify.model.predicates import EVERYTHING, NOTHING, AllOf, Wanted

__all__ = ["Rights"]


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
        if not self.publish(notification):
            refused = Refused(
                403,
                f"token: grants no right to publish this (type={notification.type:.100},"
                f" source={notification.source:.100})",
                logged="token: no right to publish this",
            )
            refused.counted = "right"
            raise refused
