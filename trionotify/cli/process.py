"""The server as a process: what it does at signals, and what it tells the service manager.

SIGTERM, SIGINT    drain, then end; a second one ends it at once; while it starts, give up
SIGHUP             read the files of the secret and the certificate again; if it is the terminal that
                   hung up, drain, then end
SIGUSR1, SIGUSR2   nothing
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import attrs
import click
import trio

from trionotify.cli.stdio import Terminal, let_go_of_stdout
from trionotify.cli.systemd import feed_watchdog, notify, notify_reloading, watchdog_interval
from trionotify.server.server import Server, open_server
from trionotify.settings import OTHER_FILES, Settings, file_limit
from trionotify.storage import shown
from trionotify.version import __version__

__all__ = ["ignore_signals", "serve_until_signal"]

logger: logging.Logger = logging.getLogger("trionotify")

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)
#: Windows has no such signals.
_RELOADING: Final = getattr(signal, "SIGHUP", None)
#: Signals that would end a process that doesn't handle them.
_MEANINGLESS: Final = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


def ignore_signals() -> bool:
    """Ignore the signals that mean nothing while the server starts; return whether SIGHUP was ignored.

    That is so for a process that is to outlive its terminal (`nohup`).
    """
    for number in _MEANINGLESS:
        signal.signal(number, signal.SIG_IGN)
    before = _ignore_reloading()
    return _RELOADING is None or before is signal.SIG_IGN


def _ignore_reloading() -> Any:
    """Ignore the signal that reloads files; return its previous handler.

    The kernel then drops the signal. While the server starts and ends, there is nothing to read again,
    and the signal must not end it.
    """
    return None if _RELOADING is None else signal.signal(_RELOADING, signal.SIG_IGN)


async def serve_until_signal(options: dict[str, Any], listening: trio.Event, terminal: Terminal) -> int:
    """Serve until a signal; return the exit code. Sets `listening` when nothing can be wrong any more.

    Raises what `open_server` raises, and ValueError for an invalid variable of the service manager.
    """
    interval = watchdog_interval()
    handled = _ENDING if _RELOADING is None else (*_ENDING, _RELOADING)
    with trio.open_signal_receiver(*handled) as signals:
        async with trio.open_nursery() as nursery:
            control = _Control(nursery.cancel_scope, terminal)
            nursery.start_soon(control.run, signals, name="trionotify: signals")
            async with open_server(**options) as server:
                listening.set()
                _announce(server, options)
                _warn_of_few_descriptors(server.hub.settings)
                notify("READY=1")
                if interval is not None:
                    beat = partial(feed_watchdog, interval, lambda: server.hub.broadcast.over)
                    nursery.start_soon(beat, name="trionotify: watchdog")
                await control.take(server)
                notify("STOPPING=1")
                await server.drain()
            nursery.cancel_scope.cancel()
    return control.exit_code


@attrs.define(eq=False)
class _Control:
    """What signals do. `serve_until_signal` makes it, and runs it in a task of its own.

    One task reads all signals, so none is lost between two phases of the server.
    """

    #: The scope of everything that the process does.
    _scope: trio.CancelScope
    _terminal: Terminal
    #: The exit code of the process.
    exit_code: int = attrs.field(default=0, init=False)
    #: The server, once it listens, and whether its files may have changed before that.
    _server: Server | None = attrs.field(default=None, init=False)
    _changed: bool = attrs.field(default=False, init=False)
    #: Set at the first signal that ends the server.
    _ending: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def run(self, signals: AsyncIterator[int]) -> None:
        """Do what each signal means in this phase, until cancelled."""
        async for number in signals:
            if number == _RELOADING and (self._ending.is_set() or not self._terminal.is_gone()):
                self._reload()
            elif self._server is None:
                self._give_up(number)
            elif self._ending.is_set():
                self._force(number, self._server)
            else:
                self._end(number)

    async def take(self, server: Server) -> None:
        """Control this server, which listens now; return when it is to be drained."""
        self._server = server
        if self._changed:
            self._reload()
        await self._ending.wait()

    def _reload(self) -> None:
        if self._server is None:
            self._changed = True
        elif not self._ending.is_set():
            _reload(self._server)

    def _give_up(self, number: int) -> None:
        """End the process before the server listens. A thread that opens a file ends first."""
        name = signal.Signals(number).name
        logger.info(
            "%s while the server starts; a second signal ends it at once",
            name,
            extra={"event": "stopping", "signal": name},
        )
        for each in _ENDING:
            signal.signal(each, signal.SIG_DFL)
        self._scope.cancel()

    def _end(self, number: int) -> None:
        _ignore_reloading()
        name = signal.Signals(number).name
        gone = number == _RELOADING
        why = "the terminal is gone" if gone else "a second signal ends the server at once"
        logger.info("%s; %s", name, why, extra={"event": "stopping", "signal": name})
        self._ending.set()

    def _force(self, number: int, server: Server) -> None:
        """End at once, with the exit code that a shell gives to a process killed by the signal."""
        name = signal.Signals(number).name
        logger.info("%s: stopping at once", name, extra={"event": "forced", "signal": name})
        self.exit_code = 128 + number
        server.hub.abort()
        self._scope.cancel()


def _announce(server: Server, options: dict[str, Any]) -> None:
    """Print where the server listens. It listens even if that can't be printed."""
    try:
        for url in server.urls:
            click.echo(f"trionotify: listening on {url}")
    except OSError as error:
        let_go_of_stdout()
        logger.warning("stdout: %s; listening on %s", error.strerror, ", ".join(server.urls))
    store, hub = shown(options["store"]), server.hub
    known: dict[str, Any] = {"version": __version__, "url": server.url, "store": store}
    known |= {"admin_url": server.admin_url, "secret": hub.secret is not None}
    logger.info(
        "started version %s; store %s; open to %s%s",
        known["version"],
        store,
        hub.open_to,
        f"; clients, metrics and health checks at {server.admin_url}" if server.admin_url else "",
        extra={"event": "started", **known},
    )


def _warn_of_few_descriptors(settings: Settings) -> None:
    """Warn if the process has fewer descriptors than `max_connections` needs."""
    wanted = settings.max_connections + settings.max_half_open + OTHER_FILES
    limit = file_limit()
    if wanted > limit:
        logger.warning(
            "max_connections and max_half_open: the server may need %d open files, but the process"
            " may have %d; raise that limit (ulimit -n, LimitNOFILE) or lower the two options",
            wanted,
            limit,
            extra={"event": "few_descriptors", "wanted": wanted, "limit": limit},
        )


def _reload(server: Server) -> None:
    notify_reloading()
    try:
        read = server.reload()
    except ValueError as error:
        logger.error(
            "SIGHUP: %s; the files read before remain in use",
            error,
            extra={"event": "reload_failed", "reason": str(error)},
        )
    else:
        logger.info(
            "SIGHUP: %s",
            f"read these files again: {', '.join(read)}" if read else "there are no files to read again",
            extra={"event": "reloaded", "read": read},
        )
    notify("READY=1")
