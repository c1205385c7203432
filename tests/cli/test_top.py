"""`trionotify top`: rates of two readings, and what it says when there is nothing to read."""

from __future__ import annotations

import io
import itertools
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from rich.console import Console
from trio.testing import MockClock as Clock

from tests.conftest import open_room
from trionotify import Refused, TrionotifyError, open_server
from trionotify.cli import top
from trionotify.cli.fetch import fetch
from trionotify.cli.top import Picture, bars, quantile, render, watch
from trionotify.http import metrics
from trionotify.http.metrics import figures


async def test_a_picture(autojump_clock: Clock) -> None:
    """The rates between two readings, per second."""
    async with open_room() as room:
        await room.connect("/")
        before = figures(room.hub) | {"at": 100.0}
        for _ in range(30):
            await room.hub.publish("hello", confirm=True)
        picture = Picture.of(before, figures(room.hub) | {"at": 110.0})
        assert (picture.published, picture.delivered) == (3.0, 3.0)
        assert (picture.p50, picture.p99) == (0.0001, 0.0001)
        out = io.StringIO()
        Console(file=out, width=100).print(render("http://test", picture, [1.0, 4.0]))
        shown = out.getvalue()
        for words in ("http://test", "ready", "websocket raw live", "1 clients", "▂█", "≤ 0.1 ms"):
            assert words in shown


def test_a_server_that_began_anew() -> None:
    """Its counts are smaller than before, because they begin at 0."""
    old, new = {"bounds": [1, 2], "counts": [9, 9, 9]}, {"bounds": [1, 2], "counts": [0, 4, 0]}
    assert quantile(0.5, old, new) == 2
    assert quantile(0.5, new, new) is None
    assert quantile(1.0, new, {"bounds": [1, 2], "counts": [0, 4, 1]}) == 2


def test_bars() -> None:
    """As high as the highest."""
    assert bars([0, 1, 2]) == " ▄█"
    assert bars([]) == ""


async def test_once(capsys: pytest.CaptureFixture[str]) -> None:
    """One picture, as text."""
    async with open_server(port=0) as server:
        await server.hub.publish("x", confirm=True)
        assert await watch(server.url, 0.01, once=True) == 0
    assert "published" in capsys.readouterr().out


async def test_a_terminal_without_these_characters(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """It shows something in their place, because the figures are what counts."""
    async with open_room() as room:
        await room.connect("/")
        readings = [figures(room.hub) | {"at": 100.0}]
        await room.hub.publish("hello", confirm=True)
        readings.append(figures(room.hub) | {"at": 110.0})

    async def read(url: str, extra_headers: object) -> Any:
        await trio.lowlevel.checkpoint()
        return readings.pop(0)

    written = io.BytesIO()
    monkeypatch.setattr(top, "_read", read)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    assert await watch("http://test", 1, once=True) == 0
    assert b"? 0.1 ms" in written.getvalue()


async def test_a_servers_clock_that_is_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two readings: rates are by this side's clock."""
    days = itertools.count(20_000, -1)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(time=lambda: next(days) * 86_400.0))
    pictures: list[Picture] = []
    monkeypatch.setattr(top, "render", lambda url, picture, history: pictures.append(picture) or "")
    async with open_server(port=0) as server:
        assert await watch(server.url, 0.01, once=True) == 0
    assert 0.01 <= pictures[0].seconds < 3600


async def test_a_server_in_trouble(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    """It is asked again and again; what doesn't pass ends it."""
    async with open_room() as room:
        now = figures(room.hub)
    answers: list[Any] = [now, Refused(503, "away"), OSError("no answer"), now, Refused(401, "sig: no")]
    at = itertools.count()

    async def read(url: str, extra_headers: object) -> Any:
        await trio.lowlevel.checkpoint()
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {**answer, "at": float(next(at))}

    monkeypatch.setattr(top, "_read", read)
    monkeypatch.setattr(top.sys.stdout, "isatty", lambda: True)
    with pytest.raises(Refused, match="401"):
        await watch("http://test", 1, once=False)
    assert not answers
    assert trio.current_time() == 4


async def test_fetching(tmp_path: Path) -> None:
    """The body, or the reason why not."""
    async with open_server(port=0) as server:
        assert await fetch(server.url, "livez", "*/*") == b"ok\n"
        with pytest.raises(Refused, match="404: there is nothing at '/nope'"):
            await fetch(server.url, "nope", "*/*")
    async with open_server(unix=tmp_path / "50%3F?.sock") as server:
        assert await fetch(f"{server.url}?id=al", "livez", "*/*") == b"ok\n"
    gone = f"^{re.escape(server.url)}: No such file or directory; start a server there, with --unix"
    with pytest.raises(OSError, match=gone):
        await fetch(server.url, "livez", "*/*")
    with pytest.raises(ValueError, match="url: must start with http"):
        await fetch("ftp://x", "livez", "*/*")


async def test_a_server_without_metrics() -> None:
    """With a port of their own they are elsewhere, and that is said."""
    async with open_server(port=0, admin_port=0) as server:
        with pytest.raises(Refused, match="has an --admin-port, give the URL of that port"):
            await watch(server.url, 0.01, once=True)
        assert server.admin_url is not None
        assert await watch(server.admin_url, 0.01, once=True) == 0


def test_nobody_there() -> None:
    """One line, and the exit code 1."""
    command = [sys.executable, "-m", "trionotify", "top", "--once", "--url", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith("trionotify: ")
    assert "Traceback" not in done.stderr


async def test_an_answer_that_is_none() -> None:
    """Whatever listens there: an error that says so."""

    async def nonsense(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"SSH-2.0-OpenSSH\r\n\r\n")
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, nonsense, 0)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(OSError, match="the answer can't be read: illegal status line"):
            await fetch(f"http://127.0.0.1:{port}", "livez", "*/*")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("body", [b"up 1", b"[]", b"{}", b'{"published": "x"}'])
async def test_figures_of_another_program(body: bytes) -> None:
    """Many have /metrics."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, answer, 0)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        with pytest.raises(TrionotifyError, match=f"{url}: no figures of trionotify; give the URL"):
            await watch(url, 0.01, once=True)
        nursery.cancel_scope.cancel()


async def test_brackets_are_no_markup(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    """Those of an address, and of an error."""
    async with open_room() as room:
        now = figures(room.hub)
    url = "http://[fe80::1]:8000"
    out = io.StringIO()
    Console(file=out, width=100).print(render(url, Picture.of(now, now), []))
    assert url in out.getvalue()
    answers: list[Any] = [now, OSError("[/no] such thing"), Refused(401, "sig: no")]

    async def read(url: str, extra_headers: object) -> Any:
        await trio.lowlevel.checkpoint()
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(top, "_read", read)
    monkeypatch.setattr(top.sys.stdout, "isatty", lambda: True)
    with pytest.raises(Refused, match="401"):
        await watch(url, 1, once=False)
