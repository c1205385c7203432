"""The invariant, against a model: what each client received is the log, filtered, in order, gapless.

A program is a list of steps: clients join with a predicate, change filters, stall in the middle of a
frame, go on, vanish, resume at a cursor, fall off the log; publishers publish, with and without an
audience, and are cancelled. It runs on a virtual clock, with a kernel that takes as many bytes as the
program says, and with a broadcast that gives way after every single send, so that everything happens in
the middle of everything. The model knows nothing of groups, positions or wires.
"""

from __future__ import annotations

import inspect
import json
import tempfile
import textwrap
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from tests.eventstream import ENDED, NDJSON, StreamPeer
from tests.kernel import DEFLATE, FakeKernel, Peer, upgrade
from tests.web import get
from trionotify import AnyOf, Disconnected, Exact, Lagged, Not, Notification, Prefix, open_hub
from trionotify.connection.connection import ClientConnection
from trionotify.delivery import broadcast as broadcast_module
from trionotify.delivery import compression as compression_module
from trionotify.delivery import history as history_module
from trionotify.delivery import turns as turns_module
from trionotify.delivery.audience import Audiences
from trionotify.delivery.broadcast import Broadcast
from trionotify.delivery.entry import Entry
from trionotify.delivery.history import _Block
from trionotify.delivery.matching import Matcher
from trionotify.http.serving import serve_transport
from trionotify.model import costs as costs_module
from trionotify.storage import durable as durable_module
from trionotify.storage.durable import DurableLog

TYPES = ["a", "ab", "b", "c"]
TEAMS = ["red", "blue"]
LOG_ENTRIES = 12
#: The directory for files that aren't needed again.
SHM = "/dev/shm" if Path("/dev/shm").is_dir() else None

#: How a client asks for its stream.
ACCEPT = {"sse": "Accept: text/event-stream", "ndjson": NDJSON}

filters = st.sampled_from(
    [
        Exact(type="a"),
        Exact(type="b"),
        Prefix(type="a"),
        Not(Exact(type="b")),
        AnyOf([Exact(type="c"), Prefix(subject="x")]),
        Exact(type="a", subject="x"),
        lambda notification: notification.type == "c",
    ]
)
#: What a client may ask for itself.
asked = st.sampled_from(
    [
        [],
        [{"exact": {"type": "a"}}],
        [{"not": {"exact": {"type": "b"}}}],
        [{"sql": "type IN ('b', 'c') AND EXISTS subject"}],
    ]
)
number = st.integers(0, 7)
publications = st.fixed_dictionaries(
    {
        "type": st.sampled_from(TYPES),
        "subject": st.sampled_from([None, "x", "y"]),
        "size": st.sampled_from([0, 3, 200]),
        "to": st.sampled_from([None, None, None, "id0", "id1"]),
        "audience": st.sampled_from([None, None, None, "red", "blue", "callable"]),
    }
)
step = st.one_of(
    st.tuples(
        *(st.just("join"), st.none() | filters, st.sampled_from(TEAMS)),
        *(st.booleans(), st.booleans(), st.booleans()),
        st.sampled_from(["websocket", "websocket", "sse", "ndjson"]),
        st.booleans(),
    ),
    st.tuples(st.just("listen"), filters),
    st.tuples(st.just("publish"), st.lists(publications, min_size=1, max_size=4)),
    st.tuples(st.just("publish"), st.lists(publications, min_size=1, max_size=4)),
    st.tuples(st.just("cancelled publish"), publications),
    st.tuples(st.just("say"), number, st.integers(1, 3)),
    st.tuples(st.just("subscribe"), number, filters),
    st.tuples(st.just("unsubscribe"), number, number),
    st.tuples(st.just("ask"), number, asked),
    st.tuples(
        *(st.just("answer"), number, st.integers(1, 3), st.integers(0, 100)),
        st.sampled_from([None, None, 0, 3, 40]),
    ),
    st.tuples(st.just("stall"), number, st.sampled_from([0, 0, 3, 40])),
    st.tuples(st.just("grant"), number, st.integers(1, 300)),
    st.tuples(st.just("flow"), number),
    st.tuples(st.just("vanish"), number),
    st.tuples(st.just("resume"), number),
    st.tuples(st.just("ping"), number),
    st.tuples(st.just("wait"), st.integers(1, 6)),
    st.tuples(st.just("wait"), st.integers(1, 6)),
)


@attrs.define(eq=False)
class Joined:
    """One connection, as the model sees it."""

    kernel: FakeKernel
    peer: Any
    id: str
    echo: bool
    #: It speaks CloudEvents.
    events: bool
    #: `websocket`, `sse` or `ndjson`; over the latter two it can't say anything.
    by: str
    #: It takes compressed frames, or gzip.
    compressed: bool
    start: int = 0
    #: (offset, predicate or None): behind the offset it wants what the predicate wants.
    wants: list[tuple[int, Any]] = attrs.Factory(list)
    record: Any = None
    said: list[str] = attrs.Factory(list)
    #: What it was sent outside of the log.
    answers: list[str] = attrs.Factory(list)
    #: How often it asked for other filters.
    asked: int = 0
    refused: bool = False
    silent: bool = False
    gone: bool = False


class Program:
    """Runs steps on a real hub, and keeps the model beside it."""

    def __init__(self, hub: Any, nursery: trio.Nursery) -> None:
        self.hub = hub
        self.nursery = nursery
        self.clients: list[Joined] = []
        self.log: list[Any] = []  # every entry ever appended, evicted or not
        self.published: list[str] = []
        self.listeners: list[tuple[int, Any, list[int], list[tuple[int, int]]]] = []
        hand_out = hub.broadcast._hand_out

        async def spy(entries: list[Entry], fresh: list[Entry]) -> None:
            self.log += fresh
            await hand_out(entries, fresh)

        hub.broadcast._hand_out = spy
        refilter = hub.broadcast.refilter

        def note(position: Any, predicate: Any) -> int:
            """From which offset on which client wants what."""
            offset: int = refilter(position, predicate)
            for client in self.clients:
                if client.record and client.record.position is position:
                    client.wants.append((offset, predicate))
            return offset

        hub.broadcast.refilter = note
        self.newest: Any = None
        connected = hub.connected

        def meet(key: int, connection: Any, client: Any) -> None:
            self.newest = client
            connected(key, connection, client)

        hub.connected = meet
        self.count = 0

    async def run(self, steps: list[tuple[Any, ...]]) -> None:
        for name, *arguments in steps:
            await getattr(self, "do_" + name.replace(" ", "_"))(*arguments)
        await self.settle()
        self.check()

    def text(self, size: int = 0) -> str:
        self.count += 1
        return f"{self.count}:" + "x" * size

    def some(self, at: int) -> Joined | None:
        return self.clients[at % len(self.clients)] if self.clients else None

    # --- steps ---

    async def do_join(  # noqa: PLR0917 - one for each part of the step
        self,
        predicate: Any,
        team: str,
        echo: bool,
        direct: bool,
        events: bool,
        by: str,
        compressed: bool,
        since: str = "",
    ) -> Any:
        if len(self.clients) >= 8:
            return None
        kernel = FakeKernel(synchronous=direct)
        name = f"id{len(self.clients) % 3}"
        peer = Peer(kernel) if by == "websocket" else StreamPeer(kernel)
        client = Joined(kernel, peer, name, echo, events or by == "ndjson", by, compressed)
        self.clients.append(client)
        target = f"/events?role=both&id={name}&team={team}&type=a&echo={int(echo)}"
        target += "&format=cloudevents" if client.events else ""
        fields = [f"Last-Event-ID: {since}"] if since else []
        if compressed:
            fields.append(DEFLATE if by == "websocket" else "Accept-Encoding: gzip, deflate")
        kernel.feed(upgrade(target, *fields) if by == "websocket" else get(target, ACCEPT[by], *fields))
        self.newest = None

        async def connection() -> None:
            await serve_transport(self.hub, kernel, "test")
            client.gone = True

        self.nursery.start_soon(connection)
        while client.peer.look().status is None:
            await trio.lowlevel.checkpoint()
        if client.peer.status not in (101, 200):
            client.refused = True
            return None
        client.record = self.newest
        client.start = int((client.peer.header("Trionotify-Cursor") or "").rpartition(":")[2])
        client.wants.append((client.start, None))
        if predicate is not None:
            await self.do_subscribe(self.clients.index(client), predicate)
        return client

    async def do_publish(self, publications: list[dict[str, Any]]) -> None:
        for publication in publications:
            arguments, attributes = self.arguments(publication)
            if self.hub.log.durable:
                # Without waiting for the commit, so that there is something to wait together.
                await self.hub.inbox.put([Entry(Notification.of(*arguments, **attributes))])
            else:
                await self.hub.publish(*arguments, **attributes)

    def arguments(self, publication: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        publication = dict(publication)
        audience = publication.pop("audience")
        if audience == "callable":
            # Judged at the broadcast; a publish with such an audience waits for that.
            publication["audience"] = Exact(team="red") | Exact(id="id2")
        elif audience:
            publication["audience"] = Exact(team=audience)
        text = publication.pop("text", None) or self.text(publication.pop("size"))
        publication.pop("size", None)
        self.published.append(text)
        return [text], publication

    async def do_cancelled_publish(self, publication: dict[str, Any]) -> None:
        arguments, attributes = self.arguments(publication)
        self.published.remove(arguments[0])
        with trio.CancelScope() as scope:
            scope.cancel()
            await self.hub.publish(*arguments, **attributes)
            self.published.append(arguments[0])

    async def do_listen(self, predicate: Any) -> None:
        """A subscription inside the process, which reads whatever comes."""
        received: list[int] = []
        gaps: list[tuple[int, int]] = []

        async def listen(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            async with self.hub.subscribe(predicate) as notifications:
                self.listeners.append((self.hub.broadcast.taken, predicate, received, gaps))
                task_status.started()
                while not self.hub.broadcast.over:
                    try:
                        async for _ in notifications:
                            received.append(offset_of(notifications.cursor))
                    except Lagged as lagged:
                        gaps.append((offset_of(lagged.after), offset_of(lagged.upto)))

        await self.nursery.start(listen)

    def speaker(self, at: int) -> Joined | None:
        """One that can say something now."""
        client = self.some(at)
        if not client or client.by != "websocket" or client.silent or client.kernel.closed:
            return None
        return client if client.record else None

    async def do_say(self, at: int, count: int) -> None:
        if client := self.speaker(at):
            texts = [self.text() for _ in range(count)]
            client.said += texts
            # Events are said twice, and must count once.
            client.peer.say(*(map(self.event, texts * 2) if client.events else texts))

    def event(self, text: str) -> str:
        event = {"specversion": "1.0", "id": text, "source": "/c", "type": "a"}
        return json.dumps({**event, "datacontenttype": "text/plain", "data": text})

    async def do_ask(self, at: int, filters: list[Any]) -> None:
        client = self.speaker(at)
        if client and client.events:
            client.asked += 1
            event = {"specversion": "1.0", "id": "ask", "source": "/c", "type": "trionotify.subscribe"}
            client.peer.say(json.dumps({**event, "data": {"filters": filters}}))

    async def do_subscribe(self, at: int, predicate: Any) -> None:
        client = self.some(at)
        if client and client.record and client.record.position and client.record.position.joined:
            client.record.subscribe(predicate)

    async def do_unsubscribe(self, at: int, which: int) -> None:
        client = self.some(at)
        if client and client.record and client.record.position and client.record.position.joined:
            registered = client.record.predicates
            if registered:
                client.record.unsubscribe(registered[which % len(registered)])

    async def do_answer(self, at: int, count: int, size: int, drain: int | None) -> None:
        """A session's `client.send`, several times. It may wait long, longest for a stalled client."""
        client = self.some(at)
        if client and drain is not None:
            client.kernel.stall(drain)
        if client and client.record and client.record.position:
            texts = [f"answer {self.text(size)}" for _ in range(count)]
            client.answers += texts

            async def answer() -> None:
                with suppress(Disconnected):
                    for text in texts:
                        await client.record.send(text)

            self.nursery.start_soon(answer)

    async def do_stall(self, at: int, drain: int) -> None:
        if client := self.some(at):
            client.kernel.stall(drain)

    async def do_grant(self, at: int, credit: int) -> None:
        if client := self.some(at):
            client.kernel.grant(credit)

    async def do_flow(self, at: int) -> None:
        if client := self.some(at):
            client.kernel.credit = None
            client.kernel.grant(None)

    async def do_vanish(self, at: int) -> None:
        if (client := self.some(at)) and not client.kernel.closed:
            client.silent = True
            client.kernel.hang_up()

    async def do_resume(self, at: int) -> None:
        client = self.some(at)
        if client and client.record and (client.gone or client.kernel.closed):
            offset = self.last_seen(client)
            since = self.hub.broadcast.cursor(offset)
            kind = (client.events, client.by, client.compressed)
            if again := await self.do_join(None, "red", True, True, *kind, since):
                if again.peer.header("Trionotify-Recovered") == "true":
                    assert again.start == offset
                else:
                    assert again.events
                    assert offset < self.hub.log.start

    def last_seen(self, client: Joined) -> int:
        """Where it would go on."""
        if client.by == "sse" and (last := client.peer.source.last_event_id):
            return offset_of(last)
        seen = self.cursors(client) if client.events else self.received(client)
        return seen[-1] if seen else client.start

    async def do_ping(self, at: int) -> None:
        if client := self.speaker(at):
            client.peer.say_ping(b"p" * 20)

    async def do_wait(self, times: int) -> None:
        for _ in range(times):
            await trio.lowlevel.checkpoint()

    # --- the end, and the model's verdict ---

    async def settle(self) -> None:
        """Let everything flow, and wait until nothing moves."""
        for client in self.clients:
            client.kernel.credit = None
            client.kernel.grant(None)
        await trio.testing.wait_all_tasks_blocked()

    def heard(self, client: Joined) -> list[dict[str, Any]]:
        """The events received; those of a raw client, as if they were events."""
        peer = client.peer.look()
        if client.events:
            return [json.loads(message) for message in peer.messages]
        if client.by == "sse":
            return [
                {"source": "", "data": event.data, "cursor": event.last_event_id}
                for event in peer.source.events
            ]
        return [{"source": "", "data": message} for message in peer.messages]

    def received(self, client: Joined) -> list[int]:
        # (A text is there twice if it was published again when the log had forgotten the first.)
        by_text: dict[Any, list[int]] = {}
        for entry in self.log:
            by_text.setdefault(entry.notification.data, []).append(entry.offset)
        offsets: list[int] = []
        for event in self.heard(client):
            if event["source"] == "/trionotify" or event["data"] in client.answers:
                continue
            known = by_text[event["data"]]
            if "cursor" in event:
                offsets.append(offset_of(event["cursor"]))
                assert offsets[-1] in known
            else:
                last = offsets[-1] if offsets else 0
                offsets.append(next((offset for offset in known if offset > last), known[-1]))
        return offsets

    def cursors(self, client: Joined) -> list[int]:
        """Where it could resume, after each of the events that came."""
        return [offset_of(event["cursor"]) for event in self.heard(client) if "cursor" in event]

    def told(self, client: Joined, kind: str) -> list[dict[str, Any]]:
        """The data of the server's own events of that kind."""
        return [e["data"] for e in self.heard(client) if e.get("type") == f"trionotify.{kind}"]

    def expected(self, client: Joined) -> list[int]:
        offsets = []
        gaps = [(offset_of(gap["from"]), offset_of(gap["to"])) for gap in self.told(client, "gap")]
        for entry in self.log:
            if entry.offset <= client.start:
                continue
            if any(after < entry.offset <= upto for after, upto in gaps):
                continue
            in_force = [wants for offset, wants in client.wants if offset < entry.offset][-1]
            notification = entry.notification
            if in_force is not None and not in_force(notification):
                continue
            if notification.to not in (None, client.id):
                continue
            if notification.audience is not None and not notification.audience(client.record):
                continue
            if not client.echo and notification.data in client.said:
                continue
            offsets.append(entry.offset)
        return offsets

    def check(self) -> None:
        first: dict[Any, int] = {}
        for at, entry in enumerate(self.log):
            # (The log knows a repetition for as long as it has the first.)
            again = at - first.setdefault(entry.notification.data, at)
            assert again == 0 or again >= LOG_ENTRIES, "published twice"
        texts = list(first)
        said = [text for client in self.clients for text in client.said]
        assert [text for text in texts if text not in said] == self.published
        for start, predicate, received, gaps in self.listeners:
            assert received == [
                entry.offset
                for entry in self.log
                if entry.offset > start and predicate(entry.notification)
                if not any(after < entry.offset <= upto for after, upto in gaps)
            ]
        for client in self.clients:
            in_log = [text for text in texts if text in client.said]
            assert in_log == client.said[: len(in_log)]
            if not client.gone and not client.peer.look().close:
                assert in_log == client.said
        for client in self.clients:
            if client.refused:
                assert client.peer.look().status == 410
                continue
            received, expected = self.received(client), self.expected(client)
            if client.events:
                self.check_events(client, received, expected)
            if client.by == "sse":
                self.check_last_event_id(client)
            answered = [e["data"] for e in self.heard(client) if e["data"] in client.answers]
            assert len(set(answered)) == len(answered)
            if client.kernel.closed or client.gone or client.peer.close:
                assert received == expected[: len(received)]
                if client.peer.close:
                    assert client.peer.close == ((1013, "slow") if client.by == "websocket" else ENDED)
                    assert self.hub.log.start > (received[-1] if received else client.start)
            else:
                assert received == expected
                assert set(answered) == set(client.answers)
                assert client.record.position.live
        assert self.hub.broadcast.done == self.hub.broadcast.taken == self.hub.log.head

    def check_last_event_id(self, client: Joined) -> None:
        """Where a browser would resume is behind all that it got, and before all that it didn't get."""
        source, received = client.peer.source, self.received(client)
        upto = offset_of(source.last_event_id or f"e:{client.start}")
        assert [offset for offset in self.expected(client) if offset <= upto] == received
        assert [event.last_event_id for event in source.events] == sorted(
            (event.last_event_id for event in source.events), key=offset_of
        )

    def check_events(self, client: Joined, received: list[int], expected: list[int]) -> None:
        """Cursors only grow, all up to the last of them came, and everything said was answered."""
        cursors = self.cursors(client)
        assert cursors == sorted(cursors)
        if cursors:
            upto = cursors[-1]
            assert [offset for offset in received if offset <= upto] == received
            assert [offset for offset in expected if offset <= upto] == received
        if not client.gone and not client.peer.close:
            offsets = {(entry.notification.data, entry.offset) for entry in self.log}
            acks = [ack for ack in self.told(client, "ack") if "cursor" in ack]
            assert Counter(ack["id"] for ack in acks) == Counter(client.said * 2)
            assert all((ack["id"], offset_of(ack["cursor"])) in offsets for ack in acks)
            assert len(self.told(client, "ack")) == len(acks) + client.asked


def offset_of(cursor: str) -> int:
    return int(cursor.rpartition(":")[2])


def run_on(steps: list[tuple[Any, ...]], **options: Any) -> None:
    async def main() -> None:
        async with (
            open_hub(
                max_log_entries=LOG_ENTRIES,
                ping_interval=1e6,
                stall_timeout=1e6,
                compression_threshold=1,
                **options,
            ) as hub,
            trio.open_nursery() as nursery,
        ):
            await Program(hub, nursery).run(steps)
            nursery.cancel_scope.cancel()
        assert hub.statistics().clients == 0
        assert not hub.connections

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def run(steps: list[tuple[Any, ...]]) -> None:
    run_on(steps)


def run_on_a_file(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory(dir=SHM) as directory:
        run_on(steps, store=f"sqlite:{directory}/log", durability="normal", max_tail_bytes=400)


every_program = given(st.lists(step, min_size=10, max_size=80))
often = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let some frames be so large that a thread compresses them, in a turn of the virtual clock."""
    monkeypatch.setattr(compression_module, "LARGE", 150)

    async def in_turn(compress: Any, frame: bytes, limiter: trio.CapacityLimiter) -> Any:
        async with limiter:
            await trio.lowlevel.checkpoint()
            return compress(frame)

    monkeypatch.setattr(compression_module, "_in_thread", in_turn)


@pytest.fixture(autouse=True)
def filed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even a reader of few entries use the history, in short blocks."""
    monkeypatch.setattr(history_module, "FEW", 0)
    monkeypatch.setattr(history_module, "BLOCK", 3)


@pytest.fixture
def interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the broadcast give way after every entry that it matches, and after every send."""
    monkeypatch.setattr(broadcast_module, "TURN", 1)
    monkeypatch.setattr(turns_module, "SECONDS", 0.0)


@pytest.mark.usefixtures("interleaved")
def test_every_client_receives_the_filtered_log() -> None:
    """For every client: the log from its cursor, filtered as of its position, in order, once."""
    often(every_program(run))()


@pytest.fixture
def stingy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every filter and audience be costly, and few of them be allowed for at a time."""
    monkeypatch.setattr(costs_module, "CHEAP", 0)
    monkeypatch.setattr(costs_module, "ALLOWANCE", 6)


@pytest.mark.usefixtures("interleaved", "stingy")
def test_every_client_receives_the_filtered_log_when_it_is_put_off() -> None:
    """The same, where most find out themselves what of it concerns them."""
    often(every_program(run))()


def test_every_client_receives_the_filtered_log_in_slices() -> None:
    """The same, where many notifications go out in one send, and the kernel cuts among them."""
    often(every_program(run))()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a durable log have little in memory, and its thread's turns be turns of the virtual clock."""
    monkeypatch.setattr(durable_module, "_PAGE", 3)
    monkeypatch.setattr(durable_module, "_PAGE_BYTES", 300)
    monkeypatch.setattr(durable_module, "_PAGES_BYTES", 10_000)

    async def in_turn(self: DurableLog, function: Any, *arguments: Any) -> Any:
        async with self._thread:
            await trio.lowlevel.checkpoint()
            result = function(*arguments)
            await trio.lowlevel.cancel_shielded_checkpoint()  # what has begun is waited for
            return result

    async def beside(self: DurableLog, function: Any, *arguments: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(DurableLog, "_in_thread", in_turn)
    monkeypatch.setattr(DurableLog, "_beside", beside)


@pytest.mark.usefixtures("interleaved", "small_pages")
def test_every_client_receives_the_filtered_log_of_a_file() -> None:
    """The same, where what was published is committed first, and most of it is not in memory."""
    often(every_program(run_on_a_file))()


def mutated(function: Any, before: str, after: str) -> Any:
    """`function` with a piece of its source replaced."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(before) == 1, "the mutation must hit one place"
    names: dict[str, Any] = {}
    exec(source.replace(before, after), function.__globals__, names)
    return names[function.__name__]


MUTATIONS = {
    "goes live wherever it stands": (
        (Broadcast, "settle"),
        "position.live = position.cursor == self.taken and not position.outlet.owed",
        "position.live = not position.outlet.owed",
    ),
    "the batch goes to those who have it already": (
        (Broadcast, "_hand_to"),
        "not position.live or position.cursor > done",
        "not position.live",
    ),
    "a change of filter in the middle of a batch stays live": (
        (Broadcast, "refilter"),
        "self._settle_or_wake(position)",
        "pass",
    ),
    "one that is put off stays live": (
        (Broadcast, "_put_off"),
        "self.fall_behind(position)",
        "pass",
    ),
    "the audience isn't asked about newcomers": (
        (Audiences, "_ask"),
        "registry.newest(registry.entered - before)",
        "()",
    ),
    "a slice grows after others have seen its end": (
        (Matcher, "match"),
        (
            "or turn.passed > passed\n"
            "            or reached.settled == reached.taken\n"
            "            or turn.over"
        ),
        "",
    ),
    "what an answer owes leaves it live": (
        (ClientConnection, "_fall_behind"),
        "self.hub.broadcast.fall_behind(self.position)",
        "pass",
    ),
    "a block counts as filed to its end": (
        (_Block, "file"),
        "self.upto = min(entry.offset, end)",
        "self.upto = end",
    ),
    "what is for all isn't looked up": (
        (history_module, "_demands"),
        "[None, position.client.id]",
        "[position.client.id]",
    ),
    "a cut batch counts as sent": (
        (broadcast_module, "cut"),
        "position.told = chunk.offsets[whole]",
        "position.told = chunk.offsets[-1]",
    ),
}
#: Those that only show where more than one notification goes out at a time.
IN_SLICES = {"a cut batch counts as sent"}
#: Faults that only show where a client is delayed.
STINGY = {"one that is put off stays live"}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_model_notices_a_broken_rule(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above are sharp: break the cursor rule anywhere, and one fails."""
    if name not in IN_SLICES:
        request.getfixturevalue("interleaved")
    if name in STINGY:
        request.getfixturevalue("stingy")
    (owner, attribute), before, after = MUTATIONS[name]
    broken = mutated(getattr(owner, attribute), before, after)
    monkeypatch.setattr(owner, attribute, broken)
    hunt = settings(
        max_examples=40_000,  # more than enough: the rarest shows in a thousand or so
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises((AssertionError, Flaky, BaseExceptionGroup)):
        hunt(every_program(run))()
