"""The machine that the figures were measured on, and what a process has used of it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

#: The cores of the server and of the load, so that neither takes the other's time.
SERVER_CORE, LOAD_CORE = 0, 1


def pin(core: int) -> None:
    """Keep this process, and those that it starts, on one core."""
    if core < (os.cpu_count() or 1):
        os.sched_setaffinity(0, {core})


def cpu_time(pid: int) -> float:
    """Seconds that all threads of a process have run, in user space and in the kernel."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def resident(pid: int) -> int:
    """Bytes of memory that a process has resident."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def describe() -> dict[str, str]:
    """The machine, in a few words."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "system": platform.system(),
    }
