"""Keepalive: detecting that a client is gone.

The hub's sweep checks each connection four times within the shortest timeout, so no connection has a
timer of its own. This module does no I/O: `check` returns what the connection must do. A connection
ends in three cases:

    bytes are owed, and the kernel took none of them for `stall_timeout`           dropped
    a message arrives with less than 1 KiB per `stall_timeout`                     closed with 1008
    a silent client doesn't answer a Ping within `ping_timeout` (WebSocket)        dropped

A client on a stream can't answer. There the server writes a ping every `ping_interval`, and the kernel
breaks the connection if the bytes aren't acknowledged.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import attrs
import trio

from trionotify.connection.frames import Close
from trionotify.errors import CloseCode

if TYPE_CHECKING:
    from trionotify.connection.incoming import Incoming
    from trionotify.connection.wire import Wire
    from trionotify.settings import Settings

__all__ = ["Drop", "Keepalive", "Ping", "Pings", "SignsOfLife"]

#: A message that grows by less than this many bytes within `stall_timeout` is too slow.
_PROGRESS: Final = 1 << 10


class Ping(enum.Enum):
    """Write a ping. A WebSocket client must answer it."""

    NOW = enum.auto()


@attrs.frozen
class Drop:
    """Drop the connection, for this reason."""

    reason: str


#: The action that a connection must take; None for none.
Verdict = Ping | Drop | Close | None


@attrs.define(eq=False)
class Keepalive(ABC):
    """The state of one connection, which creates it. Subclasses define what silence means."""

    settings: Settings
    #: When the client was last heard.
    silent_since: float = attrs.field(factory=trio.current_time, init=False)
    #: Whether bytes came in since the last check.
    heard: bool = attrs.field(default=True, init=False)
    #: Whether the connection's task waits for bytes. Silence counts only then.
    reading: bool = attrs.field(default=False, init=False)
    #: When the client last took owed bytes, on Trio's clock; None if nothing is owed.
    _stuck_since: float | None = attrs.field(default=None, init=False)
    # The progress of an incomplete message: how many bytes of it had arrived, how many messages had
    # come before it, and when that was.
    _arrived: tuple[int, int] = attrs.field(default=(0, 0), init=False)
    _arrived_at: float = attrs.field(init=False)

    @_arrived_at.default
    def _created_at(self) -> float:
        return self.silent_since

    def check(self, wire: Wire, incoming: Incoming, written_at: float, now: float) -> Verdict:
        """Decide about a connection to which something of the log was last written at `written_at`."""
        if wire.owed:
            return self._check_progress(wire, now)
        self._stuck_since = None
        return self._check_arrival(incoming, now) or self._check_life(written_at, now)

    def _hear(self, now: float) -> None:
        """Restart the time of silence."""
        self.silent_since = now

    @abstractmethod
    def _check_life(self, written_at: float, now: float) -> Verdict:
        """Check a client that owes nothing for signs that it is gone."""

    def _check_progress(self, wire: Wire, now: float) -> Verdict:
        """Drop a client of which the kernel has taken no owed bytes for `stall_timeout`.

        Its silence doesn't count, because the answer to a Ping would come late, behind those bytes.
        """
        self._hear(now)
        if wire.moved or self._stuck_since is None:
            wire.moved, self._stuck_since = False, now
        elif now - self._stuck_since >= self.settings.stall_timeout:
            return _drop("took nothing", now - self._stuck_since)
        return None

    def _check_arrival(self, incoming: Incoming, now: float) -> Verdict:
        """End a client whose message arrives byte by byte, because it holds part of a shared budget."""
        held, received = self._arrived
        if not incoming.held:
            self._arrived_at = now  # nothing else, because this is nearly every client at every check
        elif not self.reading or incoming.received != received or abs(incoming.held - held) >= _PROGRESS:
            self._arrived, self._arrived_at = (incoming.held, incoming.received), now
        elif now - self._arrived_at >= self.settings.stall_timeout:
            return Close(CloseCode.POLICY_VIOLATION, "a message arrived too slowly")
        return None


@attrs.define(eq=False)
class Pings(Keepalive):
    """For a WebSocket: ping a silent client, and drop it if it doesn't answer."""

    _pinged_at: float | None = attrs.field(default=None, init=False)

    def _check_life(self, written_at: float, now: float) -> Verdict:
        """Silence doesn't count while the session is busy and no task reads."""
        if self.heard or not self.reading:
            self.heard = False
            self._hear(now)
        elif self._pinged_at is not None:
            if now - self._pinged_at >= self.settings.ping_timeout:
                return _drop("was silent", now - self.silent_since)
        elif now - self.silent_since >= self.settings.ping_interval:
            self._pinged_at = now
            return Ping.NOW
        return None

    def _hear(self, now: float) -> None:
        self._pinged_at = None
        super()._hear(now)


@attrs.define(eq=False)
class SignsOfLife(Keepalive):
    """For a stream: write pings, because proxies end silent streams and the kernel notices losses."""

    def _check_life(self, written_at: float, now: float) -> Verdict:
        if now - max(self.silent_since, written_at) >= self.settings.ping_interval:
            self._hear(now)
            return Ping.NOW
        return None


def _drop(why: str, seconds: float) -> Drop:
    return Drop(f"it {why} for {seconds:.0f} seconds")
