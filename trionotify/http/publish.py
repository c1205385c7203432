"""`POST /events`: publishing by an HTTP request, and its receipts.

It follows the CloudEvents HTTP binding 1.0.2 in its three modes, and adds one for plain data:

| the request's `Content-Type` | meaning |
| --- | --- |
| `application/cloudevents+json` | one event in JSON (structured) |
| `application/cloudevents-batch+json` | a JSON array of events (batch), published all or none |
| any other, with a `ce-…` header | an event's data, with its attributes in `ce-…` headers (binary) |
| any other | data, with its attributes in the query, like those of a raw publisher |

`max_message_bytes` limits a body, whether data or an event in JSON, as it limits a WebSocket message.
In a batch it limits each event, and `max_body_bytes` limits the whole. Attributes in headers or in the
query don't count, because the head has its own limit.

Events are published once the whole request is understood. They are answered after the broadcast, and
after the commit if the log is durable. If the log has an event of the same publisher already, the
repetition gets the receipt of the first one. All of it runs in the connection's task.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import trio

from trionotify.delivery.admission import RETRY_AFTER, unavailable
from trionotify.delivery.audience import Audiences
from trionotify.delivery.entry import Entry, Pending
from trionotify.delivery.turns import Turn
from trionotify.errors import Refused, StoreError, cut, did_you_mean
from trionotify.http.access import admit, check_publish
from trionotify.http.messages import Answer
from trionotify.model.addresses import site_of
from trionotify.model.cloudevents import (
    MAX_MEMBERS,
    AudienceReader,
    NotAnEvent,
    TooMuch,
    audience_of,
    read_event,
)
from trionotify.model.filters import SLOW
from trionotify.model.jsontext import LONG, TooLong, TooMany, cut_items, read_members
from trionotify.model.keys import OF_TEMPLATE, OURS, is_filter
from trionotify.model.media import Media, read_media
from trionotify.model.notification import Data, Notification, check_publishable
from trionotify.model.query import given_attributes, source_of
from trionotify.model.receipt import Receipt
from trionotify.model.replies import is_request
from trionotify.model.text import without_mark

if TYPE_CHECKING:
    from trionotify.http.messages import ReadBody, Request
    from trionotify.http.web_hub import WebHub

__all__ = ["post"]

_STRUCTURED: Final = "application/cloudevents+json"
_BATCH: Final = "application/cloudevents-batch+json"
#: Media types without information. The second is the default of curl and of forms in browsers.
_MEANINGLESS: Final = ("", "application/x-www-form-urlencoded")
_ANY_EVENT: Final = "application/cloudevents"
_FIELD: Final = "ce-"
_AUDIENCE: Final = "ce-audience"
_KIND: Final = "ce-datacontenttype"
#: A backslash in a quoted string escapes the next character (RFC 9110, section 5.6.4).
_ESCAPED: Final = re.compile(r"\\(.)")
_FIELDS: Final = ("id", "source", "type", "subject", "time")
#: Prefixes of the identities of publishers without an `id`. No `id` begins with a line feed, so no
#: publisher can pretend to be one of another kind.
_BEARER: Final = "\nsecret"
_SIGNED: Final = "\nsig "

_TO_CHOOSE: Final = (
    '; to choose who receives it, write to=ID or audience=[{"exact":{"KEY":"VALUE"}}], a'
    " condition on the keys of clients' queries"
)
_NOT_ADDRESSED: Final = (
    "published to everyone, because the member 'to' in the body is only data; to address it, put"
    " to=ID into the URL's query, or send a CloudEvent (Content-Type: application/cloudevents+json)"
    " with the attribute to"
)


async def post(hub: WebHub, request: Request, read_body: ReadBody) -> Answer:
    """Publish what a request contains, and answer with its receipt or a list of receipts.

    The body is read only after the publisher was admitted, because strangers could fill the memory.
    Raises `Refused`, or EOFError if the peer leaves; then nothing was published. A checkpoint.
    Cancelled, it has published all or nothing.
    """
    if hub.secret is not None and hub.tokens is None and "sig" not in request.params:
        hub.secret.check_bearer(request, "publishing")
    client, _ = await admit(hub, request)
    # A query without a role means a publisher. A signed query without a role doesn't.
    meant = not {"role", "sig"} & request.params.keys() and client.made_of_query
    if client.role == "subscriber" and not meant:
        if "sig" in request.params:
            fix = "let the backend sign role=publisher or role=both"
        else:
            fix = "write role=publisher, or no role"
        raise Refused(403, f"role: a subscriber may not publish; {fix}", logged="role")
    _check_body(request)
    publisher = client.id if client.named else _unnamed(hub, request)
    media = _media(request)
    _check_keys(hub, request, media, by_token=client.rights is not None)
    body = await read_body(_most_bytes(hub, media))
    try:
        found = await _understand(hub, request, media, body, client.id if client.named else None)
    except (TypeError, ValueError) as error:
        raise Refused(400, str(error), logged="the notification") from None
    warning = await _warning(hub, request, media, found)
    await check_publish(hub, client, found)
    receipts = await _publish(hub, site_of(request.remote), found, publisher)
    answers = [receipt.members() for receipt in receipts]
    if warning:
        answers[0]["warning"] = warning
    return Answer.json(answers if media == _BATCH else answers[0])


def _check_keys(hub: WebHub, request: Request, media: str, *, by_token: bool) -> None:
    """Raise `Refused` (400) for a key of the query that has no meaning here.

    It may be meant as a recipient, but the event would be published to all. The application's own keys
    have a meaning in a token or a signature, and any key to `authenticate`. The browser client sends its
    query along with events. `Query` has already checked all keys as those of a connection.
    """
    signed = hub.secret is not None and "sig" in request.params
    if not by_token and (signed or hub.authenticate is not None):
        return
    for key in request.params:
        if is_filter(key):
            detail = f"{cut(key)}: filters are for clients that subscribe{_TO_CHOOSE}"
            raise Refused(400, detail, logged=key.partition(".")[0])
        if by_token or key in OURS or key in (hub.allow_params or ()):
            continue
        if "id" not in request.params or media not in (_STRUCTURED, _BATCH):
            hint = did_you_mean(key, sorted(OF_TEMPLATE | {"audience"}))
            raise Refused(400, f"{cut(key)}: unknown key{hint}{_TO_CHOOSE}", logged="a key")


async def _warning(hub: WebHub, request: Request, media: str, found: list[Notification]) -> str | None:
    """The warning for a plain body that may be meant for one client. May be a checkpoint."""
    if media in (_STRUCTURED, _BATCH):
        return None
    data = found[0].data
    if not isinstance(data, str) or '"to"' not in data:
        return None
    if _is_binary(request) or not Audiences.is_for_all(found[0]):
        return None
    async with _lane(hub, request, len(data) > LONG):
        return _NOT_ADDRESSED if _has_to(data) else None


def _has_to(data: str) -> bool:
    try:
        return "to" in read_members(data)
    except ValueError:
        return False


def _is_binary(request: Request) -> bool:
    """Return whether any attributes are in headers.

    It is true even without `ce-specversion`, because the other headers were meant as attributes.
    """
    return any(name.startswith(_FIELD) for name, _ in request.headers)


def _unnamed(hub: WebHub, request: Request) -> str | None:
    """The identity within which repetitions are recognized for a publisher without an `id`.

    A publisher that presents the secret is one, and each signature is another. For others there is none,
    because many programs, users and clients may share an address.
    """
    if hub.secret is not None and hub.secret.is_borne_by(request):
        return _BEARER
    if hub.secret is None or (signature := request.params.get("sig")) is None:
        return None
    # Hashed, because it may be stored in a file, and a signature is a credential.
    return _SIGNED + hashlib.sha256(signature.encode()).hexdigest()


def _media(request: Request) -> str:
    """The body's media type. Raises `Refused` (415) for events in another encoding than UTF-8."""
    media = read_media(request.header("content-type") or "")
    if media.essence in (_STRUCTURED, _BATCH):
        _check_charset(media)
    return media.essence


def _check_charset(media: Media) -> None:
    if not media.is_utf_8:
        raise Refused(
            415, f"Content-Type: text must be UTF-8, not {media.charset}", logged="Content-Type"
        )


def _check_body(request: Request) -> None:
    """Raise `Refused` (411, 415) for a body that can't be published as it is.

    A compressed body would be published compressed, and its recipients couldn't know. HTTP/1.0 has no
    chunks, so without a length the end of a body is unknown.
    """
    if request.http_version == "1.0" and request.header("content-length") is None:
        raise Refused(411, "Content-Length: an HTTP/1.0 request must have one", logged="Content-Length")
    for name in request.tokens("content-encoding"):
        if name.lower() != "identity":
            raise Refused(
                415,
                f"Content-Encoding: {name} is not supported; send the body as it is",
                logged="Content-Encoding",
                headers=(("Accept-Encoding", "identity"),),
            )


def _most_bytes(hub: WebHub, media: str) -> int:
    """Return the maximum length of the body, in bytes."""
    most = hub.settings.max_body_bytes
    return most if media == _BATCH else min(most, hub.settings.max_message_bytes)


async def _understand(
    hub: WebHub, request: Request, media: str, body: bytes, id: str | None
) -> list[Notification]:
    """The notifications to publish. A checkpoint whenever it takes more than a turn."""
    field, otherwise = request.header("content-type"), given_attributes(request.params)
    kind = None if media in _MEANINGLESS else field
    if (audience := request.params.get("audience")) is not None:
        async with _lane(hub, request, len(audience) > SLOW):
            otherwise["audience"] = audience_of(audience, hub.filter_limits)
    if media == _BATCH:
        found = await _batch(hub, site_of(request.remote), body, otherwise)
    elif media == _STRUCTURED:
        audiences = AudienceReader(hub.filter_limits)
        found = [await _made(hub, site_of(request.remote), body, otherwise, audiences)]
    elif media.startswith(_ANY_EVENT):
        raise Refused(
            415,
            f"Content-Type: {media} is not supported; use {_STRUCTURED} or {_BATCH}",
            logged="Content-Type",
        )
    elif _is_binary(request):
        slow = len(body) > LONG or len(request.header(_AUDIENCE) or "") > SLOW
        async with _lane(hub, request, slow):
            found = [_binary(hub, request, otherwise, kind, body)]
    elif len(body) > LONG:
        async with hub.slow_lane.one_of(site_of(request.remote)):
            found = [_plain(otherwise, kind, body, id)]
    else:
        found = [_plain(otherwise, kind, body, id)]
    for notification in found:
        check_publishable(notification)
        if is_request(notification):
            raise Refused(
                501,
                "request: a reply needs a WebSocket, and a server with a session or a handler",
                logged="request",
            )
    return found


def _lane(hub: WebHub, request: Request, slow: bool) -> AbstractAsyncContextManager[None]:
    """The slow lane, for work that may take more than a turn; otherwise nothing."""
    return hub.slow_lane.one_of(site_of(request.remote)) if slow else nullcontext()


async def _batch(
    hub: WebHub, site: str, body: bytes, otherwise: Mapping[str, Any]
) -> list[Notification]:
    """The events of a batch. Raises `Refused` (413) at the first limit that is exceeded."""
    settings, turn = hub.settings, Turn(partial(hub.crowd.turn, site))
    audiences = AudienceReader(hub.filter_limits)
    found: list[Notification] = []
    size = 0
    # Count all events before parsing the first one.
    items: list[bytes] = []
    for some in _items(hub, body):
        items += some
        if turn.over:
            await turn.pass_on()
    for at, text in enumerate(items, 1):
        if turn.over:
            await turn.pass_on()
        try:
            made = await _made(hub, site, text, otherwise, audiences)
        except TooMuch as error:
            raise Refused(413, str(error), logged="audience") from None
        except NotAnEvent as error:
            raise ValueError(f"event {at}: {error}") from None
        # Each event takes memory for the attributes in the query, too.
        size += made.size
        if size > settings.max_body_bytes:
            raise Refused(
                413,
                f"a batch may have at most {settings.max_body_bytes} bytes, including the"
                " attributes that the query adds to each event",
                logged="max_body_bytes",
            )
        found.append(made)
    return found


async def _made(
    hub: WebHub, site: str, text: bytes, otherwise: Mapping[str, Any], audiences: AudienceReader
) -> Notification:
    draft = None if len(text) > LONG else read_event(text)
    if draft is not None and (not draft.slow or audiences.knows(draft)):
        return draft.notification(audiences.read, otherwise)
    async with hub.slow_lane.one_of(site):
        return (draft or read_event(text)).notification(audiences.read, otherwise)


def _items(hub: WebHub, body: bytes) -> Iterator[list[bytes]]:
    settings = hub.settings
    try:
        yield from cut_items(body, settings.max_batch, settings.max_message_bytes)
    except TooMany:
        raise Refused(
            413, f"a batch may have at most {settings.max_batch} events", logged="max_batch"
        ) from None
    except TooLong as error:
        raise Refused(
            413,
            f"event {error.number}: a message may have at most {settings.max_message_bytes} bytes",
            logged="max_message_bytes",
        ) from None


def _binary(
    hub: WebHub, request: Request, otherwise: Mapping[str, Any], kind: str | None, body: bytes
) -> Notification:
    given: dict[str, Any] = {}
    for name, value in request.headers:
        if name.startswith(_FIELD):
            if name in given:
                raise ValueError(f"{name}: given twice; give it once")
            if name == _KIND:
                raise ValueError(
                    f"{name}: leave it out, because the Content-Type is the datacontenttype"
                )
            given[name] = _decoded(name, value)
    given = {**otherwise, **{name.removeprefix(_FIELD): value for name, value in given.items()}}
    default = given.pop("datacontenttype", None)
    kind = kind or default
    if len(given) > MAX_MEMBERS:
        raise ValueError(f"an event may have at most {MAX_MEMBERS} attributes, not {len(given)}")
    _check_there(given, "specversion")
    if (version := given.pop("specversion")) != "1.0":
        raise ValueError(f"{_FIELD}specversion: must be '1.0', not {version!r}")
    _check_there(given, "id", "source", "type")
    given.pop("cursor", None)
    audience = given.pop("audience", None)
    if isinstance(audience, str):  # that of the query is parsed already
        audience = audience_of(audience, hub.filter_limits)
    fields: dict[str, Any] = {name: given.pop(name) for name in _FIELDS if name in given}
    if kind is not None:
        fields["datacontenttype"] = kind
    data = _data(kind, body) if body else None
    return Notification(data, audience=audience, extensions=given, **fields)


def _check_there(given: Mapping[str, object], *names: str) -> None:
    for name in names:
        if name not in given:
            raise ValueError(f"{_FIELD}{name}: missing; an event needs this header")


def _decoded(name: str, value: str) -> str:
    """A header's value: percent-encoded UTF-8, possibly quoted (section 3.1.3.2 of the binding)."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(r"\1", value[1:-1])
    try:
        # Other characters than ASCII should have been encoded, but UTF-8 is accepted.
        return unquote(value.encode("latin-1").decode(), errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"{name}: must be UTF-8") from None


def _plain(otherwise: Mapping[str, Any], kind: str | None, body: bytes, id: str | None) -> Notification:
    source = "/http" if id is None else source_of(id)
    given = {"source": source, **otherwise}
    if kind is not None:
        given["datacontenttype"] = kind
    return Notification.of(_data(given.get("datacontenttype"), body), **given)


def _data(kind: str | None, body: bytes) -> Data:
    """Text if the media type says so, or if there is none and the body is UTF-8; otherwise bytes."""
    media = read_media(kind or "")
    essence = media.essence
    if kind is not None and not (media.is_json or media.is_xml or essence.startswith("text/")):
        return body
    _check_charset(media)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        if kind is None:
            return body
        raise ValueError(
            f"body: must be UTF-8, because the Content-Type is {kind}: {error.reason}"
        ) from None
    return without_mark(text) if media.is_json else text


async def _publish(
    hub: WebHub, site: str, notifications: list[Notification], publisher: str | None
) -> list[Receipt]:
    """Put the notifications into the channel together; return their receipts once all are known.

    A checkpoint, also before the channel if making the entries takes more than a turn.
    """
    turn = Turn(partial(hub.crowd.turn, site))
    entries: list[Entry] = []
    try:
        hub.entrance.check_open()
        for notification in notifications:
            if turn.over:
                await turn.pass_on()
            entries.append(hub.intake.entry(notification, publisher, pending=Pending()))
        return [pending.result() for pending in await hub.intake.publish(entries, site) if pending]
    except StoreError as error:
        headers = RETRY_AFTER if error.status == 503 else ()
        raise Refused(error.status, error.told, headers=headers, logged="the log") from None
    except trio.ClosedResourceError:
        raise unavailable("the server is shutting down", logged="shutting down") from None
