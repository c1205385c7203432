"""Log lines about clients that left, and about exceptions of an application's code.

The text of an exception may contain a secret of a client's query, as in `KeyError: '5f0c…'`. So the log
shows the frames and the types of an exception, and none of its text. The record's `exc_info` still has
the exception itself, for handlers that want more.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import trio

from trionotify.errors import Refused

if TYPE_CHECKING:
    from trionotify.delivery.admission import Connection
    from trionotify.delivery.clients import Client
    from trionotify.errors import StoreError

__all__ = ["log_failing", "log_fault", "log_leaving", "log_refusal", "log_unread"]

logger: logging.Logger = logging.getLogger("trionotify")

#: The most frames of a traceback, those nearest to the error.
_FRAMES: Final = 50


def log_fault(error: BaseException, message: str, *args: object, **extra: object) -> None:
    """Log `error` with the frames and the types of its traceback, without any text of it."""
    if not logger.isEnabledFor(logging.ERROR):
        return
    file, line, function, _ = logger.findCaller(stacklevel=2)
    info = (type(error), error, error.__traceback__)
    record = logger.makeRecord(
        logger.name, logging.ERROR, file, line, message, args, info, function, extra
    )
    # Formatters show this text instead of formatting `exc_info`.
    record.exc_text = "\n".join(_outline(error, set()))
    logger.handle(record)


def _outline(error: BaseException, seen: set[int]) -> Iterator[str]:
    """Yield the lines of a traceback: its causes, its frames, its type, and inner errors."""
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _outline(before, seen)
        yield "which led to:"
    yield "Traceback (most recent call last):"
    frames = list(traceback.walk_tb(error.__traceback__))[-_FRAMES:]
    for frame, line in frames:
        yield f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_qualname}'
    yield f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from (f"  | {line}" for line in _outline(inner, seen))


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
