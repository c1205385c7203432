"""The server: a hub with an entrance.

    open_server                      one nursery for all of it
    └── open_hub                     the hub's nursery: broadcast, sweep, clients that catch up
        └── serve                    the server's nursery
            ├── one task per listening socket, accepting
            └── one task per connection

Leaving `open_server` stops in order: no new connections, a goodbye to all (1001), their sessions get
`close_timeout` seconds to finish, then what is left is cancelled. Cancelling it skips the patience,
not the goodbye.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import logging
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import attrs
import trio

from trionotify import cesql
from trionotify.attached import serve_attached
from trionotify.hub import (
    Authenticate,
    Handler,
    Hub,
    Session,
    handler_session,
    publishing_session,
)
from trionotify.logs import open_log
from trionotify.settings import Settings
from trionotify.transport import SocketTransport, StreamTransport, Transport
from trionotify.websocket import WebSocketConnection, serve_transport

__all__ = ["Server", "open_hub", "open_server", "serve"]

logger = logging.getLogger("trionotify")

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8765
_BACKLOG: Final = 4096
_ACCEPTS: Final = 16  # connections between two checkpoints
_NOTSENT_LOWAT: Final = 1 << 14

#: What accept() raises when the machine is out of something: waiting helps.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@asynccontextmanager
async def open_hub(
    *,
    store: str = "memory:",
    durability: str = "full",
    session: Session | None = None,
    handler: Handler | None = None,
    authenticate: Authenticate | None = None,
    **options: Any,
) -> AsyncIterator[Hub]:
    """Open a hub: its log and its broadcast run while the block does.

    `store` says where the log is: `memory:`, or `sqlite:PATH`, a file; of that, with the `durability`
    `full` what was acknowledged survives a power cut, with `normal` the end of the process.
    `session(client)` serves each client, or in short `handler(client, message)` each message; by
    default publishers publish. `authenticate(request)`, plain or async, returns the `Client` or raises
    `Refused`. `options` are those of `Settings`.

    Leaving the block says goodbye to all clients, and waits for them at most `close_timeout` seconds.
    Raises TypeError or ValueError that names a bad option, and `StoreError` when the file can't be
    opened.
    """
    if session and handler:
        raise TypeError("session or handler, not both: handler is the short form of session")
    if handler:
        session = handler_session(handler)
    settings = Settings.of(options)
    log = await open_log(store, durability, settings)
    try:
        hub = Hub(
            settings,
            log,
            session or publishing_session,
            authenticate,
            handle=_handle,
            attach=serve_attached,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            try:
                yield hub
            finally:
                with trio.move_on_after(settings.close_timeout, shield=True):
                    await hub.close()
                hub.abort()
    finally:
        with trio.move_on_after(settings.close_timeout, shield=True):
            await log.aclose()


async def _handle(hub: Hub, stream: trio.abc.Stream) -> None:
    await serve_transport(hub, StreamTransport(stream), _remote_of(stream))


def _remote_of(stream: trio.abc.Stream) -> str:
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if not isinstance(stream, trio.SocketStream):
        return ""
    with suppress(OSError):
        return _address(stream.socket.getpeername())
    return ""


def _address(name: Any) -> str:
    """A socket's name as a person writes it; a Unix socket's peer has none."""
    if not isinstance(name, tuple):
        return "unix"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- listening ---


@attrs.define(eq=False)
class Server:
    """A hub that listens. Made by `serve`; any task may stop it.

    `url` is where: `http://HOST:PORT`, `https://…` with TLS, or `unix:PATH`; `port` is None for the
    last.
    """

    hub: Hub
    url: str
    port: int | None
    _accepting: trio.CancelScope

    def stop(self) -> None:
        """Let `serve` end in good order: see there. Doesn't block."""
        self._accepting.cancel()


async def serve(
    hub: Hub,
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    unix: str | os.PathLike[str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    insecure: bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen at `host` and `port` (0: a free one), or at the path `unix`, and serve who connects.

    Start it with `server = await nursery.start(serve, hub)`. It ends when it is cancelled: connections
    say goodbye, within `close_timeout`. Or by `server.stop()`: no new connections, then a goodbye to
    all, `close_timeout` seconds for their sessions to finish, and only then the cancelling.

    Raises OSError when it can't listen there, and ValueError when it would listen beyond loopback with
    neither `authenticate` nor `insecure`.
    """
    cesql.parse("TRUE")  # the parser's tables take 40 ms: not while somebody is connected
    if unix is not None:
        sockets = [_listen_unix(os.fspath(unix))]
        file = os.stat(unix)
    else:
        sockets = await _listen_tcp(host, port, insecure or hub.authenticate is not None)
    opened: set[WebSocketConnection] = set()
    try:
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for sock in sockets:
                    accepting.start_soon(_accept, hub, sock, ssl_context, connections, opened)
                task_status.started(_server(hub, sockets[0], unix, ssl_context, accepting.cancel_scope))
            # Stopped. Who comes now is refused by the kernel; the rest has until the deadline.
            for sock in sockets:
                sock.close()
            connections.cancel_scope.deadline = trio.current_time() + hub.settings.close_timeout
            hub.drop_half_open()
            for connection in tuple(opened):
                connection.go_away()
    finally:
        for sock in sockets:
            sock.close()
        if unix is not None:
            # Unless another server has taken the place meanwhile.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(unix), file):
                    os.unlink(unix)


@asynccontextmanager
async def open_server(
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    unix: str | os.PathLike[str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    insecure: bool = False,
    **options: Any,
) -> AsyncIterator[Server]:
    """A hub and its listener together: `serve` and `open_hub`, whose keywords it takes.

    Leaving the block stops the server in good order; nothing outlives it.
    """
    async with open_hub(**options) as hub, trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(
                serve,
                hub,
                host=host,
                port=port,
                unix=unix,
                ssl_context=ssl_context,
                insecure=insecure,
            )
        )
        yield server
        server.stop()


def _server(
    hub: Hub,
    sock: socket.socket,
    unix: str | os.PathLike[str] | None,
    ssl_context: ssl.SSLContext | None,
    accepting: trio.CancelScope,
) -> Server:
    if unix is not None:
        return Server(hub, f"unix:{os.fspath(unix)}", None, accepting)
    scheme = "http" if ssl_context is None else "https"
    name = sock.getsockname()
    return Server(hub, f"{scheme}://{_address(name)}", name[1], accepting)


async def _accept(
    hub: Hub,
    listener: socket.socket,
    ssl_context: ssl.SSLContext | None,
    connections: trio.Nursery,
    opened: set[WebSocketConnection],
) -> None:
    """Accept for ever. Every connection gets a task of its own, which raises nothing."""
    for number in itertools.count(1):
        try:
            sock, name = listener.accept()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(listener)
            continue
        except OSError as error:
            if error.errno in _EXHAUSTED:
                logger.warning("can't accept: %s; trying again", error.strerror)
                await trio.sleep(0.1)
            # Anything else is the fault of a peer that left again.
            await trio.lowlevel.checkpoint()
            continue
        try:
            transport = _transport(sock, ssl_context)
        except OSError:  # macOS: EINVAL, when the peer has reset it already
            sock.close()
        else:
            connections.start_soon(serve_transport, hub, transport, _address(name), opened)
        if number % _ACCEPTS == 0:
            await trio.lowlevel.checkpoint()


def _transport(sock: socket.socket, ssl_context: ssl.SSLContext | None) -> Transport:
    sock.setblocking(False)
    if sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # As Trio does: what the network can't take yet stays with us, where it is the log's.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOTSENT_LOWAT)
    if ssl_context is None:
        return SocketTransport(sock)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    return StreamTransport(trio.SSLStream(stream, ssl_context, server_side=True))


async def _listen_tcp(host: str, port: int, public: bool) -> list[socket.socket]:
    """Sockets that listen at every address of `host`, all at one port."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, name in dict.fromkeys(found):
            address = str(name[0])
            if not (public or ipaddress.ip_address(address.partition("%")[0]).is_loopback):
                raise ValueError(
                    f"host: {host} can be reached by anyone; listen on 127.0.0.1, or say insecure"
                )
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
            # With port 0, the first socket's choice is everyone's.
            sock.bind((address, sockets[0].getsockname()[1] if len(sockets) > 1 else port, *name[2:]))
            _listen(sock)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listen_unix(path: str) -> socket.socket:
    """A socket that listens at `path`. A file left over by a server that is gone is replaced."""
    if not hasattr(socket, "AF_UNIX"):
        raise ValueError("unix: this system has no Unix sockets; use host and port")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
            try:
                sock.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            else:
                raise OSError(errno.EADDRINUSE, "a server is listening there already", path)
        sock.bind(path)
        _listen(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.listen(_BACKLOG)
