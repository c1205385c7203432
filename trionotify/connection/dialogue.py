"""What a client says in the CloudEvents format, and what it is answered.

Its events go to the session. `trionotify.subscribe` and `trionotify.position` are for the server
itself; what is no event gets `trionotify.error`, and costs the client that message, not its connection.
So that a client which understands nothing doesn't go on for ever, `MAX_BAD` of those in a row end it,
with 1008.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

from trionotify.delivery.entry import Entry, Pending, repetition_key
from trionotify.delivery.turns import Turn
from trionotify.errors import CloseCode, StoreError, problem_document
from trionotify.model.cloudevents import POSITION, SUBSCRIBE, Draft, NotAnEvent, audience_of, read_event
from trionotify.model.cursor import Cursor
from trionotify.model.filters import from_json
from trionotify.model.jsontext import LONG, read_json
from trionotify.model.notification import RESERVED_TYPE, Notification
from trionotify.model.query import given_attributes
from trionotify.model.receipt import Receipt
from trionotify.settings import FilterLimits

if TYPE_CHECKING:
    from trionotify.connection.formats import Format
    from trionotify.delivery.clients import Client
    from trionotify.delivery.hub import Hub
    from trionotify.model.replies import Message

__all__ = ["MAX_BAD", "Peer", "drain", "publish", "understand", "welcome"]

#: Messages in a row that may be no events.
MAX_BAD: Final = 20
#: Characters of an `id` that is repeated in an answer, whatever it is the `id` of.
_MAX_ID: Final = 4096
#: Bytes around the filters in the data of a subscribe, which are none of the filters'.
_AROUND: Final = len('{"filters":}')

#: Milliseconds until there is somebody again whom clients of a server that goes down can come back to.
#: By then its half-open connections are gone, too: a browser that came back over one of them would get
#: a 503, which an EventSource takes for the end.
_SOONEST: Final = 1_500
#: Not all should come in the same moment, but over as many milliseconds as there are clients: a server
#: takes a thousand a second. At least over, and at most:
_SPREAD: Final = (1_000, 60_000)


class Peer(Protocol):
    """A connection, as far as it takes part in this."""

    client: Client
    format: Format
    #: The key of the connection.
    key: int
    #: Messages in a row that were no events.
    bad: int

    @property
    def hub(self) -> Hub:
        """The hub that it belongs to."""

    @property
    def filter_limits(self) -> FilterLimits:
        """How large its filters may be."""

    @property
    def site(self) -> str:
        """Where its client comes from."""

    async def pass_on(self) -> None:
        """Let the others go on. A checkpoint."""

    def here(self) -> str:
        """The cursor where it stands: what was sent to it came before, what will be comes behind."""

    def answer(self, *messages: str | None) -> None:
        """Send it these, in their turn; None stands for what can't be said."""

    def end(self, code: int | None, reason: str = "") -> None:
        """Say the last word."""


def welcome(peer: Peer, offset: int, recovered: bool | None) -> str | None:
    """The first that a client hears, when its stream starts behind `offset`."""
    hub = peer.hub
    client = peer.client
    data: dict[str, object] = {"epoch": hub.log.epoch, "head": hub.log.head}
    data |= {"id": client.id, "role": client.role}
    if recovered is not None:
        data["recovered"] = recovered
    return peer.format.say("welcome", data, hub.broadcast.cursor(offset))


async def understand(peer: Peer, unread: deque[str | bytes]) -> list[Message]:
    """What of these messages is for the session. The rest is answered, or acted upon.

    They are taken off in order, as many as can be understood in one turn. Each one leaves `unread` when
    it has been dealt with, so none is lost when this is cancelled. They are cleared when the connection
    ends. A checkpoint when it takes more than a turn, when one is long, or filters must be parsed.
    """
    found: list[Message] = []
    otherwise = given_attributes(peer.client.params)
    read_audience = partial(audience_of, limits=peer.filter_limits)
    turn = Turn(peer.pass_on)
    while unread:
        if turn.over:
            if found:
                break
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
            peer.end(CloseCode.POLICY_VIOLATION, f"{MAX_BAD} messages in a row were no events")
            unread.clear()
    return found


def _read(message: str | bytes) -> Draft:
    if isinstance(message, bytes):
        raise NotAnEvent("events are JSON in text messages, and this one is binary")
    return read_event(message)


def _act(
    peer: Peer, draft: Draft, read_audience: Callable[[object], Any], otherwise: Mapping[str, str]
) -> Notification | None:
    """Do what an event asks of the server; return one that is for the session."""
    event = draft.notification(read_audience, otherwise)
    if not event.type.startswith(RESERVED_TYPE):
        return event
    if event.type == SUBSCRIBE:
        _subscribe(peer, event)
        return None
    if event.type == POSITION:
        # A browser's page sees no Ping: so it finds out whether anybody is there.
        peer.answer(peer.format.say("position", {"id": event.id}, peer.here()))
        return None
    raise NotAnEvent(
        f"type: what begins with {RESERVED_TYPE} is the server's own, but for {SUBSCRIBE} and"
        f" {POSITION}",
        event.id,
    )


def _subscribe(peer: Peer, event: Notification) -> None:
    """Replace the client's filters. The answer goes first: they hold behind the cursor that it names.

    With `since`, the client first goes back to that cursor, if it can be resumed. So filters that are
    too long for a URL apply to what the client has missed, too.
    """
    try:
        limit = peer.filter_limits.max_filter_bytes
        if isinstance(event.data, str) and len(event.data.encode()) > limit + _AROUND:
            raise ValueError(f"max_filter_bytes: at most {limit} bytes are allowed")
        read = read_json(event.data) if isinstance(event.data, str) else None
        data = read if isinstance(read, dict) else {}
        filters = data.get("filters")
        if not isinstance(filters, list):
            raise ValueError('data: {"filters": [...]} is needed, a JSON array of filters')
        predicate = from_json(filters, peer.filter_limits)
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


def _refuse(peer: Peer, error: NotAnEvent) -> None:
    peer.bad += 1
    peer.answer(_problem(peer, HTTPStatus.BAD_REQUEST, str(error), error.id))


def _problem(peer: Peer, status: int, detail: str, id: str | None) -> str | None:
    """What is wrong with the event `id`, as an RFC 9457 problem document."""
    problem = problem_document(status, detail)
    if id is not None and len(id) <= _MAX_ID:
        problem["id"] = id
    return peer.format.say("error", problem, peer.here())


async def publish(peer: Peer, template: Notification, messages: tuple[Message, ...]) -> None:
    """Put a client's messages into the channel together, and tell it what became of its events.

    Text and bytes get the attributes of `template`; raises ValueError when one isn't what they say, and
    `StoreError` when the log doesn't take what can't be answered to.
    """
    log, another, key = peer.hub.log, template.another, peer.key
    checked = template.datacontenttype is not None
    durable, answers = log.durable, peer.format.name != "raw"
    entries: list[Entry] = []
    waiting: list[tuple[Entry, Pending, bool]] = []
    told: list[str | None] = []
    for message in messages:
        if isinstance(message, Notification):
            entry = Entry(message, key, None, repetition_key(message, peer.client.id))
            answered = answers
        else:
            slow = checked and len(message) > LONG
            entry = Entry(await _another(peer, template, message) if slow else another(message), key)
            answered = False
        if durable and (refusal := log.refusal(entry)):
            if not answered:
                raise refusal
            told.append(_unpublished(peer, entry, refusal))
            continue
        entries.append(entry)
        if answered or durable:
            entry.pending = Pending(counted=answered)
            waiting.append((entry, entry.pending, answered))
    await peer.hub.broadcast.put(entries, peer.site)
    for entry, pending, answered in waiting:
        if not pending.done.is_set():  # else it would be a checkpoint
            await pending.done.wait()
        if pending.error and not answered:
            raise pending.error
        if pending.error:
            told.append(_unpublished(peer, entry, pending.error))
        elif answered and (receipt := pending.receipt):
            told.append(_acknowledgement(peer, entry, receipt))
    if told:
        peer.answer(*told)


async def _another(peer: Peer, template: Notification, message: str | bytes) -> Notification:
    """A long message that is to be checked, with the attributes of `template`. A checkpoint."""
    async with peer.hub.slow_lane.one_of(peer.site):
        return template.another(message)


def _unpublished(peer: Peer, entry: Entry, error: Exception) -> str | None:
    """The publisher is a stranger: it is told what concerns it, and the server's log has the rest."""
    id = entry.notification.id
    if isinstance(error, StoreError):
        return _problem(peer, error.status, error.told, id)
    return _problem(peer, HTTPStatus.BAD_REQUEST, str(error), id)


def _acknowledgement(peer: Peer, entry: Entry, receipt: Receipt) -> str | None:
    """Its cursor is in `data` alone: it is the event's, not the client's."""
    notification = entry.notification
    data = {
        "source": notification.source,
        "id": notification.id,
        "cursor": receipt.cursor,
        "wanted": receipt.wanted,
        "written": receipt.written,
        "behind": receipt.behind,
    }
    return peer.format.say("ack", data, None)


def drain(peer: Peer, clients: int) -> None:
    """Tell it that the server goes down, and when to come back: one of so many `clients`."""
    least, most = _SPREAD
    retry_after = _SOONEST + secrets.randbelow(min(max(clients, least), most))
    peer.answer(peer.format.say("drain", {"retry_after_ms": retry_after}, peer.here()))
