"""Logs that outlive the process, and the function that opens them.

`durable` is a log in a file with its newest end in memory, `clock` its time, and `pages` what was read
of the rest; `backups` copies the file while it is in use. `sqlite` is the file. It stands on `recovery`,
what is made of a file that is opened, `reading`, `eviction`, `moments` and `extent`, what happens to its
rows, and `database`, the connection; these stand on `epochs`, `schema`, `rows`, `lock`, `heads` and
`faults`. An operator's commands are in `care`, and what they ask of a running server in `control`.

`redis_log` is the log that several servers share, on Redis. It stands on `redis_store`, the connections,
with the scripts that run inside Redis (`redis_scripts`), and on `redis_address`, the URL, `redis_rows`,
`redis_checks` and `redis_nodes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, cast, get_args

from trionotify.delivery.log import Log
from trionotify.delivery.memory_log import MemoryLog
from trionotify.storage.durable import DurableLog
from trionotify.storage.redis_address import SCHEMES, RedisAddress
from trionotify.storage.redis_log import RedisDurability, RedisLog
from trionotify.storage.redis_store import RedisStore, check_installed
from trionotify.storage.sqlite import Durability as FileDurability

if TYPE_CHECKING:
    from trionotify.settings import Settings

__all__ = ["DURABILITIES", "Durability", "open_log", "shown"]

#: The durabilities of a log in a file, and of one on Redis. The first is the default.
Durability = Literal[FileDurability, RedisDurability]
FILE_DURABILITIES: Final[tuple[str, ...]] = get_args(FileDurability)
REDIS_DURABILITIES: Final[tuple[str, ...]] = get_args(RedisDurability)
DURABILITIES: Final = (*FILE_DURABILITIES, *REDIS_DURABILITIES)
_REDIS: Final = tuple(f"{scheme}:" for scheme in SCHEMES)


def shown(store: str) -> str:
    """Return a store as the server's log shows it, without a user and a password."""
    return str(RedisAddress.parse(store)) if store.startswith(_REDIS) else store


async def open_log(
    store: str, durability: str | None, settings: Settings, node_name: str | None = None
) -> Log:
    """Open the log that `store` names: `memory:`, `sqlite:PATH`, or the URL of one on Redis.

    `durability` is by default the first one of the kind. Raises ValueError for another store,
    `StoreError` when it can't be opened.
    """
    address = RedisAddress.parse(store) if store.startswith(_REDIS) else None
    known = FILE_DURABILITIES if address is None else REDIS_DURABILITIES
    if durability is None:
        durability = known[0]
    if durability not in known:
        raise ValueError(f"durability: must be one of {', '.join(known)}, not {durability!r}")
    if address is not None:
        check_installed()
        redis = RedisStore(address, durability)
        return await RedisLog.open(redis, durability, settings, node_name)
    kind, _, path = store.partition(":")
    if store == "memory:":
        return MemoryLog(
            max_entries=settings.max_log_entries,
            max_bytes=settings.max_log_bytes,
            max_age=settings.max_log_age,
        )
    if kind == "sqlite" and path:
        return await DurableLog.open(path, cast("FileDurability", durability), settings)
    given = "" if "@" in store else f", not {store!r}"  # there may be a password in it
    raise ValueError(f"store: must be 'memory:', 'sqlite:PATH' or 'redis://HOST'{given}")
