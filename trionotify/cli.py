"""The command line. Signal handlers, logging and exit codes belong here and nowhere else."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, Final

import attrs
import click
import trio

import trionotify
from trionotify.cloudevents import NotAnEvent, decode
from trionotify.commands import filter_options, predicate_of, publish, subscribe, top
from trionotify.errors import StoreError
from trionotify.logs import DURABILITIES
from trionotify.logs.sqlite import new_epoch as renew
from trionotify.server import DEFAULT_HOST, DEFAULT_PORT, open_server
from trionotify.settings import Settings

__all__ = ["main"]

logger = logging.getLogger("trionotify")

_DEFAULT_COMMAND: Final = "serve"
_BAD_OPTIONS: Final = (OSError, ValueError, TypeError, StoreError)


class _Commands(click.Group):
    """Commands of which the first word may be left out when it is `serve`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("--help", "--version")):
            args = [_DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Commands)
@click.version_option(trionotify.__version__, package_name="trionotify")
def main() -> None:
    """A WebSocket notification server.

    Without a command, `serve` is run.
    """


main.add_command(publish)
main.add_command(subscribe)
main.add_command(top)


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option, and one environment variable, for each of the settings."""
    for field in reversed(attrs.fields(Settings)):
        default = None if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type] # attrs types Factory as a function
        command = click.option(
            f"--{field.name.replace('_', '-')}",
            envvar=f"TRIONOTIFY_{field.name.upper()}",
            type=float if isinstance(default, float) else int,
            default=default,
            show_default=default is not None,
            help=field.metadata["help"],
        )(command)
    return command


@main.command()
@click.option("--host", envvar="TRIONOTIFY_HOST", default=DEFAULT_HOST, show_default=True)
@click.option(
    "--port",
    envvar="TRIONOTIFY_PORT",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="0 picks a free one.",
)
@click.option(
    "--unix",
    envvar="TRIONOTIFY_UNIX",
    type=click.Path(),
    help="Listen on a Unix socket at this path instead.",
)
@click.option(
    "--insecure",
    envvar="TRIONOTIFY_INSECURE",
    is_flag=True,
    help="Let anyone in, from anywhere: else the server listens on loopback only.",
)
@click.option(
    "--admin-port",
    envvar="TRIONOTIFY_ADMIN_PORT",
    type=click.IntRange(0, 65535),
    help="Have /clients, /metrics and the health checks at this port alone.",
)
@click.option(
    "--allow-origin",
    envvar="TRIONOTIFY_ALLOW_ORIGIN",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of another site use the server: https://example.org, https://*.example.org, or *."
    " May be given several times.",
)
@click.option(
    "--page/--no-page",
    envvar="TRIONOTIFY_PAGE",
    default=True,
    show_default=True,
    help="Have a page for people at /.",
)
@click.option(
    "--store",
    envvar="TRIONOTIFY_STORE",
    default="memory:",
    show_default=True,
    metavar="memory:|sqlite:PATH",
    help="Where the log is: in memory, or in a file that outlives the process.",
)
@click.option(
    "--durability",
    envvar="TRIONOTIFY_DURABILITY",
    type=click.Choice(DURABILITIES),
    default="full",
    show_default=True,
    help="Of a log in a file: with full, each commit waits for the disk, and survives a power cut.",
)
@_settings_options
def serve(**given: Any) -> None:
    """Run the server until SIGINT or SIGTERM. It drains then; a second one ends it at once.

    Every option can also be given as the environment variable TRIONOTIFY_OPTION.

    \b
    python -m trionotify --port 8765
    python -m trionotify serve --unix /run/trionotify.sock
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    options = {name: value for name, value in given.items() if value is not None}
    # A connection is some hundred objects that stay. Looking at them again and again, as by default,
    # costs a fifth of what connecting does.
    gc.freeze()
    gc.set_threshold(2_000, 20, 20)
    listening = trio.Event()
    try:
        code = trio.run(_serve, options, listening)
    except (*_BAD_OPTIONS, ExceptionGroup) as error:
        leaves = _leaves(error)
        if listening.is_set() or not all(isinstance(leaf, _BAD_OPTIONS) for leaf in leaves):
            raise
        # Bad options, or no way to listen there: one clear line, no traceback.
        for leaf in leaves:
            click.echo(f"trionotify: {leaf}", err=True)
        raise SystemExit(1) from None
    raise SystemExit(code)


@main.group()
def store() -> None:
    """Look after the file of a durable log."""


@store.command("new-epoch")
@click.argument("store", metavar="sqlite:PATH")
def new_epoch(store: str) -> None:
    """Void every cursor, after the file was restored from a backup.

    Its notifications stay. But offsets that clients have seen may be given again, and so a cursor from
    before must not be resumed: clients are told so, and load their state anew.
    """
    try:
        click.echo(f"trionotify: the new epoch is {renew(store.removeprefix('sqlite:'))}")
    except StoreError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@filter_options
@click.argument("event", type=click.File("rb"), metavar="EVENT.json")
def explain(filters: str | None, sql: str | None, event: BinaryIO) -> None:
    """Say whether a filter wants an event, and why: each condition, and what it found.

    EVENT.json is a file with a CloudEvent in JSON, or - for stdin. The exit code is 0 if the event is
    wanted, 1 if it isn't, and 2 if one of them can't be understood.

    \b
    python -m trionotify explain --sql "type LIKE 'order.%'" event.json
    """
    predicate = predicate_of(filters, sql)
    try:
        notification = decode(event.read())
    except NotAnEvent as error:
        raise click.UsageError(f"{event.name}: {error}") from None
    found = trionotify.explain(predicate, notification)
    click.echo(str(found))
    raise SystemExit(0 if found else 1)


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


async def _serve(options: dict[str, Any], listening: trio.Event) -> int:
    """Serve until a signal; return the exit code."""
    forced: list[int] = []
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            async with open_server(**options) as server:
                listening.set()
                click.echo(f"trionotify: listening on {server.url}")
                if server.admin_url:
                    logger.info("clients, metrics and health checks on %s", server.admin_url)
                number = await anext(signals)
                logger.info("%s; a second one ends it at once", signal.Signals(number).name)
                nursery.start_soon(_abort_at_second, signals, server.hub, nursery.cancel_scope, forced)  # noqa: ASYNC111 - it watches while the server stops
                await server.drain()
            nursery.cancel_scope.cancel()
    # As a shell has it of one that a signal killed.
    return 128 + forced[0] if forced else 0


async def _abort_at_second(
    signals: Any, hub: trionotify.Hub, scope: trio.CancelScope, forced: list[int]
) -> None:
    forced.append(await anext(signals))
    logger.info("stopping at once")
    hub.abort()
    scope.cancel()
