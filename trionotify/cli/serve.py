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

from trionotify.cli.config import DURATION, config_option, misspelt_variables, with_its_place
from trionotify.cli.logging import FORMATS, LEVELS, configure
from trionotify.cli.memory import give_memory_back
from trionotify.cli.stdio import Mistake, Terminal, let_go_of_stdout, say
from trionotify.cli.systemd import inherited_sockets, notify, notify_reloading
from trionotify.delivery.hub import Hub
from trionotify.errors import StoreError
from trionotify.server.server import DEFAULT_HOST, DEFAULT_PORT, Server, open_server
from trionotify.settings import OTHER_FILES, Settings, file_limit, raise_file_limit
from trionotify.storage import DURABILITIES
from trionotify.version import __version__

__all__ = ["serve"]

logger: logging.Logger = logging.getLogger("trionotify")

_MISTAKES: Final = (OSError, ValueError, TypeError, StoreError)
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)
#: Where options come from, the last one first served.
_SOURCES: Final = (
    ParameterSource.DEFAULT_MAP,
    ParameterSource.ENVIRONMENT,
    ParameterSource.COMMANDLINE,
)
#: Windows has no such signals.
_RELOADING: Final = getattr(signal, "SIGHUP", None)
#: Those of which a process dies that doesn't know them: of a script that means another one.
_MEANINGLESS: Final = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each of the settings."""
    for field in reversed(attrs.fields(Settings)):
        default = None if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type] # attrs types Factory as a function
        command = click.option(
            f"--{field.name.replace('_', '-')}",
            type=_range(field, isinstance(default, float)),
            default=default,
            show_default=default is not None,
            help=field.metadata["help"],
            hidden=field.name not in _SHOWN,
        )(command)
    return command


#: What `--help` shows, in this order. The finer limits are options as well; the reference has them all.
_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "Where it listens": ("host", "port", "unix", "admin_port", "tls_cert", "tls_key"),
    "Who may use it": (
        "secret",
        "insecure",
        "allow_origin",
        "allow_params",
        "trusted_proxy",
        "subprotocol",
        "page",
    ),
    "The log of notifications": (
        "store",
        "durability",
        "max_log_entries",
        "max_log_bytes",
        "max_log_age",
    ),
    "Limits": ("max_connections", "max_message_bytes", "drain_timeout"),
    "The server's own log, and more": ("log_format", "log_level", "config", "help"),
}
_SHOWN: Final = frozenset(itertools.chain.from_iterable(_GROUPS.values()))


class _Serve(click.Command):
    """Its help has the options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # (That of --help has another name in newer versions of click.)
        records = {
            param.opts[0].removeprefix("--").replace("-", "_"): param.get_help_record(ctx)
            for param in self.get_params(ctx)
        }
        for group, names in _GROUPS.items():
            with formatter.section(group):
                formatter.write_dl([record for name in names if (record := records[name])])


def _range(field: attrs.Attribute[Any], fractions: bool) -> click.ParamType[Any]:
    """What the settings check once more: here the error can say where the value stands."""
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
    help="A name or an address to listen at; :: is every address, of IPv4 as well."
    " May be given several times.",
)
@click.option(
    "--port",
    type=_whole(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="0 picks a free one.",
)
@click.option(
    "--unix", type=click.Path(readable=False), help="Listen on a Unix socket at this path instead."
)
@click.option(
    "--secret",
    type=click.Path(readable=False),
    metavar="FILE",
    help="Let in who has this file's secret, or a query that was signed with it: see `sign`.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Without a secret, let anyone in, from anywhere: else the server listens on loopback only.",
)
@click.option(
    "--tls-cert",
    type=click.Path(readable=False),
    metavar="FILE",
    help="A certificate in PEM: speak TLS, with it.",
)
@click.option(
    "--tls-key",
    type=click.Path(readable=False),
    metavar="FILE",
    help="Its key, if that isn't in the same file.",
)
@click.option(
    "--trusted-proxy",
    multiple=True,
    metavar="NETWORK",
    help="Believe what X-Forwarded-For says, from these peers: an address, a network, or unix."
    " May be given several times.",
)
@click.option(
    "--admin-port",
    type=_whole(0, 65535),
    help="Have /clients, /metrics and the health checks at this port alone.",
)
@click.option(
    "--allow-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of another site use the server: https://example.org, https://*.example.org, or *."
    " May be given several times.",
)
@click.option(
    "--allow-params",
    multiple=True,
    metavar="KEYS",
    help="The keys that queries may have besides the server's own, separated by spaces or commas; any"
    " other key is refused with a 400. May be given several times.  [default: any]",
)
@click.option(
    "--subprotocol",
    multiple=True,
    metavar="NAME",
    help="Take this WebSocket subprotocol from clients that offer it, and serve them as raw ones."
    " May be given several times.",
)
@click.option("--page/--no-page", default=True, show_default=True, help="Have a page for people at /.")
@click.option(
    "--store",
    default="memory:",
    show_default=True,
    metavar="memory:|sqlite:PATH",
    help="Where the log is: in memory, or in a file that outlives the process.",
)
@click.option(
    "--durability",
    type=click.Choice(DURABILITIES),
    default="full",
    show_default=True,
    help="Of a log in a file: with full, each commit waits for the disk, and survives a power cut.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default=FORMATS[0],
    show_default=True,
    help="What stderr gets: lines for people, or JSON for machines.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="What is worth a line there.",
)
@_settings_options
def serve(log_format: str, log_level: str, **given: Any) -> None:
    """Run the server until SIGINT or SIGTERM. It drains then; a second one ends it at once.

    Every option can also be given as the environment variable TRIONOTIFY_OPTION, and in the file that
    --config names. At SIGHUP the files of --secret, --tls-cert and --tls-key are read again. There are
    more limits and timeouts, like --ping-interval, which few servers need to change; docs/reference.md
    has all of them.

    \b
    python -m trionotify --port 8765
    python -m trionotify serve --unix /run/trionotify.sock
    python -m trionotify serve --host 0.0.0.0 --secret /etc/trionotify/secret
    """
    flush = configure(log_format, log_level)
    for line in misspelt_variables(cast("click.Group", click.get_current_context().find_root().command)):
        logger.warning("%s", line, extra={"event": "misspelt_variable", "reason": line})
    # While it starts and ends there is nothing to read again, and nothing to die of.
    before = _ignore_reloading()
    terminal = Terminal(ignored=_RELOADING is None or before is signal.SIG_IGN)
    for number in _MEANINGLESS:
        signal.signal(number, signal.SIG_IGN)
    options = {name: value for name, value in given.items() if value is not None}
    if not options["allow_params"]:
        del options["allow_params"]
    _check_place()
    if "secret" in options:
        options["secret"] = Path(options["secret"])
    # A connection is some hundred objects that stay. Looking at them again and again, as by default,
    # costs a fifth of what connecting does. Looking at all objects stops everyone (for 0.7 s where a
    # thousand clients have long filters), and finds little: a connection that is over leaves no cycles.
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
        # Bad options, or no way to listen there: one clear line, no traceback.
        flush()
        for leaf in leaves:
            say(f"trionotify: {with_its_place(_in_short(leaf))}")
        raise SystemExit(1) from None
    raise SystemExit(code)


def _ignore_reloading() -> Any:
    """Let the signal that reloads files do nothing; return what it did before.

    The kernel drops it then, at whatever point the process is.
    """
    return None if _RELOADING is None else signal.signal(_RELOADING, signal.SIG_IGN)


def _check_place() -> None:
    """Raise `Mistake` for a host or port that a Unix socket makes meaningless.

    One that comes from further down (a variable, when --unix is on the command line) is overruled.
    """
    context = click.get_current_context()
    weights = [ParameterSource.DEFAULT, *_SOURCES]

    def weight(name: str) -> int:
        source = context.get_parameter_source(name)
        return weights.index(source) if source in weights else 0

    for name in ("host", "port"):
        if weight("unix") and weight(name) >= weight("unix"):
            raise Mistake(f"--unix: a Unix socket has no {name}: leave out --unix or --{name}")


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
                why = "the terminal is gone" if number == _RELOADING else "a second one ends it at once"
                logger.info("%s; %s", name, why, extra={"event": "stopping", "signal": name})
                notify("STOPPING=1")
                watch = partial(_abort_at_second, signals, server.hub, nursery.cancel_scope, forced)  # noqa: ASYNC111 - it watches while the server stops
                nursery.start_soon(watch, name="trionotify: second signal")
                await server.drain()
            nursery.cancel_scope.cancel()
    # As a shell has it of one that a signal killed.
    return 128 + forced[0] if forced else 0


async def _next_ending(
    signals: AsyncIterator[int],
    reload: Callable[[], None] | None = None,
    terminal: Terminal | None = None,
) -> int:
    """Wait for a signal that ends the server; at the other one, `reload`.

    That ends it as well when its `terminal` is gone.
    """
    async for number in signals:
        if number in _ENDING or (terminal is not None and terminal.is_gone()):
            return number
        if reload is not None:
            reload()
    raise AssertionError("the receiver of signals never ends")


def _announce(server: Server, options: dict[str, Any]) -> None:
    """Say where it listens. If nobody can read that, it's no reason not to."""
    try:
        for url in server.urls:
            click.echo(f"trionotify: listening on {url}")
    except OSError as error:
        let_go_of_stdout()
        logger.warning("stdout: %s; listening on %s", error.strerror, ", ".join(server.urls))
    store, hub = options["store"], server.hub
    known: dict[str, Any] = {"version": __version__, "url": server.url, "store": store}
    known |= {"admin_url": server.admin_url, "secret": hub.secret is not None}
    logger.info(
        "started: version %s, the log in %s, open to %s%s",
        known["version"],
        store,
        "signed queries" if hub.secret else "anyone who reaches it",
        f"; clients, metrics and health checks on {server.admin_url}" if server.admin_url else "",
        extra={"event": "started", **known},
    )


def _warn_of_few_descriptors(settings: Settings) -> None:
    """All connections that are allowed may come, and each takes a descriptor."""
    wanted = settings.max_connections + settings.max_half_open + OTHER_FILES
    limit = file_limit()
    if wanted > limit:
        logger.warning(
            "max_connections and max_half_open: the server may need %d open files, and the process"
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
            "SIGHUP: %s; what was read before stays in force",
            error,
            extra={"event": "reload_failed", "reason": str(error)},
        )
    else:
        logger.info(
            "SIGHUP: %s",
            f"the files were read again: {', '.join(read)}"
            if read
            else "there are no files to read again",
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
