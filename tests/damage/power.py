"""The power is cut: a server under load is killed, again and again, on a disk that isn't good.

Each life begins with a look at what is there, and goes on with publishers that note what was
acknowledged and what was refused. Then it is killed. Where the power was cut, too, each file is what was
on the disk at its last honest `fsync`, or what it was at the end: any mixture is possible. (Where the
disk has failed or lied, the lock file stays as it is. If that was lost as well, it would be a snapshot.)

What must hold, at `--durability full`:

* what was acknowledged is there, under the same epoch. Where the disk has failed or lied, the epoch may
  be a new one instead, or a gap says what is missing, or the server refuses to start;
* what was refused is never there; what is there was published once, and is whole;
* behind an `fsync` that has failed, nothing is accepted until the server was started again.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import attrs
import trio

from tests.damage.shim import Disk
from tests.fleet.counts import Count
from tests.fleet.line import Line, Lost, connected, open_line
from tests.fleet.server import ServerProcess, server_process
from tests.fuzz.answers import read_one

__all__ = ["Lives", "cut_power"]

_KEPT = 300
_OPTIONS = ("--max-log-entries", str(_KEPT), "--log-level", "warning", "--max-tail-bytes", "20000")
_FILES = ("", "-wal", "-lock")
_MODES = ("honest", "fail", "fail", "lie", "lie", "slow")
_PUBLISHERS = 4
#: Seconds for one life.
_PATIENCE = 150.0


@attrs.define
class Lives:
    """The outcome of all kills. `faults` is empty if all is well."""

    kills: int = 0
    acknowledged: int = 0
    refused: int = 0
    #: How often each thing has happened.
    noticed: Counter[str] = attrs.Factory(Counter)
    faults: list[str] = attrs.Factory(list)


async def cut_power(seed: int, kills: int, directory: Path) -> Lives:
    """Kill a server so often; its files are in this directory."""
    lives, disk = Lives(), Disk(directory)
    path = directory / "log.db"
    options = ("--store", f"sqlite:{path}", "--durability", "full", *_OPTIONS)
    async with server_process(
        directory, *options, launcher=disk.launcher, patience=_PATIENCE * (kills + 1)
    ) as server:
        world = _World(lives, disk, server, path)
        for number in range(kills + 1):
            with trio.fail_after(_PATIENCE):
                await world.live(Random(f"{seed}/{number}"), last=number == kills)
            if len(lives.faults) > 20:
                break
    return lives


class _World:
    """The files, and what is known of them."""

    def __init__(self, lives: Lives, disk: Disk, server: ServerProcess, path: Path) -> None:
        self.lives = lives
        self._disk = disk
        self._server = server
        self._path = path
        self._mode = "honest"
        self._cut = False
        self._epoch: str | None = None
        #: By offset: what was acknowledged under this epoch, and what is there from another.
        self._known: dict[int, str] = {}
        #: What was told to be lost.
        self._lost: set[int] = set()
        #: The disk has not kept what it had promised, so what is written later may be lost as well.
        self._suspect = False
        #: It finds the file damaged when it writes.
        self._is_refusing = False
        self._said: dict[str, str] = {}
        self._refused: set[str] = set()
        self._killing = False
        self._answered = Count()
        #: How it was killed, for words.
        self._how = ""

    async def live(self, random: Random, *, last: bool) -> None:
        """Start, look, publish, die."""
        self._disk.be("honest")
        await self._start_server(random)
        await self._look()
        if last:
            self._server.signal()
            await self._server.ended()
            return
        self._mode = random.choice(_MODES)
        target = random.choice(("-wal", "-wal", "-wal", ".db"))
        number = random.randint(1, 12) if self._mode == "fail" else random.randint(1, 40)
        self._disk.be(self._mode, "any" if self._mode == "lie" else target, number)
        self._is_refusing = False
        await self._load(random)
        self._cut = self._mode == "lie" or random.random() < 0.5
        if self._cut:
            self._lose_power(random)
        self.lives.kills += 1
        failed = self._mode == "fail" and self._disk.failed
        self._how = (
            f"{self._mode} {target if self._mode == 'fail' else ''} {'power' if self._cut else ''}"
        )
        if self._mode == "fail" and not failed:
            self._mode = "honest"
        self.lives.noticed[self._mode] += 1
        self._suspect |= self._mode in {"lie", "fail"} and self._cut
        if self._is_refusing:
            if f"{self._path} is damaged" not in self._server.errors:
                self._fault("it refuses, and doesn't say that the file is damaged")
            self.lives.noticed["refused when written"] += 1
            self._forget()

    async def _start_server(self, random: Random) -> None:
        """Sometimes the disk fails at the start already, and it must be started again."""
        if self._epoch is not None and random.random() < 0.1:
            self._disk.be("fail", random.choice(("-wal", ".db", "-lock")), random.randint(1, 2))
            await self._server.spawn()
            if not await self._server.first_line():
                await self._server.ended()
                self.lives.noticed["refused to start"] += 1
            else:
                self._server.signal()
                await self._server.ended()
            self._mode = "fail" if self._disk.failed and self._mode == "honest" else self._mode
            self._disk.be("honest")
        await self._server.spawn()
        if await self._server.first_line():
            return
        await self._server.ended()
        if self._mode not in {"fail", "lie"}:
            self._fault(f"it doesn't start, and the disk was honest: {self._server.errors[-500:]}")
        self.lives.noticed["refused"] += 1
        self._forget()
        await self._server.start()

    def _forget(self) -> None:
        """A log that the disk has destroyed is put aside, and a new one begins."""
        for file in self._path.parent.glob("log.db*"):
            file.unlink()
        self._epoch, self._known, self._lost, self._suspect = None, {}, set(), False

    # --- what is there ---

    async def _look(self) -> None:
        before, known = self._epoch, self._known
        epoch, found, lost = await self._read({"since": "start"})
        if before is None:
            self._epoch = epoch
            return
        head = max(known, default=0)
        welcome = await self._welcome(f"{before}:{head}")
        if welcome["recovered"] is not (epoch == before):
            self._fault(f"recovered: {welcome['recovered']}, and the epoch was {before}, and is {epoch}")
        self._judge(found, lost, renewed=epoch != before)
        self._epoch, self._known = epoch, found

    def _judge(self, found: dict[int, str], lost: set[int], *, renewed: bool) -> None:
        begin = min((*found, *lost), default=0)
        # A commit that wasn't acknowledged may stand behind, and more was evicted for it.
        kept = min(begin, max((*found, *lost), default=0) - _KEPT + 1)
        if self._mode == "fail" and begin <= kept + _PUBLISHERS:
            kept = begin  # the commit that was taken back had evicted some
        missing = {at for at in self._known if at >= kept and at not in found}
        if renewed:
            self.lives.noticed["new epoch"] += 1
            if self._mode not in {"lie", "fail"}:
                self._fault("there is a new epoch, and the disk was honest")
            elif not missing:
                self.lives.noticed["new epoch, nothing missing"] += 1
        elif missing - lost:
            self._fault(
                f"{sorted(missing - lost)[:9]} were acknowledged, and are missing without a word"
            )
        if lost - self._lost:
            self.lives.noticed["gaps"] += 1
            if not self._suspect:
                self._fault(f"{sorted(lost - self._lost)[:9]} are lost, and the disk was honest")
        for at, token in found.items():
            # (From under a new epoch an older state may come up that was lost before.)
            if self._known.get(at, token) != token and not renewed:
                self._fault(f"at {at} is {token} instead of {self._known[at]}")
            if token in self._refused:
                self._fault(f"at {at} is {token}, which was refused")
        for token, count in Counter(found.values()).items():
            if count > 1:
                self._fault(f"{token} is there {count} times")
        self._lost = lost
        self._suspect |= bool(lost)

    async def _read(self, query: dict[str, str]) -> tuple[str, dict[int, str], set[int]]:
        """The epoch, what there is by offset, and what is told to be lost."""
        found: dict[int, str] = {}
        lost: set[int] = set()
        async with open_line(self._server.port, {"format": "cloudevents", **query}) as line:
            welcome, *events = await _first(line)
            epoch, head = welcome["data"]["epoch"], welcome["data"]["head"]
            at = int(welcome["cursor"].rpartition(":")[2])
            while True:
                for event in events:
                    before, at = at, int(event["cursor"].rpartition(":")[2])
                    if event["type"] == "trionotify.gap":
                        lost |= set(range(before + 1, at + 1))
                        continue
                    if at != before + 1:
                        self._fault(f"{at} came behind {before}")
                    found[at] = event["data"].partition(" ")[0]
                    if self._said.get(found[at]) != event["data"]:
                        self._fault(f"{found[at]} isn't what was published")
                if at >= head:
                    return epoch, found, lost
                events = await line.events()

    async def _welcome(self, since: str) -> Any:
        async with open_line(self._server.port, {"format": "cloudevents", "since": since}) as line:
            return (await _first(line))[0]["data"]

    def _fault(self, detail: str) -> None:
        self.lives.faults.append(f"kill {self.lives.kills} ({self._how.strip()}): {detail}")

    # --- load, and its end ---

    async def _load(self, random: Random) -> None:
        """Publish, and kill it in the midst of that."""
        self._killing = False
        most = random.randint(5, 80)
        async with trio.open_nursery() as nursery:
            for number in range(_PUBLISHERS):
                nursery.start_soon(self._publish, Random(random.random()), number)
            await self._answered.wait(most)
            self._killing = True
            self._server.signal()
            await self._server.ended()

    async def _publish(self, random: Random, number: int) -> None:
        refused = False
        try:
            async with await connected(self._server.port) as stream:
                while True:
                    token = f"{self.lives.kills}-{number}-{len(self._said)}"
                    self._said[token] = f"{token} {'x' * random.choice((0, 100, 1000, 30_000))}"
                    too_late = self._disk.failed
                    answer = await _post(stream, token, self._said[token])
                    if answer is None:
                        return
                    status, body = answer
                    self._answered.add()
                    if status == 200:
                        self.lives.acknowledged += 1
                        self._acknowledge(token, json.loads(body)["cursor"])
                        if too_late or (refused and self._mode == "fail"):
                            self._fault(f"{token} was accepted, and an fsync had failed")
                    else:
                        self.lives.refused += 1
                        self._refused.add(token)
                        refused = True
                        if self._mode != "fail" and self._suspect and status == 503:
                            self._is_refusing = True
                        elif status != 503 or self._mode != "fail":
                            self._fault(f"{token} was answered with {status}: {body!r}")
        except (Lost, trio.BrokenResourceError):
            if not self._killing:
                self._fault("a publisher has lost its connection")

    def _acknowledge(self, token: str, cursor: str) -> None:
        epoch, _, offset = cursor.rpartition(":")
        if epoch != self._epoch or int(offset) in self._known:
            self._fault(f"{token} was given {cursor}, and {self._known.get(int(offset))} had that")
        self._known[int(offset)] = token

    def _lose_power(self, random: Random) -> None:
        for suffix in _FILES:
            file = Path(f"{self._path}{suffix}")
            synced = Path(f"{file}.synced")
            stays = suffix == "-lock" and self._mode != "honest"
            if synced.exists() and not stays and random.random() < 0.6:
                shutil.copyfile(synced, file)
            elif file.exists():
                shutil.copyfile(file, synced)
        Path(f"{self._path}-shm").unlink(missing_ok=True)


async def _first(line: Line) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while not events:
        events = await line.events()
    return events


async def _post(stream: trio.SocketStream, token: str, data: str) -> tuple[int, bytes] | None:
    """Publish one; the status and the body of the answer, or None if there is none."""
    event = {"specversion": "1.0", "id": token, "source": "/power", "type": "t", "data": data}
    body = json.dumps({**event, "datacontenttype": "text/plain"}).encode()
    head = "POST /events HTTP/1.1\r\nHost: test\r\nContent-Type: application/cloudevents+json\r\n"
    await stream.send_all(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = b""
    while (found := read_one(answer, "POST")) is None:
        more = await stream.receive_some(1 << 16)
        if not more:
            return None
        answer += more
    return found[0].status, found[0].body
