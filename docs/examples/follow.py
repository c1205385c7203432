"""Print what arrives, without a gap over restarts of this program: `python follow.py URL FILE`.

FILE stores the cursor after what was printed. A program that is killed between printing and storing
prints that notification again. To prevent this, store the cursor together with the effect of the
notification, in one transaction.
"""

import sys

import trio

import trionotify


async def main(url: str, file: trio.Path) -> None:
    since = await file.read_text() if await file.exists() else "start"
    async with trionotify.connect(url, since=since, role="subscriber") as client:
        while True:
            try:
                notification = await anext(client)
                print(notification.data, flush=True)
            except trionotify.Lagged as lagged:
                print(lagged, file=sys.stderr)
            new = file.with_suffix(".new")
            await new.write_text(client.cursor)
            await new.replace(file)  # the whole cursor or the old one, never half of it


trio.run(main, sys.argv[1], trio.Path(sys.argv[2]))
