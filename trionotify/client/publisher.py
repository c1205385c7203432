"""The publisher: what a client publishes, and what it is told of it.

Why it has a connection of its own. On one connection with the subscriber's, acknowledgements come behind
notifications: an application that is slow to take those would not hear of these, and one that publishes
in the midst of its loop would wait for itself. The price is a second connection, and that the server
can't tell what this client has published itself (`echo=0`). So it is opened when something is published
for the first time.

Everything without an acknowledgement is repeated on the next connection, in order, with the same
`source`, `id` and client's `id`: by these the server knows a repetition, for as long as the log has the
first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import trio

from trionotify.client.in_flight import Outbox
from trionotify.client.reconnect import is_too_big, refusal
from trionotify.client.target import FILTERS, START, without
from trionotify.errors import Refused
from trionotify.model.cloudevents import MAX_MEMBERS, encode
from trionotify.model.notification import Data, Notification, publishable
from trionotify.model.query import defaults
from trionotify.model.receipt import Receipt
from trionotify.model.replies import as_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trionotify.client.link import Event, Unread
    from trionotify.client.target import Target
    from trionotify.model.keywords import Attributes

__all__ = ["Publisher"]

#: What else is in an event that `encode` makes, at most.
_OTHER_MEMBERS: Final = 9


class Publisher:
    """The part of a client that publishes. One that is eager is connected before it is needed."""

    role = "publisher"

    def __init__(self, target: Target, *, eager: bool) -> None:
        #: The answers are the data of acknowledgements.
        self.outbox: Outbox[dict[str, Any]] = Outbox(target.max_unacknowledged)
        self.eager = eager
        self.id: str = target.params["id"]
        self._target = target
        self._at_once = eager

    def make(
        self,
        data: Data | Notification,
        client_id: str,
        attributes: Attributes,
        *,
        request: bool = False,
    ) -> tuple[str, str]:
        """The `id` and the JSON of what is to be published by this client, or of a `request`.

        Raises TypeError or ValueError that names a bad attribute.
        """
        if not isinstance(data, Notification):
            attributes = self._completed(attributes, client_id)
        data = publishable(data, attributes)
        if request:
            data = as_request(data)
        if len(data.extensions) + _OTHER_MEMBERS > MAX_MEMBERS:
            raise ValueError(f"extensions: at most {MAX_MEMBERS - _OTHER_MEMBERS} are allowed")
        return data.id, encode(data, None, audience=True).decode()

    def _completed(self, attributes: Attributes, client_id: str) -> Attributes:
        """With what the URL says where these don't."""
        given: dict[str, Any] = {**attributes}
        for name, value in defaults(self._target.params, client_id).items():
            if given.get(name) is None and not (name == "datacontenttype" and "json" in given):
                given[name] = value
        return cast("Attributes", given)

    async def publish(self, id: str, text: str, placed: Callable[[], None]) -> Receipt:
        """Publish what was made; return the acknowledgement. See `Outbox.ask`."""
        answer = await self.outbox.ask(id, text, placed)
        counts = (answer.get(name, 0) for name in ("wanted", "written", "behind"))
        return Receipt(answer.get("cursor"), *counts)

    # As a part that stays connected.

    async def needed(self) -> None:
        if not self._at_once:
            await self.outbox.asked()

    def query(self, given: object) -> Mapping[str, str]:
        # It wants nothing, so nothing is to be said of what it wants.
        query = self._target.query(self._target.params, given, self.role)
        query = without(query, *START, "lag", "narrow")
        if "sig" not in query:
            return without(query, *FILTERS)
        # What is signed stays as it is; it wants nothing all the same.
        return {**query, "narrow": '{"sql": "FALSE"}'}

    def welcomed(self, event: Event) -> None:
        if event.data.get("role") == "subscriber":
            # What it publishes would end the connection.
            raise Refused(403, "role: the server doesn't let this client publish; it may only subscribe")
        self.id = str(event.data.get("id", self.id))
        self._at_once = False

    async def room(self) -> None:
        """What comes is small, and somebody waits for it."""

    def heard(self, event: Event) -> None:
        if event.kind == "ack":
            self.outbox.answer(event.data.get("id"), event.data)
        elif event.kind == "error":
            data = event.data
            self.outbox.refuse(data.get("id"), refusal(data.get("status"), data.get("detail")))

    def missed(self, message: Unread) -> None:
        """If it was an answer, it comes again: the next connection asks again."""

    def mend(self, error: Exception) -> bool:
        # One message was too big for the server. It alone is given up, and the others are repeated.
        return is_too_big(error) and self.outbox.refuse_longest(error)

    def give_up(self, error: Exception) -> None:
        # Whoever publishes again begins anew: it may have been the fault of what was published.
        self.outbox.refuse_all(error)

    def close(self) -> None:
        """The client is left: nothing that waits will be answered."""
        self.outbox.close(trio.ClosedResourceError("this client was closed"))
