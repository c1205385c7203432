"""Jobs that report their progress to any number of clients: here, the SHA-256 of files.

    python progress.py FOLDER 8765

Connect with `npx wscat -c 'ws://127.0.0.1:8765/?role=publisher'`, and send the name of a file in
FOLDER. The answer has the job's id. Watch the job from anywhere, with

    curl -N 'http://127.0.0.1:8765/events?exact.subject=ID&since=start&lag=latest'

A job publishes everything with its id as `subject`. A client that connects late is behind, and with
`lag=latest` it receives only the newest of what was published before. So a page that is opened or
reloaded shows at once how the job stands or how it ended, as long as the log keeps that.

The work is done in a thread, which only counts. A task looks at the count ten times a second, and
publishes it when it has changed. So the work never waits for clients. Sessions pass jobs on through a
channel, so a job continues when the client that started it leaves.
"""

import hashlib
import json
import secrets
import signal
import sys
from functools import partial
from pathlib import Path

import attrs
import trio

import trionotify

CHUNK, INTERVAL, WORKERS, QUEUED = 1 << 20, 0.1, 2, 100


@attrs.define
class Job:
    path: Path
    id: str
    done: int = 0


def digest(job: Job) -> str:
    """Do the work, in a thread. Raises OSError or ValueError; when its task is cancelled, Cancelled."""
    found = hashlib.sha256()
    with job.path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            trio.from_thread.check_cancelled()
            found.update(chunk)
            job.done += len(chunk)
    return found.hexdigest()


async def say(hub: trionotify.Hub, job: Job, state: str, **more: str) -> None:
    found = {"state": state, "file": job.path.name, "done": job.done, **more}
    await hub.publish(json=found, type=f"job.{state}", subject=job.id)


async def report(hub: trionotify.Hub, job: Job) -> None:
    """Publish how far the job is, whenever that has changed, until cancelled."""
    said = -1
    while True:
        if job.done != said:
            said = job.done
            await say(hub, job, "running")
        await trio.sleep(INTERVAL)


async def work(hub: trionotify.Hub, jobs: trio.MemoryReceiveChannel[Job]) -> None:
    """Do one job after the other, and publish how each ended."""
    async for job in jobs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(report, hub, job)
            try:
                found = await trio.to_thread.run_sync(digest, job)
                last = partial(say, hub, job, "done", sha256=found)
            except (OSError, ValueError) as error:
                last = partial(say, hub, job, "failed", error=type(error).__name__)
            nursery.cancel_scope.cancel()
        await last()


async def take(folder: Path, jobs: trio.MemorySendChannel[Job], client: trionotify.Client) -> None:
    """The session: each message is the name of a file, and is answered."""
    async for name in client:
        job = Job(folder / str(name), secrets.token_hex(8))
        answer = {"job": job.id}
        try:
            if job.path.parent != folder:
                raise ValueError("the name of a file in the folder is needed")
            jobs.send_nowait(job)
        except ValueError as error:
            answer = {"error": str(error)}
        except trio.WouldBlock:
            answer = {"error": "too many jobs wait: come again later"}
        await client.send(json.dumps(answer))


async def main(folder: Path, port: int) -> None:
    send, receive = trio.open_memory_channel[Job](QUEUED)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with (
            trionotify.open_hub(session=partial(take, folder, send)) as hub,
            trio.open_nursery() as nursery,
        ):
            for _ in range(WORKERS):
                nursery.start_soon(work, hub, receive)
            server = await nursery.start(partial(trionotify.serve, hub, port=port))
            print(f"jobs: {server.url}", flush=True)
            await anext(signals)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
