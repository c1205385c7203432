"""Accepting: one task for each listening socket, and one for each connection that it accepts.

`Acceptor` is a listener of the hub (`admission.Listener`). Before it stops, it accepts the connections
that already wait in the kernel, because closing a socket would reset them. Each of them gets an answer,
even if that is a 503. If the machine has no descriptors or memory left, it drops a connection that
loses nothing. If there is none, it refuses the new one, with a descriptor kept in reserve
(`exhaustion`).
"""

from __future__ import annotations

import errno
import itertools
import socket
import ssl
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from trionotify.connection.tls import prepare, transport_of
from trionotify.delivery.shutdown import abort_all
from trionotify.http.routes import ADMIN
from trionotify.http.serving import serve_transport
from trionotify.model.addresses import name_of, site_of
from trionotify.server.exhaustion import Exhaustion
from trionotify.server.listeners import BACKLOG, is_loopback, place_of

if TYPE_CHECKING:
    from trionotify.connection.connection import ClientConnection
    from trionotify.http.routes import Routes
    from trionotify.http.web_hub import WebHub
    from trionotify.server.certificates import Certificate

__all__ = ["Acceptor"]

#: Connections accepted between two turns of the other tasks. Most of them bring a request along, which
#: is served in the next turn, so these are as few as `Hub.door` lets in.
_ACCEPTS: Final = 4
#: The errors of accept() if the machine has no descriptors or memory left.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE: Final = 0.1  # seconds until the next attempt if nothing else helps


class Acceptor:
    """Accepts at some sockets, each with its routes. Created by `serve`, and ends with it.

    Sockets that are `inherited` belong to another process, which keeps them open for a successor.
    If it is `insecure`, all peers that can reach them are accepted.
    """

    def __init__(
        self,
        hub: WebHub,
        sockets: Sequence[tuple[socket.socket, Routes]],
        ssl_context: ssl.SSLContext | None,
        certificate: Certificate | None,
        *,
        inherited: bool,
        insecure: bool,
    ) -> None:
        self.certificate = certificate
        #: The accepted connections that are open.
        self.opened: set[ClientConnection] = set()
        #: Set once no socket accepts any more.
        self.over: trio.Event = trio.Event()
        self._hub = hub
        self._sockets = sockets
        self._ssl_context = ssl_context
        self._inherited = inherited
        #: Whether clients and operators need no credential, because only this machine can reach them.
        #: Operators have a port of their own, where `authenticate` isn't called.
        self._open_to_operators = not (insecure or hub.secret or hub.tokens)
        self._open_to_clients = self._open_to_operators and hub.authenticate is None
        #: Whether only connections that already wait at the sockets are accepted.
        self._stopping = False
        #: The number of accepting tasks.
        self._accepting = len(sockets)
        self._exhaustion = Exhaustion()
        self._connections: trio.Nursery | None = None

    def start(self, helpers: trio.Nursery, connections: trio.Nursery) -> None:
        """Accept in tasks of `helpers`, and serve each connection in a task of `connections`."""
        self._connections = connections
        for sock, routes in self._sockets:
            prepare(sock)
            name = f"trionotify: accepting at {place_of(sock, self._tls() is not None)[0]}"
            helpers.start_soon(self._accept, sock, routes, self._is_local(sock, routes), name=name)

    def stop_accepting(self) -> None:
        """Accept only the connections that already wait, so that each gets an answer.

        Doesn't block, because the accepting tasks do it and let others run meanwhile. Inherited sockets
        stay open for a successor.
        """
        self._stopping = True
        if self._inherited:
            self.close_sockets()
        else:
            for listener, _ in self._sockets:
                if listener.fileno() >= 0:
                    trio.lowlevel.notify_closing(listener)  # wakes the task that waits there

    def abort(self) -> None:
        """Drop all connections and cancel their sessions. Doesn't block."""
        abort_all(self.opened)
        if self._connections is not None:
            self._connections.cancel_scope.cancel()

    def close_sockets(self) -> None:
        """Close the sockets, so that the kernel refuses new connections. Doesn't block."""
        for listener, _ in self._sockets:
            if listener.fileno() >= 0:
                trio.lowlevel.notify_closing(listener)
                listener.close()
        self.over.set()

    def close(self) -> None:
        """Release all descriptors. Doesn't block."""
        self.close_sockets()
        self._exhaustion.close()

    async def _accept(self, listener: socket.socket, routes: Routes, local: bool) -> None:
        """Accept until the socket is closed or, when stopping, until no connection waits there."""
        last_ones = BACKLOG
        for number in itertools.count(1):
            if self._stopping:
                last_ones -= 1
            try:
                sock, name = listener.accept()
            except BlockingIOError:
                if self._stopping:
                    break
                with suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_readable(listener)
                continue
            except OSError as error:
                if listener.fileno() < 0:
                    break
                if error.errno in _EXHAUSTED:
                    await self._find_room(listener, error)
                # Any other error means that the peer has left again.
                await trio.lowlevel.checkpoint()
                continue
            self._exhaustion.over()
            self._serve_in_a_task(sock, name, routes, local)
            if number % _ACCEPTS == 0:
                await trio.lowlevel.checkpoint()
            if last_ones <= 0:
                break
        self._accepting -= 1
        if not self._accepting:
            self.close_sockets()

    async def _find_room(self, listener: socket.socket, error: OSError) -> None:
        """Make room or refuse, because there is no descriptor or memory for one more connection."""
        self._exhaustion.note(error)
        if self._hub.entrance.drop_unserved():
            for _ in range(2):  # after the second one the dropped task has released its descriptor
                await trio.lowlevel.checkpoint()
        elif not await self._exhaustion.refuse(listener, tls=self._tls() is not None):
            await trio.sleep(_PAUSE)

    def _serve_in_a_task(self, sock: socket.socket, name: Any, routes: Routes, local: bool) -> None:
        """Serve a connection in a task that raises nothing."""
        try:
            remote, tls = name_of(name), self._tls()
            lane = partial(self._hub.slow_lane.one_of, site_of(remote)) if tls else nullcontext
            transport = transport_of(sock, tls, lane)
        except OSError:  # macOS: EINVAL if the peer has reset it already
            sock.close()
        else:
            serve = partial(serve_transport, routes=routes, local=local, listener=self)
            name = f"trionotify: connection of {remote}"
            assert self._connections is not None
            self._connections.start_soon(serve, self._hub, transport, remote, self.opened, name=name)

    def _is_local(self, listener: socket.socket, routes: Routes) -> bool:
        """Return whether a request here needs no credential, because only this machine can send it."""
        if self._open_to_clients or (self._open_to_operators and routes is ADMIN):
            return is_loopback(listener)
        return False

    def _tls(self) -> ssl.SSLContext | None:
        """The TLS context for the next connection; None without TLS."""
        return self._ssl_context if self.certificate is None else self.certificate.context
