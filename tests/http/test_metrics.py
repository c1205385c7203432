"""A hub's reports about itself: `/clients`, `/metrics`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock as Clock

from tests.conftest import Room, open_room
from tests.kernel import FakeKernel
from tests.web import Web, get, post


async def samples(room: Room) -> dict[tuple[str, str], float]:
    """By name, and its labels."""
    text = (await Web(room).ask(get("/metrics"))).body.decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(value for _, value in sorted(sample.labels.items()))
            found[sample.name.removeprefix("trionotify_"), labels] = sample.value
    return found


async def test_what_is_counted(room: Room, autojump_clock: Clock) -> None:
    """Each thing once: what is published, delivered, opened, closed, and refused."""
    one = await room.connect("/")
    await room.connect("/?format=cloudevents&exact.type=a")
    await Web(room).ask(get("/nope"))
    for type in ("a", "b"):
        await Web(room).ask(post(f"/events?type={type}", "hello"))
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "b"}
    for _ in range(2):
        request = post("/events?id=p", json.dumps(event), "Content-Type: application/cloudevents+json")
        await Web(room).ask(request)
    one.kernel.hang_up()
    await room.quiet()
    found = await samples(room)
    assert found["published_total", ""] == 3
    assert found["repeated_total", ""] == 1
    assert found["deliveries_total", ""] == 4
    assert found["delivered_bytes_total", ""] > 4 * 5
    assert found["connections_total", "raw,websocket"] == 1
    assert found["clients", "cloudevents,live,websocket"] == 1
    assert found["closed_total", "lost"] == 1
    assert (found["answers_total", "404"], found["answers_total", "200"]) == (1, 4)
    assert found["batch_size_count", ""] == found["publish_to_write_seconds_count", ""] == 4
    assert found["ready", "log"] == 1
    assert found["log_entries", ""] == 3


async def test_codes_that_peers_make_up(room: Room, autojump_clock: Clock) -> None:
    """They count as one: each would be another time series."""
    for code in (1000, 4000, 4001, 4401):
        peer = await room.connect("/")
        peer.say_close(code)
        await room.quiet()
    found = await samples(room)
    closed = {name: number for (series, name), number in found.items() if series == "closed_total"}
    assert closed == {"1000": 1, "other": 2, "4401": 1}


async def test_deliveries_to_the_slow(room: Room, autojump_clock: Clock) -> None:
    """A cut frame counts once, and so does each entry that is caught up with."""
    kernel = FakeKernel()
    await room.connect("/", kernel=kernel)
    kernel.stall()
    for n in range(30):
        await room.hub.publish(f"{n}" * 200)
        kernel.grant(70)
        await room.quiet()
    assert (await samples(room))["lag_entries", ""] > 0
    kernel.grant(None)
    kernel.credit = None
    kernel.grant(None)
    await room.quiet()
    found = await samples(room)
    assert found["deliveries_total", ""] == 30
    assert found["lag_entries", ""] == 0
    frames = sum(len(entry.frame(room.hub.formats["raw"].encode)) for entry in room.hub.log.read(0, 99))
    assert found["delivered_bytes_total", ""] <= frames


async def test_the_docs_have_every_metric(room: Room, autojump_clock: Clock) -> None:
    """And no other."""
    text = (await Web(room).ask(get("/metrics"))).body.decode()
    ours = {f.name for f in text_string_to_metric_families(text) if f.name.startswith("trionotify_")}
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text().partition("## What to")[0]
    named = re.findall(r"`(trionotify_\w+)`", page)
    assert sorted(re.sub("_(total|info)$", "", name) for name in named) == sorted(
        re.sub("_info$", "", name) for name in ours
    )


async def test_the_same_for_programs(room: Room, autojump_clock: Clock) -> None:
    """JSON, for who prefers it."""
    await room.connect("/")
    await room.hub.publish("x", confirm=True)
    answer = await Web(room).ask(get("/metrics", "Accept: application/json"))
    figures: dict[str, Any] = answer.json
    assert figures["published"] == figures["delivered"] == 1
    assert figures["clients"] == [
        {"transport": "websocket", "format": "raw", "state": "live", "count": 1}
    ]
    assert sum(figures["latency"]["counts"]) == 1
    assert len(figures["latency"]["counts"]) == len(figures["latency"]["bounds"]) + 1
    assert figures["checks"] == {"accepting": True, "log": True}


async def test_the_roster(room: Room, autojump_clock: Clock) -> None:
    """The connected clients, their filters, and how far behind they are."""
    slow = FakeKernel()
    await room.connect("/?id=a&exact.type=x", kernel=slow)
    await room.connect("/?id=b&role=publisher&format=cloudevents")
    slow.stall()
    await room.hub.publish("." * 100, type="x")
    await room.hub.publish("." * 100, type="x", confirm=True)
    found = (await Web(room).ask(get("/clients"))).json
    assert (found["total"], found["next"]) == (2, None)
    first, second = found["clients"]
    assert (first["id"], first["filters"]) == ("a", [{"exact": {"type": "x"}}])
    assert (first["live"], first["behind"]) == (False, 1)
    assert (second["role"], second["format"], second["filters"]) == ("publisher", "cloudevents", [])
    assert (second["live"], second["behind"]) == (True, 0)
    assert first["since"].endswith("Z")


async def test_a_page_of_the_roster_is_bounded(room: Room, autojump_clock: Clock) -> None:
    """Its bytes are limited, too, and no client is missing between two pages."""
    filters = json.dumps([{"exact": {"subject": "s" * 4000}}])
    for number in range(150):
        await room.connect(f"/?id=c{number}&filters={filters.replace(' ', '%20')}")
    seen: list[str] = []
    after = 0
    while after is not None:
        answer = await Web(room).ask(get(f"/clients?limit=1000&after={after}"))
        assert len(answer.body) < 300_000
        seen += [client["id"] for client in answer.json["clients"]]
        after = answer.json["next"]
    assert seen == [f"c{number}" for number in range(150)]


async def test_the_roster_in_pages(autojump_clock: Clock) -> None:
    """Each has the key of the next. Clients that come and go meanwhile don't disturb the others."""
    async with open_room() as room:
        for n in range(7):
            await room.connect(f"/?id=c{n}")
        after, ids = 0, []
        while True:
            page = (await Web(room).ask(get(f"/clients?limit=3&after={after}"))).json
            ids += [client["id"] for client in page["clients"]]
            if page["next"] is None:
                break
            after = page["next"]
        assert ids == [f"c{n}" for n in range(7)]
        for query in ("limit=0", "limit=1001", "limit=x", "after=-1"):
            answer = await Web(room).ask(get(f"/clients?{query}"))
            assert answer.status == 400
            assert answer.json["detail"].startswith(query.partition("=")[0])
