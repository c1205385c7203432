"""The roster: who is connected, a page at a time, as `GET /clients` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from trionotify.delivery.turns import Turn
from trionotify.errors import Refused
from trionotify.model.jsontext import write_json
from trionotify.model.predicates import NOTHING, Wanted, to_json

if TYPE_CHECKING:
    from trionotify.delivery.clients import Client
    from trionotify.delivery.hub import Hub

__all__ = ["roster"]

_LIMIT: Final = 100
_MAX_LIMIT: Final = 1000
#: Bytes of a page, but for its last client.
_MAX_BYTES: Final = 1 << 18


async def roster(hub: Hub, params: Mapping[str, str]) -> bytes:
    """One page as JSON: at most `limit` clients, of those that came behind the one with the key `after`.

    It ends before that where it has more than 256 KiB, which takes clients with long filters. `next` is
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
    return b'{"total":%d,"clients":[%b],"next":%b}' % (len(hub.clients), b",".join(entries), following)


def _number(params: Mapping[str, str], name: str, default: int, least: int, most: int | None) -> int:
    text = params.get(name, str(default))
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if number < least or (most is not None and number > most):
        upto = f" to {most}" if most is not None else " or more"
        raise Refused(400, f"{name}: a whole number, {least}{upto}, is needed, not {text!r}")
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
    """What it wants, as a JSON array of filters; None: everything. A callable shows its name."""
    wanted = client.predicate
    if client.predicates == () and wanted is not NOTHING:
        return None
    return [] if wanted is NOTHING and not client.predicates else [_shown(wanted)]


def _shown(wanted: Wanted) -> Any:
    try:
        return to_json(wanted)
    except (TypeError, ValueError):
        return {"callable": repr(wanted)}
