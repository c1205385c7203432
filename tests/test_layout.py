"""The house: which rooms there are, which of them may know which, and in which order to read them."""

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

#: The modules in reading order; the two rooms that are libraries by themselves as one.
ORDER = [
    *("errors", "model.text", "model.media", "model.jsontext", "model.attributes", "model.keywords"),
    "model.notification",
    *("cesql", "model.predicates", "model.costs", "model.filters"),
    *("model.cloudevents", "connection.frames"),
    *("model.multimap", "model.index"),
    *("model.receipt", "delivery.entry", "delivery.counters", "delivery.notes", "delivery.turns"),
    *("delivery.budget", "delivery.publish_queue"),
    *("durations", "model.cursor", "delivery.log", "storage"),
    *("connection.formats", "connection.sse", "settings"),
    *("delivery.position", "model.replies", "delivery.unanswered", "delivery.clients"),
    *("delivery.registry", "delivery.audience", "delivery.catchup"),
    *("connection.transport", "connection.tls", "connection.wire"),
    *("delivery.tally", "delivery.unsent", "delivery.broadcast", "delivery.subscription"),
    *("connection.failures", "model.keys", "model.query", "model.addresses", "connection.dialogue"),
    *("http.authorities", "http.messages", "http.connection", "http.secret", "http.origins"),
    "delivery.explain",
    *("delivery.admission", "delivery.quotas", "delivery.expiry", "delivery.shutdown"),
    *("delivery.keywords", "connection.session", "delivery.hub"),
    *("http.site", "http.access", "connection.connection", "http.handshake", "connection.websocket"),
    *("connection.stream", "http.stream_requests", "http.publish", "http.clients_page", "http.metrics"),
    *("http.routes", "http.requests", "http.serving", "server.attach"),
    *("server.options", "server.listeners", "server.certificates", "server.exhaustion", "server.checks"),
    *("scopes", "server.server"),
    *("client.backoff", "client.in_flight", "client.endpoint", "client.target", "client.link"),
    *("client.reconnect", "client.subscriber", "client.publisher", "client.remote"),
    *("version", "cli.fetch", "cli.top", "cli.stdio", "cli.config", "cli.pubsub", "cli.logging"),
    *("cli.systemd", "cli.memory", "cli.serve", "cli.main", "__main__"),
]

#: What `import trionotify` gives.
PUBLIC = {
    *("EVERYTHING", "NOTHING", "AcceptedWebSocket", "AllOf", "AnyOf", "Attributes", "Authenticate"),
    *("Client", "CloseCode", "Closed", "Disconnected", "Exact", "Explanation", "Handler", "Hub"),
    *("HubOptions", "Lagged", "Not", "Notification", "Predicate", "Prefix", "Receipt", "Refused"),
    *("Remote", "Request", "Server", "Session", "Settings", "SettingsOptions", "Sql", "Statistics"),
    *("StoreError", "Subscription", "Suffix", "TrionotifyError", "Unreadable", "connect", "explain"),
    *("from_json", "open_hub", "open_server", "serve", "sign", "to_json"),
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


def files(module: str) -> list[Path]:
    """The source of a module, or of all modules of a room."""
    room = PACKAGE / module
    return sorted(room.glob("*.py")) if room.is_dir() else [PACKAGE / f"{module.replace('.', '/')}.py"]


def test_every_module_has_its_place() -> None:
    """In a room or on the ground floor, and in the order in which to read them."""
    assert {name for name in modules() if not room_of(name)} == GROUND | {"__main__"}
    assert {room_of(name) for name in modules()} - {""} == ROOMS.keys()
    libraries = {"cesql", "storage"}
    named = {room_of(name) if room_of(name) in libraries else name for name in modules()}
    assert sorted(ORDER) == sorted(named - (ROOMS.keys() - libraries))


def test_rooms_know_only_those_below() -> None:
    """And the ground floor knows none."""
    for module in modules().keys() - {"__main__"}:
        room = room_of(module)
        others = {room_of(other) for other in imports(module)} - {room, ""}
        assert others <= ROOMS.get(room, set()), (module, others)


def test_no_two_rooms_know_each_other() -> None:
    """What a room may import from may not import from it, in whatever way."""
    TopologicalSorter(ROOMS).prepare()


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
    """What it exports is imported from there."""
    for module in modules().keys() - {"__main__"}:
        assert "trionotify" not in imports(module), module


def test_modules_stay_readable() -> None:
    """At most some 400 lines each."""
    for module, file in modules().items():
        assert len(file.read_text().splitlines()) <= 440, module


def test_the_public_names() -> None:
    """They are the interface; and whatever else the root has, has a name of its own."""
    assert set(trionotify.__all__) == PUBLIC
    assert all(hasattr(trionotify, name) for name in PUBLIC)
