"""A node's link to Redis. Whether connected or not, it knows how far the log was read.

`run` opens one *session* after the other, and leaves it when it fails. At the start of a session, and
then with each heartbeat, the node compares the *chain* at the end of what it has read with the chain
that Redis has at that offset (`_continues`). If the two are equal, everything before is equal, too. If
they differ, Redis has lost entries that were delivered, which can happen in a failover to a replica.
Then the epoch is renewed, once for all nodes, and each node begins again at the log's current head.

A session has three tasks. The tail reads entries (`redis_reading`). The heartbeat renews the lease,
evicts old entries, and checks that the tail isn't stuck, and that the user still has all rights. The
third asks the Sentinels, if there are any, whether the primary is still the same. A primary that was
replaced may not know it yet, and would accept entries that are lost later. It also asks Redis whether it
may evict the log.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio

from trionotify.errors import StoreError, leaves
from trionotify.scopes import open_nursery
from trionotify.storage.redis_errors import Refusal, Unanswered
from trionotify.storage.redis_nodes import LEASE, Clock, Node
from trionotify.storage.refusals import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from trionotify.storage.redis_nodes import Identity
    from trionotify.storage.redis_reading import Reading
    from trionotify.storage.redis_rows import Stored
    from trionotify.storage.redis_state import Limits, State
    from trionotify.storage.redis_store import Session

__all__ = ["SERIOUS", "RedisLink", "Store", "new_epoch"]

logger: logging.Logger = logging.getLogger("trionotify")

#: The most entries, and bytes, that are read at a time.
_GROUP: Final = 1024
_BYTES: Final = 1 << 20
#: Seconds between two heartbeats, of a wait of the tail, of its first one, and before the next session.
BEAT: Final = 1.0
_BLOCK: Final = 5.0
_AT_ONCE: Final = 0.001
_PAUSE: Final = 0.25
#: The codes with which Redis says that another server is needed, or that the log must be read again.
SERIOUS: Final = frozenset({"EPOCH", "READONLY", "NOSCRIPT", "WRONGTYPE", "LOADING", "MASTERDOWN"})


class Store(Protocol):
    """The source of sessions. It is a `RedisStore`, or a fake in a test."""

    @property
    def address(self) -> object:
        """The name of the store in errors."""

    def connect(self) -> AbstractAsyncContextManager[Session]:
        """Open a session with the primary. Raises `StoreError`."""


class RedisLink:
    """Created by the log."""

    def __init__(
        self, store: Store, state: State, me: Identity, limits: Limits, reading: Reading
    ) -> None:
        self.me = me
        #: None while it isn't connected.
        self.session: Session | None = None
        #: Set once the first session has begun or failed, or waits for the broadcast to begin again.
        self.tried: trio.Event = trio.Event()
        #: Why nothing can be published, and why the log last began again.
        self.problem: Problem = Problem()
        self.renewed: str | None = None
        #: What endangers the log, although it works.
        self.danger: str | None = None
        #: The latest state from Redis.
        self.start: int = state.start
        self.size: int = state.size
        self._nodes: list[Node] = []
        self._has_namesake = False
        self._beat_at = trio.current_time()
        self._clock = Clock()
        self.count_clients: Callable[[], int] = int
        self._reading = reading
        #: The tail waits for Redis, not for the broadcast.
        self._waiting = False
        #: The most entries to ask for at a time: fewer after Redis took too long to send them.
        self._most = _GROUP
        #: When the tail last had all entries, on Trio's clock.
        self._current_at = trio.current_time()
        self._store = store
        self._limits = limits
        self._scope = trio.CancelScope()

    @property
    def tail_age(self) -> float:
        """Seconds since this node last had all entries."""
        return trio.current_time() - self._current_at

    def connected(self) -> Session:
        """Return the session. Raises `StoreError` while there is none."""
        if self.session is None:
            raise StoreError(
                503, self.problem.text or f"{self._store.address}: not connected yet; try again later"
            )
        return self.session

    def drop(self, error: StoreError) -> None:
        """Leave the session, and open another one."""
        self.problem.note(error)
        self._scope.cancel()

    @property
    def most(self) -> int:
        """The most entries to ask for at a time, so that their bytes are not too many on average."""
        count = self._reading.at - self.start
        return max(1, min(self._most, _BYTES * count // (self.size + 1))) if count > 0 else self._most

    async def read(self, most: int, ask: Callable[[int], Awaitable[list[Stored]]]) -> list[Stored]:
        """Return the entries for which `ask` asks, at most `most`. Raises `StoreError`.

        If the link is too slow for so many, fewer are asked for the next time.
        """
        most = min(most, self.most)
        try:
            rows = await ask(most)
        except Unanswered:
            self._most = max(1, most // 4)
            raise
        self._most = min(2 * self._most, _GROUP)
        return rows

    def said(self) -> bytes:
        """Return what this node registers about itself."""
        return self._here().said()

    def _here(self) -> Node:
        return self.me.node(self.count_clients(), self.tail_age)

    @property
    def nodes(self) -> list[Node]:
        """The nodes that hold a lease, by name. While Redis is away, that is only this one."""
        known = self._nodes if trio.current_time() - self._beat_at < LEASE else []
        others = [node for node in known if (node.name, node.since) != (self.me.name, self.me.since)]
        return sorted([self._here(), *others], key=lambda node: node.name)

    async def leave(self) -> None:
        """Give back the lease, unless that takes long."""
        with suppress(StoreError), trio.move_on_after(_PAUSE):
            await self.connected().beat(self._reading.at, new_epoch(), self.me.process, b"", 0.0)

    # --- as a `Shelf` ---

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        await self.connected().put(key, value, seconds)

    async def take(self, key: str) -> bytes | None:
        return await self.connected().take(key)

    async def missing(self, keys: Sequence[str]) -> list[str]:
        return await self.connected().missing(keys)

    # --- sessions ---

    async def run(self) -> None:
        """Stay connected until cancelled. Raises nothing else."""
        while True:
            try:
                await self._have_session()
                # An append that reads along may still be handing out its entries.
                async with self._reading.turn:
                    pass
            finally:
                self._reading.in_flight.refuse_all(
                    Unanswered(self.problem.text or f"{self._store.address}: the connection was lost")
                )
            self.tried.set()
            await trio.sleep(_PAUSE)

    async def _have_session(self) -> None:
        """Connect, and use the session until it fails. Notes why."""
        try:
            async with self._store.connect() as session:
                async with self._reading.turn:
                    await self._join(session)
                self.session = session
                self.tried.set()
                try:
                    await self._use(session)
                finally:
                    self.session = None  # before its connections end, so that no task uses them
        except* StoreError as group:  # the tail and the heartbeat may fail at once
            self.problem.note(leaves(group)[0])

    async def _use(self, session: Session) -> None:
        """Read entries and renew the lease, until the session fails."""
        self._reading.begun = False
        with trio.CancelScope() as self._scope:
            try:
                async with open_nursery() as nursery:
                    nursery.start_soon(self._follow, session, name="trionotify: tail of the log")
                    nursery.start_soon(
                        self._keep_beating, session, name="trionotify: heartbeat of the log"
                    )
                    nursery.start_soon(self._keep_asking, session, name="trionotify: primary of the log")
            except* StoreError as group:
                # Others will only see that the connections have ended.
                self.problem.note(leaves(group)[0])
                raise

    async def _follow(self, session: Session) -> None:
        while True:
            await self._reading.rest()
            async with self._reading.turn:
                self._waiting = True
                seconds = _BLOCK if self._reading.begun else _AT_ONCE
                ask = partial(session.tail, self._reading.at, seconds=seconds)
                rows = await self.read(_GROUP, ask)
                self._waiting = False
                await self._reading.take(rows)
            if not self._reading.begun:
                self.problem.solved()  # not earlier, because there may be something that can't be read
                self._reading.begun = True

    async def _keep_beating(self, session: Session) -> None:
        silent_at: tuple[int, int] | None = None
        while True:
            await trio.sleep(BEAT)
            try:
                await session.evict(self._limits)
                at, chain = self._reading.at, self._reading.chain
                state = await self._beat(session, at)
                if not self._continues(state, at, chain):
                    where = self._store.address
                    raise StoreError(503, f"{where}: the log is not the one that was read")
                await session.check_rights()
            except Refusal as refusal:
                if refusal.code in SERIOUS:
                    raise
                self.problem.note(refusal)  # Redis can't be written, but it can be read
                continue
            if self._reading.begun:
                self.problem.solved()
            stuck = self._waiting and at == self._reading.at < state.top
            # Bytes that arrive are progress: a large page takes its time on a slow link.
            here = (at, session.tail_bytes) if stuck else None
            if here is not None and here == silent_at:
                raise StoreError(503, f"{self._store.address}: has entries that it does not send")
            silent_at = here

    async def _keep_asking(self, session: Session) -> None:
        while True:
            await trio.sleep(BEAT)
            if await session.has_moved():
                raise StoreError(503, f"{self._store.address}: the Sentinels name another primary")
            self._note_danger(await session.find_danger())

    async def _join(self, session: Session) -> None:
        """Begin again if the log doesn't continue what was read. The tail must not run yet."""
        self._note_danger(await session.find_danger())
        at = self._reading.at
        state = await self._beat(session, at)
        if self._continues(state, at, self._reading.chain):
            return
        if state.epoch != self._reading.epoch:
            why = f"{self._store.address}: has another epoch, {state.epoch}"
        elif at < state.start:
            why = f"{self._store.address}: has evicted entries that this node had not read yet"
        else:
            why = f"{self._store.address}: has lost notifications that were delivered already"
            await session.renew(self._reading.epoch, new_epoch())
            state = await self._beat(session, at)
        await self._begin_again(state, why)

    def _continues(self, state: State, at: int, chain: str) -> bool:
        """Return whether the log after `at` continues what was read up to there."""
        if state.epoch != self._reading.epoch or state.there != chain:
            return False
        if self._reading.at >= state.top:
            self._current_at = trio.current_time()
        return True

    async def _beat(self, session: Session, at: int) -> State:
        """Renew the lease, and return the log's state."""
        asked = trio.current_time()
        state = await session.beat(at, new_epoch(), self.me.process, self.said(), LEASE)
        self.start, self.size = state.start, state.size
        self._beat_at = trio.current_time()
        jump = self._clock.jump(state.now, asked, self._beat_at)
        if jump:
            self._say_jump(jump)  # the other leases seem to be over until they are renewed
        else:
            self._nodes = Node.all_of(state.nodes)
        if not self._has_namesake and self._find_namesake():
            self._has_namesake = True
            why = f"another node has the name {self.me.name} as well; give each its own --node-name"
            logger.warning("%s", why, extra={"event": "same_node_name", "reason": why})
        return state

    def _say_jump(self, seconds: float) -> None:
        moved, effect = ("ahead", "evicted too early") if seconds > 0 else ("back", "kept for longer")
        logger.warning(
            "%s: the clock of Redis has jumped %s by %.0f seconds, or this machine was suspended;"
            " notifications may be %s",
            *(self._store.address, moved, abs(seconds), effect),
            extra={"event": "clock_jumped", "seconds": round(seconds)},
        )

    def _note_danger(self, danger: str | None) -> None:
        if danger is not None and danger != self.danger:
            logger.warning("%s", danger, extra={"event": "log_in_danger", "reason": danger})
        self.danger = danger

    def _find_namesake(self) -> bool:
        """Return whether a younger node has this one's name. An older one may be about to end."""
        return any(node.name == self.me.name and node.since > self.me.since for node in self._nodes)

    async def _begin_again(self, state: State, why: str) -> None:
        """Let the broadcast, and then the tail, continue at the log's current head."""
        renewed = state.epoch != self._reading.epoch
        said = {"event": "epoch_renewed"} if renewed else {"event": "log_overrun"}
        said["reason"] = why
        logger.error("%s; clients are told, and reload their state", why, extra=said)
        if renewed:
            self.renewed = why
        self.tried.set()  # the broadcast, which must take this, starts only then
        await self._reading.begin_again(state)
        self._current_at = trio.current_time()


def new_epoch() -> str:
    """Return an epoch that no log had before."""
    return secrets.token_hex(6)
