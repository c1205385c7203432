"""The durable log's file when things go wrong: processes die, disks fill, files are not what they
were.

Whatever happens: nothing that was acknowledged is lost, a call that failed changed nothing, and it
works again when the fault is gone.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests import stores
from tests.stores import add, append_until_refused, ask, child, crash, data, entries, entry, open_store
from trionotify.delivery.entry import Entry
from trionotify.delivery.log import Damaged
from trionotify.errors import StoreError
from trionotify.model.notification import Notification
from trionotify.storage import lock
from trionotify.storage.care import repair
from trionotify.storage.lock import FileLock
from trionotify.storage.rows import COLUMNS
from trionotify.storage.sqlite import SqliteStore

posix_only = pytest.mark.skipif(os.name != "posix", reason="the limits and users of POSIX")

# --- processes that die ---


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_killed_at_any_moment(durability: str, tmp_path: Path) -> None:
    """All that was reported is there, contiguous, once; the epoch stays, because the machine was up."""
    path = str(tmp_path / "log.db")
    chance = random.Random(durability)
    epoch, reported = None, 0
    for _ in range(20):
        size = chance.choice([10, 10_000])
        with child(stores.append_for_ever, path, durability, size) as (process, pipe):
            for _ in range(chance.randrange(12)):
                reported = pipe.recv()
            process.kill()
            with contextlib.suppress(EOFError):
                while True:
                    reported = pipe.recv()
        store = open_store(path, durability=durability)
        assert epoch in {None, store.epoch}
        epoch = store.epoch
        assert store.head >= reported
        assert [int(text) for text in data(store)] == list(range(1, store.head + 1))
        crash(store)
    assert reported > 20


def test_one_server_at_a_time(tmp_path: Path) -> None:
    """The second is told who has the file; when that one dies, it may have it."""
    path = str(tmp_path / "log.db")
    with child(stores.hold, path) as (process, pipe):
        epoch = pipe.recv()
        words = rf"log\.db: in use by a running server \(process {process.pid}\); stop it"
        with pytest.raises(StoreError, match=words) as caught:
            open_store(path)
        assert caught.value.status == 503
    store = open_store(path)
    assert (data(store), store.epoch) == (["theirs"], epoch)
    with pytest.raises(StoreError, match=rf"process {os.getpid()}"):
        open_store(path)
    store.close()
    open_store(path).close()


def test_a_link_is_the_same_file(tmp_path: Path) -> None:
    """By whatever name, a file has one server."""
    (tmp_path / "link.db").symlink_to(tmp_path / "log.db")
    store = open_store(tmp_path / "link.db")
    assert store.path == str(tmp_path / "log.db")
    with pytest.raises(StoreError, match=r"in use by a running server"):
        open_store(tmp_path / "log.db")
    store.close()


def test_a_lock_that_nobody_signed(tmp_path: Path) -> None:
    """Its holder is just another process."""
    held = FileLock.take(str(tmp_path / "log.db"))
    (tmp_path / "log.db-lock").write_bytes(b"")
    with pytest.raises(StoreError, match=r"in use by a running server \(another process\)"):
        open_store(tmp_path / "log.db")
    held.release()


def test_a_place_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have none."""

    def no_locks(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", no_locks)
    with pytest.raises(StoreError, match=r"log\.db-lock: .* \(ENOLCK\); name a path on a local file"):
        open_store(tmp_path / "log.db")


# --- disks that are full ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tmpfs can't be mounted here: {error}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True, capture_output=True)


def fill(disk: Path, leave: int = 0) -> None:
    """Put a file there that leaves so many bytes free."""
    with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    os.truncate(disk / "ballast", (disk / "ballast").stat().st_size - leave)


def test_a_disk_that_is_full(small_disk: Path) -> None:
    """507 with the reason; all that was accepted is there; when there is room, it goes on."""
    path = small_disk / "log.db"
    fill(small_disk, leave=1_000_000)
    store = open_store(path)
    refused, error = append_until_refused(store)
    assert error.status == 507
    assert error.detail == f"{path}: No space left on device (ENOSPC); free some space there"
    assert refused.offset == 0
    accepted = store.head
    assert [int(text) for text in data(store)] == list(range(1, accepted + 1))
    large = entry(bytes(2_000_000))
    for _ in range(3):
        with pytest.raises(StoreError, match="ENOSPC"):
            store.append([large], 0, 0.0)
    (small_disk / "ballast").unlink()
    store.check()
    assert store.append([refused], 0, 0.0) == [refused]
    assert refused.offset == accepted + 1
    store.close()
    again = open_store(path)
    assert [int(text) for text in data(again)] == list(range(1, accepted + 2))
    again.close()


def test_a_bounded_log_needs_no_more_room(small_disk: Path) -> None:
    """Evicted entries make room in the file, and the WAL is written over and over."""
    store = open_store(small_disk / "log.db", max_entries=10, durability="normal")

    def run(count: int) -> None:
        for _ in range(count):
            add(store, "x" * 10_000, upto=store.head)

    run(1000)
    fill(small_disk)
    run(1000)
    assert (store.head, len(entries(store))) == (2000, 10)
    store.close()


def test_a_disk_that_is_too_small_for_the_wal(small_disk: Path) -> None:
    """Once one was refused, what is in the WAL goes into the file, and then there is room again."""
    store = open_store(small_disk / "log.db", max_entries=10)
    for _ in range(50):
        add(store, "x" * 10_000, upto=store.head)
    store.close()
    store = open_store(small_disk / "log.db", max_entries=10)
    fill(small_disk, leave=1_000_000)
    for _ in range(3):
        append_until_refused(store)
        head = store.head
        for _ in range(20):
            add(store, "x" * 10_000, upto=store.head)
        assert store.head == head + 20
    store.close()


def test_a_disk_that_is_full_from_the_start(small_disk: Path) -> None:
    """Nothing can be opened; a server that closes its file doesn't mind."""
    store = open_store(small_disk / "log.db")
    add(store, "a")
    fill(small_disk)
    with pytest.raises(StoreError, match=r"other\.db: No space left on device \(ENOSPC\)") as caught:
        open_store(small_disk / "other.db")
    assert caught.value.status == 507
    append_until_refused(store)
    head = store.head
    store.close()
    (small_disk / "ballast").unlink()
    again = open_store(small_disk / "log.db")
    assert again.head == head
    again.close()


@posix_only
@pytest.mark.parametrize("limit", [100_000, 123_456, 300_001])
def test_a_limit_on_the_size_of_files(limit: int, tmp_path: Path) -> None:
    """As a disk that is full: the same code path, without a mount."""
    path = str(tmp_path / "log.db")
    status, detail, head, checked, offset, content = ask(stores.fill_up, path, limit)
    assert status == 507
    assert detail == f"{path}: File too large (EFBIG); raise the limit on the size of files (ulimit -f)"
    assert checked in {None, 507}
    assert (offset, head > 0) == (head + 1, True)
    assert [int(text) for text in content] == list(range(1, offset + 1))
    store = open_store(path)
    assert data(store) == content
    store.close()


# --- files that can't be opened ---


def as_nobody() -> int | None:
    """The user that a child should be: root may do anything."""
    return stores.NOBODY if os.geteuid() == 0 else None


@pytest.fixture
def their_directory() -> Iterator[Path]:
    """One that `as_nobody` may use."""
    with tempfile.TemporaryDirectory() as directory:
        if os.geteuid() == 0:
            os.chown(directory, stores.NOBODY, stores.NOBODY)
        yield Path(directory)
        os.chmod(directory, 0o700)


def give(*paths: Path) -> None:
    """Let `as_nobody` be the owner."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, stores.NOBODY, stores.NOBODY)


@posix_only
def test_a_directory_that_may_not_be_written(their_directory: Path) -> None:
    """The lock is what can't be made."""
    their_directory.chmod(0o500)
    status, detail = ask(stores.try_to_open, str(their_directory / "log.db"), as_nobody())
    assert status == 503
    assert detail.startswith(
        f"{their_directory / 'log.db-lock'}: Permission denied (EACCES); let the server's user"
    )


@posix_only
@pytest.mark.parametrize("mode", [0o400, 0o000])
def test_a_file_that_may_not_be_written(mode: int, their_directory: Path) -> None:
    """Nor read: it stays as it is."""
    path = their_directory / "log.db"
    store = open_store(path)
    add(store, "a")
    store.close()
    before = path.read_bytes()
    give(path, their_directory / "log.db-lock")
    path.chmod(mode)
    status, detail = ask(stores.try_to_open, str(path), as_nobody())
    assert status == 503
    assert detail.startswith(f"{path}: Permission denied (EACCES); let the server's user")
    path.chmod(0o600)
    assert path.read_bytes() == before
    assert ask(stores.try_to_open, str(path), as_nobody()) is None


@posix_only
def test_too_few_descriptors(tmp_path: Path) -> None:
    """However far it came, that is what it says."""
    refusals = ask(stores.open_with_few_files, str(tmp_path / "log.db"))
    assert len(refusals) > 2
    for status, detail in refusals:
        assert status == 503
        assert "Too many open files (EMFILE); raise the limit on open files (ulimit -n)" in detail
    store = open_store(tmp_path / "log.db")
    assert store.head == 0
    store.close()


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    """It isn't made: perhaps something isn't mounted."""
    with pytest.raises(StoreError, match=r"No such file or directory \(ENOENT\)"):
        open_store(tmp_path / "nowhere" / "log.db")
    assert os.listdir(tmp_path) == []


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    """Neither a directory, nor below a file."""
    with pytest.raises(StoreError, match="not a file; name a file"):
        open_store(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"Not a directory \(ENOTDIR\)"):
        open_store(tmp_path / "file" / "log.db")


# --- files that are not ours, or not whole ---


def refuse(path: Path, words: str) -> None:
    """It can't be opened, for that reason, and stays as it is."""
    before = path.read_bytes()
    with pytest.raises(StoreError, match=words) as caught:
        open_store(path)
    assert caught.value.status == 503
    assert str(path) in caught.value.detail
    assert path.read_bytes() == before
    assert not {path.name + "-wal", path.name + "-shm"} & set(os.listdir(path.parent))


def test_killed_while_the_file_was_made(tmp_path: Path) -> None:
    """The part that was written by then is taken back, and the file is created again."""
    path = tmp_path / "log.db"
    with contextlib.closing(sqlite3.connect(tmp_path / "making", isolation_level=None)) as db:
        for step in ("PRAGMA cache_size = 2", "BEGIN", "CREATE TABLE t (x)"):
            db.execute(step)
        db.executemany("INSERT INTO t VALUES (?)", [("." * 1000,)] * 100)
        # As the disk is when the process is killed now.
        shutil.copy(tmp_path / "making", path)
        shutil.copy(tmp_path / "making-journal", tmp_path / "log.db-journal")
    assert path.stat().st_size > 0
    with contextlib.closing(open_store(path)) as store:
        assert store.head == 0


@pytest.mark.parametrize("content", [b"x", b"hello\n" * 3, b"hello\n" * 1000, b"SQLite format 3\0" * 99])
def test_a_file_that_is_no_database(content: bytes, tmp_path: Path) -> None:
    """Whatever its size."""
    (tmp_path / "notes.txt").write_bytes(content)
    refuse(tmp_path / "notes.txt", r"notes\.txt: not an SQLite database|notes\.txt: damaged")


def make_other(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement)


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE entries (offset)",),
        ("CREATE TABLE log (epoch)", "PRAGMA application_id = 7"),
        ("PRAGMA application_id = 7",),
        ("PRAGMA user_version = 1",),
        ("PRAGMA journal_mode = WAL", "CREATE TABLE log (epoch)"),
    ],
)
def test_a_database_of_another_application(statements: tuple[str, ...], tmp_path: Path) -> None:
    """It isn't ours to add tables to."""
    make_other(tmp_path / "other.db", *statements)
    refuse(tmp_path / "other.db", "the database of another application")


def test_an_empty_database_is_nobodys(tmp_path: Path) -> None:
    """So is an empty file, as `mktemp` makes it."""
    make_other(tmp_path / "new.db", "VACUUM")
    assert (tmp_path / "new.db").stat().st_size > 0
    (tmp_path / "empty.db").touch()
    for name in ("new.db", "empty.db"):
        store = open_store(tmp_path / name)
        add(store, "a")
        assert data(store) == ["a"]
        store.close()


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The file of a log of 500 entries, closed."""
    store = open_store(tmp_path / "log.db")
    for offset in range(1, 501):
        note = Notification(f"data {offset}", id=f"{offset}", extensions={"number": offset})
        store.append([Entry(note, None, None, ("p", note.source, note.id))], 0, float(offset))
    store.close()
    return tmp_path / "log.db"


@pytest.mark.parametrize("share", [0.999, 0.5, 0.1, 0.01])
def test_a_truncated_file(share: float, whole: Path) -> None:
    """Refused at the start."""
    os.truncate(whole, int(whole.stat().st_size * share))
    refuse(whole, r"log\.db: damaged: .*restore a backup|not an SQLite database")


def test_random_bytes_in_the_middle(whole: Path) -> None:
    """Whichever page they hit: it is said, at the start or when it is read; what is whole is served."""
    page = 4096
    expected = {n: f"data {n}" for n in range(1, 501)}
    pristine = whole.read_bytes()
    noise = random.Random(7)
    said, served = [], 0
    for at in range(0, len(pristine), page):
        whole.write_bytes(pristine[:at] + noise.randbytes(page) + pristine[at + page :])
        try:
            store = open_store(whole, now=500.0)
        except StoreError as error:
            said.append(error)
            continue
        found, lost = read_what_can_be_read(store)
        store.close()
        served += bool(lost)
        assert found == {n: text for n, text in expected.items() if n not in lost}
    assert len(said) > 1
    assert served > 5
    for error in said:
        assert error.status == 503
        assert str(whole) in error.detail
        assert "store repair sqlite:" in error.detail or "not an SQLite" in error.detail


def read_what_can_be_read(store: SqliteStore) -> tuple[dict[int, Any], set[int]]:
    """The entries that are served, and the offsets that are said to be lost."""
    found: dict[int, Any] = {}
    lost: set[int] = set()
    at = store.start
    while at < store.head:
        try:
            for row in store.read(at, 7, 100_000):
                found[row[0]] = store.restore(row).notification.data
            at = max(found)
        except Damaged as damage:
            lost.update(range(damage.after + 1, damage.upto + 1))
            at = damage.upto
    return found, lost


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"data 250", b"data \xff\xff\xff"),
        (b"data 250", b"data 150"),
        (b'{"number":250}', b'{"number":25!}'),
    ],
)
def test_a_row_that_isnt_what_was_written(old: bytes, new: bytes, whole: Path) -> None:
    """It isn't served; what comes before and after it is."""
    content = whole.read_bytes()
    assert content.count(old) == 1
    whole.write_bytes(content.replace(old, new))
    store = open_store(whole, now=500.0)
    found, lost = read_what_can_be_read(store)
    assert lost == {250}
    assert len(found) == 499
    store.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP TABLE log", "no such table: log"),
        ("DELETE FROM log", "can't be read"),
        ("INSERT INTO log SELECT * FROM log", "can't be read"),
        ("UPDATE log SET total = 'x'", "can't be read"),
        ("ALTER TABLE entries DROP COLUMN moment", "no such column: moment"),
        ("UPDATE log SET head = 7", "don't match"),
        ("PRAGMA user_version = 0", "its version is 0, which never existed"),
        ("PRAGMA user_version = -5", "its version is -5, which never existed"),
    ],
)
def test_what_was_changed_by_hand(statement: str, words: str, whole: Path) -> None:
    """As far as it concerns the log as a whole, at the start."""
    make_other(whole, statement)
    refuse(whole, rf"log\.db: damaged: .*{words}")


@pytest.mark.parametrize(
    "change",
    [
        *(
            "moment = 1000",
            "moment = 'x'",
            "total = 0",
            "total = 'x'",
            "size = 'x'",
            "crc = 0",
            "crc = NULL",
        ),
        *(
            "extensions = '{'",
            "data = x'00'",
            "given = 0",
            "publisher = NULL",
            "time = 0.5",
            "origin = 3",
        ),
    ],
)
@pytest.mark.parametrize("offset", [1, 250, 500])
def test_a_value_that_was_changed(change: str, offset: int, whole: Path) -> None:
    """In the middle and at the ends: that row is lost, and nothing else; it is evicted like others."""
    make_other(whole, f"UPDATE entries SET {change} WHERE offset = {offset}")
    store = open_store(whole, max_age=1000.0, now=510.0)
    found, lost = read_what_can_be_read(store)
    # Its age is unknown; the oldest row is evicted then.
    assert lost == ({offset} if (change, offset) != ("moment = 1000", 1) else set())
    assert len(found) == 499
    for moment in (0.0, 100.0, 251.0, 400.0):
        assert abs(store.offset_at(moment) - max(0.0, moment - 1)) <= 1
    add(store, "next", now=511.0)
    store.evict(501, now=1250.5)
    while store.start < 250:
        before = store.start
        store.evict(501, now=1250.5)
        assert store.start > before
    assert store.start <= 251
    assert read_what_can_be_read(store)[1] == ({offset} if offset == 500 else set())
    store.close()


def test_a_last_offset_that_cant_be(whole: Path) -> None:
    """Nothing would have a place behind it. A repair keeps everything else."""
    make_other(whole, f"UPDATE entries SET offset = {(1 << 63) - 1} WHERE offset = 500")
    refuse(
        whole, r"log\.db: damaged: its last offset is 9223372036854775807, but its note says 500.*repair"
    )
    assert repair(whole).kept == 499
    store = open_store(whole, now=500.0)
    add(store, "next", now=500.0)
    assert len(data(store)) == 500
    store.close()


def test_what_is_missing_in_the_middle(whole: Path) -> None:
    """No client gets a log with a hole in it without being told."""
    make_other(whole, "DELETE FROM entries WHERE offset BETWEEN 250 AND 260")
    store = open_store(whole, now=500.0)
    for after in (249, 255):
        with pytest.raises(Damaged) as caught:
            store.read(after, 10, 10_000)
        assert (caught.value.after, caught.value.upto) == (after, 260)
    assert [row[0] for row in store.read(245, 10, 10_000)] == [246, 247, 248, 249]
    assert store.offset_at(250.0) in range(249, 261)
    assert len(entries(store, 260)) == 240
    store.close()


def test_a_long_stretch_that_is_missing(whole: Path) -> None:
    """Its end is found, exactly."""
    make_other(whole, "DELETE FROM entries WHERE offset BETWEEN 11 AND 444")
    store = open_store(whole, now=500.0)
    assert list(store.damages()) == [(10, 444)]
    store.close()


@pytest.mark.parametrize(
    ("new", "fresh"), [(b"key-000104-y", "key-000104-y"), (b"key-000105-x", "key-000105-x")]
)
def test_an_index_that_was_changed(new: bytes, fresh: str, tmp_path: Path) -> None:
    """Nothing is taken for a repetition of something else, acknowledged as that, and lost."""
    path = tmp_path / "log.db"
    store = open_store(path)
    for number in range(105):
        store.append([entry(f"{number}", id=f"key-{number:06}-x")], 0, 0.0)
    store.close()
    content = bytearray(path.read_bytes())
    places = [found.start() for found in re.finditer(b"key-000104-x", content)]
    (in_index,) = (at for at in places if content[at // 4096 * 4096] == 10)  # a leaf of an index
    content[in_index : in_index + len(new)] = new
    path.write_bytes(content)
    store = open_store(path)
    one = entry("fresh", id=fresh)
    with pytest.raises(StoreError, match=r"log\.db: damaged: its index of repetitions") as caught:
        store.append([one], 0, 0.0)
    assert caught.value.status == 503
    assert (one.offset, store.head) == (0, 105)
    assert store.append([entry("another", id="another")], 0, 0.0)
    store.close()


# --- files that go away, and come back ---


def refuse_to_write(store: SqliteStore, words: str) -> None:
    """An append, an eviction and a check."""
    before = (store.start, store.head)
    one = entry("refused")
    for call in (lambda: store.append([one], 0, 0.0), lambda: store.evict(0, 0.0), store.check):
        with pytest.raises(StoreError, match=words) as caught:
            call()
        assert caught.value.status == 503
    assert (one.offset, store.start, store.head) == (0, *before)


@posix_only
@pytest.mark.parametrize("name", ["log.db", "log.db-wal", "log.db-shm", "log.db-lock"])
def test_a_file_that_was_removed_and_put_back(name: str, tmp_path: Path) -> None:
    """Nothing is accepted meanwhile; what was there can be read."""
    store = open_store(tmp_path / "log.db")
    add(store, "a")
    (tmp_path / name).rename(tmp_path / "away")
    refuse_to_write(store, rf"{name}: was removed or replaced")
    assert data(store) == ["a"]
    shutil.copy(tmp_path / "away", tmp_path / name)
    refuse_to_write(store, rf"{name}: was removed or replaced")
    (tmp_path / "away").rename(tmp_path / name)
    store.check()
    add(store, "b")
    store.close()
    again = open_store(tmp_path / "log.db")
    assert data(again) == ["a", "b"]
    again.close()


@posix_only
def test_a_file_that_was_moved_is_whole(tmp_path: Path) -> None:
    """Closing completes it; what has its name now is not touched."""
    store = open_store(tmp_path / "log.db")
    add(store, "a")
    (tmp_path / "log.db").rename(tmp_path / "moved.db")
    (tmp_path / "log.db").write_bytes(b"somebody else's")
    store.close()
    assert (tmp_path / "log.db").read_bytes() == b"somebody else's"
    moved = open_store(tmp_path / "moved.db")
    assert data(moved) == ["a"]
    moved.close()


def test_a_wal_that_was_left_behind(tmp_path: Path) -> None:
    """It holds what was accepted, so it isn't written over by a new log of the same name."""
    store = open_store(tmp_path / "log.db")
    add(store, "a")
    for name in ("log.db", "log.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / name.replace("log", "copy"))
    store.close()
    (tmp_path / "copy.db").rename(tmp_path / "away.db")
    with pytest.raises(StoreError, match=r"copy\.db-wal exists; put "):
        open_store(tmp_path / "copy.db")
    (tmp_path / "away.db").rename(tmp_path / "copy.db")
    again = open_store(tmp_path / "copy.db")
    assert data(again) == ["a"]
    again.close()


def test_closing_again(tmp_path: Path) -> None:
    """Nothing happens; nothing else can be done with it any more."""
    store = open_store(tmp_path / "log.db")
    add(store, "a")
    store.close()
    store.close()
    for call in (
        lambda: add(store, "b"),
        lambda: store.read(0, 1, 1),
        lambda: store.offset_at(0.0),
        store.check,
    ):
        with pytest.raises(StoreError, match=r"log\.db: is closed; open it again"):
            call()
    assert sorted(os.listdir(tmp_path)) == ["log.db", "log.db-lock"]


def test_another_program_that_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, a while; then it is said."""
    store = open_store(tmp_path / "log.db")
    store._database.connection.execute("PRAGMA busy_timeout = 0")
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refuse_to_write(store, "another program is writing it")
        other.execute("ROLLBACK")
    store.check()
    add(store, "a")
    store.close()


def test_another_program_that_appended(tmp_path: Path) -> None:
    """No offset is given twice, and the log says that the file isn't the one that it was."""
    store = open_store(tmp_path / "log.db")
    add(store, "a")
    columns = ", ".join(column for column in COLUMNS if column != "offset")
    make_other(
        tmp_path / "log.db",
        f"INSERT INTO entries (offset, {columns}) SELECT 2, {columns} FROM entries",
    )
    one = entry("b")
    with pytest.raises(StoreError, match=r"log\.db: damaged: UNIQUE constraint failed"):
        store.append([one], 0, 0.0)
    assert (one.offset, store.head) == (0, 1)
    store.close()


# --- faults in each statement ---


@attrs.define
class Faulty:
    """A connection whose n-th statement fails, before it has done anything."""

    connection: sqlite3.Connection
    left: int
    error: BaseException

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def execute(self, sql: str, *args: Any) -> Any:
        self._count(sql)
        return self.connection.execute(sql, *args)

    def _count(self, sql: str) -> None:
        # Behind the fault it is what cleans up.
        if sql != "ROLLBACK" or self.left > 0:
            self.left -= 1
            if self.left == 0:
                raise self.error


def sqlite_error(code: int) -> sqlite3.Error:
    """As the module raises it."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("make", "raised", "words"),
    [
        (
            lambda: sqlite_error(sqlite3.SQLITE_IOERR_WRITE),
            StoreError,
            "disk I/O error",
        ),
        (lambda: sqlite_error(sqlite3.SQLITE_FULL), StoreError, "the disk is full"),
        (lambda: sqlite_error(sqlite3.SQLITE_CORRUPT), StoreError, ": damaged: "),
        (lambda: sqlite3.InterfaceError("no"), StoreError, "damaged: no"),
        (MemoryError, StoreError, "out of memory"),
        (lambda: UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"), StoreError, "can't be stored"),
        (KeyboardInterrupt, KeyboardInterrupt, ""),
        (lambda: ZeroDivisionError("ours"), ZeroDivisionError, "ours"),
    ],
)
def test_a_fault_in_any_statement(
    make: Callable[[], BaseException], raised: type[BaseException], words: str, tmp_path: Path
) -> None:
    """Nothing has changed, in memory or in the file; no transaction is open; the next append
    succeeds."""
    for at in itertools.count(1):
        path = tmp_path / f"log{at}.db"
        store = open_store(path, max_entries=2)
        store.append([entry("a"), entry("b", id="1")], 0, 0.0)
        database = store._database
        connection = database.connection
        database._connection = Faulty(connection, at, make())  # type: ignore[assignment] # it acts as one
        batch = [entry("c"), entry("d", id="1"), entry("e", id="2")]
        failure: BaseException | None = None
        try:
            store.append(batch, 4, 0.0)
        except (Exception, KeyboardInterrupt) as error:
            failure = error
        database._connection = connection
        if failure is None:
            break
        assert isinstance(failure, raised)
        assert words in str(failure)
        assert [one.offset for one in batch] == [0, 0, 0]
        assert (store.start, store.head) == (0, 2)
        assert data(store) == ["a", "b"]
        assert not connection.in_transaction
        store.check()
        assert store.append(batch, 4, 0.0) == [batch[0], batch[2]]
        assert [one.offset for one in batch] == [3, 2, 4]
        store.close()
        again = open_store(path)
        assert data(again) == ["c", "e"]
        again.close()
    store.close()
    # BEGIN, INSERT, DELETE, two look-ups, the row that one has found, INSERT, what is oldest, DELETE,
    # COMMIT
    assert at == 11


def test_a_fault_while_reading(tmp_path: Path) -> None:
    """It is raised as what it is, and the next read succeeds."""
    store = open_store(tmp_path / "log.db")
    add(store, "a")
    database = store._database
    connection = database.connection
    for call in (lambda: store.read(0, 1, 100), lambda: store.offset_at(0.0)):
        faulty: Any = Faulty(connection, 1, sqlite_error(sqlite3.SQLITE_IOERR_READ))
        database._connection = faulty
        with pytest.raises(StoreError, match="disk I/O error"):
            call()
        database._connection = connection
    assert data(store) == ["a"]
    store.close()


def test_checking_after_a_failed_append(tmp_path: Path) -> None:
    """Until a write succeeds."""
    store = open_store(tmp_path / "log.db")
    database = store._database
    connection = database.connection
    for _ in range(3):
        faulty: Any = Faulty(connection, 1, sqlite_error(sqlite3.SQLITE_IOERR_WRITE))
        database._connection = faulty
        with pytest.raises(StoreError):
            add(store, "a")
        faulty.left = 1
        with pytest.raises(StoreError):
            store.check()
    database._connection = connection
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        written = [other.execute("PRAGMA data_version").fetchone()]
        for _ in range(3):
            store.check()
            written.append(other.execute("PRAGMA data_version").fetchone())
    # Only the first one wrote anything; that was enough.
    assert written[0] != written[1] == written[2] == written[3]
    store.close()
