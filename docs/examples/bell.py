"""A notification bell: the last notifications, how many are unread, the same on all of a user's devices.

    pip install starlette hypercorn
    python bell.py FOLDER 8000 8765

Open http://127.0.0.1:8000/al/ in two browsers, and send al a notification:

    curl -d 'Bo has answered you' http://127.0.0.1:8000/al/tell

The page is bell.html beside this file, and docs/howto/bell.md explains both. The log keeps
notifications for a week. The application stores what a user has read: a cursor for each user, in its
database. Here that is an SQLite file in FOLDER, beside the file of the log.

This example takes the user from the path, so that you can try several. Use your own login instead.
"""

import secrets
import signal
import sqlite3
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import attrs
import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

import trionotify

PAGE = Path(__file__).with_name("bell.html")
#: Signs tickets. After a restart the pages get new ones.
SECRET = secrets.token_bytes(32).hex().encode()


def user_of(request: Request) -> str:
    """The user who is logged in. Ask your application's session here."""
    return str(request.path_params["user"])


@attrs.frozen
class Marks:
    """The cursor up to which each user has read: a table in the application's database."""

    path: Path

    def run(self, sql: str, *values: object) -> list[Any]:
        """Blocks."""
        with closing(sqlite3.connect(self.path)) as database, database:
            return database.execute(sql, values).fetchall()

    def create(self) -> None:
        self.run("CREATE TABLE IF NOT EXISTS marks (user PRIMARY KEY, epoch TEXT, place INTEGER)")

    def get(self, user: str) -> str | None:
        found = self.run("SELECT epoch || ':' || place FROM marks WHERE user = ?", user)
        return found[0][0] if found else None

    def advance(self, user: str, epoch: str, place: int) -> None:
        """Move the mark forward only, because a device that was asleep may send an old one."""
        self.run(
            "INSERT INTO marks VALUES (?, ?, ?) ON CONFLICT (user) DO UPDATE"
            " SET epoch = excluded.epoch, place = excluded.place"
            " WHERE epoch != excluded.epoch OR place < excluded.place",
            *(user, epoch, place),
        )


def make_app(hub: trionotify.Hub, url: str, marks: Marks) -> Starlette:
    """The web application."""

    async def page(request: Request) -> Response:
        return FileResponse(PAGE)

    async def bell(request: Request) -> Response:
        """Give the page what it needs before it connects."""
        user = user_of(request)
        return JSONResponse(
            {"url": url, "user": user, "read": await trio.to_thread.run_sync(marks.get, user)}
        )

    async def ticket(request: Request) -> Response:
        """A signed query. With it, a browser gets what is for this user, and can't publish."""
        query = trionotify.sign({"id": user_of(request)}, SECRET, expires_in="15m")
        return JSONResponse(dict(parse_qsl(query)))

    async def read(request: Request) -> Response:
        """Store the mark, then tell all devices of the user."""
        user, cursor = user_of(request), (await request.body()).decode(errors="replace")
        epoch, _, place = cursor.rpartition(":")
        if epoch != hub.log.epoch or not (place.isascii() and place.isdigit() and len(place) < 19):
            return JSONResponse({"error": "a cursor of this log is needed"}, 400)
        await trio.to_thread.run_sync(marks.advance, user, epoch, int(place))
        await hub.publish(cursor, type="bell.read", to=user)
        return Response(status_code=204)

    async def tell(request: Request) -> Response:
        """A stand-in for the part of your application that notifies users."""
        text = (await request.body()).decode(errors="replace")
        await hub.publish(text, type="bell.item", to=user_of(request))
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/{user}/", page),
            Route("/{user}/bell", bell),
            Route("/{user}/ticket", ticket),
            Route("/{user}/read", read, methods=["POST"]),
            Route("/{user}/tell", tell, methods=["POST"]),
        ]
    )


async def main(folder: Path, web_port: int, port: int) -> None:
    origin = f"http://127.0.0.1:{web_port}"
    marks = Marks(folder / "application.db")
    await trio.to_thread.run_sync(marks.create)
    config = Config.from_mapping(bind=[f"127.0.0.1:{web_port}"], graceful_timeout=5)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with (
            trionotify.open_hub(
                store=f"sqlite:{folder / 'log.db'}",
                max_log_age="7d",
                max_log_entries=1_000_000,
                max_log_bytes=1 << 30,
                secret=SECRET,
                allow_origin=[origin],
            ) as hub,
            trio.open_nursery() as nursery,
        ):
            server = await nursery.start(partial(trionotify.serve, hub, port=port))

            async def serve_web(  # noqa: ASYNC128 - Hypercorn calls `started`
                *, task_status: trio.TaskStatus[list[str]]
            ) -> None:
                app: Any = make_app(hub, server.url, marks)  # Hypercorn's types don't know Starlette's
                stop = partial(anext, signals)
                await hypercorn.trio.serve(app, config, shutdown_trigger=stop, task_status=task_status)
                server.stop()

            await nursery.start(serve_web)
            print(f"notifications: {server.url}, bell: {origin}", flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
