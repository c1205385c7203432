"""`trionotify publish`: the Python client publishes a text, or the lines of standard input.

It reconnects if the connection is lost, and reports that on stderr.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs
import click
import trio

from trionotify.cli.client import Client, client_of, client_options, run
from trionotify.cli.stdio import Lines, Mistake, input_number, say
from trionotify.client.remote import Remote
from trionotify.errors import TrionotifyError
from trionotify.model.attributes import check_attribute_name
from trionotify.model.filters import from_json
from trionotify.model.notification import Notification
from trionotify.model.text import without_mark

__all__ = ["publish"]

#: Attributes that are not for `--attribute`.
_WITH_OPTIONS: Final = ("type", "subject", "source", "datacontenttype", "to", "audience")


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
@client_options
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
    client = client_of(secret, url=url, id=id, role="publisher", params=params)
    rest = _rest_of(further, audience)
    if text == "-" and "id" in rest:
        raise Mistake(
            "--attribute: must not set id, because each line needs its own; leave it out, or give TEXT"
        )
    run(partial(_publish_all, client, text, rest))


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
