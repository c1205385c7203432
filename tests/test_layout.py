"""The house: imports point one way, and the reading order that the docs name is complete."""

from __future__ import annotations

import ast
from pathlib import Path

import trionotify

PACKAGE = Path(trionotify.__file__).parent

#: The modules in reading order: each imports only from those above it.
ORDER = [
    *(
        "errors",
        "text",
        "media",
        "jsontext",
        "attributes",
        "notification",
        "cesql",
        "predicates",
        "costs",
        "filters",
        "cloudevents",
        "frames",
        "bags",
    ),
    *("index", "entries", "counts", "notes", "turns", "budget", "inbox"),
    *("log", "since", "logs", "formats", "blocks", "settings"),
    *("positions", "replies", "clients", "registry", "audience", "catchup"),
    *("transport", "tls_transport", "wire", "tally", "unsent", "broadcast", "reader"),
    *("faults", "keys", "query", "addresses", "events", "authorities", "http", "http1", "secret"),
    *("origins", "explain"),
    *("entrance", "quotas", "expiry", "drain", "sessions", "options", "hub"),
    *("admission", "connections", "handshake", "websocket", "streams", "posting", "roster", "metrics"),
    *("routes", "conversation", "serving", "attached"),
    *("listening", "tls", "exhaustion", "checks", "scopes", "server"),
    *("backoff", "outbox", "endpoint", "target", "link", "reconnect"),
    *("subscriber", "publisher", "remote"),
    *("fetch", "top", "stdio", "config", "commands", "journal", "systemd", "memory", "service"),
    *("cli", "__main__"),
]


def imports(module: str) -> set[str]:
    """The modules of the package that this one imports when it runs (not for the type checker only)."""
    found: set[str] = set()
    for file in files(module):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.If):
                continue  # `if TYPE_CHECKING`
            for inner in ast.walk(node):
                if not isinstance(inner, ast.ImportFrom):
                    continue
                package, _, name = (inner.module or "").partition(".")
                if package == "trionotify":
                    names = [name] if name else [alias.name for alias in inner.names]
                    found.update(name.partition(".")[0] for name in names)
    return found - {module, "__version__"}


def files(module: str) -> list[Path]:
    """The source of a module, or of all modules of a package."""
    package = PACKAGE / module
    return sorted(package.glob("*.py")) if package.is_dir() else [PACKAGE / f"{module}.py"]


def test_every_module_has_its_place() -> None:
    """A new one must be put into the order."""
    found = [path.stem for path in PACKAGE.glob("*.py")]
    found += [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert sorted([*ORDER, "__init__"]) == sorted(found)


def test_imports_point_one_way() -> None:
    """Upwards in the reading order."""
    for at, module in enumerate(ORDER):
        assert imports(module) <= set(ORDER[:at]), module


def test_modules_stay_readable() -> None:
    """At most some 400 lines each."""
    for module in ORDER:
        for file in files(module):
            assert len(file.read_text().splitlines()) <= 440, file
