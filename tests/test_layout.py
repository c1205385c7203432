"""The house: imports point one way, and the reading order that the docs name is complete."""

from __future__ import annotations

import ast
from pathlib import Path

import trionotify

PACKAGE = Path(trionotify.__file__).parent

#: The modules in reading order: each imports only from those above it.
ORDER = [
    *("errors", "notification", "predicates", "frames", "index", "entries", "log", "settings"),
    *("positions", "clients", "audience", "inbox", "catchup", "transport", "wire", "broadcast"),
    *(
        "reader",
        "query",
        "http",
        "hub",
        "handshake",
        "websocket",
        "attached",
        "server",
        "cli",
        "__main__",
    ),
]


def imports(module: str) -> set[str]:
    """The modules of the package that this one imports when it runs (not for the type checker only)."""
    found: set[str] = set()
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.If):
            continue  # `if TYPE_CHECKING`
        for inner in ast.walk(node):
            if isinstance(inner, ast.ImportFrom) and (inner.module or "").startswith("trionotify."):
                found.add((inner.module or "").partition(".")[2])
    return found


def test_every_module_has_its_place() -> None:
    """A new one must be put into the order."""
    assert sorted([*ORDER, "__init__"]) == sorted(path.stem for path in PACKAGE.glob("*.py"))


def test_imports_point_one_way() -> None:
    """Upwards in the reading order."""
    for at, module in enumerate(ORDER):
        assert imports(module) <= set(ORDER[:at]), module


def test_modules_stay_readable() -> None:
    """At most some 400 lines each."""
    for module in ORDER:
        assert len((PACKAGE / f"{module}.py").read_text().splitlines()) <= 400, module
