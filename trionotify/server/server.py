"""The server: a hub with an entrance.

    open_server                      one nursery for all of it
    └── open_hub                     the hub's nursery: broadcast, sweep, clients that catch up
        └── serve                    two nurseries of the server's
            ├── one task per listening socket, accepting; one that waits for the end
            └── one task per connection

Leaving `open_server` stops in order: no new connections, a goodbye to all (1001), their sessions get
`close_timeout` seconds to finish, then what is left is cancelled. Cancelling it skips the patience,
not the goodbye. A server that shall be replaced drains first, with more patience: see `drain`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final, Unpack, cast

import attrs
import trio

from trionotify import cesql
from trionotify.connection.connection import ClientConnection
from trionotify.connection.session import Handler, Session, handler_session, publishing_session
from trionotify.connection.tls import transport_of
from trionotify.delivery.hub import Hub
from trionotify.delivery.shutdown import say_goodbye
from trionotify.errors import CloseCode, check_trio
from trionotify.http.messages import Authenticate
from trionotify.http.routes import ADMIN, ALL, PUBLIC, Routes, load_files
from trionotify.http.secret import Secret
from trionotify.http.serving import handle_stream, serve_transport
from trionotify.http.web_hub import WebHub
from trionotify.model.addresses import name_of, site_of
from trionotify.scopes import open_nursery, opening
from trionotify.server.attach import serve_attached
from trionotify.server.certificates import Certificate, certificate_of
from trionotify.server.checks import check_hub, check_listening, check_names, check_paths, check_serving
from trionotify.server.exhaustion import Exhaustion
from trionotify.server.listeners import BACKLOG, adopt, listen_tcp, listen_unix, place_of, take_over
from trionotify.server.options import HubOptions, SettingsOptions
from trionotify.settings import Settings
from trionotify.storage import open_log
from trionotify.storage.sqlite import Durability

__all__ = ["Server", "open_hub", "open_server", "serve"]

logger: logging.Logger = logging.getLogger("trionotify")

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8765
_ACCEPTS: Final = 16  # connections between two checkpoints
_UNIX: Final = getattr(socket, "AF_UNIX", None)
#: What accept() raises when the machine is out of descriptors or memory.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE: Final = 0.1  # seconds before the next try when nothing else helps


@opening
async def open_hub(
    *,
    store: str = "memory:",
    durability: Durability = "full",
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
    """Open a hub: its log and its broadcast run while the block does.

    `store` says where the log is: `memory:`, or `sqlite:PATH`, a file; of that, with the `durability`
    `full` what was acknowledged survives a power cut, with `normal` the end of the process.
    `session(client)` serves each client, or in short `handler(client, message)` each message; by
    default publishers publish. `authenticate(request)`, plain or async, returns the `Client` or raises
    `Refused`. Of web pages, those of the server's own host may use it, and those of `allow_origin`:
    origins like `https://example.org`, `https://*.example.org`, or `*` for all. Without `page` there is
    none for people at `/`. With `allow_params`, a query may have only these keys besides the server's.
    `options` are those of `Settings`.

    With a `secret`, clients need a query that was signed with it (`sign`), and whoever has the secret
    may do everything. Bytes are the secret itself, and so is text that looks like one; a path, and text
    that names a file, is its file. `secret_file` is always a path. A `trusted_proxy` (addresses,
    networks, `unix`) is believed when it says whose requests it passes on. A client that offers a
    `subprotocol` of these names gets it, and is served as one that offers none.

    Leaving the block says goodbye to all clients, and waits for them at most `close_timeout` seconds.
    Raises TypeError or ValueError that names a bad option, and `StoreError` when the file can't be
    opened.
    """
    check_trio("trionotify.open_hub")
    check_names(options, [open_hub], others=serve)
    check_serving(session, handler, authenticate, page=page, store=store)
    if session and handler:
        raise TypeError("session or handler, not both: handler is the short form of session")
    if handler:
        session = handler_session(handler)
    settings = Settings(**cast("dict[str, Any]", options))
    if secret is not None and secret_file is not None:
        raise TypeError("secret or secret_file, not both: secret_file is for the path of a file")
    keys = None if secret is None else Secret(secret)
    if secret_file is not None:
        keys = Secret.of_file(secret_file, "secret_file")
    log = await open_log(store, durability, settings)
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
class Server:
    """A hub that listens. Made by `serve`; any task may stop it.

    `url` is where: `http://HOST:PORT`, `https://…` with TLS, or `unix:PATH`, with the path
    percent-encoded; `port` is None for the last. Where there are more addresses than one, `urls` has
    all of them, and `url` is the first.
    """

    hub: WebHub
    urls: tuple[str, ...]
    port: int | None
    #: Where `/clients`, `/metrics` and the health checks are, if they have a port of their own.
    admin_url: str | None
    admin_port: int | None
    #: With what is to be found there.
    _sockets: list[tuple[socket.socket, Routes]]
    _ssl_context: ssl.SSLContext | None
    _certificate: Certificate | None
    #: The sockets are somebody's who keeps them open: whoever waits there is for a successor.
    _inherited: bool
    #: Nobody else can reach them than this machine, and whoever does is let in.
    _local: bool
    #: After those that wait at the sockets already, no connection is accepted.
    _refusing: bool = attrs.field(default=False, init=False)
    #: The tasks that accept.
    _accepting: int = attrs.field(default=0, init=False)
    _exhaustion: Exhaustion = attrs.field(factory=Exhaustion, init=False)
    _refused: trio.Event = attrs.field(factory=trio.Event, init=False)
    _stopped: trio.Event = attrs.field(factory=trio.Event, init=False)
    #: The nursery of the connections, and of them those that are open.
    _connections: trio.Nursery = attrs.field(init=False)
    _opened: set[ClientConnection] = attrs.field(factory=set, init=False)

    @property
    def url(self) -> str:
        return self.urls[0]

    async def drain(self, deadline: float | None = None) -> None:
        """Send all clients of the hub away in good order, and let `serve` end: see `Hub.drain`."""
        await self.hub.drain(deadline)

    def stop(self) -> None:
        """Let `serve` end soon, in good order: see there. Doesn't block."""
        self._close()
        self._stopped.set()

    def reload(self) -> list[str]:
        """Read the files of `secret`, `tls_cert` and `tls_key` again, for who connects from now on.

        Returns their paths; none where there are no such files. Blocks for as long as that takes.
        Raises ValueError for a file that won't do; all that was read before stays in force then.
        """
        certificate, secret = self._certificate, self.hub.secret
        context = None if certificate is None else certificate.read()
        read = [] if secret is None else secret.reload()
        # Nothing can fail any more.
        if certificate is not None and context is not None:
            certificate.context = context
            read = [*certificate.paths, *read]
        return read

    # As a listener of the hub.

    def refuse(self) -> None:
        """Accept the connections that wait by now, so that all get an answer, and no others.

        Doesn't block: the tasks that accept do it, and give way meanwhile. Sockets that were inherited
        stay open for a successor.
        """
        self._refusing = True
        if self._inherited:
            self._close()
        else:
            for listener, _ in self._sockets:
                if listener.fileno() >= 0:
                    trio.lowlevel.notify_closing(listener)  # it wakes the task that waits there

    def cut_off(self) -> None:
        """Drop all connections, and cancel their sessions. Doesn't block."""
        for connection in tuple(self._opened):
            connection.cut_off()
        self._connections.cancel_scope.cancel()

    # What `serve` runs.

    async def _accept(self, listener: socket.socket, routes: Routes) -> None:
        """Accept until the socket is closed or, when refusing, until no connection waits there."""
        last_ones = BACKLOG
        for number in itertools.count(1):
            if self._refusing:
                last_ones -= 1
            try:
                sock, name = listener.accept()
            except BlockingIOError:
                if self._refusing:
                    break
                with suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_readable(listener)
                continue
            except OSError as error:
                if listener.fileno() < 0:
                    break
                if error.errno in _EXHAUSTED:
                    await self._find_room(listener, error)
                # Anything else is the fault of a peer that left again.
                await trio.lowlevel.checkpoint()
                continue
            self._exhaustion.over()
            self._serve_in_a_task(sock, name, routes)
            if number % _ACCEPTS == 0:
                await trio.lowlevel.checkpoint()
            if last_ones <= 0:
                break
        self._accepting -= 1
        if not self._accepting:
            self._close()

    async def _find_room(self, listener: socket.socket, error: OSError) -> None:
        """Make room, or refuse: the machine has no descriptor or memory for one more connection."""
        self._exhaustion.note(error)
        if self.hub.entrance.drop_unserved():
            for _ in range(2):  # behind the second one its task has run, and given the descriptor back
                await trio.lowlevel.checkpoint()
        elif not await self._exhaustion.refuse(listener):
            await trio.sleep(_PAUSE)

    def _serve_in_a_task(self, sock: socket.socket, name: Any, routes: Routes) -> None:
        """The task raises nothing."""
        try:
            remote = name_of(name)
            lane = partial(self.hub.slow_lane.one_of, site_of(remote))
            transport = transport_of(sock, self._tls(), lane)
        except OSError:  # macOS: EINVAL, when the peer has reset it already
            sock.close()
        else:
            local = self._local and sock.family != _UNIX  # (no page of a browser reaches one of those)
            serve = partial(serve_transport, routes=routes, local=local, listener=self)
            name = f"trionotify: connection of {remote}"
            self._connections.start_soon(serve, self.hub, transport, remote, self._opened, name=name)

    def _tls(self) -> ssl.SSLContext | None:
        """What the next connection is encrypted by."""
        return self._ssl_context if self._certificate is None else self._certificate.context

    def _close(self) -> None:
        """Who comes from now on is refused by the kernel."""
        for listener, _ in self._sockets:
            if listener.fileno() >= 0:
                trio.lowlevel.notify_closing(listener)
                listener.close()
        self._refused.set()

    async def _end(self) -> None:
        """Once it is stopped, say goodbye. What is left at the deadline is cut off."""
        await self._stopped.wait()
        self.hub.entrance.drop_half_open(self)
        seconds = self.hub.settings.close_timeout
        with trio.move_on_after(seconds):
            await say_goodbye(self.hub, self._opened, CloseCode.GOING_AWAY, seconds)
            await trio.sleep_forever()  # it is cancelled when everybody has left
        self.cut_off()


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
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen at `host` and `port` (0: a free one), or at the path `unix`, and serve who connects.

    `host` is a name or an address, or several of them; `::` is every address, of IPv4 as well. Given
    `sockets`, which listen already, it serves those, and closes them at its end. With `tls_cert` and
    `tls_key`, files in PEM that `server.reload()` reads again, or an `ssl_context`, over TLS.
    `/clients`, `/metrics` and the health checks are there as well, or with `admin_port` at that port of
    `host` alone. With none of `secret`, `authenticate` and `insecure`, a request's `Host` must be a name
    of this machine (an address, `localhost`, one without a dot), or of an `allow_origin`, unless a
    `trusted_proxy` passes it on: so no web page gets in by a name of its own that leads here.

    Start it with `server = await nursery.start(serve, hub)`. It ends when it is cancelled: connections
    say goodbye, within `close_timeout`. Or by `server.stop()`: no new connections, then a goodbye to
    all (1001); within `close_timeout` seconds their sessions have to finish, and are cancelled then. Or
    by `drain`, of the server or of the hub, when nobody is connected any more; on a hub that drains
    already, at once.

    Raises OSError when it can't listen there, and TypeError or ValueError for files that won't do, and
    when it would listen beyond loopback with none of `secret`, `authenticate` and `insecure`.
    """
    hub = check_hub(hub)
    check_listening(port, admin_port, insecure, ssl_context)
    check_paths(unix=unix, tls_cert=tls_cert, tls_key=tls_key)
    # Both now: the parser's tables take 40 ms, and files can't be read when descriptors run out.
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
        else:
            listening = await listen_tcp(host, port, public)
        for sock in listening:
            undo.callback(sock.close)
        admin = [] if admin_port is None else await listen_tcp(host, admin_port, public)
        undo.pop_all()
    tls = ssl_context is not None or certificate is not None
    routes = ALL if admin_port is None else PUBLIC
    (_, number), *_ = found = [place_of(sock, tls) for sock in listening]
    urls = tuple(url for url, _ in found)
    admin_url, admin_number = place_of(admin[0], tls) if admin else (None, None)
    places = [*[(sock, routes) for sock in listening], *[(sock, ADMIN) for sock in admin]]
    adopted, local = bool(inherited), not public
    server = Server(
        hub, urls, number, admin_url, admin_number, places, ssl_context, certificate, adopted, local
    )
    try:
        with hub.entrance.listening(server):
            async with open_nursery() as helpers:
                async with open_nursery() as server._connections:
                    server._accepting = len(places)
                    for sock, at in places:
                        name = f"trionotify: accepting at {place_of(sock, tls)[0]}"
                        helpers.start_soon(server._accept, sock, at, name=name)
                    helpers.start_soon(server._end, name="trionotify: end of the server")
                    task_status.started(server)
                    if hub.entrance.refusing:
                        server.refuse()
                    await server._refused.wait()
                helpers.cancel_scope.cancel()  # everybody has left
    finally:
        server._close()
        server._exhaustion.close()
        if unix is not None and not inherited:
            with suppress(FileNotFoundError):  # another server may have taken the place meanwhile
                if os.path.samestat(os.stat(unix), file):
                    os.unlink(unix)


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
    **options: Unpack[HubOptions],
) -> AsyncIterator[Server]:
    """A hub and its listener together: `serve` and `open_hub`, whose keywords it takes.

    Leaving the block stops the server in good order; nothing outlives it.
    """
    check_trio("trionotify.open_server")
    listen = partial(
        serve,
        host=host,
        port=port,
        unix=unix,
        ssl_context=ssl_context,
        tls_cert=tls_cert,
        tls_key=tls_key,
        insecure=insecure,
        admin_port=admin_port,
    )
    with contextlib.ExitStack() as undo:
        listen = partial(listen, sockets=take_over(sockets, undo))
        check_names(options, [open_hub, open_server])
        async with open_hub(**options) as hub, open_nursery() as nursery:
            server: Server = await nursery.start(listen, hub, name="trionotify: server")
            yield server  # noqa: ASYNC119 - the same
            hub.entrance.close("the server stops")
            server.stop()
