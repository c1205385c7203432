"""The benchmarks of several servers on one Redis: each comes through; no figure is judged."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks import nodes
from tests.redis_server import SERVER, needed


@pytest.mark.parametrize("name", list(nodes.CASES))
def test_a_case_comes_through(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a table of its figures."""
    # Else all tests would stay on one core.
    monkeypatch.setattr(nodes, "pin", lambda _: None)
    scale = "0.002" if name != "replay" else "0.001"
    arguments = [name, "--rounds", "1", "--scale", scale, "--redis", needed(SERVER)]
    result = CliRunner().invoke(nodes.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    _, _, head, line, *rows, end = result.output.split("\n")[:-1]
    assert head.startswith(f"| {name} | ")
    assert line.startswith("| --- | ---:")
    assert not end
    assert len(rows) == 2
