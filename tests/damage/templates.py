"""Logs as a process has left them, with what they were at an earlier moment of the same life."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import attrs

from tests.damage.events import Content

__all__ = ["DATABASE", "LOCK", "VARIANTS", "WAL", "Template", "make_template"]

#: The files of a log, by what is behind its name.
DATABASE, WAL, LOCK = "", "-wal", "-lock"


@attrs.frozen
class Template:
    """A log's files, their bytes, and what was published at which offset.

    `old` has the files at an earlier moment. Kept are the offsets in (`start`, `head`].
    """

    name: str
    files: dict[str, bytes]
    old: dict[str, bytes]
    epoch: str
    start: int
    head: int
    truth: dict[int, Content]

    def write(self, path: Path) -> None:
        """Put the files there."""
        for suffix, data in self.files.items():
            Path(f"{path}{suffix}").write_bytes(data)


@attrs.frozen
class _Variant:
    """How it was written. `merge` is after how many bytes the WAL is merged; `killed`, how it ended."""

    killed: bool
    merge: int = 4 << 20
    limit: int = 1 << 20
    lives: int = 1


VARIANTS = {
    "killed": _Variant(killed=True),
    "merged": _Variant(killed=True, merge=100 << 10),
    "evicted": _Variant(killed=True, merge=60 << 10, limit=150, lives=2),
    "stopped": _Variant(killed=False, lives=2),
    "stopped-evicted": _Variant(killed=False, merge=100 << 10, limit=170),
}


def make_template(name: str, directory: Path, count: int = 300) -> Template:
    """Have it written in an empty directory. Takes seconds."""
    variant, path = VARIANTS[name], directory / "log.db"
    parameters = {
        "seed": sum(name.encode()),
        "count": count,
        "old_at": count * 3 // 4,
        "limit": variant.limit,
        "lives": variant.lives,
        "merge": variant.merge,
    }
    command = [sys.executable, "-m", "tests.damage.writer", str(path), json.dumps(parameters)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "old\n"
        old = _read(path)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"
        if variant.killed:
            child.kill()
        child.stdin.close()
    epoch, start, head, truth = pickle.loads(Path(f"{path}.truth").read_bytes())
    return Template(name, _read(path), old, epoch, start, head, truth)


def _read(path: Path) -> dict[str, bytes]:
    found = {suffix: Path(f"{path}{suffix}") for suffix in (DATABASE, WAL, LOCK)}
    return {suffix: file.read_bytes() for suffix, file in found.items() if file.exists()}
