"""Sessions: what is done with a client's messages, from its beginning to its end.

A session is an async function of the client, run in the connection's task. An application brings its
own; here are the default one, and the short form for one that looks at one message after the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, cast

from trionotify.delivery.clients import Client
from trionotify.errors import CloseCode, StoreError
from trionotify.model.notification import Notification
from trionotify.model.replies import is_request

if TYPE_CHECKING:
    from trionotify.model.replies import Message

__all__ = ["Handler", "Session", "handler_session", "publishing_session"]

_MAY_NOT_PUBLISH: Final = "a subscriber may not publish: connect with role=publisher or role=both"

#: Serves a client, from its beginning to its end.
Session = Callable[[Client], Awaitable[None]]
#: Is called with each message of a client. What it returns is the reply.
Handler = Callable[[Client, str | bytes], Awaitable[object]]


async def publishing_session(client: Client) -> None:
    """The default session: publish what publishers send, refuse what others send.

    A raw client is closed: with 1008 if it may not publish, with 1007 for what isn't what the query's
    `datacontenttype` says, with 1013 for what the log doesn't take. One that speaks CloudEvents is told
    in an event.
    """
    while received := await client.receive_batch():
        batch = received
        if client.format != "raw" and (client.role == "subscriber" or _has_request(received)):
            batch = [message for message in received if not _rejected(client, message)]
        if not batch:
            continue
        if client.role == "subscriber":
            client.close(CloseCode.POLICY_VIOLATION, _MAY_NOT_PUBLISH)
            return
        try:
            await _publish_all(client, batch)
        except ValueError as error:
            client.close(CloseCode.INVALID_DATA, str(error))
        except StoreError as error:
            client.close(CloseCode.TRY_AGAIN_LATER, error.told)


def _has_request(batch: list[Message]) -> bool:
    return any(map(is_request, cast("list[Notification]", batch)))


def _rejected(client: Client, message: Message) -> bool:
    """Whether it is an event that this session can do nothing with."""
    if not isinstance(message, Notification):
        return False
    if client.role == "subscriber":
        client.reject(message, _MAY_NOT_PUBLISH, 403)
    elif is_request(message):
        client.reject(
            message,
            "this server gives no replies: a request needs a server with a session or a handler",
            501,
        )
    else:
        return False
    return True


async def _publish_all(client: Client, batch: list[Message]) -> None:
    """Publish them together, or where one won't do, those before it."""
    try:
        await client.publish(*batch)
    except ValueError:
        for message in batch:
            await client.publish(message)


def handler_session(handler: Handler) -> Session:
    """The session that calls `handler(client, message)` for one message after the other.

    What the handler returns is the reply, unless it has answered by itself: see `Client.reply`.
    """

    async def session(client: Client) -> None:
        async for message in client:
            data = await handler(client, message)
            if data is not None or client.is_unanswered(message):
                await client.reply(message, data)

    return session
