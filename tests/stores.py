"""Stores for tests, and what child processes do with one: quickly started, and killed at will.

The children come from a server that forks (`multiprocessing`'s), which has imported all that they
need.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from trionotify.delivery.entry import Entry, repetition_key
from trionotify.errors import StoreError
from trionotify.model.notification import Notification
from trionotify.storage.sqlite import SqliteStore

#: The user without any rights.
NOBODY = 65534


def open_store(path: Path | str, **options: Any) -> SqliteStore:
    """A store with room for everything that a test doesn't bound."""
    bounds = {"max_entries": 1_000_000, "max_bytes": 1 << 30, "max_age": 1e9, "now": 0.0}
    options = {**bounds, **options}
    now = options.pop("now")
    store = SqliteStore.open(path, **options)
    try:
        store.begin(now)
    except BaseException:
        store.close()
        raise
    return store


def entry(data: str | bytes | None = "", *, id: str | None = None, publisher: str = "p") -> Entry:
    """One with nothing but data weighs `EMPTY` more than that; one with an `id` can be repeated."""
    given = {} if id is None else {"id": id}
    notification = Notification(data, type="t", source="s", **given)
    return Entry(notification, None, None, repetition_key(notification, publisher))


#: What an entry weighs in which nothing is said.
EMPTY = entry("").size


def add(store: SqliteStore, *data: str, now: float = 0.0, upto: int = 0) -> None:
    """Append some entries at once."""
    store.append([entry(one) for one in data], upto, now)


def entries(store: SqliteStore, after: int | None = None) -> list[Entry]:
    """All that is kept, or what is kept behind an offset, read in small bites."""
    found: list[Entry] = []
    at = store.start if after is None else after
    while rows := store.read(at, 7, 1 << 20):
        found += [store.restore(row) for row in rows]
        at = found[-1].offset
    return found


def data(store: SqliteStore) -> list[Any]:
    """The data of all that is kept."""
    return [one.notification.data for one in entries(store)]


def crash(store: SqliteStore) -> None:
    """Let go of the file as a process does that dies: without writing down that nothing is
    missing."""
    store._database.close()


# --- processes ---

_processes = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
_processes.set_forkserver_preload([__name__])


@contextlib.contextmanager
def child(work: Callable[..., None], *args: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process that does `work(pipe, *args)`, and this end of the pipe. Killed when the block
    ends."""
    ours, theirs = _processes.Pipe()
    process = _processes.Process(target=work, args=(theirs, *args))
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()


def ask(work: Callable[..., None], *args: Any) -> Any:
    """The result of a child's work."""
    with child(work, *args) as (_, pipe):
        return pipe.recv()


def append_for_ever(pipe: Connection, path: str, durability: str, size: int) -> None:
    """Append entries that hold their offsets, 1 to 8 in a commit, and say after each how far it
    is."""
    store = open_store(path, durability=durability)
    while True:
        head = store.head
        count = head % 8 + 1
        add(store, *(f"{offset:<{size}}" for offset in range(head + 1, head + count + 1)))
        pipe.send(store.head)


def hold(pipe: Connection, path: str) -> None:
    """Have the file until killed."""
    store = open_store(path)
    add(store, "theirs")
    pipe.send(store.epoch)
    pipe.recv()


def try_to_open(pipe: Connection, path: str, user: int | None) -> None:
    """Open a file as another user, and return why it can't be opened."""
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    pipe.send(refusal_to_open(path))


def refusal_to_open(path: str) -> tuple[int, str] | None:
    try:
        open_store(path).close()
    except StoreError as error:
        return error.status, error.detail
    return None


def open_with_few_files(pipe: Connection, path: str) -> None:
    """Open a file with 0, 1, … descriptors to spare, until it works; say what was said until then."""
    import resource  # noqa: PLC0415 - there is none on Windows

    refusals = []
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    for spare in range(50):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, hard))
        refusal = refusal_to_open(path)
        if refusal is None:
            break
        refusals.append(refusal)
    pipe.send(refusals)


def fill_up(pipe: Connection, path: str, limit: int) -> None:
    """Append until no file may grow any more; then raise the limit, and append once more.

    Says what was refused and how, what was in the store then, and whether it was well in the end.
    """
    import resource  # noqa: PLC0415 - there is none on Windows

    store = open_store(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    refused, error = append_until_refused(store)
    head = store.head
    checked = None
    try:
        store.check()
    except StoreError as again:
        checked = again.status
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.check()
    store.append([refused], 0, 0.0)
    pipe.send((error.status, error.detail, head, checked, refused.offset, data(store)))
    store.close()


def append_until_refused(store: SqliteStore, size: int = 10_000) -> tuple[Entry, StoreError]:
    """Append entries that hold their offsets; return the one that could not be, and why."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        one = entry(f"{store.head + 1:<{size}}")
        try:
            store.append([one], store.head, 0.0)
        except StoreError as error:
            return one, error
    raise AssertionError("it never ends")
