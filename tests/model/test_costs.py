"""Only the client or publisher that brings a costly filter or audience waits for it.

Nothing here measures time. What is asserted is how often predicates were evaluated, and what had been
sent by then.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
import trio.testing

from tests.conftest import Room
from tests.kernel import FakeKernel, upgrade
from tests.matching import match
from tests.web import Web, post
from trionotify import AnyOf, Exact, Notification, Prefix, Sql
from trionotify.delivery import turns as turns_module
from trionotify.delivery.entry import Entry, Sender
from trionotify.http.serving import serve_transport
from trionotify.model.costs import ALLOWANCE, CHEAP, price_of, time_of
from trionotify.model.index import PredicateIndex

Clock = trio.testing.MockClock

BATCH = "Content-Type: application/cloudevents-batch+json"
#: What all of the patterns below match, and only far behind.
LONG = "xa" * 1000


def costly(name: str, number: int) -> str:
    return f"{name} LIKE '%{'_a' * (200 - number)}%'"


#: So many of them are evaluated for what is handed out at a time.
COVERED = ALLOWANCE // time_of(Sql(costly("subject", 0)), 2048)


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The events of a test in their order: `asked` an SQL expression, or `sent` to an honest client."""
    order: list[str] = []
    evaluate = Sql.__call__

    def noting(self: Sql, subject: Any) -> bool:
        order.append("asked")
        return evaluate(self, subject)

    monkeypatch.setattr(Sql, "__call__", noting)
    # On a busy machine a turn may end anywhere, and then others are asked in between.
    monkeypatch.setattr(turns_module, "SECONDS", 3600.0)
    return order


class Honest(FakeKernel):
    """Notes when something is sent to it."""

    def __init__(self, order: list[str]) -> None:
        super().__init__()
        self.order = order

    def send(self, data: bytes | memoryview) -> int:
        self.order.append("sent")
        return super().send(data)


async def test_filters_of_many_are_asked_after_the_others_were_served(
    order: list[str], room: Room, autojump_clock: Clock
) -> None:
    """Each has a costly one of its own. They get what they want, too, in order; and are live again."""
    peers = [await room.connect(f"/?sql={quote(costly('subject', number))}") for number in range(10)]
    honest = await room.connect("/?exact.type=t", kernel=Honest(order))
    order.clear()
    receipt = await room.hub.publish("one", type="t", subject=LONG, confirm=True)
    await room.quiet()
    assert order.index("sent") == COVERED < len(peers)
    assert order.count("asked") == len(peers)
    # It says what was known by then.
    assert (receipt.wanted, receipt.written, receipt.behind) == (COVERED + 1, COVERED + 1, 0)
    order.clear()
    await room.hub.publish("two", type="t", subject="a" * 100)  # it costs less to look at this
    await room.hub.publish("three", type="t", subject=LONG)
    await room.quiet()
    assert all(peer.look().messages == ["one", "three"] for peer in peers)
    assert honest.look().messages == ["one", "two", "three"]
    assert room.hub.statistics().behind == 0


async def test_a_filter_that_many_share_is_asked_once(
    order: list[str], room: Room, autojump_clock: Clock
) -> None:
    """However expensive it is as a whole, it is cheap for each of them."""
    number = 2 * time_of(Sql(costly("subject", 0))) // CHEAP
    peers = [await room.connect(f"/?sql={quote(costly('subject', 0))}") for _ in range(number)]
    order.clear()
    for count in range(2 * COVERED):
        await room.hub.publish(str(count), subject=LONG)
    await room.quiet()
    assert order.count("asked") == 2 * COVERED
    assert all(len(peer.look().messages) == 2 * COVERED for peer in peers)


async def test_an_audience_costs_the_filters_of_its_clients_as_well(
    order: list[str], room: Room, autojump_clock: Clock
) -> None:
    """A client to which a notification is addressed pays for its own filter in the same way."""
    query = "/?team=a&sql="
    peers = [await room.connect(query + quote(costly("subject", number))) for number in range(10)]
    honest = await room.connect("/?team=a&exact.type=t", kernel=Honest(order))
    order.clear()
    await room.hub.publish("one", audience=Exact(team="a"), type="t", subject=LONG)
    await room.quiet()
    assert order.index("sent") == COVERED
    assert all(peer.look().messages == ["one"] for peer in (*peers, honest))


def event(number: int, audience: str) -> dict[str, Any]:
    about = {"specversion": "1.0", "id": str(number), "source": "/s", "type": "t", "data": str(number)}
    return {**about, "datacontenttype": "text/plain", "audience": json.dumps([{"sql": audience}])}


async def test_the_audience_of_a_batch_is_asked_once_about_each_client(
    order: list[str], room: Room, autojump_clock: Clock
) -> None:
    """Its answer about a client doesn't change from event to event."""
    peers = [await room.connect(f"/?zz={LONG}{number}") for number in range(10)]
    events = [event(number, costly("zz", 0)) for number in range(50)]
    web = Web(room)
    web.kernel.feed(post("/events", json.dumps(events), BATCH))
    await room.quiet()
    assert web.kernel.taken.startswith(b"HTTP/1.1 200 ")
    assert order == ["asked"] * len(peers)
    for peer in peers:
        assert peer.look().messages == [str(number) for number in range(50)]


async def test_nobody_waits_for_the_audiences_of_others(
    order: list[str], room: Room, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Different ones are asked in their publisher's time, and what others publish goes out meanwhile."""
    monkeypatch.setattr(turns_module, "SECONDS", 0.0)
    peers = [await room.connect(f"/?exact.type=t&zz={LONG}{number}") for number in range(10)]
    honest = await room.connect("/?exact.type=mark", kernel=Honest(order))
    order.clear()
    events = [event(number, costly("zz", number)) for number in range(20)]
    web = Web(room)
    web.kernel.feed(post("/events", json.dumps(events), BATCH))
    while not order:
        await trio.lowlevel.checkpoint()
    await room.hub.publish("mark", type="mark")
    await room.quiet()
    assert honest.look().messages == ["mark"]
    assert order.index("sent") < order.count("asked") / 2
    for peer in peers:
        assert peer.look().messages == [str(number) for number in range(20)]
    assert order.count("asked") == 20 * (len(peers) + 1)


async def test_an_audience_that_was_not_judged_before(
    order: list[str], room: Room, autojump_clock: Clock
) -> None:
    """Those with long texts in their queries find out themselves; for others it costs little to ask."""
    peers = [await room.connect(f"/?zz={LONG}{number}") for number in range(10)]
    honest = await room.connect("/?zz=xaxa", kernel=Honest(order))
    order.clear()
    either = Sql(f"zz = 'xaxa' OR {costly('zz', 0)}")
    await room.hub.inbox.put([Entry(Notification.of("one", audience=either))])
    await room.quiet()
    assert order.index("sent") <= COVERED + 1
    assert order.count("asked") == len(peers) + 1
    assert all(peer.look().messages == ["one"] for peer in (*peers, honest))
    assert room.hub.statistics().behind == 0


@pytest.mark.parametrize("leaving", [0, 1, 2])
async def test_who_comes_behind_the_judgement(leaving: int, room: Room, autojump_clock: Clock) -> None:
    """It is asked about them, too. Some leave meanwhile, and no client gets anything twice."""
    peers = [await room.connect(f"/?team=red&n={number}") for number in range(3)]
    put, late = room.hub.inbox.put, FakeKernel()

    async def meanwhile(entries: list[Entry], sender: Sender | None = None) -> None:
        for peer in peers[:leaving]:
            peer.kernel.hang_up()
        late.feed(upgrade("/?team=red"))
        room.nursery.start_soon(serve_transport, room.hub, late, "test:2")
        await trio.testing.wait_all_tasks_blocked()
        await put(entries, sender)

    room.hub.inbox.put = meanwhile  # type: ignore[method-assign] # to let something happen just then
    receipt = await room.hub.publish("one", audience=Prefix(team="r"), confirm=True)
    await room.quiet()
    assert receipt.wanted == receipt.written == 4 - leaving
    assert [peer.look().messages for peer in peers[leaving:]] == [["one"]] * (3 - leaving)
    assert late.taken.endswith(b"one")
    assert late.taken.count(b"one") == 1


def test_a_choice_of_conditions_is_not_asked() -> None:
    """One of them holds, as the index knows, and that says all: however many there are."""
    index: PredicateIndex[str] = PredicateIndex()
    index.add(AnyOf([Exact(subject=str(number)) for number in range(200)]), "many")
    index.add(AnyOf([Exact(subject="7", type="u"), Prefix(subject="9")]), "two at once")
    assert [filed.certain for filed in index._filed.values()] == [True, False]
    assert match(index, Notification(subject="7")) == ["many"]
    assert sorted(match(index, Notification(subject="9"))) == ["many", "two at once"]


def test_prices() -> None:
    """They grow with the text, and what is cheap has none."""
    assert price_of(Exact(type="t")) is None
    assert price_of(Sql("subject LIKE '%text%'")) is None
    price = price_of(Sql(costly("subject", 0)))
    assert price is not None
    assert price.on(10) <= CHEAP < price.on(1000) < price.on(4000)
    assert price.on(4096) >= time_of(Sql(costly("subject", 0)))
