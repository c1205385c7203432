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
log is durable). One that repeats what the log has from the same publisher gets the receipt of the first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import attrs
import trio

from trionotify.delivery.admission import RETRY_AFTER
from trionotify.delivery.audience import Audiences
from trionotify.delivery.entry import Entry, Pending, repetition_key
from trionotify.delivery.turns import Turn
from trionotify.errors import Refused, StoreError, cut, did_you_mean
from trionotify.http.access import admit
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
#: Media types that say nothing. The second is what curl says of everything, and browsers of forms.
_MEANINGLESS: Final = ("", "application/x-www-form-urlencoded")
_ANY_EVENT: Final = "application/cloudevents"
_FIELD: Final = "ce-"
_AUDIENCE: Final = "ce-audience"
_KIND: Final = "ce-datacontenttype"
#: In a string in quotes, a backslash takes what follows as it is (RFC 9110, section 5.6.4).
_ESCAPED: Final = re.compile(r"\\(.)")
_FIELDS: Final = ("id", "source", "type", "subject", "time")
#: In front of what publishers without an `id` are told apart by. No `id` begins with a line feed, so no
#: publisher can pass for one of another kind.
_BEARER: Final = "\nsecret"
_SIGNED: Final = "\nsig "

_TO_CHOOSE: Final = (
    '; to choose who gets it, write to=ID or audience=[{"exact":{"KEY":"VALUE"}}], a condition on the'
    " keys of clients' queries"
)
_NOT_ADDRESSED: Final = (
    "this was published to everyone: the member 'to' in the body is only data. To address it, put to=ID"
    " into the URL's query, or send a CloudEvent (Content-Type: application/cloudevents+json) with the"
    " attribute to"
)


async def post(hub: WebHub, request: Request, read_body: ReadBody) -> Answer:
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
        if "sig" in request.params:
            fix = "let the backend sign role=publisher or role=both"
        else:
            fix = "write role=publisher, or no role"
        raise Refused(403, f"role: a subscriber may not publish: {fix}")
    _check_body(request)
    named = "id" in request.params or not client.made_of_query
    publisher = client.id if named else _unnamed(hub, request)
    media = _media(request)
    _check_keys(hub, request, media)
    body = await read_body(_most_bytes(hub, media))
    try:
        found = await _understand(hub, request, media, body, client.id if named else None)
    except (TypeError, ValueError) as error:
        raise Refused(400, str(error)) from None
    warning = await _warning(hub, request, media, found)
    receipts = await _publish(hub, site_of(request.remote), found, publisher)
    answers = [attrs.asdict(receipt) for receipt in receipts]
    if warning:
        answers[0]["warning"] = warning
    return Answer.json(answers if media == _BATCH else answers[0])


def _check_keys(hub: WebHub, request: Request, media: str) -> None:
    """Return if all keys of the query mean something here; else raise `Refused` (400).

    What is meant to say who gets it would be published to all. The application's keys mean something to
    `authenticate`, and to a signature; and the browser client sends those of its client along with its
    events. `Query` has checked all keys as those of a connection.
    """
    if hub.authenticate is not None or (hub.secret is not None and "sig" in request.params):
        return
    for key in request.params:
        if is_filter(key):
            detail = f"{cut(key)}: filters are for clients that subscribe{_TO_CHOOSE}"
            raise Refused(400, detail, logged=key.partition(".")[0])
        if key in OURS or key in (hub.allow_params or ()):
            continue
        if "id" not in request.params or media not in (_STRUCTURED, _BATCH):
            hint = did_you_mean(key, sorted(OF_TEMPLATE | {"audience"}))
            raise Refused(400, f"{cut(key)}: no such key{hint}{_TO_CHOOSE}", logged="a key")


async def _warning(hub: WebHub, request: Request, media: str, found: list[Notification]) -> str | None:
    """What the publisher of a plain body should know: it may have meant to address what is for all.

    A checkpoint whenever finding that out takes more than a turn.
    """
    if media in (_STRUCTURED, _BATCH) or _is_binary(request) or not Audiences.is_for_all(found[0]):
        return None
    data = found[0].data
    if not isinstance(data, str) or '"to"' not in data:
        return None
    if len(data) <= LONG:
        return _NOT_ADDRESSED if _has_to(data) else None
    async with hub.slow_lane.one_of(site_of(request.remote)):
        return _NOT_ADDRESSED if _has_to(data) else None


def _has_to(data: str) -> bool:
    try:
        return "to" in read_members(data)
    except ValueError:
        return False


def _is_binary(request: Request) -> bool:
    """Whether attributes are in fields.

    Also where `ce-specversion` is missing: its other attributes were meant to be something.
    """
    return any(name.startswith(_FIELD) for name, _ in request.headers)


def _unnamed(hub: WebHub, request: Request) -> str | None:
    """The identity within which repetitions are recognized when a publisher has no `id`.

    The bearer of the secret is one publisher, each signature another. A stranger has none: an address
    is shared by all programs of a machine, all users of a Unix socket, and all clients of a proxy.
    """
    if hub.secret is None:
        return None
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


def _most_bytes(hub: WebHub, media: str) -> int:
    """How long the body may be."""
    most = hub.settings.max_body_bytes
    return most if media == _BATCH else min(most, hub.settings.max_message_bytes)


async def _understand(
    hub: WebHub, request: Request, media: str, body: bytes, id: str | None
) -> list[Notification]:
    """The notifications to publish. A checkpoint whenever it takes more than a turn."""
    field, otherwise = request.header("content-type"), given_attributes(request.params)
    kind = None if media in _MEANINGLESS else field
    if (audience := request.params.get("audience")) is not None:
        otherwise["audience"] = await _audience(hub, request, audience)
    if media == _BATCH:
        found = await _batch(hub, site_of(request.remote), body, otherwise)
    elif media == _STRUCTURED:
        audiences = AudienceReader(hub.filter_limits)
        found = [await _made(hub, site_of(request.remote), body, otherwise, audiences)]
    elif media.startswith(_ANY_EVENT):
        raise Refused(415, f"Content-Type: {media} isn't understood; {_STRUCTURED} and {_BATCH} are")
    elif _is_binary(request):
        if len(body) > LONG or len(request.header(_AUDIENCE) or "") > SLOW:
            async with hub.slow_lane.one_of(site_of(request.remote)):
                found = [_binary(hub, request, otherwise, kind, body)]
        else:
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
                501, "request: a reply needs a WebSocket, and a server with a session or a handler"
            )
    return found


async def _audience(hub: WebHub, request: Request, text: str) -> Any:
    """The audience in the query. A checkpoint whenever parsing it takes more than a turn."""
    if len(text) <= SLOW:
        return audience_of(text, hub.filter_limits)
    async with hub.slow_lane.one_of(site_of(request.remote)):
        return audience_of(text, hub.filter_limits)


async def _batch(
    hub: WebHub, site: str, body: bytes, otherwise: Mapping[str, Any]
) -> list[Notification]:
    """The events of a batch; raises `Refused` (413) at the first limit that is exceeded."""
    settings, turn = hub.settings, Turn(partial(hub.crowd.turn, site))
    audiences = AudienceReader(hub.filter_limits)
    found: list[Notification] = []
    size = 0
    # All are counted before the first one is read.
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
        raise Refused(413, f"a batch may have at most {settings.max_batch} events") from None
    except TooLong as error:
        raise Refused(
            413,
            f"the event number {error.number}: a message may have at most {settings.max_message_bytes}"
            " bytes",
        ) from None


def _binary(
    hub: WebHub, request: Request, otherwise: Mapping[str, Any], kind: str | None, body: bytes
) -> Notification:
    given: dict[str, Any] = {}
    for name, value in request.headers:
        if name.startswith(_FIELD):
            if name in given:
                raise ValueError(f"{name}: given twice; once is allowed")
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
        raise ValueError(f"specversion must be '1.0', not {version!r}")
    _check_there(given, "id", "source", "type")
    given.pop("cursor", None)
    audience = given.pop("audience", None)
    if isinstance(audience, str):  # the query's is parsed already
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
        value = _ESCAPED.sub(r"\1", value[1:-1])
    try:
        # What isn't ASCII should have been encoded; it came as UTF-8.
        return unquote(value.encode("latin-1").decode(), errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"{name}: not UTF-8") from None


def _plain(otherwise: Mapping[str, Any], kind: str | None, body: bytes, id: str | None) -> Notification:
    source = "/http" if id is None else source_of(id)
    given = {"source": source, **otherwise}
    if kind is not None:
        given.setdefault("datacontenttype", kind)
    return Notification.of(_data(given.get("datacontenttype"), body), **given)


def _data(kind: str | None, body: bytes) -> Data:
    """Text where the media type says so, or doesn't say anything and it is."""
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
        raise ValueError(f"the body isn't UTF-8, as {kind} should be: {error.reason}") from None
    return without_mark(text) if media.is_json else text


async def _publish(
    hub: WebHub, site: str, notifications: list[Notification], publisher: str | None
) -> list[Receipt]:
    """Put them into the channel together; return what became of each, when all is known.

    A checkpoint also before that, whenever it takes more than a turn to look at their audiences.
    """
    entries: list[Entry] = []
    waiting: list[Pending] = []
    turn = Turn(partial(hub.crowd.turn, site))
    try:
        hub.entrance.check_open()
        for notification in notifications:
            if turn.over:
                await turn.pass_on()
            pending = Pending()
            entry = Entry(notification, None, pending, repetition_key(notification, publisher))
            if refusal := hub.log.refusal(entry):
                raise refusal
            entries.append(entry)
            waiting.append(pending)
        await hub.broadcast.put(entries, site)
        for pending in waiting:
            if not pending.done.is_set():  # else it would be a checkpoint
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
