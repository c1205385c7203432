"""One server has a log, whatever the log is called, and whatever becomes of its lock file."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import trio

import trionotify
from tests import stores
from tests.stores import add, ask, child, data, open_store
from trionotify.errors import StoreError
from trionotify.storage import care, lock
from trionotify.storage.faults import file_identity
from trionotify.storage.lock import FileLock
from trionotify.storage.sqlite import SqliteStore, new_epoch

posix_only = pytest.mark.skipif(os.name != "posix", reason="there an open file can't be removed")
RENAMED = r"in use by a running server \(under another name, or its -lock file was removed\); stop it"


def hard_link(path: Path) -> Path:
    os.link(path, path.with_name("other.db"))
    return path.with_name("other.db")


def no_lock_file(path: Path) -> Path:
    path.with_name("log.db-lock").unlink()
    return path


def another_lock_file(path: Path) -> Path:
    path.with_name("log.db-lock").rename(path.with_name("away"))
    path.with_name("log.db-lock").write_bytes(path.with_name("away").read_bytes())
    return path


@posix_only
@pytest.mark.parametrize("change", [hard_link, no_lock_file, another_lock_file])
def test_a_log_that_another_process_has(change: Callable[[Path], Path], tmp_path: Path) -> None:
    """No server opens it a second time, and no command reads half of it."""
    path = tmp_path / "log.db"
    with child(stores.hold, str(path)) as (_, pipe):
        pipe.recv()
        path = change(path)
        with pytest.raises(StoreError, match=RENAMED) as caught:
            open_store(path)
        assert caught.value.status == 503
        for call in (care.check, care.repair, new_epoch):
            with pytest.raises(StoreError, match=RENAMED):
                call(path)
    again = open_store(tmp_path / "log.db")
    assert "theirs" in data(again)
    again.close()


@posix_only
@pytest.mark.parametrize("change", [hard_link, no_lock_file, another_lock_file])
def test_a_log_that_this_process_has(change: Callable[[Path], Path], tmp_path: Path) -> None:
    """The refused attempt takes no lock away from the store, which another process respects."""
    path = tmp_path / "log.db"
    store = open_store(path)
    add(store, "a")
    path = change(path)
    for _ in range(2):
        with pytest.raises(
            StoreError, match=rf"\(process {os.getpid()}, which is this one and may still"
        ):
            open_store(path)
    status, words = ask(stores.try_to_open, str(path), None)
    assert status == 503
    assert "in use by a running server" in words
    store.close()
    again = open_store(path)
    assert data(again) == ["a"]
    again.close()


@posix_only
def test_threads_that_open_a_log_under_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them has it, also if neither had it when the other looked."""
    path = tmp_path / "log.db"
    open_store(path).close()
    names = [path, hard_link(path)]
    both = threading.Barrier(2)

    def look(name: str) -> tuple[int, int] | None:
        found = file_identity(name)
        if name in map(str, names):
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.5)  # the other one can't come as long as this one may go on
        return found

    monkeypatch.setattr(lock, "file_identity", look)
    taken: list[FileLock] = []

    def take(name: Path) -> None:
        with contextlib.suppress(StoreError):
            taken.append(FileLock.take(str(name)))

    threads = [threading.Thread(target=take, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    taken[0].release()


@posix_only
def test_a_log_that_is_in_doubt_is_free(tmp_path: Path) -> None:
    """SQLite keeps such a file open, but a store that is closed has no lock any more."""
    path = tmp_path / "log.db"
    store = open_store(path)
    store._database._doubt = StoreError(503, "in doubt")
    store.close()
    assert ask(stores.try_to_open, str(path), None) is None
    open_store(path).close()


def give_child(pipe: Connection, path: str) -> None:
    """Open and close a store while another process has been forked, and open it once more."""
    store = open_store(path)
    ours, theirs = os.pipe()
    forked = os.fork()
    if not forked:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    try:
        store.close()
        pipe.send(stores.refusal_to_open(path))
    finally:
        os.close(theirs)
        os.waitpid(forked, 0)


@posix_only
def test_a_forked_process_keeps_no_lock(tmp_path: Path) -> None:
    """As those of `multiprocessing` may be, which inherit all descriptors."""
    assert ask(give_child, str(tmp_path / "log.db")) is None


def test_a_directory_gets_no_lock_file(tmp_path: Path) -> None:
    """The path may be a mistake."""
    (tmp_path / "logs").mkdir()
    for call in (open_store, care.check, care.repair, new_epoch):
        with pytest.raises(StoreError, match="logs: not a file; name a file"):
            call(tmp_path / "logs")
    assert os.listdir(tmp_path) == ["logs"]


async def test_the_file_is_free_after_the_hub(tmp_path: Path) -> None:
    """Also if the application uses all of Trio's threads."""
    path = tmp_path / "log.db"
    threads = trio.to_thread.current_default_thread_limiter()
    users = [object() for _ in range(int(threads.total_tokens))]
    async with trionotify.open_hub(store=f"sqlite:{path}", close_timeout=120) as hub:
        for user in users:
            threads.acquire_on_behalf_of_nowait(user)
        await hub.publish("a")
        await hub.log.backup(str(tmp_path / "copy.db"))  # type: ignore[attr-defined] # it is in a file
    again = open_store(path)
    assert data(again) == ["a"]
    again.close()
    for user in users:
        threads.release_on_behalf_of(user)


async def test_a_file_that_is_closed_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub ends in time, and says so; the file is free when the disk has answered."""
    path = tmp_path / "log.db"
    begun, slow, closed = threading.Event(), threading.Event(), threading.Event()
    close = SqliteStore.close

    def close_slowly(store: SqliteStore) -> None:
        begun.set()
        slow.wait()
        close(store)
        closed.set()

    monkeypatch.setattr(SqliteStore, "close", close_slowly)
    try:
        with caplog.at_level(logging.WARNING, "trionotify"):
            async with trionotify.open_hub(store=f"sqlite:{path}", close_timeout=0.05):
                pass
        assert begun.wait(120)
        assert "log.db: not closed yet" in caplog.text
        with pytest.raises(StoreError, match="which is this one and may still be closing it"):
            FileLock.take(str(path))
    finally:
        slow.set()
    assert closed.wait(120)
    FileLock.take(str(path)).release()
