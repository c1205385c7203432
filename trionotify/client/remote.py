"""The Python client: one client of a hub in another process.

    connect                          a nursery
    ├── stay_connected(Subscriber)   unless it is a publisher only
    └── stay_connected(Publisher)    unless it is a subscriber only; it connects when it is needed

Once the block is entered, the two tasks raise nothing. Errors go to the task that iterates, subscribes
or publishes. So an exception in the block leaves it unchanged, and not in a group.
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
from trionotify.client.target import AskParams, AskToken, Target, check_sql, filters_of
from trionotify.durations import Duration, limit_of
from trionotify.errors import check_trio
from trionotify.model.cursor import Since, written_since
from trionotify.model.replies import reply_in
from trionotify.scopes import Alive, open_nursery, opening

if TYPE_CHECKING:
    from trionotify.client.endpoint import OpenStream
    from trionotify.model.keywords import Attributes, Lag, Role
    from trionotify.model.notification import Data, Notification
    from trionotify.model.predicates import Wanted
    from trionotify.model.receipt import Receipt

__all__ = ["Remote", "connect"]


class Remote(Alive):
    """A connected client, as `connect` yields it. Several tasks may use it at a time, while the block of
    `connect` lasts.

    Iterate over it for notifications. Each comes once, in order, whatever happens to the connection. If
    some are lost, `Lagged` is raised in their place. If several tasks iterate, each notification goes to
    one of them.
    """

    def __init__(self, subscriber: Subscriber | None, publisher: Publisher | None) -> None:
        self._subscriber = subscriber
        self._publisher = publisher

    @property
    def id(self) -> str:
        """The id that the server gave this client."""
        part = self._subscriber or self._publisher
        assert part is not None  # it has at least one
        return part.id

    @property
    def cursor(self) -> str:
        """The cursor after the last notification returned, for the `since` of another `connect`."""
        return str(self._subscribing().buffer.cursor)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notification:
        """Return the next notification. Always a checkpoint; if cancelled, nothing is lost.

        Raises `Lagged` in place of notifications that were lost; iterating again continues after them.
        Raises `Closed` or `Refused` when the connection has ended for good, after the last notification
        received. Ends when the block of `connect` is left.
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
        """Replace all filters, also those of the URL; return the cursor after which the new ones apply.

        `filters` and `sql` are those of `connect`. The old filters apply up to that cursor.

        Always a checkpoint. Waits for the server, across reconnects. If cancelled, the new filters may
        or may not apply. Raises TypeError or ValueError for invalid filters, `Refused` if the server
        refuses them, and `Closed` if they are too big for the server (1009). Raises as iterating does
        if the connection has ended for good, and `trio.ClosedResourceError` once the block is left.
        """
        subscriber = self._subscribing()
        chosen = _one_of(filters, filter)
        if chosen is None and sql is None:
            raise TypeError(
                "filters: must be a predicate or a JSON array of filters; [] means everything"
            )
        wanted = [] if chosen is None else filters_of(chosen)
        if sql is not None:
            check_sql(sql)
            wanted = [*wanted, {"sql": sql}]
        return await subscriber.choose(wanted)

    async def publish(  # noqa: ASYNC128 - the outbox calls `started`
        self,
        data: Data | Notification = None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
        **attributes: Unpack[Attributes],
    ) -> Receipt:
        """Publish `data` with these attributes, or a `Notification` as it is; return the
        acknowledgement.

        `to` and `audience` (a predicate) name its recipients. `json` is a value that becomes the data,
        written as JSON, and `extensions` are attributes of your own. Missing attributes come from the
        URL (`type=…`), or else from the server's defaults. If there is no `id`, one is generated.

        Always a checkpoint. Waits for the server, across reconnects. The client repeats the notification
        until it is acknowledged, and it is published once. Also waits while `max_unacknowledged` are in
        flight. To have several in flight from one task, start the call in a nursery: `await
        nursery.start(partial(client.publish, "text"))`. This returns as soon as the notification has
        its place in the order.

        A cancelled call may have published. To be sure, publish again with the same `id`. Raises
        TypeError or ValueError that names an invalid attribute, `Refused` if the server refuses it (507
        for a full log, 503 if the log can't be reached), `Refused` or `Closed` if the client can't
        connect, and `trio.ClosedResourceError` once the block is left.
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

        The reply is text, bytes, or a value from JSON. See `Client.reply`.

        Always a checkpoint. Waits across reconnects. Without a reply, the request is repeated on the
        next connection, so the session may get it again, with the same `id`. Cancelled, or after
        `timeout` seconds, which raises `trio.TooSlowError`, the session may have got it or not. Raises
        `Refused` with the session's reason when it rejects the request, with 501 when there is no
        session that replies, and otherwise what `publish` raises.
        """
        publisher = self._publishing()
        seconds = limit_of("timeout", timeout)
        id, text = publisher.make(data, self.id, attributes, request=True)
        with trio.fail_after(seconds):
            return reply_in(await publisher.outbox.ask(id, text))

    def _publishing(self) -> Publisher:
        if self._publisher is None:
            raise RuntimeError(
                "role: a subscriber can't publish; connect with role='both' (a signed query must be"
                " signed with that role)"
            )
        return self._publisher

    def _subscribing(self) -> Subscriber:
        if self._subscriber is None:
            raise RuntimeError(
                "role: a publisher receives nothing; connect with role='both' (a signed query must be"
                " signed with that role)"
            )
        return self._subscriber


@opening
async def connect(
    url: str | Iterable[str],
    *,
    id: str | None = None,
    filters: Wanted | list[Any] | None = None,
    sql: str | None = None,
    since: Since | None = None,
    role: Role | None = None,
    lag: Lag | None = None,
    params: Mapping[str, str] | AskParams | None = None,
    token: AskToken | None = None,
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

    The server:

    - `url` is the server's URL: `http`, `https`, `ws` or `wss`, or `unix:PATH`, where a `?` in the path
      is `%3F` and a `%` is `%25`. If the path is missing or ends in a slash, the client adds `events` to
      it. It keeps the query. You can give several URLs of servers that share a log. If one can't be
      reached, or refuses the client, the client continues at the next one, with the same cursor. A
      refusal is only raised if all of them refuse it in a row.
    - `extra_headers` go with each handshake. `ssl_context` is for `https`, in place of the default one.
    - `open_stream()` opens a stream to the server instead of the URL's, such as a tunnel, or a stream in
      memory. An exception that it raises has the same effect as one of the function `params`.

    The query. Give each key only once, here or in the URL.

    - `id`, `sql`, `since` and `lag` are keys of the query. `since` may also be a `datetime` with a time
      zone, or a `timedelta` before now.
    - `filters` is a predicate or a JSON array of filters (`filter` is the old name).
    - `role` is `both` (the default) to iterate and publish, `subscriber` to iterate only, or `publisher`
      to publish only.
    - `params` are further keys, or a function, sync or async, that returns them, or a query as `sign`
      makes it. The client calls the function for each connection, and waits for it at most
      `connect_timeout`. When the server answers 401, or closes with 4401, the client calls it once more
      and resumes. A second refusal in a row is raised. If the function raises, entering raises that.
      Later the client logs the exception and tries again, unless it is a `TrionotifyError`, which ends
      the client.
    - `token` is a token of the server's identity provider, or a function, sync or async, that returns
      one. The client calls it for each connection, and once more after a 401 or a 4401, as it does
      `params`. On a live connection, it sends a new token before the last one expires. The token
      determines the client's identity.

    The client reads at most `max_buffered` notifications ahead, and has at most `max_unacknowledged` in
    flight.

    Entering waits for the first connection. It raises `Refused` if the server refuses it, OSError if
    there is none within `connect_timeout` seconds, and `Closed` if the peer isn't a trionotify server.
    With `keep_trying`, it tries again if the error is temporary. Later the client always does, after a
    random time that doubles up to 30 seconds, or as long as the server asks for. If the server is silent
    for `ping_interval` seconds, the client pings it, and waits `ping_timeout` seconds for the answer.
    `math.inf` turns either off.

    Leaving, cancelled or not, closes with 1000 within `close_timeout` seconds. Notifications without an
    acknowledgement may have been published. Raises TypeError or ValueError that names an invalid
    argument, and RuntimeError if Trio doesn't run.
    """
    check_trio("trionotify.connect")
    target = Target.of(
        url,
        params=params,
        token=token,
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
    """Return `filters` or `filter`, its old name. Raises ValueError if both are given."""
    if filters is not None and filter is not None:
        raise ValueError("filters: given twice; filter is its old name")
    return filter if filters is None else filters
