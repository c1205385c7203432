"""Log lines about clients that left, and about exceptions of an application's code that served one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trionotify.delivery.faults import log_fault
from trionotify.errors import Refused

if TYPE_CHECKING:
    from trionotify.delivery.admission import Connection
    from trionotify.delivery.clients import Client
    from trionotify.errors import StoreError

__all__ = ["log_failed", "log_failing", "log_leaving", "log_refusal", "log_unread"]

logger: logging.Logger = logging.getLogger("trionotify")


def log_refusal(remote: str, refused: Refused) -> None:
    """Log one line about a refused request, without anything of its query."""
    logger.info(
        "%s refused: %d %r",
        remote,
        refused.status,
        refused.logged,
        extra={
            "event": "refused",
            "remote": remote,
            "status": refused.status,
            "reason": refused.logged,
        },
    )


def log_failed(remote: str) -> None:
    """Log the exception that is being handled, which has cost a connection."""
    logger.exception(
        "the connection of %s failed",
        remote,
        extra={"event": "connection_failed", "remote": remote},
    )


def log_leaving(connection: Connection, received: int, code: int | None, reason: str) -> None:
    """Log one line about a connection that ended: the client, how long, how many messages, and why."""
    client, position = connection.client, connection.position
    # An application may have written the reason, perhaps from a peer's text.
    reason = reason if reason.isprintable() else ascii(reason)
    seconds = trio.current_time() - connection.entered_at
    logger.info(
        "client %.64r from %s left after %.1f s, %d sent, %d received: %s",
        client.id,
        client.remote or "a stream",
        seconds,
        position.sent,
        received,
        (reason or "the connection was lost") if code is None else f"{code} {reason}".rstrip(),
        extra={
            "event": "left",
            "id": client.id,
            "remote": client.remote,
            "role": client.role,
            "transport": connection.transport_name,
            "format": client.format,
            "seconds": round(seconds, 3),
            "sent": position.sent,
            "received": received,
            "code": code,
            "reason": reason,
        },
    )


def log_failing(client: Client, error: Exception, event: str, message: str) -> None:
    """Log an exception that an application's code raised while it served this client."""
    log_fault(error, message, client.id, event=event, id=client.id, remote=client.remote)


def log_unread(client: Client, error: StoreError) -> None:
    """Log that the log couldn't be read for this client."""
    logger.error(
        "serving client %.64r failed: %s",
        client.id,
        error,
        extra={
            "event": "log_unread",
            "id": client.id,
            "remote": client.remote,
            "reason": str(error),
        },
    )
