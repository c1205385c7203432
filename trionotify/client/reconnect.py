"""Staying connected: connect, converse, and when that ends, come back.

A client plays one or both of two parts, `Subscriber` and `Publisher`, each with a connection and a task
of its own (`stay_connected`). What a part says waits in its outbox, and what it is told goes to `heard`;
neither notices that the connection is another one now, but by `welcomed`.

    stay_connected               for as long as the client lives
    └── _attempt                 one connection, or none
        └── _converse            a nursery
            ├── keep_alive
            ├── _write_all       what the outbox holds
            └── (this task)      reads

An attempt raises nothing but `Cancelled` and what is a fault of this package: it returns an `Ending`,
which says whether coming back makes sense. It does where the cause lies with the network or the server
and passes by itself. It also does where this side can put right what was wrong (`mend`): a ticket that
is over is replaced by a new one, filters that are too long for a URL are said in another way, and a
message that is too big is given up, alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs
import trio
import trio_websocket

from trionotify.client.backoff import Backoff, capped, retry_after
from trionotify.client.link import Event, Link, Unread, open_link
from trionotify.errors import CloseCode, Closed, Refused, TrionotifyError, quoted
from trionotify.model.jsontext import read_json

if TYPE_CHECKING:
    from trionotify.client.in_flight import Outbox
    from trionotify.client.target import Target

__all__ = ["Part", "is_too_big", "refusal", "stay_connected"]

logger: logging.Logger = logging.getLogger("trionotify")

#: A connection that has lasted for so many seconds was a good one: what comes next is the first failure.
_LASTING: Final = 10.0
#: Statuses that pass by themselves, besides 5xx.
_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
#: Close codes from here on are registered by, or private to, applications.
_APPLICATIONS: Final = 3000
_ABNORMAL: Final = 1006


class Part(Protocol):
    """What a client can be: a subscriber, a publisher."""

    role: str
    #: What goes wrong before it is connected for the first time is for whoever opened the client.
    eager: bool
    outbox: Outbox[Any]

    async def needed(self) -> None:
        """Wait until a connection is needed."""

    def query(self, given: object) -> Mapping[str, str]:
        """The query of the next one, with what the function `params` has given for it.

        Raises TypeError, ValueError or `Refused` when there can be none.
        """

    def welcomed(self, event: Event) -> None:
        """It is there. Raises `Refused` when it is of no use to this part."""

    async def room(self) -> None:
        """Wait until there is room for what comes next."""

    def heard(self, event: Event) -> None:
        """Something came. Raises `Refused` when there is no use in going on."""

    def missed(self, message: Unread) -> None:
        """Something came that can't be read."""

    def mend(self, error: Exception) -> bool:
        """Whether what ended a connection in this way was put right, so that the next one may do."""

    def give_up(self, error: Exception) -> None:
        """There will be no connection, unless it is needed again."""


@attrs.frozen
class Ending:
    """Why there is no connection any more; whether to come back, and after how many seconds."""

    error: Exception
    again: bool
    after: float = 0.0


async def stay_connected(
    part: Part,
    target: Target,
    *,
    keep_trying: bool,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep `part` connected until this is cancelled; then say goodbye.

    The first connection of one that is eager is different: `task_status` hears of it, and what goes
    wrong before it raises OSError, `Refused`, `Closed` or what the function `params` raises; with
    `keep_trying`, only what doesn't pass.
    """
    backoff = Backoff()
    waited_for = part.eager
    asked_again = False  # for a ticket, since the last welcome

    def opened() -> None:
        nonlocal waited_for, asked_again
        logger.info("connected to %s as %s", target, part.role)
        asked_again = False
        if waited_for:
            waited_for = False
            task_status.started()

    def mend(error: Exception) -> bool:
        nonlocal asked_again
        if target.ask is not None and not asked_again and _is_unauthorized(error):
            asked_again = True
            return True
        return part.mend(error)

    while True:
        await part.needed()
        ending = await _attempt(part, target, opened, backoff)
        mended = not ending.again and mend(ending.error)
        if waited_for and not mended and not (keep_trying and ending.again):
            raise ending.error
        if ending.again or mended:
            delay = ending.after + backoff.next()
            logger.info(
                "%s as %s: %s; trying again in %.1f s",
                target,
                part.role,
                _in_short(ending.error, target),
                delay,
            )
            await trio.sleep(delay)
        else:
            logger.info("%s as %s: %s", target, part.role, _in_short(ending.error, target))
            part.give_up(ending.error)


async def _attempt(part: Part, target: Target, opened: Callable[[], None], backoff: Backoff) -> Ending:
    """One connection, from its beginning to its end."""
    endings: list[Ending] = []
    met = False
    try:
        given = await target.given()
    except Exception as error:  # the application's own function may raise anything
        logger.warning("params: the function raised %s", quoted(error))
        return Ending(error, again=not isinstance(error, TrionotifyError))
    try:
        query = part.query(given)
    except (Refused, TypeError, ValueError) as unusable:
        return Ending(unusable, again=False)
    try:
        async with open_link(target, query) as link:
            met = True
            part.outbox.rewind()
            part.welcomed(link.welcome)
            opened()
            endings.append(await _converse(part, link, backoff))
    except* trio_websocket.ConnectionRejected as group:
        endings.append(_of_answer(_first(group)))
    except* trio_websocket.ConnectionClosed as group:
        endings.append(_of_close(_first(group).reason))
    except* (Closed, Refused) as group:
        endings.append(Ending(_first(group), again=False))
    except* OSError as group:
        endings.append(Ending(_first(group), again=True))
    except* Exception as group:
        # trio-websocket's parser may raise anything about a peer that speaks no HTTP. Later it would be
        # a fault of ours.
        if met:
            raise
        stranger = Closed(CloseCode.PROTOCOL_ERROR, f"{target} is no WebSocket server: {_first(group)}")
        endings.append(Ending(stranger, again=False))
    return endings[0]


async def _converse(part: Part, link: Link, backoff: Backoff) -> Ending:
    """Say and hear, until the connection ends."""
    since = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.keep_alive, name="trionotify.connect: keepalive")
        nursery.start_soon(_write_all, part.outbox, link, name="trionotify.connect: publishing")
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
        "%s: a message can't be read, and is left out: %.200s",
        part.role,
        why,
        extra={"event": "unreadable", "role": part.role, "cursor": message.cursor, "reason": why},
    )


async def _write_all(outbox: Outbox[Any], link: Link) -> None:
    # When the connection ends, whoever reads sees it, too.
    with suppress(trio_websocket.ConnectionClosed):
        while True:
            await link.send(await outbox.take())


def _of_close(reason: trio_websocket.CloseReason | None, after: float = 0.0) -> Ending:
    code = reason.code if reason else _ABNORMAL
    if reason is None or code == _ABNORMAL:
        return Ending(ConnectionError("the connection was lost"), True, after)
    try:
        again = CloseCode(code).reconnect
    except ValueError:
        # Of the protocol's other codes, all that a server can mean passes. What an application means by
        # a code of its own is not known here, so it is the caller's to decide.
        again = code < _APPLICATIONS
    return Ending(Closed(code, reason.reason or ""), again, after)


def _of_answer(rejected: trio_websocket.ConnectionRejected) -> Ending:
    """An HTTP answer that isn't the 101."""
    status = rejected.status_code
    if not 300 <= status <= 599:
        why = f"it answered {status} to a WebSocket handshake"
        return Ending(Closed(CloseCode.PROTOCOL_ERROR, why), again=False)
    return Ending(
        refusal(status, _detail(status, rejected.body or b"")),
        status >= 500 or status in _PASSING,
        retry_after(dict(rejected.headers)),
    )


def _is_unauthorized(error: Exception) -> bool:
    if isinstance(error, Refused):
        return error.status == HTTPStatus.UNAUTHORIZED
    return isinstance(error, Closed) and error.code == CloseCode.UNAUTHORIZED


def is_too_big(error: Exception) -> bool:
    """Whether a message that this side has sent was too big for the server."""
    return isinstance(error, Closed) and error.code == CloseCode.MESSAGE_TOO_BIG


def refusal(status: object, detail: object) -> Refused:
    """What a problem document says, as an exception."""
    return Refused(status if isinstance(status, int) and 300 <= status <= 599 else 400, str(detail))


def _detail(status: int, body: bytes) -> str:
    try:
        return str(read_json(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}"


def _in_short(error: Exception, target: Target) -> str:
    """For the log, which names the target itself, and needs no advice each time.

    What stands behind the first colon of a refusal may have been in the query.
    """
    text = str(error)
    if isinstance(error, OSError):
        text = text.removeprefix(f"{target}: ").partition("; ")[0]
    if isinstance(error, Refused):
        text = f"refused: {error.status} {error.detail.partition(':')[0]:.80}"
    return text if text.isprintable() else ascii(text)


def _first(group: BaseExceptionGroup[Any]) -> Any:
    """The first exception in a group of groups."""
    error: Any = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
