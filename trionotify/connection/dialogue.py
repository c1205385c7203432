"""The dialogue with a client that speaks CloudEvents: its events, and the server's answers.

A client's events go to the session, except `trionotify.subscribe` and `trionotify.position`, which the
server handles. A message that isn't an event is answered with `trionotify.error` and dropped, and the
connection stays open. After `MAX_BAD` of those in a row the connection is closed with 1008, so a client
that understands nothing doesn't go on for ever.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import trio

from trionotify.delivery.entry import Entry, Pending
from trionotify.delivery.turns import Turn
from trionotify.errors import CloseCode, Refused, StoreError, problem_document
from trionotify.model.cloudevents import (
    AUTHENTICATE,
    POSITION,
    SUBSCRIBE,
    Draft,
    NotAnEvent,
    audience_of,
    read_event,
)
from trionotify.model.cursor import Cursor
from trionotify.model.filters import from_json
from trionotify.model.jsontext import LONG, read_json
from trionotify.model.notification import RESERVED_TYPE, Notification
from trionotify.model.query import given_attributes
from trionotify.model.replies import acknowledged

if TYPE_CHECKING:
    from trionotify.connection.base import Connection
    from trionotify.model.replies import Message

__all__ = ["MAX_BAD", "publish", "understand"]

#: The most messages in a row that may not be events.
MAX_BAD: Final = 20
#: Seconds between two looks at whether a client that is held back has left.
_LOOK: Final = 1.0
#: The most characters of an `id` that an answer repeats.
_MAX_ID: Final = 4096
#: The bytes around the filters in the data of a subscribe, which don't count as the filters'.
_AROUND: Final = len('{"filters":}')


async def understand(peer: Connection, unread: deque[str | bytes], found: list[Message]) -> None:
    """Move the messages that are for the session to `found`. The others are answered or acted upon.

    It takes messages in order, and each is in one of the two, so a cancellation loses none. The end of
    the connection clears both. Messages that were found don't wait for a slow one behind them. A
    checkpoint if it takes more than a turn, and for a slow message.
    """
    otherwise = given_attributes(peer.client.params)
    read_audience = partial(audience_of, limits=peer.hub.filter_limits)
    turn = Turn(peer.pass_on)
    while unread:
        if turn.over:
            await turn.pass_on()
            if not unread:
                break
        try:
            draft = None if len(unread[0]) > LONG else _read(unread[0])
            if draft is not None and not draft.slow:
                event = _act(peer, draft, read_audience, otherwise)
            elif found:
                break
            else:
                async with peer.hub.slow_lane.one_of(peer.site):
                    draft = draft or _read(unread[0]) if unread else None
                    event = _act(peer, draft, read_audience, otherwise) if draft else None
            if event is not None and event.type == AUTHENTICATE:
                await _authenticate(peer, event)
                event = None
        except NotAnEvent as error:
            _refuse(peer, error)
            event = None
        else:
            peer.bad = 0
        if unread:
            unread.popleft()
        if event is not None:
            found.append(event)
        elif peer.bad == MAX_BAD:
            peer.close(CloseCode.POLICY_VIOLATION, f"{MAX_BAD} messages in a row were not events")
            unread.clear()


def _read(message: str | bytes) -> Draft:
    if isinstance(message, bytes):
        raise NotAnEvent("an event must be JSON in a text message, not a binary message")
    return read_event(message)


def _act(
    peer: Connection, draft: Draft, read_audience: Callable[[object], Any], otherwise: Mapping[str, str]
) -> Notification | None:
    """Do what an event asks of the server, or return an event that is for the session."""
    event = draft.notification(read_audience, otherwise)
    if not event.type.startswith(RESERVED_TYPE) or event.type == AUTHENTICATE:
        return event
    if event.type == SUBSCRIBE:
        _subscribe(peer, event)
        return None
    if event.type == POSITION:
        # Code in a browser's page sees no Pings, so it asks this to find out that the server is there.
        peer.answer(peer.format.say("position", {"id": event.id}, peer.here()))
        return None
    raise NotAnEvent(
        f"type: types that start with {RESERVED_TYPE} are reserved, except {SUBSCRIBE},"
        f" {AUTHENTICATE} and {POSITION}",
        event.id,
    )


def _subscribe(peer: Connection, event: Notification) -> None:
    """Replace the client's filters. The answer goes out first; they apply behind the cursor in it.

    With `since`, the client first goes back to that cursor if it can be resumed. So filters that are
    too long for a URL also apply to what the client has missed.
    """
    try:
        limit = peer.hub.filter_limits.max_filter_bytes
        if isinstance(event.data, str) and len(event.data.encode()) > limit + _AROUND:
            raise ValueError(f"max_filter_bytes: filters may have at most {limit} bytes")
        read = read_json(event.data) if isinstance(event.data, str) else None
        data = read if isinstance(read, dict) else {}
        filters = data.get("filters")
        if not isinstance(filters, list):
            raise ValueError('data: must be {"filters": [...]}, a JSON array of filters')
        predicate = from_json(filters, peer.hub.filter_limits)
        cursor = _place(data)
    except ValueError as error:
        raise NotAnEvent(str(error), event.id) from None
    broadcast, position = peer.hub.broadcast, peer.client.position
    offset = None if cursor is None else broadcast.resume(cursor)
    if position is not None and offset is not None:
        broadcast.go_back(position, offset)
    peer.answer(peer.format.say("ack", {"id": event.id, "filters": filters}, peer.here()))
    peer.client.choose(predicate)
    if position is not None and offset is not None:
        position.outlet.wake()


def _place(data: dict[str, Any]) -> Cursor | None:
    try:
        return Cursor.parse(str(data["since"])) if "since" in data else None
    except ValueError as error:
        raise ValueError(f"since: {error}") from None


async def _authenticate(peer: Connection, event: Notification) -> None:
    """Replace the client's token from here on. A checkpoint if keys must be fetched."""
    try:
        data = read_json(event.data) if isinstance(event.data, str) else None
    except ValueError:  # what is wrong with it may be near a token
        data = None
    token = data.get("token") if isinstance(data, dict) else None
    if not isinstance(token, str):
        raise NotAnEvent('data: must be {"token": "..."}', event.id)
    try:
        await peer.hub.renew(peer.key, peer.client, token)
    except Refused as refused:
        peer.answer(_refusal(peer, refused, event.id))
        return
    left = max(0, int((peer.client.expires_at or 0.0) - time.time()))
    peer.answer(peer.format.say("ack", {"id": event.id, "expires_in": left}, peer.here()))


def _refusal(peer: Connection, refused: Refused, id: str) -> str | None:
    peer.hub.broadcast.counts.refuse(refused)
    after = dict(refused.headers).get("Retry-After")
    return _problem(peer, refused.status, refused.detail, id, after)


def _refuse(peer: Connection, error: NotAnEvent) -> None:
    peer.bad += 1
    peer.answer(_problem(peer, HTTPStatus.BAD_REQUEST, str(error), error.id))


def _problem(
    peer: Connection, status: int, detail: str, id: str | None, after: str | None = None
) -> str | None:
    """Return an RFC 9457 problem document about the event `id`."""
    problem = problem_document(status, detail)
    if id is not None and len(id) <= _MAX_ID:
        problem["id"] = id
    if after is not None:
        problem["retry_after_ms"] = 1000 * int(after)
    return peer.format.say("error", problem, peer.here())


async def publish(peer: Connection, messages: tuple[Message, ...]) -> None:
    """Publish a client's messages together, and answer its events.

    Text and bytes get the attributes of the client's `template`. Raises ValueError for a message that
    contradicts them, `Refused` for one that the client may not publish, and `StoreError` if the log
    refuses one, where these can't be answered. Cancelled while it waits, it may have published the
    messages without an answer. May be a checkpoint.
    """
    template = peer.template
    intake, key, durable = peer.hub.intake, peer.key, peer.hub.log.durable
    checked, answers = template.datacontenttype is not None, peer.format.name != "raw"
    entries: list[Entry] = []
    told: list[str | None] = []
    if peer.client.rights is not None or peer.hub.rates.of_publishing:
        messages = await _permitted(peer, messages, told)
    now = time.time()
    for message in messages:
        if not isinstance(message, Notification):
            if checked and len(message) > LONG:
                await _check_slowly(peer, message)
            else:
                template.check_data(message)
            pending = Pending(counted=False) if durable else None
            made = intake.entry(template, None, origin=key, pending=pending, data=message, made_at=now)
            entries.append(made)
            continue
        pending = Pending(counted=answers) if answers or durable else None
        try:
            entries.append(intake.entry(message, peer.client.id, origin=key, pending=pending))
        except (TypeError, StoreError) as refusal:
            if not answers:
                raise
            told.append(_unpublished(peer, message, refusal))
    receipts = await intake.publish(entries, peer.site, peer)
    if answers or durable:
        told += _answers(peer, entries, receipts)
    if told:
        peer.answer(*told)


def _answers(
    peer: Connection, entries: list[Entry], receipts: list[Pending | None]
) -> Iterator[str | None]:
    """Yield what the client is told of its entries. Raises the error of one that isn't answered."""
    for entry, pending in zip(entries, receipts, strict=True):
        if pending is None:
            continue
        if not pending.counted:
            if pending.error:
                raise pending.error
        elif pending.error:
            yield _unpublished(peer, entry.notification, pending.error)
        elif pending.cursor:
            # The cursor is only in `data`, because it is the event's, not the client's.
            data = acknowledged(entry.notification, pending.result().members())
            yield peer.format.say("ack", data, None)


async def _check_slowly(peer: Connection, message: str | bytes) -> None:
    """Check a long message that must be JSON. A checkpoint."""
    async with peer.hub.slow_lane.one_of(peer.site):
        peer.template.check_data(message)


async def _permitted(
    peer: Connection, messages: Iterable[Message], told: list[str | None]
) -> tuple[Message, ...]:
    """Return the messages that the client may publish now. It is `told` of the others.

    A client that can't be told is held back until it may publish. If it has no right at all, this raises
    `Refused`. A checkpoint then, and whenever it takes more than a turn.
    """
    client, rates = peer.client, peer.hub.rates
    found: list[Message] = []
    turn = Turn(peer.pass_on)
    for message in messages:
        if turn.over:
            await turn.pass_on()
        event = message if isinstance(message, Notification) else None
        answered = event is not None and peer.format.name != "raw"
        try:
            if client.rights is not None:
                client.rights.check_publish(event or peer.template)
            if answered:
                rates.check_publish(client)
        except Refused as refused:
            error = _refusal(peer, refused, event.id if event else "")
            if not answered:
                raise
            told.append(error)
        else:
            found.append(message)
    if peer.format.name == "raw":
        # The client isn't read meanwhile. If it leaves meanwhile, or is sent away, the earlier messages
        # are still published, unless it was revoked.
        while (seconds := rates.wait(client)) and peer.position.joined:  # noqa: ASYNC110 - nobody says when it leaves
            await trio.sleep(min(seconds, _LOOK))
        if not peer.revoked:
            rates.take(client, len(found))
    return tuple(found)


def _unpublished(peer: Connection, event: Notification, error: Exception) -> str | None:
    """Tell a publisher only its own part of an error. The rest is in the server's log."""
    id = event.id
    if isinstance(error, StoreError):
        return _problem(peer, error.status, error.told, id)
    return _problem(peer, HTTPStatus.BAD_REQUEST, str(error), id)
