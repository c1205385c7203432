"""An application that publishes what happens in a folder: files that come, change and go.

    python folder.py FOLDER 8765

Watch with `curl -N 'http://127.0.0.1:8765/events?prefix.type=file.'`, only deletions with
`?exact.type=file.deleted`, or one file with `?exact.subject=notes.txt`. Then change something in
FOLDER.

The hub encloses the nursery of the application's tasks. So it exists before the first task publishes,
and still exists when the last one has ended. The listener is one of these tasks. If the folder can't
be read any more, its task ends with an exception, which ends the others. All clients receive a
goodbye, and the program ends with the reason.
"""

import os
import signal
import sys
from functools import partial

import trio

import trionotify

INTERVAL = 0.5


def look_at(folder: str) -> dict[str, tuple[int, int]]:
    """The folder's files by name, each with its time of change and its size. Blocks."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.is_file():
                    status = entry.stat()
                    found[entry.name] = (status.st_mtime_ns, status.st_size)
            except FileNotFoundError:  # it was deleted meanwhile
                continue
    return found


async def watch(
    folder: str, hub: trionotify.Hub, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Publish what happens to the files of `folder` after the first look, until cancelled."""
    before = await trio.to_thread.run_sync(look_at, folder)
    task_status.started()
    while True:
        await trio.sleep(INTERVAL)
        now = await trio.to_thread.run_sync(look_at, folder)
        for name in sorted(before.keys() | now.keys()):
            if name not in before:
                await hub.publish(f"{name} is new", type="file.created", subject=name)
            elif name not in now:
                await hub.publish(f"{name} is gone", type="file.deleted", subject=name)
            elif now[name] != before[name]:
                size = now[name][1]
                await hub.publish(f"{name} has {size} bytes now", type="file.changed", subject=name)
        before = now


async def main(folder: str, port: int) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trionotify.open_hub() as hub, trio.open_nursery() as nursery:
            await nursery.start(watch, folder, hub)
            server = await nursery.start(partial(trionotify.serve, hub, port=port))
            print(f"watching {folder}: {server.url}", flush=True)
            await anext(signals)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
