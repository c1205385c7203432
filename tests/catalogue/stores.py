"""The messages about the file of a durable log that can't be opened, is damaged, or is full."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from tests.catalogue.wire import names as wire_names
from tests.stores import add, open_store
from trionotify import Exact, Notification, open_hub
from trionotify.delivery.entry import Entry
from trionotify.errors import StoreError
from trionotify.storage import care
from trionotify.storage.faults import os_fault, store_fault
from trionotify.storage.sqlite import SqliteStore, new_epoch

__all__ = ["FILES", "names"]

FILES: Final = r"""
opened("DIR")
opened("DIR/text")
opened("DIR/missing/log.db")
opened("DIR/file.txt/log.db")
opened(foreign)
opened(newer)
opened(older)
opened(without_database)
opened(twice)
opened("DIR/bad.db", durability="half")
care.check(foreign)
care.check(damaged)
care.check(shortened)
care.repair(shortened)
new_epoch(damaged)
copied("DIR/log.db", other_log)
await served(damaged)
await served(shortened, 1)
await served(without_note)
await served("DIR/small.db", max_log_bytes=2000)
await callable_audience("DIR/audience.db")
await asked("POST", "/events", body="x" * 5000, store="sqlite:DIR/full.db", max_log_bytes=2000)
full(28)
full(122)
full(27)
full(30)
full(13)
full(5)
full(24)
full(23)
full(37)
full(2)
full(20)
full(21)
faulty(MemoryError())
faulty(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"))
faulty(sqlite3.OperationalError("a text is not UTF-8"))
faulty(coded(sqlite3.SQLITE_BUSY))
faulty(coded(sqlite3.SQLITE_NOTADB))
faulty(coded(sqlite3.SQLITE_TOOBIG))
faulty(coded(sqlite3.SQLITE_CORRUPT))
faulty(coded(sqlite3.SQLITE_IOERR))
faulty(coded(sqlite3.SQLITE_FULL))
"""


def _opened(path: str, **options: Any) -> str:
    open_store(path, **options).close()
    return "opened"


def _changed(directory: Path, name: str, change: Callable[[sqlite3.Connection], object]) -> str:
    """A log of three notifications, with this change."""
    path = str(directory / name)
    store = open_store(path)
    add(store, "one", "two", "three")
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        change(database)
    return path


def _foreign(directory: Path) -> str:
    path = str(directory / "foreign.db")
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE songs (title)")
    return path


def _without_database(directory: Path) -> str:
    path = str(directory / "gone.db")
    Path(f"{path}-wal").write_text("what was accepted")
    return path


def _copied(source: str, destination: str) -> None:
    care.backup(source, destination)


def _other_log(directory: Path) -> str:
    path = directory / "other.db"
    Path(f"{path}-wal").write_text("x")
    return str(path)


async def _served(path: str, published: int = 0, **options: Any) -> None:
    async with open_hub(store=f"sqlite:{path}", max_log_age=1e12, **options) as hub:
        for number in range(published):
            await hub.publish(str(number))
        if options:
            await hub.publish("x" * 5000)


async def _callable_audience(path: str) -> None:
    async with open_hub(store=f"sqlite:{path}") as hub:
        await hub.publish("x", audience=lambda client: True)


def _full(number: int) -> str:
    error: StoreError = os_fault("log.db", OSError(number, os.strerror(number)))
    return f"{error.status}: {error.detail}\ntold: {error.told}"


def _faulty(error: BaseException) -> str:
    fault = store_fault("log.db", error)
    return f"{fault.status}: {fault.detail}\ntold: {fault.told}"


def _coded(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    return error


def names(directory: Path) -> Mapping[str, Any]:
    """The names that the lines may use."""
    shortened = _changed(
        directory, "shortened.db", lambda db: db.execute("DELETE FROM entries WHERE offset = 3")
    )
    with closing(sqlite3.connect(shortened, isolation_level=None)) as database:
        database.execute("UPDATE log SET head = 2")
    without_note = _changed(directory, "noteless.db", lambda db: None)
    os.unlink(f"{without_note}-lock")
    twice = str(directory / "twice.db")
    owner = open_store(twice)
    return {
        **wire_names(),
        "opened": _opened,
        "served": _served,
        "copied": _copied,
        "callable_audience": _callable_audience,
        "full": _full,
        "faulty": _faulty,
        "coded": _coded,
        "sqlite3": sqlite3,
        "care": care,
        "foreign": _foreign(directory),
        "without_database": _without_database(directory),
        "newer": _changed(directory, "newer.db", lambda db: db.execute("PRAGMA user_version = 99")),
        "older": _changed(directory, "older.db", lambda db: db.execute("PRAGMA user_version = 0")),
        "damaged": _changed(
            directory,
            "damaged.db",
            lambda db: db.execute("UPDATE entries SET data = 'x' WHERE offset = 2"),
        ),
        "shortened": shortened,
        "without_note": without_note,
        "twice": twice,
        "owner": owner,
        "other_log": _other_log(directory),
        "new_epoch": new_epoch,
        "Exact": Exact,
        "Notification": Notification,
        "Entry": Entry,
        "SqliteStore": SqliteStore,
        "shutil": shutil,
    }
