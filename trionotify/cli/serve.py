"""`serve`: its options, the checks of the process before it serves, and the exit code.

`process` has what happens while it serves.
"""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Callable, Mapping
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
from trionotify.cli.process import ignore_signals, serve_until_signal
from trionotify.cli.stdio import Mistake, Terminal, say
from trionotify.cli.systemd import inherited_sockets
from trionotify.cli.tokens import take_tokens, tokens_options
from trionotify.errors import StoreError, leaves
from trionotify.server.server import DEFAULT_HOST, DEFAULT_PORT
from trionotify.settings import Settings, raise_file_limit
from trionotify.storage import DURABILITIES

__all__ = ["serve"]

logger: logging.Logger = logging.getLogger("trionotify")

_MISTAKES: Final = (OSError, ValueError, TypeError, StoreError)
#: The sources of options, by increasing precedence.
_SOURCES: Final = (ParameterSource.DEFAULT_MAP, ParameterSource.ENVIRONMENT, ParameterSource.COMMANDLINE)


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
    help="Trust X-Forwarded-For and X-Forwarded-Proto from these peers: an address, a network, or unix."
    " May be given several times.  [default: none]",
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
    terminal = Terminal(ignored=ignore_signals())
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
        code = trio.run(serve_until_signal, options, listening, terminal)
    except (*_MISTAKES, ExceptionGroup) as error:
        found = leaves(error)
        if listening.is_set() or not all(isinstance(leaf, _MISTAKES) for leaf in found):
            raise
        # For invalid options, or an address that can't be used, one line is enough, without a traceback.
        flush()
        for leaf in found:
            say(f"trionotify: {with_its_place(_in_short(leaf))}")
        raise SystemExit(1) from None
    raise SystemExit(code)


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


def _in_short(error: BaseException) -> str:
    """Return the error without its number."""
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)
