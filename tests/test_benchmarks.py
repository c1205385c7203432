"""The benchmarks: their load and their reports, on our server and the floor; no figure is judged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import embedded
from benchmarks.__main__ import main
from benchmarks.cases import connecting, fanout, publishing, steady, tls, ways
from benchmarks.cases.measures import Run
from benchmarks.catalogue import CASES
from benchmarks.load import NotOffered, Stuck, client_frame, connect, frame_size, numbered
from benchmarks.proxy import delaying_proxy
from benchmarks.report import MARKS, comparison
from benchmarks.revisions import unpacked
from benchmarks.servers import FLOOR, KINDS, NORMAL, OURS, OURS_JWT, OURS_TLS, TREE, Server, running
from tests.kernel import masked
from trionotify.connection.frames import message_frame


def test_frames_are_as_long_as_it_believes() -> None:
    """A client's frames can be read back, and a server's frames have the length that is counted."""
    for size in (1, 125, 126, 4096):
        (payload,) = numbered(1, size)
        assert len(message_frame(payload.decode())) == frame_size(size)
        assert len(client_frame(payload)) == len(masked(message_frame(payload.decode())))


Start = Callable[[str], Server]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts a server by its name; each only once."""
    with ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(running(KINDS[name])))


@pytest.mark.parametrize("name", [OURS, FLOOR])
def test_fan_out_and_ingest_come_through(name: str, start: Start) -> None:
    """Every figure is there."""
    figures = fanout.fanout(5, 128, 4, seconds=0.05)(start(name))
    assert set(figures) == {"CPU us/delivery", "deliveries/s", "p50 ms", "p99 ms", "p99.9 ms"}
    found = publishing.ingest(2, 8, seconds=0.1)(start(name))
    assert set(found) == {"CPU us/message", "messages/s"}


#: Those that only our server has, or that need a server of their own.
TINY: dict[str, tuple[str, Run, str]] = {
    "events": (OURS, ways.events(5, seconds=0.1), "CPU us/delivery, raw"),
    "sse": (OURS, ways.ways(5, {"": ways.SSE_STREAM}, ways.dots, 0.1), "bytes/delivery"),
    "ndjson": (OURS, ways.ways(5, {"": ways.NDJSON_STREAM}, ways.dots, 0.1), "bytes/delivery"),
    "orders": (OURS, ways.ways(5, {"": ways.RAW}, ways.orders, 0.1), "bytes/delivery"),
    "filtered": (OURS, fanout.filtered(10, 10, seconds=0.05), "CPU us/publish"),
    "targeted": (OURS, fanout.targeted(10, seconds=0.05), "CPU us/publish"),
    "tls": (OURS_TLS, tls.encrypted(5, 128, seconds=0.1), "bytes/delivery"),
    "posts": (OURS, publishing.posts(2, seconds=0.1), "CPU us/post"),
    "acknowledged": (OURS, publishing.acknowledged(2, seconds=0.1), "CPU us/publish"),
    "replay": (NORMAL, publishing.replay(1000), "read/s"),
    "connects": (OURS, connecting.connects(5, 2), "CPU us/connect"),
    "jwt-connects": (OURS_JWT, connecting.connects_with_tokens(5, 2), "CPU us/connect"),
    "idle": (OURS, connecting.idle(300, connecting.own_filter, resting=0.1), "connects/s"),
    "storm": (OURS, connecting.storm(20, 2), "others' p99 ms"),
    "slow": (OURS, steady.slow(100, True, seconds=0.3), "p99 ms"),
    "churn": (OURS, steady.churn(5, True, seconds=0.3), "p99 ms"),
    "far": (OURS, steady.far(2, 0.01, seconds=0.1), "p99 ms"),
}


@pytest.mark.parametrize("name", list(TINY))
def test_a_case_comes_through(name: str, start: Start) -> None:
    """However small."""
    kind, run, figure = TINY[name]
    assert run(start(kind))[figure] > 0


def test_sessions_of_tls_are_resumed(start: Start) -> None:
    """In both versions, by all clients."""
    figures = tls.handshakes(5)(start(OURS_TLS))
    assert (figures["resumed % 1.3"], figures["resumed % 1.2"]) == (100, 100)


@pytest.mark.parametrize(
    ("way", "plain"),
    [
        (ways.DEFLATED, ways.RAW),
        (ways.SSE_STREAM.zipped(), ways.SSE_STREAM),
        (ways.NDJSON_STREAM.zipped(), ways.NDJSON_STREAM),
    ],
)
def test_a_compressed_case_comes_through(
    way: ways.Way, plain: ways.Way, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer bytes than the plain one beside it, of 50 messages."""
    server = start(OURS)
    monkeypatch.setattr("time.perf_counter", count().__next__)
    figures = ways.ways(5, {"": way, ", plain": plain}, ways.orders, 50)(server)
    assert figures["bytes/delivery"] < figures["bytes/delivery, plain"] / 2


def test_a_case_leaves_out_a_server_without_the_feature() -> None:
    """And says what the server doesn't offer. (The floor ends when a client resets its connection.)"""
    with (
        running(KINDS[FLOOR]) as floor,
        pytest.raises(NotOffered, match="it does not answer with permessage-deflate"),
    ):
        ways.ways(5, {"": ways.DEFLATED}, ways.orders, 0.1)(floor)


def test_the_proxy_is_far_away(start: Start) -> None:
    """And still leads to the server."""
    with delaying_proxy(start(OURS).port, 0.1) as port:
        connect(port, "/").close()


def test_publishing_inside_the_process_comes_through() -> None:
    """To a log in a file, whether the publisher waits or not."""
    rates = embedded.compare("normal", rounds=1, seconds=0.05)
    assert all(rates[number] > 0 for number in embedded.WAITING)


def test_a_server_that_refuses_is_told_of(start: Start) -> None:
    """Not waited for."""
    with pytest.raises(Stuck, match="400 Bad Request"):
        connect(start(OURS).port, "/?exakt.type=t")


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
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}old\n{MARKS[1]}behind\n")
    for _ in range(2):
        assert CliRunner().invoke(main, ["report", str(path), "--into", str(page)]).exit_code == 0
    before, figures, behind = re.split("<!--.*-->\n", page.read_text())
    assert (before, figures.strip() + "\n\n", behind) == ("before\n", shown.output, "behind\n")


def test_another_commit_runs_beside_this_one() -> None:
    """From a folder that has only the package; the load is the same."""
    if not (TREE / ".git").exists():
        pytest.skip("this is no clone of the repository")
    with unpacked("HEAD", None) as head:
        kind = head.of(KINDS[OURS])
        with running(kind) as server:
            assert Path(f"/proc/{server.pid}/cwd").readlink() == head.tree != TREE
            connect(server.port, "/").close()
    assert kind.name == "trionotify @ HEAD"
    assert not head.tree.exists()


def test_the_page_of_figures() -> None:
    """It tells what each case measures, and has a place for the tables."""
    page = (TREE / "docs" / "performance.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall("`([^`]+)`", row.split("|")[1])}
    assert set(CASES) <= told
    assert page.index(MARKS[0]) < page.index(MARKS[1])


def test_a_comparison() -> None:
    """The median of the pairs' ratios, the least and the greatest of them, and the ratio of the best."""
    ours, theirs = {"CPU us/delivery": [8.0, 9.0, 40.0]}, {"CPU us/delivery": [10.0, 9.0, 20.0]}
    shown = comparison("fanout-1", "trionotify @ HEAD", ours, theirs)
    assert "| CPU us/delivery | 9 | 10 | 1.00 | 0.80 to 2.00 | 0.89 |" in shown


def test_the_command_run_may_be_left_out() -> None:
    """Its options are understood."""
    shown = CliRunner().invoke(main, ["--python", "python3.14", "fanout-1"])
    assert shown.exit_code == 2
    assert "--python: needs --compare" in shown.output
