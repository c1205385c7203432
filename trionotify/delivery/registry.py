"""The registry: the connected clients, by connection, by `id` and by their query.

It runs no task. A client is in all indexes or in none, because entering and leaving don't block.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

import trio

from trionotify.model.multimap import Bags

if TYPE_CHECKING:
    from trionotify.delivery.clients import Client

__all__ = ["Registry"]


class Registry:
    """The connected clients. Iterate over it, take its `len`, or look some up by hash.

    The hub creates it. Clients enter and leave in their own tasks. No method blocks.
    """

    #: The most parameters that have an index at a time.
    MAX_INDEXED: Final = 16

    def __init__(self) -> None:
        #: The number of clients that have ever entered.
        self.entered: int = 0
        self._by_key: dict[int, Client] = {}
        self._by_id: Bags[str, Client] = Bags()
        self._by_param: dict[str, Bags[str, Client]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Client]:
        return iter(tuple(self._by_key.values()))

    def by_key(self, key: int) -> Client | None:
        """Return the client of the connection with this key, or None if it has left."""
        return self._by_key.get(key)

    def newest(self, count: int) -> list[Client]:
        """Return at most `count` clients, those that entered last, the newest first."""
        return list(islice(reversed(self._by_key.values()), count))

    def by_id(self, id: str) -> tuple[Client, ...]:
        """Return all connected clients with this `id`."""
        return tuple(self._by_id.get(id))

    def by_param(self, name: str, value: str) -> tuple[Client, ...]:
        """Return the clients whose query has `name=value`.

        The first look-up of a name visits every client to build an index for it. The index is dropped
        after look-ups of 16 other names.
        """
        if name == "id":
            return self.by_id(value)
        index = self._by_param.pop(name, None)
        if index is None:
            if len(self._by_param) >= self.MAX_INDEXED:
                del self._by_param[next(iter(self._by_param))]
            index = Bags()
            for client in self:
                if (found := client.get(name)) is not None:
                    index.add(found, client)
        self._by_param[name] = index  # at the end: the least recently used name is in front
        return tuple(index.get(value))

    def in_session(self) -> Client | None:
        """Return the client whose session, or a task started by it, is the caller; else None."""
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        around = set()
        while task is not None:
            around.add(task)
            task = task.parent_nursery.parent_task if task.parent_nursery else None
        return next((client for client in self if client.is_served_in(around)), None)

    def page(self, after: int, limit: int) -> list[tuple[int, Client]]:
        """Return at most `limit` clients with their keys, oldest first, behind the key `after`."""
        found = ((key, client) for key, client in self._by_key.items() if key > after)
        return list(islice(found, limit))

    def add(self, key: int, client: Client) -> None:
        """Enter a client under the key of its connection."""
        self.entered += 1
        self._by_key[key] = client
        for index, value in self._filed(client):
            index.add(value, client)

    def remove(self, key: int) -> Client:
        """Remove the client of the connection with this key, and return it."""
        client = self._by_key.pop(key)
        for index, value in self._filed(client):
            index.remove(value, client)
        return client

    def _filed(self, client: Client) -> Iterator[tuple[Bags[str, Client], str]]:
        """The indexes with this client, and its key in each."""
        yield self._by_id, client.id
        for name, index in self._by_param.items():
            if (value := client.get(name)) is not None:
                yield index, value
