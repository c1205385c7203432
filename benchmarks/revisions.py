"""The server as it was at another commit, or on another Python, to be measured beside this one."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import click

from benchmarks.servers import TREE, Kind


@attrs.frozen
class Revision:
    """A commit of this repository, unpacked into a folder, and the Python that runs it."""

    name: str
    tree: Path
    python: str

    def of(self, kind: Kind) -> Kind:
        """The same server at this revision."""
        command = [self.python if word == sys.executable else word for word in kind.command]
        return attrs.evolve(
            kind, name=f"{kind.name} @ {self.name}", command=tuple(command), tree=self.tree
        )


@contextmanager
def unpacked(revision: str, python: str | None) -> Iterator[Revision]:
    """Unpack the package at `revision`. Nothing of it stays, neither in the repository nor outside.

    The other Python must have the package's dependencies.
    """
    archive = _output("git", "-C", str(TREE), "archive", revision, "trionotify")
    name = revision
    if python is not None:
        name += f", {_output(python, '--version').decode().strip()}"
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        yield Revision(name, Path(folder), python or sys.executable)


def _output(*command: str) -> bytes:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} failed")  # and has said why
    return done.stdout
