"""Notifications of all sorts, and what of them must come out again."""

from __future__ import annotations

from random import Random
from typing import Any

from trionotify import Exact, Notification, to_json

__all__ = ["Content", "content", "random_notification"]

#: All that a notification says.
Content = tuple[Any, ...]

_SIZES = (0, 10, 10, 100, 100, 100, 700, 700, 3000, 20_000)
_TEXT = "".join(Random(1).choices("abcdefghij é", k=50_000))


def random_notification(random: Random, number: int, part: str) -> Notification:
    """Any notification; `number` and `part` are in it, so that no two are alike.

    Those that a publisher can repeat have ids of which many differ in one bit.
    """
    given: dict[str, Any] = {"type": random.choice(("a", "ab", "b")), "source": f"/{part}"}
    if random.random() < 0.7:
        given["id"] = f"{part}{number:06b}" if random.random() < 0.8 else f"{part}-{number}-é"
    if random.random() < 0.5:
        given["subject"] = random.choice(("x", "xy", "z" * 200))
    if random.random() < 0.3:
        given["time"] = f"2026-01-01T00:00:{number % 60:02}+01:00"
    if random.random() < 0.3:
        given["extensions"] = {"number": number, "flag": number % 2 == 0, "text": "é" * 9}
    if random.random() < 0.1:
        given["audience"] = Exact(team="red")
    begin, size = random.randrange(20_000), int(random.choice(_SIZES) * random.random())
    text = f"{part} {number} {_TEXT[begin : begin + size]}"
    data = random.choice((text, text, text, text.encode(), None))
    return Notification(data, **given)


def content(notification: Notification) -> Content:
    """The attributes and the data that are compared."""
    audience: Any = notification.audience
    return (
        *(notification.data, notification.id, notification.source, notification.type),
        *(notification.subject, notification.time, notification.datacontenttype),
        tuple(sorted(notification.extensions.items())),
        None if audience is None else repr(to_json(audience)),
    )
