"""The command line, with the commands that need no server."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_tb
from typing import Any, BinaryIO, Final

import click
from click.shell_completion import get_completion_class

from trionotify.cli.client import filter_options, predicate_of
from trionotify.cli.config import DURATION, FILE, in_one_line, name_variables
from trionotify.cli.publish import publish
from trionotify.cli.serve import serve
from trionotify.cli.stdio import Failure, Mistake, keep_numbers, show, stdout_failed
from trionotify.cli.subscribe import subscribe
from trionotify.cli.top import top
from trionotify.delivery.explain import explain as explain_predicate
from trionotify.errors import StoreError
from trionotify.http.secret import sign as sign_query
from trionotify.model.cloudevents import NotAnEvent, decode
from trionotify.storage import care
from trionotify.storage.care import backup as copy_log
from trionotify.storage.redis_address import SCHEMES
from trionotify.storage.sqlite import new_epoch as renew
from trionotify.version import __version__

__all__ = ["main"]

_DEFAULT_COMMAND: Final = "serve"
_SHELLS: Final = ("bash", "zsh", "fish")
#: A group without a command shows its help. (Older versions of click have no name for that.)
_SHOWS_HELP: Final = getattr(click.exceptions, "NoArgsIsHelpError", ())


class _Commands(click.Group):
    """A group of commands whose default command is `serve`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # (A shell that completes the first word gives none, because it asks for all commands.)
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
        try:
            return super().main(*args, **extra)
        except OSError as error:
            # click writes a help and the version to stdout by itself.
            *_, (frame, _) = walk_tb(error.__traceback__)
            if frame.f_code is not click.echo.__code__:
                raise
            failure = stdout_failed(error)
            failure.show()
            sys.exit(failure.exit_code)


@click.group(cls=_Commands)
@click.version_option(__version__, package_name="trionotify")
def main() -> None:
    """A WebSocket notification server.

    If you give no command, `serve` runs. Every option of every command can also be given as the
    environment variable TRIONOTIFY_OPTION.

    \b
    python -m trionotify
    python -m trionotify subscribe --id alice
    python -m trionotify publish --to alice 'disk is full'
    """


@main.group()
def store() -> None:
    """Back up, check and repair the file of a durable log.

    \b
    python -m trionotify store backup sqlite:/var/lib/trionotify/log.db /backup/log.db
    """


_PATH: Final = click.argument("store", metavar="sqlite:PATH")


@store.command("backup")
@_PATH
@click.argument("destination", metavar="DEST", type=click.Path(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace DEST if it exists.")
def backup(store: str, destination: str, *, force: bool) -> None:
    """Copy the log to the file DEST, even while a server uses it.

    If a server uses the log, the server makes the copy, so DEST must be a path that it can write. The
    copy appears when it is complete.

    \b
    python -m trionotify store backup sqlite:/var/lib/trionotify/log.db /backup/log.db
    """
    path, destination = _path_of(store), os.path.abspath(destination)
    if not force and os.path.exists(destination):
        raise Failure(f"{destination}: already exists; name another path, or use --force to replace it")
    with _failing():
        copy_log(path, destination)
    show(f"trionotify: the log was copied to {destination}")


@store.command("check")
@_PATH
def check(store: str) -> None:
    """Check the log for damage, while no server uses it.

    It prints a line for each fault. The exit code is 0 if there is none, else 1. The file stays
    unchanged.

    \b
    python -m trionotify store check sqlite:/var/lib/trionotify/log.db
    """
    path = _path_of(store)
    with _failing():
        faults = care.check(path)
    for fault in faults:
        show(f"{path}: {fault}")
    if faults:
        raise Failure(
            f"{path}: damaged; run `trionotify store repair {store}` to keep the undamaged part"
        )
    show(f"{path}: no damage found")


@store.command("repair")
@_PATH
def repair(store: str) -> None:
    """Keep the undamaged part of a damaged log, while no server uses it.

    The damaged file is kept under another name. The repaired log has a new epoch, so clients are told
    that they can't resume, and they reload their state.

    \b
    python -m trionotify store repair sqlite:/var/lib/trionotify/log.db
    """
    with _failing():
        found = care.repair(_path_of(store))
    show(
        f"trionotify: kept {found.kept} notifications, lost {found.lost}; the damaged file is"
        f" {found.aside}; the new epoch is {found.epoch}"
    )


@store.command("new-epoch")
@_PATH
def new_epoch(store: str) -> None:
    """Make every cursor invalid, after you restored a snapshot of all of the log's files.

    The notifications stay. But the server may use offsets again that clients have seen, so no client may
    resume at an old cursor. Clients are told so, and they reload their state.

    \b
    python -m trionotify store new-epoch sqlite:/var/lib/trionotify/log.db
    """
    with _failing():
        epoch = renew(_path_of(store))
    show(f"trionotify: the new epoch is {epoch}")


def _path_of(store: str) -> str:
    if store.startswith(tuple(f"{scheme}:" for scheme in SCHEMES)):
        raise Mistake("store: must be sqlite:PATH, because a log on Redis has no file")
    return store.removeprefix("sqlite:")


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise Failure(str(error)) from None


@main.command()
@filter_options
@click.argument("event", type=click.File("rb"), metavar="EVENT.json")
def explain(filters: str | None, sql: str | None, event: BinaryIO) -> None:
    """Show whether a filter matches an event, and why, condition by condition.

    EVENT.json is a file with a CloudEvent in JSON, or - for stdin. The exit code is 0 if the filter
    matches, 1 if it doesn't, and 2 if the filter or the event is invalid.

    \b
    python -m trionotify explain --sql "type LIKE 'order.%'" event.json
    """
    predicate = predicate_of(filters, sql)
    try:
        notification = decode(event.read())
    except NotAnEvent as error:
        raise Mistake(f"{event.name}: {error}") from None
    found = explain_predicate(predicate, notification)
    show(str(found))
    raise SystemExit(0 if found else 1)


@main.command()
@click.option(
    "--secret",
    type=FILE,
    required=True,
    metavar="FILE",
    help="File with the server's secret. Its first line signs.",
)
@click.option(
    "--expires",
    "expires_in",
    type=DURATION,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="Time until the query expires, in seconds or as a text like 30s, 15m or 12h.",
)
@click.argument("query", nargs=-1, required=True, metavar="KEY=VALUE... | URL")
def sign(secret: str, expires_in: float, query: tuple[str, ...]) -> None:
    """Sign a query, or a whole URL, for a server with a secret, and print it.

    Until it expires, a client can connect with it, and has the id, the role and the filters in it.

    \b
    python -m trionotify sign --secret FILE id=alice role=both exact.team=ops
    python -m trionotify sign --secret FILE --expires 12h 'wss://example.org/events?id=alice'
    """
    for part in query:
        if "=" not in part and "/" not in part:
            raise Mistake(f"{part}: must be KEY=VALUE, such as id={part}, or a URL")
    try:
        signed = sign_query("&".join(query), Path(secret), expires_in=expires_in)
    except ValueError as error:
        raise Mistake(str(error)) from None
    show(signed)


@main.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print a script that lets a shell complete the commands and options of trionotify.

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
