"""Which log a store names, and that a hub goes on where the one before it ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from trionotify import Exact, StoreError, open_hub
from trionotify.delivery.memory_log import MemoryLog
from trionotify.settings import Settings
from trionotify.storage import open_log
from trionotify.storage.durable import DurableLog


async def test_each_store_has_its_log(tmp_path: Path) -> None:
    """By what stands in front of the colon."""
    assert isinstance(await open_log("memory:", "full", Settings()), MemoryLog)
    log = await open_log(f"sqlite:{tmp_path}/log", "normal", Settings())
    assert isinstance(log, DurableLog)
    await log.aclose()


@pytest.mark.parametrize("store", ["", "memory", "memory:x", "sqlite:", "sqlite", "redis", "log.db"])
async def test_other_stores_are_refused(store: str) -> None:
    """With those that there are."""
    reason = r"^store: must be 'memory:', 'sqlite:PATH' or 'redis://HOST', not "
    with pytest.raises(ValueError, match=reason):
        await open_log(store, "full", Settings())


async def test_no_password_is_repeated() -> None:
    """Not even if the URL's beginning is wrong."""
    with pytest.raises(ValueError, match=r"'redis://HOST'$"):
        await open_log("Redis://me:secret@host", None, Settings())


async def test_without_coredis(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"pip install 'trionotify\[redis\]'"):
        await open_log("redis://host", None, Settings())


async def test_other_durabilities_are_refused() -> None:
    """With those that there are."""
    with pytest.raises(ValueError, match=r"^durability: must be one of full, normal, not 'some'"):
        await open_log("memory:", "some", Settings())
    with pytest.raises(
        ValueError, match=r"^durability: must be one of primary, replicated, fsynced, not"
    ):
        await open_log("redis://host", "full", Settings())


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_a_hub_goes_on_where_the_one_before_it_ended(durability: str, tmp_path: Path) -> None:
    """Offsets and epoch live on, cursors resume, and repetitions are recognized."""
    options = {"store": f"sqlite:{tmp_path}/log", "durability": durability}
    async with open_hub(**options) as hub:  # type: ignore[arg-type] # options of several types
        assert hub.statistics().head == f"{hub.log.epoch}:0"
        first = await hub.publish("1", id="a", confirm=True)
        await hub.publish("2", audience=Exact(team="ops"))
    async with open_hub(**options) as hub:  # type: ignore[arg-type] # options of several types
        assert first is not None
        assert hub.statistics().head == f"{hub.log.epoch}:2"
        assert await hub.publish("1", id="a", confirm=True) == first
        await hub.publish("3")
        async with hub.subscribe(since=first.cursor) as notifications:
            found = [await anext(notifications) for _ in range(2)]
        assert [(n.data, n.audience) for n in found] == [("2", Exact(team="ops")), ("3", None)]
        assert hub.statistics().log_entries == 3
        assert hub.statistics().log_bytes == sum(entry.size for entry in hub.log.read(0, 9))


async def test_only_the_newest_are_read_into_memory(tmp_path: Path) -> None:
    """As many bytes as the setting says; the rest is there for who asks."""
    options = {"store": f"sqlite:{tmp_path}/log", "max_tail_bytes": 10_000}
    async with open_hub(**options) as hub:  # type: ignore[arg-type] # options of several types
        for number in range(20):
            await hub.publish(str(number), subject="x" * 1000)
    async with open_hub(**options) as hub:  # type: ignore[arg-type] # options of several types
        assert isinstance(hub.log, DurableLog)
        assert (hub.log.start, hub.log.head, hub.log._tail.start) == (0, 20, 15)
        async with hub.subscribe(since="start") as notifications:
            found = [await anext(notifications) for _ in range(20)]
        assert [notification.data for notification in found] == [str(number) for number in range(20)]


async def test_one_too_many_for_memory(tmp_path: Path) -> None:
    """Memory ends where the file ends, also when all but the first entry have room in it."""
    options = {"store": f"sqlite:{tmp_path}/log", "max_tail_bytes": 10_000}
    async with open_hub(**options) as hub:  # type: ignore[arg-type] # options of several types
        for number in range(6):
            await hub.publish(str(number), subject="x" * 1000)
    async with open_hub(**options) as hub:  # type: ignore[arg-type] # options of several types
        assert isinstance(hub.log, DurableLog)
        assert (hub.log.start, hub.log.head, hub.log._tail.start) == (0, 6, 1)


async def test_two_hubs_on_one_file(tmp_path: Path) -> None:
    """The second is refused, with the file's name, and the first goes on."""
    store = f"sqlite:{tmp_path}/log"
    async with open_hub(store=store) as hub:
        with pytest.raises(StoreError, match=f"{tmp_path}/log"):
            async with open_hub(store=store):
                raise AssertionError("it must not open")
        await hub.publish("1")
    async with open_hub(store=store) as hub:
        assert hub.log.head == 1
