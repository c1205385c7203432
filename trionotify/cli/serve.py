"""`serve`: the server as a process. Signals, the service manager and exit codes belong here.

SIGTERM, SIGINT    drain, then end; a second one ends it at once
SIGHUP             read the files of the secret and the certificate again; if it is the terminal that
                   hung up, drain, then end
SIGUSR1, SIGUSR2   nothing
"""

from __future__ import annotations

import gc
import itertools
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import attrs
import click
import trio
from click.core import ParameterSource

from trionotify.cli.config import (
    DURATION,
    FILE,
    NUMBER,
    config_option,
    misspelt_variables,
    with_its_place,
)
from trionotify.cli.logging import FORMATS, LEVELS, configure
from trionotify.cli.memory import give_memory_back
from trionotify.cli.stdio import Mistake, Terminal, let_go_of_stdout, say
from trionotify.cli.systemd import inherited_sockets, notify, notify_reloading
from trionotify.cli.tokens import take_tokens, tokens_options
from trionotify.delivery.hub import Hub
from trionotify.errors import StoreError
from trionotify.server.server import DEFAULT_HOST, DEFAULT_PORT, Server, open_server
from trionotify.settings import OTHER_FILES, Settings, file_limit, raise_file_limit
from trionotify.storage import DURABILITIES, shown
from trionotify.version import __version__

__all__ = ["serve"]

logger: logging.Logger = logging.getLogger("trionotify")

_MISTAKES: Final = (OSError, ValueError, TypeError, StoreError)
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)
#: The sources of options, by increasing precedence.
_SOURCES: Final = (ParameterSource.DEFAULT_MAP, ParameterSource.ENVIRONMENT, ParameterSource.COMMANDLINE)
#: Windows has no such signals.
_RELOADING: Final = getattr(signal, "SIGHUP", None)
#: Signals that would end a process that doesn't handle them.
_MEANINGLESS: Final = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each of the settings."""
    for field in reversed(attrs.fields(Settings)):
        default = None if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type] # attrs types Factory as a function
        name, flag = field.name.replace("_", "-"), isinstance(default, bool)
        command = click.option(
            f"--{name}/--no-{name}" if flag else f"--{name}",
            type=None if flag else _range(field, isinstance(default, float)),
            default=default,
            show_default=default is not None,
            help=field.metadata["help"],
            hidden=field.name not in _SHOWN,
        )(command)
    return command


#: The options that `--help` shows, in this order. The finer limits are options as well; the reference
#: has them all.
_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "Where it listens": ("host", "port", "unix", "admin_port", "tls_cert", "tls_key"),
    "Access": (
        *("secret", "issuer", "insecure", "allow_origin", "allow_params", "trusted_proxy", "page"),
    ),
    "The log of notifications": (
        *("store", "durability", "max_log_entries", "max_log_bytes", "max_log_age"),
    ),
    "Limits": ("max_connections", "max_message_bytes", "drain_timeout"),
    "Logging and more": ("log_format", "log_level", "config", "help"),
}
_SHOWN: Final = frozenset(itertools.chain.from_iterable(_GROUPS.values()))


class _Serve(click.Command):
    """A command whose help shows the options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # (The parameter of --help has another name in newer versions of click.)
        records = {
            param.opts[0].removeprefix("--").replace("-", "_"): param.get_help_record(ctx)
            for param in self.get_params(ctx)
        }
        for group, names in _GROUPS.items():
            with formatter.section(group):
                formatter.write_dl([record for name in names if (record := records[name])])


def _range(field: attrs.Attribute[Any], fractions: bool) -> click.ParamType[Any]:
    """Return a type with the limits of a setting, so that an error can name the value's source."""
    if field.metadata.get("fractions"):
        return NUMBER
    return DURATION if fractions else _whole(1, field.metadata.get("most"))


def _whole(least: int, most: int | None) -> click.IntRange:
    kind = click.IntRange(least, most)
    kind.name = "integer"  # of one that is none it would say that it is no valid "integer range"
    return kind


@click.command(cls=_Serve)
@config_option
@click.option(
    "--host",
    multiple=True,
    default=[DEFAULT_HOST],
    show_default=True,
    help="Name or address to listen on. :: means every address, including IPv4. May be given several"
    " times.",
)
@click.option(
    "--port",
    type=_whole(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="TCP port to listen on. 0 picks a free one.",
)
@click.option(
    "--unix",
    type=FILE,
    help="Listen on a Unix socket with this path instead of a TCP port.  [default: none]",
)
@click.option(
    "--secret",
    type=FILE,
    metavar="FILE",
    help="File with the secret. Clients must present it, or a query signed with it; see `sign`."
    "  [default: none]",
)
@tokens_options
@click.option(
    "--insecure",
    is_flag=True,
    help="Accept every client from anywhere without a secret. Without this option, a server without a"
    " secret listens on loopback addresses only.",
)
@click.option(
    "--tls-cert",
    type=FILE,
    metavar="FILE",
    help="TLS certificate in PEM. Serve TLS only.  [default: no TLS]",
)
@click.option(
    "--tls-key",
    type=FILE,
    metavar="FILE",
    help="Key of the certificate, in PEM.  [default: in the file of --tls-cert]",
)
@click.option(
    "--trusted-proxy",
    multiple=True,
    metavar="NETWORK",
    help="Trust X-Forwarded-For from these peers: an address, a network, or unix. May be given several"
    " times.  [default: none]",
)
@click.option(
    "--admin-port",
    type=_whole(0, 65535),
    help="Serve /clients, /nodes, /metrics and the health checks on this port only.  [default: --port]",
)
@click.option(
    "--reuse-port",
    hidden=True,
    is_flag=True,
    help="Share the port with other processes that have this option, such as one per core.",
)
@click.option(
    "--allow-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Let web pages of another origin use the server: https://example.org, https://*.example.org, or"
    " *. May be given several times.  [default: none]",
)
@click.option(
    "--allow-params",
    multiple=True,
    metavar="KEYS",
    help="Query keys of the application, separated by spaces or commas. Any other unknown key is refused"
    " with 400. May be given several times.  [default: any]",
)
@click.option(
    "--subprotocol",
    multiple=True,
    hidden=True,
    metavar="NAME",
    help="Accept this WebSocket subprotocol, and serve its clients in the raw format. May be given"
    " several times.  [default: none]",
)
@click.option("--page/--no-page", default=True, show_default=True, help="Serve a web page at /.")
@click.option(
    "--store",
    default="memory:",
    show_default=True,
    metavar="memory:|sqlite:PATH|redis://HOST",
    help="Where to keep the log: in memory, in a file, where it survives a restart, or on a Redis that"
    " several servers share. Put a URL that has a password into TRIONOTIFY_STORE or the config file.",
)
@click.option(
    "--durability",
    type=click.Choice(DURABILITIES),
    help="When a notification counts as stored. In a file: full (waits for the disk, and survives a"
    " power cut) or normal (does not wait). On Redis: primary, replicated or fsynced.  [default: full,"
    " on Redis primary]",
)
@click.option(
    "--node-name",
    hidden=True,
    help="Name of this server among those that share a log on Redis.  [default: the host's name]",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default=FORMATS[0],
    show_default=True,
    help="Format of the log on stderr: text for people, json for machines.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="Lowest level to log.",
)
@_settings_options
def serve(log_format: str, log_level: str, **given: Any) -> None:
    """Run the server until SIGINT or SIGTERM. Then it drains. A second signal ends it at once.

    Every option can also be given as the environment variable TRIONOTIFY_OPTION, and in the file that
    --config names. At SIGHUP the server reads the files of secrets, keys and certificates again. More
    limits and timeouts, which few servers need to change, are in docs/configuration.md.

    \b
    python -m trionotify --port 8765
    python -m trionotify serve --unix /run/trionotify.sock
    python -m trionotify serve --host 0.0.0.0 --secret /etc/trionotify/secret
    """
    flush = configure(log_format, log_level)
    for line in misspelt_variables(cast("click.Group", click.get_current_context().find_root().command)):
        logger.warning("%s", line, extra={"event": "misspelt_variable", "reason": line})
    # While the server starts and ends, there is nothing to read again, and the signal must not end it.
    before = _ignore_reloading()
    terminal = Terminal(ignored=_RELOADING is None or before is signal.SIG_IGN)
    for number in _MEANINGLESS:
        signal.signal(number, signal.SIG_IGN)
    options = {name: value for name, value in given.items() if value is not None}
    if not options["allow_params"]:
        del options["allow_params"]
    take_tokens(options)
    _check_place()
    if "secret" in options:
        options["secret"] = Path(options["secret"])
    # A connection is some hundred objects that stay. Looking at them again and again, as by default,
    # costs a fifth of what connecting does. Looking at all objects stops all clients (for 0.7 s if a
    # thousand clients have long filters), and finds little, because a connection that has ended leaves
    # no cycles.
    gc.freeze()
    gc.set_threshold(2_000, 20, 100)
    give_memory_back()
    raise_file_limit()
    listening = trio.Event()
    try:
        options["sockets"] = inherited_sockets()
        code = trio.run(_serve, options, listening, terminal)
    except (*_MISTAKES, ExceptionGroup) as error:
        leaves = _leaves(error)
        if listening.is_set() or not all(isinstance(leaf, _MISTAKES) for leaf in leaves):
            raise
        # For invalid options, or an address that can't be used, one line is enough, without a traceback.
        flush()
        for leaf in leaves:
            say(f"trionotify: {with_its_place(_in_short(leaf))}")
        raise SystemExit(1) from None
    raise SystemExit(code)


def _ignore_reloading() -> Any:
    """Ignore the signal that reloads files; return its previous handler.

    The kernel then drops the signal.
    """
    return None if _RELOADING is None else signal.signal(_RELOADING, signal.SIG_IGN)


def _check_place() -> None:
    """Raise `Mistake` for a host or port that a Unix socket makes meaningless.

    A value from a lower source (a variable, if --unix is on the command line) is ignored.
    """
    context = click.get_current_context()
    weights = [ParameterSource.DEFAULT, *_SOURCES]

    def weight(name: str) -> int:
        source = context.get_parameter_source(name)
        return weights.index(source) if source in weights else 0

    for name in ("host", "port"):
        if weight("unix") and weight(name) >= weight("unix"):
            raise Mistake(f"--unix: must not be combined with --{name}; leave out one of them")


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


def _in_short(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


async def _serve(options: dict[str, Any], listening: trio.Event, terminal: Terminal) -> int:
    """Serve until a signal; return the exit code."""
    forced: list[int] = []
    handled = _ENDING if _RELOADING is None else (*_ENDING, _RELOADING)
    with trio.open_signal_receiver(*handled) as signals:
        async with trio.open_nursery() as nursery:
            async with open_server(**options) as server:
                listening.set()
                _announce(server, options)
                _warn_of_few_descriptors(server.hub.settings)
                notify("READY=1")
                number = await _next_ending(signals, partial(_reload, server), terminal)
                _ignore_reloading()
                name = signal.Signals(number).name
                why = (
                    "the terminal is gone"
                    if number == _RELOADING
                    else "a second signal ends the server at once"
                )
                logger.info("%s; %s", name, why, extra={"event": "stopping", "signal": name})
                notify("STOPPING=1")
                watch = partial(_abort_at_second, signals, server.hub, nursery.cancel_scope, forced)  # noqa: ASYNC111 - it watches while the server stops
                nursery.start_soon(watch, name="trionotify: second signal")
                await server.drain()
            nursery.cancel_scope.cancel()
    # The exit code that a shell gives to a process killed by a signal.
    return 128 + forced[0] if forced else 0


async def _next_ending(
    signals: AsyncIterator[int],
    reload: Callable[[], None] | None = None,
    terminal: Terminal | None = None,
) -> int:
    """Wait for a signal that ends the server. At SIGHUP, call `reload`.

    SIGHUP also ends the server if its `terminal` is gone.
    """
    async for number in signals:
        if number in _ENDING or (terminal is not None and terminal.is_gone()):
            return number
        if reload is not None:
            reload()
    raise AssertionError("the receiver of signals never ends")


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


async def _abort_at_second(
    signals: AsyncIterator[int], hub: Hub, scope: trio.CancelScope, forced: list[int]
) -> None:
    forced.append(await _next_ending(signals))
    name = signal.Signals(forced[0]).name
    logger.info("%s: stopping at once", name, extra={"event": "forced", "signal": name})
    hub.abort()
    scope.cancel()
