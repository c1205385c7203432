"""Write `tests/messages.txt` again: `python -m tests.catalogue`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.catalogue.collect import FILE, catalogue

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        FILE.write_text(catalogue(Path(directory)))
