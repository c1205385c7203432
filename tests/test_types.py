"""Types for editors and checkers: every option and attribute, and each mistake in a program."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest

import trionotify
from tests.test_peers import need
from trionotify import (
    Attributes,
    HubOptions,
    Notification,
    Settings,
    SettingsOptions,
    connect,
    open_hub,
    open_server,
    serve,
)
from trionotify.model.keywords import Role
from trionotify.model.query import ROLES

ROOT = Path(__file__).parent.parent
TYPES = ROOT / "tests" / "types"
#: Lines of `mistakes.py` that have one.
MISTAKES = {
    number
    for number, line in enumerate((TYPES / "mistakes.py").read_text().splitlines(), 1)
    if "# mistake: " in line
}


def pyright(*arguments: str | Path) -> Any:
    """The errors that it reports."""
    node, script = shutil.which("node"), ROOT / "tests/peers/node_modules/pyright/index.js"
    need(node, "no Node.js is installed")
    need(script.exists(), "npm install --prefix tests/peers wasn't run, so there is no pyright")
    options = ["--pythonpath", sys.executable, "--outputjson"]
    command = [str(node), str(script), *options, *map(str, arguments)]
    # It follows the link to the interpreter, and so misses the packages of a virtual environment.
    paths = [str(ROOT), *[path for path in sys.path if path.endswith("site-packages")]]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


# --- programs ---


def test_there_are_mistakes_enough() -> None:
    """Some of each kind: options, callbacks, attributes, awaited values."""
    assert len(MISTAKES) >= 20


def test_mypy_finds_each_mistake() -> None:
    """And nothing else, neither there nor in the program that has none."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    files = [TYPES / "right.py", TYPES / "mistakes.py"]
    command = [sys.executable, "-m", "mypy", "--strict", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.findall(r"^(.*):(\d+): error: ", done.stdout, re.MULTILINE)
    assert {Path(file).name for file, _ in found} == {"mistakes.py"}, done.stdout + done.stderr
    assert {int(line) for _, line in found} == MISTAKES, done.stdout


def test_pyright_finds_each_mistake() -> None:
    """And nothing else, neither there nor in the program that has none."""
    report = pyright(TYPES / "right.py", TYPES / "mistakes.py")
    assert report["summary"]["filesAnalyzed"] == 2
    found = report["generalDiagnostics"]
    assert {Path(one["file"]).name for one in found} == {"mistakes.py"}, found
    assert {one["range"]["start"]["line"] + 1 for one in found} == MISTAKES, found


def test_every_public_symbol_has_a_type() -> None:
    """Names that pyright knows without guessing, so that it also completes after each dot."""
    report = pyright("--verifytypes", "trionotify", "--ignoreexternal")["typeCompleteness"]
    counts = report["exportedSymbolCounts"]
    bad = [one["name"] for one in report["symbols"] if one["isExported"] and not one["isTypeKnown"]]
    assert counts["withKnownType"] > 1000
    assert (counts["withAmbiguousType"], counts["withUnknownType"]) == (0, 0), bad


# --- one source ---


def keywords_of(function: Callable[..., object]) -> dict[str, str]:
    """The keywords that a signature spells out, each with its annotation."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.annotation for one in parameters if one.kind is one.KEYWORD_ONLY}


def typed(options: Any) -> dict[str, str]:
    """A TypedDict's keys, those of its base included, each with its annotation."""
    return {key: annotation.__forward_arg__ for key, annotation in options.__annotations__.items()}


def test_the_settings_are_typed() -> None:
    """Each, with the type that it has, and no others."""
    assert typed(SettingsOptions) == keywords_of(Settings)


def test_the_options_of_a_hub_are_typed() -> None:
    """Each, with the type that it has, and no others but the settings."""
    assert typed(HubOptions) == {**typed(SettingsOptions), **keywords_of(open_hub)}


def test_open_server_has_the_keywords_of_serve() -> None:
    """With the same types and defaults; the hub's come in its `**options`."""
    ours, its = (inspect.signature(function).parameters for function in (open_server, serve))
    listening = {name: one for name, one in its.items() if name not in {"hub", "task_status"}}
    assert {name: one for name, one in ours.items() if name != "options"} == listening
    assert ours["options"].annotation == "Unpack[HubOptions]"
    assert inspect.signature(open_hub).parameters["options"].annotation == "Unpack[SettingsOptions]"


def test_the_attributes_are_typed() -> None:
    """All that the record has, and what stands for something else."""
    fields = {field.alias for field in attrs.fields(Notification) if field.init} - {"data"}
    assert typed(Attributes).keys() == fields | {"to", "expirytime", "json"}


@pytest.mark.parametrize(
    "function",
    [Notification.of, trionotify.Hub.publish, trionotify.Hub.publish_nowait, trionotify.Remote.publish],
)
def test_what_takes_attributes_takes_these(function: Callable[..., object]) -> None:
    """Everywhere the same ones."""
    assert inspect.signature(function).parameters["attributes"].annotation == "Unpack[Attributes]"


def test_a_client_names_its_roles() -> None:
    """The words that `connect` takes are those that the server knows."""
    assert get_args(Role) == ROLES
    assert keywords_of(connect)["role"] == "Role | None"
    assert keywords_of(connect)["lag"] == "Lag | None"


def test_no_signature_hides_its_keywords() -> None:
    """`**anything: Any` would: of what is public, nothing takes it."""
    for name in trionotify.__all__:
        public = getattr(trionotify, name)
        methods = vars(public).values() if inspect.isclass(public) else [public]
        for function in filter(inspect.isfunction, methods):
            if not function.__name__.startswith("_"):
                for one in inspect.signature(function).parameters.values():
                    assert one.kind is not one.VAR_KEYWORD or one.annotation != "Any", function
