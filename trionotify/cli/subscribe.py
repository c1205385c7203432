"""`trionotify subscribe`: the Python client prints what it receives.

It reconnects if the connection is lost, and reports that on stderr.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click

from trionotify.cli.client import (
    Client,
    client_of,
    client_options,
    filter_options,
    predicate_of,
    run,
)
from trionotify.cli.stdio import output_number, say, write
from trionotify.client.remote import Remote
from trionotify.errors import CloseCode, Closed, Lagged, Unreadable
from trionotify.model.cloudevents import encode
from trionotify.model.notification import Notification
from trionotify.model.predicates import EVERYTHING

__all__ = ["subscribe"]


@click.command()
@client_options
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
    client = client_of(filters=None if wanted is EVERYTHING else wanted, role="subscriber", **options)
    run(partial(_print_all, client, as_json), ends_unread=True)


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
    try:
        await write(output_number(), line)
    except BrokenPipeError:
        return False
    except OSError as error:
        raise OSError(f"stdout: {error.strerror}") from None
    return True
