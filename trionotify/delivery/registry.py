"""The registry: the clients that are connected, found by connection, by `id` and by their query."""

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
    """The connected clients: iterate over it, take its `len`, or look some up by hash.

    Made by the hub. Clients enter and leave in their own tasks; look-ups never block.
    """

    #: Parameters that may have an index at a time.
    MAX_INDEXED: Final = 16

    def __init__(self) -> None:
        #: How many have entered so far.
        self.entered: int = 0
        self._by_key: dict[int, Client] = {}
        self._by_id: Bags[str, Client] = Bags()
        self._by_param: dict[str, Bags[str, Client]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Client]:
        return iter(tuple(self._by_key.values()))

    def by_key(self, key: int) -> Client | None:
        """The client of the connection with this key, if it is still connected."""
        return self._by_key.get(key)

    def newest(self, count: int) -> list[Client]:
        """The `count` that entered last, the newest in front; or fewer."""
        return list(islice(reversed(self._by_key.values()), count))

    def by_id(self, id: str) -> tuple[Client, ...]:
        """Every connection of the client that calls itself `id`."""
        return tuple(self._by_id.get(id))

    def by_param(self, name: str, value: str) -> tuple[Client, ...]:
        """The clients whose query says `name=value`.

        The first look-up under a name makes an index for it, by asking every client; it is dropped when
        16 other names have been asked for since.
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
        self._by_param[name] = index  # at the end: in front is what was not asked for longest
        return tuple(index.get(value))

    def in_session(self) -> Client | None:
        """The client in whose session, or in a task that it has started, this is called; or None."""
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        around = set()
        while task is not None:
            around.add(task)
            task = task.parent_nursery.parent_task if task.parent_nursery else None
        return next((client for client in self if client.is_served_in(around)), None)

    def page(self, after: int, limit: int) -> list[tuple[int, Client]]:
        """At most `limit` clients with their keys, oldest first, behind the key `after`."""
        found = ((key, client) for key, client in self._by_key.items() if key > after)
        return list(islice(found, limit))

    def add(self, key: int, client: Client) -> None:
        """Enter a client under its connection's key."""
        self.entered += 1
        self._by_key[key] = client
        for index, value in self._filed(client):
            index.add(value, client)

    def remove(self, key: int) -> Client:
        """Forget the client of the connection with this key, and return it."""
        client = self._by_key.pop(key)
        for index, value in self._filed(client):
            index.remove(value, client)
        return client

    def _filed(self, client: Client) -> Iterator[tuple[Bags[str, Client], str]]:
        """Where it is found, and under what."""
        yield self._by_id, client.id
        for name, index in self._by_param.items():
            if (value := client.get(name)) is not None:
                yield index, value
