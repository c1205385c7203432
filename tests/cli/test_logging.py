"""The server's log: lines for people, or for machines."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock as Clock

import trionotify
from tests.cli.test_main import running
from tests.conftest import open_room
from tests.web import Web, get
from trionotify import Client
from trionotify.cli.logging import FORMATS, JsonFormatter, TextFormatter, Writer


def line(**given: object) -> dict[str, object]:
    record = logging.makeLogRecord(
        {"name": "n", "levelname": "INFO", "msg": "%s!", "args": ("ü\n",), **given}
    )
    text = JsonFormatter().format(record)
    assert "\n" not in text
    found: dict[str, object] = json.loads(text)
    return found


def test_a_record_is_a_line_of_json() -> None:
    """With the moment, the message, and all that was given besides."""
    found = line(created=0.25, seconds=1.5, code=None)
    assert found == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "n",
        "message": "ü\n!",
        "seconds": 1.5,
        "code": None,
    }


def test_what_cannot_be_seen_is_escaped() -> None:
    """It would reorder the line on a terminal, or end it to some readers. It is still the same JSON."""
    id = "a\u202eb\u2028c\x7f\U000e0001د\u200cد 👨"
    record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "x", "id": id})
    text = JsonFormatter().format(record)
    assert text.isprintable()
    assert json.loads(text)["id"] == id
    assert "👨" in text


class Odd:
    """A value of another library."""

    def __init__(self, text: str | None = None) -> None:
        self._text = text

    def __repr__(self) -> str:
        if self._text is None:
            raise LookupError("no text")
        return self._text


DEEP: list[object] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Odd("<odd>"), "<odd>"),
        ({1: {2}, "x": [Odd("a"), "ü"]}, "{1: {2}, 'x': [a, 'ü']}"),
        ("x\udce9", "x\\udce9"),
        ("\ud83d", "\\ud83d"),
        (float("nan"), None),
        (float("inf"), None),
        (b"\xff", "/w=="),
        (0.5, 0.5),
    ],
)
def test_a_value_that_json_does_not_have(value: object, written: object) -> None:
    """Is written as its text, and nothing else in the line changes."""
    found = line(created=0, extra=value, seconds=1.5)
    assert found == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "info",
        "logger": "n",
        "message": "ü\n!",
        "extra": written,
        "seconds": 1.5,
    }


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "given",
    [
        {"msg": "%d", "args": ("x",)},
        {"msg": "%s %s", "args": ("x",)},
        {"msg": "%s", "args": (Odd(),)},
        {"msg": "m", "extra": Odd()},
        {"msg": "m", "extra": DEEP},
    ],
)
def test_a_record_that_cannot_be_formatted(
    kind: str, given: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Is one line as well, which says where it came from; a library's mistake breaks no log."""
    reader, writer = os.pipe()
    handler = Writer(writer)
    handler.setFormatter(JsonFormatter() if kind == "json" else TextFormatter())
    place = {"name": "lib", "levelname": "INFO", "pathname": "/lib/x.py", "lineno": 7}
    handler.emit(logging.makeLogRecord({**place, **given}))
    handler.flush()
    text = os.read(reader, 10_000).decode()
    os.close(reader)
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert not any(capsys.readouterr())
    if kind == "json":
        found = json.loads(text)
        assert found["message"].startswith("/lib/x.py:7: a message of lib can't be formatted: ")
        assert found["level"] == "warning"
    elif "extra" not in given:
        assert "WARNING /lib/x.py:7: a message of lib can't be formatted: " in text


def test_a_warning_is_a_line(tmp_path: Path) -> None:
    """Python's own warnings are in the log, too, in its format."""
    (tmp_path / "sitecustomize.py").write_text(
        "import warnings\n"
        "import trionotify.cli.serve as serve\n"
        "configure = serve.configure\n"
        "def warn(*given):\n"
        "    flush = configure(*given)\n"
        "    warnings.warn('beware', UserWarning)\n"
        "    return flush\n"
        "serve.configure = warn\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    with running("--port=0", "--log-format=json", PYTHONPATH=path) as (process, _):
        process.terminate()
        lines = [json.loads(text) for text in process.communicate(timeout=120)[1].splitlines()]
    (found,) = [each for each in lines if each["logger"] == "py.warnings"]
    assert "UserWarning: beware" in found["message"]


def test_an_exception_is_in_it() -> None:
    """As text."""
    try:
        raise ValueError("why")
    except ValueError:
        found = line(exc_info=sys.exc_info())
    assert "ValueError: why" in str(found["exception"])


async def test_one_line_about_each_connection(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Which client, for how long, how many notifications, and why: in words and in fields."""
    caplog.set_level(logging.INFO, "trionotify")
    async with open_room() as room:
        peer = await room.connect("/?id=al&role=both&type=t")
        stream = Web(room)
        stream.kernel.feed(get("/events?id=bo", "Accept: text/event-stream"))
        await room.quiet()
        peer.say("one", "two")
        await room.quiet()
        await room.hub.publish("three")
        await room.quiet()
        peer.say_close(1000, "bye")
        stream.kernel.hang_up()
        await room.connect("/?id=")
        await room.quiet()
    lines = {vars(record).get("id", "refused"): vars(record) for record in caplog.records}
    assert re.fullmatch(
        r"client 'al' from test:1 left after \d\.\d s, 3 sent, 2 received: 1000", lines["al"]["message"]
    )
    known = {name: lines["al"][name] for name in ("event", "role", "transport", "format", "code")}
    assert known == {
        "event": "left", "role": "both", "transport": "websocket", "format": "raw", "code": 1000,
    }  # fmt: skip
    counts = [(lines[id]["sent"], lines[id]["received"]) for id in ("al", "bo")]
    assert counts == [(3, 2), (3, 0)]
    assert lines["bo"]["message"].endswith("3 sent, 0 received: the connection was lost")
    refused = lines["refused"]
    assert (refused["event"], refused["status"], refused["reason"]) == ("refused", 400, "id")


async def test_why_the_server_dropped_one(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Is in that line, too, and what a session says at the end can't forge another one."""

    async def session(client: Client) -> None:
        if client.id == "bo":
            client.close(4000, "over\nINFO forged")
        async for _ in client:
            pass

    caplog.set_level(logging.INFO, "trionotify")
    async with open_room(session=session) as room:
        (await room.connect("/?id=bo")).say_close()
        await room.connect("/?id=al")
        await trio.sleep(70)
    lines = {vars(record)["id"]: vars(record) for record in caplog.records}
    reason = "it was silent for 60 seconds"
    assert lines["al"]["message"].endswith(f"0 sent, 0 received: {reason}")
    assert (lines["al"]["code"], lines["al"]["reason"]) == (None, reason)
    assert lines["bo"]["message"].endswith(r": 4000 'over\nINFO forged'")


async def test_what_was_sent_is_counted_also_behind(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each notification once, whether it was cut, caught up with, or sent at once."""
    caplog.set_level(logging.INFO, "trionotify")
    async with open_room() as room:
        await room.hub.publish("before", confirm=True)
        peer = await room.connect("/?id=al&since=start")
        peer.kernel.credit = 300
        for number in range(50):
            await room.hub.publish("x" * 100 + str(number))
        await room.quiet()
        assert len(peer.look().messages) < 51
        peer.kernel.grant(None)
        await room.quiet()
        await room.hub.publish("last")
        await room.quiet()
        assert len(peer.look().messages) == 52
        peer.say_close()
        await room.quiet()
    (record,) = caplog.records
    assert vars(record)["sent"] == 52


def test_json_on_stderr() -> None:
    """Every line of a process; the level says which."""
    with running("--port=0", "--log-format=json") as (process, _):
        process.terminate()
        _, err = process.communicate(timeout=120)
    events = [json.loads(line) for line in err.splitlines()]
    assert {event["level"] for event in events} == {"info"}
    # A drain that takes longer than a second reports in between.
    found = [event["event"] for event in events if event["event"] != "still_draining"]
    assert found == ["started", "stopping", "draining", "drained"]
    with running("--port=0", "--log-level=warning") as (process, _):
        process.terminate()
        assert process.communicate(timeout=120) == ("", "")


def record(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": text})


def test_who_does_not_read_the_log_holds_nobody_back() -> None:
    """Lines over the limit are dropped and counted, and the others come in order."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    full = 0
    with suppress(BlockingIOError):
        while True:
            full += os.write(writing, b"\n")
    os.set_blocking(writing, True)
    writer = Writer(writing, max_waiting=1 << 18)
    writer.setFormatter(JsonFormatter())
    for number in range(10_000):
        writer.emit(record(f"{number} {'x' * 50}"))
    with os.fdopen(reading) as lines:
        assert [lines.readline() for _ in range(full)] == ["\n"] * full
        found = []
        while "missing" not in (line := json.loads(lines.readline()))["message"]:
            found.append(line["message"].partition(" ")[0])
        assert found == [str(number) for number in range(len(found))]
        assert (line["event"], line["level"]) == ("dropped", "warning")
        assert line["lines"] == 10_000 - len(found)
        writer.emit(record("again"))
        assert json.loads(lines.readline())["message"] == "again"
    # The pipe has no reader any more.
    writer.emit(record("nothing"))
    while writer._waiting:
        writer.flush()
    os.close(writing)


def test_a_server_whose_log_nobody_reads() -> None:
    """It answers, and ends."""
    with running("--port=0") as (process, url):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=120) as connection:
            for _ in range(2000):  # many times what a pipe holds
                connection.sendall(get(f"/{'x' * 200}"))
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 404")
        process.terminate()
        assert process.wait(timeout=120) == 0


async def test_embedded_it_configures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Handlers and levels belong to the application alone."""
    before = logging.root.handlers[:], logging.root.level, logging.getLogger("trionotify").level
    output = StringIO()
    async with trionotify.open_server(port=0):
        pass
    after = logging.root.handlers[:], logging.root.level, logging.getLogger("trionotify").level
    assert before == after
    assert logging.getLogger("trionotify").handlers == []
    assert (*capsys.readouterr(), output.getvalue()) == ("", "", "")
