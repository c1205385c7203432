"""The command line. Signal handlers, logging and exit codes belong here and nowhere else."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

import attrs
import click
import trio

import trionotify
from trionotify.server import DEFAULT_HOST, DEFAULT_PORT, open_server
from trionotify.settings import Settings

__all__ = ["main"]

logger = logging.getLogger("trionotify")

_DEFAULT_COMMAND: Final = "serve"


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
@_settings_options
def serve(host: str, port: int, unix: str | None, insecure: bool, **settings: float | None) -> None:
    """Run the server until SIGINT or SIGTERM; a second one ends it at once.

    Every option can also be given as the environment variable TRIONOTIFY_OPTION.

    \b
    python -m trionotify --port 8765
    python -m trionotify serve --unix /run/trionotify.sock
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    given = {name: value for name, value in settings.items() if value is not None}
    # A connection is some hundred objects that stay. Looking at them again and again, as by default,
    # costs a fifth of what connecting does.
    gc.freeze()
    gc.set_threshold(2_000, 20, 20)
    options = {"host": host, "port": port, "unix": unix, "insecure": insecure, **given}
    listening = trio.Event()
    try:
        trio.run(_serve, options, listening)
    except (OSError, ValueError, TypeError, ExceptionGroup) as error:
        leaves = _leaves(error)
        if listening.is_set() or not all(isinstance(leaf, _BAD_OPTIONS) for leaf in leaves):
            raise
        # Bad options, or no way to listen there: one clear line, no traceback.
        for leaf in leaves:
            click.echo(f"trionotify: {leaf}", err=True)
        raise SystemExit(1) from None


_BAD_OPTIONS: Final = (OSError, ValueError, TypeError)


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


async def _serve(options: dict[str, Any], listening: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            async with open_server(**options) as server:
                listening.set()
                click.echo(f"trionotify: listening on {server.url}")
                await anext(signals)
                logger.info("stopping: no new connections, and a goodbye to all that are open")
                nursery.start_soon(_abort_at_second, signals, server.hub, nursery.cancel_scope)  # noqa: ASYNC111 - it watches while the server stops
            nursery.cancel_scope.cancel()


async def _abort_at_second(signals: Any, hub: trionotify.Hub, scope: trio.CancelScope) -> None:
    await anext(signals)
    logger.info("stopping at once")
    hub.abort()
    scope.cancel()
