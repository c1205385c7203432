"""An entry: a notification on its way, from its publisher through the channel into the log.

The publisher makes it; the log gives it its place; after that it doesn't change, but for what is
remembered beside it: its frames, while it is young.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import trio

from trionotify.model.costs import weight_of
from trionotify.model.receipt import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from trionotify.model.notification import Notification

__all__ = ["Entry", "Pending", "repetition_key"]


@attrs.define(eq=False)
class Pending:
    """A receipt in the making, for the publisher that waits for it."""

    #: Whether it will be asked how many clients there were; else they aren't counted.
    counted: bool = True
    done: trio.Event = attrs.Factory(trio.Event)
    wanted: int = 0
    written: int = 0
    #: The epoch and the offset, once it has been published.
    place: tuple[str, int] | None = None
    #: What the publisher's own audience raised first, or why the log didn't take it.
    error: Exception | None = None

    @property
    def receipt(self) -> Receipt | None:
        """For a publisher that has them `counted`; most wait only until it is published."""
        if self.place is None:
            return None
        epoch, offset = self.place
        return Receipt(f"{epoch}:{offset}", self.wanted, self.written, self.wanted - self.written)

    def refuse(self, error: Exception | None) -> None:
        """There will be no receipt: it is not published, and why; or nobody knows (None)."""
        self.error = error
        self.done.set()


def repetition_key(notification: Notification, publisher: str | None) -> Hashable | None:
    """By what to know a notification that comes again; None where its `id` was made up.

    The publisher's own `id` is a part of it: so nobody can pre-empt what another will publish. The
    notifications of a publisher without an identity (None) never repeat another.
    """
    given = notification.given_id
    return None if given is None or publisher is None else (publisher, notification.source, given)


@attrs.define(eq=False)
class Entry:
    """A notification, where it comes from, and its place in the log.

    `origin` is the key of the connection that published it (None: not a connection), for `echo=0`.
    """

    notification: Notification
    origin: int | None = None
    #: Who waits for its receipt; None, too, once it has been given.
    pending: Pending | None = None
    #: What a repetition has in common with the first: see `repetition_key`.
    key: Hashable | None = None
    #: What it weighs in memory, in bytes, its audience included: what every limit of bytes counts.
    size: int = attrs.field(init=False)
    #: Its place in the log, 0 before it has one.
    offset: int = attrs.field(default=0, init=False)
    #: The moment of the append on Trio's clock, in seconds.
    at: float = attrs.field(default=0.0, init=False)
    #: The moment when it came into the channel, on the same clock.
    put_at: float = attrs.field(default=0.0, init=False)
    #: Encoded frames, one per format, because whoever is a little behind sends the same bytes.
    #: None: there are none, because no client was sent it yet, or because it is too `_old` to keep any.
    _frames: dict[object, bytes] | None = attrs.field(default=None, init=False)
    _old: bool = attrs.field(default=False, init=False)
    #: What is known already of whom it is for: see `audience`.
    judged: Any = attrs.field(default=None, init=False)
    _longest: int | None = attrs.field(default=None, init=False)

    @size.default
    def _measured(self) -> int:
        weight = self.notification.weight
        audience = self.notification.audience
        return weight if audience is None else weight + weight_of(audience)

    @property
    def longest(self) -> int:
        """Characters of its longest attribute."""
        if self._longest is None:
            notification = self.notification
            texts = map(notification.get, (*notification.names(), "to"))
            self._longest = max(map(len, filter(None, texts)))
        return self._longest

    def frame(self, encode: Callable[[Entry], bytes]) -> bytes:
        """This entry's bytes in one format: encoded the first time, remembered for a while."""
        if self._old:
            return encode(self)
        if self._frames is None:
            self._frames = {}
        frame = self._frames.get(encode)
        if frame is None:
            frame = self._frames[encode] = encode(self)
        return frame

    def forget_frames(self) -> None:
        """From now on, encode whenever a frame is asked for."""
        self._frames, self._old = None, True
