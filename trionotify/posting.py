"""`POST /events`: what a request publishes, and its receipts.

By the CloudEvents HTTP binding 1.0.2, in its three modes, and in one that knows nothing of CloudEvents:

| the request's `Content-Type` | what it is |
| --- | --- |
| `application/cloudevents+json` | one event in JSON (structured) |
| `application/cloudevents-batch+json` | a JSON array of events (batch): all of them, or none |
| any other, and a field `ce-…` is given | an event's data, its attributes in `ce-…` (binary) |
| any other | data; its attributes are in the query, as a raw publisher's |

A body is one message, and `max_message_bytes` holds for it as for a WebSocket's: for data, and for an
event in JSON. In a batch it holds for each event, and `max_body_bytes` for the whole. Attributes in
fields or in the query don't count: the head has a limit of its own.

An event is published once all is understood, and answered once it is broadcast (and committed, if the
log is durable). One that repeats what the log has gets the receipt of the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import attrs
import trio

from trionotify.addresses import host_of, site_of
from trionotify.admission import admit
from trionotify.cloudevents import (
    MAX_MEMBERS,
    AudienceReader,
    NotAnEvent,
    TooMuch,
    audience_of,
    read_event,
)
from trionotify.entrance import RETRY_AFTER
from trionotify.entries import Entry, Pending, Receipt, repetition_key
from trionotify.errors import Refused, StoreError
from trionotify.filters import SLOW
from trionotify.http import Answer
from trionotify.jsontext import LONG, TooMany, read_items
from trionotify.media import Media, read_media
from trionotify.notification import Data, Notification, check_publishable, is_json
from trionotify.query import defaults, said
from trionotify.text import without_mark
from trionotify.turns import Turn

if TYPE_CHECKING:
    from trionotify.http import ReadBody, Request
    from trionotify.hub import Hub

__all__ = ["post"]

_STRUCTURED: Final = "application/cloudevents+json"
_BATCH: Final = "application/cloudevents-batch+json"
#: What curl says of whatever it is given, and browsers of forms: nobody means it.
_FORM: Final = "application/x-www-form-urlencoded"
_ANY_EVENT: Final = "application/cloudevents"
_FIELD: Final = "ce-"
_AUDIENCE: Final = "ce-audience"
_FIELDS: Final = ("id", "source", "type", "subject", "time")
#: In front of what publishers without an `id` are told apart by. No `id` begins with a line feed, so no
#: publisher can pass for one of another kind.
_BEARER: Final = "\nsecret"
_SIGNED: Final = "\nsig "
_AT: Final = "\nat "


async def post(hub: Hub, request: Request, read_body: ReadBody) -> Answer:
    """Publish what a request brings, and answer with its receipt, or a list of them.

    Its body isn't read before it is clear who may: a stranger's would fill the memory. Raises `Refused`
    with the reason, EOFError when the peer leaves; then nothing was published. A checkpoint. Cancelled,
    all was published or nothing.
    """
    if hub.secret is not None and "sig" not in request.params:
        hub.secret.check_bearer(request, "publishing")
    client, _ = await admit(hub, request)
    # Who says nothing means a publisher; a signature that says nothing doesn't.
    meant = client.made_of_query and not {"role", "sig"} & request.params.keys()
    if client.role == "subscriber" and not meant:
        raise Refused(403, "role: a subscriber may not publish: say role=publisher, or nothing")
    _check_body(request)
    named = "id" in request.params or not client.made_of_query
    publisher = client.id if named else _unnamed(hub, request)
    media = _media(request)
    body = await read_body(_most_bytes(hub, media))
    try:
        found = await _understand(hub, request, media, body, client.id if named else None)
    except (TypeError, ValueError) as error:
        raise Refused(400, str(error)) from None
    receipts = await _publish(hub, found, publisher, site_of(request.remote))
    answers = [attrs.asdict(receipt) for receipt in receipts]
    return Answer.json(answers if media == _BATCH else answers[0])


def _unnamed(hub: Hub, request: Request) -> str:
    """The identity within which repetitions are recognized when a publisher has no `id`.

    The bearer of the secret is one publisher, each signature another; of all others, each address.
    """
    if hub.secret is None:
        return _AT + host_of(request.remote)
    if hub.secret.is_borne_by(request):
        return _BEARER
    # It may be stored in a file, and a signature is a credential.
    return _SIGNED + hashlib.sha256(request.params["sig"].encode()).hexdigest()


def _media(request: Request) -> str:
    """The body's media type; raises `Refused` (415) for events in another encoding than UTF-8."""
    media = read_media(request.header("content-type") or "")
    if media.essence in (_STRUCTURED, _BATCH):
        _check_charset(media)
    return media.essence


def _check_charset(media: Media) -> None:
    if not media.is_utf_8:
        raise Refused(415, f"Content-Type: text is taken in UTF-8, not in {media.charset}")


def _check_body(request: Request) -> None:
    """Return if there is one that can be published as it is; raises `Refused` (411, 415).

    A compressed one would be published as it came: nobody who gets it would know. And HTTP/1.0 knows no
    chunks: without a length what comes is lost.
    """
    if request.http_version == "1.0" and request.header("content-length") is None:
        raise Refused(411, "Content-Length: a request of HTTP/1.0 must say how long its body is")
    for name in request.tokens("content-encoding"):
        if name.lower() != "identity":
            raise Refused(
                415,
                f"Content-Encoding: {name} isn't taken: send the body as it is",
                headers=(("Accept-Encoding", "identity"),),
            )


def _most_bytes(hub: Hub, media: str) -> int:
    """How long the body may be."""
    most = hub.settings.max_body_bytes
    return most if media == _BATCH else min(most, hub.settings.max_message_bytes)


async def _understand(
    hub: Hub, request: Request, media: str, body: bytes, id: str | None
) -> list[Notification]:
    """The notifications to publish. A checkpoint whenever it takes more than a turn."""
    kind, otherwise = request.header("content-type"), said(request.params)
    if media == _BATCH:
        found = await _batch(hub, site_of(request.remote), body, otherwise)
    elif media == _STRUCTURED:
        audiences = AudienceReader(hub.filter_limits)
        found = [await _made(hub, site_of(request.remote), body, otherwise, audiences)]
    elif media.startswith(_ANY_EVENT):
        raise Refused(415, f"Content-Type: {media} isn't understood; {_STRUCTURED} and {_BATCH} are")
    elif any(name.startswith(_FIELD) for name, _ in request.headers):
        # Also where `ce-specversion` is missing: its other attributes were meant to be something.
        if len(body) > LONG or len(request.header(_AUDIENCE) or "") > SLOW:
            async with hub.slow_lane.one_of(site_of(request.remote)):
                found = [_binary(hub, request, otherwise, kind, body)]
        else:
            found = [_binary(hub, request, otherwise, kind, body)]
    elif len(body) > LONG:
        async with hub.slow_lane.one_of(site_of(request.remote)):
            found = [_plain(request, kind, body, id)]
    else:
        found = [_plain(request, kind, body, id)]
    for notification in found:
        check_publishable(notification)
    return found


async def _batch(hub: Hub, site: str, body: bytes, otherwise: Mapping[str, str]) -> list[Notification]:
    """The events of a batch; raises `Refused` (413) at the first limit that is exceeded."""
    settings, turn = hub.settings, Turn()
    audiences = AudienceReader(hub.filter_limits)
    found: list[Notification] = []
    size = 0
    for at, item in enumerate(await _items(hub, site, body), 1):
        if turn.over:
            await turn.pass_on()
        if len(text := bytes(item)) > settings.max_message_bytes:
            raise Refused(
                413,
                f"the event number {at}: a message may have at most {settings.max_message_bytes} bytes,"
                f" not {len(text)}",
            )
        try:
            made = await _made(hub, site, text, otherwise, audiences)
        except TooMuch as error:
            raise Refused(413, str(error)) from None
        except NotAnEvent as error:
            raise ValueError(f"the event number {at}: {error}") from None
        # The attributes in the query count for each event.
        size += made.size
        if size > settings.max_body_bytes:
            raise Refused(
                413,
                f"a batch may have at most {settings.max_body_bytes} bytes, with what the query gives to"
                " each",
            )
        found.append(made)
    return found


async def _made(
    hub: Hub, site: str, text: bytes, otherwise: Mapping[str, str], audiences: AudienceReader
) -> Notification:
    draft = None if len(text) > LONG else read_event(text)
    if draft is not None and (not draft.slow or audiences.knows(draft)):
        return draft.notification(hub.filter_limits, otherwise, audiences)
    async with hub.slow_lane.one_of(site):
        return (draft or read_event(text)).notification(hub.filter_limits, otherwise, audiences)


async def _items(hub: Hub, site: str, body: bytes) -> list[Any]:
    most = hub.settings.max_batch
    try:
        if len(body) <= LONG:
            return read_items(body, most)
        async with hub.slow_lane.one_of(site):
            return read_items(body, most)
    except TooMany:
        raise Refused(413, f"a batch may have at most {most} events") from None


def _binary(
    hub: Hub, request: Request, otherwise: Mapping[str, str], kind: str | None, body: bytes
) -> Notification:
    given: dict[str, Any] = {}
    for name, value in request.headers:
        if name.startswith(_FIELD):
            if name in given:
                raise ValueError(f"{name}: given twice; once is allowed")
            given[name] = _decoded(name, value)
    given = {**otherwise, **{name.removeprefix(_FIELD): value for name, value in given.items()}}
    kind = kind or given.get("datacontenttype")
    if len(given) > MAX_MEMBERS:
        raise ValueError(f"an event may have at most {MAX_MEMBERS} attributes, not {len(given)}")
    _check_there(given, "specversion")
    if (version := given.pop("specversion")) != "1.0":
        raise ValueError(f"specversion must be '1.0', not {version!r}")
    _check_there(given, "id", "source", "type")
    given.pop("cursor", None)
    audience = given.pop("audience", None)
    if audience is not None:
        audience = audience_of(audience, hub.filter_limits)
    fields: dict[str, Any] = {name: given.pop(name) for name in _FIELDS if name in given}
    if kind is not None:
        fields["datacontenttype"] = kind
    data = _data(kind, body) if body else None
    return Notification(data, audience=audience, extensions=given, **fields)


def _check_there(given: Mapping[str, object], *names: str) -> None:
    for name in names:
        if name not in given:
            raise ValueError(f"{name} is missing: an event needs the field {_FIELD}{name}")


def _decoded(name: str, value: str) -> str:
    """A field's value: percent-encoded UTF-8, maybe in quotes (section 3.1.3.2 of the binding)."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    try:
        # What isn't ASCII should have been encoded; it came as UTF-8.
        return unquote(value.encode("latin-1").decode(), errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"{name}: not UTF-8") from None


def _plain(request: Request, kind: str | None, body: bytes, id: str | None) -> Notification:
    given = defaults(request.params, id or "")
    if id is None:
        given["source"] = request.params.get("source", "/http")
    if kind is not None and read_media(kind).essence != _FORM:
        given.setdefault("datacontenttype", kind)
    return Notification.of(_data(given.get("datacontenttype"), body), **given)


def _data(kind: str | None, body: bytes) -> Data:
    """Text where the media type says so, or doesn't say anything and it is."""
    media = read_media(kind or "")
    essence = media.essence
    json = is_json(essence)
    if kind is not None and not (json or essence.startswith("text/") or essence.endswith("+xml")):
        return body
    _check_charset(media)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        if kind is None:
            return body
        raise ValueError(f"the body isn't UTF-8, as {kind} should be: {error.reason}") from None
    return without_mark(text) if json else text


async def _publish(
    hub: Hub, notifications: list[Notification], publisher: str, site: str
) -> list[Receipt]:
    """Put them into the channel together; return what became of each, when all is known."""
    entries = [
        Entry(notification, None, Pending(), repetition_key(notification, publisher))
        for notification in notifications
    ]
    waiting = [entry.pending for entry in entries if entry.pending]
    try:
        hub.entrance.check_open()
        for entry in entries:
            if refusal := hub.log.refusal(entry):
                raise refusal
        await hub.broadcast.put(entries, site)
        for pending in waiting:
            await pending.done.wait()
            if pending.error:
                raise pending.error
    except StoreError as error:
        headers = RETRY_AFTER if error.status == 503 else ()
        raise Refused(error.status, error.told, headers=headers) from None
    except trio.ClosedResourceError:
        raise Refused(503, "the server is going down", headers=RETRY_AFTER) from None
    receipts = [receipt for pending in waiting if (receipt := pending.receipt)]
    if len(receipts) < len(waiting):
        raise Refused(503, "the server went down before this was broadcast: publish it again")
    return receipts
