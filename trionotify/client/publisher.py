"""The publishing part of a client: its notifications and their receipts.

It has its own connection, because on one shared with the subscriber, acknowledgements would
come after notifications. An application that reads notifications slowly would get acknowledgements late,
and one that publishes inside of its loop would wait for itself. The price is a second connection, and
that the server can't tell what this client has published itself (`echo=0`). So it is opened when
something is published for the first time.

Everything without an acknowledgement is repeated on the next connection, in order, with the same
`source`, `id` and client's `id`. By these the server recognizes a repetition, for as long as the log has
the first.
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

#: The most members that `encode` adds to an event.
_OTHER_MEMBERS: Final = 9


class Publisher:
    """The publishing part of a client. If `eager`, it connects before its first notification."""

    role = "publisher"

    def __init__(self, target: Target, *, eager: bool) -> None:
        #: The answers are the data of acknowledgements.
        self.outbox: Outbox[dict[str, Any]] = Outbox(target.max_unacknowledged)
        self.eager = eager
        self.id: str = target.params.get("id", "")
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
        """Return the `id` and the JSON of a notification to publish, or of a `request`.

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
        """Fill in missing attributes from the URL."""
        given: dict[str, Any] = {**attributes}
        for name, value in defaults(self._target.params, client_id).items():
            if given.get(name) is None and not (name == "datacontenttype" and "json" in given):
                given[name] = value
        return cast("Attributes", given)

    async def publish(self, id: str, text: str, placed: Callable[[], None]) -> Receipt:
        """Publish the JSON from `make`; return its receipt. See `Outbox.ask`."""
        answer = await self.outbox.ask(id, text, placed)
        wanted, written, behind = (answer.get(name, 0) for name in ("wanted", "written", "behind"))
        shared = answer.get("node"), answer.get("durability")
        return Receipt(answer.get("cursor"), wanted, written, behind, *shared)

    # The methods of `Part`.

    async def needed(self) -> None:
        if not self._at_once:
            await self.outbox.asked()

    def query(self, given: object) -> Mapping[str, str]:
        # A publisher receives nothing, so its query has no filters.
        query = self._target.query(self._target.params, given, self.role)
        query = without(query, *START, "lag", "narrow")
        if "sig" not in query:
            return without(query, *FILTERS)
        # A signed query stays as it is, and is narrowed to receive nothing.
        return {**query, "narrow": '{"sql": "FALSE"}'}

    def welcomed(self, event: Event) -> None:
        if event.data.get("role") == "subscriber":
            # A publication would end the connection.
            raise Refused(
                403, "role: the server does not let this client publish; it may only subscribe"
            )
        self.id = str(event.data.get("id", self.id))
        self._at_once = False

    async def room(self) -> None:
        """Return at once, because answers are small and a task waits for each."""

    def heard(self, event: Event) -> None:
        if event.kind == "ack":
            self.outbox.answer(event.data.get("id"), event.data)
        elif event.kind == "error":
            data = event.data
            self.outbox.refuse(data.get("id"), refusal(data.get("status"), data.get("detail")))

    def missed(self, message: Unread) -> None:
        """Ignore it. A lost answer comes again, because the next connection repeats the question."""

    def repair(self, error: Exception) -> bool:
        # One message was too big for the server. It alone is given up, and the others are repeated.
        return is_too_big(error) and self.outbox.refuse_longest(error)

    def give_up(self, error: Exception) -> None:
        # The next publish starts over, because this one may have been at fault.
        self.outbox.refuse_all(error)

    def close(self) -> None:
        """Raise `trio.ClosedResourceError` in every task that waits, because the client was left."""
        self.outbox.close(trio.ClosedResourceError("this client is closed"))
