"""Redis as a log uses it: connections to the primary, and one function for each kind of request.

A `Session` is three connections to one server. One appends, one reads and keeps the lease, and one waits
for new entries. They end together. When one fails, the log leaves the session and opens another. Before
it uses the new session, it compares what it has read with what that server has. So no connection is
replaced without the log's knowledge, and no request is repeated automatically.

coredis makes the connections and speaks the protocol. Its pools and clients aren't used, because they
reconnect on their own. Its exceptions become a `StoreError` that says whether the outcome is known:
`Unanswered` if a request may have been executed, and `Refusal` if Redis has refused it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import trio

from trionotify.errors import StoreError
from trionotify.scopes import open_nursery
from trionotify.storage import redis_scripts
from trionotify.storage.redis_errors import Refusal, Unanswered, check_version, faults
from trionotify.storage.redis_rows import Stored
from trionotify.storage.redis_state import Appended, Limits, Rows, State

if TYPE_CHECKING:
    from coredis.connection import BaseConnection

    from trionotify.storage.redis_address import RedisAddress

__all__ = ["RedisStore", "Session", "check_installed"]

#: Seconds for each step of connecting, and to wait for an answer, or for more of one.
CONNECT_TIMEOUT: float = 5.0
ANSWER_TIMEOUT: float = 3.0
#: The slowest link, in bytes a second, on which a request counts as still on its way, and seconds to
#: read what has arrived while this process was stopped.
_SLOWEST: Final = 32 << 10
_STOPPED: Final = 0.5
_POLICY: Final = re.compile(rb"^maxmemory_policy:(allkeys-[a-z]+)", re.MULTILINE)


def check_installed() -> None:
    """Raise `StoreError` if coredis is missing."""
    if importlib.util.find_spec("coredis") is None:
        raise StoreError(
            503,
            "a log on Redis needs the extra trionotify[redis];"
            " run `python -m pip install 'trionotify[redis]'`",
        )


@attrs.define(eq=False)
class Session:
    """Three connections to the primary. `RedisStore.connect` creates it, and its block ends it."""

    address: RedisAddress
    _appends: BaseConnection
    _reads: BaseConnection
    _tail: BaseConnection
    _scripts: dict[str, bytes]
    _durability: str
    #: The primary's address from the Sentinels, and the function that asks them again.
    _place: tuple[str, int] | None = None
    _find_primary: Callable[[], Awaitable[tuple[str, int]]] | None = None
    #: Whether this user may ask how Redis is configured.
    _may_ask: bool = True

    # --- for those that append ---

    async def append(
        self,
        epoch: str,
        limits: Limits,
        rows: Rows,
        after: int = 0,
        most: int = 0,
    ) -> Appended:
        """Append rows of payload, size and key, all or none.

        The answer also has all entries that were there after `after`, or none if there are more than
        `most`. Raises `Refusal`, with the code `EPOCH` for another epoch, or `Unanswered`.
        """
        arguments = [part for row in rows for part in row]
        place = (epoch, *limits.arguments, after, most)
        answer = await self._run(self._appends, redis_scripts.APPEND, 3, *place, *arguments)
        start, size, top, chain, before, *found = answer
        firsts: list[tuple[int, str] | None] = [None] * len(rows)
        for number, first in zip(found[::2], found[1::2], strict=True):
            firsts[number - 1] = _place(first)
        try:
            read = _stored(before)
        except StoreError as error:
            raise Unanswered(error.detail) from None  # the rows are in the log all the same
        return Appended(int(start), int(size), int(top), chain.decode(), read, firsts)

    async def confirmed(self, durability: str, seconds: float) -> bool:
        """Wait until enough servers have what this session has appended. Return whether they do.

        Raises `Unanswered` also if Redis refuses, because the rows are in the log by then.
        """
        try:
            return await self._confirmed(durability, seconds)
        except Refusal as refusal:
            raise Unanswered(refusal.detail) from None

    async def _confirmed(self, durability: str, seconds: float) -> bool:
        replicas, most = self.address.replicas, int(seconds * 1000)
        ask = partial(self._ask, self._appends, patience=seconds)
        if durability == "replicated":
            return bool(int(await ask(b"WAIT", replicas, most)) >= replicas)
        local, _ = await ask(b"WAITAOF", 1, 0, most)
        return int(local) >= 1

    # --- for the tail ---

    async def tail(self, after: int, limit: int, seconds: float) -> list[Stored]:
        """Return at most `limit` entries after `after`. Wait for them up to `seconds`. May be none."""
        block = int(seconds * 1000)
        place = [b"COUNT", limit, b"BLOCK", block, b"STREAMS", self.address.key("log"), f"{after}-0"]
        found = await self._ask(self._tail, b"XREAD", *place, patience=seconds)
        return _stored(next(iter(found.values()))) if found else []

    @property
    def tail_bytes(self) -> int:
        """The number of bytes that the tail's connection has received."""
        return self._tail.statistics.bytes_read

    # --- for readers, and for the heartbeat ---

    async def page(self, after: int, limit: int) -> list[Stored]:
        """Return at most `limit` entries after `after`."""
        place = [self.address.key("log"), f"({after}-0", b"+", b"COUNT", limit]
        return _stored(await self._ask(self._reads, b"XRANGE", *place))

    async def find(self, *, at: float | None = None, ago: float = 0.0) -> tuple[int, str]:
        """Return the offset after which all entries are from a time or later, and the chain there.

        The time is `at`, in seconds since 1970, or `ago` seconds before now by Redis' clock.
        """
        when = "" if at is None else int(at * 1000)
        offset, chain = await self._run(self._reads, redis_scripts.FIND, 3, when, int(ago * 1000))
        return int(offset), chain.decode()

    async def beat(self, offset: int, epoch: str, process: bytes, said: bytes, lease: float) -> State:
        """Renew the lease, and return the log's state. `epoch` is for a log that doesn't exist yet."""
        arguments = (offset, epoch, process, said, int(lease * 1000))
        answer = await self._run(self._reads, redis_scripts.BEAT, 4, *arguments)
        found, top, chain, start, edge, size, now, there, nodes = answer
        return State(
            found.decode(),
            int(top),
            chain.decode(),
            int(start),
            edge.decode(),
            int(size),
            int(now) / 1000,
            there.decode() or None,
            nodes,
        )

    async def evict(self, limits: Limits) -> None:
        """Drop some or all of the entries that exceed the limits, the oldest first."""
        await self._run(self._reads, redis_scripts.EVICT, 3, *limits.arguments)

    async def has_moved(self) -> bool:
        """Return whether a Sentinel names another primary now. A checkpoint; False if none answers."""
        found = self._place
        if self._find_primary is not None:
            with suppress(StoreError):
                found = await self._find_primary()
        await trio.lowlevel.checkpoint()
        return found != self._place

    async def renew(self, epoch: str, new: str) -> None:
        """Give the log a new epoch, unless its epoch is no longer `epoch`."""
        await self._run(self._reads, redis_scripts.RENEW, 3, epoch, new)

    async def check_rights(self) -> None:
        """Raise `Refusal` if the user may not run a command that the log needs later.

        It uses the connection that appends, so that Redis doesn't close it for being idle. While that is
        in use, it does nothing, because the answer would have to wait.
        """
        if not self._appends.statistics.requests_pending:
            shelf = self.address.key("shelf:")
            await self._run(self._appends, redis_scripts.RIGHTS, 4, shelf, self._durability)

    async def find_danger(self) -> str | None:
        """Return what endangers the log, in words, or None if Redis doesn't tell of anything."""
        if not self._may_ask:
            return None
        try:
            told = await self._ask(self._reads, b"INFO", b"memory")
        except Refusal:
            self._may_ask = False
            return None
        policy = _POLICY.search(told)
        if policy is None:
            return None
        return (
            f"{self.address}: maxmemory-policy is {policy[1].decode()}, so Redis may evict the log;"
            " set it to noeviction"
        )

    # --- what nodes put down for each other: `Shelf` ---

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        """Keep a value for so many seconds, by Redis' clock."""
        await self._ask(self._reads, b"SET", self.address.key(f"shelf:{key}"), value, b"EX", seconds)

    async def take(self, key: str) -> bytes | None:
        """Remove and return a value. Only the first caller gets it, all others None."""
        found: bytes | None = await self._ask(self._reads, b"GETDEL", self.address.key(f"shelf:{key}"))
        return found

    async def missing(self, keys: Sequence[str]) -> list[str]:
        """Return those of these keys that have no value."""
        names = [self.address.key(f"shelf:{key}") for key in keys]
        found = await self._run(self._reads, redis_scripts.MISSING, 0, *names)
        return [keys[number - 1] for number in found]

    # --- requests ---

    async def _run(self, connection: BaseConnection, script: str, keys: int, *arguments: Any) -> Any:
        names = [self.address.key(name) for name in ("log", "meta", "ids", "nodes")[:keys]]
        return await self._ask(connection, b"EVALSHA", self._scripts[script], keys, *names, *arguments)

    async def _ask(
        self, connection: BaseConnection, command: bytes, *arguments: Any, patience: float = 0.0
    ) -> Any:
        # One that is cancelled leaves the connection usable, because answers are counted off in order.
        with faults(self.address):
            request = connection.create_request(command, *arguments, decode=False)
            seconds, is_sent = patience + ANSWER_TIMEOUT, False
            while True:
                received = connection.statistics.bytes_read
                with trio.move_on_after(seconds):
                    return await request
                if connection.statistics.bytes_read > received:  # a large answer, on a slow link
                    seconds = ANSWER_TIMEOUT
                elif not is_sent:
                    seconds, is_sent = _STOPPED + _size(arguments) / _SLOWEST, True
                else:
                    name = command.decode()
                    raise Unanswered(f"{self.address}: {name}: no answer for {ANSWER_TIMEOUT:g} seconds")


@attrs.define(eq=False)
class RedisStore:
    """Finds the primary and connects. Its only state is the address."""

    address: RedisAddress
    #: What it must be able to confirm.
    durability: str = "primary"

    def __attrs_post_init__(self) -> None:
        # Importing takes a while on a busy machine. It must not count as Redis being slow.
        importlib.import_module("coredis.connection")
        # coredis logs each failure with a traceback. The log reports it once.
        logging.getLogger("coredis").setLevel(logging.CRITICAL)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Session]:
        """Connect to the primary. Raises `StoreError`, also for a server that can't be used."""
        async with open_nursery() as nursery:
            with trio.move_on_after(CONNECT_TIMEOUT) as patience:
                session = await self._open(nursery, patience)
            if patience.cancelled_caught:
                reason = f"{self.address}: no answer within {CONNECT_TIMEOUT:g} seconds"
                if self.address.scheme == "rediss":
                    reason += "; if Redis has no TLS there, write redis://"
                raise Unanswered(reason)
            yield session
            nursery.cancel_scope.cancel()

    async def _open(self, nursery: trio.Nursery, patience: trio.CancelScope) -> Session:
        place = await self._primary() if self.address.service else None
        connections = []
        for _ in range(3):
            patience.deadline = trio.current_time() + CONNECT_TIMEOUT
            connection = self._connection(place)
            await self._start(nursery, connection)
            connections.append(connection)
        patience.deadline = trio.current_time() + CONNECT_TIMEOUT
        first = connections[0]
        check_version(self.address, first.server_version or "0")
        with faults(self.address):
            role, *_ = cast("list[Any]", await first.create_request(b"ROLE", decode=True))
            if role != "master":
                raise Refusal(self.address, "READONLY", f"READONLY this server is a {role}")
            if self.durability == "fsynced":
                await self._check_fsync(first)
            requests = {
                script: first.create_request(b"SCRIPT LOAD", script, decode=False)
                for script in redis_scripts.ALL
            }
            scripts: dict[str, Any] = {script: await request for script, request in requests.items()}
        find = self._primary if self.address.service else None
        appends, reads, tail = connections
        session = Session(self.address, appends, reads, tail, scripts, self.durability, place, find)
        await session.check_rights()
        return session

    async def _check_fsync(self, connection: BaseConnection) -> None:
        try:
            with faults(self.address):
                await connection.create_request(b"WAITAOF", 1, 0, 1)
        except Refusal as refusal:
            fix = "durability fsynced needs Redis 7.2 or Valkey, with appendonly yes"
            raise StoreError(503, f"{refusal.detail}; {fix}") from None

    async def _start(self, nursery: trio.Nursery, connection: BaseConnection, server: str = "") -> None:
        from anyio.streams.memory import (  # noqa: PLC0415 - it comes with coredis
            MemoryObjectReceiveStream,
            MemoryObjectSendStream,
        )

        try:
            with faults(self.address, server):
                await nursery.start(connection.run, name="trionotify: connection to Redis")
        except BaseException:
            # If coredis can't connect, it leaves these open, and Python warns about each.
            for channel in vars(connection).values():
                if isinstance(channel, (MemoryObjectSendStream, MemoryObjectReceiveStream)):
                    channel.close()
            # After a cancellation, coredis raises an error of its own.
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC102 - it raises Cancelled, or nothing
            raise

    def _connection(self, place: tuple[str, int] | None) -> BaseConnection:
        from coredis.connection import (  # noqa: PLC0415 - only a log on Redis needs it
            TCPConnection,
            TCPLocation,
            UnixDomainSocketConnection,
            UnixDomainSocketLocation,
        )

        address = self.address
        options: Any = {
            "username": address.username,
            "password": address.password,
            "db": address.db,
            "connect_timeout": CONNECT_TIMEOUT,
            "client_name": f"trionotify-{address.hub}",
        }
        if address.scheme == "unix":
            return UnixDomainSocketConnection(UnixDomainSocketLocation(address.path), **options)
        if address.scheme == "rediss":
            options["ssl_context"] = ssl.create_default_context()
        host, port = place or address.hosts[0]
        return TCPConnection(TCPLocation(host, port), socket_keepalive=True, **options)

    async def _primary(self) -> tuple[str, int]:
        """Return the primary's address, from the first Sentinel that answers."""
        reason, seconds = "", CONNECT_TIMEOUT / len(self.address.hosts)
        for host, port in self.address.hosts:
            server = f"Sentinel {host}:{port}"
            try:
                with trio.move_on_after(seconds) as patience:
                    found = await self._ask_sentinel(host, port, server)
            except StoreError as error:
                reason = error.detail
                continue
            if patience.cancelled_caught:
                reason = f"{self.address}: {server}: no answer within {seconds:.1f} seconds"
            elif found:
                return str(found[0]), int(found[1])
            else:
                reason = f"{self.address}: no Sentinel knows the service {self.address.service!r}"
        raise Unanswered(reason)

    async def _ask_sentinel(self, host: str, port: int, server: str) -> Any:
        from coredis.connection import TCPConnection, TCPLocation  # noqa: PLC0415 - as above
        from coredis.exceptions import UnknownCommandError  # noqa: PLC0415 - as above

        sentinel = TCPConnection(TCPLocation(host, port), password=self.address.sentinel_password)
        async with open_nursery() as nursery:
            await self._start(nursery, sentinel, server)
            with faults(self.address, server):
                request = b"SENTINEL GET-MASTER-ADDR-BY-NAME"
                try:
                    found = await sentinel.create_request(request, self.address.service, decode=True)
                except UnknownCommandError:
                    fix = "is not a Sentinel; name its port, which is usually 26379, or write redis://"
                    raise StoreError(503, f"{self.address}: {host}:{port} {fix}") from None
            nursery.cancel_scope.cancel()
        return found


def _size(arguments: tuple[Any, ...]) -> int:
    return sum(len(each) for each in arguments if isinstance(each, bytes))


def _stored(rows: list[Any]) -> list[Stored]:
    """Convert rows. Raises `StoreError` for an entry that another program has added."""
    try:
        return [Stored(int(id[:-2]), entry[3][:16].decode(), entry[1]) for id, entry in rows]
    except (IndexError, ValueError):
        raise StoreError(
            503, "another program has added to the log's stream; give this log another name (?hub=NAME)"
        ) from None


def _place(text: bytes) -> tuple[int, str]:
    offset, _, chain = text.decode().partition(" ")
    return int(offset), chain
