"""Refusals of notifications by a durable log, in a file or on Redis.

There are three kinds. An entry that can never be stored is refused before it is in the channel
(`unstorable`). While the log has a `Problem`, every entry is refused, and the server's log says that
once. If a group fails on its way into the log, its publishers are told (`refuse`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trionotify.errors import StoreError
from trionotify.model.predicates import is_value
from trionotify.storage.rows import audience_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trionotify.delivery.entry import Entry

__all__ = ["Problem", "only_here", "refuse", "unfit", "unstorable"]

logger: logging.Logger = logging.getLogger("trionotify")


def only_here(entry: Entry) -> TypeError | None:
    """Return a TypeError if an entry is only valid in this process, so that it can't be stored."""
    audience = entry.notification.audience
    if audience is None or is_value(audience):
        return None
    return TypeError(
        "audience: a durable log can't store a callable; use a predicate such as Exact(team='ops')"
    )


def unstorable(entry: Entry, max_bytes: int, place: object) -> StoreError | None:
    """Return the error if an entry can never be stored at this place, or None. Doesn't block."""
    if entry.size > max_bytes:
        why = (
            f"a notification of {entry.size} bytes is larger than the whole log may be"
            f" ({max_bytes} bytes); raise max_log_bytes, or publish smaller ones"
        )
        return StoreError(507, f"{place}: {why}", why)
    if entry.notification.audience is not None:
        try:
            audience_text(entry.notification.audience)
        except (TypeError, ValueError) as error:
            return unfit(place, error)
    return None


def unfit(place: object, error: Exception) -> StoreError:
    """Return the error for a notification that can't be stored."""
    return StoreError(422, f"{place}: {error}", str(error))


class Problem:
    """The reason why a log refuses everything, if it does. Created by the log. Logs each change."""

    def __init__(self) -> None:
        #: In words; None while notifications are accepted.
        self.text: str | None = None

    def note(self, error: StoreError) -> None:
        """Refuse publishing from now on. Only the first reason is logged."""
        if self.text is None:
            said = {"event": "publishing_refused", "reason": str(error)}
            logger.error("publishing is refused: %s", error, extra=said)
        self.text = str(error)

    def solved(self) -> None:
        """Accept publishing again."""
        if self.text is not None:
            logger.warning("the log accepts notifications again", extra={"event": "publishing_possible"})
        self.text = None


def refuse(entries: Iterable[Entry], error: StoreError | None) -> None:
    """Tell the waiting publishers that it failed; with None, that the outcome is unknown."""
    unheard = 0
    for entry in entries:
        if entry.pending:
            entry.pending.refuse(error)
            entry.pending = None
        else:
            unheard += 1
    if unheard and error:
        said = {"event": "unpublished", "count": unheard, "reason": str(error)}
        logger.error(
            "%d notifications were not published, and no publisher waits for them: %s",
            unheard,
            error,
            extra=said,
        )
