"""Looking after a log's file: backups under load, checks, repairs, and other users of the file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

import trionotify
from tests.stores import add, crash, data, entries, entry, open_store
from trionotify import StoreError
from trionotify.storage import care, copying, sharing
from trionotify.storage.care import check, repair
from trionotify.storage.database import Database
from trionotify.storage.lock import FileLock

# --- backups ---


async def in_thread(function: Callable[..., object], *arguments: object) -> None:
    await trio.to_thread.run_sync(function, *arguments)


async def test_a_backup_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server makes it while it goes on; it has all that was acknowledged before, and no hole."""
    monkeypatch.setattr(copying, "_STEP", 1)
    path, destination = str(tmp_path / "log.db"), str(tmp_path / "copy.db")
    acknowledged = 0
    before = during = 0

    limits = {"max_log_entries": 1_000_000, "max_log_bytes": 1 << 30}
    async with (
        trionotify.open_hub(store=f"sqlite:{path}", **limits) as hub,  # type: ignore[arg-type] # both are int
        trio.open_nursery() as nursery,
    ):

        async def publish() -> None:
            nonlocal acknowledged
            while True:
                await hub.publish(f"{acknowledged + 1} {'x' * 2000}")
                acknowledged += 1

        nursery.start_soon(publish)
        while acknowledged < 200:
            await trio.lowlevel.checkpoint()
        before = acknowledged
        await in_thread(care.backup, path, destination)
        during = acknowledged - before
        nursery.cancel_scope.cancel()
    assert during > 10
    assert check(destination) == []
    copy = open_store(destination)
    assert copy.head >= before
    assert [text.split()[0] for text in data(copy)] == [str(n) for n in range(1, copy.head + 1)]
    copy.close()
    assert sorted(os.listdir(tmp_path)) == ["copy.db", "copy.db-lock", "log.db", "log.db-lock"]


async def test_a_takeover(tmp_path: Path) -> None:
    """A server that is killed under load, and another one on copies of its files: cursors stay good."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    acknowledged = 0
    async with trionotify.open_hub(store=f"sqlite:{here}/log.db") as hub:
        cursor = (await hub.publish("0", confirm=True)).cursor
        async with trio.open_nursery() as nursery:

            async def publish(number: int) -> None:
                nonlocal acknowledged
                await hub.publish(f"{number}", confirm=True)
                acknowledged += 1

            for number in range(1, 301):
                nursery.start_soon(publish, number)
            while acknowledged < 100:
                await trio.lowlevel.checkpoint()
            least = acknowledged
            async with hub.log._thread:  # type: ignore[attr-defined] # no commit is under way
                # As the disk is when the process is killed now.
                for name in ("log.db", "log.db-wal", "log.db-lock"):
                    shutil.copy(here / name, there / name)
    async with trionotify.open_hub(store=f"sqlite:{there}/log.db") as hub:
        await hub.publish("next")
        heard: list[object] = []
        async with hub.subscribe(since=cursor) as notifications:
            while "next" not in heard:
                heard.append((await anext(notifications)).data)
    assert len(heard) > least
    assert len({*heard}) == len(heard)


async def test_a_backup_that_is_put_back(tmp_path: Path) -> None:
    """Clients that saw more than it has are told; with nothing lost, their cursors stay good."""
    path, destination = str(tmp_path / "log.db"), str(tmp_path / "copy.db")
    async with trionotify.open_hub(store=f"sqlite:{path}") as hub:
        seen = (await hub.publish("a", confirm=True)).cursor
        await in_thread(care.backup, path, destination)
    shutil.copy(destination, path)
    async with trionotify.open_hub(store=f"sqlite:{path}") as hub:
        async with hub.subscribe(since=seen) as notifications:
            await hub.publish("b")
            assert (await anext(notifications)).data == "b"
            seen = notifications.cursor
    shutil.copy(destination, path)
    async with trionotify.open_hub(store=f"sqlite:{path}") as hub:
        with pytest.raises(ValueError, match="can't resume at"):
            hub.subscribe(since=seen)


async def test_a_backup_without_a_server(tmp_path: Path) -> None:
    """It is made all the same, and the file stays as it is."""
    store = open_store(tmp_path / "log.db")
    add(store, "a", "b")
    crash(store)
    before = (tmp_path / "log.db").read_bytes()
    await in_thread(care.backup, str(tmp_path / "log.db"), str(tmp_path / "copy.db"))
    assert (tmp_path / "log.db").read_bytes() == before
    copy = open_store(tmp_path / "copy.db")
    assert data(copy) == ["a", "b"]
    copy.close()


async def test_a_backup_that_cant_be_written(tmp_path: Path) -> None:
    """It is said where and why, by a server and without one; nothing is left behind."""
    path, destination = str(tmp_path / "log.db"), str(tmp_path / "no" / "copy.db")
    async with trionotify.open_hub(store=f"sqlite:{path}") as hub:
        await hub.publish("a")
        with pytest.raises(StoreError, match=r"no/copy\.db: No such file .* create the directory"):
            await in_thread(care.backup, path, destination)
        await hub.publish("b")
    with pytest.raises(StoreError, match=r"no/copy\.db: No such file"):
        await in_thread(care.backup, path, destination)
    with pytest.raises(StoreError, match="does not exist"):
        await in_thread(care.backup, str(tmp_path / "nothing.db"), destination)
    assert sorted(os.listdir(tmp_path)) == ["log.db", "log.db-lock"]


NEEDED = ["log.db", "log.db-wal", "log.db-shm", "log.db-lock", ".log.db-control"]


@pytest.mark.parametrize("name", [*NEEDED, "link", "hard", "short"])
async def test_a_backup_onto_the_log_itself(name: str, tmp_path: Path) -> None:
    """It is refused, whatever the file is called, and by a server and without one."""
    path, destination = str(tmp_path / "log.db"), str(tmp_path / name)
    if name == "short":  # a copy that is under way has the name of the log
        path = str(tmp_path / "short-part")
    async with trionotify.open_hub(store=f"sqlite:{path}") as hub:
        await hub.publish("a")
        if name == "link":
            os.symlink(path, destination)
        if name == "hard":
            os.link(f"{path}-wal", destination)
        with pytest.raises(StoreError, match="would destroy the log"):
            await in_thread(care.backup, path, destination)
        await hub.publish("b", confirm=True)
    if name != "hard":
        with pytest.raises(StoreError, match="would destroy the log"):
            await in_thread(care.backup, path, destination)
    assert check(path) == []


async def test_a_backup_onto_what_it_must_not_replace(tmp_path: Path) -> None:
    """A directory, a device or a pipe, and another log that is in use; but an older copy."""
    path, other = str(tmp_path / "log.db"), str(tmp_path / "other.db")
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    store = open_store(other)
    add(store, "a")
    async with trionotify.open_hub(store=f"sqlite:{path}") as hub:
        await hub.publish("b", confirm=True)
        with pytest.raises(StoreError, match="is a directory; name a file in it"):
            await in_thread(care.backup, path, str(tmp_path))
        with pytest.raises(StoreError, match="pipe: not a file; name a file"):
            await in_thread(care.backup, path, pipe)
        with pytest.raises(StoreError, match=r"belongs to a log, because .*other\.db-wal exists"):
            await in_thread(care.backup, path, other)
        assert data(store) == ["a"]
        store.close()
        await in_thread(care.backup, path, other)
    copy = open_store(other)
    assert data(copy) == ["b"]
    copy.close()


async def test_backups_to_one_place_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other: what is there is complete."""
    monkeypatch.setattr(copying, "_STEP", 1)
    path, destination = str(tmp_path / "log.db"), str(tmp_path / "copy.db")
    async with trionotify.open_hub(store=f"sqlite:{path}") as hub:
        for _ in range(20):
            await hub.publish("x" * 20_000)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(in_thread, care.backup, path, destination)
        assert await hub.log.backup(destination) == 20  # type: ignore[attr-defined] # it is durable
    assert check(destination) == []


def test_a_backup_of_a_log_that_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends, though between two steps more is added than a step copies."""
    monkeypatch.setattr(copying, "_STEP", 1)
    store = open_store(tmp_path / "log.db")
    add(store, "x" * 200_000)
    steps = 0

    def between() -> None:
        nonlocal steps
        steps += 1
        assert steps < 1000
        store.append([entry("x" * 20_000)], 0, 0.0)

    store.backup(str(tmp_path / "copy.db"), between, lambda: None)
    assert 10 < steps < 100
    store.close()
    copy = open_store(tmp_path / "copy.db")
    assert len(data(copy)) == 1 + steps
    copy.close()


def test_a_backup_beside_repetitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends, though publishers send again what they have sent."""
    monkeypatch.setattr(copying, "_STEP", 4)
    store = open_store(tmp_path / "log.db")
    add(store, "x" * 200_000)
    store.append([entry("a", id="1")], 0, 0.0)
    steps = 0

    def between() -> None:
        nonlocal steps
        steps += 1
        assert steps < 1000
        store.append([*(entry("new") for _ in range(33)), entry("again", id="1")], 0, 0.0)

    store.backup(str(tmp_path / "copy.db"), between, lambda: None)
    store.close()
    assert check(tmp_path / "copy.db") == []


async def test_a_backup_that_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is: there is no copy, and commits go on."""
    monkeypatch.setattr(copying, "_STEP", 1)
    path, destination = str(tmp_path / "log.db"), str(tmp_path / "copy.db")
    async with trionotify.open_hub(store=f"sqlite:{path}") as hub:
        await hub.publish("x" * 20_000)
        for patience in range(8):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(hub.log.backup, destination)  # type: ignore[attr-defined] # it is durable
                    for _ in range(patience):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            if scope.cancelled_caught:
                assert "copy.db" not in os.listdir(tmp_path)
            await hub.publish("next")
        await hub.log.backup(destination)  # type: ignore[attr-defined] # it is durable
    assert check(destination) == []


@pytest.mark.parametrize(
    "request_",
    [
        *(b"", b"hello\n", b"{}\n", b"[" * 16_000 + b"\n", b"\xff\n"),
        *(b'{"backup": 1}\n', b'{"backup": "x"}\n', b'{"backup": "/\\u0000"}\n'),
    ],
)
async def test_a_request_that_is_none(request_: bytes, tmp_path: Path) -> None:
    """It is answered, and the next one is served."""
    async with trionotify.open_hub(store=f"sqlite:{tmp_path}/log.db"):
        while not (tmp_path / ".log.db-control").exists():
            await trio.lowlevel.checkpoint()
        assert (tmp_path / ".log.db-control").stat().st_mode & 0o777 == 0o600
        async with await trio.open_unix_socket(tmp_path / ".log.db-control") as asking:
            await asking.send_all(request_)
            await asking.send_eof()
            assert b"the request must be a line like" in await asking.receive_some()
        await in_thread(care.backup, f"{tmp_path}/log.db", f"{tmp_path}/copy.db")
    assert not (tmp_path / ".log.db-control").exists()


async def test_a_place_whose_name_is_long(tmp_path: Path) -> None:
    """Longer than the name of a Unix socket may be."""
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    async with trionotify.open_hub(store=f"sqlite:{directory}/log.db") as hub:
        await hub.publish("a")
        await in_thread(care.backup, f"{directory}/log.db", f"{tmp_path}/copy.db")
    assert check(tmp_path / "copy.db") == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the names of files are Unicode")
async def test_a_place_whose_name_is_no_unicode(tmp_path: Path) -> None:
    """For the log and for its copy, by a server and without one; and so are the errors."""
    directory = tmp_path / os.fsdecode(b"\xff")
    directory.mkdir()
    path = str(directory / "log.db")
    async with trionotify.open_hub(store=f"sqlite:{path}") as hub:
        await hub.publish("a")
        await in_thread(care.backup, path, f"{directory}/copy.db")
        with pytest.raises(StoreError, match="No such file"):
            await in_thread(care.backup, path, f"{directory}/no/copy.db")
    await in_thread(care.backup, path, f"{directory}/another.db")
    assert check(directory / "copy.db") == check(directory / "another.db") == []


# --- checks and repairs ---


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of 300 entries, closed."""
    store = open_store(tmp_path / "log.db")
    for number in range(1, 301):
        store.append([entry(f"data {number}", id=f"{number}")], 0, float(number))
    store.close()
    return tmp_path / "log.db"


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement)


def test_a_log_that_is_whole(log: Path) -> None:
    """Nothing is found, also after a crash; and the files stay as they are."""
    store = open_store(log)
    add(store, "more")
    crash(store)
    before = log.read_bytes()
    assert check(log) == []
    assert log.read_bytes() == before


@pytest.mark.parametrize(
    ("statements", "faults"),
    [
        (["UPDATE entries SET data = 'x' WHERE offset IN (7, 8, 20)"], ["7 to 8", "20 to 20"]),
        (["DELETE FROM entries WHERE offset BETWEEN 100 AND 250"], ["100 to 250"]),
        (["UPDATE entries SET crc = NULL WHERE offset IN (1, 300)"], ["1 to 1", "300 to 300"]),
    ],
)
def test_rows_that_are_damaged(statements: list[str], faults: list[str], log: Path) -> None:
    """Each stretch has a line; a repair keeps everything else, and repetitions are still known."""
    change(log, *statements)
    found = check(log)
    assert [line for line in found if line.startswith("damaged")] == [
        f"damaged: offsets {fault}" for fault in faults
    ]
    lost = {n for fault in faults for n in range(int(fault.split()[0]), int(fault.split()[2]) + 1)}
    kept = [f"data {n}" for n in range(1, 301) if n not in lost]
    repaired = repair(log)
    assert (repaired.kept, repaired.lost) == (len(kept), len(lost))
    assert check(log) == []
    store = open_store(log, now=300.0)
    assert (store.epoch, store.recovered.renewed) == (repaired.epoch, None)
    assert data(store) == kept
    assert (
        store.append([entry("again", id="50"), entry("new", id="301")], 0, 301.0)[0].offset > store.start
    )
    assert len(entries(store)) == len(kept) + 1
    store.close()
    assert Path(repaired.aside).exists()
    assert repair(log).aside == f"{log}-damaged-2"


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_repair_keeps_who_may_read_it(log: Path) -> None:
    """The new file has the old one's owner and permissions."""
    log.chmod(0o600)
    if os.getuid() == 0:
        os.chown(log, 65534, 65534)
    before = log.stat()
    repair(log)
    after = log.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_a_repair_leaves_the_time_alone(log: Path) -> None:
    """The next process goes on where the clock was left, not at the moment of the newest entry."""
    store = open_store(log, now=3600.0)
    store.close()
    repair(log)
    lock = FileLock.take(str(log))
    note = lock.noted()
    lock.release()
    assert note is not None
    assert (note.moment, note.offset, note.timed_from) == (3600.0, 300, 300)


def test_rows_that_are_whole_between_long_damage(log: Path) -> None:
    """A reader may pass over them, a repair doesn't."""
    change(
        log,
        "UPDATE entries SET crc = 0 WHERE offset BETWEEN 50 AND 290 AND offset NOT IN (150, 151, 260)",
    )
    assert repair(log).kept == 49 + 3 + 10


def test_a_head_that_was_lost(log: Path) -> None:
    """The file alone looks whole."""
    change(log, "DELETE FROM entries WHERE offset > 290")
    assert check(log) == ["lost: it ends at offset 290, but had reached 300"]


def test_a_note_that_is_damaged(log: Path) -> None:
    """Unlike one that isn't there, which is how a copy comes."""
    lock = Path(f"{log}-lock")
    content = bytearray(lock.read_bytes())
    content[50] ^= 1
    lock.write_bytes(content)
    assert check(log) == [
        "lost: the note of its last offset, in the -lock file beside it, is missing or damaged"
    ]
    lock.unlink()
    assert check(log) == []


@pytest.mark.parametrize("page", range(2, 12))
def test_pages_that_are_damaged(page: int, log: Path) -> None:
    """Each is noticed, and what other pages hold is kept."""
    content = bytearray(log.read_bytes())
    content[page * 4096 - 4096 : page * 4096] = Random(page).randbytes(4096)
    log.write_bytes(content)
    faults = check(log)
    assert faults
    try:
        repaired = repair(log)
    except StoreError as error:
        assert ": damaged: " in error.detail or "isn't" in error.detail  # noqa: PT017 # either is right
        return
    assert check(log) == []
    store = open_store(log, now=300.0)
    assert len(data(store)) == repaired.kept
    assert {*data(store)} <= {f"data {n}" for n in range(1, 301)}
    store.close()


def test_an_index_that_let_a_repetition_in(log: Path) -> None:
    """Both were given out, so both stay."""
    change(log, "DROP INDEX repetitions")
    store = open_store(log, now=300.0)
    store.append([entry("again", id="300")], 0, 300.0)
    store.close()
    repaired = repair(log)
    assert repaired.kept == 301


def test_a_repair_that_fails(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log stays as it is, and nothing is left behind."""
    change(log, "UPDATE entries SET data = 'x' WHERE offset = 7")
    before = log.read_bytes()

    def no_room(*_: object) -> None:
        raise StoreError(507, "no room")

    monkeypatch.setattr(care, "_insert", no_room)
    with pytest.raises(StoreError, match="no room"):
        repair(log)
    assert log.read_bytes() == before
    assert sorted(os.listdir(log.parent)) == ["log.db", "log.db-lock"]


@pytest.mark.parametrize("name", ["log.db-repaired", "log.db-repaired-wal", "log.db-shm"])
def test_a_repair_with_something_in_its_way(name: str, log: Path) -> None:
    """It is named, and the log stays as it is."""
    (log.parent / name).mkdir()
    before = log.read_bytes()
    with pytest.raises(
        StoreError, match=rf"{name}: is in the way and can't be removed \(.*\); remove it"
    ):
        repair(log)
    assert log.read_bytes() == before
    assert not (log.parent / "log.db-damaged").exists()
    (log.parent / name).rmdir()
    assert repair(log).kept == 300


def test_a_backup_with_something_in_its_way(log: Path, tmp_path: Path) -> None:
    """Here, too."""
    (tmp_path / "copy-part").mkdir()
    with pytest.raises(
        StoreError, match=r"copy-part: is in the way and can't be removed \(.*\); remove"
    ):
        care.backup(log, str(tmp_path / "copy"))


def test_a_repaired_log_is_one_file(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is in a WAL, which a full disk or another reader would keep from being merged."""
    insert = care._insert
    others: list[sqlite3.Connection] = []

    def insert_and_look(*arguments: Any) -> None:
        insert(*arguments)
        if not others:
            others.append(sqlite3.connect(f"{log}-repaired"))
            others[0].execute("SELECT count(*) FROM entries").fetchall()

    monkeypatch.setattr(care, "_insert", insert_and_look)
    assert repair(log).kept == 300
    others[0].close()
    store = open_store(log, now=300.0)
    assert len(data(store)) == 300
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
@pytest.mark.parametrize("room", [50_000, 400_000, 900_000, 1_050_000, 1_100_000])
def test_a_repair_without_room(room: int, tmp_path: Path) -> None:
    """It fails, and the log stays as it is; or else all of it is there."""
    log = tmp_path / "log.db"
    store = open_store(log)
    add(store, *("x" * 100_000 for _ in range(10)))
    store.close()
    program = (
        "import resource, sys; from trionotify.storage.care import repair;"
        " resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2); repair(sys.argv[1])"
    )
    command = [sys.executable, "-c", program, str(log), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        assert "EFBIG" in done.stderr
    assert sorted(os.listdir(tmp_path)) == [
        "log.db",
        *([] if done.returncode else ["log.db-damaged"]),
        "log.db-lock",
    ]
    assert check(log) == []
    store = open_store(log)
    assert len(data(store)) == 10
    store.close()


@pytest.mark.skipif(os.name != "posix", reason="there it can't be renamed while it is open")
@pytest.mark.parametrize("wal", [False, True])
def test_a_repair_that_is_killed(wal: bool, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step there is a log in its place, which isn't empty, and the damaged one is whole."""
    if wal:
        store = open_store(log)
        add(store, "in the WAL")
        shutil.copy(f"{log}-wal", f"{log}-kept")
        crash(store)
        shutil.move(f"{log}-kept", f"{log}-wal")
    before = {ending: Path(f"{log}{ending}").read_bytes() for ending in ("", "-wal")[: 1 + wal]}
    steps = 0

    def step(function: Callable[..., None]) -> Callable[..., None]:
        def stepping(*arguments: object) -> None:
            nonlocal steps
            function(*arguments)
            if "-repaired" not in str(arguments[0]) or function.__name__ == "replace":
                steps += 1
                assert log.exists()
                for ending, content in before.items():
                    kept = [Path(f"{name}{ending}") for name in (log, f"{log}-damaged")]
                    assert any(one.exists() and one.read_bytes() == content for one in kept)

        return stepping

    for name in ("link", "rename", "unlink", "replace"):
        monkeypatch.setattr(os, name, step(getattr(os, name)))
    assert repair(log).lost == 0
    assert steps >= 2
    monkeypatch.undo()
    assert check(log) == []


def test_a_file_of_the_first_version(log: Path) -> None:
    """One that is damaged, so that no server can bring it up to date, is checked and repaired."""
    change(log, "ALTER TABLE entries DROP COLUMN crc", "PRAGMA user_version = 1", "VACUUM")
    content = bytearray(log.read_bytes())
    content[5 * 4096 : 6 * 4096] = Random(5).randbytes(4096)
    log.write_bytes(content)
    with pytest.raises(StoreError, match="store repair"):
        open_store(log)
    assert any(line.startswith("damaged: offsets ") for line in check(log))
    repaired = repair(log)
    assert repaired.kept > 100
    assert repaired.kept + repaired.lost == 300
    assert check(log) == []
    store = open_store(log)
    assert store.recovered.renewed is None
    assert {*data(store)} <= {f"data {n}" for n in range(1, 301)}
    store.close()


def test_while_a_server_has_it(log: Path) -> None:
    """Neither can be done."""
    store = open_store(log, now=300.0)
    for call in (check, repair):
        with pytest.raises(StoreError, match=r"in use by a running server"):
            call(log)
    store.close()


# --- other processes ---


@pytest.mark.parametrize(
    ("version", "faulty"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
    ],
)
def test_versions_with_the_wal_reset_bug(version: tuple[int, int, int], faulty: bool) -> None:
    """As SQLite's own page names them."""
    assert sharing.has_reset_bug(version) is faulty


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows who has a file open")
def test_another_process_that_has_it_open(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, as long as it has."""
    program = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]);"
        " db.execute('SELECT count(*) FROM entries').fetchone(); print('open', flush=True);"
        " sys.stdin.read()"
    )
    database = Database.open(str(log))
    assert sharing.other_users(str(log)) == set()
    command = [sys.executable, "-c", program, str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        assert sharing.other_users(str(log)) == {other.pid}
        monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
        assert f"also open in process {other.pid}" in str(sharing.warning(str(log)))
        monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
        assert sharing.warning(str(log)) is None
        other.communicate()
    assert sharing.other_users(str(log)) == set()
    database.close()
