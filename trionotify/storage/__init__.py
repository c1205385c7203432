"""Logs that outlive the process, and how one is chosen.

`durable` is a log in a file with its newest end in memory, `clock` its time, and `pages` what was read
of the rest; `backups` copies the file while it is in use. `sqlite` is the file. It stands on `recovery`,
what is made of a file that is opened, `reading`, `eviction`, `moments` and `extent`, what happens to its
rows, and `database`, the connection; these stand on `epochs`, `schema`, `rows`, `lock`, `heads` and
`faults`. An operator's commands are in `care`, and what they ask of a running server in `control`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, get_args

from trionotify.delivery.log import Log, MemoryLog
from trionotify.storage.durable import DurableLog
from trionotify.storage.sqlite import Durability

if TYPE_CHECKING:
    from trionotify.settings import Settings

__all__ = ["DURABILITIES", "open_log"]

DURABILITIES: Final[tuple[str, ...]] = get_args(Durability)


async def open_log(store: str, durability: str, settings: Settings) -> Log:
    """The log that `store` names: `memory:`, or `sqlite:PATH`.

    Raises ValueError for another one, `StoreError` when it can't be opened.
    """
    if durability not in DURABILITIES:
        raise ValueError(f"durability: one of {', '.join(DURABILITIES)} is needed, not {durability!r}")
    kind, _, path = store.partition(":")
    if store == "memory:":
        return MemoryLog(
            max_entries=settings.max_log_entries,
            max_bytes=settings.max_log_bytes,
            max_age=settings.max_log_age,
        )
    if kind == "sqlite" and path:
        return await DurableLog.open(path, cast("Durability", durability), settings)
    raise ValueError(f"store: 'memory:' or 'sqlite:PATH' is needed, not {store!r}")
