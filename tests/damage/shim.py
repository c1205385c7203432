"""The disk of `shim.c`: built, and told what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["Disk", "missing_compiler"]


def missing_compiler() -> str | None:
    """Why there can be no such disk here, in words; None if there can."""
    if sys.platform != "linux":
        return "it needs Linux"
    return None if shutil.which("gcc") else "there is no C compiler (gcc)"


class Disk:
    """Under the files of one server. Builds itself in the directory."""

    def __init__(self, directory: Path) -> None:
        self._control = directory / "control"
        self._library = directory / "disk.so"
        self._generation = 0
        source = Path(__file__).with_name("shim.c")
        command = ["gcc", "-O1", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)

    @property
    def launcher(self) -> list[str]:
        """Words in front of the server's command: its WAL is merged soon, and this is its disk."""
        variables = [f"LD_PRELOAD={self._library}", f"DISK_CONTROL={self._control}"]
        return ["env", *variables, sys.executable, "-m", "tests.damage.early"]

    def be(self, mode: str, target: str = "any", number: int = 0) -> None:
        """From now on, in files whose name ends in `target`."""
        self._generation += 1
        self._mark.unlink(missing_ok=True)
        part = self._control.with_suffix(".part")
        part.write_text(f"{mode} {target} {number} {self._generation}\n")
        os.replace(part, self._control)

    @property
    def failed(self) -> bool:
        """Whether an fsync has failed since."""
        return self._mark.exists()

    @property
    def _mark(self) -> Path:
        return self._control.with_suffix(".failed")
