"""The messages of a hub to an application, and of subscriptions inside the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from inspect import isawaitable
from typing import Any, Final

import trio

import trionotify
from trionotify import AnyOf, Exact, Hub, Not, Sql, Suffix, open_hub

__all__ = ["HUB", "names"]

HUB: Final = r"""
await on_hub(lambda hub: hub.publish(5))
await on_hub(lambda hub: hub.publish(Notification("x"), type="t"))
await on_hub(lambda hub: hub.publish("x", type="trionotify.x"))
await on_hub(lambda hub: hub.drain(-1))
await on_hub(lambda hub: hub.drain("soon"))
await on_hub(lambda hub: hub.disconnect("al"))
await on_hub(lambda hub: hub.disconnect(Exact(id="al"), reason=5))
await on_hub(lambda hub: hub.disconnect(twice_entered))
await on_hub(lambda hub: hub.publish("x", audience=twice_entered))
await on_hub(lambda hub: hub.subscribe({"type": "x"}))
await on_hub(lambda hub: hub.subscribe(since="yesterday"))
await on_hub(lambda hub: enter(hub.subscribe(since="nope:1")))
await on_hub(lambda hub: anext(hub.subscribe()))
await on_hub(twice_entered)
await hub_entered_twice()
await on_hub(twice_waiting)
await on_hub(after_its_end)
await after_hub(lambda hub: hub.publish("x"))
await after_hub(lambda hub: hub.publish_nowait("x"))
await on_hub(lambda hub: hub.explain(Notification("x", to="a"), Client("b")))
await on_hub(lambda hub: hub.explain(Notification("x", audience=Exact(team="ops")), Client("b")))
await on_hub(lambda hub: hub.explain(Notification("x", audience=fails), Client("b")))
await on_hub(lambda hub: hub.explain(Notification("x", type="t"), wanting(ANY)))
await on_hub(lambda hub: hub.explain(Notification("x", type="t"), wanting(SQL)))
await on_hub(lambda hub: hub.explain(Notification("x", type="t"), wanting(fails)))
await on_hub(lambda hub: hub.explain("x", Client("b")))
await on_hub(lambda hub: hub.explain(Notification("x"), "b"))
await on_hub(lambda hub: hub.handle(None))
await on_hub(lambda hub: hub.attach(None))
await on_hub(copy)
await on_hub(lambda hub: hub.explain(Notification("x", type="t"), wanting(NOT)))
"""


async def _on_hub(use: Callable[[Hub], Any]) -> Any:
    async with open_hub() as hub:
        found = use(hub)
        return await found if isawaitable(found) else found


async def _after_hub(use: Callable[[Hub], Any]) -> Any:
    """The same with a hub that is closed."""
    async with open_hub() as hub:
        pass
    found = use(hub)
    return await found if isawaitable(found) else found


async def _enter(subscription: Any) -> None:
    async with subscription:
        pass


async def _hub_entered_twice() -> None:
    opening = open_hub()
    async with opening:
        pass
    await _enter(opening)


async def _twice_entered(hub: Hub) -> None:
    async with hub.subscribe() as subscription:
        async with subscription:
            pass


async def _twice_waiting(hub: Hub) -> None:
    async with hub.subscribe() as subscription, trio.open_nursery() as nursery:
        nursery.start_soon(anext, subscription)
        nursery.start_soon(anext, subscription)


async def _after_its_end(hub: Hub) -> None:
    async with hub.subscribe() as subscription:
        pass
    await anext(subscription)


def _fails(_: object) -> bool:
    raise KeyError("team")


def _wanting(predicate: Any) -> trionotify.Client:
    client = trionotify.Client("b")
    client.subscribe(predicate)
    return client


def names() -> Mapping[str, Any]:
    """The names that the lines may use."""
    return {
        **{name: getattr(trionotify, name) for name in trionotify.__all__},
        "on_hub": _on_hub,
        "after_hub": _after_hub,
        "copy": copy,
        "enter": _enter,
        "fails": _fails,
        "NOT": Not(_fails),
        "twice_entered": _twice_entered,
        "hub_entered_twice": _hub_entered_twice,
        "twice_waiting": _twice_waiting,
        "ANY": AnyOf([Suffix(type="x"), Not(Exact(type="t"))]),
        "SQL": Sql("type = 'a' AND id = 'b'"),
        "after_its_end": _after_its_end,
        "wanting": _wanting,
    }
