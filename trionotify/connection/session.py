"""Sessions, which handle a client's messages.

A session is an async function of the client that runs in the connection's task. An application may
bring its own. This module has the default session, and the one that calls a handler for each message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, cast

from trionotify.delivery.clients import Client
from trionotify.errors import CloseCode, Refused, StoreError
from trionotify.model.notification import Notification
from trionotify.model.replies import is_request

if TYPE_CHECKING:
    from trionotify.model.replies import Message

__all__ = ["Handler", "Session", "handler_session", "publishing_session"]

_MAY_NOT_PUBLISH: Final = "role: a subscriber may not publish; connect with role=publisher or role=both"

#: An async function that serves one client while it is connected. When it returns, the connection ends.
Session = Callable[[Client], Awaitable[None]]
#: An async function that is called with each message of a client, and returns the reply, or None.
Handler = Callable[[Client, str | bytes], Awaitable[object]]


async def publishing_session(client: Client) -> None:
    """The default session. It publishes what publishers send and refuses what subscribers send.

    A raw client is closed with 1008 if it may not publish, or not this, with 1007 if a message
    contradicts the `datacontenttype` of the query, and with 1013 if the log doesn't accept it. A client
    that speaks CloudEvents gets an event about it instead.
    """
    while received := await client.receive_batch():
        batch = received
        if client.format != "raw" and (client.role == "subscriber" or _has_request(received)):
            batch = _without_rejected(client, received)
        if not batch:
            continue
        if client.role == "subscriber":
            client.close(CloseCode.POLICY_VIOLATION, _MAY_NOT_PUBLISH)
            return
        try:
            await _publish_all(client, batch)
        except ValueError as error:
            client.close(CloseCode.INVALID_DATA, str(error))
        except Refused as refused:
            client.close(CloseCode.POLICY_VIOLATION, refused.detail)
        except StoreError as error:
            client.close(CloseCode.TRY_AGAIN_LATER, error.told)


def _has_request(batch: list[Message]) -> bool:
    return any(map(is_request, cast("list[Notification]", batch)))


def _without_rejected(client: Client, batch: list[Message]) -> list[Message]:
    # Not in the session, where a comprehension would add a cell to each idle client.
    return [message for message in batch if not _rejected(client, message)]


def _rejected(client: Client, message: Message) -> bool:
    """Return whether this is an event that the session can't handle. If so, the client is told."""
    if not isinstance(message, Notification):
        return False
    if client.role == "subscriber":
        client.reject(message, _MAY_NOT_PUBLISH, 403)
    elif is_request(message):
        client.reject(
            message,
            "request: this server gives no replies; a reply needs a server with a session or a handler",
            501,
        )
    else:
        return False
    return True


async def _publish_all(client: Client, batch: list[Message]) -> None:
    """Publish the messages together. If one is invalid, publish those before it."""
    try:
        await client.publish(*batch)
    except ValueError:
        for message in batch:
            await client.publish(message)


def handler_session(handler: Handler) -> Session:
    """Return a session that calls `handler(client, message)` for each message in turn.

    The handler's result is the reply, unless it has replied itself. See `Client.reply`.
    """

    async def session(client: Client) -> None:
        async for message in client:
            data = await handler(client, message)
            if data is not None or client.is_unanswered(message):
                await client.reply(message, data)

    return session
