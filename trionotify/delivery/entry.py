"""An entry: a notification on its way from its publisher through the channel into the log.

The publisher's task creates it and the log assigns its place. After that it doesn't change, except for
what is cached with it, such as its encoded frames while it is young.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio

from trionotify.errors import Disconnected
from trionotify.model.costs import weight_of
from trionotify.model.receipt import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from trionotify.model.notification import Data, Notification

__all__ = ["Entry", "Pending", "Sender", "authorization_ended", "repetition_key"]


class Sender(Protocol):
    """A connection that publishes what its client sends."""

    #: Whether the client's authorization has ended, so that nothing more of it may be published.
    revoked: bool


def authorization_ended() -> Disconnected:
    """Return the error of a sender that is revoked."""
    return Disconnected("the client's authorization has ended, so nothing more of it is published")


@attrs.define(eq=False)
class Pending:
    """A receipt in preparation, for the publisher that waits for it. Created by the publisher's task."""

    #: Whether the publisher wants the receipt. If not, clients aren't counted, and there is no cursor.
    counted: bool = True
    done: trio.Event = attrs.Factory(trio.Event)
    wanted: int = 0
    written: int = 0
    #: The cursor, or an empty text, once it was published. In a shared log, also the node and its
    #: durability.
    cursor: str | None = None
    node: str | None = None
    durability: str | None = None
    #: The first exception of the publisher's own audience, or the log's refusal.
    error: Exception | None = None

    def result(self) -> Receipt:
        """Return the receipt, once it is `done`. It is only right if `counted` is true.

        Raises the exception of the publisher's audience, or the log's reason to refuse the notification.
        Raises `trio.ClosedResourceError` if the hub was closed before the broadcast.
        """
        if self.error:
            raise self.error
        if self.cursor is None:
            raise trio.ClosedResourceError("the hub was closed before this was broadcast")
        behind = self.wanted - self.written
        return Receipt(self.cursor, self.wanted, self.written, behind, self.node, self.durability)

    def refuse(self, error: Exception | None) -> None:
        """End the wait without a receipt. `error` says why it isn't published, if that is known."""
        self.error = error
        self.done.set()


def repetition_key(notification: Notification, publisher: str | None) -> Hashable | None:
    """Return the key that an entry shares with its repetitions; None if the server made up the `id`.

    The publisher's identity is a part of it, so no publisher can block the `id` of another. The
    notifications of a publisher without an identity (None) are never repetitions.
    """
    given = notification.given_id
    return None if given is None or publisher is None else (publisher, notification.source, given)


@attrs.define(eq=False)
class Entry:
    """A notification, its origin, and its place in the log. Created by the intake.

    `origin` is the key of the connection that published it, for `echo=0`; None if it wasn't one.

    Most messages of clients are only passed on. Their entries have the `data`, and a `template` for the
    attributes. The notification is made when it is asked for, which may be never.
    """

    #: The notification, or one with the same attributes, except its data, `id` and `time`.
    template: Notification
    origin: int | None = None
    #: The receipt that its publisher waits for; None if it doesn't wait, or no longer.
    pending: Pending | None = None
    #: The key that it shares with its repetitions. See `repetition_key`.
    key: Hashable | None = None
    #: The data. `template.check_data` has accepted it.
    data: Data = attrs.field()
    #: The time of a notification that isn't made yet, in seconds since 1970. None: it is the template.
    made_at: float | None = None
    #: Its size in memory in bytes, with its audience. Every limit of bytes counts this.
    size: int = attrs.field(init=False)
    #: Its place in the log; 0 before it has one.
    offset: int = attrs.field(default=0, init=False)
    #: When the log appended it, on Trio's clock.
    at: float = attrs.field(default=0.0, init=False)
    #: When it entered the channel, on Trio's clock.
    put_at: float = attrs.field(default=0.0, init=False)
    #: Encoded frames by format, because clients that are a little behind get the same bytes. None if no
    #: client was sent it yet, or if it is too `old` to keep any.
    _frames: dict[object, bytes] | None = attrs.field(default=None, init=False)
    old: bool = attrs.field(default=False, init=False)
    #: The clients it is for, as far as already known: see `audience`.
    judged: Any = attrs.field(default=None, init=False)
    _longest: int | None = attrs.field(default=None, init=False)
    _made: Notification | None = attrs.field(default=None, init=False)

    @data.default
    def _own(self) -> Data:
        return self.template.data

    @size.default
    def _measured(self) -> int:
        weight = self.template.weight(self.data)
        audience = self.template.audience
        return weight if audience is None else weight + weight_of(audience)

    @property
    def notification(self) -> Notification:
        """The notification. If other threads read it, ask for it first in Trio's."""
        if self.made_at is None:
            return self.template
        if self._made is None:
            self._made = self.template.another(self.data, self.made_at)
        return self._made

    @property
    def longest(self) -> int:
        """The length of its longest attribute, in characters."""
        if self._longest is None:
            notification = self.notification
            texts = map(notification.get, (*notification.names(), "to"))
            self._longest = max(map(len, filter(None, texts)))
        return self._longest

    def frame(self, encode: Callable[[Entry], bytes]) -> bytes:
        """Return this entry's bytes in one format. They are encoded once and cached for a while."""
        if self.old:
            return encode(self)
        if self._frames is None:
            self._frames = {}
        frame = self._frames.get(encode)
        if frame is None:
            frame = self._frames[encode] = encode(self)
        return frame

    def has_frame(self, encode: Callable[[Entry], bytes]) -> bool:
        """Return whether its bytes in this format are cached."""
        return self._frames is not None and encode in self._frames

    def keep_frame(self, encode: Callable[[Entry], bytes], frame: bytes) -> None:
        """Cache its bytes in this format, which were made elsewhere."""
        if not self.old:
            self._frames = {**(self._frames or {}), encode: frame}

    def forget_frames(self) -> None:
        """Discard the cached frames. From now on, `frame` encodes each time."""
        self._frames, self.old = None, True
