"""`publish` and `subscribe`: the Python client on the command line.

Both reconnect if the connection is lost, and report that on stderr. Standard input and output
are used in a thread, with `os.read` and `os.write` only, and may block for any time. If the process ends
meanwhile, such a thread holds no lock that Python needs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, NoReturn

import attrs
import click
import trio

from trionotify.cli.config import Duration
from trionotify.cli.stdio import Lines, Mistake, input_number, output_number, say, unread
from trionotify.cli.top import watch
from trionotify.client.remote import Remote, connect
from trionotify.errors import CloseCode, Closed, Lagged, TrionotifyError, Unreadable
from trionotify.http.secret import Secret
from trionotify.model.attributes import check_attribute_name
from trionotify.model.cloudevents import encode
from trionotify.model.filters import from_json
from trionotify.model.notification import Notification
from trionotify.model.predicates import EVERYTHING, AllOf, Predicate, Sql
from trionotify.model.text import without_mark
from trionotify.server.server import DEFAULT_HOST, DEFAULT_PORT

__all__ = ["filter_options", "predicate_of", "publish", "subscribe", "top"]

Client = AbstractAsyncContextManager[Remote]

_URL: Final = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
#: Attributes that are not for `--attribute`.
_WITH_OPTIONS: Final = ("type", "subject", "source", "datacontenttype", "to", "audience")
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


_secret_option = click.option(
    "--secret",
    type=click.Path(readable=False),
    metavar="FILE",
    help="File with the server's secret, if it requires one.",
)


def _headers(secret: str | None) -> tuple[tuple[str, str], ...]:
    """Return the `Authorization` header with the server's secret; none without a secret."""
    try:
        return () if secret is None else (Secret.of_file(secret).bearer,)
    except ValueError as error:
        raise Mistake(str(error)) from None


def _client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the server's URL and the client's identity."""
    for option in (
        click.option("--id", help="Client id to connect as.  [default: random]"),
        _secret_option,
        click.option(
            "--url",
            default=_URL,
            show_default=True,
            help="URL of the server, or unix:PATH for a Unix socket. It may have a query.",
        ),
    ):
        command = option(command)
    return command


def _client(secret: str | None, **options: Any) -> Callable[[], Client]:
    return partial(_connected, extra_headers=_headers(secret), **options)


@asynccontextmanager
async def _connected(**options: Any) -> AsyncIterator[Remote]:
    """Connect a client. Raises `Mistake` for invalid arguments."""
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(connect(**options))
        except (TypeError, ValueError) as error:
            raise Mistake(str(error)) from None
        yield client


# --- subscribe ---


@click.command()
@_client_options
@filter_options
@click.option(
    "--since",
    help=(
        "Where to start: a cursor (resume after it), start (everything in the log), a time, or a"
        " duration like 10m.  [default: now]"
    ),
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print whole events in JSON instead of their data."
)
def subscribe(filters: str | None, sql: str | None, as_json: bool, **options: str | None) -> None:
    """Print the data of each notification that the filters match, one line for each.

    If the connection is lost, it reconnects and resumes after the last notification. If some are no
    longer in the server's log, it says so on stderr. If the server tells it not to reconnect, it ends
    with exit code 1.

    \b
    python -m trionotify subscribe --id alice --since 10m
    python -m trionotify subscribe --sql "type = 'order.created' AND subject LIKE 'berlin/%'"
    """
    wanted = predicate_of(filters, sql)
    # Without a filter here, the URL may still have one.
    client = _client(filters=None if wanted is EVERYTHING else wanted, role="subscriber", **options)
    _run(partial(_print_all, client, as_json), ends_unread=True)


async def _print_all(open_client: Callable[[], Client], as_json: bool) -> int:
    try:
        async with open_client() as client:
            while await _write(_line(await _next(client), client.cursor, as_json)):
                pass
    except Closed as closed:
        if closed.code != CloseCode.NORMAL:
            raise
        say(f"trionotify: {closed}")
    return 0


async def _next(client: Remote) -> Notification:
    while True:
        try:
            return await anext(client)
        except Unreadable:
            pass  # the client has logged it, to stderr
        except Lagged as lagged:
            say(f"trionotify: {lagged}")


def _line(notification: Notification, cursor: str, as_json: bool) -> bytes:
    """Return the line to print. Bytes are printed unchanged."""
    if as_json:
        return encode(notification, cursor) + b"\n"
    data = notification.data or b""
    return (data.encode() if isinstance(data, str) else data) + b"\n"


async def _write(line: bytes) -> bool:
    """Write to stdout without buffering; return False if it no longer has a reader."""
    rest = memoryview(line)
    number = output_number()
    try:
        while rest:
            rest = rest[await trio.to_thread.run_sync(os.write, number, rest, abandon_on_cancel=True) :]
    except BrokenPipeError:
        return False
    except OSError as error:
        raise OSError(f"stdout: {error.strerror}") from None
    return True


# --- publish ---


@attrs.define
class _Tally:
    """The numbers of notifications sent and acknowledged, and the error that ended publishing."""

    sent: int = 0
    acknowledged: int = 0
    error: Exception | None = None

    def __str__(self) -> str:
        left = self.sent - self.acknowledged
        return f"{self.acknowledged} acknowledged" + (f", {left} not" if left else "")


@click.command()
@_client_options
@click.option("--type", help="Type of the notifications.  [default: message]")
@click.option("--subject", help="Subject of the notifications.  [default: none]")
@click.option("--source", help="Source of the notifications.  [default: /clients/ID]")
@click.option(
    "--datacontenttype",
    metavar="MEDIA-TYPE",
    help="Media type of TEXT, such as application/json.  [default: text/plain]",
)
@click.option(
    "--attribute",
    "further",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other attribute, such as an extension or expirytime. May be given several times.",
)
@click.option("--to", help="Publish only to clients with this id.  [default: everyone]")
@click.option(
    "--audience",
    metavar="JSON",
    help=(
        "Publish only to clients whose queries match this filter, or array of filters, in JSON."
        "  [default: everyone]"
    ),
)
@click.argument("text", default="-", metavar="[TEXT | -]")
def publish(
    *,
    url: str,
    id: str | None,
    secret: str | None,
    further: tuple[str, ...],
    audience: str | None,
    text: str,
    **attributes: str | None,
) -> None:
    """Publish TEXT, or each line of standard input.

    If TEXT is - or missing, it publishes each line of standard input as soon as the line arrives. A line
    that isn't UTF-8 is published as bytes. If the connection is lost, it reconnects, and publishes
    everything once. At the end it says on stderr how many notifications were acknowledged. The exit code
    is 0 if all were.

    \b
    python -m trionotify publish --type disk.full --to alice '/var is full'
    tail -F app.log | python -m trionotify publish --type log.app -
    """
    params = {name: value for name, value in attributes.items() if value is not None}
    client = _client(secret, url=url, id=id, role="publisher", params=params)
    rest = _rest_of(further, audience)
    if text == "-" and "id" in rest:
        raise Mistake(
            "--attribute: must not set id, because each line needs its own; leave it out, or give TEXT"
        )
    _run(partial(_publish_all, client, text, rest))


def _rest_of(further: tuple[str, ...], audience: str | None) -> dict[str, Any]:
    """Return the attributes that the connection's query can't have. Raises `Mistake`."""
    found: dict[str, Any] = {}
    for pair in further:
        name, equals, value = pair.partition("=")
        if not equals:
            raise Mistake(f"--attribute: must be NAME=VALUE, not {pair!r}")
        if name in _WITH_OPTIONS:
            raise Mistake(f"--attribute: {name} has an option of its own; use --{name}")
        if name in found:
            raise Mistake(f"--attribute: {name}: given twice; give it once")
        found[name] = value
    try:
        # Check them before connecting.
        for name in found:
            check_attribute_name(name)
        Notification.of(None, **found)
    except (TypeError, ValueError) as error:
        raise Mistake(f"--attribute: {error}") from None
    if audience is not None:
        try:
            found["audience"] = from_json(without_mark(audience), audience=True)
        except ValueError as error:
            raise Mistake(f"--audience: {error}") from None
    return found


async def _publish_all(open_client: Callable[[], Client], text: str, rest: dict[str, Any]) -> int:
    tally = _Tally()
    if text == "-" and os.isatty(input_number()):
        say("trionotify: publishing each line that you type; press Ctrl-D to end")
    try:
        async with open_client() as client:
            if text == "-":
                await _publish_lines(client, tally, rest)
            else:
                tally.sent += 1
                await client.publish(text, **rest)
                tally.acknowledged += 1
    except Mistake:
        raise
    except BaseException:
        say(f"trionotify: {tally}")
        raise
    say(f"trionotify: {tally}")
    if tally.error is not None:
        raise tally.error
    return 0


async def _publish_lines(client: Remote, tally: _Tally, rest: dict[str, Any]) -> None:
    """Publish in order, several at a time, until one is refused.

    Those that are already sent are still awaited.
    """
    reading = trio.CancelScope()

    async def publish_one(  # noqa: ASYNC128 - `publish` passes it on
        line: str | bytes, task_status: trio.TaskStatus[None]
    ) -> None:
        try:
            await client.publish(line, task_status=task_status, **rest)
            tally.acknowledged += 1
        except TrionotifyError as error:
            tally.error = tally.error or error
            reading.cancel()

    async with trio.open_nursery() as nursery:
        with reading:
            try:
                async for line in Lines():
                    tally.sent += 1
                    await nursery.start(publish_one, line)
            except ValueError as error:  # the line isn't what the query's datacontenttype says
                tally.sent -= 1
                tally.error = tally.error or error
            except OSError as error:
                tally.error = tally.error or error


# --- top ---


@click.command()
@click.option(
    "--url", default=_URL, show_default=True, help="URL of the server, or unix:PATH for a Unix socket."
)
@_secret_option
@click.option(
    "--interval",
    type=Duration(0.1),
    default=1.0,
    show_default=True,
    help="Time between two readings, in seconds or as a text like 2s.",
)
@click.option("--once", is_flag=True, help="Print the figures once, then exit.")
def top(url: str, secret: str | None, interval: float, once: bool) -> None:
    """Show a server's rates, latency, clients and log, live.

    It reads /metrics. If the server has an --admin-port, give the URL of that port.

    \b
    python -m trionotify top
    python -m trionotify top --once --url https://example.org --secret /etc/trionotify/secret
    """
    _run(partial(watch, url, interval, once, _headers(secret)))


# --- all ---


def _run(work: Callable[[], Awaitable[int]], *, ends_unread: bool = False) -> NoReturn:
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
            except Mistake as mistake:
                mistake.show()
                code = mistake.exit_code
            except _REASONS as error:
                say(f"trionotify: {error}")
                code = 1
            nursery.cancel_scope.cancel()
    return code
