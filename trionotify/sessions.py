"""Sessions: what is done with a client's messages, from its beginning to its end.

A session is an async function of the client, run in the connection's task. An application brings its
own; here are the default one, and the short form for one that looks at one message after the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from trionotify.clients import Client
from trionotify.errors import CloseCode, StoreError

if TYPE_CHECKING:
    from trionotify.formats import Message
    from trionotify.http import Request

__all__ = ["Authenticate", "Handler", "Session", "handler_session", "publishing_session"]

#: Serves a client, from its beginning to its end.
Session = Callable[[Client], Awaitable[None]]
#: Is called with each message of a client.
Handler = Callable[[Client, str | bytes], Awaitable[None]]
#: Says who is behind a request: returns its `Client`, or raises `Refused`. Plain or async.
Authenticate = Callable[["Request"], Client | Awaitable[Client]]


async def publishing_session(client: Client) -> None:
    """The default session: publish what publishers send, refuse others with 1008.

    What isn't what the query's `datacontenttype` says ends it with 1007, and what the log doesn't take
    with 1013: one who speaks CloudEvents is told in an event instead.
    """
    while batch := await client.receive_batch():
        if client.role == "subscriber":
            client.close(
                CloseCode.POLICY_VIOLATION,
                "a subscriber may not publish: connect with role=publisher or role=both",
            )
            return
        try:
            await _publish_all(client, batch)
        except ValueError as error:
            client.close(CloseCode.INVALID_DATA, str(error))
        except StoreError as error:
            client.close(CloseCode.TRY_AGAIN_LATER, error.told)


async def _publish_all(client: Client, batch: list[Message]) -> None:
    """Publish them together, or where one won't do, those before it."""
    try:
        await client.publish(*batch)
    except ValueError:
        for message in batch:
            await client.publish(message)


def handler_session(handler: Handler) -> Session:
    """The session that calls `handler(client, message)` for one message after the other."""

    async def session(client: Client) -> None:
        async for message in client:
            await handler(client, message)

    return session
