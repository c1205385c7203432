"""The list of connected clients, a page at a time, for `GET /clients`.

`DELETE /clients` ends some of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from trionotify.delivery.turns import Turn
from trionotify.errors import Refused, cut
from trionotify.model.filters import ON_ATTRIBUTES, from_json
from trionotify.model.jsontext import write_json
from trionotify.model.predicates import EVERYTHING, NOTHING, AllOf, Wanted, to_json

if TYPE_CHECKING:
    from trionotify.delivery.clients import Client
    from trionotify.delivery.hub import Hub

__all__ = ["disconnect", "roster"]

_LIMIT: Final = 100
_MAX_LIMIT: Final = 1000
#: Bytes of a page, without its last client.
_MAX_BYTES: Final = 1 << 18


async def roster(hub: Hub, params: Mapping[str, str]) -> bytes:
    """Return a page as a line of JSON: at most `limit` clients, from those behind the key `after`.

    If clients have long filters, the page ends earlier, at 256 KiB. `next` is
    the `after` of the next page, None on the last. Raises `Refused` (400) for other values. A checkpoint
    whenever it takes more than a turn; clients that have left by then are omitted.
    """
    limit = _number(params, "limit", _LIMIT, 1, _MAX_LIMIT)
    after = _number(params, "after", 0, 0, None)
    found = hub.clients.page(after, limit + 1)
    entries: list[bytes] = []
    size, last, turn = 0, after, Turn()
    for key, client in found[:limit]:
        if turn.over:
            await turn.pass_on()
        if size > _MAX_BYTES:
            break
        last = key
        if key in hub.connections:
            entries.append(write_json(_entry(hub, key, client)))
            size += len(entries[-1])
    more = bool(found) and found[-1][0] > last
    following = write_json(last if more else None)
    page = (len(hub.clients), b",".join(entries), following)
    return b'{"total":%d,"clients":[%b],"next":%b}\n' % page


async def disconnect(hub: Hub, params: Mapping[str, str]) -> int:
    """Disconnect the clients that match a query's filters; return their number.

    The names in them are those of clients' parameters, as in an audience. Raises `Refused` (400) for a
    query with any other key, or that selects all clients. A checkpoint.
    """
    parts: list[Wanted] = []
    for key, value in params.items():
        kind, dot, name = key.partition(".")
        try:
            if dot and kind in ON_ATTRIBUTES:
                parts.append(ON_ATTRIBUTES[kind]({name: value}))
            elif key == "filters":
                parts.append(from_json(value, hub.filter_limits, audience=True))
            else:
                raise ValueError("unknown key; use exact.KEY, prefix.KEY, suffix.KEY or filters")
        except ValueError as error:
            raise Refused(400, f"{cut(key)}: {error}", logged="a key") from None
    if not any(part is not EVERYTHING for part in parts):
        raise Refused(400, "filters: must select clients; write, for example, exact.id=ID")
    return await hub.disconnect(AllOf(parts))


def _number(params: Mapping[str, str], name: str, default: int, least: int, most: int | None) -> int:
    text = params.get(name, str(default))
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if number < least or (most is not None and number > most):
        upto = f" to {most}" if most is not None else " or more"
        raise Refused(400, f"{name}: must be a whole number, {least}{upto}, not {text!r}", logged=name)
    return number


def _entry(hub: Hub, key: int, client: Client) -> dict[str, Any]:
    position, log = client.position, hub.log
    standing = log.head if position is None else hub.broadcast.standing(position)
    return {
        "key": key,
        "id": client.id,
        "role": client.role,
        "transport": hub.connections[key].transport_name,
        "format": client.format,
        "remote": client.remote,
        "since": datetime.fromtimestamp(client.connected_at, UTC).isoformat().replace("+00:00", "Z"),
        "filters": _filters(client),
        "live": position is None or position.live,
        "behind": log.head - standing,
    }


def _filters(client: Client) -> list[Any] | None:
    """Return a client's filters as a JSON array, or None for all. A callable shows its name."""
    wanted = client.predicate
    if client.predicates == () and wanted is not NOTHING:
        return None
    return [] if wanted is NOTHING and not client.predicates else [_shown(wanted)]


def _shown(wanted: Wanted) -> Any:
    try:
        return to_json(wanted)
    except (TypeError, ValueError):
        return {"callable": repr(wanted)}
