"""A server process from outside: the resources that it holds, and its log."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs

__all__ = ["LogReader", "Vitals"]

#: A signature in hexadecimal digits.
_SIGNATURE = re.compile(r"\b[0-9a-fA-F]{64}\b")


@attrs.frozen
class Vitals:
    """A process at one moment: its resident memory in bytes, its descriptors, its threads."""

    rss: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Vitals:
        """Read them. Linux only."""
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return cls(int(fields["VmRSS"].split()[0]) << 10, descriptors, int(fields["Threads"]))

    def __str__(self) -> str:
        return f"{self.rss >> 20} MiB, {self.descriptors} descriptors, {self.threads} threads"


@attrs.define
class LogReader:
    """Reads a log in JSON as it grows. `secret` is a text that may never stand in it."""

    path: Path
    secret: str | None = None
    _read: int = 0
    _rest: bytes = b""

    def faults(self) -> list[tuple[str, int | None]]:
        """The new lines that shouldn't be there, each with the port that it names, if it does."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [(fault, _port_of(line)) for line in lines if (fault := self._fault(line))]

    def _fault(self, line: bytes) -> str | None:
        try:
            record: dict[str, Any] = json.loads(line)
            level = record["level"]
        except (ValueError, KeyError, TypeError):
            return f"no record in JSON: {line[:400]!r}"
        text = line.decode()
        if level not in ("debug", "info", "warning") or "Traceback" in text:
            return text if len(text) < 3000 else f"{text[:1000]} … {text[-2000:]}"
        if self.secret is not None and (self.secret in text or _SIGNATURE.search(text)):
            return f"a secret is in the log: {text[:400]}"
        return None


def _port_of(line: bytes) -> int | None:
    found = re.search(rb"127\.0\.0\.1:(\d+)", line)
    return int(found[1]) if found else None
