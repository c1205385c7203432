"""A server that merges its WAL early: `python -m tests.damage.early python -m trionotify serve …`."""

from __future__ import annotations

import runpy
import sys

from trionotify.storage import database

__all__: list[str] = []

if __name__ == "__main__":
    database._MERGE = 200 << 10  # type: ignore[misc] # it is final for everyone else
    _, _, _, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
