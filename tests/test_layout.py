"""The house: which rooms there are, which of them may know which, and what to read first."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import trionotify

PACKAGE = Path(trionotify.__file__).parent
TESTS = Path(__file__).parent

#: Each room, and those that its modules may import from, for the type checker included. All may use the
#: ground floor, which is the modules that are in no room.
ROOMS = {
    "cesql": set(),
    "model": {"cesql"},
    "delivery": {"model"},
    "storage": {"cesql", "model", "delivery"},
    "connection": {"model", "delivery"},
    "http": {"model", "delivery", "connection"},
    "server": {"cesql", "model", "delivery", "storage", "connection", "http"},
    "client": {"model"},
    "cli": {"model", "delivery", "storage", "http", "server", "client"},
}
GROUND = {"errors", "durations", "settings", "scopes", "version"}

#: What to read in an afternoon, from the top down: where every task lives, and what it does.
CORE = [
    *("server.server", "delivery.hub", "delivery.shutdown", "delivery.intake"),
    *("delivery.publish_queue", "delivery.log", "delivery.broadcast", "delivery.position"),
    *("delivery.scan", "connection.catchup", "connection.connection", "connection.wire"),
]

#: What `import trionotify` gives.
PUBLIC = {
    *("EVERYTHING", "NOTHING", "AcceptedWebSocket", "AllOf", "AnyOf", "Attributes", "Authenticate"),
    *("Client", "CloseCode", "Closed", "Disconnected", "Exact", "Explanation", "Handler", "Hub"),
    *("Issuer", "Tokens"),
    *("HubOptions", "Lagged", "Not", "Notification", "Predicate", "Prefix", "Receipt", "Refused"),
    *("Remote", "Request", "Server", "Session", "Settings", "SettingsOptions", "Sql", "Statistics"),
    *("StoreError", "Subscription", "Suffix", "TrionotifyError", "Unreadable", "connect", "explain"),
    *("from_json", "open_hub", "open_server", "serve", "sign", "to_json"),
}


#: Modules that have no test file of their own name, and the one that tests them.
TESTED_IN = {
    "cesql": "cesql/test_cesql",
    "cli.client": "cli/test_pubsub",
    "cli.fetch": "cli/test_top",
    "cli.memory": "cli/test_serve",
    "cli.publish": "cli/test_pubsub",
    "cli.subscribe": "cli/test_pubsub",
    "connection.base": "connection/test_dialogue",
    "connection.catchup": "test_model",
    "connection.closing": "connection/test_connection",
    "connection.failures": "connection/test_websocket",
    "connection.formats": "connection/test_dialogue",
    "connection.session": "delivery/test_hub",
    "delivery.accepted": "server/test_attach",
    "delivery.audience": "test_model",
    "delivery.broadcast": "test_model",
    "delivery.clients": "delivery/test_hub",
    "delivery.compression": "connection/test_deflate",
    "delivery.counters": "http/test_metrics",
    "delivery.entry": "delivery/test_publish_queue",
    "delivery.faults": "connection/test_websocket",
    "delivery.fields": "http/test_secret",
    "delivery.keywords": "test_types",
    "delivery.log": "delivery/test_memory_log",
    "delivery.matching": "test_model",
    "delivery.quotas": "model/test_addresses",
    "delivery.registry": "delivery/test_hub",
    "delivery.scan": "test_model",
    "delivery.subscription": "delivery/test_hub",
    "delivery.renewal": "storage/test_redis_link",
    "delivery.sharing": "storage/test_redis_log",
    "delivery.tally": "delivery/test_hub",
    "delivery.unanswered": "model/test_replies",
    "durations": "model/test_cursor",
    "errors": "test_traps",
    "http.clients_page": "http/test_metrics",
    "http.connection": "http/test_requests",
    "http.handshake": "connection/test_websocket",
    "http.messages": "http/test_requests",
    "http.routes": "http/test_requests",
    "http.serving": "connection/test_websocket",
    "http.web_hub": "http/test_requests",
    "http.stream_requests": "connection/test_stream",
    "model.attributes": "model/test_notification",
    "model.filters": "model/test_predicates",
    "model.jsontext": "model/test_cloudevents",
    "model.keywords": "test_types",
    "model.media": "model/test_notification",
    "model.receipt": "delivery/test_hub",
    "model.text": "cli/test_pubsub",
    "server.accepting": "server/test_server",
    "server.certificates": "cli/test_serve",
    "server.checks": "test_traps",
    "server.options": "test_types",
    "settings": "cli/test_config",
    "storage.backups": "storage/test_care",
    "storage.control": "storage/test_care",
    "storage.copying": "storage/test_care",
    "storage.damage": "test_damage",
    "storage.database": "storage/test_sqlite",
    "storage.epochs": "storage/test_sqlite",
    "storage.eviction": "storage/test_sqlite",
    "storage.extent": "storage/test_sqlite_faults",
    "storage.faults": "storage/test_sqlite_faults",
    "storage.moments": "storage/test_sqlite",
    "storage.reading": "test_damage",
    "storage.redis_checks": "storage/test_redis_log",
    "storage.redis_errors": "storage/test_redis_store",
    "storage.redis_in_flight": "storage/test_redis_log",
    "storage.redis_nodes": "storage/test_redis_log",
    "storage.redis_rows": "storage/test_redis_log",
    "storage.redis_scripts": "storage/test_redis_store",
    "storage.redis_state": "storage/test_redis_store",
    "storage.refusals": "storage/test_durable",
    "storage.rows": "storage/test_sqlite",
    "storage.schema": "storage/test_sqlite",
    "storage.sharing": "storage/test_care",
    "version": "cli/test_main",
}


@cache
def modules() -> dict[str, Path]:
    """All modules, by their names in the package; a package's own file is called as the package."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            found[name] = file
    return found


def room_of(module: str) -> str:
    """The room of a module; empty for the ground floor."""
    first = module.partition(".")[0]
    return first if first in ROOMS else ""


@cache
def imports(module: str) -> frozenset[str]:
    """The modules that this one imports, for the type checker included; `trionotify` is the root."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("trionotify"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trionotify"):
            package = (node.module or "").removeprefix("trionotify").removeprefix(".")
            for alias in node.names:
                inner = f"{package}.{alias.name}".removeprefix(".")
                found.add(inner if inner in modules() else package or "trionotify")
    return frozenset(found - {module})


def test_every_module_has_its_place() -> None:
    """In a room, or on the ground floor."""
    assert {name for name in modules() if not room_of(name)} == GROUND | {"__main__"}
    assert {room_of(name) for name in modules()} - {""} == ROOMS.keys()


def test_rooms_know_only_those_below() -> None:
    """And the ground floor knows none."""
    for module in modules().keys() - {"__main__"}:
        room = room_of(module)
        others = {room_of(other) for other in imports(module)} - {room, ""}
        assert others <= ROOMS.get(room, set()), (module, others)


def test_no_two_rooms_know_each_other() -> None:
    """A room may not be imported, in whatever way, by the rooms that it imports from."""
    TopologicalSorter(ROOMS).prepare()


def test_the_rooms_are_drawn_with_few_arrows() -> None:
    """At most 12, the ground floor's included. What a room knows through another one isn't drawn."""
    standing = {room: others | {"ground"} for room, others in ROOMS.items()}
    arrows = {
        (room, other)
        for room, others in standing.items()
        for other in others
        if not any(other in standing[between] for between in others - {"ground", other})
    }
    assert arrows == {
        *(("cesql", "ground"), ("model", "cesql"), ("delivery", "model"), ("client", "model")),
        *(("storage", "delivery"), ("connection", "delivery"), ("http", "connection")),
        *(("server", "storage"), ("server", "http"), ("cli", "server"), ("cli", "client")),
    }
    assert len(arrows) <= 12


#: `Client.hub` is a `Hub` to type checkers, which is a part of the interface; nothing there uses it.
FOR_TYPES_ONLY = {("delivery.clients", "delivery.hub")}


def test_there_are_no_cycles() -> None:
    """Not between rooms, and not between the modules of one."""
    graph = {
        module: {other for other in imports(module) if (module, other) not in FOR_TYPES_ONLY}
        for module in modules()
    }
    TopologicalSorter(graph).prepare()


def test_no_module_imports_the_root() -> None:
    """Its exports are imported from their own modules."""
    for module in modules().keys() - {"__main__"}:
        assert "trionotify" not in imports(module), module


def test_modules_stay_readable() -> None:
    """At most some 400 lines each."""
    for module, file in modules().items():
        assert len(file.read_text().splitlines()) <= 440, module


def test_the_core_is_read_in_an_afternoon() -> None:
    """At most 13 files and 2,700 lines, of three rooms."""
    assert len(CORE) <= 13
    assert {room_of(module) for module in CORE} == {"server", "delivery", "connection"}
    assert sum(len(modules()[module].read_text().splitlines()) for module in CORE) <= 2700


def test_the_public_names() -> None:
    """They are the interface; and whatever else the root has, has a name of its own."""
    assert set(trionotify.__all__) == PUBLIC
    assert all(hasattr(trionotify, name) for name in PUBLIC)


def test_tests_mirror_the_rooms() -> None:
    """Each module has a test file of its name in the place of its own, or a line in the table."""
    for module in modules().keys() - ROOMS.keys() - {"__main__"}:
        room, _, name = module.rpartition(".")
        has_own = (TESTS / room / f"test_{name}.py").exists()
        where = TESTED_IN.get(module) or (TESTED_IN["cesql"] if room == "cesql" else None)
        assert has_own != (where is not None), module
        assert has_own or (TESTS / f"{where}.py").exists(), module
    assert TESTED_IN.keys() <= modules().keys()
