"""Opening a log's file: every loss is reported."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.storage.test_sqlite_faults import Faulty, sqlite_error
from tests.stores import add, crash, data, entry, open_store
from trionotify.errors import StoreError
from trionotify.settings import Settings
from trionotify.storage import durable, epochs, recovery, sqlite
from trionotify.storage.clock import SETTLED, LogClock
from trionotify.storage.heads import Head
from trionotify.storage.lock import FileLock
from trionotify.storage.sqlite import SqliteStore, new_epoch


@attrs.define
class Life:
    """A log that was killed with ten entries, and its files as they were with six."""

    directory: Path
    epoch: str

    def file(self, name: str = "") -> Path:
        return self.directory / f"log.db{name}"

    def put_back(self, name: str) -> None:
        """A file as it was with six."""
        shutil.copy(self.directory / f"old.db{name}", self.file(name))

    def open(self) -> SqliteStore:
        return open_store(self.file())


@pytest.fixture
def life(tmp_path: Path) -> Life:
    live = tmp_path / "live.db"
    store = open_store(live)
    for number in range(1, 11):
        if number == 7:
            copy(live, tmp_path / "old.db")
        add(store, f"data {number}")
    copy(live, tmp_path / "log.db")
    found = Life(tmp_path, store.epoch)
    store.close()
    return found


def copy(source: Path, target: Path) -> None:
    """All files of a log, as they are when its process is killed now."""
    for name in ("", "-wal", "-lock"):
        if os.path.exists(f"{source}{name}"):
            shutil.copy(f"{source}{name}", f"{target}{name}")


def test_a_process_that_was_killed(life: Life) -> None:
    """Nothing is missing, so cursors stay good; however often that happens."""
    for _ in range(3):
        store = life.open()
        assert (store.epoch, store.recovered.renewed, store.head) == (life.epoch, None, 10)
        crash(store)
    life.open().close()
    store = life.open()
    assert store.epoch == life.epoch
    store.close()


def test_a_commit_that_was_not_noted_yet(life: Life) -> None:
    """A process may be killed between the two."""
    life.put_back("-lock")
    store = life.open()
    assert (store.epoch, store.head) == (life.epoch, 10)
    store.close()


def made_old(life: Life) -> None:
    """The file becomes one of the first version, which had no checksums and no note."""
    life.open().close()
    with sqlite3.connect(life.file(), isolation_level=None) as old:
        old.execute("ALTER TABLE entries DROP COLUMN crc")
        old.execute("ALTER TABLE log DROP COLUMN noted")
        old.execute("PRAGMA user_version = 1")
    old.close()
    life.file("-lock").write_bytes(b"4711\n")


def missing(life: Life) -> None:
    for name in ("", "-wal", "-lock"):
        life.file(name).unlink()


def killed(life: Life) -> None:
    crash(life.open())


def closed(life: Life) -> None:
    life.open().close()


@pytest.mark.parametrize("before", [missing, made_old, killed, closed])
def test_killed_at_any_step_of_its_start(
    before: Callable[[Life], object], life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was lost, and nothing is said to be."""
    before(life)
    connect, note = sqlite3.connect, FileLock.note
    copies = [life.directory / "killed-0.db"]

    def die(_: object) -> None:
        copy(life.file(), copies[-1])
        copies.append(life.directory / f"killed-{len(copies)}.db")

    def connect_and_listen(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(die)  # it is called before each statement
        return connection

    def note_and_die(lock: FileLock, head: Head, *, on_disk: bool = False) -> None:
        die("before the note")
        note(lock, head, on_disk=on_disk)

    with monkeypatch.context() as patches:
        patches.setattr(sqlite3, "connect", connect_and_listen)
        patches.setattr(FileLock, "note", note_and_die)
        store = life.open()
    store.close()
    assert len(copies) > 20
    for path in copies[:-1]:
        again = open_store(path)
        assert (path, again.recovered.renewed, again.head) == (path, None, store.head)
        assert before is missing or again.epoch == life.epoch
        again.close()


def without_note(life: Life) -> None:
    life.file("-lock").unlink()


def damaged_note(life: Life) -> None:
    note = bytearray(life.file("-lock").read_bytes())
    note[40] ^= 4
    life.file("-lock").write_bytes(note)


def cut_wal(life: Life) -> None:
    os.truncate(life.file("-wal"), life.file("-wal").stat().st_size - 1)


def old_snapshot(life: Life) -> None:
    life.put_back("")
    life.put_back("-wal")


def another_log(life: Life) -> None:
    other = open_store(life.directory / "other.db")
    add(other, *"abcdefghijklm")
    other.close()
    life.file("-wal").unlink()
    shutil.copy(life.directory / "other.db", life.file())


def another_history(life: Life) -> None:
    life.put_back("")
    life.put_back("-wal")
    elsewhere = life.directory / "elsewhere.db"
    for name in ("", "-wal", "-lock"):
        shutil.copy(life.directory / f"old.db{name}", f"{elsewhere}{name}")
    store = open_store(elsewhere)
    add(store, *("not what was published here " * 3 for _ in range(4)))
    assert store.head == 10
    store.close()
    life.file("-wal").unlink()
    shutil.copy(elsewhere, life.file())


def gone_with_its_note(life: Life) -> None:
    gone(life)
    damaged_note(life)


def gone(life: Life) -> None:
    for name in ("", "-wal"):
        life.file(name).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_note, "the note .* is missing or damaged"),
        (damaged_note, "the note .* is missing or damaged"),
        (cut_wal, "it ends at offset 9, but had reached 10"),
        (old_snapshot, "it ends at offset 6, but had reached 10"),
        (another_log, "it is not the file that the note"),
        (another_history, "its entry at offset 10 is not the one that was there"),
        (gone_with_its_note, "the note .* is missing or damaged"),
        (gone, "it was missing, and a new one was created"),
    ],
)
def test_what_was_lost_renews_the_epoch(damage: Callable[[Life], None], words: str, life: Life) -> None:
    """Once: the next start finds nothing new. What is there can be read."""
    damage(life)
    store = life.open()
    assert store.epoch != life.epoch
    assert store.recovered.renewed is not None
    assert re.search(words, store.recovered.renewed)
    add(store, "next")
    assert data(store)[-1] == "next"
    crash(store)
    again = life.open()
    assert (again.epoch, again.recovered.renewed) == (store.epoch, None)
    again.close()


def test_a_structure_that_is_damaged_as_well(life: Life) -> None:
    """The next write might be destroyed, so the file is refused, and stays as it is."""
    store = life.open()
    add(store, *(f"more {number} {'x' * 500}" for number in range(100)))
    store.close()
    content = bytearray(life.file().read_bytes())
    content[-8192:-4096] = bytes(4096)
    life.file().write_bytes(content)
    life.open().close()  # its readers are told; nothing shows that offsets were lost
    without_note(life)
    before = life.file().read_bytes()
    with pytest.raises(StoreError, match=r"damaged: .* `trionotify store repair sqlite:/"):
        life.open()
    assert life.file().read_bytes() == before


def test_an_operator_renews_the_epoch_of_a_snapshot(life: Life) -> None:
    """A snapshot of all files at once can't be recognized."""
    for name in ("", "-wal", "-lock"):
        life.put_back(name)
    epoch = new_epoch(life.file())
    store = life.open()
    assert (store.epoch, store.recovered.renewed, store.head) == (epoch, None, 6)
    store.close()


def noted(path: Path) -> Head:
    lock = FileLock.take(str(path))
    note = lock.noted()
    lock.release()
    assert note is not None
    return note


def test_a_new_epoch_leaves_the_time_alone(life: Life) -> None:
    """The next process goes on where the clock was left, not at the moment of the newest entry."""
    store = life.open()
    store.evict(0, 3600.0)
    store.close()
    before = noted(life.file())
    after = noted(life.file()) if new_epoch(life.file()) else before
    assert after.epoch != before.epoch
    assert attrs.evolve(after, epoch=before.epoch) == before
    assert before.moment == 3600.0


def test_a_new_epoch_without_a_note(life: Life) -> None:
    """It can't be known how long ago the newest entry was stored, so it isn't claimed."""
    without_note(life)
    new_epoch(life.file())
    assert noted(life.file()).boot == ""


@pytest.mark.parametrize(
    ("ago", "boots", "confirmed"),
    [
        (40.0, ("", None), 40.0),  # maybe of the same boot
        (40.0, ("a", "b"), 1000.0),  # of another: it is as long ago as this one has been up
        (-40.0, ("", None), 1000.0),  # of another, because this one hasn't been up for so long
    ],
)
def test_the_time_since_a_note(
    ago: float,
    boots: tuple[str, str | None],
    confirmed: float,
    life: Life,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No more than a steady clock confirms, also where boots have no names."""
    monkeypatch.setattr(recovery, "steady", lambda: 1000.0)
    store = life.open()
    note = Head("e", 1, 1, 0.0, 1000.0 - ago, boots[0])
    assert recovery.passed(attrs.evolve(store.recovered, boot=boots[1]), note) == confirmed
    store.close()


def test_starts_soon_after_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often: what only the wall clock says makes nothing older before it has stood."""
    wall, uptime, boot = 1_000_000.0, 5000.0, "a"
    monkeypatch.setattr(epochs, "boot_id", lambda: boot)
    for module in (recovery, sqlite):
        monkeypatch.setattr(module, "steady", lambda: uptime)
    monkeypatch.setattr(recovery, "LogClock", lambda: LogClock(lambda: wall, lambda: uptime))

    def start() -> tuple[SqliteStore, LogClock]:
        path, hour = tmp_path / "log.db", 3600.0
        store = SqliteStore.open(path, max_entries=10, max_bytes=1 << 20, max_age=hour)
        clock = recovery.clock_of(store.recovered)
        store.begin(clock.now(), clock.unconfirmed())
        return store, clock

    store, clock = start()
    add(store, "a", now=clock.now())
    wall += 1e6
    for machine in (("b", 20.0), ("b", 50.0), ("c", 20.0), ("c", 50.0)):
        crash(store)
        boot, uptime = machine
        wall += 30.0
        store, clock = start()
        store.evict(store.head, clock.now(), clock.unconfirmed())
        assert data(store) == ["a"]
    wall, uptime = wall + SETTLED, uptime + SETTLED
    store.evict(store.head, clock.now(), clock.unconfirmed())
    assert data(store) == []
    store.close()


def test_a_close_in_the_middle_of_a_move(tmp_path: Path) -> None:
    """The rest is moved, and the note has the time, for the next process to go on."""
    store = open_store(tmp_path / "log.db", now=100.0)
    store.append([entry(f"{number}") for number in range(2500)], 0, 100.0)
    store.shift(+1000.0, 1110.0)
    store.close()
    assert noted(tmp_path / "log.db").moment == 1110.0


def test_a_file_of_the_first_version(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no checksums and no note. It gets both, and its epoch stays."""
    made_old(life)
    store = life.open()
    assert (store.epoch, store.recovered.renewed) == (life.epoch, None)
    assert data(store) == [f"data {number}" for number in range(1, 11)]
    assert store.damages() == []
    crash(store)
    without_note(life)
    again = life.open()
    assert again.epoch != life.epoch
    again.close()


@pytest.fixture
def broken_note(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """While it holds something, the note can't be written."""
    faults: list[bool] = []
    note = FileLock.note

    def may_fail(lock: FileLock, head: Any, *, on_disk: bool = False) -> None:
        if faults:
            raise StoreError(503, "log.db-lock: no")
        note(lock, head, on_disk=on_disk)

    monkeypatch.setattr(FileLock, "note", may_fail)
    return faults


def test_a_note_that_cant_be_written(broken_note: list[bool], tmp_path: Path) -> None:
    """Committed entries stay. Nothing more is accepted until it can be noted."""
    store = open_store(tmp_path / "log.db")
    broken_note.append(True)
    add(store, "a")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"log\.db-lock: no"):
            add(store, "refused")
    assert data(store) == ["a"]
    broken_note.clear()
    add(store, "b")
    crash(store)
    again = open_store(tmp_path / "log.db")
    assert (again.epoch, data(again)) == (store.epoch, ["a", "b"])
    again.close()


# --- a disk that fails to store what was written ---


class Unsynced(Faulty):
    """A connection whose n-th commit is in the file when it fails."""

    def execute(self, sql: str, *args: Any) -> Any:
        if sql != "COMMIT":
            return self.connection.execute(sql, *args)
        self.left -= 1
        done = self.connection.execute(sql, *args)
        if self.left == 0:
            raise self.error
        return done


def fail_to_sync(store: SqliteStore) -> None:
    """Let the next commit fail so."""
    database: Any = store._database
    error = sqlite_error(sqlite3.SQLITE_IOERR_FSYNC)
    database._connection = Unsynced(database._connection, 1, error)


def test_an_fsync_that_fails(tmp_path: Path) -> None:
    """Nothing is written any more, however often one tries, and what was refused never appears."""
    store = open_store(tmp_path / "log.db")
    add(store, "a", "b")
    fail_to_sync(store)
    one = entry("refused")
    for call in (lambda: store.append([one], 0, 0.0), *[lambda: add(store, "c"), store.check] * 3):
        with pytest.raises(
            StoreError,
            match=(
                r"the disk failed to store what was written \(disk I/O error\) and may lack"
                r" some of it"
            ),
        ):
            call()
    assert (one.offset, store.head) == (0, 2)
    store.close()
    noted = FileLock.take(str(tmp_path / "log.db"))
    assert noted.noted() is not None
    noted.release()
    again = open_store(tmp_path / "log.db")
    assert (again.epoch, again.recovered.renewed, again.recovered.doubtful) == (store.epoch, None, True)
    assert data(again) == ["a", "b"]
    add(again, "c")
    again.close()
    last = open_store(tmp_path / "log.db")
    assert (last.recovered.doubtful, data(last)) == (False, ["a", "b", "c"])
    last.close()


async def test_a_check_that_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process has the same doubts, and checks all of the file again."""
    store = open_store(tmp_path / "log.db")
    add(store, "a")
    fail_to_sync(store)
    with pytest.raises(StoreError, match="the disk failed to store"):
        add(store, "b")
    store.close()
    looked: list[str] = []

    def damages(store: SqliteStore) -> list[tuple[int, int]]:
        looked.append("looked")
        if len(looked) == 1:
            raise StoreError(503, "killed")
        return []

    monkeypatch.setattr(SqliteStore, "damages", damages)
    with pytest.raises(StoreError, match="killed"):
        await durable.DurableLog.open(str(tmp_path / "log.db"), "full", Settings())
    for _ in range(2):
        log = await durable.DurableLog.open(str(tmp_path / "log.db"), "full", Settings())
        await log.aclose()
    assert looked == ["looked"] * 2


def test_an_fsync_that_fails_at_the_first_entry(tmp_path: Path) -> None:
    """The log is empty again."""
    store = open_store(tmp_path / "log.db")
    fail_to_sync(store)
    with pytest.raises(StoreError):
        add(store, "refused")
    store.close()
    again = open_store(tmp_path / "log.db")
    assert (again.epoch, again.head, data(again)) == (store.epoch, 0, [])
    again.close()


@attrs.define
class FailingMerge:
    """A connection that can't merge its WAL."""

    connection: sqlite3.Connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def execute(self, sql: str, *args: Any) -> Any:
        if "wal_checkpoint" in sql:
            raise sqlite_error(sqlite3.SQLITE_IOERR_FSYNC)
        return self.connection.execute(sql, *args)


def test_merging_the_wal_that_fails(tmp_path: Path) -> None:
    """Committed entries are there, and the next one is refused."""
    store = open_store(tmp_path / "log.db")
    database: Any = store._database
    database._connection = FailingMerge(database._connection)
    for number in range(12):
        add(store, f"{number}" + "x" * 1_000_000)
    head = store.head
    with pytest.raises(StoreError, match="the disk failed to store"):
        add(store, "refused")
    store.close()
    again = open_store(tmp_path / "log.db")
    assert (again.epoch, again.head) == (store.epoch, head)
    again.close()


def test_closing_when_the_disk_fails_to_store(tmp_path: Path) -> None:
    """Merging the WAL then has the usual result: the file is in doubt, and checked."""
    store = open_store(tmp_path / "log.db")
    add(store, "a", "b")
    database: Any = store._database
    database._connection = FailingMerge(database._connection)
    store.close()
    assert (tmp_path / "log.db-wal").stat().st_size > 0  # SQLite hasn't tried it again
    again = open_store(tmp_path / "log.db")
    assert (again.epoch, data(again), again.recovered.doubtful) == (store.epoch, ["a", "b"], True)
    again.close()


def test_it_is_merged_when_it_is_long(tmp_path: Path) -> None:
    """Our code tells SQLite so, because SQLite wouldn't say that it failed."""
    store = open_store(tmp_path / "log.db")
    automatic = store._database.connection.execute("PRAGMA wal_autocheckpoint").fetchone()
    assert automatic == (0,)
    for _ in range(40):
        add(store, "x" * 1_000_000)
    assert (tmp_path / "log.db-wal").stat().st_size < 20_000_000
    assert (tmp_path / "log.db").stat().st_size > 30_000_000
    store.close()


def test_a_merge_that_fails_behind_a_commit_that_couldnt_be_noted(
    broken_note: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acknowledged entries stay, and so does the doubt, whatever is tried."""
    store = open_store(tmp_path / "log.db")
    add(store, "a")
    database: Any = store._database

    def failing(written: int) -> None:
        broken_note.clear()
        raise database._fault(sqlite_error(sqlite3.SQLITE_IOERR_FSYNC))

    monkeypatch.setattr(database, "merge", failing)
    broken_note.append(True)
    add(store, "b")
    for _ in range(2):
        with pytest.raises(StoreError, match="the disk failed to store"):
            add(store, "refused")
    store.close()
    monkeypatch.undo()
    again = open_store(tmp_path / "log.db")
    assert (again.epoch, data(again), again.recovered.doubtful) == (store.epoch, ["a", "b"], True)
    again.close()
