"""The incoming half of a connection: bytes become messages, Pings and the peer's Close frame.

It does no I/O. The connection's task reads, and feeds what it has read. A Close frame or a fault is
kept until the connection has handled the messages before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from trionotify.connection.frames import Close, Event, Fault, Nothing, Parser, Ping, pong_frame

__all__ = ["Incoming"]

#: The most frames of one read that are parsed in one turn.
_FRAMES: Final = 256
#: The types of messages. (`isinstance` with the union `str | bytes` takes three times as long.)
_MESSAGE: Final = (str, bytes)
_NO_PARSER: Final = Nothing()


@attrs.define(eq=False)
class Incoming:
    """Created by the connection's task, which alone feeds it; ends with the connection."""

    #: Makes the parser, once the peer sends something. Most clients never do.
    _new_parser: Callable[[], Parser]
    #: Bytes that the peer sent right behind its request.
    early: bytes = b""

    #: The number of messages received.
    received: int = attrs.field(default=0, init=False)
    #: The Pong frames to send to the peer.
    pongs: bytes = attrs.field(default=b"", init=False)
    #: The peer's Close frame, or its violation of the protocol. Nothing behind it is parsed.
    last_event: Close | Fault | None = attrs.field(default=None, init=False)
    _discarding: bool = attrs.field(default=False, init=False)
    _parser: Parser = attrs.field(default=_NO_PARSER, init=False)

    @property
    def behind(self) -> bool:
        """Whether fed bytes were left unparsed because a turn was over. If so, feed b"" next."""
        return self._parser.behind

    @property
    def held(self) -> int:
        """The bytes held of an incomplete message."""
        return self._parser.held

    def feed(self, data: bytes) -> list[str | bytes]:
        """Take the bytes of one read; return the messages that they complete, of one turn at most."""
        if data and self._parser is _NO_PARSER:
            self._parser = self._new_parser()
            if self._discarding:
                self._parser.discard()
        events = self._parser.feed(data, _FRAMES)
        messages = [event for event in events if isinstance(event, _MESSAGE)]
        if len(messages) < len(events):
            self._take_control(events)
        self.received += len(messages)
        return messages

    def _take_control(self, events: list[Event]) -> None:
        pongs = [pong_frame(event.payload) for event in events if isinstance(event, Ping)]
        if pongs and not self._discarding:
            self.pongs += b"".join(pongs)
        if isinstance(last := events[-1], Close | Fault):
            self.last_event = last

    def take_early(self) -> bytes:
        """Return the bytes behind the request, once."""
        early, self.early = self.early, b""
        return early

    def take_pongs(self) -> bytes:
        """Return the Pong frames to send, once."""
        pongs, self.pongs = self.pongs, b""
        return pongs

    def discard(self) -> None:
        """From now on ignore messages and Pings. Only the peer's Close frame still counts."""
        self._discarding = True
        self._parser.discard()

    def forget(self) -> None:
        """Release all bytes, because the connection is over but the client's record may live on."""
        self._new_parser, self._parser = Nothing, _NO_PARSER
        self.early = self.pongs = b""
