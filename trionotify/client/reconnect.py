"""The reconnect loop of a client: connect, converse, and connect again.

A client plays one or both of two parts, `Subscriber` and `Publisher`, each with a connection and a task
of its own (`stay_connected`). A part's messages wait in its outbox, and the server's go to `heard`. A
part learns of a new connection only through `welcomed`.

    stay_connected               for as long as the client lives
    └── _attempt                 one connection, or none
        └── _converse            a nursery
            ├── keep_alive
            ├── _write_all       what the outbox holds
            ├── _renew           gives the server a fresh token in time, if a function gives tokens
            └── (this task)      reads

An attempt raises nothing but `Cancelled` and errors of this package itself. It returns an `Ending`,
which says whether to reconnect. It does where the cause lies with the network or the server and passes
by itself. It also does where this side can repair the cause (`repair`). An expired ticket is replaced by
a new one, filters that are too long for a URL are sent in an event, and a message that is too big is
given up, but no other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs
import trio
import trio_websocket

from trionotify.client.backoff import Backoff, capped, retry_after
from trionotify.client.endpoint import Unopened, Unreachable
from trionotify.client.link import Event, Link, Unread, open_link
from trionotify.errors import CloseCode, Closed, Refused, TrionotifyError, leaves, quoted
from trionotify.model.cloudevents import AUTHENTICATE, encode
from trionotify.model.jsontext import read_json, write_json
from trionotify.model.notification import Notification

if TYPE_CHECKING:
    from trionotify.client.in_flight import Outbox
    from trionotify.client.target import Target

__all__ = ["Part", "is_too_big", "refusal", "stay_connected"]

logger: logging.Logger = logging.getLogger("trionotify")

#: After a connection that has lasted for this many seconds, the next failure counts as the first.
_LASTING: Final = 10.0
#: Statuses that pass by themselves, besides 5xx.
_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
#: Close codes from here on are registered by, or private to, applications.
_APPLICATIONS: Final = 3000
_ABNORMAL: Final = 1006
#: A token is renewed after this part of its remaining lifetime, and not before so many seconds.
_RENEWED: Final = 0.8
_SOONEST: Final = 1.0
#: The most seconds until then. The server's number may be too large for a float.
_LATEST: Final = 1e9


class Part(Protocol):
    """A part of a client: its subscriber or its publisher."""

    role: str
    #: Errors before the first connection are raised where the client is opened.
    eager: bool
    outbox: Outbox[Any]

    async def needed(self) -> None:
        """Wait until a connection is needed."""

    def query(self, given: object) -> Mapping[str, str]:
        """Return the query of the next connection, including the result of the function `params`.

        Raises TypeError, ValueError or `Refused` if no query is possible.
        """

    def welcomed(self, event: Event) -> None:
        """Take the first event of a connection. Raises `Refused` if this part can't use it."""

    async def room(self) -> None:
        """Wait until there is room for the next message."""

    def heard(self, event: Event) -> None:
        """Take an event. Raises `Refused` if the client can't continue."""

    def missed(self, message: Unread) -> None:
        """Take an unreadable message."""

    def repair(self, error: Exception) -> bool:
        """Try to repair the cause of a lost connection; return whether reconnecting may help."""

    def give_up(self, error: Exception) -> None:
        """Raise this error in all tasks that wait. A later call may need a connection again."""


@attrs.frozen
class Ending:
    """The end of a connection: its error, whether to reconnect, and after how many seconds."""

    error: Exception
    again: bool
    after: float = 0.0
    #: The server refused the client before its welcome. Another server may accept it.
    refused: bool = False


async def stay_connected(
    part: Part,
    target: Target,
    *,
    keep_trying: bool,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep `part` connected until this is cancelled; then say goodbye.

    The first connection of an eager part is reported to `task_status`. Errors before it are raised, as
    OSError, `Refused`, `Closed` or the exception of an application's function, once all servers were
    tried.
    With `keep_trying` only errors that don't pass by themselves are raised. Whenever a connection can't
    be made, or ends by itself, the next server is tried. A server that refuses the client may have
    another version or other settings than the next one, so the client ends only if all refuse it, one
    right after the other.
    """
    backoff = Backoff()
    untried = len(target.others)
    refusals = 0  # of different servers, one right after the other
    waited_for = part.eager
    asked_again = False  # for a ticket, since the last welcome

    def opened() -> None:
        nonlocal waited_for, asked_again
        logger.info("connected to %s as %s", target, part.role)
        asked_again = False
        if waited_for:
            waited_for = False
            task_status.started()

    def repair(error: Exception) -> bool:
        nonlocal asked_again
        if target.asks and not asked_again and _is_unauthorized(error):
            asked_again = True
            return True
        return part.repair(error)

    while True:
        await part.needed()
        ending = await _attempt(part, target, opened, backoff)
        repaired = not ending.again and repair(ending.error)
        refusals = refusals + 1 if ending.refused and not repaired else 0
        moves = ending.again or 0 < refusals <= len(target.others)
        if waited_for and not repaired and not (moves and (keep_trying or untried > 0)):
            raise ending.error
        if moves or repaired:
            delay = ending.after + backoff.next()
            logger.info(
                "%s as %s: %s; trying again in %.1f s",
                target,
                part.role,
                _in_short(ending.error),
                delay,
            )
            await trio.sleep(delay)
            if moves:
                target = target.next
                untried -= 1
        else:
            logger.info("%s as %s: %s", target, part.role, _in_short(ending.error))
            refusals = 0
            part.give_up(ending.error)


async def _attempt(part: Part, target: Target, opened: Callable[[], None], backoff: Backoff) -> Ending:
    """Connect once, converse until the connection ends, and return how it ended."""
    endings: list[Ending] = []
    met, asked = False, "params"
    try:
        given = await target.given()
        asked = "token"
        token = await target.bearer()
    except Exception as error:  # the application's own function may raise anything
        return _of_function(asked, error)
    try:
        query = part.query(given)
    except (Refused, TypeError, ValueError) as unusable:
        return Ending(unusable, again=False)
    try:
        async with open_link(target, query, token) as link:
            met = True
            part.outbox.rewind()
            part.welcomed(link.welcome)
            opened()
            endings.append(await _converse(part, link, target, backoff))
    except* Unopened as group:
        endings.append(_of_function("open_stream", leaves(group)[0].error))
    except* trio_websocket.ConnectionRejected as group:
        endings.append(_of_answer(leaves(group)[0]))
    except* trio_websocket.ConnectionClosed as group:
        endings.append(_of_close(leaves(group)[0].reason))
    except* (Closed, Refused) as group:
        endings.append(Ending(leaves(group)[0], again=False))
    except* OSError as group:
        endings.append(Ending(leaves(group)[0], again=True))
    except* Exception as group:
        # trio-websocket's parser may raise anything about a peer that speaks no HTTP. Later it would be
        # a fault of ours.
        if met:
            raise
        why = f"{target} is not a WebSocket server: {_root(leaves(group)[0])}"
        stranger = Closed(CloseCode.PROTOCOL_ERROR, why)
        endings.append(Ending(stranger, again=False))
    ending = endings[0]
    return attrs.evolve(ending, refused=not met and not ending.again)


async def _converse(part: Part, link: Link, target: Target, backoff: Backoff) -> Ending:
    """Send and receive until the connection ends."""
    since = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.keep_alive, name="trionotify.connect: keepalive")
        nursery.start_soon(_write_all, part.outbox, link, name="trionotify.connect: publishing")
        if callable(target.token):
            renew = partial(_renew, part, target, link.welcome.data.get("expires_in"))
            nursery.start_soon(renew, name="trionotify.connect: renewal")
        ending = await _read_all(part, link, backoff)
        nursery.cancel_scope.cancel()
    if trio.current_time() - since >= _LASTING:
        backoff.reset()
    return ending


async def _read_all(part: Part, link: Link, backoff: Backoff) -> Ending:
    after = 0.0
    try:
        while True:
            await part.room()
            event = await link.receive()
            if isinstance(event, Unread):
                _log_unread(part, event)
                part.missed(event)
                continue
            if event.kind == "drain":
                after = capped(event.data.get("retry_after_ms"), per_second=1000)
            else:
                backoff.reset()
            part.heard(event)
    except trio_websocket.ConnectionClosed as closed:
        return _of_close(closed.reason, after)
    except TimeoutError as error:
        return Ending(error, True, after)


def _log_unread(part: Part, message: Unread) -> None:
    why = message.why if message.why.isprintable() else ascii(message.why)
    logger.warning(
        "%s: skipped a message that can't be read: %.200s",
        part.role,
        why,
        extra={"event": "unreadable", "role": part.role, "cursor": message.cursor, "reason": why},
    )


async def _write_all(outbox: Outbox[Any], link: Link) -> None:
    # When the connection ends, the reader sees it, too.
    with suppress(trio_websocket.ConnectionClosed):
        while True:
            await link.send(await outbox.take())


async def _renew(part: Part, target: Target, left: object) -> None:
    """Send a new token before the current one expires in `left` seconds. Raises nothing.

    If this fails, the server ends the connection in time, and the next one begins with a new token.
    """
    while isinstance(left, int) and not isinstance(left, bool):
        await trio.sleep(max(min(max(left, 0), _LATEST) * _RENEWED, _SOONEST))
        try:
            token = await target.bearer()
            event = Notification(
                write_json({"token": token}).decode(),
                type=AUTHENTICATE,
                source="/client",
                datacontenttype="application/json",
            )
            answer = await part.outbox.ask(event.id, encode(event, None).decode())
        except Exception as error:  # the application's own function may raise anything
            logger.warning("token: not renewed: %s", quoted(error))
            return
        left = answer.get("expires_in")


def _of_function(name: str, error: Exception) -> Ending:
    """Return the ending for an exception of the application's own function `name`."""
    logger.warning("%s: the function raised %s", name, quoted(error))
    return Ending(error, again=not isinstance(error, TrionotifyError))


def _of_close(reason: trio_websocket.CloseReason | None, after: float = 0.0) -> Ending:
    code = reason.code if reason else _ABNORMAL
    if reason is None or code == _ABNORMAL:
        return Ending(ConnectionError("the connection was lost"), True, after)
    try:
        again = CloseCode(code).reconnect
    except ValueError:
        # Of the protocol's other codes, all that a server can mean passes. The meaning of an
        # application's own code is not known here, so the caller decides.
        again = code < _APPLICATIONS
    return Ending(Closed(code, reason.reason or ""), again, after)


def _of_answer(rejected: trio_websocket.ConnectionRejected) -> Ending:
    """Return the ending for an HTTP response other than 101."""
    status = rejected.status_code
    if not 300 <= status <= 599:
        why = f"the server answered a WebSocket handshake with {status}"
        return Ending(Closed(CloseCode.PROTOCOL_ERROR, why), again=False)
    headers = dict(rejected.headers)
    detail = _detail(status, rejected.body or b"")
    if status < 400 and (place := headers.get(b"location", b"").decode("latin-1")):
        detail += f" and redirects to {quoted(place)}; give the URL of the server itself"
    again = status >= 500 or status in _PASSING
    return Ending(refusal(status, detail), again, retry_after(headers))


def _is_unauthorized(error: Exception) -> bool:
    if isinstance(error, Refused):
        return error.status == HTTPStatus.UNAUTHORIZED
    return isinstance(error, Closed) and error.code == CloseCode.UNAUTHORIZED


def is_too_big(error: Exception) -> bool:
    """Return whether the server closed because this client's message was too big."""
    return isinstance(error, Closed) and error.code == CloseCode.MESSAGE_TOO_BIG


def refusal(status: object, detail: object) -> Refused:
    """Return the exception for a problem document's `status` and `detail`."""
    return Refused(status if isinstance(status, int) and 300 <= status <= 599 else 400, str(detail))


def _detail(status: int, body: bytes) -> str:
    try:
        return str(read_json(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}"


def _in_short(error: Exception) -> str:
    """Return an error's text for the log, without the target, which the log names, and without advice.

    The detail of a refusal may repeat a part of the query.
    """
    text = str(error)
    if isinstance(error, Unreachable):
        text = error.why
    if isinstance(error, Refused):
        text = f"refused: {error.status} {error.logged}"
    return text if text.isprintable() else ascii(text)


def _root(error: BaseException) -> BaseException:
    """The error that came before all others. Trio-websocket fails to tell a peer that speaks no HTTP."""
    return error if error.__context__ is None else _root(error.__context__)
