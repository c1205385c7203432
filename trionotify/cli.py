"""The command line: all commands, and those that need no server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Final

import click
from click.shell_completion import get_completion_class

import trionotify
from trionotify.cloudevents import NotAnEvent, decode
from trionotify.commands import filter_options, predicate_of, publish, subscribe, top
from trionotify.config import DURATION, in_one_line, name_variables
from trionotify.errors import StoreError
from trionotify.logs.sqlite import new_epoch as renew
from trionotify.service import serve
from trionotify.stdio import Failure, Mistake, keep_numbers, show

__all__ = ["main"]

_DEFAULT_COMMAND: Final = "serve"
_SHELLS: Final = ("bash", "zsh", "fish")
#: A group without a command shows its help. (Older versions of click have no name for that.)
_SHOWS_HELP: Final = getattr(click.exceptions, "NoArgsIsHelpError", ())


class _Commands(click.Group):
    """Commands of which the first word may be left out when it is `serve`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # (A shell that completes the first word gives none: it wants to hear of all commands.)
        first = args[0] if args else "" if ctx.resilient_parsing else "-"
        if first.startswith("-") and first not in ("--help", "--version"):
            args = [_DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if isinstance(error, _SHOWS_HELP):
                raise
            raise Mistake(in_one_line(error)) from None

    def main(self, *args: Any, **extra: Any) -> Any:
        keep_numbers()
        return super().main(*args, **extra)


@click.group(cls=_Commands)
@click.version_option(trionotify.__version__, package_name="trionotify")
def main() -> None:
    """A WebSocket notification server.

    Without a command, `serve` is run. Every option of every command can also be given as the environment
    variable TRIONOTIFY_OPTION.

    \b
    python -m trionotify
    python -m trionotify subscribe --id alice
    python -m trionotify publish --to alice 'disk is full'
    """


@main.group()
def store() -> None:
    """Look after the file of a durable log.

    \b
    python -m trionotify store new-epoch sqlite:/var/lib/trionotify/log.db
    """


@store.command("new-epoch")
@click.argument("store", metavar="sqlite:PATH")
def new_epoch(store: str) -> None:
    """Void every cursor, after the file was restored from a backup.

    Its notifications stay. But offsets that clients have seen may be given again, and so a cursor from
    before must not be resumed: clients are told so, and load their state anew.

    \b
    python -m trionotify store new-epoch sqlite:/var/lib/trionotify/log.db
    """
    try:
        epoch = renew(store.removeprefix("sqlite:"))
    except StoreError as error:
        raise Failure(str(error)) from None
    show(f"trionotify: the new epoch is {epoch}")


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
        raise Mistake(f"{event.name}: {error}") from None
    found = trionotify.explain(predicate, notification)
    show(str(found))
    raise SystemExit(0 if found else 1)


@main.command()
@click.option(
    "--secret",
    type=click.Path(readable=False),
    required=True,
    metavar="FILE",
    help="The server's: the first line signs.",
)
@click.option(
    *("--expires", "expires_in"),
    type=DURATION,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="In how long, in seconds or as 30s, 15m, 12h.",
)
@click.argument("query", nargs=-1, required=True, metavar="KEY=VALUE... | URL")
def sign(secret: str, expires_in: float, query: tuple[str, ...]) -> None:
    """Sign a query, or a whole URL with one, for a server with a secret, and print it.

    Whoever connects with it is the client that it names, with its role and filters, until it expires.

    \b
    python -m trionotify sign --secret FILE id=alice role=both exact.team=ops
    python -m trionotify sign --secret FILE --expires 12h 'wss://example.org/events?id=alice'
    """
    try:
        signed = trionotify.sign("&".join(query), Path(secret), expires_in=expires_in)
    except ValueError as error:
        raise Mistake(str(error)) from None
    show(signed)


@main.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print what lets a shell complete the command `trionotify`: its commands and their options.

    \b
    eval "$(trionotify completion bash)"
    trionotify completion fish > ~/.config/fish/completions/trionotify.fish
    """
    made = get_completion_class(shell)
    assert made is not None  # it is one of those that click knows
    show(made(main, {}, "trionotify", "_TRIONOTIFY_COMPLETE").source())


for _command in (serve, publish, subscribe, top):
    main.add_command(_command)
name_variables(main)
