"""The server: a hub and the listeners that bring it clients.

    open_server                      one nursery around everything
    └── open_hub                     the hub's nursery: broadcast, sweep, clients that catch up
        └── serve                    two nurseries of the server
            ├── one task per listening socket, which accepts; one that waits for the end
            └── one task per connection

Before you replace a server, use `Server.drain`. It gives clients more time than leaving the block does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any, Final, Unpack, cast

import attrs
import trio

from trionotify import cesql
from trionotify.connection.session import Handler, Session, handler_session, publishing_session
from trionotify.delivery.hub import Hub
from trionotify.delivery.shutdown import say_goodbye
from trionotify.durations import Duration
from trionotify.errors import CloseCode, check_trio
from trionotify.http.messages import Authenticate
from trionotify.http.routes import ADMIN, ALL, PUBLIC, load_files
from trionotify.http.secret import Secret
from trionotify.http.serving import handle_stream
from trionotify.http.web_hub import WebHub
from trionotify.scopes import Alive, check_thread, open_nursery, opening
from trionotify.server.accepting import Acceptor
from trionotify.server.attach import serve_attached
from trionotify.server.certificates import certificate_of
from trionotify.server.checks import check_hub, check_listening, check_names, check_paths, check_serving
from trionotify.server.listeners import adopt, forget_unix, listen_tcp, listen_unix, place_of, take_over
from trionotify.server.options import HubOptions, SettingsOptions
from trionotify.settings import Settings
from trionotify.storage import Durability, open_log

__all__ = ["Server", "open_hub", "open_server", "serve"]

logger: logging.Logger = logging.getLogger("trionotify")

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8765


@opening
async def open_hub(
    *,
    store: str = "memory:",
    durability: Durability | None = None,
    node_name: str | None = None,
    session: Session | None = None,
    handler: Handler | None = None,
    authenticate: Authenticate | None = None,
    allow_origin: Iterable[str] = (),
    allow_params: str | Iterable[str] | None = None,
    page: bool = True,
    secret: str | os.PathLike[str] | bytes | None = None,
    secret_file: str | os.PathLike[str] | None = None,
    trusted_proxy: Iterable[str] = (),
    subprotocol: Iterable[str] = (),
    **options: Unpack[SettingsOptions],
) -> AsyncIterator[Hub]:
    """Open a hub. Its log and its broadcast run until the block is left.

    `store` says where the log is: `memory:`, `sqlite:PATH` for a file, or `redis://HOST` for a log that
    several servers share, each with its `node_name` (by default the host's name). `durability` says
    when a notification counts as stored. In a file, an acknowledged notification survives a power cut
    with `full` (the default), and the end of the process with `normal`. On Redis, it is `primary` (the
    default), `replicated` or `fsynced`.

    `session(client)` serves each client while it is connected, or `handler(client, message)` handles
    each message. By default, the hub publishes the messages of publishers.

    `authenticate(request)`, sync or async, returns a `Client` or raises `Refused`. `Tokens` is one.
    With a `secret`, a client needs a query that was signed with it (`sign`), and a request that
    presents the secret itself may do everything. `secret` is the secret, as bytes or text, or the path
    of its file. `secret_file` is always a path.

    Web pages of the server's own host may connect, and those of the origins `allow_origin`:
    `https://example.org`, `https://*.example.org`, or `*` for all. With `allow_params`, a query may
    have only these keys and the server's own. A client that offers one of the names in `subprotocol`
    gets it, and is otherwise served as if it had offered none. The hub attributes requests from a
    `trusted_proxy` (an address, a network or `unix`) to the client that the proxy names. `page=False`
    turns off the start page at `/`. `options` are the fields of `Settings`.

    Entering opens the log, and is a checkpoint. Leaving, cancelled or not, sends all clients a Close
    frame (1001), waits up to `close_timeout` seconds for them, drops the rest, and closes the log.
    Raises TypeError or ValueError that names an invalid option, `StoreError` if the log can't be opened.
    """
    check_trio("trionotify.open_hub")
    check_names(options, [open_hub], others=serve)
    check_serving(session, handler, authenticate, page=page, store=store)
    if session and handler:
        raise TypeError(
            "session: must not be combined with handler, which is its short form; give one of them"
        )
    if handler:
        session = handler_session(handler)
    settings = Settings(**cast("dict[str, Any]", options))
    if secret is not None and secret_file is not None:
        raise TypeError(
            "secret: must not be combined with secret_file, the path of its file; give one of them"
        )
    keys = None if secret is None else Secret(secret)
    if secret_file is not None:
        keys = Secret.of_file(secret_file, "secret_file")
    log = await open_log(store, durability, settings, node_name)
    try:
        hub = WebHub(
            settings,
            log,
            session or publishing_session,
            authenticate,
            allow_origin=allow_origin,
            allow_params=allow_params,
            page=page,
            secret=keys,
            trusted_proxy=trusted_proxy,
            subprotocol=subprotocol,
            handle=handle_stream,
            attach=serve_attached,
        )
        async with open_nursery() as nursery:
            await nursery.start(hub.run, name="trionotify: broadcast")
            hub.fetch_keys()
            try:
                yield hub  # noqa: ASYNC119 - `opening` makes a context manager of it
            finally:
                with trio.move_on_after(settings.close_timeout, shield=True):
                    await hub.close()
                hub.abort()
    finally:
        with trio.move_on_after(settings.close_timeout, shield=True):
            await log.aclose()


# --- listening ---


@attrs.define(eq=False)
class Server(Alive):
    """A hub that listens. `serve` creates it, and any task may stop it.

    `url` is `http://HOST:PORT`, `https://…` with TLS, or `unix:PATH` with a percent-encoded path and
    `port` None. If the server listens at several addresses, `urls` has them all, and `url` is the first.
    """

    hub: WebHub
    urls: tuple[str, ...]
    port: int | None
    #: The URL of `/clients`, `/metrics` and the health checks, if they have a port of their own.
    admin_url: str | None
    admin_port: int | None
    _acceptor: Acceptor
    _stopped: trio.Event = attrs.field(factory=trio.Event, init=False)

    @property
    def url(self) -> str:
        return self.urls[0]

    async def drain(self, deadline: Duration | None = None) -> None:
        """Close all clients of the hub in good order, and let `serve` return. See `Hub.drain`."""
        await self.hub.drain(deadline)

    def stop(self) -> None:
        """Ask `serve` to close in good order and return. Doesn't block."""
        check_thread("stop", "server")
        self._acceptor.close_sockets()
        self._stopped.set()

    def reload(self) -> list[str]:
        """Read the files of secrets, keys and the certificate again, for new connections.

        Returns the paths that were read, or an empty list if there are no such files. Blocks while it
        reads. Raises ValueError for an invalid file, and then changes nothing.
        """
        certificate = self._acceptor.certificate
        files = [*(certificate.reread() if certificate else ()), *self.hub.reread()]
        for _, take in files:  # nothing can fail any more
            take()
        return [path for path, _ in files]

    async def _end(self) -> None:
        """Wait for `stop`, send the Close frames, and drop remaining clients after `close_timeout`."""
        await self._stopped.wait()
        self.hub.entrance.abort_half_open(self._acceptor)
        seconds = self.hub.settings.close_timeout
        with trio.move_on_after(seconds):
            await say_goodbye(self.hub, self._acceptor.opened, CloseCode.GOING_AWAY, seconds)
            await trio.sleep_forever()  # `serve` cancels this task when every client has left
        self._acceptor.abort()


async def serve(
    hub: Hub,
    *,
    host: str | Iterable[str] = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    unix: str | os.PathLike[str] | None = None,
    sockets: Iterable[socket.socket] = (),
    ssl_context: ssl.SSLContext | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    insecure: bool = False,
    admin_port: int | None = None,
    reuse_port: bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen, and serve the clients of `hub`, until cancelled, stopped or drained.

    `host` is one name or address, or several. `::` means all addresses, including those of IPv4. The
    `port` 0 picks a free one. `unix` is the path of a Unix socket, in place of both. If you pass
    `sockets` that listen already, the server serves those instead and closes them at its end. With
    `reuse_port`, other processes on this machine may share the port. `admin_port` is a separate port at
    `host` for `/clients`, `/nodes`, `/metrics` and the health checks. For TLS, pass `tls_cert` and
    `tls_key`, PEM files that `server.reload()` reads again, or an `ssl_context`.

    Without `secret`, `insecure` and `authenticate` (which isn't asked at `admin_port`), `Host` must name
    this machine (an address, `localhost`, a name without a dot) or be that of an `allow_origin`, unless
    a `trusted_proxy` passes the request on. This keeps out pages whose name leads here (DNS rebinding).

    Start it with `server = await nursery.start(serve, hub)`. It ends in one of three ways. Cancelled,
    it sends Close frames (1001) within `close_timeout` seconds. After `server.stop()`, it accepts no
    connections, sends Close frames, gives sessions `close_timeout` seconds to finish, and cancels the
    rest. After `drain` of the server or the hub, it ends when the last client has left.

    Raises OSError if it can't listen there. Raises TypeError or ValueError for invalid files, or when
    it would listen beyond loopback without `secret`, `authenticate` and `insecure`.
    """
    hub = check_hub(hub)
    check_listening(port, admin_port, insecure, ssl_context, reuse_port)
    check_paths(unix=unix, tls_cert=tls_cert, tls_key=tls_key)
    # Both now, because the parser's tables take 40 ms, and without descriptors no file can be read.
    cesql.parse("TRUE")
    load_files()
    public = insecure or hub.authenticate is not None or hub.secret is not None
    with contextlib.ExitStack() as undo:
        inherited = take_over(sockets, undo)
        certificate = certificate_of(tls_cert, tls_key, ssl_context)
        adopt(inherited, public)
        if inherited:
            listening = inherited
        elif unix is not None:
            listening = [listen_unix(os.fspath(unix))]
            file = os.stat(unix)
            undo.callback(forget_unix, unix, file)
        else:
            listening = await listen_tcp(host, port, public, reuse_port=reuse_port)
        for sock in listening:
            undo.callback(sock.close)
        admin: list[socket.socket] = []
        if admin_port is not None:
            admin = await listen_tcp(host, admin_port, public, option="admin_port")
        undo.pop_all()
    tls = ssl_context is not None or certificate is not None
    routes = ALL if admin_port is None else PUBLIC
    (_, number), *_ = found = [place_of(sock, tls) for sock in listening]
    urls = tuple(url for url, _ in found)
    admin_url, admin_number = place_of(admin[0], tls) if admin else (None, None)
    places = [*[(sock, routes) for sock in listening], *[(sock, ADMIN) for sock in admin]]
    acceptor = Acceptor(
        hub, places, ssl_context, certificate, inherited=bool(inherited), insecure=insecure
    )
    server = Server(hub, urls, number, admin_url, admin_number, acceptor)
    try:
        with hub.entrance.listening(acceptor):
            async with open_nursery() as helpers:
                async with open_nursery() as connections:
                    acceptor.start(helpers, connections)
                    helpers.start_soon(server._end, name="trionotify: end of the server")
                    task_status.started(server)
                    if hub.entrance.closed:
                        acceptor.stop_accepting()
                    await acceptor.over.wait()
                helpers.cancel_scope.cancel()  # every client has left
    finally:
        acceptor.close()
        if unix is not None and not inherited:
            forget_unix(unix, file)


@opening
async def open_server(
    *,
    host: str | Iterable[str] = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    unix: str | os.PathLike[str] | None = None,
    sockets: Iterable[socket.socket] = (),
    ssl_context: ssl.SSLContext | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    insecure: bool = False,
    admin_port: int | None = None,
    reuse_port: bool = False,
    **options: Unpack[HubOptions],
) -> AsyncIterator[Server]:
    """Open a hub and listen. Takes the keywords of `serve` and of `open_hub`; yields the `Server`.

    Entering returns when the server listens. Leaving stops it as `server.stop()` does. If the block is
    cancelled, sessions are cancelled at once, but clients still get a Close frame. No task or socket
    outlives the block. Raises what `open_hub` and `serve` raise.
    """
    check_trio("trionotify.open_server")
    listen = partial(serve, host=host, port=port, unix=unix, insecure=insecure, admin_port=admin_port)
    listen = partial(listen, tls_cert=tls_cert, tls_key=tls_key, ssl_context=ssl_context)
    with contextlib.ExitStack() as undo:
        listen = partial(listen, sockets=take_over(sockets, undo), reuse_port=reuse_port)
        check_names(options, [open_hub, open_server])
        async with open_hub(**options) as hub, open_nursery() as nursery:
            server: Server = await nursery.start(listen, hub, name="trionotify: server")
            yield server  # noqa: ASYNC119 - the same
            hub.stop_accepting("the server is shutting down")
            server.stop()
