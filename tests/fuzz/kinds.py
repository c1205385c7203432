"""The kinds of inputs: how one is made, and the options of the server that gets them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import attrs

from tests.fuzz.events import batch_input, event_input
from tests.fuzz.filters import filter_input
from tests.fuzz.frames import frame_input
from tests.fuzz.inputs import Input, Scene
from tests.fuzz.local import sql_input, url_input
from tests.fuzz.requests import (
    ALLOWED,
    cursor_input,
    forwarded_input,
    http_input,
    origin_input,
    query_input,
)
from tests.fuzz.signatures import signature_input

__all__ = ["KINDS", "LOCAL", "Kind", "random_of"]


@attrs.frozen
class Kind:
    """Inputs for a server. `options` are those that it is started with, besides `run.OPTIONS`.

    `has_secret`: it has the scene's secret, so that signed queries are asked for. `alone`: only markers
    may be in its log.
    """

    make: Callable[[Random, Scene], Input]
    options: tuple[str, ...] = ()
    has_secret: bool = False
    alone: bool = False

    def shares_with(self, other: Kind) -> bool:
        """Whether one server does for both."""
        settings = (self.options, self.has_secret) == (other.options, other.has_secret)
        return self is other or (settings and not self.alone and not other.alone)


KINDS: dict[str, Kind] = {
    "http": Kind(http_input),
    "frames": Kind(frame_input),
    "events": Kind(event_input),
    "batches": Kind(batch_input),
    "filters": Kind(filter_input),
    "queries": Kind(query_input),
    "cursors": Kind(cursor_input, alone=True),
    "signatures": Kind(signature_input, has_secret=True),
    "origins": Kind(origin_input, tuple(f"--allow-origin={origin}" for origin in ALLOWED)),
    "forwarded": Kind(forwarded_input, ("--trusted-proxy=127.0.0.1",)),
}

#: Those that need no server. They raise what is wrong.
LOCAL: dict[str, Callable[[Random], None]] = {"sql": sql_input, "urls": url_input}


def random_of(seed: int, kind: str, number: int) -> Random:
    """The source of an input's random choices."""
    return Random(f"{seed}/{kind}/{number}")
