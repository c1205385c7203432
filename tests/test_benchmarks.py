"""The benchmarks: their load and their reports, on our server and the floor; no figure is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import cases, embedded
from benchmarks.__main__ import main
from benchmarks.load import Stuck, client_frame, connect, frame_size, numbered
from benchmarks.proxy import delaying_proxy
from benchmarks.servers import FLOOR, KINDS, OURS, running
from tests.kernel import masked
from trionotify.connection.frames import message_frame


def test_frames_are_as_long_as_it_believes() -> None:
    """What a client writes is read back, and what a server writes has the length that is counted."""
    for size in (1, 125, 126, 4096):
        (payload,) = numbered(1, size)
        assert len(message_frame(payload.decode())) == frame_size(size)
        assert len(client_frame(payload)) == len(masked(message_frame(payload.decode())))


@pytest.mark.parametrize("name", [OURS, FLOOR])
def test_fan_out_and_ingest_come_through(name: str) -> None:
    """Every figure is there."""
    with running(KINDS[name]) as server:
        figures = cases.fanout(5, 128, 4, seconds=0.05)(server)
        assert set(figures) == {"CPU us/delivery", "deliveries/s", "p50 ms", "p99 ms", "p99.9 ms"}
        assert set(cases.ingest(2, 8, seconds=0.1)(server)) == {"CPU us/message", "messages/s"}


def test_steady_cases_come_through() -> None:
    """With clients that don't read, that come and go, and that are far away."""
    with running(KINDS[OURS]) as server:
        assert cases.slow(100, True, seconds=0.3)(server)["p99 ms"] > 0
        assert cases.churn(5, True, seconds=0.3)(server)["p99 ms"] > 0
    with running(KINDS[OURS]) as server, delaying_proxy(server.port, 0.1) as port:
        connect(port, "/").close()


def test_filters_and_targets_come_through() -> None:
    """Those that only our server has."""
    with running(KINDS[OURS]) as server:
        assert set(cases.events(5, seconds=0.1)(server)) == {"CPU us/delivery", "CPU us/delivery, raw"}
    with running(KINDS[OURS]) as server:
        assert cases.filtered(10, 10, seconds=0.05)(server)["CPU us/publish"] > 0
    with running(KINDS[OURS]) as server:
        assert cases.targeted(10, seconds=0.05)(server)["CPU us/publish"] > 0


def test_publishing_inside_the_process_comes_through() -> None:
    """To a log in a file, whoever waits."""
    rates = embedded.compare("normal", rounds=1, seconds=0.05)
    assert all(rates[number] > 0 for number in embedded.WAITING)


def test_a_server_that_refuses_is_told_of() -> None:
    """Not waited for."""
    with running(KINDS[OURS]) as server, pytest.raises(Stuck, match="400 Bad Request"):
        connect(server.port, "/?exakt.type=t")


def test_a_report(tmp_path: Path) -> None:
    """Medians, and the ratios to ours and to the floor's."""
    figures = {"CPU us/delivery": [2.0, 9.0, 4.0], "p99 ms": [1.0, 1.0, 1.0]}
    slower = {"CPU us/delivery": [8.0, 8.0, 8.0], "p99 ms": [1.0, 1.0, 1.0]}
    results = {"fanout-1": {OURS: figures, FLOOR: slower}}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"machine": {"cores": "2"}, "versions": {OURS: "1"}, "results": results}))
    shown = CliRunner().invoke(main, ["report", str(path)])
    assert shown.exit_code == 0
    assert "| trionotify | 4 | 1 | 1.00 | 0.50 |" in shown.output
    assert "| floor | 8 | 1 | 2.00 | 1.00 |" in shown.output
