"""The durable log, between its file and the broadcast; the file is a list, with faults on demand."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trionotify
from tests.conftest import Room, cancel_at_every_await
from tests.fleet.line import Lost, Refused, open_line
from tests.stores import open_store
from trionotify import Exact, Hub, Lagged, Notification, Receipt, StoreError
from trionotify.connection.session import publishing_session
from trionotify.delivery.entry import Entry, Pending, repetition_key
from trionotify.delivery.log import Evicted, NotLoaded
from trionotify.delivery.memory_log import MemoryLog
from trionotify.delivery.publish_queue import Inbox
from trionotify.http.web_hub import WebHub
from trionotify.settings import Settings
from trionotify.storage import durable
from trionotify.storage.clock import LogClock
from trionotify.storage.durable import DurableLog
from trionotify.storage.pages import Pages

DAMAGED = StoreError(503, "/var/log.db: damaged: take a backup")
FULL = StoreError(507, "/var/log.db: no space is left; make some")


@attrs.define
class FakeStore:
    """The promises of `SqliteStore`, kept by a list."""

    path: str = "/var/log.db"
    epoch: str = "e"
    start: int = 0
    max_entries: int = 1000
    fault: StoreError | None = None
    rows: list[tuple[int, Notification, Any]] = attrs.Factory(list)
    #: How many entries each commit had, and what was read.
    commits: list[int] = attrs.Factory(list)
    reads: list[int] = attrs.Factory(list)
    closed: bool = False
    #: What it was told of the time.
    nows: list[float] = attrs.Factory(list)
    shifts: list[tuple[float, float]] = attrs.Factory(list)

    @property
    def head(self) -> int:
        return self.rows[-1][0] if self.rows else self.start

    @property
    def bytes(self) -> int:
        return sum(notification.size for offset, notification, _ in self.rows if offset > self.start)

    def append(
        self, entries: list[Entry], upto: int, now: float, unconfirmed: float = 0.0
    ) -> list[Entry]:
        if self.fault:
            raise self.fault
        self.commits.append(len(entries))
        self.nows.append(now)
        known = {key: offset for offset, _, key in self.rows if key is not None}
        fresh = []
        for entry in entries:
            if entry.key in known:
                entry.offset = known[entry.key]
                continue
            entry.offset = self.head + 1
            self.rows.append((entry.offset, entry.notification, entry.key))
            known[entry.key or entry] = entry.offset
            fresh.append(entry)
        self.evict(upto, now)
        return fresh

    def read(self, after: int, limit: int, max_bytes: int) -> list[Any]:
        if self.fault:
            raise self.fault
        self.reads.append(after)
        found: list[Any] = []
        if after < self.start:
            return found
        for row in self.rows:
            if row[0] > after and len(found) < limit and (max_bytes > 0 or not found):
                found.append(row)
                max_bytes -= row[1].size
        return found

    def restore(self, row: Any) -> Entry:
        entry = Entry(row[1], key=row[2])
        entry.offset = row[0]
        return entry

    def offset_at(self, moment: float) -> int:
        self.nows.append(moment)
        return self.start

    def shift(self, by: float, now: float) -> None:
        if self.fault:
            raise self.fault
        self.shifts.append((by, now))

    def evict(self, upto: int, now: float, unconfirmed: float = 0.0) -> bool:
        self.start = max(self.start, min(upto, self.head - self.max_entries))
        return False

    def check(self) -> None:
        if self.fault:
            raise self.fault

    def refuses(self, entry: Entry) -> StoreError | None:
        return FULL if entry.size > 100_000 else None

    def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def open_log(store: FakeStore, tail: int = 100) -> AsyncIterator[tuple[DurableLog, Inbox]]:
    """A durable log that runs, with this many entries in memory."""
    memory = MemoryLog(
        max_entries=tail, max_bytes=1 << 30, max_age=1e9, epoch=store.epoch, head=store.head
    )
    log = DurableLog(store, memory)  # type: ignore[arg-type] # a fake
    inbox = Inbox(1000, 1 << 20)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run, inbox)
        yield log, inbox
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_hub(store: FakeStore, tail: int = 100, **options: Any) -> AsyncIterator[Hub]:
    """A hub on such a log."""
    memory = MemoryLog(
        max_entries=tail, max_bytes=1 << 30, max_age=1e9, epoch=store.epoch, head=store.head
    )
    log = DurableLog(store, memory)  # type: ignore[arg-type] # a fake
    hub = WebHub(Settings(**options), log, publishing_session, None, handle=_unused, attach=_unused)
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        yield hub
        nursery.cancel_scope.cancel()


async def _unused(*_: Any) -> None:
    raise AssertionError("nobody connects")


async def until(condition: Callable[[], object]) -> None:
    """Wait for what a worker thread must come back for."""
    while not condition():
        await trio.testing.wait_all_tasks_blocked()


async def in_time(condition: Callable[[], object]) -> None:
    """Wait for what the log does by itself, every few seconds of a virtual clock."""
    deadline = time.monotonic() + 120  # while a thread works, the virtual clock runs away
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        await trio.sleep(1)


def entry(data: str = "", id: str | None = None) -> Entry:
    notification = Notification.of(data, id=id)
    return Entry(notification, None, Pending(), repetition_key(notification, ""))


async def put(log: DurableLog, inbox: Inbox, count: int) -> None:
    """Publish, and hand out."""
    await inbox.put([entry(str(number)) for number in range(count)])
    await log.take(inbox)
    log.evict(log.head, 0.0)


async def test_what_waits_together_is_committed_together() -> None:
    """While one group is handed out, the next is committed, and not more than one."""
    store = FakeStore()
    async with open_log(store) as (log, inbox):
        await inbox.put([entry("0")])
        await log.take(inbox)
        for number in range(1, 10):
            await inbox.put([entry(str(number))])
            await inbox.put([entry(f"{number}b")])
        await until(lambda: len(store.commits) == 2)
        await inbox.put([entry("last")])
        await trio.testing.wait_all_tasks_blocked()
        assert store.commits == [1, 18]
        assert log.head == 1  # the broadcast hasn't asked yet
        entries, fresh = await log.take(inbox)
        assert [e.offset for e in entries] == [e.offset for e in fresh] == list(range(2, 20))
        assert log.head == 19
        assert [e.offset for e in (await log.take(inbox))[1]] == [20]


async def test_who_publishes_again_at_once_comes_along() -> None:
    """With the early one. Otherwise they would wait for its commit, and it for theirs, for ever."""
    begun, disk = threading.Event(), threading.Event()

    class SlowStore(FakeStore):
        def append(
            self, entries: list[Entry], upto: int, now: float, unconfirmed: float = 0.0
        ) -> list[Entry]:
            begun.set()
            disk.wait()
            return super().append(entries, upto, now)

    store = SlowStore()

    async def publish_often() -> None:
        for number in range(6):
            await hub.publish(str(number))

    async with open_hub(store) as hub, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(publish_often)
        nursery.start_soon(hub.publish, "once")
        await until(begun.is_set)
        nursery.start_soon(hub.publish, "early")
        await trio.testing.wait_all_tasks_blocked()
        disk.set()
    assert store.commits == [9, 9, 8, 8, 8, 8]


async def test_repetitions_are_taken_but_not_new() -> None:
    """They have the first one's offset."""
    async with open_log(FakeStore()) as (log, inbox):
        await inbox.put([entry("a", "1"), entry("b", "2"), entry("a", "1")])
        entries, fresh = await log.take(inbox)
        assert [e.offset for e in entries] == [1, 2, 1]
        assert [e.notification.data for e in fresh] == ["a", "b"]
        await inbox.put([entry("b", "2"), entry("c", "3")])
        entries, fresh = await log.take(inbox)
        assert [e.offset for e in entries] == [2, 3]
        assert [e.notification.data for e in log.read(0, 10)] == ["a", "b", "c"]


async def test_the_newest_end_is_in_memory_and_the_rest_in_pages() -> None:
    """A client that reads further back loads a page, which all others can use then."""
    store = FakeStore()
    async with open_log(store, tail=10) as (log, inbox):
        await put(log, inbox, 400)
        assert [e.offset for e in log.read(390, 100)] == list(range(391, 401))
        assert log.read(400, 100) == []
        assert store.reads == []
        after = 0
        seen = []
        while after < 400:
            try:
                found = log.read(after, 50)
            except NotLoaded as absent:
                await log.load(absent.after)
            else:
                seen += [e.notification.data for e in found]
                after = found[-1].offset
        assert seen == [str(number) for number in range(400)]
        assert store.reads == [0, 128, 256, 384]
        assert [e.offset for e in log.read(130, 3)] == [131, 132, 133]
        assert len(store.reads) == 4


async def test_a_page_that_is_cut_short_by_its_bytes() -> None:
    """Is read again from where it is needed."""
    store = FakeStore()
    async with open_log(store, tail=1) as (log, inbox):
        await inbox.put([entry("x" * 90_000) for _ in range(100)])
        await log.take(inbox)
        log.evict(log.head, 0.0)
        await log.load(50)
        assert [e.offset for e in log.read(50, 2)] == [51, 52]
        assert store.reads == [0, 50]


async def test_a_page_that_ended_with_the_log_as_it_was_then() -> None:
    """It doesn't stand in the way of what has come since, in a page that begins before it."""
    store = FakeStore()
    async with open_log(store, tail=1) as (log, inbox):
        for _ in range(2):
            await inbox.put([entry("x" * 90_000) for _ in range(20)])
            await log.take(inbox)
            log.evict(log.head, 0.0)
            await log.load(14)
            store.start = 10
        await log.load(20)
        assert log.read(20, 1)[0].offset == 21


async def test_a_page_that_takes_long_to_understand() -> None:
    """Its audiences may: meanwhile others run, and commit."""
    understood = threading.Event()

    class DeepStore(FakeStore):
        def restore(self, row: Any) -> Entry:
            assert threading.current_thread() is not threading.main_thread()
            assert understood.wait(120)
            return super().restore(row)

    async with open_log(DeepStore(), tail=1) as (log, inbox), trio.open_nursery() as nursery:
        await put(log, inbox, 100)
        nursery.start_soon(log.load, 7)
        with trio.fail_after(120):
            for _ in range(3):
                await put(log, inbox, 1)
        with pytest.raises(NotLoaded):
            log.read(7, 1)
        understood.set()


async def test_who_wants_the_same_page_waits_for_it() -> None:
    """It is read once, for a thousand."""
    store = FakeStore()
    async with open_log(store, tail=1) as (log, inbox):
        await put(log, inbox, 100)
        async with trio.open_nursery() as nursery:
            for after in range(90):
                nursery.start_soon(log.load, after)
        assert store.reads == [0]


async def test_what_left_the_file_is_gone() -> None:
    """From the tail, too; and a page that was evicted while it was loaded is no page."""
    store = FakeStore(max_entries=20)
    async with open_log(store) as (log, inbox):
        await put(log, inbox, 30)
        await put(log, inbox, 1)
        assert (log.start, log.head, len(log)) == (11, 31, 20)
        with pytest.raises(Evicted):
            log.read(10, 1)
        assert log.read(11, 1)[0].offset == 12
        await log.load(3)
        with pytest.raises(Evicted):
            log.read(3, 1)


async def test_what_cannot_be_read_is_said() -> None:
    """To everyone who asks for it."""
    store = FakeStore()
    async with open_log(store, tail=1) as (log, inbox):
        await put(log, inbox, 100)
        store.fault = DAMAGED
        for _ in range(2):
            with pytest.raises(StoreError, match=r"/var/log\.db: damaged: take a backup"):
                await log.load(7)


async def test_a_fault_refuses_what_waits_and_goes_away(caplog: pytest.LogCaptureFixture) -> None:
    """Each publisher is told, readiness too, and nothing else has changed."""
    store = FakeStore()
    with caplog.at_level(logging.WARNING, "trionotify"):
        async with open_hub(store) as hub:
            assert await hub.publish("1", confirm=True) == Receipt("e:1", 0, 0, 0)
            store.fault = FULL
            for _ in range(3):
                with pytest.raises(StoreError, match="no space is left") as caught:
                    await hub.publish("2")
                assert caught.value.status == 507
            assert hub.checks() == {"accepting": "ok", "log": str(FULL)}
            assert not hub.ready
            assert hub.log.head == 1
            store.fault = None
            assert await hub.publish("3", confirm=True) == Receipt("e:2", 0, 0, 0)
            assert hub.ready
    assert [record.message for record in caplog.records] == [
        f"publishing is refused: {FULL}",
        "the log accepts notifications again",
    ]


async def test_what_nobody_waits_for_is_counted_when_it_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`publish_nowait` can't tell its caller that the file didn't take it, so the log has a line."""
    store = FakeStore()
    async with open_hub(store) as hub:
        hub.publish_nowait("1")
        await hub.inbox.settled()
        store.fault = FULL
        hub.publish_nowait("2")
        hub.publish_nowait("3")
        await hub.inbox.settled()
        assert hub.log.head == 1
    lost = [record for record in caplog.records if getattr(record, "event", "") == "unpublished"]
    assert [record.message for record in lost] == [
        f"2 notifications were not published, and no publisher waits for them: {FULL}"
    ]


async def test_publishers_at_the_other_end_are_told() -> None:
    """An event is answered with an error that names it, a raw publisher is closed; no path is named."""
    store = FakeStore(fault=FULL)
    async with open_hub(store, close_timeout=0.01) as hub, trio.open_nursery() as nursery:
        room = Room(hub, nursery)
        events = await room.connect("/?role=both&format=cloudevents&id=a")
        raw = await room.connect("/?role=publisher")
        events.say('{"specversion":"1.0","id":"1","source":"/a","type":"t"}')
        await until(lambda: len(events.look().messages) == 2)
        error = json.loads(str(events.messages[-1]))
        assert error["type"] == "trionotify.error"
        assert (error["data"]["status"], error["data"]["id"]) == (507, "1")
        assert error["data"]["title"] == "Insufficient Storage"
        assert error["data"]["detail"] == FULL.told
        assert store.path not in str(events.messages[-1])
        raw.say("hello", "again")
        await until(lambda: raw.look().close)
        assert raw.close == (1013, FULL.told)
        store.fault = None
        events.say('{"specversion":"1.0","id":"1","source":"/a","type":"t"}')
        await until(lambda: len(events.look().messages) == 4)
        ack = json.loads(str(events.messages[-1]))["data"]
        assert (ack["id"], ack["cursor"]) == ("1", "e:1")
        nursery.cancel_scope.cancel()


async def test_raw_publishers_wait_for_the_commit() -> None:
    """So what they say is committed in the order in which they say it, and none is left out."""
    store = FakeStore()
    async with open_hub(store, close_timeout=0.01) as hub, trio.open_nursery() as nursery:
        raw = await Room(hub, nursery).connect("/?role=publisher&type=t")
        raw.say(*[str(number) for number in range(100)])
        raw.say(*[str(number) for number in range(100, 150)])
        await until(lambda: hub.log.head == 150)
        published = [notification.data for _, notification, _ in store.rows]
        assert published == [str(number) for number in range(150)]
        nursery.cancel_scope.cancel()


async def test_clients_read_all_of_it() -> None:
    """From the file, then from memory, then live; one whose file can't be read is sent away."""
    store = FakeStore()
    async with open_hub(store, tail=50, close_timeout=0.01) as hub, trio.open_nursery() as nursery:
        for number in range(300):
            await hub.publish(str(number))
        room = Room(hub, nursery)
        peer = await room.connect("/?since=start")
        await hub.publish("live")
        await until(lambda: len(peer.look().messages) == 301)
        assert peer.messages == [*[str(number) for number in range(300)], "live"]
        store.fault = DAMAGED
        hub.log._pages = Pages(1)  # type: ignore[attr-defined] # forget what was read
        late = await room.connect("/?since=e:5")
        await until(lambda: late.look().close)
        assert late.close == (1013, "the log can't be read")
        nursery.cancel_scope.cancel()


async def test_what_is_refused_is_dealt_with_too() -> None:
    """A task that waits until everything accepted was broadcast doesn't wait for it."""
    store = FakeStore(fault=FULL)
    async with open_log(store) as (_, inbox):
        await inbox.put([entry("1"), entry("2")])
        with trio.fail_after(120):
            await inbox.settled()
        assert inbox.count == 0


async def test_faults_are_seen_without_publishing(autojump_clock: trio.testing.MockClock) -> None:
    """In a few seconds, as they come and as they go."""
    store = FakeStore(max_entries=10)
    async with open_hub(store) as hub:
        for fault in (FULL, None):
            store.fault = fault
            problem = None if fault is None else str(fault)
            while hub.log.problem != problem:  # noqa: ASYNC110 - nobody tells: that is what it is about
                await trio.sleep(1)


async def test_a_clock_that_jumps(autojump_clock: trio.testing.MockClock) -> None:
    """Neither commits nor durations notice; where it stays, the file is moved along, and once."""
    store, passed, jump = FakeStore(), 0.0, 0.0
    clock = LogClock(lambda: 1e9 + jump + passed, lambda: passed)
    memory = MemoryLog(max_entries=9, max_bytes=999, max_age=9)
    log, inbox = DurableLog(store, memory, clock), Inbox(1000, 1 << 20)  # type: ignore[arg-type] # a fake
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run, inbox)
        jump = 1e8
        await put(log, inbox, 1)
        jump = 0.0
        await put(log, inbox, 1)
        await log.offset_ago(3.0)
        jump = 7200.0
        await log.offset_ago(3.0)
        assert store.nows == [1e9, 1e9, 1e9 - 3, 1e9 - 3]
        passed = 600.0
        await in_time(lambda: store.shifts)
        await put(log, inbox, 1)
        passed = 2000.0
        await trio.sleep(2000)
        await log.offset_ago(3.0)
        assert store.shifts == [(7200.0, 1e9 + 7800)]
        assert store.nows[-2:] == [1e9 + 7800, 1e9 + 9197]
        nursery.cancel_scope.cancel()


async def test_a_jump_that_is_followed_in_the_middle_of_commits(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An entry has its moment either before the jump is followed, and moved with it, or after."""
    passed = jump = 0.0
    clock = LogClock(lambda: 1e9 + jump + passed, lambda: passed)
    store = open_store(tmp_path / "log.db", max_age=3600.0, now=1e9)
    memory = MemoryLog(max_entries=9, max_bytes=9999, max_age=9e9, epoch=store.epoch)
    log, inbox = DurableLog(store, memory, clock), Inbox(1000, 1 << 20)
    check, checked = store.check, trio.Event()

    async def publish() -> None:
        await inbox.put([entry("during")])
        await trio.testing.wait_all_tasks_blocked()  # until its commit waits for the thread

    def check_with_a_commit_behind() -> None:
        check()
        if passed and not checked.is_set():
            trio.from_thread.run(publish)
            trio.from_thread.run_sync(checked.set)

    monkeypatch.setattr(store, "check", check_with_a_commit_behind)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run, inbox)
        await put(log, inbox, 1)
        jump = 7200.0
        await put(log, inbox, 1)
        passed = 600.0
        await checked.wait()
        await log.take(inbox)
        log.evict(log.head, 0.0)
        await in_time(lambda: "follows" in caplog.text)
        await put(log, inbox, 1)
        assert [e.offset for e in log.read(0, 10)] == [1, 2, 3, 4]
        asked = [await log.offset_ago(seconds) for seconds in (600.0, 599.0, 0.0)]
        assert asked == [0, 2, 2]
        nursery.cancel_scope.cancel()
    await log.aclose()


async def test_a_jump_that_cannot_be_followed_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """A fault keeps the file as it is: then the log goes on by its own time, and follows later."""

    class FaultyStore(FakeStore):
        tries = 0

        def shift(self, by: float, now: float) -> None:
            self.tries += 1
            if self.tries == 1:
                raise DAMAGED
            super().shift(by, now)

    store, passed, jump = FaultyStore(), 0.0, 0.0
    clock = LogClock(lambda: 1e9 + jump + passed, lambda: passed)
    memory = MemoryLog(max_entries=9, max_bytes=9999, max_age=9e9)
    log, inbox = DurableLog(store, memory, clock), Inbox(1000, 1 << 20)  # type: ignore[arg-type] # a fake
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run, inbox)
        jump = 7200.0
        await put(log, inbox, 1)
        passed = 600.0
        await in_time(lambda: store.tries)
        await put(log, inbox, 1)
        await in_time(lambda: store.shifts)
        await put(log, inbox, 1)
        assert store.shifts == [(7200.0, 1e9 + 7800)]
        assert store.nows == [1e9, 1e9 + 600, 1e9 + 7800]
        nursery.cancel_scope.cancel()


async def test_a_surprise_in_the_file_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and refused like any other fault."""
    store = FakeStore()
    async with open_hub(store) as hub:
        store.rows.append(None)  # type: ignore[arg-type] # that is the surprise
        with pytest.raises(StoreError, match="the log failed"):
            await hub.publish("1")
        store.rows.clear()
        await hub.publish("1")
    assert "the log failed" in caplog.text


async def test_what_can_never_be_kept_is_refused_at_once() -> None:
    """A callable can't be written down; and what is larger than the log isn't kept."""
    async with open_hub(FakeStore()) as hub:
        with pytest.raises(TypeError, match="audience: a durable log can't store a callable"):
            await hub.publish("1", audience=lambda client: True)
        with pytest.raises(StoreError, match="no space"):
            await hub.publish("x" * 200_000)
        await hub.publish("1", audience=Exact(team="ops"))
        assert hub.log.head == 1


async def test_cancelling_a_publish_leaves_it_published_or_not() -> None:
    """And the next one goes through."""
    store = FakeStore()
    done: list[str] = []
    async with open_hub(store) as hub:

        async def publish(number: int) -> None:
            await hub.publish(str(number))
            done.append(str(number))

        await cancel_at_every_await(publish)
        await hub.publish("end", confirm=True)
        published = [str(notification.data) for _, notification, _ in store.rows]
        assert published[-1] == "end"
        assert len(set(published)) == len(published)
        assert set(done) <= set(published)


async def test_the_end_of_the_hub_leaves_nobody_waiting() -> None:
    """Publishers that wait for a commit are told that its outcome is unknown."""
    store = FakeStore()
    async with open_log(store) as (log, inbox):
        first, second = entry("1"), entry("2")
        waits = [first.pending, second.pending]
        await inbox.put([first])
        await until(lambda: store.commits)
        await inbox.put([second])
        del log
    assert [(p.done.is_set(), p.cursor) for p in waits if p][:1] == [(True, None)]


async def test_a_closed_inbox_ends_it() -> None:
    """When everything has been handed out."""
    log = DurableLog(FakeStore(), MemoryLog(max_entries=9, max_bytes=999, max_age=9))  # type: ignore[arg-type] # a fake
    inbox = Inbox(1000, 1 << 20)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run, inbox)
        await inbox.put([entry("1")])
        inbox.close_to_publishers()
        assert [e.offset for e in (await log.take(inbox))[1]] == [1]
        with pytest.raises(trio.EndOfChannel):
            await log.take(inbox)
    await log.aclose()
    assert log._store.closed


async def read_all(hub: Hub, since: str, upto: int, each: Callable[[str], None]) -> None:
    async with hub.subscribe(since=since) as notifications:
        async for notification in notifications:
            each(str(notification.data))
            if notifications.cursor == f"e:{upto}":
                return


async def test_subscriptions_read_all_of_it() -> None:
    """From the file, then from memory, then live."""
    store = FakeStore()
    async with open_hub(store, tail=50) as hub:
        for number in range(300):
            await hub.publish(str(number))
        seen: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all, hub, "start", 310, seen.append)
            for number in range(300, 310):
                await hub.publish(str(number))
        assert seen == [str(number) for number in range(310)]
        assert durable._PAGE < 250  # else the file was not needed
        assert store.reads


# --- damage ---


@pytest.fixture
def damaged_log(tmp_path: Path) -> str:
    """The store of a log of 300, of which 101 to 110 and 200 are damaged; cursors are `e:OFFSET`."""
    store = open_store(tmp_path / "log.db")
    for number in range(1, 301):
        store.append([Entry(Notification(f"{number}"))], 0, float(number))
    store.close()
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as other:
        other.execute("DELETE FROM entries WHERE offset BETWEEN 101 AND 110")
        other.execute("UPDATE entries SET data = 'nonsense' WHERE offset = 200")
        (epoch,) = other.execute("SELECT epoch FROM log").fetchone()
    return f"{tmp_path}/log.db {epoch}"


def opened(path: str) -> Any:
    return trionotify.open_hub(store=f"sqlite:{path}", max_tail_bytes=5_000, max_log_age=1e12)


async def test_a_subscription_that_comes_upon_damage(
    damaged_log: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told exactly what is lost, and goes on behind that; the operator is told once."""
    path, epoch = damaged_log.split()
    async with opened(path) as hub:
        for _ in range(2):
            heard: list[Any] = []
            async with hub.subscribe(since="start") as notifications:
                while not heard or heard[-1] != "300":
                    try:
                        heard.append((await anext(notifications)).data)
                    except Lagged as lost:
                        heard.append((lost.after, lost.upto))
            assert heard == [
                *(str(n) for n in range(1, 101)),
                (f"{epoch}:100", f"{epoch}:110"),
                *(str(n) for n in range(111, 200)),
                (f"{epoch}:199", f"{epoch}:200"),
                *(str(n) for n in range(201, 301)),
            ]
        found = [record.getMessage() for record in caplog.records if "damaged; " in record.getMessage()]
        assert found == [
            f"{path}: damaged; the notifications with the offsets {stretch} can't be read any more"
            for stretch in ("101 to 110", "200 to 200")
        ]
        assert hub.log.damage == f"{path}: damaged at the offsets 101 to 110, 200"
        assert hub.log.damaged_entries == 11
        assert hub.ready
        # Now that it is known, nobody is told that everything follows.
        with pytest.raises(ValueError, match="can't resume at"):
            hub.subscribe(since=f"{epoch}:50")
        async with hub.subscribe(since=f"{epoch}:200") as notifications:
            assert (await anext(notifications)).data == "201"
        await hub.publish("new")


async def test_losses_that_were_evicted(damaged_log: str) -> None:
    """They are forgotten with the rest."""
    path, _ = damaged_log.split()
    async with trionotify.open_hub(
        store=f"sqlite:{path}", max_tail_bytes=5_000, max_log_age=1e12, max_log_entries=300
    ) as hub:
        async with hub.subscribe(since="start") as notifications:
            for _ in range(100):
                await anext(notifications)
            with pytest.raises(Lagged):
                await anext(notifications)
        assert hub.log.damaged_entries == 10
        left = []
        for _ in range(120):
            await hub.publish("more", confirm=True)
            left.append(hub.log.damaged_entries)
        assert left == sorted(left, reverse=True)
        assert left[-1] == 0
        assert hub.log.damage is None


@pytest.mark.parametrize("lag", ["gap", "latest", "disconnect"])
async def test_clients_that_come_upon_damage(lag: str, damaged_log: str) -> None:
    """With events they are told of the gap; who can't be told is closed."""
    path, epoch = damaged_log.split()
    async with trionotify.open_server(
        port=0, store=f"sqlite:{path}", max_tail_bytes=5_000, max_log_age=1e12
    ) as server:
        query = {"format": "cloudevents", "since": "start", "lag": lag}
        async with open_line(server.port, query) as line:
            events: list[dict[str, Any]] = []
            with suppress(Lost):  # it is closed at the gap
                while not events or events[-1].get("data") != "300":
                    events += await line.events()
        gaps = [event["data"] for event in events if event["type"] == "trionotify.gap"]
        told = [event["data"] for event in events if not event["type"].startswith("trionotify.")]
        assert told == sorted(told, key=int)
        if lag == "gap":
            assert gaps == [
                {"from": f"{epoch}:100", "to": f"{epoch}:110"},
                {"from": f"{epoch}:199", "to": f"{epoch}:200"},
            ]
            assert told == [str(n) for n in range(1, 301) if n not in {*range(101, 111), 200}]
        if lag == "latest":
            assert gaps
        if lag == "disconnect":
            assert gaps == []
            assert told == [str(n) for n in range(1, 101)]
        # Now that it is known, nobody is told that everything follows.
        with pytest.raises(Refused) as refused:
            async with open_line(server.port, {"since": f"{epoch}:50"}):
                pass
        assert refused.value.status == 410
        async with open_line(server.port, {**query, "since": f"{epoch}:50"}) as line:
            (welcome,) = await line.events()
        assert welcome["data"]["recovered"] is False
