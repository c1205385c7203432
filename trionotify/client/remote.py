"""The Python client: a hub in another process, as one client of it sees it.

    connect                          a nursery
    ├── stay_connected(Subscriber)   unless it is a publisher only
    └── stay_connected(Publisher)    unless it is a subscriber only; it connects when it is needed

The two tasks raise nothing once the block was entered: what goes wrong goes to whoever iterates,
subscribes or publishes. So what is raised in the block comes out of it as it is, and not in a group.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack

import trio

from trionotify.client.publisher import Publisher
from trionotify.client.reconnect import stay_connected
from trionotify.client.subscriber import Subscriber
from trionotify.client.target import AskParams, Target, filters_of
from trionotify.durations import Duration, seconds_of
from trionotify.errors import check_trio
from trionotify.model.cursor import Since, written_since
from trionotify.model.replies import reply_in
from trionotify.scopes import open_nursery, opening

if TYPE_CHECKING:
    from trionotify.client.endpoint import OpenStream
    from trionotify.model.keywords import Attributes, Lag, Role
    from trionotify.model.notification import Data, Notification
    from trionotify.model.predicates import Wanted
    from trionotify.model.receipt import Receipt

__all__ = ["Remote", "connect"]


class Remote:
    """What `connect` gives. Any task may use it, several at a time, while the block of `connect` lasts.

    Iterate over it for notifications: each comes once, in order, whatever happens to the connection, and
    what can't be had is told by `Lagged` in its place.
    """

    def __init__(self, subscriber: Subscriber | None, publisher: Publisher | None) -> None:
        self._subscriber = subscriber
        self._publisher = publisher

    @property
    def id(self) -> str:
        """Who the server says that this client is."""
        part = self._subscriber or self._publisher
        assert part is not None  # it has at least one
        return part.id

    @property
    def cursor(self) -> str:
        """Resume behind this, after what was handed out so far: the `since` of another `connect`."""
        return str(self._subscribing().buffer.cursor)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notification:
        """The next notification. Always a checkpoint; cancelled, it loses nothing.

        Raises `Lagged` where notifications are lost to this client; iterating on continues behind that.
        Raises `Closed` or `Refused` when the connection has ended for good, once all that came before
        was handed out. Ends when the block of `connect` is left.
        """
        try:
            return await self._subscribing().buffer.get()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def subscribe(
        self,
        filters: Wanted | list[Any] | None = None,
        *,
        sql: str | None = None,
        filter: Wanted | list[Any] | None = None,
    ) -> str:
        """Replace all filters, those of the URL too; return the cursor behind which the new ones hold.

        `filters` and `sql` are those of `connect`. What comes up to that cursor was filtered by the old
        ones. Always a checkpoint. Waits for the server, over reconnects. Cancelled, they hold or they
        don't. Raises TypeError or ValueError for what can't be sent, `Refused` when the server doesn't
        take it, `Closed` when it is too big for the server (1009), and as iterating does when there is
        no connection any more; `trio.ClosedResourceError` once the block is left.
        """
        subscriber = self._subscribing()
        chosen = _one_of(filters, filter)
        if chosen is None and sql is None:
            raise TypeError(
                "filters: a predicate or a JSON array of filters is needed; [] is everything"
            )
        wanted = [] if chosen is None else filters_of(chosen)
        return await subscriber.choose(wanted if sql is None else filters_of([*wanted, {"sql": sql}]))

    async def publish(  # noqa: ASYNC128 - the outbox calls `started`
        self,
        data: Data | Notification = None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
        **attributes: Unpack[Attributes],
    ) -> Receipt:
        """Publish `data` with these attributes, or a `Notification` as it is; return the
        acknowledgement.

        `to` and `audience` (a predicate) say for whom it is. `json` is a value that becomes the data,
        written as JSON, and `extensions` are attributes of your own. What isn't given here is as the
        URL has it (`type=…`), the rest as the server has it for its publishers; an `id` is made up.

        Always a checkpoint. Waits for the server, over reconnects: it is repeated until it is
        acknowledged, and published once. Also waits while `max_unacknowledged` are on their way. To have
        several on their way from one task, start it in a nursery, `await
        nursery.start(partial(client.publish, "text"))`: that comes back as soon as this one has its
        place in the order.

        Cancelled, it was published or it was not: with the same `id` it may be published again. Raises
        TypeError or ValueError that names a bad attribute; `Refused` when the server doesn't take it
        (its log may be full, 507, or away, 503); `Refused` or `Closed` when there is no way to connect;
        and `trio.ClosedResourceError` once the block is left.
        """
        publisher = self._publishing()
        id, text = publisher.make(data, self.id, attributes)
        return await publisher.publish(id, text, task_status.started)

    async def request(
        self,
        data: Data | Notification = None,
        *,
        timeout: Duration = 30.0,  # noqa: ASYNC109 - without one, a session that never replies would be waited for
        **attributes: Unpack[Attributes],
    ) -> Any:
        """Send a request to the server's session, with attributes as in `publish`; return its reply.

        That is text, bytes, or what JSON has: see `Client.reply`.

        Always a checkpoint. Waits over reconnects: without a reply, the request is repeated on the next
        connection, so the session may get it again, with the same `id`. Cancelled, or after `timeout`
        seconds, which raises `trio.TooSlowError`, the session may have got it or not. Raises `Refused`
        with the session's reason when it rejects the request, with 501 when there is no session that
        replies, and otherwise what `publish` raises.
        """
        publisher = self._publishing()
        id, text = publisher.make(data, self.id, attributes, request=True)
        with trio.fail_after(seconds_of("timeout", timeout)):
            return reply_in(await publisher.outbox.ask(id, text))

    def _publishing(self) -> Publisher:
        if self._publisher is None:
            raise RuntimeError(
                "this client was connected with the role subscriber, so it can't publish: connect with"
                " role='both'; a signed query must be signed with that role"
            )
        return self._publisher

    def _subscribing(self) -> Subscriber:
        if self._subscriber is None:
            raise RuntimeError(
                "this client was connected with the role publisher, so it receives nothing: connect with"
                " role='both'; a signed query must be signed with that role"
            )
        return self._subscriber


@opening
async def connect(
    url: str,
    *,
    id: str | None = None,
    filters: Wanted | list[Any] | None = None,
    sql: str | None = None,
    since: Since | None = None,
    role: Role | None = None,
    lag: Lag | None = None,
    params: Mapping[str, str] | AskParams | None = None,
    extra_headers: Iterable[tuple[str, str]] = (),
    ssl_context: ssl.SSLContext | None = None,
    open_stream: OpenStream | None = None,
    keep_trying: bool = False,
    max_buffered: int = 100,
    max_unacknowledged: int = 100,
    connect_timeout: Duration = 10.0,
    close_timeout: Duration = 2.0,
    ping_interval: Duration = 20.0,
    ping_timeout: Duration = 20.0,
    filter: Wanted | list[Any] | None = None,
) -> AsyncIterator[Remote]:
    """Connect to a server, stay connected while the block lasts, and say goodbye at its end.

    `url` is the server's: `http`, `https`, `ws` or `wss`, or `unix:PATH`, where a `?` in the path is
    `%3F` and a `%` is `%25`. To a path that is missing or ends in a slash, `events` is added. The query
    is kept. `id`, `sql`, `since`, `lag` and `role` are keys of that query, `params` any others, and
    `filters` is a predicate or a JSON array of filters (`filter` is the old name). `since` may also be a
    `datetime` with a time zone, or a `timedelta`: how long ago. A key may be given once. With the role
    `both` (the default) the client iterates and publishes, with `subscriber` or `publisher` only the one
    or the other.

    `params` may be a function, sync or async, that returns parameters, or a query as `sign` makes it.
    The client calls it for each connection, and waits for it at most `connect_timeout`. When the server
    answers 401, or closes with 4401, the client calls it once more, and the stream goes on where it was;
    a second refusal in a row is raised. If the function raises, entering raises that. Later the client
    logs it and tries again, unless it is a `TrionotifyError`, which ends the client.

    `extra_headers` go with each handshake. `ssl_context` is for `https`, in place of the default one.
    `open_stream()` gives a stream to the server, in place of the URL's: a tunnel, a stream in memory.
    `max_buffered` notifications are read ahead, and `max_unacknowledged` are on their way, at most.

    Entering waits for the first connection. It raises `Refused` when the server refuses it, OSError when
    there is none within `connect_timeout` seconds, and `Closed` when the peer is no trionotify server;
    with `keep_trying` it tries again where that makes sense. Later the client always does, after a
    random time that doubles up to 30 seconds, or as long as the server asks for. A server that is silent
    for `ping_interval` seconds is pinged, and has `ping_timeout` to answer; `math.inf` means never.

    Leaving, cancelled or not, closes with 1000 within `close_timeout` seconds; what waits to be
    acknowledged then is not published any more, or was. Raises TypeError or ValueError that names a bad
    argument, and RuntimeError where Trio doesn't run.
    """
    check_trio("trionotify.connect")
    target = Target.of(
        url,
        params=params,
        filters=_one_of(filters, filter),
        sql=sql,
        said={"id": id, "since": written_since(since), "lag": lag, "role": role},
        extra_headers=extra_headers,
        ssl_context=ssl_context,
        open_stream=open_stream,
        max_buffered=max_buffered,
        max_unacknowledged=max_unacknowledged,
        connect_timeout=connect_timeout,
        close_timeout=close_timeout,
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
    )
    subscriber = None if target.role == "publisher" else Subscriber(target)
    publisher = None if target.role == "subscriber" else Publisher(target, eager=subscriber is None)
    parts = [part for part in (subscriber, publisher) if part is not None]
    async with open_nursery() as nursery:
        for part in parts:
            stay = partial(stay_connected, part, target, keep_trying=keep_trying)
            name = f"trionotify.connect: {part.role}"
            if part.eager:
                await nursery.start(stay, name=name)
            else:
                nursery.start_soon(stay, name=name)
        try:
            yield Remote(subscriber, publisher)  # noqa: ASYNC119 - `opening` makes a context manager of it
        finally:
            for part in parts:
                part.close()
            nursery.cancel_scope.cancel()


def _one_of(filters: Any, filter: Any) -> Any:
    """What is wanted, by its name or by the old one."""
    if filters is not None and filter is not None:
        raise ValueError("filters: given twice; filter is the old name for it")
    return filter if filters is None else filters
