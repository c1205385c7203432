"""What the log says of clients: how they left, and what the application's code raised.

An exception may say what it failed at: `KeyError: '5f0c…'`. So the values of the client's query are
taken out of the text of its traceback. The record still has the exception itself.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_plus

import trio

from trionotify.errors import Refused

if TYPE_CHECKING:
    from trionotify.delivery.admission import Connection
    from trionotify.delivery.clients import Client
    from trionotify.errors import StoreError

__all__ = ["log_failing", "log_fault", "log_leaving", "log_refusal", "log_unread", "redacted"]

logger: logging.Logger = logging.getLogger("trionotify")

#: Characters of a refusal's reason.
_REASON: Final = 200
#: What the log shows anyway, or what is one of a few words.
_SHOWN: Final = frozenset({"id", "role", "lag", "format", "echo"})
#: Shorter ones are no secrets; and they are everywhere.
_SHORT: Final = 4
#: Up to so many characters, a value that is one word is taken out as a word only.
_WORD: Final = 7


def log_fault(
    error: BaseException, params: Mapping[str, str], message: str, *args: object, **extra: object
) -> None:
    """Log `error` with its traceback, but without the values of a query with these `params`."""
    if not logger.isEnabledFor(logging.ERROR):
        return
    file, line, function, _ = logger.findCaller(stacklevel=2)
    info = (type(error), error, error.__traceback__)
    record = logger.makeRecord(
        logger.name, logging.ERROR, file, line, message, args, info, function, extra
    )
    # What is here is shown as it is.
    record.exc_text = redacted("".join(traceback.format_exception(error)).rstrip("\n"), params)
    logger.handle(record)


def log_refusal(remote: str, refused: Refused, params: Mapping[str, str]) -> None:
    """The one line about a request that was refused, without the values of its query."""
    reason = redacted(refused.logged, params)[:_REASON]
    logger.info(
        "%s refused: %d %r",
        remote,
        refused.status,
        reason,
        extra={"event": "refused", "remote": remote, "status": refused.status, "reason": reason},
    )


def redacted(text: str, params: Mapping[str, str]) -> str:
    """The text without the values in `params`, and without the names of those that have none."""
    words = set()
    # The longer ones first: one may be a part of another.
    values = {value or name for name, value in params.items() if name not in _SHOWN}
    for value in sorted(values, key=len, reverse=True):
        if len(value) < _SHORT:
            continue
        if len(value) <= _WORD and value.isidentifier():
            words.add(value)
            continue
        encoded = (quote(value), quote(value, safe=""), quote_plus(value))
        for form in (value, repr(value)[1:-1], *encoded):
            text = text.replace(form, "…")
    return re.sub(r"\w+", lambda found: "…" if found[0] in words else found[0], text) if words else text


def log_leaving(connection: Connection, received: int, code: int | None, reason: str) -> None:
    """The one line about a connection at its end: who, for how long, how many, why."""
    client, position = connection.client, connection.position
    # An application, or what it was told, may have written it.
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
    """What the application's code raised while it had to do with this client."""
    log_fault(error, client.params, message, client.id, event=event, id=client.id, remote=client.remote)


def log_unread(client: Client, error: StoreError) -> None:
    """The log couldn't be read for this client."""
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
