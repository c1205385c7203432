"""Catching up: how a client that is behind gets what the log has for it.

A client falls behind if its kernel takes less than a whole frame, if its filter is too expensive for
the broadcast, or if it starts at an old cursor. From then on the broadcast skips it. The client reads
the log in bounded steps (`step`): find what it wants, write it, owe what the kernel refused. Often a
single step suffices. Otherwise a helper task in the hub's nursery continues until the position is live
again or the connection is over. Between two steps it waits until nothing is owed. A client that owes
nothing takes its turn in the hub's `pace`, so thousands that come back don't hold up the broadcast.

A client that needs entries that the log no longer has is told of the gap and continues behind it, or is
closed, according to its lag policy.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from trionotify.connection.failures import log_failed, log_unread
from trionotify.delivery.log import Damaged, Evicted, NotLoaded
from trionotify.errors import CloseCode, Disconnected, StoreError

if TYPE_CHECKING:
    from trionotify.connection.base import Connection
    from trionotify.connection.wire import Wire

__all__ = ["CatchUp"]


class CatchUp:
    """Created by the connection when its client first falls behind, and kept until the client leaves."""

    def __init__(self, connection: Connection, wire: Wire) -> None:
        self._connection = connection
        self._wire = wire
        #: Whether the helper task runs.
        self._running = False
        #: Seconds that all steps took. The client that used the least goes first.
        self._spent = 0.0
        #: The offset behind which the next step reads, if the log must load that first.
        self._to_load: int | None = None

    def wake(self) -> None:
        """Take the first step now and leave the others to the helper task. Doesn't block."""
        if not self._running and self.step():
            self.start()

    def start(self) -> None:
        """Start the helper task unless it runs already. Doesn't block."""
        if not self._running:
            hub, client = self._connection.hub, self._connection.client
            name = f"trionotify: catch-up of client {client.id!r:.64}"
            self._running = hub.start_soon(self._run, name)

    def step(self) -> bool:
        """Write the next frames; return whether there is more to do. Doesn't block.

        Any error here is this client's own and ends only its connection.
        """
        connection, wire = self._connection, self._wire
        broadcast, position = connection.hub.broadcast, connection.position
        try:
            chunk = broadcast.advance(position)
        except NotLoaded as absent:
            self._to_load = absent.after
            return True
        except (Evicted, Damaged) as lost:
            return self._skip(lost)
        except Exception as error:
            connection.fail(error)
            return False
        if chunk is None:
            return not position.live and position.joined
        try:
            taken = wire.write_some(chunk.data)
        except Disconnected:
            broadcast.leave(position)
            return False
        if rest := broadcast.hand_over(position, chunk, taken):
            wire.owe(rest)
        return not broadcast.settle(position)

    def _skip(self, lost: Evicted | Damaged) -> bool:
        """Tell the client of the gap and continue behind it, or close the connection.

        After damage, it continues where the damage ends. If the log dropped the entries, it continues
        at the head. With `latest` it continues at the log's start, because the newest entry of each
        kind may still be there.
        """
        connection, position = self._connection, self._connection.position
        broadcast, log = connection.hub.broadcast, connection.hub.log
        if isinstance(lost, Damaged):
            upto, thinned = min(lost.upto, broadcast.taken), False
        else:
            thinned = position.reading is not None
            upto = log.start if thinned else broadcast.taken
        told = connection.lag != "disconnect" and connection.tell_gap(position.cursor, upto)
        if not told and not thinned:
            broadcast.lag.closed += 1
            connection.close(CloseCode.TRY_AGAIN_LATER, lost.reason)
            return False
        broadcast.lag.gaps += 1
        broadcast.skip_to(position, upto, told=told)
        return True

    async def _run(self) -> None:
        """Run the helper task until the position is live again. Raises only `Cancelled`."""
        connection, hub = self._connection, self._connection.hub
        more = True
        try:
            while more:
                if self._to_load is not None:
                    after, self._to_load = self._to_load, None
                    await hub.log.load(after)
                if self._wire.owed:
                    # The client's network decides when it continues.
                    await self._wire.drained()
                    more = self.step()
                else:
                    async with hub.pace.one_of(connection.site, self._spent):
                        begun = perf_counter()
                        more = self.step()
                        self._spent += perf_counter() - begun
        except Disconnected:
            hub.broadcast.leave(connection.position)
        except StoreError as error:
            log_unread(connection.client, error)
            connection.close(CloseCode.TRY_AGAIN_LATER, "the log can't be read")
        except Exception:
            # The boundary, because an application's own stream may raise anything.
            log_failed(connection.client.remote)
            connection.abort()
        finally:
            self._running = False
