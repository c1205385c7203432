"""What the commands share that use the Python client: their options, the connection, and the end.

Standard input and output are used in a thread, with `os.read` and `os.write` only, and may block for
any time. If the process ends meanwhile, such a thread holds no lock that Python needs.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, NoReturn

import click
import trio

from trionotify.cli.config import FILE
from trionotify.cli.stdio import Failure, Mistake, output_number, say, unread
from trionotify.client.remote import Remote, connect
from trionotify.errors import TrionotifyError
from trionotify.http.secret import Secret
from trionotify.model.filters import from_json
from trionotify.model.predicates import EVERYTHING, AllOf, Predicate, Sql
from trionotify.model.text import without_mark
from trionotify.server.server import DEFAULT_HOST, DEFAULT_PORT

__all__ = [
    "URL",
    "Client",
    "client_of",
    "client_options",
    "filter_options",
    "headers_of",
    "predicate_of",
    "run",
    "secret_option",
]

Client = AbstractAsyncContextManager[Remote]

URL: Final = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
#: Errors that are printed in one line, because they explain themselves.
_REASONS: Final = (TrionotifyError, OSError, ValueError)


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for filters, `--filters` and `--sql`, and `--filter`, an old name."""
    for option in (
        click.option("--sql", metavar="EXPR", help="Filter in CloudEvents SQL.  [default: everything]"),
        click.option(
            "--filters",
            "--filter",
            "filters",
            metavar="JSON",
            help="Filter, or array of filters, in JSON.  [default: everything]",
        ),
    ):
        command = option(command)
    return command


def predicate_of(filters: str | None, sql: str | None) -> Predicate:
    """Return the predicate of the options.

    If both are given, both must match. A mistake in them ends the command.
    """
    try:
        parts = [from_json(without_mark(filters))] if filters is not None else []
    except ValueError as error:
        raise Mistake(f"--filters: {error}") from None
    try:
        parts += [Sql(sql)] if sql is not None else []
    except ValueError as error:
        raise Mistake(f"--sql: {error}") from None
    if len(parts) < 2:
        return parts[0] if parts else EVERYTHING
    return AllOf(parts)


secret_option: Final = click.option(
    "--secret",
    type=FILE,
    metavar="FILE",
    help="File with the server's secret, if it requires one.",
)


def headers_of(secret: str | None) -> tuple[tuple[str, str], ...]:
    """Return the `Authorization` header with the server's secret; none without a secret."""
    try:
        return () if secret is None else (Secret.of_file(secret).bearer,)
    except ValueError as error:
        raise Mistake(str(error)) from None


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the server's URL and the client's identity."""
    for option in (
        click.option("--id", help="Client id to connect as.  [default: random]"),
        secret_option,
        click.option(
            "--url",
            default=URL,
            show_default=True,
            help="URL of the server, or unix:PATH for a Unix socket. It may have a query.",
        ),
    ):
        command = option(command)
    return command


def client_of(secret: str | None, **options: Any) -> Callable[[], Client]:
    return partial(_connected, extra_headers=headers_of(secret), **options)


@asynccontextmanager
async def _connected(**options: Any) -> AsyncIterator[Remote]:
    """Connect a client. Raises `Mistake` for invalid arguments."""
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(connect(**options))
        except (TypeError, ValueError) as error:
            raise Mistake(str(error)) from None
        yield client


def run(work: Callable[[], Awaitable[int]], *, ends_unread: bool = False) -> NoReturn:
    """Run `work`, and exit with its exit code, or with 130 after Ctrl-C.

    With `ends_unread`, also exit with 0 when stdout no longer has a reader, as in `… | head`.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="trionotify: %(message)s")
    logging.raiseExceptions = False  # a stderr that takes nothing is no reason for more
    try:
        code = trio.run(_until_signal, work, ends_unread)
    except KeyboardInterrupt:  # before the signals were ours
        code = 128 + signal.SIGINT
    raise SystemExit(code)


async def _until_signal(work: Callable[[], Awaitable[int]], ends_unread: bool) -> int:
    """Run `work`; return its result, or a shell's exit code for the signal that cancelled it."""
    code = 0
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal code
                code = 128 + await anext(signals)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                if ends_unread:
                    nursery.start_soon(unread, output_number(), nursery.cancel_scope.cancel)
                code = await work()
            except Failure as failure:
                failure.show()
                code = failure.exit_code
            except _REASONS as error:
                say(f"trionotify: {error}")
                code = 1
            nursery.cancel_scope.cancel()
    return code
